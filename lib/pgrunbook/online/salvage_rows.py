"""The old rows that are salvaged, staged in the database of today: found, carried over, and compared with its rows.

1. Both servers sum their rows in buckets by the hash of the key; only buckets that differ are read. Where the table has
   a condition, its rows are read instead.
2. The old rows are copied into a table of our own, as the texts of their values: it depends on no type of the
   application, and the text of a value is the same on both servers.
3. In the same snapshot of today each is found missing, changed, or the same; that is its fate from now on, whatever
   others write. A row that is new today is never looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from pgrunbook.database import checksums, own_schema, step_log
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load, rows, snapshot_cursor
from pgrunbook.database.sqlstate import Meaning, meaning, said
from pgrunbook.display import progress
from pgrunbook.errors import Refused, WrongInput
from pgrunbook.online.salvage_plan import Key, SalvageChoice, SalvagedTable
from pgrunbook.sql.condition import HINT
from pgrunbook.undo_data.tables import as_text

STAGED = sql.Identifier("pgrunbook", "salvaged_row")
# Most of what is read may turn out to be the same: it is compared where nothing is written into the WAL.
FOUND = sql.Identifier("pg_temp", "salvaged_row")
COLUMNS = "run_id text, place integer, number bigint, fate text, state text, row_values text[], was text[]"
STATEMENT_TIMEOUT_MS = 3_600_000
SAMPLES = 5


@dataclass(frozen=True)
class SalvageCounts:
    """How many old rows of a table are missing today, and how many are changed; the first keys of each; their size."""

    missing: int
    changed: int
    samples: tuple[str, ...]
    bytes: int


def look(
    old: Connection, conn: Connection, tables: Sequence[SalvagedTable], choice: SalvageChoice, *, where_ms: int
) -> dict[str, SalvageCounts]:
    """Return what would be salvaged, by the label of the table; nothing is left behind in the database.

    Raises as :func:`stage`.
    """
    with conn.transaction(force_rollback=True):
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        return _fill(old, conn, tables, choice, "", where_ms)


def stage(
    old: Connection,
    conn: Connection,
    tables: Sequence[SalvagedTable],
    choice: SalvageChoice,
    run_id: str,
    *,
    where_ms: int,
    keep_days: int,
) -> dict[str, SalvageCounts]:
    """Stage what is salvaged, in one transaction; what was salvaged more than ``keep_days`` ago is forgotten.

    Raises WrongInput where the server refuses a condition, or does not come to its end within ``where_ms``, Refused
    where rows refer to rows that are missing and not salvaged, and psycopg's errors.
    Locks: RowExclusiveLock on our own tables; AccessShareLock on the tables on both sides.
    """
    step_log.create(conn)
    if not is_there(conn):
        with conn.transaction():
            conn.execute(load("salvage")["create"].encode())
            own_schema.hide(conn, "salvage", "salvaged_row")
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        conn.execute(f"SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_MS}".encode())
        conn.execute(load("salvage")["forget_old"].encode(), {"days": keep_days})
        for one in tables:
            about = {"schema": one.name.schema, "name": one.name.name, "columns": list(one.columns)}
            conn.execute(load("salvage")["begin"].encode(), {"run_id": run_id, "place": one.place, **about})
        found = _fill(old, conn, tables, choice, run_id, where_ms)
        conn.execute(sql.SQL("INSERT INTO {} SELECT s.* FROM {} AS s").format(STAGED, FOUND))
        conn.execute(sql.SQL("DROP TABLE {}").format(FOUND))
        return found


def is_there(conn: Connection) -> bool:
    """Tell whether the database has the tables of what is salvaged. Raises Refused where they are somebody else's."""
    own_schema.refuse_foreign(conn)
    return conn.execute(load("salvage")["is_there"].encode()).fetchone() == (True,)


def is_staged(conn: Connection, tables: Sequence[SalvagedTable], run_id: str) -> bool:
    """Tell whether a run has staged its rows before. Raises Refused where the tables have changed since."""
    if not is_there(conn):
        return False
    found = rows(conn, "salvage", "begun", run_id=run_id)
    told = [(r["place"], r["table_schema"], r["table_name"], r["columns"]) for r in found]
    wanted = [(one.place, one.name.schema, one.name.name, list(one.columns)) for one in tables]
    if told and told != wanted:
        raise Refused(
            "this run has begun to salvage other tables, or tables with other columns",
            detail=f"It began with {', '.join(f'{schema}.{name}' for _, schema, name, _ in told)}.",
            state="What was salvaged before stays; this attempt changed nothing.",
            hint="Start a new run: what is there already is not brought back again.",
        )
    return bool(told)


