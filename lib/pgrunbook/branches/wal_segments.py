"""Segments of WAL by the names of their files: what each holds, on which timeline, and which are missing."""

from __future__ import annotations

import re
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pgrunbook.branches import frames
from pgrunbook.branches.frames import SUFFIX
from pgrunbook.branches.recovery_target import lsn_number, lsn_text

SEGMENT_BYTES = 16 * 1024 * 1024  # as initdb makes our servers
SEGMENTS_PER_ID = 2**32 // SEGMENT_BYTES
NAME = re.compile(r"[0-9A-F]{24}")
HISTORY = re.compile(r"([0-9A-F]{8})\.history")
SWITCH = re.compile(r"^\s*(\d+)\s+([0-9A-F]+/[0-9A-F]+)", re.M)


@dataclass(frozen=True)
class WalStretch:
    """Archived segments without a gap between them, by number, on the timelines that a restore would follow."""

    first: int
    last: int


@dataclass(frozen=True)
class Timelines:
    """The timelines that a restore follows: pairs of timeline and its first segment, the oldest first.

    ``left_at`` are the LSNs at which each but the newest was left. Behind the first of these an LSN alone means
    another place on each timeline.
    """

    switches: tuple[tuple[int, int], ...] = ((1, 0),)
    left_at: tuple[int, ...] = ()

    def at(self, lsn: str) -> int:
        """Return the timeline on which an LSN was reached."""
        older = zip(self.switches, self.left_at, strict=False)
        return next((one for (one, _), end in older if lsn_number(lsn) <= end), self.newest)

    @property
    def newest(self) -> int:
        """The timeline that goes on."""
        return self.switches[-1][0]

    def holds(self, lsn: str, timeline: int) -> bool:
        """Tell whether an LSN of a timeline lies in this past."""
        known = [one for one, _ in self.switches]
        return timeline in known and known.index(timeline) >= known.index(self.at(lsn))

    def is_one_place(self, lsn: str) -> bool:
        """Tell whether an LSN means the same place on every timeline."""
        return not self.left_at or lsn_number(lsn) <= self.left_at[0]

    def told(self, lsn: str) -> str:
        """Return an LSN as a person names it for a restore: with its timeline, where it needs one."""
        return f"lsn:{lsn}" if self.is_one_place(lsn) else f"lsn:{lsn}@{self.at(lsn)}"

    def name(self, number: int) -> str:
        """Return the name of the segment's file."""
        timeline = next((one for one, first in reversed(self.switches) if number >= first), self.switches[0][0])
        return f"{timeline:08X}{name_tail(number)}"

    def parts(self, first: int, last: int) -> Iterator[tuple[int, int, int]]:
        """Yield the timelines of a range of segments: each with its first and its last one."""
        ends = [*(begins - 1 for _, begins in self.switches[1:]), last]
        for (timeline, begins), end in zip(self.switches, ends, strict=True):
            if max(first, begins) <= min(last, end):
                yield timeline, max(first, begins), min(last, end)


def timelines(*folders: Path) -> Timelines:
    """Return the timelines of folders with WAL: the newest one of which they have a history file, and those before it.

    Source: https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-TIMELINES
    """
    files = (path for folder in folders for path in folder.glob("*.history"))
    found = [(int(match[1], 16), path) for path in files if (match := HISTORY.fullmatch(path.name))]
    if not found:
        return Timelines()
    newest, path = max(found)
    switches = [(int(one), lsn_number(lsn)) for one, lsn in SWITCH.findall(path.read_text(encoding="utf-8"))]
    left_at = tuple(lsn for _, lsn in switches)
    begins = [0, *(lsn // SEGMENT_BYTES for lsn in left_at)]
    return Timelines(tuple(zip([*(one for one, _ in switches), newest], begins, strict=True)), left_at)


def names(folder: Path) -> list[str]:
    """Return the names of the segments in a folder, compressed or not, sorted."""
    return sorted({path.name[:24] for path in folder.glob("*") if NAME.fullmatch(path.name.removesuffix(SUFFIX))})


def compressed(plain: Path) -> Path:
    """Return the file that holds a segment compressed, by its plain one."""
    return plain.with_name(plain.name + SUFFIX)


def pieces(plain: Path) -> Iterator[bytes]:
    """Yield the contents of a segment by the path of its plain file, which may be there compressed only.

    Raises FileNotFoundError where it is there in no form, DamagedFrame.
    """
    try:
        yield from frames.pieces(plain)
    except FileNotFoundError:  # compressed, perhaps this moment
        yield from frames.pieces(compressed(plain))


def archived_at(plain: Path) -> datetime:
    """Return when a segment was archived, by the path of its plain file."""
    try:
        facts = plain.stat()
    except FileNotFoundError:
        facts = compressed(plain).stat()
    return datetime.fromtimestamp(facts.st_mtime, UTC)


def wrong_size(plain: Path) -> str:
    """Return what is wrong with the size of a plain segment's file, "" where it is right."""
    facts = plain.lstat()
    if not stat.S_ISREG(facts.st_mode):
        return frames.NO_FILE
    size = facts.st_size
    return "" if size == SEGMENT_BYTES else f"it has {size:,} bytes instead of {SEGMENT_BYTES:,}"


def number(name: str) -> int:
    """Return how many segments lie before this one, on whichever timeline."""
    return int(name[8:16], 16) * SEGMENTS_PER_ID + int(name[16:24], 16)


def name_tail(number: int) -> str:
    """Return the name of a segment without its timeline."""
    return f"{number // SEGMENTS_PER_ID:08X}{number % SEGMENTS_PER_ID:08X}"


def number_at(lsn: str, *, end: bool = False) -> int:
    """Return the number of the segment that holds an LSN, or with ``end`` the byte before it."""
    return (lsn_number(lsn) - end) // SEGMENT_BYTES


def start_lsn(number: int) -> str:
    """Return the LSN where a segment begins."""
    return lsn_text(number * SEGMENT_BYTES)


def stretches(there: Collection[str], chain: Timelines) -> list[WalStretch]:
    """Return the stretches of segments that are there and that a restore would read, the oldest first."""
    found: list[WalStretch] = []
    for one in sorted({number(name) for name in there if chain.name(number(name)) == name}):
        if found and one == found[-1].last + 1:
            found[-1] = WalStretch(found[-1].first, one)
        else:
            found.append(WalStretch(one, one))
    return found


def missing(there: Collection[str], chain: Timelines, first: int, last: int) -> list[str]:
    """Return the names of the segments from ``first`` to ``last`` that are not there."""
    return [name for name in map(chain.name, range(first, last + 1)) if name not in there]


def listed(missing: Sequence[str]) -> str:
    """Return names of segments as a person reads them: the first, and the last where there are more."""
    return missing[0] if len(missing) == 1 else f"{missing[0]} to {missing[-1]} ({len(missing)} segments)"
