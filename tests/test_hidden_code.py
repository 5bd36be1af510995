"""Code that no statement names: every place of PL/pgSQL, what is made and then called, rules, casts, domains ..."""

from __future__ import annotations

import psycopg
import pytest

from pgrunbook.database import catalog_reader, routines_reader
from pgrunbook.database.routines import Routines
from pgrunbook.review.hazards import Transactions
from pgrunbook.review.review import review
from pgrunbook.review.statement_scenes import script
from pgrunbook.safe_forms.expander import Expander
from pgrunbook.sql import statements
from pgrunbook.sql.calls import calls
from pgrunbook.sql.deparse import parsed
from pgrunbook.sql.tree import tree
from safe_forms_stage import Stage, plan_forms

# ruff: noqa: E501 - one body on a line, whatever its length

# Each place of a block in which PL/pgSQL evaluates something.
BLOCKS = (
    "DECLARE x int; BEGIN x := evil(); END",
    "DECLARE x int; BEGIN x = evil(); END",
    "DECLARE a int[]; BEGIN a[evil()] := 1; END",
    "DECLARE a int[]; BEGIN a[1:evil()] := '{1}'; END",
    "DECLARE a int[]; BEGIN a[(SELECT evil())] := 1; END",
    "DECLARE r record; BEGIN r.x := evil(); END",
    "DECLARE x int := evil(); BEGIN END",
    "DECLARE x int DEFAULT evil(); BEGIN END",
    "DECLARE x CONSTANT int := evil(); BEGIN END",
    "DECLARE x record := evil(); BEGIN END",
    "DECLARE x t := evil(); BEGIN END",
    "BEGIN DECLARE y int := evil(); BEGIN END; END",
    "DECLARE c CURSOR FOR SELECT evil(); BEGIN OPEN c; END",
    "DECLARE c CURSOR (k int) FOR SELECT 1; BEGIN OPEN c(evil()); END",
    "DECLARE c CURSOR (k int) FOR SELECT 1; BEGIN OPEN c(k := evil()); END",
    "DECLARE c refcursor; BEGIN OPEN c FOR SELECT evil(); END",
    "DECLARE c refcursor; BEGIN OPEN c FOR EXECUTE 'SELECT $1' USING evil(); END",
    "DECLARE c refcursor; BEGIN OPEN c FOR EXECUTE 'SELECT evil()'; END",
    "BEGIN PERFORM evil(); END",
    "BEGIN PERFORM 1 WHERE evil() = 1; END",
    "BEGIN CALL evil(); END",
    "BEGIN IF evil() = 1 THEN END IF; END",
    "BEGIN IF true THEN ELSIF evil() = 1 THEN END IF; END",
    "BEGIN IF true THEN PERFORM evil(); END IF; END",
    "BEGIN IF true THEN ELSIF true THEN PERFORM evil(); END IF; END",
    "BEGIN IF true THEN ELSE PERFORM evil(); END IF; END",
    "BEGIN CASE evil() WHEN 1 THEN ELSE END CASE; END",
    "BEGIN CASE 1 WHEN evil() THEN ELSE END CASE; END",
    "BEGIN CASE 1 WHEN 1 THEN PERFORM evil(); ELSE END CASE; END",
    "BEGIN CASE WHEN evil()=1 THEN ELSE END CASE; END",
    "BEGIN CASE WHEN true THEN ELSE PERFORM evil(); END CASE; END",
    "BEGIN WHILE evil()=1 LOOP END LOOP; END",
    "BEGIN WHILE true LOOP PERFORM evil(); END LOOP; END",
    "BEGIN FOR i IN evil()..2 LOOP END LOOP; END",
    "BEGIN FOR i IN 1..evil() LOOP END LOOP; END",
    "BEGIN FOR i IN 1..2 BY evil() LOOP END LOOP; END",
    "BEGIN FOR i IN 1..2 LOOP PERFORM evil(); END LOOP; END",
    "DECLARE r record; BEGIN FOR r IN SELECT evil() LOOP END LOOP; END",
    "DECLARE r record; BEGIN FOR r IN SELECT 1 LOOP PERFORM evil(); END LOOP; END",
    "DECLARE r record; BEGIN FOR r IN EXECUTE 'SELECT evil()' LOOP END LOOP; END",
    "DECLARE r record; BEGIN FOR r IN EXECUTE 'SELECT $1' USING evil() LOOP END LOOP; END",
    "DECLARE r record; BEGIN FOR r IN EXECUTE 'SELECT 1' LOOP PERFORM evil(); END LOOP; END",
    "DECLARE c CURSOR (k int) FOR SELECT 1; BEGIN FOR r IN c(evil()) LOOP END LOOP; END",
    "DECLARE c CURSOR FOR SELECT 1; BEGIN FOR r IN c LOOP PERFORM evil(); END LOOP; END",
    "DECLARE x int; BEGIN FOREACH x IN ARRAY ARRAY[evil()] LOOP END LOOP; END",
    "DECLARE x int; BEGIN FOREACH x IN ARRAY ARRAY[1] LOOP PERFORM evil(); END LOOP; END",
    "BEGIN LOOP PERFORM evil(); END LOOP; END",
    "BEGIN LOOP EXIT WHEN evil()=1; END LOOP; END",
    "BEGIN LOOP CONTINUE WHEN evil()=1; END LOOP; END",
    "BEGIN RAISE NOTICE '%', evil(); END",
    "BEGIN RAISE EXCEPTION USING MESSAGE = evil(); END",
    "BEGIN RAISE EXCEPTION 'x' USING HINT = evil()::text; END",
    "BEGIN ASSERT evil()=1; END",
    "BEGIN ASSERT false, evil()::text; END",
    "BEGIN EXECUTE 'SELECT evil()'; END",
    "DECLARE x int; BEGIN EXECUTE 'SELECT evil()' INTO x; END",
    "BEGIN EXECUTE 'SELECT $1' USING evil(); END",
    "BEGIN EXECUTE $q$SELECT evil()$q$; END",
    "BEGIN EXECUTE E'SELECT \\x65vil()'; END",
    "BEGIN EXECUTE U&'SELECT \\0065vil()'; END",
    "BEGIN EXECUTE 'SELECT evil()'::text; END",
    "BEGIN EXECUTE ('SELECT evil()'); END",
    "BEGIN EXECUTE 'SELECT 1; SELECT evil()'; END",
    "BEGIN EXECUTE 'DO $x$ BEGIN PERFORM evil(); END $x$'; END",
    "DECLARE x int; BEGIN SELECT evil() INTO x; END",
    "DECLARE x int; BEGIN SELECT INTO x evil(); END",
    "DECLARE x int; BEGIN SELECT evil() INTO STRICT x; END",
    "DECLARE x int; BEGIN INSERT INTO t VALUES (evil()) RETURNING a INTO x; END",
    "BEGIN EXCEPTION WHEN OTHERS THEN PERFORM evil(); END",
    "BEGIN BEGIN PERFORM evil(); EXCEPTION WHEN OTHERS THEN END; END",
    "<<l>> BEGIN PERFORM evil(); END l",
    "DECLARE c refcursor; x int; BEGIN FETCH ABSOLUTE evil() FROM c INTO x; END",
    "DECLARE c refcursor; BEGIN MOVE RELATIVE evil() FROM c; END",
    "begin perform EVIL(); end",
)
# And those of functions.
FUNCTIONS = (
    "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN evil(); END $$",
    "CREATE FUNCTION f() RETURNS SETOF int LANGUAGE plpgsql AS $$ BEGIN RETURN NEXT evil(); END $$",
    "CREATE FUNCTION f() RETURNS SETOF int LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY SELECT evil(); END $$",
    "CREATE FUNCTION f() RETURNS SETOF int LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY EXECUTE 'SELECT evil()'; END $$",
    "CREATE FUNCTION f() RETURNS SETOF int LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY EXECUTE 'SELECT $1' USING evil(); END $$",
    "CREATE FUNCTION f(x int DEFAULT evil()) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN x; END $$",
    "CREATE FUNCTION f(x int DEFAULT evil()) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT evil(); END",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql RETURN evil()",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT evil()'",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT evil(); SELECT 1'",
    "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'DO $x$ BEGIN PERFORM evil(); END $x$'",
    "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ #variable_conflict use_column\nBEGIN RETURN evil(); END $$",
    "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.a := evil(); RETURN NEW; END $$",
    "CREATE FUNCTION f() RETURNS int LANGUAGE 'PLPGSQL' AS $$ BEGIN RETURN evil(); END $$",
)

