"""What is counted, summed, timed and weighed before a change, and again after it; prepare and validate use it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple

import psycopg
from pydantic import StrictBool, StrictFloat, StrictInt

from pgrunbook.database import checksums, foreign_code, health, integrity, query_plans, range_sums
from pgrunbook.database import queries as named_queries
from pgrunbook.database.checksums import SummedTable, TableName, TableSum
from pgrunbook.database.connection import Connection
from pgrunbook.database.query_plans import HeavyQuery, QueryPlan
from pgrunbook.database.sqlstate import Meaning, meaning
from pgrunbook.display import progress
from pgrunbook.display.prose import counted
from pgrunbook.errors import Blocked, WrongInput

HEAVIEST = 10
# Tables that are summed in one snapshot: so many, and so many bytes together.
TOGETHER, TOGETHER_BYTES = 100, 32 * 1024 * 1024

_Summed = dict[TableName, tuple[SummedTable, TableSum]]


@dataclass(frozen=True)
class RowSum:
    """The rows of a table and their checksum, over the named columns and their types."""

    schema: str
    name: str
    columns: dict[str, str]
    rows: StrictInt
    checksum: str


@dataclass(frozen=True)
class TableSize:
    """The bytes of a table and of its indexes, and its dead rows as the statistics count them."""

    table_bytes: StrictInt
    index_bytes: StrictInt
    dead_rows: StrictInt


class _Weighed(NamedTuple):
    table: TableName
    size: TableSize
    is_empty: bool


@dataclass(frozen=True)
class Measurements:
    """The database before a change.

    ``rows`` of each table, and whether they were counted; ``sums`` of those that were small enough together; each
    critical query's time, and ``plans``; the ``heaviest`` queries of the traffic; ``sizes``; ``breaches`` by their key,
    with their rows, None where that was not known.
    """

    rows: dict[str, tuple[StrictInt, StrictBool]]
    queries_ms: dict[str, StrictInt | StrictFloat | None]
    errors: dict[str, str] = field(default_factory=dict)
    plans: dict[str, QueryPlan] = field(default_factory=dict)
    heaviest: dict[str, HeavyQuery] = field(default_factory=dict)
    sums: dict[str, RowSum] = field(default_factory=dict)
    sizes: dict[str, TableSize] = field(default_factory=dict)
    breaches: dict[str, StrictInt | None] = field(default_factory=dict)


def take(
    conn: Connection,
    critical_queries: Mapping[str, str],
    *,
    leave_out: str,
    checksum_bytes: int,
    check_timeout_ms: int,
    time_writes: bool = False,
    changed: Collection[str] = (),
) -> Measurements:
    """Measure all; ``leave_out`` is the history table. What we may not read, or is locked, is left out or estimated.

    Rows are checked against what the schema declares in the tables that are summed, and in those that ``changed``
    names, without their schemas.

    Locks: AccessShareLock on one table after the other.
    """
    with progress.doing("timing the critical queries"):
        timed = {n: query_plans.measured(conn, q, time_writes=time_writes) for n, q in critical_queries.items()}
    weighed = _weighed(conn)
    small = _smallest({n: w for n, w in weighed.items() if ".".join(w.table) != leave_out}, checksum_bytes)
    summed = _sums(conn, small, {}, weighed)
    rows = health.row_counts(conn, leave_out=leave_out, known={name: sum_.rows for name, sum_ in summed.items()})
    breaches = integrity.breaches(
        conn,
        check_timeout_ms=check_timeout_ms,
        empty={name for name, row in rows.items() if row == (0, True)},
        passed_over={name for name, one in weighed.items() if name not in small and one.table.name not in changed},
    )
    return Measurements(
        rows=rows,
        queries_ms={name: query.median_ms for name, query in timed.items()},
        errors={name: query.error for name, query in timed.items() if query.error},
        plans={name: query.plan for name, query in timed.items() if query.plan},
        heaviest={} if critical_queries else query_plans.heaviest(conn, most=HEAVIEST)[0],
        sums={name: sum_ for name, sum_ in summed.items() if name in rows},
        sizes={name: one.size for name, one in weighed.items()},
        breaches={breach.key: breach.rows for breach in breaches},
    )


def sums(
    conn: Connection, tables: Mapping[str, TableName], without: Mapping[str, set[str]] | None = None
) -> dict[str, RowSum]:
    """Return the checksum of each table, without one snapshot over all: of small ones many have one.

    What may not be read, is locked, is gone, or would run code of other roles, is left out.
    """
    return _sums(conn, tables, without or {}, _weighed(conn))


def _sums(
    conn: Connection,
    tables: Mapping[str, TableName],
    without: Mapping[str, set[str]],
    weighed: Mapping[str, _Weighed],
) -> dict[str, RowSum]:
    foreign = foreign_code.tables(conn)
    known = checksums.summed_tables(conn, [table for table in tables.values() if table not in foreign])
    left_out = {table: without.get(name, set()) for name, table in tables.items()}
    summed: _Summed = {}
    sizes_ = {one.table: one.size.table_bytes for one in weighed.values()}
    empty = {one.table for one in weighed.values() if one.is_empty}
    with progress.doing("summing rows") as stage:
        for part in _parts([checksums.leaving_out(table, left_out[name]) for name, table in known.items()], sizes_):
            stage.how_far(f"{part[0].name}, {len(summed):,} of {counted(len(known), 'table')} done")
            together = _summed(conn, part, empty) if len(part) > 1 else None
            for table in part if together is None else ():
                summed.update(_alone(conn, table.name, left_out[table.name]) or {})
            summed.update(together or {})
    return {
        name: RowSum(table.schema, table.name, summed[table][0].types, summed[table][1].rows, summed[table][1].checksum)
        for name, table in tables.items()
        if table in summed
    }


def _parts(tables: Sequence[SummedTable], sizes_: Mapping[TableName, int]) -> Iterator[list[SummedTable]]:
    """Yield the tables in parts that are summed in one snapshot: few bytes, or one table."""
    part: list[SummedTable] = []
    total = 0
    for table in tables:
        size = sizes_.get(table.name, TOGETHER_BYTES)
        if part and (total + size > TOGETHER_BYTES or len(part) >= TOGETHER):
            yield part
            part, total = [], 0
        part.append(table)
        total += size
    if part:
        yield part


def _summed(conn: Connection, part: Sequence[SummedTable], empty: Set[TableName]) -> _Summed | None:
    """Return the sums of some tables, None where one may not be read, is locked, or is another one meanwhile."""

    def read() -> _Summed:
        found = checksums.sums_of(conn, part, without_rows=empty)
        return {table.name: (table, found[table.name]) for table in part}

    return _unless_hindered(read)


def _alone(conn: Connection, name: TableName, without: Collection[str]) -> _Summed | None:
    """Return the sum of a table that may be large, None where there is none."""

    def read() -> _Summed:
        summed = range_sums.bounded_sum(conn, name, without=without)
        return {
            n: (checksums.leaving_out(t, without), summed) for n, t in checksums.summed_tables(conn, [name]).items()
        }

    return _unless_hindered(read)


def _unless_hindered(read: Callable[[], _Summed]) -> _Summed | None:
    try:
        return read()
    except (Blocked, WrongInput):
        return None
    except psycopg.Error as exc:
        if meaning(exc) is Meaning.LOST:
            raise
        return None


def sums_again(conn: Connection, before: Mapping[str, RowSum]) -> dict[str, RowSum]:
    """Return the checksums of the same tables now, over the columns that they had; without those that lost one."""
    tables = {name: TableName(was.schema, was.name) for name, was in before.items()}
    now = {table: set(known.types.items()) for table, known in checksums.summed_tables(conn, tables.values()).items()}
    same = {name: table for name, table in tables.items() if before[name].columns.items() <= now.get(table, set())}
    return sums(conn, same, {name: {c for c, _ in now[t]} - before[name].columns.keys() for name, t in same.items()})


def sizes(conn: Connection) -> dict[str, TableSize]:
    """Return the size of every table; {} when one is locked."""
    return {name: one.size for name, one in _weighed(conn).items()}


def _weighed(conn: Connection) -> dict[str, _Weighed]:
    try:
        found = named_queries.rows(conn, "query_plans", "sizes")
    except psycopg.errors.LockNotAvailable:
        return {}
    return {
        row["name"]: _Weighed(
            TableName(row["schema_name"], row["relation"]),
            TableSize(row["table_bytes"], row["index_bytes"], row["dead_rows"]),
            row["is_empty"],
        )
        for row in found
    }


def _smallest(weighed: Mapping[str, _Weighed], limit_bytes: int) -> dict[str, TableName]:
    """Return the smallest tables, as many as are below the limit together."""
    found, total = {}, 0
    for name, one in sorted(weighed.items(), key=lambda item: item[1].size.table_bytes):
        total += one.size.table_bytes
        if total > limit_bytes:
            break
        found[name] = one.table
    return found
