"""Letting a Drizzle package write its migrations: what is said when it cannot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pgrunbook.config.targets import Target
from pgrunbook.errors import StatementFailed, WrongInput
from pgrunbook.history import drizzle_kit
from pgrunbook.history.drizzle_kit import generate_migrations
from scenes import error_of

needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
Package = Callable[..., Target]


@pytest.fixture
def package(tmp_path: Path) -> Package:
    """A package whose db:generate is a command of the test."""

    def make(script: str | None = "true", *, named: str = "migrations") -> Target:
        (tmp_path / "migrations").mkdir()
        (tmp_path / "node_modules").mkdir()
        (tmp_path / "drizzle.config.ts").write_text('export default { out: "./migrations" };')
        scripts = {"db:generate": script} if script is not None else {}
        (tmp_path / "package.json").write_text(json.dumps({"scripts": scripts}))
        return Target(name="demo", server="main", migrations=tmp_path / named)

    return make


@pytest.mark.first_case
@needs_npm
@pytest.mark.parametrize("named", ["migrations", ""], ids=["its folder named", "the package named"])
def test_new_files_are_seen(package: Package, named: str) -> None:
    """The folder before and after, name to text."""
    target = package("echo 'SELECT 1' > migrations/0001_a.sql", named=named)
    assert generate_migrations(target) == ({}, {"0001_a.sql": "SELECT 1\n"})


@pytest.mark.slow
@needs_npm
def test_a_failure_is_told_with_what_drizzle_kit_said(package: Package, tmp_path: Path) -> None:
    """It says nothing at all for most errors; then that is what we say."""
    error = error_of(lambda: generate_migrations(package("echo schema is broken; exit 3")))
    assert isinstance(error, StatementFailed)
    assert str(error) == (
        "could not generate migrations: it exited with code 3\n"
        "Detail: drizzle-kit printed: schema is broken.\n"
        "State: Nothing changed in the database.\n"
        f"Hint: Run npm run db:generate in {tmp_path} yourself, answer its questions, then prepare again."
    )
    (tmp_path / "package.json").write_text('{"scripts": {"db:generate": "exit 1"}}')
    silent = error_of(lambda: generate_migrations(Target(name="d", server="m", migrations=tmp_path / "migrations")))
    assert silent.detail == "drizzle-kit printed: nothing, as for most errors."


@needs_npm
def test_a_question_counts_as_a_failure(package: Package) -> None:
    """drizzle-kit ends with 0 when it wants to ask and nobody can answer."""
    error = error_of(lambda: generate_migrations(package("echo Error: Interactive prompts require a TTY terminal")))
    assert error.message == (
        "could not generate migrations: it asks whether something was renamed or created, and nobody can answer here"
    )


@pytest.mark.slow
@needs_npm
def test_what_does_not_end_is_stopped(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a limit of time."""
    monkeypatch.setattr(drizzle_kit, "TIMEOUT_S", 1)
    error = error_of(lambda: generate_migrations(package("exec sleep 5")))
    assert error.message == "could not generate migrations: it did not finish within 1 s"


def test_what_is_missing_is_named(package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packages, npm, the script, package.json and the configuration, one after the other."""
    target = package()
    folder = tmp_path / "migrations"
    state = "State: Nothing changed in the database."

    def told() -> str:
        error = error_of(lambda: generate_migrations(target))
        assert isinstance(error, WrongInput)
        return str(error)

    if shutil.which("npm"):
        (tmp_path / "node_modules").rmdir()
        assert told() == f"the packages of {tmp_path} are not installed\n{state}\nHint: Run npm ci in {tmp_path}."
    monkeypatch.setenv("PATH", "")
    assert told() == (f"cannot generate migrations without node\n{state}\nHint: Install node, or set generate = False.")
    (tmp_path / "package.json").write_text("{}")
    assert told() == (
        f"{tmp_path / 'package.json'} has no script db:generate\n{state}\nHint: Add it: drizzle-kit generate."
    )
    (tmp_path / "package.json").write_text("{")
    assert told() == (
        f"could not read {tmp_path / 'package.json'}\n"
        "Detail: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)\n"
        f"{state}\nHint: Correct it, or set generate = False."
    )
    (tmp_path / "drizzle.config.ts").unlink()
    assert told() == (
        'target "demo" has no Drizzle package to generate from\n'
        f"Detail: There is no drizzle.config.ts in or above {folder}.\n"
        f"{state}\nHint: Set generate = False, or name the package's migrations folder in targets.toml."
    )
