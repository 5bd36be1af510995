"""The names in the statements of a way back, and what they mean today."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pglast import ast

from pgrunbook.database.catalog import Catalog, Key, Standing, Table
from pgrunbook.database.catalog_reader import read_for
from pgrunbook.database.connection import Connection
from pgrunbook.database.facts import Facts
from pgrunbook.database.queries import rows
from pgrunbook.database.relations import CatalogConstraint, TypeFact, constraints_of
from pgrunbook.sql.deparse import changed, expression, mapped
from pgrunbook.sql.tree import Name, dotted, quoted, relation, strings

# The name under which a query reads the rows that it judges.
ROW = "t"
_OF_THE_SYSTEM = {"tableoid", "ctid", "xmin", "xmax", "cmin", "cmax"}

Kept = Mapping[tuple[str, str], Callable[[], str]]


class UnclearError(Exception):
    """A statement's demand on today's rows is unknown; the text is the sentence that says why."""


@dataclass(frozen=True)
class ColumnValue:
    """What a column holds when a statement of the way back finds it.

    ``node`` is its value as an expression of today's columns; None if no row of today has it; ``because`` says why.
    ``missing`` returns the condition that a row has no captured value, if captured values are reverted.
    """

    node: Any
    because: str = ""
    never_null: bool = False
    missing: Callable[[], str] | None = None

    @property
    def today(self) -> str | None:
        """The column's name of today; None if it is computed, or does not exist."""
        return self.node.fields[-1].sval if isinstance(self.node, ast.ColumnRef) else None


@dataclass(frozen=True)
class JudgedTable:
    """A table whose rows a demand judges, as a statement of the way back will find them.

    ``now`` is the table by then, ``was`` that of today, None if there is none. ``unsure`` says why today's rows are
    not those that the statement will find, "" if they are.
    """

    now: Table
    was: Table | None
    columns: Mapping[str, ColumnValue]
    key: tuple[str, ...] = ()
    unsure: str = ""

    @property
    def label(self) -> str:
        """The name that the statement uses, with its schema."""
        return self.now.label

    @property
    def sql(self) -> str:
        """The name of today, with its schema."""
        return (self.was or self.now).label

    @property
    def types(self) -> dict[str, str]:
        """The types of today's columns, by their names of today."""
        return {name: column.type for name, column in self.was.columns.items()} if self.was else {}

    def column(self, name: str) -> ColumnValue:
        """Return a column. Raises UnclearError where there is none."""
        if name not in self.columns:
            raise UnclearError(f"unknown: {self.label} has no column {quoted(name)} today")
        return self.columns[name]

    def value(self, name: str) -> Any:
        """Return a column's value as an expression of today's columns. Raises UnclearError where it is unknown."""
        if name not in self.columns and name in _OF_THE_SYSTEM:
            return reference(name)
        column = self.column(name)
        if column.node is None:
            raise UnclearError(column.because)
        return column.node

    def is_not_null(self, name: str) -> bool:
        """Tell whether a column's values are those of a column that is NOT NULL today."""
        today = self.columns[name].today if name in self.columns else None
        return self.was is not None and today is not None and self.was.columns[today].not_null

    def source(self, *, only: bool, alias: str = ROW) -> str:
        """Return the FROM entry that reads the rows. Raises UnclearError where they are not those of today."""
        if self.was is None:
            raise UnclearError(restored(self.now))
        if self.unsure:
            raise UnclearError(self.unsure)
        return f"{'ONLY ' if only and self.was.kind != 'p' else ''}{self.sql} AS {alias}"


