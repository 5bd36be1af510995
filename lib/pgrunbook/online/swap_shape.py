"""The shape of a new table: the operator's own SQL, executed on an empty copy; and how its columns are filled.

The text names the new table as ``{table}``, and the one of today as ``{old}``. Where it has no CREATE TABLE {table},
the new table begins as an equal of the old one; without any text it stays so, and is written anew, as by VACUUM FULL.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pglast import ast
from pglast.parser import ParseError
from psycopg import sql

from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import rows
from pgrunbook.display.prose import listed
from pgrunbook.errors import Refused, WrongInput
from pgrunbook.online.swap_store import SwapSide
from pgrunbook.sql.tree import quoted, trees

TABLE, OLD = "{table}", "{old}"
_ALLOWED = (ast.CreateStmt, ast.AlterTableStmt, ast.IndexStmt, ast.CreateStatsStmt, ast.CommentStmt)
_HINT = "A shape is CREATE TABLE {table} (...), ALTER TABLE {table} ..., or CREATE TABLE ... PARTITION OF {table} ..."
# Where a shape begins as an equal: all but what is made later, when there are rows.
_LIKE = "CREATE TABLE {} (LIKE {} INCLUDING ALL EXCLUDING INDEXES EXCLUDING STATISTICS)"


@dataclass(frozen=True)
class SwapChoice:
    """What the operator asks for: the table, its new shape, and how columns are filled that differ.

    ``values`` gives, for columns of the new table, an expression over the columns of the old one; ``back`` the same
    for the way back. Rows are laid out by the columns ``order``. ``left`` names what is not carried over.
    """

    table: TableName
    shape: str = ""
    values: Mapping[str, str] = field(default_factory=dict)
    back: Mapping[str, str] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShapeColumn:
    """A column of either table, with what decides whether a value can be written into it.

    ``base`` is its type below domains, ``is_plain`` whether that is PostgreSQL's own, or an enum.
    """

    name: str
    type: str
    base: str
    is_plain: bool
    collation: str | None
    is_not_null: bool
    is_generated: bool
    is_identity: bool
    has_default: bool
    generated: str | None

    @property
    def needs_value(self) -> bool:
        """Whether a row cannot be written without a value for it."""
        return self.is_not_null and not (self.has_default or self.is_identity or self.is_generated)


def statements(shape: str, old: TableName, new: TableName) -> list[str]:
    """Return the statements that make the new table. Raises WrongInput for a text that does anything else."""
    text = shape.replace(TABLE, str(new)).replace(OLD, str(old))
    try:
        nodes = trees(text)
    except ParseError as exc:
        raise WrongInput(f"the shape of table {old.label} cannot be parsed: {exc}", hint=_HINT) from exc
    for node in nodes:
        if not isinstance(node, _ALLOWED) or not _is_about(node, new):
            raise WrongInput(
                f"the shape of table {old.label} has a statement that does not make the new table",
                detail=f"It is a {type(node).__name__.removesuffix('Stmt')}, or names another table than {TABLE}.",
                hint=_HINT,
            )
        if _refers(node):
            raise WrongInput(
                f"the shape of table {old.label} has a foreign key of its own",
                detail="Before the cut-over it would hold up those who delete in the table that it refers to.",
                hint="Foreign keys of the table of today are carried over; add a new one with a migration afterwards.",
            )
    made = [] if any(_makes(node, new) for node in nodes) else [_like(old, new)]
    return [*made, *([text] if nodes else [])]


def is_own(shape: str, old: TableName, new: TableName) -> bool:
    """Tell whether a shape has its own CREATE TABLE, so that nothing but it says what the new table is."""
    return bool(shape.strip()) and statements(shape, old, new)[0] != _like(old, new)


def make(conn: Connection, old: TableName, oid: int, new: TableName, shape: str, owner: str) -> None:
    """Make the new table, empty and in its shape. Call it in a transaction. Raises psycopg's errors, WrongInput."""
    texts = statements(shape, old, new)
    conn.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(new.identifier()))
    with conn.as_target():
        conn.execute(texts[0].encode())
    if texts[0] == _like(old, new):
        for row in rows(conn, "swap", "beside", oid=oid):
            conn.execute(sql.SQL("ALTER TABLE {} {}").format(new.identifier(), sql.SQL(row["sql"])))
    for text in texts[1:]:
        with conn.as_target():
            conn.execute(text.encode())
    if conn.execute("SELECT pg_catalog.to_regclass(%s) IS NULL", [str(new)]).fetchone() == (True,):
        raise WrongInput(f"the shape of table {old.label} makes no table {TABLE}", hint=_HINT)
    conn.execute(sql.SQL("ALTER TABLE {} OWNER TO {}").format(new.identifier(), sql.Identifier(owner)))


