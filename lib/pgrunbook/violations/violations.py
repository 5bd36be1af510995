"""The rows of today that violate what a rollback would restore; rollback reports them before it changes anything.

Each statement of a way back is read for its demands on rows, translated to today's names: earlier statements may
rename, restore or drop its objects. Then each demand is one query, which only reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pgrunbook.database.checksums import STATEMENT_TIMEOUT_MS
from pgrunbook.database.connection import Connection
from pgrunbook.errors import Refused
from pgrunbook.sql.routines import bodies
from pgrunbook.sql.tree import trees
from pgrunbook.violations.demands import demands, parts
from pgrunbook.violations.rows import RowDemand, RowQueries
from pgrunbook.violations.succession import follow
from pgrunbook.violations.world import Kept, World

_NOTHING_KEPT: Kept = MappingProxyType({})


@dataclass(frozen=True)
class Violation:
    """A demand of a way back's statement on rows, and the rows of today that violate it.

    ``what`` names it as the statement does, ``table`` is the table's name of today. ``rows`` is None where their
    number is unknown, ``at_least`` how many there are for certain. ``samples`` are up to five of them: the
    key and the offending values, never whole rows. ``says`` is one sentence.
    """

    migration: str
    what: str
    table: str
    rows: int | None
    samples: tuple[str, ...]
    says: str
    at_least: int = 0


def find(
    conn: Connection,
    statements: Sequence[tuple[str, str]],
    *,
    kept: Mapping[tuple[str, str], Callable[[], str]] = _NOTHING_KEPT,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
) -> list[Violation]:
    """Return the demands of a way back's statements on rows, in order, with the rows that violate each.

    ``statements`` are migration and text of each, as they will be executed; a text may hold several. ``kept`` maps a
    column, by table and column as SQL shows them, to the condition that a row (of alias t) has no captured value; all
    others get theirs.
    A demand that no row violates is in the list as well, with 0 rows; [] when nothing is demanded.

    Rows that a statement of the list itself changes are unknown beforehand, and so are rows that are reverted
    beside the list. Code that triggers run is not read.

    Raises Blocked when another session's lock prevents reading definitions.
    Locks: AccessShareLock on the tables that are read, for as long as each query takes.
    """
    rows = RowQueries(conn, statement_timeout_ms)
    parted = [(migration, _parts(sql)) for migration, sql in statements]
    with rows.names():
        world = World(conn, [node for _, nodes in parted for node in nodes], kept)
    found: list[Violation] = []
    begun = ""
    for migration, nodes in parted:
        if migration != begun:
            world.begin()
            begun = migration
        for wanted in _in_order(world, rows, nodes):
            answer = rows.ask(wanted)
            found.append(
                Violation(
                    migration, wanted.what, wanted.table, answer.rows, answer.samples, answer.says, answer.at_least
                )
            )
    return found


def refuse(found: Sequence[Violation]) -> None:
    """Refuse a rollback that rows violate; demands with an unknown answer are named, and refuse nothing.

    Raises Refused with the first migration concerned, and all violations.
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
    counted = " and ".join(_number(rows, table, more=more) for table, (rows, more) in tables.items())
    violate = "violates" if [rows for rows, _ in tables.values()] == [1] else "violate"
    unknown = [one for one in found if one.rows is None and not one.at_least]
    raise Refused(
        f"cannot take back {migration}: {counted} {violate} what it would restore",
        detail="; ".join(_line(one) for one in (*standing, *unknown)) + ".",
        hint="Change or delete these rows and start the rollback again, which checks anew; "
        "or write a down script that handles them, or restore a backup to the time before the migration.",
    )


def _parts(sql: str) -> list[Any]:
    return [part for node in trees(sql) for whole in (node, *bodies(node)) for part in parts(whole)]


def _in_order(world: World, rows: RowQueries, nodes: Sequence[Any]) -> list[RowDemand]:
    """Return a statement's demands, part by part, and apply its effect on names."""
    found: list[RowDemand] = []
    for node in nodes:
        with rows.names():
            found += demands(world, node)
            follow(world, node)
    return found


def _number(rows: int, table: str, *, more: bool) -> str:
    return f"{'at least ' if more else ''}{rows:,} row{'s' * (rows != 1)} of {table}"


def _line(one: Violation) -> str:
    samples = f" ({'; '.join(one.samples)}{'; ...' * ((one.rows or 0) > len(one.samples))})" if one.samples else ""
    return f"{one.migration}: {one.what}: {one.says}{samples}"
