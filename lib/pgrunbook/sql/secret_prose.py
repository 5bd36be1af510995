"""Secrets in text that is no SQL: in messages and comments, and in what a string constant holds.

Among them are connection strings (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING),
JSON, shell commands, and the keys that services give out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import unquote

from pgrunbook.config.secret_patterns import names_a_secret

MASK = "***"
# A name is one word, or two where the second one is "key".
_KEY = r"(?:api|access|private|secret|signing|encryption|account)\s+keys?"
# name = value, name := value, "name": value, name => value, name -> value, name is: value, ?name=value
_ASSIGNED = re.compile(
    rf"""(?<![\w%.-])(?P<name>{_KEY}|[\w%-][\w%.-]*)(?P<end>\\?["']{{0,2}})(?:\s+is(?=\s*:))?\s*"""
    r"""(?P<sign>:=|=>|->|==|=|:(?![:/=]))\s*"""
    r"""(?:\\?'(?P<single>(?:[^'\\]|\\.|'')*)'|\\?"(?P<double>(?:[^"\\]|\\.|"")*)\\?"|(?P<bare>[^\s,;&'"(){}<>\[\]]+)"""
    r"""(?P<rest>\S*))""",
    re.S,
)
# password 'value'; PASSWORD "value"
_QUOTED = re.compile(
    r"""(?<![\w.-])(?P<name>[\w-]+)\s+(?:is\s+|was\s+|to\s+|of\s+)?(?:'(?P<single>(?:[^']|'')+)'|"(?P<double>(?:[^"])+)")"""
)
# password hunter2: without a sign between them only what no word of a sentence looks like
_SAID = re.compile(
    rf"(?<![\w.-])(?P<name>{_KEY}|[\w-]+)\s+(?:(?:for|of|on|in)\s+\S+\s+)?(?:(?:is|are|was|to)\s+)?"
    r"(?P<bare>[^\s'\"(),;=<>%]{4,})",
    re.I,
)
# "tokens": ["a", "b"], and <password>a</password>
_LISTED = re.compile(r"""(?<![\w-])(?P<name>[\w-]+)["']{0,2}\s*[:=]\s*\[(?P<list>[^\]]*)\]""")
_ITEM = re.compile(r"""(["'])(?P<secret>(?:(?!\1).)+)\1""")
_ELEMENT = re.compile(r"<(?P<name>[\w:.-]+)(?:\s[^<>]*)?>(?P<secret>[^<>]+)</")
# What a server says of a row: Key (id, token)=(1, abc) already exists.
_ROW = re.compile(r"\bFailing row contains \((?P<secret>.*)\)", re.S)
_KEY_OF_ROW = re.compile(r"(?i:\bkey) \((?P<names>[^=]{1,400}?)\)=\((?P<secret>.{0,2000}?)\)(?=\s|\.|\Z)", re.S)
_WORDS = re.compile(r"[\w-]+")
# MIGRATION:LINE, and "tokens: 3 rows"
_LINE = re.compile(r"\d{1,6}(?:\.\d+)?\.?")
# user_tokens: reads and writes; but password: swordfish
_PLAINLY = re.compile(r"password|passwd|pwd|passphrase|secret|token|api[_-]?key", re.I)
_NO_WORD = re.compile(r"\d|(?<=\w)[^\w\s./-](?=\w)|[a-z][A-Z]")
# What a text in lower case has to hold, which is quickly seen, and the pattern of a secret.
_VALUES = (
    # a URL: user and password in front of the host
    ("://", re.compile(r"[A-Za-z][\w+.-]{0,30}://[^\s:@/?#'\"<>]*:(?P<secret>[^\s@/?#'\"<>]+)@")),
    ("://", re.compile(r"[A-Za-z][\w+.-]{0,30}://[^\s:@/?#'\"<>]*:(?!\d+(?:/|$))(?P<secret>[^\s'\"<>]+)@")),
    ("://", re.compile(r"\A\s*[A-Za-z][\w+.-]{0,30}://[^\s:@/?#]*:(?!\d+(?:/|$))(?P<secret>\S+)@\S*\s*\Z")),
    ("://", re.compile(r"[A-Za-z][\w+.-]{0,30}://(?=[\w-]*\d)(?P<secret>[\w-]{20,})@")),
    ("jdbc:oracle", re.compile(r"jdbc:oracle:\w+:[^\s/@]+/(?P<secret>[^\s@]+)@")),
    ("=", re.compile(
        r"[?&#](?:key|sig|signature|x-amz-signature|x-goog-signature|auth|access_key)=(?P<secret>[^&#\s'\"<>]{6,})",
        re.I,
    )),
    ("signature=", re.compile(r"\bSignature=(?P<secret>[\w+/=-]{8,})")),
    ("private key", re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----(?P<secret>.*?)(?=-----END|\Z)", re.S)),
    ("private-lines", re.compile(r"\bPrivate-Lines: \d+(?P<secret>.*?)(?=Private-MAC|\Z)", re.S)),
    ("cookie", re.compile(r"\bCookie:\s*(?P<secret>[^\r\n'\"]{6,})", re.I)),
    ("bearer", re.compile(r"\bBearer\s+(?P<secret>[\w.~+/=-]{6,})", re.I)),
    ("basic", re.compile(r"\bBasic\s+(?P<secret>[\w.~+/=-]{6,})", re.I)),
    ("-u", re.compile(r"(?:^|\s)(?:-u[ =]?|--user[ =])\s*[\"']?[^\s:\"']+:(?P<secret>[^\s\"']+)")),
    ("mysql", re.compile(r"\bmysql\w*\s(?:[^|;]*\s)?-p(?P<secret>[^\s'\"]+)")),
    ("sshpass", re.compile(r"\bsshpass\s+-p\s*[\"']?(?P<secret>[^\s\"']+)")),
    ("-", re.compile(
        r"\b(?:redis-cli|sqlcmd|ldap\w+|unzip|zip|openssl)\s(?:[^|;]{0,200}?\s)?-(?:a|P|w|k)\s+[\"']?(?P<secret>[^\s\"']+)"
    )),
    ("smbclient", re.compile(r"\bsmbclient\s(?:[^|;]{0,200}?\s)?-U\s*[^\s%]+%(?P<secret>[^\s\"']+)")),
    ("curl", re.compile(r"\bcurl\s(?:[^|;]{0,200}?\s)?(?:-b|--cookie)\s+[\"']?[^\s=\"']+=(?P<secret>[^\s\"']+)")),
    ("--", re.compile(r"--(?:password|passwd|token|secret|api-?key)[ =]\s*[\"']?(?P<secret>[^\s\"']+)")),
)  # fmt: skip
# What is a secret by itself, without a blank or a quotation mark in it, and no shorter than ``_LONG_WORD``.
_LONG_WORD = 11
_SHORT_CHARS = 1000
_WORDS_ALONE = (
    # hashes of passwords: crypt(3), PHC strings, Django, LDAP
    re.compile(
        r"(?<![\w$])(?P<secret>(?:\$(?:2[abxy]?|1|5|6|7|y|gy|apr1|sha1|argon2\w*|scrypt|pbkdf2[\w-]*)\$"
        r"(?!(?:function|procedure)+\$)"  # $1 at the end of a body as pg_get_functiondef quotes it
        r"|(?:pbkdf2_\w+|bcrypt_sha256|scrypt|argon2)\$)[\w./+=,$*-]{8,}|\{(?:SSHA|SHA|SMD5|CRYPT)\d*\}[\w+/=$.]{8,})"
    ),
    # beside the id of an AWS key its secret, which begins with nothing that tells
    re.compile(
        r"(?<![\w/+])(?=[\w/+]{0,39}[a-z])(?=[\w/+]{0,39}[A-Z])(?=[\w/+]{0,39}\d)(?P<secret>[A-Za-z0-9/+]{40})"
        r"(?![\w/+=])"
    ),
    # the keys that services give out
    re.compile(
        r"(?<!\w)(?P<secret>pscale_(?:pw|tkn|oauth)_[\w.-]{4,}|gh[pousr]_\w{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"
        r"|(?:AKIA|ASIA)[0-9A-Z]{16}|xox[abeoprs]-[\w-]{8,}|[sr]k_(?:live|test)_\w{8,}|sk-[\w-]{20,}|npg_\w{8,}"
        r"|whsec_\w{8,}|xapp-[\w-]{8,}|ya29\.[\w-]{8,}|npm_\w{30,}|pypi-[\w-]{16,}|do[op]_v1_\w{16,}|hv[sbr]\.[\w-]{16,}"
        r"|shp(?:at|ca|pa|ss)_\w{16,}|SK[0-9a-zA-Z]{30,32}|key-[0-9a-zA-Z]{30,32}|gl[a-z]{2,5}-[\w-]{16,}|sbp_\w{16,}"
        r"|dckr_pat_[\w-]{8,}|lin_api_\w{8,}|AGE-SECRET-KEY-1[0-9A-Z]{16,}|sq0csp-[\w-]{16,}"
        r"|(?:(?<=hooks\.slack\.com/services/)|(?<=discord\.com/api/webhooks/))[\w/-]{8,}|AIza[\w-]{30,}|SG\.[\w-]{16,}\.[\w-]{16,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*|SCRAM-SHA-256\$\d+:[^\s'\"]+"
        r"|md5[0-9a-f]{32})(?!\w)"
    ),
)  # fmt: skip
# A long text is looked through for long words first: as bytes, in which each character is one of two.
_AS_WORD = bytes(32 if chr(code).isspace() or chr(code) in "'\"" else 97 for code in range(256))
_MASKED = re.compile(r"\*+|\*{3}[0-9a-f]{12}")
# E'pa\\x73sword=x': what it says is not to be seen in how it is spelled
_ESCAPED = re.compile(r"(?i)\b(?:e|u&)['\"][^']*\\")
_CODE = re.compile(
    r"\s*(?:select\s|insert\s+into\s|update\s+\S+\s+set\s|delete\s+from\s|(?:alter|create|drop)\s+(?:or\s+replace\s+)?\w+\s"
    r"|do\s|begin\b|declare\b|grant\s|revoke\s|set\s+\S+\s*(?:=|to\b)|comment\s+on\s|with\s+\w+\s+as\s|call\s+[\w.]+\s*\("
    r"|perform\s|execute\s|copy\s|return\b|if\s|<<|prepare\s)",
    re.I,
)
_NOTHING = re.compile(
    r"\*+|\*{3}[0-9a-f]{12}|\$\d+|\$\{\w+\}|%(?:\d+\$)?[sLI]?|\?|:\w+|null|none|true|false|yes|no|required|text|string|NEW\..*|OLD\..*"
    r"|varchar|bytea|jsonb?|uuid|boolean|integer|bigint|not",
    re.I,
)
# What each text holds, in lower case, in which a name, a routine or a message tells that something is a secret ...
_TELLING = (
    "pass", "pw", "secret", "token", "credential", "dsn", "key", "authorization", "connection", "jwt", "bearer", "totp",
    "recovery", "crypt", "hmac", "sign", "verif", "s3", "options", "execute", "log_in", "login", "log_on", "logon",
    "authent", "account", "_user", "_member", "user(", "member(", "failing row",
)  # fmt: skip
# A word alone, or as a string constant, names a secret at most: it gives no value of it.
_ONE_WORD = re.compile(r"'?[\w.@/+-]*'?")
# ... and the patterns of what is one by itself, or not to be seen in how it is spelled.
# Of these, some are seen at the beginning or the end of a text only.
_AT_ENDS = ("://", "-u")
_SPELLED = (("%", re.compile(r"%[0-9a-f]{2}", re.I)), ("\\", _ESCAPED))


def is_code(text: str) -> bool:
    """Tell whether a text begins as SQL or PL/pgSQL does: in it "password = x" names a column or a variable."""
    return _CODE.match(text) is not None


def is_mask(value: str) -> bool:
    """Tell whether a value is what we put in the place of a secret."""
    return _MASKED.fullmatch(value) is not None


def is_nothing(value: str) -> bool:
    """Tell whether a value keeps nothing secret: empty, masked already, a parameter, a type."""
    return not value.strip() or _NOTHING.fullmatch(value.strip()) is not None


@lru_cache(maxsize=256)  # each constant is asked about several times in a row
def may_hold_secrets(text: str) -> bool:
    """Tell, fast, whether a text is worth a closer look."""
    low = text.lower()
    words = low.replace("primary key", " ").replace("foreign key", " ")  # in each definition of a schema, and no secret
    told = any(word in words for word in _TELLING) and _ONE_WORD.fullmatch(text) is None
    return told or next(_seen(text, low), None) is not None


def hints(text: str) -> list[tuple[int, int]]:
    """Return from where to where something stands in a long text for which a part of it is worth a closer look.

    They are in order, and do not overlap; a part that none of them touches is one that :func:`may_hold_secrets` denies.
    """
    low = text.lower()
    if len(low) != len(text):  # a few letters are two in lower case
        return [(0, len(text))]
    found = [
        match.span() for word in (*_TELLING, *_AT_ENDS) if word in low for match in re.finditer(re.escape(word), low)
    ]
    found += [match.span() for match in _seen(text, low)]
    apart: list[tuple[int, int]] = []
    for start, end in sorted(found):
        if apart and start <= apart[-1][1]:
            apart[-1] = (apart[-1][0], max(end, apart[-1][1]))
        else:
            apart.append((start, end))
    return apart


def secrets_of_prose(text: str) -> list[tuple[int, int]]:
    """Return from where to where secrets stand in a text that is no SQL, in no order; they may overlap."""
    if not may_hold_secrets(text):
        return []
    return [span for span in _found(text, code=is_code(text)) if not is_nothing(text[slice(*span)])]


def keys_of_prose(text: str) -> list[tuple[int, int]]:
    """Return from where to where something stands that is a secret whatever is around it: a key, a URL's password."""
    if not may_hold_secrets(text):
        return []
    spans = [match.span("secret") for match in _values(text, text.lower())]
    return [span for span in spans if not is_nothing(text[slice(*span)])]


def _seen(text: str, low: str) -> Iterator[re.Match[str]]:
    """Yield what is a secret by itself, and what is not to be seen in how it is spelled."""
    for part, pattern in _SPELLED:
        if part in low:
            yield from pattern.finditer(text)
    yield from _values(text, low)


def _values(text: str, low: str) -> Iterator[re.Match[str]]:
    for part, pattern in _VALUES:
        if part in low:
            yield from pattern.finditer(text)
    for start, end in _long_words(text):
        for pattern in _WORDS_ALONE:
            yield from pattern.finditer(text, start, end)


def _long_words(text: str) -> Iterator[tuple[int, int]]:
    """Yield from where to where long words stand; all of a short text, which is looked through as fast."""
    if len(text) < _SHORT_CHARS:
        yield 0, len(text)
        return
    words = text.encode("ascii", "replace").translate(_AS_WORD) + b" "
    end = 0
    while (start := words.find(b"a" * _LONG_WORD, end)) >= 0:
        end = words.index(b" ", start)
        yield start, end


def _found(text: str, *, code: bool) -> Iterator[tuple[int, int]]:
    yield from keys_of_prose(text)
    for pattern in (_ASSIGNED, _QUOTED):
        for match in _each(pattern, text):
            if names_a_secret(unquote(match["name"])):
                group = next(g for g in ("single", "double", "bare") if match.groupdict().get(g) is not None)
                if group != "bare" or _is_given(match, code=code):
                    yield match.start(group), _end_of_value(match, group)
    yield from _in_structure(text)
    for match in () if code else _each(_SAID, text):
        word = match["bare"].rstrip(".!?")
        if names_a_secret(match["name"]) and _NO_WORD.search(word):
            yield match.start("bare"), match.start("bare") + len(word)


def _in_structure(text: str) -> Iterator[tuple[int, int]]:
    """Yield the secrets in lists, elements of XML, and rows that a server quotes."""
    for match in _LISTED.finditer(text):
        if names_a_secret(match["name"]):
            at = match.start("list")
            yield from ((at + item.start("secret"), at + item.end("secret")) for item in _ITEM.finditer(match["list"]))
    for match in _ELEMENT.finditer(text):
        if names_a_secret(match["name"]):
            yield match.span("secret")
    for match in _ROW.finditer(text):  # any column of it may be one, and none is named
        yield match.span("secret")
    for match in _KEY_OF_ROW.finditer(text):
        if any(map(names_a_secret, _WORDS.findall(match["names"]))):
            yield match.span("secret")


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
