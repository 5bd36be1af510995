"""Statements of many megabytes, and of many levels: judged in seconds, or refused with one clear error."""

from __future__ import annotations

import cProfile
import pstats

import pytest

from pgrunbook.errors import WrongInput
from pgrunbook.review.review import as_text, review
from pgrunbook.sql.statements import parse

MANY = 200_000
LARGE = {
    "in": "SELECT 1;\nDELETE FROM t WHERE a IN (1" + ", 1" * MANY + ")",
    "array": "SELECT 1;\nDELETE FROM t WHERE a = ANY (ARRAY[1" + ", 1" * MANY + "])",
    "or": "SELECT 1;\nDELETE FROM t WHERE a = 1" + " OR a = 2" * MANY,
    "sum": "SELECT 1;\nUPDATE t SET a = 1" + " + 1" * MANY,
    "union": "SELECT 1;\nINSERT INTO t SELECT 1" + " UNION ALL SELECT 1" * MANY,
    "deep union": "SELECT 1;\nINSERT INTO t SELECT 1" + " UNION ALL SELECT 1" * 3_000,
    "columns": "SELECT 1;\nSELECT a" + ", a" * MANY + " FROM t",
    "case": "SELECT 1;\nUPDATE t SET a = CASE a " + "WHEN 1 THEN 2 " * MANY + "END",
    "block": "SELECT 1;\nDO $$ BEGIN " + "UPDATE t SET a = 1;\n" * (MANY // 2) + " END $$",
    "sum in a block": "SELECT 1;\nDO $$ BEGIN UPDATE t SET a = 1" + " + 1" * 100_000 + "; END $$",
}
JUDGED = {
    "comment": "COMMENT ON TABLE t IS '" + "x" * 100 * MANY + "'",
    "value": "INSERT INTO t VALUES ('" + "x" * 100 * MANY + "')",
    "array text": "DELETE FROM t WHERE a = ANY ('{" + "1," * MANY + "1}')",
    "function": "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS $$ " + "UPDATE t SET a = 1;\n" * MANY + " $$",
    "rows": "INSERT INTO t VALUES (1, 'a')" + ", (2, 'b')" * MANY,
    "sum": "UPDATE t SET a = 1" + " + 1" * 1_000,
    "sum in a block": "DO $$ BEGIN UPDATE t SET a = 1" + " + 1" * 1_000 + "; END $$",
    "texts": "ALTER TABLE t ADD CHECK (b <> 'a'" + " || 'b'" * 500 + ")",
    "union": "INSERT INTO t SELECT 1" + " UNION ALL SELECT 1" * 1_000,
    "in": "DELETE FROM t WHERE a IN (1" + ", 1" * 5_000 + ")",
}


QUICK = ("sum", "block", "sum in a block")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in LARGE])
def test_a_statement_that_is_too_large_is_refused_by_its_line(name: str) -> None:
    """The parser is not asked, which takes minutes or ends the process; nor is a judge that would take as long."""
    with pytest.raises(WrongInput, match=r"a.sql, line 2: the statement is too large to be judged"):
        parse(LARGE[name], "a.sql")
    with pytest.raises(WrongInput, match=r"line 2: the statement is too large"):
        review([("a.sql", LARGE[name])], with_squawk=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", JUDGED)
def test_a_statement_that_is_large_or_deep_is_judged(name: str) -> None:
    """A constant, rows, or a body that nobody calls may have any size, and a chain a thousand parts."""
    found = review([("a.sql", JUDGED[name])], with_squawk=False)
    assert len(found) == 1
    assert "1 statement" in as_text(found)


KINDS = (
    "SELECT {}", "INSERT INTO t VALUES ({})", "ALTER TABLE a{} ADD COLUMN b text", "ALTER TABLE a ADD COLUMN b{} text",
    "DROP TABLE a{}", "UPDATE a SET b = {}", "CREATE INDEX i{} ON t (id)", "CREATE TABLE IF NOT EXISTS t{} (id int)",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["SET a.b = '{}'", *(pytest.param(each, marks=pytest.mark.slow) for each in KINDS)])
def test_twice_as_many_statements_take_twice_the_work(kind: str) -> None:
    """Counted in calls of functions: a rule that looks at all others for each statement ends at ten thousand."""

    def calls(numbers: range) -> int:
        sql = ";\n".join(kind.format(number) for number in numbers)
        with cProfile.Profile() as profile:
            review([("a.sql", sql)], with_squawk=False)
        return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]

    calls(range(5))  # what is read once
    assert calls(range(1_000, 1_400)) < 2.3 * calls(range(2_000, 2_200))
