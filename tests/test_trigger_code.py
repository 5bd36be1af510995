"""Functions of triggers are compiled anew behind a change of type, in every session that has fired them before."""

from __future__ import annotations

import psycopg
import pytest

from safe_forms_stage import Stage, none_is_small, perform, plan, stage

__all__ = ["none_is_small", "stage"]
PLUS = """
CREATE FUNCTION app.plus() RETURNS trigger LANGUAGE plpgsql COST 7 AS
    'BEGIN NEW.a := abs(NEW.a); IF TG_OP = ''UPDATE'' AND NEW.a = OLD.a THEN RETURN NULL; END IF; RETURN NEW; END';
CREATE TABLE app.parts (id integer, a integer) PARTITION BY LIST (id);
CREATE TABLE app.rest PARTITION OF app.parts DEFAULT;
CREATE TABLE app.whole (id integer PRIMARY KEY, a integer);
CREATE TRIGGER zz BEFORE INSERT OR UPDATE ON app.whole FOR EACH ROW EXECUTE FUNCTION app.plus();
CREATE TRIGGER zz BEFORE INSERT OR UPDATE ON app.rest FOR EACH ROW EXECUTE FUNCTION app.plus();
"""
CHANGE = "ALTER TABLE app.{} ALTER a TYPE bigint"


def writes(conn: psycopg.Connection[tuple[object, ...]], table: str, number: int) -> None:
    """Write a row, and write it again."""
    conn.execute(f"INSERT INTO app.{table} (id, a) VALUES ({number}, -{number})".encode())
    conn.execute(f"UPDATE app.{table} SET a = -{number} - 1 WHERE id = {number}".encode())


@pytest.mark.first_case
@pytest.mark.parametrize("form", ["beside the traffic", "small", "small and partitioned"])
def test_sessions_that_have_fired_a_trigger_write_on(stage: Stage, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool's session writes before and behind the change; the plain one would make it fail until it ends."""
    if form != "beside the traffic":
        monkeypatch.undo()
    table = "parts" if "partitioned" in form else "whole"
    stage.conn.execute(PLUS.encode())
    with stage.session() as pooled:
        writes(pooled, table, 1)
        made = plan(stage.conn, CHANGE.format(table))
        assert [one.form for one in made] == ["shadow-column" if form == "beside the traffic" else ""]
        perform(stage.conn, made)
        writes(pooled, table, 2)
        assert pooled.execute(f"SELECT id, a FROM app.{table} ORDER BY id".encode()).fetchall() == [(1, 2), (2, 3)]
        ((kind, cost),) = stage.conn.execute(
            "SELECT (SELECT atttypid::regtype::text FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'a'),"
            " (SELECT procost FROM pg_proc WHERE oid = 'app.plus'::regproc)",
            [f"app.{table}"],
        ).fetchall()
        assert (kind, cost) == ("bigint", 7)


def test_the_plain_change_makes_them_fail(stage: Stage) -> None:
    """What PostgreSQL does: were it otherwise, the functions could be left alone."""
    stage.conn.execute(PLUS.encode())
    with stage.session() as pooled:
        writes(pooled, "whole", 1)
        stage.conn.execute(CHANGE.format("whole").encode())
        for number in (2, 3):
            with pytest.raises(psycopg.errors.DatatypeMismatch, match="does not match that when preparing the plan"):
                writes(pooled, "whole", number)
