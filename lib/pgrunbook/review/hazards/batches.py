"""Batches as a way out: an UPDATE or DELETE of one key range, as the hazards advise it."""

# ruff: noqa: S608 - ways out are shown to people and not run

from __future__ import annotations

import copy
from typing import Any

from pglast import ast

from pgrunbook.database.catalog import Table
from pgrunbook.sql.tree import quoted, text, tree


def key_of(table: Table) -> str:
    """Return the column to walk a table by: its primary key's first, else ``id``."""
    primary = next((index for index in table.indexes if index.primary and index.keys), None)
    return quoted(primary.keys[0]) if primary else "id"


def batches(table: Table, assignment: str, condition: str) -> str:
    """Return an UPDATE of one batch by key range, to be repeated from the last key on."""
    key = key_of(table)
    also = "" if condition == "true" else f" AND {condition}"
    return (
        f"WITH batch AS (SELECT {key} FROM {table.label} WHERE {key} > $last ORDER BY {key} LIMIT 1000)\n"
        f"UPDATE {table.label} SET {assignment} WHERE {key} IN (SELECT {key} FROM batch){also};"
        "  -- one transaction each, $last = the greatest key of the batch"
    )


def called(node: Any) -> str:
    """Return the name by which a statement calls a relation that it names: its alias, if it has one."""
    return quoted(node.alias.aliasname if node.alias else node.relname)


def one_batch(table: Table, node: Any) -> str:
    """Return a written UPDATE or DELETE, changed to one batch by key range; its WITH, FROM, USING and alias stay."""
    key = key_of(table)
    beside = node.fromClause if isinstance(node, ast.UpdateStmt) else node.usingClause
    batch = copy.copy(node)
    found = f"{called(node.relation)}.{key}" if beside else key
    also = "" if node.whereClause is None else f" AND ({text(node.whereClause)})"
    batch.whereClause = tree(f"SELECT 1 WHERE {found} IN (SELECT {key} FROM batch){also}").whereClause
    batch.withClause, ctes = None, node.withClause.ctes if node.withClause else ()
    word = "WITH RECURSIVE" if node.withClause and node.withClause.recursive else "WITH"
    more = "".join(f",\n{text(cte)}" for cte in ctes)
    return (
        f"{word} batch AS (SELECT {key} FROM {table.label} WHERE {key} > $last ORDER BY {key} LIMIT 1000){more}\n"
        f"{text(batch)};  -- one transaction each, $last = the greatest key of the batch"
    )


def kept_and_deleted(table: Table, node: Any) -> str:
    """Return the statements that count the rows of a DELETE, keep them, and delete them in batches."""
    kept, target = quoted(table.name + "_deleted"), called(node.relation)
    rows = f"FROM {', '.join(map(text, (node.relation, *(node.usingClause or ()))))} WHERE {condition(node)}"
    head = f"WITH {text(node.withClause)} " if node.withClause else ""
    return (
        f"{head}SELECT count(*) {rows};  -- check first\n"
        f"CREATE TABLE {kept} AS {head}SELECT {target}.* {rows};\n{one_batch(table, node)}"
    )


def condition(node: Any) -> str:
    """Return the WHERE of a statement as text, "true" where it has none."""
    return text(node.whereClause) if node.whereClause is not None else "true"
