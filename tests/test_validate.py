"""notebooks/validate.ipynb: prove it."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from acting import cells, completed, error, events, go_on_with, outputs, run
from conftest import do, rows
from pgrunbook.config.targets import Target
from pgrunbook.record.run import Status

Project = Callable[..., Target]

FOLDER = {
    "0001_a.sql": "CREATE TABLE a (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, b text);",
    "0001_a.down.sql": "DROP TABLE a;",
}
QUERIES = {"the slow one": "SELECT pg_sleep(seconds) FROM knob"}
VERIFY = {
    "verify/no_ones.sql": "-- No ones.\nSELECT id, a, 'password=hunter2' AS note FROM filled WHERE a = 1",
    "verify/none.sql": "SELECT FROM filled WHERE a > 1",
    "verify/writes.sql": "SELECT touch()",
}
BROKEN = """
CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (p int REFERENCES parent); INSERT INTO parent VALUES (1);
CREATE TABLE quiet (id int PRIMARY KEY, v text); INSERT INTO quiet VALUES (1, 'a'), (2, 'b');
CREATE TABLE still (id int); CREATE TABLE looked (id int, v int); CREATE INDEX looked_v ON looked (v);
INSERT INTO looked SELECT i, i FROM generate_series(1, 5000) i; ANALYZE looked;
CREATE FUNCTION touch() RETURNS int LANGUAGE sql AS 'UPDATE quiet SET v = v RETURNING 1';
SET session_replication_role = replica; INSERT INTO child VALUES (7);
"""


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


@pytest.mark.slow
def test_each_thing_that_is_not_as_promised_is_named(project: Project) -> None:
    """An object changed by hand, an invalid index, a sequence behind and a slower query: all in one error."""
    queries = {**QUERIES, "by v": "SELECT id FROM looked WHERE v = 7", "writes": "UPDATE looked SET v = 0 WHERE v = 9"}
    folder = {**FOLDER, "0002_fill.sql": "UPDATE filled SET a = 1;", **VERIFY}
    target = project(folder=folder, critical_queries=queries)
    do(target, BROKEN)
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

    do(target, "UPDATE quiet SET v = 'c' WHERE id = 2; UPDATE looked SET v = 7; ANALYZE looked;"
       "SET session_replication_role = replica; INSERT INTO child VALUES (8)")  # fmt: skip

    took_on = {"documentation updated": "Ada", "performance impact assessed": "Grace"}
    made, code = go_on_with(made, "validate", others_write=False, analyze=True, took_on=took_on)
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

    assert "orphans: 2 by child_p_fkey of public.child" in lines[1]
    assert 'assertion "verify/no_ones.sql": 4 rows; ' in lines[1]
    assert 'assertion "verify/writes.sql": refused: cannot execute UPDATE in a read-only transaction' in lines[1]
    assert "the rows of public.quiet changed, and no data statement says so" in lines[1]
    assert "public.still" not in lines[1]
    assert "2: (7), (8); correct them" in outputs(made, "nothing-left-behind")
    values = {line.split("  ")[0]: line for line in outputs(made, "data-as-promised").splitlines()}
    assert values["public.still"].endswith("the same")
    assert "changed (not by the plan: traffic?)" in values["public.quiet"]
    held = outputs(made, "assertions-hold")
    assert re.search(r"verify/none.sql +holds +no row", held)
    kept = (made.folder / "assertion-verify-no_ones.csv").read_text()
    assert kept.splitlines()[:2] == ["id,a,note", "1,1,password=***"]
    assert re.search(r"public.quiet +id, v +analyzed now", outputs(made, "statistics-at-hand"))
    compared = outputs(made, "queries-as-fast")
    assert re.search(r"by v .* another plan ", compared)
    assert re.search(r"writes +- +- ", compared)
    assert re.search(r"public.looked +0\.\d", outputs(made, "sizes-as-measured"))
    assert "Sizes that changed: public.looked: " in outputs(made, "sizes-as-measured")
    boxes = outputs(made, "checklist")
    assert re.search(r"documentation updated +open +Ada", boxes)
    assert re.search(r"performance impact assessed +evidence +critical queries timed before and after +Grace", boxes)
    assert re.search(r"monitoring alerts configured +open +nobody: name who, in took_on", boxes)
    assert "none" not in boxes
    assert rows(target, "SELECT v FROM quiet ORDER BY id") == [("a",), ("c",)]
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
