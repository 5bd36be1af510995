"""The effects of one statement, and the collector for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pgrunbook.database.catalog import Catalog, Standing, Table
from pgrunbook.sql.lock_modes import ACCESS_SHARE, MODES, Lock, strongest
from pgrunbook.sql.tree import relation


@dataclass(frozen=True)
class Effects:
    """What a statement does to existing objects, by name; objects that it creates itself are left out.

    A mode that a stronger one on the same object covers is left out, and so are the locks on a table's own
    indexes unless they are stronger than the table's. ``scans`` are read from end to end, ``rewrites`` are
    rewritten with all their indexes, ``rebuilds`` are single indexes, ``empties`` lose all rows at once.
    """

    locks: tuple[Lock, ...] = ()
    scans: tuple[str, ...] = ()
    rewrites: tuple[str, ...] = ()
    rebuilds: tuple[str, ...] = ()
    empties: tuple[str, ...] = ()
    loses: tuple[str, ...] = ()
    fails: tuple[str, ...] = ()
    unsure: tuple[str, ...] = ()

    def mode_on(self, label: str) -> str | None:
        """Return the strongest mode on an object, None if it is not locked."""
        found = [lock.mode for lock in self.locks if lock.object == label]
        return max(found, key=MODES.index) if found else None


@dataclass
class Found:
    """Effects while they are collected."""

    catalog: Catalog
    locks: set[tuple[str, str]] = field(default_factory=set)
    scans: dict[str, None] = field(default_factory=dict)
    rewrites: dict[str, None] = field(default_factory=dict)
    rebuilds: dict[str, None] = field(default_factory=dict)
    empties: dict[str, None] = field(default_factory=dict)
    loses: dict[str, None] = field(default_factory=dict)
    fails: dict[str, None] = field(default_factory=dict)
    unsure: dict[str, None] = field(default_factory=dict)

    def effects(self) -> Effects:
        """Return the collected effects."""
        lists = (self.scans, self.rewrites, self.rebuilds, self.empties, self.loses, self.fails, self.unsure)
        return Effects(strongest(self.locks), *(tuple(found) for found in lists))

    def add(self, inner: Effects) -> None:
        """Add what something does that runs within the statement."""
        self.locks.update((lock.object, lock.mode) for lock in inner.locks)
        for name in ("scans", "rewrites", "rebuilds", "empties", "loses", "fails", "unsure"):
            if given := getattr(inner, name):
                getattr(self, name).update(dict.fromkeys(given))

    def is_from(self, major: int) -> bool:
        """Tell whether the server is of this major version or a later one; where nobody knows, it is."""
        return (self.catalog.major or major) >= major

    def lock(self, table: Table, mode: str) -> None:
        """Add a lock on a relation, unless it does not exist."""
        if table.standing is not Standing.MISSING:
            self.locks.add((table.label, mode))

    def lock_family(self, table: Table, mode: str) -> None:
        """Add a lock on a table and everything below it."""
        for member in self.catalog.below(table):
            self.lock(member, mode)

    def lock_referenced(self, table: Table, mode: str) -> None:
        """Add the locks that a foreign key leaves on a table and those below it when it is dropped: by its triggers.

        Before PostgreSQL 15 a partitioned table has none of them.
        """
        for member in self.catalog.below(table):
            if member.holds_rows_itself or self.is_from(15):
                self.lock(member, mode)

    def lock_named(self, name: Any, mode: str) -> None:
        """Add the lock on what a RangeVar names, read with its children or without."""
        self.lock_read(self.catalog.find(relation(name)), mode, inh=bool(name.inh))

    def lock_read(self, table: Table, mode: str, *, inh: bool = True) -> None:
        """Add a lock on a relation that is read, with its children; a view's goes on to what its query names."""
        (self.lock_family if inh else self.lock)(table, mode)
        if table.kind == "v":
            for other, source in self.catalog.read_by(table):
                self.lock_read(other, mode if source.in_from else ACCESS_SHARE, inh=source.with_children)

    def scan(self, table: Table) -> None:
        """Add that a table is read from end to end, partition by partition."""
        for member in self.catalog.below(table):
            if member.holds_rows_itself and member.standing is not Standing.MISSING:
                self.scans[member.label] = None

    def scan_alone(self, table: Table) -> None:
        """Add that a table is read from end to end, without those below it."""
        if table.holds_rows_itself and table.standing is not Standing.MISSING:
            self.scans[table.label] = None

    def rewrite(self, table: Table) -> None:
        """Add that a table is rewritten, and read for that."""
        self.scan(table)
        for member in self.catalog.below(table):
            if member.holds_rows_itself and member.standing is not Standing.MISSING:
                self.rewrites[member.label] = None

    def lose(self, what: str) -> None:
        """Add something that is lost."""
        self.loses[what] = None

    def cannot_know(self, what: str) -> None:
        """Add something that text and catalog leave unknown."""
        self.unsure[what] = None
