"""Secrets in SQL: where they stand in a text, and the text with ``***`` in their place.

The tokens of PostgreSQL's own scanner are read, so that text which does not parse is masked as well: after a name
that holds a secret ("password", "app.api_key") its value, in calls that take a secret (``dblink_connect``,
``pgp_sym_encrypt``) their arguments, in comments and string constants what looks like one, and in the bodies of
functions and DO blocks, which are string constants, all of that again.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote

from pglast.parser import ParseError, scan

from pgrunbook.config import secret_key
from pgrunbook.sql.literals import Spelled, spelled
from pgrunbook.sql.secret_prose import (
    MASK,
    hints,
    is_mask,
    is_nothing,
    keys_of_prose,
    may_hold_secrets,
    secrets_of_prose,
)
from pgrunbook.sql.secret_rows import without_harmless_rows
from pgrunbook.sql.secret_tokens import secret_tokens
from pgrunbook.sql.token import Token
from pgrunbook.sql.values_lists import ShortText

_KEYED = re.compile(r"hmac-([0-9a-f]{8})-[0-9a-f]{64}")
_DEEPEST = 8
_SHORT_CHARS = 1000
_LONG_CHARS = 20_000
_SHOWN_CHARS = 20_000
# What the scanner misses at the end of a text that was cut off.
_ENDS = ("", "'", '"', "*/", "''", "\\'")
# A constant with one of these may be spelled in several ways.
_SPELLED_TWICE = re.compile(r"['\\\x00-\x1f]")
_PSQL = re.compile(r"^[ \t]*\\[\w!].*$", re.M)
_TAG = re.compile(r"\$(?:[A-Za-z_]\w*)?\$")


class SecretSpan(NamedTuple):
    """A place of a text that is a secret; ``mask`` is what stands there instead, ``value`` what it says."""

    start: int
    end: int
    mask: str
    value: str


def spans(text: str) -> tuple[SecretSpan, ...]:
    """Return the secrets of a text by place; none of them overlap."""
    return _spans_of_short(text) if len(text) <= _SHORT_CHARS else _spans_of_long(text)


def _spans_of_text(text: str) -> tuple[SecretSpan, ...]:
    if len(text) <= _LONG_CHARS:
        return tuple(_merged(text, _spans(text, 0))) if may_hold_secrets(text) else ()
    told = hints(text)
    if not told:
        return ()
    short = without_harmless_rows(text, told)
    found = list(_merged(short.text, _spans(short.text, 0)))
    if short.text is not text and _stands_elsewhere(found, short, text):
        return tuple(_merged(text, _spans(text, 0)))
    return tuple(span._replace(start=short.at(span.start), end=short.at(span.end - 1) + 1) for span in found)


def _stands_elsewhere(found: Sequence[SecretSpan], short: ShortText, text: str) -> bool:
    """Tell whether a secret may stand in the rows that were left out: what is one place's secret is masked in all."""
    values = {span.value.casefold() for span in found}
    if not values:
        return False
    if any(map(_SPELLED_TWICE.search, values)):
        return True
    folded, there = text.casefold(), short.text.casefold()
    return any(folded.count(value) != there.count(value) for value in values)


# A schema is read several times in a run: its names and definitions are many, and short.
_spans_of_short = lru_cache(maxsize=1 << 17)(_spans_of_text)
_spans_of_long = lru_cache(maxsize=256)(_spans_of_text)


@lru_cache(maxsize=256)
def spans_of_message(text: str) -> tuple[SecretSpan, ...]:
    """Return the secrets of a text that may be SQL, or words about it; none of them overlap."""
    prose = [SecretSpan(start, end, MASK, text[start:end]) for start, end in secrets_of_prose(text)]
    return tuple(_merged(text, iter([*spans(text), *prose])))


def masked(text: str) -> str:
    """Return SQL with every secret masked; a text that holds none as it is."""
    return _without(text, spans(text))


def masked_message(text: str) -> str:
    """Return a message with every secret masked, be it SQL, words, or SQL within words."""
    return _without(text, spans_of_message(text))


def masked_all(value: Any) -> Any:
    """Return lists and mappings, as JSON has them, with every text in them masked."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, Mapping):
        return {key: masked_all(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [masked_all(inner) for inner in value]
    return value


def excerpt(text: str, start: int, end: int) -> str:
    """Return a part of a text, with the secrets masked that the whole shows to be some."""
    found = text[start:end]
    for span in reversed(spans(text)):
        if span.start < end and span.end > start:
            found = found[: max(span.start - start, 0)] + MASK + found[max(span.end - start, 0) :]
    return found


def beginning(text: str) -> str:
    """Return SQL as it is shown in a notebook: of a very long text its beginning, and how much more there is."""
    if len(text) <= _SHOWN_CHARS:
        return text
    return f"{excerpt(text, 0, _SHOWN_CHARS)} ... and {len(text) - _SHOWN_CHARS:,} characters more"


def fingerprint(text: str) -> str:
    """Return the sha256 of a text, or where it holds a secret an HMAC: that cannot be guessed without the key.

    Raises RecordFailed where the key cannot be made.
    """
    return keyed(text) if spans(text) else hashlib.sha256(text.encode()).hexdigest()


def keyed(text: str) -> str:
    """Return the HMAC-SHA256 of a text under this machine's key, with the name of the key in front of it."""
    key = secret_key.read_or_make()
    return f"hmac-{secret_key.name_of(key)}-{hmac.new(key, text.encode(), hashlib.sha256).hexdigest()}"


