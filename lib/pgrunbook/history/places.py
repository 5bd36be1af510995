"""The places that parameters name, looked up in the migrations folder; for prepare and migrate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pgrunbook.display.prose import listed
from pgrunbook.errors import WrongInput
from pgrunbook.history.state import History, Migration
from pgrunbook.plan.plan import WAY_BACK
from pgrunbook.sql import places
from pgrunbook.sql.places import NamedPlace


def resolved(history: History, given: Iterable[str]) -> list[str]:
    """Return the key of each place, or gate of a way back, that is named; ``FILE.sql:LINE`` where only one fits.

    Raises WrongInput for a name that fits nothing in the folder, or two statements of it.
    """
    names = list(given)
    return places.resolved(names, _there(history, names)) if names else []


def reasons(history: History, given: Mapping[str, str]) -> dict[str, str]:
    """Return the reason by the key of each place. Raises WrongInput as :func:`resolved`, and for two reasons."""
    keys = resolved(history, given)
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        names = [name for name, key in zip(given, keys, strict=True) if key == twice]
        raise WrongInput(
            f"{twice} is named twice",
            detail=f"{listed(names)} are one statement.",
            hint="Give one reason for it.",
        )
    return dict(zip(keys, given.values(), strict=True))


def _there(history: History, names: list[str]) -> list[NamedPlace]:
    """Return what may be named; only the files that a name may mean are parsed, or all pending ones for a message."""
    migrations = [entry.migration for entry in history.entries if entry.migration is not None]
    wanted = {place.migration for place in map(places.parsed, names) if place is not None}
    meant: list[Migration] = [m for m in migrations if {m.name, m.path.name} & wanted]
    there = [s.named for m in meant or history.pending(out_of_order=True) for s in m.statements()]
    return [*there, *(NamedPlace(f"{WAY_BACK}{m.name}") for m in migrations)]
