"""notebooks/rollback.ipynb: back, one migration at a time."""

from __future__ import annotations

from collections.abc import Callable

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
from pgrunbook import runbook
from pgrunbook.record.run import Status
from pgrunbook.target import Target

Project = Callable[..., Target]

FOLDER = {
    "0001_a.sql": "CREATE TABLE a (id int PRIMARY KEY);",
    "0002_b.sql": "ALTER TABLE a ADD COLUMN b text;",
    "0002_b.down.sql": "ALTER TABLE a DROP COLUMN b;",
    "0003_c.sql": "CREATE TABLE c (id int PRIMARY KEY);",
    "0003_c.down.sql": "DROP TABLE c;",
}


def test_the_last_migration_goes_back_with_its_history_row_and_no_further_without_a_script(project: Project) -> None:
    """The schema is as before; the next one, without a down script, is refused and its restore point named."""
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
    assert [e["direction"] for e in events(made, "committed")] == ["down"]
    (point,) = events(made, "restore-point-archived")
    assert point["name"] == f"rollback_{made.run_id}"
    assert (made.folder / "rollback-plan.json").is_file()
    assert (made.folder / "rollback-plan.sql").is_file()

    made, code = run("rollback")
    assert (code, made.status, cells(made)["what-goes-back"]) == (3, Status.REFUSED, "failed")
    lines = error(made).splitlines()
    assert lines[0] == "cannot take back 0003_fill_status_and_config: it has no down script"
    assert f"Restore point before_{migrated.run_id} (LSN " in lines[1]
    assert lines[2] == "State: Nothing changed in the database."
    assert lines[3] == f"Hint: pgrunbook run restore --target demo -p to=before_{migrated.run_id}"


def test_nothing_that_holds_rows_is_dropped_unless_told_to(project: Project) -> None:
    """The refusal counts what would be lost and gives the command that loses it; of_run takes back one run's work."""
    target = project(folder=FOLDER)
    migrated, code = run("migrate")
    assert code == 0
    do(target, "INSERT INTO a VALUES (1, 'kept'), (2, NULL); INSERT INTO c VALUES (1), (2), (3)")
    made, code = run("rollback", migrations="2")
    assert (code, made.status, cells(made)["what-about-new-rows"]) == (3, Status.REFUSED, "failed")
    lines = error(made).splitlines()
    assert lines[0] == "the rollback would lose what c holds"
    assert lines[1] == "Detail: c: 3 rows; a.b: 1 values"
    assert lines[3].endswith("pgrunbook run rollback --target demo -p migrations=2 -p lose_rows=true")
    assert "3 rows" in outputs(made, "what-about-new-rows")
    assert rows(target, "SELECT count(*) FROM c") == [(3,)]

    made, code = run("rollback", migrations="2", lose_rows="true")
    assert (code, made.status) == (0, Status.DONE)
    assert rows(target, "SELECT array_agg(version) FROM schema_migrations") == [(["0001_a"],)]
    assert [e["migration"] for e in events(made, "committed")] == ["0003_c", "0002_b"]

    made, code = run("rollback", of_run=migrated.run_id)
    assert (code, made.status) == (3, Status.REFUSED)
    assert error(made).startswith("cannot take back 0001_a: it has no down script")
    made, code = run("rollback", migrations="9")
    assert (code, made.status) == (2, Status.FAILED)
    assert error(made).splitlines()[:2] == ["cannot take back 9 migrations", "Detail: Only 1 are applied."]


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


def test_a_rollback_that_was_killed_in_the_middle_goes_on(project: Project) -> None:
    """Killed at its second migration, it is resumed: nothing is taken back twice, and all of it is."""
    target = project(folder={**FOLDER, "0002_b.down.sql": FOLDER["0002_b.down.sql"] + WAITS})
    do(target, GATE)
    assert run("migrate")[1] == 0
    with pgrunbook("run", "rollback", "--target", "demo", "-p", "migrations=2") as process:
        wait_until(lambda: has_begun("rollback", "0002_b"))
        process.kill()
    broken = newest_run()
    assert broken is not None
    assert broken.standing() is Status.BROKEN_OFF
    assert rows(target, "SELECT array_agg(version ORDER BY version) FROM schema_migrations") == [
        (["0001_a", "0002_b"],)
    ]
    do(target, OPEN_THE_GATE)
    made, code = runbook.resume(broken.run_id)
    assert (code, made.status) == (0, Status.DONE)
    assert rows(target, "SELECT array_agg(version) FROM schema_migrations") == [(["0001_a"],)]
    assert [e["migration"] for e in events(made, "committed")] == ["0003_c", "0002_b"]
    assert events(made, "rollback-goes-on")
    assert "done before" in outputs(made, "take-back")
