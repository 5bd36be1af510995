"""The two sections of a dbmate file: "-- migrate:up" and "-- migrate:down"."""

from __future__ import annotations

import re
from pathlib import Path

from pglast.parser import ParseError, scan

from pgrunbook.errors import WrongInput
from pgrunbook.sql.statements import line_of
from pgrunbook.sql.values_lists import shortened

# dbmate's own rules for marks (upRegExp and downRegExp of pkg/dbmate).
MARK = re.compile(r"^--\s*migrate:(?P<way>up|down)(?!\S)(?P<options>.*)", re.ASCII | re.MULTILINE)
OPTIONS = frozenset({"transaction:true", "transaction:false"})
NOTHING_OR_COMMENT = re.compile(r"\s*(--|$)", re.ASCII)
NO_STATEMENT = frozenset({"SQL_COMMENT", "C_COMMENT", "ASCII_59"})  # the last is the semicolon


def is_one(text: str) -> bool:
    """Tell whether a file's text is dbmate's: it has the mark "-- migrate:up"."""
    return any(mark["way"] == "up" for mark in MARK.finditer(shortened(text).text))


def sections(path: Path, text: str) -> tuple[str, str | None]:
    """Split the file into its up and down sections, as dbmate does; line numbers stay those of the file.

    A down section without a statement counts as none: dbmate would delete the row and undo nothing.
    """
    marks = list(MARK.finditer(text))
    at = next((place for place, mark in enumerate(marks) if mark["way"] == "up"), None)
    if at is None:
        raise _no_up(path, text)
    up, after = marks[at], marks[at + 1 :]
    _expect_only_comments(path, text[: up.start()])
    if [mark["way"] for mark in after] != ["down"]:
        raise _not_one_down(path, text, up, after)
    for mark in (up, after[0]):
        _expect_known_options(path, text, mark)
    cut = after[0].start()
    down = "\n" * text.count("\n", 0, cut) + text[cut:]
    return text[:cut], down if _has_statement(down) else None


def _has_statement(text: str) -> bool:
    try:
        return any(token.name not in NO_STATEMENT for token in scan(text))
    except ParseError:
        return True  # running it reports the parser's own message


def _expect_only_comments(path: Path, before: str) -> None:
    for number, line in enumerate(before.split("\n"), 1):
        if not NOTHING_OR_COMMENT.match(line):
            raise WrongInput(
                f'{path}, line {number}: this line is before "-- migrate:up"',
                detail=f"dbmate allows only comments with -- there; the line is: {line.strip()[:200]}",
                hint='Move it below "-- migrate:up".',
            )


def _expect_known_options(path: Path, text: str, mark: re.Match[str]) -> None:
    wrong = [word for word in mark["options"].split() if word not in OPTIONS]
    if wrong:
        raise WrongInput(
            f'{path}, line {line_of(text, mark.start("way"))}: unknown option "{wrong[0]}"',
            detail="dbmate silently ignores it; the options are transaction:true and transaction:false.",
            hint="Correct or remove it.",
        )


def _no_up(path: Path, text: str) -> WrongInput:
    nearly = re.search("migrate:up", text, re.IGNORECASE)
    line = line_of(text, nearly.start()) if nearly else 1
    shown = text.split("\n")[line - 1].rstrip()[:200]
    return WrongInput(
        f'{path}, line {line}: the file has no "-- migrate:up"',
        detail=f"dbmate expects it at the beginning of a line, in lower case; the line is: {shown!r}",
        hint='Write "-- migrate:up" above the statements, and "-- migrate:down" above those that undo them.',
    )


def _not_one_down(path: Path, text: str, up: re.Match[str], after: list[re.Match[str]]) -> WrongInput:
    if not after:
        return WrongInput(
            f'{path}, line {line_of(text, up.start("way"))}: no "-- migrate:down" follows "-- migrate:up"',
            detail="dbmate refuses a file without it.",
            hint='Add "-- migrate:down" at the end; leave it empty when there is no way back.',
        )
    second = after[0] if after[0]["way"] == "up" else after[1]
    return WrongInput(
        f'{path}, line {line_of(text, second.start("way"))}: a second "-- migrate:{second["way"]}"',
        detail="A file has one version, and dbmate cannot record two sections under it.",
        hint="Move the section into a migration of its own, or merge both sections.",
    )
