"""notebooks/troubleshoot.ipynb and ``pgrunbook doctor``: from a symptom to what helps."""

from __future__ import annotations

import json
from collections.abc import Callable

import psycopg
import pytest

from acting import completed, error, events, outputs, run
from conftest import connect, do, rows
from pgrunbook.config.targets import Target
from pgrunbook.database import connection, lock_tree, locks, step_log, vitals
from pgrunbook.procedures import diagnosis
from pgrunbook.record.run import Status
from pgrunbook.runner import runbook
from servers import Server

Project = Callable[..., Target]
Command = Callable[..., tuple[int, str, str]]


def test_doctor_names_what_is_wrong_and_changes_nothing(project: Project, command: Command) -> None:
    """A history that does not fit, an invalid index, a table without statistics; exit code 0 when all is well."""
    target = project(folder={"0001_a.sql": "SELECT 1;"})
    assert command("doctor", "--target", "demo") == (0, "Nothing is wrong.\n", "")
    do(target, "CREATE TABLE t (id int); INSERT INTO t SELECT 1 FROM generate_series(1, 60);"
       "CREATE TABLE small (id int); INSERT INTO small VALUES (1);"
       "CREATE TABLE schema_migrations (version text PRIMARY KEY)")  # fmt: skip
    with connect(target) as conn, pytest.raises(psycopg.errors.UniqueViolation):
        conn.execute("CREATE UNIQUE INDEX CONCURRENTLY broken ON t (id)")
    code, out, err = command("doctor", "--target", "demo", "--json")
    found = json.loads(out)
    assert (code, err) == (3, "")
    told = [(one["section"], one["what"]) for one in found]
    assert ("left-behind", "invalid index: public.broken") in told
    assert [what for section, what in told if section == "slow"] == ["public.t has no statistics"]
    assert any(section == "history" for section, _ in told)
    assert all(one["todo"] and one["why"] for one in found)
    code, out, _ = command("doctor", "--target", "demo")
    assert code == 3
    assert "DROP INDEX CONCURRENTLY public.broken" in out
    assert "pgrunbook run troubleshoot --target demo -p end_session=KEY" in out
    assert command("doctor")[0] == 2
    assert rows(target, "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [(1,)]


def test_doctor_looks_while_every_table_is_locked(project: Project, command: Command) -> None:
    """At three in the morning it is asked for just then: it waits for nobody, and says what it could not see."""
    target = project(folder={"0001_a.sql": "SELECT 1;"})
    do(target, "CREATE TABLE t (id serial, b int); INSERT INTO t (b) VALUES (1); CREATE TABLE u (id int)")
    do(target, "ALTER TABLE t ADD CONSTRAINT c CHECK (b > 0) NOT VALID")
    with psycopg.connect(**target.conninfo(), application_name="holder") as holder:
        holder.execute("LOCK t, u")
        code, out, err = command("doctor", "--target", "demo")
    assert (code, err) == (3, "")
    assert "constraint not validated: c" in out
    assert "sequence not checked: public.t_id_seq" in out
    assert '"holder"' in out, "it is idle in its transaction"


@pytest.mark.slow
def test_what_a_person_chose_is_done_and_recorded(project: Project) -> None:
    """One session ended, one leftover removed, one table analyzed; each with who did it, and nothing else."""
    target = project(folder={"0001_a.sql": "SELECT 1;"})
    do(target, 'CREATE TABLE "Odd t" (id int); INSERT INTO "Odd t" VALUES (1), (1); CREATE INDEX fine ON "Odd t" (id)')
    (file,) = rows(target, "SELECT pg_relation_filenode('fine')")
    with connect(target) as conn:
        with pytest.raises(psycopg.errors.UniqueViolation):
            conn.execute('CREATE UNIQUE INDEX CONCURRENTLY "odd i" ON "Odd t" (id)')
        idle = psycopg.connect(**target.conninfo(), application_name="forgotten")
        other = psycopg.connect(**target.conninfo(), application_name="innocent")
        idle.execute("SELECT FROM \"Odd t\" WHERE 'secret' = 'password=hunter2'")
        other.execute("SELECT 1")
        keys = {one.application: one.key for one in lock_tree.sessions(conn)}
    made, code = run(
        "troubleshoot", end_session=keys["forgotten"], how="terminate", remove='["invalid index: public.\\"odd i\\""]',
        analyze='["public.\\"Odd t\\""]', reindex="public.fine",
    )  # fmt: skip
    assert (code, made.status, completed(made)) == (0, Status.DONE, True), error(made)
    assert "ended" in outputs(made, "end-session")
    with pytest.raises(psycopg.OperationalError):
        idle.execute("SELECT 1")
    other.execute("SELECT 1")
    other.close()
    assert rows(target, "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [(0,)]
    assert rows(target, "SELECT count(*) > 0 FROM pg_stats WHERE tablename = 'Odd t'") == [(True,)]
    assert rows(target, "SELECT pg_relation_filenode('fine')") != [file]
    assert events(made, "reindex-meant")[0]["by"] == made.operator
    meant, ended = events(made, "session-end-meant")[0], events(made, "session-ended")[0]
    assert (meant["key"], meant["by"], ended["became"]) == (keys["forgotten"], made.operator, "ended")
    assert "hunter2" not in json.dumps(meant)
    assert [e["key"] for e in events(made, "removed")] == ['invalid index: public."odd i"']
    assert made.parts[-1].says.startswith("Done: terminate process ")


def test_a_migration_that_is_half_applied_is_told_unless_a_run_is_at_work_on_it(project: Project) -> None:
    """Which run began it, and how it goes on."""
    target = project(folder={"0001_a.sql": "SELECT 1;"})
    with connect(target) as conn:
        step_log.create(conn)
        conn.execute(
            "INSERT INTO pgrunbook.step (run_id, migration, direction, step, state, kind, sha256, file_sha256, "
            "plan_digest, started_at) VALUES ('r', '0001_a', 'up', 1, 'done', 'VACUUM', 'x', 'y', 'z', now())"
        )

        def told() -> list[str]:
            found = diagnosis.diagnose(target, conn, vitals.look(conn))
            return [f"{one.what} -> {one.todo}" for one in found if one.section == "history"]

        assert told() == ["0001_a is half applied -> pgrunbook run --resume r, or pgrunbook run rollback --target demo"]
        with locks.one_runner(target, "r"):
            assert told() == []
        do(target, "CREATE ROLE takes_the_lock LOGIN")
        try:  # its name and the lock are anybody's to take
            given = {**target.conninfo(), "user": "takes_the_lock", "application_name": "pgrunbook migrate"}
            with psycopg.connect(**given, autocommit=True) as other:
                other.execute("SELECT pg_advisory_lock(%s::int, %s::int)", locks.LOCK_KEY)
                assert locks.run_in_progress(conn)
                assert len(told()) == 1
        finally:
            do(target, "DROP ROLE takes_the_lock")


def test_a_schema_that_we_may_not_read_hides_no_conflict_of_the_history(project: Project) -> None:
    """What a run has left half done is not known then; the history table is read all the same."""
    target = project(folder={"0001_a.sql": "SELECT 1;"})
    with connect(target) as conn:
        step_log.create(conn)
    do(target, "CREATE TABLE schema_migrations (version text, applied_at timestamptz);"
       " INSERT INTO schema_migrations VALUES ('0000_gone', now()); CREATE ROLE only_reads LOGIN;"
       " GRANT SELECT ON schema_migrations TO only_reads")  # fmt: skip
    try:
        given = {**target.conninfo(), "user": "only_reads"}
        with connection.Connection.connect(**given, autocommit=True) as conn:
            found = diagnosis.diagnose(target, conn, vitals.look(conn))
        told = [one.what for one in found if one.section == "history"]
        assert told == ["section history could not be looked at", "0000_gone is missing"]
    finally:
        do(target, "DROP OWNED BY only_reads; DROP ROLE only_reads")


def test_a_section_that_is_refused_hides_no_other(project: Project) -> None:
    """Somebody else's table in schema pgrunbook: that is told, and so is what is left behind beside it."""
    target = project(folder={"0001_a.sql": "SELECT 1;"})
    do(target, "CREATE SCHEMA pgrunbook; CREATE TABLE pgrunbook.evil (); CREATE TABLE t (n int); "
       "ALTER TABLE t ADD CONSTRAINT c CHECK (n > 0) NOT VALID")  # fmt: skip
    with connection.connect(target, purpose="doctor") as conn:
        found = diagnosis.diagnose(target, conn, vitals.look(conn))
    told = [(one.section, one.what) for one in found if one.section in ("history", "left-behind")]
    assert told[0][1].startswith("cannot use schema pgrunbook of database ")
    assert told[1:] == [("left-behind", "constraint not validated: c of public.t")]


@pytest.mark.slow
def test_a_history_is_repaired_as_a_person_chose(project: Project, command: Command) -> None:
    """Shown as SQL and tried in one run, done in the next, with who did it; doctor finds no conflict then."""
    target = project(folder={"0001_a.sql": "SELECT 1;"})
    do(target, "CREATE TABLE schema_migrations (version text, applied_at timestamptz); "
       "INSERT INTO schema_migrations VALUES ('0001_a', now()), ('0001_a', NULL)")  # fmt: skip
    code, out, _ = command("doctor", "--target", "demo")
    assert code == 3
    assert "-p 'repair=delete duplicates: 0001_a'" in " ".join(out.split())
    made, code = run("troubleshoot")
    assert (code, completed(made)) == (0, True), error(made)
    shown = (made.folder / "repairs.csv").read_text()
    assert "ORDER BY ctid DESC LIMIT 1" in shown
    assert "yes: it was tried, and aborted" in shown
    assert rows(target, "SELECT count(*) FROM schema_migrations") == [(2,)]
    made, code = run("troubleshoot", repair="delete duplicates: 0001_a")
    assert (code, completed(made)) == (0, True), error(made)
    assert rows(target, "SELECT applied_at IS NULL FROM schema_migrations") == [(False,)]
    meant, repaired = events(made, "repair-meant")[0], events(made, "repaired")[0]
    assert (meant["key"], meant["by"]) == ("delete duplicates: 0001_a", made.operator)
    assert repaired["sql"].startswith('DELETE FROM "public"."schema_migrations"')
    assert [one["section"] for one in json.loads(command("doctor", "--target", "demo", "--json")[1])] == []


@pytest.mark.slow
def test_a_run_that_was_cut_off_behind_what_it_did_goes_on(project: Project) -> None:
    """What it meant to do and is gone is no error; what is left of its choice is done."""
    target = project(folder={"0001_a.sql": "SELECT 1;"})
    do(target, "CREATE TABLE t (id int); ALTER TABLE t ADD CONSTRAINT c CHECK (id > 0) NOT VALID, "
       "ADD CONSTRAINT d CHECK (id > 1) NOT VALID; INSERT INTO t VALUES (2)")  # fmt: skip
    keys = [f"constraint not validated: {name} of public.t" for name in "cd"]
    with psycopg.connect(**target.conninfo()) as holder:
        holder.execute("LOCK t IN SHARE UPDATE EXCLUSIVE MODE")
        made, code = run("troubleshoot", remove=",".join(keys))
    assert code == 1
    assert error(made).splitlines()[0] == f"could not remove {keys[0]}"
    do(target, "ALTER TABLE t VALIDATE CONSTRAINT c")  # as if it had been cut off right behind it
    made, code = runbook.resume(made.run_id)
    assert (code, made.status) == (0, Status.DONE)
    assert "gone: this run meant to remove it before" in outputs(made, "remove-leftovers")
    assert rows(target, "SELECT count(*) FROM pg_constraint WHERE NOT convalidated") == [(0,)]


@pytest.mark.slow
def test_what_was_done_before_an_error_is_told_and_not_done_again(project: Project) -> None:
    """A session ended, a history repaired, one of two leftovers removed; the other one is locked."""
    target = project(folder={"0001_a.sql": "SELECT 1;"})
    do(target, "CREATE TABLE schema_migrations (version text, applied_at timestamptz);"
       " INSERT INTO schema_migrations VALUES ('0001_a', now()), ('0001_a', NULL);"
       " CREATE TABLE t (id int); CREATE TABLE u (id int);"
       " ALTER TABLE t ADD CONSTRAINT c CHECK (id > 0) NOT VALID;"
       " ALTER TABLE u ADD CONSTRAINT d CHECK (id > 0) NOT VALID")  # fmt: skip
    with psycopg.connect(**target.conninfo()) as holder, connect(target) as conn:
        holder.execute("LOCK u IN SHARE UPDATE EXCLUSIVE MODE")
        forgotten = psycopg.connect(**target.conninfo(), application_name="forgotten")
        forgotten.execute("SELECT 1")
        (key,) = (one.key for one in lock_tree.sessions(conn) if one.application == "forgotten")
        keys = [f"constraint not validated: {name}" for name in ("c of public.t", "d of public.u")]
        made, code = run(
            "troubleshoot", end_session=key, how="terminate", repair="delete duplicates: 0001_a", remove=",".join(keys)
        )
    forgotten.close()
    assert code == 1
    (state,) = [line for line in error(made).splitlines() if line.startswith("State: ")]
    assert state.startswith("State: Done before: terminate process ")
    assert f"repaired the history (delete duplicates: 0001_a); removed {keys[0]}. It is there as before" in state
    made, code = runbook.resume(made.run_id)
    assert (code, made.status) == (0, Status.DONE)
    assert "gone: this run meant to end it before" in outputs(made, "end-session")
    assert "offered no more: this run meant to do it before" in outputs(made, "repair-history")
    assert "gone: this run meant to remove it before" in outputs(made, "remove-leftovers")
    done = [(e["event"], e.get("key")) for e in events(made) if e["event"] in ("session-ended", "repaired", "removed")]
    assert done == [
        ("session-ended", key), ("repaired", "delete duplicates: 0001_a"), ("removed", keys[0]), ("removed", keys[1])
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.newest
def test_what_the_server_passes_over_is_not_told_as_done(
    project: Project, server: Server, database: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ANALYZE of a table of another role is a warning of the server only."""
    role = "only_analyzes"
    name = database(
        f"DROP ROLE IF EXISTS {role}", f"CREATE ROLE {role} LOGIN", "CREATE TABLE t (id int)",
        "CREATE TABLE own (id int)", f"ALTER TABLE own OWNER TO {role}",
        f"CREATE SCHEMA pgrunbook AUTHORIZATION {role}",
    )  # fmt: skip
    monkeypatch.setenv("ANALYZES", f"host={server.socket_dir} user={role} dbname={name}")
    project(folder={"0001_a.sql": "SELECT 1;"}, server=None, database=None, url_from="ANALYZES")
    made, code = run("troubleshoot", analyze="public.t,public.own")
    told_why = outputs(made, "analyze-tables")
    assert "no: permission denied to analyze" in told_why or "owner can analyze it" in told_why
    (told,) = events(made, "analyzed")
    assert (told["tables"], list(told["refused"])) == (["public.own"], ["public.t"])
    assert code == 1
    assert "Done before: ANALYZE public.own. Nothing else changed in the database." in told_why
    with server.connect(name) as admin:
        admin.execute(f"DROP OWNED BY {role}")
        admin.execute(f"DROP ROLE {role}")


@pytest.mark.slow
def test_a_choice_that_is_gone_is_refused_before_anything_is_done(project: Project) -> None:
    """Exit code 2, and what was chosen beside it is not done."""
    target = project(folder={"0001_a.sql": "SELECT 1;"})
    do(target, "CREATE TABLE t (id int); ALTER TABLE t ADD CONSTRAINT c CHECK (id > 0) NOT VALID")
    made, code = run("troubleshoot", remove="constraint not validated: c of public.t,invalid index: public.gone")
    assert code == 2
    assert error(made).splitlines()[0] == 'there is no leftover "invalid index: public.gone"'
    assert rows(target, "SELECT convalidated FROM pg_constraint WHERE conname = 'c'") == [(False,)]


@pytest.mark.slow
def test_queries_are_explained_as_a_person_chose(project: Project) -> None:
    """By the name of a critical query or as a text; what is executed is aborted, and what does not end says so."""
    target = project(folder={"0001_a.sql": "SELECT 1;"}, critical_queries={"by id": "SELECT n FROM t WHERE id = 7"})
    do(target, "CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t SELECT i, i FROM generate_series(1, 900) i")
    made, code = run(
        "troubleshoot", explain="by id", explain_timeout_s="1",
        explain_analyze=json.dumps(["UPDATE t SET n = 0", "SELECT pg_sleep(30)", "SELECT nope"]),
    )  # fmt: skip
    assert (code, made.status, completed(made)) == (0, Status.DONE, True), error(made)
    told = outputs(made, "explain-queries")
    assert "Index Scan using t_pkey" in told
    assert "not executed: canceling statement due to statement timeout" in told
    assert 'column "nope" does not exist' in told
    assert "Update on t" in told
    assert rows(target, "SELECT count(*), min(n) FROM t") == [(900, 1)]
    assert [e["executes"] for e in events(made, "explain-meant")] == [False, True, True, True]
    assert made.parts[-1].says.startswith("Nothing changed in the database")


@pytest.mark.slow
def test_a_lost_index_and_a_plan_that_got_dearer_are_told(project: Project) -> None:
    """Against what the last validating run has found, and what was measured before the last change."""
    target = project(folder={"0001_a.sql": "SELECT 1;"}, critical_queries={"by n": "SELECT id FROM t WHERE n = 7"})
    do(target, "CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t SELECT i, i FROM generate_series(1, 9000) i;"
       "CREATE INDEX by_n ON t (n); ANALYZE t")  # fmt: skip
    made, code = run("release")
    assert (code, completed(made)) == (0, True), error(made)

    def told() -> list[tuple[str, str]]:
        with connection.connect(target, purpose="doctor") as conn:
            found = diagnosis.diagnose(target, conn, vitals.look(conn))
        return [(one.what, one.todo) for one in found if one.section == "slow"]

    assert told() == []
    do(target, "DROP INDEX by_n")
    (index, todo), (query, _) = told()
    assert index == "index by_n of public.t is gone"
    assert todo == "CREATE INDEX CONCURRENTLY by_n ON public.t USING btree (n)"
    assert query == 'query "by n" has another plan than before the last change'
    made, code = run("troubleshoot")
    assert (code, completed(made)) == (0, True), error(made)
    assert "another plan" in outputs(made, "slow")
    assert "by_n" in outputs(made, "slow")
