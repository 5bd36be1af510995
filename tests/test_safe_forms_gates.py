"""What has no safe form, what needs none, and what the operator decides."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

import psycopg
import pytest

from budget import sample
from pgrunbook.database.checksums import TableName
from pgrunbook.online import swap_shape
from pgrunbook.review.review import Severity, review
from pgrunbook.safe_forms.expander import Expander
from pgrunbook.session.parameters import Swap, checked
from pgrunbook.sql import statements
from safe_forms_stage import Stage, gate, perform, plan, plan_forms

GATES = [
    ("vacuum-full", "VACUUM FULL t"),
    ("vacuum-full", "VACUUM (FULL, ANALYZE) t"),
    ("cluster", "CLUSTER t USING t_pkey"),
    ("rewrite", "ALTER TABLE t SET UNLOGGED"),
    ("rename", "ALTER TABLE t RENAME TO tt"),
    ("rename", "ALTER TABLE child RENAME COLUMN c TO cc"),
    ("rename", "ALTER VIEW mv RENAME COLUMN n TO number"),
    ("drop", "DROP TABLE t"),
    ("drop", "ALTER TABLE t DROP COLUMN a"),
    ("truncate", "TRUNCATE t"),
    ("truncate", "TRUNCATE u, t CASCADE"),
    ("rename", "ALTER FUNCTION app.twice(integer) RENAME TO double"),
    ("rename", "ALTER SCHEMA app RENAME TO other"),
    ("type-change", "ALTER TABLE parent ALTER a TYPE bigint"),
    ("type-change", "ALTER TABLE parent ALTER a TYPE bigint"),
    ("type-change", "ALTER TABLE q ALTER b TYPE varchar(5)"),
    ("type-change", "ALTER TABLE t ALTER a TYPE integer USING a + c"),
    ("type-change", "ALTER TABLE t ALTER a TYPE bigint, ADD COLUMN z integer"),
    ("exclusion-constraint", "ALTER TABLE t ADD EXCLUDE (a WITH =)"),
    ("stored-generated", "ALTER TABLE t ADD COLUMN g integer GENERATED ALWAYS AS (a * 2) STORED"),
    ("constrained-domain", "ALTER TABLE t ADD COLUMN g app.positive"),
    ("no-key", "ALTER TABLE keyless ADD COLUMN g uuid DEFAULT gen_random_uuid()"),
    ("refresh-without-key", "DROP INDEX mv_c; REFRESH MATERIALIZED VIEW mv"),
]
# What reaches beyond the object that it names: prepare makes a gate of it, and the review has a finding.
WIDE = [
    ("drop", "DROP OWNED BY owner_of_w"),
    ("drop", "DROP TYPE app.mood CASCADE"),
    ("drop", "DROP DOMAIN app.positive CASCADE"),
    ("drop", "DROP FUNCTION app.touch() CASCADE"),
    ("drop", "DROP ROUTINE app.touch CASCADE"),
    ("drop", "DROP SEQUENCE s CASCADE"),
    ("drop", "DROP DATABASE postgres"),
    ("drop", "ALTER TYPE app.pair DROP ATTRIBUTE x CASCADE"),
    ("rename", "ALTER TABLE t SET SCHEMA app"),
    ("rename", "ALTER FUNCTION app.twice(integer) SET SCHEMA public"),
    ("rename", "ALTER TYPE app.mood SET SCHEMA public"),
    ("rename", "ALTER TYPE app.mood RENAME TO humour"),
    ("rename", "ALTER TYPE app.mood RENAME VALUE 'sad' TO 'blue'"),
    ("rename", "ALTER TYPE app.pair RENAME ATTRIBUTE x TO z"),
    ("rename", "ALTER DOMAIN app.positive RENAME TO whole"),
    ("rename", "ALTER SEQUENCE s RENAME TO s2"),
    ("rename", "ALTER DATABASE postgres RENAME TO other"),
    ("rename", "ALTER ROLE postgres RENAME TO other"),
    ("rewrite", "ALTER TABLE ALL IN TABLESPACE pg_default SET TABLESPACE pg_global"),
    ("rewrite", "ALTER DATABASE postgres SET TABLESPACE pg_global"),
    ("rewrite", "ALTER INDEX t_b SET TABLESPACE pg_global"),
    ("reindex", "REINDEX SCHEMA public"),
    ("reindex", "REINDEX DATABASE stage"),
    ("reindex", "REINDEX SYSTEM stage"),
    ("truncate", "TRUNCATE none CASCADE"),
    ("domain-constraint", "ALTER DOMAIN app.positive ADD CHECK (VALUE < 9)"),
    ("domain-constraint", "ALTER DOMAIN app.positive SET NOT NULL"),
    ("cannot-be-split", "DELETE FROM of_t"),
    ("cannot-be-split", "UPDATE of_of_t SET c = 1 WHERE c > 0"),
    ("cannot-be-split", "MERGE INTO t USING (SELECT 1 AS n) AS s ON true WHEN MATCHED THEN DELETE"),
    ("cannot-be-split", "MERGE INTO t USING u ON u.id = t.id WHEN MATCHED THEN UPDATE SET c = 1"),
    ("cannot-be-split", "INSERT INTO u SELECT id, b FROM t ON CONFLICT (id) DO UPDATE SET code = excluded.code"),
    (
        "cannot-be-split",
        "INSERT INTO u SELECT i, '' FROM generate_series(1, 99) i ON CONFLICT (id) DO UPDATE SET id = 1",
    ),
]
WIDE_STAGE = """
CREATE TYPE app.pair AS (x integer, y integer);
CREATE SEQUENCE s;
CREATE TABLE app.w (p app.pair, n app.positive);
INSERT INTO app.w SELECT ROW(1, 2)::app.pair, i FROM generate_series(1, 20) AS i;
CREATE TABLE none (id integer PRIMARY KEY);
CREATE TABLE of_none (id integer REFERENCES none);
INSERT INTO of_none VALUES (NULL);
CREATE VIEW of_t AS SELECT * FROM t WHERE id > 0;
CREATE VIEW of_of_t AS SELECT * FROM of_t;
"""
# Statements of the same kinds that are harmless here.
NARROW = [
    "CREATE TYPE mine AS ENUM ('a'); ALTER TYPE mine RENAME VALUE 'a' TO 'b'; ALTER TYPE mine RENAME TO ours",
    "CREATE DOMAIN mine AS integer; ALTER DOMAIN mine ADD CHECK (VALUE > 0); DROP DOMAIN mine CASCADE",
    "CREATE TABLE mine (a integer); ALTER TABLE mine SET SCHEMA app",
    "CREATE FUNCTION mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'; DROP FUNCTION mine CASCADE",
    "DROP TYPE IF EXISTS nowhere CASCADE",
    "DROP SCHEMA IF EXISTS nowhere",
    "DROP TRIGGER touch ON watched",
    "ALTER INDEX t_b RENAME TO t_b2",
    "ALTER TABLE t RENAME CONSTRAINT t_pkey TO t_key",
    "ALTER TYPE app.mood ADD VALUE 'good'",
    "ALTER DOMAIN app.positive ADD CHECK (VALUE < 9) NOT VALID",
    "DELETE FROM of_t WHERE id = 7",
    "MERGE INTO t USING (VALUES (1, 2)) AS s (i, c) ON s.i = t.id WHEN MATCHED THEN UPDATE SET c = s.c",
    "INSERT INTO u VALUES (1, lower('X')) ON CONFLICT (id) DO UPDATE SET code = excluded.code",
    "INSERT INTO u SELECT id, b FROM t WHERE false ON CONFLICT DO NOTHING",
]
WHOLE = [
    ("its WITH would be evaluated again", "WITH x AS (SELECT 1) UPDATE t SET c = 1"),
    ("RETURNING", "DELETE FROM t RETURNING id"),
    ("it joins another table", "UPDATE t SET c = u.id FROM u WHERE u.id = t.a"),
    ("it joins another table", "DELETE FROM t USING u WHERE u.id = t.a"),
    ('it reads rows of "t"', "UPDATE t SET c = (SELECT max(c) FROM t AS o) WHERE true"),
    ('it reads rows of "t"', "DELETE FROM t WHERE id NOT IN (SELECT min(id) FROM t GROUP BY c)"),
    ('it reads "mv"', "DELETE FROM t WHERE c IN (SELECT c FROM mv)"),
    ("system column", "DELETE FROM t WHERE ctid > '(0,5)'"),
    ("system column", "DELETE FROM t WHERE t.xmin::text > '5'"),
    ("it changes id", "UPDATE t SET id = id + 1"),
    ("it changes code", "UPDATE u SET code = upper(code)"),
    ("it changes at", "UPDATE p SET at = at + 1"),
    ('it selects rows by "random"', "DELETE FROM t WHERE random() < 0.5"),
    ('it calls "count_t"', "UPDATE t SET c = count_t()"),
    ("no key", "UPDATE keyless SET b = 'x'"),
    ("no key", "DELETE FROM keyless WHERE a > 5"),
    ("no key orders the rows of all", "DELETE FROM parent"),
    ("its transaction's start time", "UPDATE t SET b = LOCALTIME::text"),
    ('trigger "whole"', "UPDATE tree SET parent_id = NULL"),
    ('foreign key "tree_parent_id_fkey"', "DELETE FROM tree"),
]
PLAIN = [
    "ALTER TABLE q ALTER b TYPE varchar(50)",
    "ALTER TABLE q ALTER b TYPE text",
    "TRUNCATE two",
    "DROP TABLE IF EXISTS nowhere",
    "DO $$ BEGIN PERFORM 1; END $$",
    "ALTER TABLE t ADD COLUMN n integer",
    "ALTER TABLE t ADD COLUMN n timestamptz NOT NULL DEFAULT now()",
    "ALTER TABLE t ADD COLUMN IF NOT EXISTS a float DEFAULT random()",
    "ALTER TABLE t ADD CHECK (a > 0) NOT VALID",
    "ALTER TABLE t ADD COLUMN n integer CHECK (n > 0) NOT ENFORCED",
    "ALTER TABLE u ALTER id SET NOT NULL",
    "UPDATE t SET c = 5 WHERE id = 7",
    "DELETE FROM t WHERE b = 'x' AND id IN (1, 2, 3)",
    "CREATE INDEX ON ONLY p (v)",
    "ALTER TABLE ONLY p ADD CONSTRAINT p_at UNIQUE (at)",
    "CREATE INDEX IF NOT EXISTS t_b ON t (b)",
    "DROP INDEX t_b CASCADE",
    "ALTER TABLE q DETACH PARTITION q_rest",
    "INSERT INTO u VALUES (77, 'x')",
]


@pytest.mark.parametrize(("id_", "migration"), sample(GATES, 3))
def test_statement_without_safe_form_meets_its_gate(stage: Stage, id_: str, migration: str) -> None:
    """The gate says why and which procedure does it, and the statement stays in the plan as it is written."""
    *before, last = migration.split("; ")
    for statement in before:
        stage.conn.execute(statement)
    (expansion,) = plan(stage.conn, last)
    assert expansion.gate is not None
    assert expansion.gate.id == id_
    assert expansion.gate.says
    assert expansion.gate.how
    assert [step.sql for step in expansion.steps] == [last]
    assert gate(expansion.statement, stage.conn) == expansion.gate


def test_a_view_is_not_said_to_hold_data(stage: Stage) -> None:
    """Its rows are those of its query: only code that reads it is told of; a table's rows are lost."""
    stage.conn.execute("CREATE VIEW v AS SELECT 1 AS a; CREATE MATERIALIZED VIEW m AS SELECT 1 AS a")
    for dropped, says in {
        "VIEW v": "v is computed from queries, and code that still uses it fails",
        "MATERIALIZED VIEW m": "m is computed from queries, and code that still uses it fails",
        "TABLE t": "the data of t is lost, and code that still uses it fails",
    }.items():
        (found,) = plan(stage.conn, f"DROP {dropped}")
        assert found.gate is not None
        assert found.gate.says == says


