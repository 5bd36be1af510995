"""Values that are easily lost: they come back as they were when their column has its type again, or is there again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conftest import do, rows
from pgrunbook.config.targets import Target
from returning import execute, plan_of, rehearsed, take_back

Project = Callable[..., Target]
RELEASE = "20261122T165431Z-release-demo-7f3a"
# A type, its values, and one that somebody writes after the release, as the column's new type has it.
TYPES = {
    "float8": (["NaN", "-0", "Infinity", "-Infinity", "5e-324", "0.1"], "-0"),
    "float4": (["NaN", "-0", "Infinity", "-Infinity", "1e-45", "0.1"], "NaN"),
    "numeric": (["NaN", "Infinity", "-Infinity", "1.00", "1.0", "-0"], "1.000"),
    "numeric(6,2)": (["NaN", "1", "0.10"], "NaN"),
    "int4[]": (["[0:1]={1,2}", "{}", "{NULL,1}", "[2:3][1:2]={{1,2},{3,4}}", "[-1:-1]={7}"], "[5:6]={8,9}"),
    "text[]": (['{"NULL",NULL}', "{}", '[0:0]={""}', '{"{}","a,b"}'], '[3:3]={"x"}'),
    "float8[]": (["[0:2]={NaN,-0,Infinity}", "{}"], "[9:9]={-0}"),
    "timestamptz": (["infinity", "-infinity", "0044-03-15 12:00:00+00 BC"], "infinity"),
    "date": (["infinity", "-infinity", "0044-03-15 BC"], "-infinity"),
    "interval": (["-1 mons +1 days", "00:00:00", "1 day -24:00:00"], "-00:00:01"),
    "int4range": (["empty", "(,)", "[1,)", "(,5)"], "empty"),
    "nummultirange": (["{}", "{(,-1),[1.0,2.00)}"], "{}"),
    "point": (["(-0,NaN)", "(Infinity,1e-300)"], "(-0,-0)"),
    "character(4)": (["a", "", "ab  "], "z"),
    "bytea": (["\\x", "\\x00ff"], "\\x00"),
    "jsonb": (['{"a": 1.0}', "null", '"\\\\u0041"'], '{"b": 1.00}'),
    "json": (['{"a":  1, "a": 2}', "null"], '{"b":1 }'),
    "bit varying": (["", "0101"], "111"),
    "pair": (["(1,)", '(,"")', "(,)", '("-1","a,b")'], '(4,"x y")'),
    "pair[]": (['[0:1]={"(1,)",NULL}', "{}"], '[2:2]={"(5,e)"}'),
    "below": (["[0:0]={3}", "{}", "{NULL}"], "[4:4]={6}"),
    "mood[]": (["[0:0]={sad}", "{}"], "[7:7]={ok}"),
}
MADE = """
CREATE TYPE pair AS (a integer, gone text, b text); ALTER TYPE pair DROP ATTRIBUTE gone;
CREATE DOMAIN over AS integer[]; CREATE DOMAIN below AS over CHECK (cardinality(VALUE) < 9);
CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE odd (id integer PRIMARY KEY, says text);
"""
MOST = max(len(values) for values, _ in TYPES.values())


def _made() -> str:
    columns = [f"ALTER TABLE odd ADD COLUMN c{n} {type_}" for n, type_ in enumerate(TYPES)]
    fills = []
    for n in range(MOST + 3):
        values = [f"'{values[n]}'" if n < len(values) else "NULL" for values, _ in TYPES.values()]
        fills.append(f"INSERT INTO odd VALUES ({n}, 'says', {', '.join(values)})")
    return MADE + "; ".join([*columns, *fills])


def _held(target: Target) -> dict[object, tuple[object, ...]]:
    """The texts of all values by row, and how many bytes each takes."""
    texts = ", ".join(f"c{n}::text, pg_column_size(c{n})" for n in range(len(TYPES)))
    return {row[0]: row[1:] for row in rows(target, f"SELECT id, {texts} FROM odd ORDER BY id")}


CHANGES = {
    "types": "ALTER TABLE odd "
    + ", ".join(f"ALTER COLUMN c{n} TYPE text USING 'was ' || c{n}::text" for n in range(len(TYPES))),
    "texts": "ALTER TABLE odd "
    + ", ".join(f"ALTER COLUMN c{n} TYPE text USING 'was ' || c{n}::text" for n in (5, 13)),
    "columns": "ALTER TABLE odd " + ", ".join(f"DROP COLUMN c{n}" for n in range(len(TYPES))),
    "rows": "UPDATE odd SET " + ", ".join(f"c{n} = NULL" for n in range(len(TYPES))),
    "deleted": "DELETE FROM odd WHERE id < 100",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", ["texts", *(pytest.param(c, marks=pytest.mark.slow) for c in CHANGES if c != "texts")]
)
@pytest.mark.parametrize("batch_rows", [1_000, pytest.param(2, marks=pytest.mark.slow)])
def test_odd_values_come_back(project: Project, change: str, batch_rows: int) -> None:
    """Each as it was, in rows that somebody has written since as well, unless these have another value now."""
    target = project(folder={"0001_x.sql": CHANGES[change]}, batch_rows=batch_rows)
    do(target, _made())
    before = _held(target)
    execute(target, plan_of(target, rehearsed(target)), RELEASE)
    if change == "types":
        written = ", ".join(f"c{n} = '{value}'" for n, (_, value) in enumerate(TYPES.values()))
        do(target, f"UPDATE odd SET {written} WHERE id = 1; UPDATE odd SET says = 'else'; UPDATE odd SET c0 = c0")
        do(target, "UPDATE odd SET c1 = 'away' WHERE id = 3; UPDATE odd SET c1 = 'was -Infinity' WHERE id = 3")
    elif change != "deleted":
        do(target, "UPDATE odd SET says = 'else'")
    take_back(target, on_conflict="keep")
    after = _held(target)
    assert {n: row for n, row in after.items() if n != 1} == {n: row for n, row in before.items() if n != 1}
    if change == "types":
        texts = [f"'{value}'::{type_}" for type_, (_, value) in TYPES.items()]
        (given,) = rows(target, f"SELECT {', '.join(f'({each})::text' for each in texts)}")
        assert after[1][::2] == given
