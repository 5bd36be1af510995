"""Equality of rows after the plain SQL and after the safe plan, on two databases that began alike; for the rehearsal.

Values that the plain SQL itself gives anew each time (``now()``, ``gen_random_uuid()``) differ between any two
runs; those columns are left out, and named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pglast import ast

from pgrunbook.changes.safe_forms import Facts
from pgrunbook.changes.safe_forms.add_column import differing_column
from pgrunbook.changes.safe_forms.sql_text import parsed
from pgrunbook.changes.safe_forms.table import Relation, function_names, walk
from pgrunbook.database import data
from pgrunbook.database.connection import Connection
from pgrunbook.database.data import TableName, TableSum
from pgrunbook.database.queries import load

# Each time another value, or one that depends on what ran before in the same database.
Wandering = dict[TableName, set[str] | None]


@dataclass(frozen=True)
class Equality:
    """Which tables were compared, how they differ, and what was left out because it differs by nature."""

    compared: tuple[str, ...]
    differences: tuple[str, ...]
    passed_over: tuple[str, ...]


def compare(plain: Connection, safe: Connection, tables: Sequence[TableName], wandering: Wandering) -> Equality:
    """Compare the rows of tables on two databases.

    A table that ``wandering`` maps to None is only counted.
    Locks: AccessShareLock on each table.
    """
    one, other = data.checksums(plain, tables), data.checksums(safe, tables)
    apart = [table for table in tables if one[table] != other[table]]
    differences, passed_over = [], []
    for table in apart:
        columns = wandering.get(table, set())
        if columns is None:
            passed_over.append(f"rows of {table}: counted only, a trigger or a default makes them differ each time")
            equal = one[table].rows == other[table].rows
        else:
            equal = bool(columns) and _sums(plain, table, columns) == _sums(safe, table, columns)
            passed_over += [f"values of {table}.{column}: they differ each time" for column in sorted(columns)]
        if not equal:
            differences.append(_told(plain, safe, table, one[table], other[table]))
    return Equality(tuple(map(str, tables)), tuple(differences), tuple(passed_over))


def named(conn: Connection, labels: Iterable[str]) -> list[TableName]:
    """Return the tables with rows of their own behind names as SQL has them, in their order."""
    rows = conn.execute(load("same_rows")["tables"], {"labels": list(labels)}).fetchall()
    return [TableName(str(schema), str(name)) for schema, name in rows]


def wandering(statements: Iterable[str], differs: Iterable[str], conn: Connection) -> Wandering:
    """Return the columns whose values are others each time the statements run; None for a whole table.

    ``differs`` are the declared differences of safe forms. Judged on the connection's database as it is now.
    """
    facts, found = Facts(conn), Wandering()
    for sql in statements:
        for node in walk(parsed(sql)):
            if isinstance(node, ast.UpdateStmt | ast.InsertStmt | ast.AlterTableStmt):
                _note(facts, node, found)
    declared = {column for text in differs if (column := differing_column(text))}
    for columns in found.values():
        if columns is not None:
            columns.update(declared)
    return found


def _note(facts: Facts, node: Any, found: Wandering) -> None:
    table = facts.relation(node.relation)
    if table is None:
        return
    for part in [table, *facts.partitions(table)]:
        name = TableName(part.schema, part.name)
        columns = found.setdefault(name, set())
        if columns is None:
            continue
        if not isinstance(node, ast.AlterTableStmt) and _has_triggers(facts, part):
            found[name] = None
        elif isinstance(node, ast.UpdateStmt):
            columns |= {target.name for target in node.targetList if _wanders(facts, target.val)}
        elif isinstance(node, ast.InsertStmt):
            columns |= _of_insert(facts, part, node)


def _of_insert(facts: Facts, table: Relation, node: Any) -> set[str]:
    """Columns that get a default that wanders, or a value that does: where it is unknown which, all of them."""
    there = facts.rows("defaults", oid=table.oid)
    given = {target.name for target in node.cols or ()}
    defaults = {str(row["name"]) for row in there if row["name"] not in given and _wanders(facts, _value(row["value"]))}
    if node.selectStmt is not None and _wanders(facts, node.selectStmt):
        return defaults | (given or set(facts.columns(table)))
    return defaults


def _value(text: str) -> Any:
    return parsed(f"SELECT {text}")


def _wanders(facts: Facts, node: Any) -> bool:
    """Tell whether an expression calls what is not immutable, but for sequences: two databases count alike."""
    called = function_names(node) - {"nextval"}
    known: Mapping[str, bool] = {
        str(row["name"]): bool(row["is_immutable"]) for row in facts.rows("functions", names=sorted(called))
    }
    return any(isinstance(part, ast.SQLValueFunction) for part in walk(node)) or not all(
        known.get(name, False) for name in called
    )


def _has_triggers(facts: Facts, table: Relation) -> bool:
    return bool(facts.rows("row_triggers", oid=table.oid))


def _sums(conn: Connection, table: TableName, without: set[str]) -> TableSum:
    return data.checksums(conn, [table], without={table: without})[table]


def _told(plain: Connection, safe: Connection, table: TableName, one: TableSum, other: TableSum) -> str:
    apart = data.difference(plain, safe, table)
    keys = ", ".join(sample.key for sample in apart.samples[:3])
    return (
        f"{table}: {one.rows:,} rows after the plain SQL, {other.rows:,} after the plan; "
        f"{apart.missing:,} missing, {apart.changed:,} other, {apart.new:,} new ({keys})"
    )
