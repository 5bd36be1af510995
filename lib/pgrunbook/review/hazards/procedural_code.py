"""Hazards of code in migrations: loops in DO blocks, terminated sessions, EXPLAIN ANALYZE."""

# ruff: noqa: S608 - ways out are shown to people and not run

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from pglast import ast, enums

from pgrunbook.review.hazards.batches import called, one_batch
from pgrunbook.review.hazards.columns import kept_equal
from pgrunbook.review.hazards.rows import batch_queries
from pgrunbook.review.hazards.rule import CHANGES, Note, Scene, Severity, others_see, rule
from pgrunbook.sql.deparse import mapped
from pgrunbook.sql.routines import Block, analyzes, block
from pgrunbook.sql.tree import columns_in, functions_in, quoted, relation, subcommand, text, tree, walk

_LOOP = "DO $$ BEGIN LOOP UPDATE a SET b_new = b WHERE id IN (SELECT id FROM a WHERE b_new IS NULL LIMIT 9);"
_BY_RANGE = (
    "WITH batch AS (SELECT id FROM a WHERE id > 0 ORDER BY id LIMIT 1000)"
    " UPDATE a SET c = 1 WHERE id IN (SELECT id FROM batch);"
)


def _block(scene: Scene) -> Block | None:
    return block(text(scene.node)) if isinstance(scene.node, ast.DoStmt) else None


def _in_loops(scene: Scene) -> Iterator[Any]:
    code = _block(scene)
    for node, in_loop in code.nodes if code else ():
        if in_loop and isinstance(node, ast.UpdateStmt | ast.DeleteStmt | ast.InsertStmt):
            yield node


@rule(
    "loop-in-one-transaction",
    Severity.ERROR,
    on=(ast.DoStmt,),
    bad=_LOOP + " EXIT WHEN NOT FOUND; END LOOP; END $$;",
    good=_BY_RANGE,
)
def loop(scene: Scene) -> Iterator[Note]:
    """A loop in a DO block changes rows in batches, but all batches are one transaction."""
    nodes, code = list(_in_loops(scene)), _block(scene)
    if not nodes or code is None:
        return
    sleeps = any("pg_sleep" in functions_in(node) for node in scene.nodes)
    commits = " Its COMMIT fails if the block itself runs inside a transaction." if code.commits else ""
    node = nodes[0]
    yield Note(
        "All rows of all batches stay locked to the end, nobody sees any progress, vacuum cannot clean up meanwhile,"
        f" and one error undoes everything.{' All locks are held during pg_sleep.' if sleeps else ''}{commits}",
        _batched(scene, node),
    )


def _batched(scene: Scene, node: Any) -> str:
    table = scene.table(node.relation)
    if isinstance(node, ast.UpdateStmt):
        row = f"{called(node.relation)}." if node.fromClause else ""
        changes = " OR ".join(f"{row}{quoted(t.name)} IS DISTINCT FROM {text(t.val)}" for t in node.targetList if t.val)
        fill = copy.copy(node)
        fill.whereClause = tree(f"SELECT 1 WHERE {changes}").whereClause
        return f"{one_batch(table, fill)}\n-- from the client (procedure: backfill)"
    return f"-- from the client, by key range of {table.label}, one transaction each (procedure: backfill)"


@rule(
    "loop-without-end",
    Severity.ERROR,
    on=(ast.DoStmt,),
    bad=_LOOP + " EXIT WHEN NOT FOUND; END LOOP; END $$;",
    good=_BY_RANGE,
)
def without_end(scene: Scene) -> Iterator[Note]:
    """A loop runs until no row matches, but its UPDATE may leave a row unchanged."""
    for node in _in_loops(scene):
        if not isinstance(node, ast.UpdateStmt):
            continue
        for target in node.targetList:
            if isinstance(target.val, ast.A_Const) or not columns_in(target.val):
                continue
            asked = any(
                isinstance(part, ast.NullTest)
                and part.nulltesttype == enums.NullTestType.IS_NULL
                and target.name in columns_in(part.arg)
                for part in walk(node.whereClause)
            )
            if asked:
                source = ", ".join(sorted(columns_in(target.val)))
                yield Note(
                    f"If {source} is NULL, {quoted(target.name)} stays NULL and the row matches again: the loop never"
                    " ends.",
                    _batched(scene, node),
                )


