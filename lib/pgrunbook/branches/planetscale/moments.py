"""The moments that PlanetScale can restore: from the end of the oldest backup to some minutes ago, by whole seconds.

Source: https://planetscale.com/docs/postgres/backups/point-in-time-recovery
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pgrunbook.branches.planetscale.answers import SUCCESS
from pgrunbook.branches.planetscale.api import Api
from pgrunbook.branches.recovery_target import Point
from pgrunbook.errors import Refused, WrongInput


@dataclass(frozen=True)
class Moments:
    """The first and the last moment that can be restored now."""

    first_at: datetime
    last_at: datetime


def moments(api: Api) -> Moments | None:
    """Return what can be restored of the target's branch, None where it has no complete backup."""
    backups = api.backups(api.place.branch)
    ended = [one.completed_at for one in backups if one.state == SUCCESS and one.completed_at is not None]
    if not ended:
        return None
    last_at = datetime.now(UTC) - timedelta(seconds=api.place.archive_lag_s)
    return Moments(_whole(min(ended) + timedelta(seconds=1)), _whole(last_at))


def restorable(api: Api, point: Point) -> str:
    """Return a point as the API takes it: a time of RFC 3339, in whole seconds.

    Raises WrongInput for a point that is no time, Refused for a time that cannot be restored, each with what can.
    """
    found = moments(api)
    first_at, last_at = (spelled(found.first_at), spelled(found.last_at)) if found else ("", "")
    if point.time is None:
        raise WrongInput(
            f"cannot restore to {point}: PlanetScale restores to a time only",
            detail="It knows neither restore points nor LSNs.",
            state="Nothing was started.",
            hint=f"Name a time between {first_at} and {last_at}; a run's record has the time before its change."
            if found
            else "Name a time.",
        )
    if found is None:
        raise Refused(
            f'nothing of branch "{api.place.branch}" of {api.name} can be restored',
            detail="It has no complete backup.",
            state="Nothing was started.",
            hint="Take one, for what comes: pgrunbook backup create.",
        )
    at = _whole(point.time)
    if found.first_at <= at <= found.last_at:
        return spelled(at)
    lag = timedelta(seconds=api.place.archive_lag_s)
    if found.first_at > found.last_at:
        raise Refused(
            f"cannot restore to {spelled(at)}: nothing can be restored yet",
            detail=f"The oldest backup ended at {first_at}, and what is younger than {lag} cannot be restored.",
            state="Nothing was started.",
            hint=f"The first possible time is {first_at}, in {(found.first_at - found.last_at).total_seconds():.0f} s.",
        )
    is_early = at < found.first_at
    late = f"What is younger than {lag} cannot be restored: wait {(at - found.last_at).total_seconds():.0f} s, or name "
    raise Refused(
        f"cannot restore to {spelled(at)}: it is too {'early' if is_early else 'late'}",
        detail=f"Between {first_at} and {last_at} every second can be restored.",
        state="Nothing was started.",
        hint=f"The oldest backup of the branch ended after it; the first possible time is {first_at}."
        if is_early
        else f"{late}{last_at}.",
    )


def spelled(at: datetime) -> str:
    """Return a time as RFC 3339 has it, in UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _whole(at: datetime) -> datetime:
    return at.replace(microsecond=0)
