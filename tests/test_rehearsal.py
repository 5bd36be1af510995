"""A rehearsal on an empty branch: what it promises is what the real run ends in."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import do, rows
from pgrunbook import history as histories
from pgrunbook.branches.server import Server
from pgrunbook.changes import empty_branch, rehearsal
from pgrunbook.changes import plan as plans
from pgrunbook.changes.rehearsal import Rehearsal
from pgrunbook.database.connection import connect
from pgrunbook.database.schema import Snapshot, snapshot
from pgrunbook.errors import StatementFailed, Unreachable
from pgrunbook.target import Target
from scenes import error_of, execute, plan_of, session

Project = Callable[..., Target]

RICH = """
CREATE SCHEMA "Odd schema";
CREATE EXTENSION btree_gist SCHEMA "Odd schema";
CREATE EXTENSION citext;
CREATE TYPE "Odd schema".mood AS ENUM ('a', 'b''c');
CREATE TABLE "Odd schema"."T 1" (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "M m" "Odd schema".mood,
    during tsrange, EXCLUDE USING gist (id WITH =, during WITH &&));
CREATE TABLE p (n int, at date) PARTITION BY RANGE (at);
CREATE TABLE p_2026 PARTITION OF p FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE INDEX ON p (n);
CREATE VIEW v AS SELECT n, gen_random_uuid() AS u FROM p;
ALTER TABLE p OWNER TO owner_of_p;
GRANT SELECT (n) ON p TO reader;
ALTER TABLE p ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON p TO reader USING (n > 0);
"""


def now(target: Target) -> Snapshot:
    with connect(target, purpose="test") as conn:
        return snapshot(conn, leave_out=rehearsal.leave_out(histories.read(conn, target)))


def rehearse(target: Target) -> Rehearsal:
    """Rehearse what is pending, and the way back of each that has one."""
    with connect(target, purpose="test") as conn:
        history = histories.read(conn, target)
    pending = history.pending()
    backs = plans.down(target, [m for m in pending if m.down_sql is not None])
    return rehearsal.rehearse(target, history, plans.up(target, pending), backs, now(target))


def branches() -> list[object]:
    with Server(empty_branch.SERVER).connect() as conn:
        return conn.execute("SELECT datname FROM pg_database WHERE datname LIKE 'empty%'").fetchall()


def test_the_promised_schema_is_the_one_that_the_real_run_ends_in(project: Project) -> None:
    """The example's pending migrations: the fingerprint after each is the promised one, and rows change nothing."""
    target = project()
    done = rehearse(target)
    assert done.unlike == ()
    assert done.before.fingerprint == now(target).fingerprint
    execute(target)
    assert done.end.fingerprint == now(target).fingerprint
    assert len(done.after) == 3
    assert branches() == []


def test_roles_extensions_partitions_and_quoted_names_are_on_the_branch_as_well(project: Project) -> None:
    """The branch has exactly the target's schema, with its owners and grants."""
    target = project(
        folder={"0001_a.sql": 'ALTER TABLE "Odd schema"."T 1" ADD n int; REVOKE SELECT (n) ON p FROM reader'}
    )
    do(target, "CREATE ROLE owner_of_p; CREATE ROLE reader;" + RICH)
    try:
        done = rehearse(target)
        assert done.unlike == ()
        execute(target)
        assert done.end.fingerprint == now(target).fingerprint
    finally:
        do(target, "DROP OWNED BY owner_of_p, reader CASCADE; DROP ROLE owner_of_p, reader")


def test_our_own_schema_in_the_target_is_passed_over(project: Project) -> None:
    """The second release: schema pgrunbook and the history table are there, and not part of the promise."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a ()"})
    execute(target)
    (target.migrations / "0002_b.sql").write_text("CREATE TABLE b ()")
    done = rehearse(target)
    assert done.unlike == ()
    execute(target)
    assert done.end.fingerprint == now(target).fingerprint


def test_the_way_back_is_proven_or_not(project: Project) -> None:
    """Proven, another schema, failing, and none at all: each is said, and the rehearsal goes on."""
    target = project(
        folder={
            "0001_good.sql": "CREATE TABLE a (n int)",
            "0001_good.down.sql": "DROP TABLE a",
            "0002_other.sql": "CREATE TABLE b (n int); ALTER TABLE a ADD m int",
            "0002_other.down.sql": "DROP TABLE b",
            "0003_fails.sql": "CREATE TABLE c (n int)",
            "0003_fails.down.sql": "DROP TABLE d",
            "0004_none.sql": "CREATE TABLE d (n int)",
            "0005_alone.sql": "CREATE INDEX CONCURRENTLY i ON a (n)",
            "0005_alone.down.sql": "DROP INDEX CONCURRENTLY i",
            "0006_once.sql": "ALTER TYPE mood ADD VALUE 'x'",
            "0006_once.down.sql": "SELECT 1",
        }
    )
    do(target, "CREATE TYPE mood AS ENUM ('a')")
    done = rehearse(target)
    ways = {way.migration: (way.proven, way.says) for way in done.ways}
    same = "down and up again: the schema is equal both times"
    assert ways["0001_good"] == ways["0005_alone"] == (True, same)
    assert ways["0002_other"][0] is False
    assert ways["0002_other"][1].startswith("the down script leaves another schema: ")
    assert "a.m" in ways["0002_other"][1]
    assert ways["0003_fails"][1] == (
        "the down script fails: step 1 of 0003_fails (DROP TABLE; 0003_fails.down.sql, line 1) would fail: "
        'table "d" does not exist'
    )
    assert ways["0004_none"] == (False, "no down script: after this, only the restore point")
    assert ways["0006_once"][0] is False
    execute(target)
    assert done.end.fingerprint == now(target).fingerprint


def test_a_statement_that_would_fail_is_found_before_the_fact(project: Project) -> None:
    """The error says where, and that the target is untouched; the branch is dropped."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a (n int);\n\nALTER TABLE a ADD n int"})
    before = now(target).fingerprint
    error = error_of(lambda: rehearse(target))
    assert isinstance(error, StatementFailed)
    assert str(error) == (
        "step 2 of 0001_a (ALTER TABLE ADD COLUMN; 0001_a.sql, line 3) would fail: "
        'column "n" of relation "a" already exists\n'
        "Detail: It failed on an empty branch that has the target's schema.\n"
        "State: Nothing changed in the target: it failed in a rehearsal.\n"
        "Hint: Correct the migration. Where it needs rows to succeed, prepare with rehearse = False."
    )
    assert (now(target).fingerprint, branches()) == (before, [])


