"""Statements that a server's own parser does not know."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgrunbook.errors import WrongInput
from pgrunbook.review.review import run
from pgrunbook.review.server_parser import refuse_unknown
from pgrunbook.sql.statements import parse
from servers import Server
from test_effects import cases

pytestmark = pytest.mark.every_version


@pytest.mark.newest
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


IN_BODIES = {
    "plpgsql": (
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ DECLARE n integer; BEGIN\n{}\nEND $$",
        [
            "n := 1;\nMERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE RETURNING t.a INTO n;",
            "PERFORM 1;\nn := JSON_EXISTS(jsonb '{}', '$.a' ERROR ON ERROR);",
            "NULL;\nFOR n IN SELECT 1 FROM JSON_TABLE('[1]'::jsonb, '$[*]' COLUMNS (a int)) AS j LOOP END LOOP;",
            "NULL;\nEXECUTE 'ALTER TABLE t ALTER COLUMN b SET EXPRESSION AS (a * 3)';",
        ],
    ),
    "sql": (
        "CREATE PROCEDURE f() LANGUAGE sql AS $$\n{}\n$$",
        ["DELETE FROM t;\nUPDATE t SET a = 1 RETURNING WITH (OLD AS before) before.a"],
    ),
    "do": (
        "DO $$ BEGIN\n{}\nEND $$",
        ["NULL;\nMERGE INTO t USING u ON t.a = u.a WHEN NOT MATCHED BY SOURCE THEN DELETE;"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("frame", "body"), [(f, b) for f, bodies in IN_BODIES.values() for b in bodies])
def test_what_a_body_holds_is_asked_of_the_server_too(server: Server, frame: str, body: str) -> None:
    """CREATE FUNCTION goes through with check_function_bodies off, DO fails half way: told before, by its line."""
    sql = f"SELECT 1;\n{frame.format(body)}"
    with server.connect("postgres") as conn:
        if server.version >= 18:
            return refuse_unknown(conn, parse(sql, "0001_a.sql"))
        with pytest.raises(WrongInput) as caught:
            refuse_unknown(conn, parse(sql, "0001_a.sql"))
    told = f"0001_a.sql:2: PostgreSQL {server.version} does not know a statement in its body, line 4\nDetail: "
    assert str(caught.value).startswith(told)
    assert "syntax error" in str(caught.value)
    return None


def test_a_body_that_the_server_knows_passes(server: Server) -> None:
    """Whatever PL/pgSQL does with it: targets, parameters, cursors, texts and rows of triggers."""
    body = """
    SELECT a INTO n FROM t WHERE b = $1; n := n + 1; t.a[n] := 2; PERFORM f(n); CALL p(n); RETURN NEXT n;
    INSERT INTO t VALUES (NEW.a) RETURNING a INTO STRICT n; FOR r IN SELECT * FROM t FOR UPDATE LOOP EXIT WHEN r.a > 1;
    END LOOP; FOR i IN 1..n LOOP EXECUTE 'SET work_mem = 1; SELECT 1'; END LOOP; OPEN c FOR SELECT 1; FETCH c INTO n;
    RETURN QUERY VALUES (1); RETURN QUERY EXECUTE 'TABLE t'; UPDATE t SET a = 1 WHERE CURRENT OF c; -- done
    """
    made = "CREATE FUNCTION f(x integer) RETURNS SETOF integer LANGUAGE plpgsql AS"
    declared = "$$ DECLARE n integer; r record; c refcursor; t t; BEGIN"
    with server.connect("postgres") as conn:
        refuse_unknown(conn, parse(f"{made} {declared} {body} END $$", "0001_a.sql"))


def test_the_review_on_a_target_tells_it_as_well(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One error with file and line, where prepare would refuse it."""
    monkeypatch.setenv("OLDER_URL", f"postgresql://postgres@/postgres?host={server.socket_dir}")
    (tmp_path / "targets.toml").write_text('[older]\nurl_from = "OLDER_URL"\n')
    monkeypatch.setenv("PGRUNBOOK_TARGETS", str(tmp_path / "targets.toml"))
    file = tmp_path / "0001_a.sql"
    frame, (body,) = IN_BODIES["do"]
    file.write_text(f"SELECT 1;\n{frame.format(body)}")
    if server.version >= 18:
        assert "statements" in run([file], target="older", fail_on="never", form="text", with_squawk=False)[0]
    else:
        with pytest.raises(WrongInput, match=r"0001_a:2: .* does not know a statement in its body, line 4"):
            run([file], target="older", fail_on="never", form="text", with_squawk=False)
