"""The state of each migration; shown by prepare and validate, used by migrate and rollback."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from psycopg import sql

from pgrunbook.errors import Refused
from pgrunbook.sql import secrets, statements
from pgrunbook.sql.statements import Statement

Command = tuple[sql.Composed, tuple[object, ...]]


class State(StrEnum):
    """The state of a migration, by the folder and the history table."""

    APPLIED = "applied"
    PENDING = "pending"
    EDITED = "edited"  # after it was applied: its text, or the name or time that identifies it
    OUT_OF_ORDER = "out_of_order"  # pending although a newer one is applied
    MISSING = "missing"  # applied, but not in the folder
    ABSENT = "absent"  # the same, where the tool goes on without the file: a team has squashed its files
    DUPLICATE = "duplicate"  # another row of an applied migration
    LEFTOVER = "leftover"  # a file that the tool would not run


PROBLEMS = frozenset({State.EDITED, State.OUT_OF_ORDER, State.MISSING, State.DUPLICATE})


_LINE_ENDS = ("\n", "\r\n", "\r")


@dataclass(frozen=True)
class Migration:
    """One migration of the folder. ``sql`` is the file's exact text, ``hash`` the sha256 of its bytes.

    Where both directions are in one file, ``sql`` and ``down_sql`` are its sections on the file's own lines,
    ``down_path`` is ``path``, ``hash`` is that of the whole file, and ``whole`` is its text.
    """

    name: str
    path: Path
    sql: str = field(repr=False)
    hash: str
    ordinal: int
    when_ms: int | None = None
    down_path: Path | None = None
    down_sql: str | None = field(default=None, repr=False)
    whole: str | None = field(default=None, repr=False)

    @property
    def fingerprint(self) -> str:
        """What our own records know the file by: its hash, or where it holds a secret an HMAC of that."""
        texts = (self.sql, self.down_sql or "") if self.down_path == self.path else (self.sql,)
        return secrets.keyed(self.hash) if any(map(secrets.spans, texts)) else self.hash

    def texts(self) -> list[tuple[str, str]]:
        """Return the texts of its files, each with the file's name."""
        down = [(self.down_path.name, self.down_sql or "")] if self.down_path is not None else []
        return [(self.path.name, self.sql), *down]

    def differs_in_line_ends_only(self, other_hash: str | None) -> bool:
        """Tell whether a file with another hash has the same text but for line ends or a byte order mark."""
        return any(variant.hash == other_hash for variant in self._variants())

    def as_it_was(self, fingerprint: str) -> Migration | None:
        """Return it with this fingerprint, where the file has the text that it had then but for line ends; else None.

        A byte order mark is as little of the text.
        """
        if self.fingerprint == fingerprint:
            return self
        return next((variant for variant in self._variants() if variant.fingerprint == fingerprint), None)

    def _variants(self) -> Iterator[Migration]:
        text = self.whole if self.whole is not None else self.sql
        text = text.removeprefix(statements.BYTE_ORDER_MARK).replace("\r\n", "\n").replace("\r", "\n")
        for mark in ("", statements.BYTE_ORDER_MARK):
            for end in _LINE_ENDS:
                variant = mark + text.replace("\n", end)
                yield replace(self, hash=hashlib.sha256(variant.encode()).hexdigest())

    def statements(self) -> list[Statement]:
        """Return its statements, each at its place. Raises WrongInput for what cannot be parsed."""
        return statements.parse(self.sql, self.path.name, self.name)


@dataclass(frozen=True)
class AppliedMigration:
    """One row of the history table. ``applied_at`` is None when the table does not store it.

    Drizzle's created_at is when the migration was generated, so it is not ``applied_at``.
    """

    name: str | None
    hash: str | None
    applied_at: datetime | None
    row: dict[str, object]

    @classmethod
    def of(cls, name: str | None, row: dict[str, object], hash_: str | None = None) -> AppliedMigration:
        """Return a row that was read with a column ``at`` for when it was applied."""
        at = row.pop("at")
        return cls(name, hash_, at if isinstance(at, datetime) else None, row)


