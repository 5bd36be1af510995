"""Statements that run alone: what the catalog tells of them after a crash."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from budget import sample
from conftest import connect, do
from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection
from pgrunbook.draft.nontransactional import done, leftovers

Project = Callable[..., Target]
SETTING = (
    'CREATE SCHEMA "S s"; CREATE TABLE "S s"."T" (n int); CREATE INDEX "I ""x" ON "S s"."T" (n); '
    "CREATE TYPE \"S s\".mood AS ENUM ('a', 'it''s'); CREATE TABLE p (n int) PARTITION BY LIST (n); "
    "CREATE TABLE q PARTITION OF p FOR VALUES IN (1); CREATE TABLE loose (n int); CREATE TABLE other (n int)"
)


def is_done(conn: Connection, text: str) -> bool:
    query = done(text)
    return query is not None and conn.execute(query.encode()).fetchone() == (True,)


def left_by(conn: Connection, text: str) -> list[str]:
    query = leftovers(text)
    return [str(row[0]) for row in conn.execute(query.encode())] if query else []


@pytest.mark.parametrize(
    ("text", "expected"),
    sample(
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
        3,
    ),
)
def test_the_catalog_tells_whether_a_step_took_effect(project: Project, text: str, expected: bool) -> None:
    """By its very object; what may be run twice is run again."""
    target = project(folder={})
    do(target, SETTING)
    with connect(target) as conn:
        assert is_done(conn, text) is expected
        assert left_by(conn, text) == []


def test_an_invalid_index_is_not_done_and_is_cleared_away(project: Project) -> None:
    """Under its quoted name, in its schema, and only on its own table."""
    target = project(folder={})
    do(target, SETTING)
    do(target, 'INSERT INTO "S s"."T" VALUES (1), (1)')
    text = 'CREATE UNIQUE INDEX CONCURRENTLY "U u" ON "S s"."T" (n)'
    with pytest.raises(psycopg.errors.UniqueViolation):
        do(target, text)
    with connect(target) as conn:
        assert not is_done(conn, text)
        assert left_by(conn, 'CREATE INDEX CONCURRENTLY "U u" ON other (n)') == []
        assert left_by(conn, text) == ['DROP INDEX CONCURRENTLY IF EXISTS "S s"."U u"']
        conn.execute(left_by(conn, text)[0])
        assert left_by(conn, text) == []


def test_nothing_is_left_over_by_what_runs_in_a_transaction() -> None:
    """A plain CREATE INDEX leaves nothing, and other statements even less."""
    assert [leftovers(text) for text in ("CREATE INDEX i ON a (n)", "SELECT 1")] == [None, None]
