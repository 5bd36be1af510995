"""A rehearsal on an empty branch: what it promises is what the real run ends in."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from conftest import connect, do, rows, write_folder
from pgrunbook import history as histories
from pgrunbook.branches.server_name import server_names
from pgrunbook.config.targets import Target
from pgrunbook.database.checksums import checksums
from pgrunbook.database.schema import Snapshot, snapshot
from pgrunbook.database.schema_diff import diff
from pgrunbook.errors import Refused, StatementFailed, Unreachable
from pgrunbook.execute.results import StepState
from pgrunbook.history.state import leave_out
from pgrunbook.plan.plan import Plan
from pgrunbook.plan.step import SafeStep
from pgrunbook.rehearse import schema_only
from pgrunbook.rehearse.schema_only import Rehearsal
from pgrunbook.safe_forms.alter_table import in_parts
from pgrunbook.safe_forms.constraints import NOT_NULL_OF_PARTITIONS
from safe_forms_stage import change_form
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
        return snapshot(conn, leave_out=leave_out(histories.read(conn, target)))


def safely(target: Target, off: dict[str, str] | None = None, *, prefer_down_scripts: bool = False) -> Rehearsal:
    """Rehearse what is pending, with a safe form for each statement that has one."""
    with connect(target, purpose="test") as conn:
        history = histories.read(conn, target)
        here = snapshot(conn, leave_out=leave_out(history))
        return schema_only.rehearse(
            target,
            history,
            history.pending(),
            lambda: here,
            conn,
            off=off or {},
            prefer_down_scripts=prefer_down_scripts,
        )


def planned(target: Target, done: Rehearsal) -> Plan:
    """The plan that came of a rehearsal."""
    return plan_of(target).model_copy(update={"changes": done.changes})


def branches() -> list[str]:
    return [name for name in server_names() if name.startswith("branch-")]


@pytest.mark.slow
def test_the_promised_schema_is_the_one_that_the_real_run_ends_in(project: Project) -> None:
    """The example's pending migrations: the fingerprint after each is the promised one, and rows change nothing."""
    target = project()
    done = safely(target)
    assert done.unlike == ()
    assert done.before.fingerprint == now(target).fingerprint
    execute(target)
    assert done.end.fingerprint == now(target).fingerprint
    assert len(done.after) == 3
    assert branches() == []


@pytest.mark.slow
def test_roles_extensions_partitions_and_quoted_names_are_on_the_branch_as_well(project: Project) -> None:
    """The branch has exactly the target's schema, with its owners and grants."""
    target = project(
        folder={"0001_a.sql": 'ALTER TABLE "Odd schema"."T 1" ADD n int; REVOKE SELECT (n) ON p FROM reader'}
    )
    do(target, "CREATE ROLE owner_of_p; CREATE ROLE reader;" + RICH)
    try:
        done = safely(target)
        assert done.unlike == ()
        execute(target)
        assert done.end.fingerprint == now(target).fingerprint
    finally:
        do(target, "DROP OWNED BY owner_of_p, reader CASCADE; DROP ROLE owner_of_p, reader")


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize(
    "sql",
    [
        "DROP OWNED BY leaves; DROP /* for good */ ROLE leaves",
        "DO $$ BEGIN EXECUTE 'DROP OWNED ' || 'BY leaves'; EXECUTE 'DROP ' || 'ROLE leaves'; END $$",
        "REASSIGN OWNED BY leaves TO postgres; DROP TABLE gone; DROP USER leaves",
    ],
)
def test_a_role_that_owns_something_can_be_dropped(project: Project, sql: str) -> None:
    """No other database of the branch's server keeps a role that a migration drops."""
    target = project(folder={"0001_a.sql": sql})
    do(target, "CREATE ROLE leaves; CREATE TABLE gone (id int); ALTER TABLE gone OWNER TO leaves")
    done = safely(target)
    assert done.before.fingerprint != done.end.fingerprint
    do(target, sql)
    assert done.end.fingerprint == now(target).fingerprint


