"""Tables that nobody expects: captured and reverted right, or an honest sentence before anything changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from budget import sample
from conftest import do, rows
from pgrunbook.config.targets import Target
from pgrunbook.database.schema_diff import diff
from returning import everything, plan_of, rehearsed, release, since, take_back

Project = Callable[..., Target]

# ruff: noqa: E501 - one statement on a line, whatever its length


def _columns(count: int, text: str) -> str:
    return ", ".join(text.format(number) for number in range(count))


# By name: how it is made, and what its column v is set to.
TABLES = {
    "wide": (
        f"(id integer PRIMARY KEY, v text, {_columns(1_500, 'c{} text')})",
        "(id, v, c0, c1499) SELECT i, 'a' || i, repeat('é', 5000), 'z' FROM generate_series(1, 3) AS i",
        "'x'",
    ),
    "toasted": (
        "(id integer PRIMARY KEY, v text STORAGE EXTERNAL, w bytea STORAGE EXTERNAL)",
        "SELECT i, repeat(md5(i::text), 100000), decode(repeat('00ff', 300000), 'hex') FROM generate_series(1, 2) AS i",
        "'x'",
    ),
    "beyond_a_page": (
        f"(id integer PRIMARY KEY, v text STORAGE EXTERNAL, {_columns(1_200, 'c{0} integer DEFAULT {0}')})",
        "(id, v) SELECT i, repeat('x', 20000) FROM generate_series(1, 5) AS i",
        "'x'",
    ),
    "long_key": (
        f"({_columns(32, 'k{} integer')}, v integer, PRIMARY KEY ({_columns(32, 'k{}')}))",
        f"SELECT {_columns(33, 'i')} FROM generate_series(1, 9) AS i",
        "-1",
    ),
    "our_names": (
        '(id integer PRIMARY KEY, v integer, pgrunbook_value integer, pgrunbook_new integer, pgrunbook_range integer, kept integer, k integer, n integer, t integer, row_ integer, "a%b""c" integer)',
        f"SELECT {_columns(11, 'i')} FROM generate_series(1, 9) AS i",
        "-1",
    ),
    "our_key": (
        "(pgrunbook_key_2 integer, pgrunbook_key_1 integer, pgrunbook_batch integer, v integer, PRIMARY KEY (pgrunbook_key_2, pgrunbook_key_1, pgrunbook_batch))",
        "SELECT i, 10 - i, i * 7, i FROM generate_series(1, 9) AS i",
        "-1",
    ),
    "domains": (
        "(id integer PRIMARY KEY, v deep, w deep[])",
        "VALUES (1, '{1,2}', ARRAY['{1}'::deep]), (2, NULL, '{}'), (3, '{}', NULL)",
        "'{7}'",
    ),
    "numbers": (
        "(id integer PRIMARY KEY, v float8, w real, n numeric, d date, s timestamptz, i interval)",
        "VALUES (1, 'NaN', 'NaN', 'NaN', 'infinity', '-infinity', '1 day'), (2, '-0', '-0', -0.0, 'epoch', 'infinity', '24 hours'), (3, 'Infinity', '-Infinity', 1.00, '4713-01-01 BC', '4713-01-01 BC', '-1 mon 1 day -1 us'), (4, 5e-324, 1e-45, 1.0, '5874897-12-31', '294276-12-31', '178000000 years')",
        "'-Infinity'",
    ),
    "float_key": (
        "(id float8 PRIMARY KEY, v integer)",
        "VALUES ('NaN', 1), ('-0', 2), ('Infinity', 3), (1.5, 4)",
        "-1",
    ),
    "arrays": (
        "(id integer PRIMARY KEY, v integer[], w text[])",
        "VALUES (1, '{}', '{}'), (2, '[0:1]={1,2}', '{\"\",NULL,\"NULL\",\"a,b\"}'), (3, '[-5:-4][2:3]={{1,2},{3,4}}', NULL), (4, NULL, '{{a}}')",
        "'[3:3]={9}'",
    ),
    "composites": (
        "(id integer PRIMARY KEY, v pair, w pair[])",
        "VALUES (1, ROW(1, 'x,\"y'), ARRAY[ROW(1, NULL)::pair]), (2, NULL, NULL), (3, ROW(NULL, NULL), '{}')",
        "ROW(7, 'z')",
    ),
}
TYPES = """
CREATE DOMAIN flat AS integer[] CHECK (VALUE IS NULL OR VALUE = '{}' OR array_length(VALUE, 1) < 9);
CREATE DOMAIN deep AS flat;
CREATE TYPE pair AS (a integer, gone text, b text);
ALTER TYPE pair DROP ATTRIBUTE gone;
"""
CHANGES = {
    "update": "UPDATE {0} SET v = {1}",
    "delete": "DELETE FROM {0}",
    "drop column": "ALTER TABLE {0} DROP COLUMN v",
    "type": "ALTER TABLE {0} ALTER COLUMN v TYPE text USING 'same'",
    "drop table": "DROP TABLE {0}",
}
SMALL = ["our_names", "our_key", "domains", "numbers", "float_key", "arrays", "composites", "long_key"]


@pytest.mark.parametrize(
    ("change", "names"),
    [("delete", SMALL), *(pytest.param(change, list(TABLES), marks=pytest.mark.slow) for change in CHANGES)],
)
@pytest.mark.slow
def test_every_row_comes_back(project: Project, change: str, names: list[str]) -> None:
    """Each value as it was, whatever the table looks like."""
    sql = [CHANGES[change].format(name, TABLES[name][2]) for name in names]
    target = project(folder={f"{n:04}_m.sql": text for n, text in enumerate(sql, 1)}, batch_rows=4)
    for name in names:
        made, filled, _ = TABLES[name]
        do(
            target,
            f"{TYPES if name == names[0] else ''} CREATE TABLE {name} {_for(target, name, made)}; INSERT INTO {name} {filled}",
        )
    before = everything(target)
    plan = release(target)
    assert [change.proof.says for change in plan.changes if not change.proof.proven] == []
    assert everything(target)[1] != before[1]
    take_back(target)
    after = everything(target)
    assert after[1] == before[1]
    assert [d.line() for d in diff(before[0], after[0]) if d.change != "moved"] == []


def _for(target: Target, name: str, made: str) -> str:
    """Return a definition as the server knows it: STORAGE belongs to CREATE TABLE from PostgreSQL 16 on."""
    if int(str(rows(target, "SELECT current_setting('server_version_num')")[0][0])) >= 160_000:
        return made
    columns = [part.split()[0] for part in made.strip("()").split(", ") if "STORAGE" in part]
    storage = ", ".join(f"ALTER {column} SET STORAGE EXTERNAL" for column in columns)
    return made.replace(" STORAGE EXTERNAL", "") + (f"; ALTER TABLE {name} {storage}" if columns else "")


@pytest.mark.slow
@pytest.mark.parametrize("name", sample(["pgrunbook_key_1", "pgrunbook_hash", "pgrunbook_batch", "pgrunbook_new_1"], 4))
def test_a_column_with_the_name_of_one_of_ours_is_told_before(project: Project, name: str) -> None:
    """The rows cannot be captured beside it: no way back, in a sentence, and the release is planned."""
    target = project(folder={"0001_m.sql": "DELETE FROM t", "0002_m.sql": f"ALTER TABLE t DROP COLUMN {name}"})
    do(target, f"CREATE TABLE t (id integer PRIMARY KEY, {name} integer); INSERT INTO t VALUES (1, 2)")
    done = rehearsed(target)
    assert [change.proof.proven for change in done.changes] == [False, True]
    assert f'column "{name}" of "public"."t" has the name of a column of ours' in done.changes[0].proof.says
    assert plan_of(target, done).gates()


@pytest.mark.slow
def test_a_table_that_was_made_anew_under_its_name_keeps_its_new_rows(project: Project) -> None:
    """What the rollback would change is listed: rows of the new table count as changed by somebody since."""
    target = project(folder={"0001_m.sql": "UPDATE t SET a = 0", "0002_m.sql": "DELETE FROM u WHERE id < 3"})
    made = "CREATE TABLE t (id integer PRIMARY KEY, a integer); CREATE TABLE u (id integer PRIMARY KEY, a integer);"
    do(target, f"{made} INSERT INTO t VALUES (1, 1), (2, 2); INSERT INTO u VALUES (1, 1), (2, 2), (3, 3)")
    release(target)
    do(target, f"DROP TABLE t, u; {made} INSERT INTO t VALUES (2, 7), (3, 7); INSERT INTO u VALUES (1, 7)")
    found = since(target)
    assert [(one.kept.table.name, one.found.rows if one.found else None) for one in found.rows] == [("u", 1), ("t", 2)]
    take_back(target, on_conflict="keep")
    assert rows(target, "SELECT * FROM t ORDER BY id") == [(2, 7), (3, 7)]
    assert rows(target, "SELECT * FROM u ORDER BY id") == [(1, 7), (2, 2)]
