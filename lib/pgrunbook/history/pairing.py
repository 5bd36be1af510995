"""The pairing of rows with migrations, and the state of each; a tool overrides the rules that differ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pgrunbook.history.state import AppliedMigration, Entry, Migration, State

NO_WAY_BACK = "What it did cannot be taken back from here: its file would be needed."
BRING_BACK = "Bring its file back from git, or roll it back where the file is, before you continue."


@dataclass(frozen=True)
class Pass:
    """One rule that pairs rows and migrations by a key; a row whose key is None is not paired."""

    match: str
    of_migration: Callable[[Migration], Hashable]
    of_row: Callable[[AppliedMigration], Hashable]


@dataclass(frozen=True)
class Pairing:
    """``rows`` maps a migration's ordinal to its row and the rule's name; ``left`` are the rows without migration."""

    rows: dict[int, tuple[AppliedMigration, str]]
    left: list[AppliedMigration]


def pair(migrations: Sequence[Migration], rows: Sequence[AppliedMigration], passes: Iterable[Pass]) -> Pairing:
    """Pair each migration with at most one row, and each row with at most one migration, strictest rule first."""
    paired: dict[int, tuple[AppliedMigration, str]] = {}
    left = list(rows)
    for rule in passes:
        waiting: defaultdict[Hashable, deque[Migration]] = defaultdict(deque)
        for migration in migrations:
            if migration.ordinal not in paired:
                waiting[rule.of_migration(migration)].append(migration)
        still_left = []
        for row in left:
            key = rule.of_row(row)
            if key is not None and waiting[key]:
                paired[waiting[key].popleft().ordinal] = (row, rule.match)
            else:
                still_left.append(row)
        left = still_left
    return Pairing(paired, left)


class RowRules(ABC):
    """The rules that pair the rows of a history table with migrations, and the notes for the operator.

    The two keys suffice for a tool that identifies a migration by one part of its name. A tool that stores only the
    newest version overrides ``pair``. The class attributes complete the notes.
    """

    tool_does_with_older: str = ""
    tool_does_without: str = ""  # what it does when the file of an applied one is gone; "" where it refuses
    renewal: str = "Give it a new version"
    primary_key: str = "version"

    @abstractmethod
    def key(self, migration: Migration) -> Any:
        """Return the key that a migration's row has."""

    @abstractmethod
    def row_key(self, row: AppliedMigration) -> Any:
        """Return the key of a row, None when it has none."""

    def passes(self) -> list[Pass]:
        """Return the rules that pair rows and migrations, strictest first."""
        return [Pass("key", self.key, self.row_key)]

    def pair(self, migrations: Sequence[Migration], rows: Sequence[AppliedMigration]) -> Pairing:
        """Pair rows and migrations."""
        return pair(migrations, rows, self.passes())

    def is_of(self, row: AppliedMigration, migration: Migration) -> bool:
        """Tell whether a row without migration is a duplicate of the migration's row."""
        return bool(self.row_key(row) == self.key(migration))

    def is_older(self, row: AppliedMigration, migration: Migration) -> bool:
        """Tell whether a row without migration comes before this migration in the folder's order."""
        key = self.row_key(row)
        return key is not None and bool(key < self.key(migration))

    def pending(self, migration: Migration) -> tuple[State, str]:
        """Return the state and note of a migration without row."""
        return State.PENDING, ""

    def applied(self, migration: Migration, row: AppliedMigration, match: str) -> tuple[State, str]:
        """Return the state and note of a migration that the rule named ``match`` has paired with a row."""
        return State.APPLIED, ""

    def has_order(self, entry: Entry) -> bool:
        """Tell whether the tool knows a place in its order for the migration."""
        return True

    def out_of_order_note(self, newest: Entry) -> str | None:
        """Return the note of a pending migration before the newest applied one, None when that is no problem."""
        does = f"{self.tool_does_with_older} " if self.tool_does_with_older else ""
        return (
            f"Older than {newest.name}, which is applied. {does}{self.renewal}, so that it is the newest, "
            "or apply it on purpose: -p out_of_order=true."
        )

    def duplicate_note(self, row: AppliedMigration, first: AppliedMigration) -> str:
        """Return the note of a duplicate row."""
        return (
            "Recorded more than once: it may have run twice. Check what it did to the database, "
            f"delete the duplicate row, and give the table a primary key on {self.primary_key}."
        )

    def missing_name(self, row: AppliedMigration) -> str:
        """Return the name of a row without a migration."""
        return row.name or ""

    def missing(self, row: AppliedMigration) -> tuple[State, str]:
        """Return the state and note of a row without a migration."""
        if self.tool_does_without:
            return State.ABSENT, f"Applied, and not in the folder. {self.tool_does_without} {NO_WAY_BACK}"
        return State.MISSING, self.missing_note(row)

    def missing_note(self, row: AppliedMigration) -> str:
        """Return the note of a row without a migration that stops a release."""
        return f"The history table says that it is applied, but it is not in the folder. {BRING_BACK}"


