"""Checksums of tables, and the rows in which two tables differ; rehearsal, validate and rollback use it.

Two values are equal when an application cannot tell them apart: numeric 1.0 and 1.00 differ, as do 0.0 and
-0.0, '24 hours' and '1 day', and texts that a nondeterministic collation takes for equal. A json differs from
one with other spaces or order of keys, a jsonb does not. The physical order of columns does not count.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Literal, NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow, tuple_row

from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load, steady
from pgrunbook.database.schema import OURS
from pgrunbook.errors import WrongInput

STATEMENT_TIMEOUT_MS = 3_600_000

_BUCKETS = 4096
_SAMPLES = 10
_SAMPLE_CHARS = 200
_FETCH_ROWS = 20_000

# Types whose hash tells apart whatever an application can tell apart, whatever OIDs the database gave.
_HASHED = {
    "bigint", "boolean", "bytea", "date", "integer", "smallint", "time without time zone",
    "timestamp with time zone", "timestamp without time zone", "uuid",
}  # fmt: skip
_TEXTS = {"text", "character varying", "name"}


Change = Literal["missing", "changed", "new"]


class TableName(NamedTuple):
    """A table's schema and name, as they are in the catalog, without quotes."""

    schema: str
    name: str

    def __str__(self) -> str:
        return self.identifier().as_string(None)

    def identifier(self) -> sql.Identifier:
        """Return the name for a composed statement."""
        return sql.Identifier(self.schema, self.name)


@dataclass(frozen=True)
class TableSum:
    """How many rows a table holds, and the sum of their hashes (64 bits each), in decimal."""

    rows: int
    checksum: str


@dataclass(frozen=True)
class Sample:
    """One row that differs: its primary key, or the start of the whole row where there is none."""

    change: Change
    key: str


@dataclass(frozen=True)
class TableDifference:
    """How many rows of the first table are missing from the second or changed there, and how many are new."""

    missing: int
    changed: int
    new: int
    samples: tuple[Sample, ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.changed or self.new)


@dataclass(frozen=True)
class _Table:
    name: TableName
    partitioned: bool
    types: dict[str, str]
    key: tuple[str, ...]

    def source(self) -> sql.Composable:
        # A partitioned table stands for its partitions, any other for its own rows without its children's.
        return sql.SQL("{}" if self.partitioned else "ONLY {}").format(self.name.identifier())


def checksums(
    conn: Connection,
    tables: Collection[TableName] | None = None,
    *,
    leave_out: Collection[str] = OURS,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
) -> dict[TableName, TableSum]:
    """Return row count and checksum of the named tables, or of all, as they are at one moment.

    A partitioned table stands for its partitions, which are summed only where they are named.
    ``leave_out`` names schemas and single tables, as for ``schema.snapshot``.
    The sum of hashes of whole rows does not depend on the rows' order, takes 0.5 s for a million rows in
    fifteen columns, and is no protection against somebody who forges rows.

    Raises WrongInput when a named table is not there.
    Locks: AccessShareLock on each table.
    """
    with steady(conn, statement_timeout_ms=statement_timeout_ms) as cursor:
        if tables is None:
            cursor.execute(load("data")["tables"], {"leave_out": list(leave_out)})
            tables = [TableName(*row) for row in cursor.fetchall()]
        return {table.name: _sum(cursor, table) for table in _described(cursor, tables)}


