"""Each migration up, down and up again with its rows: a doubt about one is no doubt about another."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conftest import do
from pgrunbook.config.targets import Target
from pgrunbook.rehearse.up_down_up import WayBackTrial
from test_with_data import tried

Project = Callable[..., Target]

TABLES = """
CREATE TABLE t (id serial PRIMARY KEY, a integer NOT NULL, b text);
INSERT INTO t (a, b) SELECT i, 'b' || i FROM generate_series(1, 30) AS i;
CREATE TABLE u AS SELECT id, b FROM t;
CREATE TABLE w AS SELECT id, a FROM t;
ALTER TABLE w ALTER COLUMN a SET NOT NULL;
CREATE TABLE parent (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text);
CREATE TABLE child (id serial PRIMARY KEY, parent_id integer REFERENCES parent, at timestamptz DEFAULT now());
"""


def trials(project: Project, *migrations: str, down: dict[int, str] | None = None) -> dict[str, WayBackTrial]:
    """Rehearse migrations with rows; return the trials of their ways back."""
    files = {f"{number}_m.sql": text for number, text in enumerate(migrations, 1)}
    target = project(folder=files | {f"{number}_m.down.sql": text for number, text in (down or {}).items()})
    do(target, TABLES)
    return {trial.migration.removesuffix("_m"): trial for trial in tried(target)[1].trial.ways_back}


def test_numbers_of_sequences_and_values_that_differ_each_time_are_no_doubt(project: Project) -> None:
    """Rows that are inserted again have other numbers, also where other rows refer to them; all else is compared.

    The empty branch has rows of earlier migrations, whose values are reverted there as well before NOT NULL is set.
    """
    found = trials(
        project,
        "INSERT INTO t (a, b) VALUES (1, 'x'), (2, 'y')",
        "INSERT INTO parent (name) VALUES ('one'), ('two'); INSERT INTO child (parent_id) SELECT id FROM parent",
        "CREATE TABLE made (id serial PRIMARY KEY, token uuid DEFAULT gen_random_uuid());"
        " INSERT INTO made SELECT FROM generate_series(1, 3)",
        "ALTER TABLE made RENAME COLUMN token TO uid; UPDATE t SET b = upper(b)",
        "ALTER TABLE t DROP COLUMN a",
    )
    assert {name: trial.says for name, trial in found.items() if not trial.proven} == {}
    assert list(found) == ["1", "2", "3", "4", "5"]


@pytest.mark.slow
def test_a_doubt_stays_with_its_migration(project: Project) -> None:
    """What follows a way back that fails, or that ends with other rows, is proven all the same."""
    found = trials(
        project,
        "ALTER TABLE t ADD COLUMN c int",
        "ALTER TABLE u DROP COLUMN b",
        "UPDATE t SET a = a + 1",
        "ALTER TABLE w DROP COLUMN a",
        "ALTER TABLE t ADD COLUMN d int DEFAULT 5",
        down={2: "ALTER TABLE u ADD COLUMN b text", 4: "ALTER TABLE w ADD COLUMN a integer NOT NULL"},
    )
    assert {name: trial.proven for name, trial in found.items()} == {
        "1": True, "2": False, "3": True, "4": False, "5": True,
    }  # fmt: skip
    assert found["2"].says == "the rows differ after the way back: public.u: as many rows, with other values"
    assert found["4"].says.startswith("it fails with the target's rows: ")
