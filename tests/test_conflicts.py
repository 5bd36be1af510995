"""Conflicts are judged in the order in which things are taken back: a later migration of the run is not somebody."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from budget import sample
from conftest import do, rows
from pgrunbook.config.targets import Target
from pgrunbook.database.schema_diff import diff
from pgrunbook.draft.expected_differences import is_declared
from pgrunbook.errors import Refused, StatementFailed
from pgrunbook.rehearse import rollback
from returning import everything, prepared, release, since, take_back
from scenes import journal_of

# ruff: noqa: E501 - one statement on a line, whatever its length

Project = Callable[..., Target]

BASE = """
CREATE TABLE k (id int PRIMARY KEY, v text, n int);
INSERT INTO k SELECT i, 'v' || i, i FROM generate_series(1, 20) AS i;
CREATE TABLE child (id int PRIMARY KEY, k int REFERENCES k ON DELETE CASCADE, v text);
INSERT INTO child SELECT i, i, 'c' FROM generate_series(1, 20) AS i;
"""
UPDATED = "UPDATE k SET v = 'new';"
# The second migration, after a first one that updates v in all rows (or does what the name says).
SECOND = {
    "update of the same column": (UPDATED, "UPDATE k SET v = 'newer' WHERE id > 5;"),
    "update of another column": (UPDATED, "UPDATE k SET n = 0;"),
    "update of both columns": ("UPDATE k SET v = 'new', n = 1;", "UPDATE k SET v = 'newer' WHERE id % 2 = 0;\nUPDATE k SET n = 2 WHERE id % 3 = 0;"),
    "delete": (UPDATED, "DELETE FROM k WHERE id > 5;"),
    "delete that cascades": ("UPDATE child SET v = 'new';", "DELETE FROM k WHERE id > 5;"),
    "update, then delete": (UPDATED, "UPDATE k SET v = 'newer';\nDELETE FROM k WHERE id > 15;"),
    "insert, then update": ("INSERT INTO k VALUES (30, 'i', 1), (31, 'i', 1);", "UPDATE k SET v = 'u' WHERE id = 30;\nDELETE FROM k WHERE id = 31;"),
    "delete, then insert": ("DELETE FROM child WHERE id > 10;", "INSERT INTO child VALUES (11, NULL, 'other'), (12, NULL, 'other');"),
    "an update of the key": (UPDATED, "UPDATE k SET id = id + 100 WHERE id NOT IN (SELECT k FROM child);\nUPDATE child SET id = id + 100;"),
    "another key": ("UPDATE child SET v = 'new';", "UPDATE child SET id = id + 100;"),
    "a type": ("UPDATE k SET n = n * 2;", "ALTER TABLE k ALTER COLUMN n TYPE bigint;"),
    "a type that loses": ("UPDATE k SET n = n * 2;", "ALTER TABLE k ALTER COLUMN n TYPE text USING CASE WHEN n > 10 THEN 'much' ELSE n::text END;"),
    "a name": (UPDATED, "ALTER TABLE k RENAME COLUMN v TO w;"),
    "the name of the table": (UPDATED, "ALTER TABLE k RENAME TO kk;"),
    "a dropped column": (UPDATED, "ALTER TABLE k DROP COLUMN v;"),
    "a dropped table": ("UPDATE child SET v = 'new';", "DROP TABLE child;"),
}  # fmt: skip


QUICK = ("update of both columns",)


@pytest.mark.slow
@pytest.mark.parametrize(
    "second", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in SECOND]
)
def test_two_migrations_that_change_the_same_rows_go_back_together(project: Project, second: str) -> None:
    """Nobody else has written: there is no conflict, and all is as before."""
    texts = SECOND[second]
    target = project(folder={"0001_a.sql": texts[0], "0002_b.sql": texts[1]}, batch_rows=7)
    do(target, BASE)
    before = everything(target)
    plan = release(target)
    assert [change.proof.proven for change in plan.changes] == [True, True], [c.proof.says for c in plan.changes]
    way = prepared(target)
    assert [(str(one.kept.table), one.found.lines()) for one in since(target, way=way).rows if one.found] == []
    take_back(target, way=way)
    after, there = everything(target)
    assert there == before[1]
    differs = [text for change in plan.changes for text in change.proof.differs]
    assert [d.line() for d in diff(before[0], after) if not is_declared(d, differs)] == []


# What somebody writes after both, and which keys are in conflict then: of the second migration, and of the first.
WRITES = {
    "a row of the second": ("UPDATE k SET v = 'mine' WHERE id = 7", [["7"], []]),
    "a row of the first only": ("UPDATE k SET v = 'mine' WHERE id = 2", [[], ["2"]]),
    "a deleted row": ("DELETE FROM child WHERE k = 7; DELETE FROM k WHERE id = 7", [["7"], []]),
    "another column": ("UPDATE k SET n = 100", [[], []]),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("write", sample(list(WRITES), 4))
def test_what_somebody_wrote_is_a_conflict_once(project: Project, write: str) -> None:
    """Where the second migration changed the row again, it is judged there."""
    text, keys = WRITES[write]
    folder = {"0001_a.sql": UPDATED, "0002_b.sql": "UPDATE k SET v = 'newer' WHERE id > 5;"}
    target = project(folder=folder)
    do(target, BASE)
    release(target)
    do(target, text)
    found = [[one.key["id"] for one in each.found.samples] for each in since(target).rows if each.found is not None]
    assert found == keys


@pytest.mark.slow
def test_a_row_that_several_statements_have_changed_is_left_once(project: Project) -> None:
    """It is counted once; the file of each statement has it with the value before that one."""
    target = project(folder={"0001_a.sql": f"{UPDATED}\nUPDATE k SET v = 'newer', n = 0;"})
    do(target, BASE)
    release(target)
    do(target, "UPDATE k SET v = 'mine' WHERE id IN (3, 5); DELETE FROM k WHERE id = 20")
    take_back(target, on_conflict="keep")
    (told,) = [line for line in journal_of(target).read_text().splitlines() if '"event":"rows-left"' in line]
    assert '"rows":3}' in told
    assert rows(target, "SELECT id, v FROM k WHERE v <> 'v' || id ORDER BY id") == [(3, "mine"), (5, "mine")]


@pytest.mark.slow
def test_a_conflict_names_the_statement_whose_change_it_is(project: Project) -> None:
    """And the value that this one gives back: the statement before it is taken back after it."""
    texts = (
        "UPDATE k SET v = 'a'; UPDATE k SET v = 'b' WHERE id > 5;\nUPDATE k SET v = 'c' WHERE id > 10;",
        "\nUPDATE k SET v = 'd' WHERE id > 15;",
    )
    target = project(folder={"0001_a.sql": texts[0], "0002_b.sql": texts[1]})
    do(target, BASE)
    release(target)
    do(target, "UPDATE k SET v = 'mine' WHERE id IN (1, 6, 11, 16)")
    found = [one.line() for each in since(target).rows if each.found is not None for one in each.found.samples]
    assert found == [
        f'"public"."k" (id {key}) changed since {place}: before v {before!r}; wrote v {wrote!r}; now v \'mine\''
        for key, place, before, wrote in [
            (16, "0002_b:2", "c", "d"),
            (11, "0001_a:2", "b", "c"),
            (6, "0001_a:1.2", "a", "b"),
            (1, "0001_a:1", "v1", "a"),
        ]
    ]


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize("kind", ["deleted by it", "deleted before it"])
def test_a_row_that_was_made_again_is_a_conflict_of_the_step_that_deleted_it(project: Project, kind: str) -> None:
    """And none of the step before; a row that somebody else deleted is one of its own."""
    target = project(folder={"0001_a.sql": UPDATED})
    do(target, f"{BASE} DELETE FROM child")
    release(target)
    if kind == "deleted before it":
        do(target, "DELETE FROM k WHERE id = 7; INSERT INTO k VALUES (7, 'other', 7)")
    assert target.migrations is not None
    (target.migrations / "0002_b.sql").write_text("DELETE FROM k WHERE id > 5;")
    release(target, run_id="20261122T165431Z-release-demo-8888")
    do(target, "INSERT INTO k VALUES (7, 'mine', 7)")
    found = [[(one.key["id"], one.way) for one in each.found.samples] for each in since(target).rows if each.found]
    first = [("7", "deleted")] if kind == "deleted before it" else []
    assert found == [[("7", "made again")], *([first] if first else [])]
    take_back(target, on_conflict="restore")
    value = "other" if first else "v7"
    assert rows(target, "SELECT id, v FROM k WHERE v <> 'v' || id OR id = 7") == [(7, value)]


@pytest.mark.slow
def test_a_row_that_was_changed_between_two_migrations_is_a_conflict_of_the_first(project: Project) -> None:
    """The second one captured what somebody had written: the first one would overwrite that."""
    target = project(folder={"0001_a.sql": UPDATED})
    do(target, BASE)
    release(target)
    do(target, "UPDATE k SET v = 'mine' WHERE id IN (3, 8)")
    assert target.migrations is not None
    (target.migrations / "0002_b.sql").write_text("UPDATE k SET v = 'newer' WHERE id > 5;")
    release(target, run_id="20261122T165431Z-release-demo-8888")
    found = [
        sorted(str(one.key["id"]) for one in each.found.samples)
        for each in since(target).rows
        if each.found is not None
    ]
    assert found == [[], ["3", "8"]]
    take_back(target, on_conflict="keep")
    assert rows(target, "SELECT id, v FROM k WHERE v <> 'v' || id ORDER BY id") == [(3, "mine"), (8, "mine")]


@pytest.mark.slow
def test_a_row_behind_another_name_is_compared_on_the_branch(project: Project, tmp_path: Path) -> None:
    """Before, nobody can compare it; on the branch its turn comes after the name is back."""
    target = project(folder={"0001_a.sql": UPDATED, "0002_b.sql": "ALTER TABLE k RENAME COLUMN v TO w;"})
    do(target, BASE)
    release(target)
    do(target, "UPDATE k SET w = 'mine' WHERE id = 3")
    assert [one.found for one in since(target).rows] == [None]
    plan, _ = prepared(target)
    with pytest.raises(Refused) as caught:
        rollback.with_rows(target, plan.changes, most_bytes=10**9, on_conflict="stop", folder=tmp_path)
    assert str(caught.value).splitlines() == [
        "somebody has changed 1 row that would be reverted",
        "Detail: 0001_a: 1 row. Each of them is in conflicts-on-branch-*.csv, with its values now and before.",
        "State: Nothing changed in the database: it was tried on a branch.",
        "Hint: Choose on_conflict: keep leaves these rows unchanged, restore overwrites them.",
    ]
    (listed,) = tmp_path.glob("conflicts-on-branch-*.csv")
    assert "0001_a:1,public.k,id '3',changed,v,'v3','new','mine'," in listed.read_text()
    rollback.with_rows(target, plan.changes, most_bytes=10**9, on_conflict="keep", folder=tmp_path)


TYPED = """
CREATE TYPE state AS ENUM ('open', 'shut'); CREATE TYPE kind AS ENUM ('a', 'b'); CREATE TYPE swapped AS ENUM ('a', 'b');
CREATE DOMAIN many AS integer; CREATE TYPE pair AS (p integer, q text);
CREATE TABLE replaced (id integer PRIMARY KEY, s state); INSERT INTO replaced VALUES (1, 'open'), (2, 'shut');
CREATE TABLE keyed (k kind PRIMARY KEY, n integer); INSERT INTO keyed VALUES ('a', 1), ('b', 2);
CREATE TABLE swaps (id integer PRIMARY KEY, s swapped); INSERT INTO swaps VALUES (1, 'a'), (2, 'b');
CREATE TABLE bounded (id integer PRIMARY KEY, n many); INSERT INTO bounded VALUES (1, 1), (2, 20);
CREATE TABLE composed (id integer PRIMARY KEY, c pair); INSERT INTO composed VALUES (1, '(1,x)'), (2, NULL);
CREATE TABLE plain (id integer PRIMARY KEY, n integer); INSERT INTO plain VALUES (1, 1), (2, 2);
"""
# Rows are changed, then the type of their column becomes another, which cannot have the values before, or another text.
TYPES_CHANGED = {
    "0001_a.sql": "UPDATE replaced SET s = 'open' WHERE s = 'shut';\nALTER TYPE state RENAME TO state_old;\nCREATE TYPE state AS ENUM ('open', 'ajar');\nALTER TABLE replaced ALTER s TYPE state USING s::text::state;\nDROP TYPE state_old;",
    "0002_b.sql": "UPDATE keyed SET n = 5;\nINSERT INTO swaps VALUES (3, 'b');\nALTER TYPE kind RENAME VALUE 'a' TO 'aa';",
    "0003_c.sql": "UPDATE swaps SET s = 'b' WHERE id = 1;\nDELETE FROM bounded WHERE id = 1;\nUPDATE composed SET c.q = 'y';\nUPDATE plain SET n = 5;",
    "0004_d.sql": "ALTER TYPE swapped RENAME VALUE 'a' TO 'c';\nALTER TYPE swapped RENAME VALUE 'b' TO 'a';\nALTER TYPE swapped RENAME VALUE 'c' TO 'b';",
    "0005_e.sql": "ALTER DOMAIN many ADD CHECK (VALUE > 9);\nALTER TYPE pair ADD ATTRIBUTE r integer;",
}  # fmt: skip


@pytest.mark.slow
def test_rows_whose_type_is_another_now_are_compared_when_it_is_their_turn(project: Project) -> None:
    """No value of then is read as one of today, and nobody has changed what only has another text; plain ones are."""
    target = project(folder=TYPES_CHANGED)
    do(target, TYPED)
    before = everything(target)
    release(target)
    do(target, "UPDATE plain SET n = 6 WHERE id = 2")
    way = prepared(target)
    found = {str(one.kept.table).split('"')[3]: one.found and one.found.rows for one in since(target, way=way).rows}
    assert found == {"plain": 1, "composed": None, "bounded": None, "swaps": None, "keyed": None, "replaced": None}
    do(target, "UPDATE plain SET n = 5 WHERE id = 2")
    take_back(target, way=way)  # on_conflict = stop
    after = everything(target)
    assert after[1] == before[1]
    assert [d.line() for d in diff(before[0], after[0])] == []


@pytest.mark.slow
def test_a_row_whose_old_value_somebody_has_now_is_told_before_and_how_to_leave_it(
    project: Project, tmp_path: Path
) -> None:
    """Nobody has changed the row itself: it is listed; the branch with rows says so, and the server without one."""
    target = project(folder={"0001_a.sql": "UPDATE k SET v = 'new' || id WHERE id < 3;"})
    do(target, BASE + "CREATE UNIQUE INDEX k_v ON k (v)")
    release(target)
    do(target, "INSERT INTO k VALUES (30, 'v2', 0)")
    way = prepared(target)
    (told,) = since(target, way=way).rows
    assert told.found is not None
    assert [(one.way, one.key["id"]) for one in told.found.samples] == [("displaced", "2")]
    leave = "or roll back with -p on_conflict=keep, which leaves the rows whose old values the server refuses."
    with pytest.raises(Refused) as refused:
        rollback.with_rows(target, way[0].changes, most_bytes=2**30, on_conflict="stop", folder=tmp_path)
    assert refused.value.hint.endswith(leave)
    with pytest.raises(StatementFailed) as failed:
        take_back(target, way=way)
    assert failed.value.hint.endswith(leave)
    take_back(target, on_conflict="keep", way=way)
    assert rows(target, "SELECT id, v FROM k WHERE v <> 'v' || id ORDER BY id") == [(2, "new2"), (30, "v2")]
