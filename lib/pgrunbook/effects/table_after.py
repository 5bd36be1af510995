"""A table after one part of a statement: a column or constraint that comes, goes or changes; for ``catalog_after``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from pgrunbook.database.catalog import Catalog, Dependent, Standing, Table
from pgrunbook.database.relations import CatalogConstraint, Column, Index
from pgrunbook.effects.type_change import kind_of
from pgrunbook.sql.default_names import free_name, joined_columns
from pgrunbook.sql.deparse import changed
from pgrunbook.sql.serial import SERIAL, plain_type
from pgrunbook.sql.tree import (
    Name,
    columns_in,
    constraint_kind,
    options,
    relation,
    strings,
    subcommand,
    text,
    type_word,
)

_SUFFIX = {"PRIMARY": "pkey", "UNIQUE": "key", "FOREIGN": "fkey", "CHECK": "check", "EXCLUSION": "excl"}
_KIND = {"PRIMARY": "p", "UNIQUE": "u", "FOREIGN": "f", "CHECK": "c", "EXCLUSION": "x", "NOTNULL": "n"}
GENERATED = "generated column"
# Subcommands that change the columns of all tables below as well, unless ONLY is written.
OF_ALL_BELOW = {"AddColumn", "AlterColumnType", "SetNotNull", "DropNotNull", "ColumnDefault"}


def altered(catalog: Catalog, table: Table, cmd: Any) -> Table:
    """Return a table as it will be after a subcommand of ALTER TABLE; what falls by DROP is ``cascade``'s."""
    change = _CHANGES.get(subcommand(cmd))
    return table if change is None else change(catalog, table, cmd)


def altered_below(catalog: Catalog, table: Table, above: Table, cmd: Any) -> Table:
    """Return the same for a table below: from ``above``, as it is then, it gets a new column and its CHECK."""
    if subcommand(cmd) != "AddColumn":
        return altered(catalog, table, cmd)
    name = cmd.def_.colname
    if name in table.columns or name not in above.columns:
        return table
    handed = [c for c in above.constraints if c.kind == "c" and c.columns == (name,) and not c.oid]
    table = replace(table, constraints=(*table.constraints, *(replace(c, is_inherited=True) for c in handed)))
    return with_new_column(table, above.columns[name])


def renamed_column(table: Table, old: str, new: str) -> Table:
    """Return a table as it will be after a column is renamed: in its indexes, constraints and dependents too."""
    if old not in table.columns:
        return table

    def name(each: str) -> str:
        return new if each == old else each

    def names(some: Iterable[str]) -> tuple[str, ...]:
        return tuple(map(name, some))

    return replace(
        table,
        columns={name(each): replace(column, name=name(each)) for each, column in table.columns.items()},
        indexes=tuple(replace(i, keys=names(i.keys), uses=frozenset(names(i.uses))) for i in table.indexes),
        constraints=tuple(replace(c, columns=names(c.columns)) for c in table.constraints),
        dependents=tuple(replace(d, columns=names(d.columns)) for d in table.dependents),
    )


def dropped_column(table: Table, name: str) -> Table:
    """Return a table as it will be without a column, and without the indexes and constraints that use it."""
    return replace(
        table,
        columns={each: column for each, column in table.columns.items() if each != name},
        indexes=tuple(index for index in table.indexes if name not in index.uses),
        constraints=tuple(c for c in table.constraints if name not in c.columns),
        dependents=tuple(
            d for d in table.dependents if name not in d.columns and (d.kind, d.name) != (GENERATED, name)
        ),
    )


def with_default(table: Table, name: str, default: str | None) -> Table:
    """Return a table as it will be with another default of a column, None for none."""
    return _changed_column(table, name, expression=default, expression_is_new=True)


