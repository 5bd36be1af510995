"""Safe-migrations mode: statements that are refused unless the operator names the object; for prepare and review."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

from pglast import ast

from pgrunbook.database.catalog import Catalog, Key, Standing, Table
from pgrunbook.database.relations import CatalogConstraint
from pgrunbook.effects.catalog_after import after
from pgrunbook.effects.drop import emptied
from pgrunbook.effects.renames import moves
from pgrunbook.errors import Refused
from pgrunbook.review.column_usage import uses_of
from pgrunbook.sql.places import Place
from pgrunbook.sql.settings import all_settings
from pgrunbook.sql.statements import Statement
from pgrunbook.sql.tree import CASCADE, Name, dotted, object_kind, quoted, relation, subcommand, tree

PARAMETER = "allow_loss"
_USERS = ("view", "materialized view", "rule", "function", "trigger", "policy", "generated column", "publication")


CANNOT_TELL = "the file sets search_path before it, so the name may mean any schema's object"


@dataclass(frozen=True)
class Refusal:
    """A statement that safe-migrations mode refuses, unless ``object`` is named as allowed."""

    object: str
    reason: str
    file: str
    place: Place


def refusals(statements: Sequence[Statement], catalog: Catalog, allowed: Collection[str]) -> list[Refusal]:
    """Return what is refused of the statements, in order; [] when all are harmless or allowed.

    Refused are dropping or emptying a table that holds rows, dropping a column that is in use, and breaking a
    foreign key of a table that holds rows; also inside DO, as far as it can be read. Objects that the statements
    themselves have created may be dropped.
    An object is allowed by its name, with its schema or without: ``orders``, ``public.orders.total``.
    """
    found: list[Refusal] = []
    made: frozenset[Key] = frozenset()
    file, moved = "", False
    for statement in statements:
        node = tree(statement.sql)
        inner = [part.node for part in catalog.parts(node) if part.node is not None]
        moves = any(setting.may_be_search_path for setting in all_settings((node, *inner)))
        file, moved = statement.file, (moved and statement.file == file) or moves
        for name in (name for part in (node, *inner) for name in _bare(part)) if moved else ():
            if not _is_allowed(name, allowed):
                found.append(Refusal(name, CANNOT_TELL, statement.file, statement.place))
        for part in (node, *inner):
            for name, reason in _reasons(part, catalog, made):
                if not _is_allowed(name, allowed):
                    found.append(Refusal(name, reason, statement.file, statement.place))
            made = _made(part, catalog, made)
            catalog = after(catalog, part)
    return list(dict.fromkeys(found))


def refused(found: Sequence[Refusal], target: str, allowed: Collection[str] = ()) -> Refused:
    """Return the error for these refusals; its hint adds them to what is allowed already."""
    number = len({(one.file, one.place) for one in found})
    lose = f"{number} statements lose" if number > 1 else "1 statement loses"
    return Refused(
        f"refused in safe-migrations mode: {lose} something that is in use",
        detail="; ".join(f"{one.place}: {one.object}: {one.reason}" for one in found),
        hint="Keep these objects, or name those that may be lost: "
        f"{way_through([*allowed, *(one.object for one in found)], target)}",
    )


def way_through(objects: Collection[str], target: str) -> str:
    """Return the shell command that allows the loss of these objects."""
    named = list(dict.fromkeys(objects))
    value = json.dumps(named, ensure_ascii=False) if any("," in name for name in named) else ",".join(named)
    return f"pgrunbook run release --target {shlex.quote(target)} -p {shlex.quote(f'{PARAMETER}={value}')}"


def _bare(node: Any) -> Iterator[str]:
    """Yield tables, named without a schema, of which a statement may lose something."""
    names: list[Name] = []
    if isinstance(node, ast.DropStmt) and object_kind(node.removeType) == "TABLE":
        names = [dotted(entry) for entry in node.objects]
    elif isinstance(node, ast.TruncateStmt):
        names = [relation(table) for table in node.relations]
    elif isinstance(node, ast.AlterTableStmt):
        loses = any(subcommand(cmd) in ("DropColumn", "DropConstraint") for cmd in node.cmds)
        names = [relation(node.relation)] if loses else []
    return (str(name) for name in names if not name.schema)


def _is_allowed(name: str, allowed: Collection[str]) -> bool:
    return name in allowed or name.partition(".")[2] in allowed


def _made(node: Any, catalog: Catalog, made: frozenset[Key]) -> frozenset[Key]:
    """Return the tables that the statements have created so far, under their current names."""
    match node:
        case ast.CreateStmt():
            table = catalog.find(relation(node.relation))
        case ast.CreateTableAsStmt():
            table = catalog.find(relation(node.into.rel))
        case _:
            moved = moves(catalog, node)
            return made - {*moved, *moved.values()} | {moved[key] for key in made & moved.keys()}
    return made if table.standing is Standing.THERE else made | {table.key}


def _reasons(node: Any, catalog: Catalog, made: Set[Key]) -> Iterator[tuple[str, str]]:
    match node:
        case ast.DropStmt():
            yield from _dropped(node, catalog, made)
        case ast.TruncateStmt():
            yield from _truncated(node, catalog, made)
        case ast.DeleteStmt() if node.whereClause is None:
            table = catalog.find(relation(node.relation))
            if _counts(table, made):
                yield from _rows(table, catalog, verb="is emptied, and it holds")
        case ast.DropOwnedStmt():
            for role in node.roles:
                yield (
                    f"owned by {role.rolename or 'us'}",
                    "it is unknown whether tables with rows are dropped with their owner",
                )
        case ast.AlterTableStmt():
            table = catalog.find(relation(node.relation))
            for cmd in node.cmds if _counts(table, made) else ():
                if subcommand(cmd) == "DropColumn":
                    yield from _column(table, cmd.name, catalog)
                elif subcommand(cmd) == "DropConstraint":
                    yield from _constraint(table, cmd.name, catalog, cascade=cmd.behavior == CASCADE)


def _counts(table: Table, made: Set[Key]) -> bool:
    return table.key not in made and table.standing not in (Standing.NEW, Standing.MISSING)


def _dropped(node: Any, catalog: Catalog, made: Set[Key]) -> Iterator[tuple[str, str]]:
    kind, cascade = object_kind(node.removeType), node.behavior == CASCADE
    names = [dotted(entry) for entry in node.objects]
    named = [catalog.find(name) for name in names] if kind == "TABLE" else []
    if kind == "SCHEMA" and cascade:
        schemas = {name.name for name in names}
        named = [table for table in catalog.tables.values() if table.schema in schemas and table.kind in ("r", "p")]
    if cascade and (kind == "EXTENSION" or (kind == "SCHEMA" and not catalog.connected)):
        for name in names:
            yield str(name), f"it is unknown whether tables or columns with rows are dropped with the {kind.lower()}"
    together = {member.key for table in named for member in catalog.below(table)}
    for table in _outermost(named):
        if _counts(table, made):
            yield from _rows(table, catalog)
            yield from _incoming(table, together, catalog)
    if kind in ("TYPE", "DOMAIN") and cascade:
        yield from _typed({name.name for name in names}, catalog, made)


def _typed(types: Set[str], catalog: Catalog, made: Set[Key]) -> Iterator[tuple[str, str]]:
    for table in catalog.tables.values():
        for column in table.columns.values():
            base = column.type.rpartition(".")[2].removesuffix("[]").strip('"')
            if base in types and _counts(table, made) and catalog.rows_estimate(table) != 0:
                yield (
                    f"{table.label}.{quoted(column.name)}",
                    "the column is dropped with its type, and the table holds rows",
                )


def _truncated(node: Any, catalog: Catalog, made: Set[Key]) -> Iterator[tuple[str, str]]:
    """TRUNCATE empties what it names; with CASCADE also the referencing tables, and so on."""
    for table in _outermost(emptied(catalog, node)):
        if _counts(table, made):
            yield from _rows(table, catalog, verb="is emptied, and it holds")


def _outermost(tables: Sequence[Table]) -> list[Table]:
    """Leave out partitions whose parent is in the list."""
    keys = {table.key for table in tables}
    return [table for table in tables if not keys & set(table.parents)]


def _rows(table: Table, catalog: Catalog, *, verb: str = "holds") -> Iterator[tuple[str, str]]:
    # The rows of a foreign table are on another server, which is not queried.
    elsewhere = any(member.kind == "f" for member in catalog.below(table))
    rows = None if elsewhere else catalog.rows_estimate(table)
    if rows is None:
        yield table.label, "it is unknown whether the table holds rows"
    elif rows > 0:
        yield table.label, f"the table {verb} rows (about {rows:,})"


def _incoming(table: Table, together: Set[Key], catalog: Catalog) -> Iterator[tuple[str, str]]:
    for other, key in catalog.references_to(table):
        if other.key not in together and catalog.rows_estimate(other) != 0:
            yield _key(other, key), f"the foreign key references {table.label}"


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
        yield label, "it is unknown whether the column is in use"
    for constraint in table.constraints:
        if name in constraint.columns and constraint.kind == "f" and catalog.rows_estimate(table) != 0:
            yield _key(table, constraint), f"the foreign key is dropped with column {label}"
    for other, constraint in catalog.references_to(table):
        if name in constraint.partner_columns and catalog.rows_estimate(other) != 0:
            yield _key(other, constraint), f"the foreign key references column {label}"


def _constraint(table: Table, name: str, catalog: Catalog, *, cascade: bool) -> Iterator[tuple[str, str]]:
    for constraint in table.constraints:
        if constraint.name != name:
            continue
        if constraint.kind == "f" and catalog.rows_estimate(table) != 0:
            yield _key(table, constraint), "the foreign key is dropped"
        for other, key in catalog.references_to(table) if cascade and constraint.kind in ("p", "u") else ():
            if set(key.partner_columns) == set(constraint.columns) and catalog.rows_estimate(other) != 0:
                yield _key(other, key), f"the foreign key needs {name}, and CASCADE drops it"


def _key(table: Table, constraint: CatalogConstraint) -> str:
    return f"{table.label}.{quoted(constraint.name)}"
