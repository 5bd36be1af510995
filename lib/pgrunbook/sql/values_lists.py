"""Long lists of VALUES, shortened: of rows that differ in their literals only, the first stands for all.

What is judged is the short text; what is executed, and hashed, is the whole one. The tree of a text of 20 MB would take
half a minute and more than a gigabyte.
Source: https://www.postgresql.org/docs/current/sql-syntax-lexical.html
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from pgrunbook.sql.literals import spelled
from pgrunbook.sql.time_texts import NO_ZONE, is_moment, names_zone

LONG_CHARS = 4_000
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
_LETTER = r"A-Za-z_\x80-\U0010ffff"
_STRING = r"'(?:[^']++|'')*+'"
_ESCAPED = r"'(?:[^'\\]++|''|\\.)*+'"
_GAP = r"(?:\s++|--[^\n\r]*+)*+"
# A constant as a cell of a row: no server refuses its spelling, and nothing is computed.
_LITERAL = rf"""(?:
    (?P<string>(?P<type>[A-Za-z_][A-Za-z0-9_.]*+(?:\s++(?i:with|without)\s++(?i:time\s++zone))?+\s++|[nNbBxX])?+{_STRING}
        |[eE]'(?:[^'\\]++|''|\\[bfnrt'\\])*+'|\$\$(?:[^$]++|\$(?!\$))*+\$\$)
    |(?P<number>-?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?(?![{_LETTER}0-9.$]))
    |(?P<word>(?i:null|true|false|default)(?![{_LETTER}0-9$.(])))
    (?P<cast>(?:{_GAP}::{_GAP}[A-Za-z_][A-Za-z0-9_.]*+(?:\([0-9, ]++\))?+(?:\[\])*+)*+)"""
_NAMELESS = re.sub(r"\?P<\w+>", "?:", _LITERAL)
_ARRAY = rf"(?i:array)\[{_GAP}{_NAMELESS}{_GAP}(?:,{_GAP}{_NAMELESS}{_GAP})*+\]"
# What stays in a shape as it is written: now(), nextval('numbers'), CURRENT_DATE.
_CALL = rf"[A-Za-z_][A-Za-z0-9_.]*+(?:\((?:{_STRING})?\))?+"
_CELL = rf"{_GAP}(?:{_LITERAL}|(?P<array>{_ARRAY})|(?P<call>{_CALL})){_GAP}(?P<end>[,)])"
_ANY = rf"{_GAP}(?:{_NAMELESS}|{_ARRAY}|{_CALL}){_GAP}"
PLAIN_ROWS = rf"(?:{_GAP},{_GAP}\({_ANY}(?:,{_ANY})*+\))++"
_BLANK = re.compile(_GAP)
_TOKEN = rf"""(?P<word>[{_LETTER}][{_LETTER}0-9$]*+)|(?P<space>\s++|--[^\n\r]*+)|(?P<comment>/\*)|(?P<string>{_STRING})
    |(?P<name>"(?:[^"]++|"")*+")|(?P<dollar>\$(?:[{_LETTER}][{_LETTER}0-9]*+)?\$)|(?P<number>[0-9][{_LETTER}0-9.$]*+)
    |(?P<sign>.)"""
_AFTER_E = re.compile(rf"{_ESCAPED}(?:(?:\s|--[^\n]*\n)*\n(?:\s|--[^\n]*\n)*{_ESCAPED})*+", re.S)
_OF_COMMENT = re.compile(r"/\*|\*/")
# Where a query of VALUES may stand whose rows no message and no safe form shows.
_SOURCES = ("from", "using", "join", "as", "materialized", "lateral")
_SETS = ("union", "except", "intersect", "all", "distinct")
_OF_ROWS = ("insert", "update", "delete", "merge", "with", "select", "values")
_INTEGER_DIGITS = 9

# Texts that are no word for a moment: those that name a zone, or are about something else, and those that name none.
_NO_WORDS = "|".join(sorted({*NO_ZONE, "now"}))
_ZONED = (
    rf"'(?!\s*+[\[({{])[^'A-Za-z]*+(?!(?i:{_NO_WORDS})[+-]*+(?![A-Za-z_/+-]))[A-Za-z](?:[^']++|'')*+'"
    r"|'[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9:.]++[+-][0-9]{2}(?::?[0-9]{2})?'"
)
_ZONELESS = (
    r"'[0-9]++'|'[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[ T][0-9:.]++)?'"
    r"""|'(?=\s*+[\[({])[^']*?(?<=[\[\](){},"])[ ]*+[0-9:.][ 0-9:.]*+[\[\](){},"](?:[^']++|'')*+'"""  # as JSON has it
)


@lru_cache
def compiled(pattern: str) -> re.Pattern[str]:
    """Compile a pattern when a long text first asks for it: together they take 0.1 s."""
    return re.compile(pattern, re.X | re.S)


class Row(NamedTuple):
    """A row of VALUES: from where to where it stands, and its cells; none where there is more than literals."""

    start: int
    end: int
    cells: tuple[re.Match[str], ...]


class ValuesList(NamedTuple):
    """The place of a list of rows: the two words or signs before VALUES, the first word of its statement.

    ``begins`` is where the statement begins, ``start`` where VALUES ends, and ``depth`` counts the parentheses around
    the list.
    """

    before: tuple[str, str]
    first: str
    begins: int
    start: int
    depth: int


@dataclass(frozen=True)
class ShortText:
    """A text from which parts were cut; their line ends stay, so that lines keep their numbers."""

    text: str
    parts: tuple[tuple[int, int, int], ...] = ((0, -1, 0),)

    def at(self, place: int) -> int:
        """Return where in the whole text the character at a place of the short one is."""
        start, _, origin = self._part(place)
        return origin + place - start

    def end(self, place: int) -> int:
        """Return where in the whole text something ends that ends before a place of the short one: behind a cut."""
        start, end, origin = self._part(place - 1)
        if end < 0 or place < end:
            return origin + place - start
        return self.parts[self.parts.index((start, end, origin)) + 1][2]

    def _part(self, place: int) -> tuple[int, int, int]:
        """Return the part that holds a place: where it begins and ends in the short text, where in the whole one."""
        return self.parts[bisect_right(self.parts, place, key=lambda part: part[0]) - 1]


def lettered(text: str) -> str:
    """Return a text with one letter for each character beyond ASCII, which the scanner takes for letters anyway.

    Positions stay, and the parser need not count bytes for every position, which takes minutes in a file of a megabyte.
    """
    return text if text.isascii() else _BEYOND_ASCII.sub("x", text)


def shortened(sql: str) -> ShortText:
    """Return statements with each shape of a row of their long lists of VALUES once.

    Only what inserts or joins rows is shortened: a condition, which may be shown or executed, is whole.
    """
    return ShortText(sql) if len(sql) <= LONG_CHARS else _shortened(sys.intern(sql))  # the cache keeps no second copy


@lru_cache(maxsize=8)
def _shortened(sql: str) -> ShortText:
    reader = ValuesReader(sql)
    return without(sql, [cut for found in reader.lists() if _is_source(found) for cut in _repeated(reader)])


def without(sql: str, cuts: Iterable[tuple[int, int]]) -> ShortText:
    """Return a text without its parts from one place up to another, in order; their line ends stand in their place."""
    texts: list[str] = []
    parts: list[tuple[int, int, int]] = []
    size = last = 0
    for start, end in cuts:
        lines = "\n" * sql.count("\n", start, end)
        texts += [sql[last:start], lines]
        parts.append((size, size + start - last, last))
        size += start - last + len(lines)
        last = end
    return ShortText("".join([*texts, sql[last:]]), (*parts, (size, -1, last))) if parts else ShortText(sql)


def shape(row: Row) -> Hashable:
    """Return what the rules may tell a row by: each cell's kind, its casts, what is not constant as it is written."""
    return tuple(map(_of_cell, row.cells)) if row.cells else None


def _repeated(reader: ValuesReader) -> Iterator[tuple[int, int]]:
    """Yield where rows stand whose shape an earlier one of their list has; None is like no other."""
    seen: set[Hashable] = set()
    kept = end = -1
    for row in reader.rows():
        one = shape(row)
        if one is None or one not in seen:
            if end > kept:
                yield kept, end
            seen.add(one)
            kept = end = row.end
            continue
        pattern = _alike(row)
        if pattern is not None:
            reader.pass_by(pattern)
        end = reader.at
    if end > kept:
        yield kept, end


def _is_source(found: ValuesList) -> bool:
    other, before = found.before
    if found.first not in _OF_ROWS:
        return False
    return (found.depth == 1 and other in _SOURCES) if before == "(" else before not in _SETS


def _of_cell(cell: re.Match[str]) -> Hashable:
    if cell["array"] is not None:
        return ("array", *dict.fromkeys(map(_of_literal, compiled(_LITERAL).finditer(cell["array"], len("array[")))))
    return cell["call"] or _of_literal(cell)


def _of_literal(found: re.Match[str]) -> Hashable:
    string, number, cast = found["string"], found["number"], found["cast"]
    if string is not None:
        type_ = found["type"] or ""
        plain = string[len(type_) + 1 : -1]
        says = spelled(string).says if string[0] in "eE$" else plain.replace("''", "'")
        return ("string", type_, is_moment(says), names_zone(says), cast)
    if number is not None:
        return (number[0] == "-", number.isdecimal() and len(number) <= _INTEGER_DIGITS, cast)
    return (found["word"].lower(), cast)


def _alike(row: Row) -> re.Pattern[str] | None:
    """Return the pattern of more rows of a shape, where it is made of plain numbers, texts and words."""
    return _pattern(tuple(map(_of_cell, row.cells)))


@lru_cache(maxsize=1024)
def _pattern(cells: tuple[Hashable, ...]) -> re.Pattern[str] | None:
    patterns = [_of_alike(cell) for cell in cells]
    if None in patterns:
        return None
    inner = f"{_GAP},{_GAP}".join(map(str, patterns))
    return re.compile(rf"(?:{_GAP},{_GAP}\({_GAP}{inner}{_GAP}\))++")


def _of_alike(cell: Hashable) -> str | None:
    match cell:
        case ("string", str(type_), False, bool(zoned), str(cast)):
            return f"{re.escape(type_)}(?:{_ZONED if zoned else _ZONELESS}){re.escape(cast)}"
        case (False, True, str(cast)):
            return f"[0-9]{{1,{_INTEGER_DIGITS}}}+{re.escape(cast)}"
        case (False, False, str(cast)):
            return rf"[0-9]++\.[0-9]*+{re.escape(cast)}"
        case ("array", element) if (found := _of_alike(element)) is not None:
            return rf"(?i:array)\[{_GAP}(?:{found})(?:{_GAP},{_GAP}(?:{found}))*+{_GAP}\]"
        case (str(word), str(cast)) if word != "array":
            return f"(?i:{word}){re.escape(cast)}"
        case str(call):
            return re.escape(call)
    return None


class ValuesReader:
    """Reads a text for its lists of VALUES, and where it is in one, for the rows."""

    def __init__(self, sql: str) -> None:
        self._sql, self.at = sql, 0

    def lists(self) -> Iterator[ValuesList]:
        """Yield each list of VALUES, behind its word; a text is read as far as it can be."""
        before, first, begins, depth = ("", ""), "", 0, 0
        for start, text in self.tokens():
            if text == ";" and depth == 0:
                before, first, begins = ("", ""), "", start + 1
                continue
            word = text.lower()
            first = first or word
            if before[1] == "begin" and word == "atomic":  # a body without quotes: what is in it is kept
                return
            depth += (text == "(") - (text == ")")
            if word == "values":
                yield ValuesList(before, first, begins, self.at, depth)
            before = (before[1], word)

    def rows(self) -> Iterator[Row]:
        """Yield from where to where each row stands, and its cells; none for one of more than literals and calls."""
        self._skip()
        while self._sql.startswith("(", self.at):
            start = self.at
            cells = self._cells()
            if not cells and not self._is_balanced():
                return
            yield Row(start, self.at, cells)
            end = self.at
            self._skip()
            if not self._sql.startswith(",", self.at):
                self.at = end
                return
            self.at += 1
            self._skip()

    def pass_by(self, pattern: re.Pattern[str], end: int | None = None) -> None:
        """Go behind what a pattern finds here, in a text that ends there."""
        found = pattern.match(self._sql, self.at, len(self._sql) if end is None else end)
        self.at = found.end() if found else self.at

    def _cells(self) -> tuple[re.Match[str], ...]:
        """Return the cells of the row that begins here and go behind it; () and stay for a row of other parts."""
        cells: list[re.Match[str]] = []
        at = self.at + 1
        while (cell := compiled(_CELL).match(self._sql, at)) is not None:
            cells.append(cell)
            at = cell.end()
            if cell["end"] == ")":
                self.at = at
                return tuple(cells)
        return ()

    def _is_balanced(self) -> bool:
        """Go behind the parenthesis that closes the one which stands here; tell whether there is one."""
        depth = 0
        for _, text in self.tokens():
            depth += (text == "(") - (text == ")")
            if depth == 0 or text == ";":
                return depth == 0
        return False

    def _skip(self) -> None:
        """Go behind blanks and comments."""
        while True:
            blank = _BLANK.match(self._sql, self.at)
            self.at = blank.end() if blank else self.at
            if not self._sql.startswith("/*", self.at) or not self._is_behind_comment():
                return

    def _is_behind_comment(self) -> bool:
        """Go behind the comment that begins here, which may hold others; tell whether it ends."""
        depth = 0
        for sign in _OF_COMMENT.finditer(self._sql, self.at):
            depth += 1 if sign[0] == "/*" else -1
            if depth == 0:
                self.at = sign.end()
                return True
        return False

    def tokens(self) -> Iterator[tuple[int, str]]:
        """Yield the tokens from here on but for blanks and comments; stop where a constant does not end."""
        while (found := compiled(_TOKEN).match(self._sql, self.at)) is not None:
            kind, text, start = found.lastgroup, found[0], found.start()
            self.at = found.end()
            if kind == "comment":
                self.at = start
                if not self._is_behind_comment():
                    break
            elif kind == "word" and text in ("e", "E") and self._sql.startswith("'", self.at):
                escaped = _AFTER_E.match(self._sql, self.at)
                if escaped is None:
                    break
                self.at = escaped.end()
            elif kind == "dollar":
                end = self._sql.find(text, self.at)
                if end < 0:
                    break
                self.at = end + len(text)
            elif text in ("'", '"'):
                break
            if kind not in ("space", "comment"):
                yield start, text
        self.at = len(self._sql)
