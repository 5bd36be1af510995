"""Safe-migrations mode: what is refused unless the operator names the object."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pglast import ast

from pgrunbook.changes.ahead import after
from pgrunbook.changes.catalog import Catalog, Constraint, Standing, Table
from pgrunbook.changes.statements import Statement
from pgrunbook.changes.syntax import dotted, object_kind, quoted, relation, subcommand, tree
from pgrunbook.changes.usage import uses_of

CASCADE = 1
_USERS = ("view", "materialized view", "rule", "function", "trigger", "policy", "generated column", "publication")


@dataclass(frozen=True)
class Refusal:
    """A statement that safe-migrations mode does not let pass; naming ``object`` as allowed lets it."""

    object: str
    reason: str
    file: str
    line: int


def refusals(statements: Sequence[Statement], catalog: Catalog, allowed: Collection[str]) -> list[Refusal]:
    """Return what the statements must not do here, in order; [] when all of it is harmless or allowed.

    Refused are dropping a table that holds rows, dropping a column that is in use, and breaking a foreign key.
    An object is allowed by its name, with its schema or without: ``orders``, ``public.orders.total``.
    """
    found = []
    for statement in statements:
        node = tree(statement.sql)
        for name, reason in _reasons(node, catalog):
            if not _is_allowed(name, allowed):
                found.append(Refusal(name, reason, statement.file, statement.line))
        catalog = after(catalog, node)
    return list(dict.fromkeys(found))


def _is_allowed(name: str, allowed: Collection[str]) -> bool:
    return name in allowed or name.partition(".")[2] in allowed


def _reasons(node: Any, catalog: Catalog) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.DropStmt):
        yield from _dropped(node, catalog)
    elif isinstance(node, ast.AlterTableStmt):
        table = catalog.find(relation(node.relation))
        if table.standing in (Standing.NEW, Standing.MISSING):
            return
        for cmd in node.cmds:
            if subcommand(cmd) == "DropColumn":
                yield from _column(table, cmd.name, catalog)
            elif subcommand(cmd) == "DropConstraint":
                yield from _constraint(table, cmd.name, catalog, cascade=cmd.behavior == CASCADE)


def _dropped(node: Any, catalog: Catalog) -> Iterator[tuple[str, str]]:
    kind, cascade = object_kind(node.removeType), node.behavior == CASCADE
    named = [catalog.find(dotted(entry)) for entry in node.objects] if kind == "TABLE" else []
    if kind == "SCHEMA" and cascade:
        schemas = {dotted(entry).name for entry in node.objects}
        named = [table for table in catalog.tables.values() if table.schema in schemas and table.kind in ("r", "p")]
    for table in named:
        yield from _table(table, {t.key for t in named}, catalog)
    if kind in ("TYPE", "DOMAIN") and cascade:
        types = {dotted(entry).name for entry in node.objects}
        for table in catalog.tables.values():
            for column in table.columns.values():
                if column.type.rpartition(".")[2].strip('"') in types and table.rows_estimate != 0:
                    name = f"{table.label}.{quoted(column.name)}"
                    yield name, "the column goes with its type, and the table holds rows"


def _table(table: Table, together: set[tuple[str, str]], catalog: Catalog) -> Iterator[tuple[str, str]]:
    if table.standing in (Standing.NEW, Standing.MISSING):
        return
    rows = catalog.rows_estimate(table)
    if rows is None:
        yield table.label, "nobody knows whether the table holds rows"
    elif rows > 0:
        yield table.label, f"the table holds rows (about {rows:,})"
    for other, key in catalog.references_to(table):
        if other.key not in together:
            yield f"{other.label}.{quoted(key.name)}", f"the foreign key refers to {table.label}"


def _column(table: Table, name: str, catalog: Catalog) -> Iterator[tuple[str, str]]:
    label = f"{table.label}.{quoted(name)}"
    users = [f"{d.kind} {d.name}" for d in table.dependents if d.kind in _USERS and name in d.columns]
    users += [f"index {index.label}" for index in table.indexes if name in index.uses]
    users += [f"constraint {c.name}" for c in table.constraints if name in c.columns and c.kind in ("c", "x")]
    calls = sum(use.calls for use in uses_of(catalog, table, name)) if catalog.uses_known else 0
    users += [f"{calls:,} calls in pg_stat_statements"] if calls else []
    if users:
        yield label, f"the column is in use: {', '.join(users)}"
    elif table.standing is Standing.UNKNOWN:
        yield label, "nobody knows whether the column is in use"
    for constraint in table.constraints:
        if name in constraint.columns and constraint.kind == "f":
            yield _key(table, constraint), f"the foreign key goes with column {label}"
    for other, constraint in catalog.references_to(table):
        if name in constraint.partner_columns:
            yield _key(other, constraint), f"the foreign key refers to column {label}"


def _constraint(table: Table, name: str, catalog: Catalog, *, cascade: bool) -> Iterator[tuple[str, str]]:
    for constraint in table.constraints:
        if constraint.name != name:
            continue
        if constraint.kind == "f":
            yield _key(table, constraint), "the foreign key is dropped"
        for other, key in catalog.references_to(table) if cascade and constraint.kind in ("p", "u") else ():
            if set(key.partner_columns) == set(constraint.columns):
                yield _key(other, key), f"the foreign key needs {name}, and goes by CASCADE"


def _key(table: Table, constraint: Constraint) -> str:
    return f"{table.label}.{quoted(constraint.name)}"