def typed(table: SalvagedTable, staged: sql.Identifier, run_id: str, condition: sql.Composable) -> sql.Composable:
    """Return a query for staged rows with their values in the types of today, and number, fate and state."""
    values = [sql.SQL("{} AS {}").format(value(table, column), sql.Identifier(column)) for column in table.columns]
    return sql.SQL("SELECT {} FROM {} AS s WHERE {}").format(
        sql.SQL(", ").join(values), staged, of_table(table, run_id, condition)
    )


def value(table: SalvagedTable, column: str) -> sql.Composable:
    """Return a value of the staged row ``s`` in its type of today."""
    place = table.columns.index(column) + 1
    return sql.SQL("CAST(s.row_values[{}] AS {})").format(sql.Literal(place), sql.SQL(table.types[column]))


def texts(table: SalvagedTable) -> sql.Composable:
    """Return the values of a row ``t`` as texts, in the form of those that are staged."""
    return sql.SQL("ARRAY[{}]").format(
        sql.SQL(", ").join(as_text(sql.Identifier("t", column)) for column in table.columns)
    )


def matches(table: SalvagedTable) -> sql.Composable:
    """Return the condition that the row ``t`` has the key of the staged row ``s``."""
    pairs = [sql.SQL("{} OPERATOR(pg_catalog.=) {}").format(sql.Identifier("t", column), value(table, column))
             for column in table.key]  # fmt: skip
    return sql.SQL(" AND ").join(pairs)


def of_table(table: SalvagedTable, run_id: str, condition: sql.Composable) -> sql.Composable:
    """Return the condition for the staged rows ``s`` of a table in a run, and what more is asked of them."""
    return sql.SQL("s.run_id = {} AND s.place = {} AND {}").format(
        sql.Literal(run_id), sql.Literal(table.place), condition
    )


def without_parent(key: Key, child: sql.Composable) -> sql.Composable:
    """Return a query for the rows of a query that refer to no row of today by a foreign key."""
    known = sql.SQL(" AND ").join(sql.SQL(f"{column} IS NOT NULL") for column in key["columns"])
    return sql.SQL("SELECT c.* FROM ({}) AS c WHERE {} AND NOT EXISTS (SELECT FROM {} AS p WHERE {})").format(
        child, known, parent(key), pairs_of(key)
    )


def parent(key: Key) -> sql.Composable:
    """Return the table that a foreign key refers to, in a statement."""
    return sql.SQL(key["parent"] if key["parent_partitioned"] else f"ONLY {key['parent']}")


def pairs_of(key: Key) -> sql.Composable:
    """Return the condition of a foreign key, between ``c`` and ``p``."""
    return sql.SQL(" AND ").join(map(sql.SQL, key["pairs"]))


def _fill(
    old: Connection,
    conn: Connection,
    tables: Sequence[SalvagedTable],
    choice: SalvageChoice,
    run_id: str,
    where_ms: int,
) -> dict[str, SalvageCounts]:
    """Find the rows that are to be salvaged, in a temporary table of the open transaction."""
    found = {}
    conn.execute(f"CREATE TEMPORARY TABLE salvaged_row ({COLUMNS})".encode())
    with (
        progress.doing("comparing old rows with those of today") as told,
        snapshot_cursor(conn, statement_timeout_ms=STATEMENT_TIMEOUT_MS) as cursor,
    ):
        for number, one in enumerate(tables, 1):
            told.how_far(f"rows of {one.label}, table {number} of {len(tables)}")
            _carry(old, cursor, one, run_id, where_ms)
            found[one.label] = _judged(cursor, one, choice, run_id)
        for one in tables:
            for key in one.foreign_keys:
                _refuse_orphans(cursor, one, key, tables, run_id)
    return found


def _carry(old: Connection, cursor: psycopg.Cursor[TupleRow], table: SalvagedTable, run_id: str, where_ms: int) -> None:
    """Copy the old rows that may be missing or changed."""
    timeout_ms = where_ms if table.condition else STATEMENT_TIMEOUT_MS
    with snapshot_cursor(old, statement_timeout_ms=timeout_ms) as source:
        if table.condition:
            chosen: sql.Composable = sql.SQL(f"(\n{table.condition}\n)")
        else:
            chosen = _apart(source, cursor, table)
        query = sql.SQL(
            "COPY (SELECT {}, {}, pg_catalog.row_number() OVER (ORDER BY {}), 'missing', 'due', {} FROM {} AS t"
            " WHERE {}) TO STDOUT"
        ).format(
            sql.Literal(run_id),
            sql.Literal(table.place),
            sql.SQL(", ").join(sql.Identifier("t", column) for column in table.key),
            texts(table),
            table.source,
            chosen,
        )
        into = sql.SQL("COPY {} (run_id, place, number, fate, state, row_values) FROM STDIN").format(FOUND)
        try:
            with source.copy(query) as reading, cursor.copy(into) as writing:
                for block in reading:
                    writing.write(block)
        except psycopg.Error as exc:
            if not table.condition or meaning(exc) is Meaning.LOST:
                raise
            late = isinstance(exc, psycopg.errors.QueryCanceled)
            raise WrongInput(
                f"cannot take this condition on table {table.label}: {table.condition}",
                detail=f"It did not come to its end in {where_ms / 1000:g} s." if late else f"{said(exc)}.",
                hint=HINT,
            ) from exc


