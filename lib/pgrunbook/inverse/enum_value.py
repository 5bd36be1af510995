"""Inverse of ALTER TYPE ... ADD VALUE: another type takes the place of the enum, for PostgreSQL removes no value.

1. Drop what names the type or is made from its columns: views, checks, indexes with a condition, functions.
2. Rename the type, and create it again with the values of today.
3. Convert the columns, which rewrites their tables. It fails where a row has the added value: rollback looks before.
4. Drop the renamed type, and create what was dropped.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from pgrunbook.database.relations import Column
from pgrunbook.inverse import columns, detach, grants
from pgrunbook.inverse.dependents import dropped_with
from pgrunbook.inverse.reader import CLASSES, Address, Reader
from pgrunbook.inverse.recreation import comments_of, recreate, statements_of
from pgrunbook.inverse.way import NoInverseError, Way
from pgrunbook.sql.tree import quoted

_LONGEST_NAME = 63


def replace_type(reader: Reader, way: Way, type_: dict[str, Any], value: str) -> None:
    """Write the steps that give a type the values of today, instead of those with the added ``value``."""
    uses = reader.rows("uses_of_enum", oid=type_["oid"])
    others: list[Address] = sorted({(u["class"], u["oid"], u["part"]) for u in uses if not u["is_column"]})
    obstacles = [u["obstacle"] for u in uses if u["obstacle"]]
    piece = Way()
    if not obstacles:
        recreate(reader, piece, others)
    if obstacles := [*obstacles, *(keep.table for keep in piece.keeps)]:
        reason = f"PostgreSQL cannot remove the value {value} from {type_['sql']}, and {obstacles[0]} needs the type"
        raise NoInverseError(f"cannot be undone, because {reason}.")
    gone = dropped_with(reader, others)
    things = {thing.address: thing for thing in reader.things(gone.leaders())}
    for statement in detach.drops(reader, gone, gone.leaders(), things, {}):
        way.add(statement, "It depends on the type, and is created again below.")
    address = (CLASSES["pg_type"], type_["oid"], 0)
    (thing,) = reader.things([address])
    name = f"pgrunbook_{type_['name']}"[:_LONGEST_NAME]
    way.add(f"ALTER TYPE {thing.sql} RENAME TO {quoted(name)}", "Its name is for the type that replaces it.")
    for _, statement in statements_of(reader, "pg_type", [address]):
        way.add(statement, f"The type is created again, without the value {value}.")
    if thing.owner != reader.me:
        way.add(f"ALTER TYPE {thing.sql} OWNER TO {thing.owner}", "Its owner is set again.")
    grants.restore(reader, way, [address])
    for statement in comments_of(reader, [address]):
        way.add(statement, "Its comment or label is set again.")
    _convert(reader, way, [(u["oid"], u["part"]) for u in uses if u["is_column"]], value)
    way.add(f"DROP TYPE {thing.renamed(name)}", "Nothing needs the old type any more.")
    way.follow(piece)


def _convert(reader: Reader, way: Way, places: list[tuple[int, int]], value: str) -> None:
    """Give columns the new type of the same name, those of a table at once; a child's default is set after it."""
    found = [c for c in reader.columns(sorted({oid for oid, _ in places})) if (c.relation, c.number) in places]
    with_default = {column.name for column in found if column.default is not None}
    for name, of_table in groupby((c for c in found if not c.is_inherited), key=lambda column: column.table):
        clauses = [clause for c in of_table for clause in _clauses(c, had_default=c.name in with_default)]
        says = f"{name} is rewritten while others wait; a row with the value {value} would prevent it."
        way.add(f"ALTER TABLE {name} {', '.join(clauses)}", says)
    for column in found:
        if column.is_inherited and column.name in with_default:
            way.add(columns.default(column), "Its own default is set again.")


def _clauses(column: Column, *, had_default: bool) -> list[str]:
    middle = "text[]" if column.type.endswith("[]") else "text"
    made = [f"ALTER COLUMN {column.sql} TYPE {column.type} USING {column.sql}::{middle}::{column.type}"]
    if had_default:
        made = [f"ALTER COLUMN {column.sql} DROP DEFAULT", *made]
    if column.default is not None:
        made.append(f"ALTER COLUMN {column.sql} SET DEFAULT {column.default}")
    return made
