"""The cut-over of a swap: in one transaction the other table takes the place of the live one.

1. The other table catches up, until hardly anything is left; once more, from another session, right before the locks.
2. All locks are requested, in one order: who refers to the table, its views, both tables, whom it refers to. Together
   they wait less than deadlock_timeout, so that no client of the application is ever chosen as the victim.
3. Behind the locks nobody writes. What the log holds is brought over, to the last note; where that would take too long,
   all is given back.
4. What hangs on the live table is ended there, both tables change their names, and it is begun on the other one. All
   of that was read before the locks, in the same transaction, under a lock that keeps others from changing the table.
5. The log of the way back is begun in the same transaction: no write is lost if somebody swaps back later.

Whatever fails takes the whole back. The way back is the same with the sides exchanged.
Source: https://www.postgresql.org/docs/current/explicit-locking.html
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from pgrunbook.config.targets import Target
from pgrunbook.database import lock_wait
from pgrunbook.database.connection import Connection, connect, transaction
from pgrunbook.database.lock_wait import LockRequest
from pgrunbook.database.queries import rows
from pgrunbook.display.prose import listed
from pgrunbook.errors import Blocked, Broken, Refused
from pgrunbook.online import carried, change_log, swap_build, swap_shape, swap_store, swap_sync, swap_trust
from pgrunbook.online.carried import NOT_CARRIED
from pgrunbook.online.change_log import of_live
from pgrunbook.online.swap_store import SCHEMA, SwapSide, SwapState, TableSwap
from pgrunbook.sql.lock_modes import CONFLICTS

ATTEMPTS = 10
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
MOST_NOTES = 5_000  # what is brought over behind the locks: some 50 ms
OF_DEADLOCK_TIMEOUT = 0.6
WORK_TIMEOUT_MS = 5_000

# What is not to be lost by swapping back; how rows are stored is as the old table has it.
_LOST_BACK = ("owner", "persistence", "check")

log = logging.getLogger(__name__)


class GivenBackError(Exception):
    """The locks were had, and are given back: what was found behind them is to be dealt with before them."""


@dataclass(frozen=True)
class TableCutover:
    """A cut-over that is committed: how long it held its locks, in which attempt, and what it brought over then."""

    swap: TableSwap
    held_ms: float
    waited_ms: float
    attempts: int
    notes: int


def cut_over(
    conn: Connection,
    target: Target,
    swap: TableSwap,
    *,
    keep_hours: float,
    attempts: int = ATTEMPTS,
    on_attempt: Callable[[int, str], None] = lambda _number, _why: None,
) -> TableCutover:
    """Let the other table take the place of the live one, forth or back.

    ``on_attempt`` is called with the number of each attempt that was given up, and why.
    Raises Blocked where the locks were not to be had, Refused where the live table is not as it was when the swap was
    begun; psycopg's errors for what the server refuses. Nothing has changed then.
    Locks: AccessExclusiveLock on both tables, those that they refer to or that refer to them, and their views.
    """
    pause_s, told, patience_ends = FIRST_PAUSE_S, "", time.monotonic() + target.lock_patience_ms / 1000
    for attempt in range(1, attempts + 1):
        swap_sync.catch_up(conn, swap)
        refuse_changed(conn, swap)
        partitions = _partitions(conn, swap)
        if len(partitions) > 1:  # ATTACH brings rows that no trigger has noted
            swap_sync.refuse_difference(swap, swap_sync.compare(conn, swap))
        _until_free(conn, swap, patience_ms=max(0.0, (patience_ends - time.monotonic()) * 1000))
        try:
            with connect(target, purpose=f"catches up {swap.table.label}") as beside:
                return _once(conn, beside, swap, keep_hours, attempt, target.lock_timeout_ms, partitions)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.errors.QueryCanceled) as exc:
            told = exc.diag.message_primary or str(exc)
        except GivenBackError as exc:
            told = str(exc)
        log.info("attempt %s of %s at the cut-over of %s: %s", attempt, attempts, swap.table, told)
        on_attempt(attempt, told)
        if attempt < attempts:
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
    raise Blocked(
        f"could not cut over table {swap.table.label} in {attempts} attempts",
        detail=f"The last one: {told}.",
        state="Nothing changed: every attempt was given back as a whole, and changes are noted on.",
        hint="See who holds the table: pgrunbook monitor. Then cut over again, or name a quieter time.",
    )


def refuse_changed(conn: Connection, swap: TableSwap) -> None:
    """Raise Refused where the live table is not as it was when the other one was made."""
    oid = conn.oid_of("regclass", str(swap.table))
    if oid is None or (not swap.is_new_live and oid != swap.relation):
        raise _changed(swap, "it was dropped, or another one has its name")
    now = {one.name: one.type for one in swap_shape.columns(conn, oid)}
    side = swap.plan.digests[1 if swap.is_new_live else 0]
    if swap_shape.digest(conn, oid) != side:
        raise _changed(swap, f"its columns are others now ({', '.join(now)})")
    if missing := swap_build.missing(conn, swap):
        raise _changed(swap, f"{', '.join(missing)} was added, and the other table lacks it")
    if left := [one for one in carried.hanging(conn, oid) if one.kind in NOT_CARRIED]:
        raise _changed(swap, "; ".join(f"{one.says}: {NOT_CARRIED[one.kind]}" for one in left))
    _refuse_other_traits(conn, swap, oid)
    swap_trust.refuse_foreign_code(conn, swap)


def _refuse_other_traits(conn: Connection, swap: TableSwap, oid: int) -> None:
    """Raise Refused where the live table was given what the other one lacks: an owner, a check, an option."""
    if not swap.plan.traits:  # it was begun before they were noted
        return
    lost = _LOST_BACK if swap.is_new_live else None
    was, now = ({one for one in traits if lost is None or one[0] in lost}
                for traits in (swap.plan.traits[swap.is_new_live], swap_shape.traits(conn, oid)))  # fmt: skip
    came, went = (sorted(says for _, says in some) for some in (now - was, was - now))
    if came or went:
        told = [f"it has {listed(came)} now"] * bool(came) + [f"it had {listed(went)}"] * bool(went)
        raise _changed(swap, ", ".join(told))


def _refuse_switched_off(conn: Connection, swap: TableSwap) -> None:
    """Raise Broken where somebody has switched our trigger off: what was written since is not in the log."""
    found = rows(conn, "relations", "switched_off", function=f"note_{swap.changes}")
    if found:
        raise Broken(
            f"cannot cut over: not every change of table {swap.table.label} was noted",
            detail=f'Somebody has switched trigger "{found[0]["name"]}" off, and on again perhaps.',
            state="Nothing changed; the live table is as the application has written it.",
            hint="The other table may lack rows: finish the swap where the new table is the live one, else take it away"
            " and begin again.",
        )


def _changed(swap: TableSwap, why: str) -> Refused:
    return Refused(
        f"cannot cut over: table {swap.table.label} was changed since the swap was begun",
        detail=f"{why[0].upper()}{why[1:]}.",
        hint="Take the change back; or "
        + ("finish the swap: the new table stays." if swap.is_new_live else "take the swap away, and begin it again."),
    )


def _partitions(conn: Connection, swap: TableSwap) -> list[int]:
    """Return the tables that hold the rows of the live one."""
    oid = conn.oid_of("regclass", str(swap.table))
    return [int(row["relation"]) for row in rows(conn, "swap", "pages", oid=oid)]


def _once(
    conn: Connection,
    beside: Connection,
    swap: TableSwap,
    keep_hours: float,
    attempt: int,
    lock_timeout_ms: int,
    partitions: Sequence[int],
) -> TableCutover:
    """Try once, in one transaction; what can be done before the locks is done then, the last drain ``beside`` it."""
    with transaction(conn, lock_timeout_ms=lock_timeout_ms, statement_timeout_ms=WORK_TIMEOUT_MS):
        conn.execute("SET LOCAL jit = off")
        # Nobody changes the table from here on, and nobody is hindered: it is the mode of VACUUM.
        conn.execute(sql.SQL("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE").format(change_log.whole(conn, swap.table)))
        _refuse_switched_off(conn, swap)
        if _partitions(conn, swap) != partitions:
            raise GivenBackError("a partition came or went just then")
        live = conn.oid_of("regclass", str(swap.table)) or 0
        requests, seen = list(_requests(conn, swap, live)), _seen(conn, live)
        after, script = _exchange(conn, swap, live)
        swap_store.note(conn, after, keep_hours=keep_hours)
        swap_sync.drain_once(beside, swap, timeout_ms=lock_timeout_ms)
        last_drain = change_log.Drain.of(conn, swap)
        last_drain.plan(conn)
        begun = time.monotonic()
        first = _lock(conn, requests, lock_timeout_ms)
        if _seen(conn, live) != seen:
            raise GivenBackError("rights on the table, or what reads it, were changed just then")
        notes, was_emptied = of_live(swap).noted(conn)
        if notes > MOST_NOTES:
            raise GivenBackError(f"{notes:,} changes came while the locks were waited for")
        last_drain.run(conn, notes, was_emptied=was_emptied)
        conn.execute(script.encode())  # it names all in full, and runs no code of the application
    ended = time.monotonic()
    return TableCutover(after, (ended - first) * 1000, (first - begun) * 1000, attempt, notes)


def _lock(conn: Connection, requests: Sequence[sql.Composed], lock_timeout_ms: int) -> float:
    """Request all locks within one budget; return when the first was had."""
    query = "SELECT s.setting::integer FROM pg_catalog.pg_settings AS s WHERE s.name = 'deadlock_timeout'"
    (deadlock_ms,) = conn.execute(query).fetchone() or (1000,)
    budget_s = min(lock_timeout_ms, OF_DEADLOCK_TIMEOUT * int(str(deadlock_ms))) / 1000
    first = 0.0
    ends = time.monotonic() + budget_s
    limit = sql.SQL("SET LOCAL lock_timeout = {}; {}")
    for statement in requests:
        left_ms = max(1, round((ends - time.monotonic()) * 1000))
        conn.execute(limit.format(sql.Literal(left_ms), statement))
        first = first or time.monotonic()
    return first


def _requests(conn: Connection, swap: TableSwap, oid: int) -> Iterator[sql.Composed]:
    lock = sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE")
    keys = rows(conn, "swap", "foreign_keys", oid=oid)
    views = [one.address[1] for one in carried.hanging(conn, oid) if one.kind == "view"]
    own = {row["child"] for row in keys if row["child_oid"] == oid}
    for child in sorted({row["child"] for row in keys} - own):
        yield lock.format(sql.SQL(child))
    # LOCK TABLE of a view would lock all that it reads.
    for row in rows(conn, "swap", "view_owners", oids=views):
        yield sql.SQL("ALTER VIEW {} OWNER TO {}").format(sql.SQL(row["view"]), sql.SQL(row["owner"]))
    both = sql.SQL("{}, {}").format(change_log.whole(conn, swap.table), swap.other.identifier())
    yield lock.format(both)
    for parent in sorted({row["parent"] for row in keys if row["child_oid"] == oid} - own):
        yield lock.format(sql.SQL(parent))


def _seen(conn: Connection, oid: int) -> object:
    """Return what others may change without a lock on the table: rights, and who depends on it."""
    return rows(conn, "swap", "seen", oid=oid)


def _exchange(conn: Connection, swap: TableSwap, live: int) -> tuple[TableSwap, str]:
    """Begin the log of the way back; return the swap as it is behind the exchange, and the script of that."""
    other = conn.oid_of("regclass", str(swap.other)) or 0
    columns = [one.name for one in swap_shape.columns(conn, other)]
    letter = "n" if swap.is_new_live else "o"
    ended = replace(swap.live_side, parts=swap_build.parts_of_live(conn, swap, live, letter))
    found = carried.read(conn, swap, live, columns)
    validated = tuple(dict.fromkeys([*swap.plan.validated, *found.validated]))
    new, old = (ended, swap.plan.old) if swap.is_new_live else (swap.plan.new, ended)
    plan = replace(swap.plan, new=new, old=old, validated=validated, views=tuple(found.views))
    after = replace(swap, state=SwapState.READY if swap.is_new_live else SwapState.CUT_OVER, plan=plan)
    back = of_live(after)
    back.create(conn)
    begins = back.watch(is_partitioned=change_log.is_partitioned(conn, swap.other))
    script = [
        "SET CONSTRAINTS ALL IMMEDIATE",
        *carried.cleared(conn, other, str(swap.other)),
        *found.ends,
        *_renamed(swap.table.schema, [(kind, name, to) for kind, to, name in ended.parts], SCHEMA),
        *_moved(swap),
        *_renamed(SCHEMA, swap.other_side.parts, swap.table.schema),
        *_positions(conn, live, other, ended),
        *(one.as_string(conn) for one in of_live(swap).drop()),
        *found.begins,
        *(one.as_string(conn) for one in begins),
    ]
    return after, ";\n".join(script)


def _moved(swap: TableSwap) -> list[str]:
    """Return the statements by which both tables change their places and names."""
    aside = sql.Identifier(f"{swap.other.name}_0")
    schema, home = sql.Identifier(swap.table.schema), sql.Identifier(swap.table.name)
    ours, other = sql.Identifier(SCHEMA), sql.Identifier(swap.other.name)
    statements = [
        sql.SQL("ALTER TABLE {}.{} RENAME TO {}").format(schema, home, aside),
        sql.SQL("ALTER TABLE {}.{} SET SCHEMA {}").format(schema, aside, ours),
        sql.SQL("ALTER TABLE {}.{} SET SCHEMA {}").format(ours, other, schema),
        sql.SQL("ALTER TABLE {}.{} RENAME TO {}").format(schema, other, home),
        sql.SQL("ALTER TABLE {}.{} RENAME TO {}").format(ours, aside, other),
    ]
    return [one.as_string(None) for one in statements]


def _renamed(schema: str, parts: Sequence[tuple[str, str, str]], to: str) -> list[str]:
    """Return the statements that rename parts of a table: kind, name, new name.

    Those of the live table are renamed before it moves, and so are in their schema; those of the other one behind it.
    Extended statistics do not move with their table.
    """
    found = []
    for kind, name, renamed in parts:
        statistics = kind == "STATISTICS"
        home = to if to != SCHEMA and not statistics else schema
        if name != renamed:
            found.append(
                sql.SQL("ALTER {} {} RENAME TO {}").format(
                    sql.SQL(kind), sql.Identifier(home, name), sql.Identifier(renamed)
                )
            )
        if statistics:
            found.append(
                sql.SQL("ALTER STATISTICS {} SET SCHEMA {}").format(sql.Identifier(schema, renamed), sql.Identifier(to))
            )
    return [one.as_string(None) for one in found]


def _positions(conn: Connection, live: int, other: int, ended: SwapSide) -> list[str]:
    """Return the statements that let the sequences of the other table go on where those of the live one stand.

    They are executed when the live table has moved, under the names that its parts have then. To rename a sequence
    takes an AccessExclusiveLock on it: nobody takes a number meanwhile.
    """
    names = {public: private for _, private, public in ended.parts}
    theirs = {row["column"]: row["oid"] for row in rows(conn, "swap", "identities", oid=other)}
    own = rows(conn, "swap", "owned", oid=live)
    found = []
    for row in own:
        moved = sql.Identifier(SCHEMA, names[row["name"]]) if row["is_identity"] else sql.Identifier(
            row["schema"], row["name"]
        )  # fmt: skip
        targets = [theirs[row["column"]]] if row["column"] in theirs else []
        if row["is_identity"]:
            targets += [one["oid"] for one in own if one["column"] == row["column"] and not one["is_identity"]]
        for oid in targets:
            found.append(
                sql.SQL(
                    "SELECT pg_catalog.setval({}::pg_catalog.oid::pg_catalog.regclass, q.last_value, q.is_called)"
                    " FROM {} AS q"
                ).format(sql.Literal(oid), moved)
            )
    return [one.as_string(None) for one in found]


def _until_free(conn: Connection, swap: TableSwap, *, patience_ms: float) -> None:
    """Wait, with what is left of the target's patience, until no old transaction holds what the cut-over locks."""
    oid = conn.oid_of("regclass", str(swap.table)) or 0
    keys = rows(conn, "swap", "foreign_keys", oid=oid)
    names = {str(swap.table)} | {row["child"] for row in keys} | {row["parent"] for row in keys}
    mode = "AccessExclusiveLock"
    wanted = [LockRequest(name, mode, CONFLICTS[mode]) for name in sorted(names)]
    try:
        lock_wait.until_free(conn, wanted, patience_ms=patience_ms)
    except psycopg.Error as exc:
        if conn.closed:
            raise
        log.info("could not see who holds locks on %s: %s", swap.table, exc)