def columns(conn: Connection, oid: int) -> list[ShapeColumn]:
    """Return the columns of a table in their order."""
    return [ShapeColumn(**row) for row in rows(conn, "swap", "columns", oid=oid)]


def digest(conn: Connection, oid: int) -> str:
    """Return a digest of the columns of a table."""
    return hashlib.sha256(repr(columns(conn, oid)).encode()).hexdigest()[:16]


def traits(conn: Connection, oid: int) -> tuple[tuple[str, str], ...]:
    """Return what a table is beside its columns, indexes and what hangs on it: the kind of it, and what it is."""
    return tuple((row["kind"], row["says"]) for row in rows(conn, "swap", "traits", oid=oid))


def ways(
    choice: SwapChoice, old: Sequence[ShapeColumn], new: Sequence[ShapeColumn]
) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    """Return how the columns of the new table are filled from the old one, and those of the old from the new one.

    Raises WrongInput for a column that nothing fills though it must have a value, on either way, and for one whose
    value is made by an expression and has no way back.
    """
    forward = _way(choice, choice.values, old, new, "values")
    transformed = {name for name in choice.values if name in {one.name for one in old}}
    if missing := sorted(transformed - {*choice.back}):
        raise WrongInput(
            f"nothing says how {listed(missing)} of the old table is made from the new one",
            detail="The shape gives it another meaning: after the cut-over nobody could swap back without loss.",
            hint=f"""Give an expression over the new columns: -p 'back={{"{missing[0]}": "..."}}'""",
        )
    return forward, _way(choice, choice.back, new, old, "back")


def _way(
    choice: SwapChoice,
    given: Mapping[str, str],
    source: Sequence[ShapeColumn],
    target: Sequence[ShapeColumn],
    parameter: str,
) -> tuple[tuple[str, str], ...]:
    there = {one.name: one for one in source}
    if unknown := sorted({*given} - {one.name for one in target if not one.is_generated}):
        raise WrongInput(
            f"{parameter} names {listed(unknown)}, which is no column that can be written",
            hint=f"Columns are: {', '.join(one.name for one in target if not one.is_generated)}.",
        )
    found = []
    for column in target:
        if column.is_generated:
            continue
        if column.name in given:
            found.append((column.name, f"CAST(({given[column.name]}) AS {column.type})"))
        elif column.name in there:
            found.append((column.name, _cast(there[column.name], column)))
        elif column.needs_value:
            side = "new" if parameter == "values" else "old"
            raise WrongInput(
                f"nothing fills column {column.name} of the {side} table {choice.table.label}",
                detail="It is NOT NULL, has no default, and the other table has no column of this name"
                + ("." if parameter == "values" else ": after the cut-over nobody could swap back."),
                hint=f"""Give an expression: -p '{parameter}={{"{column.name}": "..."}}'""",
            )
    return tuple(found)


def _cast(source: ShapeColumn, target: ShapeColumn) -> str:
    name = f"s.{quoted(source.name)}"
    return name if source.type == target.type else f"CAST({name} AS {target.type})"


