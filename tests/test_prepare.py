"""notebooks/prepare.ipynb: know before you touch."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from acting import cells, completed, error, events, facts, in_transaction, outputs, run
from conftest import do, rows
from pgrunbook.app import json_schema
from pgrunbook.config import paths
from pgrunbook.config.targets import Target
from pgrunbook.plan import plan as plans
from pgrunbook.record.run import Status
from pgrunbook.runner import runbook
from pgrunbook.session import acceptance

Project = Callable[..., Target]

OUT_OF_ORDER = {
    "0001_a.sql": "CREATE TABLE a (id int PRIMARY KEY);",
    "0003_c.sql": "CREATE TABLE c (id int PRIMARY KEY);",
}


@pytest.mark.slow
def test_prepare_freezes_a_plan_and_leaves_the_target_as_it_is(project: Project) -> None:
    """The run folder holds the plan, its SQL, the promise and every table; the target holds nothing new."""
    target = project()
    # All of pg_class but what an autovacuum of the server's own counts anew.
    counted = "'{relpages,reltuples,relallvisible,relallfrozen,relfrozenxid,relminmxid}'"
    everything = f"SELECT count(*), sum(hashtext((to_jsonb(c) - {counted}::text[])::text)) FROM pg_class c"
    before = rows(target, everything)
    made, code = run("prepare", with_data="true", load="100")
    assert (code, made.status, made.parts[0].status) == (0, Status.DONE, Status.DONE)
    assert completed(made)
    assert rows(target, everything) == before

    plan = plans.read(made.folder / "plan.json")
    assert [c.migration[:4] for c in plan.changes] == ["0002", "0003", "0004"]
    assert [c.way_back for c in plan.changes] == ["down script", "computed", "down script"]
    assert all(c.schema_before and c.schema_after for c in plan.changes)
    assert plan.digest in (made.folder / "plan.sql").read_text()
    assert {type_ for _, _, _, type_, *_ in table(made.folder / "what-will-it-do.csv")} == {
        "backward compatible", "breaking", "data"
    }  # fmt: skip
    promised = facts(made.folder / "schema-promised.json")
    assert promised != facts(made.folder / "schema-before.json")
    assert {name for name, state, *_ in table(made.folder / "what-is-pending.csv") if state == "pending"} == {
        change.migration for change in plan.changes
    }
    assert all(step.estimate and step.locks for c in plan.changes for step in c.steps if step.kind != "CREATE TABLE")
    seen = facts(made.folder / "rehearsal.json")
    for name, file in (("plan", "plan.json"), ("rehearsal", "rehearsal.json")):
        jsonschema.validate(facts(made.folder / file), json.loads(json_schema.kept(name)))
    assert [m["migration"] for m in seen["migrations"] if m["equivalent"]] == [c.migration for c in plan.changes]
    assert seen["safe_traffic"]["transactions"] > 0
    assert "slowest transaction of the traffic, ms: plain" in outputs(made, "rehearse")
    assert plan.gates() != []
    assert acceptance.left(made, plan) == []
    assert "running instances" not in outputs(made, "measure-before")  # this target names no critical query
    assert made.versions.keys() == {"pgrunbook", "python", "server"}

    names = [e["event"] for e in events(made)]
    assert names[:2] == ["run-started", "notebook-started"]
    assert names[-2:] == ["notebook-ended", "run-ended"]
    ran = list(cells(made))
    assert [e["cell"] for e in events(made, "cell-started")] == ran[ran.index("meet-the-target") :]
    assert [e["seq"] for e in events(made)] == list(range(1, len(names) + 1))


@pytest.mark.slow
def test_a_long_transaction_is_refused_and_the_run_goes_on_when_it_is_over(project: Project) -> None:
    """The refusal names the process and shows every check; the same run goes on, and keeps both notebooks."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a (id int)"})
    with in_transaction(target, "SELECT 1", age_s=1.1) as pid:
        made, code = run("prepare", max_transaction_age_s="1")
    assert (code, made.status) == (3, Status.REFUSED)
    lines = error(made).splitlines()
    assert lines[0] == "it is not safe to start: oldest transaction"
    assert lines[1].startswith("Detail: oldest transaction: ")
    assert f'process {pid}, "pgrunbook billing"' in lines[1]
    assert lines[2:] == ["State: Nothing changed in the database.",
                         "Hint: Locks will queue behind it; end it, or wait."]  # fmt: skip
    assert "WAL archive" in outputs(made, "is-it-safe-to-start")
    assert cells(made)["is-it-safe-to-start"] == "failed"
    assert cells(made)["what-is-pending"] == "pending"
    assert not (made.folder / "plan.json").exists()

    made, code = runbook.resume(made.run_id)
    assert (code, made.status, completed(made)) == (0, Status.DONE, True)
    assert (made.folder / "01-prepare.attempt-1.ipynb").is_file()