def with_column(catalog: Catalog, table: Table, definition: Any) -> Table:
    """Return a table as it will be with another column, and the constraints and the sequence of that."""
    if definition.typeName is None or definition.colname in table.columns:
        return table
    word = type_word(definition.typeName)
    kind = kind_of(type_word(plain_type(definition.typeName)), catalog)
    kinds = {constraint_kind(c): c for c in definition.constraints or ()}
    given = kinds.get("DEFAULT") or kinds.get("GENERATED")
    column = Column(
        name=definition.colname,
        type=word.text,
        base=kind.base,
        modifiers=kind.modifiers,
        checked=kind.checked,
        type_name=kind.name,
        base_name=kind.base_name,
        not_null=bool({"NOTNULL", "PRIMARY", "IDENTITY"} & kinds.keys()) or word.name in SERIAL,
        expression=text(given.raw_expr) if given is not None else _next_number(table, definition.colname, word.name),
        identity=_IDENTITY[kinds["IDENTITY"].generated_when] if "IDENTITY" in kinds else None,
        generated="s" if "GENERATED" in kinds else "",
    )
    table = with_new_column(table, column)
    if word.name in SERIAL or column.identity:
        name = Name(table.schema or None, f"{table.name}_{column.name}_seq")
        own = Dependent("sequence", str(name), (column.name,), SERIAL.get(word.name, word.text))
        table = replace(table, dependents=(*table.dependents, own))
    if column.generated and given is not None:
        sources = tuple(name for name in table.columns if name in columns_in(given.raw_expr))
        table = replace(table, dependents=(*table.dependents, Dependent(GENERATED, column.name, sources)))
    for constraint in kinds.values():
        if constraint_kind(constraint) in _KIND and constraint_kind(constraint) != "NOTNULL":
            table = with_constraint(catalog, table, constraint, (definition.colname,))
    return table


def _next_number(table: Table, column: str, word: str) -> str | None:
    name = Name(table.schema or None, f"{table.name}_{column}_seq")
    return f"nextval('{name}'::regclass)" if word in SERIAL else None


def with_new_column(table: Table, column: Column) -> Table:
    """Return a table as it will be with another column, behind the others."""
    number = min(0, *(each.number for each in table.columns.values())) - 1 if table.columns else -1
    return replace(table, columns={**table.columns, column.name: replace(column, number=number)})


def with_constraint(catalog: Catalog, table: Table, node: Any, of_column: tuple[str, ...] = ()) -> Table:
    """Return a table as it will be with another constraint, and the index of that."""
    kind = constraint_kind(node)
    if kind not in _KIND:
        return table
    columns = strings(node.fk_attrs) or strings(node.keys) or of_column
    adopted = next((each for each in table.indexes if each.name == node.indexname), None)
    if adopted is not None:
        columns = adopted.keys
    if kind == "CHECK":
        used = columns_in(node.raw_expr)
        columns = tuple(name for name in table.columns if name in used) or tuple(sorted(used)) or columns
    if kind == "EXCLUSION":
        columns = tuple(_name_of(pair[0]) for pair in node.exclusions or ())
    partner = None
    if kind == "FOREIGN":
        itself = relation(node.pktable).name == table.name and table.standing is Standing.NEW
        partner = table if itself else catalog.find(relation(node.pktable))
    middle = joined_columns((*columns, *strings(node.including))) if kind != "PRIMARY" else ""
    if kind == "CHECK" and len(columns) > 1:
        middle = ""
    taken = {each.name for each in table.constraints} | {each.name for each in table.indexes}
    name = node.conname or node.indexname or free_name(table.name, middle, _SUFFIX.get(kind, "not_null"), taken)
    if node.conname and any(constraint.name == name for constraint in table.constraints):
        return table
    partner_columns = strings(node.pk_attrs) or (primary_key(partner) if partner else ())
    constraint = CatalogConstraint(
        name=name,
        kind=_KIND[kind],
        columns=columns,
        valid=not node.skip_validation,
        definition=_definition(node, kind),
        partner=partner.key if partner else None,
        partner_columns=partner_columns,
        partner_index=_unique_index(partner, partner_columns) if partner else None,
        on_delete=node.fk_del_action if kind == "FOREIGN" else "a",
        index=name if kind in ("PRIMARY", "UNIQUE", "EXCLUSION") else None,
    )
    table = replace(table, constraints=(*table.constraints, constraint))
    if kind in ("PRIMARY", "UNIQUE", "EXCLUSION"):
        uses = frozenset((*columns, *strings(node.including)))
        index = Index(table.schema, name, columns, uses, unique=kind != "EXCLUSION", primary=kind == "PRIMARY")
        kept = tuple(each for each in table.indexes if each is not adopted)
        made = replace(adopted, name=name, primary=index.primary) if adopted else index
        table = replace(table, indexes=(*kept, made) if columns else kept)
    if (kind == "NOTNULL" and constraint.valid) or kind == "PRIMARY":
        for column in columns:
            table = _changed_column(table, column, not_null=True)
    return table


