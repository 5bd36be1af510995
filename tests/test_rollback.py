"""notebooks/rollback.ipynb: back, one migration at a time."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from acting import (
    GATE,
    OPEN_THE_GATE,
    WAITS,
    cells,
    completed,
    error,
    events,
    has_begun,
    newest_run,
    outputs,
    pgrunbook,
    run,
    wait_until,
)
from conftest import do, rows
from pgrunbook.config.targets import Target
from pgrunbook.errors import WrongInput
from pgrunbook.record.run import Status
from pgrunbook.runner import runbook
from pgrunbook.session import acceptance

Project = Callable[..., Target]

FOLDER = {
    "0001_a.sql": "CREATE TABLE a (id int PRIMARY KEY);",
    "0002_b.sql": "ALTER TABLE a ADD COLUMN b text;",
    "0002_b.down.sql": "ALTER TABLE a DROP COLUMN b;",
    "0003_c.sql": "CREATE TABLE c (id int PRIMARY KEY);",
    "0003_c.down.sql": "DROP TABLE c;",
}


@pytest.mark.slow
def test_the_last_migration_goes_back_with_its_history_row_and_no_further_without_a_script(project: Project) -> None:
    """The schema is as before; the next one was not prepared, has none, and its restore point is named."""
    target = project()
    migrated, code = run("migrate")
    assert code == 0
    made, code = run("rollback")
    assert (code, made.status, completed(made)) == (0, Status.DONE, True)
    assert made.parts[0].says == "The database is at version 0003_fill_status_and_config."
    assert rows(target, "SELECT count(*) FROM drizzle.__drizzle_migrations") == [(4,)]
    assert rows(target, "SELECT count(*) FROM information_schema.columns WHERE column_name = 'ip_address'") == [(1,)]
    assert "the rehearsal's end" in outputs(made, "schema-as-before")
    assert "different" not in outputs(made, "schema-as-before")
    assert {e["direction"] for e in events(made, "committed")} == {"down"}
    (point,) = events(made, "restore-point-archived")
    assert point["name"] == f"rollback_{made.run_id}"
    assert (made.folder / "rollback-plan.json").is_file()
    assert (made.folder / "rollback-plan.sql").is_file()

    made, code = run("rollback")
    assert (code, made.status, cells(made)["what-goes-back"]) == (3, Status.REFUSED, "failed")
    lines = error(made).splitlines()
    assert lines[0] == (
        "cannot take back 0003_fill_status_and_config: 0003_fill_status_and_config:2: its way back was not computed"
    )
    assert f"Restore point before_{migrated.run_id} (LSN " in lines[1]
    assert lines[2] == "State: Nothing changed in the database."
    assert lines[3] == f"Hint: pgrunbook run restore --target demo -p to=before_{migrated.run_id}"


@pytest.mark.slow
def test_what_a_down_script_drops_is_kept(project: Project) -> None:
    """A table with its rows, a column with its values: told before, kept, and there again after the next release."""
    target = project(folder=FOLDER)
    assert run("migrate")[1] == 0
    do(target, "INSERT INTO a VALUES (1, 'kept'), (2, NULL); INSERT INTO c VALUES (1), (2), (3)")
    made, code = run("rollback", migrations="2", with_data="true")
    assert (code, made.status) == (0, Status.DONE)
    told = outputs(made, "what-about-new-rows")
    assert "3 rows" in told
    assert "1 value" in told
    assert "it succeeded" in outputs(made, "try-it")
    assert "public.c" in outputs(made, "kept-data")
    assert rows(target, "SELECT array_agg(version) FROM schema_migrations") == [(["0001_a"],)]
    assert {e["migration"] for e in events(made, "committed")} == {"0003_c", "0002_b"}
    assert run("release")[1] == 0
    assert rows(target, "SELECT * FROM a ORDER BY id") == [(1, "kept"), (2, None)]
    assert rows(target, "SELECT count(*) FROM c") == [(3,)]

    made, code = run("rollback", migrations="3")
    assert (code, made.status) == (3, Status.REFUSED)
    assert error(made).startswith("cannot take back 0001_a: 0001_a:1: its way back was not computed")
    made, code = run("rollback", migrations="9")
    assert (code, made.status) == (2, Status.FAILED)
    assert error(made).splitlines()[:2] == ["cannot take back 9 migrations", "Detail: 3 migrations are applied."]


@pytest.mark.slow
def test_values_of_rows_that_somebody_has_deleted_are_told_on_the_way_back_and_on_the_next_way_up(
    project: Project,
) -> None:
    """By rollback before and in its verdict; by validate, when what was captured is reapplied."""
    target = project(folder={"0001_a.sql": "ALTER TABLE d DROP COLUMN a;\nALTER TABLE d ADD COLUMN b text;"})
    do(target, "CREATE TABLE d (id int PRIMARY KEY, a text); INSERT INTO d SELECT i, i FROM generate_series(1, 9) AS i")
    given = {"accept": "0001_a:1", "with_data": "true"}
    assert run("release", **given)[1] == 0
    do(target, "UPDATE d SET b = id; DELETE FROM d WHERE id = 1")
    made, code = run("rollback")
    assert code == 0
    assert re.search(r"public.d.a +reverted, except these +1 value", outputs(made, "what-about-new-rows"))
    assert "1 value of public.d.a, in pgrunbook.kept_" in outputs(made, "verdict")
    do(target, "DELETE FROM d WHERE id IN (2, 3)")
    made, code = run("release", **given)
    assert code == 0
    told = outputs(made, "nothing-left-behind")
    assert "2 values of rows that were deleted or changed since" in told
    assert rows(target, "SELECT count(b) FROM d") == [(6,)]


@pytest.mark.slow
def test_a_down_script_that_leads_elsewhere_is_found_on_the_branch(project: Project) -> None:
    """What does not lead back on an empty branch is not run on the target."""
    target = project(folder={**FOLDER, "0003_c.down.sql": "ALTER TABLE c RENAME TO d;"})
    assert run("migrate")[1] == 0
    made, code = run("rollback")
    assert (code, made.status) == (3, Status.REFUSED)
    lines = error(made).splitlines()
    assert lines[0] == "the down script of 0003_c does not lead back"
    assert "+ table public.c" in lines[1] or "public.d" in lines[1]
    assert rows(target, "SELECT to_regclass('c') IS NOT NULL") == [(True,)]


@pytest.mark.slow
def test_newer_migrations_of_somebody_else_are_in_the_way_of_a_run(project: Project) -> None:
    """A run is taken back from the top only; a run that applied nothing has nothing to take back."""
    target = project(folder={n: t for n, t in FOLDER.items() if "0003" not in n})
    first, code = run("migrate")
    assert code == 0
    assert target.migrations is not None
    (target.migrations / "0003_c.sql").write_text(FOLDER["0003_c.sql"])
    assert run("migrate")[1] == 0
    made, code = run("rollback", of_run=first.run_id)
    assert (code, made.status) == (3, Status.REFUSED)
    assert error(made).splitlines()[:2] == [
        f"cannot take back run {first.run_id}: newer migrations are applied", "Detail: Applied since: 0003_c."
    ]  # fmt: skip
    made, code = run("rollback", of_run=made.run_id)
    assert (code, made.status) == (0, Status.DONE)
    assert "Nothing to take back" in outputs(made, "what-goes-back")
    assert "there is nothing to do" in outputs(made, "take-restore-point")


@pytest.mark.slow
def test_a_rollback_that_was_killed_in_the_middle_goes_on(project: Project) -> None:
    """Killed at its second migration, it is resumed: nothing is taken back twice, and all of it is."""
    target = project(folder={**FOLDER, "0002_b.down.sql": FOLDER["0002_b.down.sql"] + WAITS})
    do(target, GATE)
    assert run("migrate")[1] == 0
    with pgrunbook("run", "rollback", "--target", "demo", "-p", "migrations=2", "-p", "with_data=false") as process:
        wait_until(lambda: has_begun("rollback", "0002_b"))
        process.kill()
    broken = newest_run()
    assert broken is not None
    assert broken.actual_status() is Status.BROKEN_OFF
    assert rows(target, "SELECT array_agg(version ORDER BY version) FROM schema_migrations") == [
        (["0001_a", "0002_b"],)
    ]
    do(target, OPEN_THE_GATE)
    made, code = runbook.resume(broken.run_id)
    assert (code, made.status) == (0, Status.DONE)
    assert rows(target, "SELECT array_agg(version) FROM schema_migrations") == [(["0001_a"],)]
    assert [e["migration"] for e in events(made, "committed") if e["whole_migration"]] == ["0003_c", "0002_b"]
    assert events(made, "rollback-goes-on")
    assert "done before" in outputs(made, "take-back")


@pytest.mark.slow
def test_what_cannot_be_kept_is_not_dropped_unless_told_to(project: Project) -> None:
    """Rows without a key: the refusal counts what would be lost, and gives the command that loses it."""
    target = project(folder={"0001_a.sql": "ALTER TABLE k ADD COLUMN b text;"})
    do(target, "CREATE TABLE k (n int)")
    assert run("release")[1] == 0
    do(target, "INSERT INTO k VALUES (1, 'x'), (2, NULL)")
    made, code = run("rollback")
    assert (code, made.status, cells(made)["what-about-new-rows"]) == (3, Status.REFUSED, "failed")
    lines = error(made).splitlines()
    assert lines[0] == "the rollback would lose what public.k.b holds"
    assert lines[1].startswith("Detail: public.k.b: 1 value (It cannot be undone, because ")
    assert "no unique key" in lines[1]
    assert lines[3].endswith("pgrunbook run rollback --target demo -p lose_rows=true")
    made, code = run("rollback", lose_rows="true")
    assert (code, made.status) == (0, Status.DONE)
    assert rows(target, "SELECT count(*) FROM k") == [(2,)]


@pytest.mark.slow
def test_rows_of_today_that_stand_against_it_are_listed_and_nothing_changes(project: Project) -> None:
    """A constraint that the migration dropped, and a row written since that it would not have let in."""
    target = project(folder={"0001_a.sql": "ALTER TABLE k DROP CONSTRAINT small;"})
    do(target, "CREATE TABLE k (n int PRIMARY KEY, CONSTRAINT small CHECK (n < 10)); INSERT INTO k VALUES (1)")
    assert run("release")[1] == 0
    do(target, "INSERT INTO k VALUES (77)")
    made, code = run("rollback")
    assert (code, made.status) == (3, Status.REFUSED)
    lines = error(made).splitlines()
    assert lines[0] == "cannot take back 0001_a: 1 row of public.k violates what it would restore"
    assert "77" in lines[1]
    assert lines[2] == "State: Nothing changed in the database."
    assert rows(target, "SELECT count(*) FROM pg_constraint WHERE conname = 'small'") == [(0,)]
    do(target, "DELETE FROM k WHERE n = 77")
    assert run("rollback")[1] == 0
    assert rows(target, "SELECT convalidated FROM pg_constraint WHERE conname = 'small'") == [(True,)]


@pytest.mark.slow
def test_rows_in_conflict_wait_for_a_decision(project: Project) -> None:
    """stop lists them with both values and changes nothing; restore overwrites them."""
    target = project(folder={"0001_a.sql": "UPDATE k SET v = 'new';"})
    do(target, "CREATE TABLE k (n int PRIMARY KEY, v text); INSERT INTO k VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    assert run("release")[1] == 0
    do(target, "UPDATE k SET v = 'mine' WHERE n = 2; DELETE FROM k WHERE n = 3")
    made, code = run("rollback")
    assert (code, made.status) == (3, Status.REFUSED)
    lines = error(made).splitlines()
    assert lines[0] == "2 rows that 0001_a changed were changed by somebody since"
    assert lines[1:4] == [
        "Detail: ",
        "  \"public\".\"k\" (n 2) changed since 0001_a:1: before v 'b'; wrote v 'new'; now v 'mine'",
        "  \"public\".\"k\" (n 3) deleted since 0001_a:1: before v 'c'; wrote v 'new'; now no row",
    ]
    assert "-p on_conflict=keep" in lines[5]
    assert rows(target, "SELECT v FROM k ORDER BY n") == [("new",), ("mine",)]
    with pytest.raises(WrongInput) as nothing:
        acceptance.accept(made.run_id, [])
    assert nothing.value.lines()[1:] == [
        f"Detail: Cell what-about-new-rows: {lines[0]}.",
        "State: Nothing changed in the database or in the record.",
        lines[5],
    ]
    listed = (made.folder / "conflicts.csv").read_text().splitlines()
    assert [line.split(",", 1)[1] for line in listed[1:]] == [
        "0001_a:1,public.k,n '2',changed,v,'b','new','mine',somebody has to decide",
        "0001_a:1,public.k,n '3',deleted,v,'c','new',no row,somebody has to decide",
    ]
    made, code = run("rollback", on_conflict="restore")
    assert (code, made.status) == (0, Status.DONE)
    assert ",'mine',overwritten with the value before\n" in (made.folder / "conflicts.csv").read_text()
    (left,) = made.folder.glob("conflicts-left-*.csv")
    assert left.read_text().endswith("0001_a:1,public.k,n '3',deleted,v,'c','new',no row,stays deleted\n")
    assert left.name in outputs(made, "verdict")
    assert rows(target, "SELECT v FROM k ORDER BY n") == [("a",), ("b",)]


@pytest.mark.slow
def test_statements_of_a_migration_are_taken_back_by_hand(project: Project) -> None:
    """steps: shown first, proven in the same way; the history row stays until the last of them is gone."""
    target = project(folder={"0001_a.sql": "ALTER TABLE k ADD COLUMN b text;\nCREATE INDEX k_v ON k (v);"})
    do(target, "CREATE TABLE k (n int PRIMARY KEY, v text)")
    assert run("release")[1] == 0
    made, code = run("rollback", migration="0001_a", steps="2")
    assert (code, made.status) == (0, Status.DONE)
    assert "DROP INDEX" in outputs(made, "what-goes-back")
    assert rows(target, "SELECT to_regclass('k_v'), count(*) FROM schema_migrations") == [(None, 1)]
    made, code = run("rollback", migration="0009")
    assert (code, error(made).splitlines()[0]) == (2, 'no applied migration has the name "0009"')
    made, code = run("rollback", migration="0001_a", steps="2")
    assert (code, made.status) == (3, Status.REFUSED)
    assert "it has no statement 2 to take back; there are 1 (0001_a:1)" in error(made)
    made, code = run("rollback")
    assert (code, made.status) == (0, Status.DONE)
    assert rows(target, "SELECT count(*) FROM schema_migrations") == [(0,)]


@pytest.mark.slow
def test_what_was_purged_cannot_be_given_back(project: Project) -> None:
    """The parked table is purged: it is said before anything changed, and the restore point is named."""
    target = project(folder={"0001_a.sql": "DROP TABLE k;"})
    do(target, "CREATE TABLE k (n int PRIMARY KEY, v text); INSERT INTO k VALUES (1, 'a')")
    assert run("release", accept="0001_a:1")[1] == 0
    assert run("purge", everything="true", force="true")[1] == 0
    made, code = run("rollback")
    assert (code, made.status) == (3, Status.REFUSED)
    lines = error(made).splitlines()
    assert lines[0] == "cannot revert table public.k"
    assert lines[1].startswith("Detail: It was purged on ")
    assert lines[2] == "State: Nothing changed in the database."
    assert lines[3].startswith("Hint: Restore a point in time before the purge")