def test_what_reaches_beyond_its_object_is_a_gate_and_a_finding(stage: Stage) -> None:
    """By CASCADE, by an owner, in a whole database, through a view: the same verdict in prepare and in review."""
    stage.conn.execute(WIDE_STAGE)
    for id_, statement in WIDE:
        (expansion,) = plan(stage.conn, statement, batch_rows=15)
        assert expansion.gate is not None, statement
        assert expansion.gate.id == id_, statement
        (finding,) = review([("m.sql", statement)], with_squawk=False)
        assert any(hazard.severity is not Severity.NOTE for hazard in finding.hazards), statement


def test_what_reaches_no_further_meets_no_gate(stage: Stage) -> None:
    """Nothing hangs on it, the release has made it, or a key says which few rows are meant."""
    stage.conn.execute(WIDE_STAGE)
    for sql in NARROW:
        planner = Expander(stage.conn, batch_rows=15, applied=True)
        with stage.conn.transaction(force_rollback=True):
            for statement in statements.parse(sql, "m.sql"):
                assert planner.expand(statement).gate is None, statement.sql
                if len(sql) > len(statement.sql):
                    stage.conn.execute(statement.sql)


USES = """
CREATE FUNCTION app.reads() RETURNS bigint LANGUAGE sql AS 'SELECT sum("Odd Col"::int) FROM public.t WHERE a > 1';
CREATE FUNCTION app.fires() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.a := 1; RETURN NEW; END';
CREATE TRIGGER fires BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION app.fires();
CREATE FUNCTION app.other() RETURNS integer LANGUAGE sql AS 'SELECT ta FROM app.tt';
CREATE FUNCTION app.calls() RETURNS integer LANGUAGE plpgsql AS 'BEGIN RETURN app.twice(1); END';
CREATE FUNCTION app.moods() RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RETURN 'sad'::app.mood = 'ok'; END$$;
CREATE VIEW app.shows AS SELECT a, id FROM t; CREATE VIEW app.shows_c AS SELECT c FROM t
"""


