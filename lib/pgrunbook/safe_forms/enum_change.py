"""The replacement of an enum's values, as tools write it in several statements: read as the one change that they make.

Prisma makes the new type, moves the columns to it and exchanges the names; TypeORM, Alembic and Rails rename the old
type first; Sequelize drops it before the new one gets its name; Drizzle takes the columns to text meanwhile. Each is
followed by what its statements do to names and columns, and only the end counts: the columns have another type, and
the old one is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pglast import ast, enums

from pgrunbook.database.facts import Facts
from pgrunbook.database.relations import Column, Relation
from pgrunbook.sql.deparse import changed, mapped, name, parsed
from pgrunbook.sql.statements import Statement
from pgrunbook.sql.tree import CASCADE, strings, tree, walk

A, Kind = enums.AlterTableType, enums.ObjectType
_TEXT = ("text", "varchar")
_MARK = "enum of this change"  # stands for the schema of an enum, whose name may change until the end
_CONSTANT = (ast.A_Const, ast.TypeCast, ast.TypeName, ast.A_ArrayExpr, ast.String, ast.Integer, ast.Float, ast.Boolean)


@dataclass(eq=False)
class EnumType:
    """An enum on its way; ``was`` is its name before, None for one that is made, ``now`` that behind the statements.

    ``grantees`` are the roles that have rights to it.
    """

    labels: tuple[str, ...]
    was: tuple[str, str] | None
    now: tuple[str, str] | None
    grantees: tuple[str, ...] = ()


@dataclass(eq=False)
class EnumColumn:
    """A column on its way: ``value`` makes its new value, with marks for enums.

    ``type`` is None while it is text, ``default`` is what was set last, None for none; ``gives_default`` says that the
    statements set or drop it. ``is_cast`` says that nothing is done to the values but a cast.
    """

    table: Relation
    column: Column
    is_array: bool
    type: EnumType | None
    value: Any
    type_name: Any = None
    default: Any = None
    gives_default: bool = False
    is_changed: bool = False
    is_cast: bool = True


@dataclass(frozen=True)
class EnumChange:
    """What ``statements`` come to: columns of type ``old`` get type ``new``, or text where that is None."""

    statements: tuple[Statement, ...]
    old: EnumType
    new: EnumType | None
    columns: tuple[EnumColumn, ...]
    marks: tuple[EnumType, ...]

    def settled(self, node: Any, new: tuple[str, str]) -> Any:
        """Return an expression with the names of enums in place of their marks; ``new`` is that of the new one."""

        def change(part: Any) -> Any:
            if not isinstance(part, ast.TypeName) or strings(part.names)[0] != _MARK:
                return part
            one = self.marks[int(strings(part.names)[1])]
            return _typed(part, new if one is self.new else one.was or new)

        return mapped(node, change)

    @property
    def is_superset(self) -> bool:
        """Whether the new values are the old ones, in their order, and more between them."""
        if self.new is None:
            return False
        rest = iter(self.new.labels)
        return all(label in rest for label in self.old.labels)

    @property
    def lacking(self) -> tuple[str, ...]:
        """The old values that are no longer there."""
        return tuple(one for one in self.old.labels if self.new is not None and one not in self.new.labels)


def read(facts: Facts, statements: Sequence[Statement]) -> EnumChange | None:
    """Return the change that begins with the first statement, with as many of the others as belong to it."""
    if not _may_begin(tree(statements[0].sql)) or not any(_drops_type(tree(one.sql)) for one in statements):
        return None
    reader, length = _Reader(facts), 0
    for number, one in enumerate(statements, 1):
        if not reader.take(tree(one.sql), is_ended=reader.ended() is not None):
            break
        length = number if reader.ended() is not None else length
    reader = _Reader(facts)
    for one in statements[:length]:
        reader.take(tree(one.sql), is_ended=reader.ended() is not None)
    old, columns = reader.ended(), tuple(reader.columns.values())
    if old is None or not all(map(_is_clear, columns)):
        return None
    return EnumChange(tuple(statements[:length]), old, reader.made, columns, tuple(reader.marks))


def _may_begin(node: Any) -> bool:
    match node:
        case ast.CreateEnumStmt():
            return True
        case ast.RenameStmt():
            return bool(node.renameType == Kind.OBJECT_TYPE)
        case ast.AlterTableStmt():
            return all(cmd.subtype in (A.AT_AlterColumnType, A.AT_ColumnDefault) for cmd in node.cmds)
    return False


def _drops_type(node: Any) -> bool:
    return isinstance(node, ast.DropStmt) and node.removeType == Kind.OBJECT_TYPE


def _is_clear(one: EnumColumn) -> bool:
    """Tell whether it is known which default the column has at the end: the server converts none of an enum."""
    return one.gives_default or one.column.default is None


@dataclass
class _Reader:
    """Follows names and columns from statement to statement."""

    facts: Facts
    columns: dict[tuple[int, str], EnumColumn] = field(default_factory=dict)
    made: EnumType | None = None
    marks: list[EnumType] = field(default_factory=list)
    named: dict[tuple[str, str], EnumType | None] = field(default_factory=dict)

    def take(self, node: Any, *, is_ended: bool) -> bool:
        """Follow a statement; False where it is no part of such a change, or not understood."""
        match node:
            case ast.AlterTableStmt() if node.objtype == Kind.OBJECT_TABLE:
                table = self.facts.relation(node.relation)
                is_one = table is not None and not table.is_temporary and node.relation.inh
                return bool(is_one) and all(self._command(table, cmd, is_ended=is_ended) for cmd in node.cmds)
            case ast.CreateEnumStmt() if not is_ended or self.made is None:
                return self._create(node)
            case ast.RenameStmt() if node.renameType == Kind.OBJECT_TYPE:
                return self._rename(node, is_ended=is_ended)
            case ast.DropStmt() if _drops_type(node) and not is_ended and node.behavior != CASCADE:
                return all(self._drop(strings(entry.names), missing_ok=node.missing_ok) for entry in node.objects)
        return False

    def ended(self) -> EnumType | None:
        """Return the old type where the statements up to here have replaced it, None where they have not."""
        gone = [one for one in self.marks if one.now is None]
        ends = {one.type for one in self.columns.values()}
        is_moved = bool(self.columns) and all(one.is_changed for one in self.columns.values())
        # One that is made for nothing, or has another name for no column's sake, is no part of this.
        is_other = any(one.now not in (None, one.was) and one is not self.made for one in self.marks)
        if len(gone) != 1 or not is_moved or is_other or ends != {self.made}:
            return None
        return gone[0] if gone[0] is not self.made and gone[0].was is not None else None

    def _command(self, table: Any, cmd: Any, *, is_ended: bool) -> bool:
        column = self.facts.columns(table).get(cmd.name)
        if column is None:
            return False
        one = self.columns.get((table.oid, cmd.name))
        if one is None:
            type_ = self._enum_of(column)
            if type_ is None or is_ended:
                return False
            value = parsed(f"SELECT {name(column.name)}").targetList[0].val
            one = EnumColumn(table, column, column.type.endswith("[]"), type_, value)
            self.columns[table.oid, cmd.name] = one
        if cmd.subtype == A.AT_ColumnDefault:
            one.gives_default = True
            one.default = None if cmd.def_ is None else self._marked(cmd.def_)
            return cmd.def_ is None or all(isinstance(part, _CONSTANT) for part in walk(cmd.def_))
        return cmd.subtype == A.AT_AlterColumnType and not is_ended and self._convert(one, cmd.def_)

    def _convert(self, one: EnumColumn, definition: Any) -> bool:
        made = definition.typeName
        type_ = self._enum(strings(made.names))
        is_text = type_ is None and strings(made.names)[-1] in _TEXT and not made.typmods
        if definition.collClause is not None or bool(made.arrayBounds) != one.is_array or not (type_ or is_text):
            return False
        using = definition.raw_default
        if using is None:
            if not is_text:
                return False  # the server refuses it, too
            value = ast.TypeCast(arg=one.value, typeName=made)
        else:
            one.is_cast = one.is_cast and _is_cast(using, one.column.name, is_text=one.type is None)
            value = self._marked(mapped(using, lambda part: one.value if _is_of(part, one.column.name) else part))
        if type_ is not None:
            if self.made not in (None, type_):
                return False
            self.made = type_
        one.type, one.value, one.type_name, one.is_changed = type_, value, self._marked(made), True
        return True

    def _enum_of(self, column: Column) -> EnumType | None:
        type_ = parsed(f"SELECT NULL::{column.type}").targetList[0].val.typeName
        return self._enum(strings(type_.names), by_old=True)

    def _enum(self, parts: Sequence[str], *, by_old: bool = False) -> EnumType | None:
        """Return the enum that a name means now; with ``by_old``, meant before the statements."""
        for schema in [parts[0]] if len(parts) == 2 else self.facts.conn.schemas():
            key = (schema, parts[-1])
            if by_old and (old := next((one for one in self.marks if one.was == key), None)) is not None:
                return old
            if key in self.named and not by_old:
                if self.named[key] is not None:
                    return self.named[key]
                continue
            found = self.facts.rows("enum", schema=key[0], name=key[1])
            if found:
                made = EnumType(tuple(found[0]["labels"]), key, key, tuple(found[0]["grantees"]))
                self.marks.append(made)
                self.named[key] = made
                return made
            if self.facts.type_oid(name(*key)) is not None:
                return None
        return None

    def _create(self, node: ast.CreateEnumStmt) -> bool:
        parts = strings(node.typeName)
        home = next(iter(one for one in self.facts.conn.schemas() if not one.startswith("pg_")), "")
        key = (parts[0] if len(parts) == 2 else home, parts[-1])
        if any(one.was is None for one in self.marks) or (self.made is not None and self.made.was is not None):
            return False
        made = EnumType(strings(node.vals), None, key)
        self.marks.append(made)
        self.named[key] = made
        return True

    def _rename(self, node: ast.RenameStmt, *, is_ended: bool) -> bool:
        one = self._enum(strings(node.object))
        if one is None or one.now is None or (is_ended and one is not self.made):
            return False
        self.named[one.now] = None
        one.now = (one.now[0], node.newname)
        self.named[one.now] = one
        return True

    def _drop(self, parts: Sequence[str], *, missing_ok: bool) -> bool:
        one = self._enum(parts)
        if one is None or one.now is None:
            return missing_ok and one is None and self.facts.type_oid(name(*parts)) is None
        self.named[one.now], one.now = None, None
        return True

    def _marked(self, node: Any) -> Any:
        """Return an expression with marks in place of the names of enums."""

        def change(part: Any) -> Any:
            if not isinstance(part, ast.TypeName) or strings(part.names)[0] == _MARK:
                return part
            one = self._enum(strings(part.names))
            return part if one is None else _typed(part, (_MARK, str(self.marks.index(one))))

        return mapped(node, change)


def _typed(part: Any, names: tuple[str, str]) -> Any:
    return changed(part, names=tuple(ast.String(sval=each) for each in names))


def _is_of(part: Any, column: str) -> bool:
    return isinstance(part, ast.ColumnRef) and strings(part.fields)[-1:] == (column,)


def _is_cast(node: Any, column: str, *, is_text: bool) -> bool:
    """Tell whether a value is only cast, through text of any length: such a cast fails for unknown values alone."""
    if not isinstance(node, ast.TypeCast):
        return _is_of(node, column)
    inner, casts = node.arg, [node.typeName]
    while isinstance(inner, ast.TypeCast):
        inner, casts = inner.arg, [*casts, inner.typeName]
    through = [one for one in casts if strings(one.names)[-1] in _TEXT and not one.typmods]
    return _is_of(inner, column) and len(through) >= len(casts) - 1 and (is_text or bool(through))
