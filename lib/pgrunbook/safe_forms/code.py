"""Gates of what a statement runs beside itself: the bodies of DO, of functions and of triggers, each judged in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from pgrunbook.database.routines import RoutinePart
from pgrunbook.plan.step import Gate
from pgrunbook.safe_forms.form import Case

MOST_TOLD = 6
Judge = Callable[[Case, str | None], Gate | None]


def find(case: Case, parts: Iterable[RoutinePart], judge: Judge) -> list[Gate]:
    """Return the gates that the parts of a statement meet on this database, each once, in order.

    ``judge`` is asked for each statement in them, with the search_path that its routine sets for itself.
    """
    found: list[Gate] = []
    for part in parts:
        if part.node is None or part.because:
            found.append(_acts(part) if part.calls else _cannot_be_told(part))
            continue
        with case.facts.under(part.path):
            gate = judge(replace(case, node=part.node), part.path)
        if gate is not None:
            found.append(replace(gate, says=f"inside {part.within}: {gate.says}"))
    return list(dict.fromkeys(found))


def joined(own: Gate | None, inner: list[Gate]) -> Gate | None:
    """Return one gate that says what a statement's own and those within say, None for none; the first names it."""
    found = [own, *inner] if own is not None else inner
    if len(found) < 2:
        return found[0] if found else None
    told = [gate.says for gate in found[:MOST_TOLD]]
    more = len(found) - len(told)
    return replace(found[0], says="; ".join([*told, *([f"and {more} more"] if more else [])]))


def _cannot_be_told(part: RoutinePart) -> Gate:
    where = f"inside {part.within}: " if part.within else ""
    return Gate(
        id="cannot-be-told",
        says=f"{where}{part.because}: what that locks, changes and loses is unknown before",
        procedure="expand and contract",
        how="Write the statements themselves into the migration; the rehearsal shows what this one did on a branch.",
    )


def _acts(part: RoutinePart) -> Gate:
    where = f"inside {part.within}: " if part.within else ""
    return Gate(
        id="acts-beyond",
        says=f"{where}{part.because}",
        procedure="troubleshoot",
        how="Take it out of the migration and do it by hand, where somebody looks on.",
    )
