"""Hazards around a statement: timeouts, transactions, locks that are held until the commit."""

from __future__ import annotations

from collections.abc import Iterator

from pglast import ast

from pgrunbook.database.catalog import Weight
from pgrunbook.display.prose import counted
from pgrunbook.review.hazards.rows import bounded
from pgrunbook.review.hazards.rule import Note, Scene, Severity, Transactions, rule
from pgrunbook.sql.lock_modes import (
    ACCESS_EXCLUSIVE,
    CONFLICTS,
    EXCLUSIVE,
    ROW_EXCLUSIVE,
    SHARE,
    SHARE_ROW_EXCLUSIVE,
    Lock,
)
from pgrunbook.sql.tree import dotted, object_kind

LONG_LOCK_TIMEOUT_MS = 10_000
_QUEUE = (SHARE, SHARE_ROW_EXCLUSIVE, EXCLUSIVE, ACCESS_EXCLUSIVE)


def _queued_locks(scene: Scene) -> list[Lock]:
    """Return the locks that block others' writes or reads while they are requested, on tables that others use."""
    found = []
    for lock in scene.effects.locks:
        table = scene.catalog.labelled(lock.object) or scene.catalog.indexed_by(lock.object)
        light = table is not None and scene.catalog.weight(table) is Weight.NOTHING
        if lock.mode in _QUEUE and not light:
            found.append(lock)
    return found


@rule(
    "lock-without-timeout",
    Severity.WARNING,
    bad="ALTER TABLE projects ADD COLUMN description text;",
    good="SET lock_timeout = '2s'; ALTER TABLE projects ADD COLUMN description text;",
)
def without_timeout(scene: Scene) -> Iterator[Note]:
    """A strong lock is requested, and no short lock_timeout bounds the wait."""
    locks = _unbounded(scene)
    if not locks or any(_unbounded(one) for other in scene.earlier for one in (other, *other.inner)):
        return  # the first stands for all: whoever runs the one file runs the others
    who = "readers and writers" if any(lock.mode == ACCESS_EXCLUSIVE for lock in locks) else "writers"
    names = ", ".join(dict.fromkeys(lock.object for lock in locks))
    long = f" It may wait {scene.timeouts.lock_ms:,} ms." if scene.timeouts.lock_ms else ""
    more = [other for other in scene.later if _unbounded(other)]
    also = f" So does the request of {counted(len(more), 'later statement')}." if more else ""
    yield Note(
        f"While it waits for one long transaction, all {who} of {names} queue behind it, for as long as that"
        f" transaction takes.{long}{also}",
        "SET lock_timeout = '2s';  -- before the statement; and retry it, a bounded number of times",
    )


def _unbounded(scene: Scene) -> list[Lock]:
    bounded = 0 < scene.timeouts.lock_ms <= LONG_LOCK_TIMEOUT_MS
    return [] if bounded or isinstance(scene.node, ast.DoStmt) else _queued_locks(scene)


@rule(
    "set-local-without-transaction",
    Severity.WARNING,
    on=(ast.VariableSetStmt,),
    bad="SET LOCAL lock_timeout = '2s';",
    good="BEGIN; SET LOCAL lock_timeout = '2s'; COMMIT;",
)
def set_local(scene: Scene) -> Iterator[Note]:
    """SET LOCAL runs outside a transaction, where it has no effect."""
    node = scene.node
    alone = scene.transaction is None and scene.transactions in (Transactions.STATEMENT, Transactions.UNKNOWN)
    if isinstance(node, ast.VariableSetStmt) and node.is_local and alone and not scene.within:
        yield Note(
            f"{node.name} keeps its value, and PostgreSQL only warns, unless the tool that runs the file opens a"
            " transaction.",
            f"{scene.sql.replace('LOCAL ', '').replace('local ', '')};",
            severity=None if scene.transactions is Transactions.STATEMENT else Severity.NOTE,
        )


