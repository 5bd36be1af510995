"""Which changes of a column's type rewrite the table, by the file that a real server gives it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import psycopg
import pytest

from budget import sample
from pgrunbook.database.catalog import Catalog
from pgrunbook.database.catalog_reader import read
from pgrunbook.database.facts import Facts
from pgrunbook.effects.statements import effects
from pgrunbook.inverse.inverter import Inverter
from pgrunbook.safe_forms import gates, shadow_column
from pgrunbook.safe_forms.form import Case
from pgrunbook.sql.statements import Statement, parse
from pgrunbook.sql.tree import tree
from servers import Server

Conn = psycopg.Connection[tuple[object, ...]]

# A type of our own that is stored as text is, with casts that convert nothing, as citext has them.
SETUP = """
CREATE SCHEMA app;
CREATE TYPE app.mail;
CREATE FUNCTION app.mail_in(cstring) RETURNS app.mail LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION app.mail_out(app.mail) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE app.mail (INPUT = app.mail_in, OUTPUT = app.mail_out, LIKE = text, CATEGORY = 'S', COLLATABLE = true);
CREATE CAST (app.mail AS text) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (app.mail AS varchar) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (text AS app.mail) WITHOUT FUNCTION AS ASSIGNMENT;
CREATE CAST (varchar AS app.mail) WITHOUT FUNCTION AS ASSIGNMENT;
CREATE TYPE app.mood AS ENUM ('sad', 'ok');
CREATE TYPE app.pair AS (a integer, b text);
CREATE DOMAIN app.free_text AS text;
CREATE DOMAIN app.short AS varchar(10);
CREATE DOMAIN app.shorter AS varchar(5);
CREATE DOMAIN app.free_number AS integer;
CREATE DOMAIN app.checked AS text CHECK (VALUE <> '');
CREATE DOMAIN app.there AS text NOT NULL;
CREATE DOMAIN app.over_free AS app.free_text;
CREATE DOMAIN app.over_checked AS app.checked;
CREATE DOMAIN app.amount AS numeric(10, 2);
CREATE DOMAIN app.moment AS timestamptz;
CREATE DOMAIN app.texts AS text[];
CREATE SCHEMA other;
CREATE DOMAIN other.text AS integer;
"""
PARTS = 24  # of tests that ask for half a minute
# Pairs of these are asked with all of these, as the statement converts by itself, and with a USING.
GROUPS = [[word.replace("|", " ") for word in group.split()] for group in """
varchar varchar(5) varchar(10) varchar(20) text char(5) char(10) "char" bpchar name xml app.free_text app.short
    app.shorter app.checked app.there app.over_free app.over_checked app.mail
numeric numeric(10) numeric(10,2) numeric(12,2) numeric(12,4) numeric(8,2) numeric(10,-2) app.amount
bit bit(8) bit(16) varbit varbit(4) varbit(8) varbit(16)
timestamp timestamp(3) timestamp(6) timestamptz timestamptz(3) timestamptz(6) app.moment date
time time(2) timetz timetz(4)
interval interval(3) interval(6) interval|day|to|second interval|day|to|second(3) interval|year|to|month
    interval|hour interval|minute|to|second interval|day
