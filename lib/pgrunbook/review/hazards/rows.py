"""Hazards of changing rows: no batches, conditions that stay true, values that do not fit."""

# ruff: noqa: S608 - ways out are shown to people and not run

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

from pglast import ast, enums

from pgrunbook.database.catalog import Standing, Table
from pgrunbook.review.hazards import estimates
from pgrunbook.review.hazards.batches import called, condition, kept_and_deleted, key_of, one_batch
from pgrunbook.review.hazards.rule import CHANGES, Note, Scene, Severity, others_see, rule
from pgrunbook.sql.tree import columns_in, functions_in, quoted, relation, strings, text, tree, walk

BATCH_AT_MOST = 50_000
_WIDE = {"int8", "bigint", "numeric", "float8", "float4", "text"}
_FACTOR = 10


def bounded(table: Table, node: Any) -> bool:
    """Whether only few rows can match a condition: constants for a unique key, a key range, a LIMIT."""
    for limit in (query.limitCount for query in batch_queries(node)):
        if limit is not None and not (isinstance(limit, ast.A_Const) and getattr(limit.val, "ival", 0) > BATCH_AT_MOST):
            return True
    known = {index.keys[0] for index in table.indexes if index.unique and len(index.keys) == 1}
    keys = known or {"id", "uuid", "key", f"{table.name}_id", f"{table.name.removesuffix('s')}_id"}
    ranges: dict[str, set[str]] = {}
    for part in _conjuncts(node.whereClause):
        if isinstance(part, ast.CurrentOfExpr):
            return True
        if not isinstance(part, ast.A_Expr) or not isinstance(part.lexpr, ast.ColumnRef):
            continue
        column = getattr(part.lexpr.fields[-1], "sval", "")
        if column not in keys or (columns_in(part.rexpr) and not _is_one_value(part.rexpr, called(node.relation))):
            continue
        if part.kind == enums.A_Expr_Kind.AEXPR_BETWEEN or part.name[-1].sval == "=":
            return True
        ranges.setdefault(column, set()).add(part.name[-1].sval[0])
    return any({"<", ">"} <= signs for signs in ranges.values())


def batch_queries(node: Any) -> Iterator[Any]:
    """Yield the queries of a statement that choose its rows: not those which only compute a new value."""
    fields = ("withClause", "fromClause", "usingClause", "whereClause", "selectStmt")
    for part in (part for field in fields for part in walk(getattr(node, field, None))):
        if isinstance(part, ast.SelectStmt):
            yield part


def _is_one_value(node: Any, outer: str) -> bool:
    """Whether a value is a query's, the same for every row: nothing in it is named as the outer table's."""
    if not isinstance(node, ast.SubLink) or node.subLinkType != enums.SubLinkType.EXPR_SUBLINK:
        return False
    references = [part for part in walk(node.subselect) if isinstance(part, ast.ColumnRef) and len(part.fields) > 1]
    own = {called(part) for part in walk(node.subselect) if isinstance(part, ast.RangeVar)}
    return bool(own) and (outer in own or all(quoted(part.fields[-2].sval) != outer for part in references))


def _conjuncts(node: Any) -> Iterator[Any]:
    if isinstance(node, ast.BoolExpr) and node.boolop == enums.BoolExprType.AND_EXPR:
        for part in node.args:
            yield from _conjuncts(part)
    elif node is not None:
        yield node


@rule(
    "update-unbatched",
    Severity.ERROR,
    on=(ast.UpdateStmt,),
    bad="UPDATE projects SET status = 'active' WHERE status IS NULL;",
    good="UPDATE projects SET status = 'active' WHERE id > 0 AND id <= 1000 AND status IS NULL;",
)
def update_unbatched(scene: Scene) -> Iterator[Note]:
    """An UPDATE can change all rows in one transaction."""
    for node in scene.written:
        table = scene.table(node.relation)
        if not isinstance(node, ast.UpdateStmt) or bounded(table, node) or is_history(table.name):
            continue
        time = estimates.change_time(scene.catalog, table)
        yield Note(
            f"Every changed row stays locked for other writers {time}; each change leaves a dead row and WAL behind,"
            " replicas lag, and one error undoes all of it.",
            partial(one_batch, table, node),
            table,
        )


