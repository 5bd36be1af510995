"""The advice of each rule, executed on the scene that raised it: nothing in it is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from types import MappingProxyType

import pglast
import psycopg
import pytest

from budget import sample
from pgrunbook.database.catalog import Catalog, Standing
from pgrunbook.database.catalog_reader import read
from pgrunbook.review.hazards import RULES, Hazard, Rule, Transactions, find
from pgrunbook.review.statement_scenes import Script, script, stage
from servers import Server

Conn = psycopg.Connection[tuple[object, ...]]

# What the examples of the rules are about, where a rule has no setup of its own.
BASE = """
CREATE ROLE intern; CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE TABLE users (id integer PRIMARY KEY, email text, m mood, n positive);
CREATE TABLE projects (id integer PRIMARY KEY, name text, old text, status text, owner integer);
CREATE TABLE orders (id integer PRIMARY KEY, num integer, user_id integer, total integer, b integer);
CREATE TABLE nodes (id integer PRIMARY KEY, ip text); CREATE TABLE orgs (id integer PRIMARY KEY, flag boolean);
CREATE TABLE sessions (id integer PRIMARY KEY, created_at timestamptz);
CREATE TABLE deployments (id integer PRIMARY KEY, config jsonb, state text);
CREATE TABLE instances (id integer PRIMARY KEY, cpu integer, cpu_new bigint);
CREATE TABLE events (id integer PRIMARY KEY, at timestamptz);
CREATE TABLE archive (id integer PRIMARY KEY, at timestamptz);
CREATE TABLE schema_migrations (version text PRIMARY KEY); CREATE TABLE feed (id integer PRIMARY KEY, name text);
CREATE MATERIALIZED VIEW totals AS SELECT user_id, count(*) AS n FROM orders GROUP BY user_id;
"""
# Tables that some examples make, and others take for there.
MORE = """
CREATE TABLE a (id integer PRIMARY KEY, b integer, b_new integer, c integer, m mood, at timestamptz);
CREATE TABLE c (d integer); CREATE TABLE b (id uuid PRIMARY KEY);
CREATE TABLE p (id integer PRIMARY KEY); CREATE TABLE p_new (id integer PRIMARY KEY);
CREATE TABLE projects_new (id integer PRIMARY KEY, name text, old text, status text, owner integer);
CREATE INDEX orders_user ON orders (user_id);
"""
# Advice that is another thing than SQL in the place of the statement.
BIG = 50_000_000


def made_by(read_: Script) -> set[str]:
    """Return the relations and types that the statements of an example make."""
    found = set()
    for statement in read_.statements:
        node = pglast.parse_sql(statement.sql)[0].stmt
        for field in ("relation", "view", "into"):
            part = getattr(node, field, None)
            part = getattr(part, "rel", part)
            if statement.kind.startswith("CREATE") and isinstance(part, pglast.ast.RangeVar):
                found.add(getattr(node, "idxname", None) or part.relname)
    return found


def prepare(conn: Conn, rule: Rule, read_: Script) -> None:
    """Make what the example is about, but for what it makes itself."""
    if rule.setup:
        conn.execute(rule.setup.encode())
        return
    made = made_by(read_)
    for name in made & {"orders", "users", "projects"}:
        conn.execute(f"DROP TABLE {name} CASCADE".encode())
    for statement in filter(str.strip, MORE.split(";")):
        name = re.search(r"CREATE \w+ (\w+)", statement)
        if name and name[1] not in made and not (name[1] == "orders_user" and "orders" in made):
            conn.execute(statement.encode())

    for statement in read_.statements:
        node = pglast.parse_sql(statement.sql)[0].stmt
        for cmd in node.cmds if isinstance(node, pglast.ast.AlterTableStmt) else ():
            if cmd.subtype == pglast.enums.AlterTableType.AT_AddColumn and not rule.setup:
                conn.execute(f"ALTER TABLE {node.relation.relname} DROP COLUMN IF EXISTS {cmd.def_.colname}".encode())


def in_use(catalog: Catalog) -> Catalog:
    """Return the catalog of a database whose tables are big."""
    tables = {
        key: replace(table, rows_estimate=BIG, table_bytes=BIG * 100) if table.holds_rows_itself else table
        for key, table in catalog.tables.items()
        if table.standing is Standing.THERE
    }
    return replace(catalog, tables=MappingProxyType(tables))


def scripted(rule: Rule) -> Script:
    files = [rule.bad] if isinstance(rule.bad, str) else list(rule.bad)
    return script([(f"{number}.sql", text) for number, text in enumerate(files)])


def raised(conn: Conn, read_: Script, rule: Rule) -> list[tuple[int, Hazard]]:
    """Return the hazards of a rule in its bad example, each with the number of its statement."""
    catalog = in_use(read(conn, read_.statements))  # type: ignore[arg-type]
    scenes = stage(read_, catalog, transactions=Transactions.UNKNOWN)
    found = find(scenes, design_rules=[one.id for one in RULES.values() if one.taste])
    return [(scene.position, hazard) for scene, own in found for hazard in own if hazard.id == rule.id]


def advised(hazard: Hazard) -> list[str]:
    """Return the statements of an advice; $last stands for the key at which the last batch ended."""
    text = hazard.way_out.replace("$last", "0")
    return [part for part in pglast.split(text) if part.strip()]


@pytest.fixture
def scene(newest: Server) -> Iterator[Conn]:
    newest.run("postgres", "DROP ROLE IF EXISTS intern")
    template = newest.database("advice", *filter(str.strip, BASE.replace("CREATE ROLE intern;", "").split(";")))
    newest.run("postgres", "CREATE ROLE intern")
    with newest.copied("advised", template), newest.connect("advised") as conn:
        yield conn
    newest.run("postgres", "DROP ROLE intern")


# Rules whose advice ends, some day, in the same statement.
LATER = {"drop-column", "drop-table", "table-swap"}
# Rules whose advice comes behind the statement and not in its place.
BEHIND = {"foreign-key-without-index", "soft-delete-with-unique", "design-foreign-key-indexed", "updated-at-stays",
          "index-validity-unchecked", "like-leaves-behind"}  # fmt: skip


@pytest.mark.first_case
@pytest.mark.parametrize("name", sample(list(RULES), 10))
def test_advice_is_executed(scene: Conn, newest: Server, name: str) -> None:
    """What is advised leaves nothing open, does not raise the same rule again, and is not refused.

    One in ten in each run; that all can be parsed is asked in test_hazards.
    """
    rule = RULES[name]
    read_ = scripted(rule)
    with newest.connect(bare(newest)) if rule.setup else nullcontext(scene) as conn:
        prepare(conn, rule, read_)
        position, hazard = raised(conn, read_, rule)[0]
        code = re.sub(r"--[^\n]*", "", hazard.way_out)
        assert "..." not in code, hazard.way_out
        if code.strip() and rule.id not in BEHIND | LATER:
            again = script([("advice.sql", hazard.way_out.replace("$last", "0"))])
            assert not raised(conn, again, rule), hazard.way_out
        for statement in read_.statements[: position + (rule.id in BEHIND)]:
            if statement.sql not in hazard.way_out:
                conn.execute(statement.sql.encode())
        for part in advised(hazard):
            conn.execute(part.encode())


def bare(server: Server) -> str:
    """Make an empty database."""
    server.make("advised_bare")
    return "advised_bare"


def test_advice_for_a_partition_below_a_partition_proves_the_bounds_above_too(newest: Server) -> None:
    """The server says that it reads neither the attached table nor the default partition beside it."""
    attach = "ALTER TABLE low ATTACH PARTITION low_n FOR VALUES IN ('n')"
    said: list[str] = []
    with newest.connect(bare(newest)) as conn:
        conn.add_notice_handler(lambda notice: said.append(str(notice.message_primary)))
        conn.execute("CREATE TABLE log (a integer, b text) PARTITION BY RANGE (a, lower(b))")
        conn.execute("CREATE TABLE low PARTITION OF log FOR VALUES FROM (5, 'a') TO (9, 'x') PARTITION BY LIST (b)")
        conn.execute("CREATE TABLE low_rest PARTITION OF low DEFAULT; CREATE TABLE low_n (a integer, b text)")
        _, hazard = raised(conn, script([("0.sql", attach)]), RULES["partition-is-read"])[0]
        conn.execute("SET client_min_messages = debug1")
        for statement in advised(hazard):
            conn.execute(statement.encode())
    assert sum("implied by existing constraints" in each for each in said) == 2


# The columns, the key and the bounds of a partition that is attached; what the key compares by is part of the proof.
ATTACHED = """
b text | RANGE (b COLLATE "C") | FROM ('a') TO ('m')
b text COLLATE "C" | RANGE (b COLLATE "POSIX") | FROM ('a') TO ('m')
b text | LIST (b COLLATE "C") | IN ('a', NULL)
b varchar(9) | LIST (b COLLATE "C") | IN ('a', 'm')
b char(9) | LIST (b COLLATE "C") | IN ('a', 'b')
b text | RANGE (lower(b) COLLATE "C") | FROM ('a') TO ('m')
b ci | LIST (b COLLATE "C") | IN ('a', 'b')
b text COLLATE other.mine | RANGE (b) | FROM ('a') TO ('m')
b text | RANGE (b COLLATE other.mine) | FROM ('a') TO ('m')
b mood | LIST (b) | IN ('sad')
b uuid | HASH (b) | WITH (MODULUS 4, REMAINDER 1)
b text | HASH (b) | WITH (MODULUS 4, REMAINDER 1)
b text | LIST (b text_pattern_ops) | IN ('a')
""".strip().split("\n")
TYPES = """
CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN ci AS text; CREATE SCHEMA other;
CREATE COLLATION other.mine FROM "C";
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["alone", *(pytest.param(w, marks=pytest.mark.slow) for w in ("beside", "below"))])
def test_advice_for_a_partition_is_a_proof_to_the_server_and_to_us(newest: Server, where: str) -> None:
    """Alone, beside a default partition, below another: no row is read, and the advised file is not advised again."""
    said: list[str] = []
    rule = RULES["partition-is-read"]
    wrong = {}
    for case in ATTACHED:
        columns, key, bound = case.split(" | ")
        if where == "beside" and key.startswith("HASH"):
            continue
        attach = f"ALTER TABLE log ATTACH PARTITION n FOR VALUES {bound}"
        columns = f"(a integer, {columns})"
        made = f"{TYPES} CREATE TABLE log {columns} PARTITION BY {key}; CREATE TABLE n {columns};"
        if where == "beside":
            made += "CREATE TABLE rest PARTITION OF log DEFAULT;"
        if where == "below":
            made += f"CREATE TABLE low PARTITION OF log FOR VALUES {bound} PARTITION BY LIST (a);"
            attach = "ALTER TABLE low ATTACH PARTITION n FOR VALUES IN (3)"
        with newest.connect(bare(newest)) as conn:
            conn.add_notice_handler(lambda notice: said.append(str(notice.message_primary)))
            conn.execute(made.encode())
            _, hazard = raised(conn, script([("0.sql", attach)]), rule)[0]
            again = raised(conn, script([("advice.sql", hazard.way_out)]), rule)
            said.clear()
            conn.execute("SET client_min_messages = debug1")
            for statement in advised(hazard):
                conn.execute(statement.encode())
        proven = sum("implied by existing constraints" in each for each in said)
        known = not hazard.way_out.startswith("-- no CHECK is known")
        if again or proven != (1 + (where == "beside")) * known:
            wrong[case] = (proven, bool(again), hazard.way_out)
    assert wrong == {}


