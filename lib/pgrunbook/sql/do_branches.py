"""A DO block that executes plain statements where they are needed: behind IF, or EXCEPTION for what is there already.

What such a block does is known before, as its conditions read catalogs only; so are loops over constants, and texts
that are put together of these. Of any other one (loops over rows, other handlers) nothing is said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import pglast
from pglast import ast
from pglast.parser import ParseError

from pgrunbook.errors import WrongInput
from pgrunbook.sql.catalog_names import CatalogNames, catalog_names
from pgrunbook.sql.deparse import printed
from pgrunbook.sql.do_guard import is_of_catalog
from pgrunbook.sql.do_values import Ask, DoValues, UnknownValueError, constant
from pgrunbook.sql.settings import settings
from pgrunbook.sql.tree import apart, text, trees, walk
from pgrunbook.sql.values_lists import LONG_CHARS

# Conditions of handlers, by the errors that say that an object is there already, or is not there.
THERE = {
    "duplicate_object", "duplicate_table", "duplicate_column", "duplicate_function", "duplicate_schema",
    "duplicate_alias", "42710", "42P07", "42701", "42723", "42P06", "invalid_table_definition", "42P16",
}  # fmt: skip
MISSING = {
    "undefined_object", "undefined_table", "undefined_column", "undefined_function", "invalid_schema_name",
    "42704", "42P01", "42703", "42883", "3F000",
}  # fmt: skip
_DECLARE = re.compile(r"\bDECLARE\b", re.IGNORECASE)
_CONFLICT = re.compile(r"#\s*variable_conflict\s+use_column", re.IGNORECASE)
# What a block may name without declaring it.
_GIVEN = {"found", "sqlstate", "sqlerrm"}
_CHANGES = (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt)
_RETURN, _RAISE = "PLpgSQL_stmt_return", "PLpgSQL_stmt_raise"
_EXCEPTION_LEVEL = 21
_STOPS = {
    _RETURN: "it may return before its end",
    _RAISE: "it may raise an error",
    "PLpgSQL_stmt_assert": "it may raise an error",
    "PLpgSQL_stmt_exit": "it may leave a loop, or a turn of it (EXIT, CONTINUE)",
    "PLpgSQL_stmt_loop": "it loops until it leaves the loop",
    "PLpgSQL_stmt_while": "it loops as long as something holds (WHILE)",
    "PLpgSQL_stmt_forc": "it loops over rows of a cursor",
    "PLpgSQL_stmt_dynfors": "it loops over rows of a text that it executes",
    "PLpgSQL_stmt_dynexecute": "it takes values of a text that it executes",
    "PLpgSQL_stmt_case": "it chooses by CASE",
    "PLpgSQL_stmt_getdiag": "it asks what a statement has done (GET DIAGNOSTICS)",
    "PLpgSQL_stmt_call": "it calls a procedure",
    "PLpgSQL_stmt_commit": "it ends its transaction",
    "PLpgSQL_stmt_rollback": "it ends its transaction",
    "PLpgSQL_stmt_open": "it reads rows of a cursor",
    "PLpgSQL_stmt_fetch": "it reads rows of a cursor",
    "PLpgSQL_stmt_close": "it reads rows of a cursor",
}


@dataclass(frozen=True)
class BranchStatement:
    """A statement that a DO block executes where each of these queries has its answer.

    ``handler`` is the number of the block whose handlers take it that an object is there, or is missing; 0 for none:
    where one statement of it fails, none of it is done. ``sql`` is its whole text, to be executed; "" where it is not
    to be had.
    """

    node: Any
    conditions: tuple[tuple[Any, bool], ...] = ()
    handler: int = 0
    sql: str = ""


@dataclass(frozen=True)
class BlockReading:
    """What a block was read as; with ``because`` (a clause) it could not be, and has no statements.

    ``names`` are those that the reading takes for PostgreSQL's own.
    """

    statements: tuple[BranchStatement, ...] | None
    names: CatalogNames
    because: str = ""


def branches(node: Any) -> tuple[BranchStatement, ...] | None:
    """Return the statements of a DO block that executes nothing else; None for any other statement."""
    return read_block(node).statements


def names_taken(node: Any) -> CatalogNames:
    """Return the names that :func:`branches` takes for PostgreSQL's own, which another schema's may hide or outdo.

    Where one means something else, nothing is known of the block.
    """
    return read_block(node).names


def read_block(node: Any, ask: Ask | None = None) -> BlockReading:
    """Read a DO block; of any other statement nothing is known.

    ``ask`` executes queries of catalogs over which a block loops; without it such a block is not known.
    """
    if not isinstance(node, ast.DoStmt):
        return BlockReading(None, CatalogNames())
    return _read(text(node)) if ask is None else _read_with(text(node), ask)


def changes_of_rows(node: Any) -> tuple[str, ...]:
    """Return the texts of the UPDATEs, INSERTs and DELETEs that a DO block executes, () for one that does otherwise."""
    found = branches(node) or ()
    is_plain = all(isinstance(one.node, _CHANGES) and not one.conditions and not one.handler for one in found)
    texts = tuple(one.sql for one in found)
    return texts if is_plain and all(texts) else ()


def unfolded(node: Any) -> tuple[Any, ...]:
    """Return the statements of a DO block that executes nothing else, any other statement itself."""
    found = branches(node)
    return (node,) if found is None else tuple(one.node for one in found)


@lru_cache(maxsize=256)
def _read(sql: str) -> BlockReading:
    return _read_with(sql, None)


def _read_with(sql: str, ask: Ask | None) -> BlockReading:
    values: DoValues | None = None
    try:
        (function,) = pglast.parse_plpgsql(sql)
        if len(_DECLARE.findall(sql)) > 1:  # what is declared within is made anew in each turn of a loop
            raise UnknownValueError("it declares variables in more than one place")
        datums = function["PLpgSQL_function"].get("datums", ())
        names = {inner.get("refname") for one in datums for inner in one.values()}
        if names - _GIVEN and _CONFLICT.search(sql):
            raise UnknownValueError("a name of its variables may be that of a column (#variable_conflict use_column)")
        labels = _labels(function["PLpgSQL_function"]["action"])
        values = DoValues(datums, ask, labels)
        found = tuple(_Reader(values).read(function["PLpgSQL_function"]["action"]["PLpgSQL_stmt_block"]))
    except (ParseError, ValueError, KeyError):
        found, because = None, "its code cannot be read"
    except UnknownValueError as unknown:
        found, because = None, str(unknown)
    else:
        because = ""
    if not found and ask is None:
        found = None
    if values is None:
        return BlockReading(found, CatalogNames(), because)
    return BlockReading(found, replace(catalog_names(values.trusted), variables=frozenset(values.named)), because)


class _Reader:
    """Reads the tree of PL/pgSQL.

    ``blocks`` counts those with handlers, ``depth`` the IFs around a statement; ``goes_on`` are the conditions under
    which the block has not returned before.
    """

    def __init__(self, values: DoValues) -> None:
        self.values = values
        self.blocks = self.depth = 0
        self.goes_on: tuple[tuple[Any, bool], ...] = ()

    def read(self, block: Any) -> Iterator[BranchStatement]:
        """Yield the statements of the outermost block."""
        for one in self.of_block(block, 0):
            yield replace(one, conditions=(*self.goes_on, *one.conditions))

    def of_block(self, block: Any, handler: int) -> Iterator[BranchStatement]:
        """Yield the statements of a block."""
        if "exceptions" in block:
            if handler:
                raise UnknownValueError("it handles errors within what handles errors")
            self.blocks += 1
            handler = self.blocks
            for one in block["exceptions"]["PLpgSQL_exception_block"]["exc_list"]:
                self._check_handler(one["PLpgSQL_exception"])
        yield from self._of(block.get("body", ()), handler)

    def _check_handler(self, exception: Any) -> None:
        names = {one["PLpgSQL_condition"]["condname"] for one in exception["conditions"]}
        if not names <= THERE | MISSING:
            raise UnknownValueError("it handles other errors than that something is there, or is missing")
        if list(self._of(exception.get("action", ()), 0)):
            raise UnknownValueError("it executes something where it handles an error")

    def _of(self, statements: Sequence[Any], handler: int) -> Iterator[BranchStatement]:
        for statement in statements:
            ((word, inner),) = statement.items()
            match word:
                case "PLpgSQL_stmt_execsql" if not inner.get("into"):
                    yield from self._each(_query(inner["sqlstmt"]), self.values.filled, handler)
                    self.values.forget_found()
                case "PLpgSQL_stmt_dynexecute" if not inner.get("into"):
                    using = partial(self.values.using, given=inner.get("params", ()))
                    yield from self._each(self._text(inner["query"]), using, handler)
                case "PLpgSQL_stmt_if":
                    yield from self._of_if(inner, handler)
                    self.values.forget_found()
                case "PLpgSQL_stmt_block":
                    yield from self.of_block(inner, handler)
                case "PLpgSQL_stmt_foreach_a" | "PLpgSQL_stmt_fori" | "PLpgSQL_stmt_fors":
                    for _ in self.values.turns(word, inner):
                        yield from self._of(inner.get("body", ()), handler)
                case _ if not _is_nothing(word, inner):
                    self._ask(word, inner, handler)

    def _each(self, source: str, filled: Callable[[Any], Any], handler: int) -> Iterator[BranchStatement]:
        """Yield the statements of a text, with constants in the place of variables or parameters."""
        for node, sql in zip(trees(source), apart(source), strict=True):
            _refuse_path(node)
            made = filled(node)
            yield BranchStatement(made, (), handler, sql if made is node else _whole_text(made, sql))

    def _text(self, expression: Any) -> str:
        """Return a text that is put together of constants; its statements know no variables."""
        value = self.values.value(expression)
        found = constant(value)
        if found is None:
            raise UnknownValueError("it executes a text that it puts together of what nobody can tell")
        self.values.trusted.append(value)
        return found

    def _ask(self, word: str, inner: Any, handler: int) -> None:
        """Read what a block asks before it does something."""
        if word in _STOPS:
            raise UnknownValueError(_STOPS[word])
        if handler or self.depth:
            raise UnknownValueError("it asks or assigns something within IF, or where it handles errors")
        match word:
            case "PLpgSQL_stmt_perform":
                self.values.ask(_query(inner["expr"]))
            case "PLpgSQL_stmt_assign":
                self.values.set(inner["expr"])
            case "PLpgSQL_stmt_execsql" if not inner.get("strict"):
                self.values.select_into(_query(inner["sqlstmt"]), inner["target"])
            case _:
                raise UnknownValueError(f"nobody can tell what its {word.removeprefix('PLpgSQL_stmt_')} does")

    def _of_if(self, found: Any, handler: int) -> Iterator[BranchStatement]:
        arms = [(found["cond"], found.get("then_body", ()))]
        elsifs = (one["PLpgSQL_if_elsif"] for one in found.get("elsif_list", ()))
        arms += [(one["cond"], one.get("stmts", ())) for one in elsifs]
        before: tuple[tuple[Any, bool], ...] = ()
        returns = _RETURN in (found.get("then_body") or [{}])[-1]
        if returns:
            if len(arms) > 1 or "else_body" in found or self.depth:
                raise UnknownValueError(_STOPS[_RETURN])
            arms = [(found["cond"], found["then_body"][:-1])]
        for condition, body in arms:
            asked = self.values.expression(condition)
            if not all(map(is_of_catalog, walk(asked))):
                raise UnknownValueError("a condition of it reads rows, or calls a function of the application")
            self.values.trusted.append(asked)
            yield from self._behind((*before, (asked, True)), body, handler)
            before = (*before, (asked, False))
        yield from self._behind(before, found.get("else_body", ()), handler)
        if returns:
            self.goes_on = (*self.goes_on, *before)

    def _behind(
        self, conditions: tuple[tuple[Any, bool], ...], body: Sequence[Any], handler: int
    ) -> Iterator[BranchStatement]:
        self.depth += 1
        for one in self._of(body, handler):
            yield replace(one, conditions=(*conditions, *one.conditions))
        self.depth -= 1


def _labels(part: Any) -> Iterator[str]:
    """Yield the labels of blocks and loops: a variable may be named behind one."""
    if isinstance(part, dict):
        yield from (part["label"],) if "label" in part else ()
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _labels(inner)


def _is_nothing(word: str, inner: Any) -> bool:
    """Tell whether a statement only tells something, or is the RETURN that the parser adds at the end."""
    return not inner if word == _RETURN else word == _RAISE and inner.get("elog_level", 0) < _EXCEPTION_LEVEL


def _whole_text(made: Any, sql: str) -> str:
    """Return the text of a statement that was made of a text, "" where it may not say the same, or all of it."""
    if len(sql) > LONG_CHARS:
        return ""
    try:
        return printed(made)
    except WrongInput:
        return ""


def _refuse_path(node: Any) -> None:
    """Raise UnknownValueError where names mean something else after a statement."""
    if any(one.may_be_search_path for one in settings(node)):
        raise UnknownValueError("it sets search_path")


def _query(expression: Any) -> str:
    return str(expression["PLpgSQL_expr"]["query"])