@rule(
    "delete-unbatched",
    Severity.ERROR,
    on=(ast.DeleteStmt,),
    bad="DELETE FROM sessions WHERE created_at < now() - interval '30 days';",
    good="DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE created_at < now() - interval '30 days'"
    " ORDER BY id LIMIT 1000);",
)
def delete_unbatched(scene: Scene) -> Iterator[Note]:
    """A DELETE can delete all rows in one transaction."""
    for node in scene.written:
        table = scene.table(node.relation)
        if not isinstance(node, ast.DeleteStmt) or bounded(table, node) or is_history(table.name):
            continue
        cascades = [f"{other.label} ({fk.name})" for other, fk in scene.catalog.references_to(table)]
        follow = f" Through foreign keys it also reads or changes {', '.join(cascades)}." if cascades else ""
        slow = _unindexed(table, node)
        yield Note(
            f"Each row stays locked {estimates.change_time(scene.catalog, table)}, and deleted rows are lost"
            f" permanently.{follow}{slow}",
            partial(kept_and_deleted, table, node),
            table,
        )


def _unindexed(table: Table, node: Any) -> str:
    columns = columns_in(node.whereClause) - {"*"}
    if table.standing is not Standing.THERE or not columns:
        return ""
    if any(index.keys and index.keys[0] in columns for index in table.indexes):
        return ""
    return f" No index begins with {' or '.join(sorted(columns))}: each batch would read the whole table."


@rule(
    "update-writes-done-rows",
    Severity.WARNING,
    on=(ast.UpdateStmt,),
    bad="UPDATE orgs SET flag = true;",
    good="UPDATE orgs SET flag = true WHERE id = 1 AND flag IS DISTINCT FROM true;",
)
def writes_done_rows(scene: Scene) -> Iterator[Note]:
    """An UPDATE also writes rows that already have the new value."""
    for node in scene.written:
        if not isinstance(node, ast.UpdateStmt) or node.fromClause:
            continue
        table = scene.table(node.relation)
        if bounded(table, node):
            continue  # few rows: to write one for nothing costs nothing
        constants = [t for t in node.targetList if isinstance(t.val, ast.A_Const)]
        if constants and not {t.name for t in node.targetList} & columns_in(node.whereClause):
            target = constants[0]
            yield Note(
                f"Rows of {table.label} that already have the value are written again, with their index entries.",
                partial(_only_others, node, target),
                table,
            )


def _only_others(node: Any, target: Any) -> str:
    """Return an UPDATE that leaves out the rows which have the new value already."""
    also = "" if node.whereClause is None else f"({condition(node)}) AND "
    where = f"SELECT 1 WHERE {also}{quoted(target.name)} IS DISTINCT FROM {text(target.val)}"
    other = copy.copy(node)
    other.whereClause = tree(where).whereClause
    return f"{text(other)};"


@rule(
    "backfill-leaves-nulls",
    Severity.WARNING,
    on=(ast.UpdateStmt,),
    bad="UPDATE projects SET status = 'active' WHERE status IS NULL;",
    good="ALTER TABLE projects ALTER COLUMN status SET DEFAULT 'active';"
    " UPDATE projects SET status = 'active' WHERE status IS NULL;",
)
def leaves_nulls(scene: Scene) -> Iterator[Note]:
    """NULLs are filled, but nothing prevents new ones."""
    for node in scene.written:
        if not isinstance(node, ast.UpdateStmt):
            continue
        table = scene.table(node.relation)
        for target in node.targetList:
            column = table.columns.get(target.name)
            constant = isinstance(target.val, ast.A_Const)
            if not constant or not _asks_null(node.whereClause, target.name):
                continue
            if (column is not None and (column.default or column.not_null)) or _default_set(scene, table, target.name):
                continue
            yield Note(
                f"Rows inserted meanwhile have NULL in {quoted(target.name)}, and keep it.",
                f"ALTER TABLE {table.label} ALTER COLUMN {quoted(target.name)} SET DEFAULT {text(target.val)};"
                "  -- first; then the batches; then SET NOT NULL through a validated CHECK",
                table,
            )


def _asks_null(where: Any, column: str) -> bool:
    return any(
        isinstance(part, ast.NullTest) and part.nulltesttype == enums.NullTestType.IS_NULL
        and column in columns_in(part.arg)
        for part in walk(where)
    )  # fmt: skip


def _default_set(scene: Scene, table: Table, column: str) -> bool:
    return any(
        cmd.name == column and cmd.def_ is not None
        for other in scene.earlier
        for altered, cmd in other.altered()
        if altered.name == table.name
    )


