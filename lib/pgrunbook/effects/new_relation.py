"""Relations that a statement makes: their columns, and what ties them to others; for ``catalog_after``.

Source: https://www.postgresql.org/docs/current/sql-createtable.html (LIKE, INHERITS, PARTITION OF)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from pglast import ast

from pgrunbook.database.catalog import VIEW_BY_KEY, Catalog, Dependent, Key, Source, Standing, Table
from pgrunbook.database.relations import CatalogConstraint, Column, Index
from pgrunbook.effects.table_after import primary_key, with_column, with_constraint, with_new_column
from pgrunbook.effects.type_change import kind_of
from pgrunbook.sql.default_names import free_name, joined_columns
from pgrunbook.sql.tree import Name, options, relation, relations_named, strings, text, type_word, walk

# The bits of TableLikeClause.options.
_LIKE_CONSTRAINTS, _LIKE_DEFAULTS, _LIKE_GENERATED, _LIKE_IDENTITY, _LIKE_INDEXES = 4, 8, 16, 32, 64
_LABELS = {"p": "pkey", "u": "key", "x": "excl"}


def with_tables(catalog: Catalog, *tables: Table) -> Catalog:
    """Return the catalog with tables as they are then."""
    return replace(catalog, tables=MappingProxyType({**catalog.tables, **{table.key: table for table in tables}}))


def home(catalog: Catalog) -> str:
    """Return the schema in which a name without a schema is made."""
    return next((schema for schema in catalog.search_path if not schema.startswith("pg_")), "public")


def new(catalog: Catalog, name: Name, kind: str) -> Table:
    """Return a relation that is made, still without columns."""
    schema = name.schema
    if schema is None:
        schema = home(catalog) if catalog.connected else ""
    return Table(0, schema, name.name, kind, standing=Standing.NEW, rows_estimate=0)


def with_created(catalog: Catalog, node: Any) -> Catalog:
    """Return the catalog after CREATE TABLE."""
    table = new(catalog, relation(node.relation), "p" if node.partspec else "r")
    table = replace(table, partition_key=text(node.partspec) if node.partspec else "")
    there = catalog.find(Name(table.schema or None, table.name))
    if there.standing is Standing.THERE or (node.if_not_exists and there.standing is Standing.NEW):
        return with_tables(catalog, there)  # not made anew: the migration was applied, or fails
    if node.if_not_exists and not catalog.connected:
        table = replace(table, standing=Standing.UNKNOWN, rows_estimate=None)  # it may be there, with all its rows
    parents = [catalog.find(relation(parent)) for parent in node.inhRelations or ()]
    for parent in parents:
        table = _with_columns(table, parent.columns.values())
    for part in node.tableElts or ():
        match part:
            case ast.ColumnDef() if part.typeName is not None:
                others = {name: column for name, column in table.columns.items() if name != part.colname}
                table = with_column(catalog, replace(table, columns=others), part)
            case ast.Constraint():
                table = with_constraint(catalog, table, part)
            case ast.TableLikeClause():
                table = _like(catalog, table, catalog.find(relation(part.relation)), part.options)
    catalog = with_tables(catalog, table)
    for parent in parents:
        catalog = with_child(catalog, parent, table)
    return catalog


def with_child(catalog: Catalog, parent: Table, child: Table) -> Catalog:
    """Return the catalog in which a table is a partition of another, or inherits from it."""
    if parent.key not in catalog.tables:
        return with_tables(catalog, replace(child, parents=(*child.parents, parent.key)))
    parent, child = catalog.at(parent.key), catalog.at(child.key)
    kinds = ("c", "f") if parent.kind == "p" else ("c",)
    named = {each.name for each in child.constraints}
    inherited = tuple(
        replace(each, oid=0, relation=0, is_inherited=True, is_local=False)
        for each in parent.constraints
        if each.kind in kinds and not each.no_inherit and each.name not in named
    )
    child = replace(child, parents=(*child.parents, parent.key), constraints=(*child.constraints, *inherited))
    for index in parent.indexes if parent.kind == "p" else ():
        child = with_part(catalog, child, parent, index)
    return with_tables(catalog, replace(parent, children=(*parent.children, child.key)), child)


def without_child(catalog: Catalog, parent: Table, child: Table) -> Catalog:
    """Return the catalog in which a table is nobody's partition any more, or inherits no more from another."""
    parent, child = catalog.at(parent.key), catalog.at(child.key)
    catalog = with_tables(
        catalog,
        replace(parent, children=tuple(key for key in parent.children if key != child.key)),
        replace(child, parents=tuple(key for key in child.parents if key != parent.key)),
    )
    for other, reference in catalog.references_to(child) if parent.kind == "p" else ():
        if reference.is_inherited:  # of a foreign key that refers to the parent
            here = catalog.at(other.key)
            kept = tuple(each for each in here.constraints if each.name != reference.name)
            catalog = with_tables(catalog, replace(here, constraints=kept))
    return catalog


