"""Checksums of tables, and the rows in which two tables differ; rehearsal, validate and rollback use it.

Two values are equal when an application cannot tell them apart: numeric 1.0 and 1.00 differ, as do 0.0 and
-0.0, '24 hours' and '1 day', and texts that a nondeterministic collation takes for equal. In json, spaces and the
order of keys count; in jsonb they do not. The physical order of columns does not count.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow, tuple_row

from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load, snapshot_cursor
from pgrunbook.database.row_changes import SAMPLE_CHARS, Change, Sample, TableDifference, merged
from pgrunbook.database.schema import OURS
from pgrunbook.display import progress
from pgrunbook.errors import WrongInput
from pgrunbook.sql.tree import quoted

STATEMENT_TIMEOUT_MS = 3_600_000

_BUCKETS = 4096
_SAMPLES = 10
VALUES_CHARS = 10_000
_FETCH_ROWS = 20_000
_TOGETHER = 25

# How a column goes into the hash of its row. As bytes where the type's own hash treats different values as equal
# (numeric 1.0 and 1.00, NaN and Infinity; float 0 and -0), or uses only 32 of its 64 bits
# (hashint8 in src/backend/access/hash/hashfunc.c, also for times).
_FORMS = {
    **dict.fromkeys(("boolean", "bytea", "date", "integer", "smallint", "uuid"), "{0}"),
    **dict.fromkeys(("character varying", "name", "text"), '{0} COLLATE "C"'),
    "bigint": "pg_catalog.int8send({0})",
    "double precision": "pg_catalog.float8send({0})",
    "numeric": "pg_catalog.numeric_send({0})",
    "real": "pg_catalog.float4send({0})",
    "time without time zone": "pg_catalog.time_send({0})",
    "timestamp with time zone": "pg_catalog.timestamptz_send({0})",
    "timestamp without time zone": "pg_catalog.timestamp_send({0})",
}
# The bytes of an array hold its bounds too, and the OID of the type of its elements: equal in all databases for these.
_FORMS |= dict.fromkeys((f"{name}[]" for name in _FORMS), "pg_catalog.array_send({0})")
# Any other type is hashed as the text of its output function: types without a hash, types that treat different
# values as equal, and types whose hash depends on OIDs, which differ between databases (enums, also in arrays).
_FORM_OF_OTHERS = 'CASE WHEN {0} IS DISTINCT FROM NULL THEN pg_catalog.concat({0}) COLLATE "C" END'
# Which bucket a row is in decides nothing but how many rows are read again: the type's own hash of the key will do.
# 256 numbers that follow each other share a bucket: the server finds it in its cache, and rows that were written
# together are read again together.
_BUCKET_HASHES = {
    "bigint": "pg_catalog.hashint8extended(pg_catalog.int8shr({}, 8), 0)",
    "integer": "pg_catalog.hashint4extended(pg_catalog.int4shr({}, 8), 0)",
    "text": 'pg_catalog.hashtextextended({} COLLATE "C", 0)',
    "uuid": "pg_catalog.uuid_hash_extended({}, 0)",
}


class TableName(NamedTuple):
    """A table's schema and name, as they are in the catalog, without quotes."""

    schema: str
    name: str

    def __str__(self) -> str:
        return self.identifier().as_string(None)

    @property
    def label(self) -> str:
        """The name as a sentence says it: quoted only where it has to be."""
        return f"{quoted(self.schema)}.{quoted(self.name)}"

    def identifier(self) -> sql.Identifier:
        """Return the name for a composed statement."""
        return sql.Identifier(self.schema, self.name)


@dataclass(frozen=True)
class TableSum:
    """How many rows a table holds, and the sum of their hashes (64 bits each), in decimal."""

    rows: int
    checksum: str


@dataclass(frozen=True)
class SummedTable:
    """A table to sum: the types of its columns below domains, and the columns of its primary key in order."""

    name: TableName
    partitioned: bool
    is_populated: bool
    types: dict[str, str]
    key: tuple[str, ...]

    def source(self) -> sql.Composable:
        """Return SQL for its rows."""
        if not self.is_populated:  # the server refuses to read it; whether it is populated is part of the schema
            columns = [
                sql.SQL("CAST(NULL AS {}) AS {}").format(sql.SQL(type_), sql.Identifier(name))
                for name, type_ in self.types.items()
            ]
            return sql.SQL("(SELECT {} WHERE false)").format(sql.SQL(", ").join(columns))
        # A partitioned table stands for its partitions, any other for its own rows without its children's.
        return sql.SQL("{}" if self.partitioned else "ONLY {}").format(self.name.identifier())