@dataclass(frozen=True)
class Entry:
    """The state of one migration.

    ``note`` is a sentence for the operator, with the remedy when the state is a problem.
    ``content_known`` is False for a row without a hash, or without a file: an edit cannot be found.
    """

    name: str
    state: State
    migration: Migration | None
    applied: AppliedMigration | None
    note: str = ""
    content_known: bool = True


@dataclass(frozen=True)
class History:
    """The folder and the history table, compared. ``entries`` are in the folder's order, with
    rows without a file at their place and files that are no migration at the end; ``rows`` are in the table's order.
    ``recognised_by`` is why the folder was taken for the tool's."""

    kind: str
    regime: str
    folder: Path
    schema: str
    table: str
    exists: bool
    schema_exists: bool
    how_found: str
    entries: tuple[Entry, ...]
    rows: tuple[AppliedMigration, ...]
    recognised_by: str = ""

    @property
    def qualified_table(self) -> str:
        """The history table's name for people, as in "drizzle.__drizzle_migrations"."""
        return f"{self.schema}.{self.table}"

    @property
    def identifier(self) -> sql.Identifier:
        """The history table's name for statements without parameters."""
        return sql.Identifier(self.schema, self.table)

    @property
    def identifier_beside_params(self) -> sql.Identifier:
        """The same for statements with parameters, where psycopg takes each "%" for a placeholder."""
        return sql.Identifier(self.schema.replace("%", "%%"), self.table.replace("%", "%%"))

    def pending(self, *, out_of_order: bool = False) -> list[Migration]:
        """Return the migrations to apply, in order; ``out_of_order`` includes those that an operator
        chose to apply although a newer one is applied."""
        wanted = {State.PENDING, State.OUT_OF_ORDER} if out_of_order else {State.PENDING}
        return [e.migration for e in self.entries if e.migration is not None and e.state in wanted]

    def problems(self, *, out_of_order: bool = False) -> list[Entry]:
        """Return the entries that prevent a migrate; ``out_of_order`` as in :meth:`pending`."""
        tolerated = {State.OUT_OF_ORDER} if out_of_order else set()
        return [entry for entry in self.entries if entry.state in PROBLEMS - tolerated]

    def applied(self) -> list[Entry]:
        """Return one entry for each migration that has a row, in order, [] when nothing is applied."""
        known = {State.APPLIED, State.EDITED, State.MISSING, State.ABSENT}
        return [entry for entry in self.entries if entry.state in known]

    def version(self) -> str | None:
        """Return the name of the newest applied migration by the folder's order, None when there is none."""
        applied = self.applied()
        return applied[-1].name if applied else None

    def fingerprint(self) -> str:
        """Return the sha256 of the table's rows, in order: equal only while the history is unchanged.

        The hash of a file that holds a secret goes into it as an HMAC: nobody can try passwords against it.
        """
        files = [entry.migration for entry in self.entries if entry.migration is not None]
        known = {file.hash: file.fingerprint for file in files}
        rows = [{c: known.get(str(v), _plainly(v)) for c, v in row.row.items()} for row in self.rows]
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def unfinished(table: str, name: object, tool: str, way: str) -> Refused:
    """Return the refusal of a history in which a migration was begun and not finished."""
    return Refused(
        f"the history table {table} says that {name} was not finished",
        detail=f"{tool} began it, and what it left in the database is not known.",
        state="Nothing changed in the database.",
        hint=f"Finish or undo by hand what it left, then say so: {way}.",
        section="history",
    )


def _plainly(value: object) -> object:
    """A value in the same form under any time zone of the session."""
    if isinstance(value, datetime):
        return (value.astimezone(UTC) if value.tzinfo else value).isoformat()
    return value if isinstance(value, int | str | None) else str(value)


def leave_out(history: History) -> list[str]:
    """Return what a comparison of schemas ignores: our own schema, and the history table."""
    return ["pgrunbook", history.qualified_table]
