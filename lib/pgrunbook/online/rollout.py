"""The stages of a rollout: rows get the flag in batches, and lose it again where a stage goes back.

1. A batch gives rows the flag and notes each of them in pgrunbook.rollout_row, in one transaction. So a stage goes on
   where the database shows that it stopped, and goes back by what is noted: those rows, and no other.
2. A stage by share or of all goes through the table by its key; rows that came or moved meanwhile are found by
   another pass, until none is left. A list goes by its keys.
3. Rows that are inserted have the column's default, and get the flag by a pass of a later look (``follow``). Once all
   have it, and the hold of that stage is over, the default changes: rows that are inserted from then on have the flag.
4. Taking back sets the default again, then each noted row that has the flag still. What somebody has changed since is
   left, and told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Never

import psycopg
from psycopg import sql

from pgrunbook.config.targets import Target
from pgrunbook.database import queries
from pgrunbook.database.connection import Connection, transaction
from pgrunbook.database.control import Obedience
from pgrunbook.display import progress
from pgrunbook.errors import Broken, Refused
from pgrunbook.online import alteration, rollout_state
from pgrunbook.online.batch_progress import BatchProgress
from pgrunbook.online.batches import run_batches
from pgrunbook.online.rollout_preconditions import has_default
from pgrunbook.online.rollout_state import BegunStage, StageStanding
from pgrunbook.online.rollout_table import ROWS, RolloutTable
from pgrunbook.online.throttle import ThrottleGoals, throttled
from pgrunbook.plan.rollout import RolloutStage
from pgrunbook.plan.step import Batches

COUNT_MS = 600_000  # a count reads the whole table, and holds nobody up
MOST_PASSES = 5
# Somebody holds a row, or has moved it to another partition.
_RETRIED = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageCount:
    """The rows of a stage: ``due`` get the flag, ``decided`` lost it by somebody, ``other`` have another value."""

    rows: int
    due: int
    has: int
    decided: int
    other: int

    def verdict(self, stage: RolloutStage, before: int = 0) -> str:
        """Return why the stage must not change so many rows, "" where it may; ``before`` are those changed already."""
        if stage.keys is not None and self.rows < len(stage.keys):
            return f"{len(stage.keys) - self.rows:,} of its {len(stage.keys):,} keys are those of no row"
        if stage.expected is None:
            return ""
        low, high = stage.expected
        would = self.due + before
        return "" if low <= would <= high else f"it would change {would:,} rows, and {_span(low, high)} are expected"


def count(conn: Connection, table: RolloutTable, stage: RolloutStage) -> StageCount:
    """Count the rows of a stage, those that have to be added first included.

    Raises Refused for a key of its list that is no value of the key. Locks: AccessShareLock on the table.
    """
    with _keys_of(table, stage), conn.transaction():
        conn.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(sql.Literal(COUNT_MS)))
        found, missing = _counted(conn, table, stage), 0
        if table.of is not None:
            query = sql.SQL("SELECT pg_catalog.count(*) FROM {} AS t WHERE {} AND {}")
            asked = query.format(table.of.identifier, table.of.member(stage), table.is_missing)
            missing = int(str((conn.execute(asked).fetchone() or (0,))[0]))
    return replace(found, rows=found.rows + missing, due=found.due + missing)


def _counted(conn: Connection, table: RolloutTable, stage: RolloutStage) -> StageCount:
    if not table.has_flag:
        query = sql.SQL("SELECT pg_catalog.count(*) FROM {} AS t WHERE {}")
        (rows,) = conn.execute(query.format(table.identifier, table.member(stage))).fetchone() or (0,)
        return StageCount(int(str(rows)), int(str(rows)), 0, 0, 0)
    joined = sql.SQL("{} AS t LEFT JOIN {} AS r ON {} WHERE {}").format(
        table.identifier, ROWS, table.is_decided, table.member(stage)
    )
    if not rollout_state.is_there(conn):
        joined = sql.SQL("{} AS t CROSS JOIN (SELECT NULL AS rollout) AS r WHERE {}").format(
            table.identifier, table.member(stage)
        )
    found = conn.execute(
        sql.SQL(
            "SELECT pg_catalog.count(*), pg_catalog.count(*) FILTER (WHERE {off} AND r.rollout IS NULL),"
            " pg_catalog.count(*) FILTER (WHERE {on}), pg_catalog.count(*) FILTER (WHERE {off} AND r.rollout IS NOT"
            " NULL), pg_catalog.count(*) FILTER (WHERE NOT {on} AND NOT {off}) FROM {joined}"
        ).format(on=table.is_value(table.on), off=table.is_value(table.off), joined=joined)
    ).fetchone()
    return StageCount(*(int(str(number)) for number in found or ()))


@contextmanager
def _keys_of(table: RolloutTable, stage: RolloutStage) -> Iterator[None]:
    """Explain that a stage names a key which is no value of the table's key."""
    try:
        yield
    except psycopg.DataError as exc:
        if stage.keys is None:
            raise
        raise Refused(
            f'stage "{stage.name}" names a key that is none of {table.label}',
            detail=f"{exc.diag.message_primary}; the key is {', '.join(table.key)} ({', '.join(table.key_types)}).",
            hint=f"Correct its keys in rollouts/{table.rollout.name}.yaml.",
        ) from exc


