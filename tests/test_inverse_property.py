"""Random statements on random schemas, up and then down: the schema is what it was, or the way back says why not."""

from __future__ import annotations

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from budget import examples
from inverse_stage import Keeper, Undo, inverse, is_told
from pgrunbook.database import schema
from pgrunbook.database.schema_diff import Difference, diff
from servers import Server

# ruff: noqa: E501 - one statement on a line, whatever its length


table = st.sampled_from(("r", "r", "other", "parted", "kid"))
column = st.sampled_from(("a", "b", '"C c"', "id", "d"))
name = st.sampled_from(("", "CONSTRAINT c1 ", "CONSTRAINT c2 "))
some_columns = st.sampled_from(("a", "b, a", '"C c"', "id", "a, id"))
type_ = st.sampled_from(("bigint", "text", "numeric(8, 2)", "varchar(9)", "smallint"))
cascade = st.sampled_from(("", " CASCADE"))
changes = st.one_of(
    st.builds("ALTER TABLE {} ADD COLUMN d {} {}".format, table, type_, st.sampled_from(("", "DEFAULT 5", "NOT NULL DEFAULT 7", "UNIQUE", "CHECK (id > 0)"))),
    st.builds("ALTER TABLE {} DROP COLUMN {}{}".format, table, column, cascade),
    st.builds("ALTER TABLE {} ALTER {} TYPE {}".format, table, column, type_),
    st.builds("ALTER TABLE {0} ALTER {1} TYPE text USING {1} || '0'".format, table, column),
    st.builds("ALTER TABLE {} ALTER {} SET DEFAULT 3".format, table, column),
    st.builds("ALTER TABLE {} ALTER {} DROP DEFAULT".format, table, column),
    st.builds("ALTER TABLE {} ALTER {} SET NOT NULL".format, table, column),
    st.builds("ALTER TABLE {} ALTER {} DROP NOT NULL".format, table, column),
    st.builds("ALTER TABLE {} ALTER {} SET STATISTICS 9, ADD {}CHECK (a > -1)".format, table, column, name),
    st.builds("ALTER TABLE {} ADD {}UNIQUE ({})".format, table, name, some_columns),
    st.builds("ALTER TABLE {} ADD {}PRIMARY KEY ({})".format, table, name, some_columns),
    st.builds("ALTER TABLE {} ADD {}FOREIGN KEY ({}) REFERENCES other".format, table, name, column),
    st.builds("ALTER TABLE {} ADD {}CHECK ({} > 0) NOT VALID".format, table, name, column),
    st.builds("ALTER TABLE {} VALIDATE CONSTRAINT {}".format, table, st.sampled_from(("c1", "c2", "later"))),
    st.builds("ALTER TABLE {} DROP CONSTRAINT {}{}".format, table, st.sampled_from(("c1", "r_pkey", "other_pkey", "later", "r_a_check")), cascade),
    st.builds("ALTER TABLE {} RENAME {} TO {}".format, table, column, st.sampled_from(("a", "e", '"Z z"'))),
    st.builds("ALTER TABLE {} RENAME TO {}".format, table, st.sampled_from(("fresh", "other", '"R r"'))),
    st.builds("ALTER TABLE {} SET SCHEMA elsewhere".format, table),
    st.builds("ALTER TABLE {} DETACH PARTITION parted_1".format, table),
    st.builds("ALTER TABLE kid {} r".format, st.sampled_from(("INHERIT", "NO INHERIT"))),
    st.builds("ALTER TABLE parted ATTACH PARTITION kid FOR VALUES FROM ({}) TO (900)".format, st.sampled_from((500, 1))),
    st.builds("CREATE {}INDEX ON {} ({})".format, st.sampled_from(("", "UNIQUE ")), table, some_columns),
    st.builds("DROP INDEX {}".format, st.sampled_from(("r_b_idx", "parted_a_idx", "r_a_idx", "r_expr_idx"))),
    st.builds("DROP TABLE {}{}".format, table, cascade),
    st.builds("DROP VIEW {}{}".format, st.sampled_from(("seen", "again")), cascade),
    st.builds("CREATE OR REPLACE VIEW {} AS SELECT {} FROM r".format, st.sampled_from(("seen", "again", "third")), some_columns),
    st.builds("CREATE TABLE {} (a integer, b serial)".format, st.sampled_from(("d", "fresh", "r"))),
    st.builds("CREATE TABLE fresh (LIKE {} INCLUDING ALL)".format, table),
    st.builds("CREATE TABLE fresh AS SELECT * FROM {}".format, table),
    st.builds("DROP FUNCTION plus(integer){}".format, cascade),
    st.builds("CREATE OR REPLACE FUNCTION plus(integer{}) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 2'".format, st.sampled_from(("", " DEFAULT 1", ", integer"))),
    st.builds("DROP TYPE mood{}".format, cascade),
    st.builds("ALTER TYPE mood RENAME VALUE '{}' TO '{}'".format, st.sampled_from(("sad", "ok")), st.sampled_from(("low", "ok"))),
    st.builds("DROP SEQUENCE other_n_seq{}".format, cascade),
    st.builds("COMMENT ON COLUMN {}.{} IS {}".format, table, column, st.sampled_from(("NULL", "'it''s'"))),
    st.builds("{} ON {} {} runbook_reader".format, st.sampled_from(("GRANT SELECT (a), UPDATE", "GRANT ALL")), table, st.just("TO")),
    st.builds("REVOKE {} ON {} FROM runbook_reader, PUBLIC".format, st.sampled_from(("ALL", "SELECT (a)")), table),
    st.builds("ALTER TABLE {} OWNER TO runbook_reader".format, table),
    st.builds("ALTER TABLE r {} TRIGGER {}".format, st.sampled_from(("DISABLE", "ENABLE")), st.sampled_from(("t", "ALL", "USER"))),
    st.builds("ALTER TABLE {} ENABLE ALWAYS TRIGGER t".format, table),
)  # fmt: skip


