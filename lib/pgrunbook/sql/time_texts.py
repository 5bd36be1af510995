"""Texts of times: whether one names a zone, and whether it is a word for the moment in which it is read.

Source: https://www.postgresql.org/docs/current/datatype-datetime.html#DATATYPE-TIMEZONES
"""

from __future__ import annotations

import re

# Words in the text of a time that name no zone; "infinity", "epoch" and "now" mean the same instant in every zone.
NO_ZONE = frozenset(re.findall(
    r"\w+",
    "jan feb mar apr may jun jul aug sep sept oct nov dec january february march april june july august september "
    "october november december mon tue tues wed weds thu thur thurs fri sat sun monday tuesday wednesday thursday "
    "friday saturday sunday am pm ad bc t at on j jd julian today tomorrow yesterday allballs",
))  # fmt: skip
_SAME = ("infinity", "+infinity", "-infinity", "epoch", "now", "empty", "")
_OFFSET = re.compile(
    r"(?:\d:\d\d(?::\d\d(?:\.\d*)?)?|T\d+(?:\.\d*)?|\s)\s*[+-]\d{1,2}(?::?\d\d){0,2}\s*(?:AD|BC)?$", re.I
)
_WORD = re.compile(r"[A-Za-z][A-Za-z_/+-]*")
_PARTS = re.compile(r'[\[\](){},"]+')
# https://www.postgresql.org/docs/current/datatype-datetime.html#DATATYPE-DATETIME-SPECIAL-VALUES
_MOMENTS = frozenset({"now", "today", "tomorrow", "yesterday"})


def names_zone(value: str) -> bool:
    """Tell whether the text of a time, or each in that of a range or an array, names a zone or needs none."""
    parts = _PARTS.split(value) if value.lstrip()[:1] in tuple("[({") else [value]
    return all(_part_names_zone(part.strip()) for part in parts)


def is_moment(value: str) -> bool:
    """Tell whether a text is a word for a moment, which becomes a time when the statement is read."""
    return value.strip().lower() in _MOMENTS


def _part_names_zone(text: str) -> bool:
    if any(found[0].strip("+-").lower() not in NO_ZONE for found in _WORD.finditer(text)):
        return True
    return text.lower() in _SAME or _OFFSET.search(text) is not None
