"""Patterns of names and values that are secrets."""

from __future__ import annotations

import re

SECRET_NAME = re.compile(r"passw(or)?d|passphrase|secret|token|api_?key|private_?key|credential|\bdsn\b", re.I)
SECRET_VALUE = re.compile(
    r"://[^/\s:@]*:[^/\s@]+@|\bpassword\s*=|-----BEGIN [A-Z ]*PRIVATE KEY|\bpscale_(pw|tkn)_", re.I
)
