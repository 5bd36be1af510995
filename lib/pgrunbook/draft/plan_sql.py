"""The text of ``plan.sql``: a plan as a psql script, for people to read."""

from __future__ import annotations

from collections.abc import Iterator

from pgrunbook.database.connection import RESET_SESSION
from pgrunbook.plan.plan import Change, Direction, Plan, Step


def parts(plan: Plan) -> Iterator[str]:
    """Yield the parts of a plan as a psql script: the same steps under the same timeouts.

    Comments stand for the rows of schema pgrunbook and of the history table.
    """
    yield f"-- Plan {plan.digest}\n"
    yield f"-- Target {plan.target}, database {plan.base.database}, from version {plan.base.version or '(none)'}.\n"
    yield "\\set ON_ERROR_STOP on\n"
    for change in plan.changes:
        yield "\n"
        if change.secrets:
            yield "-- *** stands for a secret, which the migrations folder holds.\n"
        yield f"-- {plan.direction}: {change.migration}\n"
        for line in _psql(change, plan.direction):
            yield f"{line}\n"


def _psql(change: Change, direction: Direction) -> Iterator[str]:
    row = "inserted into" if direction == "up" else "deleted from"
    segments = change.segments()
    for number, segment in enumerate(segments, 1):
        together = segment.kind == "together"
        yield from ["BEGIN;"] if together else []
        for step in segment.steps:
            yield from [*_said(change, step), *_limits(step, "LOCAL " if together else ""), f"{step.sql};"]
        if number == len(segments):
            yield f"-- here the row of {change.migration} is {row} the history table"
        yield from ["COMMIT;"] if together else []
    yield "; ".join(RESET_SESSION) + ";  -- its settings do not reach the next migration"


def _said(change: Change, step: Step) -> list[str]:
    """Return the comments above a step: its purpose, and what pgrunbook does beside it."""
    if step.gives_rows:
        return ["-- pgrunbook reverts the captured rows, batch by batch; psql cannot:"]
    captured = ["-- pgrunbook captures the rows that this changes, in its own schema"] if _captures_rows(step) else []
    if captured and step.kind == "UPDATE":
        captured.append("-- and triggers on the table let them follow their rows, until they are reverted or purged")
    if not step.fires_triggers:
        captured.append("-- pgrunbook silences the application's triggers here, and checks the foreign keys behind it")
    if not step.form:
        return captured
    lines = [f"-- {change.where(step)}: {step.says}"]
    if step.batches is not None:
        by = ", ".join(step.batches.key) or "pages"
        lines.append(f"-- pgrunbook loops over ranges of {by}, and commits after each {step.batches.rows} rows;")
        lines.append("-- psql changes all rows at once:")
    return [*lines, *captured]


def _captures_rows(step: Step) -> bool:
    return any(keep.kind == "rows" for keep in step.keeps)


def _limits(step: Step, local: str) -> list[str]:
    return [
        f"SET {local}lock_timeout = {step.lock_timeout_ms};",
        f"SET {local}statement_timeout = {step.statement_timeout_ms};",
    ]
