"""Inverses of ALTER TABLE's subcommands about a constraint."""

from __future__ import annotations

from typing import Any

from pgrunbook.database.relations import CatalogConstraint
from pgrunbook.inverse import alter_column
from pgrunbook.inverse.alter_column import nullable
from pgrunbook.inverse.alteration import Alteration, Phase
from pgrunbook.inverse.naming import choose
from pgrunbook.inverse.reader import CLASSES
from pgrunbook.inverse.recreation import comments_of, recreate
from pgrunbook.inverse.way import own_beside_inherited
from pgrunbook.plan.declared import Declared
from pgrunbook.sql.default_names import joined_columns
from pgrunbook.sql.tree import column_names, constraint_kind, quoted, strings, subcommand

_CLASS, _CONSTRAINT = CLASSES["pg_class"], CLASSES["pg_constraint"]


def add(altered: Alteration, cmd: Any) -> None:
    """ADD CONSTRAINT: DROP CONSTRAINT, by the name that the server will choose when none is given."""
    node = cmd.def_
    kind = constraint_kind(node)
    if kind == "NOTNULL":
        column = altered.column(strings(node.keys)[0])
        if column is not None and not column.not_null:
            nullable(altered, altered.way(Phase.NOT_NULL), column.name)
        return
    if node.indexname:
        _take_index_back(altered, node)
        return
    name = node.conname or _chosen(altered, node, kind)
    altered.add(Phase.AWAY, f"DROP CONSTRAINT {quoted(name)}")
    if kind == "PRIMARY":
        _nullable_again(altered, strings(node.keys))


def of_new_column(altered: Alteration, cmd: Any) -> None:
    """ADD COLUMN ... CHECK: also drop a CHECK that names other columns only, for DROP COLUMN leaves it."""
    alter_column.add(altered, cmd)
    if cmd.missing_ok and altered.column(cmd.def_.colname) is not None:
        return
    for node in cmd.def_.constraints or ():
        if constraint_kind(node) == "CHECK" and cmd.def_.colname not in column_names(node.raw_expr):
            name = node.conname or _chosen(altered, node, "CHECK")
            altered.add(Phase.AWAY, f"DROP CONSTRAINT IF EXISTS {quoted(name)}")


def _take_index_back(altered: Alteration, node: Any) -> None:
    """ADD CONSTRAINT ... USING INDEX: DROP CONSTRAINT drops the index too, so create it again."""
    index = altered.reader.named(altered.relation.schema, node.indexname)
    if index is None:
        return
    way = altered.way(Phase.AWAY)
    way.add(f"{altered.alter} DROP CONSTRAINT {quoted(node.conname or node.indexname)}")
    recreate(altered.reader, way, [(_CLASS, index.oid, 0)])
    if constraint_kind(node) == "PRIMARY":
        by_number = altered.reader.columns([index.oid])
        _nullable_again(altered, [column.name for column in by_number])


def _nullable_again(altered: Alteration, names: tuple[str, ...] | list[str]) -> None:
    """Drop NOT NULL, which a primary key sets, and leaves when it is dropped."""
    for name in names:
        column = altered.column(name)
        if column is not None and not column.not_null:
            nullable(altered, altered.way(Phase.NOT_NULL), name)


def _chosen(altered: Alteration, node: Any, kind: str) -> str:
    columns: list[str]
    if kind == "CHECK":
        used = [name for name in column_names(node.raw_expr) if altered.column(name) or _adds(altered, name)]
        columns, label = (used if len(used) == 1 else []), "check"
    elif kind == "FOREIGN":
        columns, label = list(strings(node.fk_attrs)), "fkey"
    elif kind == "PRIMARY":
        columns, label = [], "pkey"
    elif kind == "EXCLUSION":
        columns, label = [pair[0].name or "expr" for pair in node.exclusions], "excl"
    else:
        columns, label = [*strings(node.keys), *strings(node.including)], "key"
    relation = altered.relation
    part = "" if kind == "PRIMARY" else joined_columns(columns)
    is_index = kind not in ("CHECK", "FOREIGN")
    dropped = {cmd.name for cmd in altered.node.cmds if cmd.name and not cmd.def_}
    dropped |= {row.name for row in altered.constraints if _goes_with_column(altered, row)}
    taken = altered.names_taken
    name = choose(altered.reader, relation.schema, relation.name, part, label, taken, dropped, is_index=is_index)
    altered.names_taken.add(name)
    return name


def _goes_with_column(altered: Alteration, row: CatalogConstraint) -> bool:
    """Tell whether a constraint of the table has a column that the same statement drops."""
    drops = {cmd.name for cmd in altered.node.cmds if subcommand(cmd) == "DropColumn"}
    return row.relation == altered.relation.oid and bool(drops & {*row.columns})


def _adds(altered: Alteration, name: str) -> bool:
    return any(getattr(cmd.def_, "colname", None) == name for cmd in altered.node.cmds)


def drop(altered: Alteration, cmd: Any) -> None:
    """DROP CONSTRAINT: recreate it, with what depends on it and on its index, if no column of it is dropped, too."""
    found = [row for row in altered.constraints if row.relation == altered.relation.oid and row.name == cmd.name]
    found = [row for row in found if not _goes_with_column(altered, row)]
    if not found:
        return
    way = altered.way(Phase.BACK)
    recreate(altered.reader, way, [(_CONSTRAINT, row.oid, 0) for row in found])
    if altered.only and altered.relation.has_children:
        below = (oid for oid in altered.reader.family(altered.relation) if oid != altered.relation.oid)
        way.differs += [own_beside_inherited("constraints", altered.reader.relation_at(oid).label) for oid in below]


def validate(altered: Alteration, cmd: Any) -> None:
    """VALIDATE CONSTRAINT: drop and add it NOT VALID, which reads no rows."""
    found = [row for row in altered.constraints if row.name == cmd.name]
    mine = [row for row in found if row.relation == altered.relation.oid and not row.valid]
    for row in mine:
        if row.is_inherited:  # an inherited constraint cannot become NOT VALID again
            why = f"constraint {altered.sql}.{row.sql} stays valid"
            altered.way(Phase.BACK).differs.append(Declared("validity", altered.sql, why))
            continue
        clause = f"DROP CONSTRAINT {row.sql}, ADD CONSTRAINT {row.sql} {row.definition}"
        altered.add(Phase.BACK, clause)
        for statement in comments_of(altered.reader, [(_CONSTRAINT, row.oid, 0)]):
            altered.way(Phase.PROPERTIES).add(statement)


def alter(altered: Alteration, cmd: Any) -> None:
    """ALTER CONSTRAINT: bring back deferrability, enforcement and inheritance."""
    name = cmd.def_.conname if hasattr(cmd.def_, "conname") else cmd.name
    for row in altered.constraints:
        if row.relation != altered.relation.oid or row.name != name:
            continue
        words = []
        if row.kind == "f":
            words.append("DEFERRABLE" if row.deferrable else "NOT DEFERRABLE")
            if row.deferrable:
                words.append("INITIALLY DEFERRED" if row.deferred else "INITIALLY IMMEDIATE")
            if not row.enforced:
                words.append("NOT ENFORCED")
            elif getattr(cmd.def_, "alterEnforceability", False):
                words.append("ENFORCED")
        elif row.kind == "n":
            words.append("NO INHERIT" if row.no_inherit else "INHERIT")
        altered.add(Phase.PROPERTIES, f"ALTER CONSTRAINT {row.sql} {' '.join(words)}")