def _apart(source: psycopg.Cursor[TupleRow], cursor: psycopg.Cursor[TupleRow], table: SalvagedTable) -> sql.Composable:
    (then,), (now,) = (checksums.described(one, [table.name]) for one in (source, cursor))
    types = {name: then.types[name] if then.types[name] == now.types[name] else "" for name in table.columns}
    buckets = checksums.buckets_apart((source, then), (cursor, now), types, table.key)
    return sql.SQL("{} = ANY ({}::bigint[])").format(checksums.bucket(types, table.key), sql.Literal(buckets))


def _judged(
    cursor: psycopg.Cursor[TupleRow],
    table: SalvagedTable,
    choice: SalvageChoice,
    run_id: str,
) -> SalvageCounts:
    """Write down the fate of each row, and leave out those that are not to be salvaged."""
    rows_of = of_table(table, run_id, sql.SQL("true"))
    cursor.execute(
        sql.SQL(
            "UPDATE {} AS s SET fate = CASE WHEN {} IS DISTINCT FROM s.row_values THEN 'changed' ELSE 'same' END"
            " FROM {} AS t WHERE {} AND {}"
        ).format(FOUND, texts(table), table.source, rows_of, matches(table))
    )
    cursor.execute(
        sql.SQL("SELECT s.fate, pg_catalog.count(*) FROM {} AS s WHERE {} GROUP BY 1").format(FOUND, rows_of)
    )
    counts: Mapping[str, int] = dict(cursor.fetchall())
    key = sql.SQL(", ").join(
        sql.SQL("s.row_values[{}]").format(sql.Literal(table.columns.index(column) + 1)) for column in table.key
    )
    cursor.execute(
        sql.SQL("SELECT s.fate || ': ' || pg_catalog.concat_ws(', ', {}) FROM {} AS s WHERE {} AND s.fate <> 'same'"
                " ORDER BY s.fate DESC, s.number LIMIT {}").format(key, FOUND, rows_of, sql.Literal(SAMPLES))
    )  # fmt: skip
    samples = tuple(str(row[0]) for row in cursor.fetchall())
    left_out = ["same"] if choice.rows == "changed" else ["same", "changed"]
    cursor.execute(
        sql.SQL("DELETE FROM {} AS s WHERE {} AND s.fate = ANY ({})").format(FOUND, rows_of, sql.Literal(left_out))
    )
    size = sql.SQL("SELECT coalesce(pg_catalog.sum(pg_catalog.pg_column_size(s.*)), 0) FROM {} AS s WHERE {}")
    cursor.execute(size.format(FOUND, rows_of))
    (size_bytes,) = cursor.fetchone() or (0,)
    return SalvageCounts(counts.get("missing", 0), counts.get("changed", 0), samples, int(size_bytes))


def _refuse_orphans(
    cursor: psycopg.Cursor[TupleRow],
    table: SalvagedTable,
    key: Key,
    tables: Sequence[SalvagedTable],
    run_id: str,
) -> None:
    """Refuse rows that would refer to a row that is missing today, and is not salvaged."""
    lacking = without_parent(key, typed(table, FOUND, run_id, sql.SQL("true")))
    above = next((one for one in tables if one.oid == key["objects"][2]), None)
    if above is not None:
        back = typed(above, FOUND, run_id, sql.SQL("s.fate = 'missing'"))
        lacking = sql.SQL("SELECT c.* FROM ({}) AS c WHERE NOT EXISTS (SELECT FROM ({}) AS p WHERE {})").format(
            lacking, back, pairs_of(key)
        )
    cursor.execute(
        sql.SQL("SELECT pg_catalog.count(*), pg_catalog.min(ROW({})::text) FROM ({}) AS c").format(
            sql.SQL(", ").join(map(sql.SQL, key["columns"])), lacking
        )
    )
    count, sample = cursor.fetchone() or (0, "")
    if count:
        names = ",".join(dict.fromkeys([key["parent"], *choice_names(tables)]))
        raise Refused(
            f"cannot salvage {count:,} rows of {table.label}: what they refer to is missing today",
            detail=f"Foreign key {key['name']} leads to {key['parent']}, which has no row for {sample}.",
            hint=f"Salvage that, too: -p salvage={names}" if above is None
            else f"Its own condition leaves these rows out: take it away, or choose fewer rows of {table.label}.",
        )  # fmt: skip


def choice_names(tables: Sequence[SalvagedTable]) -> list[str]:
    """Return the names of tables as a parameter spells them."""
    return [one.label for one in tables]