# What is written, with the rule whose advice is executed in its place: names that the statement gives are kept.
WRITTEN = """
update-unbatched | UPDATE t AS m SET b = u.b FROM u WHERE u.id = m.id OR m.b IS NULL
update-unbatched | WITH x AS (SELECT id, b FROM u) UPDATE t SET (b, c) = (SELECT 1, 'a') FROM x WHERE x.id = t.id
update-unbatched | WITH RECURSIVE x AS (SELECT 1 AS i) UPDATE t SET b = 1 FROM x JOIN u ON true RETURNING t.id
update-unbatched | UPDATE t SET b = 1 WHERE b = 2 OR b = 3
delete-unbatched | DELETE FROM t AS d USING u WHERE u.id = d.id OR d.b IS NULL
delete-unbatched | WITH x AS (SELECT 1 AS i) DELETE FROM t USING x WHERE t.b = x.i
delete-unbatched | DELETE FROM t WHERE c IN (SELECT c FROM u)
backfill-loses-writes | UPDATE t AS m SET b_new = (SELECT max(b) FROM u WHERE id = m.id AND u.b > m.b)
backfill-loses-writes | UPDATE t SET b_new = t.b + id
loop-in-one-transaction | DO $$ BEGIN FOR i IN 1..3 LOOP UPDATE t m SET b = u.b FROM u WHERE u.id = i; END LOOP; END $$
"""


