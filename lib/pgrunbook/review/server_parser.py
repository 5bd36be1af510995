"""Does this very server know a statement: its own parser is asked, and nothing is executed; for prepare.

Our parser is PostgreSQL 18's, and so may be the branch; an older target refuses what came later.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import errors as pg

from pgrunbook.database.connection import Connection
from pgrunbook.errors import WrongInput
from pgrunbook.sql.statements import Statement

# PL/pgSQL has SQL parsed by the server when a block is read, long before it would be executed. What it reads
# otherwise (SELECT INTO, CALL, SET, and what only exists in its own language) says nothing.
OTHERWISE = ("SELECT", "CALL", "SET", "RESET", "EXECUTE", "EXPLAIN", "DO", "CLOSE", "DECLARE", "FETCH", "MOVE")


def refuse_unknown(conn: Connection, statements: Sequence[Statement]) -> None:
    """See that the server can read each statement. Raises WrongInput for the first that it cannot.

    Nothing is executed: the statement stands in a branch of a DO block that is never taken.
    Source: https://www.postgresql.org/docs/current/plpgsql-development-tips.html
    """
    for statement in statements:
        if statement.kind.split()[0] in OTHERWISE:
            continue
        tag = "$pgrunbook_asks$"
        block = f"DO LANGUAGE plpgsql {tag} BEGIN IF false THEN {statement.sql}; END IF; END {tag}"
        try:
            conn.execute(block.encode())
        except pg.SyntaxError as exc:
            version = f"{conn.info.server_version // 10_000}"
            raise WrongInput(
                f"{statement.file}, line {statement.line}: PostgreSQL {version} does not know this statement",
                detail=f"{exc.diag.message_primary}; newer versions know it.",
                hint="Write it for this version, or upgrade the server first.",
            ) from exc
