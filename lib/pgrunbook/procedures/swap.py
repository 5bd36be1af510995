"""Swap: a table takes another shape while everybody works on. The steps of notebooks/swap.ipynb, in order."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

import psycopg

from pgrunbook.database import locks, sqlstate
from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import Connection, connect
from pgrunbook.database.queries import rows
from pgrunbook.database.vitals import MB
from pgrunbook.display import progress
from pgrunbook.display.show import Banner, Card, Table
from pgrunbook.errors import NOTHING_CHANGED, Blocked, Refused, RunbookError, StatementFailed, WrongInput
from pgrunbook.execute import permit
from pgrunbook.execute import swap as execution
from pgrunbook.online import carried, swap_begin, swap_copy, swap_shape, swap_store, swap_sync
from pgrunbook.online.swap_begin import SwappedTable
from pgrunbook.online.swap_shape import SwapChoice
from pgrunbook.online.swap_store import SwapState, TableSwap
from pgrunbook.procedures import shared_steps, swap_views
from pgrunbook.record import run as runs
from pgrunbook.session import checks
from pgrunbook.session import session as heres
from pgrunbook.session.parameters import Swap
from pgrunbook.session.session import Session

NOW, POSTPONED = "now", "postponed"
REPLAY_EVERY_S = 1.0
WORDS = {
    "back": "swap table {} back",
    "finish": "drop the old table of the swap of {}",
    "abandon": "take the swap of {} away",
}
STATES = {
    SwapState.COPYING: "Table {} is as it was, and its changes are noted; the new table holds part of its rows.",
    SwapState.BUILDING: "Table {} is as it was, and its changes are noted; the new table is not ready yet.",
    SwapState.READY: "Table {} is as it was, and its changes are noted; the new table is ready for the cut-over.",
    SwapState.CUT_OVER: "Table {} is the new one; the old one is kept, and the changes since are noted.",
    SwapState.FINISHED: "Table {} is the new one; the old one is gone.",
    SwapState.ABANDONED: "Table {} is as it was; nothing of a swap is left.",
}


@dataclass(frozen=True)
class SwapWork:
    """What this run is about: the choice, the table where a swap is to be begun, and what its checks are about."""

    choice: SwapChoice
    table: SwappedTable | None
    subject: str


def begin(**given: object) -> Session:
    """Check the parameters and find or make the run. Raises WrongInput, Blocked."""
    here = heres.begin("swap", Swap, given)
    _moment(here)
    if not here.parameters.table:
        raise WrongInput("swap needs a table", hint="Name it with its schema: -p table=public.orders")
    return here


@heres.step
def meet_the_target(here: Session) -> Card:
    """Show the server and database of the target. Raises Unreachable, Refused for a replica."""
    return here.meet_the_target()


@checks.check
def what_hangs(here: Session) -> Table:
    """Show all that hangs on the table, and what becomes of it.

    Raises WrongInput for a table that is not there, Refused for what cannot be carried over, and where a swap of the
    table does not stand where ``do`` begins.
    """
    name = _table(here)
    swap = swap_store.of_table(here.conn, name)
    is_new = swap is None or swap.state.is_over
    given = here.parameters
    choice = SwapChoice(name, given.shape, given.values, given.back, given.order_by, given.leave)
    _refuse_state(here, name, swap, choice)
    table = swap_begin.look(here.conn, choice) if is_new else None
    about = json.dumps([asdict(choice), given.do, swap_shape.digest(here.conn, _oid(here.conn, name))])
    work = SwapWork(choice, table, f"swap {hashlib.sha256(about.encode()).hexdigest()[:12]}")
    here.facts["work"] = work
    here.subject = frozenset({work.subject})
    hanging = carried.hanging(here.conn, _oid(here.conn, name))
    here.journal("swap-chosen", subject=work.subject, table=str(name), do=given.do,
                 state=None if swap is None else swap.state.value, hanging=[one.says for one in hanging])  # fmt: skip
    return here.keep_table("what-hangs", swap_views.hanging(hanging))


@checks.check
def try_the_shape(here: Session) -> Table:
    """Make the new table in a transaction that is aborted, and show how its columns are filled, forth and back.

    Raises psycopg's errors for a shape that the server refuses, WrongInput and Refused for one that loses something.
    """
    work: SwapWork = here.facts["work"]
    here.subject = frozenset({work.subject})
    if work.table is None:
        swap = _swap(here.conn, work)
        here.journal("shape-known", subject=work.subject, state=swap.state.value)
        return Table([], [], empty=f"The new table is there: {swap_views.filled(swap.plan)}.")
    with progress.doing("trying the shape"):
        found = swap_begin.trial(here.conn, work.choice, work.table)
    here.journal("shape-tried", subject=work.subject, key=found.plan.key, not_carried=found.not_carried)
    return here.keep_table("try-the-shape", swap_views.columns(found))


@heres.step
def make_and_fill(here: Session) -> Card:
    """Make the new table, copy, catch up, build indexes, and compare all rows. Raises as ``execute.swap.fill``."""
    work: SwapWork = here.facts["work"]
    if here.parameters.do != "swap":
        return Card("New table", [("made", f"Not asked: do is {here.parameters.do}.")])
    with _at_work(here, work) as conn:
        permitted = permit.of_swap(here, work.subject, "make-and-fill", conn)
        known = swap_store.of_table(conn, work.choice.table)
        if known is not None and known.is_new_live:
            return Card("New table", [("made", "It was cut over before.")])
        given, began = here.parameters, time.monotonic()
        with progress.doing("filling the new table") as stage:

            def on_part(what: str, number: int) -> None:
                stage.how_far(f"{what} {number:,}" if number else what)

            try:
                swap = execution.fill(
                    conn, here.target, permitted, work.subject, work.choice, work.table,
                    goals=swap_views.goals(given), workers=given.workers, most_log_bytes=given.most_log_mb * MB,
                    on_part=on_part,
                )  # fmt: skip
            except KeyboardInterrupt as exc:
                raise swap_views.stopped(here.target.name, work.choice.table, runs.again()) from exc
        done = swap_copy.progress(conn, swap)
        here.journal("swap-filled", subject=work.subject, rows=done.rows, took_s=round(time.monotonic() - began, 3))
    return swap_views.made(swap, done, time.monotonic() - began)


@heres.step
def cut_over(here: Session) -> Card:
    """Cut over, now or at the time that was named, forth or back. Raises Blocked, Refused: nothing changed then."""
    work: SwapWork = here.facts["work"]
    given = here.parameters
    if given.do not in ("swap", "back"):
        return Card("Cut-over", [("done", f"Not asked: do is {given.do}.")])
    with _at_work(here, work) as conn:
        swap = _swap(conn, work)
        if swap.is_new_live == (given.do == "swap"):
            # It may be this run's own, killed between the commit and the next line of its journal.
            here.journal("cut-over-found", subject=work.subject, do=given.do, cut_over_at=swap.cut_over_at)
            return Card("Cut-over", [("done", "before, by this run or another one")])
        if given.cutover == POSTPONED:
            here.journal("cut-over-postponed", subject=work.subject)
            return swap_views.postponed(here.target.name, swap)
        _wait_for_the_time(here, conn, swap)
        permitted = permit.of_swap(here, work.subject, "cut-over", conn)
        here.journal("cut-over-meant", subject=work.subject, do=given.do)

        def on_attempt(number: int, why: str) -> None:
            here.journal("cut-over-given-back", attempt=number, why=why)

        done = execution.cut_over(
            conn, here.target, permitted, work.subject, swap,
            keep_hours=given.keep_hours, attempts=given.attempts, on_attempt=on_attempt,
        )  # fmt: skip
        here.journal("cut-over", subject=work.subject, do=given.do, held_ms=round(done.held_ms, 1),
                     waited_ms=round(done.waited_ms, 1), attempts=done.attempts, notes=done.notes)  # fmt: skip
    return swap_views.cut_over(done)


@heres.step
def settle(here: Session) -> Table:
    """Validate the constraints that were made NOT VALID, and make materialized views anew."""
    work: SwapWork = here.facts["work"]
    if here.parameters.do not in ("swap", "back"):
        return Table([], [], empty=f"Not asked: do is {here.parameters.do}.")
    with _at_work(here, work) as conn:
        swap = _swap(conn, work)
        parts: list[str] = []
        if swap.plan.validated or swap.plan.views:
            permitted = permit.of_swap(here, work.subject, "settle", conn)
            with progress.doing("settling"):
                execution.settle(conn, here.target, permitted, work.subject, swap, parts.append)
            here.journal("swap-settled", subject=work.subject, parts=parts)
    return here.keep_table("settle", swap_views.settled(parts))


@heres.step
def end_it(here: Session) -> Card:
    """Drop the old table (do=finish), or take the swap away (do=abandon). Raises Refused before its time is over."""
    work: SwapWork = here.facts["work"]
    given = here.parameters
    if given.do not in ("finish", "abandon"):
        return Card("End", [("done", f"Not asked: do is {given.do}.")])
    with _at_work(here, work) as conn:
        swap = _swap(conn, work)
        if swap.state.is_over:
            here.journal("swap-ended", subject=work.subject, state=swap.state.value)
            return Card("End", [("state", STATES[swap.state].format(swap.table.label))])
        if given.do == "finish" and swap.keep_until and swap.keep_until > datetime.now(UTC) and not given.force:
            raise Refused(
                f"refused to drop the old table of {swap.table.label}: it is kept until {swap.keep_until:%F %R} UTC",
                detail="Until then one can swap back, and no write is lost.",
                state=STATES[swap.state].format(swap.table.label),
                hint=f"Wait, or: {swap_views.command(here.target.name, swap.table, 'finish')} -p force=true",
            )
        permitted = permit.of_swap(here, work.subject, "end-it", conn)
        after = execution.end(conn, here.target, permitted, work.subject, swap, away=given.do == "abandon")
        here.journal("swap-ended", subject=work.subject, state=after.state.value)
    return Card("End", [("state", STATES[after.state].format(after.table.label))])


@heres.step
def verdict(here: Session) -> Banner:
    """Say where the swap stands, and what comes next."""
    work: SwapWork = here.facts["work"]
    swap = _swap(here.conn, work)
    says = STATES[swap.state].format(swap.table.label)
    is_open = swap.state is SwapState.READY and here.parameters.do == "swap"
    return here.verdict(says, swap_views.facts(swap), then=swap_views.then(here.target.name, swap), is_open=is_open)


def _table(here: Session) -> TableName:
    """Return the table that was named, with its schema. Raises WrongInput."""
    named = here.parameters.table
    found = rows(here.conn, "swap", "facts", oid=here.conn.oid_of("regclass", named))
    dropped = [one.table for one in swap_store.swaps(here.conn) if named in (one.table.label, one.table.name)]
    if not found and dropped:
        return dropped[0]  # what is left of its swap can be taken away yet
    if not found:
        raise WrongInput(f"there is no table {named}", hint="Name it with its schema: -p table=public.orders")
    return TableName(found[0]["schema"], found[0]["name"])


def _oid(conn: Connection, name: TableName) -> int:
    return conn.oid_of("regclass", str(name)) or 0


def _swap(conn: Connection, work: SwapWork) -> TableSwap:
    swap = swap_store.of_table(conn, work.choice.table)
    if swap is None:
        raise Refused(f"no swap of table {work.choice.table.label} is begun", hint='Run cell "make-and-fill" first.')
    return swap


def _refuse_state(here: Session, name: TableName, swap: TableSwap | None, choice: SwapChoice) -> None:
    """Raise Refused where the swap does not stand where ``do`` begins, WrongInput for another shape than it has."""
    wanted = {"back": (SwapState.CUT_OVER,), "finish": (SwapState.CUT_OVER, SwapState.FINISHED)}
    wanted["abandon"] = (SwapState.COPYING, SwapState.BUILDING, SwapState.READY, SwapState.ABANDONED)
    do = here.parameters.do
    if do == "back" and any(e["event"] == "cut-over-meant" for e in shared_steps.events(here, "swap")):
        return  # it was done, and the run goes on
    if do in wanted and (swap is None or swap.state not in wanted[do]):
        raise Refused(
            f"cannot {WORDS[do].format(name.label)}: "
            f"{'no swap of it was begun' if swap is None else f'it is {swap.state}'}",
            hint=f"Begin one: {swap_views.command(here.target.name, name, 'swap')}"
            if swap is None or swap.state.is_over
            else swap_views.then(here.target.name, swap),
        )
    is_at_work = swap is not None and not swap.state.is_over
    if is_at_work and choice.shape and swap is not None and choice.shape != swap.plan.shape:
        raise WrongInput(
            f"a swap of table {name.label} is at work, and has another shape",
            detail=f"Its shape: {swap.plan.shape or 'as the table is'}",
            state=STATES[swap.state].format(name.label),
            hint=f"Go on without a shape; or take it away: {swap_views.command(here.target.name, name, 'abandon')}",
        )


@contextmanager
def _at_work(here: Session, work: SwapWork) -> Iterator[Connection]:
    """Hold the run lock, and explain what ends the work with where the swap stands."""
    here.at_work()
    with (
        locks.one_runner(here.target, here.run.run_id),
        connect(here.target, purpose=f"{here.procedure} {here.run.run_id}") as conn,
        locks.one_executor(conn),
    ):
        try:
            yield conn
        except (psycopg.Error, RunbookError) as exc:
            error = _explained(here, work, exc)
            raise error from (exc.__cause__ if error is exc else exc)


def _explained(here: Session, work: SwapWork, exc: psycopg.Error | RunbookError) -> RunbookError:
    """Return the error with where the swap stands now; rows that the new table does not take are named."""
    away = swap_views.command(here.target.name, work.choice.table, "abandon")
    try:
        with connect(here.target, purpose="asks how far the swap is") as conn:
            swap = swap_store.of_table(conn, work.choice.table)
            refused = []
            if swap is not None and isinstance(exc, psycopg.DataError | psycopg.IntegrityError):
                refused = swap_copy.refused_rows(conn, swap) if swap.state is SwapState.COPYING else []
            state = "" if swap is None else STATES[swap.state].format(swap.table.label)
    except (psycopg.Error, RunbookError):
        swap = None
        state, refused = "Not known, the server does not answer: pgrunbook.swap says how far the swap is.", []
    here.journal("swap-stopped", error=str(exc).partition("\n")[0], kind=type(exc).__name__, state=state)
    if isinstance(exc, RunbookError):
        exc.state = state or exc.state
        if isinstance(exc, Blocked) and swap is not None and not (swap.state.is_over or swap.is_new_live):
            exc.hint = f"{exc.hint} Or take the swap away: {away}"
        return exc
    if refused:
        return StatementFailed(
            f"the new table does not take all rows of {work.choice.table.label}",
            detail="; ".join(f"row {key}: {why}" for key, why in refused),
            state=state,
            hint=f"Mend these rows, or the shape after: {away}. Then {runs.again()}.",
        )
    found = sqlstate.explained(exc, here.target.name, state=state or NOTHING_CHANGED, again=runs.again())
    found.hint = f"{found.hint} Or take the swap away: {away}" if state else found.hint
    return found


def _wait_for_the_time(here: Session, conn: Connection, swap: TableSwap) -> None:
    """Catch up again and again until the time of the cut-over."""
    moment = _moment(here)
    if moment is None:
        return
    with progress.doing(f"waiting for {moment:%F %R %Z}") as stage:
        while (left := (moment - datetime.now(UTC)).total_seconds()) > 0:
            notes = swap_sync.catch_up(conn, replace(swap, run_id=here.run.run_id))
            stage.how_far(f"{left:,.0f} s left, {notes:,} changes brought over")
            time.sleep(min(left, REPLAY_EVERY_S))


def _moment(here: Session) -> datetime | None:
    """Return the time of the cut-over, None for now. Raises WrongInput."""
    given = here.parameters.cutover
    if given in (NOW, POSTPONED):
        return None
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise WrongInput(
            f'cutover is "{given}"', hint='It is "now", "postponed", or a time with zone: 2026-12-01T03:00:00+00:00'
        )
    return moment
