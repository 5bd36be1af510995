"""String constants and quoted names of SQL: what they say, and where in the text each character of it stands.

https://www.postgresql.org/docs/current/sql-syntax-lexical.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_DOLLAR = re.compile(r"\$[^$]*\$")
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_ESCAPED = re.compile(
    r"\\(?:x(?P<hex>[0-9a-fA-F]{1,2})|u(?P<four>[0-9a-fA-F]{4})|U(?P<eight>[0-9a-fA-F]{8})|(?P<octal>[0-7]{1,3})"
    r"|(?P<other>.))",
    re.S,
)
_UNICODE = re.compile(r"(?P<again>\\\\)|\\(?P<four>[0-9a-fA-F]{4})|\\\+(?P<six>[0-9a-fA-F]{6})")
# Between two parts of one constant there is a line end: 'a'\n'b' is 'ab'.
_BETWEEN = re.compile(r"'(?:\s|--[^\n]*\n)*\n(?:\s|--[^\n]*\n)*'")


class Spelled(NamedTuple):
    """What a constant says, and where: character ``n`` of ``says`` is spelled from ``at[n]`` up to ``at[n + 1]``.

    Places count from the beginning of the constant, quotes included. ``quoted`` tells whether quotes are doubled
    or characters escaped in it, so that its text cannot hold a quote as it is.
    """

    says: str
    at: Sequence[int]
    quoted: bool


def spelled(constant: str, escape: str = "\\") -> Spelled:
    """Return what a string constant or a quoted name says; ``escape`` is the character that UESCAPE names."""
    tag = _DOLLAR.match(constant)
    if tag:
        inner = constant[tag.end() : len(constant) - len(tag[0])]
        return Spelled(inner, tuple(range(tag.end(), tag.end() + len(inner) + 1)), quoted=False)
    start = constant.find('"') if '"' in constant[:3] and "'" not in constant[:3] else constant.find("'")
    prefix, quote = constant[:start].lower(), constant[start : start + 1]
    if start < 0:
        return Spelled(constant, tuple(range(len(constant) + 1)), quoted=False)
    end = len(constant) - (1 if constant.endswith(quote) and len(constant) > start + 1 else 0)
    if not prefix and constant.find(quote, start + 1, end) < 0:  # as nearly all are
        return Spelled(constant[start + 1 : end], range(start + 1, end + 1), quoted=True)
    parts = list(_characters(constant, start + 1, end, prefix, quote, escape))
    says = "".join(character for character, _ in parts)
    return Spelled(says, (*(place for character, place in parts for _ in character), end), quoted=True)


def _characters(text: str, at: int, end: int, prefix: str, quote: str, escape: str) -> Iterator[tuple[str, int]]:
    while at < end:
        between = _BETWEEN.match(text, at, end) if quote == "'" else None
        found = _ESCAPED.match(text, at, end) if prefix == "e" else None
        if prefix == "u&" and text[at] == escape:
            found = _UNICODE.match(text.replace(escape, "\\") if escape != "\\" else text, at, end)
        if between:
            at = between.end()
        elif found:
            yield _character(found), at
            at = found.end()
        else:
            yield text[at], at
            at += 2 if text.startswith(quote * 2, at) else 1


def _character(found: re.Match[str]) -> str:
    groups = {name: value for name, value in found.groupdict().items() if value is not None}
    name, value = next(iter(groups.items()))
    if name == "again":
        return "\\"
    if name == "other":
        return _ESCAPES.get(value, value)
    number = int(value, 8 if name == "octal" else 16)
    return chr(number) if number <= 0x10FFFF else ""
