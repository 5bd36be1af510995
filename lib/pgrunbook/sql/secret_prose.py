"""Secrets in text that is no SQL: in messages and comments, and in what a string constant holds.

Among them are connection strings (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING),
JSON, shell commands, and the keys that services give out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote

from pgrunbook.config.secret_patterns import names_a_secret

MASK = "***"
# name = value, name := value, "name": value, name => value, ?name=value
_ASSIGNED = re.compile(
    r"""(?<![\w%.-])(?P<name>[\w%-][\w%.-]*)(?P<end>["']{0,2})\s*(?P<sign>:=|=>|==|=|:(?![:/=]))\s*"""
    r"""(?:\\?'(?P<single>(?:[^'\\]|\\.|'')*)'|\\?"(?P<double>(?:[^"\\]|\\.|"")*)\\?"|(?P<bare>[^\s,;&'"(){}<>\[\]]+)"""
    r"""(?P<rest>\S*))""",
    re.S,
)
# password 'value'; PASSWORD "value"
_QUOTED = re.compile(
    r"""(?<![\w.-])(?P<name>[\w-]+)\s+(?:is\s+|was\s+|to\s+|of\s+)?(?:'(?P<single>(?:[^']|'')+)'|"(?P<double>(?:[^"])+)")"""
)
# password hunter2: without a sign between them only what no word of a sentence looks like
_SAID = re.compile(r"(?<![\w.-])(?P<name>[\w-]+)\s+(?:is\s+|was\s+|to\s+)?(?P<bare>[^\s'\"(),;:=<>%]{4,})", re.I)
# MIGRATION:LINE, and "tokens: 3 rows"
_LINE = re.compile(r"\d{1,6}(?:\.\d+)?\.?")
# user_tokens: reads and writes; but password: swordfish
_PLAINLY = re.compile(r"password|passwd|pwd|passphrase|secret|token|api[_-]?key", re.I)
_NO_WORD = re.compile(r"\d|(?<=\w)[^\w\s./-](?=\w)|[a-z][A-Z]")
_VALUES = (
    # a URL: user and password in front of the host
    re.compile(r"[A-Za-z][\w+.-]{0,30}://[^\s:@/?#'\"<>]*:(?P<secret>[^\s@/?#'\"<>]+)@"),
    re.compile(r"[A-Za-z][\w+.-]{0,30}://[^\s:@/?#'\"<>]*:(?!\d+(?:/|$))(?P<secret>[^\s'\"<>]+)@"),
    re.compile(r"\A\s*[A-Za-z][\w+.-]{0,30}://[^\s:@/?#]*:(?!\d+(?:/|$))(?P<secret>\S+)@\S*\s*\Z"),
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?P<secret>.*?)(?=-----END|\Z)", re.S),
    re.compile(r"\b(?:Bearer|Basic)\s+(?P<secret>[\w.~+/=-]{6,})", re.I),
    re.compile(r"(?:^|\s)(?:-u[ =]?|--user[ =])\s*[\"']?[^\s:\"']+:(?P<secret>[^\s\"']+)"),
    re.compile(r"\bmysql\w*\s(?:[^|;]*\s)?-p(?P<secret>[^\s'\"]+)"),
    re.compile(r"\bsshpass\s+-p\s*[\"']?(?P<secret>[^\s\"']+)"),
    re.compile(r"--(?:password|passwd|token|secret|api-?key)[ =]\s*[\"']?(?P<secret>[^\s\"']+)"),
    re.compile(
        r"(?<!\w)(?P<secret>pscale_(?:pw|tkn|oauth)_[\w.-]{4,}|gh[pousr]_\w{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"
        r"|(?:AKIA|ASIA)[0-9A-Z]{16}|xox[abeoprs]-[\w-]{8,}|[sr]k_(?:live|test)_\w{8,}|sk-[\w-]{20,}|npg_\w{8,}"
        r"|AIza[\w-]{30,}|SG\.[\w-]{16,}\.[\w-]{16,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*|SCRAM-SHA-256\$\d+:[^\s'\"]+"
        r"|md5[0-9a-f]{32})(?!\w)"
    ),
)  # fmt: skip
_MASKED = re.compile(r"\*+[0-9a-f]{0,12}")
# E'pa\\x73sword=x': what it says is not to be seen in how it is spelled
_ESCAPED = re.compile(r"(?i)\b(?:e|u&)['\"][^']*\\")
_CODE = re.compile(
    r"\s*(?:select\s|insert\s+into\s|update\s+\S+\s+set\s|delete\s+from\s|(?:alter|create|drop)\s+(?:or\s+replace\s+)?\w+\s"
    r"|do\s|begin\b|declare\b|grant\s|revoke\s|set\s+\S+\s*(?:=|to\b)|comment\s+on\s|with\s+\w+\s+as\s|call\s+[\w.]+\s*\("
    r"|perform\s|execute\s|copy\s|return\b|if\s|<<|prepare\s)",
    re.I,
)
_NOTHING = re.compile(
    r"\*+[0-9a-f]{0,12}|\$\d+|\$\{\w+\}|%(?:\d+\$)?[sLI]?|\?|:\w+|null|none|true|false|yes|no|required|text|string|NEW\..*|OLD\..*"
    r"|varchar|bytea|jsonb?|uuid|boolean|integer|bigint|not",
    re.I,
)
_HINT = re.compile(
    r"pass|pwd|pw|-p|secret|token|credential|dsn|key|authorization|connection|://|bearer|basic|scram|md5|-u|--user|pscale_|gh[pousr]_"
    r"|crypt|hmac|options|execute|github_pat|glpat|AKIA|ASIA|xox|sk[_-]|rk_|npg_|AIza|SG\.|eyJ|%[0-9a-f]{2}",
    re.I,
)