@pytest.mark.slow
def test_a_migration_older_than_the_applied_ones_is_planned_only_when_told(project: Project) -> None:
    """Refused with the way out; with out_of_order it is planned."""
    target = project(folder=OUT_OF_ORDER)
    assert run("migrate")[1] == 0
    (Path(str(target.migrations)) / "0002_b.sql").write_text("CREATE TABLE b (id int PRIMARY KEY)")
    made, code = run("prepare")
    assert code == 3
    assert "0002_b is out of order" in error(made)
    assert "0002_b" in outputs(made, "what-is-pending")
    made, code = run("prepare", out_of_order="true", rehearse="false")
    assert code == 0
    assert [c.migration for c in plans.read(made.folder / "plan.json").changes] == ["0002_b"]
    assert not (made.folder / "schema-promised.json").exists()
    assert "not rehearsed" in outputs(made, "rehearse")


@pytest.mark.slow
def test_a_file_that_was_edited_after_it_was_applied_is_refused(project: Project) -> None:
    """The history table knows the text that was applied; another one is not taken for it."""
    target = project()
    file = Path(str(target.migrations)) / "0001_add_live_projects_view.sql"
    file.write_text(file.read_text() + "\n-- a harmless comment\n")
    made, code = run("prepare")
    assert (code, made.status) == (3, Status.REFUSED)
    assert "0001_add_live_projects_view is edited" in error(made)


def test_a_statement_that_would_fail_fails_on_the_branch(project: Project) -> None:
    """The error names file, line and step, and says that the target is untouched."""
    project(folder={"0001_a.sql": "CREATE TABLE a (id int);\n\nALTER TABLE nobody ADD COLUMN b int;\n"})
    made, code = run("prepare")
    assert (code, made.status) == (1, Status.FAILED)
    lines = error(made).splitlines()
    assert lines[0] == (
        'step 2 of 0001_a (ALTER TABLE ADD COLUMN; 0001_a.sql, line 3) would fail: relation "nobody" does not exist'
    )
    assert "State: Nothing changed in the target: it failed in a rehearsal." in lines
    assert cells(made)["make-it-safe"] == "failed"


def test_a_role_without_rights_is_refused_with_what_it_lacks(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the role may not is found before anything starts, and told as what to GRANT."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a (id int)"})
    do(target, "CREATE ROLE reader_of_tests LOGIN")
    address = f"postgresql://reader_of_tests@/{target.database}?host={paths.socket_dir('main')}"
    monkeypatch.setenv("READER_ADDRESS", address)
    files = {"0001_a.sql": "SELECT 1"}
    project(folder=files, name="reader", server=None, url_from="READER_ADDRESS", database=None)
    try:
        made, code = run("prepare", "reader")
        assert (code, made.status) == (3, Status.REFUSED)
        assert "rights: lacks a schema pgrunbook that it may write to" in error(made)
        assert "EXECUTE on pg_create_restore_point(text)" in error(made)
        assert "CREATE SCHEMA pgrunbook AUTHORIZATION reader_of_tests. Let an administrator run GRANT" in error(made)
    finally:
        do(target, "DROP ROLE reader_of_tests")


def table(path: Path) -> list[list[str]]:
    """Return the rows of a table that a run kept, without its headings."""
    with path.open(newline="") as file:
        return list(csv.reader(file))[1:]
