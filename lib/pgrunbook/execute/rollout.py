"""The steps of a staged rollout that a permit allows: begin, write a stage, take it back, remove the flag."""

from __future__ import annotations

from collections.abc import Callable

from psycopg import sql

from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection
from pgrunbook.errors import Refused
from pgrunbook.execute.permit import Permit
from pgrunbook.online import rollout, rollout_preconditions, rollout_state
from pgrunbook.online.rollout_state import RolloutStanding, StageStanding
from pgrunbook.online.rollout_table import RolloutTable
from pgrunbook.plan.rollout import REMOVE


def begin(conn: Connection, target: Target, table: RolloutTable, permit: Permit, subject: str) -> RolloutTable:
    """Add the flag where it is missing, and note that the rollout begins, in one transaction; return the table.

    Raises Refused without a permit, or for a flag whose default is another value; Blocked as ``online.rollout.alter``.
    Locks: AccessExclusiveLock on the table for a moment, where the flag is missing; no row is rewritten.
    """
    permit.check(subject, conn)
    declared = table.rollout
    table = rollout_preconditions.find(conn, declared)  # since the check somebody else may have added it
    names = table.schema, table.name
    rollout_state.create(conn)
    if table.has_flag:
        rollout_preconditions.refuse_default(conn, table)
        with conn.transaction():
            rollout_state.begin(conn, declared, names, permit.run_id)
        return table
    added = sql.SQL("ALTER TABLE {} ADD COLUMN {} {} NOT NULL DEFAULT {}").format(
        table.identifier, sql.Identifier(declared.column), sql.SQL(table.flag_type), table.off
    )

    def change() -> None:
        conn.execute(added)
        rollout_state.begin(conn, declared, names, permit.run_id)

    rollout.alter(conn, target, table, change)
    return rollout_preconditions.find(conn, declared)


def begin_stage(
    conn: Connection, table: RolloutTable, number: int, metric: float | None, permit: Permit, subject: str
) -> None:
    """Note that a stage begins, where it changes as many rows as are expected.

    Raises Refused without a permit, or for another number of rows.
    Locks: AccessShareLock on the table.
    """
    permit.check(subject, conn)
    stage = table.rollout.stages[number - 1]
    why = rollout.count(conn, table, stage).verdict(stage)
    if why:
        raise unexpected(table, stage.name, why)
    with conn.transaction():
        rollout_state.begin_stage(conn, table.rollout, number, metric, permit.run_id)


def unexpected(table: RolloutTable, stage: str, why: str) -> Refused:
    """Return the error of a stage that would change another number of rows than expected."""
    return Refused(
        f'stage "{stage}" does not begin: {why}',
        detail=f"Counted in {table.label} now.",
        state="This stage changed nothing; the stages before it are as they were.",
        hint=f"Correct it in rollouts/{table.rollout.name}.yaml, or find out who changed the table.",
    )


def write(
    conn: Connection, target: Target, table: RolloutTable, number: int, permit: Permit, subject: str,
    on_batch: Callable[[int], None],
) -> int:  # fmt: skip
    """Give the rows of a stage the flag; return how many are left. Raises Refused and as ``online.rollout.write``."""
    permit.check(subject, conn)
    begun = rollout_state.read(conn, table.rollout).stage(number)
    if begun is None or begun.state is not StageStanding.WRITING:
        raise _moved(table, number)
    return rollout.write(conn, target, table, begun, permit.run_id, on_batch)


def follow(conn: Connection, target: Target, table: RolloutTable, number: int, permit: Permit, subject: str) -> int:
    """Give the flag to rows that came into a stage since; return how many. Raises as :func:`write`."""
    permit.check(subject, conn)
    begun = rollout_state.read(conn, table.rollout).stage(number)
    if begun is None or begun.state not in (StageStanding.HELD, StageStanding.DONE):
        raise _moved(table, number)
    return rollout.follow(conn, target, table, begun, permit.run_id)


def end_stage(conn: Connection, target: Target, table: RolloutTable, number: int, permit: Permit, subject: str) -> int:
    """End the hold of a stage: rows that came since get the flag, and behind a stage of all new rows have it at once.

    Returns how many came. Raises as :func:`write`.
    Locks: as there; behind a stage of all AccessExclusiveLock on the table for a moment.
    """
    permit.check(subject, conn)
    begun = rollout_state.read(conn, table.rollout).stage(number)
    if begun is None or begun.state is not StageStanding.HELD:
        raise _moved(table, number)
    if table.rollout.stages[number - 1].all:
        rollout.set_default(conn, target, table, table.on)
    came = rollout.follow(conn, target, table, begun, permit.run_id)
    with conn.transaction():
        rollout_state.set_stage(conn, table.rollout, number, StageStanding.DONE, permit.run_id)
    return came