def checksums(
    conn: Connection,
    tables: Collection[TableName] | None = None,
    *,
    leave_out: Collection[str] = OURS,
    without: Mapping[TableName, Collection[str]] | None = None,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
) -> dict[TableName, TableSum]:
    """Return row count and checksum of the named tables, or of all, as they are at one moment.

    A partitioned table stands for its partitions, which are summed only where they are named. A materialized view
    without data has no rows.
    ``leave_out`` names schemas and single tables, as for ``schema.snapshot``; ``without`` names columns.
    The sum of hashes of whole rows does not depend on the rows' order, takes about 0.6 s for a million rows
    in fifteen columns, and does not protect against somebody who forges rows.

    Raises WrongInput when a named table does not exist.
    Locks: AccessShareLock on each table.
    """
    with snapshot_cursor(conn, statement_timeout_ms=statement_timeout_ms) as cursor:
        if tables is None:
            tables = _every(cursor, leave_out)
        passed_over = without or {}
        return _sums(cursor, [leaving_out(t, passed_over.get(t.name, ())) for t in described(cursor, tables)])


def sums_of(
    conn: Connection, tables: Sequence[SummedTable], *, without_rows: Collection[TableName] = ()
) -> dict[TableName, TableSum]:
    """Return what :func:`checksums` does of tables whose columns are known. It raises and locks as that.

    Those that were seen ``without_rows`` are counted first, which takes a third of the time.
    """
    with snapshot_cursor(conn, statement_timeout_ms=STATEMENT_TIMEOUT_MS) as cursor:
        seen = [table for table in tables if table.name in without_rows]
        counted = _asked(cursor, seen, lambda _: sql.SQL("0")) if seen else {}
        empty = {name: summed for name, summed in counted.items() if not summed.rows}
        return empty | _sums(cursor, [table for table in tables if table.name not in empty])


def every_table(conn: Connection) -> list[TableName]:
    """Return the tables that :func:`checksums` sums where none are named."""
    with snapshot_cursor(conn) as cursor:
        return _every(cursor, OURS)


def summed_tables(conn: Connection, tables: Collection[TableName]) -> dict[TableName, SummedTable]:
    """Return the columns of tables; what is no table any more is left out."""
    with snapshot_cursor(conn) as cursor:
        return {table.name: table for table in _described(cursor, tables)}


def table_names(conn: Connection, *, leave_out: Collection[str] = OURS) -> list[TableName]:
    """Return the tables that :func:`checksums` would sum."""
    with snapshot_cursor(conn) as cursor:
        return list(_every(cursor, leave_out))


def difference(
    conn_a: Connection,
    conn_b: Connection,
    table: TableName,
    *,
    samples: int = _SAMPLES,
    each: Callable[[Sample], None] | None = None,
    shared_columns: bool = False,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
) -> TableDifference:
    """Return how the rows of a table on the second connection differ from those on the first.

    Rows are matched by primary key; without one (or with another one on each side) whole rows are counted.

    1. Both servers sum the hashes of rows in buckets by the hash of the key.
    2. Only buckets whose sums differ are read row by row, as key and hash, in the order of the key's hash.
    3. The two streams are merged, so that memory stays small however many rows differ.

    With ``shared_columns`` only the columns that both sides have are compared, and the others are named. ``each`` is
    called for every row that differs, with its values, VALUES_CHARS at most.

    Raises WrongInput when the table is not on both sides, has no column on both, or (without
    ``shared_columns``) has other columns on each.
    Locks: AccessShareLock on the table on both sides.
    """
    with (
        snapshot_cursor(conn_a, statement_timeout_ms=statement_timeout_ms) as cursor_a,
        snapshot_cursor(conn_b, statement_timeout_ms=statement_timeout_ms) as cursor_b,
    ):
        (a,), (b,) = described(cursor_a, [table]), described(cursor_b, [table])
        apart = tuple(sorted(a.types.keys() ^ b.types.keys()))
        shared = {name: type_ for name, type_ in a.types.items() if name in b.types}
        if apart and not (shared and shared_columns):
            raise WrongInput(
                f"cannot compare the rows of table {table}",
                detail=f"Only one side has the columns {', '.join(apart)}.",
                hint="Compare the schemas first.",
            )
        types = {name: type_ if type_ == b.types[name] else "" for name, type_ in shared.items()}
        key = a.key if a.key == b.key else ()
        differing = buckets_apart((cursor_a, a), (cursor_b, b), types, key)
        if not differing:
            return TableDifference(0, 0, 0, (), apart)
        with (
            _rows(conn_a, a, types, key, differing, with_values=each is not None) as rows_a,
            _rows(conn_b, b, types, key, differing, with_values=each is not None) as rows_b,
        ):
            return replace(merged(rows_a, rows_b, samples, each), columns_apart=apart)


