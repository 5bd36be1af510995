"""The views of a plan: what is executed for each statement, its gates, and its card; prepare and migrate."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from pgrunbook.config.targets import Target
from pgrunbook.display.lock_chart import NOTICED_MS, Blocks, Lane, Lanes, LockBar
from pgrunbook.display.prose import counted, listed
from pgrunbook.display.show import BAD, GOOD, QUIET, WARN, Card, Cell, Table
from pgrunbook.plan.plan import Change, Plan, Step, WrittenStatement
from pgrunbook.record import door
from pgrunbook.rehearse.observer import HeldLock
from pgrunbook.rehearse.schema_only import Rehearsal
from pgrunbook.rehearse.trial import StatementComparison, StatementRun, Trial
from pgrunbook.review.review import Finding
from pgrunbook.sql import secrets
from pgrunbook.sql.lock_modes import blocks


def statements(changes: Sequence[Change], *, title: str = "") -> Table:
    """Return one row per written statement, or run of them: what is executed in how many transactions, its gate."""
    rows = [
        (
            change.migration,
            numbers,
            Cell(statement.kind, under=secrets.beginning(statement.sql)),
            _executed(change, statement),
            statement.explains,
            "; ".join(one.why for one in statement.differs) or "nothing",
            Cell(statement.gate.id, WARN, under=f"{statement.gate.says}.\n{statement.gate.how}", fold="gate")
            if statement.gate
            else Cell("none", QUIET),
        )
        for change in changes
        for numbers, statement in change.shown()
    ]
    headings = ["migration", "statement", "as it is written", "is executed as", "because", "differs by nature", "gate"]
    return Table(headings, rows, title=title, empty="Nothing is pending.")


def schema_changes(done: Rehearsal) -> Table:
    """Return one row per migration: how many objects of the schema change, and folded which ones and how."""
    rows = [
        (change.migration, Cell(counted(len(found), "object"), under="\n".join(d.line() for d in found), fold="which"))
        for change, found in zip(done.changes, done.schema_changes(), strict=True)
    ]
    return Table(["migration", "changes in the schema"], rows, empty="Nothing is pending.")


def plan(plan: Plan, target: Target, left: Collection[str]) -> Card:
    """Return the card of a frozen plan: its digest, what it holds, and every gate; ``left`` are not accepted."""
    steps = plan.steps()
    locked = f"lock {target.lock_timeout_ms} ms, after {target.lock_patience_ms / 1000:g} s of waiting for blockers"
    own = sum(len(change.segments()) for change in plan.changes)
    facts: list[tuple[str, object]] = [
        ("digest", plan.digest),
        ("from version", plan.base.version or "(none)"),
        ("migrations", len(plan.changes)),
        ("steps", f"{len(steps)}, of them {sum(bool(s.form) for _, s in steps)} of safe forms"),
        ("transactions", f"{own}" + (", and one for each batch" if any(s.batches for _, s in steps) else "")),
        ("timeouts", f"{locked}; {_statement_timeouts(plan, target)}"),
        ("rehearsed", Cell(plan.rehearsed, WARN if plan.unproven and plan.changes else GOOD)),
        ("files", "plan.json, plan.sql"),
    ]
    for gate in plan.gates():
        accepted = gate.key not in left
        says = f"{gate.gate.id}: {gate.gate.says}. Instead: {gate.gate.procedure}. {gate.gate.how}"
        said = "accepted" if accepted else "NOT ACCEPTED"
        facts.append((f"gate {gate.key}", Cell(f"{said}: {says}", WARN if accepted else BAD)))
    return Card("Plan", facts, tone=BAD if left else GOOD)


def _statement_timeouts(plan: Plan, target: Target) -> str:
    """Say which statement_timeout holds for which step: statement_timeout_ms is not that of long builds."""
    steps: dict[int, list[str]] = {}
    for change, step in plan.steps():
        steps.setdefault(step.statement_timeout_ms, []).append(f"{change.migration} {step.number}")
    usual = f"statement {target.statement_timeout_ms} ms"
    long = [
        f"{timeout_ms} ms for what takes long (step {listed(names)})"
        for timeout_ms, names in steps.items()
        if timeout_ms != target.statement_timeout_ms
    ]
    batches = [f"{change.migration} {step.number}" for change, step in plan.steps() if step.is_loop]
    each = [f"for each batch of a loop anew (step {listed(batches)})"] if batches else []
    return ", ".join([usual, *long, *each])


def _short(sql: str) -> str:
    return " ".join(door.masked(secrets.beginning(sql)).split())[:60]


def picture(trial: Trial) -> Lanes:
    """Return the picture of a rehearsal: a lane per statement, plain above safe."""
    lanes = [
        Lane(
            f"{seen.migration.partition('_')[0]}.{seen.statement} {_short(seen.sql)}",
            _bars(seen.plain),
            _bars(seen.safe),
            _span(seen.plain),
            _span(seen.safe),
        )
        for seen in trial.statements
    ]
    ways = {"plain": trial.plain_traffic, "safe": trial.safe_traffic}
    felt = {name: list(traffic.slots) for name, traffic in ways.items() if traffic is not None}
    return Lanes("Locks held, as it is written and by the plan", lanes, felt)


def observed(trial: Trial) -> Table:
    """Return one row per written statement: how long it blocked others, and what it cost, plain and by the plan."""
    rows = [
        (
            seen.migration,
            seen.statement,
            Cell(seen.form or "as it is written", under=secrets.beginning(seen.sql)),
            _locked_out(seen.plain),
            _locked_out(seen.safe),
            *(f"{plain} | {safe}" for plain, safe in zip(_cost(seen.plain), _cost(seen.safe), strict=True)),
            _rewrites(seen),
        )
        for seen in trial.statements
    ]
    headings = ["migration", "statement", "executed as", "locks out, plain", "locks out, plan"]
    headings += ["ms, plain | plan", "rows", "WAL kB", "rewrites"]
    return Table(headings, rows, empty="Nothing was rehearsed.")


def longest_ms(run: StatementRun | None, who: str) -> float:
    """Return the longest time without a break that a statement held a lock that blocks readers, or writers."""
    held = [lock.held_ms for lock in run.locks if who in blocks(lock.mode)] if run else []
    return max(held, default=0.0)


def _bars(run: StatementRun | None) -> list[LockBar]:
    bars = []
    for lock in run.locks if run else ():
        if lock.waited_ms:
            waited = f"{lock.object} {lock.mode}, waited {lock.waited_ms:.0f} ms"
            bars.append(LockBar(lock.from_ms - lock.waited_ms, lock.from_ms, "waiting", waited))
        held = f"{lock.object} {lock.mode}, held {lock.held_ms:.0f} ms"
        bars.append(LockBar(lock.from_ms, lock.to_ms, _whom(lock), held))
    return [bar for bar in bars if bar.blocks != "nobody"] or bars


def _whom(lock: HeldLock) -> Blocks:
    kept = blocks(lock.mode)
    return "readers" if "readers" in kept else "writers" if "writers" in kept else "nobody"


def _span(run: StatementRun | None) -> tuple[float, float] | None:
    return None if run is None else (run.started_ms, run.started_ms + run.duration_ms)


def _locked_out(run: StatementRun | None) -> Cell:
    if run is None:
        return Cell("not run by itself", QUIET)
    under = "\n".join(f"{o.object} {o.mode} held {o.held_ms:.1f} ms, waited {o.waited_ms:.1f} ms" for o in run.locks)
    for who, tone in (("readers", BAD), ("writers", WARN)):
        held_ms = longest_ms(run, who)
        if held_ms:
            felt = tone if held_ms >= NOTICED_MS else QUIET
            return Cell(f"{who} {held_ms:,.0f} ms", felt, under=under, fold="locks")
    return Cell("nobody", GOOD, under=under, fold="locks")


def _cost(run: StatementRun | None) -> tuple[str, str, str]:
    if run is None:
        return ("-", "-", "-")
    return (f"{run.duration_ms:,.0f}", "-" if run.rows is None else f"{run.rows:,}", f"{run.wal_bytes / 1024:,.0f}")


def _rewrites(seen: StatementComparison) -> Cell:
    plain, safe = (run.rewrites if run else () for run in (seen.plain, seen.safe))
    under = f"plain: {', '.join(plain) or 'nothing'}\nplan: {', '.join(safe) or 'nothing'}"
    return Cell(f"{len(plain)} | {len(safe)}", WARN if safe else QUIET, under=under, fold="which")


def _executed(change: Change, statement: WrittenStatement) -> Cell:
    steps = change.of_statement(statement.number)
    if statement.off:
        return Cell("as it is written (switched off)", WARN)
    if not statement.form:
        return Cell("as it is written" if steps else "together with the one before", QUIET)
    return Cell(f"{statement.form}, {counted(len(steps), 'step')}", GOOD, under=executed_as(steps))


def executed_as(steps: Iterable[Step]) -> str:
    """Return what steps do, and their SQL."""
    return secrets.beginning("\n\n".join(f"-- {step.says}\n{step.sql};" for step in steps))


def locked(finding: Finding) -> Cell:
    """Return whom the statement blocks while it runs, object by object."""
    blocked = [f"{lock.object}: {', '.join(lock.blocks)}" for lock in finding.effects.locks if "writers" in lock.blocks]
    modes = "\n".join(f"{lock.object} {lock.mode}" for lock in finding.effects.locks)
    readers = any("readers" in lock.blocks for lock in finding.effects.locks)
    tone = BAD if readers else WARN if blocked else QUIET
    return Cell("; ".join(blocked) or "nobody", tone, under=modes, fold="modes")


def hazards(finding: Finding) -> Cell:
    """Return the hazards by name, the worst first; folded below: the effect of each and the way out."""
    worst_first = sorted(finding.hazards, key=lambda hazard: -hazard.severity.rank)
    if not worst_first:
        return Cell("none known", QUIET)
    under = "\n\n".join(f"{h.severity} {h.id}: {h.effect}\n{h.way_out}" for h in worst_first)
    tone = BAD if worst_first[0].severity.value == "error" else WARN
    return Cell(", ".join(dict.fromkeys(h.id for h in worst_first)), tone, under=under, fold="way out")
