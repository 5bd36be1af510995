"""The entries of undo data in ``pgrunbook.kept``, and the side tables that hold captured rows and values."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import psycopg
from psycopg import sql

from pgrunbook.database import connection, own_schema, step_log
from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load
from pgrunbook.errors import Refused
from pgrunbook.sql.deparse import text
from pgrunbook.undo_data.followers import Followers, obstacle
from pgrunbook.undo_data.row_notes import ARRIVED, FILE, GONE, HASH, LEAVING, PART, WATCHED, function_name, next_name
from pgrunbook.undo_data.tables import SCHEMA, CapturedColumn, CapturedTable, Row, hash_of, key_name, rows, written_name

LOCK_TIMEOUT_MS = 2_000
STATEMENT_TIMEOUT_MS = 30_000
BATCH = "pgrunbook_batch"

Kind = Literal["update", "delete", "insert", "column", "table"]
State = Literal["kept", "giving back", "given back", "purged"]
# The kinds whose single rows are reverted.
ROWS = ("update", "delete", "insert")
STATES: tuple[State, ...] = ("kept", "giving back", "given back", "purged")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepKey:
    """The step for which something is captured."""

    run_id: str
    migration: str
    direction: str
    step: int


@dataclass(frozen=True)
class UndoEntry:
    """One row of pgrunbook.kept; ``part_of`` is the id of the DELETE that cascaded into this table, else None.

    ``columns`` are those whose old values are captured; of an INSERT, those in the hash. ``pages_left`` counts the
    pages of the side table that are not reverted yet, None before the revert begins. ``rows_estimate`` is -1 when
    the server has no statistics yet.
    """

    id: int
    part_of: int | None
    run_id: str
    migration: str
    direction: str
    step: int
    kind: Kind
    table: TableName
    key: tuple[str, ...]
    columns: tuple[str, ...]
    kept_as: str
    made_at: datetime
    keep_until: datetime | None
    state: State
    pages_left: int | None
    rows_given_back: int
    bytes: int
    rows_estimate: int
    purged_at: datetime | None = None

    @property
    def there(self) -> TableName:
        """The side table, or the parked table under the name that it has meanwhile."""
        return TableName(SCHEMA, self.kept_as)

    @property
    def side(self) -> sql.Identifier:
        """The name of either for composed SQL."""
        return sql.Identifier(*self.there)


@dataclass(frozen=True)
class Side:
    """A side table to create: what it captures, and of which table.

    ``part_of`` is the side table of the DELETE that cascades here, else "". Where ``is_shared``, several statements
    of a batch fill it: it holds each row once, with the transaction that wrote it. Without ``follows`` it gets no
    triggers; they are silent in the batches of the fill ``silent_in``.
    """

    kept_as: str
    kind: Kind
    table: CapturedTable
    columns: tuple[CapturedColumn, ...]
    part_of: str = ""
    is_shared: bool = False
    follows: bool = True
    silent_in: str = ""

    @property
    def identifier(self) -> sql.Identifier:
        """The name for composed SQL."""
        return sql.Identifier(SCHEMA, self.kept_as)

    @property
    def captured(self) -> tuple[CapturedColumn, ...]:
        """The columns whose old values are captured."""
        return () if self.kind == "insert" else self.columns

    @property
    def own_names(self) -> set[str]:
        """The names of the columns that are not the table's: a captured column may have none of these."""
        keys = [name(n) for name in (key_name, next_name) for n in range(len(self.table.key))]
        written = map(written_name, range(len(self.captured)))
        return {*keys, *written, HASH, BATCH, GONE, ARRIVED, LEAVING, PART, WATCHED, FILE}

    @property
    def followers(self) -> Followers | None:
        """The triggers by which its rows follow: those of an UPDATE or INSERT. None follow what was deleted.

        Only the owner of a table may have triggers on it. The rows of others are found by key and written values.
        """
        if self.kind == "delete" or not self.follows or not self.table.is_own or obstacle(self.table):
            return None
        return Followers(self.kept_as, self.table, silent_in=self.silent_in)

    def targets(self) -> sql.Composable:
        """Return the columns of the side table in the order of :meth:`values`."""
        part = [PART] if self._has_part else []
        return sql.SQL(", ").join(map(sql.Identifier, [*(name for name, _ in self._columns()), *part]))

    @property
    def _has_part(self) -> bool:
        return self.table.is_partitioned and self.followers is not None

    def values(self, old: Row, new: Row | None) -> sql.Composable:
        """Return what is captured of a row, as expressions over its old and new version.

        Where ``new`` is None the columns are set NULL, and the key does not change.
        """
        by = old if self.kind == "delete" or new is None else new
        found = [column.captured(by(column.name)) for column in self.table.named(self.table.key)]
        found += [column.captured(old(column.name)) for column in self.captured]
        if self.kind != "delete":
            empty = "CAST(NULL AS {})"
            after = [
                sql.SQL(empty).format(sql.SQL(column.type)) if new is None else new(column.name)
                for column in self.columns
            ]
            pairs = zip(self.captured, after, strict=False)
            found += [column.written(value) for column, value in pairs if column.is_written_captured]
            found.append(hash_of(self.columns, after))
            found += [by("tableoid")] if self._has_part else []
        return sql.SQL(", ").join(found)

    def definition(self) -> list[str]:
        """Return the statements that create the table, its indexes and its triggers."""
        followers = self.followers
        parts = [sql.SQL("{} {}").format(sql.Identifier(name), type_) for name, type_ in self._columns()]
        indexes: list[str] = []
        if self.is_shared:
            batch = "{} pg_catalog.xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id()"
            parts.append(sql.SQL(batch).format(sql.Identifier(BATCH)))
            made = "CREATE INDEX ON {} ({})"
            indexes.append(text(sql.SQL(made).format(self.identifier, sql.Identifier(BATCH))))
        if followers is not None:
            parts += followers.columns
            indexes += followers.indexes(is_unique=self.is_shared)
        elif self.is_shared:
            keys = [sql.Identifier(key_name(number)) for number in range(len(self.table.key))]
            parts.append(sql.SQL("PRIMARY KEY ({})").format(sql.SQL(", ").join(keys)))
        table = sql.SQL("CREATE TABLE {} ({})").format(self.identifier, sql.SQL(", ").join(parts))
        return [text(table), *indexes, *(followers.creation() if followers is not None else ())]

    def _columns(self) -> list[tuple[str, sql.SQL]]:
        keys = enumerate(self.table.named(self.table.key))
        found = [(key_name(number), column.side_type) for number, column in keys]
        found += [(column.name, column.side_type) for column in self.captured]
        if self.kind != "delete":
            found += [
                (written_name(number), column.written_type)
                for number, column in enumerate(self.captured)
                if column.is_written_captured
            ]
            found.append((HASH, sql.SQL("bigint")))
        return found