def sides(conn: Connection, choice: SwapChoice, oid: int, new: TableName) -> tuple[tuple[str, ...], SwapSide, SwapSide]:
    """Return the key by which rows are synchronised, and both sides.

    Raises Refused for a table without a key, or whose key the new table lacks; WrongInput as :func:`ways`.
    """
    new_oid = conn.oid_of("regclass", str(new)) or 0
    before, after = columns(conn, oid), columns(conn, new_oid)
    forward, backward = ways(choice, before, after)
    plain = {one.name for one in after if not one.is_generated} - {*choice.values}
    found = [row for row in rows(conn, "relations", "keys", oids=[oid]) if not row["is_deferrable"]]
    usable = [row for row in found if {*row["columns"]} <= plain and all(row["operators"])]
    if not usable:
        raise _without_key(choice.table, [row["columns"] for row in found])
    key = max(usable, key=lambda row: row["is_ordered"])
    there = {one.name: one for one in after}
    if not (key["is_ordered"] and all(there[column].is_plain for column in key["columns"])):
        raise Refused(
            f"cannot swap {choice.table.label}: its key ({', '.join(key['columns'])}) has a type of the application",
            detail="The log of changes would run code of the application with our rights.",
            hint="Add a unique key over NOT NULL columns of PostgreSQL's own types, then swap it.",
        )
    wanted = list(key["columns"])
    types = [there[column].base for column in wanted]
    operators = _operators(conn, new_oid, wanted) or key["operators"]
    old_side = SwapSide(tuple(key["types"]), tuple(key["collations"]), tuple(key["operators"]), backward)
    new_side = SwapSide(tuple(types), _collations(key["collations"], there, wanted), tuple(operators), forward)
    return tuple(wanted), old_side, new_side


def _operators(conn: Connection, oid: int, key: Sequence[str]) -> Sequence[str]:
    found = [row for row in rows(conn, "relations", "keys", oids=[oid]) if row["columns"] == list(key)]
    return found[0]["operators"] if found else ()


def _collations(before: Iterable[str], there: Mapping[str, ShapeColumn], key: Sequence[str]) -> tuple[str, ...]:
    return tuple(there[column].collation or was for column, was in zip(key, before, strict=True))


def _without_key(table: TableName, found: Sequence[Sequence[str]]) -> Refused:
    if found:
        return Refused(
            f"cannot swap table {table.label}: the new table has none of its keys",
            detail=f"Its keys are ({'), ('.join(', '.join(one) for one in found)}); a row of both tables is matched by "
            "one of them, whose columns have to be in both and to be filled as they are.",
            hint="Leave the columns of one key in the shape; another key may stand beside it.",
        )
    return Refused(
        f"cannot swap table {table.label}: it has no key",
        detail="A row of both tables is matched by a unique index over NOT NULL columns, which is neither partial nor"
        " deferrable; without one nobody can tell which row was changed.",
        hint="Add one first: ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY (it rewrites), or a"
        " UNIQUE constraint over columns that are NOT NULL.",
    )


def _like(old: TableName, new: TableName) -> str:
    return _LIKE.format(new, old)


def _makes(node: ast.Node, new: TableName) -> bool:
    return isinstance(node, ast.CreateStmt) and (node.relation.schemaname, node.relation.relname) == new


def _is_about(node: ast.Node, new: TableName) -> bool:
    """Tell whether a statement makes or changes the new table, or a partition of it."""
    match node:
        case ast.CreateStmt() if node.partbound is not None:
            return any((one.schemaname, one.relname) == new for one in node.inhRelations or ())
        case ast.CreateStmt() | ast.AlterTableStmt() | ast.IndexStmt():
            return (node.relation.schemaname, node.relation.relname) == new
        case ast.CreateStatsStmt():
            return all((one.schemaname, one.relname) == new for one in node.relations)
        case ast.CommentStmt():
            parts = [part.sval for part in node.object] if isinstance(node.object, tuple) else []
            return tuple(parts[:2]) == tuple(new)
    return False


def _refers(node: ast.Node) -> bool:
    """Tell whether a statement makes a foreign key."""
    if isinstance(node, ast.CreateStmt):
        parts = [*(node.tableElts or ())]
    elif isinstance(node, ast.AlterTableStmt):
        parts = [command.def_ for command in node.cmds if command.def_ is not None]
    else:
        return False
    inside = [one for part in parts if isinstance(part, ast.ColumnDef) for one in part.constraints or ()]
    return any(isinstance(one, ast.Constraint) and one.contype.name == "CONSTR_FOREIGN" for one in [*parts, *inside])