@rule(
    "batch-without-order",
    Severity.WARNING,
    on=CHANGES,
    bad="UPDATE a SET c = 1 WHERE id IN (SELECT id FROM a WHERE c IS NULL LIMIT 1000);",
    good=_BY_RANGE,
)
def without_order(scene: Scene) -> Iterator[Note]:
    """A batch is selected with LIMIT but without ORDER BY."""
    for node in scene.written:
        for part in batch_queries(node):
            if part.limitCount is not None and not part.sortClause:
                table = relation(node.relation)
                yield Note(
                    f"Each batch reads past the rows of {table} that are done, so the total time grows with the square"
                    " of its size; and two writers may lock rows in different order, until a deadlock aborts one.",
                    f"SELECT id FROM {table} WHERE id > $last ORDER BY id LIMIT 1000 FOR NO KEY UPDATE;",
                )


@rule(
    "backfill-loses-writes",
    Severity.ERROR,
    on=(ast.UpdateStmt,),
    bad="ALTER TABLE a ADD COLUMN b_new bigint; UPDATE a SET b_new = b WHERE id BETWEEN 1 AND 1000;",
    good="ALTER TABLE a ADD COLUMN b_new bigint; CREATE TRIGGER same BEFORE INSERT OR UPDATE ON a FOR EACH ROW"
    " EXECUTE FUNCTION same(); UPDATE a SET b_new = b WHERE id BETWEEN 1 AND 1000;",
)
def backfill_loses_writes(scene: Scene) -> Iterator[Note]:
    """A new column is filled from another column that keeps changing, and no trigger keeps the two equal."""
    for node in scene.written:
        if not isinstance(node, ast.UpdateStmt) or node.fromClause:
            continue
        table = scene.table(node.relation)
        if not others_see(table) or _has_trigger(scene, table.name) or list(table.of_kind("trigger")):
            continue
        for target in node.targetList:
            source = columns_in(target.val) - {target.name}
            if source and _is_new(scene, table.name, target.name):
                old, new = sorted(source)[0], quoted(target.name)
                differs = f"{new} IS DISTINCT FROM {text(target.val)}"
                fill = copy.copy(node)
                fill.targetList, fill.whereClause = (target,), tree(f"SELECT 1 WHERE {differs}").whereClause
                yield Note(
                    f"A write to {quoted(old)} after its row was filled does not reach {new}, and a row inserted later"
                    f" has no {new}: the two columns stay different, and nothing reports it.",
                    f"{kept_equal(table, old, target.name, text(_of_new_row(target.val, node.relation)))}\n"
                    f"{one_batch(table, fill)}\n"
                    f"SELECT count(*) FROM {text(node.relation)} WHERE {differs};  -- 0",
                )


def _of_new_row(value: Any, table: Any) -> Any:
    """Return a value as a trigger computes it; a bare name in a query is taken for one of that query's own tables."""
    queries = [part for part in walk(value) if isinstance(part, ast.SelectStmt)]
    own = {part.location for query in queries for part in walk(query) if isinstance(part, ast.ColumnRef)}

    def change(node: Any) -> Any:
        if not isinstance(node, ast.ColumnRef):
            return node
        is_bare = len(node.fields) == 1
        is_of_table = node.location not in own if is_bare else quoted(node.fields[-2].sval) == called(table)
        return ast.ColumnRef(fields=(ast.String(sval="new"), node.fields[-1])) if is_of_table else node

    return mapped(value, change)


