"""Schema pgrunbook of a database: whether it is ours, or somebody else has put something into it.

Who owns a table, or has a trigger, a rule, a policy, a default or a type on it, executes what they like with the
rights of everybody who writes to it. So nothing is read from or written to the schema before it was looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load
from pgrunbook.errors import Refused

MOST_TOLD = 5


def refuse_foreign(conn: Connection) -> None:
    """Look at schema pgrunbook, in the catalog, once for each connection.

    It is ours when a role owns it that ours is or was made a member of, or a superuser, when it holds what
    we create and the registry names, and nothing beyond it, and when nobody else may write there.

    Once is enough: where this holds, only a role that we trust can change it. A missing schema is not remembered,
    and what was seen in a transaction is forgotten when it aborts: it may have created the schema.

    Raises Refused, with the names of what is not ours.
    """
    if conn.is_schema_ours:
        return
    if not conn.execute(_sql("is_there")).fetchall():
        return
    is_there, told, captured, has_registry = conn.execute(_sql("look")).fetchone() or (False, [], [], False)
    foreign = [text[3:] for text in sorted(cast("list[str]", told))]
    if not foreign and captured:
        foreign = _unnamed(conn, cast("list[str]", captured), has_registry=has_registry is True)
    if foreign:
        raise _refused(conn, foreign)
    conn.is_schema_ours = is_there is True


def hide(conn: Connection, *names: str) -> None:
    """Take back what default privileges have given to others on schema pgrunbook, and on objects just created in it.

    Call it in the transaction that creates them: nobody else sees them before its end.
    """
    for (statement,) in conn.execute(_sql("granted"), {"names": list(names)}).fetchall():
        conn.execute(str(statement).encode())


def _unnamed(conn: Connection, captured: Sequence[str], *, has_registry: bool) -> list[str]:
    """Return what is named as undo data is, and no entry of the registry names."""
    if not has_registry:
        unnamed = sorted(captured)
    else:
        found = conn.execute(_sql("unnamed"), {"captured": list(captured)}).fetchall()
        unnamed = [str(name) for (name,) in found]
    return [f"{name} has no entry in pgrunbook.kept" for name in unnamed]


def _refused(conn: Connection, foreign: Sequence[str]) -> Refused:
    told = "; ".join(foreign[:MOST_TOLD])
    more = f"; and {len(foreign) - MOST_TOLD} more" if len(foreign) > MOST_TOLD else ""
    return Refused(
        f"cannot use schema pgrunbook of database {conn.info.dbname}: not all of it is ours",
        detail=f"{told}{more}.",
        state="Nothing in this schema was read or executed.",
        hint="Ask who has made it, then drop or REVOKE it. If you trust the role that owns it or has the right, run as"
        " that role, or let a superuser GRANT that role to yours.",
    )


def _sql(name: str) -> bytes:
    return load("own_schema")[name].encode()