STAGE = """
CREATE FUNCTION evil() RETURNS integer LANGUAGE plpgsql AS 'BEGIN DROP TABLE t; RETURN 1; END';
CREATE FUNCTION evil(integer) RETURNS integer LANGUAGE plpgsql AS 'BEGIN DROP TABLE t; RETURN 1; END';
CREATE FUNCTION evil(integer, integer) RETURNS integer LANGUAGE plpgsql AS 'BEGIN DROP TABLE t; RETURN 1; END';
CREATE FUNCTION evil(text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN DROP TABLE t; RETURN true; END';
CREATE FUNCTION evil_fires() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN DROP TABLE t; RETURN NEW; END';
CREATE FUNCTION evil_hears() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN DROP TABLE t; END';
CREATE FUNCTION calm() RETURNS integer LANGUAGE sql AS 'SELECT 1';
CREATE TABLE ruled (a integer);
CREATE RULE also AS ON INSERT TO ruled DO ALSO DELETE FROM t;
CREATE TABLE softly (id integer PRIMARY KEY, gone boolean);
CREATE RULE softly AS ON DELETE TO softly DO INSTEAD UPDATE softly SET gone = true WHERE id = OLD.id;
CREATE TABLE quiet (a integer);
ANALYZE;
"""
# What runs the evil somewhere, or may from then on; ``{make}`` makes a function that drops a table.
_MAKE = "CREATE OR REPLACE FUNCTION {} RETURNS integer LANGUAGE plpgsql AS 'BEGIN DROP TABLE t; RETURN 1; END'"
HIDDEN = (
    "INSERT INTO ruled VALUES (1)",
    "CREATE RULE r AS ON INSERT TO quiet DO ALSO DELETE FROM t",
    f"DO $$ BEGIN {_MAKE.format('made()')}; PERFORM made(); END $$",
    f"DO $$ BEGIN {_MAKE.format('calm()')}; PERFORM calm(); END $$",
    f"DO $$ BEGIN {_MAKE.format('pg_temp.made()')}; PERFORM pg_temp.made(); END $$",
    f"DO $$ BEGIN {_MAKE.format('made()')}; END $$; SELECT made()",
    "DO $$ BEGIN CREATE TRIGGER z BEFORE INSERT ON quiet FOR EACH ROW EXECUTE FUNCTION evil_fires(); INSERT INTO quiet VALUES (1); END $$",
    "CREATE FUNCTION asks(a integer DEFAULT evil()) RETURNS integer LANGUAGE sql AS 'SELECT 1'; SELECT asks()",
    "CREATE OPERATOR ### (PROCEDURE = evil, LEFTARG = integer, RIGHTARG = integer)",
    "CREATE AGGREGATE agg(integer) (SFUNC = evil, STYPE = integer, INITCOND = '0')",
    "CREATE CAST (integer AS app.mood) WITH FUNCTION evil(integer)",
    "CREATE DOMAIN d AS text CHECK (evil(VALUE))",
    "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION evil_hears()",
    "ALTER EXTENSION plpgsql ADD FUNCTION evil()",
    "ALTER TABLE quiet ALTER a SET DEFAULT evil()",
    "CREATE TABLE n (a integer DEFAULT evil())",
    "CREATE TABLE n (a integer CHECK (evil(a) > 0))",
    "CREATE VIEW v AS SELECT evil()",
    "CREATE POLICY p ON quiet USING (evil() = 1)",
    "CREATE STATISTICS s ON (evil(a)) FROM quiet",
    "PREPARE p AS SELECT evil(); EXECUTE p",
    "COPY (DELETE FROM t RETURNING a) TO STDOUT",
    "SELECT query_to_xml('SELECT evil()', true, true, '')",
    "SELECT ts_stat('SELECT evil()')",
    "SELECT ts_rewrite('a'::tsquery, 'SELECT evil()')",
    "SELECT query_to_xml('SELECT ' || current_user, true, true, '')",
)
HARMLESS = (
    "DELETE FROM softly WHERE id = 1",
    "CREATE VIEW v AS SELECT calm(), lower(b) FROM t",
    "CREATE TABLE n (a integer DEFAULT calm(), b timestamptz DEFAULT now())",
    "CREATE OPERATOR ### (PROCEDURE = int4pl, LEFTARG = integer, RIGHTARG = integer)",
    "CREATE AGGREGATE agg(integer) (SFUNC = int4larger, STYPE = integer)",
    "CREATE CAST (app.mood AS integer) WITH INOUT",
    "EXPLAIN (ANALYZE false) DELETE FROM t",
    "SELECT ts_rewrite('a'::tsquery, 'a', 'b')",
    f"DO $$ BEGIN {_MAKE.format('made()')}; END $$",
)
# What a release makes, and puts in front of what was there.
IN_FRONT = (
    ("cannot-be-split", "CREATE VIEW f AS SELECT * FROM t; DELETE FROM f"),
    (
        "truncate",
        "CREATE TABLE f (a integer, b varchar(9)) PARTITION BY LIST (b); ALTER TABLE f ATTACH PARTITION q_a FOR VALUES IN ('a'); TRUNCATE f",
    ),
    ("drop", "CREATE TABLE f (LIKE keyless); ALTER TABLE keyless INHERIT f; DROP TABLE f CASCADE"),
    ("cannot-be-split", "CREATE TABLE f (LIKE keyless); ALTER TABLE keyless INHERIT f; UPDATE f SET a = 1"),
    (
        "truncate",
        "CREATE TABLE f (id integer PRIMARY KEY); ALTER TABLE t ADD COLUMN f integer REFERENCES f; TRUNCATE f CASCADE",
    ),
    ("type-change", "ALTER TYPE app.pair ALTER ATTRIBUTE x TYPE text"),
)