def with_part(catalog: Catalog, child: Table, parent: Table, index: Index) -> Table:
    """Return a partition with its part of an index, unless it has one that serves."""
    if any((each.keys, each.unique) == (index.keys, index.unique) for each in child.indexes):
        return child
    constraint = next((each for each in parent.constraints if each.index == index.name), None)
    label = _LABELS[constraint.kind] if constraint is not None and constraint.kind in _LABELS else "idx"
    return _with_index(catalog, child, replace(index, is_partition=True), constraint, label)


def _with_index(
    catalog: Catalog, table: Table, index: Index, constraint: CatalogConstraint | None, label: str
) -> Table:
    columns = "" if label == "pkey" else joined_columns([key or "expr" for key in index.keys])
    name = free_name(table.name, columns, label, _taken(catalog, table))
    own = replace(index, schema=table.schema, name=name)
    table = replace(table, indexes=(*table.indexes, own))
    if constraint is None:
        return table
    key = replace(constraint, name=name, index=name, oid=0, relation=0)
    return replace(table, constraints=(*table.constraints, key))


def _taken(catalog: Catalog, table: Table) -> set[str]:
    """Return the names of relations in a table's schema."""
    there = [each for each in catalog.tables.values() if each.schema == table.schema]
    return {each.name for each in there} | {index.name for each in (*there, table) for index in each.indexes}


def _like(catalog: Catalog, table: Table, source: Table, given: int) -> Table:
    """Return a table with what LIKE takes from another: columns, and what INCLUDING names."""
    for column in source.columns.values():
        kept = {"s": _LIKE_GENERATED, "v": _LIKE_GENERATED}.get(column.generated, _LIKE_DEFAULTS)
        plain = {} if given & kept else {"expression": None, "generated": ""}
        identity = {} if given & _LIKE_IDENTITY else {"identity": None, "sequence": None}
        table = _with_columns(table, [replace(column, **plain, **identity)])  # type: ignore[arg-type]
        if column.identity and given & _LIKE_IDENTITY:
            table = _owning(table, column)
    checks = [each for each in source.constraints if each.kind == "c"] if given & _LIKE_CONSTRAINTS else []
    table = replace(table, constraints=(*table.constraints, *(replace(each, oid=0) for each in checks)))
    for index in source.indexes if given & _LIKE_INDEXES else ():
        constraint = next((each for each in source.constraints if each.index == index.name), None)
        label = _LABELS[constraint.kind] if constraint is not None and constraint.kind in _LABELS else "idx"
        table = _with_index(catalog, table, replace(index, is_partition=False), constraint, label)
    return table


def _owning(table: Table, column: Column) -> Table:
    name = Name(table.schema or None, f"{table.name}_{column.name}_seq")
    return replace(table, dependents=(*table.dependents, Dependent("sequence", str(name), (column.name,), column.type)))


def _with_columns(table: Table, columns: Iterable[Column]) -> Table:
    for column in columns:
        if column.name not in table.columns:
            table = with_new_column(table, replace(column, type_oid=0, relation=0))
    return table


# -- queries


def with_view(catalog: Catalog, table: Table, query: Any, names: Any = ()) -> Catalog:
    """Return the catalog with a view, a materialized view or a table that a query makes."""
    reading = _Reading(catalog, query)
    shown = list(reading.columns())
    named = [*strings(names), *(column.name for column in shown[len(names or ()) :])]
    table = replace(table, columns={})
    for column, name in zip(shown, named, strict=True):
        table = _with_columns(table, [replace(column, name=name, not_null=False, identity=None, expression=None)])
    if table.kind == "r":
        return with_tables(catalog, table)
    kind = "materialized view" if table.kind == "m" else "view"
    catalog = _forgetting(catalog, table.label)
    table = replace(table, sources=reading.sources())
    return with_tables(catalog, table, *reading.with_dependent(catalog, kind, table.label))


def _forgetting(catalog: Catalog, label: str) -> Catalog:
    """Return the catalog without what a view reads."""
    freed = [
        replace(table, dependents=tuple(each for each in table.dependents if each.name != label))
        for table in catalog.tables.values()
        if any(each.name == label and each.kind != "sequence" for each in table.dependents)
    ]
    return with_tables(catalog, *freed)


