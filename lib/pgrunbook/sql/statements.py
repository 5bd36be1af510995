"""The statements of a migration file, as PostgreSQL's own parser reads them, each with its kind and type."""

from __future__ import annotations

import bisect
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from pglast import ast, get_postgresql_version
from pglast.enums import OnCommitAction, TransactionStmtKind
from pglast.parser import ParseError, parse_sql, scan, split

from pgrunbook.errors import WrongInput
from pgrunbook.sql import classify, secrets, size
from pgrunbook.sql.classify import Policy, Type
from pgrunbook.sql.places import NamedPlace, Place, numbered
from pgrunbook.sql.settings import settings
from pgrunbook.sql.tree import trees, walk
from pgrunbook.sql.values_lists import ShortText, lettered, shortened

BYTE_ORDER_MARK = "\ufeff"
# At this line Drizzle cuts a file, with or without a semicolon before it.
_BREAKPOINT = "--> statement-breakpoint"
_CLOSED = ";-- statement-breakpoint"
# A statement whose data psql would read, up to the line \\. or the end of the file.
_COPY_DATA = re.compile(
    r"\bCOPY\s(?:[^;']|'[^']*')*?\sFROM\s+STDIN\b(?:[^;']|'[^']*')*;(?P<data>\s*)(?:(?:^.*\n)*?^\\\.)?",
    re.I | re.M,
)
_PLACEHOLDER = "A placeholder is filled in by another tool: write its value."
_MYSQL = "Words such as AUTO_INCREMENT, ENGINE and PRAGMA are MySQL's or SQLite's: say it as PostgreSQL does."
# By what stands where the parser stopped.
_HINTS = {
    r"\\": "Commands that begin with \\ are psql's own: remove them from the migration.",
    r":": "A name behind a colon is a variable of psql: write its value.",
    r"\$\{|\{[^\n{}]*\}|\{[{%]": _PLACEHOLDER,
    r"`": "PostgreSQL has names in double quotes; backticks are MySQL's.",
    r"#": "A comment begins with --.",
    r"<<<<<<<": "A merge left both sides in the file: keep one of them.",
    r"GO\n": "GO is a command of other databases' shells: end each statement with a semicolon.",
    r"(?i:AUTO_?INCREMENT|ENGINE|UNSIGNED|IGNORE|PRAGMA|ON\s+UPDATE\s+CURRENT_TIMESTAMP)\b": _MYSQL,
    r"@": "A name behind @ is a variable of MySQL or SQL Server, which PostgreSQL does not have.",
    r"\[\w+\]": "PostgreSQL has names in double quotes; brackets are SQL Server's.",
}
_HINT = f"Correct the file; the parser of PostgreSQL {get_postgresql_version()[0]} could not read it."
_KEEPS = (OnCommitAction.ONCOMMIT_NOOP, OnCommitAction.ONCOMMIT_PRESERVE_ROWS)
_OPENS = (TransactionStmtKind.TRANS_STMT_BEGIN, TransactionStmtKind.TRANS_STMT_START)


@dataclass(frozen=True)
class Statement:
    """One statement of a file: its exact text, where it stands, and what kind it is.

    ``place`` is what an operator names it by; where nobody tells the migration, the name of the file stands for it.
    """

    sql: str
    file: str
    line: int
    kind: str
    type: Type
    policy: Policy
    objects: tuple[str, ...]
    place: Place

    @property
    def named(self) -> NamedPlace:
        """What an operator may name it by."""
        return NamedPlace(str(self.place), self.file, self.place)

    @property
    def sha256(self) -> str:
        """The hash of the exact text, an HMAC where it holds a secret."""
        return secrets.fingerprint(self.sql)


