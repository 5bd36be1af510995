"""DO blocks that execute plain statements where they are needed: each has the way back of what it has executed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conftest import connect, do, rows
from pgrunbook import undo_data
from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection
from pgrunbook.sql.do_branches import read_block
from pgrunbook.sql.tree import tree
from pgrunbook.undo_data import StepKey
from pgrunbook.undo_data.capture_rows import rewrite
from pgrunbook.undo_data.cascades import RowsNotShownError
from returning import everything, execute, plan_of, rehearsed, take_back

Project = Callable[..., Target]

# ruff: noqa: E501 - one block on a line, whatever its length

MADE = """
CREATE TABLE t (id integer PRIMARY KEY, a text, was text, b integer);
INSERT INTO t SELECT i, 'a' || i, 'was' || i, i FROM generate_series(1, 4) AS i;
CREATE TABLE r (id integer PRIMARY KEY, t integer); INSERT INTO r VALUES (1, 1); CREATE TABLE gone (id integer PRIMARY KEY);
INSERT INTO gone VALUES (7); CREATE PUBLICATION pub; CREATE TYPE there AS ENUM ('x'); CREATE TYPE mood AS ENUM ('ok');
CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
"""
NO = "NOT EXISTS (SELECT 1 FROM information_schema.columns WHERE table_name = 't' AND column_name = '{}')"
TYPE = "(SELECT data_type FROM information_schema.columns WHERE table_name = 't' AND column_name = '{}') = '{}'"
BLOCKS = {
    "add_column": f"IF {NO.format('n')} THEN ALTER TABLE t ADD COLUMN n integer NOT NULL DEFAULT 4; RAISE NOTICE 'n'; END IF;",
    "column_is_there": f"IF {NO.format('a')} THEN ALTER TABLE t ADD COLUMN a text; ELSE RAISE NOTICE 'there'; END IF;",
    "filled": f"IF {NO.format('m')} THEN ALTER TABLE t ADD COLUMN m integer; UPDATE t SET m = b * 2; ALTER TABLE t ALTER COLUMN m SET NOT NULL; END IF;",
    "caught_column": "ALTER TABLE t ADD COLUMN o uuid DEFAULT gen_random_uuid(); EXCEPTION WHEN duplicate_column THEN NULL;",
    "caught_there": "ALTER TABLE t ADD COLUMN a integer; EXCEPTION WHEN duplicate_column THEN RAISE NOTICE 'there';",
    "caught_type": "CREATE TYPE e AS ENUM ('x'); EXCEPTION WHEN duplicate_object THEN NULL;",
    "caught_type_there": "CREATE TYPE there AS ENUM ('x'); EXCEPTION WHEN duplicate_object THEN NULL;",
    "caught_key": "ALTER TABLE r ADD CONSTRAINT r_fk FOREIGN KEY (t) REFERENCES t (id); EXCEPTION WHEN duplicate_object THEN NULL;",
    "caught_policy": "CREATE POLICY p ON t USING (true); EXCEPTION WHEN duplicate_object THEN NULL;",
    "caught_trigger": "CREATE TRIGGER tr BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f(); EXCEPTION WHEN duplicate_object THEN NULL;",
    "caught_publication": "ALTER PUBLICATION pub ADD TABLE t; EXCEPTION WHEN duplicate_object THEN NULL;",
    "caught_table": "CREATE TABLE r (x integer); EXCEPTION WHEN duplicate_table THEN NULL;",
    "caught_drop": "DROP TRIGGER nowhere ON t; EXCEPTION WHEN undefined_object THEN NULL;",
    "two_caught": "CREATE TYPE e2 AS ENUM ('x'); ALTER TABLE r ADD COLUMN id integer; EXCEPTION WHEN duplicate_object OR duplicate_column THEN NULL;",
    "nested": "BEGIN CREATE TYPE e3 AS ENUM ('x'); EXCEPTION WHEN duplicate_object THEN NULL; END; BEGIN ALTER TABLE t ADD COLUMN k e3; EXCEPTION WHEN duplicate_column THEN NULL; END;",
    "rename": f"IF NOT {NO.format('was')} THEN ALTER TABLE t RENAME COLUMN was TO is_; END IF;",
    "drop_column": f"IF NOT {NO.format('is_')} THEN ALTER TABLE t DROP COLUMN is_; END IF;",
    "cut": f"IF {TYPE.format('a', 'text')} THEN ALTER TABLE t ALTER COLUMN a TYPE varchar(1) USING left(a, 1); END IF;",
    "drop_table": "IF to_regclass('gone') IS NOT NULL THEN DROP TABLE gone; END IF;",
    "create": "IF to_regclass('x') IS NULL THEN CREATE TABLE x (id integer PRIMARY KEY); INSERT INTO x VALUES (1); END IF;",
    "as_text": "IF to_regclass('y') IS NULL THEN EXECUTE 'CREATE TABLE y (id integer)'; END IF;",
    "returned": "IF to_regtype('there') IS NOT NULL THEN RETURN; END IF; CREATE TYPE there AS ENUM ('y');",
    "else_arm": "IF to_regtype('nowhere') IS NOT NULL THEN DROP TYPE nowhere; ELSIF to_regtype('there') IS NULL THEN CREATE TYPE there AS ENUM ('z'); ELSE CREATE TYPE nowhere AS ENUM ('z'); END IF;",
    "enum_value": "IF NOT EXISTS (SELECT 1 FROM pg_enum AS e WHERE e.enumtypid = 'mood'::regtype AND e.enumlabel = 'sad') THEN ALTER TYPE mood ADD VALUE 'sad'; END IF;",
    "put_together": "EXECUTE format('ALTER TABLE %I ADD COLUMN %I text DEFAULT %L', 't', 'Of %', 'it''s');",
    "asked_first": "PERFORM 1 FROM pg_type WHERE typname = 'e5'; IF NOT FOUND THEN CREATE TYPE e5 AS ENUM ('x'); END IF;",
    "asked_first_there": "PERFORM 1 FROM pg_type WHERE typname = 'there'; IF NOT FOUND THEN CREATE TYPE there AS ENUM ('x'); END IF;",
    "in_turn": "FOR i IN 1..3 LOOP EXECUTE format('CREATE TABLE part_%s (id integer)', i); END LOOP;",
    "each_of_an_array": "FOREACH v IN ARRAY ARRAY['t', 'r'] LOOP EXECUTE format('ALTER TABLE %I ADD COLUMN of_array text', v); END LOOP;",
    "each_of_unnest": "FOR v IN SELECT unnest(ARRAY['t', 'r']) LOOP EXECUTE 'ALTER TABLE ' || quote_ident(v) || ' ADD of_unnest text'; END LOOP;",
    "each_of_from": "FOR v IN SELECT x FROM unnest(ARRAY['t', 'r']) AS x LOOP EXECUTE 'ALTER TABLE ' || v || ' ADD of_from text'; END LOOP;",
    "each_of_values": "FOR v IN VALUES ('t'), ('r') LOOP IF NOT EXISTS (SELECT 1 FROM information_schema.columns WHERE table_name = v AND column_name = 'b') THEN EXECUTE format('ALTER TABLE %I ADD b text', v); END IF; END LOOP;",
    "counted": "SELECT count(*) INTO n FROM pg_class WHERE relname = 'z'; IF n = 0 THEN CREATE TABLE z (id integer); END IF;",
    "rows_as_text": "FOREACH v IN ARRAY ARRAY['b'] LOOP EXECUTE format('UPDATE t SET %I = b + 10', v); END LOOP;",
    "counted_there": "SELECT count(*) INTO n FROM pg_class WHERE relname = 't'; IF n = 0 THEN CREATE TABLE t (id integer); END IF;",
    "assigned": "v := 'assigned'; n := (SELECT count(*) FROM pg_class WHERE relname = v); IF n = 0 THEN EXECUTE format('CREATE TABLE %I (id integer)', v); END IF;",
    "of_the_catalog": "FOR r IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename IN ('t', 'r') ORDER BY 1 LOOP EXECUTE format('ALTER TABLE %I ADD of_catalog text', r.tablename); END LOOP;",
    "of_the_catalog_by_name": "FOR v IN SELECT column_name FROM information_schema.columns WHERE table_name = 'r' AND column_name <> 'id' LOOP EXECUTE 'ALTER TABLE r RENAME ' || quote_ident(v) || ' TO ' || quote_ident('old_' || v); END LOOP;",
    "of_the_catalog_and_none": "FOR r IN SELECT tablename FROM pg_tables WHERE schemaname = 'nowhere' LOOP EXECUTE format('DROP TABLE %I', r.tablename); END LOOP;",
    "with_a_variable": "CREATE TABLE made (n integer PRIMARY KEY); FOR i IN 1..3 LOOP INSERT INTO made VALUES (i); END LOOP;",
    "with_parameters": "CREATE TABLE given (n integer PRIMARY KEY, a text); EXECUTE 'INSERT INTO given VALUES ($1, $2)' USING 7, 'seven';",
    "caught_in_turn": "FOREACH v IN ARRAY ARRAY['t', 'z2'] LOOP BEGIN EXECUTE format('CREATE TABLE %I (id integer)', v); EXCEPTION WHEN duplicate_table THEN NULL; END; END LOOP;",
}  # fmt: skip
FEW = (
    "filled",
    "caught_there",
    "caught_policy",
    "cut",
    "returned",
    "put_together",
    "asked_first",
    "each_of_values",
    "counted",
    "rows_as_text",
    "of_the_catalog",
    "with_a_variable",
    "with_parameters",
)
# What such a block does is not known before, and why.
OTHERS = {
    "others": ("ALTER TABLE t ADD COLUMN n integer; EXCEPTION WHEN OTHERS THEN NULL;", "it handles other errors than that something is there, or is missing"),
    "handler_works": ("CREATE TYPE e AS ENUM ('x'); EXCEPTION WHEN duplicate_object THEN DROP TYPE e;", "it executes something where it handles an error"),
    "handler_within": ("BEGIN CREATE TYPE e AS ENUM ('x'); EXCEPTION WHEN duplicate_object THEN NULL; END; EXCEPTION WHEN duplicate_object THEN NULL;", "it handles errors within what handles errors"),
    "rows_asked": ("IF EXISTS (SELECT 1 FROM t WHERE b > 3) THEN ALTER TABLE t ADD COLUMN n integer; END IF;", "a condition of it reads rows, or calls a function of the application"),
    "function_asked": ("IF public.g() THEN ALTER TABLE t ADD COLUMN n integer; END IF;", "a condition of it reads rows, or calls a function of the application"),
    "raised": ("IF to_regtype('there') IS NULL THEN RAISE EXCEPTION 'no'; END IF; CREATE TYPE e AS ENUM ('x');", "it may raise an error"),
    "asserted": ("ASSERT to_regtype('there') IS NULL; CREATE TYPE e AS ENUM ('x');", "it may raise an error"),
    "rows_in_turn": ("FOR v IN SELECT a FROM t LOOP EXECUTE 'DROP TABLE IF EXISTS gone'; END LOOP;", "it loops over rows"),
    "counted_by_the_server": ("FOR r IN SELECT relname FROM pg_class WHERE reltuples > 0 LOOP EXECUTE format('DROP TABLE %I', r.relname); END LOOP;", "it loops over rows"),
    "statistics": ("FOR r IN SELECT relname FROM pg_stat_user_tables LOOP EXECUTE format('DROP TABLE %I', r.relname); END LOOP;", "it loops over rows"),
    "catalog": ("FOR r IN SELECT relname FROM pg_class LOOP EXECUTE format('DROP TABLE %I', r.relname); END LOOP;", "it loops over rows of the catalogs"),
    "cursor": ("FOR r IN EXECUTE 'SELECT 1' LOOP EXECUTE 'DROP TABLE gone'; END LOOP;", "it loops over rows of a text that it executes"),
    "stops_in_between": ("FOR i IN 1..2 LOOP EXECUTE 'DROP TABLE IF EXISTS gone'; EXIT; END LOOP;", "it may leave a loop, or a turn of it (EXIT, CONTINUE)"),
    "skips": ("FOR i IN 1..2 LOOP CONTINUE WHEN i = 1; EXECUTE 'DROP TABLE IF EXISTS gone'; END LOOP;", "it may leave a loop, or a turn of it (EXIT, CONTINUE)"),
    "without_end": ("LOOP EXECUTE 'DROP TABLE IF EXISTS gone'; EXIT; END LOOP;", "it loops until it leaves the loop"),
    "while": ("WHILE to_regclass('gone') IS NOT NULL LOOP DROP TABLE gone; END LOOP;", "it loops as long as something holds (WHILE)"),
    "case": ("CASE WHEN to_regclass('gone') IS NOT NULL THEN DROP TABLE gone; ELSE NULL; END CASE;", "it chooses by CASE"),
    "many_turns": ("FOR i IN 1..1001 LOOP EXECUTE format('CREATE TABLE x_%s ()', i); END LOOP;", "it loops more than 1,000 times"),
    "backwards": ("FOR i IN REVERSE 2..1 LOOP EXECUTE 'DROP TABLE IF EXISTS gone'; END LOOP;", "it loops over numbers that are not constant, backwards, or by steps"),
    "list_of_others": ("FOREACH v IN ARRAY ARRAY[current_schema()] LOOP EXECUTE 'DROP TABLE gone'; END LOOP;", "it loops over a list that is not constant"),
    "put_together_of_rows": ("EXECUTE format('ALTER TABLE %I ADD COLUMN n integer', (SELECT a FROM t LIMIT 1));", "it executes a text that it puts together of what nobody can tell"),
    "padded": ("EXECUTE format('ALTER TABLE %5s ADD COLUMN n integer', 't');", "it executes a text that it puts together of what nobody can tell"),
    "parameters_of_rows": ("EXECUTE 'UPDATE t SET a = $1' USING (SELECT a FROM t LIMIT 1);", "it executes a text with values that nobody can tell (USING)"),
    "text_into": ("EXECUTE 'SELECT 1' INTO n; CREATE TYPE e AS ENUM ('x');", "it takes values of a text that it executes"),
    "writes_what_it_asks": ("INSERT INTO r VALUES (9) RETURNING id INTO n; IF n = 9 THEN CREATE TYPE e AS ENUM ('x'); END IF;", "it takes several values, or those of a statement that writes, into variables"),
    "asks_a_function_of_others": ("SELECT g(oid) INTO n FROM pg_class; CREATE TYPE e AS ENUM ('x');", "the value of n does not come from the catalogs alone"),
    "declares_in_a_loop": ("FOR i IN 1..2 LOOP DECLARE w integer := 1; BEGIN CREATE TYPE e AS ENUM ('x'); END; END LOOP;", "it declares variables in more than one place"),
    "a_statement_with_a_computed_value": ("n := (SELECT count(*) FROM pg_class); INSERT INTO r VALUES (n);", "a statement of it takes the value of n, which nobody can tell"),
    "no_value": ("EXECUTE 'ALTER TABLE t ADD n ' || v;", "nobody can tell the value of v"),
    "asks_rows_first": ("PERFORM 1 FROM t WHERE b = 4; IF NOT FOUND THEN CREATE TYPE e AS ENUM ('x'); END IF;", "it asks more than the catalogs, or calls what may do more (PERFORM)"),
    "does_what_it_asks": ("PERFORM set_config('x.y', '1', false) FROM pg_type; CREATE TYPE e AS ENUM ('x');", "it asks more than the catalogs, or calls what may do more (PERFORM)"),
    "found_is_another_statement's": ("PERFORM 1 FROM pg_type; UPDATE t SET b = b; IF FOUND THEN CREATE TYPE e AS ENUM ('x'); END IF;", "nobody can tell the value of found"),
    "finds_names_elsewhere": ("SET LOCAL search_path = app; IF to_regtype('there') IS NULL THEN CREATE TYPE there AS ENUM ('x'); END IF;", "it sets search_path"),
    "finds_names_elsewhere_by_a_function": ("IF to_regtype('there') IS NULL THEN EXECUTE 'SELECT set_config(''search_path'', ''app'', true)'; CREATE TYPE there AS ENUM ('x'); END IF;", "it sets search_path"),
    "returns_within": ("IF to_regtype('there') IS NULL THEN NULL; ELSE RETURN; END IF; CREATE TYPE e AS ENUM ('x');", "it may return before its end"),
    "assigned_within": ("IF to_regtype('there') IS NULL THEN v := 'a'; ELSE v := 'b'; END IF; EXECUTE 'DROP TABLE ' || v;", "it asks or assigns something within IF, or where it handles errors"),
    "part_assigned": ("r.x := 'a'; CREATE TYPE e AS ENUM ('x');", "it assigns a part of a variable"),
    "called": ("CALL p(); CREATE TYPE e AS ENUM ('x');", "it calls a procedure"),
    "what_was_done": ("UPDATE t SET b = 1; GET DIAGNOSTICS n = ROW_COUNT; CREATE TYPE e AS ENUM ('x');", "it asks what a statement has done (GET DIAGNOSTICS)"),
    "commits": ("CREATE TYPE e AS ENUM ('x'); COMMIT;", "it ends its transaction"),
    "behind_a_label_of_a_loop": ("<<l>> FOR i IN 1..2 LOOP UPDATE t SET b = l.i; END LOOP;", "a statement of it takes the value of l.i, which nobody can tell"),
    "behind_a_label_of_a_block": ("<<l>> BEGIN UPDATE t SET a = l.v; END;", "a statement of it takes the value of l.v, which nobody can tell"),
    "behind_the_label_of_every_block": ("v := 'a'; UPDATE t SET a = inline_code_block.v;", "a statement of it takes the value of inline_code_block.v, which nobody can tell"),
    "asked_behind_a_label": ("<<l>> BEGIN IF to_regtype(l.v) IS NULL THEN DROP TABLE gone; END IF; END;", "nobody can tell the value of l.v"),
    "parameter_that_nothing_gives": ("EXECUTE 'UPDATE t SET a = $1 WHERE id = $2' USING 'x';", "a text that it executes takes $2, which USING does not give"),
    "parameters_without_using": ("EXECUTE 'UPDATE t SET a = $1';", "a text that it executes takes $1, which USING does not give"),
    "parameter_of_no_number": ("EXECUTE 'UPDATE t SET a = $0' USING 'x';", "a text that it executes takes $0, which USING does not give"),
}  # fmt: skip
# Words of PL/pgSQL, each with what it may have beside it: those that the cases above hold, and odder ones.
WORDS = [
    *BLOCKS.values(), *(body for body, _ in OTHERS.values()),
    "EXECUTE '';", "EXECUTE NULL;", "EXECUTE v;", "EXECUTE format('%', 't');", "EXECUTE format('UPDATE %I SET a = %s', 't');", "EXECUTE format('UPDATE %2$I SET a = 1', 't', 'u');",
    "FOR i IN 1..NULL LOOP NULL; END LOOP;", "FOR i IN n..9 LOOP UPDATE t SET b = i; END LOOP;", "FOR r IN SELECT * FROM (VALUES (1, 2)) AS w (p, q) LOOP UPDATE t SET b = r.p; END LOOP;",
    "FOR r IN VALUES (1), (2) LOOP UPDATE t SET b = r.column1; END LOOP;", "FOREACH n IN ARRAY '{1,2}'::int[] LOOP UPDATE t SET b = n; END LOOP;", "FOREACH v SLICE 1 IN ARRAY ARRAY[['a']] LOOP NULL; END LOOP;",
    "FOREACH v IN ARRAY ARRAY[]::text[] LOOP UPDATE t SET a = v; END LOOP;", "SELECT * INTO r FROM pg_class; UPDATE t SET a = r.relname;", "SELECT 1, 2 INTO n, v;", "SELECT 1 INTO STRICT n;",
    "RAISE;", "RETURN;", "NULL;", "UPDATE t SET b = $1;", "UPDATE t SET (a, b) = (v, n);", "WITH w AS (UPDATE t SET b = n RETURNING 1) DELETE FROM r;", "MERGE INTO t USING r ON true WHEN MATCHED THEN UPDATE SET b = n;",
    "TRUNCATE t;", "COPY t FROM '/nowhere';", "SET LOCAL app.x = 'y';", "OPEN c; FETCH c INTO n; CLOSE c;",
]  # fmt: skip
# Known, and it destroys what cannot be captured within a block.
LOSES = {
    "old_rows": f"IF {NO.format('n')} THEN ALTER TABLE t ADD COLUMN n integer; UPDATE t SET a = 'x'; END IF;",
    "rows_of_a_table_that_is_there": "IF to_regclass('r') IS NULL THEN CREATE TABLE r (id integer); END IF; ALTER TABLE t ADD COLUMN n2 integer; INSERT INTO r VALUES (9);",
    "condition_made_true": f"IF {NO.format('n3')} THEN ALTER TABLE t ADD COLUMN n3 integer; END IF; IF NOT {NO.format('n3')} THEN DELETE FROM r; END IF;",
    "two_tables": "IF to_regclass('gone') IS NOT NULL THEN DROP TABLE gone; DROP TABLE r; END IF;",
}  # fmt: skip


def _block(body: str) -> str:
    return f"DO $$ DECLARE v text; n integer; r record; BEGIN {body} END $$;"


def contents(conn: Connection) -> dict[str, list[str]]:
    """The rows of each table that a block may write."""
    query = "SELECT pg_catalog.array_agg(x::text ORDER BY x::text) FROM {} AS x"
    return {name: conn.execute(query.format(name).encode()).fetchall()[0][0] for name in ("t", "u", "r", "log")}


def _there_and_back(project: Project, blocks: dict[str, str]) -> None:
    target = project(folder={f"{n:04}_{name}.sql": _block(body) for n, (name, body) in enumerate(blocks.items(), 1)})
    do(target, MADE)
    before = everything(target)
    done = rehearsed(target)
    assert {c.migration: c.proof.says for c in done.changes if not c.proof.proven} == {}
    execute(target, plan_of(target, done), "20261122T165431Z-release-demo-7f3a")
    assert everything(target) != before
    take_back(target)
    found = everything(target)
    assert found[1] == before[1]
    if "drop_column" not in blocks:  # which comes back as the last one
        assert found[0].fingerprint == before[0].fingerprint


@pytest.mark.slow
def test_a_block_is_taken_back(project: Project) -> None:
    """One of each kind: what it makes and fills, what is there already, what it destroys, and what it leaves out."""
    _there_and_back(project, {name: BLOCKS[name] for name in FEW})


@pytest.mark.slow
def test_blocks_of_each_kind_are_taken_back(project: Project) -> None:
    """Each block that frameworks and teams write around a statement which may have been executed before."""
    _there_and_back(project, BLOCKS)


@pytest.mark.parametrize(("body", "because"), OTHERS.values(), ids=OTHERS)
def test_what_is_not_known_of_other_blocks_is_told(body: str, because: str) -> None:
    """Loops over rows, other handlers, answers that rows give: nobody knows before what they execute, and why."""
    found = read_block(tree(_block(body)))
    assert (found.statements, found.because) == (None, because)


@pytest.mark.first_case
@pytest.mark.parametrize(
    "around", ["{}", "IF n > 1 THEN {} END IF;", "FOR k IN 1..2 LOOP {} END LOOP;", "BEGIN {} END;"]
)
@pytest.mark.parametrize(
    "declared",
    ["v text; n integer; r record;", "n integer := 3; r t%ROWTYPE; v t.a%TYPE;", "c CURSOR FOR SELECT 1; n integer[];"],
)
def test_no_block_crashes_the_reading(around: str, declared: str) -> None:
    """Whatever a block is made of, it is read, or there is a reason."""
    for body in WORDS:
        found = read_block(tree(f"DO $$ DECLARE {declared} BEGIN {around.format(body)} END $$"))
        assert not found.because or found.statements is None


@pytest.mark.parametrize(
    ("code", "because"),
    [
        ("DECLARE x numeric; BEGIN DROP TABLE t; END", "nobody can tell the values of its variable x"),
        (
            "#variable_conflict use_column\nDECLARE n text := 't'; BEGIN DROP TABLE t; END",
            "a name of its variables may be that of a column (#variable_conflict use_column)",
        ),
        ("BEGIN DROP TABLE; END", "its code cannot be read"),
        ("#variable_conflict use_column\nBEGIN IF current_user = 'x' THEN DROP TABLE t; END IF; END", ""),
        ("#variable_conflict use_variable\nDECLARE n text := 't'; BEGIN DROP TABLE t; END", ""),
    ],
)
def test_what_is_declared_may_be_why(code: str, because: str) -> None:
    """A type that changes what is assigned, a word about names, a text that does not parse."""
    assert read_block(tree(f"DO $$ {code} $$")).because == because


@pytest.mark.parametrize("grows", ["v := v || v;", "v := v || 'x';", "PERFORM 1 WHERE found AND found;"])
def test_a_value_that_grows_without_end_is_not_followed(grows: str) -> None:
    """A variable that is made of itself a thousand times costs no more than its thousand parts."""
    found = read_block(tree(f"DO $$ DECLARE v text := 'a'; BEGIN PERFORM 1; {grows * 1000} DROP TABLE t; END $$"))
    assert found.because == "a value of it is put together of more than 1,000 parts"


# Blocks whose rows are captured as those of the statements in them; and what is captured where.
CAPTURED = {
    "DELETE FROM r WHERE id = 1; UPDATE t SET a = 'x' WHERE id < 3;": [("delete", "r"), ("update", "t")],
    "FOREACH v IN ARRAY ARRAY['t', 'u'] LOOP EXECUTE format('UPDATE %I SET b = b + 10', v); END LOOP;": [("update", "t"), ("update", "u")],
    "EXECUTE 'UPDATE t SET a = $1 WHERE id = $2' USING 'it''s', 2; INSERT INTO r VALUES (5);": [("update", "t"), ("insert", "r")],
    "FOR i IN 5..5 LOOP UPDATE t SET id = id + i; END LOOP;": [("update", "t")],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize("body", CAPTURED)
def test_rows_of_a_block_are_captured_as_those_of_its_statements(project: Project, body: str) -> None:
    """No table is locked and copied as a whole; what triggers write to other tables is as with a statement alone."""
    target = project(folder={"0001_m.sql": _block(body)})
    do(target, MADE + "CREATE TABLE u AS TABLE t; ALTER TABLE u ADD PRIMARY KEY (id); CREATE TABLE log (says text);"
       "CREATE FUNCTION notes() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO log VALUES (TG_OP); RETURN NEW; END';"
       "CREATE TRIGGER notes AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION notes()")  # fmt: skip
    plain = everything(target)[1]
    with connect(target) as conn, conn.transaction(force_rollback=True):
        conn.execute(_block(body).encode())
        promised = contents(conn)
    plan = plan_of(target, rehearsed(target))
    results = execute(target, plan, "20261122T165431Z-release-demo-7f3a")
    assert [result.rows for result in results] == [None]  # as of the block itself
    with connect(target) as conn:
        assert contents(conn) == promised
        found = [(entry.kind, entry.table.name) for entry in undo_data.list_entries(conn)]
    assert sorted(found) == sorted(CAPTURED[body])
    assert not any("LOCK TABLE" in step.sql for change in plan.changes for step in change.steps)
    done = everything(target)[1]
    assert done != plain
    take_back(target)
    after = everything(target)[1]
    assert {name.name for name in plain if plain[name] != after[name]} <= {"log"}


@pytest.mark.slow
def test_a_name_that_may_be_a_column_is_not_read_as_that_of_a_variable(project: Project) -> None:
    """Where the database lets columns come first, nobody knows what a block did; and its rows are those of psql."""
    target = project(folder={"0001_m.sql": "DO $$ BEGIN FOR n IN 7..7 LOOP UPDATE r SET t = n; END LOOP; END $$"})
    do(target, MADE + "ALTER TABLE r ADD COLUMN n integer DEFAULT 5;"
       "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET plpgsql.variable_conflict = Use_Column', current_database()); END $$")  # fmt: skip
    done = rehearsed(target)
    assert "plpgsql.variable_conflict is use_column: n may be a column" in done.changes[0].proof.told
    execute(target, plan_of(target, done), "20261122T165431Z-release-demo-7f3a")
    assert rows(target, "SELECT id, t FROM r") == [(1, 5)]
    with connect(target) as conn:
        place = StepKey("run", "0002_m", "up", 1)
        assert rewrite(conn, _block("UPDATE r SET t = t + 1;"), place).sides
        with pytest.raises(RowsNotShownError, match="use_column: n may be"):
            rewrite(conn, "DO $$ DECLARE n integer := 7; BEGIN UPDATE r SET t = n; END $$", place)


@pytest.mark.slow
def test_a_block_that_changes_rows_of_a_table_twice_is_captured_as_a_whole(project: Project) -> None:
    """Two captures of a kind would be one."""
    target = project(folder={"0001_m.sql": _block("UPDATE t SET a = 'x'; UPDATE t SET b = 7 WHERE a = 'x';")})
    do(target, MADE)
    before = everything(target)
    plan = plan_of(target, rehearsed(target))
    assert any("LOCK TABLE" in step.sql for change in plan.changes for step in change.steps)
    execute(target, plan, "20261122T165431Z-release-demo-7f3a")
    take_back(target)
    assert everything(target) == before


@pytest.mark.slow
def test_what_a_block_destroys_beside_objects_has_no_way_back(project: Project) -> None:
    """Rows of old tables that it changes are told, also where a statement of it lets a condition hold."""
    target = project(folder={f"{n:04}_{name}.sql": _block(body) for n, (name, body) in enumerate(LOSES.items(), 1)})
    do(target, MADE)
    told = {c.migration[5:]: c.proof.told for c in rehearsed(target).changes if not c.proof.proven}
    assert list(told) == list(LOSES)
    assert all("captured" in each for each in told.values()), told
