"""Backfill: fill columns in batches while others write. The steps of notebooks/backfill.ipynb, in order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import psycopg

from pgrunbook import undo_data
from pgrunbook.database import locks
from pgrunbook.database.connection import Connection, connect
from pgrunbook.display import progress
from pgrunbook.display.prose import counted
from pgrunbook.display.show import Banner, Card, Picture, Table
from pgrunbook.errors import Broken, Refused, RunbookError
from pgrunbook.execute import backfill as execution
from pgrunbook.execute import permit
from pgrunbook.online import backfill as mechanism
from pgrunbook.online import backfill_check, backfill_triggers, batch_order
from pgrunbook.online.backfill import ColumnBackfill
from pgrunbook.online.backfill_run import BackfillRun, Filled
from pgrunbook.online.bad_rows import OF_A_ROW, BadRows
from pgrunbook.online.batch_order import BatchOrder
from pgrunbook.online.throttle import Throttle, throttled
from pgrunbook.plan.step import Batches
from pgrunbook.procedures import backfill_undo as undo
from pgrunbook.procedures import backfill_views as views
from pgrunbook.procedures import shared_steps
from pgrunbook.record import run as runs
from pgrunbook.session import checks
from pgrunbook.session import session as heres
from pgrunbook.session.parameters import Backfill
from pgrunbook.session.session import Session
from pgrunbook.undo_data import FillCapture

BAD_FILE = "rows-that-cannot-be-filled"
FIRST_ROWS = 200  # of the first batch; each is at most a fifth larger than the one before


def begin(**given: object) -> Session:
    """Check the parameters and find or make the run. Raises WrongInput, Blocked."""
    return heres.begin("backfill", Backfill, given)


@heres.step
def meet_the_target(here: Session) -> Card:
    """Show the server and database of the target. Raises Unreachable, Refused on a replica."""
    return here.meet_the_target()


@checks.check
def plan_the_batches(here: Session) -> Table:
    """Ask the server what is meant; show range, key, order and time, triggers that fire, foreign keys, and room.

    Raises WrongInput for a table, column or expression that is none, Refused for what cannot be filled.
    """
    given = here.parameters
    if given.do != "fill":
        return undo.plan_the_batches(here)
    made = mechanism.resolve(here.conn, given.table, given.fill, where=given.where, back=given.back)
    found = batch_order.facts(here.conn, made)
    order = batch_order.decided(made, found, given.order)
    if made.table.is_partitioned and order is not None and order.by_pages and given.bad_rows == "skip":
        raise Refused(
            f"cannot pass over rows of {made.table.label} by its pages",
            detail="Rows of its partitions have the same places, and would be passed over together.",
            hint="Let order be key, which asks for a key; or backfill each partition by its own name.",
        )
    here.facts.update(made=made, order=order, capture=_capture(here, made))
    here.subject = frozenset({made.subject})
    backfill_triggers.refuse_follower(here.conn, made, here.target.name)
    if given.keep_in_sync:
        backfill_triggers.refuse_behind(here.conn, made, here.target.name)
    here.journal("backfill-planned", subject=made.subject, table=made.table.label, relation=made.table.sql,
                 fill=dict(made.values), undo_data=given.undo_data, where=made.where, key=list(made.key),
                 is_immutable=made.is_immutable, **asdict(found))  # fmt: skip
    room = views.Surroundings(
        tuple(mechanism.fired(here.conn, made)), tuple(mechanism.foreign_keys(here.conn, made)),
        mechanism.oldest(here.conn), given.max_transaction_age_s,
    )  # fmt: skip
    return here.keep_table("plan-the-batches", views.planned(made, found, order, room, here.parameters))


@checks.check
def look_at_the_rows(here: Session) -> Table:
    """Evaluate the expressions over all rows, and list those whose values cannot be assigned; nothing is written.

    Raises Refused where there are such rows, and they are not to be passed over, and for an expression that would
    change a row again at every write.
    """
    if here.parameters.do != "fill":
        return undo.look_at_the_rows(here)
    made: ColumnBackfill = here.facts["made"]
    here.subject = frozenset({made.subject})
    with progress.doing("evaluating the expressions over all rows") as stage:
        found = backfill_check.check(
            here.conn, made, statement_timeout_ms=here.target.statement_timeout_ms,
            on_part=lambda done, pages: stage.how_far(f"{done:,} of {counted(pages, 'page')}"),
        )  # fmt: skip
    here.facts["looked_at"] = found.rows
    here.journal("rows-looked-at", rows=found.rows, bad=len(found.bad), is_whole=found.is_whole)
    table = here.keep_table(BAD_FILE, views.bad(made, found))
    if found.bad and here.parameters.bad_rows == "stop":
        here.show(table)
        raise Refused(
            f"{'at least ' if not found.is_whole else ''}{counted(len(found.bad), 'row')} of {made.table.label}"
            " cannot be filled",
            detail="; ".join(views.told(made, row) for row in found.bad[:5]) + ".",
            hint=f"Correct them or the expression ({BAD_FILE}.csv lists them); -p bad_rows=skip passes them over.",
        )
    with progress.doing("seeing that a row which is filled stays so"):
        backfill_check.refuse_restless(here.conn, made, statement_timeout_ms=here.target.statement_timeout_ms)
    return table


@heres.step
def keep_in_sync(here: Session) -> Card:
    """Install the trigger that fills what is written from now on, where it is not there yet; without ``do=fill`` take
    it away.

    Raises Refused without its checks, Blocked where its lock is not to be had.
    """
    if here.parameters.do != "fill":
        checks.passed(here, "backfill", "keep-in-sync")
        with _at_work(here) as conn:
            return undo.keep_in_sync(here, conn)
    made: ColumnBackfill = here.facts["made"]
    if not here.parameters.keep_in_sync:
        here.facts["in_sync"] = False
        return views.not_in_sync(made)
    checks.passed(here, "backfill", "keep-in-sync")
    with _at_work(here) as conn:
        permitted = permit.of_backfill(here, made.subject, "keep-in-sync", conn)
        here.journal("trigger-begun", table=made.table.label, trigger=made.fill.trigger_name)
        with views.removable(here):
            is_new = execution.install(conn, here.target, made, permitted, views.note_wait(here), here.facts["capture"])
    here.facts["in_sync"] = True
    here.journal("trigger-installed", trigger=made.fill.trigger_name, is_new=is_new)
    return views.in_sync(made, is_new=is_new)


@heres.live_step
def fill_the_rows(here: Session) -> Table:
    """Fill the rows in batches, under the throttle; draw rows, rate, what is left and why it waits, in one place.

    Raises Refused without its checks, StatementFailed for a row that the server refuses, Blocked where something that
    it waits for does not end, Interrupted where somebody stops it.
    """
    if here.parameters.do == "abandon":
        return Table([], [], empty="Not asked: do is abandon.")
    checks.passed(here, "backfill", "fill-the-rows")
    if here.parameters.do == "back":
        with _at_work(here) as conn, _throttled(here, conn, here.facts["end"].made) as throttle:
            return undo.fill_the_rows(here, conn, throttle)
    made: ColumnBackfill = here.facts["made"]
    in_sync: bool = here.facts["in_sync"]
    bad = BadRows(here.parameters.bad_rows, here.parameters.most_bad_rows)
    with _at_work(here) as conn, _throttled(here, conn, made) as throttle:
        permitted = permit.of_backfill(here, made.subject, "fill-the-rows", conn)
        here.facts["throttle"] = throttle
        run = BackfillRun(
            conn, made, here.run.run_id, throttle, bad, in_sync,
            lambda by_pages: _batches(here, made, by_pages=by_pages),
            here.target.lock_timeout_ms, views.live(here, throttle), lambda order: _note_order(here, order),
        )  # fmt: skip
        try:
            filled = execution.fill(run, here.parameters.order, permitted, chosen=_order_before(here))
        except (psycopg.Error, RunbookError, KeyboardInterrupt) as exc:
            error = views.explained(here, made, run, exc, runs.again())
            raise error from (None if error is exc else exc)
        finally:
            views.keep_samples(here, throttle)
    here.facts["filled"] = filled
    here.journal("rows-filled", rows=filled.rows, batches=filled.batches, refused=len(filled.refused),
                 took_s=round(filled.took_s, 3), hot=filled.hot, unseen=list(throttle.unseen))  # fmt: skip
    if filled.refused:
        here.keep_table("rows-passed-over", views.refused(made, filled.refused))
    return here.keep_table("fill-the-rows", views.filled(made, filled, throttle))


@heres.step
def prove_it(here: Session) -> Card:
    """Count the rows that differ, in one snapshot, while the trigger cannot be switched off.

    Raises Broken where one differs, or the trigger was switched off meanwhile.
    """
    if here.parameters.do != "fill":
        return undo.prove_it(here)
    made: ColumnBackfill = here.facts["made"]
    filled: Filled = here.facts["filled"]
    passed_over = [row.key for row in filled.refused]
    try:
        differ = mechanism.proof(
            here.conn, made, statement_timeout_ms=here.target.statement_timeout_ms, in_sync=here.facts["in_sync"],
            refused=passed_over,
        )  # fmt: skip
    except OF_A_ROW as exc:
        raise views.cannot_prove(here.conn, made, exc) from exc
    here.facts["proven"] = differ == 0
    here.journal("proven", differ=differ, passed_over=len(passed_over), in_sync=here.facts["in_sync"])
    if differ and here.facts["in_sync"]:
        raise Broken(
            f"{counted(differ, 'row')} of {made.table.label} differ from what they should be",
            detail="Something has written them past the trigger.",
            state="The batches are committed, and the trigger is installed.",
            hint="Start the backfill again as a new run: it writes only rows that differ.",
        )
    return views.proof(made, differ, len(passed_over), in_sync=here.facts["in_sync"])


@heres.step
def let_go(here: Session) -> Card:
    """Take the trigger away, where it is not to stay. Raises as keep_in_sync."""
    if here.parameters.do != "fill":
        return views.gone(here.facts["end"].made)
    made: ColumnBackfill = here.facts["made"]
    if here.parameters.leave_in_sync or not here.facts["in_sync"]:
        return views.stays(made, in_sync=here.facts["in_sync"])
    checks.passed(here, "backfill", "let-go")
    with _at_work(here) as conn:
        permitted = permit.of_backfill(here, made.subject, "let-go", conn)
        with views.removable(here, "All rows are filled and committed, and its trigger is there."):
            execution.remove(conn, here.target, made, permitted, views.note_wait(here))
    here.journal("trigger-removed", trigger=made.fill.trigger_name)
    return views.gone(made)


@heres.step
def over_time(here: Session) -> Picture | Table:
    """Draw the rate and the latency of others over time, with the pauses and their reasons."""
    if here.parameters.do == "abandon":
        return Table([], [], empty="Nothing was filled.")
    throttle: Throttle = here.facts["throttle"]
    return views.picture(throttle)


@heres.step
def verdict(here: Session) -> Banner:
    """Say what was filled, what was passed over, and what stays in the database."""
    if here.parameters.do != "fill":
        return undo.verdict(here)
    made: ColumnBackfill = here.facts["made"]
    filled: Filled = here.facts["filled"]
    facts = [("rows written", f"{filled.rows:,}"), ("passed over", f"{len(filled.refused):,}"),
             ("batches", f"{filled.batches:,}"), ("proven", "yes" if here.facts["proven"] else "no")]  # fmt: skip
    state = views.state(made, filled, stays=here.parameters.leave_in_sync and here.facts["in_sync"])
    return here.verdict(state, facts, then=here.following() or views.following(here, made),
                        is_open=bool(filled.refused) or not here.facts["proven"])  # fmt: skip


@contextmanager
def _at_work(here: Session) -> Iterator[Connection]:
    """Give the connection that changes something, under the run lock."""
    here.refuse_replica()
    here.at_work()
    with (
        locks.one_runner(here.target, here.run.run_id),
        connect(here.target, purpose=f"backfill {here.run.run_id}") as conn,
        locks.one_executor(conn),
    ):
        yield conn


@contextmanager
def _throttled(here: Session, conn: Connection, made: ColumnBackfill) -> Iterator[Throttle]:
    with throttled(
        here.target, conn, made.table.schema, made.table.name, rows=min(FIRST_ROWS, here.target.batch_rows),
        run_id=here.run.run_id, goals=views.goals(here.parameters),
        on_wait=lambda brake: here.journal("batches-wait", why=brake.name, told=brake.told),
        on_pause=lambda order: here.journal("batches-paused", by=order.asked_by, reason=order.reason),
    ) as throttle:  # fmt: skip
        yield throttle


def _capture(here: Session, made: ColumnBackfill) -> FillCapture | None:
    """Return how old values are captured, None where nobody asks for it. Raises Refused where they cannot be."""
    if not here.parameters.undo_data:
        return None
    if not here.parameters.keep_in_sync:
        raise Refused(
            "undo_data needs keep_in_sync",
            detail="Without its trigger a row may be filled more than once, and nobody knows which value was there"
            " before.",
            hint="Leave keep_in_sync as it is, or backfill without undo_data.",
        )
    return _captured(here, made, by_pages=False)[1]


def _captured(here: Session, made: ColumnBackfill, *, by_pages: bool) -> tuple[Batches, FillCapture]:
    return undo_data.fill_capture(
        here.conn, made.batches(rows=here.target.batch_rows, by_pages=by_pages), list(made.values), here.run.run_id,
        is_silent=not mechanism.fired(here.conn, made),
    )  # fmt: skip


def _batches(here: Session, made: ColumnBackfill, *, by_pages: bool) -> Batches:
    """Return the loop that fills, with the capture of what it changes where that is asked."""
    if here.facts["capture"] is None:
        return made.batches(rows=here.target.batch_rows, by_pages=by_pages)
    return _captured(here, made, by_pages=by_pages)[0]


def _order_before(here: Session) -> BatchOrder | None:
    """Return the order that an earlier attempt of this run has chosen, None where there is none."""
    chosen = [e for e in shared_steps.events(here, "backfill") if e["event"] == "order-chosen"]
    return BatchOrder(chosen[-1]["by_pages"], chosen[-1]["why"]) if chosen else None


def _note_order(here: Session, order: BatchOrder) -> None:
    here.journal("order-chosen", by_pages=order.by_pages, why=order.why, measured=dict(order.measured))