def parse(sql: str, file: str, migration: str = "") -> list[Statement]:
    """Split a file of a migration into its statements and say what each is; [] for a file of comments.

    BEGIN and COMMIT around the whole file, or around parts of it (:func:`left_out`), are left out: a migration is one
    transaction anyway.

    Raises WrongInput, with file and line, for what does not parse, for any other BEGIN or COMMIT, and for COPY FROM
    STDIN.
    """
    return list(_parsed(sql, file, migration))


@lru_cache(maxsize=64)
def _parsed(sql: str, file: str, migration: str) -> tuple[Statement, ...]:
    text = readable(sql)
    is_told = "/" in file or file.startswith(migration)
    shown = file if is_told else f"{migration}/{file}"  # many migrations have a migration.sql
    if "\0" in text:
        raise WrongInput(
            f"{shown}, line {line_of(text, text.index(chr(0)))}: holds a zero byte",
            detail="PostgreSQL would read the file up to there and ignore the rest.",
            hint="Remove it; save a file in UTF-16 as UTF-8.",
        )
    letters = lettered(text)
    short = shortened(letters)
    if large := size.too_many(short.text):
        raise size.refusal_of(shown, line_of(text, short.at(large[0])), large[1])
    try:
        slices = split(short.text, only_slices=True)
    except ParseError as exc:
        raise _refused(text, letters, shown, exc) from exc
    found = [(_node(text, short, part, shown), *_bounds(short, part)) for part in slices]
    without = left_out([node for node, _, _ in found])
    found = [part for place, part in enumerate(found) if place not in without]
    line, counted_to = 1, 0
    for node, start, _ in found:
        line, counted_to = line + text.count("\n", counted_to, start), start
        refused = refusal(node, shown, line)
        if refused is not None:
            raise refused
        if why := size.too_deep(node):
            raise size.refusal_of(shown, line, why)
    return tuple(_in_file(found, text, file, migration or file))


def readable(sql: str) -> str:
    """Return a file's text as the parser reads it, each character at its place.

    It is without a byte order mark, and a statement that ends at a breakpoint of Drizzle ends with a semicolon.
    """
    text = sql.removeprefix(BYTE_ORDER_MARK)
    if _BREAKPOINT not in text:
        return text
    chunks = text.split(_BREAKPOINT)
    return "".join(chunk + (_CLOSED if _is_open(chunk) else _BREAKPOINT) for chunk in chunks[:-1]) + chunks[-1]


def left_out(nodes: Sequence[Any]) -> frozenset[int]:
    """Return the places of each BEGIN and COMMIT of a file that are left out; none where one of them has to be refused.

    They are plain, and stand around all of it; or around parts, as Prisma writes it around the replacement of an enum,
    where nothing within holds until that COMMIT: a setting, a lock, a cursor, a temporary table, checks that wait.
    """
    marks = [place for place, node in enumerate(nodes) if isinstance(node, ast.TransactionStmt)]
    pairs = list(zip(marks[::2], marks[1::2], strict=False))
    if len(marks) % 2 or not all(_is_plain_pair(nodes[begin], nodes[end]) for begin, end in pairs):
        return frozenset()
    is_whole = marks == [0, len(nodes) - 1]
    if not is_whole and any(
        map(_holds_until_commit, (node for begin, end in pairs for node in nodes[begin + 1 : end]))
    ):
        return frozenset()
    return frozenset(marks)


def _is_plain_pair(begin: Any, end: Any) -> bool:
    is_plain = begin.kind in _OPENS and not begin.options
    return is_plain and end.kind == TransactionStmtKind.TRANS_STMT_COMMIT and not end.chain


def _holds_until_commit(node: Any) -> bool:
    """Tell whether a statement does what ends with its transaction, or may."""
    match node:
        case ast.LockStmt() | ast.ConstraintsSetStmt() | ast.DeclareCursorStmt() | ast.DoStmt() | ast.CallStmt():
            return True
        case ast.ExecuteStmt():  # of whatever was prepared
            return True
        case ast.CreateStmt():
            return node.oncommit not in _KEEPS
        case ast.CreateTableAsStmt() if node.into.onCommit not in _KEEPS:
            return True
        case ast.SelectStmt() | ast.CreateTableAsStmt() | ast.ExplainStmt():
            return any(map(_may_hold, walk(node)))
        case ast.InsertStmt() | ast.UpdateStmt() | ast.DeleteStmt() | ast.MergeStmt():
            return any(map(_may_hold, walk(node)))
    return any(one.is_local for one in settings(node))