@rule(
    "locks-held-to-the-end",
    Severity.WARNING,
    bad=("ALTER TABLE a ADD COLUMN b text;", "UPDATE c SET d = 1;"),
    good=("ALTER TABLE a ADD COLUMN b text;", "ALTER TABLE c ADD COLUMN d text;"),
)
def held(scene: Scene) -> Iterator[Note]:
    """A strong lock is held while later statements of the same transaction read or write whole tables."""
    locks = _held(scene)
    if not locks or _is_held_longer(scene, within_file=True):
        return
    slow = next((s for s in scene.later if scene.may_commit_with(s) and _is_slow(s)), None)
    apart = slow is not None and slow.statement.file != scene.statement.file and not scene.commits_with(slow)
    if slow is None or (apart and _is_held_longer(scene, within_file=False)):
        return
    who = "Readers and writers" if any(lock.mode == ACCESS_EXCLUSIVE for lock in locks) else "Writers"
    names = ", ".join(dict.fromkeys(lock.object for lock in locks))
    here, there = scene.statement.place.migration, slow.statement.place.migration
    sure, way = "", f"-- run {here} and {there} in separate transactions, the slow one in batches"
    if here == there:
        way = f"-- move {slow.statement.place} into a migration of its own, behind this one"
    if not scene.commits_with(slow):
        drizzle = "files run in one transaction, as Drizzle runs all pending files"
        sure = f" if the {'file runs in one transaction' if here == there else drizzle}"
    yield Note(
        f"{who} of {names} wait until {slow.statement.place} has run as well and the transaction has committed{sure}.",
        way,
    )


def _held(scene: Scene) -> list[Lock]:
    """Return the locks for which writers wait to the commit; an index is better built, or dropped, in none."""
    node = scene.node
    is_index = isinstance(node, ast.IndexStmt) or (
        isinstance(node, ast.DropStmt) and object_kind(node.removeType) == "INDEX"
    )
    return [] if is_index else [lock for lock in _queued_locks(scene) if ROW_EXCLUSIVE in CONFLICTS[lock.mode]]


def _is_held_longer(scene: Scene, *, within_file: bool) -> bool:
    """Whether an earlier lock is held to the same commit, or may be: one finding is enough for all of them."""
    file = scene.statement.file
    return any(
        scene.may_commit_with(other) and _held(other)
        for other in scene.earlier
        if not within_file or other.statement.file == file
    )


def _is_slow(scene: Scene) -> bool:
    if isinstance(scene.node, ast.DoStmt):
        return any(part.in_loop or part.because for part in scene.parts) or any(map(_is_slow, scene.inner))
    node = scene.node
    if isinstance(node, ast.UpdateStmt | ast.DeleteStmt) and bounded(scene.table(node.relation), node):
        return False
    for label in (*scene.effects.scans, *scene.effects.rewrites):
        table = scene.catalog.labelled(label)
        if table is None or scene.catalog.weight(table) is Weight.BIG:
            return not isinstance(node, ast.SelectStmt | ast.ExplainStmt)
    changes = isinstance(node, ast.UpdateStmt | ast.DeleteStmt)
    return changes and scene.catalog.weight(scene.table(node.relation)) is Weight.BIG


@rule(
    "enum-value-used-at-once",
    Severity.ERROR,
    on=(ast.AlterEnumStmt,),
    bad="BEGIN; ALTER TYPE mood ADD VALUE 'glad'; UPDATE a SET m = 'glad' WHERE id = 1; COMMIT;",
    good="ALTER TYPE mood ADD VALUE 'glad'; UPDATE a SET m = 'sad' WHERE id = 1;",
)
def enum_value(scene: Scene) -> Iterator[Note]:
    """A new label of an enum is used in the transaction that adds it."""
    node = scene.node
    if not isinstance(node, ast.AlterEnumStmt) or node.oldVal is not None:
        return
    for other in scene.later:
        if f"'{node.newVal}'" in other.sql and scene.may_commit_with(other):
            sure = "" if scene.commits_with(other) else " if both run in one transaction"
            yield Note(
                f"{other.statement.place} fails{sure}: the label cannot be used before the commit.",
                f"ALTER TYPE {dotted(node.typeName)} ADD VALUE '{node.newVal}';  -- in a migration before this one",
                severity=Severity.ERROR if not sure else Severity.WARNING,
            )
            return


@rule(
    "table-locked-by-hand",
    Severity.WARNING,
    on=(ast.LockStmt,),
    bad="LOCK TABLE projects;",
    good="SELECT id FROM projects WHERE id = 1 FOR UPDATE;",
)
def locked(scene: Scene) -> Iterator[Note]:
    """A table is locked as a whole, to the end of the transaction."""
    if isinstance(scene.node, ast.LockStmt):
        for part in scene.node.relations:
            table = scene.table(part)
            mode = scene.effects.mode_on(table.label) or ACCESS_EXCLUSIVE
            if mode in _QUEUE and not (mode == ACCESS_EXCLUSIVE and scene.timeouts.lock_ms and scene.transaction):
                who = "reads or writes" if mode == ACCESS_EXCLUSIVE else "writes"
                yield Note(
                    f"Whoever {who} {table.label} waits until the commit.",
                    f"BEGIN;\nSET LOCAL lock_timeout = '200ms';\n{scene.sql};\nCOMMIT;  -- at once",
                    table,
                )