def difference(
    conn_a: Connection,
    conn_b: Connection,
    table: TableName,
    *,
    samples: int = _SAMPLES,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
) -> TableDifference:
    """Return how the rows of a table on the second connection differ from those on the first.

    Rows are matched by primary key; without one (or with another one on each side) whole rows are counted.

    1. Both servers sum the hashes of rows in buckets by the hash of the key.
    2. Only buckets whose sums differ are read row by row, as key and hash, in the order of the key's hash.
    3. The two streams are merged, so that memory stays small however many rows differ.

    Raises WrongInput when the table is not on both sides, or has other columns on each.
    Locks: AccessShareLock on the table on both sides.
    """
    with (
        steady(conn_a, statement_timeout_ms=statement_timeout_ms) as cursor_a,
        steady(conn_b, statement_timeout_ms=statement_timeout_ms) as cursor_b,
    ):
        (a,), (b,) = _described(cursor_a, [table]), _described(cursor_b, [table])
        if a.types.keys() != b.types.keys():
            raise WrongInput(
                f"cannot compare the rows of table {table}",
                detail=f"Only one side has the columns {', '.join(sorted(a.types.keys() ^ b.types.keys()))}.",
                hint="Compare the schemas first.",
            )
        types = {name: type_ if type_ == b.types[name] else "" for name, type_ in a.types.items()}
        key = a.key if a.key == b.key else ()
        sums_a, sums_b = (_bucket_sums(c, t, types, key) for c, t in ((cursor_a, a), (cursor_b, b)))
        differing = sorted(n for n in sums_a.keys() | sums_b.keys() if sums_a.get(n) != sums_b.get(n))
        if not differing:
            return TableDifference(0, 0, 0, ())
        with (
            _rows(conn_a, a, types, key, differing) as rows_a,
            _rows(conn_b, b, types, key, differing) as rows_b,
        ):
            return _merge(rows_a, rows_b, samples)


def _described(cursor: psycopg.Cursor[TupleRow], tables: Collection[TableName]) -> list[_Table]:
    wanted = json.dumps([{"schema": table.schema, "name": table.name} for table in tables])
    found = []
    cursor.execute(load("data")["columns"], {"tables": wanted})
    for (schema, name, partitioned), rows in groupby(cursor.fetchall(), key=itemgetter(0, 1, 2)):
        columns = [row[3:] for row in rows if row[3] is not None]
        key = sorted((place, column) for column, _, place in columns if place is not None)
        types = {column: type_ for column, type_, _ in columns}
        found.append(_Table(TableName(schema, name), partitioned, types, tuple(column for _, column in key)))
    missing = set(tables) - {table.name for table in found}
    if missing:
        raise WrongInput(
            f"could not find table {', '.join(sorted(map(str, missing)))}",
            detail=f'Looked in database "{cursor.connection.info.dbname}".',
        )
    return found


def _sum(cursor: psycopg.Cursor[TupleRow], table: _Table) -> TableSum:
    query = sql.SQL("SELECT pg_catalog.count(*), coalesce(pg_catalog.sum({}), 0)::text FROM {} AS t")
    cursor.execute(query.format(_hash(table.types), table.source()))
    rows, checksum = cursor.fetchone() or (0, "0")
    return TableSum(rows, checksum)


def _bucket_sums(
    cursor: psycopg.Cursor[TupleRow], table: _Table, types: dict[str, str], key: tuple[str, ...]
) -> dict[int, tuple[int, str]]:
    query = sql.SQL("SELECT {} AS bucket, pg_catalog.count(*), pg_catalog.sum({})::text FROM {} AS t GROUP BY bucket")
    cursor.execute(query.format(_bucket(types, key), _hash(types), table.source()))
    return {bucket: (rows, checksum) for bucket, rows, checksum in cursor.fetchall()}


def _rows(
    conn: Connection, table: _Table, types: dict[str, str], key: tuple[str, ...], buckets: list[int]
) -> psycopg.ServerCursor[TupleRow]:
    """Open a stream of (hash of key, text of key, hash of row), in the order of the first."""
    query = sql.SQL(
        "SELECT {key_hash} AS key_hash, {key_text}, {row_hash} FROM {source} AS t"
        " WHERE {bucket} = ANY (%s) ORDER BY key_hash"
    ).format(
        key_hash=_hash(_only(types, key)),
        key_text=_text(types, key),
        row_hash=_hash(types),
        source=table.source(),
        bucket=_bucket(types, key),
    )
    cursor = psycopg.ServerCursor(conn, "pgrunbook_difference", row_factory=tuple_row)
    cursor.itersize = _FETCH_ROWS
    return cursor.execute(query, [buckets])


