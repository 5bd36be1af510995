"""What is declared to differ is told by data, kind and object: no sentence is read, and a table may be renamed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from conftest import do
from pgrunbook.config.targets import Target
from pgrunbook.database.schema_diff import Difference, diff
from pgrunbook.draft.expected_differences import is_declared
from pgrunbook.plan.declared import Declared, DeclaredKind
from pgrunbook.plan.step import Gate, SafeStep
from returning import everything, release, take_back

Project = Callable[..., Target]

TABLES = """
CREATE TABLE t (id integer PRIMARY KEY, a text, b integer, c text NOT NULL, d integer GENERATED ALWAYS AS (b * 2) STORED, z text);
INSERT INTO t (id, a, b, c, z) SELECT i, 'a' || i, i, 'c' || i, 'z' FROM generate_series(1, 30) AS i;
CREATE STATISTICS of_t ON b, a, z FROM t;
CREATE TABLE p (id integer NOT NULL, n integer, k text) PARTITION BY RANGE (id);
CREATE TABLE "P 1" PARTITION OF p FOR VALUES FROM (0) TO (100);
INSERT INTO p SELECT i, i, 'k' FROM generate_series(1, 30) AS i;
CREATE TABLE parent (id integer PRIMARY KEY, v integer);
CREATE TABLE child (w integer) INHERITS (parent);
INSERT INTO child SELECT i, i, i FROM generate_series(1, 10) AS i;
CREATE TYPE pair AS (one integer, two text, three date);
"""  # noqa: E501


def moved(name: str, before: str, after: str) -> Difference:
    return Difference("column order", name, "moved", before, after)


def changed(name: str, before: str, after: str, kind: str = "column") -> Difference:
    return Difference(kind, name, "changed", before, after)


@dataclass(frozen=True)
class Covered:
    """A difference, and whether a declared one covers it."""

    kind: DeclaredKind
    object: str
    difference: Difference
    covers: bool


CASES = [
    Covered("column order", "public.t", moved("public.t", "(a, b)", "(b, a)"), True),
    Covered("column order", "public.t", moved("public.t2", "(a, b)", "(b, a)"), False),
    Covered("column order", "public.t", changed("public.t.a", "integer", "text"), False),
    Covered("column order", "public.pair", changed("public.pair", "(a int, b text)", "(b text, a int)", "type"), True),
    Covered(
        "column order", "public.pair", changed("public.pair", "(a int, b text)", "(b text, a date)", "type"), False
    ),
    Covered("locality", "public.c", changed("public.c.v", "integer INHERITED", "integer INHERITED AND LOCAL"), True),
    Covered("locality", "public.c", changed("public.c.v", "integer INHERITED", "bigint INHERITED AND LOCAL"), False),
    Covered("locality", "public.c", changed("public.c2.v", "integer INHERITED", "integer INHERITED AND LOCAL"), False),
    Covered("locality", "", changed("public.c.v", "NOT NULL INHERITED", "NOT NULL (LOCAL) INHERITED"), True),
    Covered("locality", "", changed("public.c.v", "INHERITED", ""), False),
    Covered("validity", "public.t", changed("public.t.k", "CHECK (a) NOT VALID", "CHECK (a)", "constraint"), True),
    Covered("validity", "public.t", changed("public.t.k", "CHECK (a)", "CHECK (a) NOT VALID", "constraint"), False),
    Covered("validity", "public.t", changed("public.t.k", "CHECK (a) NOT VALID", "CHECK (b)", "constraint"), False),
    Covered(
        "sequence type",
        "public.s",
        changed("public.s", "AS integer START 1 MAXVALUE 2147483647", "AS bigint START 1 MAXVALUE 9", "sequence"),
        True,
    ),
    Covered(
        "sequence type", "public.s", changed("public.s", "AS integer START 1", "AS bigint START 2", "sequence"), False
    ),
    Covered("values", "a", changed("public.t.a", "integer", "text"), False),
    Covered("elsewhere", "public.t", Difference("table", "public.t", "removed", "(a int)", ""), False),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.difference.name}-{case.covers}")
def test_a_declared_difference_covers_its_own_and_nothing_beside(case: Covered) -> None:
    """Another object, another change, or one thing more, and it is told."""
    assert is_declared(case.difference, [Declared(case.kind, case.object, "")]) == case.covers
    assert not is_declared(case.difference, [])


# Releases whose way back ends otherwise by nature; the object has another name when that is declared.
RELEASES = {
    "a renamed table": "ALTER TABLE t RENAME TO u;\nALTER TABLE u DROP COLUMN a;",
    "a table that is renamed later": "ALTER TABLE t DROP COLUMN a;\nALTER TABLE t RENAME TO u;",
    "another schema": 'CREATE SCHEMA "Odd";\nALTER TABLE t SET SCHEMA "Odd";\n'
    'ALTER TABLE "Odd".t DROP COLUMN b CASCADE;',
    "a renamed schema": "ALTER SCHEMA public RENAME TO other;\nALTER TABLE other.t DROP COLUMN c;\n"
    "ALTER SCHEMA other RENAME TO public;",
    "statistics": "ALTER STATISTICS of_t RENAME TO of_u;\nALTER TABLE t DROP COLUMN b CASCADE;",
    "an expression": "ALTER TABLE t ALTER COLUMN d DROP EXPRESSION;\nALTER TABLE t RENAME TO u;",
    "a partition's own": "ALTER TABLE p ADD PRIMARY KEY (id);\nALTER TABLE p DROP COLUMN n;",
    "own again": "ALTER TABLE child NO INHERIT parent;\nALTER TABLE child RENAME TO kid;",
    "an attribute": "ALTER TYPE pair DROP ATTRIBUTE one;\nALTER TYPE pair RENAME TO couple;",
    "values": "ALTER TABLE t ADD COLUMN own integer NOT NULL DEFAULT (random() * 9)::integer;\n"
    "ALTER TABLE t ALTER COLUMN c TYPE varchar(5);",
    "two migrations": "ALTER TABLE t DROP COLUMN a;\n---\nALTER TABLE t RENAME TO u;\nALTER TABLE u DROP COLUMN c;",
    "an expression, then a name": "ALTER TABLE t ALTER COLUMN d DROP EXPRESSION;\n---\nALTER TABLE t RENAME TO u;",
}


def ends(project: Project, sql: str, *, more: str = "") -> tuple[set[str], list[Difference]]:
    """Release it, take it back; return why it is not proven, and which differences are not declared."""
    files = {f"{number:04}_m.sql": text for number, text in enumerate(sql.split("\n---\n"), 1)}
    target = project(folder=files, batch_rows=10)
    do(target, TABLES + more)
    before, _ = everything(target)
    plan = release(target)
    doubts = {change.proof.says for change in plan.changes if not change.proof.proven}
    if doubts:
        return doubts, []
    take_back(target)
    after, _ = everything(target)
    declared = [each for change in plan.changes for each in change.proof.differs]
    return doubts, [each for each in diff(before, after) if not is_declared(each, declared)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", RELEASES)
def test_what_prepare_has_proven_rollback_accepts(project: Project, kind: str) -> None:
    """The same differences are declared in both, by the names that the objects have then."""
    assert ends(project, RELEASES[kind]) == (set(), [])


FAMILIES = """
CREATE TABLE q (id int NOT NULL, n int, k text, CONSTRAINT "Named nn" CHECK (id > 0)) PARTITION BY RANGE (id);
CREATE TABLE q1 PARTITION OF q FOR VALUES FROM (0) TO (100);
CREATE TABLE q2 PARTITION OF q FOR VALUES FROM (100) TO (200);
INSERT INTO q SELECT i, i, 'k' FROM generate_series(1, 150) AS i;
CREATE TABLE free (id int NOT NULL, n int, k text, CONSTRAINT "Named nn" CHECK (id > 0));
INSERT INTO free SELECT 200 + i, 1, 'x' FROM generate_series(1, 9) AS i;
CREATE TABLE r (id int PRIMARY KEY, e int NOT NULL);
INSERT INTO r SELECT i, i FROM generate_series(1, 10) AS i;
CREATE UNIQUE INDEX r_e ON r (e);
ALTER TABLE r REPLICA IDENTITY USING INDEX r_e;
"""
# NOT NULL of partitions and children, and replica identity: each comes back by a flag or a name of its own.
OF_FAMILIES = [
    "ALTER TABLE q ALTER n SET NOT NULL;",
    "ALTER TABLE q ADD CONSTRAINT nn CHECK (n IS NOT NULL); ALTER TABLE q ALTER k SET NOT NULL;",
    "ALTER TABLE q ADD PRIMARY KEY (id);",
    "ALTER TABLE q ADD CONSTRAINT odd PRIMARY KEY (id, n);",
    "ALTER TABLE q ADD COLUMN x int NOT NULL DEFAULT 3;",
    "ALTER TABLE q ATTACH PARTITION free FOR VALUES FROM (200) TO (300);",
    "ALTER TABLE q DETACH PARTITION q1; ALTER TABLE q1 RENAME TO old_q1;",
    "ALTER TABLE q DETACH PARTITION q1 CONCURRENTLY;",
    "ALTER TABLE q ALTER id DROP NOT NULL;",
    "CREATE TABLE q3 PARTITION OF q FOR VALUES FROM (200) TO (300); ALTER TABLE q3 ALTER n SET NOT NULL;",
    "ALTER TABLE parent ALTER v SET NOT NULL; ALTER TABLE child ALTER w SET NOT NULL;",
    "ALTER TABLE child NO INHERIT parent; ALTER TABLE child ADD PRIMARY KEY (id);",
    "ALTER TABLE parent ADD COLUMN z int NOT NULL DEFAULT 1; ALTER TABLE child ALTER v SET NOT NULL;",
    "ALTER TABLE r REPLICA IDENTITY DEFAULT; DROP INDEX r_e;",
    "DROP INDEX r_e;",
    "ALTER TABLE r DROP COLUMN e;",
    "ALTER TABLE r ALTER COLUMN e TYPE bigint;",
    "CREATE UNIQUE INDEX r_2 ON r (e, id); ALTER TABLE r REPLICA IDENTITY USING INDEX r_2; DROP INDEX r_e;",
]


@pytest.mark.slow
@pytest.mark.parametrize("sql", OF_FAMILIES)
def test_what_is_proven_of_partitions_children_and_replica_identity_is_accepted(project: Project, sql: str) -> None:
    """Prepare and rollback compare by the same."""
    assert ends(project, sql, more=FAMILIES) == (set(), [])


WIDE = (
    f"CREATE TABLE wide (id integer PRIMARY KEY, {', '.join(f'c{n} integer NOT NULL DEFAULT {n}' for n in range(18))})"
)
LAST = {
    "one by one": "".join(f"ALTER TABLE wide DROP COLUMN c{n};\n" for n in range(18)),
    "the last one first": "".join(f"ALTER TABLE wide DROP COLUMN c{n};\n" for n in reversed(range(18))),
    "together": f"ALTER TABLE wide {', '.join(f'DROP COLUMN c{n}' for n in range(18))};",
    "in two": f"ALTER TABLE wide {', '.join(f'DROP COLUMN c{n}' for n in (1, 3, 5, 7, 9, 11, 13, 15, 17))};\n"
    f"ALTER TABLE wide {', '.join(f'DROP COLUMN c{n}' for n in (0, 2, 4, 6, 8, 10, 12, 14, 16))};",
    "of a renamed table": "ALTER TABLE wide DROP COLUMN c16;\nALTER TABLE wide DROP COLUMN c17;\n"
    "ALTER TABLE wide RENAME TO narrow;",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAST)
def test_columns_that_were_the_last_ones_come_back_in_their_order(project: Project, kind: str) -> None:
    """Nothing is declared where nothing differs; statements that take turns are not taken apart."""
    target = project(folder={"0001_m.sql": LAST[kind]})
    do(target, f"{WIDE}; INSERT INTO wide SELECT FROM generate_series(1, 5) AS i".replace("SELECT", "(id) SELECT i"))
    before = everything(target)
    (change,) = release(target).changes
    take_back(target)
    moved = {"column order"} if kind == "in two" else set()
    assert (change.proof.proven, {each.kind for each in change.proof.differs}) == (True, moved)
    after = everything(target)
    assert [each for each in diff(before[0], after[0]) if not is_declared(each, change.proof.differs)] == []
    assert after[1] == before[1]


@pytest.mark.slow
def test_columns_that_need_each_other_come_back_in_an_order_that_works(project: Project) -> None:
    """An index over two of them needs both: their old order is given up, and that is declared."""
    drops = "ALTER TABLE wide DROP COLUMN c16;\nALTER TABLE wide DROP COLUMN c17;"
    target = project(folder={"0001_m.sql": drops})
    do(target, f"{WIDE}; CREATE INDEX both_of_them ON wide (c16, c17)")
    before, _ = everything(target)
    (change,) = release(target).changes
    assert change.proof.proven, change.proof.says
    take_back(target)
    after, _ = everything(target)
    assert [(each.kind, each.object) for each in change.proof.differs] == [("column order", "public.wide")]
    assert [each for each in diff(before, after) if not is_declared(each, change.proof.differs)] == []


@pytest.mark.slow
def test_no_sentence_is_read(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sentence of a plan says something else, and the same is proven, captured and reverted."""
    for class_, field in ((Declared, "why"), (SafeStep, "says"), (Gate, "says")):
        made: Any = class_.__init__

        def reworded(self: object, *args: object, made: Any = made, field: str = field, **given: object) -> None:
            made(self, *args, **given)
            object.__setattr__(self, field, "Colourless green ideas sleep furiously.")

        monkeypatch.setattr(class_, "__init__", reworded)
    every = [RELEASES[kind].split("\n---\n")[0] for kind in ("a renamed table", "a partition's own", "values")]
    assert ends(project, "\n---\n".join([*every[1:], every[0]])) == (set(), [])