def _may_hold(part: Any) -> bool:
    """Tell whether a part of a query locks rows, or calls a function, which may lock and set whatever it likes."""
    return isinstance(part, ast.FuncCall | ast.ExecuteStmt) or (
        isinstance(part, ast.SelectStmt) and bool(part.lockingClause)
    )


def has_left_out(sql: str) -> bool:
    """Tell whether a file has a BEGIN and COMMIT that are left out; not where it cannot be read."""
    if not any(word in sql.lower() for word in ("begin", "start")) or size.too_many(shortened(lettered(sql)).text):
        return False
    try:
        return bool(left_out(trees(readable(sql))))
    except ParseError:
        return False


def refusal(node: Any, file: str, line: int) -> WrongInput | None:
    """Return why a statement cannot be part of a migration, None where it can: to prepare and to the review alike."""
    if isinstance(node, ast.TransactionStmt):
        return WrongInput(
            f"{file}, line {line}: a migration cannot hold BEGIN, COMMIT or ROLLBACK",
            detail="pgrunbook commits the migration and its history row in one transaction of its own; a plain BEGIN"
            " and COMMIT are left out, around the whole file, or around parts in which nothing holds until COMMIT, as"
            " SET LOCAL, LOCK and DO may.",
            hint="Remove the statement; a statement that cannot run in a transaction is run alone anyway.",
        )
    if isinstance(node, ast.CopyStmt) and node.is_from and node.filename is None and not node.is_program:
        return _copy_from_stdin(file, line)
    return None


def _is_open(chunk: str) -> bool:
    """Tell whether a part of a file ends in a statement without its semicolon, and can be read by itself."""
    letters = lettered(chunk)
    try:
        split(letters, only_slices=True)
        tokens = [
            token.name for token in scan(shortened(letters).text) if token.name not in ("SQL_COMMENT", "C_COMMENT")
        ]
    except ParseError:
        return False
    return bool(tokens) and tokens[-1] != "ASCII_59"


def line_of(sql: str, index: int) -> int:
    """Return the line, counted from 1, on which a character of the text stands."""
    return sql.count("\n", 0, index) + 1


def _refused(text: str, letters: str, file: str, exc: ParseError) -> WrongInput:
    """Return the error of a text that the parser refuses, by its place in the whole text."""
    try:
        split(letters, only_slices=True)
    except ParseError as whole:
        exc = whole
    return _unreadable(text, file, exc)


def _node(text: str, short: ShortText, part: slice, file: str) -> Any:
    start, end = short.at(part.start), short.end(part.stop)
    try:
        return trees(text[start:end])[0]
    except ParseError as exc:
        raise _unreadable(text, file, ParseError(exc.args[0], start + (_index(exc) or 0))) from exc


def _bounds(short: ShortText, part: slice) -> tuple[int, int]:
    """Return where the first token of a statement begins and the last ends, comments around it left out."""
    tokens = [token for token in scan(short.text[part]) if token.name not in ("SQL_COMMENT", "C_COMMENT")]
    return short.at(part.start + tokens[0].start), short.end(part.start + tokens[-1].end + 1)


