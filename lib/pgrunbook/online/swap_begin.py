"""The begin of a swap: what is refused, and the new table, the log and the triggers, made in one transaction."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from pgrunbook.config.targets import Target
from pgrunbook.database import own_publications, step_log
from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import Connection, transaction
from pgrunbook.database.own_publications import OwnPublication
from pgrunbook.database.queries import rows
from pgrunbook.display.prose import listed
from pgrunbook.errors import Blocked, Refused, WrongInput
from pgrunbook.online import carried, swap_build, swap_copy, swap_shape, swap_store, swap_trust
from pgrunbook.online.carried import NOT_CARRIED, Hanging
from pgrunbook.online.change_log import ChangeLog
from pgrunbook.online.swap_shape import ShapeColumn, SwapChoice
from pgrunbook.online.swap_store import SCHEMA, SwapPlan, SwapState, TableSwap

ATTEMPTS = 10
MAKE_TIMEOUT_MS = 60_000
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
# What a swap needs beside the table: itself once more with its indexes, and the log of changes.
SPACE_TIMES = 1.2


@dataclass(frozen=True)
class SwappedTable:
    """A table that can be swapped: its OID, owner and size, and all that hangs on it."""

    name: TableName
    oid: int
    owner: str
    bytes: int
    rows_estimate: int
    is_partitioned: bool
    hanging: tuple[Hanging, ...]


def look(conn: Connection, choice: SwapChoice) -> SwappedTable:
    """Return the table with all that hangs on it. Changes nothing.

    Raises WrongInput for a table that is not there or a shape that cannot be; Refused for a table that cannot be
    swapped, with all that cannot be carried over.
    """
    oid = conn.oid_of("regclass", str(choice.table))
    if oid is None:
        raise WrongInput(f"there is no table {choice.table.label}", hint="Name it with its schema, as public.orders.")
    _refuse_half_done(conn, choice)
    (facts,) = rows(conn, "swap", "facts", oid=oid)
    found = tuple(carried.hanging(conn, oid))
    _refuse_kind(choice, facts, own_publications.sending(conn))
    swap_shape.statements(choice.shape, choice.table, TableName(SCHEMA, f"swap_{swap_store.name_of(choice.table)}"))
    _refuse_hanging(choice, found)
    _refuse_statistics(conn, choice, oid)
    swap_copy.refuse_order(conn, oid, choice.order)
    swap_trust.refuse(conn, [oid], [oid], fires=False)
    return SwappedTable(
        choice.table, oid, facts["owner_name"], facts["bytes"], facts["rows_estimate"], facts["kind"] == "p", found
    )


def begin(conn: Connection, target: Target, choice: SwapChoice, table: SwappedTable, run_id: str) -> TableSwap:
    """Make the new table, the log and its triggers, and note the swap, all in one transaction; return the swap.

    Raises Blocked where the lock for the triggers was not to be had, and psycopg's errors: nothing has changed then.
    Locks: ShareRowExclusiveLock on the table, for a moment.
    """
    swap_store.create(conn)
    pause_s = FIRST_PAUSE_S
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _begin(conn, target, choice, table, run_id)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            if attempt < ATTEMPTS:
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    raise Blocked(
        f"could not begin to watch table {choice.table.label} in {ATTEMPTS} attempts",
        detail=f"Another session holds a lock on it for longer than lock_timeout ({target.lock_timeout_ms} ms).",
        hint="See who holds it: pgrunbook monitor. Then begin again.",
    )


@dataclass(frozen=True)
class SwapTrial:
    """What a swap would do: its plan, both tables' columns, and what of the old table the new one does not get."""

    plan: SwapPlan
    before: tuple[ShapeColumn, ...]
    after: tuple[ShapeColumn, ...]
    not_carried: tuple[tuple[str, str], ...]


def trial(conn: Connection, choice: SwapChoice, table: SwappedTable) -> SwapTrial:
    """Make the new table in a transaction that is aborted; return what a swap would do.

    So a shape is refused before anything is written: one that loses a column which must have a value, that a view
    needs, or that has another type there. Locks: AccessShareLock on the table.
    """
    name = swap_store.name_of(choice.table)
    new = TableName(SCHEMA, f"swap_{name}")
    swap_store.create(conn)
    with conn.transaction(force_rollback=True):
        conn.execute("SET LOCAL lock_timeout = 2000")
        plan = _made(conn, choice, table, new)
        _refuse_lost(conn, choice, table, new)
        oid = conn.oid_of("regclass", str(new)) or 0
        swap = TableSwap(name, choice.table, "", SwapState.COPYING, plan, table.oid)
        if taken := swap_build.taken_names(conn, swap, oid):
            raise WrongInput(
                f"a name that the shape gives is taken in schema {choice.table.schema}",
                detail=f"{listed(taken)}: at the cut-over parts of the new table come there.",
                hint="Give another name in the shape.",
            )
        left = [(row["name"], why) for row, why in swap_build.not_carried(conn, swap, oid)]
        before, after = swap_shape.columns(conn, table.oid), swap_shape.columns(conn, oid)
    return SwapTrial(plan, tuple(before), tuple(after), tuple(left))