def _only(types: dict[str, str], key: tuple[str, ...]) -> dict[str, str]:
    return {name: types[name] for name in key} or types


def _bucket(types: dict[str, str], key: tuple[str, ...]) -> sql.Composable:
    return sql.SQL("({} & {})").format(_hash(_only(types, key)), sql.Literal(_BUCKETS - 1))


def _hash(types: dict[str, str]) -> sql.Composable:
    """Hash the columns as one record: values that changed places between columns or rows show."""
    values = sql.SQL(", ").join(_hashable(name, type_) for name, type_ in types.items())
    return sql.SQL("pg_catalog.hash_record_extended(ROW({}), 0)").format(values)


def _hashable(name: str, type_: str) -> sql.Composable:
    column = sql.Identifier("t", name)
    if type_ in _HASHED:
        return column
    if type_ in _TEXTS:
        return sql.SQL('{} COLLATE "C"').format(column)
    if type_ == "numeric":
        # Equal numbers have equal hashes; what an application sees beside the number is its scale.
        return sql.SQL("{0}, pg_catalog.scale({0})").format(column)
    if type_ in ("double precision", "real"):
        send = "pg_catalog.float8send({})" if type_ == "double precision" else "pg_catalog.float4send({})"
        return sql.SQL(send).format(column)
    # What the type's output function writes: for types without hash, for those that take for equal what
    # looks different, and for those whose hash depends on OIDs (enums, also in arrays and composites).
    return sql.SQL('CASE WHEN {0} IS DISTINCT FROM NULL THEN pg_catalog.concat({0}) COLLATE "C" END').format(column)


def _text(types: dict[str, str], key: tuple[str, ...]) -> sql.Composable:
    """Tell the key, or the start of the whole row (its hash tells the rest of it apart)."""
    if len(key) == 1:
        return sql.SQL("pg_catalog.concat({})").format(sql.Identifier("t", key[0]))
    columns = sql.SQL(", ").join(sql.Identifier("t", name) for name in key or types)
    text = sql.SQL("ROW({})::text").format(columns)
    return text if key else sql.SQL("pg_catalog.left({}, {})").format(text, sql.Literal(_SAMPLE_CHARS))


def _merge(rows_a: Iterable[TupleRow], rows_b: Iterable[TupleRow], limit: int) -> TableDifference:
    counts: Counter[Change] = Counter()
    samples: list[Sample] = []
    for change, key, rows in _changes(rows_a, rows_b):
        counts[change] += rows
        if len(samples) < limit:
            samples.append(Sample(change, key[:_SAMPLE_CHARS]))
    return TableDifference(counts["missing"], counts["changed"], counts["new"], tuple(samples))


def _changes(rows_a: Iterable[TupleRow], rows_b: Iterable[TupleRow]) -> Iterator[tuple[Change, str, int]]:
    """Merge two streams in the order of the key's hash; give change, key and number of rows."""
    sides = (((row, side) for row in rows) for side, rows in enumerate((rows_a, rows_b)))
    merged = heapq.merge(*sides, key=_key_hash)
    for _, group in groupby(merged, key=_key_hash):
        found: tuple[Counter[tuple[str, int]], Counter[tuple[str, int]]] = (Counter(), Counter())
        for row, side in group:
            found[side][row[1:]] += 1
        if found[0] == found[1]:
            continue
        gone = Counter(key for key, _ in (found[0] - found[1]).elements())
        come = Counter(key for key, _ in (found[1] - found[0]).elements())
        # A key that is on both sides with other rows was changed; it is once on each where it is primary.
        yield from (("changed", key, rows) for key, rows in (gone & come).items())
        yield from (("missing", key, rows) for key, rows in (gone - come).items())
        yield from (("new", key, rows) for key, rows in (come - gone).items())


def _key_hash(row: tuple[TupleRow, int]) -> int:
    return int(row[0][0])
