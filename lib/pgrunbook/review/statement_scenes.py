"""Statements of files as scenes: each with the catalog before it, the timeouts in force and its transaction."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pglast
from pglast import ast
from pglast.enums import TransactionStmtKind
from pglast.parser import ParseError

from pgrunbook.database.catalog import Catalog
from pgrunbook.effects.catalog_after import after
from pgrunbook.effects.statements import effects
from pgrunbook.review.hazards.rule import Scene, Timeouts, Transactions
from pgrunbook.sql.statements import BYTE_ORDER_MARK, Statement, line_of, parse
from pgrunbook.sql.tree import strings, tree, walk

_OPENS = (TransactionStmtKind.TRANS_STMT_BEGIN, TransactionStmtKind.TRANS_STMT_START)
_CLOSES = (
    TransactionStmtKind.TRANS_STMT_COMMIT,
    TransactionStmtKind.TRANS_STMT_ROLLBACK,
    TransactionStmtKind.TRANS_STMT_PREPARE,
)
_UNITS_MS = {"": 1, "us": 0.001, "ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_TIMEOUTS = {"lock_timeout": "lock_ms", "statement_timeout": "statement_ms"}


@dataclass(frozen=True)
class StatementContext:
    """A statement with the number of the transaction that its file opens around it; None outside of one."""

    statement: Statement
    transaction: int | None


@dataclass(frozen=True)
class Script:
    """The statements of files, and the lines on which the files open transactions themselves."""

    placed: tuple[StatementContext, ...]
    begins: tuple[tuple[str, int], ...]
    texts: tuple[tuple[str, str], ...]

    @property
    def statements(self) -> list[Statement]:
        """All statements in order."""
        return [placed.statement for placed in self.placed]


def script(files: Sequence[tuple[str, str]]) -> Script:
    """Read pairs of name and SQL; a file may open transactions, which :func:`statements.parse` refuses.

    Raises WrongInput as that does for what does not parse.
    """
    placed: list[StatementContext] = []
    begins: list[tuple[str, int]] = []
    texts = []
    number = 0
    for name, sql in files:
        text, marks = _without_transactions(sql.removeprefix(BYTE_ORDER_MARK))
        number += 1
        inside: int | None = None
        found = iter(parse(text, name))
        for kind, line in marks:
            if kind in _OPENS:
                number, inside = number + 1, number + 1
                begins.append((name, line))
            elif kind in _CLOSES:
                inside = None
            elif kind is None:
                placed.append(StatementContext(next(found), inside))
        texts.append((name, text))
    return Script(tuple(placed), tuple(begins), tuple(texts))


def _without_transactions(sql: str) -> tuple[str, list[tuple[TransactionStmtKind | None, int]]]:
    """Blank out BEGIN and COMMIT; also return, in order, their kind and line, with None as the kind of a statement."""
    try:
        raw = pglast.parse_sql(sql)
    except ParseError:
        return sql, []  # the next parser reports the error better
    marks: list[tuple[TransactionStmtKind | None, int]] = []
    text = sql
    for item in raw:
        start = item.stmt_location
        end = start + item.stmt_len if item.stmt_len else len(sql)
        if isinstance(item.stmt, ast.TransactionStmt):
            first = start + len(sql[start:end]) - len(_comments_off(sql[start:end]))
            marks.append((TransactionStmtKind(item.stmt.kind), line_of(sql, first)))
            text = text[:first] + re.sub(r"[^\n]", " ", text[first:end]) + text[end:]
        else:
            marks.append((None, line_of(sql, start)))
    return text, marks


def _comments_off(text: str) -> str:
    return re.sub(r"\A(?:\s+|--[^\n]*(?:\n|\Z)|/\*.*?\*/)+", "", text, flags=re.S)


def stage(
    read: Script,
    catalog: Catalog,
    *,
    transactions: Transactions = Transactions.UNKNOWN,
    timeouts: Timeouts | None = None,
) -> list[Scene]:
    """Return every statement as a scene, judged on the catalog that earlier statements leave behind."""
    scenes: list[Scene] = []
    clock = _Clock(timeouts or Timeouts())
    for position, placed in enumerate(read.placed):
        node = tree(placed.statement.sql)
        now = clock.at(placed, transactions)
        scenes.append(
            Scene(
                statement=placed.statement,
                node=node,
                effects=effects(node, catalog),
                catalog=catalog,
                timeouts=now,
                transaction=placed.transaction,
                transactions=transactions,
                position=position,
            )
        )
        clock.pass_by(node, local_counts=placed.transaction is not None or transactions in _TOGETHER)
        catalog = after(catalog, node)
    for scene in scenes:
        scene.scenes = scenes
        scene.final = catalog
    return scenes


_TOGETHER = (Transactions.FILE, Transactions.ALL)


class _Clock:
    """The timeouts in force: those of the session, and those that end with a transaction.

    Source: https://www.postgresql.org/docs/current/sql-set.html
    """

    def __init__(self, base: Timeouts) -> None:
        self.base = base
        self.session = base
        self.local: dict[str, int] = {}
        self.where: tuple[str, int | None] | None = None

    def at(self, placed: StatementContext, transactions: Transactions) -> Timeouts:
        file = placed.statement.file
        if self.where is not None and self.where[0] != file and transactions is not Transactions.ALL:
            self.session, self.local = self.base, {}
        if self.where is not None and self.where[1] != placed.transaction:
            self.local = {}
        self.where = (file, placed.transaction)
        return replace(self.session, **self.local)

    def pass_by(self, node: Any, *, local_counts: bool) -> None:
        for name, value_ms, local in _settings(node):
            if not local:
                default = getattr(self.base, name)
                self.session = replace(self.session, **{name: default if value_ms is None else value_ms})
                self.local.pop(name, None)
            elif local_counts and value_ms is not None:
                self.local[name] = value_ms


def _settings(node: Any) -> Iterator[tuple[str, int | None, bool]]:
    """Yield what a statement sets: the timeout, its ms (None for the default), and whether it is local."""
    match node:
        case ast.VariableSetStmt() if node.name in _TIMEOUTS:
            value = node.args[0] if node.args else None
            yield _TIMEOUTS[node.name], None if value is None else _milliseconds(value), node.is_local
        case ast.SelectStmt():
            for part in walk(node):
                if isinstance(part, ast.FuncCall) and part.funcname[-1].sval == "set_config" and len(part.args) == 3:
                    names = strings(tuple(getattr(arg, "val", None) for arg in part.args[:1]))
                    if names and names[0] in _TIMEOUTS:
                        local = getattr(getattr(part.args[2], "val", None), "boolval", True)
                        yield _TIMEOUTS[names[0]], _milliseconds(part.args[1]), bool(local)


def _milliseconds(constant: Any) -> int | None:
    value = getattr(constant, "val", None)
    if isinstance(value, ast.Integer):
        return int(value.ival)
    written = re.fullmatch(r"\s*([0-9.]+)\s*([a-z]*)\s*", getattr(value, "sval", "") or "")
    if written is None or written.group(2) not in _UNITS_MS:
        return None
    return round(float(written.group(1)) * _UNITS_MS[written.group(2)])
