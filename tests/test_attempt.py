"""Attempts: a run opens in the ledger before it does anything, and is sealed when it has ended."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from conftest import rows
from pgrunbook.config.targets import Target
from pgrunbook.record import run as runs
from pgrunbook.seal import envelope, ledger, subjects

Project = Callable[..., Target]
Command = Callable[..., tuple[int, str, str]]
FOLDER = {"0001_t.sql": "CREATE TABLE t (a int);\n"}


def lines(outputs: Path) -> list[dict[str, Any]]:
    """The statements of the ledger."""
    return [envelope.read(line).statement() for line in ledger.path(outputs).read_bytes().splitlines()]


def test_a_run_opens_and_is_sealed_with_every_file_of_its_folder(
    project: Project, command: Command, tmp_path: Path
) -> None:
    """The predicate says who, what, where and how it ended; the journal in the seal is the whole journal."""
    target = project(folder=FOLDER, restore_points=False)
    assert command("run", "migrate", "--target", "demo")[0] == 0
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
