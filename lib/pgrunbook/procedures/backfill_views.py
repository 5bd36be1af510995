"""How backfill shows what it is about to do, does and has done, and how its errors read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import psycopg

from pgrunbook.database import sqlstate
from pgrunbook.database.connection import Connection
from pgrunbook.database.lock_wait import Holder
from pgrunbook.display import progress
from pgrunbook.display.prose import counted, listed
from pgrunbook.display.show import BAD, GOOD, QUIET, WARN, Card, Cell, Picture, Table, figure
from pgrunbook.display.units import human
from pgrunbook.errors import Broken, Interrupted, RunbookError, StatementFailed
from pgrunbook.online import backfill_check
from pgrunbook.online.backfill import ColumnBackfill
from pgrunbook.online.backfill_check import RowCheck
from pgrunbook.online.backfill_run import BackfillRun, Filled
from pgrunbook.online.bad_rows import OF_A_ROW, RefusedRow
from pgrunbook.online.batch_order import BatchOrder, OrderFacts
from pgrunbook.online.brakes import BrakeLimits
from pgrunbook.online.throttle import Throttle, ThrottleGoals
from pgrunbook.session.live_display import LiveDisplay
from pgrunbook.session.parameters import Backfill
from pgrunbook.session.session import Session

REDRAW_S = 0.5
BAR = 24
SAMPLES = "throttle"


@dataclass(frozen=True)
class Surroundings:
    """What lies around the rows: triggers that fire, foreign keys, the oldest transaction and how old it may be."""

    triggers: tuple[dict[str, Any], ...]
    foreign_keys: tuple[dict[str, Any], ...]
    oldest: tuple[str, float] | None
    oldest_allowed_s: float


def command(here: Session, run_id: str, do: str) -> str:
    """Return the command that brings back what a run has filled, or takes away what it has left."""
    return f"pgrunbook run backfill --target {here.target.name} -p do={do} -p of_run={run_id}"


def away(here: Session) -> str:
    """Return the hint that takes everything of ours away: with the old values back where they are captured."""
    if here.parameters.undo_data:
        return f"To take it back, and everything of ours away: {command(here, here.run.run_id, 'back')}"
    return f"To give up, and take everything of ours away: {command(here, here.run.run_id, 'abandon')}"


@contextmanager
def removable(here: Session, state: str = "") -> Iterator[None]:
    """Let an error that ends the body say how everything of ours goes, and the state where something is changed."""
    try:
        yield
    except RunbookError as exc:
        exc.state = state or exc.state
        exc.hint = f"{exc.hint} {away(here)}".strip()
        raise


def goals(given: Backfill) -> ThrottleGoals:
    """Return what the parameters let the throttle aim at."""
    return ThrottleGoals(
        latency_ms=given.latency_ms, batch_ms=given.batch_ms, least_rows=min(10, given.most_batch_rows),
        most_rows=given.most_batch_rows, patience_s=given.patience_s,
        brakes=BrakeLimits(lag_s=given.max_lag_s, transaction_s=given.max_transaction_age_s, query=given.wait_while),
    )  # fmt: skip


def planned(
    made: ColumnBackfill, found: OrderFacts, order: BatchOrder | None, around: Surroundings, given: Backfill
) -> Table:
    """Return what is meant, found and decided, a row each."""
    rows: list[tuple[object, ...]] = [
        ("table", made.table.label, f"about {found.rows_estimate:,} rows, {human(found.bytes)}"),
        *(("column", column, f"becomes {text}") for column, text in made.values.items()),
        *(("way back", column, f"becomes {text}, where one of the filled is written") for column, text in
          made.back.items()),
        ("rows", made.where or "all", "only those that differ are written"),
        ("key", ", ".join(made.key) or "none", found.told),
        ("order", _order(order), order.why if order else "both are tried, and the faster one goes on"),
        ("immutable", _yes(made.is_immutable), "the same row always gives the same values" if made.is_immutable else
         "another row, setting or time may change a value: the trigger cannot see that"),
    ]  # fmt: skip
    rows += [("trigger", Cell(row["name"], WARN), f"fires {row['at']} {row['fires']}: {row['executes']}")
             for row in around.triggers]  # fmt: skip
    rows += [("foreign key", Cell(row["name"], WARN),
              f"each value is looked up in {row['other']}" if row["is_outgoing"] else f"{row['other']} refers to it")
             for row in around.foreign_keys]  # fmt: skip
    if around.oldest is not None and around.oldest[1] > 1:
        is_old = around.oldest[1] > around.oldest_allowed_s > 0
        says = "it keeps dead rows: no room is found on their pages while it lasts"
        rows.append(("oldest transaction", Cell(f"{around.oldest[1]:,.0f} s", WARN if is_old else QUIET),
                     f"{around.oldest[0]}; {says}"))  # fmt: skip
    rows.append(("in sync", _yes(given.keep_in_sync), _sync_says(given)))
    growth = "none: updates are HOT" if found.fillfactor < 60 and not found.is_indexed else human(found.bytes)
    rows.append(("room", growth, "at the most, where no new version finds room on its page; WAL up to 3 times as much"))
    return Table(["what", "found", ""], rows, title=f"Backfill of {made.table.label}")


def _sync_says(given: Backfill) -> str:
    if not given.keep_in_sync:
        return "rows that are written meanwhile are filled only where a batch meets them later"
    return "a trigger fills what is written meanwhile" + ("; it stays" if given.leave_in_sync else "")


def _order(order: BatchOrder | None) -> str:
    if order is None:
        return "to be tried"
    return "by pages" if order.by_pages else "by key"


def _yes(is_so: bool) -> Cell:
    return Cell("yes", GOOD) if is_so else Cell("no", WARN)


def told(made: ColumnBackfill, row: RefusedRow) -> str:
    """Return a row by its key, and what the server said of it."""
    names = made.key or ("ctid",)
    return f"{', '.join(f'{name} = {value}' for name, value in zip(names, row.key, strict=False))}: {row.said}"


def bad(made: ColumnBackfill, found: RowCheck) -> Table:
    """Return the rows whose values cannot be assigned."""
    more = "" if found.is_whole else "; there may be more: the look has ended with these"
    return Table(
        [*(made.key or ("ctid",)), "SQLSTATE", "the server says"],
        [(*row.key, row.sqlstate, Cell(row.said, BAD)) for row in found.bad],
        title=f"{counted(found.rows, 'row')} of {made.table.label} can be filled{more}",
        empty=f"All {found.rows:,} rows of {made.table.label} can be filled.",
    )


def refused(made: ColumnBackfill, rows: Sequence[RefusedRow]) -> Table:
    """Return the rows that the batches have passed over."""
    return Table(
        [*(made.key or ("ctid",)), "SQLSTATE", "the server said"], [(*row.key, row.sqlstate, row.said) for row in rows]
    )


def not_in_sync(made: ColumnBackfill) -> Card:
    """Say that nothing keeps the columns in sync."""
    says = Cell("not kept in sync: keep_in_sync is false", WARN)
    return Card(f"{made.table.label}: {listed(list(made.values))}", [("columns", says)], tone=WARN)


def in_sync(made: ColumnBackfill, *, is_new: bool) -> Card:
    """Say that the trigger is there."""
    return Card(
        f"{made.table.label} is kept in sync",
        [("trigger", f"{made.fill.trigger_name}, {'installed now' if is_new else 'was there already'}"),
         ("whoever writes", f"{listed(list(made.values))} follow, in every session")],
        tone=GOOD,
    )  # fmt: skip


def note_wait(here: Session) -> Callable[[Sequence[Holder], float], None]:
    """Return what is called while a lock is waited for: the first look is written into the journal."""
    noted: list[bool] = []

    def on_wait(holders: Sequence[Holder], _left_ms: float) -> None:
        if not noted:
            noted.append(True)
            here.journal("lock-waits", holders=[str(holder) for holder in holders[:5]])

    return on_wait


def live(here: Session, throttle: Throttle) -> Callable[[int, int], None]:
    """Return what is called after each batch: one display is drawn anew, and the journal notes how far it is."""
    display, began = LiveDisplay(), time.monotonic()
    total = max(1, int(here.facts["looked_at"]))
    drawn = [0.0]

    def on_batch(rows: int, batches: int) -> None:
        now = time.monotonic()
        if now - drawn[0] < REDRAW_S:
            return
        drawn[0] = now
        rate = rows / max(now - began, 1e-6)
        share = min(1.0, rows / total)
        left_s = (total - rows) / rate if rate > 0 else 0.0
        bar = "#" * round(share * BAR) + "." * (BAR - round(share * BAR))
        rest = f"a rest of {throttle.rest:.2f} times its time" if throttle.rests else "no rest: nobody else is at work"
        latency = "-" if throttle.latency_ms is None else f"{throttle.latency_ms:.1f} ms"
        progress.current().how_far(f"[{bar}] {rows:,} of {total:,} rows, {rate:,.0f} a second, {left_s:,.0f} s left")
        waits = throttle.waits[-1].why if throttle.waits else "nothing so far"
        display.draw(Card("Filling", [
            ("rows written", f"{rows:,} of {total:,} at the most, in {counted(batches, 'batch', 'batches')}"),
            ("rate", f"{rate:,.0f} rows a second; {left_s:,.0f} s left at this rate"),
            ("batch", f"{throttle.rows:,} rows, then {rest}"),
            ("latency of others", latency), ("waited last for", waits),
            ("to change it", f"pgrunbook throttle {here.run.run_id} pause, faster, slower or stop"),
        ]))  # fmt: skip

    return on_batch


def keep_samples(here: Session, throttle: Throttle) -> None:
    """Keep what the throttle has measured, and what it waited for, as CSV."""
    samples = [(s.at_s, s.rows, s.latency_ms, s.rest, s.batch_rows) for s in throttle.samples]
    here.keep_table(SAMPLES, Table(["at_s", "rows", "latency_ms", "rest", "batch_rows"], samples))
    here.keep_table("waits", Table(["at_s", "waited_s", "why"], [(w.at_s, w.waited_s, w.why) for w in throttle.waits]))


def filled(made: ColumnBackfill, done: Filled, throttle: Throttle) -> Table:
    """Return what was done."""
    order = done.order
    tried = "; ".join(f"{name} {rate:,.0f} rows a second" for name, rate in order.measured)
    rows: list[tuple[object, ...]] = [
        ("rows written", f"{done.rows:,}", "those that differed"),
        ("batches", f"{done.batches:,}", f"{_order(order)}: {order.why}{f' ({tried})' if tried else ''}"),
        ("time", f"{done.took_s:,.1f} s", f"{done.rows / max(done.took_s, 1e-6):,.0f} rows a second"),
        ("HOT updates", "-" if done.hot is None else f"{done.hot:.0%}", "new versions that found room on their page"),
    ]
    rows += [("waited", f"{wait.waited_s:,.1f} s", wait.why) for wait in throttle.waits]
    rows += [("not seen", Cell(text, QUIET), "it throttled nothing") for text in throttle.unseen]
    if done.refused:
        rows.append(("passed over", Cell(f"{len(done.refused):,}", BAD), told(made, done.refused[0])))
    return Table(["what", "found", ""], rows)


def explained(
    here: Session,
    made: ColumnBackfill,
    run: BackfillRun,
    exc: psycopg.Error | RunbookError | KeyboardInterrupt,
    again: str,
) -> RunbookError:
    """Return the error for what ended the batches, with what is committed."""
    there = "; its trigger is there" if run.in_sync else ""
    state = f"{counted(run.rows, 'row is', 'rows are')} filled and committed{there}."
    if run.conn.closed:  # batches that were alone have not waited for the disk
        state += " If the server crashed, it may have taken back those of its last moment, which are filled again."
    here.journal("backfill-stopped", error=str(exc).partition("\n")[0], kind=type(exc).__name__, rows=run.rows)
    if isinstance(exc, RunbookError):
        exc.state, exc.hint = state, f"{exc.hint} {away(here)}".strip()
        return exc
    if isinstance(exc, KeyboardInterrupt):
        return Interrupted("stopped while rows were filled", state=state, hint=f"To go on: {again}. {away(here)}")
    if isinstance(exc, OF_A_ROW):
        return StatementFailed(
            f"could not fill a row of {made.table.label}: {sqlstate.said(exc)}",
            detail=" ".join([*getattr(exc, "__notes__", []), exc.diag.message_detail or ""]).strip(),
            state=state,
            hint=f"Correct that row, or pass such rows over with -p bad_rows=skip; then {again}. {away(here)}",
        )
    found = sqlstate.explained(exc, here.target.name, state=state, again=again)
    found.hint = f"{found.hint} {away(here)}".strip()
    return found


def cannot_prove(conn: Connection, made: ColumnBackfill, exc: psycopg.Error) -> Broken:
    """Return the error for an expression that fails for a row of today."""
    found = backfill_check.check(conn, made, most=5)
    return Broken(
        f"could not compare the rows of {made.table.label}: {sqlstate.said(exc)}",
        detail="; ".join(told(made, row) for row in found.bad) + "." if found.bad else "",
        state="The batches are committed; what was written meanwhile and cannot be filled has NULL.",
        hint="Correct these rows, then run this cell again.",
    )


def proof(made: ColumnBackfill, differ: int, passed_over: int, *, in_sync: bool) -> Card:
    """Say what the comparison has found."""
    how = "in one snapshot, while the trigger could not be switched off" if in_sync else "in one snapshot"
    after = "none can come: the trigger is there" if in_sync else "rows that are written later are not filled"
    facts = [("rows that differ", Cell(f"{differ:,}", BAD if differ else GOOD)), ("compared", how), ("later", after)]
    facts += [("passed over", Cell(f"{passed_over:,}", WARN))] if passed_over else []
    return Card(f"{made.table.label}: {listed(list(made.values))}", facts, tone=WARN if differ else GOOD)


def stays(made: ColumnBackfill, *, in_sync: bool) -> Card:
    """Say what stays."""
    says = f"{made.fill.trigger_name} stays: leave_in_sync is true" if in_sync else "there is no trigger of ours"
    return Card(made.table.label, [("trigger", says)])


def gone(made: ColumnBackfill) -> Card:
    """Say that the trigger is gone."""
    return Card(
        f"{made.table.label}", [("trigger", f"{made.fill.trigger_name} is gone, with its functions")], tone=GOOD
    )


def picture(throttle: Throttle) -> Picture | Table:
    """Draw rate and latency, with the waits shaded."""
    samples = throttle.samples
    if len(samples) < 3:  # a line needs two points, each between two samples
        return Table([], [], empty="Nothing to draw: it was over in a moment.")
    at = [one.at_s for one in samples[1:]]
    rates = [(b.rows - a.rows) / max(b.at_s - a.at_s, 1e-6) for a, b in pairwise(samples)]
    drawn, (above, below) = figure(8, 3.6, rows=2)
    above.plot(at, rates, color="#0969da", linewidth=1.2)
    above.set_title("rows written a second", fontsize=9, loc="left")
    below.plot(at, [one.latency_ms or 0.0 for one in samples[1:]], color="#cf222e", linewidth=1.2)
    below.set_title("latency of others, ms", fontsize=9, loc="left")
    below.set_xlabel("s")
    for axis in (above, below):
        axis.set_ylim(bottom=0)
        for wait in throttle.waits:
            axis.axvspan(wait.at_s, wait.at_s + wait.waited_s, color="#bf8700", alpha=0.25)
    waits = "; ".join(f"waited {w.waited_s:,.1f} s: {w.why}" for w in throttle.waits) or "waited for nothing"
    worst = max((one.latency_ms or 0.0) for one in samples)
    return Picture.of(drawn, f"latency at most {worst:,.1f} ms; at most {max(rates):,.0f} rows a second; {waits}")


def state(made: ColumnBackfill, done: Filled, *, stays: bool) -> str:
    """Return the state of the database, as a sentence."""
    rest = f" Trigger {made.fill.trigger_name} keeps them in sync." if stays else ""
    return f"{counted(done.rows, 'row')} of {made.table.label} were filled: {listed(list(made.values))}.{rest}"


def following(here: Session, made: ColumnBackfill) -> str:
    """Return what to do next."""
    if here.parameters.leave_in_sync:
        return f"pgrunbook run backfill --target {here.target.name} again without leave_in_sync takes the trigger away"
    return f"a migration may make {listed(list(made.values))} NOT NULL, or let the old columns go"
