"""Each migration up, down and up again with its rows: a doubt about one is no doubt about another."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conftest import do
from pgrunbook.config.targets import Target
from pgrunbook.database.schema_diff import diff
from pgrunbook.draft.expected_differences import is_declared
from pgrunbook.plan.plan import Change
from pgrunbook.rehearse import way_back_trial
from returning import RELEASE, everything, execute, plan_of, take_back
from test_schema_only import safely
from test_with_data import tried

Project = Callable[..., Target]

TABLES = """
CREATE TABLE t (id serial PRIMARY KEY, a integer NOT NULL, b text);
INSERT INTO t (a, b) SELECT i, 'b' || i FROM generate_series(1, 30) AS i;
CREATE TABLE u AS SELECT id, b FROM t;
CREATE TABLE v AS SELECT id, b FROM t;
CREATE TABLE w AS SELECT id, a FROM t;
ALTER TABLE w ALTER COLUMN a SET NOT NULL;
ALTER TABLE u ADD PRIMARY KEY (id);
ALTER TABLE v ADD PRIMARY KEY (id);
ALTER TABLE w ADD PRIMARY KEY (id);
CREATE TABLE parent (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text);
CREATE TABLE child (id serial PRIMARY KEY, parent_id integer REFERENCES parent, at timestamptz DEFAULT now());
CREATE TABLE log (n integer) PARTITION BY RANGE (n);
CREATE TABLE log_rest PARTITION OF log DEFAULT;
INSERT INTO log SELECT 100 + i FROM generate_series(1, 1100) AS i;
"""


def trials(
    project: Project, *migrations: str, down: dict[int, str] | None = None, prefer: bool = False
) -> dict[str, Change]:
    """Rehearse migrations with rows; return the changes with the proofs of their ways back."""
    files = {f"{number}_m.sql": text for number, text in enumerate(migrations, 1)}
    target = project(folder=files | {f"{number}_m.down.sql": text for number, text in (down or {}).items()})
    do(target, TABLES)
    return proven(target, prefer=prefer)


def proven(target: Target, *, prefer: bool = False) -> dict[str, Change]:
    """Rehearse what is pending with rows; return the changes by the start of their names."""
    done, ways = tried(target, prefer_down_scripts=prefer)
    changes = way_back_trial.with_proofs(done.changes, ways.trial.ways_back)
    return {change.migration.removesuffix("_m"): change for change in changes}


@pytest.mark.slow
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
        "CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM (1) TO (50)",
    )
    assert {name: change.proof.told for name, change in found.items() if not change.proof.proven} == {}
    assert list(found) == ["1", "2", "3", "4", "5", "6"]
    assert ["VALIDATE CONSTRAINT" in step.sql for step in found["6"].steps] == [False, True, False]


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
        prefer=True,
    )
    assert {name: change.proof.proven for name, change in found.items()} == {
        "1": True, "2": False, "3": True, "4": False, "5": True,
    }  # fmt: skip
    assert found["2"].proof.says == "the rows differ after the way back: public.u: as many rows, with other values"
    assert found["4"].proof.says.startswith("it fails with the target's rows: ")


# A migration, its own down script, which way is taken, and what is said of the script where it is not.
SCRIPTS = {
    "leads back": ("UPDATE t SET a = a + 1", "UPDATE t SET a = a - 1", "down script", ""),
    "captures nothing": ("CREATE INDEX i ON t (b)", "DROP INDEX i", "down script", ""),
    "loses values": ("ALTER TABLE u DROP COLUMN b", "ALTER TABLE u ADD COLUMN b text", "computed", "public.u"),
    "restores from a copy of its own": (
        "CREATE TABLE old AS SELECT id, b FROM v; ALTER TABLE v DROP COLUMN b",
        "ALTER TABLE v ADD COLUMN b text; UPDATE v SET b = old.b FROM old WHERE old.id = v.id; DROP TABLE old",
        "down script",
        "",
    ),
    "fails with rows": (
        "ALTER TABLE w DROP COLUMN a",
        "ALTER TABLE w ADD COLUMN a integer NOT NULL",
        "computed",
        "contains null values",
    ),
    "makes the table anew": (
        "DROP TABLE child",
        "CREATE TABLE child (id serial PRIMARY KEY, parent_id int REFERENCES parent, at timestamptz DEFAULT now())",
        "computed",
        "",
    ),
    "differs by white space": (
        "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 2'",
        "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT  1'", "computed", "function public.f()",
    ),
    "differs by the order of columns": (
        "ALTER TABLE t DROP COLUMN a",
        "ALTER TABLE t ADD COLUMN a int NOT NULL DEFAULT 1; ALTER TABLE t ALTER COLUMN a DROP DEFAULT",
        "computed",
        "column order public.t",
    ),
    "is all there is": (
        "ALTER TABLE keyless DROP COLUMN b", "ALTER TABLE keyless ADD COLUMN b text", "down script", "",
    ),
    "fails": ("CREATE TABLE n (id int)", "DROP TABLE no_such_table", "computed", "no_such_table"),
}  # fmt: skip


@pytest.mark.slow
def test_of_two_ways_back_the_teams_own_is_taken_where_it_leads_back(project: Project) -> None:
    """Else the computed one, and the proof says why; then the same way is taken on the target."""
    files = {}
    for number, (up, down, _, _) in enumerate(SCRIPTS.values(), 1):
        files |= {f"{number}_m.sql": up, f"{number}_m.down.sql": down}
    target = project(folder=files)
    do(
        target,
        TABLES + "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';CREATE TABLE keyless (id int, b text);",
    )
    do(target, "INSERT INTO child (at) SELECT now() FROM generate_series(1, 5)")
    before = everything(target)
    found = proven(target)
    assert {name: change.proof.told for name, change in found.items() if not change.proof.proven} == {}
    taken = dict(zip(SCRIPTS, (change.way_back for change in found.values()), strict=True))
    assert taken == {kind: way for kind, (_, _, way, _) in SCRIPTS.items()}
    for change, (_, _, way, told) in zip(found.values(), SCRIPTS.values(), strict=True):
        _, is_told, reason = change.proof.told.partition("; its down script does not lead back: ")
        assert bool(is_told) == (way == "computed")
        assert told in reason
    plan = plan_of(target, safely(target)).model_copy(update={"changes": tuple(found.values())})
    execute(target, plan, RELEASE)
    done = take_back(target)
    scripted = {change.migration for change in done.changes if not change.takes_back}
    assert scripted == {change.migration for change in found.values() if change.way_back == "down script"}
    after = everything(target)
    declared = [each for change in found.values() for each in change.proof.differs]
    assert [each for each in diff(before[0], after[0]) if not is_declared(each, declared)] == []
    assert after[1] == before[1]


@pytest.mark.slow
def test_a_down_script_can_be_preferred(project: Project) -> None:
    """Nothing is captured, it is tried alone, and what it loses is said."""
    (change,) = trials(
        project, "ALTER TABLE u DROP COLUMN b", down={1: "ALTER TABLE u ADD COLUMN b text"}, prefer=True
    ).values()
    assert (change.way_back, change.proof.proven) == ("down script", False)
    assert [step.keeps for step in change.steps] == [()]
    assert change.proof.says == "the rows differ after the way back: public.u: as many rows, with other values"
