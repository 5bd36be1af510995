"""Words by which secrets in SQL are known: functions that take one, options that are none, what ends an expression."""

from __future__ import annotations

import re

from pgrunbook.config.secret_patterns import names_a_secret

# Which arguments are secrets: keys and passwords of pgcrypto (https://www.postgresql.org/docs/current/pgcrypto.html),
# and what is put into a vault. That crypt() is given in clear is the password itself.
KEY_ARGUMENTS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(
        ("pgp_sym_encrypt", "pgp_sym_encrypt_bytea", "pgp_sym_decrypt", "pgp_sym_decrypt_bytea", "hmac"), (1,)
    ),
    **dict.fromkeys(("pgp_pub_decrypt", "pgp_pub_decrypt_bytea"), (1, 2)),
    **dict.fromkeys(("encrypt", "decrypt"), (1,)),
    **dict.fromkeys(("encrypt_iv", "decrypt_iv"), (1, 2)),
    "crypt": (0,),
    **dict.fromkeys(("sign", "verify", "account_add"), (1,)),
    "table_import_from_s3": (7, 8),
    "create_secret": (0,),
    "update_secret": (1,),
}
# Routines that are given who somebody is, and then what proves it.
ACCOUNT = re.compile(
    r"(?:^|_)(?:create|add|register|new)_?(?:user|account|login|member)$|(?:^|_)(?:log|sign)_?(?:in|up)$|^authenticate",
    re.I,
)
# The body of a function that gives one constant and does nothing else.
RETURNS_CONSTANT = re.compile(
    r"\s*(?:begin\s+)?(?:select|return)\s+'(?:[^']|'')*'(?:::\w+)?\s*;?\s*(?:end\s*;?\s*)?\Z", re.I
)
# Calls that are given a name and, behind it, its value.
PAIRS = frozenset(
    (
        "set_config",
        "json_build_object",
        "jsonb_build_object",
        "hstore",
        "json_object",
        "jsonb_object",
        "jsonb_set",
        "jsonb_insert",
        "jsonb_set_lax",
    )
)
# Options of a user mapping that may be read; every other may be what proves who one is.
HARMLESS_OPTIONS = frozenset(("user", "username", "user_name", "fetch_size", "use_remote_estimate"))
# Columns of a table of secrets that hold the secret itself.
DATA_COLUMNS = frozenset(("key", "value", "val", "data", "hash", "content", "setting_value"))
# EXECUTE of PL/pgSQL runs the statement that this makes; behind any other name may stand a prepared statement's values.
MAKES_STATEMENT = "format"
# What the last argument of encode(), digest(), hmac() ... says.
FORMATS = frozenset(("hex", "base64", "escape", "md5", "sha1", "sha224", "sha256", "sha384", "sha512", "utf8"))
# A parenthesis behind these, or behind a name that these stand before, opens no call.
NOT_A_CALL = frozenset(("table", "exists", "into", "references", "on", "of", "in", "values", "type", "as"))
ENDS_EXPRESSION = frozenset(
    ("where", "and", "or", "from", "returning", "then", "else", "end", "when", "loop", "group", "order", "limit", "on",
     "set", "using", "language", "into", "values", "union", "in", "like", "is", "valid", "nosuperuser", "superuser",
     "login", "nologin", "publication", "with", "server", "options", "check", "references", "constraint")
)  # fmt: skip
# What may stand behind a name where no type of a column or variable does.
NOT_A_TYPE = ENDS_EXPRESSION - {"is", "check", "constraint", "references", "with", "end"} | frozenset(
    ("add", "alter", "drop", "rename", "owner", "enable", "disable", "attach", "detach", "validate", "cluster", "as",
     "for", "execute", "returns", "select", "join", "left", "right", "inner", "cross", "is", "between", "ilike",
     "not_found", "having", "offset", "fetch", "foreign", "before", "after", "column", "to", "default_tablespace")
)  # fmt: skip
_DANGLING = re.compile(
    r"(?<![\w-])(?P<name>[\w-]++)(?:\s*(?:=|:=|=>|:)\s*|\s+(?:to\s+|=\s*)?)['\"(]*\s*(?:%(?:\d+\$)?[sLIsli]?(?!\w).*)?\Z",
    re.S,
)
_PARAMETER = re.compile(r"(?<![\w-])(?P<name>[\w-]+)\s{0,20}(?:=|:=|=>|\bto\b)?\s{0,20}\$\d")
_PLACEHOLDER = re.compile(
    r"(?<![\w-])(?P<name>[\w-]+)\s{0,20}(?:=|:=|=>|:|\bto\b)?\s{0,20}['\"(]*%(?:\d+\$)?[sLIsli]?(?!\w)"
)


def is_dangling(text: str, *, executed: bool) -> bool:
    """Tell whether a string constant ends where a secret comes, or has a place for one: 'ALTER ROLE r PASSWORD %L'.

    In what is ``executed`` a place is also $1, which USING fills.
    """
    places = [*(_PLACEHOLDER.finditer(text) if "%" in text else ())]
    places += _PARAMETER.finditer(text) if executed and "$" in text else ()
    if any(names_a_secret(found["name"]) for found in places):
        return True
    found = _DANGLING.search(text[-80:])
    return found is not None and names_a_secret(found["name"])
