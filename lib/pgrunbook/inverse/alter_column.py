"""Inverses of ALTER TABLE's subcommands about a column."""

from __future__ import annotations

from typing import Any

from pgrunbook.database.relations import CatalogConstraint, Column
from pgrunbook.inverse import column_type, columns
from pgrunbook.inverse.alteration import Alteration, Phase
from pgrunbook.inverse.reader import CLASSES, Address
from pgrunbook.inverse.recreation import drop_and_recreate, recreate
from pgrunbook.inverse.way import NoInverseError, Way, own_beside_inherited
from pgrunbook.plan.declared import Declared
from pgrunbook.sql.tree import constraint_kind, quoted, subcommand

_CLASS, _CONSTRAINT = CLASSES["pg_class"], CLASSES["pg_constraint"]


def add(altered: Alteration, cmd: Any) -> None:
    """ADD COLUMN: DROP COLUMN, unless the column exists already."""
    name = cmd.def_.colname
    if _is_there(altered, cmd):
        return
    if altered.relation.kind == "c":
        altered.add(Phase.COLUMNS_AWAY, f"DROP ATTRIBUTE {quoted(name)}{_cascade(cmd)}")
        return
    way = altered.way(Phase.COLUMNS_AWAY)
    way.add(f"{altered.alter} DROP COLUMN {quoted(name)}", f"Column {quoted(name)} is dropped.")
    if all(constraint_kind(part) != "GENERATED" for part in cmd.def_.constraints or ()):
        way.lossy.append(f"{altered.sql}.{quoted(name)}: values written since are lost with the column")


def _is_there(altered: Alteration, cmd: Any) -> bool:
    """Tell whether ADD COLUMN IF NOT EXISTS will find the column; a plain ADD COLUMN would fail."""
    name = cmd.def_.colname
    dropped = any(subcommand(other) == "DropColumn" and other.name == name for other in altered.node.cmds)
    return bool(cmd.missing_ok) and not dropped and altered.column(name) is not None


def drop(altered: Alteration, cmd: Any) -> None:
    """DROP COLUMN: add it as the last one, with its captured values and all that depended on it.

    Columns that are dropped together are added together, in their old order, by the last of these subcommands.
    """
    drops = [other for other in altered.node.cmds if subcommand(other) == "DropColumn"]
    if altered.relation.kind == "c":
        column = altered.column(cmd.name)
        if column is not None:
            _drop_attribute(altered, column, cmd)
        return
    if cmd is not drops[-1]:
        return
    lost = []
    for name in dict.fromkeys(other.name for other in drops):
        column = altered.column(name)
        if column is not None:
            lost += [column, *_dropped_below(altered, column)]
    if lost:
        way = altered.way(Phase.BACK)
        _tell_of_children(altered, way, "columns")
        way.position = min(column.number for column in lost if column.relation == altered.relation.oid)
        recreate(altered.reader, way, [_address(each) for each in lost])


def _dropped_below(altered: Alteration, column: Column) -> list[Column]:
    """Return the columns of child tables that are dropped with it: neither their own, nor of another parent, too."""
    lost: dict[str, Column] = {column.table: column}
    for other in altered.below(column.name):
        parents = altered.reader.whole(altered.reader.relation_at(other.relation)).parents
        if not other.is_local and other.parents <= len({*parents} & lost.keys()):
            lost[other.table] = other
    return [*lost.values()][1:]


def _tell_of_children(altered: Alteration, way: Way, what: str) -> None:
    """Declare that what ONLY the parent loses becomes its children's own."""
    for oid in altered.reader.family(altered.relation)[1:] if altered.only else ():
        child = altered.reader.relation_at(oid)
        if altered.sql in altered.reader.whole(child).parents:
            way.differs.append(own_beside_inherited(what, child.label))


def _cascade(cmd: Any) -> str:
    """Return the word that takes typed tables along, where the statement has it."""
    return " CASCADE" if cmd.behavior.name == "DROP_CASCADE" else ""


