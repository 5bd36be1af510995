"""The history tables of all known migration tools in a database; a second history is refused by its tool's name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection
from pgrunbook.display.prose import listed
from pgrunbook.errors import WrongInput
from pgrunbook.history.table import Shape, Table, current_schema, tables_named

# Names that applications use too: they count only where an unqualified name is created, and in public.
COMMON = frozenset({"migrations", "schema_migrations", "schema_version", "schema_info", "changelog", "schemaversion"})


@dataclass(frozen=True)
class KnownTable:
    """A history table in the database, whose it is, and how its team applies migrations."""

    tool: str
    table: Table
    way: str


def read(conn: Connection, target: Target, shapes: Iterable[tuple[str, str, Shape]]) -> list[KnownTable]:
    """Return the history tables in the database; ``shapes`` are those of each tool, behind its name and its way."""
    known = list(shapes)
    names = {name for _, _, shape in known for name in (shape.name, shape.beside) if name is not None}
    tables = tables_named(conn, names, schema=None)
    there = frozenset((table.schema, table.name) for table in tables)
    near = {current_schema(conn), "public", target.history_schema}
    found = [
        (KnownTable(tool, table, way), shape)
        for tool, way, shape in known
        for table in tables
        if shape.fits(table, there) and (shape.schema is not None or table.name not in COMMON or table.schema in near)
    ]
    closer = {one.table.qualified for one, shape in found if shape.beside is not None}
    return [one for one, shape in found if shape.beside is not None or one.table.qualified not in closer]


def second(folder: Path, tool: str, why: str, others: Sequence[KnownTable]) -> WrongInput:
    """Return the refusal of a folder whose own history would begin beside that of another tool."""
    names = listed([f"{other.table.qualified} of {other.tool}" for other in others])
    return WrongInput(
        f"the database has the history table {names}, and {folder} is read as {tool}",
        detail=f"{why[:1].upper()}{why[1:]}. With a new history, what is applied would run again.",
        hint=f"{others[0].way} If that table belongs to something else, name the table of this folder as"
        " history_schema and history_table in targets.toml.",
    )
