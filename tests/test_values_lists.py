"""Long lists of VALUES: what is judged on the short text is what the whole one says."""

from __future__ import annotations

from typing import Any

import pglast
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pglast import ast

import budget
from pgrunbook.effects.zone_use import ZoneUse, uses
from pgrunbook.errors import WrongInput
from pgrunbook.rehearse import row_equality
from pgrunbook.sql import classify, outside, values_lists
from pgrunbook.sql.statements import parse
from pgrunbook.sql.tree import columns_in, functions_in, relations_in, text, tree, walk

PLAIN = ("1", "-5", "2.5", "1e9", "12345678901234567890", "NULL", "true", "DEFAULT", "'a'", "'it''s'", "''", "E'a\\n'",
         "$$x$$", "N'a'", "X'1f'", "'{}'::jsonb", "'a' :: public.name[]", "5::numeric(5,2)", "-5::int", "ARRAY['a',2]",
         "'2026-03-05 23:30'", "'2026-03-05 23:30+00'", "'2026-03-05 23:30 Asia/Tokyo'", "'now'", "' Today '", "'12'",
         "timestamptz '2026-03-05'", "date '2026-03-05'", "'[2026-03-05,2026-03-06 00:00+00]'", "'at noon'", "'am-'",
         "'2026-03-05 11:00 pm'", "'at\u00e9'", "'a, (b), -- c'", "'infinity'", "'epoch'")  # fmt: skip
OTHERS = ("now()", "nextval('s')", "nextval('other')", "CURRENT_DATE", "lower('A')", "(SELECT max(id) FROM other)",
          "'a' || 'b'", "'a'\n'b'", "1 + 1", "id", "pg_catalog.pg_sleep(1)", "interval '1' day", "U&'a'", "(1, 'x)')",
          "dblink('host=a')", '"quoted"', "E'\\x41'", "ARRAY[now(), '1']", "$tag$a'b$tag$", "x.y",
          "CASE WHEN true THEN 1 END")  # fmt: skip
LIKE_A_TEXT = ("'a'", "'it''s'", "''", "E'a\\n'", "$$x$$", "'2026-03-05 23:30+00'", "'2026-03-05 23:30 Asia/Tokyo'",
               "'at noon'", "'a, (b), -- c'", "'infinity'", "'epoch'")  # fmt: skip
GAPS = ("", " ", "\n", " -- a, 'b\n", "/* ( /* ' */ */")
FRAMES = (
    "INSERT INTO t (a, b) VALUES {rows}",
    "INSERT INTO t VALUES {rows} ON CONFLICT (a) DO UPDATE SET b = 1 WHERE t.a IN (VALUES (1), (2)) RETURNING a",
    "WITH w (a, b) AS (VALUES {rows}) INSERT INTO t SELECT * FROM w",
    "WITH i AS (INSERT INTO t (a, b) VALUES {rows} RETURNING a) SELECT * FROM i",
    "UPDATE t SET b = v.b FROM (VALUES {rows}) AS v (a, b) WHERE t.a = v.a",
    "DELETE FROM t USING (VALUES {rows}) AS v (a, b) WHERE t.a = v.a",
    "MERGE INTO t USING (VALUES {rows}) AS v (a, b) ON t.a = v.a WHEN MATCHED THEN UPDATE SET b = v.b",
    "VALUES {rows}",
)  # fmt: skip
WHOLE = (
    "UPDATE t SET b = 1 WHERE a IN (VALUES {rows})",
    "DELETE FROM t WHERE a IN (SELECT x.a FROM (VALUES {rows}) AS x (a, b))",
    "SELECT 1 FROM t WHERE EXISTS (SELECT 1 UNION VALUES {rows})",
    "CREATE TABLE made AS VALUES {rows}",
    "CREATE VIEW made AS SELECT * FROM (VALUES {rows}) AS v (a, b)",
    "CREATE FUNCTION f() RETURNS void BEGIN ATOMIC INSERT INTO t VALUES {rows}; END",
    "SELECT 'INSERT INTO t VALUES {quoted}'",
    "DO $do$ BEGIN INSERT INTO t VALUES {rows}; END $do$",
)


class Types:
    """Both columns are instants."""

    # ruff: noqa: D102

    def columns(self, name: ast.RangeVar) -> dict[str, str]:
        return {"a": "timestamptz", "b": "timestamptz"} if name.relname == "t" else {}

    def base(self, name: ast.TypeName) -> str:
        return str(name.names[-1].sval)


def judged(node: Any) -> dict[str, Any]:
    """Return what the rules ask of a statement, beside the order and the number of its rows."""
    parts = list(walk(node))
    return {
        "kind": classify.kind(node),
        "zones": uses(node, Types()),
        "functions": list(dict.fromkeys(functions_in(node))),
        "columns": columns_in(node),
        "relations": relations_in(node),
        "outside": outside.reach(node),
        "kinds": {type(part).__name__ for part in parts},
        "types": {text(part) for part in parts if isinstance(part, ast.TypeName)},
        "moments": {text(part) for part in parts if row_equality._is_moment(part)},
        "nulls": any(isinstance(part, ast.A_Const) and part.isnull for part in parts),
    }  # fmt: skip


