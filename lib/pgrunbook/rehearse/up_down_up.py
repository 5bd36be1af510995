"""Up, down and up again with the target's rows, on a database of its own; used by the rehearsal of prepare.

1. Before each migration, rows and checksums of the tables that the release touches are recorded.
2. The migration goes up by the plan and down by its way back; then rows and checksums must be equal.
3. It goes up again, as a base for the next one; then the rows must be those of the first time, but for values that
   differ each time, as the numbers of sequences do.

When a way back fails in the middle, the database is in between: the migrations after it are tried on another one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from pgrunbook import history as histories
from pgrunbook.branches import data_branch
from pgrunbook.branches.branch_target import BranchTarget
from pgrunbook.branches.data_branch import Copy
from pgrunbook.config.targets import Target
from pgrunbook.database import checksums
from pgrunbook.database.checksums import TableName, TableSum
from pgrunbook.database.connection import Connection, connect
from pgrunbook.display.prose import counted
from pgrunbook.draft.down import DownDraft
from pgrunbook.errors import StatementFailed
from pgrunbook.plan.declared import Declared
from pgrunbook.plan.plan import Change, Direction, WayBack
from pgrunbook.plan.way_back import Frozen, Proof
from pgrunbook.record.journal import Journal
from pgrunbook.rehearse import row_equality
from pgrunbook.rehearse.branch_run import execute, journal, why
from pgrunbook.rehearse.row_equality import VolatileRelease, VolatileValues
from pgrunbook.rehearse.schema_only import Rehearsal, equal_schema, not_led_back


class WayBackTrial(Frozen):
    """The result of taking a migration back with rows; ``tables`` were compared before and after; times in ms."""

    migration: str
    how: WayBack
    proven: bool
    says: str
    up_ms: float = 0
    down_ms: float = 0
    tables: tuple[str, ...] = ()
    differs: tuple[Declared, ...] = ()


def prove_all(
    target: Target, copy: Copy, proven: Rehearsal, tables: Sequence[str], *, most_bytes: int
) -> tuple[WayBackTrial, ...]:
    """Take each migration up, down and up again on ``copy.back``, and on further copies as long as one is left.

    ``tables`` are compared where they are there, by their names in SQL. Returns a result for each way back that was
    tried, until one leads back, () where ways back are not rehearsed. Nobody may be connected to ``copy`` meanwhile.
    """
    if copy.back is None:
        return ()
    with copy.in_place(copy.back) as branch:
        found = prove(branch, proven, tables)
    while any(_next(proven, change, found) for change in proven.changes):
        with data_branch.with_data(target, most_bytes=most_bytes) as another:
            found += prove(another.safe, proven, tables, tried=found)
    order = [change.migration for change in proven.changes]
    return tuple(sorted(found, key=lambda trial: order.index(trial.migration)))


def prove(
    branch: BranchTarget, proven: Rehearsal, tables: Sequence[str], *, tried: Sequence[WayBackTrial] = ()
) -> list[WayBackTrial]:
    """Take each migration up, down and up again by the first of its ways that was not ``tried``, or up only.

    A doubt is one about this migration only as long as no earlier one has left a doubt in the same database; else, and
    after a way back that fails in the middle, the migrations that follow are left to another database.

    Returns the results. Raises StatementFailed where the plan itself fails.
    """
    found: list[WayBackTrial] = []
    with (
        journal() as log,
        connect(branch, purpose="rehearses") as conn,
        connect(branch.as_superuser(), purpose="measures") as measure,
    ):
        for change in proven.changes:
            how = _next(proven, change, tried)
            if how is None:
                execute(branch, conn, histories.read(conn, branch), change, log, hastens=True)
                continue
            trial = _Trial(branch, conn, measure, log, tables).of(change, how, proven.backs[change.migration][how])
            is_doubted = any(not each.proven for each in found)
            if is_doubted and not trial.proven:
                break
            found.append(trial)
            if not trial.tables:
                break
    return found


def _next(proven: Rehearsal, change: Change, tried: Sequence[WayBackTrial]) -> WayBack | None:
    """Return the way back of a migration that is to be tried next, None where one leads back or none is left."""
    seen = {trial.how: trial.proven for trial in tried if trial.migration == change.migration}
    left = (how for how in proven.backs.get(change.migration, ()) if how not in seen)
    return None if any(seen.values()) else next(left, None)


def with_proofs(changes: Sequence[Change], backs: Sequence[WayBackTrial]) -> tuple[Change, ...]:
    """Return the changes with the results of taking each back with rows; a change without a way back stays as it is."""
    found = []
    for change in changes:
        trials = [trial for trial in backs if trial.migration == change.migration]
        found.append(_with_proof(change, trials) if trials and change.proof.proven else change)
    return tuple(found)


def _with_proof(change: Change, trials: Sequence[WayBackTrial]) -> Change:
    """Return a change with the first of its ways back that leads back with rows, else with what each ends in."""
    best = next((trial for trial in trials if trial.proven), None)
    if best is None:
        says = "; ".join(f"{trial.how}: {trial.says}" if len(trials) > 1 else trial.says for trial in trials)
        return change.to_go_back(change.way_back, change.proof.model_copy(update={"proven": False, "says": says}))
    others = tuple(not_led_back(trial.how, trial.says) for trial in trials if trial is not best)
    says = f"{equal_schema(best.how)}; {best.says}"
    proof = Proof(proven=True, says=says, differs=best.differs, others=(*change.proof.others, *others))
    return change.to_go_back(best.how, proof)


@dataclass(frozen=True)
class _Trial:
    """One migration there and back on a branch."""

    branch: Target
    conn: Connection
    measure: Connection
    log: Journal
    tables: Sequence[str]

    def of(self, change: Change, how: WayBack, back: DownDraft) -> WayBackTrial:
        """Take a migration up, down and up again, and compare the rows on the way."""
        ran = {step.statement for step in change.steps}  # of a run of INSERTs, the first stands for all
        release = VolatileRelease(
            [one.sql for one in change.statements if one.number in ran or one.kind != "INSERT"],
            [declared for one in change.statements for declared in one.differs],
            numbers=True,
        )
        release.judge(self.measure)
        before = self._sums()
        began = time.monotonic()
        self._execute(change)
        release.judge(self.measure)
        volatile = release.values(self.measure)
        up_ms, there = _since(began), self._sums(volatile)
        began = time.monotonic()
        try:
            self._execute(back.change, direction="down")
            down_ms = _since(began)
            apart = _apart(before, self._sums(), "before")
            self._execute(change, again=True)
        except StatementFailed as exc:
            says = f"it fails with the target's rows: {why(exc)}"
            return WayBackTrial(migration=change.migration, how=how, proven=False, says=says, up_ms=up_ms)
        says = "with the target's rows: equal, too"
        again: list[str] = []
        if apart:
            says = f"the rows differ after the way back: {'; '.join(apart[:5])}"
        elif again := _apart(there, self._sums(volatile), "the first time"):
            says = f"the rows differ after going up again: {'; '.join(again[:5])}"
        return WayBackTrial(
            migration=change.migration,
            how=how,
            proven=not apart and not again,
            says=says,
            up_ms=up_ms,
            down_ms=down_ms,
            tables=tuple(map(str, before)),
            differs=back.differs,
        )

    def _execute(self, change: Change, *, direction: Direction = "up", again: bool = False) -> None:
        history = histories.read(self.conn, self.branch)
        execute(self.branch, self.conn, history, change, self.log, direction=direction, again=again, hastens=True)

    def _sums(self, volatile: VolatileValues | None = None) -> dict[TableName, TableSum]:
        """Return the sums of the tables that are there; of those with unknown volatile columns, rows are counted."""
        tables = row_equality.named(self.measure, self.tables)
        left_out = {table: volatile.of(table) for table in tables} if volatile else {}
        without = {table: columns for table, columns in left_out.items() if columns}
        sums = checksums.checksums(self.measure, tables, without=without)
        counted_only = [table for table, columns in left_out.items() if columns is None]
        return sums | {table: TableSum(sums[table].rows, "") for table in counted_only}


def _apart(before: dict[TableName, TableSum], after: dict[TableName, TableSum], when: str) -> list[str]:
    found = []
    for table, was in before.items():
        now, name = after.get(table, TableSum(0, "")), f"{table.schema}.{table.name}"
        if was.rows != now.rows:
            found.append(f"{name}: {counted(was.rows, 'row')} {when}, {now.rows:,} after")
        elif was != now:
            found.append(f"{name}: as many rows, with other values")
    return found


def _since(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 1)
