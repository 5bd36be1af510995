"""Up, down and up again with the target's rows, on a database of its own; used by the rehearsal of prepare.

1. Before each migration, rows and checksums of the tables that the release touches are recorded.
2. The migration goes up by the plan and down by its way back; then rows and checksums must be equal.
3. It goes up again, as a base for the next one. After the last one, the rows are compared with those of the plan.

When a way back fails in the middle, the database is in between: the migrations after it are not tried.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from pgrunbook import history as histories
from pgrunbook.branches.branch_target import BranchTarget
from pgrunbook.branches.data_branch import Copy
from pgrunbook.config.targets import Target
from pgrunbook.database import checksums
from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import Connection, connect
from pgrunbook.display.prose import counted
from pgrunbook.errors import StatementFailed
from pgrunbook.plan.plan import Change
from pgrunbook.plan.way_back import Frozen
from pgrunbook.record.journal import Journal
from pgrunbook.rehearse import row_equality
from pgrunbook.rehearse.branch_run import execute, journal, why
from pgrunbook.rehearse.row_equality import VolatileValues
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
    copy: Copy, proven: Rehearsal, tables: Sequence[TableName], volatile: VolatileValues, *, with_end: bool
) -> tuple[WayBackTrial, ...]:
    """Take each migration up, down and up again on ``copy.back``, and compare the end with that of the plan.

    Returns as :func:`prove`, () where ways back are not rehearsed. Nobody may be connected to ``copy`` meanwhile.
    """
    if copy.back is None:
        return ()
    with copy.in_place(copy.back) as branch:
        backs = prove(branch, proven, tables)
    if not with_end:
        return backs
    with connect(copy.safe.as_superuser(), purpose="compares") as safe:
        return with_end_of(backs, safe, copy.back, tables, volatile)


def prove(branch: BranchTarget, proven: Rehearsal, tables: Sequence[TableName]) -> tuple[WayBackTrial, ...]:
    """Take each migration up, down and up again; ``proven`` is the rehearsal on empty branches.

    Returns a result for each migration that has a way back. Raises StatementFailed where the plan itself fails.
    """
    with (
        journal() as log,
        connect(branch, purpose="rehearses") as conn,
        connect(branch.as_superuser(), purpose="measures") as measure,
    ):
        return tuple(_each(branch, conn, measure, proven, tables, log))


def with_end_of(
    backs: Sequence[WayBackTrial],
    safe: Connection,
    branch: BranchTarget,
    tables: Sequence[TableName],
    volatile: VolatileValues,
) -> tuple[WayBackTrial, ...]:
    """Return the results; where the rows differ from those of the plan after all went up again, they are not proven."""
    if any(not back.proven and not back.tables for back in backs):
        return tuple(backs)  # a way back failed: the migrations after it did not go up
    with connect(branch.as_superuser(), purpose="compares") as conn:
        differences = row_equality.compare(safe, conn, tables, volatile).differences
    if not differences:
        return tuple(backs)
    says = f"the rows differ after going up again: {'; '.join(differences[:3])}"
    return tuple(b.model_copy(update={"proven": False, "says": says}) if b.proven else b for b in backs)


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


def _each(
    branch: Target,
    conn: Connection,
    measure: Connection,
    proven: Rehearsal,
    tables: Sequence[TableName],
    log: Journal,
) -> Iterator[WayBackTrial]:
    broken = ""
    for change in proven.changes:
        planned = proven.backs.get(change.migration)
        if broken:
            if planned is not None:
                says = f"not tried with rows: the way back of {broken} failed before it"
                yield WayBackTrial(migration=change.migration, proven=False, says=says)
            continue
        there = _there(measure, tables)
        before = checksums.checksums(measure, there)
        began = time.monotonic()
        execute(branch, conn, histories.read(conn, branch), change, log)
        if planned is None:
            continue
        up_ms, began = _since(began), time.monotonic()
        try:
            execute(branch, conn, histories.read(conn, branch), planned.change, log, direction="down")
            down_ms = _since(began)
            apart = _apart(before, checksums.checksums(measure, there))
            execute(branch, conn, histories.read(conn, branch), change, log, again=True)
        except StatementFailed as exc:
            broken = change.migration
            says = f"it fails with the target's rows: {why(exc)}"
            yield WayBackTrial(migration=change.migration, proven=False, says=says, up_ms=up_ms)
            continue
        says = "with the target's rows: equal, too"
        if apart:
            says = f"the rows differ after the way back: {'; '.join(apart[:5])}"
        yield WayBackTrial(
            migration=change.migration,
            proven=not apart,
            says=says,
            up_ms=up_ms,
            down_ms=down_ms,
            tables=tuple(map(str, there)),
        )


def _there(conn: Connection, tables: Sequence[TableName]) -> list[TableName]:
    found = conn.execute(
        "SELECT t.schema, t.name FROM ROWS FROM (pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::text[]))"
        " AS t (schema, name) JOIN pg_catalog.pg_namespace AS n ON n.nspname = t.schema"
        " JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = t.name",
        [[table.schema for table in tables], [table.name for table in tables]],
    )
    return [TableName(str(schema), str(name)) for schema, name in found]


def _apart(before: dict[TableName, checksums.TableSum], after: dict[TableName, checksums.TableSum]) -> list[str]:
    found = []
    for table, was in before.items():
        now, name = after[table], f"{table.schema}.{table.name}"
        if was.rows != now.rows:
            found.append(f"{name}: {counted(was.rows, 'row')} before, {now.rows:,} after")
        elif was != now:
            found.append(f"{name}: as many rows, with other values")
    return found


def _since(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 1)