def key_of(hashed: str) -> str:
    """Return the name of the key that a fingerprint was made with, "" for a plain sha256."""
    found = _KEYED.fullmatch(hashed)
    return found[1] if found else ""


def told_apart(text: str, *, is_message: bool = False) -> str:
    """Return a text masked so that another secret gives another text: for what is compared, as schemas are."""
    found = spans_of_message(text) if is_message else spans(text)
    if not found:
        return text
    marks = [span.mask.replace(MASK, f"{MASK}{keyed(span.value)[-12:]}") for span in found]
    return _without(text, [span._replace(mask=mark) for span, mark in zip(found, marks, strict=True)])


def _without(text: str, found: Sequence[SecretSpan]) -> str:
    for span in reversed(found):
        text = text[: span.start] + span.mask + text[span.end :]
    return text


def _spans(text: str, depth: int) -> Iterator[SecretSpan]:
    tokens = _tokens(text)
    if tokens is None:
        for start, end in secrets_of_prose(text):
            yield SecretSpan(start, end, MASK, text[start:end])
        return
    places = secret_tokens(tokens)
    values = {tokens[place].low for place in places}
    for place, token in enumerate(tokens):
        if token.is_string and (place in places or token.low in values):
            says, at, _ = spelled(token.text, token.escape)
            if says and not is_mask(says):
                yield SecretSpan(token.start + at[0], token.start + at[-1], MASK, says)
        elif place in places and not is_nothing(token.text):
            yield SecretSpan(token.start, token.end, f"'{MASK}'" if depth == 0 else MASK, token.text)
    for token in tokens:
        if token.is_comment or token.is_string or token.is_quoted_name:
            yield from _inside(token, depth)
    yield from _joined(tokens, depth)
    for start, end in keys_of_prose(text):
        yield SecretSpan(start, end, MASK, text[start:end])
    for line in _PSQL.finditer(text):
        for start, end in secrets_of_prose(line[0]):
            yield SecretSpan(line.start() + start, line.start() + end, MASK, line[0][start:end])


def _joined(tokens: Sequence[Token], depth: int) -> Iterator[SecretSpan]:
    """Give the secrets of what constants say together: 'PASS' || 'WORD x'."""
    code = [token for token in tokens if not token.is_comment]
    for first, token in enumerate(code):
        if not token.is_string or (first > 1 and code[first - 1].text == "||" and code[first - 2].is_string):
            continue
        parts, at = [token], first + 1
        while at + 1 < len(code) and code[at].text == "||" and code[at + 1].is_string:
            parts, at = [*parts, code[at + 1]], at + 2
        if len(parts) > 1:
            yield from _of_parts([(part, spelled(part.text, part.escape)) for part in parts], depth)


def _of_parts(parts: Sequence[tuple[Token, Spelled]], depth: int) -> Iterator[SecretSpan]:
    says = "".join(part.says for _, part in parts)
    found = [*secrets_of_prose(says), *((span.start, span.end) for span in _spans(says, depth + 1))]
    begin = 0
    for token, part in parts:
        for start, end in found if depth < _DEEPEST else ():
            here, there = max(start - begin, 0), min(end - begin, len(part.says))
            if here < there:
                yield SecretSpan(token.start + part.at[here], token.start + part.at[there], MASK, part.says[here:there])
        begin += len(part.says)


def _inside(token: Token, depth: int) -> Iterator[SecretSpan]:
    """Give the secrets of what a string constant or a comment says."""
    at: Sequence[int]
    says, at = token.text, range(len(token.text) + 1)
    if token.is_string or token.is_quoted_name:
        says, at, _ = spelled(token.text, token.escape)
    elif token.text.startswith("--"):
        says, at = says[2:], at[2:]
    else:
        says, at = says[2:-2], at[2:-1]
    found = list(secrets_of_prose(says))
    if depth < _DEEPEST and may_hold_secrets(says):
        found += [(span.start, span.end) for span in _spans(says, depth + 1)]
    for start, end in found:
        yield SecretSpan(token.start + at[start], token.start + at[end], MASK, says[start:end])


def _tokens(text: str) -> list[Token] | None:
    """Return the tokens of a text, also of one that ends within a constant or a comment; None where there are none."""
    # To the scanner every character beyond ASCII is a letter; one letter for each keeps the places.
    lettered = re.sub(r"[^\x01-\x7f]", "x", text)
    for end in (*_ENDS, *dict.fromkeys(_TAG.findall(lettered))):
        try:
            found = scan(lettered + end)
        except ParseError:
            continue
        size = len(text)
        return [
            Token(t.name, text[t.start : min(t.end + 1, size)], t.start, min(t.end + 1, size))
            for t in found
            if t.start < size
        ]
    return None


def _merged(text: str, found: Iterator[SecretSpan]) -> Iterator[SecretSpan]:
    """Give the places by their beginning; of those that overlap, one that covers them, and nothing that is empty."""
    last: SecretSpan | None = None
    for span in sorted(found):
        if span.end <= span.start:
            continue
        if last is not None and span.start < last.end:
            if span.end > last.end:
                last = SecretSpan(last.start, span.end, MASK, unquote(text[last.start : span.end]))
            continue
        if last is not None:
            yield last
        last = span
    if last is not None:
        yield last