class _Reading:
    """What a query reads of relations that the catalog knows, and what it returns as far as its text tells."""

    def __init__(self, catalog: Catalog, query: Any) -> None:
        self.catalog = catalog
        self.query = query
        self.scope: list[tuple[str, Table]] = [
            (part.alias.aliasname if part.alias else part.relname, catalog.find(relation(part)))
            for part in relations_named(query)
        ]

    def sources(self) -> tuple[Source, ...]:
        """Return the relations that the query names."""
        main = {id(part) for part in walk(getattr(self.query, "fromClause", None) or ())}
        return tuple(
            Source(self.catalog.find(relation(part)).key, bool(part.inh), id(part) in main)
            for part in relations_named(self.query)
        )

    def _meant(self, reference: Any) -> Iterator[tuple[Table, Column]]:
        """Yield the columns that a reference may mean: of the relation that it names, or of any that has one."""
        words = [getattr(field, "sval", "*") for field in reference.fields]
        for alias, table in self.scope:
            if len(words) == 1 or words[-2] == alias:
                found = table.columns.values() if words[-1] == "*" else [table.columns.get(words[-1])]
                yield from ((table, column) for column in found if column is not None)

    def columns(self) -> Iterator[Column]:
        """Yield the columns that the query returns; their types are those of the columns that it reads."""
        query = self.query
        while getattr(query, "larg", None) is not None:
            query = query.larg
        for target in getattr(query, "targetList", None) or ():
            if isinstance(target.val, ast.ColumnRef):
                found = [column for _, column in self._meant(target.val)]
                is_star = isinstance(target.val.fields[-1], ast.A_Star)
                for column in found if is_star else found[:1]:
                    yield replace(column, name=column.name if is_star or not target.name else target.name)
                if found or is_star:
                    continue
            yield self._computed(target)

    def _computed(self, target: Any) -> Column:
        name = target.name
        if isinstance(target.val, ast.TypeCast):
            kind, word = kind_of(type_word(target.val.typeName), self.catalog), type_word(target.val.typeName)
            name = name or word.name
            return Column(name, word.text, kind.base, kind.modifiers, type_name=kind.name, base_name=kind.base_name)
        if isinstance(target.val, ast.FuncCall):
            name = name or target.val.funcname[-1].sval
        if isinstance(target.val, ast.ColumnRef):
            name = name or getattr(target.val.fields[-1], "sval", None)
        return Column(name or "?column?", "")

    def with_dependent(self, catalog: Catalog, kind: str, label: str) -> list[Table]:
        """Return the relations that the catalog knows, and those that they read, with a view that depends on them."""
        read: dict[Key, set[str]] = {}
        for part in walk(self.query):
            if isinstance(part, ast.ColumnRef):
                for table, column in self._meant(part):
                    read.setdefault(table.key, set()).add(column.name)
        found: dict[Key, Table] = {}
        for key in dict.fromkeys(table.key for _, table in self.scope if table.key in catalog.tables):
            source = catalog.at(key)
            found[key] = _depended(found.get(key, source), kind, label, read.get(key, set()))
            for below in catalog.tables.values():
                through = [each for each in below.dependents if each.name == source.label and each.kind != "sequence"]
                for each in through:
                    found[below.key] = _depended(found.get(below.key, below), kind, label, set(each.columns))
            if self._groups_by_key(source, read.get(key, set())):
                name = next(each.name for each in source.constraints if each.kind == "p")
                by_key = Dependent(VIEW_BY_KEY, label, type=name)
                found[key] = replace(found[key], dependents=(*found[key].dependents, by_key))
        return list(found.values())

    def _groups_by_key(self, table: Table, read: set[str]) -> bool:
        """Whether the query may name other columns of a table only because it groups by the primary key."""
        grouped = {field for part in getattr(self.query, "groupClause", None) or () for field in _last_words(part)}
        key = set(primary_key(table))
        return bool(key) and key <= grouped and not read <= grouped


def _last_words(node: Any) -> Iterator[str]:
    for part in walk(node):
        if isinstance(part, ast.ColumnRef) and not isinstance(part.fields[-1], ast.A_Star):
            yield part.fields[-1].sval


def _depended(table: Table, kind: str, label: str, columns: set[str]) -> Table:
    known = tuple(name for name in table.columns if name in columns)
    return replace(table, dependents=(*table.dependents, Dependent(kind, label, known)))


# -- sequences


def with_sequence(catalog: Catalog, node: Any) -> Catalog:
    """Return the catalog after CREATE SEQUENCE, or ALTER SEQUENCE with another owner or type."""
    given: Mapping[str, Any] = options(node.options)
    if isinstance(node, ast.CreateSeqStmt):
        sequence = new(catalog, relation(node.sequence), "S")
        catalog = with_tables(catalog, sequence) if sequence.key not in catalog.tables else catalog
    else:
        sequence = catalog.find(relation(node.sequence))
    if "owned_by" not in given:
        return catalog
    catalog = _forgetting_sequence(catalog, sequence.label)
    words = strings(given["owned_by"])
    if len(words) < 2:  # NONE
        return catalog
    table = catalog.find(Name(words[-3] if len(words) > 2 else None, words[-2]))
    if table.key not in catalog.tables:
        return catalog
    return with_tables(
        catalog, replace(table, dependents=(*table.dependents, Dependent("sequence", sequence.label, (words[-1],))))
    )


def _forgetting_sequence(catalog: Catalog, label: str) -> Catalog:
    freed = [
        replace(table, dependents=tuple(d for d in table.dependents if (d.kind, d.name) != ("sequence", label)))
        for table in catalog.tables.values()
        if any(each.name == label for each in table.of_kind("sequence"))
    ]
    return with_tables(catalog, *freed)
