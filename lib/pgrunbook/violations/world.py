"""The names in the statements of a way back, and what they mean today."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pglast import ast
from psycopg.rows import dict_row

from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load
from pgrunbook.database.relations import Facts, Relation
from pgrunbook.sql.deparse import changed, expression, mapped
from pgrunbook.sql.settings import Setting, path_names
from pgrunbook.sql.tree import Name, quoted, strings

# The name under which a query reads the rows that it judges.
ROW = "t"
# The schema of names that an empty search_path leaves without one.
NOWHERE = ""
_OF_THE_SYSTEM = {"tableoid", "ctid", "xmin", "xmax", "cmin", "cmax"}

Kept = Mapping[tuple[str, str], Callable[[], str]]


class UnclearError(Exception):
    """A statement's demand on today's rows is unknown; the text is the sentence that says why."""


@dataclass(frozen=True)
class Column:
    """A column as a statement of the way back will find it.

    ``node`` is its value as an expression of today's columns; None if no row of today has it; ``because`` says why.
    ``missing`` returns the condition that a row has no captured value, if captured values are reverted.
    """

    node: Any
    because: str = ""
    never_null: bool = False
    missing: Callable[[], str] | None = None
    not_null: bool = False

    @property
    def today(self) -> str | None:
        """The column's name of today; None if it is computed, or does not exist."""
        return self.node.fields[-1].sval if isinstance(self.node, ast.ColumnRef) else None


