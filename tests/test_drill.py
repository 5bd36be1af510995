"""notebooks/drill.ipynb and runbook restore-drill: restored, proven, measured, removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from acting import cells, completed, error, events, go_on_with, outputs, run
from conftest import Site, do
from pgrunbook.branches import amcheck, backup, isolation
from pgrunbook.branches.server import Server
from pgrunbook.branches.server_name import server_names
from pgrunbook.config.targets import Target
from pgrunbook.errors import Refused
from pgrunbook.record.run import Status
from pgrunbook.runner import runbook

Project = Callable[..., Target]


@pytest.fixture
def drilled(project: Project, site: Site) -> Iterator[Callable[..., Target]]:
    """Declare a target with a table, and a base backup from now; what a drill leaves goes with the test."""
    before = set(server_names())
    backup.take_base_backup(site.server)

    def declare(**options: object) -> Target:
        target = project(folder={"0001_a.sql": "CREATE TABLE a (id int PRIMARY KEY)"}, **options)
        do(target, "CREATE TABLE kept AS SELECT generate_series(1, 100) AS n")
        return target

    yield declare
    for name in set(server_names()) - before:
        Server(name).destroy()


@pytest.mark.slow
def test_a_drill_leaves_nothing_but_its_times_and_its_exit_code_tells_whether_they_were_kept(
    drilled: Callable[..., Target], tmp_path: Path
) -> None:
    """0 within recovery_time_s, 3 beyond it; each drill is in the picture of the next."""
    drilled(recovery_time_s=600)
    servers = set(server_names())
    first, code = run("restore-drill")
    assert (code, first.status, completed(first)) == (0, Status.DONE, True)
    assert [part.procedure for part in first.parts] == ["restore", "drill"]
    assert set(server_names()) == servers
    assert "600 s are promised" in outputs(first, "what-was-restored")
    assert outputs(first, "is-it-whole").splitlines()[-1].endswith("yes")
    assert outputs(first, "how-does-it-differ", 0) == "Not compared: compare is none."
    (told,) = events(first, "drilled")
    assert told["recovery_time_s"] == events(first, "restored")[0]["recovery_time_s"]

    file = tmp_path / "targets.toml"
    file.write_text(file.read_text().replace("recovery_time_s = 600", "recovery_time_s = 0.001"))
    late, code = run("restore-drill")
    assert (code, late.status, cells(late)["verdict"]) == (3, Status.REFUSED, "failed")
    took_s = events(late, "drilled")[0]["recovery_time_s"]
    says, _, state, _ = error(late).splitlines()
    assert says == f"a restore took {took_s:.2f} s, and 0.001 s are promised (recovery_time_s)"
    assert state == "State: The target was only read; what was restored was whole, and is removed."
    assert set(server_names()) == servers
    assert outputs(late, "recovery-times").splitlines()[-1].startswith("Recovery times of 2 drills: the last ")
    kept = (late.folder / "recovery-times.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in kept] == ["run", first.run_id, late.run_id]


@pytest.mark.slow
def test_what_is_damaged_fails_and_stays(drilled: Callable[..., Target]) -> None:
    """A page that was spoilt behind the restore is named; the server is kept, and removed when it is mended."""
    target = drilled()
    made, code = run("restore", to="newest", compare="none")
    assert code == 0
    server = Server(events(made, "restored")[0]["name"])
    with server.connect(database=str(target.database)) as conn:
        ((path,),) = conn.execute("SELECT pg_relation_filepath('public.kept')").fetchall()
    server.stop()
    heap = server.data_dir / str(path)
    whole = heap.read_bytes()
    heap.write_bytes(whole[:4000] + bytes([whole[4000] ^ 1]) + whole[4001:])
    server.start()
    again, code = go_on_with(made, "drill")
    assert (code, again.status, cells(again)["is-it-whole"]) == (1, Status.FAILED, "failed")
    assert error(again).startswith("the restored database is damaged: ")
    assert "invalid page in block 0" in (again.folder / "is-it-whole.csv").read_text()
    assert server.name in server_names()
    server.stop()
    heap.write_bytes(whole)
    server.start()
    again, code = runbook.resume(again.run_id)
    assert (code, again.status) == (0, Status.DONE)
    assert server.name not in server_names()


def test_a_run_that_has_restored_nothing_cannot_be_drilled(project: Project) -> None:
    """It says which runbook restores, too."""
    project(folder={"0001_a.sql": "CREATE TABLE a (id int)"})
    made, code = run("drill")
    assert (code, made.status) == (3, Status.REFUSED)
    assert error(made).splitlines() == [
        "this run has restored nothing",
        "Detail: A drill tries what the procedure restore has made in the same run.",
        "State: Nothing changed in the database.",
        "Hint: Run both: pgrunbook run restore-drill --target demo",
    ]


def test_only_a_copy_is_checked_by_pg_amcheck(site: Site) -> None:
    """The extension is made in no database that is in use."""
    assert not isolation.is_isolated(site.server)
    with pytest.raises(Refused, match="it is not a copy"):
        amcheck.damage(site.server, "template1")
