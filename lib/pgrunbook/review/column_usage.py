"""The use of a column by statements that pg_stat_statements has counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pglast import ast
from pglast.parser import ParseError

from pgrunbook.database.catalog import Catalog, Table, Use
from pgrunbook.sql.tree import columns_in, relation, relations_in, strings, tree, walk


def uses_of(catalog: Catalog, table: Table, column: str) -> Iterator[Use]:
    """Yield the counted statements that read or write a column.

    ``SELECT *`` uses every column, and so do INSERT and COPY without a list of columns.
    A column of the same name in another table of the same statement counts too: the text alone cannot distinguish.
    """
    for use in catalog.uses:
        if table.name.lower() not in use.query.lower():
            continue
        try:
            node = tree(use.query)
        except (ParseError, IndexError):
            continue
        tables = {catalog.find(name).key for name in relations_in(node)}
        if table.key in tables and {column, "*"} & (columns_in(node) | _written(node, table, catalog)):
            yield use


def _written(node: Any, table: Table, catalog: Catalog) -> set[str]:
    """Return the columns of a table that a statement writes, also in WITH; "*" if it may be any of them."""
    found: set[str] = set()
    for part in walk(node):
        target = getattr(part, "relation", None)
        if isinstance(target, ast.RangeVar) and catalog.find(relation(target)).key == table.key:
            found |= _targets(part)
    return found


def _targets(node: Any) -> set[str]:
    match node:
        case ast.InsertStmt():
            conflict = node.onConflictClause
            found = set() if node.selectStmt is None else _listed(node.cols)
            return found if conflict is None else found | _names(conflict.targetList) | _inferred(conflict.infer)
        case ast.UpdateStmt():
            return _names(node.targetList)
        case ast.MergeStmt():
            return {name for when in node.mergeWhenClauses for name in _merged(when)}
        case ast.CopyStmt():
            return set(strings(node.attlist)) or {"*"}
    return set()


def _merged(when: Any) -> set[str]:
    return _listed(when.targetList) if when.values else _names(when.targetList)


def _inferred(infer: Any) -> set[str]:
    return set() if infer is None else _names(infer.indexElems)


def _listed(targets: Any) -> set[str]:
    return _names(targets) or {"*"}


def _names(targets: Iterable[Any] | None) -> set[str]:
    return {target.name for target in targets or () if target.name is not None}
