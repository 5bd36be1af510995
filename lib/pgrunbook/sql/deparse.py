"""SQL text of safe forms: printed from a parse tree, or composed of names; both checked."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from typing import Any

import pglast
from pglast import ast
from pglast.stream import RawStream
from psycopg import sql

from pgrunbook.errors import WrongInput


def printed(node: Any) -> str:
    """Return the SQL of a statement's tree.

    The parser reads it back, and both trees must be equal: a lost word would change what the statement does.

    Raises WrongInput when they are not.
    """
    text = str(RawStream()(node))
    try:
        same = pglast.parse_sql(text)[0].stmt == node
    except pglast.parser.ParseError:
        same = False
    if not same:
        raise WrongInput(
            "cannot write this statement in its safe form",
            detail=f"The generated SQL has another meaning: {text[:300]}",
            hint="Switch its safe form off, with the reason, or write the safe form into the migration.",
        )
    return text


def parsed(text: str) -> Any:
    """Return the tree of a statement that we composed, or that the server returned."""
    return pglast.parse_sql(text)[0].stmt


def expression(node: Any) -> str:
    """Return the SQL of an expression's tree. Raises WrongInput as :func:`printed` does."""
    wrapped = parsed("SELECT 1")
    wrapped.targetList = (ast.ResTarget(val=node),)
    return printed(wrapped).removeprefix("SELECT ")


def alter_table(table: sql.Identifier, *commands: str, only: bool = False) -> str:
    """Return ALTER TABLE with the given subcommands, as one statement."""
    return f"ALTER TABLE {'ONLY ' if only else ''}{text(table)} {', '.join(commands)}"


def add_constraint(constraint: Any) -> str:
    """Return the subcommand of ALTER TABLE that adds a constraint."""
    cmd = parsed("ALTER TABLE t ADD CHECK (true)").cmds[0]
    cmd.def_ = constraint
    return command(cmd)


def option(statement: str, arg: Any = None) -> Any:
    """Return the first option of a statement that has one, with another argument where one is given."""
    node = parsed(statement)
    found = (getattr(node, "params", None) or node.options)[0]
    return found if arg is None else changed(found, arg=arg)


def command(cmd: Any) -> str:
    """Return the SQL of one subcommand of ALTER TABLE."""
    statement = parsed("ALTER TABLE t ADD COLUMN a int")
    statement.cmds = (cmd,)
    return printed(statement).removeprefix("ALTER TABLE t ")


def changed(node: Any, **slots: Any) -> Any:
    """Return a copy of a tree with other values in some of its slots."""
    other = copy.deepcopy(node)
    for name, value in slots.items():
        setattr(other, name, value)
    return other


def mapped(node: Any, change: Callable[[Any], Any]) -> Any:
    """Return a copy of a tree in which ``change`` was called on every node, the leaves first."""
    if isinstance(node, tuple):
        return tuple(mapped(part, change) for part in node)
    if not isinstance(node, ast.Node):
        return node
    other = copy.copy(node)
    for slot in node:
        setattr(other, slot, mapped(getattr(node, slot), change))
    return change(other)


def text(part: sql.Composable) -> str:
    """Return composed SQL as text."""
    return part.as_string(None)


def name(*parts: str) -> str:
    """Return a quoted, qualified name."""
    return text(sql.Identifier(*parts))


def names(parts: tuple[str, ...]) -> str:
    """Return a list of quoted names."""
    return ", ".join(name(part) for part in parts)


def literal(value: object) -> str:
    """Return a quoted constant."""
    return text(sql.Literal(value))


def helper(*about: str) -> str:
    """Return the name of a helper object: the same for the same purpose, so that a later run finds it."""
    return "pgrunbook_" + hashlib.sha256("\0".join(about).encode()).hexdigest()[:12]