def _begin(conn: Connection, target: Target, choice: SwapChoice, table: SwappedTable, run_id: str) -> TableSwap:
    name = swap_store.name_of(choice.table)
    with transaction(conn, lock_timeout_ms=target.lock_timeout_ms, statement_timeout_ms=MAKE_TIMEOUT_MS):
        plan = _made(conn, choice, table, TableName(SCHEMA, f"swap_{name}"))
        swap = TableSwap(name, choice.table, run_id, SwapState.COPYING, plan, table.oid)
        log = ChangeLog(swap.changes, swap.table, plan.key, plan.old)
        log.create(conn)
        for statement in log.watch(is_partitioned=table.is_partitioned):
            conn.execute(statement)
        swap_store.begin(conn, swap)
    return swap


def _made(conn: Connection, choice: SwapChoice, table: SwappedTable, new: TableName) -> SwapPlan:
    swap_shape.make(conn, choice.table, table.oid, new, choice.shape, table.owner)
    if not swap_shape.is_own(choice.shape, choice.table, new):
        _drop_unchecked(conn, table, new)
    key, old_side, new_side = swap_shape.sides(conn, choice, table.oid, new)
    new_oid = conn.oid_of("regclass", str(new)) or 0
    swap_trust.refuse(conn, [table.oid], [new_oid])
    digests = (swap_shape.digest(conn, table.oid), swap_shape.digest(conn, new_oid))
    traits = (swap_shape.traits(conn, table.oid), swap_shape.traits(conn, new_oid))
    return SwapPlan(choice.shape, key, old_side, new_side, choice.order, choice.left, digests=digests, traits=traits)


def _drop_unchecked(conn: Connection, table: SwappedTable, new: TableName) -> None:
    """Drop the checks of the new table that do not hold for every row of the old one: they come at the cut-over."""
    there = {row["name"] for row in rows(conn, "swap", "unchecked", oid=table.oid)}
    for name in sorted(there):
        conn.execute(f'ALTER TABLE {new} DROP CONSTRAINT "{name.replace(chr(34), chr(34) * 2)}"'.encode())


def _refuse_half_done(conn: Connection, choice: SwapChoice) -> None:
    """Raise Refused where a migration is half done: its loops may be in the middle of pages of the table of today."""
    for begun in [one for way in ("up", "down") for one in step_log.unfinished(conn, way)]:
        raise Refused(
            f"cannot swap {choice.table.label}: {begun.migration} is half done",
            detail="It goes on with the table as it was then; the new one has other pages and helpers.",
            hint=f"Go on with it (pgrunbook run --resume {begun.run_id}), or roll it back; then begin the swap.",
        )


def _refuse_kind(choice: SwapChoice, facts: dict[str, Any], sending: Sequence[OwnPublication]) -> None:
    reasons = {
        "it is no table": facts["kind"] not in "rp",
        "it is partitioned, and without CREATE TABLE {table} ... in its shape the new one would have no partitions":
            facts["kind"] == "p" and "create table" not in choice.shape.lower(),
        "it is a partition: swap the partitioned table, or detach it first": facts["is_partition"],
        "it is temporary": facts["persistence"] == "t",
        f"it belongs to {facts['owner_name']}, whose rights our role does not have": not facts["is_ours"],
        "it belongs to an extension": facts["is_of_extension"],
        f"{listed(sending)} would send the copy to its subscribers": bool(sending),
        "a subscription writes it": facts["is_subscribed"],
        "it is of pgrunbook itself": facts["schema"] == SCHEMA,
    }  # fmt: skip
    if found := [reason for reason, holds in reasons.items() if holds]:
        raise Refused(f"cannot swap {choice.table.label}: {found[0]}", detail="; ".join(found[1:]))


def _refuse_hanging(choice: SwapChoice, found: Sequence[Hanging]) -> None:
    wrong = [one for one in found if one.kind in NOT_CARRIED]
    if wrong:
        raise Refused(
            f"cannot swap {choice.table.label}: {len(wrong)} of what hangs on it cannot be carried over",
            detail="; ".join(f"{one.says}: {NOT_CARRIED[one.kind]}" for one in wrong),
            hint="Drop or change these first, with a migration.",
        )


def _refuse_statistics(conn: Connection, choice: SwapChoice, oid: int) -> None:
    away = [row["name"] for row in rows(conn, "swap", "statistics", oid=oid) if row["schema"] != choice.table.schema]
    if away:
        raise Refused(
            f"cannot swap {choice.table.label}: statistics {listed(away)} are in another schema",
            hint=f"ALTER STATISTICS ... SET SCHEMA {choice.table.schema}, then begin again.",
        )


def _refuse_lost(conn: Connection, choice: SwapChoice, table: SwappedTable, new: TableName) -> None:
    """Raise Refused where something that hangs needs a column that the new table does not have, or has otherwise."""
    after = {one.name: one.type for one in swap_shape.columns(conn, conn.oid_of("regclass", str(new)) or 0)}
    before = {one.name: one.type for one in swap_shape.columns(conn, table.oid)}
    gone = [name for name in before if name not in after]
    retyped = {name for name in before if name in after and after[name] != before[name]}
    wrong = []
    for one in table.hanging:
        name = one.says.partition(" ")[2]
        if name in choice.left:
            continue
        if needed := sorted({*one.columns} & {*gone}):
            wrong.append(f"{one.says} needs {listed(needed)}, which the shape does not have")
        elif one.kind == "view" and (needed := sorted({*one.columns} & retyped)):
            wrong.append(f"{one.says} shows {listed(needed)}, whose type changes")
    if wrong:
        raise Refused(
            f"cannot swap {choice.table.label}: its shape takes away what others need",
            detail="; ".join(wrong),
            hint="Change or drop these first, or name an index or statistics in left (-p left=...).",
        )
