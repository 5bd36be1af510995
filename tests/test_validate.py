"""notebooks/validate.ipynb: prove it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from acting import cells, completed, error, events, go_on_with, outputs, run
from conftest import do
from pgrunbook.config.targets import Target
from pgrunbook.record.run import Status

Project = Callable[..., Target]

FOLDER = {
    "0001_a.sql": "CREATE TABLE a (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, b text);",
    "0001_a.down.sql": "DROP TABLE a;",
}
QUERIES = {"the slow one": "SELECT pg_sleep(seconds) FROM knob"}


@pytest.mark.slow
def test_a_database_as_promised_is_shown_as_such(project: Project) -> None:
    """Schema equal, nothing left behind, rows explained by the plan, the checklist with its evidence."""
    project(critical_queries={"projects": "SELECT count(*) FROM projects", "broken": "SELECT nonsense"})
    made, code = run("prepare")
    assert code == 0
    made, code = go_on_with(made, "migrate")
    assert code == 0
    made, code = go_on_with(made, "validate")
    assert (code, made.status, completed(made)) == (0, Status.DONE, True)
    assert "objects as promised" in outputs(made, "schema-as-promised")
    assert outputs(made, "nothing-left-behind").startswith("Nothing: ")
    sessions = next(
        line for line in outputs(made, "data-as-promised").splitlines() if line.startswith("public.sessions")
    )
    assert "(a data statement)" in sessions
    assert "-" in sessions
    assert "not by the plan" not in outputs(made, "data-as-promised")
    assert "projects: " in outputs(made, "queries-as-fast")
    assert "not timed before, not timed now" in outputs(made, "queries-as-fast")
    boxes = outputs(made, "checklist")
    assert "there and back: 0002_add_audit_logs, 0003_fill_status_and_config, 0004_widen_memory_rename_ip" in boxes
    assert "critical queries timed before and after" in boxes
    assert made.parts[-1].says == "The database is as promised."


def test_each_thing_that_is_not_as_promised_is_named(project: Project) -> None:
    """An object changed by hand, an invalid index, a sequence behind and a slower query: all in one error."""
    target = project(folder={**FOLDER, "0002_fill.sql": "UPDATE filled SET a = 1;"}, critical_queries=QUERIES)
    do(target, "CREATE TABLE knob (seconds float8); INSERT INTO knob VALUES (0); CREATE TABLE twice (id int); "
       "INSERT INTO twice VALUES (1), (1); CREATE TABLE filled (id int PRIMARY KEY, a int); "
       "INSERT INTO filled VALUES (1), (2), (3)")  # fmt: skip
    made, code = run("prepare", with_data="true")
    assert code == 0
    do(target, "INSERT INTO filled VALUES (4)")
    made, code = go_on_with(made, "migrate")
    assert code == 0
    do(target, "ALTER TABLE a ALTER COLUMN b SET NOT NULL; UPDATE knob SET seconds = 0.06; "
       "INSERT INTO a (id, b) OVERRIDING SYSTEM VALUE VALUES (7, 'by hand')")  # fmt: skip
    with pytest.raises(Exception, match="could not create unique index"):
        do(target, "CREATE UNIQUE INDEX CONCURRENTLY twice_key ON twice (id)")

    made, code = go_on_with(made, "validate")
    assert (code, made.status) == (1, Status.FAILED)
    states = cells(made)
    assert states.pop("verdict") == "failed"
    assert set(states.values()) == {"completed"}  # every look is taken before the verdict
    lines = error(made).splitlines()
    assert lines[0] == "the database is not as promised: the schema differs from the promised one in 2 objects"
    assert "invalid index: public.twice_key" in lines[1]
    assert "sequence behind its column: public.a_id_seq" in lines[1]
    assert 'query "the slow one" takes ' in lines[1]
    assert lines[2] == "State: Validate changed nothing; what is applied stays applied."
    assert lines[3].endswith(f"pgrunbook run rollback --target demo -p of_run={made.run_id}")
    assert "public.a.b" in outputs(made, "schema-as-promised")
    assert "DROP INDEX CONCURRENTLY public.twice_key" in outputs(made, "nothing-left-behind")
    assert "setval('public.a_id_seq', 7)" in outputs(made, "nothing-left-behind")
    columns = outputs(made, "as-estimated").splitlines()
    row = next(line for line in columns if line.startswith("0002_fill")).split()
    assert row[-8:] == ["3", "4", "measured", "on", "3", "of", "3", "rows"], row
    assert "rows rehearsed" in columns[0]
    assert not events(made, "verdict") or events(made, "verdict")[-1]["procedure"] == "migrate"


@pytest.mark.slow
def test_a_release_that_is_not_as_promised_is_taken_back_and_says_so(project: Project) -> None:
    """Its error does not lead to a rollback that has been done by the time somebody reads it."""
    target = project(folder={"0001_slow.sql": "UPDATE knob SET seconds = 0.06"}, critical_queries=QUERIES)
    do(target, "CREATE TABLE knob (id int PRIMARY KEY, seconds float8); INSERT INTO knob VALUES (1, 0)")
    made, code = run("release", with_data="false")
    assert (code, made.status, made.parts[-1].procedure, made.parts[-1].status) == (
        1, Status.FAILED, "rollback", Status.DONE
    )  # fmt: skip
    assert error(made, 2).splitlines()[-1] == (
        "Hint: Correct what is named; then start a new run, when this one has taken back what it applied."
    )


@pytest.mark.slow
def test_without_a_promise_nothing_is_said_to_be_kept(project: Project) -> None:
    """Validate alone looks, and says that it compared with nothing; a run of another target is wrong input."""
    project(folder=FOLDER)
    made, code = run("validate")
    assert (code, made.status) == (0, Status.DONE)
    assert "no run on this target made a plan" in outputs(made, "meet-the-target")
    assert outputs(made, "schema-as-promised").startswith("Not compared")
    assert made.parts[0].says == "No problem was found; but there was no promise to check."
    project(folder=FOLDER, name="other")
    other, code = run("validate", "other", of_run=made.run_id)
    assert (code, other.status) == (2, Status.FAILED)
    assert error(other).splitlines()[0] == f"run {made.run_id} is of target demo, not of other"