@pytest.mark.parametrize("sql", [*(f"DO $body$ {body} $body$" for body in BLOCKS), *FUNCTIONS])
def test_each_place_of_a_body_is_read(sql: str) -> None:
    """Whatever stands there is seen, or the body counts as one that cannot be read."""
    node = parsed(sql)
    routines = Routines().after(node)
    call = node if sql.startswith("DO") else parsed("SELECT f()")
    parts = routines.parts(call)
    assert any(part.because for part in parts) or any(
        called.name.name == "evil" for part in parts for called in calls(part.node)
    )


@pytest.mark.slow
@pytest.mark.newest
def test_code_that_no_statement_names_is_judged(stage: Stage) -> None:
    """A gate in prepare, and a finding of the review of the same file: neither has to be looked for."""
    stage.conn.execute(STAGE)
    for sql in HIDDEN:
        assert gates(stage, sql), sql
        assert found_by_review(stage, sql), sql
    for sql in HARMLESS:
        assert not gates(stage, sql), sql


@pytest.mark.newest
def test_a_function_that_somebody_added_to_an_extension_is_judged(stage: Stage) -> None:
    """An ordinary user may own a trusted extension; its own functions are harmless, in whatever language they are."""
    stage.conn.execute(STAGE)
    with stage.conn.transaction(force_rollback=True):
        stage.conn.execute("CREATE EXTENSION cube; CREATE EXTENSION earthdistance; CREATE ROLE adds SUPERUSER")
        stage.conn.execute("SET ROLE adds; CREATE EXTENSION citext; ALTER ROLE adds NOSUPERUSER")
        stage.conn.execute("RESET ROLE; GRANT ALL ON SCHEMA public TO adds; SET ROLE adds")
        body = "LANGUAGE sql AS 'DELETE FROM t; SELECT 1'"
        stage.conn.execute(
            f"CREATE FUNCTION added() RETURNS integer {body}; ALTER EXTENSION citext ADD FUNCTION added()"
        )
        stage.conn.execute("RESET ROLE")
        assert gates(stage, "SELECT added()")
        assert found_by_review(stage, "SELECT added()")
        for sql in ("SELECT ll_to_earth(1, 2)", "SELECT 'a'::citext = 'A'", "SELECT cube(1)"):
            assert not gates(stage, sql), sql


