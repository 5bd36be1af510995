"""The marks of files that hold both directions of a migration; run as plain SQL, such a file undoes itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pglast.parser import ParseError, scan

from pgrunbook.errors import WrongInput
from pgrunbook.sql.values_lists import lettered, shortened

# By the tool that reads it.
MARKS = {
    "dbmate": r"--\s*migrate:\s*(?:\w+)",
    "goose": r"--\s*\+goose\s+(?:\w+)",
    "sql-migrate": r"--\s*\+migrate\s+(?:\w+)",
    "node-pg-migrate": r"--[\s-]*(?:up|down)\s+migration\b",
    "rambler": r"--\s*rambler\s+(?:up|down)\b",
    "MyBatis Migrations": r"--\s*//\s*(?:@undo)\b",
    "tern": r"----\s*(?:create above\s*/\s*drop below)\s*----",
    "Liquibase": r"--\s*(?:liquibase\s+formatted\s+sql|changeset\s+[^\s:]+:\S+)",
    "graphile-migrate": r"--!\s*(?:Previous|Hash):",
    "Play Evolutions": r"--[\s-]*!(?:ups|downs)\b",
    "shmig": r"--\s*=+\s*(?:up|down)\s*=+\s*$",
}
# What looks like the mark of a tool that we do not know.
_WAYS = r"(?:up|ups|down|downs|upgrade|downgrade|undo|rollback|revert|forwards?|backwards?)"
LOOKS = (
    r"--\s*(?:\+[a-z][\w-]*)(?:[ \t]+\w+){0,2}\s*$",
    rf"--\s*(?:[a-z][\w.-]*)\s*:\s*{_WAYS}\s*$",
    r"----\s*\w.*\b(?:above|below)\b.*----\s*$",
)
# A comment that says nothing but this begins the way back, where a statement follows it.
DOWN = re.compile(
    r"--[^\w;]*(?:migration[\s:_-]+)?(?:down|downs|downgrade|undo|rollback|backwards?)"
    r"(?:[\s:_-]+(?:migration|script|section|part|sql))?[^\w;]*$",
    re.I,
)
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
    return [mark for line, comment, apart in _comments(text) if (mark := _mark(line, comment, apart)) is not None]


def refuse(path: Path, text: str, *, own: str, undoes: bool = False) -> None:
    """Raise WrongInput, with file and line, for the mark of a tool other than ``own``, and for an unknown one.

    ``undoes`` is for the text of a way back, where nothing begins one.
    """
    for mark in of(text):
        if mark.tool != own:
            raise _foreign(path, mark)
    down = None if undoes or own in MARKS else _down(text)
    if down is not None:
        raise _foreign(path, down)


def _mark(line: int, comment: str, apart: bool) -> Mark | None:
    for tool, pattern in _KNOWN.items():
        if pattern.match(comment):
            return Mark(tool, line, comment)
    if apart and any(look.match(comment) for look in _LOOKS):
        return Mark("", line, comment)
    return None


def _down(text: str) -> Mark | None:
    """The first comment that begins a way back, if a statement follows it."""
    text = shortened(text).text
    if not _PERHAPS.search(text):
        return None
    last = None
    for line, comment, apart in _comments(text, statements=True):
        if not comment and last is not None:
            return last
        if comment and last is None and apart and DOWN.match(comment):
            last = Mark("", line, comment)
    return None


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
