"""A DO block that does one thing unless it is done already, as older drizzle-kit wrote foreign keys and types."""

from __future__ import annotations

import re
from typing import Any

import pglast
from pglast import ast, enums
from pglast.parser import ParseError

from pgrunbook.sql.tree import strings

_BLOCK = re.compile(
    r"\s*BEGIN\s+(?P<statement>.*?);\s*EXCEPTION\s+WHEN\s+duplicate_object\s+THEN\s+null\s*;\s*END\s*;?\s*",
    re.IGNORECASE | re.DOTALL,
)
_TYPES = (ast.CreateEnumStmt, ast.CompositeTypeStmt, ast.CreateRangeStmt, ast.CreateDomainStmt)


def guarded(node: Any) -> Any | None:
    """Return the statement that a DO block guards: ADD CONSTRAINT name or CREATE TYPE; None for any other."""
    if not isinstance(node, ast.DoStmt) or len(node.args) != 1:
        return None
    found = _BLOCK.fullmatch(_body(node))
    if found is None:
        return None
    try:
        (raw,) = pglast.parse_sql(found["statement"])
    except (ParseError, ValueError):
        return None
    inner = raw.stmt
    return inner if isinstance(inner, _TYPES) or _adds_constraint(inner) else None


def _body(node: Any) -> str:
    return "".join(strings((node.args[0].arg,)))


def is_of_catalog(part: Any) -> bool:
    """Tell whether a part of a query reads no rows of the application, as its name shows."""
    if isinstance(part, ast.FuncCall):
        return len(part.funcname) == 1 or part.funcname[0].sval == "pg_catalog"
    if isinstance(part, ast.A_Expr):
        return len(part.name or ()) < 2 or part.name[0].sval == "pg_catalog"
    if not isinstance(part, ast.RangeVar):
        return True
    return part.schemaname in ("pg_catalog", "information_schema") or (
        part.schemaname is None and part.relname.startswith("pg_")
    )


def guarded_constraint(node: Any) -> Any | None:
    """Return the ALTER TABLE ... ADD CONSTRAINT name that a DO block guards, None for any other statement."""
    inner = guarded(node)
    return inner if isinstance(inner, ast.AlterTableStmt) else None


def _adds_constraint(node: Any) -> bool:
    adds = enums.AlterTableType.AT_AddConstraint
    if not isinstance(node, ast.AlterTableStmt) or [cmd.subtype for cmd in node.cmds] != [adds]:
        return False
    return bool(node.cmds[0].def_.conname)