def is_code(text: str) -> bool:
    """Tell whether a text begins as SQL or PL/pgSQL does: in it "password = x" names a column or a variable."""
    return _CODE.match(text) is not None


def is_mask(value: str) -> bool:
    """Tell whether a value is what we put in the place of a secret."""
    return _MASKED.fullmatch(value) is not None


def is_nothing(value: str) -> bool:
    """Tell whether a value keeps nothing secret: empty, masked already, a parameter, a type."""
    return not value.strip() or _NOTHING.fullmatch(value.strip()) is not None


def may_hold_secrets(text: str) -> bool:
    """Tell, fast, whether a text is worth a closer look."""
    return _HINT.search(text) is not None or _ESCAPED.search(text) is not None


def secrets_of_prose(text: str) -> list[tuple[int, int]]:
    """Return from where to where secrets stand in a text that is no SQL, in no order; they may overlap."""
    if not may_hold_secrets(text):
        return []
    return [span for span in _found(text, code=is_code(text)) if not is_nothing(text[slice(*span)])]


def keys_of_prose(text: str) -> list[tuple[int, int]]:
    """Return from where to where something stands that is a secret whatever is around it: a key, a URL's password."""
    if not may_hold_secrets(text):
        return []
    spans = [match.span("secret") for pattern in _VALUES for match in pattern.finditer(text)]
    return [span for span in spans if not is_nothing(text[slice(*span)])]


def _found(text: str, *, code: bool) -> Iterator[tuple[int, int]]:
    yield from keys_of_prose(text)
    for pattern in (_ASSIGNED, _QUOTED):
        for match in _each(pattern, text):
            if names_a_secret(unquote(match["name"])):
                group = next(g for g in ("single", "double", "bare") if match.groupdict().get(g) is not None)
                if group != "bare" or _is_given(match, code=code):
                    yield match.start(group), _end_of_value(match, group)
    for match in () if code else _each(_SAID, text):
        word = match["bare"].rstrip(".!?")
        if names_a_secret(match["name"]) and _NO_WORD.search(word):
            yield match.start("bare"), match.start("bare") + len(word)


def _end_of_value(match: re.Match[str], group: str) -> int:
    """Return where a value ends: in a connection string at a blank, whatever is in it; in a URL's query at "&"."""
    if group != "bare" or match["sign"] != "=" or match.end("sign") != match.start(group):
        return match.end(group)
    is_of_url = match.string[: match.start("name")].endswith(("?", "&"))
    return match.end(group if is_of_url else "rest")


def _is_given(match: re.Match[str], *, code: bool) -> bool:
    """Tell whether what stands behind a name without quotes is its value: no word of a sentence, no line, no column."""
    if "=" in match["sign"]:
        return not code
    if _LINE.fullmatch(match["bare"]):
        return False
    follows_at_once = match.start("bare") == match.end("sign")
    return (
        follows_at_once or _NO_WORD.search(match["bare"]) is not None or _PLAINLY.fullmatch(match["name"]) is not None
    )


def _each(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """Yield each match, also those that begin within one whose name is no secret: "user = password = x"."""
    at = 0
    while (match := pattern.search(text, at)) is not None:
        yield match
        at = match.end("name")
