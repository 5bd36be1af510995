"""Names that are chosen as PostgreSQL chooses them, asked of PostgreSQL."""

from __future__ import annotations

import pytest
from psycopg import sql

from pgrunbook.sql import default_names
from pgrunbook.sql.deparse import parsed
from safe_forms_stage import Stage, perform, plan

LONG, WIDE = "a" * 40, "ü" * 30
NAMES = [
    ("short", ["a"]),
    ("short", ["a", "b", "c"]),
    (LONG, [LONG + "x"]),
    (LONG + "yyyyyyyyyyyyyyyyyyyyy", ["b"]),
    ("tt", [LONG, LONG + "z", "c"]),
    (WIDE, ["a", WIDE + "x"]),
    ("x" + WIDE, [WIDE, "ö" * 20]),
]
EXPRESSIONS = [
    "a, a",
    "(a + 1), (a + 2), lower(b), lower(b)",
    "(b || 'x'), (a::text), ((a + 1)::bigint), coalesce(a, 1), nullif(a, 1), greatest(a, 2)",
    "least(a, 3), (a IS NULL), (a::text::varchar(3))",
    "(CASE WHEN a > 1 THEN b END), (CASE WHEN a > 1 THEN b ELSE b END), (ARRAY[a])",
    "(CASE WHEN a > 0 THEN 1 ELSE 2 END)",
    "(j -> 'x'), (j ->> 'y'), (l[1]), ((b COLLATE \"C\")), (CASE WHEN a > 0 THEN 1 ELSE 2::bigint END)",
]


@pytest.mark.parametrize(("table", "columns"), NAMES)
def test_name_is_the_one_that_the_server_chooses(stage: Stage, table: str, columns: list[str]) -> None:
    """For indexes, keys and checks, of long and wide names, also when the first choice is taken."""
    conn = stage.conn
    definitions = sql.SQL(", ").join(sql.SQL("{} integer").format(sql.Identifier(column)) for column in columns)
    listed = sql.SQL(", ").join(map(sql.Identifier, columns))
    conn.execute(sql.SQL("CREATE TABLE {} ({})").format(sql.Identifier(table), definitions))
    taken: set[str] = set()
    for label, statement in (("idx", "CREATE INDEX ON {} ({})"), ("key", "ALTER TABLE {} ADD UNIQUE ({})")) * 2:
        conn.execute(sql.SQL(statement).format(sql.Identifier(table), listed))
        chosen = default_names.free_name(table, default_names.joined_columns(columns), label, taken)
        taken.add(chosen)
        there = {row[0] for row in conn.execute("SELECT relname::text FROM pg_class WHERE relkind = 'i'").fetchall()}
        assert chosen in there


@pytest.mark.parametrize("listed", EXPRESSIONS)
def test_columns_of_an_index_are_named_as_the_server_names_them(stage: Stage, listed: str) -> None:
    """Also those of expressions."""
    stage.conn.execute("CREATE TABLE e (a integer, b text, j jsonb, l integer[])")
    statement = f"CREATE INDEX made ON e ({listed})"
    stage.conn.execute(statement)
    rows = stage.conn.execute(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = 'made'::regclass ORDER BY attnum"
    ).fetchall()
    assert default_names.index_columns(parsed(statement)) == [row[0] for row in rows]


@pytest.mark.parametrize("fresh", [(), ("t",)])
def test_an_index_that_is_written_without_a_name_gets_the_one_that_the_server_chooses(
    stage: Stage, fresh: tuple[str, ...]
) -> None:
    """CONCURRENTLY as well: what a build that is cut off leaves is known by it, on a table just made too."""
    (expansion,) = plan(stage.conn, "CREATE INDEX CONCURRENTLY ON t (c, lower(b))", fresh=fresh)
    (step,) = expansion.steps
    assert step.sql.startswith("CREATE INDEX CONCURRENTLY t_c_lower_idx ON public.t ")
    assert step.leftovers is not None
    perform(stage.conn, [expansion])
    assert stage.conn.execute(step.done or "").fetchone() == (True,)
