"""The rehearsal with the target's rows: the plain SQL and the plan on two equal databases, observed; for prepare.

1. A branch holds the target's data, twice in the end; its number of rows is compared with the target.
2. The plain SQL is executed on one database, the plan on the other, each as migrate would, with an observer
   beside it, and with traffic where it is asked for.
3. Both must end with the same rows in every table that was touched.
4. At the same time, but where there is traffic, each migration goes up, down and up again on a server of its own:
   after down the rows must be those from before it, and at the end those of the plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

from pgrunbook import history as histories
from pgrunbook.branches import data_branch, in_memory, shared_objects
from pgrunbook.branches.branch_target import BranchTarget
from pgrunbook.branches.copy_ahead import CopyAhead
from pgrunbook.branches.data_branch import Copy
from pgrunbook.branches.server import Server
from pgrunbook.config.targets import Target
from pgrunbook.database import assertions, row_counts
from pgrunbook.database.assertions import Assertion, AssertionResult
from pgrunbook.database.connection import Connection, connect
from pgrunbook.database.schema import Column, Relation, Snapshot
from pgrunbook.display import progress
from pgrunbook.display.prose import counted
from pgrunbook.draft.build import LONG_TIMEOUT_MS, up
from pgrunbook.draft.refills import as_rehearsed, has_refills
from pgrunbook.errors import Refused
from pgrunbook.history import Migration
from pgrunbook.plan.plan import Change, Estimate, Step
from pgrunbook.rehearse import branch_run, row_equality, up_down_up
from pgrunbook.rehearse.branch_run import execute
from pgrunbook.rehearse.observer import Observation, Observer
from pgrunbook.rehearse.row_equality import Equality, VolatileValues
from pgrunbook.rehearse.schema_only import Rehearsal
from pgrunbook.rehearse.traffic import Traffic, traffic
from pgrunbook.rehearse.trial import (
    MigrationEnd,
    StatementComparison,
    StatementRun,
    TableRows,
    TrafficLatency,
    Trial,
)  # fmt: skip
from pgrunbook.sql.lock_modes import blocks
from pgrunbook.undo_data.tables import SCHEMA

SLOT_MS = 50.0
WEAKER = ("AccessShareLock", "RowShareLock")  # than the lock of one who writes
SPARED = "Nothing changed in the target: this was found on a branch."


@dataclass(frozen=True)
class Ways:
    """The trial, the observations of the plan's steps, by migration and number, and what assertions found behind it."""

    trial: Trial
    steps: Mapping[tuple[str, int], Observation]
    asserted: tuple[AssertionResult, ...] = ()


@in_memory.else_on_disk
def rehearse(
    target: Target,
    migrations: Sequence[Migration],
    proven: Rehearsal,
    conn: Connection,
    *,
    most_bytes: int,
    per_second: int = 0,
    asserted: Sequence[Assertion] = (),
    check_timeout_ms: int = 0,
    ahead: CopyAhead | None = None,
) -> Ways:
    """Execute the plain SQL and the plan on a branch with the target's rows; return what both did.

    ``proven`` is the rehearsal on empty branches, ``conn`` leads to the target. ``asserted`` are tried behind the
    plan, each for ``check_timeout_ms`` at most. The branch is the one that was begun ``ahead``, if any.

    Raises Refused when no such branch may be made, when it holds fewer rows than the target, or when the rows
    differ at the end; StatementFailed for a statement that fails on these rows; Unreachable when the data
    cannot be copied.
    """
    plain = as_rehearsed(
        up(target.model_copy(update={"statement_timeout_ms": LONG_TIMEOUT_MS}), migrations), proven.changes
    )
    touched = _tables(proven)
    begun = ahead.take() if ahead else None
    with begun or data_branch.with_data(target, most_bytes=most_bytes, twin=bool(proven.backs)) as made:
        expected = _expected(proven)
        with up_down_up.proving(
            made.twin if proven.backs else None, proven, expected, waits=per_second > 0
        ) as ways_back:
            copy = made.doubled()
            with (
                progress.doing("counting rows here and there"),
                connect(copy.safe.as_superuser(), purpose="counts rows") as branch,
            ):
                beside = row_counts.compared(conn, branch, touched)
                _refuse_smaller(target, beside)
            one, other, equality = _both(copy, plain, proven, touched, per_second)
            with connect(copy.safe.as_superuser(), purpose="compares") as branch:
                written = {name: _more(branch, tables, one, other, name) for name, tables in expected.items()}
            held = _asserted(copy, asserted, check_timeout_ms) if asserted else ()
            copy.remove()
            with progress.doing("waiting for the ways back"):
                tried = ways_back() if written == expected else []  # else again, with these
    backs = up_down_up.prove_rest(target, proven, written, tried, most_bytes=most_bytes)
    trial = Trial(
        target=target.name,
        branch=copy.how,
        made_s=round(copy.made_s, 2),
        tables=tuple(TableRows(table=t, target_rows=n, branch_rows=m) for t, n, m in beside),
        statements=tuple(_statements(plain, proven.changes, one, other)),
        migrations=tuple(_ends(proven, equality.passed_over)),
        compared=equality.compared,
        ways_back=backs,
        plain_traffic=one.traffic,
        safe_traffic=other.traffic,
    )
    return Ways(trial, other.by_step(), held)


