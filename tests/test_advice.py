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
