"""notebooks/migrate.ipynb: do exactly that."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from acting import (
    cells,
    completed,
    error,
    events,
    facts,
    go_on_with,
    in_transaction,
    notebook,
    outputs,
    run,
    wait_until,
)
from budget import sample
from conftest import ROOT, connect, do, rows
from pgrunbook.config.targets import Target
from pgrunbook.database import locks
from pgrunbook.errors import Refused
from pgrunbook.plan import plan as plans
from pgrunbook.procedures import migrate
from pgrunbook.record.run import Status
from pgrunbook.runner import runbook
from pgrunbook.session import acceptance
from pgrunbook.session import session as heres
from scenes import error_of, meanwhile

Project = Callable[..., Target]
Command = Callable[..., tuple[int, str, str]]

TWO = {
    "0001_a.sql": "CREATE TABLE a (id int PRIMARY KEY);",
    "0002_b.sql": "ALTER TABLE a ADD COLUMN b text; CREATE TABLE b (id int PRIMARY KEY);",
}


@pytest.mark.slow
def test_a_record_is_read_by_its_owner_only(project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It holds rows: the run's folder is 0700 and every file in it 0600, whatever the umask says."""
    project(folder=TWO)
    outputs_ = tmp_path / "new" / "outputs"
    monkeypatch.setenv("PGRUNBOOK_OUTPUTS", str(outputs_))
    before = os.umask(0)
    try:
        made, code = run("migrate")
    finally:
        os.umask(before)
    assert code == 0
    assert {path.stat().st_mode & 0o777 for path in (outputs_, made.folder)} == {0o700}
    found = {path.name: path.stat().st_mode & 0o777 for path in made.folder.rglob("*") if path.is_file()}
    assert {"run.json", "journal.jsonl", "plan.json", "01-migrate.ipynb", "migrate-steps.csv"} <= found.keys()
    assert {name: oct(mode) for name, mode in found.items() if mode != 0o600} == {}


@pytest.mark.slow
def test_migrate_without_prepare_applies_what_is_pending_and_promises_nothing(project: Project) -> None:
    """Every migration with its history row, a restore point before the first, and a record of each statement."""
    target = project()
    made, code = run("migrate")
    assert (code, made.status, completed(made)) == (0, Status.DONE, True)
    assert rows(target, "SELECT count(*) FROM drizzle.__drizzle_migrations") == [(5,)]
    assert rows(target, "SELECT count(*) FROM pgrunbook.step WHERE state = 'done' AND kind = 'history row' "
                f"AND run_id = '{made.run_id}'") == [(3,)]  # fmt: skip
    assert rows(target, "SELECT data_type FROM information_schema.columns "
                "WHERE table_name = 'instances' AND column_name = 'memory'") == [("bigint",)]  # fmt: skip
    assert facts(made.folder / "plan.json")["plan"]["rehearsed"].startswith("not rehearsed")
    assert "nothing was rehearsed or promised" in outputs(made, "is-it-still-so")

    (point,) = events(made, "restore-point-archived")
    assert rows(target, "SELECT name, lsn::text, run_id FROM pgrunbook.restore_point WHERE "
                f"run_id = '{made.run_id}'") == [(point["name"], point["lsn"], made.run_id)]  # fmt: skip
    order = [e["event"] for e in events(made)]
    assert order.index("restore-point-archived") < order.index("step-started") < order.index("committed")
    started, ran = events(made, "step-started"), events(made, "step-ran")
    assert [(e["migration"], e["step"]) for e in started] == [(e["migration"], e["step"]) for e in ran]
    assert "0004_widen_memory_rename_ip" in outputs(made, "where-are-we")
    assert made.parts[0].says == "The database is at version 0004_widen_memory_rename_ip."

    made, code = run("migrate")
    assert (code, made.status) == (0, Status.DONE)
    assert "Nothing to do." in outputs(made, "execute-plan")
    assert not events(made, "restore-point-created")


@pytest.mark.slow
def test_drift_since_the_plan_is_refused_with_the_objects_named(project: Project) -> None:
    """A schema that somebody else changed is not migrated; when it is as before, the same run goes on."""
    target = project(folder=TWO)
    made, code = run("prepare")
    assert code == 0
    do(target, "CREATE TABLE intruder (id int)")
    made, code = go_on_with(made, "migrate")
    assert (code, made.status, cells(made)["is-it-still-so"]) == (3, Status.REFUSED, "failed")
    lines = error(made).splitlines()
    assert lines[0] == "the schema changed since the plan was made"
    assert "+ table public.intruder" in lines[1]
    assert "State: Nothing changed in the database." in lines
    do(target, "DROP TABLE intruder")
    made, code = runbook.resume(made.run_id)
    assert (code, made.status) == (0, Status.DONE)
    assert "frozen by prepare" in outputs(made, "is-it-still-so")
    assert rows(target, "SELECT count(*) FROM schema_migrations") == [(2,)]


