"""The repair of a history table: tried first, done in one transaction with a copy of its rows."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from conftest import connect, do, rows
from pgrunbook import history as histories
from pgrunbook.config.targets import Target
from pgrunbook.database import own_schema
from pgrunbook.errors import Blocked, StatementFailed, WrongInput
from pgrunbook.history import State, repair
from scenes import error_of, session

Project = Callable[..., Target]
RUN = "20261129T093000Z-troubleshoot-demo-0001"
FOLDER = {"0001_a.sql": "SELECT 1;", "0002_b.sql": "SELECT 2;", "0003_c.sql": "SELECT 3;"}
TABLE = "CREATE TABLE schema_migrations (version text, applied_at timestamptz)"

# What the guide types for duplicates.
GUIDES = """DELETE FROM schema_migrations a WHERE applied_at > (
    SELECT min(applied_at) FROM schema_migrations b WHERE b.version = a.version)"""


def offered(target: Target) -> dict[str, str]:
    """Return the key of each repair, and why it would not mend the history."""
    with connect(target) as conn:
        found = repair.repairs(histories.read(conn, target))
        return {one.key: repair.why_not(conn, target, one) for one in found}


def carry_out(target: Target, key: str) -> None:
    with connect(target) as conn:
        repair.carry_out(conn, target, key, run_id=RUN)


def problems(target: Target) -> list[tuple[str, State]]:
    with connect(target) as conn:
        return [(entry.name, entry.state) for entry in histories.read(conn, target).problems()]


def doubled(project: Project) -> Target:
    """Ties, rows without a time, rows that are equal: each of the guide's cases at once."""
    target = project(folder=FOLDER)
    do(target, TABLE)
    do(target, """INSERT INTO schema_migrations VALUES
        ('0001_a', '2026-01-02'), ('0001_a', NULL), ('0001_a', '2026-01-01'), ('0001_a', '2026-01-01'),
        ('0002_b', NULL), ('0002_b', NULL), ('0003_c', '2026-01-03')""")  # fmt: skip
    return target


@pytest.mark.slow
def test_of_duplicates_the_earliest_stays(project: Project) -> None:
    """One row each; the guide's statement keeps both of a tie, and every row without a time."""
    target = doubled(project)
    assert offered(target) == {"delete duplicates: 0001_a": "", "delete duplicates: 0002_b": ""}
    carry_out(target, "delete duplicates: 0001_a")
    assert problems(target) == [("0002_b", State.DUPLICATE)]
    carry_out(target, "delete duplicates: 0002_b")
    assert problems(target) == []
    assert rows(target, "SELECT version, applied_at::date::text FROM schema_migrations ORDER BY 1") == [
        ("0001_a", "2026-01-01"), ("0002_b", None), ("0003_c", "2026-01-03"),
    ]  # fmt: skip


def test_the_guides_statement_leaves_duplicates(project: Project) -> None:
    """Two rows of one time, and all without one."""
    target = doubled(project)
    do(target, GUIDES)
    assert rows(target, "SELECT version, count(*) FROM schema_migrations GROUP BY 1 ORDER BY 1") == [
        ("0001_a", 3), ("0002_b", 2), ("0003_c", 1),
    ]  # fmt: skip


def test_a_try_changes_nothing_and_the_rows_from_before_are_kept(project: Project) -> None:
    """The copy has every row, of the repair that it was made for; schema pgrunbook is still ours."""
    target = doubled(project)
    before = rows(target, "SELECT pg_catalog.to_jsonb(h) FROM schema_migrations AS h ORDER BY ctid")
    offered(target)
    assert rows(target, "SELECT pg_catalog.to_jsonb(h) FROM schema_migrations AS h ORDER BY ctid") == before
    carry_out(target, "delete duplicates: 0001_a")
    ((kept, name, key, run),) = rows(
        target, "SELECT rows::text, history_table, repair, run_id FROM pgrunbook.history_copy"
    )
    assert json.loads(str(kept)) == [row for (row,) in before]
    assert (name, key, run) == ("public.schema_migrations", "delete duplicates: 0001_a", RUN)
    with connect(target) as conn:
        own_schema.refuse_foreign(conn)


def test_a_row_without_a_file_is_forgotten_and_only_that(project: Project) -> None:
    """Also where it is there twice; what else is in conflict stays so."""
    target = project(folder={name: text for name, text in FOLDER.items() if name != "0002_b.sql"})
    do(target, TABLE)
    do(target, """INSERT INTO schema_migrations VALUES ('0001_a', now()), ('0001_a', now()), ('0002_gone', now()),
        ('0002_gone', NULL), ('0003_c', now())""")  # fmt: skip
    assert offered(target) == {"delete duplicates: 0001_a": "", "forget: 0002_gone": ""}
    carry_out(target, "forget: 0002_gone")
    assert rows(target, "SELECT version, count(*) FROM schema_migrations GROUP BY 1 ORDER BY 1") == [
        ("0001_a", 2), ("0003_c", 1),
    ]  # fmt: skip


