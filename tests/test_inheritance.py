"""Columns of tables that others inherit from come back with the values of each table, and with what is inherited."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from inverse_stage import is_told
from pgrunbook.database import checksums, schema
from pgrunbook.database.schema_diff import diff
from servers import Server
from undo_data_stage import Conn, Way, database, texts

# ruff: noqa: E501 - one statement on a line, whatever its length

BASE = """
CREATE TABLE top (id integer PRIMARY KEY, a text DEFAULT 'x', b numeric(9, 2) NOT NULL DEFAULT 0, g integer GENERATED ALWAYS AS (id * 2) STORED);
CREATE TABLE side (z integer DEFAULT 7 PRIMARY KEY, a text);
CREATE TABLE kid (k integer, UNIQUE (id)) INHERITS (top);
ALTER TABLE kid ALTER COLUMN id SET NOT NULL;
CREATE TABLE grandkid (PRIMARY KEY (id)) INHERITS (kid);
CREATE TABLE own (id integer PRIMARY KEY, a text, b numeric(9, 2) DEFAULT 7) INHERITS (top);
CREATE TABLE mixed (PRIMARY KEY (id), UNIQUE (z)) INHERITS (top, side);
CREATE INDEX ON kid (a);
CREATE VIEW seen AS SELECT id, a FROM kid;
INSERT INTO top SELECT i, 'top' || i, i + 0.25 FROM generate_series(1, 3) AS i;
INSERT INTO kid SELECT i, 'kid' || i, i + 0.25 FROM generate_series(1, 3) AS i;
INSERT INTO grandkid SELECT i, 'grandkid' || i, i + 0.25 FROM generate_series(1, 3) AS i;
INSERT INTO own SELECT i, 'own' || i, i + 0.25 FROM generate_series(1, 3) AS i;
INSERT INTO mixed (id, a, b, z) SELECT i, 'both' || i, i + 0.25, i FROM generate_series(1, 3) AS i;
"""
# What is done, and what is written then; of the values of the column, those of rows 1 come back.
CASES = {
    "a column": "ALTER TABLE top DROP COLUMN a CASCADE",
    "a column with NOT NULL": "ALTER TABLE top DROP COLUMN b",
    "columns": "ALTER TABLE top DROP COLUMN a CASCADE, DROP COLUMN b",
    "of one parent of two": "ALTER TABLE side DROP COLUMN a",
    "in the middle": "ALTER TABLE kid DROP COLUMN k",
    "a generated column": "ALTER TABLE top DROP COLUMN g",
    "a column of the parent only": "ALTER TABLE ONLY top DROP COLUMN a",
    "a column with NOT NULL of the parent only": "ALTER TABLE ONLY top DROP COLUMN b",
    "a type": "ALTER TABLE top ALTER COLUMN b TYPE integer",
    "NOT NULL": "ALTER TABLE top ALTER COLUMN b DROP NOT NULL",
    "NOT NULL of the parent only": "ALTER TABLE ONLY top ALTER COLUMN b DROP NOT NULL",
}


@pytest.fixture
def own(server: Server) -> Iterator[Conn]:
    """A connection to a family of tables."""
    with database(server, "own_family", BASE) as conn:
        yield conn


@pytest.mark.first_case
@pytest.mark.parametrize("batch_rows", [1_000, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", CASES)
def test_what_is_inherited_comes_back(own: Conn, case: str, batch_rows: int) -> None:
    """Each table has its own values again; what cannot be as it was is declared."""
    before, sums = schema.snapshot(own), checksums.checksums(own)
    way = Way(own, CASES[case], batch_rows)
    assert way.because == ""
    way.there()
    way.back()
    assert [d.line() for d in diff(before, schema.snapshot(own)) if not is_told(d, way.undo)] == []
    assert checksums.checksums(own) == sums


@pytest.mark.slow
@pytest.mark.newest
def test_what_is_written_meanwhile_stays_with_its_row(own: Conn) -> None:
    """In each table of the family: a row that is deleted, one with another key, and one that is new."""
    tables = ("top", "kid", "grandkid", "mixed")
    way = Way(own, "ALTER TABLE top DROP COLUMN b")
    way.there()
    for table in tables:
        own.execute(f"DELETE FROM ONLY {table} WHERE id = 2; UPDATE ONLY {table} SET id = 9 WHERE id = 3;"
                    f"INSERT INTO {table} (id, a) VALUES (2, 'new')".encode())  # fmt: skip
    way.back()
    for table in tables:
        found = own.execute(f"SELECT id, b FROM ONLY {table} ORDER BY id".encode()).fetchall()
        assert [(id_, str(b)) for id_, b in found] == [(1, "1.25"), (2, "0.00"), (9, "3.25")]


def test_a_child_without_a_key_says_why(own: Conn) -> None:
    """No other table's key tells its rows."""
    own.execute("CREATE TABLE keyless () INHERITS (top)")
    way = Way(own, "ALTER TABLE top DROP COLUMN b")
    assert way.because == "It cannot be undone, because public.keyless has no unique key without this column."
    assert texts(own, "top") != []