@pytest.mark.parametrize("case", sample(WRITTEN.strip().split("\n"), 4))
def test_advised_batches_keep_what_the_statement_names(newest: Server, case: str) -> None:
    """Its alias, its WITH, what it joins, and an OR in its condition: the server takes the batch, which has a limit."""
    name, written = case.split(" | ")
    rule = RULES[name]
    with newest.connect(bare(newest)) as conn:
        conn.execute("CREATE TABLE t (id integer PRIMARY KEY, b integer, b_new integer, c text)")
        conn.execute("CREATE TABLE u (id integer PRIMARY KEY, b integer, c text)")
        conn.execute("INSERT INTO t SELECT n FROM generate_series(1, 1003) AS n; INSERT INTO u VALUES (2000, 7, 'a')")
        _, hazard = raised(conn, script([("0.sql", written)]), rule)[0]
        (*_, batch) = (part for part in advised(hazard) if "WITH" in part and "batch" in part)
        for part in advised(hazard):
            changed = conn.execute(part.encode()).rowcount
            assert part != batch or changed <= 1000


# A new column as it is written; its advice ends in what the statement makes.
COLUMNS = """
add-column-checks-rows | x text COLLATE "C" NOT NULL DEFAULT 'web' CHECK (x IN ('web', 'ios'))
add-column-checks-rows | x integer CONSTRAINT positive CHECK (x > 0) REFERENCES u
add-column-checks-rows | x text DEFAULT 'a' CONSTRAINT own UNIQUE
add-column-checks-rows | x integer PRIMARY KEY
add-column-rewrites | x bigserial
add-column-rewrites | x serial
add-column-rewrites | x uuid NOT NULL DEFAULT gen_random_uuid()
add-column-not-null | x varchar(9) COLLATE "C" NOT NULL
foreign-key-locks-both | x integer DEFAULT 1 NOT NULL CONSTRAINT own REFERENCES u (id) ON DELETE CASCADE
foreign-key-locks-both | x bigint REFERENCES u ON UPDATE SET NULL DEFERRABLE INITIALLY DEFERRED NOT NULL DEFAULT 1
"""
DESCRIBED = """
SELECT ARRAY(SELECT format('%s %s %s %s', format_type(atttypid, atttypmod), attcollation::regcollation, attnotnull,
                           pg_get_expr(adbin, adrelid))
             FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
             WHERE attrelid = 't'::regclass AND attname = 'x'),
       ARRAY(SELECT format('%s %s %s', conname, pg_get_constraintdef(oid), convalidated)
             FROM pg_constraint WHERE conrelid = 't'::regclass AND contype <> 'n' ORDER BY conname)
"""


