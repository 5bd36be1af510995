"""Hazards of building, dropping and rebuilding indexes."""

# ruff: noqa: S608 - ways out are shown to people and not run

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pglast import ast

from pgrunbook.database.catalog import Standing, Table
from pgrunbook.display.prose import counted
from pgrunbook.review.hazards import estimates
from pgrunbook.review.hazards.rule import Note, Scene, Severity, Transactions, others_see, rule
from pgrunbook.sql.default_names import free_name, index_columns, joined_columns
from pgrunbook.sql.tree import Name, changed, dotted, is_on, object_kind, quoted, relation

ENOUGH_FOR_AN_INDEX_MS = 20 * 60_000


@rule(
    "index-not-concurrent",
    Severity.ERROR,
    on=(ast.IndexStmt,),
    bad="CREATE INDEX orders_user ON orders (user_id);",
    good="CREATE INDEX CONCURRENTLY orders_user ON orders (user_id);",
)
def not_concurrent(scene: Scene) -> Iterator[Note]:
    """An index is built while writers of its table wait."""
    node = scene.node
    if not isinstance(node, ast.IndexStmt) or node.concurrent:
        return
    table = scene.table(node.relation)
    if not scene.effects.scans:  # it is there, or its partitions have it
        return
    time = estimates.index_time(scene.catalog, table)
    effect = f"Every INSERT, UPDATE and DELETE on {table.label} waits {time} (ShareLock)."
    if table.kind == "p":
        yield Note(effect, "\n".join(_by_partition(scene, table)), on=table)
        return
    yield Note(effect, _concurrently(scene) + "  -- outside a transaction; then check pg_index.indisvalid", on=table)


def _concurrently(scene: Scene) -> str:
    def change(node: Any) -> None:
        node.concurrent = True
        node.if_not_exists = False

    return changed(scene.sql, change) + ";"


def _by_partition(scene: Scene, table: Table, above: str = "") -> Iterator[str]:
    """Yield the statements that build the index of a partitioned table part by part; each part is attached."""
    made = scene.node.idxname if not above and scene.node.idxname else ""
    taken = {index.name for each in scene.catalog.tables.values() for index in each.indexes}
    name = made or free_name(table.name, joined_columns(index_columns(scene.node)), "idx", taken)

    def change(node: Any) -> None:
        node.idxname, node.if_not_exists = name, False
        node.relation = ast.RangeVar(schemaname=table.schema or None, relname=table.name, relpersistence="p")
        node.relation.inh = table.kind != "p"
        node.concurrent = table.kind != "p"

    yield changed(scene.sql, change) + ";"
    label = str(Name(table.schema or None, name))
    for child in map(scene.catalog.at, table.children):
        yield from _by_partition(scene, child, label)
    if above:
        yield f"ALTER INDEX {above} ATTACH PARTITION {label};"


@rule(
    "concurrently-on-partitioned",
    Severity.ERROR,
    on=(ast.IndexStmt,),
    setup="CREATE TABLE p (id integer, at date) PARTITION BY RANGE (at);"
    " CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');",
    bad="CREATE INDEX CONCURRENTLY p_id ON p (id);",
    good="CREATE INDEX p_id ON ONLY p (id); CREATE INDEX CONCURRENTLY p_1_id ON p_1 (id);",
)
def on_partitioned(scene: Scene) -> Iterator[Note]:
    """An index of a partitioned table cannot be built concurrently as a whole."""
    node = scene.node
    if isinstance(node, ast.IndexStmt) and node.concurrent:
        table = scene.table(node.relation)
        if table.kind == "p":
            yield Note(f"PostgreSQL refuses it: {table.label} is partitioned.", "\n".join(_by_partition(scene, table)))


@rule(
    "index-if-not-exists",
    Severity.WARNING,
    on=(ast.IndexStmt,),
    bad="CREATE INDEX CONCURRENTLY IF NOT EXISTS orders_user ON orders (user_id);",
    good="CREATE INDEX CONCURRENTLY orders_user ON orders (user_id);",
)
def if_not_exists(scene: Scene) -> Iterator[Note]:
    """IF NOT EXISTS accepts any index of that name, even a different or an INVALID one."""
    node = scene.node
    if isinstance(node, ast.IndexStmt) and node.if_not_exists and others_see(scene.table(node.relation)):
        name = quoted(node.idxname)
        table = scene.table(node.relation)
        known = next((index for index in table.indexes if index.name == node.idxname), None)
        is_invalid = known is not None and not known.valid
        if not node.concurrent and not is_invalid:
            return  # a build in a transaction that fails leaves nothing behind
        state = " It exists now, and is INVALID." if is_invalid else ""
        yield Note(
            f"After a failed build {name} exists but is INVALID: it slows down every write, serves no query, and this"
            f" statement skips it.{state}",
            f"DROP INDEX CONCURRENTLY IF EXISTS {name};\n{_concurrently(scene)}",
        )


