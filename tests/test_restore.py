"""notebooks/restore.ipynb: to any moment, beside the living."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from acting import (
    cells,
    completed,
    error,
    events,
    newest_run,
    notebook,
    outputs,
    pgrunbook,
    run,
    wait_until,
)
from conftest import ROOT, Site, do, rows
from pgrunbook.app import demo
from pgrunbook.branches import archive, backup, incremental
from pgrunbook.branches.recovery_target import lsn_number
from pgrunbook.branches.server import Server
from pgrunbook.branches.server_status import ServerState
from pgrunbook.branches.wal_segments import SEGMENT_BYTES
from pgrunbook.config import targets
from pgrunbook.config.targets import Target
from pgrunbook.record.run import Run, Status
from pgrunbook.runner import runbook

FOLDER = {
    "0001_a.sql": "CREATE TABLE a (id int PRIMARY KEY, b text);",
    "0002_b.sql": "ALTER TABLE a ADD COLUMN c text;",
}


@pytest.fixture(autouse=True)
def recent_backup(site: Site) -> None:
    """A base backup from now: a restore need not replay what all the tests before have written."""
    backup.take_base_backup(site.server)


@pytest.fixture
def restored() -> Iterator[Callable[..., tuple[Run, int]]]:
    """Run restore on target demo; the servers that it made go with the test."""
    names = []

    def restore(**given: str) -> tuple[Run, int]:
        made, code = run("restore", **given)
        names.extend(str(e["name"]) for e in events(made, "restored"))
        return made, code

    yield restore
    for name in names:
        Server(name).destroy()


Restore = Callable[..., tuple[Run, int]]


@pytest.mark.slow
def test_a_database_comes_back_at_a_restore_point_an_lsn_and_a_time(
    project: Callable[..., Target], restored: Restore
) -> None:
    """Beside the living one; rows written since are new, deleted ones missing, changed ones changed."""
    target = project(folder={"0001_a.sql": FOLDER["0001_a.sql"]})
    assert run("migrate")[1] == 0
    do(target, "INSERT INTO a SELECT n, 'as it was' FROM generate_series(1, 100) AS n")
    files = Path(str(target.migrations))
    (files / "0002_b.sql").write_text("CREATE TABLE other (id int)")
    migrated, code = run("migrate")
    assert code == 0
    ((moment, lsn),) = rows(target, "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', "
                            "'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), pg_current_wal_insert_lsn()")  # fmt: skip
    do(target, "DELETE FROM a WHERE id <= 5; UPDATE a SET b = 'spoilt' WHERE id BETWEEN 6 AND 9; "
       "INSERT INTO a VALUES (101, 'since'), (102, 'since')")  # fmt: skip

    made, code = restored(name="by-point")
    assert (code, made.status, completed(made)) == (0, Status.DONE, True)
    assert re.search(r"[0-9]+ base backups?, [0-9]+ restore points?\.", outputs(made, "what-can-be-restored"))
    chosen = f"restore point +before_{migrated.run_id} +{migrated.run_id} +0001_a +[0-9]+ s\\n"
    assert re.search(chosen, outputs(made, "choose-the-point"))
    assert "before_" + migrated.run_id in outputs(made, "is-it-the-point")
    assert '"before_' + migrated.run_id in events(made, "verdict")[0]["says"]
    table = {line.split()[0]: line.split()[1:] for line in outputs(made, "how-does-it-differ").splitlines()[1:]}
    assert table["public.a"] == ["100", "97", "5", "4", "2", "different"]
    assert table["public.other"][-2:] == ["only", "today"]
    compared = next(c for c in notebook(made).cells if c.id == "how-does-it-differ")
    assert "missing: 1" in compared.outputs[0].data["text/html"]
    assert "public.a: 5 missing today, 4 changed, 2 new" in outputs(made, "differences-drawn")
    assert Server("by-point").status().state is ServerState.RUNNING
    beside = target.model_copy(update={"server": "by-point"})
    assert rows(beside, "SELECT count(*) FROM a WHERE b = 'as it was'") == [(100,)]
    assert rows(target, "SELECT count(*) FROM a") == [(97,)]

    there = "SELECT count(*), count(DISTINCT b), to_regclass('other') IS NOT NULL FROM a"
    for to, name in ((str(lsn), "by-lsn"), (str(moment), "by-time")):
        made, code = restored(to=to, name=name)
        assert (code, made.status) == (0, Status.DONE)
        assert rows(target.model_copy(update={"server": name}), there) == [(100, 1, True)]


@pytest.mark.slow
def test_what_cannot_be_restored_is_said_before_anything_is_copied(project: Callable[..., Target]) -> None:
    """A time without zone, a point that is not there and a name that is taken: each with its own exit code."""
    project(folder=FOLDER)
    made, code = run("restore", to="2026-11-22 16:54:31")
    assert (code, made.status, cells(made)["set-up"]) == (2, Status.FAILED, "failed")
    assert error(made).splitlines() == [
        'time "2026-11-22 16:54:31" has no zone',
        "Detail: It would be another moment on every machine.",
        "State: Nothing changed in the database.",
        "Hint: Write 2026-11-22T16:54:31Z for UTC, or with an offset as +01:00.",
    ]
    made, code = run("restore", to="no-such-point")
    assert (code, made.status, cells(made)["restore-to-branch"]) == (2, Status.FAILED, "failed")
    assert error(made).startswith('could not find restore point "no-such-point" in the WAL of server "main"')

    assert run("migrate")[1] == 0
    made, code = run("restore", name="main")
    assert (code, made.status) == (3, Status.REFUSED)
    assert error(made).startswith('refused to restore over server "main"')
    made, code = run("restore", name="../elsewhere")
    assert (code, made.status) == (2, Status.FAILED)
    assert error(made).startswith('"../elsewhere" cannot be the name of a server')


@pytest.mark.slow
def test_a_table_with_other_columns_since_is_shown_as_such(project: Callable[..., Target], restored: Restore) -> None:
    """A migration between then and now does not hide the tables that can be compared."""
    target = project(folder={"0001_a.sql": FOLDER["0001_a.sql"] + "CREATE TABLE b (id int PRIMARY KEY);"})
    assert run("migrate")[1] == 0
    assert target.migrations is not None
    (target.migrations / "0002_b.sql").write_text(FOLDER["0002_b.sql"])
    assert run("migrate")[1] == 0
    do(target, "INSERT INTO a VALUES (1, 'x', 'y'); INSERT INTO b VALUES (1)")
    made, code = restored()
    assert (code, made.status, completed(made)) == (0, Status.DONE, True)
    assert events(made, "restored")[0]["name"] == f"restored-{made.run_id[-4:]}"
    shown = outputs(made, "how-does-it-differ")
    lines = {line.split()[0]: line for line in shown.splitlines()}
    assert lines["public.a"].endswith(" 1          different; only one side has the columns c")
    assert lines["public.b"].endswith("different")


@pytest.mark.slow
def test_a_database_that_is_not_on_a_server_of_ours_is_refused(
    project: Callable[..., Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing of it was received; the refusal says where to look, and how it can be next time."""
    monkeypatch.setenv("ADDRESS_OF_TESTS", "postgresql://nobody@localhost:1/nothing")
    project(folder=FOLDER, server=None, database=None, url_from="ADDRESS_OF_TESTS")
    made, code = run("restore")
    assert (code, made.status) == (3, Status.REFUSED)
    assert error(made).splitlines()[:2] == [
        'target "demo" cannot be restored from here',
        "Detail: Its server is not ours, and no base backup of it was received.",
    ]
    made, code = run("restore", cut_over="true")
    assert (code, made.status) == (2, Status.FAILED)
    assert error(made).splitlines()[0] == 'cannot cut over from target "demo": its server is not ours'