def _asserted(copy: Copy, given: Sequence[Assertion], timeout_ms: int) -> tuple[AssertionResult, ...]:
    """Run the operator's assertions where the plan was executed, in a session as the target's."""
    with progress.doing("checking assertions"), connect(copy.safe, purpose="checks") as conn:
        return tuple(assertions.check(conn, one, timeout_ms=timeout_ms) for one in given)


def _both(
    copy: Copy, plain: Sequence[Change], proven: Rehearsal, touched: Sequence[str], per_second: int
) -> tuple[_Way, _Way, Equality]:
    """Execute the plain SQL on one database and the plan on the other; return both, and the equality of their rows."""
    plain_rows, safe_rows = copy.plain.as_superuser(), copy.safe.as_superuser()
    with (
        progress.doing("reading both copies once"),
        connect(plain_rows, purpose="warms up") as a,
        connect(safe_rows, purpose="warms up") as b,
    ):
        row_counts.compared(a, b, touched)  # reads both: else the second run would find a warmer cache
    leave = _changed_columns(proven)
    loaded = [table for table in touched if table in {r.name for r in proven.end.of(Relation)}]
    with (
        shared_objects.reset_shared_objects(copy.server, copy.roles),
        copy.in_place(copy.plain) as branch,
        progress.doing("executing the SQL as it is written"),
    ):
        one = _run(copy, branch, plain, loaded, leave, per_second, as_written=True)
    volatile = _volatile_values(copy, plain, proven.changes, loaded if per_second else ())
    with shared_objects.reset_shared_objects(copy.server, copy.roles), progress.doing("executing the plan"):
        other = _run(copy, copy.safe, proven.changes, loaded, leave, per_second)
    with (
        progress.doing("comparing the rows"),
        connect(plain_rows, purpose="compares") as a,
        connect(safe_rows, purpose="compares") as b,
    ):
        written = dict.fromkeys([*one.written(), *other.written(), *_new(proven.before, proven.end)])
        equality = row_equality.compare(a, b, row_equality.named(b, written), volatile)
        behind = row_equality.sequences_behind(a, b)
    _refuse_other_rows([*equality.differences, *behind])
    return one, other, equality


def with_estimates(changes: Sequence[Change], ways: Ways) -> tuple[Change, ...]:
    """Return the changes, each step with its estimate: as measured on the branch, scaled by the rows."""
    share = {table.table: table for table in ways.trial.tables}
    found = []
    for change in changes:
        steps = []
        for step in change.steps:
            seen = ways.steps.get((change.migration, step.number))
            steps.append(step if seen is None else step.model_copy(update={"estimate": _estimate(step, seen, share)}))
        found.append(change.model_copy(update={"steps": tuple(steps)}))
    return tuple(found)


def _estimate(step: Step, seen: Observation, share: Mapping[str, TableRows]) -> Estimate:
    tables = [share[lock.object] for lock in step.locks if lock.object in share]
    largest = max(tables, key=lambda table: table.target_rows, default=None)
    scale = 1.0
    if largest is not None and largest.branch_rows and not step.quick:
        scale = max(1.0, largest.target_rows / largest.branch_rows)
    basis = (
        f"measured on {largest.branch_rows:,} of {counted(largest.target_rows, 'row')}" if largest else "measured once"
    )
    held = [lock.held_ms for lock in seen.locks if {"readers", "writers"} & set(blocks(lock.mode))]
    return Estimate(
        duration_ms=round(seen.duration_ms * scale, 1),
        lock_ms=round(max(held, default=0.0) * scale, 1),
        wal_bytes=int(seen.wal_bytes * scale),
        basis=basis,
    )


