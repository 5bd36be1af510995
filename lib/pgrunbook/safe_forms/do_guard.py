"""A DO block that adds a constraint unless it exists, as older drizzle-kit wrote every foreign key.

The block is treated as the statement inside it, which then has its safe form.
"""

from __future__ import annotations

import re
from typing import Any

import pglast
from pglast import ast, enums
from pglast.parser import ParseError

from pgrunbook.database.relations import Facts
from pgrunbook.sql.tree import strings

_BLOCK = re.compile(
    r"\s*BEGIN\s+(?P<statement>.*?);\s*EXCEPTION\s+WHEN\s+duplicate_object\s+THEN\s+null\s*;\s*END\s*;?\s*",
    re.IGNORECASE | re.DOTALL,
)


def guarded(node: Any) -> Any | None:
    """Return the ALTER TABLE ... ADD CONSTRAINT name that a DO block guards, None for any other statement."""
    if not isinstance(node, ast.DoStmt) or len(node.args) != 1:
        return None
    found = _BLOCK.fullmatch("".join(strings((node.args[0].arg,))))
    if found is None:
        return None
    try:
        (raw,) = pglast.parse_sql(found["statement"])
    except (ParseError, ValueError):
        return None
    inner = raw.stmt
    adds = enums.AlterTableType.AT_AddConstraint
    if not isinstance(inner, ast.AlterTableStmt) or [cmd.subtype for cmd in inner.cmds] != [adds]:
        return None
    return inner if inner.cmds[0].def_.conname else None


def is_there(facts: Facts, inner: Any) -> bool:
    """Tell whether the table has a constraint of that name already."""
    table = facts.relation(inner.relation)
    if table is None:
        return False
    return bool(facts.rows("has_constraint", oid=table.oid, name=inner.cmds[0].def_.conname))
