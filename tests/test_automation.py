"""The examples for automation do what docs/automation.md says, with the exit codes and the JSON that it names."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from conftest import ROOT, do
from pgrunbook.app import json_schema
from pgrunbook.config.targets import Target

Project = Callable[..., Target]
EXAMPLES = ROOT / "examples" / "automation"
GOOD = {"0001_a.sql": "CREATE TABLE a (id int PRIMARY KEY);"}
# The first is lost with its rows, the second blocks writers.
BAD = {"0002_b.sql": "ALTER TABLE a DROP COLUMN gone;\nCREATE INDEX a_n ON a (n);"}

pytestmark = pytest.mark.newest


def shell(text: str, folder: Path, **also: str) -> subprocess.CompletedProcess[str]:
    """Run lines as a step of a workflow does, in the folder of somebody's project."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, **also}
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", text], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


def workflow(job: str) -> dict[str, Any]:
    """The steps of a job that run something, by name."""
    found = yaml.safe_load((EXAMPLES / "github-workflow.yml").read_text())
    return {step["name"]: step for step in found["jobs"][job]["steps"] if "run" in step}


@pytest.mark.first_case
@pytest.mark.parametrize(("files", "code"), [(GOOD, 0), (BAD, 1)])
def test_a_pull_request_is_reviewed(files: dict[str, str], code: int, tmp_path: Path) -> None:
    """SARIF is there in both cases, so that it can be uploaded."""
    (tmp_path / "migrations").mkdir()
    for name, text in files.items():
        (tmp_path / "migrations" / name).write_text(text)
    ended = shell(workflow("review")["review"]["run"], tmp_path)
    assert ended.returncode == code, ended.stderr
    sarif = json.loads((tmp_path / "review.sarif").read_text())
    errors = [found for found in sarif["runs"][0]["results"] if found["level"] == "error"]
    assert bool(errors) is bool(code)


@pytest.mark.slow
def test_a_merge_is_released_and_a_gate_waits(project: Project, tmp_path: Path) -> None:
    """The first passes; the second tells the gate and how to accept it, and is no failure of the workflow."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a (id int PRIMARY KEY, n int, gone text)"}, name="shop")
    assert target.migrations is not None
    summary, folder = tmp_path / "summary", target.migrations.parent
    step = workflow("release")["release"]["run"]
    ended = shell(step, folder, GITHUB_STEP_SUMMARY=str(summary))
    assert ended.returncode == 0, ended.stderr
    assert json.loads((folder / "release.json").read_text())["run"]["status"] == "done"
    do(target, "INSERT INTO a VALUES (1, 1, 'x')")
    (target.migrations / "0002_b.sql").write_text("ALTER TABLE a DROP COLUMN gone")
    ended = shell(step, folder, GITHUB_STEP_SUMMARY=str(summary))
    assert ended.returncode == 0, ended.stderr
    told = summary.read_text()
    assert "- 0002_b:1" in told
    assert "pgrunbook" in told.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize(("files", "code"), [(GOOD, 0), (BAD, 1)])
def test_a_commit_is_reviewed(files: dict[str, str], code: int, tmp_path: Path) -> None:
    """pre-commit calls the entry with the files that fit."""
    (hook,) = yaml.safe_load((EXAMPLES / "pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    (tmp_path / "migrations").mkdir()
    for name, text in files.items():
        assert re.search(hook["files"], f"migrations/{name}")
        (tmp_path / "migrations" / name).write_text(text)
    ended = shell(f"{hook['entry']} {' '.join(f'migrations/{name}' for name in files)}", tmp_path)
    assert ended.returncode == code, ended.stderr


@pytest.mark.slow
def test_the_lines_of_the_crontab(project: Project) -> None:
    """Nothing is written where nothing is found; what is found is mailed with its exit code."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a (id int PRIMARY KEY)"}, name="shop")
    assert target.migrations is not None
    lines = [line for line in (EXAMPLES / "crontab").read_text().splitlines() if " cd /srv/shop && " in line]
    drift, drill = [line.split(" cd /srv/shop && ")[1].replace("\\%", "%") for line in lines]
    folder = target.migrations.parent
    assert shell("pgrunbook run release --target shop -p with_data=false --quiet", folder).stderr == ""
    ended = shell(drift, folder)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    do(target, "ALTER TABLE a ADD COLUMN by_hand int")
    ended = shell(drift, folder)
    assert "drift: exit code 3" in ended.stdout
    assert "by_hand" in ended.stdout
    ended = shell(drill.replace("restore-drill", "prepare"), folder)
    assert (ended.stdout, ended.stderr) == ("", "")
    assert drill.startswith("pgrunbook run restore-drill ")


def test_the_page_names_every_schema() -> None:
    """And no other; that each is printed is seen in test_json_schema."""
    page = (ROOT / "docs" / "automation.md").read_text()
    assert {*re.findall(r"`pgrunbook schema ([a-z]+)`", page)} == {*get_args(json_schema.Name)}