@pytest.mark.parametrize(
    ("sql", "named"),
    sample(
        [
            ("ALTER TABLE t RENAME TO tt2", ["app.reads()", "app.shows", "app.shows_c"]),
            ("ALTER TABLE t RENAME COLUMN a TO aa", ["app.fires()", "app.reads()", "app.shows"]),
            ('ALTER TABLE t RENAME COLUMN "Odd Col" TO even', ["app.reads()"]),
            ("ALTER FUNCTION app.twice(integer) RENAME TO double", ["app.calls()"]),
            ("ALTER SCHEMA app RENAME TO apps", ["app.calls()", "app.moods()", "app.other()"]),
            ("ALTER TYPE app.mood RENAME TO humour", ["app.moods()"]),
            ("ALTER TYPE app.mood RENAME VALUE 'sad' TO 'blue'", ["app.moods()"]),
            ("ALTER TABLE t SET SCHEMA app", ["app.reads()", "app.shows", "app.shows_c"]),
            ("ALTER TABLE u RENAME TO v", []),
        ],
        3,
    ),
)
def test_the_gate_of_a_rename_names_whose_text_has_the_name(stage: Stage, sql: str, named: list[str]) -> None:
    """Functions whose text a rename does not change, and views that go on under the old name."""
    stage.conn.execute(f"SET check_function_bodies = off; {USES}")
    (expansion,) = plan(stage.conn, sql, off={"m.sql:1": "both names need not live"})
    assert expansion.gate is not None
    told = expansion.gate.says.partition("commits")[2]
    every = ["app.calls()", "app.fires()", "app.moods()", "app.other()", "app.reads()", "app.shows", "app.shows_c"]
    assert [name for name in every if re.search(rf"{re.escape(name)}(?!\w)", told)] == named


