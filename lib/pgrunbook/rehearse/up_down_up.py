"""Up, down and up again with the target's rows, on a database of its own; used by the rehearsal of prepare.

1. Before each migration, rows and checksums of the tables that the release touches are recorded.
2. The migration goes up by the plan and down by its way back; then rows and checksums must be equal.
3. It goes up again, as a base for the next one; then the rows must be those of the first time, but for values that
   differ each time, as the numbers of sequences do.

When a way back fails in the middle, the database is in between: the migrations after it are tried on another one.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
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
from pgrunbook.errors import StatementFailed
from pgrunbook.plan.plan import Change
from pgrunbook.plan.way_back import Frozen
from pgrunbook.record.journal import Journal
from pgrunbook.rehearse import row_equality
from pgrunbook.rehearse.branch_run import execute, journal, why
from pgrunbook.rehearse.row_equality import VolatileRelease, VolatileValues
from pgrunbook.rehearse.schema_only import Rehearsal


class WayBackTrial(Frozen):
    """The result of taking a migration back with rows; ``tables`` were compared before and after; times in ms."""

    migration: str
    proven: bool
    says: str
    up_ms: float = 0
    down_ms: float = 0
    tables: tuple[str, ...] = ()


def prove_all(
    target: Target, copy: Copy, proven: Rehearsal, tables: Sequence[str], *, most_bytes: int
) -> tuple[WayBackTrial, ...]:
    """Take each migration up, down and up again on ``copy.back``, and on further copies as long as one is left.

    ``tables`` are compared where they are there, by their names in SQL. Returns a result for each migration that has
    a way back, () where ways back are not rehearsed. Nobody may be connected to ``copy`` meanwhile.
    """
    if copy.back is None:
        return ()
    with copy.in_place(copy.back) as branch:
        found = prove(branch, proven, tables)
    while any(name not in found for name in proven.backs):
        with data_branch.with_data(target, most_bytes=most_bytes) as another:
            found |= prove(another.safe, proven, tables, tried=found)
    return tuple(found[change.migration] for change in proven.changes if change.migration in found)


def prove(
    branch: BranchTarget, proven: Rehearsal, tables: Sequence[str], *, tried: Collection[str] = ()
) -> dict[str, WayBackTrial]:
    """Take each migration up, down and up again, but up only where it was ``tried`` before.

    A doubt is one about this migration only as long as no earlier one has left a doubt in the same database; else, and
    after a way back that fails in the middle, the migrations that follow are left to another database.

    Returns the results by migration. Raises StatementFailed where the plan itself fails.
    """
    found: dict[str, WayBackTrial] = {}
    with (
        journal() as log,
        connect(branch, purpose="rehearses") as conn,
        connect(branch.as_superuser(), purpose="measures") as measure,
    ):
        for change in proven.changes:
            planned = proven.backs.get(change.migration)
            if planned is None or change.migration in tried:
                execute(branch, conn, histories.read(conn, branch), change, log)
                continue
            trial = _Trial(branch, conn, measure, log, tables).of(change, planned.change)
            is_doubted = any(not each.proven for each in found.values())
            if is_doubted and not trial.proven:
                break
            found[change.migration] = trial
            if not trial.tables:
                break
    return found


def with_proofs(changes: Sequence[Change], backs: Sequence[WayBackTrial]) -> tuple[Change, ...]:
    """Return the changes with the results of taking each back with rows; a change without a way back stays as it is."""
    seen = {back.migration: back for back in backs}
    found = []
    for change in changes:
        back, proof = seen.get(change.migration), change.proof
        if back is not None and proof.proven:
            says = f"{proof.says}; {back.says}" if back.proven else back.says
            proof = proof.model_copy(update={"proven": back.proven, "says": says})
        found.append(change.model_copy(update={"proof": proof}))
    return tuple(found)


@dataclass(frozen=True)
class _Trial:
    """One migration there and back on a branch."""

    branch: Target
    conn: Connection
    measure: Connection
    log: Journal
    tables: Sequence[str]

    def of(self, change: Change, back: Change) -> WayBackTrial:
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
        execute(self.branch, self.conn, histories.read(self.conn, self.branch), change, self.log)
        release.judge(self.measure)
        volatile = release.values(self.measure)
        up_ms, there = _since(began), self._sums(volatile)
        began = time.monotonic()
        try:
            execute(self.branch, self.conn, histories.read(self.conn, self.branch), back, self.log, direction="down")
            down_ms = _since(began)
            apart = _apart(before, self._sums(), "before")
            execute(self.branch, self.conn, histories.read(self.conn, self.branch), change, self.log, again=True)
        except StatementFailed as exc:
            says = f"it fails with the target's rows: {why(exc)}"
            return WayBackTrial(migration=change.migration, proven=False, says=says, up_ms=up_ms)
        says = "with the target's rows: equal, too"
        again: list[str] = []
        if apart:
            says = f"the rows differ after the way back: {'; '.join(apart[:5])}"
        elif again := _apart(there, self._sums(volatile), "the first time"):
            says = f"the rows differ after going up again: {'; '.join(again[:5])}"
        return WayBackTrial(
            migration=change.migration,
            proven=not apart and not again,
            says=says,
            up_ms=up_ms,
            down_ms=down_ms,
            tables=tuple(map(str, before)),
        )

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
