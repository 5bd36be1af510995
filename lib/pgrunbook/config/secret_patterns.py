"""Patterns of names and values that are secrets."""

from __future__ import annotations

import re
from functools import lru_cache

SECRET_NAME = re.compile(
    r"passw(or)?d|passphrase|passcode|\bpwd\b|_pwd\b|\bpwd_|\bpass\b|_pass\b|\bpw\b|_pw\b|secret|token|credential|\bdsn\b"
    r"|(api|private|access|signing|encryption|encrypt|master|client|auth|hmac|scram_client|scram_server|account|anon"
    r"|crypto|deploy|license|service_role|root|session|ssh|storage)[-_ .]?key"
    r"|authorization|connection_?string|\bjwt\b|\bbearer\b|\btotp|recovery_?codes?\b",
    re.I,
)
SECRET_VALUE = re.compile(
    r"://[^/\s:@]*:[^/\s@]+@|\bpassword\s*=|-----BEGIN [A-Z ]*PRIVATE KEY|\bpscale_(pw|tkn)_", re.I
)
# Each name that the pattern finds holds one of these, which is seen much faster in a long text.
_PARTS = (
    "pass", "pw", "secret", "token", "cred", "dsn", "key", "author", "conne", "jwt", "bearer", "totp", "recover",
)  # fmt: skip
# What such a name may begin or end with when it is about a secret, and does not hold it.
_ABOUT = re.compile(
    r"^(is|has|needs?|no|use|must|max|min|num|allow|require)_"
    r"|_(at|on|ids?|types?|kinds?|status|state|counts?|numbers?|encryption|policy|length|len|min|max|required|enabled"
    r"|expires?|expiry|expiration|ttl|age|days?|hours?|minutes?|seconds?|hint|name|label|format|version|method|algorithm"
    r"|changed|reset|resets|sent|used|attempts|url|uri|path|file|from)$"
    r"|^(in)?valid_|^\d{3,}_|\.(sql|py|ts|json|ya?ml|toml|csv|ipynb)$|tokeni[sz]|^passwordcheck\b|^ssl_min|token_reuse",
    re.I,
)


def may_name_a_secret(text: str) -> bool:
    """Tell, fast, whether a name in SQL may be one that holds a secret."""
    folded = text.casefold()
    return "u&" in folded or any(part in folded for part in _PARTS)


@lru_cache(maxsize=4096)
def names_a_secret(name: str) -> bool:
    """Tell whether what has this name holds a secret, as "api_key" and "password" do, and "password_changed_at" not."""
    folded = name.casefold()
    if not any(part in folded for part in _PARTS):
        return False
    return SECRET_NAME.search(name) is not None and _ABOUT.search(name) is None
