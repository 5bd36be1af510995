"""Why a restore did not reach its point: which WAL is missing or damaged, and how far replay came."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pgrunbook.branches import archive, free_space, verification, wal_segments
from pgrunbook.branches.backup import BaseBackup, chain, list_base_backups
from pgrunbook.branches.binaries import last_lines
from pgrunbook.branches.recovery_target import Point
from pgrunbook.branches.server import Server
from pgrunbook.errors import NOTHING_CHANGED, Broken, Refused, RunbookError, Unreachable

REMOVED = "The new server was removed; its source was only read."
TOO_EARLY = (
    "recovery ended before configured recovery target was reached",
    "WAL ends before end of online backup",
    "WAL ends before consistent recovery point",
    "requested recovery stop point is before consistent recovery point",
)
WRONG_SIZE = re.compile(r'archive file "([0-9A-F]{24})" has wrong size: \d+ instead of \d+')
REDO_DONE = re.compile(r"redo done at ([0-9A-F]+/[0-9A-F]+)")
REACHED = re.compile(r"\b(?:record at|record length at|after|at|LSN) ([0-9A-F]+/[0-9A-F]+)")
TABLESPACE = re.compile(r'WAL redo at ([0-9A-F]+/[0-9A-F]+) for Tablespace/CREATE: [0-9]+ "(/.*)"')
LAST_COMMIT = re.compile(r"last completed transaction was at log time (.+)")
# What the server logs where replay ends: at the end of the WAL, as at a damaged record.
INVALID = re.compile(
    r"(?:LOG|FATAL|PANIC): +(.*(?:incorrect|invalid|unexpected|out-of-sequence|contrecord|there is no|missing)"
    r".*[0-9A-F]+/[0-9A-F]+.*)"
)


def explained(source: Server, point: Point, backup: BaseBackup, new: Server, exc: Exception) -> RunbookError:
    """Return the error of a replay that did not reach its point, by what the new server has logged."""
    told = new.log_since(0)
    if lack := free_space.lack(told):
        needed_bytes = sum(part.bytes for part in chain(list_base_backups(source), backup))
        return free_space.full(f"restore to {point}", lack, needed_bytes, state=REMOVED)
    if made := TABLESPACE.search(told):
        return tablespace_made(point, [made[2]], archive.timelines(source).told(made[1]), state=REMOVED)
    if wrong := WRONG_SIZE.search(told):
        before = wal_segments.start_lsn(wal_segments.number(wrong[1]))
        return _damaged(source, point, backup, verification.Damage(wrong[1], wrong[0]), before)
    if any(text in told for text in TOO_EARLY):
        return _too_early(source, point, backup, told)
    return Unreachable(
        f"could not restore to {point}",
        detail=f"{exc.detail if isinstance(exc, RunbookError) else exc} | {last_lines(told)}",
        state=REMOVED,
        hint=f"Read what the log says, then restore again; the source's archive is {source.archive_dir}.",
    )


def tablespace_made(point: Point, folders: Sequence[str], before: str, *, state: str = NOTHING_CHANGED) -> Refused:
    """Return the error of a tablespace in the WAL that is to be replayed: it names a folder of the source's."""
    return Refused(
        f"cannot restore to {point}: a tablespace was made since the base backup",
        detail=f"Replaying the WAL would write into {', '.join(folders)}, which is not the new server's.",
        state=state,
        hint=f"Restore to a point before that ({before}), or to one behind a new base backup: without tablespaces, "
        "pgrunbook backup create takes one.",
    )


def _too_early(source: Server, point: Point, backup: BaseBackup, told: str) -> RunbookError:
    """Return the error of WAL that ended before the point: damaged, where more of it is there, or not written."""
    reached = _last(REDO_DONE, told) or _last(REACHED, _last(INVALID, told)) or backup.start_lsn
    timelines, archived = archive.timelines(source), archive.archived(source)
    first, last = wal_segments.number_at(backup.start_lsn), wal_segments.number_at(reached)
    numbers = {wal_segments.number(name) for name in archived}
    end = next(number for number in range(last, last + len(numbers) + 2) if number not in numbers) - 1
    found = verification.damage_of_wal(source, max(first, min(numbers, default=first)), end) if end >= last else None
    if found is not None:
        return _damaged(source, point, backup, found, reached)
    last_commit = _last(LAST_COMMIT, told)
    newest = timelines.name(end) if end in numbers else "none"
    return Broken(
        f"could not reach {point}: the WAL ends before it",
        detail=f"Replay reached {reached}, and {_asked_for(point)} was asked for. The newest segment without a gap is "
        f"{newest}; the last transaction in it was at {last_commit or 'an unknown time'}.",
        state=REMOVED,
        hint=f"Restore to an earlier point; the nearest is {timelines.told(reached)}."
        + (f" Or put {timelines.name(end + 1)} into the archive." if any(one > end for one in numbers) else ""),
    )


def _damaged(
    source: Server, point: Point, backup: BaseBackup, found: verification.Damage, reached: str
) -> RunbookError:
    return Broken(
        f"could not reach {point}: WAL segment {found.file} is damaged",
        detail=f"{found.says}. Replay from base backup {backup.id} reached {reached}, "
        f"and {_asked_for(point)} was asked for.",
        state=REMOVED,
        hint=f"Put another copy of the segment into the archive, or restore to a point before it: "
        f"{archive.timelines(source).told(reached)}.",
    )


def _asked_for(point: Point) -> str:
    return f"LSN {point.lsn or point.at_lsn}" if point.lsn or point.at_lsn else str(point)


def _last(pattern: re.Pattern[str], told: str) -> str:
    found = pattern.findall(told)
    return str(found[-1]) if found else ""
