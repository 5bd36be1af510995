"""A key whose type changes with loss: each row gets its old key back, where only the new one tells which row it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conftest import do, rows
from pgrunbook.config.targets import Target
from returning import ROLLBACK, everything, execute, plan_of, rehearsed, release, since, take_back

Project = Callable[..., Target]

# The table T with rows, and the statement that changes the type of its only key.
KEYS = {
    "numeric_int": ("id numeric(9, 2) PRIMARY KEY", "SELECT i * 10 + 0.25", "integer"),
    "timestamp_date": ("id timestamp PRIMARY KEY", "SELECT make_timestamp(2026, 1, i, 10, 0, 0)", "date"),
    "text_cut": ("id text PRIMARY KEY", "SELECT i || '_long'", "varchar(3) USING left(T.id, 3)"),
    "text_char": ("id varchar(20) PRIMARY KEY", "SELECT i || '_long'", "char(4) USING left(id, 3)"),
    "text_int": ("id text PRIMARY KEY", "SELECT '00' || i", "integer USING id::integer"),
    "int_text": ("id integer PRIMARY KEY", "SELECT i", "text USING 'k' || id"),
    "int_uuid": ("id integer PRIMARY KEY", "SELECT i", "uuid USING md5(id::text)::uuid"),
    "swapped": ("id integer PRIMARY KEY", "SELECT i", "bigint USING 7 - id"),
    "numbered": ("id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "SELECT i", "integer USING (id * 10)::integer"),
    "of_enum": ("id mood PRIMARY KEY", "SELECT (enum_range(NULL::mood))[i]", "integer USING length(id::text)"),
    "of_domain": ("id word PRIMARY KEY", "SELECT 'w' || i", "integer USING substr(id, 2)::integer"),
    "composite": ("id numeric(9, 2), a integer, PRIMARY KEY (a, id)", "SELECT i + 0.25, i % 2", "integer"),
    "deferred": ("id numeric(9, 2) PRIMARY KEY DEFERRABLE INITIALLY DEFERRED", "SELECT i + 0.25", "integer"),
    "no_primary": ("id numeric(9, 2) NOT NULL UNIQUE", "SELECT i + 0.25", "integer"),
}  # fmt: skip
REFERENCED = """
CREATE TABLE parent (id numeric(9, 2) PRIMARY KEY); INSERT INTO parent VALUES (1.25), (2.5);
CREATE TABLE child (id integer PRIMARY KEY, parent numeric(9, 2) REFERENCES parent);
INSERT INTO child VALUES (1, 1.25), (2, 2.5), (3, NULL);
"""
ALONG = """
ALTER TABLE child DROP CONSTRAINT child_parent_fkey;
ALTER TABLE parent ALTER COLUMN id TYPE integer;
ALTER TABLE child ALTER COLUMN parent TYPE integer;
ALTER TABLE child ADD CONSTRAINT child_parent_fkey FOREIGN KEY (parent) REFERENCES parent;
"""


@pytest.mark.slow
def test_old_keys_come_back(project: Project) -> None:
    """Of each kind of key, also one that others refer to, and where the new keys are old keys of other rows."""
    made = [
        "CREATE TYPE mood AS ENUM ('a', 'bb', 'ccc', 'dddd', 'eeeee', 'ffffff'); CREATE DOMAIN word AS text",
        REFERENCED,
    ]
    made += [
        f"CREATE TABLE {name} ({columns}); INSERT INTO {name} {'OVERRIDING SYSTEM VALUE' * (name == 'numbered')}"
        f" {values} FROM generate_series(1, 6) AS i"
        for name, (columns, values, _) in KEYS.items()
    ]
    up = [f"ALTER TABLE {n} ALTER COLUMN id TYPE {type_.replace('T.', f'{n}.')};" for n, (_, _, type_) in KEYS.items()]
    target = project(folder={"0001_keys.sql": "\n".join([*up, ALONG])})
    do(target, ";\n".join(made))
    before = everything(target)
    release(target)
    assert rows(target, "SELECT max(id) FROM swapped; ") == [(6,)]
    assert everything(target) != before
    take_back(target)
    assert everything(target) == before


@pytest.mark.slow
def test_a_key_that_was_never_old_is_named_where_it_cannot_go_back(project: Project) -> None:
    """Rows that were there get their keys, whatever the new ones are; a new row's key has to be one of the old type."""
    target = project(folder={"0001_keys.sql": "ALTER TABLE t ALTER COLUMN id TYPE text USING 'k' || id"})
    do(target, "CREATE TABLE t (id integer PRIMARY KEY); INSERT INTO t VALUES (1), (2), (3)")
    release(target)
    written = "INSERT INTO t VALUES ('zz'), ('77'), ('k2')"  # k2 is another row than that of then
    do(target, f"UPDATE t SET id = '88' WHERE id = 'k1'; DELETE FROM t WHERE id = 'k2'; {written}")
    (one,) = since(target).violations
    assert one.rows == 2
    assert "zz" in str(one.samples)
    assert "k2" in str(one.samples)
    do(target, "DELETE FROM t WHERE id IN ('zz', 'k2')")
    take_back(target)
    assert rows(target, "SELECT id FROM t ORDER BY id") == [(3,), (77,), (88,)]


@pytest.mark.slow
def test_keys_that_are_others_each_time_have_no_way_back(project: Project) -> None:
    """Nobody knows which new key is that of which row."""
    target = project(folder={"0001_keys.sql": "ALTER TABLE t ALTER COLUMN id TYPE uuid USING gen_random_uuid()"})
    do(target, "CREATE TABLE t (id integer PRIMARY KEY); INSERT INTO t VALUES (1), (2), (3)")
    (change,) = plan_of(target, rehearsed(target)).changes
    assert not change.proof.proven
    assert "the new values of public.t.id, its only key, are others each time" in change.proof.told


@pytest.mark.slow
def test_values_found_by_a_key_that_went_back_behind_them_are_told_and_given_to_nobody(project: Project) -> None:
    """What was written into a column of new keys is not that of the rows which have these as old keys."""
    up = "ALTER TABLE t ALTER COLUMN id TYPE bigint USING 7 - id, ALTER COLUMN x TYPE integer USING length(x)"
    target = project(folder={"0001_keys.sql": up})
    do(target, "CREATE TABLE t (id integer PRIMARY KEY, x text); INSERT INTO t SELECT i, 'x' FROM generate_series(1, 6) AS i")  # fmt: skip # noqa: E501
    release(target)
    do(target, "UPDATE t SET x = 99 WHERE id = 6")
    take_back(target)
    assert rows(target, "SELECT id, x FROM t ORDER BY id LIMIT 2") == [(1, "99"), (2, "x")]
    do(target, "UPDATE t SET id = 60 WHERE id = 6")
    done = rehearsed(target)
    assert "stays captured" in str(done)
    assert "the key got other values since (id)" in str(done)
    execute(target, plan_of(target, done), f"{ROLLBACK}-again")
    assert rows(target, "SELECT id, x FROM t WHERE x <> 1 ORDER BY id") == [(6, 2)]