def create(conn: Connection) -> None:
    """Create table and schema of the entries when they do not exist."""
    step_log.create(conn)
    if not exist(conn):
        with conn.transaction():
            conn.execute(load("undo_data")["create"].encode())
            own_schema.hide(conn, "kept", "kept_id_seq")


def exist(conn: Connection) -> bool:
    """Tell whether this database has the table of entries. Raises Refused when the schema is somebody else's."""
    own_schema.refuse_foreign(conn)
    return conn.execute(load("undo_data")["exists"].encode()).fetchone() == (True,)


def add_side_tables(
    conn: Connection, place: StepKey, sides: Sequence[Side], *, keep_until: datetime | None = None
) -> None:
    """Create the side tables of a step, and their entries; existing ones are filled further.

    A loop calls it in a short transaction of its own. A statement of a migration's transaction does not: a migration
    that is refused must not leave triggers on the table. It holds the lock until the commit, and so it is asked for
    statements only that are short; a long INSERT has no triggers.

    Locks: ShareRowExclusiveLock on a table whose captured rows are followed, for its triggers.
    """
    create(conn)
    with conn.transaction():
        for side in sides:
            values = {
                **place.__dict__,
                "kind": side.kind,
                "schema": side.table.name.schema,
                "name": side.table.name.name,
                "key": list(side.table.key),
                "columns": [column.name for column in side.columns],
                "kept_as": side.kept_as,
                "part_of": side.part_of or None,
                "keep_until": keep_until,
            }
            conn.execute(load("undo_data")["begin"].encode(), values)
            if not rows(conn, "oid_of", schema=SCHEMA, name=side.kept_as):
                for statement in side.definition():
                    conn.execute(statement.encode())
                own_schema.hide(conn, side.kept_as, function_name(side.kept_as))
            log.info("capturing what %s changes in %s as %s", side.kind, side.table.name, side.kept_as)


def name_of(place: StepKey, kind: Kind, table: TableName, via: str = "") -> str:
    """Return the name of a side table: always the same for the same step of a run."""
    about = (*place.__dict__.values(), kind, *table, via)
    return "kept_" + hashlib.sha256("\0".join(map(str, about)).encode()).hexdigest()[:16]


def list_entries(conn: Connection) -> list[UndoEntry]:
    """Return the entries that are not purged, newest first, each followed by those its DELETE cascaded into.

    ``bytes`` is the space it takes; ``keep_until`` is when :func:`purge` drops it, None for never.
    """
    return find(conn, states=STATES[:-1])


def entries_of_migration(
    conn: Connection, migration: str, direction: str, *, steps: Collection[int] | None = None, after: int | None = None
) -> list[UndoEntry]:
    """Return the entries of a migration that are not reverted yet, in the order in which to revert them.

    With ``steps`` those of these steps, with ``after`` those of later ones.
    """
    states: list[State] = ["kept", "giving back"]
    return find(conn, migration=migration, direction=direction, states=states, steps=steps, after=after)


def mark(conn: Connection, ids: Sequence[int], state: State) -> None:
    """Set the state of entries."""
    conn.execute(load("undo_data")["mark"].encode(), {"ids": list(ids), "state": state})


