"""Random tables, migrations and later writes: untouched rows are as before, touched ones as their writer left them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from budget import examples
from pgrunbook.online.batches import run_batches
from pgrunbook.plan.step import Batches
from pgrunbook.undo_data import StepKey, capture_batches, capture_statement, conflicts, list_entries
from servers import Server
from test_undo_data import Conn
from undo_data_stage import give_back_migration

# A row by its key: the values of COLUMNS as text, None for NULL.
Rows = dict[tuple[str, ...], tuple[str | None, ...]]
COLUMNS = ("a", '"B b"', "n", "m", "l")
TYPES = ("integer", "text", "numeric", "app.mood", "text[]")
GENERATED = 'g text GENERATED ALWAYS AS ("B b" || k) STORED'
VALUES = (
    ("NULL", "0", "1", "-7", "r.id", "r.a + 1"),
    ("NULL", "''", "'x'", "'NULL'", "repeat('long ', 60)", "\"B b\" || '.'"),
    ("NULL", "1.0", "1.00", "'NaN'", "r.n / 3", "'-Infinity'"),
    ("NULL", "'sad'", "'ok'"),
    ("NULL", "'{}'", "'{a,NULL}'", "r.l || 'x'::text"),
)
CONDITIONS = ("true", "r.id % 3 = 0", "r.id > 12", "r.a IS NULL", "r.m = 'ok'", "r.id IN (2, 3, 5, 7)", "r.n > 1")

assignment = st.integers(0, len(COLUMNS) - 1).flatmap(lambda n: st.tuples(st.just(n), st.sampled_from(VALUES[n])))
assignments = st.lists(assignment, min_size=1, max_size=3, unique_by=lambda pair: pair[0])


@dataclass(frozen=True)
class Change:
    """A statement of the migration, or of somebody later."""

    kind: str
    assigned: tuple[tuple[int, str], ...]
    condition: str
    in_batches: bool = False

    def sql(self, marker: str = "") -> str:
        """Return the statement."""
        where = f"{marker}{self.condition}"
        names, values = zip(*((COLUMNS[n], value) for n, value in self.assigned), strict=True)
        if self.kind == "update":
            pairs = ", ".join(f"{name} = {value}" for name, value in zip(names, values, strict=True))
            return f'UPDATE app."R" AS r SET {pairs} WHERE {where}'
        if self.kind == "delete":
            return f'DELETE FROM app."R" AS r WHERE {where}'
        constant = ", ".join(v if v.replace(".", "").replace("r", "") == v or v[0] == "'" else "NULL" for v in values)
        numbers = "generate_series(1, 30) AS i" if self.condition == "true" else "generate_series(20, 24) AS i"
        into = f'INSERT INTO app."R" (id, k, {", ".join(names)})'
        return f"{into} SELECT i, 'k', {constant} FROM {numbers} ON CONFLICT DO NOTHING"


changes = st.builds(
    Change,
    st.sampled_from(("update", "update", "delete", "insert")),
    assignments.map(tuple),
    st.sampled_from(CONDITIONS),
    st.booleans(),
)


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize("partitioned", [False, True])
@settings(
    max_examples=examples(6, 60),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    migration=st.lists(changes, min_size=1, max_size=2),
    later=st.lists(changes, max_size=3),
    composite=st.booleans(),
    rows=st.sampled_from((0, 6, 18)),
)
def test_random_changes_are_given_back(
    server: Server,
    partitioned: bool,
    migration: Sequence[Change],
    later: Sequence[Change],
    composite: bool,
    rows: int,
) -> None:
    """With "keep"; and the conflicts are those rows whose kept columns somebody has written to."""
    with server.connect(server.database("keeping_random")) as conn:
        make(conn, partitioned=partitioned, composite=composite, rows=rows)
        states = [read(conn)]
        done: list[tuple[Change, set[tuple[str, ...]]]] = []
        for step, change in enumerate(migration):
            done.append((change, execute(conn, change, step, composite)))
            states.append(read(conn))
        for change in later:
            conn.execute(change.sql())
        expected, left = read(conn), 0
        for (change, reached), before, after in reversed(list(zip(done, states[:-1], states[1:], strict=True))):
            keys = after.keys() - before.keys() if change.kind == "insert" else reached
            expected, found = undone(change, keys, before, after, expected)
            left += found
        if len(migration) == 1:
            assert conflicts(conn, list_entries(conn)[0]).rows == left
        told = give_back_migration(conn, "m", "up", on_conflict="keep")
        assert read(conn) == expected
        assert told.left.rows == left


def undone(change: Change, reached: set[tuple[str, ...]], before: Rows, after: Rows, now: Rows) -> tuple[Rows, int]:
    """Return what a step's way back should leave, and the number of conflicts."""
    expected, left = dict(now), 0
    kept = [number for number, _ in change.assigned] if change.kind == "update" else range(len(COLUMNS))
    for key in reached:
        was, wrote, there = (_part(rows.get(key), kept) for rows in (before, after, now))
        if there == wrote and was is None:
            del expected[key]
        elif there == wrote and there is None:
            expected[key] = before[key]
        elif there == wrote:
            values = dict(zip(kept, was or (), strict=True))
            expected[key] = tuple(values.get(number, value) for number, value in enumerate(now[key]))
        elif there != was:
            left += 1
    return expected, left