@rule(
    "jsonb-set-on-any-value",
    Severity.ERROR,
    on=(ast.UpdateStmt,),
    bad="UPDATE deployments SET config = jsonb_set(config, '{version}', '2') WHERE config->>'version' IS NULL;",
    good="UPDATE deployments SET config = jsonb_set(config, '{version}', '2')"
    " WHERE id = 1 AND jsonb_typeof(config) = 'object';",
)
def jsonb_set(scene: Scene) -> Iterator[Note]:
    """jsonb_set is applied to values that may be NULL or not an object."""
    for node in scene.written:
        calls = set(functions_in(getattr(node, "targetList", None))) if isinstance(node, ast.UpdateStmt) else set()
        if not calls & {"jsonb_set", "jsonb_insert", "jsonb_set_lax"}:
            continue
        if "jsonb_typeof" in functions_in(node.whereClause):
            continue
        table = scene.table(node.relation)
        column = quoted(node.targetList[0].name)
        yield Note(
            f"One array or scalar in {table.label}.{column} makes the whole UPDATE fail. A NULL stays NULL, is still"
            " written, and matches the same condition again: a loop over it never ends. The old value is lost.",
            f"UPDATE {table.label} SET {column} = {text(node.targetList[0].val)}\n"
            f"WHERE jsonb_typeof({column}) = 'object';"
            f"  -- in batches, by a condition that a changed row does not meet; first copy ({key_of(table)}, {column})",
        )


@rule(
    "integer-overflow",
    Severity.WARNING,
    on=(ast.UpdateStmt,),
    bad="UPDATE instances SET cpu_new = cpu * 1000 WHERE id = 1;",
    good="UPDATE instances SET cpu_new = cpu::bigint * 1000 WHERE id = 1;",
)
def overflow(scene: Scene) -> Iterator[Note]:
    """A product may not fit into an integer, and then the whole statement fails."""
    for node in scene.written:
        if not isinstance(node, ast.UpdateStmt):
            continue
        table = scene.table(node.relation)
        for target in node.targetList:
            product = target.val
            if not isinstance(product, ast.A_Expr) or not product.name or product.name[-1].sval != "*":
                continue
            sides = (product.lexpr, product.rexpr)
            factor = max((getattr(getattr(s, "val", None), "ival", 0) or 0 for s in sides), default=0)
            source = next((s for s in sides if isinstance(s, ast.ColumnRef)), None)
            if source is None or factor < _FACTOR:
                continue
            name = source.fields[-1].sval
            known = table.columns.get(name)
            if known is not None and known.base in _WIDE:
                continue
            yield Note(
                f"From {quoted(name)} = {2**31 // factor:,} on it fails with 'integer out of range', and the whole"
                " statement is undone.",
                f"SELECT max({quoted(name)}) FROM {table.label};  -- check first\n"
                f"-- SET {quoted(target.name)} = {quoted(name)}::bigint * {factor}, into a bigint column",
                table if others_see(table) else None,
            )


@rule(
    "not-in-with-nulls",
    Severity.WARNING,
    on=(ast.SubLink,),
    bad="DELETE FROM orders WHERE id = 1 AND user_id NOT IN (SELECT owner FROM projects);",
    good="DELETE FROM orders WHERE id = 1 AND NOT EXISTS (SELECT FROM projects WHERE owner = user_id);",
)
def not_in(scene: Scene) -> Iterator[Note]:
    """NOT IN over a subquery matches no row as soon as the subquery returns one NULL."""
    for node in scene.nodes:
        for part in walk(node):
            if not isinstance(part, ast.BoolExpr) or part.boolop != enums.BoolExprType.NOT_EXPR:
                continue
            inner = part.args[0]
            if isinstance(inner, ast.SubLink) and inner.subLinkType == enums.SubLinkType.ANY_SUBLINK:
                if _never_null(scene, inner.subselect):
                    continue
                yield Note(
                    "With one NULL among the values no row matches: nothing is deleted, updated or returned.",
                    f"-- NOT EXISTS (SELECT FROM ... WHERE ... = {text(inner.testexpr)})",
                )


def _never_null(scene: Scene, query: Any) -> bool:
    if not query.fromClause or not isinstance(query.fromClause[0], ast.RangeVar):
        return False
    table, value = scene.table(query.fromClause[0]), query.targetList[0].val
    column = table.columns.get(value.fields[-1].sval) if isinstance(value, ast.ColumnRef) and not isinstance(
        value.fields[-1], ast.A_Star) else None  # fmt: skip
    return column is not None and column.not_null


