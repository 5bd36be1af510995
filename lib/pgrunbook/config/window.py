"""The window in which a target may be changed: days, hours, peak hours and freeze dates, in a zone of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SPAN = re.compile(r"^([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|24:00)$")
_SEARCHED = timedelta(days=62)  # how far the next opening is looked for
_PIECE = timedelta(minutes=1)


def _listed(given: object) -> object:
    """Take one for a list of one, and TOML's own dates for their text."""
    several = given if isinstance(given, (list, tuple)) else (given,)
    return tuple(one.isoformat() if isinstance(one, date) else one for one in several)


Spans = Annotated[tuple[str, ...], BeforeValidator(_listed)]


class ChangeWindow(BaseModel):
    """When a target may be changed.

    ``days`` and ``hours`` say when it is open; hours that cross midnight belong to the day on which they begin. It is
    closed in ``peak_hours``, on every day, and on the dates of ``freeze`` (2026-12-24, or 2026-12-20/2027-01-06 with
    both ends). All of it is wall-clock time in ``zone``: where the clock is put back an hour counts twice, where it is
    put forward the hour that is left out never comes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    days: Annotated[tuple[Day, ...], BeforeValidator(_listed), Field(min_length=1)] = DAYS
    hours: Annotated[Spans, Field(min_length=1)] = ("00:00-24:00",)
    peak_hours: Spans = ()
    zone: str = "UTC"
    freeze: Spans = ()

    @field_validator("hours", "peak_hours")
    @classmethod
    def _are_spans(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for one in given:
            if not _SPAN.match(one) or one.partition("-")[0] == one.partition("-")[2]:
                raise ValueError(f'"{one}" is no span of hours, as 22:00-05:00 is')
        return given

    @field_validator("zone")
    @classmethod
    def _is_a_zone(cls, given: str) -> str:
        try:
            ZoneInfo(given)
        except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
            raise ValueError(f'"{given}" is no time zone, as Europe/Berlin is') from exc
        return given

    @field_validator("freeze")
    @classmethod
    def _are_dates(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for one in given:
            begin, end = _dates(one)
            if end < begin:
                raise ValueError(f'"{one}" ends before it begins')
        return given

    def closed_by(self, moment: datetime) -> str:
        """Return why the window is closed at an aware moment, "" where it is open."""
        local = moment.astimezone(ZoneInfo(self.zone))
        now = f"it is {DAYS[local.weekday()]} {local:%Y-%m-%d %H:%M} in {self.zone}"
        frozen = next((one for one in self.freeze if _dates(one)[0] <= local.date() <= _dates(one)[1]), None)
        if frozen is not None:
            return f"{now}, and {frozen} is frozen"
        peak = next((one for one in self.peak_hours if any(_days_of(one, local))), None)
        if peak is not None:
            return f"{now}, and {peak} are peak hours"
        if any(day in self.days for span in self.hours for day in _days_of(span, local)):
            return ""
        days = "every day" if self.days == DAYS else ", ".join(self.days)
        return f"{now}, and it is open {days}, {', '.join(self.hours)}"

    def opens_after(self, moment: datetime) -> datetime | None:
        """Return when it opens next, to the minute and in UTC; None where that is not within two months."""
        at = moment.astimezone(UTC).replace(second=0, microsecond=0)
        end = at + _SEARCHED
        while at < end:
            at += _PIECE
            if not self.closed_by(at):
                return at
        return None


def _days_of(span: str, local: datetime) -> Iterator[Day]:
    """Yield the day on which the span began that a moment is in; nothing where it is in none."""
    begin, end = (part for part in span.split("-"))
    begins = time.fromisoformat(begin)
    ends = None if end == "24:00" else time.fromisoformat(end)
    now = local.time()
    if ends is None or begins < ends:
        if begins <= now and (ends is None or now < ends):
            yield DAYS[local.weekday()]
        return
    if now >= begins:
        yield DAYS[local.weekday()]
    if now < ends:
        yield DAYS[local.weekday() - 1]


def _dates(span: str) -> tuple[date, date]:
    begin, slash, end = span.partition("/")
    try:
        return date.fromisoformat(begin), date.fromisoformat(end if slash else begin)
    except ValueError as exc:
        raise ValueError(f'"{span}" is no date, as 2026-12-24 or 2026-12-20/2027-01-06 is') from exc