def _drop_attribute(altered: Alteration, column: Column, cmd: Any) -> None:
    type_oid = altered.reader.type(altered.sql)
    used = altered.reader.row("uses_of_type", oid=type_oid)
    if used:
        raise NoInverseError(f"cannot be undone, because the attribute's values in {used['table']} are lost.")
    clause = f"ADD ATTRIBUTE {column.sql} {column.type}{column_type.collation(column)}{_cascade(cmd)}"
    altered.add(Phase.BACK, clause)
    if not column.is_last:
        why = f"attribute order of {altered.sql}: {column.sql} is added again as the last attribute"
        altered.way(Phase.BACK).differs.append(Declared("column order", altered.sql, why))


def change_type(altered: Alteration, cmd: Any) -> None:
    """ALTER COLUMN ... TYPE: set the old type; the default is dropped before and set after."""
    column = altered.column(cmd.name)
    new = column_type.new_type(altered.reader, cmd)
    if column is None or new is None:
        return
    if altered.relation.kind == "c":
        clause = f"ALTER ATTRIBUTE {column.sql} TYPE {column.type}{column_type.collation(column)}{_cascade(cmd)}"
        altered.add(Phase.TYPES, clause)
        return
    converts = {"source": new, "target": column.type_oid}
    altered.reader.ahead([("converts", converts), ("type_facts", {"oid": new})])
    facts, named = altered.reader.row("converts", **converts), altered.reader.row("type_facts", oid=new)
    if facts is None:
        return
    new_name = _written(cmd, named)
    losses = column_type.losses(column, cmd, facts, new_name)
    is_kept = bool(losses[0]) and column.kind in "rp" and not column.generated
    may_refuse = column_type.refuses(facts["how"], column)
    loosened = _loosened(altered, column, new_name) if is_kept and column.not_null and may_refuse else None
    becomes_null = is_kept and (not column.not_null or loosened is not None)
    using = column_type.using(altered.reader, facts["how"], column, new_name, becomes_null=becomes_null)
    clause = f"ALTER COLUMN {column.sql} TYPE {column.type}{column_type.collation(column)}{using}"
    if column.default is not None or _sets_default(altered, cmd.name):
        clause = f"ALTER COLUMN {column.sql} DROP DEFAULT, {clause}"
    if column.default is not None:
        clause += f", ALTER COLUMN {column.sql} SET DEFAULT {column.default}"
    way = altered.way(Phase.TYPES)
    if loosened is not None:
        nullable(altered, way, cmd.name)
    if made := column_type.trial(column, using):
        way.add(made, f"It tells which values of {column.sql} can be {column.type} again.")
    _with_losses(altered, way, column, losses, clause)
    if loosened is not None:
        way.follow(loosened)
    _after_type(altered, cmd.name)


def _loosened(altered: Alteration, column: Column, new: str) -> Way | None:
    """Return what sets NOT NULL again after values were NULL for a moment, None where they may not be."""
    keys = [row for row in altered.constraints if row.kind == "p" and row.relation == column.relation]
    is_key = any(column.number in row.numbers for row in keys)
    identifies = is_key or "USING INDEX" in altered.whole.replica_identity
    if identifies or column.identity or column.is_inherited or not column_type.is_valid(altered.reader, column, new):
        return None
    way, row = Way(), _not_null(altered, column)
    if row is None:
        way.add(f"{altered.alter} ALTER COLUMN {column.sql} SET NOT NULL", "NOT NULL is set again.")
    else:
        recreate(altered.reader, way, [(_CONSTRAINT, row.oid, 0)])
    return way