def test_an_edited_file_becomes_the_one_that_was_applied(project: Project) -> None:
    """For a tool that keeps the hash: sqlx's checksum is that of the file now, of the one row that differed."""
    target = project(folder={"0001_a.sql": "SELECT 1;", "0002_b.sql": "SELECT 2;"}, history="sqlx")
    do(target, """CREATE TABLE _sqlx_migrations (version bigint PRIMARY KEY, description text NOT NULL,
        installed_on timestamptz NOT NULL DEFAULT now(), success boolean NOT NULL, checksum bytea NOT NULL,
        execution_time bigint NOT NULL)""")  # fmt: skip
    do(target, """INSERT INTO _sqlx_migrations VALUES (1, 'a', now(), true, '\\x00', 1),
        (2, 'b', now(), true, sha384('SELECT 2;'), 1)""")  # fmt: skip
    assert problems(target) == [("0001_a", State.EDITED)]
    assert offered(target) == {"accept text: 0001_a": ""}
    carry_out(target, "accept text: 0001_a")
    assert problems(target) == []
    same = "SELECT version FROM _sqlx_migrations WHERE checksum = sha384(('SELECT ' || version || ';')::bytea)"
    assert rows(target, same + " ORDER BY 1") == [(1,), (2,)]


def test_a_repair_is_shown_as_the_sql_that_it_is(project: Project) -> None:
    """Whoever types it gets the same; a tie is decided by where the rows lie."""
    target = project(folder=FOLDER)
    do(target, TABLE)
    do(target, "INSERT INTO schema_migrations VALUES ('0001_a', NULL), ('0001_a', NULL)")
    with connect(target) as conn:
        (one,) = repair.repairs(histories.read(conn, target))
        text = repair.shown(conn, one)
        assert text == (
            'DELETE FROM "public"."schema_migrations" WHERE ctid = (SELECT ctid FROM "public"."schema_migrations"'
            ' WHERE "version" OPERATOR(pg_catalog.=) \'0001_a\' AND "applied_at" IS NULL ORDER BY ctid DESC LIMIT 1);'
        )
        conn.execute(text.encode())
    assert problems(target) == []


def test_what_does_not_mend_the_history_is_not_done(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that a trigger brings back, a name that is none: nothing is changed, and why is said."""
    target = doubled(project)
    assert error_of(lambda: carry_out(target, "forget: 0001_a")).message.startswith("there is no repair ")
    do(target, "CREATE TABLE more (v text, at timestamptz); ALTER TABLE schema_migrations ADD CHECK (version <> 'x')")
    before = rows(target, "SELECT count(*) FROM schema_migrations")
    real = repair._repairs

    def too_few(history: histories.History) -> list[repair.HistoryRepair]:
        return [
            repair.HistoryRepair(one.kind, one.migration, one.costs, one.commands[:1]) for one in real(history)
        ]  # fmt: skip

    monkeypatch.setattr(repair, "_repairs", too_few)
    assert offered(target)["delete duplicates: 0001_a"] == "delete duplicates: 0001_a does not mend the history"
    assert error_of(lambda: carry_out(target, "delete duplicates: 0001_a")).message.endswith(
        "does not mend the history"
    )
    assert rows(target, "SELECT count(*) FROM schema_migrations") == before
    assert rows(target, "SELECT count(*) FROM pgrunbook.step") == [(0,)]


@pytest.mark.slow
def test_a_history_that_somebody_writes_is_not_waited_for(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocked, with the history as it was; a role that may not write it is told so."""
    target = doubled(project)
    monkeypatch.setitem(repair.LIMITS, "lock_timeout_ms", 100)
    with session(target, "INSERT INTO schema_migrations VALUES ('0009_x', now())"):
        assert offered(target)["delete duplicates: 0001_a"] == "canceling statement due to lock timeout"
        with pytest.raises(Blocked, match="could not lock the history table"):
            carry_out(target, "delete duplicates: 0001_a")
    do(target, "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'not today'; END$$")
    do(target, "CREATE TRIGGER no BEFORE DELETE ON schema_migrations FOR EACH ROW EXECUTE FUNCTION no()")
    with pytest.raises(StatementFailed, match="could not repair the history: delete duplicates: 0001_a") as failed:
        carry_out(target, "delete duplicates: 0001_a")
    assert failed.value.detail == "not today"
    with pytest.raises(WrongInput):
        carry_out(target, "forget: 0002_b")