@pytest.mark.first_case
@pytest.mark.parametrize("case", sample(COLUMNS.strip().split("\n"), 3))
def test_advice_for_a_new_column_ends_in_what_was_written(newest: Server, case: str) -> None:
    """Its default, collation, NOT NULL and keys, with the actions of a foreign key: none is lost on the way."""
    name, column = case.split(" | ")
    written, ends = f"ALTER TABLE t ADD COLUMN {column}", []
    for advice_counts in (False, True):
        with newest.connect(bare(newest)) as conn:
            conn.execute("CREATE TABLE t (id integer); CREATE TABLE u (id integer PRIMARY KEY)")
            _, hazard = raised(conn, script([("0.sql", written)]), RULES[name])[0]
            for part in advised(hazard) if advice_counts else [written]:
                conn.execute(part.encode())
            ends.append(conn.execute(DESCRIBED).fetchone())
    assert ends[0] == ends[1]


def test_a_key_beside_a_new_column_is_not_that_columns(newest: Server) -> None:
    """ADD COLUMN, and a foreign key of another column in one statement: each is judged by its own rule."""
    written = "ALTER TABLE t ADD COLUMN x integer, ADD CONSTRAINT own FOREIGN KEY (id) REFERENCES u"
    with newest.connect(bare(newest)) as conn:
        conn.execute("CREATE TABLE t (id integer); CREATE TABLE u (id integer PRIMARY KEY)")
        assert not raised(conn, script([("0.sql", written)]), RULES["foreign-key-locks-both"])
        assert raised(conn, script([("0.sql", written)]), RULES["foreign-key-validates"])
        first = written.replace(
            "t ADD COLUMN x integer", "t ALTER COLUMN id SET DEFAULT 1, ADD COLUMN y int REFERENCES u"
        )
        assert raised(conn, script([("0.sql", first)]), RULES["foreign-key-locks-both"])