def test_tables_of_an_extension_are_lost_with_it(stage: Stage) -> None:
    """Also without CASCADE; an extension that holds functions only is dropped as it is written."""
    stage.conn.execute("CREATE TABLE settings_of_it (a integer)")
    assert plan(stage.conn, "DROP EXTENSION plpgsql")[0].gate is None
    stage.conn.execute("ALTER EXTENSION plpgsql ADD TABLE settings_of_it")
    found = plan(stage.conn, "DROP EXTENSION plpgsql")[0].gate
    assert found is not None
    assert "settings_of_it" in found.says


@pytest.mark.parametrize(("reason", "statement"), sample(WHOLE, 3))
def test_statement_that_means_something_else_in_parts_is_not_split(stage: Stage, reason: str, statement: str) -> None:
    """It meets a gate with the reason."""
    stage.conn.execute(
        "CREATE FUNCTION count_t() RETURNS integer STABLE LANGUAGE sql AS 'SELECT count(*)::int FROM t';"
        "CREATE TABLE tree (id integer PRIMARY KEY, parent_id integer REFERENCES tree);"
        "INSERT INTO tree SELECT i, nullif(i - 1, 0) FROM generate_series(1, 30) AS i;"
        "CREATE TRIGGER whole AFTER UPDATE ON tree FOR EACH STATEMENT EXECUTE FUNCTION app.touch()"
    )
    (expansion,) = plan(stage.conn, statement, batch_rows=15)
    assert expansion.gate is not None
    assert expansion.gate.id == "cannot-be-split"
    assert reason in expansion.gate.says