def unknown_keys(conn: Connection, table: RolloutTable, stage: RolloutStage, most: int = 5) -> list[str]:
    """Return the first keys of a list that no row has. Raises Refused for one that is no value of the key."""
    missing: list[str] = []
    for keys in _chunks(stage.texts, 1_000):
        with _keys_of(table, stage):
            found = conn.execute((table.of or table).missing(keys)).fetchall()
        missing += [", ".join(keys[int(str(place))]) for (place,) in found]
        if len(missing) >= most:
            break
    return missing[:most]


def write(
    conn: Connection,
    target: Target,
    table: RolloutTable,
    begun: BegunStage,
    run_id: str,
    on_batch: Callable[[int], None] = lambda _: None,
) -> int:
    """Give the rows of a stage the flag, from where it stopped, and note that it is held; return how many are left.

    Some are left where others insert faster than the passes follow, or a trigger of the application keeps a row as it
    was.

    It is throttled by what hurts others. Raises Refused where it changes more rows than expected; psycopg's errors, and
    those of ``online.throttle``, as they come. Committed batches stay, and the same call goes on.
    Locks: RowExclusiveLock on the table, and the rows of one batch.
    """
    rollout, stage = table.rollout, table.rollout.stages[begun.number - 1]
    while True:
        before = rollout_state.read(conn, rollout).rows(begun.number, "on")
        with progress.doing(f"stage {stage.name}") as told:

            def note(rows: int, told: progress.Stage = told, before: int = before) -> None:
                told.how_far(f"{before + rows:,} rows")
                on_batch(before + rows)
                if stage.expected is not None and before + rows > stage.expected[1]:
                    raise _too_many(stage, before + rows)

            _write(conn, target, table, begun, run_id, note)
        left = count(conn, table, stage).due
        if not left or stage.keys is not None or begun.number_of_pass >= MOST_PASSES:
            break
        rollout_state.next_pass(conn, rollout, begun.number)
        begun = rollout_state.read(conn, rollout).stage(begun.number) or begun
    with conn.transaction():
        rollout_state.set_stage(conn, rollout, begun.number, StageStanding.HELD, run_id)
        rollout_state.forget_passes(conn, rollout, begun)
    return left


