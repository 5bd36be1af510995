"""The point to which a restore goes: a restore point, an LSN or a time; the notebook restore uses it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

from pgrunbook.errors import WrongInput

NAME_MAX_BYTES = 63  # MAXFNAMELEN - 1, as pg_create_restore_point has it
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:+-]*")
LSN = re.compile(r"([0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8})(?:@([1-9][0-9]{0,8}))?")
LIKE_AN_LSN = re.compile(r"[0-9A-Fa-f]+/[0-9A-Fa-f]+(@.*)?")
DAY_FIRST = re.compile(r"(\d{1,2})[./](\d{1,2})[./](\d{4})(?:[ T]+(\S+))?$")
# What PostgreSQL takes for a time: https://www.postgresql.org/docs/current/datatype-datetime.html
WORDS = frozenset({"now", "today", "tomorrow", "yesterday", "epoch", "infinity", "-infinity", "allballs"})
EPOCH_DIGITS = (10, 13)  # seconds and milliseconds since 1970
WAL_SEGMENT = re.compile(r"[0-9A-F]{24}")
LIKE_A_TIME = re.compile(r"\d{4}-\d\d?-\d\d?|\d{8}T\d{4,6}(Z|[+-]\d+)?$|\d{1,2}:\d\d")


@dataclass(frozen=True)
class Point:
    """A place in the WAL: exactly one of ``name``, ``lsn`` and ``time``.

    ``at_lsn`` may stand beside a name: what pg_create_restore_point returned. It saves searching the WAL
    for the name, and the restore is then checked to have ended there. ``timeline`` may stand beside an LSN.
    """

    name: str | None = None
    lsn: str | None = None
    time: datetime | None = None
    at_lsn: str | None = None
    timeline: int | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.name, self.lsn, self.time)) != 1:
            raise ValueError("exactly one of name, lsn and time")

    def __str__(self) -> str:
        if self.name is not None:
            return f'restore point "{self.name}"'
        of = f" of timeline {self.timeline}" if self.timeline else ""
        return f"LSN {self.lsn}{of}" if self.lsn is not None else f"time {self.time}"

    def spelled(self) -> str:
        """Return the text that :func:`parse_point` reads as this point."""
        if self.name is not None:
            return self.name
        of = f"@{self.timeline}" if self.timeline else ""
        return f"lsn:{self.lsn}{of}" if self.lsn is not None else str(self.time)


def parse_point(text: str) -> Point:
    """Return the point that the text names: ``lsn:0/3000060``, ``0/3000060@2``, a time with zone, or a name.

    Raises WrongInput for a time without zone or in the future, and for what can be none of the three.
    """
    text = text.strip()
    lsn = text.removeprefix("lsn:")
    if match := LSN.fullmatch(lsn):
        return Point(lsn=lsn_text(lsn_number(match[1])), timeline=int(match[2]) if match[2] else None)
    if text.startswith("lsn:") or LIKE_AN_LSN.fullmatch(text):
        raise WrongInput(
            f'"{lsn}" is not an LSN',
            detail="It has two hexadecimal numbers of 1 to 8 digits, with a slash between them.",
            hint="Write it as PostgreSQL does: lsn:0/3000060.",
        )
    if LIKE_A_TIME.match(text):
        return Point(time=_time(text))
    return Point(name=checked_name(text))


def meant(text: str) -> str:
    """Return what to write instead of a text that is no restore point but some other form of a time; "" for others."""
    ago = datetime.now(UTC) - timedelta(hours=1)
    if text.isdecimal() and len(text) in EPOCH_DIGITS:
        return f"If seconds since 1970 are meant, write {_told(datetime.fromtimestamp(int(text[:10]), UTC))}."
    if text.lower() in WORDS:
        return f'"{text}" is another moment whenever it is read: write one as {_told(ago)}.'
    if WAL_SEGMENT.fullmatch(text):
        first = int(text[8:16], 16) << 32 | int(text[16:], 16) << 24
        return f"A WAL segment is no point: it begins at lsn:{lsn_text(first)}, on timeline {int(text[:8], 16)}."
    if text in available_timezones():
        return f"A time zone alone is no moment: write one as {_told(ago.astimezone(ZoneInfo(text)))}."
    if match := DAY_FIRST.match(text):
        one, other, year, time = match.groups()
        day, month = (other, one) if "/" in text and int(other) > 12 else (one, other)
        return f"Write the year first, and the zone at the end: {year}-{month:0>2}-{day:0>2}T{time or '00:00'}+01:00."
    return ""


def checked_name(name: str) -> str:
    """Return the name of a restore point unchanged. Raises WrongInput when it cannot be one of ours."""
    if not NAME.fullmatch(name) or len(name) > NAME_MAX_BYTES:
        raise WrongInput(
            f'"{name}" cannot be the name of a restore point',
            detail=f"It has 1 to {NAME_MAX_BYTES} letters, digits and . _ : + -, first a letter or a digit.",
            hint=meant(name) or "Write that name, an LSN as lsn:0/3000060, or a time as 2026-11-22T16:54:31Z.",
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
        time = datetime.fromisoformat(re.sub(r"\s*(UTC|GMT|z)$", "Z", text))
        at = time.astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        hint = _with_offset(text) or "Write it as 2026-11-22T16:54:31Z."
        raise WrongInput(f'"{text}" is not a time', detail=f"{str(exc).rstrip('.')}.", hint=hint) from exc
    if time.tzinfo is None:
        raise WrongInput(
            f'time "{text}" has no zone',
            detail="It would be another moment on every machine.",
            hint=f"Write {time.isoformat()}Z for UTC, or with an offset as +01:00.",
        )
    now = datetime.now(UTC)
    if at > now:
        raise WrongInput(
            f"time {text} lies in the future",
            detail=f"It is {now.isoformat(timespec='seconds')} now.",
            hint=f"Name a moment that has passed; the nearest is {_told(now)}.",
        )
    return at


def _with_offset(text: str) -> str:
    """Return how to write a time with the name of a zone: when clocks are set back, its hour is there twice."""
    words, _, zone = text.rpartition(" ")
    if zone not in available_timezones():
        return ""
    try:
        time = datetime.fromisoformat(words).replace(tzinfo=ZoneInfo(zone))
    except ValueError:
        return ""
    forms = dict.fromkeys(time.replace(fold=fold).isoformat() for fold in (0, 1))
    return f"Write it with an offset: {' or '.join(forms)}."


def _told(time: datetime) -> str:
    return time.isoformat(timespec="seconds").replace("+00:00", "Z")