@rule(
    "index-validity-unchecked",
    Severity.NOTE,
    on=(ast.IndexStmt,),
    taste=True,
    bad="CREATE INDEX CONCURRENTLY orders_user ON orders (user_id);",
    good="CREATE INDEX orders_user ON ONLY orders (user_id);",
)
def validity_unchecked(scene: Scene) -> Iterator[Note]:
    """A concurrent build that fails leaves an INVALID index behind."""
    node = scene.node
    if isinstance(node, ast.IndexStmt) and node.concurrent and scene.transactions is Transactions.UNKNOWN:
        name = quoted(node.idxname) if node.idxname else "the index"
        yield Note(
            f"A deadlock, a duplicate key or a timeout leaves {name} behind as INVALID, and nothing reports it.",
            f"SELECT indisvalid FROM pg_index WHERE indexrelid = '{name}'::regclass;\n"
            f"DROP INDEX CONCURRENTLY {name};  -- if that is false; then build it again",
        )


@rule(
    "concurrently-in-transaction",
    Severity.ERROR,
    on=(ast.IndexStmt, ast.DropStmt, ast.ReindexStmt),
    bad="BEGIN; CREATE INDEX CONCURRENTLY orders_user ON orders (user_id); COMMIT;",
    good="CREATE INDEX CONCURRENTLY orders_user ON orders (user_id);",
)
def in_transaction(scene: Scene) -> Iterator[Note]:
    """A statement that cannot run in a transaction stands between BEGIN and COMMIT."""
    node = scene.node
    concurrent = getattr(node, "concurrent", False) or is_on(getattr(node, "params", None), "concurrently")
    if scene.transaction is not None and concurrent and not isinstance(node, ast.RefreshMatViewStmt):
        yield Note(
            "PostgreSQL refuses it, and the transaction is aborted.",
            f"{scene.sql};  -- outside a transaction",
        )


@rule(
    "index-build-under-timeout",
    Severity.WARNING,
    on=(ast.IndexStmt,),
    bad="SET statement_timeout = '5s'; CREATE INDEX CONCURRENTLY orders_user ON orders (user_id);",
    good="SET statement_timeout = 0; CREATE INDEX CONCURRENTLY orders_user ON orders (user_id);",
)
def under_timeout(scene: Scene) -> Iterator[Note]:
    """A concurrent build runs under a statement_timeout that was meant for short statements."""
    node = scene.node
    if not isinstance(node, ast.IndexStmt) or not node.concurrent or scene.transactions is Transactions.FILE:
        return  # our own runner gives a build its own time
    table = scene.table(node.relation)
    if 0 < scene.timeouts.statement_ms < ENOUGH_FOR_AN_INDEX_MS:
        yield Note(
            f"After {scene.timeouts.statement_ms} ms the build is cancelled and leaves an INVALID index; it reads"
            f" {table.label} twice and waits for every older transaction.",
            f"SET statement_timeout = 0;\n{scene.sql};",
            on=table,
        )


@rule(
    "drop-index-not-concurrent",
    Severity.ERROR,
    on=(ast.DropStmt,),
    bad="DROP INDEX orders_user;",
    good="DROP INDEX CONCURRENTLY orders_user;",
)
def drop_not_concurrent(scene: Scene) -> Iterator[Note]:
    """An index is dropped while readers and writers of its table wait."""
    node = scene.node
    if not isinstance(node, ast.DropStmt) or object_kind(node.removeType) != "INDEX" or node.concurrent:
        return
    for entry in node.objects:
        known = scene.catalog.index(dotted(entry))
        if known is None and scene.catalog.connected:
            continue
        table = known[0].label if known else "its table"
        used = f" Queries have used it {counted(known[1].scans, 'time')}." if known and known[1].scans else ""
        yield Note(
            f"It waits for every transaction that uses {table}, and every later statement, reads too, queues behind"
            f" it (AccessExclusiveLock).{used}",
            f"DROP INDEX CONCURRENTLY IF EXISTS {dotted(entry)};  -- outside a transaction, one index each",
            on=known[0] if known else None,
        )


@rule(
    "reindex-not-concurrent",
    Severity.ERROR,
    on=(ast.ReindexStmt,),
    bad="REINDEX TABLE orders;",
    good="REINDEX TABLE CONCURRENTLY orders;",
)
def reindex(scene: Scene) -> Iterator[Note]:
    """Indexes are rebuilt while writers wait, and readers whose plan looks at them."""
    node = scene.node
    if not isinstance(node, ast.ReindexStmt) or is_on(node.params, "concurrently"):
        return
    what = str(relation(node.relation)) if node.relation else quoted(node.name or "")
    word = ("INDEX", "TABLE", "SCHEMA", "SYSTEM", "DATABASE")[node.kind]
    known = scene.catalog.index(relation(node.relation)) if node.relation and word == "INDEX" else None
    table = known[0] if known else scene.table(node.relation) if node.relation and word == "TABLE" else None
    if table is not None and table.standing is Standing.THERE and not scene.effects.rebuilds:
        return
    time = estimates.index_time(scene.catalog, table) if table else "for as long as the rebuild takes"
    way = f"REINDEX {word} CONCURRENTLY {what};  -- then drop INVALID indexes whose names end in _ccnew or _ccold"
    if word == "SYSTEM":
        way = "-- the indexes of the system catalogs cannot be rebuilt CONCURRENTLY: in a maintenance window"
    yield Note(
        f"Writers of the table wait {time} (ShareLock), and so do readers whose plan looks at an index that is being"
        " rebuilt (AccessExclusiveLock on the index).",
        way,
        on=table,
    )