@pytest.mark.slow
def test_a_plan_or_a_file_that_was_edited_afterwards_is_refused(project: Project) -> None:
    """The plan is executed as it was frozen, and its files are those that the history will remember."""
    target = project(folder=TWO)
    made, code = run("prepare", rehearse="false")
    assert code == 0
    plan = made.folder / "plan.json"
    frozen = plan.read_text()
    edited = json.loads(frozen)
    edited["plan"]["changes"][0]["steps"][0]["sql"] = "CREATE TABLE a (id bigint PRIMARY KEY)"
    plan.write_text(json.dumps(edited))
    made, code = go_on_with(made, "migrate")
    assert (code, made.status) == (2, Status.FAILED)
    assert error(made).splitlines()[0] == "plan.json is not the plan that was frozen"
    assert "Hint: Make a new plan: open notebooks/prepare.ipynb, or start a new run." in error(made)

    plan.write_text(frozen)
    file = Path(str(target.migrations)) / "0002_b.sql"
    text = file.read_text()
    file.write_text(text + "DROP TABLE a;")
    made, code = runbook.resume(made.run_id)
    assert (code, made.status) == (3, Status.REFUSED)
    assert error(made).splitlines()[0] == "0002_b was edited since the plan was made"

    file.unlink()
    made, code = runbook.resume(made.run_id)
    assert code == 3
    assert error(made).splitlines()[0] == "0002_b was removed since the plan was made"
    assert rows(target, "SELECT to_regclass('a'), to_regclass('schema_migrations')") == [(None, None)]


@pytest.mark.slow
def test_a_lock_that_is_not_to_be_had_is_told_with_its_holder(project: Project) -> None:
    """What was applied stands, who blocks is named, and the same run goes on when the lock is free."""
    target = project(folder=TWO, lock_timeout_ms=300, attempts=2, lock_patience_ms=1000)
    do(target, "CREATE SCHEMA scene")
    files = Path(str(target.migrations))
    (files / "0003_c.sql").write_text("CREATE TABLE c (id int); ALTER TABLE a ADD COLUMN c text;")
    (files / "0003_c.sql").rename(files / "later")
    assert run("migrate")[1] == 0
    (files / "later").rename(files / "0003_c.sql")
    with in_transaction(target, "LOCK TABLE a IN ACCESS SHARE MODE") as pid:
        made, code = run("migrate")
    assert (code, made.status, cells(made)["execute-plan"]) == (1, Status.FAILED, "failed")
    lines = error(made).splitlines()
    assert lines[0].startswith('could not lock "')
    assert lines[0].endswith("in 2 attempts (lock_timeout 300 ms)")
    assert f"rocess {pid}" in lines[1]
    assert "pgrunbook billing" in lines[1]
    assert "State: 0003_c was aborted as a whole: nothing of it is applied." in lines
    assert len(events(made, "attempt-failed")) == 2
    assert f"{pid}" in outputs(made, "execute-plan")
    assert events(made, "run-ended")[-1]["next"] == f"Go on with it: pgrunbook run --resume {made.run_id}"
    assert rows(target, "SELECT to_regclass('c')") == [(None,)]

    made, code = runbook.resume(made.run_id)
    assert (code, made.status) == (0, Status.DONE)
    assert rows(target, "SELECT count(*) FROM schema_migrations") == [(3,)]
    assert len(events(made, "restore-point-created")) == 1
    assert "taken before" in outputs(made, "take-restore-point")


@pytest.mark.slow
def test_the_error_in_the_readme_is_what_a_person_gets(project: Project, command: Command) -> None:
    """Word by word, but for the process, the time and the run."""
    varies = r"Process \d+|for [\d.]+ s\)|--resume \S+"
    block = next(text for text in (ROOT / "README.md").read_text().split("```\n") if text.startswith("could not lock"))
    target = project(
        folder={"0007_price.sql": "ALTER TABLE orders ADD COLUMN price numeric"}, name="shop", attempts=2,
        lock_patience_ms=1000,
    )  # fmt: skip
    do(target, "CREATE TABLE orders (id int PRIMARY KEY)")
    with connect(target, purpose="nightly report") as conn, conn.transaction():
        conn.execute("SELECT count(*) FROM orders")
        code, _, err = command("run", "migrate", "--target", "shop", "--quiet")
    assert code == 1
    assert re.sub(varies, "*", err).startswith(re.sub(varies, "*", block))


