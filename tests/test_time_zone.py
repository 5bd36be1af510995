"""Conversions by the session's TimeZone: for each pair of types and each text, a server says whether it is one."""

from __future__ import annotations

import itertools
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgrunbook.effects import time_zone
from pgrunbook.sql import time_texts
from servers import Server

ZONES = ("UTC", "Asia/Tokyo", "America/St_Johns", "Pacific/Chatham")
# A value of each type; a text of each other type converts to and fro. Those of the same day in every zone tell nothing.
VALUES = {
    "timestamptz": "'2026-03-05 23:30:00+00'", "timestamp": "'2026-03-05 23:30:00'", "date": "'2026-03-05'",
    "time": "'23:30:00'", "timetz": "'23:30:00+05'", "interval": "'1 day 02:00'",
    "tstzrange": "'[2026-03-05 23:30:00+00,2026-04-01 01:00:00+00)'", "tsrange": "'[2026-03-05 23:30:00,2026-04-01)'",
    "daterange": "'[2026-03-05,2026-04-01)'",
    "tstzmultirange": "'{[2026-03-05 23:30:00+00,2026-04-01 01:00:00+00)}'", "int4": "5", "int8": "5",
    "float8": "5.5", "numeric": "5", "json": "'5'", "jsonb": "'5'", "uuid": "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
    "bool": "true", "bytea": "'a'", "oid": "5", "regclass": "'pg_class'::regclass",
    "_timestamptz": "'{2026-03-05 23:30:00+00}'", "_timestamp": "'{2026-03-05 23:30:00}'", "_date": "'{2026-03-05}'",
    "_text": "'{2026-03-05 23:30:00}'",
}  # fmt: skip
TEXTS = ("text", "varchar", "bpchar")
# Texts of an instant, and of ranges and arrays of them.
LITERALS = [
    "2026-03-05", "2026-03-05 10:00", "2026-03-05 10:00:00.5", "20260305T100000", "March 5, 2026", "5-Mar-2026 4:05 AM",
    "2026-03-05 04:05 PM", "January 8, 99 BC", "Thu Mar 05 07:37:16 2026", "today", "tomorrow", "J2451187", "yesterday",
    "2026.064", "epoch", "infinity", "-infinity", "2026-03-05 10:00+02", "2026-03-05 10:00:00-05:30",
    "2026-03-05T10:00:00Z", "20260305T100000Z", "20260305T100000+02", "2026-03-05 10:00 UTC", "2026-03-05 10:00 PST",
    "2026-03-05 10:00 Europe/Rome", "2026-03-05 10:00:00.123+02", "2026-03-05 10:00 America/New_York",
    "2026-03-05 +02", "2026-03-05 04:05 PM +02", "January 8, 99 00:00+02 BC", "Thu Mar 05 07:37:16 2026 PST",
    "2026-03-05 10:00 +02:00:00",
]  # fmt: skip
RANGES = [
    "[2026-03-05,2026-03-06)",
    "[2026-03-05 00:00+00,)",
    "(,2026-03-06)",
    "empty",
    "(,)",
    '["2026-03-05 00:00:00+00","2026-03-06 00:00:00+00")',
    '["2026-03-05 00:00:00+00","2026-03-06 00:00:00")',
]


def of_zones(conn: psycopg.Connection[Any], query: str) -> set[object] | None:
    """Return what a query gives in the zones, None where the server has no such conversion."""
    found: set[object] = set()
    for zone in ZONES:
        try:
            with conn.transaction(force_rollback=True):
                conn.execute(sql.SQL("SET LOCAL TimeZone = {}").format(sql.Literal(zone)))
                (value,) = conn.execute(query).fetchone() or (None,)
                found.add(bytes(value))
        except (psycopg.errors.CannotCoerce, psycopg.errors.UndefinedFunction, psycopg.errors.DataError):
            return None
    return found


def sent(conn: psycopg.Connection[Any], expression: str, type_: str) -> set[object] | None:
    (send,) = conn.execute("SELECT typsend::text FROM pg_type WHERE typname = %s", [type_]).fetchone() or ("",)
    return of_zones(conn, f"SELECT {send}({expression})")


@pytest.mark.slow
@pytest.mark.every_version
def test_each_conversion_by_the_zone_is_known(server: Server) -> None:
    """Every pair of types: those of times, of texts, and some of the others; arrays and ranges among them."""
    judged = 0
    with server.connect("postgres") as conn:
        for old, new in itertools.product(VALUES, VALUES):
            found = sent(conn, f"({VALUES[old]}::{old})::{new}", new)
            if found is not None and old != new:
                judged += 1
                assert time_zone.depends(old, new) is (len(found) > 1), (old, new)
        for text, (type_, value) in itertools.product(TEXTS, VALUES.items()):
            # A text that names no zone depends on it where the type holds one.
            plain = value.replace("+00", "").replace("+05", "")
            for old, new, expression in (
                (text, type_, f"({plain}::{text})::{type_}"), (type_, text, f"({value}::{type_})::{text}"),
            ):  # fmt: skip
                found = sent(conn, expression, new)
                if found is not None:
                    judged += 1
                    assert time_zone.depends(old, new) is (len(found) > 1), (old, new)
        # No cast of the server by a function that depends on settings is left out, but for those to regclass.
        stable = conn.execute(
            "SELECT s.typname, t.typname FROM pg_cast AS c JOIN pg_proc AS p ON p.oid = c.castfunc"
            " JOIN pg_type AS s ON s.oid = c.castsource JOIN pg_type AS t ON t.oid = c.casttarget"
            " WHERE p.provolatile <> 'i' AND c.castsource <> c.casttarget AND t.typname !~ '^(reg|xml|money)'"
            " AND s.typname <> 'money'"
        ).fetchall()
    assert judged > 150
    assert stable
    assert all(time_zone.depends(str(old), str(new)) for old, new in stable), stable


@pytest.mark.parametrize(("type_", "values"), [("timestamptz", LITERALS), ("tstzrange", RANGES)])
def test_a_text_that_names_its_zone_is_told_from_one_that_does_not(
    type_: str, values: list[str], newest: Server
) -> None:
    """As the server reads it."""
    with newest.connect("postgres") as conn:
        for value in values:
            found = sent(conn, f"{sql.Literal(value).as_string()}::{type_}", type_)
            assert found is not None, value
            assert time_texts.names_zone(value) is (len(found) == 1), value


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "-7", "INTERVAL '+05:30' HOUR TO MINUTE", "UTC"])
def test_the_form_that_names_the_zone_gives_what_the_session_would(zone: str, newest: Server) -> None:
    """For each pair that has one; and it depends on no session any more."""
    with newest.connect("postgres") as conn:
        for old, new in time_zone._FORMS:
            value = VALUES.get(old, "'2026-03-05 23:30:00'")
            form = time_zone.without_session(f"({value}::{old})", old, new, time_zone.zone_sql(zone))
            with conn.transaction(force_rollback=True):
                conn.execute(f"SET LOCAL TIME ZONE {zone if zone[0] in '-I' else repr(zone)}")
                wanted = conn.execute(f"SELECT ({value}::{old})::{new} = ({form})::{new}").fetchone()
            if new != "text":  # the text of an instant has its offset, too
                assert wanted == (True,), (old, new, form)
            assert len(sent(conn, f"({form})::{new}", new) or ()) == 1, form