def purge(conn: Connection, ids: Collection[int] | None = None, *, older_than: timedelta | None = None) -> list[str]:
    """Drop the undo data of the entries named, of those older than a time, or of those whose time is over.

    Returns the names of the side tables and parked tables that were dropped, each in a transaction of its own.

    Raises Refused when something else depends on a parked table.
    Locks: AccessExclusiveLock on a side table, which nobody but pgrunbook reads.
    """
    if not exist(conn):
        return []
    wanted = {
        "ids": None if ids is None else list(ids),
        "made_before": None if older_than is None else datetime.now(UTC) - older_than,
    }
    dropped = []
    for row in rows(conn, "due", **wanted):
        with conn.transaction():
            connection.limit_locally(conn, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
            _drop(conn, row)
            mark(conn, [row["id"]], "purged")
        log.info("dropped %s", row["kept_as"])
        dropped.append(str(row["kept_as"]))
    return dropped


def _drop(conn: Connection, row: Mapping[str, Any]) -> None:
    """Drop a side table or a parked table; never objects of somebody else."""
    table = sql.Identifier(SCHEMA, row["kept_as"])
    drop = sql.SQL("DROP TABLE IF EXISTS {}").format(table)
    if row["kind"] != "table":
        stop_following(conn, row["kept_as"])
        conn.execute(drop)
        return
    try:
        with conn.transaction():
            conn.execute(drop)
    except psycopg.errors.DependentObjectsStillExist as exc:
        raise Refused(
            f"cannot drop the parked table {table.as_string(None)}",
            detail=f"{exc.diag.message_primary}: {exc.diag.message_detail}",
            hint="First drop what depends on it (pgrunbook did not create it), or purge its whole family.",
        ) from exc


def is_followed(conn: Connection, kept_as: str) -> bool:
    """Tell whether triggers let the captured values of a column follow their rows."""
    return bool(rows(conn, "following", function=function_name(kept_as)))


def followed(conn: Connection) -> list[UndoEntry]:
    """Return the entries with triggers on their table that let what is captured follow its rows."""
    names = {one["kept_as"] for one in rows(conn, "followed")} if exist(conn) else set()
    return [one for one in find(conn, states=STATES) if one.kept_as in names] if names else []


def stop_following(conn: Connection, kept_as: str) -> None:
    """Drop the triggers that let the captured values of a column follow their rows, in the open transaction.

    Locks: AccessExclusiveLock on the table, where they are.
    """
    for one in rows(conn, "following", function=function_name(kept_as)):
        conn.execute(str(one["statement"]).encode())


def find(
    conn: Connection,
    *,
    states: Sequence[State],
    ids: Collection[int] | None = None,
    migration: str | None = None,
    direction: str | None = None,
    steps: Collection[int] | None = None,
    after: int | None = None,
) -> list[UndoEntry]:
    """Return entries in some states: all, by ``ids`` (with their parts), or of a migration."""
    if not exist(conn):
        return []
    wanted = {
        "ids": None if ids is None else list(ids),
        "migration": migration,
        "direction": direction,
        "steps": None if steps is None else list(steps),
        "after": after,
        "states": list(states),
    }
    return [_entry(one) for one in rows(conn, "find", **wanted)]


def find_named(conn: Connection, names: Collection[str]) -> list[UndoEntry]:
    """Return the entries with these names of side tables and parked tables."""
    if not names or not exist(conn):
        return []
    ids = [row["id"] for row in rows(conn, "ids_of", names=list(names))]
    return [entry for entry in find(conn, states=STATES, ids=ids) if entry.kept_as in names] if ids else []


def refuse_purged(entry: UndoEntry) -> None:
    """Raise Refused when an entry was purged: nothing is left to revert."""
    if entry.state != "purged":
        return
    what = f"column {entry.columns[0]} of table" if entry.kind == "column" else "table"
    when = f" on {entry.purged_at:%Y-%m-%d %H:%M}Z" if entry.purged_at else ""
    raise Refused(
        f"cannot revert {what} {entry.table.schema}.{entry.table.name}",
        detail=f"It was purged{when}; it had been captured on {entry.made_at:%Y-%m-%d %H:%M}Z for {entry.migration}.",
        hint=f"Restore a point in time before the purge into a new branch; {entry.kept_as} is there.",
    )


def _entry(row: dict[str, Any]) -> UndoEntry:
    name = TableName(row.pop("table_schema"), row.pop("table_name"))
    key, columns = tuple(row.pop("key_columns")), tuple(row.pop("columns"))
    made_at, keep_until = _time(row.pop("made_at")), row.pop("keep_until")
    until = None if keep_until is None else _time(keep_until)
    purged_at = row.pop("purged_at")
    row["purged_at"] = None if purged_at is None else _time(purged_at)
    return UndoEntry(table=name, key=key, columns=columns, made_at=made_at, keep_until=until, **row)


def _time(seconds: float) -> datetime:
    """Return a time read as seconds, for DateStyle changes how a session prints dates."""
    return datetime.fromtimestamp(seconds, UTC)
