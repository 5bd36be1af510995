"""Lock modes of tables: their order, which of them conflict, and whom each blocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

ACCESS_SHARE = "AccessShareLock"
ROW_SHARE = "RowShareLock"
ROW_EXCLUSIVE = "RowExclusiveLock"
SHARE_UPDATE_EXCLUSIVE = "ShareUpdateExclusiveLock"
SHARE = "ShareLock"
SHARE_ROW_EXCLUSIVE = "ShareRowExclusiveLock"
EXCLUSIVE = "ExclusiveLock"
ACCESS_EXCLUSIVE = "AccessExclusiveLock"
# Weakest first; CONFLICTS is PostgreSQL's table of the modes that each of them waits for.
MODES = (ACCESS_SHARE, ROW_SHARE, ROW_EXCLUSIVE, SHARE_UPDATE_EXCLUSIVE, SHARE, SHARE_ROW_EXCLUSIVE, EXCLUSIVE,
         ACCESS_EXCLUSIVE)  # fmt: skip
CONFLICTS: dict[str, frozenset[str]] = {
    ACCESS_SHARE: frozenset(MODES[7:]),
    ROW_SHARE: frozenset(MODES[6:]),
    ROW_EXCLUSIVE: frozenset(MODES[4:]),
    SHARE_UPDATE_EXCLUSIVE: frozenset(MODES[3:]),
    SHARE: frozenset({ROW_EXCLUSIVE, *MODES[3:]}) - {SHARE},
    SHARE_ROW_EXCLUSIVE: frozenset(MODES[2:]),
    EXCLUSIVE: frozenset(MODES[1:]),
    ACCESS_EXCLUSIVE: frozenset(MODES),
}
_WHO = {
    "readers": ACCESS_SHARE,
    "row locks": ROW_SHARE,
    "writers": ROW_EXCLUSIVE,
    "vacuum": SHARE_UPDATE_EXCLUSIVE,
    "schema changes": ACCESS_EXCLUSIVE,
}


@dataclass(frozen=True, order=True)
class Lock:
    """A lock on one object, its mode spelt as in pg_locks."""

    object: str
    mode: str

    @property
    def blocks(self) -> tuple[str, ...]:
        """Who waits while it is held: of readers, row locks, writers, vacuum and schema changes."""
        return blocks(self.mode)


def blocks(mode: str) -> tuple[str, ...]:
    """Return who waits while a lock of this mode is held."""
    return tuple(who for who, theirs in _WHO.items() if theirs in CONFLICTS[mode])


def covers(mode: str, other: str) -> bool:
    """Whether whoever is blocked by the other mode is blocked by this one too."""
    return CONFLICTS[mode] >= CONFLICTS[other]


def strongest(locks: Iterable[tuple[str, str]]) -> tuple[Lock, ...]:
    """Return pairs of object and mode as locks, sorted, without those that a stronger one covers."""
    pairs = sorted(set(locks))
    return tuple(
        Lock(name, mode)
        for name, mode in pairs
        if not any(name == n and mode != m and covers(m, mode) for n, m in pairs)
    )