def follow(conn: Connection, target: Target, table: RolloutTable, begun: BegunStage, run_id: str) -> int:
    """Give the flag to rows that came into a stage which is held or done; return how many.

    Raises as :func:`write`. Locks: as there.
    """
    stage, written = table.rollout.stages[begun.number - 1], 0
    if stage.keys is not None or not count(conn, table, stage).due:
        return 0

    def note(rows: int) -> None:
        nonlocal written
        written = rows

    rollout_state.forget_passes(conn, table.rollout, begun)
    with progress.doing(f"rows that came into stage {stage.name}"):
        _write(conn, target, table, begun, run_id, note)
    rollout_state.forget_passes(conn, table.rollout, begun)
    return written


def take_back(
    conn: Connection,
    target: Target,
    table: RolloutTable,
    number: int,
    run_id: str,
    on_batch: Callable[[int], None] = lambda _: None,
) -> None:
    """Take the flag back from the rows that a stage gave it, and note that it is back; it goes on where it stopped.

    A row that does not have the flag any more, or another value, was changed by somebody: it is left and noted so.

    Nobody pauses it. Raises psycopg's errors as they come: the same call goes on.
    Locks: RowExclusiveLock on the table, and the rows of one batch; behind a stage of all AccessExclusiveLock, briefly.
    """
    rollout, stage, done = table.rollout, table.rollout.stages[number - 1], 0
    if stage.all:
        set_default(conn, target, table, table.off)

    def batch() -> int:
        keys = rollout_state.next_back(conn, rollout, number, target.batch_rows)
        if keys:
            _back(conn, table, keys)
        return len(keys)

    with progress.doing(f"taking stage {stage.name} back") as told:
        while rows := _transaction(conn, target, batch):
            done += rows
            told.how_far(f"{done:,} rows")
            on_batch(done)
    with conn.transaction():
        why = (rollout_state.read(conn, rollout).stage(number) or _missing(stage)).why
        rollout_state.set_stage(conn, rollout, number, StageStanding.BACK, run_id, why=why)


def set_default(conn: Connection, target: Target, table: RolloutTable, value: sql.Composable) -> None:
    """Set the default of the flag, where it is another; rows that are inserted from then on have it.

    Raises as :func:`alter`. Locks: AccessExclusiveLock on the table, for a moment.
    """
    if not has_default(conn, table, value):
        text = "ALTER TABLE {} ALTER COLUMN {} SET DEFAULT {}"
        alter(conn, target, table, lambda: conn.execute(
            sql.SQL(text).format(table.identifier, sql.Identifier(table.rollout.column), value)
        ))  # fmt: skip


def alter(conn: Connection, target: Target, table: RolloutTable, change: Callable[[], object]) -> None:
    """Change the table in a transaction, as soon as nobody old is in the way, in a bounded number of attempts.

    Raises Blocked where somebody is in the way to the end.
    Locks: AccessExclusiveLock on the table, for a moment.
    """
    alteration.alter(conn, target, table.identifier, table.label, change)


def _write(
    conn: Connection, target: Target, table: RolloutTable, begun: BegunStage, run_id: str, note: Callable[[int], None]
) -> None:
    if table.rollout.stages[begun.number - 1].keys is not None:
        _write_list(conn, target, table, begun, note)
    else:
        _write_ranges(conn, target, table, begun, run_id, note)


def _write_ranges(
    conn: Connection, target: Target, table: RolloutTable, begun: BegunStage, run_id: str, note: Callable[[int], None]
) -> None:
    stage = table.rollout.stages[begun.number - 1]
    batches = Batches(
        schema=table.schema, table=table.name, alias="t", key=table.key, key_types=table.key_types,
        statement=table.write(stage, begun.number).as_string(conn), rows=target.batch_rows,
    )  # fmt: skip

    name = rollout_state.pass_name(table.rollout, begun)
    before = sum(row["rows"] for row in queries.rows(conn, "rollout", "pass_rows", name=name))

    def on_batch(batch: BatchProgress) -> None:
        note(batch.rows - before)

    if table.of is not None:
        _add_rows(conn, target, table, begun, run_id)
    with throttled(
        target, conn, table.schema, table.name, rows=target.batch_rows, run_id=run_id, goals=ThrottleGoals()
    ) as throttle:
        run_batches(
            conn, batches, resume_from=name, on_batch=on_batch, throttle=throttle,
            lock_timeout_ms=target.lock_timeout_ms, statement_timeout_ms=target.statement_timeout_ms,
        )  # fmt: skip


