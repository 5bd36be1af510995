"""Ordinary migrations of a team: each is taken back with its rows, but for those that rightly cannot be."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import connect, do
from pgrunbook import history as histories
from pgrunbook.config.targets import Target
from pgrunbook.plan.plan import Change
from pgrunbook.rehearse import way_back_trial, with_data
from test_schema_only import safely

Project = Callable[..., Target]

FOLDER = Path(__file__).parent / "ordinary"
ENOUGH = 2**40


class OrdinaryMigration(NamedTuple):
    """A migration, its own down script where it has one, and why it rightly has no way back."""

    name: str
    up: str
    down: str | None
    because: str


def ordinary(file: str = "migrations.sql") -> list[OrdinaryMigration]:
    """Read the migrations of a data file."""
    _, *parts = re.split(r"^-- migration: (\S+)\n", (FOLDER / file).read_text(), flags=re.MULTILINE)
    found = []
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        up, _, down = text.partition("-- down:\n")
        because = re.search("^-- no way back: (.*)$", up, flags=re.MULTILINE)
        found.append(OrdinaryMigration(name, up, down or None, because.group(1) if because else ""))
    return found


def proofs(
    project: Project, migrations: list[OrdinaryMigration], *, setup: str = "setup.sql", before: str = ""
) -> tuple[Change, ...]:
    """Rehearse migrations as one release, without and with rows; return the changes with their proofs."""
    files = {f"{m.name}.sql": m.up for m in migrations}
    files |= {f"{m.name}.down.sql": m.down for m in migrations if m.down}
    target = project(folder=files)
    do(target, (FOLDER / setup).read_text() + before)
    done = safely(target)
    with connect(target, purpose="test") as conn:
        pending = histories.read(conn, target).pending()
        ways = with_data.rehearse(target, pending, done, conn, most_bytes=ENOUGH)
    return way_back_trial.with_proofs(done.changes, ways.trial.ways_back)


def without_way_back(changes: tuple[Change, ...]) -> dict[str, str]:
    """Return the migrations without a proven way back, and why."""
    return {change.migration: change.proof.told for change in changes if not change.proof.proven}


SAMPLE = ("001", "003", "007", "009", "011", "016", "021", "028", "030", "034", "041", "044", "045", "098")


@pytest.mark.slow
def test_a_sample_of_ordinary_migrations_is_taken_back(project: Project) -> None:
    """One of each kind: a doubt is there where it is right, and nowhere else."""
    migrations = [migration for migration in ordinary() if migration.name.startswith(SAMPLE)]
    assert len(migrations) == len(SAMPLE)
    found = without_way_back(proofs(project, migrations))
    assert list(found) == [migration.name for migration in migrations if migration.because], found


@pytest.mark.slow
@pytest.mark.timeout(2_400)
@pytest.mark.parametrize("files", [("migrations.sql", "setup.sql"), ("clinic.sql", "clinic_setup.sql")])
def test_ordinary_migrations_are_taken_back(project: Project, files: tuple[str, str]) -> None:
    """All of them, in one release: at most eight in a hundred have no way back, each rightly so."""
    migrations = ordinary(files[0])
    found = without_way_back(proofs(project, migrations, setup=files[1]))
    assert list(found) == [migration.name for migration in migrations if migration.because], found
    assert len(found) * 100 <= 8 * len(migrations)
