"""The point to which a restore goes: a restore point, an LSN or a time; the notebook restore uses it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from pgrunbook.errors import WrongInput

NAME_MAX_BYTES = 63  # MAXFNAMELEN - 1, as pg_create_restore_point has it
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:+-]*")
LSN = re.compile(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}")
LIKE_A_TIME = re.compile(r"\d{4}-\d\d?-\d\d?|\d{8}T\d{4,6}(Z|[+-]\d+)?$|\d{1,2}:\d\d")


@dataclass(frozen=True)
class Point:
    """A place in the WAL: exactly one of ``name``, ``lsn`` and ``time``.

    ``at_lsn`` may stand beside a name: what pg_create_restore_point returned. It saves searching the WAL
    for the name, and the restore is then checked to have ended there.
    """

    name: str | None = None
    lsn: str | None = None
    time: datetime | None = None
    at_lsn: str | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.name, self.lsn, self.time)) != 1:
            raise ValueError("exactly one of name, lsn and time")

    def __str__(self) -> str:
        if self.name is not None:
            return f'restore point "{self.name}"'
        return f"LSN {self.lsn}" if self.lsn is not None else f"time {self.time}"


def parse_point(text: str) -> Point:
    """Return the point that the text names: ``lsn:0/3000060``, ``0/3000060``, a time with zone, or a name.

    Raises WrongInput for a time without zone or in the future, and for what can be none of the three.
    """
    text = text.strip()
    lsn = text.removeprefix("lsn:")
    if LSN.fullmatch(lsn):
        return Point(lsn=lsn_text(lsn_number(lsn)))
    if text.startswith("lsn:"):
        raise WrongInput(f'"{lsn}" is not an LSN', hint="Write it as PostgreSQL does: lsn:0/3000060.")
    if LIKE_A_TIME.match(text):
        return Point(time=_time(text))
    return Point(name=checked_name(text))


def checked_name(name: str) -> str:
    """Return the name of a restore point unchanged. Raises WrongInput when it cannot be one of ours."""
    if not NAME.fullmatch(name) or len(name) > NAME_MAX_BYTES:
        raise WrongInput(
            f'"{name}" cannot be the name of a restore point',
            detail=f"It has 1 to {NAME_MAX_BYTES} letters, digits and . _ : + -, first a letter or a digit.",
            hint="Write that name, an LSN as lsn:0/3000060, or a time as 2026-11-22T16:54:31Z.",
        )
    return name


def lsn_number(lsn: str) -> int:
    """Return an LSN as a byte position."""
    high, low = lsn.split("/")
    return (int(high, 16) << 32) + int(low, 16)


def lsn_text(number: int) -> str:
    """Return a byte position as PostgreSQL writes an LSN."""
    return f"{number >> 32:X}/{number & 0xFFFFFFFF:X}"


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(re.sub(r"\s*(UTC|GMT)$", "Z", text))
    except ValueError as exc:
        raise WrongInput(f'"{text}" is not a time', detail=f"{exc}.", hint="Write it as 2026-11-22T16:54:31Z.") from exc
    if time.tzinfo is None:
        raise WrongInput(
            f'time "{text}" has no zone',
            detail="It would be another moment on every machine.",
            hint=f"Write {time.isoformat()}Z for UTC, or with an offset as +01:00.",
        )
    now = datetime.now(UTC)
    if time > now:
        raise WrongInput(
            f"time {text} lies in the future",
            detail=f"It is {now.isoformat(timespec='seconds')} now.",
            hint="Name a moment that has passed.",
        )
    return time.astimezone(UTC)