varchar[] varchar(5)[] varchar(10)[] varchar(20)[] text[] app.free_text[] app.texts app.mail[]
numeric(10,2)[] numeric(12,2)[] timestamp[] timestamptz[]
integer app.free_number oid bigint other.text regclass app.mood int4range
app.pair
""".replace("\n    ", " ").splitlines()]  # fmt: skip
KNOWN_FROM = {"numeric(10,-2)": 15}  # the version that takes a type first
USINGS = ["{c}", "({c})", "t.{c}", "{c}::{to}", "CAST({c} AS {to})", "{c}::text::{to}", "{c}::varchar",
          "{c}::varchar(3)::{to}",
          "coalesce({c}, NULL)", "upper({c}::text)::{to}", "{c} COLLATE \"C\"", "NULL", "{other}"]  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """A table with a column of each type, and the names of these columns."""

    conn: Conn
    columns: dict[str, str]

    def catalog(self, statements: list[Statement]) -> Catalog:
        """Return what the review knows of it."""
        return read(self.conn, statements)  # type: ignore[arg-type]

    def rewrites(self, statement: str) -> bool | None:
        """Tell whether the server gives the table another file; None where it refuses the statement."""
        query = "SELECT relfilenode FROM pg_class WHERE oid = 't'::regclass"
        with self.conn.transaction(force_rollback=True):
            before = self.conn.execute(query).fetchone()
            try:
                self.conn.execute(statement.encode())
            except psycopg.Error:
                return None
            return self.conn.execute(query).fetchone() != before


@pytest.fixture(scope="module")
def stage(server: Server) -> Iterator[Stage]:
    with server.connect(server.database("type_changes", *SETUP.strip().split(";\n"))) as conn:
        found = conn.execute(
            "SELECT DISTINCT format_type(t.oid, NULL) FROM pg_cast AS k"
            " JOIN pg_type AS t ON t.oid IN (k.castsource, k.casttarget) WHERE t.typtype <> 'p'"
        ).fetchall()
        types = dict.fromkeys([*itertools.chain(*GROUPS), *sorted(str(name) for (name,) in found)])
        known = [type_ for type_ in types if KNOWN_FROM.get(type_, 0) <= server.version]
        columns = {type_: f"c{number}" for number, type_ in enumerate(known)}
        conn.execute(f"CREATE TABLE t ({', '.join(f'{name} {type_}' for type_, name in columns.items())})".encode())
        yield Stage(conn, columns)


def pairs(stage: Stage) -> list[tuple[str, str]]:
    """Return pairs of types: those that have a cast, and all that are alike."""
    found = stage.conn.execute(
        "SELECT format_type(castsource, NULL), format_type(casttarget, NULL) FROM pg_cast"
        " WHERE format_type(casttarget, NULL) <> '-' ORDER BY 1, 2"
    ).fetchall()
    casts = [(str(a), str(b)) for a, b in found]
    alike = [pair for group in GROUPS for pair in itertools.product(group, repeat=2)]
    return [(a, b) for a, b in dict.fromkeys([*casts, *alike]) if a in stage.columns and b in stage.columns]


def misjudged(stage: Stage, statements: list[str]) -> tuple[int, list[str]]:
    """Return how many statements the server takes, and those of which the judge says something else."""
    catalog = stage.catalog([one for statement in statements for one in parse(statement, "a.sql")])
    wrong, taken = [], 0
    for statement in statements:
        seen = stage.rewrites(statement)
        taken += seen is not None
        told = bool(effects(tree(statement), catalog).rewrites)
        if seen is not None and told != seen:
            wrong.append(f"{statement}: {'rewritten' if seen else 'not rewritten'}")
    return taken, wrong


ALTER = "ALTER TABLE t ALTER COLUMN {c} TYPE {to}"


def every_pair(stage: Stage) -> list[str]:
    """Return the change of each pair, by itself and with a cast."""
    named = [(stage.columns[source], to) for source, to in pairs(stage)]
    return [(ALTER + using).format(c=c, to=to) for c, to in named for using in ("", " USING {c}::{to}")]


@pytest.mark.newest
@pytest.mark.parametrize("zone", ["UTC", pytest.param("Europe/Berlin", marks=pytest.mark.slow)])
@pytest.mark.parametrize("part", sample(range(PARTS), PARTS))
def test_every_pair_of_types_is_judged_as_the_server_does(stage: Stage, zone: str, part: int) -> None:
    """Each cast of the server, and each pair of types that are alike, with their modifiers and domains."""
    stage.conn.execute(f"SET TimeZone = '{zone}'".encode())
    taken, wrong = misjudged(stage, every_pair(stage)[part::PARTS])
    assert taken > 1_700 / PARTS
    assert not wrong, "\n".join(wrong)


@pytest.mark.newest
@pytest.mark.parametrize("source", sample(["varchar(10)", "text", "app.short", "app.mail", "app.free_text", "xml"], 6))
def test_every_form_of_using_is_judged_as_the_server_does(stage: Stage, source: str) -> None:
    """The column by any name, behind one cast or several, or a computed value."""
    c, other = stage.columns[source], stage.columns["varchar(20)"]
    statements = [
        (ALTER + " USING " + using).format(c=c, to=to, other=other)
        for to in ("varchar(10)", "varchar(20)", "text", "app.short", "app.free_text", "app.checked", "app.mail")
        for using in USINGS
    ]
    taken, wrong = misjudged(stage, statements)
    assert taken > 40
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow  # test_time_zone_decides_about_timestamps of test_effects asks two of them
def test_every_time_zone_is_judged_as_the_server_does(stage: Stage) -> None:
    """Where a zone has been at no offset at all times, an instant is the number of its local time."""
    query = "SELECT name FROM pg_timezone_names WHERE name <> 'localtime' ORDER BY 1"  # that one is the machine's
    names = [str(name) for (name,) in stage.conn.execute(query).fetchall()]
    statement = ALTER.format(c=stage.columns["timestamp"], to="timestamptz")
    catalog = stage.catalog(parse(statement, "a.sql"))
    wrong = []
    for name in [*names, "utc", "UTC0", "GMT0", "0", "+00", "XYZ0", "<+00>0", "1", "interval '0' hour", "utc+0"]:
        zone = name if name.startswith("interval") else f"'{name}'"
        stage.conn.execute(f"SET TIME ZONE {zone}".encode())
        shown = str((stage.conn.execute("SHOW TimeZone").fetchone() or ("",))[0])
        told = bool(effects(tree(statement), replace(catalog, time_zone=shown)).rewrites)
        if told != stage.rewrites(statement):
            wrong.append(shown)
    assert not wrong


INDEXES = [
    "(c)",
    "USING hash (c)",
    "USING brin (c)",
    "USING gin (c)",
    "USING gist (c)",
    "USING spgist (c)",
    "(n) INCLUDE (c)",
    "(n) WHERE c IS NOT NULL",
    "((c IS NULL))",
    "(c, n)",
]
FILES = """
SELECT json_object_agg(indexrelid::regclass, pg_relation_filenode(indexrelid))
FROM pg_index
WHERE indrelid = %s::regclass
"""


@pytest.mark.slow
@pytest.mark.newest
@pytest.mark.parametrize("part", sample(range(PARTS), PARTS))
def test_every_index_that_is_built_again_is_told(stage: Stage, part: int) -> None:
    """Where the table stays as it is, an index goes on serving the other type, or is built anew."""
    conn, wrong, asked = stage.conn, [], 0
    conn.execute("SET TimeZone = 'UTC'")
    types = [type_ for type_ in itertools.chain(*GROUPS) if type_ in stage.columns]
    tables = {type_: f"k{number}" for number, type_ in enumerate(types)}
    with conn.transaction(force_rollback=True):
        for type_, table in tables.items():
            conn.execute(f"CREATE TABLE {table} (c {type_}, n integer)".encode())
            for index in INDEXES:
                with suppress(psycopg.errors.UndefinedObject, psycopg.errors.FeatureNotSupported), conn.transaction():
                    conn.execute(f"CREATE INDEX ON {table} {index}".encode())
        changes = [(tables[a], f"ALTER TABLE {tables[a]} ALTER COLUMN c TYPE {b}")
                   for a, b in pairs(stage)[part::PARTS] if a in tables and b in tables]  # fmt: skip
        catalog = stage.catalog([one for _, statement in changes for one in parse(statement, "a.sql")])
        for table, statement in changes:
            told = effects(tree(statement), catalog)
            if told.rewrites:
                continue
            with suppress(psycopg.Error), conn.transaction(force_rollback=True):
                (before,) = conn.execute(FILES, [table]).fetchone() or ({},)
                conn.execute(statement.encode())
                (after,) = conn.execute(FILES, [table]).fetchone() or ({},)
                asked += 1
                new = {f"public.{name}" for name, file in before.items() if after[name] != file}
                if set(told.rebuilds) != new:
                    wrong.append(f"{statement}: {sorted(new.symmetric_difference(told.rebuilds))}")
    assert asked > 100 / PARTS
    assert not wrong, "\n".join(wrong)


GATED = """
CREATE TABLE g (id integer PRIMARY KEY, short varchar(10), words text, checked varchar(10) CHECK (checked <> ''),
 unsure varchar(10), lower varchar(10), at timestamp, mail app.mail, number integer, cut timestamp(3), span interval(3),
 address cidr, owner integer);