@pytest.mark.parametrize("statement", sample(PLAIN, 3))
def test_statement_that_is_quick_stays_as_it_is(stage: Stage, statement: str) -> None:
    """No form and no gate: it is executed as it is written."""
    (expansion,) = plan(stage.conn, statement, batch_rows=15)
    assert (expansion.form, expansion.gate) == ("", None)
    assert [step.sql for step in expansion.steps] == [statement]


def test_index_that_is_there_but_invalid_is_built_again(stage: Stage) -> None:
    """IF NOT EXISTS would pass over what a failed build has left; the safe form drops it first."""
    stage.conn.execute("INSERT INTO t (id, b) VALUES (998, 'x'), (999, 'x')")
    with pytest.raises(psycopg.errors.UniqueViolation):
        stage.conn.execute("CREATE UNIQUE INDEX CONCURRENTLY trap ON t (b)")
    perform(stage.conn, plan(stage.conn, "CREATE INDEX IF NOT EXISTS trap ON t (b)"))
    row = stage.conn.execute("SELECT indisvalid, indisunique FROM pg_index WHERE indexrelid = 'trap'::regclass")
    assert row.fetchone() == (True, False)


def test_table_of_the_same_release_needs_no_safe_form(stage: Stage) -> None:
    """Made by this migration or one before it: nobody else uses it."""
    sql = "CREATE TABLE new_one (a int); CREATE INDEX ON new_one (a); ALTER TABLE t ADD CHECK (a > 0)"
    assert [expansion.form for expansion in plan(stage.conn, sql)] == ["", "", "alter-table"]
    assert [expansion.form for expansion in plan(stage.conn, sql, fresh={"t"})] == ["", "", ""]
    assert plan(stage.conn, "DROP TABLE t", fresh={"t"})[0].gate is None


def test_operator_switches_a_safe_form_off(stage: Stage) -> None:
    """By file and line, with a reason that stays with the plan."""
    found = statements.parse("CREATE INDEX ON t (a);\nCREATE INDEX ON t (c)", "0001.sql")
    first, second = plan_forms(found, stage.conn, off={"0001.sql:2": "nobody writes at night"})
    assert (first.form, first.off) == ("create-index", "")
    assert (second.form, second.off) == ("", "nobody writes at night")
    assert second.steps[0].sql == "CREATE INDEX ON t (c)"


