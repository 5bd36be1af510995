"""The gate of statements that reach outside of their database: they are executed as written, and on no branch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pgrunbook.database.facts import Facts
from pgrunbook.plan.step import OUTSIDE, Gate
from pgrunbook.sql.outside import reach
from pgrunbook.sql.routines import bodies

_HOW = (
    "Do it by hand before or after the release and leave it out of the migration, or accept it and know that the "
    "rehearsal says nothing of it, nor of what later statements need from it."
)


def find(facts: Facts, node: Any) -> Gate | None:
    """Return the gate of a statement that reaches outside by itself or by what it holds, None for any other."""
    for inner in _parts(node):
        told = reach(inner) or _foreign(facts, inner)
        if told:
            within = "" if inner is node else "within it, it "
            says = f"{within}{told}: it is not rehearsed, and what comes after it is rehearsed without it"
            return Gate(id=OUTSIDE, says=says, procedure="by hand", how=_HOW)
    return None


def _foreign(facts: Facts, node: Any) -> str:
    tables = facts.foreign_tables(node)
    return f"reads or writes foreign tables ({', '.join(tables)})" if tables else ""


def _parts(node: Any) -> Iterator[Any]:
    """Yield a statement and what it holds, at any depth."""
    yield node
    for inner in bodies(node):
        yield from _parts(inner)
