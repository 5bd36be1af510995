"""Of each type, values that became a text that is none of that type come back from what was captured."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from budget import sample
from servers import Server
from undo_data_stage import Conn, Way, database, texts

MADE = """
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TYPE pair AS (a integer, b text);
CREATE DOMAIN word AS text CHECK (VALUE <> '');
CREATE DOMAIN even AS integer CHECK (VALUE % 2 = 0);
CREATE DOMAIN evens AS even[];
CREATE DOMAIN several AS text[];
"""
# Each type with a value.
TYPES = {
    "smallint": "3", "integer": "-7", "bigint": "9000000000", "numeric": "1.50", "numeric(9, 3)": "1.5", "real": "0.1",
    "double precision": "NaN", "boolean": "true", "text": "a", "varchar(20)": "x", "char(5)": "a", "name": "n",
    "bytea": "\\x00ff", "date": "2026-01-02", "time": "12:00", "timetz": "12:00+02", "timestamp": "2026-01-02 03:04",
    "timestamptz": "2026-01-02 03:04+00", "interval": "1 day", "uuid": "00000000-0000-0000-0000-00000000000a",
    "json": '{"a":  1}', "jsonb": '{"a": 1}', "inet": "10.0.0.1", "cidr": "10.0.0.0/8", "macaddr": "08:00:2b:01:02:03",
    "bit(3)": "101", "varbit": "1", "int4range": "[1,5)", "tsvector": "a", "point": "(1,2)", "oid": "5",
    "integer[]": "{7,NULL}", "text[]": "{a}", "varchar(2)[]": "{ab}",
    "uuid[]": "{00000000-0000-0000-0000-00000000000a}",
    "mood": "ok", "mood[]": "{ok,NULL}", "pair": "(1,x)", "pair[]": '{"(1,x)"}', "word": "w", "even": "2",
    "word[]": "{w}", "even[]": "{2,NULL}", "evens": "{2,4}", "evens[]": "{}", "several": "{a}",
    "mood[][]": "{{ok},{sad}}",
}  # fmt: skip


@pytest.fixture(scope="module")
def made(server: Server) -> Iterator[Conn]:
    """A database with the types."""
    with database(server, "column_types", MADE) as conn:
        yield conn


@pytest.fixture
def conn(made: Conn) -> Iterator[Conn]:
    """A connection to it: all that is done is rolled back."""
    with made.transaction(force_rollback=True):
        yield made


@pytest.mark.first_case
@pytest.mark.every_version
@pytest.mark.parametrize(("type_", "null"), sample([(each, null) for null in ("", " NOT NULL") for each in TYPES], 10))
def test_values_of_each_type_come_back(conn: Conn, type_: str, null: str) -> None:
    """Also those of domains and arrays, where no expression tells which texts are values; NULL where it may be."""
    conn.execute(f"CREATE TABLE t (id integer PRIMARY KEY, b {type_}{null})".encode())
    conn.execute(f"INSERT INTO t SELECT i, '{TYPES[type_]}' FROM generate_series(1, 5) AS i".encode())
    before = texts(conn, "t")
    way = Way(conn, "ALTER TABLE t ALTER COLUMN b TYPE text USING 'is ' || b::text")
    assert way.because == ""
    way.there()
    assert texts(conn, "t") != before
    way.back()
    assert texts(conn, "t") == before


@pytest.mark.first_case
@pytest.mark.every_version
@pytest.mark.parametrize(("old", "new", "value"), [("text", "text[]", "{a, b}"), ("text[]", "text", "{a,NULL}")])
def test_arrays_and_texts_are_different_types(conn: Conn, old: str, new: str, value: str) -> None:
    """The text of an array may be written in several ways: what was captured comes back as it was."""
    conn.execute(f"CREATE TABLE t (id integer PRIMARY KEY, b {old}); INSERT INTO t VALUES (1, '{value}')".encode())
    before = texts(conn, "t")
    way = Way(conn, f"ALTER TABLE t ALTER COLUMN b TYPE {new} USING b::{new}")
    way.there()
    way.back()
    assert texts(conn, "t") == before


@pytest.mark.first_case
@pytest.mark.every_version
@pytest.mark.parametrize("kind", ["DOMAIN {} AS text", "TYPE {} AS ENUM ('a')", "TYPE {} AS (a text)"])
def test_a_type_may_have_any_name(conn: Conn, kind: str) -> None:
    """Its owner may be anybody: nothing of the name is executed where its values are tried on the way back."""
    name = '"o\'$function$; DROP TABLE t; -- $$ {0} %s ""x"'
    value = "(a)" if kind.endswith("(a text)") else "a"
    conn.execute(f"CREATE {kind.replace('{}', name)}; CREATE TABLE t (id integer PRIMARY KEY, b {name})".encode())
    conn.execute(f"INSERT INTO t SELECT i, '{value}' FROM generate_series(1, 5) AS i".encode())
    before = texts(conn, "t")
    way = Way(conn, "ALTER TABLE t ALTER COLUMN b TYPE text USING 'is ' || b::text")
    assert way.because == ""
    way.there()
    way.back()
    assert texts(conn, "t") == before
