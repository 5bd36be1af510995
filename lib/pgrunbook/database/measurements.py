"""What is counted, summed, timed and weighed before a change, and again after it; prepare and validate use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import psycopg
from pydantic import StrictBool, StrictFloat, StrictInt

from pgrunbook.database import checksums, foreign_code, health, integrity, query_plans, range_sums
from pgrunbook.database import queries as named_queries
from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import Connection
from pgrunbook.database.query_plans import HeavyQuery, QueryPlan
from pgrunbook.database.sqlstate import Meaning, meaning
from pgrunbook.display import progress
from pgrunbook.display.prose import counted
from pgrunbook.errors import Blocked, WrongInput

HEAVIEST = 10
# Tables that are summed in one snapshot: so many, and so many bytes together.
TOGETHER, TOGETHER_BYTES = 100, 32 * 1024 * 1024


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
) -> Measurements:
    """Measure all; ``leave_out`` is the history table. What we may not read, or is locked, is left out or estimated.

    Locks: AccessShareLock on one table after the other.
    """
    rows = health.row_counts(conn, leave_out=leave_out)
    with progress.doing("timing the critical queries"):
        timed = {n: query_plans.measured(conn, q, time_writes=time_writes) for n, q in critical_queries.items()}
    weighed = _weighed(conn)
    small = _smallest(weighed, checksum_bytes)
    return Measurements(
        rows=rows,
        queries_ms={name: query.median_ms for name, query in timed.items()},
        errors={name: query.error for name, query in timed.items() if query.error},
        plans={name: query.plan for name, query in timed.items() if query.plan},
        heaviest={} if critical_queries else query_plans.heaviest(conn, most=HEAVIEST)[0],
        sums=sums(conn, {name: table for name, table in small.items() if name in rows}),
        sizes={name: size for name, (_, size) in weighed.items()},
        breaches={b.key: b.rows for b in integrity.breaches(conn, check_timeout_ms=check_timeout_ms)},
    )


def sums(
    conn: Connection, tables: Mapping[str, TableName], without: Mapping[str, set[str]] | None = None
) -> dict[str, RowSum]:
    """Return the checksum of each table, without one snapshot over all: of small ones many have one.

    What may not be read, is locked, or would run code of other roles, is left out.
    """
    foreign = foreign_code.tables(conn)
    tables = {name: table for name, table in tables.items() if table not in foreign}
    found: dict[str, RowSum] = {}
    sizes_ = {name: size.table_bytes for name, (_, size) in _weighed(conn).items()}
    with progress.doing("summing rows") as stage:
        for part in _parts(tables, sizes_):
            stage.how_far(f"{next(iter(part))}, {len(found):,} of {counted(len(tables), 'table')} done")
            together = _summed(conn, part, without or {}) if len(part) > 1 else None
            for name, table in part.items() if together is None else ():
                found.update(_summed(conn, {name: table}, without or {}) or {})
            found.update(together or {})
    return found


def _parts(tables: Mapping[str, TableName], sizes_: Mapping[str, int]) -> Iterator[dict[str, TableName]]:
    """Yield the tables in parts that are summed in one snapshot: few bytes, or one table."""
    part: dict[str, TableName] = {}
    total = 0
    for name, table in tables.items():
        size = sizes_.get(name, TOGETHER_BYTES)
        if part and (total + size > TOGETHER_BYTES or len(part) >= TOGETHER):
            yield part
            part, total = {}, 0
        part[name] = table
        total += size
    if part:
        yield part


def _summed(
    conn: Connection, part: Mapping[str, TableName], without: Mapping[str, set[str]]
) -> dict[str, RowSum] | None:
    """Return the sums of some tables, None where one may not be read, is locked, or is gone meanwhile."""
    left_out = {table: without.get(name, set()) for name, table in part.items()}
    try:
        columns = checksums.column_types(conn, list(part.values()))
        if len(part) > 1:
            summed = checksums.checksums(conn, list(part.values()), without=left_out)
        else:
            summed = {table: range_sums.bounded_sum(conn, table, without=left_out[table]) for table in part.values()}
    except (Blocked, WrongInput):
        return None
    except psycopg.Error as exc:
        if meaning(exc) is Meaning.LOST:
            raise
        return None
    return {
        name: RowSum(
            table.schema, table.name,
            {column: type_ for column, type_ in columns[table].items() if column not in left_out[table]},
            summed[table].rows, summed[table].checksum,
        )
        for name, table in part.items()
    }  # fmt: skip


def sums_again(conn: Connection, before: Mapping[str, RowSum]) -> dict[str, RowSum]:
    """Return the checksums of the same tables now, over the columns that they had; without those that lost one."""
    tables = {name: TableName(was.schema, was.name) for name, was in before.items()}
    without, same = {}, {}
    for name, table in tables.items():
        try:
            now = checksums.column_types(conn, [table])[table]
        except WrongInput:
            continue  # it is gone, which the rows tell
        if before[name].columns.items() <= now.items():
            same[name] = table
            without[name] = set(now.keys() - before[name].columns.keys())
    return sums(conn, same, without)


def sizes(conn: Connection) -> dict[str, TableSize]:
    """Return the size of every table; {} when one is locked."""
    return {name: size for name, (_, size) in _weighed(conn).items()}


def _weighed(conn: Connection) -> dict[str, tuple[TableName, TableSize]]:
    try:
        found = named_queries.rows(conn, "query_plans", "sizes")
    except psycopg.errors.LockNotAvailable:
        return {}
    return {
        row["name"]: (
            TableName(row["schema_name"], row["relation"]),
            TableSize(row["table_bytes"], row["index_bytes"], row["dead_rows"]),
        )
        for row in found
    }


def _smallest(weighed: Mapping[str, tuple[TableName, TableSize]], limit_bytes: int) -> dict[str, TableName]:
    """Return the smallest tables, as many as are below the limit together."""
    found, total = {}, 0
    for name, (table, size) in sorted(weighed.items(), key=lambda item: item[1][1].table_bytes):
        total += size.table_bytes
        if total > limit_bytes:
            break
        found[name] = table
    return found