@dataclass
class Table:
    """A table as a statement of the way back will find it; ``relation`` is the table of today, None if there is none.

    ``unsure`` says why today's rows are not those that the statement will find, "" if they are.
    """

    schema: str
    name: str
    relation: Relation | None
    columns: dict[str, Column]
    types: dict[str, str] = field(default_factory=dict)
    lineage: frozenset[int] = frozenset()
    key: tuple[str, ...] = ()
    primary: tuple[str, ...] = ()
    unsure: str = ""
    not_valid: dict[str, Any] = field(default_factory=dict)
    constraint_names: dict[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name that the statement uses, with its schema."""
        return f"{quoted(self.schema)}.{quoted(self.name)}"

    @property
    def sql(self) -> str:
        """The name of today, with its schema."""
        return f"{quoted(self.relation.schema)}.{quoted(self.relation.name)}" if self.relation else self.label

    def column(self, name: str) -> Column:
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

    def source(self, *, only: bool, alias: str = ROW) -> str:
        """Return the FROM entry that reads the rows. Raises UnclearError where they are not those of today."""
        if self.relation is None:
            raise UnclearError(f"unknown until table {self.label} is restored")
        if self.unsure:
            raise UnclearError(self.unsure)
        own = only and not self.relation.is_partitioned
        return f"{'ONLY ' if own else ''}{self.sql} AS {alias}"


class World:
    """The tables and types as the next statement will find them; ``simulation.follow`` applies a statement to them."""

    def __init__(self, conn: Connection, kept: Kept) -> None:
        self.facts = Facts(conn)
        self.kept = kept
        self.types: dict[Name, Any] = {}
        self.indexes: dict[str, tuple[str, ...]] = {}
        self._conn = conn
        self._tables: dict[tuple[str, str], Table | None] = {}
        self._marks: list[tuple[int, frozenset[int], str]] = []
        self._done: list[tuple[int, Callable[[Table], None]]] = []
        with conn.as_target():
            found = conn.execute("SELECT pg_catalog.current_schemas(false)::pg_catalog.text[]").fetchone()
        self._path: list[str] = list(found[0]) if found else []  # type: ignore[call-overload]
        self.path = self._path
        self.dropped: set[str] = set()

    @property
    def home(self) -> str:
        """The schema in which a name without one is made."""
        return self.path[0] if self.path else ""

    def begin(self) -> None:
        """Begin a migration: session settings of the one before it are reset."""
        self.path = self._path

    def set_path(self, setting: Setting) -> None:
        """Follow a search_path that a statement sets; [] where its schemas cannot be told."""
        named = path_names(setting.value or "")
        if not setting.is_known or "$user" in named:
            self.path = []
        else:
            self.path = self._path if setting.value is None else named or [NOWHERE]

    def rows(self, query: str, **parameters: object) -> list[dict[str, Any]]:
        """Return the rows of a named query."""
        with self._conn.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(load("violations")[query].encode(), parameters).fetchall()

    def is_castable(self, source: str, target: str) -> bool:
        """Tell whether a value of one type becomes one of another without text between them."""
        one, other = source.partition("(")[0], target.partition("(")[0]
        oids = {"source": self.facts.type_oid(one), "target": self.facts.type_oid(other)}
        return one == other or bool(self.rows("is_castable", **oids))

    def find(self, schema: str | None, name: str) -> Table | None:
        """Return the table that a name means in the next statement, None if there is none."""
        for each in [schema] if schema else self.path:
            if (each, name) not in self._tables:
                self._tables[each, name] = self._load(each, name)
            table = self._tables[each, name]
            if table is not None:
                return table
        return None

    def table(self, node: Any) -> Table:
        """Return the table of a RangeVar. Raises UnclearError where there is none."""
        table = self.find(node.schemaname, node.relname)
        if not node.schemaname and not self.path:
            raise UnclearError(f"unknown: search_path is set before it, so {node.relname} may be another table")
        if table is None:
            raise UnclearError(f"unknown: {Name(node.schemaname, node.relname)} does not exist today")
        return table

    def today(self, schema: str, name: str) -> Table | None:
        """Return the table that has this name today, whatever its name is by then; None if it is dropped before."""
        for table in self._tables.values():
            if table and table.relation and (table.relation.schema, table.relation.name) == (schema, name):
                return table
        return None if (schema, name) in self._tables else self.find(schema, name)

    def put(self, table: Table, schema: str, name: str) -> None:
        """Give a table a name."""
        self.take(table)
        table.schema, table.name = schema, name
        self._tables[schema, name] = table

    def take(self, table: Table) -> None:
        """Remove a table from its name."""
        self._tables[table.schema, table.name] = None

    def tables_in(self, schema: str) -> list[Table]:
        """Return the tables of a schema that have been looked up."""
        return [table for table in self._tables.values() if table and table.schema == schema]

    def everywhere(self, table: Table, change: Callable[[Table], None], *, only: bool = False) -> None:
        """Change a table and all below it, also those that are looked up later."""
        if only or table.relation is None:
            change(table)
            return
        oid = table.relation.oid
        self._done.append((oid, change))
        for each in list(self._tables.values()):
            if each is not None and oid in each.lineage:
                change(each)

    def mark_changed(self, table: Table, because: str) -> None:
        """Mark a table's rows as changed from now on, and those of the tables above and below it."""
        if table.relation is not None:
            self._marks.append((table.relation.oid, table.lineage, because))
            for each in self._tables.values():
                if each is not None:
                    self._apply_marks(each)

    def _apply_marks(self, table: Table) -> None:
        for oid, lineage, because in self._marks:
            if table.relation and (table.relation.oid in lineage or oid in table.lineage):
                table.unsure = table.unsure or because

    def type_of(self, names: Any) -> tuple[Name | None, Any]:
        """Return a type's name of today and None, or None and the statement that creates it."""
        parts = strings(names)
        name = name_of(parts)
        for known, now in self.types.items():
            if known.name == name.name and (name.schema is None or known.schema in (None, name.schema)):
                return (now, None) if isinstance(now, Name) else (None, now)
        return name, None

    def labels(self, node: Any) -> tuple[str, ...] | None:
        """Return the labels of an enum that the way back creates; None for any other type."""
        made = self.type_of(node.names)[1]
        return strings(made.vals) if isinstance(made, ast.CreateEnumStmt) else None

    def meant(self, table: Table, node: Any, alias: str = ROW) -> Any:
        """Return a statement's expression in today's columns and types; an enum that does not exist yet is text.

        Raises UnclearError if it uses an object that does not exist today.
        """

        def today(part: Any) -> Any:
            if isinstance(part, ast.ColumnRef) and isinstance(part.fields[-1], ast.String):
                return _read_as(table.value(part.fields[-1].sval), alias)
            return self._type_today(part) if isinstance(part, ast.TypeName) else part

        return mapped(node, today)

    def sql(self, table: Table, node: Any, alias: str = ROW) -> str:
        """Return an expression of a statement as SQL over today's columns. Raises UnclearError as ``meant`` does."""
        return f"({expression(self.meant(table, node, alias))})"

    def _type_today(self, node: Any) -> Any:
        name, made = self.type_of(node.names)
        if isinstance(made, ast.CreateEnumStmt):
            return changed(node, names=(ast.String(sval="text"),))
        if name is None:
            raise UnclearError(f"unknown until type {'.'.join(map(quoted, strings(node.names)))} is restored")
        if name == name_of(strings(node.names)):
            return node
        return changed(node, names=tuple(ast.String(sval=part) for part in name if part))

    def _load(self, schema: str, name: str) -> Table | None:
        relation = None if schema in self.dropped or schema == NOWHERE else self.facts.named((schema, name))
        if relation is None:
            return None
        found = self.facts.columns(relation)
        keys = self.facts.rows("keys", oid=relation.oid)
        table = Table(
            schema,
            name,
            relation,
            {each: Column(reference(each), not_null=column.not_null) for each, column in found.items()},
            types={each: column.type for each, column in found.items()},
            lineage=frozenset(row["oid"] for row in self.rows("lineage", oid=relation.oid)),
            key=tuple(keys[0]["columns"]) if keys else (),
            primary=tuple(row["name"] for row in self.rows("primary_key", oid=relation.oid)),
        )
        for oid, change in self._done:
            if oid in table.lineage:
                change(table)
        self._apply_marks(table)
        return table


def name_of(parts: Sequence[str]) -> Name:
    """Return a name from the list of its parts."""
    return Name(parts[-2] if len(parts) > 1 else None, parts[-1])


def reference(name: str) -> Any:
    """Return the node of a column of the judged row."""
    return ast.ColumnRef(fields=(ast.String(sval=ROW), ast.String(sval=name)))


def columns_below(node: Any) -> Iterator[str]:
    """Yield the names of today's columns in an expression."""
    if isinstance(node, ast.ColumnRef):
        yield node.fields[-1].sval
    for part in node if isinstance(node, tuple) else [getattr(node, s) for s in node] if _is_node(node) else ():
        yield from columns_below(part)


def unknown(column: Column, because: str) -> Column:
    """Return a column whose values are not those of today."""
    return replace(column, node=None, because=because)


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
