"""Statements that a server's own parser does not know."""

from __future__ import annotations

import pytest

from pgrunbook.errors import WrongInput
from pgrunbook.review.server_parser import refuse_unknown
from pgrunbook.sql.statements import parse
from servers import Server
from test_effects import cases

pytestmark = pytest.mark.every_version


def test_every_statement_that_the_server_knows_passes(server: Server) -> None:
    """Of all the kinds that effects are told of, and nothing of them is executed."""
    queries = [
        "SELECT 1 INTO made",
        "SELECT 1 INTO TEMP made",
        "EXPLAIN SELECT 1",
        "TABLE made",
        "VALUES (1)",
        "SELECT",
    ]
    with server.connect("postgres") as conn:
        for statement in (*cases(server.version), *queries, "WITH a AS (SELECT 1) SELECT 1 INTO made FROM a"):
            refuse_unknown(conn, parse(statement, "0001_a.sql"))
        assert conn.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'shop'").fetchone() == (0,)


@pytest.mark.parametrize(
    ("since", "statement"),
    [
        (18, "ALTER TABLE t ADD CONSTRAINT n NOT NULL a NOT VALID"),
        (18, "CREATE TABLE t (a int, b int GENERATED ALWAYS AS (a * 2) VIRTUAL)"),
        (18, "CREATE TABLE t (id int, during daterange, PRIMARY KEY (id, during WITHOUT OVERLAPS))"),
        (17, "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE RETURNING t.a"),
        (17, "MERGE INTO t USING u ON t.a = u.a WHEN NOT MATCHED BY SOURCE THEN DELETE"),
        (18, "UPDATE t SET a = 1 RETURNING WITH (OLD AS before) before.a"),
        (17, "SELECT * FROM JSON_TABLE('[1]'::jsonb, '$[*]' COLUMNS (a int PATH '$')) AS j"),
        (16, "WITH j AS (SELECT JSON_OBJECT('a': 1 RETURNING jsonb) AS o) SELECT o FROM j"),
        (17, "EXPLAIN SELECT JSON_EXISTS(jsonb '{}', '$.a' ERROR ON ERROR)"),
        (17, "CREATE VIEW v AS SELECT JSON_VALUE(jsonb '{}', '$.a' DEFAULT 'x' ON EMPTY)"),
        (16, "COPY t FROM '/tmp/t.csv' WITH (FORMAT csv) WHERE NOT ('x' IS JSON OBJECT)"),
        (17, "ALTER TABLE t ALTER COLUMN b SET EXPRESSION AS (a * 3)"),
        (18, "ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES u (a) NOT ENFORCED"),
    ],
)
def test_what_only_a_newer_server_knows_is_told_with_its_place(server: Server, since: int, statement: str) -> None:
    """An older one refuses it before anything is tried."""
    with server.connect("postgres") as conn:
        if server.version >= since:
            return refuse_unknown(conn, parse(statement, "0001_a.sql"))
        with pytest.raises(WrongInput) as caught:
            refuse_unknown(conn, parse(f"SELECT 1;\n{statement}", "0001_a.sql"))
    assert str(caught.value).startswith(
        f"0001_a.sql:2: PostgreSQL {server.version} does not know this statement\nDetail: syntax error"
    )
    return None
