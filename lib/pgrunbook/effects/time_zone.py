"""Conversions between types whose result depends on the session's TimeZone; review and gates ask.

Which they are is a matter of few types: a server converts between the others without a zone. The tests ask servers
for each pair of types.
Source: https://www.postgresql.org/docs/current/datatype-datetime.html#DATATYPE-TIMEZONES
"""

from __future__ import annotations

import re

from pgrunbook.sql.tree import quoted

# The type of a string constant that nothing has given a type yet, and that of an instant which was computed from a
# date and in the session's zone: back to a date or a timestamp it is the same in every zone.
LITERAL, LOCAL = "unknown", "local timestamptz"
INSTANT = "timestamptz"
_TEXTS = {"text", "varchar", "bpchar", "name", "char", "citext", LITERAL}
_FROM_TEXT = {INSTANT, "timetz", "tstzrange", "tstzmultirange"}
_TO_TEXT = {INSTANT, LOCAL, "tstzrange", "tstzmultirange"}
_PAIRS = {
    ("timestamp", INSTANT), ("date", INSTANT), (INSTANT, "timestamp"), (INSTANT, "date"), (INSTANT, "time"),
    (INSTANT, "timetz"), ("time", "timetz"), (LOCAL, INSTANT),
}  # fmt: skip
# The same without the session's zone, where there is such a form: {0} is the value, {1} the zone.
_FORMS = {
    ("timestamp", INSTANT): "{0} AT TIME ZONE {1}", ("date", INSTANT): "{0}::timestamp AT TIME ZONE {1}",
    (INSTANT, "timestamp"): "{0} AT TIME ZONE {1}", (INSTANT, "date"): "({0} AT TIME ZONE {1})::date",
    (INSTANT, "time"): "({0} AT TIME ZONE {1})::time",
    ("text", INSTANT): "{0}::timestamp AT TIME ZONE {1}", (INSTANT, "text"): "({0} AT TIME ZONE {1})::text",
}  # fmt: skip


def depends(old: str, new: str) -> bool:
    """Tell whether a value of one type becomes another one of the other type under another TimeZone.

    Types have their internal names, without domains; an array's begins with "_".
    """
    if old.startswith("_") and new.startswith("_"):
        old, new = old[1:], new[1:]
    if old in _TEXTS:
        return new.removeprefix("_") in _FROM_TEXT
    if new in _TEXTS:
        return old.removeprefix("_") in _TO_TEXT
    return (old, new) in _PAIRS


def without_session(value: str, old: str, new: str, zone: str) -> str | None:
    """Return the expression that converts a value by a zone that it names, None where there is no such form."""
    form = _FORMS.get(("text" if old in _TEXTS else old, "text" if new in _TEXTS else new))
    return None if form is None else form.format(value, zone)


def zone_sql(zone: str | None) -> str:
    """Return a setting of TimeZone as AT TIME ZONE takes it; 'zone' for one that is not known."""
    if zone is None:
        return "'zone'"
    if re.fullmatch(r"[+-]?\d+(\.\d+)?", zone):  # hours east of Greenwich; in a text they would be west
        return f"INTERVAL '{zone}' HOUR"
    return zone if zone.upper().startswith("INTERVAL") else "'" + zone.replace("'", "''") + "'"


def alteration(table: str, column: str, old: str, new: str, type_: str, zone: str | None) -> str:
    """Return the statement that changes the type of a column by a zone which it names, or sets before."""
    head = f"ALTER TABLE {table} ALTER COLUMN {quoted(column)} TYPE {type_}"
    form = without_session(quoted(column), old, new, zone_sql(zone))
    return f"{head} USING {form};" if form else f"{setting(zone)}\n{head};"


def setting(zone: str | None) -> str:
    """Return the statement that sets the zone for the others of its transaction."""
    return f"SET LOCAL TIME ZONE {zone_sql(zone)};"