@st.composite
def lists(draw: st.DrawFn) -> str:
    """Rows of literals, some of them with more, and comments between them."""
    cell = st.one_of(st.sampled_from(PLAIN), st.sampled_from(PLAIN), st.sampled_from(OTHERS))
    gap = st.sampled_from(GAPS)
    row = st.builds("({}{}{},{}{}{}{})".format, gap, cell, gap, gap, cell, gap, st.just(""))
    rows = draw(st.lists(row, min_size=1, max_size=12))
    return "".join(f"{'' if number == 0 else draw(gap) + ',' + draw(gap)}{one}" for number, one in enumerate(rows))


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short lists are shortened, too."""
    monkeypatch.setattr(values_lists, "LONG_CHARS", 0)


def shortened(sql: str) -> values_lists.ShortText:
    """Return the short text of a statement, which no earlier limit has left long."""
    return values_lists.shortened(sql)


@pytest.mark.slow
@settings(max_examples=budget.examples(150, 3000), deadline=None)
@given(st.sampled_from(FRAMES), lists())
def test_what_the_short_text_says_is_what_the_whole_one_says(frame: str, rows: str) -> None:
    """Every judgement is the same, each kept character knows its place, and what ends behind a cut ends there."""
    sql = frame.format(rows=rows)
    short = shortened(sql)
    assert judged(pglast.parse_sql(short.text)[0].stmt) == judged(pglast.parse_sql(sql)[0].stmt)
    kept = [(short.at(place), sign) for place, sign in enumerate(short.text) if sign != "\n"]
    assert all(sql[place] == sign for place, sign in kept)
    assert short.end(len(short.text)) == len(sql)
    assert short.text.count("\n") == sql.count("\n")


@settings(max_examples=budget.examples(40, 500), deadline=None)
@given(st.sampled_from(WHOLE), lists())
def test_what_may_be_shown_or_executed_is_whole(frame: str, rows: str) -> None:
    """Conditions, definitions and bodies keep every row."""
    sql = frame.format(rows=rows, quoted=rows.replace("'", "''"))
    assert shortened(sql).text == sql


@pytest.mark.parametrize("value", [*PLAIN, *OTHERS])
def test_a_value_that_is_like_no_other_is_kept(value: str) -> None:
    """Be it the last of many rows; only one of them stays where all are alike."""
    many = ", ".join(f"({number}, 'text {number}', 0)" for number in range(50))
    sql = f"INSERT INTO t (a, b, c) VALUES {many}, (51, {value}, 0)"
    rows = pglast.parse_sql(shortened(sql).text)[0].stmt.selectStmt.valuesLists
    assert len(rows) == (1 if value in LIKE_A_TEXT else 2)


def test_a_file_is_read_at_the_places_of_the_whole_text() -> None:
    """Each statement has all its rows and its line; its tree has one of each shape."""
    rows = ",\n".join(f"({number}, 'n\u00e4me {number}')" for number in range(300))
    file = (
        f"-- first\nINSERT INTO a VALUES\n{rows} /* end */ ;\n\nINSERT INTO b VALUES {rows};INSERT INTO c VALUES (1)\n"
    )
    first, second, third = parse(file, "f.sql")
    assert first.sql == f"INSERT INTO a VALUES\n{rows}"
    assert second.sql == f"INSERT INTO b VALUES {rows}"
    assert third.sql == "INSERT INTO c VALUES (1)"
    assert [one.line for one in (first, second, third)] == [2, 304, 603]
    assert len(tree(first.sql).selectStmt.valuesLists) == len(tree(second.sql).selectStmt.valuesLists) == 1


@pytest.mark.parametrize("wrong", ["(1, 'a' 'b')", "(1, 'a',)", "(1 'a')", "(1, $)", "(1, 12a)", "(1, E'\\u12')"])
def test_a_row_that_does_not_parse_is_told_by_its_line(wrong: str) -> None:
    """The parser is asked again about the whole text."""
    rows = [f"({number}, 'a {number}')" for number in range(300)]
    file = "INSERT INTO a VALUES\n" + ",\n".join([*rows, wrong, *rows])
    with pytest.raises(WrongInput, match=r"^f\.sql, line 302: "):
        parse(file, "f.sql")


@pytest.mark.parametrize("open_", ["'", '"', "/*", "$$", "E'\\'", "VALUES (1), ('a", "VALUES (1), ("])
def test_a_text_that_ends_too_soon_is_whole_from_there(open_: str) -> None:
    """Nothing behind a constant without an end is taken for a row."""
    assert shortened(open_).text == open_
    assert shortened(f"{open_} INSERT INTO t VALUES (1), (2)").text == f"{open_} INSERT INTO t VALUES (1), (2)"


def test_the_first_text_of_a_kind_is_told() -> None:
    """What a rule quotes of many rows is what it quotes of all of them."""
    many = ", ".join(f"('2026-03-{1 + number % 28:02} 10:00+00')" for number in range(100))
    node = tree(f"INSERT INTO t (a) VALUES {many}, ('2026-04-01 10:00'), ('2026-05-01 10:00')")
    assert uses(node, Types()) == [ZoneUse("'2026-04-01 10:00'", "unknown", "timestamptz")]
