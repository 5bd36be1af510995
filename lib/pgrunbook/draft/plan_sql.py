"""The text of ``plan.sql``: a plan as a psql script, for people to read."""

from __future__ import annotations

from pgrunbook.database.connection import RESET_SESSION
from pgrunbook.plan.plan import Change, Direction, Plan, Step


def text(plan: Plan) -> str:
    """Return a plan as a psql script: the same steps under the same timeouts.

    Comments stand for the rows of schema pgrunbook and of the history table.
    """
    lines = [
        f"-- Plan {plan.digest}",
        f"-- Target {plan.target}, database {plan.base.database}, from version {plan.base.version or '(none)'}.",
        "\\set ON_ERROR_STOP on",
        "",
    ]
    for change in plan.changes:
        lines += ["-- *** stands for a secret, which the migrations folder holds."] if change.secrets else []
        lines += [f"-- {plan.direction}: {change.migration}", *_psql(change, plan.direction), ""]
    return "\n".join(lines)


def _psql(change: Change, direction: Direction) -> list[str]:
    lines: list[str] = []
    row = "inserted into" if direction == "up" else "deleted from"
    segments = change.segments()
    for number, segment in enumerate(segments, 1):
        together = segment.kind == "together"
        lines += ["BEGIN;"] if together else []
        for step in segment.steps:
            lines += [*_said(change, step), *_limits(step, "LOCAL " if together else ""), f"{step.sql};"]
        if number == len(segments):
            lines.append(f"-- here the row of {change.migration} is {row} the history table")
        lines += ["COMMIT;"] if together else []
    end = "; ".join(RESET_SESSION) + ";  -- its settings do not reach the next migration"
    return [*lines, end]


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