def _has_trigger(scene: Scene, table: str) -> bool:
    return any(isinstance(s.node, ast.CreateTrigStmt) and s.node.relation.relname == table for s in scene.earlier)


def _is_new(scene: Scene, table: str, column: str) -> bool:
    added = any(
        subcommand(cmd) == "AddColumn" and cmd.def_.colname == column and altered.name == table
        for other in scene.earlier
        for altered, cmd in other.altered()
    )
    return added or column.endswith("_new")


@rule(
    "session-terminated",
    Severity.ERROR,
    on=(ast.FuncCall,),
    bad="SELECT pg_terminate_backend(4711);",
    good="SELECT pg_cancel_backend(4711);",
)
def terminated(scene: Scene) -> Iterator[Note]:
    """Other sessions are terminated."""
    for node in scene.nodes:
        if "pg_terminate_backend" in functions_in(node):
            yield Note(
                "It can hit a waiter instead of the blocker, a pid that another session has by now, a WAL sender, or"
                " this very migration; the transaction that it interrupts is aborted.",
                "SELECT pid, backend_start, state, pg_blocking_pids(pid) FROM pg_stat_activity"
                " WHERE cardinality(pg_blocking_pids(pid)) > 0;\n"
                "-- pg_cancel_backend of the head of the queue, by pid and backend_start (procedure: troubleshoot)",
            )


@rule(
    "code-not-readable",
    Severity.WARNING,
    bad="DO $$ BEGIN EXECUTE format('DROP TABLE %I', current_user); END $$;",
    good="DO $$ BEGIN PERFORM 1; END $$;",
)
def unreadable(scene: Scene) -> Iterator[Note]:
    """It runs code that cannot be read: a text that is put together, another language, or nobody's database."""
    for part in scene.parts:
        if part.because and not part.calls:
            where = f"Inside {part.within}: " if part.within else ""
            yield Note(
                f"{where}{part.because}. What that locks, changes and loses is unknown.",
                "-- write the statements themselves into the migration",
            )


@rule(
    "acts-beyond-the-statement",
    Severity.WARNING,
    bad="SELECT pg_switch_wal();",
    good="SELECT now();",
)
def acts_beyond(scene: Scene) -> Iterator[Note]:
    """It calls a function that acts beyond the rows that it names."""
    for part in scene.parts:
        if part.calls:
            where = f"Inside {part.within}: " if part.within else ""
            yield Note(f"{where}{part.because}.", f"-- not in a migration: call {part.calls} by hand, and look on")


@rule(
    "explain-analyze-writes",
    Severity.ERROR,
    on=(ast.ExplainStmt,),
    bad="EXPLAIN ANALYZE DELETE FROM sessions WHERE id = 1;",
    good="EXPLAIN DELETE FROM sessions WHERE id = 1;",
)
def explain_writes(scene: Scene) -> Iterator[Note]:
    """EXPLAIN ANALYZE runs a statement that changes rows."""
    if _analyzes(scene) and scene.written:
        yield Note(
            "The rows are really changed: EXPLAIN ANALYZE executes the statement.",
            f"EXPLAIN {text(scene.node.query)};  -- ANALYZE on a branch",
        )


@rule(
    "explain-analyze-runs",
    Severity.NOTE,
    on=(ast.ExplainStmt,),
    bad="EXPLAIN ANALYZE SELECT * FROM deployments WHERE state = 'x';",
    good="EXPLAIN SELECT * FROM deployments WHERE state = 'x';",
)
def explain_runs(scene: Scene) -> Iterator[Note]:
    """EXPLAIN ANALYZE runs the query that it explains."""
    if _analyzes(scene) and not scene.written:
        yield Note(
            "It takes as long as the query itself, and what the query's functions write is committed.",
            f"EXPLAIN {text(scene.node.query)};  -- or with SET LOCAL statement_timeout = '5s'",
        )


def _analyzes(scene: Scene) -> bool:
    return isinstance(scene.node, ast.ExplainStmt) and analyzes(scene.node)