def rows_of(conn: Connection, table: TableName, change: Change) -> Iterator[Sample]:
    """Yield the rows of a table that only one side has, with their values. Locks: AccessShareLock on the table."""
    with snapshot_cursor(conn, statement_timeout_ms=STATEMENT_TIMEOUT_MS) as cursor:
        (found,) = described(cursor, [table])
        query = sql.SQL("SELECT {}, {} FROM {} AS t")
        reading = psycopg.ServerCursor(conn, "pgrunbook_rows", row_factory=tuple_row)
        with reading.execute(query.format(_text(found.types, found.key), _values(found.types), found.source())) as rows:
            yield from (Sample(change, str(key)[:SAMPLE_CHARS], str(values)) for key, values in rows)


def _every(cursor: psycopg.Cursor[TupleRow], leave_out: Collection[str]) -> list[TableName]:
    cursor.execute(load("checksums")["tables"], {"leave_out": list(leave_out)})
    return [TableName(*row) for row in cursor.fetchall()]


def described(cursor: psycopg.Cursor[TupleRow], tables: Collection[TableName]) -> list[SummedTable]:
    """Return the tables with their columns. Raises WrongInput when one does not exist."""
    found = list(_described(cursor, tables))
    missing = set(tables) - {table.name for table in found}
    if missing:
        raise WrongInput(
            f"could not find table {', '.join(sorted(map(str, missing)))}",
            detail="No table, partitioned table or materialized view has that name.",
        )
    return found


def _described(cursor: psycopg.Cursor[TupleRow], tables: Collection[TableName]) -> Iterator[SummedTable]:
    wanted = json.dumps([{"schema": table.schema, "name": table.name} for table in tables])
    cursor.execute(load("checksums")["columns"], {"tables": wanted})
    for (schema, name, partitioned, populated), rows in groupby(cursor.fetchall(), key=itemgetter(0, 1, 2, 3)):
        columns = [row[4:] for row in rows if row[4] is not None]
        key = tuple(column for _, column in sorted((place, name) for name, _, place in columns if place is not None))
        types = {column: type_ for column, type_, _ in columns}
        yield SummedTable(TableName(schema, name), partitioned, populated, types, key)


def leaving_out(table: SummedTable, columns: Collection[str]) -> SummedTable:
    """Return the table without these columns."""
    return replace(table, types={name: type_ for name, type_ in table.types.items() if name not in columns})


def _sums(cursor: psycopg.Cursor[TupleRow], tables: Sequence[SummedTable]) -> dict[TableName, TableSum]:
    summed = "coalesce(pg_catalog.sum({}), 0)"
    return _asked(cursor, tables, lambda table: sql.SQL(summed).format(row_hash(table.types)))


def _asked(
    cursor: psycopg.Cursor[TupleRow],
    tables: Sequence[SummedTable],
    checksum: Callable[[SummedTable], sql.Composable],
) -> dict[TableName, TableSum]:
    """Ask for some tables with each statement: a small one takes longer to be asked for than to be read."""
    query = sql.SQL("SELECT {}, pg_catalog.count(*), ({})::text FROM {} AS t")
    found: dict[TableName, TableSum] = {}
    stage = progress.current()
    for first in range(0, len(tables), _TOGETHER):
        part = tables[first : first + _TOGETHER]
        stage.how_far(f"rows of {part[0].name}, table {first + 1} of {len(tables)}")
        asked = (query.format(place, checksum(t), t.source()) for place, t in enumerate(part))
        cursor.execute(sql.SQL(" UNION ALL ").join(asked))
        found |= {part[place].name: TableSum(rows, summed) for place, rows, summed in cursor.fetchall()}
    return found


