"""What holds for its transaction alone, so that the statements after it have to stay in there: locks, SET LOCAL."""

from __future__ import annotations

from typing import Any

from pglast import ast, enums

from pgrunbook.database.facts import Facts
from pgrunbook.sql.settings import ANY, Setting, is_call, settings
from pgrunbook.sql.tree import walk

CONSTRAINTS = "SET CONSTRAINTS"
_ADVISORY = (
    "pg_advisory_xact_lock", "pg_advisory_xact_lock_shared", "pg_try_advisory_xact_lock",
    "pg_try_advisory_xact_lock_shared",
)  # fmt: skip
_UNTIL_COMMIT = (enums.OnCommitAction.ONCOMMIT_DROP, enums.OnCommitAction.ONCOMMIT_DELETE_ROWS)
_HOLD = 0x0020  # CURSOR_OPT_HOLD in src/include/nodes/parsenodes.h
# The sections of the manual whose settings change how a statement is planned, bounded or logged, not what it means.
_OF_NO_MEANING = (
    "Query Tuning", "Resource Usage", "Reporting and Logging", "Statistics", "Lock Management", "Vacuuming",
    "Write-Ahead Log", "Connections and Authentication / TCP Settings",
)  # fmt: skip
_LIMITS = ("client_min_messages", "gin_pending_list_limit")


def bonds(node: Any, facts: Facts) -> list[str]:
    """Return what a statement sets or locks to the end of its transaction; [] for nothing.

    Timeouts, memory, planning and logging are no part of what the statements after it mean.
    """
    found = [_named(one) for one in settings(node) if one.is_local and has_meaning(one.name, facts)]
    match node:
        case ast.LockStmt():
            found.append("LOCK TABLE")
        case ast.ConstraintsSetStmt() if node.deferred and facts.rows("deferrable_constraint"):
            found.append(CONSTRAINTS)
        case ast.CreateStmt() if node.oncommit in _UNTIL_COMMIT:
            found.append("a temporary table ON COMMIT")
        case ast.CreateTableAsStmt() if node.into.onCommit in _UNTIL_COMMIT:
            found.append("a temporary table ON COMMIT")
        case ast.DeclareCursorStmt() if not node.options & _HOLD:
            found.append("a cursor")
        case ast.SelectStmt() if node.lockingClause:
            found.append("the lock on the rows of SELECT")
        case ast.CreateFunctionStmt():
            return []
    found += [part.funcname[-1].sval for part in walk(node) if is_call(part, *_ADVISORY)]
    return list(dict.fromkeys(found))


def ends_constraints(node: Any) -> bool:
    """Tell whether a statement brings all waiting checks to an end."""
    return isinstance(node, ast.ConstraintsSetStmt) and not node.deferred and not node.constraints


def has_meaning(name: str, facts: Facts) -> bool:
    """Tell whether a setting is part of what statements mean; one that the server does not know counts as such."""
    if name == ANY or name.startswith("transaction "):
        return True
    found = facts.rows("setting_category", name=name)
    if not found:
        return True
    if found[0]["category"] == "Client Connection Defaults / Statement Behavior":
        return not (name.endswith("_timeout") or name.startswith("vacuum_") or name in _LIMITS)
    return not found[0]["category"].startswith(_OF_NO_MEANING)


def _named(setting: Setting) -> str:
    if setting.name == "transaction":
        return "SET TRANSACTION"
    return "a setting that is computed" if setting.name == ANY else f"SET LOCAL {setting.name}"
