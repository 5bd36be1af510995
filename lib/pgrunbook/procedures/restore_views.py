"""How restore shows what can be restored: the time line with its backups, restore points and gaps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from pgrunbook.branches import wal_segments
from pgrunbook.branches.backup import BaseBackup, Window
from pgrunbook.branches.restore_point_records import WalRestorePoint
from pgrunbook.database.step_log import RestorePoint
from pgrunbook.display.prose import counted
from pgrunbook.display.show import GOOD, PLAIN, Cell, Picture, Table, figure

LANE = "can be restored"


def timeline(windows: Sequence[Window], backups: Collection[datetime], points: Collection[datetime]) -> Picture:
    """Return the picture of what can be restored: a bar for each range without a gap in its WAL."""
    picture, axes = figure(9, 2.2)
    axes.barh(
        [LANE] * len(windows),
        [one.latest_at - one.earliest_at for one in windows],
        left=[one.earliest_at for one in windows],
        color="#b6e3ff",
        height=0.5,
    )
    axes.plot(list(backups), [LANE] * len(backups), "s", color="#0969da", label="base backup")
    shown = [at for at in points if any(one.earliest_at <= at <= one.latest_at for one in windows)]
    axes.plot(shown, [LANE] * len(shown), "|", ms=26, mew=2, color="#cf222e", label="restore point")
    axes.set_xlabel("time (UTC)")
    axes.tick_params(axis="x", labelrotation=20)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 1.35), ncols=2)
    spans = ", ".join(
        f"from {one.earliest_at:%Y-%m-%d %H:%M:%S}Z to {one.latest_at:%Y-%m-%d %H:%M:%S}Z" for one in windows
    )
    counts = f"{counted(len(backups), 'base backup')}, {counted(len(shown), 'restore point')}"
    gaps = "".join(f" WAL is missing: {wal_segments.listed(one.missing)}." for one in windows if one.missing)
    return Picture.of(picture, f"Can be restored {spans}: {counts}.{gaps}")


def choices(
    points: Sequence[WalRestorePoint], made: Mapping[str, RestorePoint], backups: Sequence[BaseBackup], *, chosen: str
) -> Table:
    """Return the points that have a name, newest first: whose they are, and what a restore to each would lose."""
    now = datetime.now(UTC)

    def row(at: datetime, kind: str, name: str) -> tuple[datetime, tuple[object, ...]]:
        by = made.get(name)
        told = Cell(name, GOOD if name == chosen else PLAIN)
        whose = (by.run_id, by.version or "(none)") if by else ("", "")
        return at, (f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z", kind, told, *whose, span(now - at))

    found = [row(point.created_at, "restore point", point.name) for point in points]
    found += [row(b.ended_at, "incremental backup" if b.onto else "base backup", b.id) for b in backups]
    rows = [cells for _, cells in sorted(found, key=lambda one: one[0], reverse=True)]
    headings = ("when", "what", "name", "made by run", "version there", "not in it: the last")
    return Table(
        headings,
        rows,
        title="What has a name, the newest first; any time or LSN between can be restored to as well",
        most=30,
    )


def span(ago: timedelta) -> str:
    """Return how long ago something was, in seconds, minutes or hours."""
    seconds = int(ago.total_seconds())
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"
