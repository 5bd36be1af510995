"""How a plan is shown: what is executed in each statement's place, its gates, and its card; prepare and migrate."""

from __future__ import annotations

from collections.abc import Sequence

from pgrunbook.changes.plan import Change, Plan, Written
from pgrunbook.record.show import BAD, GOOD, QUIET, WARN, Card, Cell, Table
from pgrunbook.target import Target


def statements(changes: Sequence[Change], *, title: str = "") -> Table:
    """Return one row per written statement: what is executed for it, in how many transactions, why, and its gate."""
    rows = [
        (
            change.migration,
            statement.number,
            Cell(statement.kind, under=statement.sql),
            _executed(change, statement),
            statement.explains,
            "; ".join(statement.differs) or "nothing",
            Cell(statement.gate.id, WARN, under=f"{statement.gate.says}.\n{statement.gate.how}", fold="gate")
            if statement.gate
            else Cell("none", QUIET),
        )
        for change in changes
        for statement in change.statements
    ]
    headings = ["migration", "statement", "as it is written", "is executed as", "because", "differs by nature", "gate"]
    return Table(headings, rows, title=title, empty="Nothing is pending.")


def plan(plan: Plan, target: Target) -> Card:
    """Return the card of a frozen plan: its digest, what it holds, and every gate with whether it is accepted."""
    steps = plan.steps()
    locked = f"lock {target.lock_timeout_ms} ms, after {target.lock_patience_ms / 1000:g} s of looking"
    own = sum(len(change.segments()) for change in plan.changes)
    facts: list[tuple[str, object]] = [
        ("digest", plan.digest),
        ("from version", plan.base.version or "(none)"),
        ("migrations", len(plan.changes)),
        ("steps", f"{len(steps)}, of them {sum(bool(s.form) for _, s in steps)} of safe forms"),
        ("transactions", own),
        ("timeouts", f"{locked}; statement {target.statement_timeout_ms} ms"),
        ("rehearsed", Cell(plan.rehearsed, WARN if plan.unproven and plan.changes else GOOD)),
        ("files", "plan.json, plan.sql"),
    ]
    for gate in plan.gates():
        accepted = gate.key in plan.accepted
        says = f"{gate.gate.id}: {gate.gate.says}. Instead: {gate.gate.procedure}. {gate.gate.how}"
        said = "accepted" if accepted else "NOT ACCEPTED"
        facts.append((f"gate {gate.key}", Cell(f"{said}: {says}", WARN if accepted else BAD)))
    return Card("Plan", facts, tone=BAD if plan.open_gates() else GOOD)


def _executed(change: Change, statement: Written) -> Cell:
    steps = change.of_statement(statement.number)
    if statement.off:
        return Cell("as it is written (switched off)", WARN)
    if not statement.form:
        return Cell("as it is written" if steps else "together with the one before", QUIET)
    told = "\n\n".join(f"-- {step.says}\n{step.sql};" for step in steps)
    return Cell(f"{statement.form}, {len(steps)} {'step' if len(steps) == 1 else 'steps'}", GOOD, under=told)