def _in_file(found: Sequence[tuple[Any, int, int]], text: str, file: str, migration: str) -> list[Statement]:
    statements = []
    line, counted_to = 1, 0
    for node, start, end in found:
        line, counted_to = line + text.count("\n", counted_to, start), start
        alone = classify.cannot_run_in_a_transaction(node)
        statements.append(
            Statement(
                sql=sys.intern(text[start:end]),  # one object wherever it is read, for it may have many megabytes
                file=file,
                line=line,
                kind=classify.kind(node),
                type=classify.type_of(node),
                policy=Policy.ALONE if alone else Policy.TOGETHER,
                objects=tuple(classify.objects(node)),
                place=Place(migration, line),
            )
        )
    for number, (node, _, _) in enumerate(found):
        if isinstance(node, ast.AlterEnumStmt) and _label_is_needed(node, statements, number):
            statements[number] = replace(statements[number], policy=Policy.ALONE)
    places = numbered(migration, [statement.line for statement in statements])
    return [replace(statement, place=place) for statement, place in zip(statements, places, strict=True)]


def _label_is_needed(node: Any, statements: Sequence[Statement], number: int) -> bool:
    """ALTER TYPE ... ADD VALUE runs alone only where a later statement of the file uses the new label.

    A label that was added in a transaction cannot be used before its commit, but for a type that the same
    transaction created (https://www.postgresql.org/docs/current/sql-altertype.html, Notes).
    """
    if node.newVal is None or node.oldVal is not None:
        return False
    for earlier in reversed(statements[:number]):
        if earlier.policy is Policy.ALONE:
            break
        if earlier.kind == "CREATE TYPE" and earlier.objects == statements[number].objects:
            return False
    label = re.compile(rf"(?<!\w){re.escape(node.newVal)}(?!\w)")
    return any(label.search(text) for later in statements[number + 1 :] for text in _strings(later.sql))


def _strings(sql: str) -> list[str]:
    """The string constants of a statement as they stand there; bodies of functions are such constants."""
    found = scan(lettered(sql))
    return [sql[t.start : t.end + 1].replace("''", "'") for t in found if t.name in ("SCONST", "USCONST")]


def _copy_from_stdin(file: str, line: int) -> WrongInput:
    return WrongInput(
        f"{file}, line {line}: COPY FROM STDIN cannot run from a migration file",
        detail="The data after it would be read by psql, not by the server.",
        hint="Write the rows as INSERT, or load them outside of the migration.",
    )


def _unreadable(text: str, file: str, exc: ParseError) -> WrongInput:
    index = _index(exc)
    index = _end_of_first_line(text, exc) if index is None else index
    copy = next((m for m in _COPY_DATA.finditer(text) if m.start("data") <= index <= m.end()), None)
    if copy:
        return _copy_from_stdin(file, line_of(text, copy.start()))
    line = line_of(text, index)
    near = re.compile(r'(?<= at or near ")(.*)(?="\Z)', re.S)
    says = near.sub(lambda m: secrets.excerpt(text, index, index + len(m[0])), exc.args[0])
    hint = next((hint for start, hint in _HINTS.items() if re.compile(start).match(text, index)), _HINT)
    start = text.rfind("\n", 0, index) + 1
    shown = secrets.excerpt(text, start, (text + "\n").index("\n", start)).strip()[:200]
    return WrongInput(f"{file}, line {line}: {' '.join(says.split())[:200]}", detail=f"The line is: {shown}", hint=hint)


def _end_of_first_line(text: str, exc: ParseError) -> int:
    """Return the end of the first line at which the parser says the same of the text before; it told no place."""
    ends = [match.end() for match in re.finditer(r"\S[^\S\n]*(?=\n|\Z)", text)]
    at = bisect.bisect_left(ends, True, key=lambda end: _error_of(text[:end]) == exc.args[0])
    return ends[min(at, len(ends) - 1)] - 1


def _error_of(text: str) -> str:
    try:
        parse_sql(text)
    except ParseError as exc:
        return str(exc.args[0])
    return ""


def _index(exc: ParseError) -> int | None:
    """Where the parser stopped; None where it only says that the text ended too soon."""
    return exc.args[1] if len(exc.args) > 1 else None