def test_names_are_found_by_the_search_path_that_the_file_sets(stage: Stage) -> None:
    """A constant one is followed; behind one that is computed each name without a schema meets a gate."""
    stage.conn.execute("CREATE TABLE app.t (a integer); INSERT INTO app.t VALUES (1)")
    expansions = plan(stage.conn, "CREATE INDEX ON t (a); SET search_path = app; CREATE INDEX ON t (a); DROP TABLE u")
    assert [expansion.form for expansion in expansions] == ["create-index", "", "create-index", ""]
    assert "app.t" in expansions[2].steps[0].sql
    assert expansions[3].gate is None
    computed = "SELECT set_config('search_path', (SELECT nspname FROM pg_namespace LIMIT 1), false)"
    _, bare, whole, new = plan(stage.conn, f"{computed}; DROP TABLE t; CREATE INDEX ON public.t (a); CREATE TABLE n ()")
    assert bare.gate is not None
    assert (bare.gate.id, whole.form, whole.gate, new.gate) == ("cannot-be-told", "create-index", None, None)
    assert bare.gate.says == (
        "it runs as written, because search_path is computed before it (m.sql:1): which t it means cannot be told"
    )


def test_short_alter_tables_of_several_tables_do_not_wait_for_each_other(stage: Stage) -> None:
    """Those of one table stay in one transaction, each table has its own; one table alone stays as it is."""
    sql = "ALTER TABLE t ADD x int; ALTER TABLE t ADD y int; ALTER TABLE t ADD z int; ALTER TABLE u ADD x int"
    first, *joined, last = plan(stage.conn, sql)
    assert [len(expansion.steps) for expansion in (first, *joined, last)] == [1, 0, 0, 1]
    assert first.steps[0].sql == "ALTER TABLE t ADD x int;\nALTER TABLE t ADD y int;\nALTER TABLE t ADD z int"
    assert first.steps[0].own_transaction
    assert last.steps[0].own_transaction
    assert not plan(stage.conn, "ALTER TABLE t ADD x int; ALTER TABLE t ADD y int")[0].steps[0].own_transaction


GUARDED = """DO $$ BEGIN
 ALTER TABLE "t" ADD CONSTRAINT "t_c_u_id_fk" FOREIGN KEY ("c") REFERENCES "public"."u"("id") ON DELETE cascade;
EXCEPTION
 WHEN duplicate_object THEN null;
END $$"""


def test_a_foreign_key_that_a_block_guards_has_its_safe_form(stage: Stage) -> None:
    """As older drizzle-kit wrote every one: NOT VALID, then validated; where it is there, nothing is executed."""
    (expansion,) = plan(stage.conn, GUARDED)
    assert [step.sql.endswith("NOT VALID") for step in expansion.steps] == [True, False]
    perform(stage.conn, [expansion])
    query = "SELECT convalidated, confdeltype FROM pg_constraint WHERE conname = 't_c_u_id_fk'"
    assert stage.conn.execute(query).fetchone() == (True, "c")
    (again,) = plan(stage.conn, GUARDED)
    assert (again.form, again.steps) == ("guarded", ())


@pytest.mark.parametrize(
    ("id_", "block"),
    [
        ("type-change", "DO $$ BEGIN ALTER TABLE parent ALTER a TYPE bigint; END $$"),
        ("runs-as-written", "DO $$ BEGIN ALTER TABLE t ALTER a TYPE bigint; END $$"),
        ("truncate", "DO $$ BEGIN IF true THEN TRUNCATE t; END IF; END $$"),
        ("drop", "DO $$ BEGIN EXECUTE 'DROP TABLE t'; END $$"),
        ("drop", "DO $$ BEGIN EXECUTE 'DROP ' || 'TABLE t'; END $$"),
        ("runs-as-written", "DO $$ BEGIN CREATE INDEX i ON t (a); END $$"),
        ("runs-as-written", "DO $$ BEGIN UPDATE t SET c = 1; END $$"),
        ("drop", "DO $$ BEGIN EXECUTE format('DROP TABLE %I', 't'); END $$"),
        ("cannot-be-told", "DO $$ BEGIN EXECUTE 'DROP TABLE ' || reverse('t'); END $$"),
        ("cannot-be-told", "DO $$ DECLARE r record; BEGIN FOR r IN EXECUTE 'SELECT ' || 1::text LOOP END LOOP; END $$"),
        ("cannot-be-told", "DO LANGUAGE plperl 'spi_exec_query(1)'"),
    ],
)
def test_a_block_meets_the_gate_of_what_it_holds(stage: Stage, id_: str, block: str) -> None:
    """And one of its own, where nobody can tell what it holds."""
    (expansion,) = plan(stage.conn, block, batch_rows=15)
    assert expansion.gate is not None
    assert expansion.gate.id == id_