@pytest.mark.slow
def test_our_own_schema_in_the_target_is_passed_over(project: Project) -> None:
    """The second release: schema pgrunbook and the history table are there, and not part of the promise."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a ()"})
    execute(target)
    (target.migrations / "0002_b.sql").write_text("CREATE TABLE b ()")
    done = safely(target)
    assert done.unlike == ()
    execute(target)
    assert done.end.fingerprint == now(target).fingerprint


@pytest.mark.slow
def test_the_way_back_is_proven_or_not(project: Project) -> None:
    """Proven, another schema, failing, and none at all: each is said, and the rehearsal goes on.

    Where a down script does not lead back, the computed way is taken.
    """
    target = project(
        folder={
            "0001_good.sql": "CREATE TABLE a (n int)",
            "0001_good.down.sql": "DROP TABLE a",
            "0002_other.sql": "CREATE TABLE b (n int); ALTER TABLE a ADD m int",
            "0002_other.down.sql": "DROP TABLE b",
            "0003_fails.sql": "CREATE TABLE c (n int)",
            "0003_fails.down.sql": "DROP TABLE d",
            "0004_computed.sql": "CREATE TABLE d (n int)",
            "0005_alone.sql": "CREATE INDEX CONCURRENTLY i ON a (n)",
            "0005_alone.down.sql": "DROP INDEX CONCURRENTLY i",
            "0006_once.sql": "ALTER TYPE mood ADD VALUE 'x'",
            "0006_once.down.sql": "SELECT 1",
        }
    )
    do(target, "CREATE TYPE mood AS ENUM ('a'); CREATE TABLE by_mood (m mood) PARTITION BY LIST (m)")
    done = safely(target)
    ways = {change.migration: (change.proof.proven, change.proof.told) for change in done.changes}
    same = "down script: up, down and up again on an empty branch, the schema is equal each time"
    assert ways["0001_good"] == ways["0005_alone"] == (True, same)
    computed = same.replace("down script", "computed")
    assert ways["0002_other"][0]
    assert ways["0002_other"][1].startswith(
        f"{computed}; its down script does not lead back: it ends in another schema: "
    )
    assert "a.m" in ways["0002_other"][1]
    fails = 'it fails: table "d" does not exist'
    assert ways["0003_fails"] == (True, f"{computed}; its down script does not lead back: {fails}")
    assert ways["0004_computed"] == (True, computed)
    assert not ways["0006_once"][0]
    assert ways["0006_once"][1].startswith("down script: it ends in another schema: ")
    assert "; 0006_once:1: It cannot be undone, because PostgreSQL cannot remove the value 'x'" in ways["0006_once"][1]
    assert [c.way_back for c in done.changes] == [
        "down script", "computed", "computed", "computed", "down script", "down script",
    ]  # fmt: skip
    execute(target)
    assert done.end.fingerprint == now(target).fingerprint


def test_a_statement_that_would_fail_is_found_before_the_fact(project: Project) -> None:
    """The error says where, and that the target is untouched; the branch is dropped."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a (n int);\n\nALTER TABLE a ADD n int"})
    before = now(target).fingerprint
    error = error_of(lambda: safely(target))
    assert isinstance(error, StatementFailed)
    assert str(error) == (
        "step 2 of 0001_a (ALTER TABLE ADD COLUMN; 0001_a.sql, line 3) would fail: "
        'column "n" of relation "a" already exists\n'
        "Detail: It failed on an empty branch that has the target's schema.\n"
        "State: Nothing changed in the target: it failed in a rehearsal.\n"
        "Hint: Correct the migration. Where it needs rows to succeed, prepare with rehearse = False."
    )
    assert (now(target).fingerprint, branches()) == (before, [])


@pytest.mark.slow
def test_two_rehearsals_at_once_do_not_get_in_each_others_way(project: Project) -> None:
    """Each has a branch of its own; the roles that both need are made once."""
    targets = [
        project(folder={"0001_a.sql": "CREATE TABLE a (); GRANT SELECT ON a TO both_need_it"}, name=f"t{number}")
        for number in range(3)
    ]
    do(targets[0], "CREATE ROLE both_need_it")
    try:
        with ThreadPoolExecutor(3) as pool:
            done = list(pool.map(safely, targets))
        assert len({one.end.fingerprint for one in done}) == 1
        assert branches() == []
    finally:
        do(targets[0], "DROP ROLE both_need_it")


