"""Statements that run alone: what the catalog tells of them after a crash."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from conftest import do
from pgrunbook.changes import plan as plans
from pgrunbook.changes.alone import leftover_of, really_done
from pgrunbook.changes.plan import Step
from pgrunbook.database.connection import connect
from pgrunbook.target import Target

Project = Callable[..., Target]
SETTING = (
    'CREATE SCHEMA "S s"; CREATE TABLE "S s"."T" (n int); CREATE INDEX "I ""x" ON "S s"."T" (n); '
    "CREATE TYPE \"S s\".mood AS ENUM ('a', 'it''s'); CREATE TABLE p (n int) PARTITION BY LIST (n); "
    "CREATE TABLE q PARTITION OF p FOR VALUES IN (1); CREATE TABLE loose (n int); CREATE TABLE other (n int)"
)


def step_of(text: str) -> Step:
    (step,) = plans.build_steps(text, "m.sql", Target(name="demo", server="main"))
    return step


@pytest.mark.parametrize(
    ("text", "done"),
    [
        ('CREATE INDEX CONCURRENTLY "I ""x" ON "S s"."T" (n)', True),
        ('CREATE INDEX CONCURRENTLY IF NOT EXISTS "I ""x" ON "S s"."T" (n)', True),
        ('CREATE INDEX CONCURRENTLY other ON "S s"."T" (n)', False),
        ('CREATE INDEX CONCURRENTLY "I ""x" ON other (n)', False),
        ('DROP INDEX CONCURRENTLY "S s"."I ""x"', False),
        ('DROP INDEX CONCURRENTLY "S s"."I x"', True),
        ("DROP INDEX CONCURRENTLY nowhere.i", True),
        ("ALTER TYPE \"S s\".mood ADD VALUE 'it''s'", True),
        ("ALTER TYPE \"S s\".mood ADD VALUE 'b'", False),
        ("ALTER TABLE p DETACH PARTITION q CONCURRENTLY", False),
        ("ALTER TABLE p DETACH PARTITION loose CONCURRENTLY", True),
        ("CREATE DATABASE postgres", True),
        ("CREATE DATABASE never_made", False),
        ("DROP DATABASE never_made", True),
        ("DROP DATABASE postgres", False),
        ("CREATE TABLESPACE pg_default LOCATION '/x'", True),
        ("DROP TABLESPACE never_made", True),
        ("CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p", False),
        ("DROP SUBSCRIPTION s", True),
        ("VACUUM", False),
        ("REINDEX TABLE CONCURRENTLY other", False),
        ("ALTER SYSTEM SET work_mem = '4MB'", False),
    ],
)
def test_the_catalog_tells_whether_a_step_took_effect(project: Project, text: str, done: bool) -> None:
    """By its very object; what may be run twice is run again."""
    target = project(folder={})
    do(target, SETTING)
    with connect(target) as conn:
        assert really_done(conn, step_of(text)) is done
        assert leftover_of(conn, step_of(text)) is None


def test_an_invalid_index_is_not_done_and_is_cleared_away(project: Project) -> None:
    """Under its quoted name, in its schema, and only on its own table."""
    target = project(folder={})
    do(target, SETTING)
    do(target, 'INSERT INTO "S s"."T" VALUES (1), (1)')
    step = step_of('CREATE UNIQUE INDEX CONCURRENTLY "U u" ON "S s"."T" (n)')
    with pytest.raises(psycopg.errors.UniqueViolation):
        do(target, step.sql)
    with connect(target) as conn:
        assert not really_done(conn, step)
        assert leftover_of(conn, step_of('CREATE INDEX CONCURRENTLY "U u" ON other (n)')) is None
        statement = leftover_of(conn, step)
        assert statement is not None
        assert statement.as_string(conn) == 'DROP INDEX CONCURRENTLY IF EXISTS "S s"."U u"'
        conn.execute(statement)
        assert leftover_of(conn, step) is None


def test_nothing_is_left_over_by_what_runs_in_a_transaction(project: Project) -> None:
    """A plain CREATE INDEX leaves nothing, and other statements even less."""
    with connect(project(folder={})) as conn:
        assert [leftover_of(conn, step_of(text)) for text in ("CREATE INDEX i ON a (n)", "SELECT 1")] == [None, None]
