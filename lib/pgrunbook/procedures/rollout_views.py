"""How notebook rollout shows a rollout: its stages, what became of their rows, and who uses the flag."""

from __future__ import annotations

from pgrunbook.database.connection import Connection
from pgrunbook.display.show import BAD, GOOD, QUIET, WARN, Cell, Table
from pgrunbook.online import rollout
from pgrunbook.online.rollout_course import Move, NextMove
from pgrunbook.online.rollout_state import BegunStage, RolloutStanding, RolloutState, StageStanding
from pgrunbook.online.rollout_table import RolloutTable
from pgrunbook.plan.rollout import REMOVE, RolloutStage
from pgrunbook.procedures import column_uses
from pgrunbook.session.session import Session

TONES = {
    StageStanding.WRITING: WARN, StageStanding.HELD: WARN, StageStanding.DONE: GOOD,
    StageStanding.GOING_BACK: BAD, StageStanding.BACK: BAD,
}  # fmt: skip


def stages(conn: Connection, table: RolloutTable, state: RolloutState) -> Table:
    """Return one row for each stage: who, the rows it would change, what it waits for and what it is at."""
    headings = ["", "stage", "who", "rows in it", "would change", "expected", "metric", "hold", "goes by", "is"]
    rows = [_stage(conn, table, state, number) for number in range(1, len(table.rollout.stages) + 1)]
    return Table(headings, rows)


def _stage(conn: Connection, table: RolloutTable, state: RolloutState, number: int) -> tuple[object, ...]:
    stage, begun = table.rollout.stages[number - 1], state.stage(number)
    found = rollout.count(conn, table, stage)
    metric = table.rollout.metric_of(stage)
    is_due = begun is None or begun.state is StageStanding.BACK
    why = found.verdict(stage) if is_due else ""
    told = [(found.has, "have the flag already"), (found.decided, "lost it by somebody: left"),
            (found.other, "have another value: left")]  # fmt: skip
    under = "\n".join(f"{rows:,} {what}" for rows, what in told if rows)
    return (
        number,
        stage.name,
        stage.who,
        Cell(f"{found.rows:,}", under=under),
        Cell(f"{found.due:,}", BAD if why else WARN if found.due else QUIET, under=why),
        _expected(stage),
        "none" if metric is None else Cell(metric.bounds, under=metric.query),
        f"{stage.hold_s:,.0f} s" if stage.hold_s else "none",
        stage.go,
        _is(begun),
    )


def outcome(table: RolloutTable, state: RolloutState) -> Table:
    """Return one row for each stage that has begun: when, the metric before and now, and what became of its rows."""
    headings = ["", "stage", "began", "held for s", "metric before", "metric now", "looks", "have the flag",
                "taken back", "changed by others", "deleted", "is", "by"]  # fmt: skip
    rows = [
        (
            one.number,
            one.name,
            f"{one.began_at:%Y-%m-%d %H:%M:%S%z}",
            "" if one.held_s is None or one.state is not StageStanding.HELD else f"{one.held_s:,.0f}",
            _number(one.metric_before),
            _number(one.metric_now),
            one.looks or "",
            f"{state.rows(one.number, 'on') or one.rows:,}" if one.state is not StageStanding.BACK else "0",
            *(_count(state.rows(one.number, kind)) for kind in ("back", "changed", "gone")),
            _is(one),
            one.changed_by,
        )
        for one in state.stages
    ]
    return Table(
        headings, rows, empty=f"No stage has begun: accept the first, -p accept={table.rollout.stages[0].name}"
    )


def uses(conn: Connection, table: RolloutTable) -> Table:
    """Return the statements that pg_stat_statements has counted and that use the flag, and what depends on it.

    ``SELECT *`` uses every column. What was forgotten for want of room, and what is not said here, may use it too.
    """
    headings = ["what", "uses it", "calls"]
    if not table.has_flag:
        return Table(headings, [], empty="The column is not there.")
    return Table(headings, column_uses.uses(conn, table.identifier, table.rollout.column))


def why_not_removed(state: RolloutState) -> str:
    """Return why the flag stays, as a phrase."""
    if state.standing is RolloutStanding.REMOVED:
        return "it was removed before"
    return f"no: nobody accepts {REMOVE} in this run"


def at(table: RolloutTable, state: RolloutState, move: NextMove) -> str:
    """Return what the rollout is at, as a phrase."""
    if state.standing in (RolloutStanding.PAUSED, RolloutStanding.ABANDONED, RolloutStanding.REMOVED):
        words = {RolloutStanding.REMOVED: "the flag is removed"}
        return words.get(state.standing, f"it is {state.standing}")
    if move.move is Move.REST:
        return "every stage is done, and the flag is there still"
    stage, begun = table.rollout.stages[move.stage - 1], state.stage(move.stage)
    if move.move is Move.WATCH and begun is not None:
        left_s = max(0.0, stage.hold_s - (begun.held_s or 0.0))
        return f"stage {stage.name} is held for {left_s:,.0f} s more"
    if move.move is Move.WAIT:
        return f"stage {stage.name} waits for a person"
    return f"stage {stage.name} is {begun.state}" if begun is not None else f"stage {stage.name} comes next"


def then(here: Session, table: RolloutTable, state: RolloutState, move: NextMove) -> str:
    """Return what to type next."""
    command = f"pgrunbook run rollout --target {here.target.name} -p name={table.rollout.name}"
    if state.standing is RolloutStanding.REMOVED:
        return "take the flag out of the application's schema files"
    if state.standing is RolloutStanding.PAUSED:
        return f"{command} -p do=resume"
    if move.move is Move.WAIT:
        return f"{command} -p accept={table.rollout.stages[move.stage - 1].name}"
    is_over = state.standing is RolloutStanding.ABANDONED or move.move is Move.REST
    return f"{command} -p accept={REMOVE}" if is_over else command


def _expected(stage: RolloutStage) -> str:
    if stage.expected is None:
        return "any"
    low, high = stage.expected
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _is(begun: BegunStage | None) -> Cell:
    if begun is None:
        return Cell("not begun", QUIET)
    return Cell(str(begun.state), TONES[begun.state], under=begun.why)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _count(rows: int) -> Cell:
    return Cell(f"{rows:,}", WARN if rows else QUIET)
