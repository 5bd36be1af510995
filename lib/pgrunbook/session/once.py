"""Steps that are done once: a cell that is run again shows what it did, and how to repeat it on purpose.

1. When such a step has changed something and ended, the journal says so: ``step-done``, with what it was about.
2. Run again for the same in this run, whoever runs it and in whichever kernel, it shows the outcome of then. It
   changes nothing, and leaves the verdict and the files as they are.
3. ``here.repeat("the-cell")`` lets it be done once more; the database still decides what of it is to be done.

A step asks the database instead where that has to hold now, whatever was done before: a fence, a restore point. Where
automation goes on with a run, the step runs again and finds what is done: it has nobody to show it to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from html import escape
from typing import Any, TypeVar

from pgrunbook.display.show import FILLS, WARN
from pgrunbook.record import cell_attempts, cell_log, door, executed_copy, journal
from pgrunbook.record import run as runs
from pgrunbook.session import session as heres
from pgrunbook.session.checks import NEEDED
from pgrunbook.session.session import Session

DONE = "step-done"
# What takes a step back, so that it may be done anew.
TAKEN_BACK: Mapping[str, str] = {"cut-over": "cut-over-taken-back"}
View = TypeVar("View")


@dataclass(frozen=True)
class Recorded:
    """The outcome of a step that was done before, as the record has it."""

    says: str
    text: str
    html: str

    def __repr__(self) -> str:
        return f"{self.says}\n{self.text}"

    def _repr_html_(self) -> str:
        style = f"background:{FILLS[WARN]};color:#1f2328;padding:6px 10px;margin-bottom:6px"
        return f"<div style='{style}'>{escape(self.says)}</div>{self.html}"


def once(
    recall: Callable[[Session], None] = lambda _: None,
) -> Callable[[Callable[[Session], View]], Callable[[Session], View | Recorded]]:
    """Make a step one that is done once; ``recall`` brings back what the cells after it need, in another kernel."""

    def made(function: Callable[[Session], View]) -> Callable[[Session], View | Recorded]:
        cell = function.__name__.replace("_", "-")

        @wraps(function)
        def guarded(here: Session) -> View | Recorded:
            if heres.is_headless():
                return function(here)
            done = None if here.repeats(cell) else _done(here, cell)
            if done is not None:
                recall(here)
                return _recorded(here, cell, done)
            before = here.works
            view = function(here)
            if here.works != before:
                here.journal(DONE, cell=cell, of=_about(here, cell), by=runs.operator(), text=repr(view))
            return view

        guarded.is_done_once = True  # type: ignore[attr-defined]
        return guarded

    return made


def _about(here: Session, cell: str) -> list[str]:
    """Return what a step is about: what its checks passed for, or the parameters that choose it."""
    if cell in NEEDED.get(here.procedure, {}):
        return sorted(here.subject)
    given = here.parameters.model_dump(mode="json")
    return [f"{name}={value}" for name, value in sorted(given.items()) if name != "target"]


def _done(here: Session, cell: str) -> Mapping[str, Any] | None:
    """Return the event that says that the step is done, None where it is not, or was taken back since.

    Before its checks have run in this kernel nobody knows what it would be about now: then it is what it was about.
    """
    about, found = door.masked_facts({"of": _about(here, cell)})["of"], None
    for event in journal.read(here.run.journal.path):
        if event["event"] == TAKEN_BACK.get(cell):
            found = None
        elif (event["event"], event.get("procedure"), event.get("cell")) == (DONE, here.procedure, cell):
            found = event if about in ([], event["of"]) else found
    return found


def _recorded(here: Session, cell: str, done: Mapping[str, Any]) -> Recorded:
    says = (
        f"This step is done: {done['at'][:19].replace('T', ' ')} UTC, by {done['by']}. It was not done again; below "
        f'is what it showed. To repeat it on purpose: run here.repeat("{cell}") in a cell of its own, then this cell.'
    )
    here.journal("step-shown", cell=cell)
    return Recorded(says, str(done["text"]), _html(here, cell, done) or f"<pre>{escape(str(done['text']))}</pre>")


def _html(here: Session, cell: str, done: Mapping[str, Any]) -> str:
    """Return what the kernel wrote that the cell showed then, "" where no kernel did."""
    part = next((p for p in here.run.parts if p.procedure == here.procedure and p.notebook), None)
    lines: Sequence[cell_log.Line] = cell_log.read(executed_copy.log_of(here.run, part.notebook)) if part else []
    for run in cell_attempts.attempts(lines, [cell], living=""):
        if run.cell == cell and run.started_at <= done["at"] <= (run.ended_at or done["at"]):
            shown = [str(o["data"]["text/html"]) for o in run.outputs if "text/html" in o.get("data", {})]
            return shown[-1] if shown else ""
    return ""
