"""What a statement itself calls, compares by, reads and writes when it runs: not what it only stores for later."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from pglast import ast

from pgrunbook.sql.routines import analyzes
from pgrunbook.sql.tree import Name, dotted, once_per_node, relation, relations_named, strings, whole

DML = (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt)
# What these hold runs when somebody calls it by its name, or fires it: it is judged there. What others store (views,
# defaults, checks, policies, rules, casts, operators) may run wherever nobody names it, and is judged at once.
_ONLY_STORED = (ast.CreateFunctionStmt, ast.CreateTrigStmt, ast.PrepareStmt, ast.CommentStmt, ast.DoStmt)


class Call(NamedTuple):
    """A function that is called: its name and the number of its arguments; -1 where it is not called by arguments."""

    name: Name
    arguments: int


@once_per_node
def calls(node: Any) -> tuple[Call, ...]:
    """Return the functions that a statement itself calls when it runs."""
    found = (
        Call(dotted(part.funcname), -1 if part.func_variadic else len(part.args or ()))
        for part in run_nodes(node)
        if isinstance(part, ast.FuncCall)
    )
    return (*found, *(Call(dotted(words), -1) for words in _taken_in(node)))


def _taken_in(node: Any) -> Iterator[Any]:
    """Yield the names of functions that a statement puts behind a cast, an operator, an aggregate, an event ..."""
    match node:
        case ast.DefineStmt():
            given = (item.arg for item in node.definition or () if isinstance(item, ast.DefElem))
            yield from (arg.names for arg in given if isinstance(arg, ast.TypeName))
        case ast.CreateCastStmt() if node.func is not None:
            yield node.func.objname
        case ast.CreateEventTrigStmt():
            yield node.funcname
        case ast.AlterExtensionContentsStmt() if isinstance(node.object, ast.ObjectWithArgs):
            yield node.object.objname  # as one of the extension's it would count as harmless from then on
        case ast.CreateConversionStmt():
            yield node.func_name
        case ast.CreateOpClassStmt() | ast.AlterOpFamilyStmt():
            yield from (item.name.objname for item in node.items if item.name is not None)


def named_functions(node: Any) -> set[str]:
    """Return the names of the functions that a statement calls, or that a trigger of it will."""
    fires = {strings(node.funcname)[-1]} if isinstance(node, ast.CreateTrigStmt) else set()
    return fires | {call.name.name for call in calls(node)}


@once_per_node
def operators(node: Any) -> frozenset[str]:
    """Return the operators in a statement, also those that everybody uses: somebody may have made one of the name."""
    return frozenset(part.name[-1].sval for part in run_nodes(node) if isinstance(part, ast.A_Expr))


@once_per_node
def touched(node: Any) -> tuple[tuple[Name, str], ...]:
    """Return the relations that a statement itself reads or writes when it runs, each with the event."""
    written: dict[int, list[str]] = {}
    match node:
        case ast.TruncateStmt():
            return tuple((relation(table), "TRUNCATE") for table in node.relations)
        case ast.RefreshMatViewStmt():
            return ((relation(node.relation), "REFRESH"),)
        case ast.CopyStmt() if node.relation is not None:
            return ((relation(node.relation), "INSERT" if node.is_from else "READ"),)
        case ast.SelectStmt() | ast.CreateTableAsStmt() | ast.DeclareCursorStmt() | ast.CopyStmt():
            pass
        case _ if not isinstance(node, DML):
            return ()
    for part in run_nodes(node):
        if isinstance(part, DML):
            written[id(part.relation)] = _events(part)
    found = [(relation(part), event) for part in relations_named(node) for event in written.get(id(part), ["READ"])]
    return tuple(dict.fromkeys(found))


def _events(node: Any) -> list[str]:
    match node:
        case ast.InsertStmt():
            return ["INSERT", "UPDATE"] if node.onConflictClause is not None else ["INSERT"]
        case ast.UpdateStmt():
            return ["UPDATE"]
        case ast.DeleteStmt():
            return ["DELETE"]
    return ["INSERT", "UPDATE", "DELETE"]


def run_nodes(node: Any) -> tuple[Any, ...]:
    """Return the nodes of a statement that run with it: not what it only stores for later."""
    if isinstance(node, _ONLY_STORED) or (isinstance(node, ast.ExplainStmt) and not analyzes(node)):
        return ()
    return whole(node)