def test_what_the_release_made_is_dropped_and_emptied_without_a_gate(stage: Stage) -> None:
    """Nobody else has used it: a table that comes and goes within the release loses nothing of anybody's."""
    made = "CREATE TABLE made (n int); INSERT INTO made VALUES (1); TRUNCATE made; DROP TABLE made"
    assert [expansion.gate for expansion in plan(stage.conn, made)] == [None] * 4
    assert gate(statements.parse("TRUNCATE t", "m.sql")[0], stage.conn) is not None


def test_a_new_identity_goes_on_behind_the_rows_that_were_there(stage: Stage) -> None:
    """The sequence that is the column's own stands where the rows' numbers end."""
    conn = stage.conn
    perform(conn, plan(conn, "ALTER TABLE t ADD COLUMN n bigint GENERATED ALWAYS AS IDENTITY", batch_rows=15))
    conn.execute("INSERT INTO t (id) VALUES (1000)")
    assert conn.execute("SELECT n, (SELECT count(DISTINCT n) FROM t) FROM t WHERE id = 1000").fetchone() == (201, 201)


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("first", "bound"),
    sample(
        [
            ("SET LOCAL TimeZone = 'Asia/Tokyo'", True),
            ("SELECT set_config('my.user', '7', true)", True),
            ("SET CONSTRAINTS ALL DEFERRED", True),
            ("LOCK TABLE u", True),
            ("SELECT pg_advisory_xact_lock(7)", True),
            ("SET LOCAL lock_timeout = '2s'", False),
            ("SELECT set_config('statement_timeout', '5s', true)", False),
            ("SET TimeZone = 'Asia/Tokyo'", False),
            ("SET LOCAL search_path = public", True),
            ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", True),
            ("CREATE TEMP TABLE x (a int) ON COMMIT DROP", True),
            ("SELECT FROM u WHERE id = 1 FOR UPDATE", True),
            ("DO $$ BEGIN PERFORM pg_advisory_xact_lock(7); END $$", True),
            ("SET LOCAL application_name = 'x'", False),
            ("SET LOCAL enable_seqscan = off", False),
            ("SET CONSTRAINTS ALL IMMEDIATE", False),
            ("SELECT pg_catalog.set_config('search_path', 'public', false)", False),
            ("RESET ALL", False),
            ("DISCARD PLANS", False),
        ],
        3,
    ),
)
def test_what_holds_for_a_transaction_keeps_the_rest_of_the_file_in_it(stage: Stage, first: str, bound: bool) -> None:
    """Split into several transactions the rest would mean something else; timeouts mean nothing."""
    stage.conn.execute("CREATE TABLE elsewhere (id integer UNIQUE DEFERRABLE)")
    sql = (
        f"CREATE INDEX ON t (a); {first}; ALTER TABLE t ADD CHECK (a > 0); UPDATE t SET c = 1; ALTER TABLE u ADD n int"
    )
    index, _, *rest = plan(stage.conn, sql, batch_rows=15)
    assert index.form == "create-index"
    assert [expansion.form for expansion in rest] == (["", "", ""] if bound else ["alter-table", "batches", ""])
    assert [None if e.gate is None else e.gate.id for e in rest] == [*["runs-as-written" if bound else None] * 2, None]
    if bound:
        assert not any(step.own_transaction for expansion in rest for step in expansion.steps)
        assert all(e.gate is None or "(m.sql:1.2) holds for one transaction" in e.gate.says for e in rest)
    (again,) = plan(stage.conn, "ALTER TABLE t ADD CHECK (a > 0)")
    assert again.form == "alter-table"


GATED = """
ALTER TABLE public.t ALTER a TYPE bigint; ALTER TABLE public.t RENAME COLUMN b TO bb;
ALTER TABLE public.t DROP COLUMN m;
CREATE INDEX ON public.t (c); UPDATE public.t SET c = 1; TRUNCATE public.keyless; DROP TABLE public.p
"""


SETTINGS = ("search_path", "TimeZone", "session_replication_role", "lock_timeout", "role", "my.own")