def _with_losses(altered: Alteration, way: Way, column: Column, losses: tuple[str, str], clause: str) -> None:
    """Capture values that the new type may change, except of a generated column, which is computed again."""
    statement = f"{altered.alter} {clause}"
    there, back = losses
    if there and not column.generated and column.kind in "rp":
        family = [column, *columns.inheriting(column, altered.below(column.name))]
        keeps = [columns.keep(altered.reader, each) for each in family]
        way.filled(statement, f"{column.sql} is {column.type} again.", *keeps)
        way.lossy.append(there)
    else:
        way.add(statement, f"{column.sql} is {column.type} again.")
    if back and not column.generated:
        way.lossy.append(back)


def _written(cmd: Any, facts: dict[str, Any] | None) -> str:
    """Return the server's name of the new type, with the statement's modifiers."""
    modifiers = ", ".join(str(m.val.ival) for m in cmd.def_.typeName.typmods or () if hasattr(m.val, "ival"))
    name = str(facts["sql"]) if facts else ""
    return name.removesuffix("[]") + f"({modifiers})" + name[len(name.removesuffix("[]")) :] if modifiers else name


def _after_type(altered: Alteration, name: str) -> None:
    """Bring back storage and compression, which a change of type resets."""
    family = [each for each in (altered.column(name), *altered.below(name)) if each is not None]
    if any(not each.storage_is_default for each in family):
        altered.everywhere(Phase.PROPERTIES, name, columns.storage)
    if any(each.compression != "default" for each in family):
        way = altered.way(Phase.PROPERTIES)
        for each in family:
            if each.compression != "default":
                way.add(columns.compression(each))
    if len({each.default for each in family}) > 1:
        altered.everywhere(Phase.PROPERTIES, name, columns.default)


def _sets_default(altered: Alteration, name: str) -> bool:
    return any(subcommand(cmd) == "ColumnDefault" and cmd.name == name for cmd in altered.node.cmds)


def default(altered: Alteration, cmd: Any) -> None:
    """SET and DROP DEFAULT: set the default of today."""
    altered.everywhere(Phase.PROPERTIES, cmd.name, columns.default)


def statistics(altered: Alteration, cmd: Any) -> None:
    """SET STATISTICS; an index's column has a number instead of a name."""
    if cmd.name is not None:
        altered.everywhere(Phase.PROPERTIES, cmd.name, columns.statistics)
        return
    for column in altered.columns[altered.relation.oid].values():
        if column.number == cmd.num:
            altered.add(Phase.PROPERTIES, f"ALTER COLUMN {cmd.num} SET STATISTICS {column.statistics}")


def storage(altered: Alteration, cmd: Any) -> None:
    """SET STORAGE."""
    altered.everywhere(Phase.PROPERTIES, cmd.name, columns.storage)


def compression(altered: Alteration, cmd: Any) -> None:
    """SET COMPRESSION, which does not reach child tables."""
    column = altered.column(cmd.name)
    if column is not None:
        altered.way(Phase.PROPERTIES).add(columns.compression(column))


def options(altered: Alteration, cmd: Any) -> None:
    """SET (n_distinct = ...) and RESET, which do not reach child tables."""
    column = altered.column(cmd.name)
    if column is not None:
        for clause in columns.options(column.options, [option.defname for option in cmd.def_]):
            altered.add(Phase.PROPERTIES, f"ALTER COLUMN {column.sql} {clause}")


def foreign_options(altered: Alteration, cmd: Any) -> None:
    """OPTIONS of a foreign table's column."""
    column = altered.column(cmd.name)
    if column is not None:
        touched = [(option.defname, columns.action(option)) for option in cmd.def_]
        clause = columns.foreign_options(column.foreign_options, touched)
        altered.add(Phase.PROPERTIES, f"ALTER COLUMN {column.sql} {clause}")