_HISTORY = {
    "schema_migrations", "__drizzle_migrations", "flyway_schema_history", "alembic_version", "_prisma_migrations",
    "django_migrations", "knex_migrations", "goose_db_version", "pgmigrations", "sequelizemeta", "databasechangelog",
    "ar_internal_metadata", "changes", "typeorm_migrations", "_sqlx_migrations", "atlas_schema_revisions",
}  # fmt: skip


def is_history(name: str) -> bool:
    """Whether a table is the history table of a migration tool."""
    return name.lower() in _HISTORY - {"changes"}


@rule(
    "history-edited-by-hand",
    Severity.ERROR,
    on=CHANGES,
    bad="DELETE FROM schema_migrations WHERE version = '0003';",
    good="DELETE FROM sessions WHERE id = 3;",
)
def history(scene: Scene) -> Iterator[Note]:
    """The history table of a migration tool is changed by hand."""
    for node in scene.written:
        of_these_files = scene.table(node.relation).standing is Standing.NEW
        if is_history(node.relation.relname) and not of_these_files and not _is_of_alembic(node):
            name = relation(node.relation)
            yield Note(
                f"{name} no longer matches the schema: the next run applies a migration twice, or never.",
                f"-- use procedure rollback: it takes back a migration and its row in {name} in one transaction, and"
                " checks first that both exist",
            )


def _is_of_alembic(node: Any) -> bool:
    """Whether a statement is one of those that ``alembic upgrade --sql`` prints: they name the column in full."""
    told = node.returningClause if isinstance(node, ast.InsertStmt) else node.whereClause
    named = [part.fields for part in walk(told) if isinstance(part, ast.ColumnRef)]
    return [strings(fields) for fields in named] == [("alembic_version", "version_num")]


@rule(
    "duplicates-kept-by-tie",
    Severity.WARNING,
    on=(ast.DeleteStmt,),
    bad="DELETE FROM a WHERE id = 1 AND at <> (SELECT min(at) FROM a WHERE id = 1);",
    good="DELETE FROM a WHERE ctid IN (SELECT ctid FROM (SELECT ctid, row_number() OVER (PARTITION BY id ORDER BY at)"
    " AS n FROM a) AS x WHERE n > 1 LIMIT 1000);",
)
def ties(scene: Scene) -> Iterator[Note]:
    """Duplicates are distinguished by a minimum or maximum that several of them can share, or that can be NULL."""
    for node in scene.written:
        if not isinstance(node, ast.DeleteStmt):
            continue
        for part in walk(node.whereClause):
            if isinstance(part, ast.A_Expr) and part.name and part.name[-1].sval == "<>":
                query = getattr(part.rexpr, "subselect", None)
                if query is not None and {"min", "max"} & set(functions_in(query)):
                    table = relation(node.relation)
                    yield Note(
                        f"Rows of {table} with equal values all stay; rows with NULL are never deleted.",
                        f"-- DELETE FROM {table} WHERE ctid IN (SELECT ctid FROM (SELECT ctid, row_number() OVER"
                        f" (PARTITION BY ... ORDER BY ...) AS n FROM {table}) AS d WHERE n > 1);\n"
                        f"-- then a primary key on {table}, so that no duplicate can be inserted again",
                    )


@rule(
    "now-against-time-without-zone",
    Severity.NOTE,
    on=(ast.UpdateStmt, ast.DeleteStmt),
    setup="CREATE TABLE sessions (id int PRIMARY KEY, at timestamp, zoned timestamptz);",
    bad="DELETE FROM sessions WHERE id = 1 AND at < now();",
    good="DELETE FROM sessions WHERE id = 1 AND zoned < now();",
)
def now_without_zone(scene: Scene) -> Iterator[Note]:
    """now() is compared with a timestamp without time zone."""
    for node in scene.written:
        table = scene.table(node.relation)
        for part in walk(getattr(node, "whereClause", None)):
            if isinstance(part, ast.A_Expr) and {"now", "clock_timestamp"} & set(functions_in(part)):
                for name in columns_in(part) & table.columns.keys():
                    if table.columns[name].base == "timestamp":
                        yield Note(
                            f"Which rows of {table.label} match depends on the session's TimeZone, by hours.",
                            f"SET LOCAL TimeZone = 'UTC';  -- the zone in which {quoted(name)} was written",
                        )