def take_back(
    conn: Connection, target: Target, table: RolloutTable, number: int, why: str, permit: Permit, subject: str,
    on_batch: Callable[[int], None],
) -> None:  # fmt: skip
    """Take a stage back, the newest that has begun. Raises Refused, and as ``online.rollout.take_back``."""
    permit.check(subject, conn)
    state = rollout_state.read(conn, table.rollout)
    begun = state.stage(number)
    later = [one for one in state.stages if one.number > number and one.state is not StageStanding.BACK]
    if begun is None or later or begun.state is StageStanding.BACK:
        raise _moved(table, number)
    if begun.state is not StageStanding.GOING_BACK:
        with conn.transaction():
            rollout_state.set_stage(conn, table.rollout, number, StageStanding.GOING_BACK, permit.run_id, why=why)
            rollout_state.forget_passes(conn, table.rollout, begun)
    rollout.take_back(conn, target, table, number, permit.run_id, on_batch)


def set_standing(
    conn: Connection, table: RolloutTable, standing: RolloutStanding, permit: Permit, subject: str
) -> None:
    """Note that a rollout is paused, open again or abandoned. Raises Refused without a permit."""
    permit.check(subject, conn)
    with conn.transaction():
        rollout_state.set_standing(conn, table.rollout, standing, permit.run_id)


def remove(conn: Connection, target: Target, table: RolloutTable, permit: Permit, subject: str) -> None:
    """Drop the flag, note that the rollout is over and forget its rows, in one transaction.

    All rows have one value, or nothing is dropped: a new column with that default has all that is lost.

    Raises Refused without a permit, and where rows differ; Blocked as ``online.rollout.alter``; psycopg's errors where
    something depends on the column.
    Locks: AccessExclusiveLock on the table, for a moment.
    """
    permit.check(subject, conn)
    state, stages = rollout_state.read(conn, table.rollout), table.rollout.stages
    refuse_to_remove(conn, table, state.standing, done=len(state.stages) == len(stages))
    dropped = sql.SQL("ALTER TABLE {} DROP COLUMN {}").format(table.identifier, sql.Identifier(table.rollout.column))

    def change() -> None:
        conn.execute(dropped)
        rollout_state.set_standing(conn, table.rollout, RolloutStanding.REMOVED, permit.run_id)
        rollout_state.forget_rows(conn, table.rollout)

    rollout.alter(conn, target, table, change)


def refuse_to_remove(conn: Connection, table: RolloutTable, standing: RolloutStanding, *, done: bool) -> None:
    """Raise Refused where the flag still tells rows apart, or its rollout is not over."""
    over = standing is RolloutStanding.ABANDONED or (done and table.rollout.stages[-1].all)
    value, word = (table.off, "off") if standing is RolloutStanding.ABANDONED else (table.on, "on")
    if not over:
        raise Refused(
            f'cannot {REMOVE} the flag: rollout "{table.rollout.name}" is not over',
            detail="It is over when a stage of all is done, or when it was abandoned.",
            hint="Let the stages go on, or abandon it: -p do=abandon",
        )
    query = sql.SQL("SELECT pg_catalog.count(*) FROM {} AS t WHERE NOT {}")
    with conn.transaction():
        conn.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(sql.Literal(rollout.COUNT_MS)))
        (rows,) = conn.execute(query.format(table.identifier, table.is_value(value))).fetchone() or (0,)
    if rows:
        other = table.rollout.on if word == "on" else table.rollout.off
        raise Refused(
            f"cannot {REMOVE} the flag: {rows:,} rows of {table.label} are not {word}",
            detail="Somebody has set them otherwise, and dropping the column would lose that.",
            hint=f"Settle these rows first: WHERE {table.rollout.column} <> '{other}'",
        )


def _moved(table: RolloutTable, number: int) -> Refused:
    return Refused(
        f'stage {number} of rollout "{table.rollout.name}" is not where it was',
        detail="Another run has led it on, or taken it back, since this one looked.",
        state="This run changed nothing in it.",
        hint="Run it again: it goes on where the rollout is now.",
    )