@pytest.mark.newest
@pytest.mark.parametrize(
    ("body", "because"),
    [
        ("FOR r IN SELECT tablename FROM pg_tables LOOP EXECUTE 'ANALYZE ' || r.tablename; END LOOP;", "it loops over rows of the catalogs"),
        ("FOR r IN SELECT a FROM t LOOP EXECUTE 'ANALYZE ' || r.a; END LOOP;", "it loops over rows"),
        ("EXECUTE 'ANALYZE ' || current_user;", "it executes a text that it puts together of what nobody can tell"),
    ],
)  # fmt: skip
def test_the_gate_of_a_block_says_why_it_is_not_read(stage: Stage, body: str, because: str) -> None:
    """Whoever is to accept it knows what to look for, or how to write it another way."""
    (statement,) = statements.parse(f"DO $$ DECLARE r record; BEGIN {body} END $$", "m.sql")
    gate = Expander(stage.conn, batch_rows=15).expand(statement).gate
    assert gate is not None
    assert f"it puts its statements together when it runs ({because})" in gate.says


# What an ordinary user plants, and a block that then executes another text; each is harmless without.
PLANTED = {
    "CREATE FUNCTION format(text, text) RETURNS text LANGUAGE sql AS 'SELECT $p$DROP TABLE t$p$::text'": "EXECUTE format('CREATE TABLE %s (a integer)', 'n');",
    "CREATE FUNCTION concat(text, text) RETURNS text LANGUAGE sql AS 'SELECT $p$DROP TABLE t$p$::text'": "EXECUTE concat('CREATE TABLE n ', '(a integer)');",
    "CREATE FUNCTION quote_ident(name) RETURNS text LANGUAGE sql AS 'SELECT $p$t; DROP TABLE t$p$::text'": "EXECUTE 'ANALYZE ' || quote_ident('t'::name);",
    "CREATE FUNCTION quote_literal(name) RETURNS text LANGUAGE sql AS 'SELECT $p$1; DROP TABLE t$p$::text'": "EXECUTE 'SELECT ' || quote_literal('t'::name);",
    "CREATE FUNCTION unnest(text[]) RETURNS SETOF text LANGUAGE sql AS 'SELECT $p$t; DROP TABLE t$p$::text'": "FOR v IN SELECT unnest(ARRAY['t', 'q']) LOOP EXECUTE 'ANALYZE ' || v; END LOOP;",
    "CREATE FUNCTION joined(name, text) RETURNS text LANGUAGE sql AS 'SELECT $p$DROP TABLE t$p$::text'; CREATE OPERATOR || (FUNCTION = joined, LEFTARG = name, RIGHTARG = text)": "EXECUTE 'ANALYZE '::name || v;",
    "CREATE OPERATOR || (FUNCTION = pg_catalog.btrim, LEFTARG = text, RIGHTARG = text)": "EXECUTE 'ANALYZE ' || v;",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.newest
def test_a_text_is_read_only_where_the_servers_own_functions_put_it_together(stage: Stage) -> None:
    """Another function or operator of the name may match better, wherever it stands in the search path."""
    for planted, body in PLANTED.items():
        block = f"DO $$ DECLARE v text := 't'; BEGIN {body} END $$"
        assert not gates(stage, block), block
        with stage.conn.transaction(force_rollback=True):
            stage.conn.execute("CREATE ROLE plants; GRANT CREATE ON SCHEMA public TO plants; SET ROLE plants")
            stage.conn.execute(f"{planted}; RESET ROLE")
            assert gates(stage, block), planted
            assert found_by_review(stage, block), planted
    block = "DO $$ DECLARE v text := 't'; BEGIN EXECUTE format('ANALYZE %I', v); END $$"
    assert not gates(stage, block)
    assert gates(stage, f"SET search_path = public, pg_catalog; {block}")
    assert found_by_review(stage, f"SET search_path = public, pg_catalog; {block}")


@pytest.mark.first_case
@pytest.mark.parametrize(("id_", "sql"), IN_FRONT)
def test_what_is_new_hides_nothing_that_was_there(stage: Stage, id_: str, sql: str) -> None:
    """A view, a parent or a referenced table of this release leads to rows that it has not made."""
    stage.conn.execute("CREATE TYPE app.pair AS (x integer, y integer)")
    assert gates(stage, sql)[-1:] == [id_]


HOLDING = {
    "default": "CREATE TABLE {t} (id int, n int DEFAULT {f}(1))",
    "generated": "CREATE TABLE {t} (id int, n int GENERATED ALWAYS AS ({f}(id)) STORED)",
    "check": "CREATE TABLE {t} (id int, CHECK ({f}(id) > 0))",
    "index": "CREATE TABLE {t} (id int); CREATE INDEX ON {t} ({f}(id))",
    "condition": "CREATE TABLE {t} (id int); CREATE INDEX ON {t} (id) WHERE {f}(id) > 0",
    "key": "CREATE TABLE {t} (id int) PARTITION BY LIST ({f}(id))",
    "policy": "CREATE TABLE {t} (id int); CREATE POLICY p ON {t} USING ({f}(id) > 0)",
    "rule": "CREATE TABLE {t} (id int); CREATE RULE r AS ON INSERT TO {t} DO ALSO SELECT {f}(1)",
}


@pytest.mark.every_version
def test_what_a_row_that_is_written_calls_is_read(stage: Stage) -> None:
    """Wherever its table has it; each version says otherwise what depends on a function."""
    for place, made in HOLDING.items():
        body = "LANGUAGE plpgsql AS 'BEGIN RETURN $1; END'"
        stage.conn.execute(f"CREATE FUNCTION app.f_{place}(int) RETURNS int IMMUTABLE {body}".encode())
        stage.conn.execute(made.format(t=f"app.t_{place}", f=f"app.f_{place}").encode())
    called = routines_reader.read(stage.conn, [tree(f"INSERT INTO app.t_{place} VALUES (1)") for place in HOLDING])
    assert {one.routine.name for one in called.fired} >= {f"f_{place}" for place in HOLDING}


IN_BODY = ("UPDATE t SET a = {}", "DELETE FROM t WHERE b = '{}'", "INSERT INTO q (b) SELECT b FROM t WHERE a = {}")


@pytest.mark.newest
def test_what_a_routine_does_is_asked_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database is asked about its tables, however many statements in it name them and whoever runs it how often."""
    asked = []
    execute = psycopg.Cursor.execute

    def counted(self: object, query: object, *args: object, **options: object) -> object:
        asked.append(query)
        return execute(self, query, *args, **options)  # type: ignore[arg-type]

    def questions(statements_of_body: int, runs: int) -> int:
        body = "; ".join(each.format(n) for n in range(statements_of_body) for each in IN_BODY)
        stage.conn.execute(f"CREATE OR REPLACE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN {body}; END $$")
        asked.clear()
        assert plan_forms(statements.parse("SELECT f();" * runs, "m.sql"), stage.conn, batch_rows=15)[-1].gate
        return len(asked)

    stage.conn.execute("SET check_function_bodies = off")
    monkeypatch.setattr(psycopg.Cursor, "execute", counted)
    short, often = questions(2, 1), questions(2, 11)
    assert questions(20, 1) == short
    assert (often - short) / 10 < short / 2


@pytest.mark.first_case
@pytest.mark.newest
@pytest.mark.parametrize(
    ("between", "before", "after"),
    [
        ("SELECT 1", 1, 1),
        ("TRUNCATE t CASCADE", 1, 0),
        ("INSERT INTO few SELECT n FROM generate_series(1, 90) n", 1, 2),
        ("ALTER TABLE few RENAME TO others; ALTER TABLE many RENAME TO few", 1, 2),
        ("DO $$ BEGIN TRUNCATE t CASCADE; END $$", 1, 0),
        ("SET search_path = app, public; CREATE TABLE app.t (a integer)", 1, 0),
        ("CREATE OR REPLACE FUNCTION f() RETURNS void LANGUAGE sql AS 'SELECT 1'", 1, 0),
    ],
)
def test_what_a_routine_does_is_judged_anew_where_something_has_changed(
    stage: Stage, between: str, before: int, after: int
) -> None:
    """On a branch each statement is executed before the next one is judged."""
    stage.conn.execute("CREATE TABLE few (a integer); CREATE TABLE many AS SELECT n AS a FROM generate_series(1, 90) n")
    body = "UPDATE t SET a = 1; UPDATE few SET a = 2"
    stage.conn.execute(f"CREATE FUNCTION f() RETURNS void LANGUAGE sql AS '{body}'")
    planner = Expander(stage.conn, batch_rows=15, applied=True)
    told = []
    with stage.conn.transaction(force_rollback=True):
        for statement in statements.parse(f"SELECT f(); {between}; SELECT f()", "m.sql"):
            found = planner.expand(statement).gate
            told.append(found.says.count("inside public.f") if found is not None else 0)
            stage.conn.execute(statement.sql)
    assert (told[0], told[-1]) == (before, after)


def gates(stage: Stage, sql: str) -> list[str]:
    """Return the gates that a file meets when each statement is executed before the next one is judged."""
    planner = Expander(stage.conn, batch_rows=15, applied=True)
    found = []
    with stage.conn.transaction(force_rollback=True):
        written = statements.parse(sql, "m.sql")
        for statement in written:
            gate = planner.expand(statement).gate
            found += [gate.id] if gate is not None else []
            if statement is not written[-1]:
                stage.conn.execute(statement.sql)
        stage.conn.execute("DEALLOCATE ALL")
    return found


def found_by_review(stage: Stage, sql: str) -> set[str]:
    """Return what the review of a file finds on the same database, beside timeouts: small tables count there too."""
    read = script([("m.sql", sql)])
    catalog = catalog_reader.read(stage.conn, read.statements)
    found = review(read, catalog, transactions=Transactions.FILE, with_squawk=False)
    return {hazard.id for finding in found for hazard in finding.hazards} - {"lock-without-timeout"}