@pytest.mark.slow
def test_a_migration_that_creates_a_role_can_be_rehearsed_again(project: Project) -> None:
    """Roles are the server's: what the first rehearsal created does not make the second one fail."""
    target = project(folder={"0001_a.sql": "CREATE ROLE made_by_a_migration; SET ROLE made_by_a_migration; SELECT 1"})
    first, second = safely(target), safely(target)
    assert first.end.fingerprint == second.end.fingerprint


@pytest.mark.slow
def test_what_a_migration_sets_does_not_reach_the_next_one(project: Project) -> None:
    """As in the real run, with and without a way back."""
    target = project(
        folder={
            "0001_a.sql": "CREATE SCHEMA s; SET search_path = s; CREATE TABLE a ()",
            "0001_a.down.sql": "SET search_path = s; DROP TABLE a; DROP SCHEMA s",
            "0002_b.sql": "CREATE TABLE b ()",
        }
    )
    done = safely(target)
    assert done.changes[0].proof.proven
    execute(target)
    assert done.end.fingerprint == now(target).fingerprint
    assert rows(target, "SELECT schemaname FROM pg_tables WHERE tablename = 'b'") == [("public",)]


@pytest.mark.slow
def test_a_schema_that_is_locked_cannot_be_copied(project: Project) -> None:
    """pg_dump waits two seconds for its locks; then it is said, with the way on."""
    target = project(folder={"0001_a.sql": "SELECT 1"})
    do(target, "CREATE TABLE a (n int)")
    with connect(target, purpose="test") as conn:
        history = histories.read(conn, target)
        here = now(target)
        with session(target, "LOCK TABLE a"):
            error = error_of(lambda: schema_only.rehearse(target, history, (), lambda: here, conn, off={}))
    assert isinstance(error, Unreachable)
    assert error.message == 'could not copy the schema of target "demo"'
    assert "canceling statement due to" in error.detail
    assert error.hint == (
        "Another session holds a lock on a table: wait until it has ended, then try again. "
        "Or plan without a rehearsal (rehearse = False); then nothing is promised about its result."
    )
    assert branches() == []


@pytest.mark.slow
@pytest.mark.first_case
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
    assert safely(target).unlike == ()
    assert plan_of(target).changes


ROWS = """
CREATE TABLE u (id integer PRIMARY KEY);
INSERT INTO u SELECT generate_series(1, 50);
CREATE TABLE t (id integer PRIMARY KEY, a integer, b text);
INSERT INTO t SELECT i, i, 'b' || i FROM generate_series(1, 50) AS i;
CREATE TABLE p (id integer NOT NULL, a integer) PARTITION BY RANGE (id);
CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (30);
CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM (30) TO (60);
INSERT INTO p SELECT i, i FROM generate_series(1, 50) AS i;
"""
RELEASE = {
    "0001_keys.sql": "CREATE INDEX t_a ON t (a); ALTER TABLE t ADD CONSTRAINT tu FOREIGN KEY (a) REFERENCES u",
    "0001_keys.down.sql": "ALTER TABLE t DROP CONSTRAINT tu; DROP INDEX t_a",
    "0002_rules.sql": "ALTER TABLE t ADD CHECK (a > 0), ALTER b SET NOT NULL; ALTER TABLE u ADD n int DEFAULT 1",
    "0003_rows.sql": "UPDATE t SET b = b || a WHERE a > 10; DELETE FROM u WHERE id > 60",
    "0004_names.sql": "ALTER TABLE t RENAME b TO told; ALTER TABLE p ADD COLUMN r float DEFAULT random() * 0",
    "0004_names.down.sql": "ALTER TABLE t RENAME told TO b; ALTER TABLE p DROP r",
    "0005_again.sql": "CREATE INDEX ON t (told); CREATE TABLE n (id int); CREATE INDEX ON n (id)",
    "0005_again.down.sql": "DROP TABLE n",
}


@pytest.mark.slow
def test_a_safe_release_ends_where_the_plain_one_ends(project: Project) -> None:
    """Five migrations: after each the schema is equal both ways, and the real run ends in the promised one."""
    target = project(folder=RELEASE, batch_rows=8)
    do(target, ROWS)
    twin = project(folder=RELEASE, name="twin", template=str(target.database))
    done = safely(target)
    assert {s.form for c in done.changes for s in c.statements} == {"", "alter-table", "batches", "create-index"}
    assert (done.unlike, done.declared, len(done.after)) == ((), (), 5)
    execute(target, planned(target, done))
    execute(twin)
    assert done.end.fingerprint == now(target).fingerprint == now(twin).fingerprint
    with connect(target, purpose="test") as a, connect(twin, purpose="test") as b:
        left = ["pgrunbook", "public.schema_migrations"]
        assert checksums(a, leave_out=left) == checksums(b, leave_out=left)
    assert branches() == []