class VersionRules(RowRules):
    """The rules of a tool whose rows hold in ``column`` what ``version_of`` reads from a migration's path.

    ``older`` is what the tool does with an older migration, ``key`` the table's primary key if it is another column,
    ``without`` what the tool does without the file of an applied one ("" where it refuses).
    """

    def __init__(
        self, version_of: Callable[[Path], Any], older: str, column: str = "version", key: str = "", without: str = ""
    ) -> None:
        self._version_of, self._column, self.tool_does_with_older = version_of, column, older
        self.primary_key, self.tool_does_without = key or column, without

    def key(self, migration: Migration) -> Any:
        """Return the version."""
        return self._version_of(migration.path)

    def row_key(self, row: AppliedMigration) -> Any:
        """Return the version."""
        return row.row[self._column]


def compare(migrations: Sequence[Migration], rows: Sequence[AppliedMigration], rules: RowRules) -> tuple[Entry, ...]:
    """Return the state of every migration and of every row that has none, in the folder's order."""
    pairing = rules.pair(migrations, rows)
    entries = [_entry(migration, pairing, rules) for migration in migrations]
    for row in pairing.left:
        extra = _extra(row, migrations, pairing, rules)
        entries.insert(_place(entries, extra, rules), extra)
    return tuple(_mark_out_of_order(entries, rules))


def _entry(migration: Migration, pairing: Pairing, rules: RowRules) -> Entry:
    if migration.ordinal not in pairing.rows:
        state, note = rules.pending(migration)
        return Entry(migration.name, state, migration, None, note)
    row, match = pairing.rows[migration.ordinal]
    state, note = rules.applied(migration, row, match)
    return Entry(migration.name, state, migration, row, note, content_known=row.hash is not None)


def _extra(row: AppliedMigration, migrations: Sequence[Migration], pairing: Pairing, rules: RowRules) -> Entry:
    """The entry of a row without migration: a duplicate, or of a missing file."""
    for migration in migrations:
        if migration.ordinal in pairing.rows and rules.is_of(row, migration):
            note = rules.duplicate_note(row, pairing.rows[migration.ordinal][0])
            return Entry(migration.name, State.DUPLICATE, migration, row, note, content_known=row.hash is not None)
    state, note = rules.missing(row)
    return Entry(rules.missing_name(row), state, None, row, note, content_known=False)


def _place(entries: Sequence[Entry], new: Entry, rules: RowRules) -> int:
    """The place of such an entry: a duplicate after its migration, a missing one before the first newer one."""
    if new.migration is not None:
        same = [place for place, entry in enumerate(entries) if entry.migration == new.migration]
        return same[-1] + 1
    for place, entry in enumerate(entries):
        if entry.migration is not None and new.applied is not None and rules.is_older(new.applied, entry.migration):
            return place
    return len(entries)


def _mark_out_of_order(entries: Sequence[Entry], rules: RowRules) -> list[Entry]:
    """The entries; each pending one before an applied one is marked as out of order."""
    marked: list[Entry] = []
    newest: Entry | None = None
    for entry in reversed(entries):
        if not rules.has_order(entry):
            marked.append(entry)
            continue
        if entry.state is State.PENDING and newest is not None:
            note = rules.out_of_order_note(newest)
            marked.append(entry if note is None else replace(entry, state=State.OUT_OF_ORDER, note=note))
            continue
        if entry.applied is not None and newest is None:
            newest = entry
        marked.append(entry)
    return marked[::-1]
