"""notebooks/rollout.ipynb: a flag goes on in stages, each with its gate, and back without a lost write."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from acting import completed, error, outputs, run
from conftest import do, rows
from pgrunbook.config.targets import Target
from pgrunbook.record.run import Run

Project = Callable[..., Target]
STAGES: list[dict[str, Any]] = [
    {"name": "friends", "keys": [1, 2, 3], "rows": 3},
    {"name": "ten", "share": 10},
    {"name": "half", "share": 50},
    {"name": "everyone", "all": True, "rows": [0, 1_000]},
]
TABLE = (
    "CREATE TABLE customers (id int PRIMARY KEY, name text, seen int DEFAULT 0);"
    "INSERT INTO customers SELECT i, 'c' || i FROM generate_series(1, 400) AS i"
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder of its own, with a folder for rollouts."""
    folder = tmp_path / "home"
    (folder / "rollouts").mkdir(parents=True)
    monkeypatch.setenv("PGRUNBOOK_HOME", str(folder))
    return folder


@pytest.fixture
def target(project: Project, home: Path) -> Target:
    """A target with a table of customers, in a project of its own."""
    assert home.is_dir()
    made = project(folder={"0001_a.sql": "SELECT 1"}, batch_rows=30)
    do(made, TABLE)
    return made


@pytest.fixture
def declare(home: Path) -> Callable[..., Path]:
    """Declare the rollout "beta"."""

    def write(stages: list[dict[str, Any]] | None = None, **given: Any) -> Path:
        facts = {"table": "customers", "column": "beta", "stages": stages or STAGES, **given}
        path = home / "rollouts" / "beta.yaml"
        path.write_text(yaml.safe_dump(facts))
        return path

    return write


def go(accept: str = "", **given: str) -> tuple[Run, int]:
    """Run the rollout."""
    return run("rollout", name="beta", accept=accept, **given)


def flagged(target: Target) -> set[int]:
    """Return who has the flag."""
    return {int(str(row[0])) for row in rows(target, "SELECT id FROM customers WHERE beta")}


def share(percent: float, ids: range, salt: str = "beta") -> set[int]:
    """Return who is in a share, as an application would compute it."""
    hashes = {i: int(hashlib.sha256(f"{salt}:{i}".encode()).hexdigest()[:8], 16) for i in ids}
    return {i for i, value in hashes.items() if value < percent / 100 * 2**32}


def test_flag_goes_on_in_stages_and_goes(target: Target, declare: Callable[..., Path]) -> None:
    """From a column that is not there to one that is not there any more, each stage accepted by a person."""
    declare()
    made, code = go()
    assert code == 0, error(made)
    assert rows(target, "SELECT FROM information_schema.columns WHERE column_name = 'beta'") == []
    made, code = go("friends")
    assert code == 0, error(made)
    assert flagged(target) == {1, 2, 3}
    made, code = go("ten,half")
    assert code == 0, error(made)
    ids = range(1, 401)
    assert flagged(target) == share(50, ids) | {1, 2, 3}
    made, code = go("everyone")
    assert code == 0, error(made)
    assert flagged(target) == set(ids)
    assert rows(target, "INSERT INTO customers VALUES (401) RETURNING beta") == [(True,)]
    made, code = go("remove")
    assert code == 0, error(made)
    assert rows(target, "SELECT FROM information_schema.columns WHERE column_name = 'beta'") == []
    assert completed(made)
    assert "the flag is removed" in outputs(made, "verdict")
