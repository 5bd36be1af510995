"""Monitor: see what a server does, and what to do first. The steps of notebooks/monitor.ipynb, in order."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from pgrunbook.database import vitals
from pgrunbook.database.vitals import Urgency
from pgrunbook.display.prose import counted
from pgrunbook.display.show import Banner, Card, Cell, Picture, Stack, Table, figure
from pgrunbook.procedures import monitor_views
from pgrunbook.record import door
from pgrunbook.session import session as heres
from pgrunbook.session.live_display import LiveDisplay
from pgrunbook.session.parameters import Monitor
from pgrunbook.session.session import Session, is_headless
from pgrunbook.session.watch import SAMPLES, SeenConcern, ServerWatch


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

    What the target's thresholds say is done meanwhile. A person who stops it goes on with the next cell.
    Raises RecordFailed where the numbers cannot be written, WrongInput where a webhook's address is not there.
    """
    look = ServerWatch(here.target, here.journal, here.run.folder)
    display, ends_at = LiveDisplay(), time.monotonic() + here.parameters.watch_s
    try:
        while True:
            display.draw(monitor_views.screen(look.look(here.conn)))
            if time.monotonic() + here.parameters.interval_s > ends_at:
                break
            time.sleep(here.parameters.interval_s)
    except KeyboardInterrupt:
        if is_headless():
            raise
        here.journal("watch-stopped", looks=len(look.samples))
    finally:
        look.close()
    samples, known = look.samples, look.known
    here.facts.update(samples=samples, concerns=known, given=look.given)
    rows = [_row(one) for one in sorted(known.values(), key=lambda one: (one.concern.urgency, one.first))]
    headings = ["", "what", "found", "first", "last", "looks", "what to do"]
    title = f"{counted(len(samples), 'look')}, {SAMPLES} has their numbers"
    return here.keep_table("concerns", Table(headings, rows, title=title, empty="Nothing was urgent."))


@heres.step
def over_time(here: Session) -> Picture | Table:
    """Draw the numbers of the looks over time."""
    samples: list[dict[str, Any]] = here.facts["samples"]
    drawn = [name for name in monitor_views.DRAWN if any(sample[name] for sample in samples)]
    if len(samples) < 2 or not drawn:
        return Table([], [], empty="Nothing to draw: one look only, or nothing waited, idled or lagged.")
    zero = datetime.fromisoformat(samples[0]["at"])
    at = [(datetime.fromisoformat(sample["at"]) - zero).total_seconds() for sample in samples]
    picture, axes = figure(8, 1.6 * len(drawn), rows=len(drawn))
    axes = axes if len(drawn) > 1 else [axes]
    for axis, name in zip(axes, drawn, strict=True):
        axis.plot(at, [sample[name] or 0 for sample in samples], color="#0969da", linewidth=1.2)
        axis.set_title(monitor_views.DRAWN[name], fontsize=9, loc="left")
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("s")
    most = {name: max(sample[name] or 0 for sample in samples) for name in drawn}
    return Picture.of(
        picture, "; ".join(f"{monitor_views.DRAWN[name]}: at most {value:,.1f}" for name, value in most.items())
    )


@heres.step
def verdict(here: Session) -> Banner:
    """Say what was urgent, and what to do first."""
    known: list[SeenConcern] = list(here.facts["concerns"].values())
    now = [one.concern for one in known if one.concern.urgency is Urgency.NOW]
    state = "Nothing changed in the database: it was only looked at."
    if given := sorted(here.facts["given"]):
        state = f"Batches were asked to {' and to '.join(given)}; nothing else was changed in the database."
    first = now[0].todo if now else "nothing: nothing was urgent"
    facts = [("looks", len(here.facts["samples"])), ("urgent", len(now)), ("to see to soon", len(known) - len(now))]
    return here.verdict(state, facts, then=first)


def _row(one: SeenConcern) -> tuple[object, ...]:
    about = one.concern
    mark = Cell(monitor_views.WORDS[about.urgency], monitor_views.TONES[about.urgency])
    when = (f"{one.first:%H:%M:%S}", f"{one.last:%H:%M:%S}", one.times)
    return (mark, about.what, door.masked(about.detail), *when, about.todo)