def buckets_apart(
    a: tuple[psycopg.Cursor[TupleRow], SummedTable],
    b: tuple[psycopg.Cursor[TupleRow], SummedTable],
    types: dict[str, str],
    key: tuple[str, ...],
) -> list[int]:
    """Return the buckets in which the rows of a table differ on two servers, in order."""
    sums_a, sums_b = (bucket_sums(*side, types, key) for side in (a, b))
    return sorted(n for n in sums_a.keys() | sums_b.keys() if sums_a.get(n) != sums_b.get(n))


def bucket_sums(
    cursor: psycopg.Cursor[TupleRow], table: SummedTable, types: dict[str, str], key: tuple[str, ...]
) -> dict[int, tuple[int, str]]:
    """Return row count and checksum by bucket of the key's hash."""
    # Hashed below the grouping, which takes a quarter less time than within it.
    query = sql.SQL(
        "SELECT bucket, pg_catalog.count(*), pg_catalog.sum(hash)::text"
        " FROM (SELECT {} AS bucket, {} AS hash FROM {} AS t OFFSET 0) AS hashed GROUP BY bucket"
    )
    cursor.execute(query.format(bucket(types, key), row_hash(types), table.source()))
    return {bucket: (rows, checksum) for bucket, rows, checksum in cursor.fetchall()}


def _rows(
    conn: Connection,
    table: SummedTable,
    types: dict[str, str],
    key: tuple[str, ...],
    buckets: list[int],
    *,
    with_values: bool,
) -> psycopg.ServerCursor[TupleRow]:
    """Open a stream of (hash of key, text of key, hash of row, values), in the order of the first."""
    query = sql.SQL(
        "SELECT {key_hash} AS key_hash, {key_text}, {row_hash}, {values} FROM {source} AS t"
        " WHERE {bucket} = ANY (%s::bigint[]) ORDER BY key_hash"
    ).format(
        key_hash=row_hash(_only(types, key)),
        key_text=_text(types, key),
        row_hash=row_hash(types),
        values=_values(table.types) if with_values else sql.SQL("''"),
        source=table.source(),
        bucket=bucket(types, key),
    )
    cursor = psycopg.ServerCursor(conn, "pgrunbook_difference", row_factory=tuple_row)
    cursor.itersize = _FETCH_ROWS
    return cursor.execute(query, [buckets])


def _only(types: dict[str, str], key: tuple[str, ...]) -> dict[str, str]:
    return {name: types[name] for name in key} or types


def bucket(types: dict[str, str], key: tuple[str, ...]) -> sql.Composable:
    """Return SQL for the bucket of a row of ``t``, by the hash of its key."""
    hashed = _BUCKET_HASHES.get(types[key[0]]) if len(key) == 1 else None
    of_key = sql.SQL(hashed).format(sql.Identifier("t", key[0])) if hashed else row_hash(_only(types, key))
    return sql.SQL("({} & {})").format(of_key, sql.Literal(_BUCKETS - 1))


def row_hash(types: dict[str, str]) -> sql.Composable:
    """Hash the columns as one record, and that once more.

    The hash of a record is linear in those of its values (31 h1 + h2): in a sum over rows, values that two rows
    exchanged would cancel out.
    """
    values = [
        sql.SQL(_FORMS.get(type_, _FORM_OF_OTHERS)).format(sql.Identifier("t", name)) for name, type_ in types.items()
    ]
    once = sql.SQL("pg_catalog.hash_record_extended(ROW({}), 0)").format(sql.SQL(", ").join(values))
    return sql.SQL("pg_catalog.hash_record_extended(ROW(pg_catalog.int8send({})), 0)").format(once)


def _text(types: dict[str, str], key: tuple[str, ...]) -> sql.Composable:
    """Return SQL for the text of the key, or of the start of the whole row (its hash covers the rest)."""
    if len(key) == 1:
        return sql.SQL("pg_catalog.concat({})").format(sql.Identifier("t", key[0]))
    columns = sql.SQL(", ").join(sql.Identifier("t", name) for name in key or types)
    text = sql.SQL("ROW({})::text").format(columns)
    return text if key else sql.SQL("pg_catalog.left({}, {})").format(text, sql.Literal(SAMPLE_CHARS))


def _values(types: dict[str, str]) -> sql.Composable:
    """Return SQL for the text of the whole row; one character more than VALUES_CHARS where that is not all."""
    columns = sql.SQL(", ").join(sql.Identifier("t", name) for name in types)
    return sql.SQL("pg_catalog.left(ROW({})::text, {})").format(columns, sql.Literal(VALUES_CHARS + 1))