def set_not_null(altered: Alteration, cmd: Any) -> None:
    """SET NOT NULL: DROP NOT NULL when the column has none today, NOT VALID when it is not valid."""
    column = altered.column(cmd.name)
    if column is None:
        return
    if not column.not_null:
        nullable(altered, altered.way(Phase.NOT_NULL), cmd.name)
        return
    row = _not_null(altered, column)
    if row and row.is_inherited and not row.is_local:
        altered.way(Phase.NOT_NULL).differs.append(own_beside_inherited("constraints", column.table))
    elif row and not row.valid:
        clause = f"DROP CONSTRAINT {row.sql}, ADD CONSTRAINT {row.sql} {row.definition}"
        altered.add(Phase.NOT_NULL, clause)


def nullable(altered: Alteration, way: Way, name: str) -> None:
    """Drop NOT NULL, also in child tables, except those that have their own today."""
    way.add(f"{altered.alter} ALTER COLUMN {quoted(name)} DROP NOT NULL")
    if altered.reader.version >= columns.NOT_NULL_IS_A_CONSTRAINT:
        # A child table with its own NOT NULL keeps it; a safe form may have given it to partitions.
        for other in altered.below(name) if altered.relation.kind == "p" else ():
            if not other.not_null:
                way.add(f"ALTER TABLE ONLY {other.table} ALTER COLUMN {other.sql} DROP NOT NULL")
        return
    for other in altered.below(name):
        if other.not_null:
            way.add(f"ALTER TABLE ONLY {other.table} ALTER COLUMN {other.sql} SET NOT NULL")


def drop_not_null(altered: Alteration, cmd: Any) -> None:
    """DROP NOT NULL: set it again, under its name."""
    column = altered.column(cmd.name)
    if column is None or not column.not_null:
        return
    row = _not_null(altered, column)
    if row is None:
        altered.add(Phase.NOT_NULL, f"ALTER COLUMN {column.sql} SET NOT NULL")
    else:
        way = altered.way(Phase.NOT_NULL)
        recreate(altered.reader, way, [(_CONSTRAINT, row.oid, 0)])
        _tell_of_children(altered, way, "constraints")


def _not_null(altered: Alteration, column: Column) -> CatalogConstraint | None:
    for row in altered.constraints:
        if row.kind == "n" and row.relation == column.relation and row.numbers == (column.number,):
            return row
    return None


def add_identity(altered: Alteration, cmd: Any) -> None:
    """ADD GENERATED AS IDENTITY: DROP IDENTITY."""
    column = altered.column(cmd.name)
    if column is not None and column.identity is None:
        altered.add(Phase.AWAY, f"ALTER COLUMN {column.sql} DROP IDENTITY")


def drop_identity(altered: Alteration, cmd: Any) -> None:
    """DROP IDENTITY: ADD GENERATED, with the sequence's options and position of today."""
    column = altered.column(cmd.name)
    if column is not None and column.identity is not None:
        columns.add_identity(altered.reader, altered.way(Phase.PROPERTIES), column)


def set_identity(altered: Alteration, cmd: Any) -> None:
    """SET GENERATED, RESTART and the sequence's options."""
    column = altered.column(cmd.name)
    if column is not None and column.identity is not None:
        columns.set_identity(altered.reader, altered.way(Phase.PROPERTIES), column)


def set_expression(altered: Alteration, cmd: Any) -> None:
    """SET EXPRESSION: set the expression of today."""
    altered.everywhere(Phase.PROPERTIES, cmd.name, columns.expression)


def drop_expression(altered: Alteration, cmd: Any) -> None:
    """DROP EXPRESSION: drop and recreate the column, for PostgreSQL cannot make a plain column generated."""
    column = altered.column(cmd.name)
    if column is None or not column.generated:
        return
    lost = [column, *altered.below(cmd.name)]
    way = altered.way(Phase.BACK)
    drop_and_recreate(
        altered.reader, way, [_address(each) for each in lost], f"{altered.alter} DROP COLUMN {column.sql}"
    )
    way.lossy.append(f"{altered.sql}.{column.sql}: values written since are replaced by computed ones")


def _address(column: Column) -> Address:
    return (_CLASS, column.relation, column.number)