@pytest.mark.slow
def test_a_history_that_moved_while_we_waited_for_the_run_lock_is_refused(project: Project) -> None:
    """Nothing is applied twice when another runner was faster."""
    target = project(folder=TWO)
    here = migrate.begin(target="demo")
    for cell in (migrate.meet_the_target, migrate.is_it_still_so, migrate.take_restore_point):
        cell(here)
    with ExitStack() as held:
        held.enter_context(locks.one_runner(target, "another run"))
        with meanwhile(lambda: error_of(lambda: migrate.execute_plan(here))) as running:
            wait_until(lambda: rows(target, "SELECT true FROM pg_stat_activity WHERE application_name "
                                    "LIKE 'pgrunbook holds the run lock for %' HAVING count(*) = 2"))  # fmt: skip
            do(target, "CREATE TABLE schema_migrations (version text PRIMARY KEY, applied_at timestamptz "
               "DEFAULT now()); INSERT INTO schema_migrations VALUES ('0001_a'); CREATE TABLE a (id int)")  # fmt: skip
            held.close()
            error = running.result()
    assert isinstance(error, Refused)
    assert error.exit_code == 3
    assert error.message == "the history table changed while this run was waiting"
    assert not events(here.run, "migration-started")
    heres._end_earlier()


@pytest.mark.slow
def test_a_failing_statement_says_what_is_applied_and_how_to_take_it_back(project: Project) -> None:
    """The migration is aborted as a whole, and those before it are named; later cells stay pending."""
    target = project(folder={**TWO, "0003_c.sql": "CREATE TABLE c (id int); SELECT 1 / count(*) FROM a;"})
    made, code = run("migrate")
    assert (code, made.status) == (1, Status.FAILED)
    assert (
        error(made).splitlines()[0] == "could not run step 2 of 0003_c (SELECT; 0003_c.sql, line 1): division by zero"
    )
    state = next(line for line in error(made).splitlines() if line.startswith("State: "))
    assert state == (
        "State: 0003_c was aborted as a whole: nothing of it is applied. Applied by this run before it: 0001_a, 0002_b."
    )
    assert cells(made)["what-it-took"] == "pending"
    assert notebook(made).metadata.papermill.exception is True
    assert events(made, "run-ended")[-1]["next"] == (
        f"Take back what it applied: pgrunbook run rollback --target demo -p of_run={made.run_id}"
    )
    assert rows(target, "SELECT to_regclass('b') IS NOT NULL, to_regclass('c')") == [(True, None)]


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize("before", sample(["SET search_path TO public;\n", ""], 2))
def test_what_reaches_outside_runs_on_the_target_only_and_behind_its_gate(project: Project, before: str) -> None:
    """No branch executes it: what it does outside is done once, by the migration; and validate knows what it knows."""
    base = Path(tempfile.mkdtemp(prefix="pgo-"))
    base.chmod(0o777)
    sql = f"""{before}CREATE TABLE a (n int);
COPY (SELECT 'ran') TO PROGRAM 'cat >> {base}/ran';
DO $$ BEGIN PERFORM pg_read_file('PG_VERSION'); CREATE TABLE made (n int); END $$;
CREATE TABLE b (n int);"""
    target = project(folder={"1_a.sql": sql})
    try:
        made, code = run("release", with_data="true")
        assert code == 3
        assert not (base / "ran").exists()
        plan = plans.read(made.folder / "plan.json")
        line = before.count("\n")
        outside = [w for c in plan.changes for w in c.statements if not w.is_rehearsed]
        assert [w.line for w in outside] == [line + 2, line + 3]
        assert outside[0].gate is not None
        assert outside[0].gate.says == (
            "runs a program on the server's machine: it is not rehearsed, and what comes after it is rehearsed "
            "without it"
        )
        assert plan.changes[0].schema_after is None
        acceptance.accept(made.run_id, [])
        made, code = runbook.resume(made.run_id)
        assert code == 0, error(made)
        assert (base / "ran").read_text() == "ran\n"
        assert rows(target, "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1") == [
            ("a",), ("b",), ("made",), ("schema_migrations",),
        ]  # fmt: skip
        assert "was not promised: it reaches outside, and was not rehearsed" in outputs(made, "schema-as-promised")
    finally:
        shutil.rmtree(base)
