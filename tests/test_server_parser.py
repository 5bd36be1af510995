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
    with server.connect("postgres") as conn:
        for statement in cases(server.version):
            refuse_unknown(conn, parse(statement, "0001_a.sql"))
        assert conn.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'shop'").fetchone() == (0,)


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE t ADD CONSTRAINT n NOT NULL a NOT VALID",
        "CREATE TABLE t (a int, b int GENERATED ALWAYS AS (a * 2) VIRTUAL)",
        "CREATE TABLE t (id int, during daterange, PRIMARY KEY (id, during WITHOUT OVERLAPS))",
    ],
)
def test_what_only_a_newer_server_knows_is_told_with_its_place(server: Server, statement: str) -> None:
    """PostgreSQL 18 knows it; an older one refuses it before anything is tried."""
    with server.connect("postgres") as conn:
        if server.version >= 18:
            return refuse_unknown(conn, parse(statement, "0001_a.sql"))
        with pytest.raises(WrongInput) as caught:
            refuse_unknown(conn, parse(f"SELECT 1;\n{statement}", "0001_a.sql"))
    assert str(caught.value).startswith(
        f"0001_a.sql:2: PostgreSQL {server.version} does not know this statement\nDetail: syntax error"
    )
    return None