def _add_rows(conn: Connection, target: Target, table: RolloutTable, begun: BegunStage, run_id: str) -> None:
    """Add the rows of a stage that its table lacks, in batches over the table whose rows are rolled out."""
    stage, of = table.rollout.stages[begun.number - 1], table.of or table
    batches = Batches(
        schema=of.schema, table=of.name, alias="t", key=of.key, key_types=of.key_types,
        statement=table.add_rows(stage).as_string(conn), rows=target.batch_rows,
    )  # fmt: skip
    with throttled(
        target, conn, of.schema, of.name, rows=target.batch_rows, run_id=run_id, goals=ThrottleGoals()
    ) as throttle:
        run_batches(
            conn, batches, resume_from=f"{rollout_state.pass_name(table.rollout, begun)} rows", throttle=throttle,
            lock_timeout_ms=target.lock_timeout_ms, statement_timeout_ms=target.statement_timeout_ms,
        )  # fmt: skip


def _write_list(
    conn: Connection, target: Target, table: RolloutTable, begun: BegunStage, note: Callable[[int], None]
) -> None:
    stage, rows, obedience = table.rollout.stages[begun.number - 1], 0, Obedience(conn)
    for keys in _chunks(stage.texts, target.batch_rows):
        obedience.now()
        text = table.write(stage, begun.number, keys).as_string(conn).encode()
        before = table.add_rows(stage, keys).as_string(conn).encode() if table.of is not None else b""

        def batch(text: bytes = text, before: bytes = before) -> int:
            with conn.as_target():
                if before:
                    conn.execute(before)
                return conn.execute(text).rowcount

        rows += _transaction(conn, target, batch)
        note(rows)


def _transaction(conn: Connection, target: Target, batch: Callable[[], int]) -> int:
    """Execute a batch in a transaction, and again where somebody was in its way, in a bounded number of attempts."""
    for attempt in range(1, target.attempts + 1):
        try:
            with transaction(conn, lock_timeout_ms=target.lock_timeout_ms,
                             statement_timeout_ms=target.statement_timeout_ms):  # fmt: skip
                return batch()
        except _RETRIED as exc:
            log.info("attempt %s of %s at a batch: %s", attempt, target.attempts, exc)
            if attempt == target.attempts:
                raise
    return 0


def _chunks(keys: Sequence[tuple[str, ...]], most: int) -> Iterator[Sequence[tuple[str, ...]]]:
    return (keys[first : first + most] for first in range(0, len(keys), most))


def _back(conn: Connection, table: RolloutTable, keys: list[str]) -> None:
    with conn.as_target():
        back = {str(row[0]) for row in conn.execute(table.take_back(keys).as_string(conn).encode())}
    others = [key for key in keys if key not in back]
    there = {str(row[0]) for row in conn.execute(table.still_there(others))} if others else set()
    for state, which in (
        ("back", back), ("changed", there), ("gone", {key for key in others if key not in there}),
    ):  # fmt: skip
        rollout_state.set_rows(conn, table.rollout, sorted(which), state)


def _too_many(stage: RolloutStage, rows: int) -> Refused:
    low, high = stage.expected or (0, 0)
    return Refused(
        f'stage "{stage.name}" was stopped: it has changed {rows:,} rows, and {_span(low, high)} were expected',
        detail="Others have brought rows into it since they were counted.",
        state="The rows that it has changed have the flag; the others are as they were.",
        hint="Correct what it expects in the rollout's file, then run it again; or take it back: -p do=step-back",
    )


def _missing(stage: RolloutStage) -> Never:
    raise Broken(f"stage {stage.name} is not in pgrunbook.rollout_stage any more", hint="Somebody has removed its row.")


def _span(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
