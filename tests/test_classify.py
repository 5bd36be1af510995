"""What a statement is, checked against the server where it has a say."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from conftest import connect
from pgrunbook.config.targets import Target
from pgrunbook.sql.classify import Policy, Type, wait_is_harmless
from pgrunbook.sql.statements import parse

COMPATIBLE, BREAKING, DATA = Type.COMPATIBLE, Type.BREAKING, Type.DATA


@pytest.mark.parametrize(
    ("text", "kind", "kind_of_change", "objects"),
    [
        ("CREATE TABLE s.a (id int)", "CREATE TABLE", COMPATIBLE, ("s.a",)),
        ("CREATE TABLE a AS SELECT * FROM b", "CREATE TABLE AS", COMPATIBLE, ("b", "a")),
        ("SELECT 1 AS n INTO a", "SELECT INTO", COMPATIBLE, ("a",)),
        ("CREATE VIEW v AS SELECT 1", "CREATE VIEW", COMPATIBLE, ("v",)),
        ("CREATE MATERIALIZED VIEW v AS SELECT 1", "CREATE MATERIALIZED VIEW", COMPATIBLE, ("v",)),
        ("CREATE INDEX i ON a (n)", "CREATE INDEX", COMPATIBLE, ("a",)),
        ("CREATE UNIQUE INDEX CONCURRENTLY i ON a (n)", "CREATE UNIQUE INDEX CONCURRENTLY", BREAKING, ("a",)),
        ("CREATE EXTENSION pgcrypto", "CREATE EXTENSION", COMPATIBLE, ()),
        ("CREATE TYPE m AS ENUM ('a')", "CREATE TYPE", COMPATIBLE, ("m",)),
        ("ALTER TYPE m ADD VALUE 'b'", "ALTER TYPE ADD VALUE", COMPATIBLE, ("m",)),
        ("ALTER TYPE m RENAME VALUE 'a' TO 'b'", "ALTER TYPE RENAME VALUE", BREAKING, ("m",)),
        ("ALTER TABLE a ADD n int", "ALTER TABLE ADD COLUMN", COMPATIBLE, ("a",)),
        ("ALTER TABLE a ADD n int NOT NULL", "ALTER TABLE ADD COLUMN", BREAKING, ("a",)),
        ("ALTER TABLE a ADD n int NOT NULL DEFAULT 1", "ALTER TABLE ADD COLUMN", COMPATIBLE, ("a",)),
        ("ALTER TABLE a ADD n serial NOT NULL", "ALTER TABLE ADD COLUMN", COMPATIBLE, ("a",)),
        ("ALTER TABLE a ADD n int NOT NULL GENERATED ALWAYS AS IDENTITY", "ALTER TABLE ADD COLUMN", COMPATIBLE, ("a",)),
        ("ALTER TABLE a DROP n", "ALTER TABLE DROP COLUMN", BREAKING, ("a",)),
        ("ALTER TABLE a ALTER n TYPE bigint", "ALTER TABLE ALTER COLUMN TYPE", BREAKING, ("a",)),
        ("ALTER TABLE a ALTER n SET NOT NULL", "ALTER TABLE SET NOT NULL", BREAKING, ("a",)),
        ("ALTER TABLE a ALTER n DROP NOT NULL", "ALTER TABLE DROP NOT NULL", BREAKING, ("a",)),
        ("ALTER TABLE a ALTER n SET DEFAULT 1", "ALTER TABLE COLUMN DEFAULT", COMPATIBLE, ("a",)),
        ("ALTER TABLE a ALTER n DROP DEFAULT", "ALTER TABLE COLUMN DEFAULT", BREAKING, ("a",)),
        ("ALTER TABLE a ADD CHECK (n > 0) NOT VALID", "ALTER TABLE ADD CONSTRAINT", BREAKING, ("a",)),
        ("ALTER TABLE a VALIDATE CONSTRAINT c", "ALTER TABLE VALIDATE CONSTRAINT", COMPATIBLE, ("a",)),
        ("ALTER TABLE a DROP CONSTRAINT c", "ALTER TABLE DROP CONSTRAINT", COMPATIBLE, ("a",)),
        ("ALTER TABLE a ADD m int, DROP n", "ALTER TABLE ADD COLUMN, DROP COLUMN", BREAKING, ("a",)),
        ("ALTER TABLE p DETACH PARTITION q", "ALTER TABLE DETACH PARTITION", BREAKING, ("p", "q")),
        ("ALTER TABLE a ENABLE ROW LEVEL SECURITY", "ALTER TABLE ENABLE ROW SECURITY", BREAKING, ("a",)),
        ("ALTER TABLE a RENAME n TO m", "RENAME COLUMN", BREAKING, ("a",)),
        ("ALTER TABLE a RENAME TO b", "RENAME TABLE", BREAKING, ("a",)),
        ("ALTER INDEX i RENAME TO j", "RENAME INDEX", COMPATIBLE, ("i",)),
        ("ALTER TABLE a SET SCHEMA s", "ALTER SET SCHEMA", BREAKING, ("a",)),
        ("DROP TABLE a, s.b", "DROP TABLE", BREAKING, ("a", "s.b")),
        ("DROP INDEX CONCURRENTLY i", "DROP INDEX CONCURRENTLY", COMPATIBLE, ("i",)),
        ("DROP SCHEMA s CASCADE", "DROP SCHEMA", BREAKING, ("s",)),
        ("DROP FUNCTION f(int)", "DROP FUNCTION", BREAKING, ()),
        ("GRANT SELECT ON a TO b", "GRANT", COMPATIBLE, ("a",)),
        ("REVOKE SELECT ON a FROM b", "REVOKE", BREAKING, ("a",)),
        ("INSERT INTO a VALUES (1)", "INSERT", DATA, ("a",)),
        ("UPDATE a SET n = 1 FROM b", "UPDATE", DATA, ("a", "b")),
        ("DELETE FROM a", "DELETE", DATA, ("a",)),
        ("MERGE INTO a USING b ON a.n = b.n WHEN MATCHED THEN DELETE", "MERGE", DATA, ("a", "b")),
        ("WITH gone AS (DELETE FROM a RETURNING *) SELECT * FROM gone", "SELECT", DATA, ("gone", "a")),
        ("SELECT rebuild()", "SELECT", DATA, ()),
        ("SELECT count(*) FROM a", "SELECT", COMPATIBLE, ("a",)),
        ("TRUNCATE a", "TRUNCATE", DATA, ("a",)),
        ("DO $$ BEGIN END $$", "DO", DATA, ()),
        ("CALL p()", "CALL", DATA, ()),
        ("COPY a TO '/tmp/a'", "COPY", COMPATIBLE, ("a",)),
        ("COPY a FROM '/tmp/a'", "COPY", DATA, ("a",)),
        ("SET search_path = a", "SET", COMPATIBLE, ()),
        ("COMMENT ON TABLE a IS 'b'", "COMMENT", COMPATIBLE, ()),
        ("VACUUM a", "VACUUM", COMPATIBLE, ("a",)),
        ("VACUUM (FULL, ANALYZE) a", "VACUUM FULL", COMPATIBLE, ("a",)),
        ("ANALYZE a", "ANALYZE", COMPATIBLE, ("a",)),
        ("REINDEX (CONCURRENTLY) TABLE a", "REINDEX CONCURRENTLY", COMPATIBLE, ("a",)),
        ("CREATE TRIGGER t BEFORE INSERT ON a EXECUTE FUNCTION f()", "CREATE TRIGGER", BREAKING, ("a",)),
    ],
)  # fmt: skip
def test_kind_type_and_objects(text: str, kind: str, kind_of_change: Type, objects: tuple[str, ...]) -> None:
    """Each statement of the guide, and those around them, has the kind, type and names that an operator expects."""
    (found,) = parse(text, "m.sql")
    assert (found.kind, found.type, found.objects) == (kind, kind_of_change, objects)


ALONE = [
    "CREATE INDEX CONCURRENTLY i2 ON a (n)",
    "DROP INDEX CONCURRENTLY i",
    "REINDEX TABLE CONCURRENTLY a",
    "REINDEX (CONCURRENTLY) INDEX i",
    "REINDEX SCHEMA public",
    "VACUUM",
    "VACUUM FULL a",
    "CLUSTER",
    "ALTER TABLE p DETACH PARTITION q CONCURRENTLY",
    "DISCARD ALL",
    "CREATE DATABASE never_made",
    "DROP DATABASE IF EXISTS never_made",
    "ALTER SYSTEM SET work_mem = '4MB'",
    "ALTER DATABASE postgres SET TABLESPACE pg_default",
]
TOGETHER = [
    "CREATE INDEX i2 ON a (n)",
    "DROP INDEX i",
    "REINDEX TABLE a",
    "REINDEX (CONCURRENTLY off) INDEX i",
    "ANALYZE a",
    "CLUSTER a USING i",
    "ALTER TABLE p DETACH PARTITION q",
    "DISCARD TEMP",
    "ALTER TYPE m ADD VALUE 'b'",
    "REFRESH MATERIALIZED VIEW CONCURRENTLY v",
    "ALTER DATABASE postgres SET work_mem = '4MB'",
    "SELECT 1",
]


def refuses(target: Target, text: str) -> bool:
    """Tell whether the server refuses the statement inside a transaction block."""
    with connect(target, purpose="test") as conn:
        conn.execute("BEGIN")
        try:
            conn.execute(text.encode())
        except psycopg.errors.ActiveSqlTransaction:
            return True
        except psycopg.errors.FeatureNotSupported:
            return False
        finally:
            conn.execute("ROLLBACK")
        return False


def test_what_the_server_refuses_in_a_transaction_runs_alone_and_nothing_else(project: Callable[..., Target]) -> None:
    """The server itself is the judge of both lists."""
    target = project(folder={"0001_a.sql": ""})
    with connect(target, purpose="test") as conn:
        conn.execute(
            "CREATE TABLE a (n int); CREATE UNIQUE INDEX i ON a (n); CREATE TYPE m AS ENUM ('a');"
            "CREATE TABLE p (n int) PARTITION BY LIST (n); CREATE TABLE q PARTITION OF p FOR VALUES IN (1);"
            "CREATE MATERIALIZED VIEW v AS SELECT 1 AS n; CREATE UNIQUE INDEX ON v (n)"
        )
    found = {text: (parse(text, "m.sql")[0].policy is Policy.ALONE, refuses(target, text)) for text in ALONE + TOGETHER}
    assert found == {text: (text in ALONE, text in ALONE) for text in ALONE + TOGETHER}


def test_only_what_makes_nobody_wait_may_wait_long() -> None:
    """VACUUM FULL and REINDEX SCHEMA run alone as well, and would hold up everybody behind them."""
    texts = [
        "CREATE INDEX CONCURRENTLY i ON a (n)",
        "REINDEX TABLE CONCURRENTLY a",
        "VACUUM a",
        "VACUUM FULL a",
        "REINDEX SCHEMA s",
    ]
    kinds = [parse(text, "m.sql")[0].kind for text in texts]
    assert [wait_is_harmless(kind) for kind in kinds] == [True, True, True, False, False]