@pytest.mark.slow
@pytest.mark.usefixtures("site")
def test_a_server_that_is_down_can_be_restored_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restored: Restore
) -> None:
    """The newest restore point is found in the WAL; what cannot be compared is said."""
    file = tmp_path / "targets.toml"
    folder = ROOT / "examples" / "zeitwork" / "packages" / "database" / "migrations"
    file.write_text(f'[demo]\nserver = "lost"\ndatabase = "zeitwork"\nmigrations = "{folder}"\n')
    monkeypatch.setenv("PGRUNBOOK_TARGETS", str(file))
    monkeypatch.setenv("PGRUNBOOK_OUTPUTS", str(tmp_path / "outputs"))
    lost = Server("lost")
    try:
        demo.set_up(1000)
        do(targets.load("demo"), "SELECT pg_create_restore_point('by_hand')")
        migrated, code = run("migrate")
        assert code == 0
        lost.stop()
        made, code = restored(name="saved")
        assert (code, made.status, completed(made)) == (0, Status.DONE, True)
        assert "answers  no: " in outputs(made, "meet-the-target")
        assert "before_" + migrated.run_id in outputs(made, "choose-the-point")
        assert "1 base backup, 2 restore points." in outputs(made, "what-can-be-restored")
        told = outputs(made, "choose-the-point")
        assert re.search(r"2\S+ \S+Z +restore point +by_hand +[0-9]+ s\n", told)
        assert re.search(rf"restore point +before_{migrated.run_id} +[0-9]+ s\n", told)
        assert re.search(r"2\S+ \S+Z +base backup +\S+ +[0-9]+ s\n?$", told)
        assert "The target does not answer" in outputs(made, "how-does-it-differ")
        beside = targets.load("demo").model_copy(update={"server": "saved"})
        assert rows(beside, "SELECT to_regclass('audit_logs'), count(*) FROM sessions") == [(None, 1000)]
    finally:
        lost.destroy()