class World:
    """The catalog as the next statement will find it; ``succession.follow`` applies a statement to it.

    ``values`` are the columns that do not hold what one of today holds, by the table's OID and their number.
    ``changed`` says of tables, by OID, why they have other rows than today.
    """

    def __init__(self, conn: Connection, nodes: Sequence[Any], kept: Kept) -> None:
        self.facts = Facts(conn)
        self.kept = kept
        self.now: Catalog = read_for(conn, nodes, sized=False)
        self.today = self.now
        self.values: dict[tuple[int, int], ColumnValue] = {}
        self.changed: dict[int, str] = {}
        self._conn = conn
        self._keys: dict[int, tuple[str, ...]] = {}

    def begin(self) -> None:
        """Begin a migration: session settings of the one before it are reset."""
        self.now = replace(self.now, search_path=self.today.search_path)

    def rows(self, query: str, **parameters: object) -> list[dict[str, Any]]:
        """Return the rows of a named query."""
        return rows(self._conn, "violations", query, **parameters)

    def definition_of(self, constraint: CatalogConstraint) -> str:
        """Return the definition of a constraint of today."""
        found = constraints_of(self._conn, [constraint.relation])[constraint.relation]
        return next((each.definition for each in found if each.oid == constraint.oid), "")

    def is_castable(self, source: str, target: str) -> bool:
        """Tell whether a value of one type becomes one of another without text between them."""
        one, other = source.partition("(")[0], target.partition("(")[0]
        oids = {"source": self.facts.type_oid(one), "target": self.facts.type_oid(other)}
        return one == other or bool(self.rows("is_castable", **oids))

    def find(self, node: Any) -> Table | None:
        """Return the table that a RangeVar means in the next statement, None if there is none."""
        table = self.now.find(relation(node))
        return None if table.standing is Standing.MISSING else table

    def table(self, node: Any) -> JudgedTable:
        """Return the rows of the table of a RangeVar. Raises UnclearError where there is none."""
        table = self.find(node)
        if not node.schemaname and not self.now.search_path:
            raise UnclearError(f"unknown: search_path is set before it, so {node.relname} may be another table")
        if table is None:
            raise UnclearError(f"unknown: {relation(node)} does not exist today")
        return self.rows_of(table)

    def table_of(self, oid: int) -> JudgedTable | None:
        """Return the rows of a table of today, whatever its name is by then; None if it is dropped before."""
        table = self.now.by_oid(oid)
        return self.rows_of(table) if table else None

    def rows_of(self, table: Table) -> JudgedTable:
        """Return the rows of a table."""
        was = self.today.by_oid(table.oid) if table.oid else None
        if was is None:
            return JudgedTable(table, None, dict.fromkeys(table.columns, ColumnValue(None, restored(table))))
        names = {column.number: name for name, column in was.columns.items()}
        columns = {
            name: self.values.get((table.oid, column.number)) or ColumnValue(reference(names[column.number]))
            for name, column in table.columns.items()
        }
        if table.oid not in self._keys:
            best = next(iter(self.facts.keys(table.oid)), None)
            self._keys[table.oid] = best.columns if best else ()
        return JudgedTable(table, was, columns, self._keys[table.oid], self.changed.get(table.oid, ""))

    def type_of(self, names: Any) -> tuple[Key | None, TypeFact | None]:
        """Return a type's name of today, None if it has none, and what is known of it, None if nothing is."""
        name = dotted(names)
        fact = self.now.type_named(*name)[1]
        if fact is None:
            return (None, None) if self.today.type_named(*name)[1] else ((name.schema or "", name.name), None)
        if fact.oid:
            return next(key for key, each in self.today.types.items() if each.oid == fact.oid), fact
        return None, fact

    def labels(self, node: Any) -> tuple[str, ...] | None:
        """Return the labels of an enum that the way back creates; None for any other type."""
        fact = self.type_of(node.names)[1]
        return fact.labels if fact else None

    def meant(self, table: JudgedTable, node: Any, alias: str = ROW) -> Any:
        """Return a statement's expression in today's columns and types; an enum that does not exist yet is text.

        Raises UnclearError if it uses an object that does not exist today.
        """

        def today(part: Any) -> Any:
            if isinstance(part, ast.ColumnRef) and isinstance(part.fields[-1], ast.String):
                return _read_as(table.value(part.fields[-1].sval), alias)
            return self._type_today(part) if isinstance(part, ast.TypeName) else part

        return mapped(node, today)

    def sql(self, table: JudgedTable, node: Any, alias: str = ROW) -> str:
        """Return an expression of a statement as SQL over today's columns. Raises UnclearError as ``meant`` does."""
        return f"({expression(self.meant(table, node, alias))})"

    def _type_today(self, node: Any) -> Any:
        today, fact = self.type_of(node.names)
        if fact is not None and fact.labels is not None:
            return changed(node, names=(ast.String(sval="text"),))
        if today is None:
            raise UnclearError(f"unknown until type {'.'.join(map(quoted, strings(node.names)))} is restored")
        if fact is None or today[1] == dotted(node.names).name:
            return node
        return changed(node, names=tuple(ast.String(sval=part) for part in today))


def restored(table: Table) -> str:
    """Return the sentence for the values of a table that the way back makes."""
    return f"unknown until table {Name(*table.key)} is restored"


def reference(name: str) -> Any:
    """Return the node of a column of the judged row."""
    return ast.ColumnRef(fields=(ast.String(sval=ROW), ast.String(sval=name)))


def columns_below(node: Any) -> Iterator[str]:
    """Yield the names of today's columns in an expression."""
    if isinstance(node, ast.ColumnRef):
        yield node.fields[-1].sval
    for part in node if isinstance(node, tuple) else [getattr(node, s) for s in node] if _is_node(node) else ():
        yield from columns_below(part)


def _is_node(node: Any) -> bool:
    return isinstance(node, ast.Node)


def _read_as(node: Any, alias: str) -> Any:
    if alias == ROW:
        return node

    def named(part: Any) -> Any:
        if isinstance(part, ast.ColumnRef):
            return ast.ColumnRef(fields=(ast.String(sval=alias), part.fields[-1]))
        return part

    return mapped(node, named)
