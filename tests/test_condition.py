"""Conditions that operators give: one, on one table, with PostgreSQL's own functions and operators."""

from __future__ import annotations

import pytest

from pgrunbook.errors import WrongInput
from pgrunbook.sql import condition


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("id < 10", []),
        ("id < 10 -- and no more", []),
        ("(a = 1) OR (b = 2)", []),
        ("lower(name) = 'x' AND pg_catalog.length(name) > 2", ["length", "lower"]),
        ("tags @> ARRAY['a'] AND at < now() - interval '1 day'", ["now"]),
        ("id = ANY ('{1,2}'::int[]) OR data ->> 'a' IS NULL", []),
    ],
)
def test_a_condition_is_taken_with_the_functions_that_it_calls(text: str, calls: list[str]) -> None:
    """Whether a function only reads is asked of the server."""
    assert condition.checked(text, "a") == calls


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("id <", "syntax error at or near"),
        ("", "syntax error at or near"),
        ("id = 1) OR (b = 2", "syntax error at or near"),
        ("id = 1; DELETE FROM a", "syntax error at or near"),
        ("id = 1); DELETE FROM a WHERE (true", "It holds more than one statement."),
        ("id = 1) GROUP BY (id", "It holds more than a condition."),
        ("true) UNION (SELECT", "It holds more than a condition."),
        ("id IN (SELECT id FROM b)", "It reads with a query of its own."),
        ("EXISTS (TABLE b)", "It reads with a query of its own."),
        ("id = $1", "It has a parameter, which nobody gives it."),
        ("public.mine(id)", "It uses public.mine, which is not PostgreSQL's own."),
        ("id OPERATOR(public.=) 1", "It uses public.=, which is not PostgreSQL's own."),
    ],
)
def test_what_is_more_than_a_condition_on_one_table_is_refused(text: str, why: str) -> None:
    """The error says what is wrong, and what to write."""
    with pytest.raises(WrongInput) as told:
        condition.checked(text, "public.a")
    assert told.value.message == f"cannot take this condition on table public.a: {text}"
    assert told.value.detail.startswith(why)
    assert told.value.hint == condition.HINT
