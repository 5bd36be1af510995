"""The table of ``pgrunbook branch list``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

from pgrunbook.branches import masking
from pgrunbook.branches.branch import Branch
from pgrunbook.display.show import Table
from pgrunbook.display.units import human

HEADINGS = ("branch", "of", "state", "owner", "purpose", "age", "size", "masked", "expires")


def table(found: Sequence[Branch], protected: Collection[str]) -> Table:
    """Return branches as a table; ``protected`` are the names of targets whose data are."""
    now = datetime.now(UTC)
    rows = [_row(one, now, is_protected=one.target in protected) for one in found]
    return Table(list(HEADINGS), rows, empty="No branch.")


def _row(one: Branch, now: datetime, *, is_protected: bool) -> Sequence[object]:
    over = one.is_expired(now)
    until = "-" if one.expires_at is None else f"{one.expires_at:%Y-%m-%d %H:%M}Z"
    return (
        one.full_name,
        f"{one.of}, of {one.parent}" if one.parent else one.of,
        one.state,
        one.owner,
        one.purpose,
        _span(now - one.made_at),
        "-" if one.size_bytes is None else human(one.size_bytes),
        masking.described(one.masked, is_protected=is_protected and one.has_data),
        f"expired {until}" if over else until,
    )


def _span(age: timedelta) -> str:
    return f"{age.days} d" if age.days else f"{age.seconds // 3600} h {age.seconds % 3600 // 60} min"