@st.composite
def schemas(draw: st.DrawFn) -> list[str]:
    """Return the statements that make a random schema of the names above."""
    maybe = st.booleans()
    first = draw(st.sampled_from(("a integer", "a integer CHECK (a > -5)", "a bigint DEFAULT 4", "a integer NOT NULL")))
    made = [
        "CREATE SCHEMA elsewhere",
        "CREATE TYPE mood AS ENUM ('sad', 'ok')",
        "CREATE FUNCTION plus(integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1'",
        "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TABLE other (id integer PRIMARY KEY, a integer, b integer, n serial)",
        "INSERT INTO other (id, a) SELECT i, i FROM generate_series(1, 9) AS i",
        f'CREATE TABLE r (id integer {draw(st.sampled_from(("PRIMARY KEY", "NOT NULL", "GENERATED BY DEFAULT AS IDENTITY")))}, {first}, b integer, "C c" text, m mood DEFAULT \'ok\')',
        "CREATE TABLE parted (id integer, a integer, b text) PARTITION BY RANGE (id)",
        "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE kid (id integer, a integer, b text)" if draw(maybe) else f'CREATE TABLE kid ({first}, z integer) INHERITS (r)',
    ]  # fmt: skip
    more = [
        "CREATE INDEX ON r (b DESC) WHERE b > 0", "CREATE INDEX r_expr_idx ON r (plus(b), lower(\"C c\"))",
        "CREATE UNIQUE INDEX ON r (a)", "CREATE INDEX ON parted (a)", "ALTER TABLE r ADD CONSTRAINT later CHECK (b > -9) NOT VALID",
        "ALTER TABLE r ADD CONSTRAINT c1 FOREIGN KEY (b) REFERENCES other ON DELETE CASCADE",
        "ALTER TABLE parted ADD CONSTRAINT c2 FOREIGN KEY (a) REFERENCES other", "CREATE VIEW seen AS SELECT a, b FROM r",
        "CREATE VIEW again AS SELECT b FROM r WHERE a > 3", "GRANT SELECT ON r TO runbook_reader",
        "CREATE TRIGGER t BEFORE UPDATE OF a ON r FOR EACH ROW EXECUTE FUNCTION look()",
        "CREATE TRIGGER t AFTER INSERT ON parted FOR EACH ROW EXECUTE FUNCTION look()",
        "CREATE POLICY p ON r USING (a > 0)", "CREATE STATISTICS s ON a, b FROM r", "COMMENT ON COLUMN r.a IS 'x'",
        "CREATE PUBLICATION undo_news FOR TABLE r, parted WITH (publish = 'insert')",
        "ALTER TABLE r ADD COLUMN g integer GENERATED ALWAYS AS (plus(b)) STORED",
        "INSERT INTO r (id, a, b, \"C c\") SELECT i, i, i, i FROM generate_series(1, 9) AS i",
        "INSERT INTO parted SELECT i, i, i FROM generate_series(1, 9) AS i",
    ]  # fmt: skip
    return made + [one for one in more if draw(maybe)]


@pytest.mark.newest
@settings(
    max_examples=examples(8, 60),
    deadline=None,
    report_multiple_bugs=False,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(made=schemas(), statements=st.lists(changes, min_size=1, max_size=6))
def test_random_changes_come_back_or_say_why_not(server: Server, made: list[str], statements: list[str]) -> None:
    """Whatever is executed, one statement after the other, its way back leads to where it began."""
    with server.connect(server.database("undo_random")) as conn, conn.transaction(force_rollback=True):
        for statement in made:
            conn.execute(statement)
        before = schema.snapshot(conn)
        done: list[tuple[Undo, Keeper]] = []
        for number, statement in enumerate(statements):
            try:
                with conn.transaction():
                    undo = inverse(conn, statement)
                    keeper = Keeper(conn, undo, f"kept_{number}")
                    if not undo.because:
                        keeper.keep(statement)
            except psycopg.Error:
                continue
            assert "the server says" not in undo.because
            if not undo.because:
                done.append((undo, keeper))
        for _, keeper in reversed(done):
            keeper.go_back()
        left = diff(before, schema.snapshot(conn))
        undos = [undo for undo, _ in done]
        assert [
            d.line() for d in left if not any(is_told(d, undo) or is_renamed(d, undo, statements) for undo in undos)
        ] == []


def is_renamed(difference: Difference, undo: Undo, statements: list[str]) -> bool:
    """Tell whether a way back told an order of columns under a name that the table had then."""
    told = any(each.kind == "column order" for each in undo.differs) and difference.change == "moved"
    return told and any(" SET SCHEMA " in statement or " RENAME " in statement for statement in statements)
