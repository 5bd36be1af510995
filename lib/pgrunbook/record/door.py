"""The one door for what is written down: what goes into a record, a notebook or a log has its secrets masked here.

A secret is known by where it stands (``sql.secrets``). What was learned from the migrations is known wherever it
turns up again: in what the server says about a statement, in a notice, in part of a line.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from html import escape, unescape
from typing import Any
from urllib.parse import quote, unquote

from pgrunbook.sql.secret_prose import MASK, hints, may_hold_secrets

# A shorter secret is masked where it stands as one, and not in every word that is spelled so.
SHORTEST = 4
# What is longer is not remembered with what it was masked to.
_LONG_CHARS = 4_000
# Facts of a journal that are names, which a secret may be spelled like; a sentence has blanks.
PROSE = frozenset(("error", "notices", "says", "message", "detail", "blockers", "holders", "text"))
MARKUP = frozenset(("text/html", "image/svg+xml"))
BINARY = frozenset(("image/png", "image/jpeg", "application/pdf"))
_NODE = re.compile(r"(?<=>)[^<>]+(?=<)|(?<=title=')[^']+(?=')|(?<=title=\")[^\"]+(?=\")")
_known: dict[str, None] = {}


def learn(text: str) -> None:
    """Remember the secrets of a migration's text, to mask them wherever they turn up in this process."""
    if not may_hold_secrets(text):
        return
    from pgrunbook.sql import secrets

    before = len(_known)
    for span in secrets.spans(text):
        for value in (span.value, unquote(span.value)):
            if len(value) >= SHORTEST:
                _known.update(dict.fromkeys(_spellings(value)))
    if len(_known) == before:
        return  # a folder is read often: what was masked with these stays known
    for cached in (_pattern, _masked, masked_markup):
        cached.cache_clear()


def masked(text: str) -> str:
    """Return a text without secrets: a statement, a message, a table as CSV."""
    return _masked(text) if len(text) <= _LONG_CHARS else masked_values(_masked_message(text))


def masked_each(texts: Sequence[str]) -> list[str]:
    """Return each text as :func:`masked` does: many are looked through at once, and closer where one may hold some."""
    joined, pattern = "\n".join(texts), _pattern()
    if pattern is not None and pattern.search(joined):
        return [masked(text) for text in texts]
    found, at, looked = hints(joined), 0, []
    spans = iter(found)
    start, end = next(spans, (len(joined) + 1, len(joined) + 1))
    for text in texts:
        while end <= at:
            start, end = next(spans, (len(joined) + 1, len(joined) + 1))
        looked.append(masked(text) if start < at + len(text) else text)
        at += len(text) + 1
    return looked


def masked_values(text: str) -> str:
    """Return a text in which the secrets that were learned are masked, and nothing else."""
    pattern = _pattern()
    return pattern.sub(MASK, text) if pattern is not None else text


def masked_facts(facts: Mapping[str, object]) -> dict[str, object]:
    """Return the facts of an event without secrets: names stay as they are, and sentences are looked through."""
    return {key: _fact(value, prose=key in PROSE) for key, value in facts.items()}


@lru_cache(maxsize=256)
def masked_markup(text: str) -> str:
    """Return HTML or SVG without secrets; its tags stay as they are."""

    def looked_through(node: re.Match[str]) -> str:
        before = unescape(node[0])
        after = masked(before)
        return node[0] if after == before else escape(after)

    return _NODE.sub(looked_through, f">{text}<")[1:-1]


def masked_output(content: Any, mime: str = "") -> Any:
    """Return an output of a cell, or the content of a message of a kernel, without secrets."""
    if isinstance(content, str):
        return content if mime in BINARY else masked_markup(content) if mime in MARKUP else masked(content)
    if isinstance(content, Mapping):
        return {key: masked_output(value, str(key)) for key, value in content.items()}
    if isinstance(content, list | tuple):
        joined = mime in MARKUP or mime.startswith("text/")
        if joined and all(isinstance(part, str) for part in content):
            return masked_output("".join(content), mime)
        return [masked_output(value, mime) for value in content]
    return content


def masked_json(text: str) -> str:
    """Return JSON whose texts have no secrets; byte for byte the same where it held none."""
    before = json.loads(text)
    after = _fact(before, prose=False)
    return text if after == before else json.dumps(after, indent=1, ensure_ascii=False) + "\n"


def guard_logs() -> None:
    """Mask what our own modules and the driver log, whoever handles it; called again, it changes nothing."""
    before = logging.getLogRecordFactory()
    if getattr(before, "masks_secrets", False):
        return

    def made(*args: Any, **facts: Any) -> logging.LogRecord:
        record = before(*args, **facts)
        if record.name.partition(".")[0] in ("pgrunbook", "psycopg", "papermill"):
            record.msg, record.args = masked(record.getMessage()), ()
            if record.exc_info and record.exc_info[0] is not None:
                record.exc_text = masked(logging.Formatter().formatException(record.exc_info))
        return record

    made.masks_secrets = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(made)


@lru_cache(maxsize=8192)
def _masked(text: str) -> str:
    return masked_values(_masked_message(text))


def _masked_message(text: str) -> str:
    if not may_hold_secrets(text):
        return text
    from pgrunbook.sql import secrets  # it imports the parser, which most runners have no need of

    return secrets.masked_message(text)


def _fact(value: object, *, prose: bool) -> object:
    if isinstance(value, str):
        return masked(value) if prose or re.search(r"\s", value) else _masked_message(value)
    if isinstance(value, Mapping):
        return {key: _fact(inner, prose=prose or key in PROSE) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_fact(inner, prose=prose) for inner in value]
    return value


def _spellings(value: str) -> list[str]:
    """Return how a secret may be spelled: in SQL, a URL, JSON, HTML, Python, and on one line."""
    plain = [value, " ".join(value.split()), value.replace("'", "''"), value.replace("\\", "\\\\").replace("'", "\\'")]
    coded = [quote(value, safe=""), json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]]
    return [*plain, *coded, repr(value)[1:-1], *(escape(each) for each in plain)]


@lru_cache(maxsize=1)
def _pattern() -> re.Pattern[str] | None:
    if not _known:
        return None
    bounded = []
    for value in sorted(_known, key=len, reverse=True):
        before = r"(?<!\w)" if re.match(r"\w", value) else ""
        after = r"(?!\w)" if re.search(r"\w\Z", value) else ""
        bounded.append(f"{before}{re.escape(value)}{after}")
    return re.compile("|".join(bounded))
