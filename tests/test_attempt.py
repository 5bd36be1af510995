"""Attempts: a run opens in the ledger before it does anything, and is sealed when it has ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from acting import pgrunbook, wait_until
from conftest import connect, rows
from front_end import opened
from pgrunbook.config.targets import Target
from pgrunbook.database import anchors
from pgrunbook.record import journal
from pgrunbook.record import run as runs
from pgrunbook.runner import runbook
from pgrunbook.seal import envelope, ledger, standing, subjects
from pgrunbook.seal.anchor_check import Anchors

Project = Callable[..., Target]
Command = Callable[..., tuple[int, str, str]]
MIGRATE = "01-migrate.ipynb"
FOLDER = {"0001_t.sql": "CREATE TABLE t (a int);\n"}


def lines(outputs: Path) -> list[dict[str, Any]]:
    """The statements of the ledger."""
    return [envelope.read(line).statement() for line in ledger.path(outputs).read_bytes().splitlines()]


@pytest.mark.slow
def test_a_run_opens_and_is_sealed_with_every_file_of_its_folder(
    project: Project, command: Command, tmp_path: Path
) -> None:
    """The predicate says who, what, where and how it ended; the journal in the seal is the whole journal."""
    target = project(folder=FOLDER, restore_points=False)
    assert command("run", "migrate", "--target", "demo", "--why", "because=x")[0] == 2
    assert command("run", "migrate", "--target", "demo", "--why", "reason=orders need a note")[0] == 0
    (folder,) = runs.folders()
    opened, closed = lines(tmp_path / "outputs")
    said = closed["predicate"]
    assert [opened["predicate"][k] for k in ("kind", "seq", "run_id")] == ["opened", 1, folder.name]
    assert [said[k] for k in ("kind", "seq", "opened", "outcome")] == ["closed", 2, 1, "done"]
    named = {one["name"]: one["digest"]["sha256"] for one in closed["subject"]}
    assert set(named) == {p.name for p in folder.iterdir() if not p.name.startswith(".")}
    assert named == {name: subjects.digest(folder / name) for name in named}
    assert {"run.json", "journal.jsonl", "01-migrate.ipynb", "plan.json"} <= set(named)
    assert said["journal"]["sha256"] == named["journal.jsonl"]
    assert said["journal"]["chained"] is True
    assert said["why"] == {"change": "", "reason": "orders need a note", "risk": "", "requested_by": ""}
    assert said["plan"]["migrations"] == ["0001_t"]
    assert said["steps"] == [{"migration": "0001_t", "direction": "up", "ran": 1, "committed": 1, "whole": True}]
    assert said["operator"]["os_uid"] is not None
    assert said["operator"]["proven"] == ["database_role"]
    there = rows(target, "SELECT ledger, seq, kind, run_id, line_sha256 FROM pgrunbook.ledger ORDER BY seq")
    raw = ledger.path(tmp_path / "outputs").read_bytes().splitlines()
    name = said["ledger"]
    assert there == [
        (name, 1, "opened", folder.name, sha256(raw[0]).hexdigest()),
        (name, 2, "closed", folder.name, sha256(raw[1]).hexdigest()),
    ]
    assert (said["anchor"]["target"], said["anchor"]["line"]) == ("demo", 1)
    assert said["faithful"] == {"holds": True, "differences": [], "database_asked": True}
    assert rows(target, "SELECT count(*) FROM t") == [(0,)]


@pytest.mark.slow
def test_a_run_by_hand_is_sealed_when_its_last_cell_ends_and_again_when_its_kernel_does(
    project: Project, tmp_path: Path
) -> None:
    """What the kernel wrote is inside, the working copy is not; a cell that is run again opens a new attempt."""
    project(folder=FOLDER, restore_points=False)
    made = runbook.start("migrate", "demo", {})
    assert [line["predicate"]["kind"] for line in lines(tmp_path / "outputs")] == ["opened"]
    with opened(made, MIGRATE) as front:
        front.run(*front.cells())
        assert [line["predicate"]["kind"] for line in lines(tmp_path / "outputs")] == ["opened", "closed"]
        front.run("meet-the-target")
        assert [line["predicate"]["kind"] for line in lines(tmp_path / "outputs")] == ["opened", "closed"] * 2
    kinds = [line["predicate"]["kind"] for line in lines(tmp_path / "outputs")]
    assert kinds == ["opened", "closed"] * 3
    last = lines(tmp_path / "outputs")[-1]
    assert last["predicate"]["faithful"]["differences"] == []
    assert last["predicate"]["outside"] == [f"work/{MIGRATE}"]
    assert {MIGRATE, "01-migrate.cells.jsonl"} <= {one["name"] for one in last["subject"]}
    (made.folder / "work" / MIGRATE).write_text("saved by a browser")
    found = standing.report(tmp_path / "outputs", files=True)
    assert (found.exit_code, found.problems) == (0, ())
    log = made.folder / "01-migrate.cells.jsonl"
    log.write_bytes(log.read_bytes().replace(b"set-up", b"SET-UP", 1))
    assert {one.line for one in standing.report(tmp_path / "outputs", files=True).problems} == {2, 4, 6}


@pytest.mark.slow
def test_a_run_that_fails_is_sealed_and_goes_on_in_an_attempt_of_its_own(
    project: Project, command: Command, tmp_path: Path
) -> None:
    """Its line says which it continues; what the first attempt left stays as it was, and verify agrees."""
    target = project(folder={"0001_t.sql": "CREATE TABLE t (a int); SELECT 1 / 0;"}, restore_points=False)
    assert command("run", "migrate", "--target", "demo")[0] == 1
    (folder,) = runs.folders()
    first = (folder / "journal.jsonl").read_bytes()
    assert lines(tmp_path / "outputs")[-1]["predicate"]["outcome"] == "failed"
    assert command("run", "--resume", folder.name)[0] == 1
    told = [(p["kind"], p.get("continues")) for p in (line["predicate"] for line in lines(tmp_path / "outputs"))]
    assert told == [("opened", None), ("closed", None), ("opened", 2), ("closed", None)]
    assert (folder / "journal.jsonl").read_bytes().startswith(first)
    found = standing.report(tmp_path / "outputs", files=True)
    assert (found.exit_code, found.problems, found.runs[0].attempts) == (0, (), 2)
    assert target.name == "demo"


@pytest.mark.slow
@pytest.mark.parametrize("event", ["ledger-opened", "anchored", "step-started", "step-ran", "verdict"])
def test_a_run_that_is_killed_stays_open_and_its_record_is_true(project: Project, event: str, tmp_path: Path) -> None:
    """At each of these moments: what it left is as its lines say; it goes on, and all of it is sealed."""
    target = project(folder={"0001_t.sql": "CREATE TABLE t (a int); SELECT pg_sleep(1);"}, restore_points=False)
    with pgrunbook("run", "migrate", "--target", "demo") as process:
        wait_until(lambda: event in seen_events())
        kernels = {e["pid"] for e in journal.read(runs.folders()[0] / "journal.jsonl")} - {os.getpid()}
        process.kill()
        for pid in kernels:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()
    found = standing.report(tmp_path / "outputs", files=True)
    assert (found.exit_code, found.problems) == (0, ())
    assert found.runs[0].outcome in ("open", "done")
    if found.runs[0].outcome == "open":
        assert runbook.resume(found.runs[0].run)[1] == 0
    with connect(target) as conn:
        anchored = Anchors(anchors.rows(conn), anchors.place(conn), anchors.is_guarded(conn))
    found = standing.report(tmp_path / "outputs", files=True, target="demo", anchors=anchored)
    assert (found.exit_code, found.problems, found.runs[0].outcome) == (0, (), "done")
    assert rows(target, "SELECT count(*) FROM t") == [(0,)]


def seen_events() -> set[str]:
    """The events of the only run so far."""
    return {e["event"] for folder in runs.folders()[:1] for e in journal.read(folder / "journal.jsonl")}
