"""Which tokens of SQL are secrets: what stands behind a name that holds one, and arguments of functions that take one.

The rules know tokens only, no grammar: the same ones read statements, PL/pgSQL, and text that does not parse.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from pgrunbook.config.secret_patterns import SECRET_NAME, names_a_secret
from pgrunbook.sql.secret_words import (
    ACCOUNT,
    DATA_COLUMNS,
    ENDS_EXPRESSION,
    FORMATS,
    HARMLESS_OPTIONS,
    KEY_ARGUMENTS,
    MAKES_STATEMENT,
    NOT_A_CALL,
    NOT_A_TYPE,
    PAIRS,
    RETURNS_CONSTANT,
    is_dangling,
)
from pgrunbook.sql.token import Token

_ASSIGNS = ("=", ":=", "=>", "<>", "!=", "~", "!~", "~*", "!~*")
_COMPARES = ("in", "like", "ilike", "similar")
_LONGEST_DECLARATION = 30


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
        filled = self._fill_places()
        for place, token in enumerate(self._all):
            if token.low in filled and not token.is_string and token.is_word:
                yield from self._assigned(place + 1)
                yield from self._declared(place + 1)
            if token.text == ";":
                start = place + 1
            if token.is_string:
                yield from self._behind_constant(place)
            elif token.is_word and token.text:
                yield from self._behind_word(start, place)

    def _behind_constant(self, place: int) -> Iterator[int]:
        word = self._low(place)
        if is_dangling(word, executed=self._low(place - 1) == "execute"):
            yield from self._strings(place + 1, commas=True)
        if not names_a_secret(word):
            return
        if self._text(place - 1) in ("->", "->>"):
            yield from self._assigned(place + 1)
        if self._text(place - 1) == "[" or self._low(place - 2) == "current_setting":
            yield from self._assigned(place + 2)

    def _behind_word(self, start: int, place: int) -> Iterator[int]:
        word, opens = self._low(place), self._text(place + 1) == "("
        if names_a_secret(self._chain(place)):
            yield from self._of_name(start, place)
        if word in DATA_COLUMNS and self._text(place + 1) == "=" and self._is_of_secret(place):
            yield from self._assigned(place + 1)
        if word in ("function", "procedure") and names_a_secret(self._name_of_routine(place + 1)):
            yield from self._returned(place + 1)
        if opens:
            yield from self._called(start, place)
        if opens and word == "values":
            yield from self._of_values(place)
        if (word == "into" and self._low(place - 1) == "insert") or (opens and word in ("insert", "set")):
            yield from self._inserted(place + 1)

    def _of_name(self, start: int, place: int) -> Iterator[int]:
        yield from self._assigned(place + 1)
        yield from self._declared(place + 1)
        yield from self._set_plainly(start, place + 1)
        yield from self._called_so(place - 1)
        yield from self._before(place - 1)
        if self._low(place - 1) == "name" and self._text(place + 1) == ",":  # xmlelement(name password, 'x')
            yield from self._strings(place + 2, commas=True)

    def _fill_places(self) -> set[str]:
        """Return the variables that fill the place of a secret in a text: format('ALTER ROLE r PASSWORD %L', p)."""
        found: set[str] = set()
        for place, token in enumerate(self._all):
            if not token.is_string or not is_dangling(token.low, executed=self._low(place - 1) == "execute"):
                continue
            for at in range(place + 1, len(self._all)):
                if self._text(at) in (";", ")"):
                    break
                is_variable = self._all[at].name in ("IDENT", "UIDENT") and self._text(at + 1) not in ("(", ".")
                found |= {self._low(at)} if is_variable else set()
        return found

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
        else:
            at += self._low(at) == "not"
            if self._low(at) == "is" and self._low(at + 1) in ("distinct", "not"):
                at += 2 + (self._low(at + 1) == "not")
                yield from self._strings(at + 1)
            elif self._low(at) in _COMPARES:
                yield from self._strings(at + 1)

    def _declared(self, at: int) -> Iterator[int]:
        """Give the default of a column or variable that is declared: name, type, then DEFAULT or := and a value."""
        depth = 0
        at += self._low(at - 2) == "domain" and self._low(at) == "as"
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

    def _before(self, at: int) -> Iterator[int]:
        """Give the constant that is compared with a name, or put into it: 'x' = password, SELECT 'x' INTO password."""
        at -= self._low(at) == "strict"
        if self._text(at) in _ASSIGNS or self._low(at) == "into":
            yield from self._called_so(at - 1)

    def _called_so(self, at: int) -> Iterator[int]:
        """Give the constants of an expression that is called by a name: SELECT 'x' AS password."""
        at -= self._low(at) == "as"
        if self._text(at) == "]":
            first = next((n for n in range(at, -1, -1) if self._low(n) == "array"), at)
            yield from (place for place in range(first, at) if self._is_string(place))
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
            found = [*wanted, *of_row] if len(row) == len(columns) else []
            given = [place for number in found for place in row[number] if self._is_string(place)]
            yield from given
            if wanted and not given and self._low(at) == "from":  # they come from what is read: all that it holds
                yield from self._strings(at + 1, commas=True, ends=("where", "on", "returning"))
            if self._text(at) != "," and self._low(at) not in ("values", "select", "union", "all"):
                return

    def _of_values(self, at: int) -> Iterator[int]:
        """Give what VALUES holds in columns of secrets, by the names beside it, and in rows what follows a name."""
        rows: list[list[list[int]]] = []
        first = at
        at += 1
        while self._text(at) == "(":
            row, at = self._arguments(at)
            rows.append(row)
            at += self._text(at) == ","
        names: list[str] = []
        if self._text(first - 1) == "(" and self._text(at) == ")":
            at += 1 + (self._low(at + 1) == "as")
            if self._text(at + 1) == "(":
                names = [self._chain(column[-1]) for column in self._arguments(at + 1)[0] if column]
            elif self._low(first - 2) == "as" and self._text(first - 3) == ")":
                names = self._listed_before(first - 3)
        for row in rows:
            if len(names) == len(row):
                wanted = (cell for cell, name in zip(row, names, strict=True) if names_a_secret(name))
                yield from (place for cell in wanted for place in cell if self._is_string(place))
            yield from self._behind_name(row)

    def _name_of_routine(self, at: int) -> str:
        while self._text(at + 1) == ".":
            at += 2
        return self._low(at) if self._text(at + 1) == "(" else ""

    def _returned(self, at: int) -> Iterator[int]:
        """Give what a function that is named after a secret returns, where it does nothing else."""
        for place in range(at, len(self._all)):
            if self._text(place) == ";" and self._low(place - 1) != "select":
                return
            is_body = self._low(place - 1) == "as" and RETURNS_CONSTANT.match(self._low(place)) is not None
            if self._is_string(place) and (is_body or self._low(place - 1) == "return"):
                yield place

    def _listed_before(self, at: int) -> list[str]:
        """Return the names in the parentheses that end here."""
        names = []
        while at > 0 and self._text(at) != "(":
            names += [self._low(at)] if self._all[at].is_word else []
            at -= 1
        return names[::-1]

    def _behind_name(self, cells: Sequence[Sequence[int]]) -> Iterator[int]:
        """Give the constant that follows one which names a secret, among arguments or in a row: 'api_key', 'x'."""
        for before, cell in pairwise(cells):
            if len(before) == len(cell) == 1 and self._is_string(cell[0]) and self._names_one(before[0]):
                yield cell[0]

    # -- calls

    def _called(self, start: int, place: int) -> Iterator[int]:
        name, chain = self._low(place), self._chain(place)
        before = place - 1
        while self._text(before) == ".":
            before -= 2
        if self._low(before) in NOT_A_CALL or name in NOT_A_CALL:
            return
        arguments, _ = self._arguments(place + 1)
        yield from self._behind_name(arguments)
        if name in PAIRS and any(map(self._is_name_of_secret, arguments)):
            yield from (a[-1] for a in arguments if self._low(a[0] if a else -1) in ("value", "new_value"))
        if name in ("coalesce", "nullif") and any(names_a_secret(self._chain(a[-1])) for a in arguments if a):
            yield from (a[-1] for a in arguments if a and self._is_string(a[-1]))
        if ACCOUNT.search(name):
            yield from (a[-1] for a in arguments[1:] if a and self._is_string(a[-1]))
        if name == "options" and self._is_user_mapping(start, place):
            yield from self._options(arguments)
        wanted = KEY_ARGUMENTS.get(name, ())
        is_prepared = place == start + 1 and self._low(start) == "execute" and name != MAKES_STATEMENT
        if names_a_secret(chain) or is_prepared:
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
        says = "".join(self._low(place) for place in argument if self._is_string(place))
        return names_a_secret(says) and "=" not in says

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

    def _strings(self, at: int, *, commas: bool = False, ends: Sequence[str] = ()) -> Iterator[int]:
        """Give the string constants of an expression; with ``commas`` of all that follow in the call or statement."""
        depth = 0
        for place in range(at, len(self._all)):
            token = self._all[place]
            depth += {"(": 1, "[": 1, ")": -1, "]": -1, "case": 1}.get(token.text.lower(), 0)
            if depth and token.text.lower() == "end":
                depth -= 1
            if depth < 0 or token.text == ";" or (not depth and token.text == "," and not commas):
                return
            if not depth and not token.is_string and token.low in (ends if commas else ENDS_EXPRESSION):
                return
            if token.is_string and not self._is_no_value(place):
                yield place

    def _is_no_value(self, at: int) -> bool:
        """Tell whether a constant names a format or a setting: encode(x, 'hex'), current_setting('app.token')."""
        is_format = self._low(at) in FORMATS and self._text(at - 1) == "," and self._text(at + 1) == ")"
        return is_format or (self._text(at - 1) == "(" and self._low(at - 2) == "current_setting")

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