@pytest.mark.slow
def test_only_the_tables_that_are_asked_for_are_compared(project: Callable[..., Target], restored: Restore) -> None:
    """Some, whatever way they are named; one that is on neither side is shown as such; or none at all."""
    target = project(folder={"0001_a.sql": 'CREATE TABLE a (id int); CREATE TABLE "C d" (id int)'})
    assert run("migrate")[1] == 0
    do(target, 'CREATE TABLE c (id int); INSERT INTO a VALUES (1); INSERT INTO "C d" VALUES (1)')
    made, code = restored(compare='["public.a", "C d", "d"]', to=lsn_now(target))
    assert code == 0
    shown = outputs(made, "how-does-it-differ").splitlines()[1:]
    assert [line.split("  ")[0] for line in shown] == ["d", "public.C d", "public.a"]
    assert shown[0].endswith("on neither side")
    made, code = restored(compare="none", to=lsn_now(target))
    assert code == 0
    assert outputs(made, "how-does-it-differ") == "Not compared: compare is none."
    assert outputs(made, "differences-drawn").splitlines()[-1].endswith("none: no table differs in its rows")


@pytest.mark.slow
def test_what_another_role_has_planted_is_not_compared(project: Callable[..., Target], restored: Restore) -> None:
    """To plan a query on its table calls its function, as a superuser on both sides: it is named, and not read."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a (id int)"})
    assert run("migrate")[1] == 0
    role = "plants_for_restore"
    do(target, f"DROP ROLE IF EXISTS {role}; CREATE ROLE {role}; GRANT CREATE ON SCHEMA public TO {role};"
       f" SET ROLE {role}; CREATE FUNCTION f(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS"
       " 'BEGIN IF current_user <> ''plants_for_restore'' THEN RAISE EXCEPTION ''called''; END IF; RETURN 1; END';"
       " CREATE TABLE p (n int); CREATE INDEX ON p ((n + f(1)))")  # fmt: skip
    try:
        made, code = restored(to=lsn_now(target))
        assert code == 0
        shown = outputs(made, "how-does-it-differ")
        assert "not compared: it calls functions of another role" in shown
        assert [line.split("  ")[0] for line in shown.splitlines()[1:]][:2] == ["public.p", "public.a"]
    finally:
        do(target, f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.slow
def test_a_run_that_was_killed_in_its_restore_goes_on(project: Callable[..., Target]) -> None:
    """The half restored server is shown, and made anew under its name."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a (id int)"})
    do(target, "CREATE TABLE big AS SELECT generate_series(1, 300000) AS n")
    to, half = lsn_now(target), Server("killed")
    with pgrunbook("run", "restore", "--target", "demo", "-p", f"to={to}", "-p", "name=killed") as process:
        wait_until(lambda: half.status().state is ServerState.HALF_RESTORED and half.data_dir.is_dir())
        broken = newest_run()
        assert broken is not None
        kernel = {e["pid"] for e in events(broken, "restore-started")}
        process.kill()
        for pid in kernel:
            os.kill(pid, signal.SIGKILL)
        process.communicate()
    try:
        assert half.status().state is ServerState.HALF_RESTORED
        made, code = runbook.resume(broken.run_id)
        assert (code, made.status) == (0, Status.DONE)
        assert half.status().state is ServerState.RUNNING
        assert rows(target.model_copy(update={"server": "killed"}), "SELECT count(*) FROM big") == [(300000,)]
    finally:
        half.destroy()


