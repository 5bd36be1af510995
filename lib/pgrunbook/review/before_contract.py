"""Statements of a review that change a column, or its table, while another lives beside it until contract.

prepare refuses them on the target; a review on the target says so before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import psycopg

from pgrunbook.database import shadows
from pgrunbook.database.connection import Connection
from pgrunbook.database.facts import Facts
from pgrunbook.database.shadows import Shadow
from pgrunbook.errors import Refused
from pgrunbook.review.hazards import Hazard, Severity
from pgrunbook.safe_forms import unfinished
from pgrunbook.safe_forms.form import Case
from pgrunbook.sql.statements import Statement
from pgrunbook.sql.tree import tree

ID = "waits-for-contract"


def find(conn: Connection, statements: Iterable[Statement], target: str) -> tuple[list[tuple[Statement, Hazard]], str]:
    """Return the statements that would break a pair of columns of this database, and a note where nobody can tell."""
    try:
        waiting = tuple(shadows.read(conn))
    except Refused as exc:
        return [], f"which columns of {target} wait for contract cannot be told: {exc.message}"
    except psycopg.errors.InsufficientPrivilege as exc:
        return [], f"which columns of {target} wait for contract cannot be told: {exc.diag.message_primary}"
    return list(_found(conn, statements, waiting, target)) if waiting else [], ""


def _found(
    conn: Connection, statements: Iterable[Statement], waiting: tuple[Shadow, ...], target: str
) -> Iterator[tuple[Statement, Hazard]]:
    facts = Facts(conn)
    for statement in statements:
        shadow = unfinished.touched(Case(statement, tree(statement.sql), facts, shadows=waiting))
        if shadow is not None:
            yield (
                statement,
                Hazard(
                    ID,
                    Severity.ERROR,
                    "A column lives beside another until contract; the statement changes one of them, or their table.",
                    f"prepare refuses it: {shadow.label} lives beside {shadow.beside}, of {shadow.migration}"
                    f" ({shadow.kind}), and a trigger keeps them equal.",
                    f"-- before it: pgrunbook run contract --target {target}",
                    statement.file,
                    statement.place.line,
                ),
            )
