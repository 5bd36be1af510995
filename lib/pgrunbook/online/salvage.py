"""The salvage: staged old rows are written back into the tables of today, in batches, while others go on writing.

1. A batch is a transaction: it writes the next rows of a table, and notes in the same transaction what became of each.
   So a salvage that was broken off goes on where the database shows that it stopped.
2. The rows that a batch refers to are locked until its end; a row whose parent somebody has deleted meanwhile is left.
3. A missing row is inserted unless its key, or another unique value of it, is there by now: what is new stays.
4. A changed row is overwritten, and its values of today are kept beside the old ones, for the way back.
5. A circle of tables is one transaction.
6. Behind the last batch sequences are set forward, and where triggers were silent every key is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from psycopg import sql

from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection
from pgrunbook.database.control import Obedience
from pgrunbook.database.queries import rows, snapshot_cursor
from pgrunbook.display import progress
from pgrunbook.errors import Broken
from pgrunbook.online import salvage_plan
from pgrunbook.online.salvage_plan import SalvageChoice, SalvagedTable
from pgrunbook.online.salvage_rows import (
    STAGED,
    matches,
    of_table,
    pairs_of,
    parent,
    texts,
    typed,
    value,
    without_parent,
)
from pgrunbook.undo_data import silence

CIRCLE_MS = 3_600_000
# What became of a staged row.
DONE = ("inserted", "updated")
LEFT = {
    "there": "a row with this key is there by now",
    "conflict": "a row of today has another unique value of it, or a trigger or rule has kept it away",
    "orphan": "a row that it refers to was deleted meanwhile",
    "gone": "it was deleted meanwhile",
    "same": "it is as it was by now",
}


@dataclass(frozen=True)
class SalvageBatch:
    """A batch that is committed: of which table, and how many rows are not done yet."""

    table: str
    rows: int
    left: int


def run(
    conn: Connection,
    target: Target,
    tables: Sequence[SalvagedTable],
    choice: SalvageChoice,
    run_id: str,
    on_batch: Callable[[SalvageBatch], None] = lambda _: None,
) -> None:
    """Write what a run has staged and not written yet.

    Raises psycopg's errors unchanged: committed batches stay, the failed one is aborted, and the same call goes on.
    Raises Broken where a foreign key does not hold at the end, Interrupted and Blocked as ``database.control``.
    Locks: RowExclusiveLock on the tables, the rows of one batch and those that they refer to.
    """
    silent, obedience = salvage_plan.is_silent(conn, tables, choice), Obedience(conn)
    with progress.doing("salvaging rows") as told:
        for _, group in groupby(tables, key=lambda one: one.circle):
            together = list(group)
            if any(one.is_circular for one in together):
                _circle(conn, target, together, run_id, silent=silent, on_batch=on_batch)
                continue
            after, left = 0, _due(conn, together[0], run_id)
            while (bounds := _next(conn, together[0], run_id, after, target.batch_rows)) is not None:
                obedience.now()
                with _batch(conn, target.lock_timeout_ms, target.statement_timeout_ms):
                    _write(conn, together[0], run_id, bounds, silent=silent)
                after, left = bounds.upto, left - bounds.rows
                told.how_far(f"{together[0].label}, {left:,} rows left")
                on_batch(SalvageBatch(together[0].label, bounds.rows, left))
    for one in tables:
        _set_sequences_forward(conn, one, run_id, target.lock_timeout_ms)
    if silent:
        with _batch(conn, target.lock_timeout_ms, CIRCLE_MS):
            silence.check_keys(conn, [one.name for one in tables])


def became(conn: Connection, tables: Sequence[SalvagedTable], run_id: str) -> dict[str, dict[str, int]]:
    """Return how many staged rows of each table have come to which state, by the label of the table."""
    found: dict[str, dict[str, int]] = {one.label: {} for one in tables}
    labels = {one.place: one.label for one in tables}
    for row in rows(conn, "salvage", "became", run_id=run_id):
        states = found[labels[row["place"]]]
        states[row["state"]] = states.get(row["state"], 0) + row["rows"]
    return found


def left_out(conn: Connection, table: SalvagedTable, run_id: str) -> Iterator[tuple[str, str, str]]:
    """Yield the rows that were not written, as table, key and why."""
    places = [sql.SQL("s.row_values[{}]").format(sql.Literal(table.columns.index(one) + 1)) for one in table.key]
    query = sql.SQL(
        "SELECT pg_catalog.concat_ws(', ', {}), s.state FROM {} AS s WHERE {} AND s.state = ANY ({}) ORDER BY s.number"
    ).format(sql.SQL(", ").join(places), STAGED, of_table(table, run_id, sql.SQL("true")), sql.Literal(list(LEFT)))
    for key, state in conn.execute(query):
        yield table.label, str(key), LEFT[str(state)]


@contextmanager
def _batch(conn: Connection, lock_timeout_ms: int, statement_timeout_ms: int) -> Iterator[None]:
    with conn.transaction():
        conn.execute(
            sql.SQL(
                "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {};"
                " SET LOCAL statement_timeout = {}; SET LOCAL jit = off; SET LOCAL lc_monetary = 'C'"
            ).format(sql.Literal(lock_timeout_ms), sql.Literal(statement_timeout_ms))
        )
        yield


class _Bounds(NamedTuple):
    """The rows of a batch by their numbers, after one and up to another, and how many of them are due."""

    after: int
    upto: int
    rows: int


def _next(conn: Connection, table: SalvagedTable, run_id: str, after: int, most: int) -> _Bounds | None:
    """Return the next batch, None where no row is due."""
    query = sql.SQL(
        "SELECT pg_catalog.max(n.number), pg_catalog.count(*) FROM (SELECT s.number FROM {} AS s WHERE {}"
        " AND s.state = 'due' AND s.number > {} ORDER BY s.number LIMIT {}) AS n"
    ).format(STAGED, of_table(table, run_id, sql.SQL("true")), sql.Literal(after), sql.Literal(most))
    upto, rows = conn.execute(query).fetchone() or (None, 0)
    return None if upto is None else _Bounds(after, int(str(upto)), int(str(rows)))


def _due(conn: Connection, table: SalvagedTable, run_id: str) -> int:
    query = sql.SQL("SELECT pg_catalog.count(*) FROM {} AS s WHERE {}").format(
        STAGED, of_table(table, run_id, sql.SQL("s.state = 'due'"))
    )
    (count,) = conn.execute(query).fetchone() or (0,)
    return int(str(count))


def _circle(
    conn: Connection,
    target: Target,
    tables: Sequence[SalvagedTable],
    run_id: str,
    *,
    silent: bool,
    on_batch: Callable[[SalvageBatch], None],
) -> None:
    """Write all rows of tables that refer to each other, or to themselves, in one transaction."""
    oids = {one.oid for one in tables}
    with _batch(conn, target.lock_timeout_ms, CIRCLE_MS):
        conn.execute("SET CONSTRAINTS ALL DEFERRED")
        ends = {one.place: _next(conn, one, run_id, 0, 2**62) for one in tables}
        for one in tables:
            if (bounds := ends[one.place]) is not None:
                _write(conn, one, run_id, bounds, silent=silent, within=oids)
        for one in tables:
            for key in [key for key in one.foreign_keys if key["objects"][2] in oids]:
                back = typed(one, STAGED, run_id, sql.SQL("s.state IN ('inserted', 'updated')"))
                if lacking := conn.execute(without_parent(key, back)).fetchall():
                    raise Broken(
                        f"could not salvage {one.label}: {len(lacking):,} rows would refer to nothing",
                        detail=f"Foreign key {key['name']}: their parents, in the same circle, were not brought back.",
                        state="Nothing of this circle of tables changed; other tables are salvaged as shown.",
                        hint="A row of today has a unique value of such a parent: settle that, then go on.",
                    )
    for one in tables:
        bounds = ends[one.place]
        on_batch(SalvageBatch(one.label, bounds.rows if bounds is not None else 0, 0))


def _write(
    conn: Connection,
    table: SalvagedTable,
    run_id: str,
    bounds: _Bounds,
    *,
    silent: bool,
    within: frozenset[int] | set[int] = frozenset(),
) -> None:
    """Write the rows of one batch, and note what became of each; ``within`` are the tables of its circle."""
    due = sql.SQL("s.number > {} AND s.number <= {} AND s.state = 'due'").format(
        sql.Literal(bounds.after), sql.Literal(bounds.upto)
    )
    for key in table.foreign_keys:
        if key["objects"][2] in within:
            continue
        child = typed(table, STAGED, run_id, due)
        conn.execute(
            sql.SQL("SELECT FROM ({}) AS c JOIN {} AS p ON {} FOR KEY SHARE OF p").format(
                child, parent(key), pairs_of(key)
            )
        )
        numbered = sql.SQL(
            "SELECT s.number AS pgrunbook_number, x.* FROM {} AS s, LATERAL (SELECT {}) AS x WHERE {}"
        ).format(STAGED, _values(table), of_table(table, run_id, due))
        orphans = sql.SQL("s.number IN (SELECT o.pgrunbook_number FROM ({}) AS o)").format(
            without_parent(key, numbered)
        )
        _note(conn, table, run_id, sql.SQL("{} AND {}").format(due, orphans), "orphan")
    missing = sql.SQL("{} AND s.fate = 'missing'").format(due)
    changed = sql.SQL("{} AND s.fate = 'changed'").format(due)
    with silence.silenced(conn) if silent else nullcontext(), conn.as_target():
        conn.execute(_insert(table, run_id, missing))
    _note_written(conn, table, run_id, missing, "inserted", "there")
    if table.updatable:
        _capture(conn, table, run_id, changed)
        with silence.silenced(conn) if silent else nullcontext(), conn.as_target():
            conn.execute(_update(table, run_id, changed))
        _note_written(conn, table, run_id, changed, "updated", "conflict")


def _values(table: SalvagedTable) -> sql.Composable:
    return sql.SQL(", ").join(
        sql.SQL("{} AS {}").format(value(table, column), sql.Identifier(column)) for column in table.columns
    )


def _insert(table: SalvagedTable, run_id: str, due: sql.Composable) -> sql.Composable:
    return sql.SQL(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} AS s WHERE {} ORDER BY s.number"
        " ON CONFLICT DO NOTHING"
    ).format(
        table.name.identifier(),
        sql.SQL(", ").join(map(sql.Identifier, table.columns)),
        sql.SQL(", ").join(value(table, column) for column in table.columns),
        STAGED,
        of_table(table, run_id, due),
    )


def _update(table: SalvagedTable, run_id: str, due: sql.Composable) -> sql.Composable:
    return sql.SQL("UPDATE {} AS t SET {} FROM {} AS s WHERE {} AND {}").format(
        table.source,
        sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(column), value(table, column)) for column in table.updatable
        ),
        STAGED,
        of_table(table, run_id, due),
        matches(table),
    )


def _capture(conn: Connection, table: SalvagedTable, run_id: str, changed: sql.Composable) -> None:
    """Lock the rows that are overwritten, and keep their values; what is gone, or as it was, is not written."""
    rows_of = of_table(table, run_id, changed)
    with snapshot_cursor(conn, lock_timeout_ms=_set(conn, "lock_timeout"),
                         statement_timeout_ms=_set(conn, "statement_timeout")) as cursor:  # fmt: skip
        cursor.execute(
            sql.SQL("SELECT FROM {} AS s JOIN {} AS t ON {} WHERE {} FOR NO KEY UPDATE OF t").format(
                STAGED, table.source, matches(table), rows_of
            )
        )
        cursor.execute(
            sql.SQL("UPDATE {} AS s SET was = {} FROM {} AS t WHERE {} AND {}").format(
                STAGED, texts(table), table.source, rows_of, matches(table)
            )
        )
    _note(conn, table, run_id, sql.SQL("{} AND s.was IS NULL").format(changed), "gone")
    _note(conn, table, run_id, sql.SQL("{} AND s.was = s.row_values").format(changed), "same")


def _set(conn: Connection, name: str) -> int:
    """Return a timeout of this transaction, in ms."""
    query = "SELECT s.setting::integer FROM pg_catalog.pg_settings AS s WHERE s.name = %s"
    (found,) = conn.execute(query, [name]).fetchone() or (0,)
    return int(str(found))


def _note_written(
    conn: Connection, table: SalvagedTable, run_id: str, due: sql.Composable, written: str, found: str
) -> None:
    """Note as written what this transaction has written, by the rows that are there now."""
    conn.execute(
        sql.SQL(
            "UPDATE {} AS s SET state = CASE WHEN t.xmin = pg_catalog.pg_current_xact_id()::pg_catalog.xid THEN {}"
            " ELSE {} END FROM {} AS t WHERE {} AND {}"
        ).format(
            STAGED,
            sql.Literal(written),
            sql.Literal(found),
            table.source,
            of_table(table, run_id, due),
            matches(table),
        )
    )
    _note(conn, table, run_id, due, "conflict")


def _note(conn: Connection, table: SalvagedTable, run_id: str, due: sql.Composable, state: str) -> None:
    conn.execute(
        sql.SQL("UPDATE {} AS s SET state = {} WHERE {}").format(
            STAGED, sql.Literal(state), of_table(table, run_id, due)
        )
    )


def _set_sequences_forward(conn: Connection, table: SalvagedTable, run_id: str, lock_timeout_ms: int) -> None:
    """Set the sequences of a table behind the numbers that came back, where they stand before them.

    Locks: ShareRowExclusiveLock on such a sequence, for a moment: nobody takes a number meanwhile.
    """
    for row in rows(conn, "salvage", "sequences", oid=table.oid):
        if row["column_name"] not in table.columns:
            continue
        sequence = sql.SQL(row["sequence"])
        highest = sql.SQL("SELECT pg_catalog.max(({})::pg_catalog.int8) FROM {} AS s WHERE {}").format(
            value(table, row["column_name"]), STAGED, of_table(table, run_id, sql.SQL("s.state = 'inserted'"))
        )
        is_behind = sql.SQL("SELECT h.highest FROM ({}) AS h (highest), {} AS q WHERE q.last_value < h.highest").format(
            highest, sequence
        )
        if conn.execute(is_behind).fetchone() is None:
            continue
        with _batch(conn, lock_timeout_ms, CIRCLE_MS):
            conn.execute(sql.SQL("ALTER SEQUENCE {} INCREMENT BY {}").format(sequence, sql.Literal(row["increment"])))
            if (found := conn.execute(is_behind).fetchone()) is not None:
                conn.execute("SELECT pg_catalog.setval(%s::pg_catalog.regclass, %s)", [row["sequence"], found[0]])