@pytest.mark.slow
def test_a_release_takes_an_incremental_backup_where_much_would_be_replayed(
    project: Callable[..., Target], site: Site, restored: Restore
) -> None:
    """Just before its restore point, which a restore then reaches with little WAL; where little was written, none."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a (id int)"})
    made, code = run("migrate")
    assert (code, events(made, "base-backup-taken")) == (0, [])
    for _ in range(incremental.WORTH_WAL_BYTES // SEGMENT_BYTES + 2):
        do(target, "SELECT pg_logical_emit_message(false, 'test', ''), pg_switch_wal()")
    assert target.migrations is not None
    Path(target.migrations, "0002_b.sql").write_text("CREATE TABLE b (id int)")
    made, code = run("migrate")
    (told,) = events(made, "base-backup-taken")
    assert (code, told["onto"]) == (0, backup.full(backup.list_base_backups(site.server))[-1].id)
    assert lsn_number(told["stop_lsn"]) < lsn_number(events(made, "restore-point-created")[0]["lsn"])
    made, code = restored()
    assert code == 0
    assert events(made, "restored")[0]["backup"] == told["id"]
    assert events(made, "restored")[0]["replayed_bytes"] < 2 * SEGMENT_BYTES


@pytest.mark.slow
def test_damage_ends_the_run_with_the_file_and_the_gap_in_the_time_line(
    project: Callable[..., Target], site: Site, restored: Restore
) -> None:
    """Exit code 1 and the name of what is damaged, never done; the window is broken where WAL is missing."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a (id int)"})
    assert run("migrate")[1] == 0
    for _ in range(3):
        do(target, "INSERT INTO a VALUES (1); SELECT pg_switch_wal()")
    with site.server.connect() as conn, conn.as_target():
        lsn = archive.create_restore_point(conn, f"behind-{target.database}")
        archive.wait_archived(conn, lsn)
    taken = backup.list_base_backups(site.server)[-1]
    segment = site.server.archive_dir / archive.archived(site.server)[-2]
    aside = site.server.dir / segment.name
    segment.rename(aside)
    try:
        made, code = restored(to=f"behind-{target.database}")
        assert (code, made.status, cells(made)["restore-to-branch"]) == (1, Status.FAILED, "failed")
        assert f" WAL is missing: {segment.name}." in outputs(made, "what-can-be-restored")
        assert error(made).splitlines()[0].endswith("WAL is missing before it")
    finally:
        aside.rename(segment)
    label = taken.path / "backup_label"
    label.write_bytes(label.read_bytes().replace(b"pgrunbook", b"pgrunbuok"))
    try:
        made, code = restored(to=f"behind-{target.database}")
        assert (code, made.status) == (1, Status.FAILED)
        assert error(made).splitlines()[0] == f'base backup {taken.id} of server "main" is damaged'
        assert "backup_label: checksum mismatch" in error(made)
    finally:
        label.write_bytes(label.read_bytes().replace(b"pgrunbuok", b"pgrunbook"))
    assert restored(to=f"behind-{target.database}")[1] == 0


def lsn_now(target: Target) -> str:
    """Return where the WAL is written now."""
    return str(rows(target, "SELECT pg_current_wal_insert_lsn()")[0][0])
