"""Code inside statements: the statements that a DO block or a routine holds, as far as they can be read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import pglast
from pglast import ast, enums
from pglast.parser import ParseError

from pgrunbook.sql.size import too_much
from pgrunbook.sql.tree import apart, is_on, options, strings, text, trees

_LOOPS = ("PLpgSQL_stmt_loop", "PLpgSQL_stmt_while", "PLpgSQL_stmt_fori", "PLpgSQL_stmt_fors", "PLpgSQL_stmt_forc",
          "PLpgSQL_stmt_foreach_a", "PLpgSQL_stmt_dynfors")  # fmt: skip
# Where PL/pgSQL holds the text of a statement that it executes as text.
_DYNAMIC = {"PLpgSQL_stmt_dynexecute": "query", "PLpgSQL_stmt_dynfors": "query",
            "PLpgSQL_stmt_return_query": "dynquery", "PLpgSQL_stmt_open": "dynquery"}  # fmt: skip
# The parser gives no default of a variable that is a record.
_RECORD = r'\b{name}\b"?\s[^;]*?(?::=|(?<![<>!])=|\bDEFAULT\b)(?P<value>[^;]*);'
# The parser of PL/pgSQL knows no types but the system's: what is declared with another one is read as a record.
_DECLARED = re.compile(r"\bDECLARE\b.*?\bBEGIN\b", re.IGNORECASE | re.DOTALL)
_ARRAY = re.compile(r'((?:[\w$]|")\s+(?:CONSTANT\s+)?)(?:[\w$]+|"[^"]+")(?:\s*\[\s*\d*\s*\])+', re.IGNORECASE)
_TYPE_OF = re.compile(r'(?:[\w$]+|"[^"]+")(?:\s*\.\s*(?:[\w$]+|"[^"]+"))*\s*%\s*(TYPE|ROWTYPE)', re.IGNORECASE)
_QUALIFIER = re.compile(
    r'(?<=\s)(?!public\b|pg_catalog\b)(?:[\w$]+|"[^"]+")\s*\.\s*'
    r'(?=(?:[\w$]+|"[^"]+")\s*(?:;|:=|=|\[|DEFAULT|NOT))',
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Block:
    """A body: its statements with whether they stand in a loop, and what cannot be seen into.

    Expressions are read as the SELECT that evaluates them. ``dynamic`` is true where it executes a text that it puts
    together; a constant text is read. One that cannot be read at all is not ``readable``. ``texts`` are its statements
    and expressions as they are written.
    """

    nodes: tuple[tuple[Any, bool], ...]
    commits: bool
    dynamic: bool
    readable: bool = True
    texts: tuple[str, ...] = ()


UNREADABLE = Block((), commits=False, dynamic=True, readable=False)


def bodies(node: Any) -> list[Any]:
    """Return the nodes of the statements that a DO block or EXPLAIN ANALYZE runs; [] for other statements."""
    match node:
        case ast.DoStmt():
            return [inner for inner, _ in block(text(node)).nodes]
        case ast.ExplainStmt() if analyzes(node):
            return [node.query]
    return []


def analyzes(node: Any) -> bool:
    """Tell whether EXPLAIN runs its statement."""
    return is_on(node.options, "analyze")


@lru_cache(maxsize=256)
def block(sql: str) -> Block:
    """Read a DO statement written in PL/pgSQL; a block that cannot be read is not ``readable``."""
    node = pglast.parse_sql(sql)[0].stmt
    language = [strings((item.arg,)) for item in node.args if item.defname == "language"]
    if language and language[0] != ("plpgsql",):
        return UNREADABLE
    return _plpgsql(sql)


@lru_cache(maxsize=1024)
def routine(sql: str) -> Block:
    """Read the body of a CREATE FUNCTION or CREATE PROCEDURE in SQL or PL/pgSQL, as :func:`block` does."""
    try:
        node = pglast.parse_sql(sql)[0].stmt
    except (ParseError, IndexError):
        return UNREADABLE
    code = _body(node)
    defaults = [(_evaluated(p.defexpr), False) for p in node.parameters or () if p.defexpr is not None]
    return replace(code, nodes=(*defaults, *code.nodes))


def _body(node: Any) -> Block:
    if node.sql_body is not None:
        return Block(tuple((part, False) for part in _flat(node.sql_body)), commits=False, dynamic=False)
    given = options(node.options)
    language, body = getattr(given.get("language"), "sval", "sql").lower(), given.get("as")
    if language == "plpgsql":
        return _plpgsql(_with_known_types(node))
    if language != "sql" or not isinstance(body, tuple) or too_much(body[0].sval):
        return UNREADABLE
    try:
        found = trees(body[0].sval)
    except ParseError:
        return UNREADABLE
    texts = tuple(apart(body[0].sval))
    return Block(tuple((node, False) for node in found), commits=False, dynamic=False, texts=texts)


def _flat(body: Any) -> Iterator[Any]:
    if isinstance(body, tuple):
        for part in body:
            yield from _flat(part)
    elif isinstance(body, ast.ReturnStmt):
        yield _evaluated(body.returnval)
    else:
        yield body


def _evaluated(expression: Any) -> Any:
    return ast.SelectStmt(targetList=(ast.ResTarget(val=expression),), op=enums.SetOperation.SETOP_NONE, all=False)


def _with_known_types(node: Any) -> str:
    """Return the text of a function with bare types: the parser knows few schemas, and no arrays of their types."""

    def bare(type_: Any) -> Any:
        if type_ is None or type_.names[0].sval == "pg_catalog":
            return type_
        names = (ast.String(sval="text"),) if type_.arrayBounds else type_.names[-1:]
        return ast.TypeName(names=names, setof=type_.setof, typemod=-1, arrayBounds=type_.arrayBounds)

    copy = pglast.parse_sql(text(node))[0].stmt
    copy.returnType = bare(copy.returnType)
    for parameter in copy.parameters or ():
        parameter.argType = bare(parameter.argType)
        parameter.defexpr = None
        if parameter.mode == enums.FunctionParameterMode.FUNC_PARAM_VARIADIC:
            parameter.mode = enums.FunctionParameterMode.FUNC_PARAM_IN
    copy.options = tuple(item for item in copy.options if item.defname in ("language", "as"))
    return text(copy)


def _plpgsql(sql: str) -> Block:
    """Read a DO or CREATE FUNCTION in PL/pgSQL, where need be with the types that it declares made known ones."""
    parsed = _parsed_plpgsql(sql, lambda body: body) or _parsed_plpgsql(sql, _without_types)
    if parsed is None:
        return UNREADABLE
    reader = _Reader()
    reader.defaults_of_records(parsed, sql)
    return reader.read(parsed)


def _parsed_plpgsql(sql: str, change: Callable[[str], str]) -> Any | None:
    try:
        return pglast.parse_plpgsql(_DECLARED.sub(lambda found: change(found[0]), sql))
    except (ParseError, ValueError):
        return None


def _without_types(declared: str) -> str:
    known = _TYPE_OF.sub(lambda found: "record" if found[1].upper() == "ROWTYPE" else "text", declared)
    return _ARRAY.sub(r"\1text[]", _QUALIFIER.sub("", known))


class _Reader:
    """Reads the tree of PL/pgSQL for the statements in it."""

    def __init__(self) -> None:
        self.nodes: list[tuple[Any, bool]] = []
        self.texts: list[str] = []
        self.commits = self.dynamic = False
        self.readable = True

    def read(self, parsed: Any) -> Block:
        self._visit(parsed, in_loop=False)
        dynamic = self.dynamic or not self.readable
        return Block(tuple(self.nodes), self.commits, dynamic, self.readable, tuple(self.texts))

    def defaults_of_records(self, parsed: Any, sql: str) -> None:
        """Read what records are declared with."""
        datums = [datum for function in parsed for datum in function.get("PLpgSQL_function", {}).get("datums", ())]
        names = {datum["PLpgSQL_rec"].get("refname", "") for datum in datums if "PLpgSQL_rec" in datum}
        for declared in _DECLARED.findall(sql):
            for name in names - {"new", "old", ""}:
                for found in re.finditer(_RECORD.format(name=re.escape(name)), declared, re.IGNORECASE):
                    self._query(found["value"], 2, in_loop=False)

    def _visit(self, part: Any, *, in_loop: bool) -> None:
        if isinstance(part, list):
            for item in part:
                self._visit(item, in_loop=in_loop)
        if not isinstance(part, dict):
            return
        for word, inner in part.items():
            if word in ("PLpgSQL_stmt_commit", "PLpgSQL_stmt_rollback"):
                self.commits = True
            elif word == "PLpgSQL_expr":
                self._query(str(inner.get("query", "")), inner.get("parseMode", 0), in_loop=in_loop)
                continue
            text_ = inner.get(_DYNAMIC[word]) if word in _DYNAMIC else None
            if text_ is not None:
                self._text(str(text_["PLpgSQL_expr"].get("query", "")), in_loop=in_loop)
            self._visit(inner, in_loop=in_loop or word in _LOOPS)

    def _query(self, query: str, mode: int, *, in_loop: bool) -> None:
        """Read a statement (mode 0), an expression (2) or an assignment (3 and more)."""
        text = (_sides(query) if mode > 2 else query).strip()
        try:
            found = trees(f"SELECT {text}" if mode else query)
        except ParseError:
            self.readable = False
            return
        self.texts.append(f"SELECT {text}" if mode else text)
        self.nodes += [(node, in_loop) for node in found]

    def _text(self, expression: str, *, in_loop: bool) -> None:
        """Read the statements in a text that is executed, where it is a constant."""
        value = pglast.parse_sql(f"SELECT {expression}")[0].stmt.targetList[0].val
        found = text_statements(value)
        if found is None:
            self.dynamic = True
        else:
            self.texts += apart(_constant(value) or "")
            self.nodes += [(node, in_loop) for node in found]


def text_statements(expression: Any) -> list[Any] | None:
    """Return the statements in the text that an expression gives; None where it is computed, or cannot be parsed."""
    constant = _constant(expression)
    try:
        return None if constant is None else trees(constant)
    except ParseError:
        return None


def _sides(assignment: str) -> str:
    """Return the expressions of an assignment: the new value, and the subscripts on the left side."""
    depth, quote = 0, ""
    for place, sign in enumerate(assignment):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        depth += 0 if quote else {"[": 1, "(": 1, "]": -1, ")": -1}.get(sign, 0)
        if sign == "=" and not depth and not quote:
            left, right = assignment[:place].removesuffix(":"), assignment[place + 1 :]
            return f"{left}, {right}" if "[" in left else right
    return assignment


def _constant(node: Any) -> str | None:
    """Return the text of a constant, or of constants that are joined; None for what is computed."""
    if isinstance(node, ast.A_Const) and isinstance(node.val, ast.String):
        return str(node.val.sval)
    if isinstance(node, ast.TypeCast):
        return _constant(node.arg)
    if isinstance(node, ast.A_Expr) and node.name[-1].sval == "||" and node.lexpr is not None:
        left, right = _constant(node.lexpr), _constant(node.rexpr)
        return None if left is None or right is None else left + right
    return None


def unreadable_because(code: Block) -> str:
    """Return why a body cannot be read to its end, "" where it can."""
    if not code.readable:
        return "its code cannot be read"
    return "it puts its statements together when it runs" if code.dynamic else ""
