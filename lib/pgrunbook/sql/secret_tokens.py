"""Which tokens of SQL are secrets: what stands behind a name that holds one, and arguments of functions that take one.

The rules know tokens only, no grammar: the same ones read statements, PL/pgSQL, and text that does not parse.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from pgrunbook.config.secret_patterns import SECRET_NAME, names_a_secret
from pgrunbook.sql.literals import spelled
from pgrunbook.sql.secret_words import (
    DATA_COLUMNS,
    ENDS_EXPRESSION,
    HARMLESS_OPTIONS,
    KEY_ARGUMENTS,
    NOT_A_CALL,
    NOT_A_TYPE,
    PAIRS,
    is_dangling,
)

_ASSIGNS = ("=", ":=", "=>", "<>", "!=")
_LONGEST_DECLARATION = 30


@dataclass(frozen=True)
class Token:
    """A token of the scanner; ``name`` is what it calls it, ``escape`` what UESCAPE behind it names."""

    name: str
    text: str
    start: int
    end: int
    escape: str = "\\"

    @property
    def is_string(self) -> bool:
        """Whether it is a string constant."""
        return self.name in ("SCONST", "USCONST")

    @property
    def is_comment(self) -> bool:
        """Whether it is a comment."""
        return self.name in ("SQL_COMMENT", "C_COMMENT")

    @property
    def is_quoted_name(self) -> bool:
        """Whether it is a name in quotes: what a message quotes looks so."""
        return self.name == "UIDENT" or self.text.startswith('"')

    @property
    def is_word(self) -> bool:
        """Whether it is a name or a keyword."""
        return self.name in ("IDENT", "UIDENT") or (self.text[:1].isalpha() or self.text[:1] == "_")

    @cached_property
    def low(self) -> str:
        """What it says in lower case: a name without its quotes, a string constant without its own."""
        if self.is_string or self.is_quoted_name:
            return spelled(self.text, self.escape).says.lower()
        return self.text.lower()


def secret_tokens(tokens: Sequence[Token]) -> set[int]:
    """Return the places of the tokens that are secrets as a whole."""
    code = [(place, token) for place, token in enumerate(tokens) if not token.is_comment]
    found = set(_Reader([token for _, token in code]).found())
    return {place for number, (place, _) in enumerate(code) if number in found}


class _Reader:
    """Reads the tokens of a text, comments left out; places count these."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._all = tokens

    def found(self) -> Iterator[int]:
        start = 0
        for place, token in enumerate(self._all):
            if token.text == ";":
                start = place + 1
            if token.is_string and is_dangling(token.low, executed=self._low(place - 1) == "execute"):
                yield from self._strings(place + 1, commas=True)
            if token.is_string and self._text(place - 1) in ("->", "->>") and names_a_secret(token.low):
                yield from self._assigned(place + 1)
            if token.is_string and self._low(place - 2) == "current_setting" and names_a_secret(token.low):
                yield from self._assigned(place + 2)
            if not token.is_word or (token.is_string or not token.text):
                continue
            if names_a_secret(self._chain(place)):
                yield from self._assigned(place + 1)
                yield from self._declared(place + 1)
                yield from self._set_plainly(start, place + 1)
                yield from self._called_so(place - 1)
            if token.low in DATA_COLUMNS and self._text(place + 1) == "=" and self._is_of_secret(place):
                yield from self._assigned(place + 1)
            if self._text(place + 1) == "(":
                yield from self._called(start, place)
            if token.low == "into" and self._low(place - 1) == "insert":
                yield from self._inserted(place + 1)
            if token.low == "set" and self._text(place + 1) == "(":
                yield from self._inserted(place + 1)

    # -- what a name is given

    def _assigned(self, at: int) -> Iterator[int]:
        """Give the constants behind a name: at once (PASSWORD 'x'), or in the expression that it is set to."""
        if self._low(at) in ("set", "add") and self._low(at + 1) in ("default", "to"):
            at += 1
        if self._all[at : at + 1] and self._all[at].name == "NCHAR":
            at += 1
        if self._is_string(at):
            yield at
        elif self._low(at) in ("to", "default") or self._text(at) in _ASSIGNS:
            yield from self._strings(at + 1)

    def _declared(self, at: int) -> Iterator[int]:
        """Give the default of a column or variable that is declared: name, type, then DEFAULT or := and a value."""
        depth = 0
        for place in range(at, min(at + _LONGEST_DECLARATION, len(self._all))):
            token = self._all[place]
            depth += {"(": 1, ")": -1}.get(token.text, 0)
            if depth < 0 or (not depth and (token.text in (",", ";") or token.is_string)):
                return
            if depth or token.text == ")":
                if place == at:
                    return
                continue
            if token.low == "default" or (token.text in (":=", "=") and place > at):
                yield from self._strings(place + 1)
                return
            if token.low in NOT_A_TYPE and not token.text.startswith('"'):
                return

    def _set_plainly(self, start: int, at: int) -> Iterator[int]:
        """Give the words and numbers of SET app.token = abc, which need no quotes."""
        if self._text(at) != "=" and self._low(at) != "to":
            return
        words = [self._low(place) for place in range(start, at)]
        if words[:1] == ["begin"]:
            words = words[1:]
        if "set" not in words or words[0] not in ("set", "alter"):
            return
        for place in range(at + 1, len(self._all)):
            token = self._all[place]
            if token.text in (";", "%", "||") or token.low in ("default", "from", "null", "true", "false", "on", "off"):
                return
            if token.is_word or token.is_string or token.name in ("ICONST", "FCONST"):
                yield place

    def _called_so(self, at: int) -> Iterator[int]:
        """Give the constants of an expression that is called by a name: SELECT 'x' AS password."""
        at -= self._low(at) == "as"
        while self._is_string(at) or self._text(at) in ("::", "||", "TYPECAST") or self._text(at - 1) == "::":
            if self._is_string(at):
                yield at
            at -= 1

    def _is_of_secret(self, at: int) -> bool:
        """Tell whether the statement says further on which row it means: WHERE key = 'smtp_password'."""
        for place in range(at + 2, len(self._all)):
            if self._text(place) == ";":
                return False
            if self._is_string(place) and self._text(place - 1) == "=" and self._names_one(place):
                return True
        return False

    def _names_one(self, at: int) -> bool:
        word = self._low(at) if self._is_string(at) else ""
        return re.fullmatch(r"[\w.-]+", word) is not None and names_a_secret(word)

    def _inserted(self, at: int) -> Iterator[int]:
        """Give what INSERT, or SET (a, b) = (x, y), writes into columns that hold secrets, also from SELECT."""
        while at < len(self._all) and self._text(at) not in ("(", ";") and self._low(at) not in ("values", "select"):
            at += 1
        table = self._chain(at - 1)
        if self._text(at) != "(" or self._low(at + 1) in ("select", "with", "values"):
            return
        columns, at = self._arguments(at)
        names = [self._chain(column[-1]) if column else "" for column in columns]
        of_secrets = SECRET_NAME.search(table) is not None
        wanted = [n for n, c in enumerate(names) if names_a_secret(c) or (of_secrets and c in DATA_COLUMNS)]
        while at < len(self._all) and self._text(at) != ";":
            if self._text(at) == "(":
                row, at = self._arguments(at)
            elif self._low(at) == "select":
                row, at = self._list(at + 1, until="from")
            else:
                at += 1
                continue
            values = [n for n, c in enumerate(names) if c in DATA_COLUMNS and len(row) == len(columns)]
            of_row = values if any(self._names_one(place) for column in row for place in column) else []
            for number in [*wanted, *of_row] if len(row) == len(columns) else ():
                yield from (place for place in row[number] if self._is_string(place))
            if self._text(at) != "," and self._low(at) not in ("values", "select", "union", "all"):
                return

    # -- calls

    def _called(self, start: int, place: int) -> Iterator[int]:
        name, chain = self._low(place), self._chain(place)
        before = place - 1
        while self._text(before) == ".":
            before -= 2
        if self._low(before) in NOT_A_CALL or name in NOT_A_CALL:
            return
        arguments, _ = self._arguments(place + 1)
        if name == "options" and self._is_user_mapping(start, place):
            yield from self._options(arguments)
        wanted = KEY_ARGUMENTS.get(name, ())
        if names_a_secret(chain) or (place == start + 1 and self._low(start) == "execute"):
            wanted = tuple(range(len(arguments)))
        if name in PAIRS:
            wanted = tuple(
                number + 1
                for number, argument in enumerate(arguments)
                if (number % 2 == 0 or name not in ("set_config",)) and self._is_name_of_secret(argument)
            )
        for number in wanted:
            for at in arguments[number] if number < len(arguments) else ():
                if self._is_string(at):
                    yield at

    def _is_name_of_secret(self, argument: Sequence[int]) -> bool:
        return bool(argument) and self._is_string(argument[0]) and names_a_secret(self._low(argument[0]))

    def _is_user_mapping(self, start: int, place: int) -> bool:
        words = [self._low(each) for each in range(start, place)]
        return words[1:3] == ["user", "mapping"]

    def _options(self, options: Sequence[Sequence[int]]) -> Iterator[int]:
        """Give the values of all options but those that are known to be harmless."""
        for option in options:
            words = [place for place in option if not self._is_string(place)]
            if words and self._low(words[-1]) not in HARMLESS_OPTIONS:
                yield from (place for place in option if self._is_string(place))

    # -- reading on

    def _strings(self, at: int, *, commas: bool = False) -> Iterator[int]:
        """Give the string constants of an expression; with ``commas`` of all that follow in the call or statement."""
        depth = 0
        for place in range(at, len(self._all)):
            token = self._all[place]
            depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(token.text, 0)
            if depth < 0 or token.text == ";" or (not depth and token.text == "," and not commas):
                return
            if not depth and not commas and token.low in ENDS_EXPRESSION and not token.is_string:
                return
            if token.is_string:
                yield place

    def _arguments(self, at: int) -> tuple[list[list[int]], int]:
        """Return the places of each argument between the parentheses that open here, and where they are over."""
        return self._list(at + 1)

    def _list(self, at: int, until: str = "") -> tuple[list[list[int]], int]:
        found: list[list[int]] = [[]]
        depth = 0
        for place in range(at, len(self._all)):
            token = self._all[place]
            depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(token.text, 0)
            if depth < 0:
                return found, place + 1
            if not depth and (token.text == ";" or (until and token.low == until)):
                return found, place
            if not depth and token.text == ",":
                found.append([])
            else:
                found[-1].append(place)
        return found, len(self._all)

    def _chain(self, place: int) -> str:
        """Return a name as far as it leads here: "app.api_key" at its last part, the last part where that is enough."""
        name = self._low(place)
        if self._text(place - 1) == "." and self._text(place + 1) != "." and not names_a_secret(name):
            whole = f"{self._low(place - 2)}.{name}"
            return whole if names_a_secret(self._low(place - 2)) and name in ("key", "value") else name
        return name

    def _low(self, place: int) -> str:
        return self._all[place].low if 0 <= place < len(self._all) else ""

    def _text(self, place: int) -> str:
        return self._all[place].text if 0 <= place < len(self._all) else ""

    def _is_string(self, place: int) -> bool:
        return 0 <= place < len(self._all) and self._all[place].is_string
