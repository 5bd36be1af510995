"""What a statement is, checked against the server where it has a say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from pglast import ast, enums

from conftest import connect
from pgrunbook.config.targets import Target
from pgrunbook.sql import classify
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


THERE = """
CREATE ROLE app LOGIN; CREATE ROLE other; CREATE ROLE gone; CREATE PUBLICATION p FOR TABLE keyed;
CREATE STATISTICS st ON a, b FROM t;
CREATE FUNCTION f(integer) RETURNS integer LANGUAGE sql AS 'SELECT coalesce($1, 0)';
CREATE TYPE pair AS (x integer, y integer); CREATE DOMAIN d AS text CONSTRAINT c CHECK (VALUE <> '');
CREATE FUNCTION filled() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.b := 1; RETURN NEW; END $$;
CREATE TRIGGER fills BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION filled();
CREATE VIEW v AS SELECT a, b FROM t UNION SELECT a, b FROM t;
CREATE RULE r AS ON INSERT TO v DO INSTEAD INSERT INTO t VALUES (NEW.a, NEW.b);
CREATE VIEW one AS SELECT a FROM t WHERE a > 0; ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
INSERT INTO secret VALUES (1); CREATE POLICY every ON secret USING (true); GRANT SELECT ON secret, one TO app;
INSERT INTO t (a) VALUES (7); CREATE RULE kept AS ON DELETE TO base DO INSTEAD NOTHING;
CREATE TABLE owned (id integer); ALTER TABLE owned OWNER TO other; CREATE SEQUENCE s;
CREATE TABLE heir () INHERITS (base); INSERT INTO heir VALUES (1);
"""
TABLES = """
CREATE TABLE t (a integer CONSTRAINT once UNIQUE, b integer NOT NULL); CREATE TABLE keyed (id integer PRIMARY KEY);
CREATE TABLE secret (id integer); CREATE TABLE base (id integer); CREATE INDEX i ON t (b);
CREATE TABLE numbered (id integer GENERATED BY DEFAULT AS IDENTITY, n integer DEFAULT 1);
"""
FILLED = "INSERT INTO t (a) VALUES (1) RETURNING b"
AS_APP = "SET LOCAL ROLE app; SELECT count(*) FROM secret"
BY_NAME = "INSERT INTO t VALUES (7, 1) ON CONFLICT ON CONSTRAINT once DO NOTHING"
VIEWED = "SET LOCAL ROLE app; SELECT * FROM one"
# What a change is, and a statement of running code: behind what is breaking it fails, or does something else.
GOES_ON = [
    ("DROP TRIGGER fills ON t", BREAKING, FILLED),
    ("ALTER TABLE t DISABLE TRIGGER fills", BREAKING, FILLED),
    ("ALTER TABLE t DISABLE TRIGGER ALL", BREAKING, FILLED),
    ("ALTER TABLE t DISABLE TRIGGER USER", BREAKING, FILLED),
    ("ALTER TABLE t ENABLE REPLICA TRIGGER fills", BREAKING, FILLED),
    ("ALTER TRIGGER fills ON t RENAME TO fills2", COMPATIBLE, FILLED),
    ("DROP RULE r ON v", BREAKING, "INSERT INTO v VALUES (1, 2)"),
    ("ALTER RULE r ON v RENAME TO r2", COMPATIBLE, "INSERT INTO v VALUES (1, 2)"),
    ("ALTER TABLE base DISABLE RULE kept", BREAKING, "DELETE FROM base"),
    ("ALTER TABLE base ENABLE REPLICA RULE kept", BREAKING, "DELETE FROM base"),
    ("DROP POLICY every ON secret", BREAKING, AS_APP),
    ("ALTER POLICY every ON secret USING (false)", BREAKING, AS_APP),
    ("ALTER POLICY every ON secret RENAME TO all_of_it", COMPATIBLE, AS_APP),
    ("ALTER TABLE owned OWNER TO app", BREAKING, "SET LOCAL ROLE other; TABLE owned"),
    ("DROP PUBLICATION p", BREAKING, "SELECT pubname FROM pg_publication_tables"),
    ("ALTER PUBLICATION p DROP TABLE keyed", BREAKING, "SELECT pubname FROM pg_publication_tables"),
    ("ALTER PUBLICATION p ADD TABLE t", BREAKING, "UPDATE t SET a = 8"),
    ("CREATE PUBLICATION q FOR TABLE t", BREAKING, "UPDATE t SET a = 8"),
    ("ALTER TABLE keyed REPLICA IDENTITY NOTHING", BREAKING, "DELETE FROM keyed"),
    ("ALTER TABLE keyed REPLICA IDENTITY FULL", COMPATIBLE, "DELETE FROM keyed"),
    ("DROP ROLE gone", BREAKING, "SET LOCAL ROLE gone"),
    ("ALTER ROLE app RENAME TO app2", BREAKING, "SET LOCAL ROLE app"),
    ("ALTER ROLE app NOLOGIN", BREAKING, "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'app'"),
    ("ALTER ROLE other LOGIN", COMPATIBLE, AS_APP),
    ("ALTER GROUP other ADD USER app", COMPATIBLE, AS_APP),
    ("ALTER TABLE t RENAME CONSTRAINT once TO one_only", BREAKING, BY_NAME),
    ("ALTER TYPE pair ADD ATTRIBUTE z integer", BREAKING, "SELECT ROW(1, 2)::pair"),
    ("ALTER FUNCTION f(integer) STRICT", BREAKING, "SELECT f(NULL)"),
    ("ALTER FUNCTION f(integer) COST 7", COMPATIBLE, "SELECT f(NULL)"),
    ("ALTER SEQUENCE s RESTART WITH 40", BREAKING, "SELECT nextval('s') < 40"),
    ("ALTER SEQUENCE s OWNED BY t.a", COMPATIBLE, "SELECT nextval('s') < 40"),
    ("ALTER TABLE numbered ALTER id SET GENERATED ALWAYS", BREAKING, "INSERT INTO numbered (id) VALUES (7)"),
    ("ALTER TABLE numbered ALTER id DROP IDENTITY", BREAKING, "INSERT INTO numbered DEFAULT VALUES"),
    ("ALTER TABLE numbered ALTER n SET DEFAULT 1", COMPATIBLE, "INSERT INTO numbered DEFAULT VALUES RETURNING n"),
    ("ALTER TABLE heir NO INHERIT base", BREAKING, "TABLE base"),
    ("ALTER VIEW one SET (security_invoker = true)", BREAKING, VIEWED),
    ("ALTER VIEW one SET (security_barrier = true)", COMPATIBLE, VIEWED),
    ("ALTER VIEW one SET (check_option = local)", BREAKING, "INSERT INTO one VALUES (-1)"),
    ("ALTER DOMAIN d ADD CHECK (VALUE <> 'a')", BREAKING, "SELECT 'a'::d"),
    ("ALTER DOMAIN d VALIDATE CONSTRAINT c", COMPATIBLE, "SELECT 'a'::d"),
    ("DROP STATISTICS st", COMPATIBLE, "TABLE t"),
    ("DROP INDEX i", COMPATIBLE, "TABLE t"),
]  # fmt: skip


@pytest.mark.newest
def test_what_is_called_compatible_lets_running_code_go_on(project: Callable[..., Target]) -> None:
    """The server itself is the judge of both: each change is made, and the same statement runs before and behind it."""
    target = project(folder={"0001_a.sql": ""})

    def told(conn: psycopg.Connection[Any], text: str) -> object:
        try:
            with conn.transaction(force_rollback=True):
                *first, last = text.split("; ")
                for one in first:
                    conn.execute(one.encode())
                found = conn.execute(last.encode())
                return found.fetchall() if found.description else found.statusmessage
        except psycopg.Error as exc:
            return exc.sqlstate

    with connect(target, purpose="test") as conn, conn.transaction(force_rollback=True):
        conn.execute(("SET LOCAL search_path = public;" + TABLES + THERE).encode())
        found = []
        for change, _, running in GOES_ON:
            before = told(conn, running)
            with conn.transaction(force_rollback=True):
                conn.execute(change.encode())
                is_same = told(conn, running) == before
            found.append((change, COMPATIBLE if is_same else BREAKING, parse(change, "m.sql")[0].type))
    expected = [(change, what, what) for change, what, _ in GOES_ON]
    assert [each for each in found if each not in expected] == []


# A subcommand or statement that nobody has thought of may not pass as compatible by itself.
COMPATIBLE_SUBCOMMANDS = {
    "AT_AddColumn", "AT_ColumnDefault", "AT_SetStatistics", "AT_SetOptions", "AT_ResetOptions", "AT_SetStorage",
    "AT_SetCompression", "AT_ValidateConstraint", "AT_DropConstraint", "AT_AlterConstraint", "AT_ClusterOn",
    "AT_DropCluster", "AT_SetLogged", "AT_DropOids", "AT_SetAccessMethod", "AT_SetTableSpace", "AT_SetRelOptions",
    "AT_ResetRelOptions", "AT_AddInherit", "AT_AddOf", "AT_DropOf", "AT_ReplicaIdentity", "AT_AttachPartition",
    "AT_DetachPartitionFinalize", "AT_SetIdentity",
}  # fmt: skip
NOT_WRITTEN = {
    "AT_AddColumnToView", "AT_CookedColumnDefault", "AT_AddIndex", "AT_ReAddIndex", "AT_ReAddConstraint",
    "AT_ReAddDomainConstraint", "AT_AddIndexConstraint", "AT_ReAddComment", "AT_ReplaceRelOptions",
    "AT_ReAddStatistics",
}  # fmt: skip
COMPATIBLE_ALTERS = {
    "AlterCollationStmt", "AlterDatabaseRefreshCollStmt", "AlterDefaultPrivilegesStmt", "AlterEventTrigStmt",
    "AlterExtensionContentsStmt", "AlterExtensionStmt", "AlterObjectDependsStmt", "AlterOperatorStmt", "AlterStatsStmt",
    "AlterTableMoveAllStmt", "AlterTableSpaceOptionsStmt", "AlterTypeStmt",
}  # fmt: skip


def test_each_kind_of_change_has_been_judged() -> None:
    """Every subcommand of ALTER TABLE, and every ALTER and DROP of the parser."""
    subcommands = {each.name for each in enums.AlterTableType}
    assert subcommands == classify._BREAKING_SUBCOMMANDS | COMPATIBLE_SUBCOMMANDS | NOT_WRITTEN
    assert not classify._BREAKING_SUBCOMMANDS & COMPATIBLE_SUBCOMMANDS
    of_change = ("Alter", "Drop", "Rename", "Reassign")
    kinds = {name for name in dir(ast) if name.startswith(of_change) and name.endswith("Stmt")}
    judged = {each.__name__ for each in (*classify._BREAKING_WHERE, *classify._ALWAYS_BREAKING.__args__)}
    assert kinds - judged == COMPATIBLE_ALTERS


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
