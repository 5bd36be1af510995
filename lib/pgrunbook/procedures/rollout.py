"""Rollout: a flag, switched on in stages. The steps of notebooks/rollout.ipynb, in order."""

from __future__ import annotations

import hashlib
import json

from pgrunbook.database.connection import connect
from pgrunbook.display.prose import counted
from pgrunbook.display.show import GOOD, QUIET, WARN, Banner, Card, Cell, Table
from pgrunbook.execute import permit
from pgrunbook.execute import rollout as execution
from pgrunbook.online import rollout_course, rollout_preconditions
from pgrunbook.online.rollout_course import Move
from pgrunbook.online.rollout_state import RolloutStanding, StageStanding
from pgrunbook.plan.rollout import REMOVE
from pgrunbook.procedures import rollout_steps, rollout_views
from pgrunbook.session import checks
from pgrunbook.session import session as heres
from pgrunbook.session.parameters import Rollout
from pgrunbook.session.session import Session


def begin(**given: object) -> Session:
    """Check the parameters and find or make the run. Raises WrongInput, Blocked."""
    return heres.begin("rollout", Rollout, given)


@heres.step
def meet_the_target(here: Session) -> Card:
    """Show the server and database of the target. Raises Unreachable, Refused for a replica, TargetBusy."""
    return here.meet_the_target()


@checks.check
def plan_the_stages(here: Session) -> Table:
    """Show each stage: who, how many rows it would change and how many are expected, its metric, what it is at.

    Raises WrongInput for a file that is wrong, Refused for a table or column that cannot be rolled out, and for a stage
    that is declared otherwise than when it began.
    """
    given = here.parameters
    declared = here.facts["rollout"] = rollout_steps.declared(given.name)
    rollout_course.refuse_unknown(declared, given.accept)
    table = here.facts["table"] = rollout_preconditions.find(here.conn, declared)
    state = rollout_steps.state(here, table)
    if state.standing is RolloutStanding.NEW:
        rollout_preconditions.refuse_default(here.conn, table)
    text = json.dumps([declared.digest, table.schema, table.name, given.do, sorted(given.accept)])
    subject = f"rollout {declared.name} {hashlib.sha256(text.encode()).hexdigest()[:12]}"
    here.subject = frozenset({subject})
    here.journal("rollout-planned", subject=subject, name=declared.name, standing=state.standing,
                 stages=[one.name for one in declared.stages])  # fmt: skip
    return here.keep_table("plan-the-stages", rollout_views.stages(here.conn, table, state))


@heres.step
def add_the_flag(here: Session) -> Card:
    """Add the column where it is missing, once a person lets the first stage begin; note that the rollout begins.

    Raises Refused, Blocked as ``execute.rollout.begin``, TargetBusy when somebody else is at work.
    """
    checks.passed(here, "rollout", "add-the-flag")
    table = here.facts["table"]
    state = rollout_steps.state(here, table)
    column = f"{table.label}.{table.rollout.column}"
    move = rollout_course.next_move(table.rollout, state, here.parameters.accept, here.run.run_id)
    if state.standing is not RolloutStanding.NEW:
        return Card("Flag", [("column", Cell(f"{column}; rollout {table.rollout.name} has begun", QUIET))])
    if here.parameters.do != "go-on" or move.move is not Move.BEGIN:
        return Card("Flag", [("column", Cell("nothing to do: no stage is let begin", QUIET))])
    here.at_work()
    with rollout_steps.at_work(here) as conn:
        subject = rollout_steps.subject(here)
        permitted = permit.of_rollout(here, subject, "add-the-flag", conn)
        here.journal("rollout-meant", name=table.rollout.name, adds=not table.has_flag)
        here.facts["table"] = execution.begin(conn, here.target, table, permitted, subject)
    here.journal("rollout-begun", name=table.rollout.name)
    was = f"{column} is there already" if table.has_flag else f"{column} {table.flag_type} NOT NULL is added"
    return Card("Flag", [("column", was), ("default", table.rollout.off), ("rows rewritten", "none")], tone=GOOD)


@heres.step
def roll_out(here: Session) -> Table:
    """Lead the rollout on as far as it goes now; or pause it, or take stages back, as ``do`` says.

    Raises Refused where a stage would change another number of rows than expected, where the metric does not hold
    before a stage, and where it has fallen: the stage was taken back then. Raises Broken for a metric without a number,
    TargetBusy when somebody else is at work, here or on this rollout.
    """
    checks.passed(here, "rollout", "roll-out")
    rollout_steps.lead(here)
    table = here.facts["table"]
    return here.keep_table("roll-out", rollout_views.outcome(table, rollout_steps.state(here, table)))


@checks.check
def who_reads_it(here: Session) -> Table:
    """Show what still uses the flag: statements that pg_stat_statements has counted, and what depends on the column."""
    here.subject = frozenset({rollout_steps.subject(here)})
    return here.keep_table("who-reads-it", rollout_views.uses(here.conn, here.facts["table"]))


@heres.step
def remove_the_flag(here: Session) -> Card:
    """Drop the column where a person has accepted ``remove``, and all rows have one value.

    Raises Refused where rows differ or the rollout is not over, Blocked where the table is not free, StatementFailed
    where something depends on the column.
    """
    checks.passed(here, "rollout", "remove-the-flag")
    table = here.facts["table"]
    state = rollout_steps.state(here, table)
    if REMOVE not in here.parameters.accept or state.standing is RolloutStanding.REMOVED:
        return Card("Flag", [("removed", Cell(rollout_views.why_not_removed(state), QUIET))])
    here.at_work()
    with rollout_steps.alone(here), rollout_steps.at_work(here) as conn:
        subject = rollout_steps.subject(here)
        permitted = permit.of_rollout(here, subject, "remove-the-flag", conn)
        here.journal("flag-removal-meant", name=table.rollout.name)
        execution.remove(conn, here.target, table, permitted, subject)
    here.journal("flag-removed", name=table.rollout.name)
    value = table.rollout.off if state.standing is RolloutStanding.ABANDONED else table.rollout.on
    again = f"ALTER TABLE {table.label} ADD COLUMN {table.rollout.column} {table.flag_type} NOT NULL DEFAULT '{value}'"
    return Card("Flag", [("removed", Cell("yes", WARN)), ("it had everywhere", value), ("back", again)], tone=WARN)


@heres.step
def verdict(here: Session) -> Banner:
    """Say what the rollout is at, and what comes next."""
    table = here.facts["table"]
    with connect(here.target, purpose=f"{here.procedure} {here.run.run_id}") as conn:
        state = rollout_steps.state(here, table, conn)
    move = rollout_course.next_move(table.rollout, state, (), "")
    rows = sum(state.rows(one.number, "on") for one in state.stages)
    changed = sum(state.rows(one.number, "changed") for one in state.stages)
    facts = [("rollout", f"{table.rollout.name}: {state.standing}"), ("rows with the flag by it", f"{rows:,}")]
    facts += [("changed by somebody else since", counted(changed, "row"))] if changed else []
    done = sum(one.state is StageStanding.DONE for one in state.stages)
    says = f"{done} of {counted(len(table.rollout.stages), 'stage')} done: {rollout_views.at(table, state, move)}."
    is_open = move.move in (Move.WAIT, Move.WATCH) or state.standing is RolloutStanding.PAUSED
    return here.verdict(says, facts, then=rollout_views.then(here, table, state, move), is_open=is_open)