ALTER TABLE g ADD CONSTRAINT unsure_check CHECK (unsure <> '') NOT VALID;
CREATE INDEX g_lower ON g (lower(lower)); CREATE INDEX g_at ON g (at); CREATE INDEX g_short ON g (short);
INSERT INTO g (id) SELECT generate_series(1, 20)
"""
# What ALTER TABLE g ALTER COLUMN does -> whether it is a gate.
CHANGES = [
    ("short TYPE text", False), ("short TYPE varchar(20)", False), ("short TYPE varchar(5)", True),
    ("short TYPE text USING short::varchar", False), ("short TYPE text USING (short)", False),
    ("short TYPE text USING lower(short)", True), ("short TYPE app.checked", True), ("short TYPE app.free_text", False),
    ("words TYPE app.mail", False), ("mail TYPE text", False), ("checked TYPE text", True), ("unsure TYPE text", False),
    ("lower TYPE text", True), ("number TYPE oid", False), ("number TYPE bigint", True), ("at TYPE timestamptz", True),
    ("cut TYPE timestamp(6)", False), ("span TYPE interval", False), ("address TYPE inet", False),
    ("owner TYPE regrole USING owner::oid::regrole", False), ("number DROP DEFAULT, ALTER number TYPE text", True),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.first_case
@pytest.mark.newest
@pytest.mark.parametrize("is_branch", [False, True], ids=["by text", "on a branch"])
def test_the_gate_is_the_server_s_word(stage: Stage, is_branch: bool) -> None:
    """A change of the catalog alone runs as it is; what is written anew or read does not, by text and by trial."""
    stage.conn.execute("SET TimeZone = 'UTC'")
    with stage.conn.transaction(force_rollback=True):
        stage.conn.execute(GATED.encode())
        for clause, is_gate in CHANGES:
            found = judged(stage.conn, f"ALTER TABLE g ALTER COLUMN {clause}", is_branch=is_branch)
            assert (found is not None) is is_gate, clause
            assert found in (None, "type-change", "shadow-column")
        assert stage.conn.execute("SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attname = 'short'"
                                  " AND attrelid = 'g'::regclass").fetchone() == ("character varying(10)",)  # fmt: skip


@pytest.mark.slow
@pytest.mark.newest
def test_a_branch_knows_what_the_text_does_not_tell(stage: Stage) -> None:
    """An expression that comes to the column itself; and in another TimeZone a timestamp is another number."""
    with stage.conn.transaction(force_rollback=True):
        stage.conn.execute(GATED.encode())
        same = "ALTER TABLE g ALTER COLUMN short TYPE text USING CASE WHEN true THEN short END"
        assert judged(stage.conn, same, is_branch=False) is not None
        assert judged(stage.conn, same, is_branch=True) is None
        stage.conn.execute("DROP INDEX g_at")
        for zone, is_gate in (("UTC", False), ("Europe/Berlin", True)):
            stage.conn.execute(f"SET LOCAL TimeZone = '{zone}'".encode())
            found = [judged(stage.conn, "ALTER TABLE g ALTER at TYPE timestamptz", is_branch=b) for b in (False, True)]
            assert [one is not None for one in found] == [is_gate, is_gate]


def judged(conn: Conn, statement: str, *, is_branch: bool) -> str | None:
    """Return the gate of a change of type, or its safe form; None where it runs as it is."""
    (parsed,) = parse(statement, "a.sql")
    case = Case(parsed, tree(statement), Facts(conn), batch_rows=15, is_branch=is_branch)  # type: ignore[arg-type]
    gate, form = gates.find(case), shadow_column.change(case)
    return gate.id if gate else form and form.form


@pytest.mark.parametrize(
    ("clause", "is_kept"),
    [("words TYPE app.mail", False), ("mail TYPE text", False), ("number TYPE oid", False), ("short TYPE text", False),
     ("owner TYPE regclass USING owner::oid::regclass", False), ("number TYPE bigint", False),
     ("words TYPE char(5)", True), ("short TYPE varchar(5)", True), ("number TYPE smallint", True),
     ("words TYPE varchar(3) USING words::varchar(3)", True), ("words TYPE bpchar", True)],
)  # fmt: skip
def test_values_that_stay_as_they_are_are_not_captured(stage: Stage, clause: str, is_kept: bool) -> None:
    """What both types store alike comes back by the type alone."""
    with stage.conn.transaction(force_rollback=True):
        stage.conn.execute(GATED.encode())
        (statement,) = parse(f"ALTER TABLE g ALTER COLUMN {clause}", "a.sql")
        undo = Inverter(stage.conn).inverse(statement)  # type: ignore[arg-type]
    assert not undo.because
    assert bool(undo.keeps) is is_kept


def test_a_label_that_the_old_enum_has_not_is_null_until_the_captured_one_comes(stage: Stage) -> None:
    """Also where NOT NULL has to wait for that, and on servers that cannot be asked which input is valid."""
    with stage.conn.transaction(force_rollback=True):
        stage.conn.execute("CREATE TYPE app.other AS ENUM ('it''s', 'ok')")
        stage.conn.execute(
            "CREATE TABLE e AS SELECT n AS id, m::app.mood AS m FROM (VALUES (1, 'sad'), (2, 'ok')) AS v (n, m)"
        )
        stage.conn.execute("ALTER TABLE e ADD PRIMARY KEY (id), ALTER m SET NOT NULL")
        made = "CASE m::text WHEN 'sad' THEN 'it''s' ELSE m::text END"
        change = f"ALTER TABLE e ALTER m TYPE app.other USING ({made})::app.other"
        (statement,) = parse(change, "a.sql")
        undo = Inverter(stage.conn).inverse(statement)  # type: ignore[arg-type]
        stage.conn.execute(change.encode())
        for step in undo.steps[:2]:
            stage.conn.execute(step.sql.encode())
        assert stage.conn.execute("SELECT m::text FROM e ORDER BY id").fetchall() == [(None,), ("ok",)]
        assert undo.steps[2].sql.endswith("m SET NOT NULL")


def test_labels_in_an_array_that_the_old_enum_has_not_are_null_until_the_captured_ones_come(stage: Stage) -> None:
    """An array, also an empty one, one with NULL and one of two dimensions, goes back where its labels are old ones."""
    with stage.conn.transaction(force_rollback=True):
        values = "(1, '{sad}'), (2, '{ok,NULL}'), (3, '{}'), (4, '{{ok},{sad}}'), (5, '{{ok},{ok}}')"
        stage.conn.execute(
            f"CREATE TABLE e AS SELECT n AS id, m::app.mood[] AS m FROM (VALUES {values}) AS v (n, m)".encode()
        )
        stage.conn.execute("ALTER TABLE e ADD PRIMARY KEY (id), ALTER m SET NOT NULL")
        change = "ALTER TABLE e ALTER m TYPE text[] USING array_replace(m::text[], 'sad', 'it''s')"
        (statement,) = parse(change, "a.sql")
        undo = Inverter(stage.conn).inverse(statement)  # type: ignore[arg-type]
        stage.conn.execute(change.encode())
        for step in undo.steps[:2]:
            stage.conn.execute(step.sql.encode())
        found = stage.conn.execute("SELECT m::text FROM e ORDER BY id").fetchall()
        assert found == [(None,), ("{ok,NULL}",), ("{}",), (None,), ("{{ok},{ok}}",)]
