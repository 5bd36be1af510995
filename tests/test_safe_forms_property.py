"""Random tables and changes: safe steps end where the plain statements end, or both are refused."""

from __future__ import annotations

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from budget import examples
from pgrunbook.database.schema_diff import diff
from pgrunbook.safe_forms.constraints import NOT_NULL_OF_PARTITIONS
from safe_forms_stage import Server, end, perform, plan, undo

COLUMNS = ("a", "b", '"C c"')
column = st.sampled_from(COLUMNS)
some_columns = st.lists(column, min_size=1, max_size=3, unique=True).map(", ".join)
name = st.sampled_from(("", "CONSTRAINT x1 ", 'CONSTRAINT "X 2" '))
# Each statement stands for itself: what one needs of another is not known when they are planned at once.
changes = st.one_of(
    st.builds("CREATE {}INDEX ON r ({})".format, st.sampled_from(("", "UNIQUE ")), some_columns),
    st.builds("CREATE INDEX ON r ({}, ({} + 1)) WHERE {} > 3".format, column, column, column),
    st.builds("ALTER TABLE r ADD {}UNIQUE ({}){}".format, name, some_columns, st.sampled_from(("", " DEFERRABLE"))),
    st.builds("ALTER TABLE r ADD {}PRIMARY KEY ({})".format, name, some_columns),
    st.builds("ALTER TABLE r ADD {}CHECK ({} > {})".format, name, column, st.sampled_from((-1, 3, "a"))),
    st.builds("ALTER TABLE r ADD {}FOREIGN KEY ({}) REFERENCES other".format, name, column),
    st.builds("ALTER TABLE r ALTER {} SET NOT NULL".format, column),
    st.builds("ALTER TABLE r ADD COLUMN {} float {} DEFAULT random() * 0".format, st.sampled_from("de"),
              st.sampled_from(("", "NOT NULL", "UNIQUE"))),
    st.builds("UPDATE r SET {} = {} * 2, {} = 7 WHERE id > 10".format, st.just("a"), column, st.just("b")),
    st.builds("DELETE FROM r WHERE {} = 5 OR {} IS NULL".format, column, column),
)  # fmt: skip
statement_lists = st.lists(changes, min_size=1, max_size=3)


@pytest.mark.first_case
@pytest.mark.newest
@pytest.mark.parametrize("partitioned", [False, True])
@settings(
    max_examples=examples(5, 40),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(statements=statement_lists, nulls=st.booleans(), rows=st.sampled_from((0, 5, 40)))
def test_random_changes_end_equal_or_are_refused(
    server: Server, partitioned: bool, statements: list[str], nulls: bool, rows: int
) -> None:
    """When the plain statements succeed, schema and data are equal; when they fail, so does the safe form."""
    parts = " PARTITION BY HASH (id)" if partitioned else ""
    made = ["DROP SCHEMA IF EXISTS public, app, performed, pgrunbook CASCADE", "CREATE SCHEMA public"]
    made += ["CREATE TABLE other (k integer PRIMARY KEY)", "INSERT INTO other SELECT generate_series(1, 40)"]
    made.append(f'CREATE TABLE r (id integer NOT NULL, a integer, b integer, "C c" integer){parts}')
    if partitioned:
        made += [f"CREATE TABLE r{n} PARTITION OF r FOR VALUES WITH (MODULUS 2, REMAINDER {n})" for n in (0, 1)]
    made.append("CREATE UNIQUE INDEX ON r (id)")
    value = "CASE WHEN i % 9 <> 0 THEN i END" if nulls else "i"
    made.append(f"INSERT INTO r SELECT i, i, i % 6, {value} FROM generate_series(1, {rows}) AS i")
    migration = "; ".join(statements)
    with server.connect(server.database("stage_random")) as conn:
        conn.execute("; ".join(made))
        try:
            with conn.transaction(force_rollback=True):
                conn.execute(migration)
                wanted = end(conn)
        except psycopg.Error:
            wanted = None
        before = end(conn)
        expansions = plan(conn, migration, batch_rows=8)
        if any(expansion.gate for expansion in expansions):
            return
        if wanted is None:
            with pytest.raises(psycopg.Error):
                perform(conn, expansions)
            if len(statements) == 1:
                undo(conn, expansions)
                assert [difference.line() for difference in diff(before[0], end(conn)[0])] == []
            return
        perform(conn, expansions)
        schema_now, data_now = end(conn)
        lines = [difference.line() for difference in diff(wanted[0], schema_now)]
        if not any(NOT_NULL_OF_PARTITIONS in each.differs for each in expansions):
            assert lines == []
        assert [line for line in lines if "(LOCAL)" not in line] == []
        assert wanted[1] == data_now