PARTS = 8  # of a test that asks for a minute on a quiet machine


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_no_setting_switches_a_gate_off(stage: Stage, part: int) -> None:
    """Every setting of the server, in each way to set it: what follows has its safe form, or is a gate."""
    names = [str(row[0]) for row in stage.conn.execute("SELECT name FROM pg_settings ORDER BY name").fetchall()]
    stay_gated(stage, [*names, "role", "session_authorization", "my.own"][part::PARTS])


@pytest.mark.slow
@pytest.mark.newest
def test_no_setting_of_these_switches_a_gate_off(stage: Stage) -> None:
    """One setting of each kind: of names, of values, of triggers, of time, of rights, and of the application."""
    stay_gated(stage, SETTINGS)


def stay_gated(stage: Stage, names: Sequence[str]) -> None:
    """See that settings, in each way to set them, leave every gate and safe form behind them."""
    ways = ("SET {q} TO DEFAULT", "SET LOCAL {q} TO DEFAULT", "RESET {q}", "SELECT set_config('{n}', 'x', false)",
            "SELECT pg_catalog.set_config('{u}', 'x', true)")  # fmt: skip
    every = ["RESET ALL", "DISCARD ALL", "UPDATE pg_settings SET setting = 'x' WHERE name = 'search_path'"]
    every += [
        way.format(n=name, u=name.upper(), q=".".join(f'"{part}"' for part in name.split(".")))
        for name in names
        for way in ways
    ]
    (alter, rename, *_), gated = (gates_after(stage, first) for first in ("SELECT 1", "SELECT 1"))
    assert (alter, rename) == ("shadow-column", "rename-column")
    assert gated == ["shadow-column", "rename-column", "drop", "create-index", "batches", "truncate", "drop"]
    for first in every:
        found = gates_after(stage, first)
        bound = ["runs-as-written", "runs-as-written", "drop", "runs-as-written", "runs-as-written", "truncate", "drop"]
        assert found in (gated, bound), first


def gates_after(stage: Stage, first: str) -> list[str]:
    """What becomes of statements behind another one: the gate of each, or else its safe form."""
    written = statements.parse(f"{first};{GATED}", "m.sql")
    planner = Expander(stage.conn, batch_rows=15)
    found = [planner.expand(statement) for statement in written][1:]
    return [e.gate.id if e.gate else e.form for e in found]


SWAPPED = {
    "VACUUM FULL t": "-p table=public.t",
    "CLUSTER t USING t_b": "-p table=public.t -p order_by=b",
    "ALTER TABLE t SET UNLOGGED": "-p table=public.t -p 'shape=ALTER TABLE {table} SET UNLOGGED'",
    "ALTER TABLE t ADD EXCLUDE (a WITH =)":
        "-p table=public.t -p 'shape=ALTER TABLE {table} ADD EXCLUDE USING btree (a WITH OPERATOR(=))'",
    "ALTER TABLE t ADD COLUMN g integer GENERATED ALWAYS AS (a * 2) STORED":
        "-p table=public.t -p 'shape=ALTER TABLE {table} ADD COLUMN g integer GENERATED ALWAYS AS (a * 2) STORED'",
    'VACUUM FULL app."T x"': """-p 'table=app."T x"'""",
}  # fmt: skip


@pytest.mark.parametrize("migration", SWAPPED)
def test_gate_names_the_swap_that_reaches_the_same_end(stage: Stage, migration: str) -> None:
    """The command is ready to type but for the target's name, and swap takes its words."""
    (expansion,) = plan(stage.conn, migration)
    assert expansion.gate is not None
    assert expansion.gate.procedure == "swap"
    command = expansion.gate.how.partition("pgrunbook run swap --target TARGET ")[2].partition("; or keep")[0]
    assert command == SWAPPED[migration]
    given = dict(word.split("=", 1) for word in shlex.split(command) if word != "-p")
    asked = checked("swap", Swap, {"target": "t", **given}, from_text=True)
    swap_shape.statements(asked.shape, TableName("public", "t"), TableName("pgrunbook", "swap_new"))
