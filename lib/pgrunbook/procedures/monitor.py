"""Monitor: see what a server does, and what to do first. The steps of notebooks/monitor.ipynb, in order."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pgrunbook.database import vitals
from pgrunbook.database.vitals import Concern, Urgency
from pgrunbook.display.prose import counted
from pgrunbook.display.show import Banner, Card, Cell, Picture, Stack, Table, figure
from pgrunbook.procedures import monitor_views
from pgrunbook.record import door, files
from pgrunbook.session import session as heres
from pgrunbook.session.live_display import LiveDisplay
from pgrunbook.session.parameters import Monitor
from pgrunbook.session.session import Session, is_headless

SAMPLES = "samples.jsonl"
# What is drawn of the samples: one picture each, with its unit.
DRAWN = {
    "waiting": "sessions that wait for a lock", "longest_wait_s": "the longest wait, s",
    "longest_idle_s": "the longest idle transaction, s", "connections": "client connections",
    "lag_bytes": "the standby furthest behind, bytes",
}  # fmt: skip


@dataclass
class _Seen:
    """A concern over time: when it was seen first and last, and how often."""

    concern: Concern
    first: datetime
    last: datetime
    times: int = 1


def begin(**given: object) -> Session:
    """Check the parameters and find or make the run. Raises WrongInput, Blocked."""
    return heres.begin("monitor", Monitor, given)


@heres.step
def meet_the_target(here: Session) -> Card:
    """Show the server and database of the target. Raises Unreachable."""
    return here.meet_the_target()


@heres.step
def what_is_urgent(here: Session) -> Stack:
    """Look once: what is urgent, who blocks whom, what is at work, how the server stands."""
    seen = vitals.look(here.conn)
    here.journal("looked", urgent=[one.what for one in vitals.concerns(seen)], waiting=len(seen.waiting))
    return monitor_views.screen(seen)


@heres.live_step
def watch(here: Session) -> Table:
    """Look again and again, and draw each look in one place; keep the numbers as CSV, and every concern in the journal.

    A person who stops it goes on with the next cell. Raises RecordFailed where the numbers cannot be written.
    """
    known: dict[tuple[str, str], _Seen] = {}
    samples: list[dict[str, Any]] = []
    display, ends_at = LiveDisplay(), time.monotonic() + here.parameters.watch_s
    try:
        while True:
            seen = vitals.look(here.conn)
            display.draw(monitor_views.screen(seen))
            samples.append(seen.numbers())
            files.append_line(here.run.folder / SAMPLES, json.dumps(samples[-1]))
            _note(here, known, seen)
            if time.monotonic() + here.parameters.interval_s > ends_at:
                break
            time.sleep(here.parameters.interval_s)
    except KeyboardInterrupt:
        if is_headless():
            raise
        here.journal("watch-stopped", looks=len(samples))
    here.facts.update(samples=samples, concerns=known)
    rows = [_row(one) for one in sorted(known.values(), key=lambda one: (one.concern.urgency, one.first))]
    headings = ["", "what", "found", "first", "last", "looks", "what to do"]
    title = f"{counted(len(samples), 'look')}, {SAMPLES} has their numbers"
    return here.keep_table("concerns", Table(headings, rows, title=title, empty="Nothing was urgent."))


@heres.step
def over_time(here: Session) -> Picture | Table:
    """Draw the numbers of the looks over time."""
    samples: list[dict[str, Any]] = here.facts["samples"]
    drawn = [name for name in DRAWN if any(sample[name] for sample in samples)]
    if len(samples) < 2 or not drawn:
        return Table([], [], empty="Nothing to draw: one look only, or nothing waited, idled or lagged.")
    zero = datetime.fromisoformat(samples[0]["at"])
    at = [(datetime.fromisoformat(sample["at"]) - zero).total_seconds() for sample in samples]
    picture, axes = figure(8, 1.6 * len(drawn), rows=len(drawn))
    axes = axes if len(drawn) > 1 else [axes]
    for axis, name in zip(axes, drawn, strict=True):
        axis.plot(at, [sample[name] or 0 for sample in samples], color="#0969da", linewidth=1.2)
        axis.set_title(DRAWN[name], fontsize=9, loc="left")
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("s")
    most = {name: max(sample[name] or 0 for sample in samples) for name in drawn}
    return Picture.of(picture, "; ".join(f"{DRAWN[name]}: at most {value:,.1f}" for name, value in most.items()))


@heres.step
def verdict(here: Session) -> Banner:
    """Say what was urgent, and what to do first."""
    known: list[_Seen] = list(here.facts["concerns"].values())
    now = [one.concern for one in known if one.concern.urgency is Urgency.NOW]
    state = "Nothing changed in the database: it was only looked at."
    first = now[0].todo if now else "nothing: nothing was urgent"
    facts = [("looks", len(here.facts["samples"])), ("urgent", len(now)), ("to see to soon", len(known) - len(now))]
    return here.verdict(state, facts, then=first)


def _row(one: _Seen) -> tuple[object, ...]:
    about = one.concern
    mark = Cell(monitor_views.WORDS[about.urgency], monitor_views.TONES[about.urgency])
    when = (f"{one.first:%H:%M:%S}", f"{one.last:%H:%M:%S}", one.times)
    return (mark, about.what, door.masked(about.detail), *when, about.todo)


def _note(here: Session, known: dict[tuple[str, str], _Seen], seen: vitals.Vitals) -> None:
    """Note each concern once in the journal; what is only longer there is the same."""
    for one in vitals.concerns(seen):
        if (there := known.get(one.key)) is not None:
            there.concern, there.last, there.times = one, seen.at, there.times + 1
            continue
        known[one.key] = _Seen(one, seen.at, seen.at)
        here.journal("concern", urgency=one.urgency.name.lower(), what=one.what, detail=one.detail, todo=one.todo)