@pytest.mark.slow
def test_down_scripts_are_proven_beside_safe_forms(project: Project) -> None:
    """The way back of a migration does not depend on the way it was taken up."""
    target = project(folder=RELEASE, batch_rows=8)
    do(target, ROWS)
    done = safely(target)
    assert [one.fingerprint for one in done.after] == [one.fingerprint for one in safely(target).after]
    ways = {way.migration: (way.proof.proven, way.proof.told) for way in done.changes}
    says = "{}: up, down and up again on an empty branch, the schema is equal each time"
    assert ways["0001_keys"] == ways["0004_names"] == (True, says.format("down script"))
    assert ways["0002_rules"] == ways["0003_rows"] == (True, says.format("computed"))
    assert ways["0005_again"] == (True, (
        f"{says.format('computed')}; its down script does not lead back: it ends in another schema: "
        "+ index public.t.t_told_idx: CREATE INDEX t_told_idx ON public.t USING btree (told)"
    ))  # fmt: skip


@pytest.mark.slow
def test_a_release_without_safe_forms_is_executed_once(project: Project) -> None:
    """There is nothing to compare: the schemas are those of the plain statements, and the changes are all there."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a (n int)", "0002_b.sql": "CREATE INDEX ON a (n)"})
    done = safely(target)
    assert [s.form for c in done.changes for s in c.statements] == ["", ""]
    assert [c.migration for c in done.changes] == ["0001_a", "0002_b"]
    assert done.end.fingerprint == safely(target).end.fingerprint


@pytest.mark.slow
def test_nothing_pending_is_rehearsed_as_nothing(project: Project) -> None:
    """The end is the beginning."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a ()"})
    execute(target)
    done = safely(target)
    assert (done.changes, done.after, done.end) == ((), (), done.before)


@pytest.mark.slow
def test_what_the_first_branch_made_on_the_server_is_not_in_the_seconds_way(project: Project) -> None:
    """Roles and databases are the server's."""
    target = project(
        folder={
            "0001_role.sql": "CREATE ROLE of_the_release; GRANT SELECT ON t TO of_the_release;"
            "ALTER TABLE t OWNER TO of_the_release; ALTER TABLE t ADD CHECK (a > 0)",
            "0002_database.sql": "CREATE DATABASE of_the_release",
        }
    )
    do(target, ROWS)
    done = safely(target)
    assert done.changes[0].statements[3].form == "alter-table"
    assert safely(target).end.fingerprint == done.end.fingerprint


@pytest.mark.slow
def test_a_role_that_the_target_has_stays_when_a_rehearsal_ends(project: Project) -> None:
    """Only what a branch made is taken away with it."""
    target = project(folder={"0001_a.sql": "ALTER TABLE t OWNER TO keeper; ALTER TABLE t ADD CHECK (a > 0)"})
    do(target, f"CREATE ROLE keeper; {ROWS}")
    try:
        assert safely(target).end.fingerprint == safely(target).end.fingerprint
    finally:
        do(target, "DROP OWNED BY keeper; DROP ROLE keeper")


def version(target: Target) -> int:
    return int(str(rows(target, "SHOW server_version_num")[0][0])) // 10_000