def make(conn: Conn, *, partitioned: bool, composite: bool, rows: int) -> None:
    """Make the table, and fill it."""
    parts = " PARTITION BY HASH (id)" if partitioned else ""
    key = "id, k" if composite else "id"
    columns = ", ".join(f"{name} {type_}" for name, type_ in zip(COLUMNS, TYPES, strict=True))
    made = [
        "DROP SCHEMA IF EXISTS app, pgrunbook CASCADE",
        "CREATE SCHEMA app",
        "CREATE TYPE app.mood AS ENUM ('sad', 'ok')",
        f'CREATE TABLE app."R" (id integer, {columns}, k text, {GENERATED}, PRIMARY KEY ({key})){parts}',
    ]
    if partitioned:
        made += [
            f'CREATE TABLE app.r{n} PARTITION OF app."R" FOR VALUES WITH (MODULUS 2, REMAINDER {n})' for n in (0, 1)
        ]
    value = "CASE i % 4 WHEN 0 THEN NULL WHEN 1 THEN 'sad' ELSE 'ok' END::app.mood"
    made.append(
        f"INSERT INTO app.\"R\" SELECT i, nullif(i, 5), 'b' || i, i / 2.0, {value}, ARRAY['l', NULL], 'k'"
        f" FROM generate_series(1, {rows}) AS i"
    )
    conn.execute("; ".join(made))


def execute(conn: Conn, change: Change, step: int, composite: bool) -> set[tuple[str, ...]]:
    """Execute a step, keeping; return the keys of the rows that it reaches."""
    found = conn.execute(f'SELECT id::text, k FROM app."R" AS r WHERE {change.condition}').fetchall()
    place = StepKey("r", "m", "up", step)
    if change.in_batches and change.kind != "insert":
        key, types = (("id", "k"), ("integer", "text")) if composite else (("id",), ("integer",))
        loop = Batches("app", "R", "r", change.sql("pgrunbook_range AND "), key, types, rows=5)
        done = run_batches(conn, capture_batches(conn, loop, place), resume_from=str(step)).rows
    else:
        done = conn.execute(capture_statement(conn, change.sql(), place)).rowcount
    assert done == len(found) or change.kind == "insert"
    return {(str(id_), str(k)) for id_, k in found}


def read(conn: Conn) -> Rows:
    """Read the table."""
    columns = ", ".join(f"{name}::text" for name in COLUMNS)
    return {(row[0], row[1]): row[2:] for row in conn.execute(f'SELECT id::text, k, {columns} FROM app."R"')}


def _part(row: tuple[str | None, ...] | None, numbers: Sequence[int]) -> tuple[str | None, ...] | None:
    return None if row is None else tuple(row[number] for number in numbers)
