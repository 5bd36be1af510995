"""The rows of today that stand against going back: told before a rollback changes anything.

Each statement of a way back is read for what it demands of rows, in the names of today: statements before it may
rename, bring back or drop what it is about. Then each demand is one query, which reads and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from pgrunbook.database.checksums import STATEMENT_TIMEOUT_MS
from pgrunbook.database.connection import Connection
from pgrunbook.errors import Refused
from pgrunbook.sql.routines import bodies
from pgrunbook.sql.tree import tree
from pgrunbook.violations.demands import demands, parts
from pgrunbook.violations.rows import RowDemand, RowQueries
from pgrunbook.violations.simulation import follow
from pgrunbook.violations.world import Kept, World

_NOTHING_KEPT: Kept = MappingProxyType({})


@dataclass(frozen=True)
class Violation:
    """Something that a statement of a way back demands of rows, and the rows of today that stand against it.

    ``what`` names it as the statement does, ``table`` the table as it is called today. ``rows`` is None where their
    number could not be told, ``at_least`` how many there are for certain. ``samples`` are up to five of them: the
    key and the values that offend, never whole rows. ``says`` is one sentence.
    """

    migration: str
    what: str
    table: str
    rows: int | None
    samples: tuple[str, ...]
    says: str
    at_least: int = 0


def against(
    conn: Connection,
    statements: Sequence[tuple[str, str]],
    *,
    kept: Mapping[tuple[str, str], Callable[[], int]] = _NOTHING_KEPT,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
) -> list[Violation]:
    """Return what the statements of a way back demand of rows, in order, with the rows that stand against each.

    ``statements`` are migration and text of each, as they will be executed. ``kept`` says of columns, by table and
    column as SQL shows them, how to count the rows for which no value was kept: the others are given theirs.
    What is demanded and met is in the list as well, with 0 rows; [] when nothing is demanded.

    Rows that a statement of the list itself changes cannot be told beforehand, nor can those that are given back
    beside the list. Code that triggers run is not read.

    Raises Blocked when somebody holds a lock that keeps definitions from being read.
    Locks: AccessShareLock on the tables that are read, for as long as each query takes.
    """
    rows = RowQueries(conn, statement_timeout_ms)
    with rows.names():
        world = World(conn, kept)
    found: list[Violation] = []
    begun = ""
    for migration, sql in statements:
        if migration != begun:
            world.begin()
            begun = migration
        for wanted in _in_order(world, rows, sql):
            told = rows.ask(wanted)
            found.append(
                Violation(migration, wanted.what, wanted.table, told.rows, told.samples, told.says, told.at_least)
            )
    return found


def refuse(found: Sequence[Violation]) -> None:
    """Refuse to go back where rows stand against it; what could not be told is named, and refuses nothing.

    Raises Refused with the migration that comes first, and all that stands against going back.
    """
    standing = [one for one in found if one.at_least]
    if not standing:
        return
    migration = standing[0].migration
    tables: dict[str, tuple[int, bool]] = {}
    for one in standing:
        if one.migration == migration:
            rows, more = tables.get(one.table, (0, False))
            tables[one.table] = (max(rows, one.at_least), more or one.rows is None or bool(rows))
    told = " and ".join(_number(rows, table, more=more) for table, (rows, more) in tables.items())
    stands = "stands" if [rows for rows, _ in tables.values()] == [1] else "stand"
    unknown = [one for one in found if one.rows is None and not one.at_least]
    raise Refused(
        f"cannot take back {migration}: {told} {stands} against it",
        detail="; ".join(_line(one) for one in (*standing, *unknown)) + ".",
        hint="Change or delete these rows and start the rollback again, which looks anew; "
        "or take another way: a down script that says what becomes of them, or a restore to the time before.",
    )


def _in_order(world: World, rows: RowQueries, sql: str) -> list[RowDemand]:
    """Return what a statement demands, part by part, and leave the names as they are behind it."""
    found: list[RowDemand] = []
    for node in (part for whole in (tree(sql), *bodies(tree(sql))) for part in parts(whole)):
        with rows.names():
            found += demands(world, node)
            follow(world, node)
    return found


def _number(rows: int, table: str, *, more: bool) -> str:
    return f"{'at least ' if more else ''}{rows:,} row{'s' * (rows != 1)} of {table}"


def _line(one: Violation) -> str:
    samples = f" ({'; '.join(one.samples)}{'; ...' * ((one.rows or 0) > len(one.samples))})" if one.samples else ""
    return f"{one.migration}: {one.what}: {one.says}{samples}"