@pytest.mark.slow
def test_a_difference_by_nature_is_declared_and_no_more(project: Project) -> None:
    """A primary key on a partitioned table says NOT NULL once more for each partition, from PostgreSQL 18 on."""
    target = project(folder={"0001_a.sql": "ALTER TABLE p ADD PRIMARY KEY (id)"}, batch_rows=8)
    do(target, ROWS)
    done = safely(target)
    execute(target, planned(target, done))
    assert done.end.fingerprint == now(target).fingerprint
    if version(target) < 18:
        assert done.declared == ()
        return
    assert [(d.kind, d.name, d.change) for d in done.declared] == [
        ("column", "public.p_1.id", "changed"), ("column", "public.p_2.id", "changed"),
    ]  # fmt: skip
    assert NOT_NULL_OF_PARTITIONS in done.changes[0].statements[0].differs


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize(
    "later",
    [
        "ALTER TABLE p ALTER id SET DEFAULT 7",
        "ALTER TABLE p RENAME id TO number",
        "ALTER TABLE p_2 RENAME TO p_two",
        "ALTER TABLE p DETACH PARTITION p_2",
        "DROP TABLE p",
    ],
)
def test_a_declared_difference_stays_declared_when_its_column_changes(project: Project, later: str) -> None:
    """What a later migration does to the same column does not make a difference of its own."""
    target = project(folder={"0001_a.sql": "ALTER TABLE p ADD PRIMARY KEY (id)", "0002_b.sql": later}, batch_rows=8)
    do(target, ROWS)
    done = safely(target)
    execute(target, planned(target, done))
    assert done.end.fingerprint == now(target).fingerprint
    assert {d.name.split(".")[1] for d in diff(rehearse_plain_end(project, later), now(target))} <= {
        "p_1", "p_2", "p_two",
    }  # fmt: skip


def rehearse_plain_end(project: Project, later: str) -> Snapshot:
    """Where the plain statements of that release end."""
    twin = project(folder={"0001_a.sql": "ALTER TABLE p ADD PRIMARY KEY (id)", "0002_b.sql": later}, name="twin")
    do(twin, ROWS)
    execute(twin)
    return now(twin)


@pytest.mark.slow
def test_a_partition_that_cannot_let_go_of_not_null_is_refused(project: Project) -> None:
    """There the declared difference has become a real one: rows that the plain end takes would be refused."""
    later = "ALTER TABLE p DROP CONSTRAINT p_pkey; ALTER TABLE p ALTER id DROP NOT NULL"
    target = project(folder={"0001_a.sql": "ALTER TABLE p ADD PRIMARY KEY (id)", "0002_b.sql": later}, batch_rows=8)
    do(target, ROWS)
    do(target, "ALTER TABLE p ALTER id DROP NOT NULL")
    if version(target) < 18:
        pytest.skip("PostgreSQL 18 is the first to know this")
    error = error_of(lambda: safely(target))
    assert isinstance(error, Refused)
    assert error.message == "the safe plan of 0002_b ends in another schema than its SQL"
    assert "public.p_1.id" in error.detail


def smuggle(monkeypatch: pytest.MonkeyPatch, statement: str) -> None:
    """Let our form do more than it says: there is no honest way to make it err."""
    more = SafeStep(statement, "One thing more.")
    change_form(monkeypatch, in_parts, lambda found: replace(found, steps=(*found.steps, more)))