def _name_of(element: Any) -> str:
    return element.name or ""


def _definition(node: Any, kind: str) -> str:
    if kind == "CHECK":
        return f"CHECK ({text(node.raw_expr)})"
    return text(changed(node, conname=None, skip_validation=False)) if node.skip_validation else ""


def primary_key(table: Table) -> tuple[str, ...]:
    """Return the columns of a table's primary key, () where it has none."""
    return next((index.keys for index in table.indexes if index.primary), ())


def _unique_index(table: Table, columns: Iterable[str]) -> str | None:
    fit = [i for i in table.indexes if i.unique and i.plain and set(i.keys) == set(columns)]
    return next((index.name for index in sorted(fit, key=lambda index: not index.primary)), None)


def _changed_column(table: Table, name: str, **changes: Any) -> Table:
    column = table.columns.get(name)
    if column is None:
        return table
    return replace(table, columns={**table.columns, name: replace(column, **changes)})


def _alter_type(catalog: Catalog, table: Table, cmd: Any) -> Table:
    word = type_word(cmd.def_.typeName)
    kind = kind_of(word, catalog)
    changes = {
        "type": word.text,
        "base": kind.base,
        "modifiers": kind.modifiers,
        "checked": kind.checked,
        "type_oid": 0,
    }
    return _changed_column(table, cmd.name, **changes, type_name=kind.name, base_name=kind.base_name)


def _identity(table: Table, name: str, identity: str | None) -> Table:
    """Return a table as it will be when a column's numbers come from a sequence, or come from it no more."""
    column = table.columns.get(name)
    if column is None:
        return table
    others = tuple(d for d in table.dependents if d.kind != "sequence" or name not in d.columns)
    if identity is None and column.identity:
        table = replace(table, dependents=others)
    elif identity is not None and not column.identity:
        own = Dependent("sequence", str(Name(table.schema or None, f"{table.name}_{name}_seq")), (name,), column.type)
        table = replace(table, dependents=(*table.dependents, own))
    return _changed_column(table, name, identity=identity)


def _set_identity(_catalog: Catalog, table: Table, cmd: Any) -> Table:
    column, given = table.columns.get(cmd.name), options(cmd.def_).get("generated")
    if column is None or not column.identity or given is None:
        return table
    return _changed_column(table, cmd.name, identity=_IDENTITY[chr(given.ival)])


def _without_expression(_catalog: Catalog, table: Table, cmd: Any) -> Table:
    freed = tuple(d for d in table.dependents if (d.kind, d.name) != (GENERATED, cmd.name))
    return _changed_column(replace(table, dependents=freed), cmd.name, expression=None, generated="")


_IDENTITY = {"a": "ALWAYS", "d": "BY DEFAULT"}


def _validated(_catalog: Catalog, table: Table, cmd: Any) -> Table:
    constraints = tuple(replace(c, valid=True) if c.name == cmd.name else c for c in table.constraints)
    return replace(table, constraints=constraints)


_CHANGES: dict[str, Callable[[Catalog, Table, Any], Table]] = {
    "AddColumn": lambda catalog, table, cmd: with_column(catalog, table, cmd.def_),
    "AlterColumnType": _alter_type,
    "SetNotNull": lambda _, table, cmd: _changed_column(table, cmd.name, not_null=True),
    "DropNotNull": lambda _, table, cmd: _changed_column(table, cmd.name, not_null=False),
    "AddConstraint": lambda catalog, table, cmd: with_constraint(catalog, table, cmd.def_),
    "ValidateConstraint": _validated,
    "ColumnDefault": lambda _, table, cmd: with_default(table, cmd.name, text(cmd.def_) if cmd.def_ else None),
    "AddIdentity": lambda _, table, cmd: _identity(table, cmd.name, _IDENTITY[cmd.def_.generated_when]),
    "SetIdentity": _set_identity,
    "DropIdentity": lambda _, table, cmd: _identity(table, cmd.name, None),
    "DropExpression": _without_expression,
}
