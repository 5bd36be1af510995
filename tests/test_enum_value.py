"""ALTER TYPE ... ADD VALUE is taken back by another type in the place of the enum, with all that depends on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from conftest import do, rows
from inverse_stage import Stage, inverse, make, there_and_back
from pgrunbook.config.targets import Target
from pgrunbook.database.checksums import checksums
from returning import prepared, release, since, take_back
from servers import Server

# ruff: noqa: E501 - one statement on a line, whatever its length

MADE = """
CREATE TYPE public."Mo'od" AS ENUM ('sad', 'it''s ok', 'glad');
CREATE TABLE a (id integer PRIMARY KEY, m "Mo'od" NOT NULL DEFAULT 'sad', "M s" "Mo'od"[] DEFAULT '{sad}', n "Mo'od", CONSTRAINT no_glad CHECK (m <> 'glad'), CHECK (n IN ('sad', 'glad')), UNIQUE (n, id));
INSERT INTO a SELECT i, 'it''s ok', CASE WHEN i % 2 = 0 THEN '{glad,NULL}'::"Mo'od"[] END, CASE WHEN i % 3 = 0 THEN 'glad'::"Mo'od" END FROM generate_series(1, 20) AS i;
CREATE INDEX plain ON a (m);
CREATE INDEX partial ON a (id) WHERE m = 'sad';
CREATE INDEX expression ON a ((coalesce(n, 'glad')));
COMMENT ON INDEX partial IS 'few';
CREATE VIEW v AS SELECT id, m FROM a WHERE n = 'glad';
CREATE VIEW vv AS SELECT m, count(*) FROM v GROUP BY m;
CREATE MATERIALIZED VIEW mv AS SELECT m, count(*) AS n FROM a GROUP BY m;
CREATE UNIQUE INDEX mv_m ON mv (m);
GRANT SELECT ON vv TO runbook_reader;
CREATE FUNCTION is_glad("Mo'od" DEFAULT 'sad') RETURNS boolean LANGUAGE sql AS 'SELECT $1 = ''glad''';
CREATE FUNCTION first() RETURNS "Mo'od"[] LANGUAGE sql AS 'SELECT NULL::"Mo''od"[]';
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER seen BEFORE UPDATE OF m ON a FOR EACH ROW WHEN (NEW.m = 'glad') EXECUTE FUNCTION touch();
CREATE POLICY mine ON a USING (m = 'sad');
CREATE STATISTICS together ON id, m FROM a;
CREATE TABLE p (id integer, m "Mo'od" DEFAULT 'glad') PARTITION BY RANGE (id);
CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (10);
ALTER TABLE p_1 ALTER m SET DEFAULT 'sad';
CREATE TABLE parent (m "Mo'od");
CREATE TABLE child (n integer) INHERITS (parent);
COMMENT ON TYPE "Mo'od" IS 'how';
ALTER TYPE "Mo'od" OWNER TO runbook_reader;
GRANT USAGE ON TYPE "Mo'od" TO PUBLIC;
CREATE TYPE alone AS ENUM ();
CREATE TYPE keys AS ENUM ('a');
CREATE TABLE by_key (k keys) PARTITION BY LIST (k);
CREATE TYPE below AS ENUM ('a');
CREATE DOMAIN over AS below;
CREATE TYPE inside AS ENUM ('a');
CREATE TYPE whole AS (i inside);
CREATE TYPE made AS ENUM ('a');
CREATE TABLE makes (m made, g boolean GENERATED ALWAYS AS (m = 'a') STORED);
"""


@pytest.fixture(scope="module")
def moods(server: Server) -> Iterator[Stage]:
    yield from make(server, "enum_values", MADE.strip().split(";\n"))


@pytest.mark.slow
@pytest.mark.parametrize("added", ["'new'", "'new' BEFORE 'sad'", "IF NOT EXISTS 'it''s new' AFTER 'sad'"])
def test_a_value_is_taken_back_with_all_that_uses_the_type(moods: Stage, added: str) -> None:
    """Schema, rights, comments and rows are as they were; what is rewritten is said, and for how long."""
    before = checksums(moods.conn)
    undo, differences = there_and_back(moods, f"""ALTER TYPE public."Mo'od" ADD VALUE {added}""")
    assert (undo.because, [(d.kind, d.object) for d in undo.differs]) == ("", [("recomputed", "public.mv")])
    assert [d.line() for d in differences] == []
    assert checksums(moods.conn) == before
    assert [s.says for s in undo.steps if "ALTER TABLE public.a " in s.sql and "TYPE" in s.sql] == [
        f"public.a is rewritten while others wait; a row with the value {added.split(' BEFORE')[0].removeprefix('IF NOT EXISTS ').split(' AFTER')[0]} would prevent it."
    ]


def test_a_type_that_nobody_uses_is_made_again(moods: Stage) -> None:
    """Also one without values."""
    undo, differences = there_and_back(moods, "ALTER TYPE alone ADD VALUE 'a'")
    assert (undo.because, differences) == ("", [])


@pytest.mark.parametrize(
    ("type_", "because"),
    [
        ("keys", "column k of table by_key"),
        ("below", "type over"),
        ("inside", "column i of composite type whole"),
        ("made", "default value for column g of table makes"),
    ],
)
def test_what_cannot_be_made_again_is_named(moods: Stage, type_: str, because: str) -> None:
    """The key of partitions, a domain, a composite type, a generated column."""
    undo = inverse(moods.conn, f"ALTER TYPE {type_} ADD VALUE 'b'")
    reason = f"PostgreSQL cannot remove the value 'b' from {type_}, and {because} needs the type"
    assert undo.because.replace("public.", "") == f"It cannot be undone, because {reason}."
    assert undo.steps == ()


@pytest.mark.slow
def test_rollback_tells_the_rows_that_use_the_value(project: Callable[..., Target]) -> None:
    """Before anything changes; when they have another value, it takes the release back."""
    target = project(folder={"0001_m.sql": "ALTER TYPE mood ADD VALUE 'new'"})
    do(
        target,
        "CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE t (id integer PRIMARY KEY, m mood); INSERT INTO t VALUES (1, 'sad')",
    )
    plan = release(target)
    assert plan.changes[0].proof.proven
    do(target, "UPDATE t SET m = 'new'")
    way = prepared(target)
    found = since(target, way=way).violations
    assert [(one.what, one.rows, one.says) for one in found] == [
        ("type public.mood of public.t.m", 1, "1 row cannot become public.mood")
    ]
    do(target, "UPDATE t SET m = 'sad'")
    take_back(target, way=way)
    assert rows(target, "SELECT id, m::text, enum_range(m)::text FROM t") == [(1, "sad", "{sad}")]


REPLACED = """CREATE TYPE mood2 AS ENUM ('draft', 'paid');
ALTER TABLE o ALTER m TYPE mood2 USING (CASE m::text WHEN 'new' THEN 'draft' ELSE m::text END)::mood2;
"""


@pytest.mark.slow
def test_rows_with_a_value_of_the_new_type_are_named_beside_reverted_ones(project: Callable[..., Target]) -> None:
    """What another migration reverts in their table may change them, so they refuse nothing; the try does."""
    target = project(folder={"0001_a.sql": REPLACED, "0002_b.sql": "DELETE FROM o WHERE id = 2"})
    do(target, "CREATE TYPE mood AS ENUM ('new', 'paid'); CREATE TABLE o (id int PRIMARY KEY, m mood NOT NULL)")
    do(target, "INSERT INTO o SELECT i, 'new' FROM generate_series(1, 4) AS i")
    release(target)
    do(target, "INSERT INTO o VALUES (7, 'draft'), (9, 'paid')")
    way = prepared(target)
    (found,) = since(target, way=way).violations
    assert (found.rows, found.at_least, found.samples) == (None, 0, ("id 7: m draft",))
    assert (
        found.says == "today 1 row cannot keep its value as public.mood; what is reverted of public.o may change that"
    )
    do(target, "DELETE FROM o WHERE id = 7")
    take_back(target, way=way)
    assert rows(target, "SELECT id, m::text FROM o ORDER BY id") == [
        *((number, "new") for number in range(1, 5)),
        (9, "paid"),
    ]