@pytest.mark.slow
def test_a_form_that_ends_elsewhere_is_found_and_refused(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in our own form, which this test makes: the target is untouched, and the error says what differs."""
    target = project(folder={"0001_a.sql": "SELECT 1", "0002_b.sql": "ALTER TABLE t ADD CHECK (a > 0)"})
    do(target, ROWS)
    before = now(target).fingerprint
    smuggle(monkeypatch, "ALTER TABLE t ADD COLUMN smuggled int")
    error = error_of(lambda: safely(target))
    assert isinstance(error, Refused)
    assert str(error) == (
        "the safe plan of 0002_b ends in another schema than its SQL\n"
        "Detail: + column public.t.smuggled: integer\n"
        "State: Nothing changed in the target: this was found on a branch.\n"
        "Hint: Switch the safe form off for the statement (safe_forms_off), and report this."
    )
    assert (now(target).fingerprint, branches()) == (before, [])
    assert safely(target, {"0002_b:1": "it smuggles"}).changes[1].statements[0].form == ""


@pytest.mark.slow
def test_a_declared_difference_does_not_hide_another_one(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the very column of which one is declared, every other difference is refused."""
    target = project(folder={"0001_a.sql": "ALTER TABLE p ADD PRIMARY KEY (id)"}, batch_rows=8)
    do(target, ROWS)
    smuggle(monkeypatch, "ALTER TABLE p_1 ALTER id SET DEFAULT 9")
    error = error_of(lambda: safely(target))
    assert isinstance(error, Refused)
    assert "column public.p_1.id: integer NOT NULL INHERITED -> integer DEFAULT 9 NOT NULL" in error.detail
    assert "p_2" not in error.detail


@pytest.mark.slow
def test_a_statement_that_only_the_safe_plan_fails_on_is_found(project: Project) -> None:
    """What held to the file's end as one transaction is gone when the plan is several: it is said before the fact."""
    # No reader can tell what it makes.
    made = "EXECUTE format('CREATE TEMP TABLE few ON COMMIT DROP AS SELECT %s AS n', length(version()) * 0 + 1)"
    sql = f"DO $$ BEGIN {made}; END $$;\nALTER TABLE t ADD CHECK (a > 0);\n"
    target = project(folder={"0001_a.sql": sql + "INSERT INTO u SELECT n + 100 FROM few"})
    do(target, ROWS)
    before = now(target).fingerprint
    error = error_of(lambda: safely(target))
    assert isinstance(error, StatementFailed)
    assert error.message.startswith("the safe plan would fail: could not run step 4 of 0001_a (INSERT; ")
    assert error.message.endswith('line 3): relation "few" does not exist')
    assert error.state == "Nothing changed in the target: it failed in a rehearsal."
    assert "safe_forms_off" in error.hint
    assert (now(target).fingerprint, branches()) == (before, [])
    execute(target, planned(target, safely(target, {"0001_a:2": "the file needs one transaction"})))
    assert rows(target, "SELECT count(*) FROM u") == [(51,)]


@pytest.mark.slow
def test_a_statement_that_fails_either_way_is_told_as_the_files_own(project: Project) -> None:
    """It fails as it is written: the safe form has no part in it."""
    target = project(folder={"0001_a.sql": "ALTER TABLE t ADD CHECK (nothing > 0)"})
    do(target, ROWS)
    error = error_of(lambda: safely(target))
    assert isinstance(error, StatementFailed)
    assert error.message == (
        'step 1 of 0001_a (ALTER TABLE ADD CONSTRAINT; 0001_a.sql, line 1) would fail: column "nothing" does not exist'
    )


@pytest.mark.slow
def test_a_materialized_view_holds_its_rows_on_the_branch_as_in_the_target(project: Project) -> None:
    """Else its schema were another one, and REFRESH had no rows to spare readers from."""
    target = project(folder={"0001_a.sql": "REFRESH MATERIALIZED VIEW mv"})
    do(target, ROWS)
    do(target, "CREATE MATERIALIZED VIEW mv AS SELECT a FROM t; CREATE UNIQUE INDEX ON mv (a)")
    do(target, 'CREATE SCHEMA "O o"; CREATE MATERIALIZED VIEW "O o"."M m" AS SELECT a FROM mv')
    do(target, "CREATE MATERIALIZED VIEW empty AS SELECT a FROM t WITH NO DATA")
    done = safely(target)
    assert done.unlike == ()
    assert done.changes[0].statements[0].form == "refresh"
    execute(target, planned(target, done))
    assert done.end.fingerprint == now(target).fingerprint


@pytest.mark.slow
def test_a_view_that_cannot_do_without_rows_is_left_out_of_the_comparison(project: Project) -> None:
    """The branch has it WITH NO DATA, and says that it is not compared."""
    target = project(folder={"0001_a.sql": "ALTER TABLE t ADD CHECK (a > 0)"})
    do(target, f"{ROWS} CREATE MATERIALIZED VIEW mv AS SELECT 1 / count(*) AS n FROM t")
    done = safely(target)
    assert done.unlike == (("materialized view", "public.mv"),)
    execute(target, planned(target, done))
    assert schema_only.unexpected(done.end, now(target), done.unlike) == []


@pytest.mark.slow
def test_a_plan_that_was_begun_goes_on_to_the_promised_end(project: Project) -> None:
    """What is applied of it is not rehearsed again; the rest is promised from there."""
    files = {name: text for name, text in RELEASE.items() if "down" not in name}
    target = project(folder={k: v for k, v in files.items() if k < "0003"}, batch_rows=8)
    do(target, ROWS)
    results = execute(target, planned(target, safely(target)))
    assert {result.state for result in results} == {StepState.DONE}
    write_folder(target.migrations, files)
    done = safely(target)
    assert [change.migration for change in done.changes] == ["0003_rows", "0004_names", "0005_again"]
    execute(target, planned(target, done))
    assert done.end.fingerprint == now(target).fingerprint