def test_two_rehearsals_at_once_do_not_get_in_each_others_way(project: Project) -> None:
    """Each has a branch of its own; the roles that both need are made once."""
    targets = [
        project(folder={"0001_a.sql": "CREATE TABLE a (); GRANT SELECT ON a TO both_need_it"}, name=f"t{number}")
        for number in range(3)
    ]
    do(targets[0], "CREATE ROLE both_need_it")
    try:
        with ThreadPoolExecutor(3) as pool:
            done = list(pool.map(rehearse, targets))
        assert len({one.end.fingerprint for one in done}) == 1
        assert branches() == []
    finally:
        do(targets[0], "DROP ROLE both_need_it")


def test_a_migration_that_creates_a_role_can_be_rehearsed_again(project: Project) -> None:
    """Roles are the server's: what the first rehearsal created does not make the second one fail."""
    target = project(folder={"0001_a.sql": "CREATE ROLE made_by_a_migration; SET ROLE made_by_a_migration; SELECT 1"})
    first, second = rehearse(target), rehearse(target)
    assert first.end.fingerprint == second.end.fingerprint


def test_branches_of_processes_that_are_gone_are_cleared_away(project: Project) -> None:
    """A rehearsal that was killed leaves its branch; the next one drops it, and leaves those of the living."""
    target = project(folder={"0001_a.sql": "SELECT 1"})
    rehearse(target)
    with Server(empty_branch.SERVER).connect() as conn:
        conn.execute("CREATE DATABASE empty_1_living")
        conn.execute("CREATE DATABASE empty_999999999_gone")
    rehearse(target)
    assert branches() == [("empty_1_living",)]
    with Server(empty_branch.SERVER).connect() as conn:
        conn.execute("DROP DATABASE empty_1_living")


def test_what_a_migration_sets_does_not_reach_the_next_one(project: Project) -> None:
    """As in the real run, with and without a way back."""
    target = project(
        folder={
            "0001_a.sql": "CREATE SCHEMA s; SET search_path = s; CREATE TABLE a ()",
            "0001_a.down.sql": "SET search_path = s; DROP TABLE a; DROP SCHEMA s",
            "0002_b.sql": "CREATE TABLE b ()",
        }
    )
    done = rehearse(target)
    assert done.ways[0].proven
    execute(target)
    assert done.end.fingerprint == now(target).fingerprint
    assert rows(target, "SELECT schemaname FROM pg_tables WHERE tablename = 'b'") == [("public",)]


def test_a_schema_that_is_locked_cannot_be_copied(project: Project) -> None:
    """pg_dump waits two seconds for its locks; then it is said, with the way on."""
    target = project(folder={"0001_a.sql": "SELECT 1"})
    do(target, "CREATE TABLE a (n int)")
    with connect(target, purpose="test") as conn:
        history = histories.read(conn, target)
    here = now(target)
    with session(target, "LOCK TABLE a"):
        error = error_of(lambda: rehearsal.rehearse(target, history, (), (), here))
    assert isinstance(error, Unreachable)
    assert error.message == 'could not copy the schema of target "demo"'
    assert "canceling statement due to" in error.detail
    assert error.hint == "Plan without a rehearsal (rehearse = False), and know that nothing is promised then."
    assert branches() == []


@pytest.mark.parametrize("way", ["url_from", "service"])
def test_the_schema_is_copied_however_the_target_is_reached(
    project: Project, way: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """pg_dump gets the address by its environment, as psycopg has it."""
    reached = project(folder={"0001_a.sql": "CREATE TABLE a ()"})
    address = reached.conninfo()
    folder = tmp_path_factory.mktemp("service")
    (folder / "pg_service.conf").write_text("[ours]\n" + "".join(f"{k}={v}\n" for k, v in address.items()))
    monkeypatch.setenv("PGSERVICEFILE", str(folder / "pg_service.conf"))
    monkeypatch.setenv("ADDRESS", f"postgresql://{address['user']}@/{address['dbname']}?host={address['host']}")
    named = {"service": "ours"} if way == "service" else {"url_from": "ADDRESS"}
    target = Target.model_validate({"name": "other", "migrations": reached.migrations, **named})
    assert rehearse(target).unlike == ()
    assert plan_of(target).changes