@dataclass(frozen=True)
class _Way:
    observed: tuple[Observation, ...]
    traffic: TrafficLatency | None

    def by_step(self) -> dict[tuple[str, int], Observation]:
        return {(o.migration, o.step): o for o in self.observed}

    def written(self, migration: str | None = None) -> list[str]:
        """Return the objects that were locked for writing, or more strongly, by one migration or by all."""
        observed = (o for o in self.observed if migration in (None, o.migration))
        return [lock.object for o in observed for lock in o.locks if lock.mode not in WEAKER]


def _run(
    copy: Copy,
    branch: BranchTarget,
    changes: Sequence[Change],
    tables: Sequence[str],
    leave: Mapping[str, set[str]],
    per_second: int,
    *,
    as_written: bool = False,
) -> _Way:
    with (
        branch_run.journal() as journal,
        connect(branch, purpose="rehearses") as conn,
        Observer(branch.as_superuser(), conn) as observer,
        _traffic(copy.server, branch, tables, leave, per_second, observer.began) as measured,
    ):
        for change in changes:
            execute(
                branch, conn, histories.read(conn, branch), change, journal, observer,
                as_written=as_written, haste=None if per_second else observer.haste,
            )  # fmt: skip
    return _Way(observer.results, _latency(measured, per_second) if measured is not None else None)


def _volatile_values(
    copy: Copy, plain: Sequence[Change], changes: Sequence[Change], loaded: Sequence[str]
) -> VolatileValues:
    """Judge between the two runs: one database has the whole release applied, the other nothing of it yet."""
    written = [c.statements[step.statement - 1].sql for c in plain for step in c.steps]  # one of each run
    differs = [each for c in changes for s in c.statements for each in s.differs]
    safe, plain_ = copy.safe.as_superuser(), copy.plain.as_superuser()
    with connect(safe, purpose="judges") as before, connect(plain_, purpose="judges") as after:
        return row_equality.volatile_values(written, differs, before, after, updated=loaded)


@contextmanager
def _traffic(
    server: Server, branch: Target, tables: Sequence[str], leave: Mapping[str, set[str]], per_second: int, began: float
) -> Iterator[Traffic | None]:
    if not per_second or not tables:
        yield None
        return
    with traffic(server, branch, tables, per_second=per_second, leave_columns=leave, began=began) as measured:
        yield measured


