"""Which row belongs to which migration: what the tools' own comparisons share."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

from pgrunbook.history.state import AppliedMigration, Entry, Migration, State


@dataclass(frozen=True)
class Pass:
    """One rule by which a row is known for a migration's; a key of None takes no part."""

    match: str
    of_migration: Callable[[Migration], Hashable]
    of_row: Callable[[AppliedMigration], Hashable]


@dataclass(frozen=True)
class Pairing:
    """``rows`` maps a migration's ordinal to its row and the rule's name; ``left`` are all other rows."""

    rows: dict[int, tuple[AppliedMigration, str]]
    left: list[AppliedMigration]


def pair(migrations: Sequence[Migration], rows: Sequence[AppliedMigration], passes: Iterable[Pass]) -> Pairing:
    """Give each migration at most one row, and each row at most one migration, strictest rule first."""
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


def insert_rows(
    entries: list[Entry], extra: Iterable[Entry], is_older: Callable[[AppliedMigration, Migration], bool]
) -> list[Entry]:
    """Return the entries with those of rows that no migration has: duplicates behind their migration,
    missing ones before the first migration that they are older than."""
    placed = list(entries)
    for entry in extra:
        placed.insert(_place(placed, entry, is_older), entry)
    return placed


def mark_out_of_order(entries: Sequence[Entry], note: Callable[[Entry, Entry], str]) -> list[Entry]:
    """Return the entries, with each pending one before an applied one marked; ``note`` gets both."""
    marked: list[Entry] = []
    newest: Entry | None = None
    for entry in reversed(entries):
        if entry.state is State.PENDING and newest is not None:
            marked.append(replace(entry, state=State.OUT_OF_ORDER, note=note(entry, newest)))
            continue
        if entry.applied is not None and newest is None:
            newest = entry
        marked.append(entry)
    return marked[::-1]


def _place(entries: list[Entry], new: Entry, is_older: Callable[[AppliedMigration, Migration], bool]) -> int:
    if new.migration is not None:
        same = [place for place, entry in enumerate(entries) if entry.migration == new.migration]
        return same[-1] + 1
    for place, entry in enumerate(entries):
        if entry.migration is not None and new.applied is not None and is_older(new.applied, entry.migration):
            return place
    return len(entries)
