"""The marks of files that hold both directions of a migration; run as plain SQL, such a file undoes itself."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pglast import parse_sql
from pglast.parser import ParseError, scan

from pgrunbook.errors import WrongInput
from pgrunbook.sql.values_lists import lettered, shortened

# By the tool that reads it.
MARKS = {
    "dbmate": r"--\s*migrate:\s*(?:\w+)",
    "goose": r"--\s*\+goose\s+(?:\w+)",
    "sql-migrate": r"--\s*\+migrate\s+(?:\w+)",
    "node-pg-migrate": r"--[\s-]*(?:(?P<up>up)|down)\s+migration\b",
    "rambler": r"--\s*rambler\s+(?:up|down)\b",
    "MyBatis Migrations": r"--\s*//\s*(?:@undo)\b",
    "tern": r"----\s*(?:create above\s*/\s*drop below)\s*----",
    "Liquibase": r"--\s*(?:liquibase\s+formatted\s+sql|changeset\s+[^\s:]+:\S+)",
    "graphile-migrate": r"--!\s*(?:Previous|Hash):",
    "Play Evolutions": r"--[\s-]*!(?:ups|downs)\b",
    "shmig": r"--\s*=+\s*(?:(?P<up>up)|down)\s*=+\s*$",
}
# What looks like the mark of a tool that we do not know.
_WAYS = r"(?:up|ups|down|downs|upgrade|downgrade|undo|rollback|revert|forwards?|backwards?)"
LOOKS = (
    r"--\s*(?:\+[a-z][\w-]*)(?:[ \t]+\w+){0,2}\s*$",
    rf"--\s*(?!(?:migration|direction|type|script)\b)(?:[a-z][\w.-]*)\s*:\s*{_WAYS}\s*$",
    r"----\s*\w.*\b(?:above|below)\b.*----\s*$",
)
# A comment that says nothing but this begins the way back, where a statement follows it.
DOWN = re.compile(
    r"--[^\w;]*(?:(?:migration|direction|type|script)[\s:_-]+)?(?:down|downs|downgrade|undo|rollback|backwards?)"
    r"(?:[\s:_-]+(?:migration|script|section|part|sql))?[^\w;]*$",
    re.I,
)
# Their marks are words that anybody may head a file with: they tell something only where they cut it in two.
_WORDS = ("node-pg-migrate", "shmig")
_KNOWN = {tool: re.compile(mark, re.I) for tool, mark in MARKS.items()}
_LOOKS = [re.compile(mark, re.I) for mark in LOOKS]
# What any of these has; most files have none, and are not scanned.
_PERHAPS = re.compile(
    rf"^[ \t]*--[^\n]*?(?:\+[a-z]|\b{_WAYS}\b|migrate:|\b(?:above|below)\b|//|!|changeset|liquibase)", re.I | re.M
)


@dataclass(frozen=True)
class Mark:
    """A mark in a file: whose it is ("" where nobody knows), its line and text."""

    tool: str
    line: int
    text: str


def of(text: str) -> list[Mark]:
    """Return the marks of known tools, and what looks like one, in order; what stands in strings is none."""
    text = shortened(text).text  # rows hold no marks, and there may be many
    if not _PERHAPS.search(text):
        return []
    found = [mark for line, comment, apart in _comments(text) if (mark := _mark(line, comment, apart)) is not None]
    cut = {tool for tool in _WORDS if len({_is_up(mark) for mark in found if mark.tool == tool}) == 2}
    return [mark for mark in found if mark.tool not in _WORDS or mark.tool in cut]


def refuse(path: Path, text: str, *, own: str, undoes: bool = False) -> None:
    """Raise WrongInput, with file and line, for the mark of a tool other than ``own``, and for an unknown one.

    ``undoes`` is for the text of a way back, where nothing begins one. A comment of words alone is refused only where
    it turns the direction: where a statement follows that would undo what the file does.
    """
    for mark in of(text):
        if mark.tool not in (own, *_WORDS):
            raise _foreign(path, mark)
    turn = _turn(text, own=own, undoes=undoes)
    if turn is not None:
        raise _foreign(path, turn)


def _mark(line: int, comment: str, apart: bool) -> Mark | None:
    for tool, pattern in _KNOWN.items():
        if pattern.match(comment):
            return Mark(tool, line, comment)
    if apart and any(look.match(comment) for look in _LOOKS):
        return Mark("", line, comment)
    return None


def _is_up(mark: Mark) -> bool:
    found = _KNOWN[mark.tool].match(mark.text)
    return found is not None and found["up"] is not None


def _turn(text: str, *, own: str, undoes: bool) -> Mark | None:
    """The first comment of words that begins the other direction, if a statement follows it."""
    text = shortened(text).text
    if not _PERHAPS.search(text):
        return None
    last, above = None, False
    for line, comment, apart in _comments(text, statements=True):
        if not comment and last is not None:
            return last
        above = above or not comment
        if comment and last is None and (mark := _turns(line, comment, apart, own=own, undoes=undoes)) is not None:
            last = mark if above or not _heads_comments(text, line) else None
    return None


def _turns(line: int, comment: str, apart: bool, *, own: str, undoes: bool) -> Mark | None:
    mark = _mark(line, comment, apart)
    if mark is not None and mark.tool in _WORDS:
        return mark if apart and own != mark.tool and _is_up(mark) is undoes else None
    return Mark("", line, comment) if apart and not undoes and own not in MARKS and DOWN.match(comment) else None


def _heads_comments(text: str, line: int) -> bool:
    """Tell whether what is below a line is SQL that is commented out."""
    below = itertools.takewhile(lambda row: row.lstrip().startswith("--"), text.split("\n")[line:])
    code, end, _ = "\n".join(row.lstrip().lstrip("-") for row in below).partition(";")
    try:
        return bool(end) and bool(parse_sql(code))
    except ParseError:
        return False


def _comments(text: str, *, statements: bool = False) -> Iterator[tuple[int, str, bool]]:
    """Yield the line of each comment with --, its text, and whether it stands apart: no statement is open.

    With ``statements`` also an empty text where a statement begins.
    """
    try:
        tokens = scan(lettered(text))
    except ParseError:  # the file is refused by its line when it is parsed
        lines = enumerate(text.split("\n"), 1)
        yield from ((number, line.strip(), False) for number, line in lines if line.lstrip().startswith("--"))
        return
    apart, line, at = True, 1, 0
    for token in tokens:
        line, at = line + text.count("\n", at, token.start), token.start
        if token.name == "SQL_COMMENT":
            begins = text[text.rfind("\n", 0, token.start) + 1 : token.start].strip() == ""
            if begins:
                yield line, text[token.start : token.end + 1].strip(), apart
        elif token.name == "ASCII_59":
            apart = True
        elif token.name != "C_COMMENT":
            if apart and statements:
                yield line, "", False
            apart = False


def _foreign(path: Path, mark: Mark) -> WrongInput:
    whose = f"a mark of {mark.tool}" if mark.tool else "a mark of a tool that pgrunbook does not know"
    return WrongInput(
        f"{path}, line {mark.line}: this is {whose}",
        detail=f"The line is: {mark.text[:200]}; as plain SQL, the file may undo itself, or miss its history.",
        hint=_ways(path, mark),
    )


def _ways(path: Path, mark: Mark) -> str:
    if mark.tool in ("dbmate", "goose", "node-pg-migrate"):
        return f'If the folder is {mark.tool}\'s, set history = "{mark.tool}" in targets.toml; else remove the marks.'
    down = f"{path.stem}.down.sql"
    if mark.tool:
        return f"Apply it with {mark.tool}; or move the way back into {down}, and remove the marks."
    return f"Move the way back into {down}, and remove the line; where it is only a comment, word it as a sentence."