def _latency(measured: Traffic, per_second: int) -> TrafficLatency:
    ordered = sorted(latency.ms for latency in measured.latencies)
    slots: dict[int, float] = {}
    for latency in measured.latencies:
        slot = int(latency.at_ms // SLOT_MS)
        slots[slot] = max(slots.get(slot, 0.0), latency.ms)
    return TrafficLatency(
        per_second=per_second,
        transactions=measured.transactions,
        worst_ms=round(ordered[-1], 1) if ordered else 0.0,
        p99_ms=round(ordered[int(len(ordered) * 0.99)], 1) if ordered else 0.0,
        failed=measured.failed,
        slots=tuple((slot * SLOT_MS, round(worst, 2)) for slot, worst in sorted(slots.items())),
    )


def _statements(
    plain: Sequence[Change], changes: Sequence[Change], one: _Way, other: _Way
) -> Iterator[StatementComparison]:
    ran, planned = one.by_step(), other.by_step()
    numbers = {(change.migration, step.statement): step.number for change in plain for step in change.steps}
    for change in changes:
        for _, statement in change.shown():
            number = numbers.get((change.migration, statement.number), 0)
            mine = [planned.get((change.migration, s.number)) for s in change.of_statement(statement.number)]
            yield StatementComparison(
                migration=change.migration,
                statement=statement.number,
                file=statement.file,
                line=statement.line,
                sql=statement.sql,
                form=statement.form,
                plain=None if has_refills(change) else _joined([ran.get((change.migration, number))]),
                safe=_joined(mine),
            )


def _joined(seen: Sequence[Observation | None]) -> StatementRun | None:
    """Return the effects of the steps of a statement together; None where none of them was observed."""
    there = [o for o in seen if o is not None]
    if not there:
        return None
    rows = [o.rows for o in there if o.rows is not None]
    first, last = there[0], there[-1]
    return StatementRun(
        started_ms=round(first.started_ms, 1),
        duration_ms=round(last.started_ms + last.duration_ms - first.started_ms, 1),
        rows=max(rows) if rows else None,
        wal_bytes=sum(o.wal_bytes for o in there),
        dead_rows=sum(o.dead_rows for o in there),
        rewrites=tuple(dict.fromkeys(name for o in there for name in o.rewrites)),
        locks=tuple(lock for o in there for lock in o.locks),
    )


def _ends(proven: Rehearsal, passed_over: Sequence[str]) -> Iterator[MigrationEnd]:
    """Yield the end of each migration; other differences were refused before, so that all are equivalent."""
    for change, changed in zip(proven.changes, proven.schema_changes(), strict=True):
        by_form = [declared.why for statement in change.statements for declared in statement.differs]
        yield MigrationEnd(
            migration=change.migration,
            schema_changes=tuple(difference.line() for difference in changed),
            equivalent=True,
            differences=(),
            declared=(*by_form, *passed_over),
        )


def _tables(proven: Rehearsal) -> list[str]:
    """Return the tables that were there before and that the plan locks, by their names in SQL."""
    tables = {r.name for r in proven.before.of(Relation) if r.kind in ("table", "partitioned table", "partition")}
    locked = dict.fromkeys(lock.object for c in proven.changes for s in c.steps for lock in s.locks)
    return [name for name in locked if name in tables]


def _expected(proven: Rehearsal) -> dict[str, list[str]]:
    """Return the tables that each migration makes, or that it or a way back of it locks for writing, without rows."""
    found = {}
    for change, (before, after) in zip(proven.changes, pairwise([proven.before, *proven.after]), strict=True):
        backs = (back.change for back in proven.backs.get(change.migration, {}).values())
        steps = [step for each in (change, *backs) for step in each.steps]
        locked = [lock.object for step in steps for lock in step.locks if lock.mode not in WEAKER]
        ours = {name for name in locked if name.startswith(f"{SCHEMA}.")}
        names = dict.fromkeys([*locked, *_new(before, after)])
        found[change.migration] = [name for name in names if name not in ours]
    return found


def _more(branch: Connection, expected: list[str], one: _Way, other: _Way, migration: str) -> list[str]:
    """Return the tables that a migration was expected to write, and others that it has written with rows."""
    written = row_equality.named(branch, [*one.written(migration), *other.written(migration)])
    others = {*written} - {*row_equality.named(branch, expected)}
    return [*expected, *map(str, others)]


def _new(one: Snapshot, other: Snapshot) -> list[str]:
    """Return the relations that only the other schema has."""
    before = {r.name for r in one.of(Relation)}
    return [r.name for r in other.of(Relation) if r.name not in before]


def _changed_columns(proven: Rehearsal) -> dict[str, set[str]]:
    """Return the columns that the plan adds, drops, renames or retypes: the traffic does not use them."""
    before, after = _columns(proven.before), _columns(proven.end)
    return {table: {name for name, _ in before[table] ^ after.get(table, set())} for table in before}


def _columns(snapshot: Snapshot) -> dict[str, set[tuple[str, str]]]:
    found: dict[str, set[tuple[str, str]]] = {}
    for column in snapshot.of(Column):
        found.setdefault(column.relation, set()).add((column.column_name, column.type))
    return found


def _refuse_smaller(target: Target, beside: Sequence[row_counts.RowCounts]) -> None:
    short = [b for b in beside if b.falls_short]
    if short:
        raise Refused(
            f'the branch holds fewer rows than target "{target.name}"',
            detail="; ".join(f"{b.table}: {b.branch_rows:,} of {b.target_rows:,}" for b in short),
            state=SPARED,
            hint="Find out who deletes rows meanwhile, or prepare with with_data = False.",
        )


def _refuse_other_rows(differences: Sequence[str]) -> None:
    if differences:
        raise Refused(
            "the safe plan ends with other rows than the plain SQL",
            detail="; ".join(differences[:8]),
            state=SPARED,
            hint="Switch the safe form off for the statement (safe_forms_off), and report this.",
        )
