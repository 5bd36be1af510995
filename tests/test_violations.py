"""The rows of today that violate what a rollback would restore: counted, shown and refused before anything is changed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from budget import examples, sample
from pgrunbook.errors import Blocked, Refused
from pgrunbook.inverse.inverter import Inverter
from pgrunbook.sql.statements import parse
from pgrunbook.violations.violations import Violation, find, refuse
from servers import Server

# ruff: noqa: E501 - one statement on a line, whatever its length

Conn = psycopg.Connection[tuple[Any, ...]]

BASE = """
CREATE SCHEMA app
CREATE TYPE app.mood AS ENUM ('sad', 'ok', 'glad')
CREATE DOMAIN app.positive AS integer
CREATE DOMAIN app.small AS app.positive
CREATE DOMAIN app.given AS integer NOT NULL
CREATE TABLE app.users (id bigint PRIMARY KEY, email text, note text, age bigint, big numeric, mood app.mood, moods app.mood[], made timestamptz, years app.positive, few app.small, "Odd Col" text)
INSERT INTO app.users VALUES (1, 'a@x', 'short', 5, 1.5, 'ok', '{ok}', '2026-01-01 00:00+00', 5, 5, 'x'), (2, 'A@x', 'much too long for nine', 3000000000, 1.555, 'glad', '{sad,glad}', '2026-01-01 12:00+00', -3, 20, 'y'), (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL), (4, 'a@x', '12', 4, 1000000000.25, 'sad', '{NULL}', '2026-02-01 00:00+00', 7, NULL, 'x')
CREATE TABLE app.orders (a integer, b text, user_id bigint, total integer, PRIMARY KEY (a, b))
INSERT INTO app.orders VALUES (1, 'p', 1, 10), (2, 'p', 9, -5), (2, 'q', NULL, NULL), (3, 'r', 4, 0)
CREATE TABLE app.lines (a integer, b text, parent integer, n integer)
INSERT INTO app.lines VALUES (1, 'p', NULL, 1), (2, NULL, 1, 2), (7, 'p', 5, 3), (NULL, NULL, NULL, 4)
CREATE TABLE app.rooms (id integer PRIMARY KEY, room integer, at int4range, off boolean)
INSERT INTO app.rooms VALUES (1, 1, '[1,5)', false), (2, 1, '[4,8)', false), (3, 2, '[4,8)', false), (4, 1, '[7,9)', true)
CREATE TABLE app.log (id bigint, at date NOT NULL, kind text) PARTITION BY RANGE (at)
CREATE TABLE app.log_1 PARTITION OF app.log FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')
CREATE TABLE app.log_rest PARTITION OF app.log DEFAULT
CREATE TABLE app.log_2 (id bigint, at date NOT NULL, kind text)
INSERT INTO app.log VALUES (1, '2025-03-01', 'a'), (2, '2025-04-01', NULL), (3, '2026-05-01', 'c'), (4, '2027-05-01', 'd')
INSERT INTO app.log_2 VALUES (5, '2026-01-01', 'a'), (6, '2027-01-01', 'b'), (7, '2025-12-31', NULL)
CREATE TABLE app.parts (k integer, c text) PARTITION BY LIST (c)
CREATE TABLE app.parts_a PARTITION OF app.parts FOR VALUES IN ('a', 'b')
CREATE TABLE app.parts_b (k integer, c text)
INSERT INTO app.parts VALUES (1, 'a'), (2, 'b')
INSERT INTO app.parts_b VALUES (3, 'c'), (4, NULL), (5, 'd'), (6, 'a')
CREATE TABLE app.pieces (k integer, c text) PARTITION BY HASH (k)
CREATE TABLE app.pieces_0 (k integer, c text)
INSERT INTO app.pieces_0 SELECT i, 'x' FROM generate_series(1, 9) AS i
CREATE TABLE app.pairs (x integer, y integer) PARTITION BY RANGE (x, y)
CREATE TABLE app.pairs_1 (x integer, y integer)
INSERT INTO app.pairs_1 VALUES (1, 0), (1, 5), (2, 3), (3, 2), (3, 3), (NULL, 1)
CREATE TABLE app.animal (id integer, legs integer)
CREATE TABLE app.bird () INHERITS (app.animal)
INSERT INTO app.animal VALUES (1, 4)
INSERT INTO app.bird VALUES (1, NULL), (3, 2)
CREATE TABLE app."Table x" ("Id" integer PRIMARY KEY, "select" text)
INSERT INTO app."Table x" VALUES (1, 'a'), (2, NULL)
CREATE TABLE app.empty (id integer)
ALTER DOMAIN app.positive ADD CONSTRAINT under_ten CHECK (VALUE < 10) NOT VALID
ALTER TABLE app.orders ADD CONSTRAINT unsure CHECK (total > 0) NOT VALID
ALTER TABLE app.orders ADD CONSTRAINT unsure_user FOREIGN KEY (user_id) REFERENCES app.users NOT VALID
""".strip().split("\n")


@pytest.fixture(scope="session")
def home(server: Server) -> Server:
    """A server with a database for the tables of ``BASE``, which no test changes for good."""
    server.database("against", *BASE, "GRANT USAGE ON SCHEMA app TO runbook_reader")
    return server


@pytest.fixture(scope="session")
def conn(home: Server) -> Iterator[Conn]:
    """A connection in whose session nothing is limited, and nothing is left behind."""
    with home.connect("against") as conn:
        yield conn


def look(conn: Conn, *statements: str, **options: Any) -> list[Violation]:
    """Ask for the violations of statements of one migration."""
    return find(conn, [("0007_shop", statement) for statement in statements], **options)


def accepts(conn: Conn, *statements: str) -> bool:
    """Tell whether the server executes statements, and roll them back."""
    try:
        with conn.transaction(force_rollback=True):
            for statement in statements:
                conn.execute(statement)
    except psycopg.Error:
        return False
    return True


# A statement, and each thing that it demands with the number of rows against it and their samples.
SCENES: Mapping[str, list[tuple[str, int, tuple[str, ...]]]] = {
    "ALTER TABLE app.orders ADD CONSTRAINT positive CHECK (total > 0)": [
        ('constraint "positive" of app.orders', 2, ("a 2, b p: total -5", "a 3, b r: total 0"))
    ],
    "ALTER TABLE app.orders ADD CHECK (total > -9)": [("CHECK constraint of app.orders", 0, ())],
    "ALTER TABLE app.orders ADD CONSTRAINT positive CHECK (total > 0) NOT VALID": [],
    'ALTER TABLE app."Table x" ADD CONSTRAINT "Odd" CHECK ("Table x"."select" <> \'a\')': [
        ('constraint "Odd" of app."Table x"', 1, ("Id 1: select a",))
    ],
    "ALTER TABLE app.animal ADD CONSTRAINT two CHECK (legs > 2 OR legs IS NULL)": [
        ('constraint "two" of app.animal', 1, ("ctid (0,2): legs 2",))
    ],
    "ALTER TABLE app.animal ADD CONSTRAINT two CHECK (legs > 2) NO INHERIT": [('constraint "two" of app.animal', 0, ())],
    "ALTER TABLE app.log ADD CONSTRAINT kinds CHECK (kind <> 'c')": [('constraint "kinds" of app.log', 1, ("ctid (0,1): kind c",))],
    "ALTER TABLE app.users ALTER COLUMN email SET NOT NULL": [("NOT NULL of app.users.email", 1, ("id 3: email NULL",))],
    "ALTER TABLE app.orders ALTER COLUMN a SET NOT NULL": [("NOT NULL of app.orders.a", 0, ())],
    "ALTER TABLE app.animal ALTER COLUMN legs SET NOT NULL": [("NOT NULL of app.animal.legs", 1, ("ctid (0,1): legs NULL",))],
    "ALTER TABLE app.users ADD CONSTRAINT users_email UNIQUE (email)": [
        ('constraint "users_email" of app.users', 2, ("id 1: email a@x", "id 4: email a@x"))
    ],
    "ALTER TABLE app.users ADD UNIQUE (note)": [("UNIQUE constraint of app.users", 0, ())],
    "CREATE UNIQUE INDEX lower_email ON app.users (lower(email))": [
        ('unique index "lower_email" of app.users', 3, ("id 1: email a@x", "id 2: email A@x", "id 4: email a@x"))
    ],
    "CREATE UNIQUE INDEX ON app.users (lower(email) COLLATE \"C\" DESC) WHERE \"Odd Col\" = 'x'": [
        ("unique index of app.users", 2, ("id 1: email a@x", "id 4: email a@x"))
    ],
    "CREATE UNIQUE INDEX ON app.users (email) WHERE id > 1": [("unique index of app.users", 0, ())],
    "CREATE UNIQUE INDEX ON app.lines (b, parent)": [("unique index of app.lines", 0, ())],
    "CREATE UNIQUE INDEX ON app.lines (b) NULLS NOT DISTINCT": [
        ("unique index of app.lines", 4, ("ctid (0,1): b p", "ctid (0,2): b NULL", "ctid (0,3): b p", "ctid (0,4): b NULL"))
    ],
    "CREATE INDEX ON app.users (email)": [],
    "CREATE UNIQUE INDEX ON app.log (at)": [("unique index of app.log", 0, ())],
    "CREATE UNIQUE INDEX ON ONLY app.log (at)": [],
    "ALTER TABLE app.animal ADD UNIQUE (id)": [("UNIQUE constraint of app.animal", 0, ())],
    "ALTER TABLE app.lines ADD CONSTRAINT k PRIMARY KEY (a, b)": [
        ("NOT NULL of app.lines.a", 1, ("ctid (0,4): a NULL",)),
        ("NOT NULL of app.lines.b", 2, ("ctid (0,2): b NULL", "ctid (0,4): b NULL")),
        ('constraint "k" of app.lines', 0, ()),
    ],
    "ALTER TABLE app.rooms ADD CONSTRAINT apart EXCLUDE USING gist (at WITH &&) WHERE (NOT off)": [
        ('constraint "apart" of app.rooms', 3, ("id 1: at [1,5)", "id 2: at [4,8)", "id 3: at [4,8)"))
    ],
    "ALTER TABLE app.rooms ADD CONSTRAINT apart EXCLUDE USING gist (at WITH OPERATOR(pg_catalog.&&), int4range(room, room + 1) WITH =) WHERE (NOT off)": [
        ('constraint "apart" of app.rooms', 2, ("id 1: at [1,5), room 1", "id 2: at [4,8), room 1"))
    ],
    "ALTER TABLE app.orders ADD CONSTRAINT u FOREIGN KEY (user_id) REFERENCES app.users ON DELETE CASCADE": [
        ('constraint "u" of app.orders', 1, ("a 2, b p: user_id 9",))
    ],
    "ALTER TABLE app.orders ADD FOREIGN KEY (user_id) REFERENCES app.users (id) NOT VALID": [],
    "ALTER TABLE app.lines ADD FOREIGN KEY (a, b) REFERENCES app.orders": [
        ("FOREIGN KEY constraint of app.lines", 1, ("ctid (0,3): a 7, b p",))
    ],
    "ALTER TABLE app.lines ADD FOREIGN KEY (a, b) REFERENCES app.orders (a, b) MATCH FULL": [
        ("FOREIGN KEY constraint of app.lines", 2, ("ctid (0,2): a 2, b NULL", "ctid (0,3): a 7, b p"))
    ],
    "ALTER TABLE app.orders VALIDATE CONSTRAINT unsure": [
        ('constraint "unsure" of app.orders', 2, ("a 2, b p: total -5", "a 3, b r: total 0"))
    ],
    "ALTER TABLE app.orders VALIDATE CONSTRAINT unsure_user": [
        ('constraint "unsure_user" of app.orders', 1, ("a 2, b p: user_id 9",))
    ],
    "ALTER TABLE app.users ADD COLUMN x integer NOT NULL": [
        ("NOT NULL of app.users.x", 4, ("id 1", "id 2", "id 3", "id 4"))
    ],
    "ALTER TABLE app.empty ADD COLUMN x integer NOT NULL": [("NOT NULL of app.empty.x", 0, ())],
    "ALTER TABLE app.users ADD COLUMN x integer NOT NULL DEFAULT 3 CHECK (x > 3)": [
        ("NOT NULL of app.users.x", 0, ()),
        ("CHECK constraint of app.users", 4, ("id 1", "id 2", "id 3", "id 4")),
    ],
    "ALTER TABLE app.users ADD COLUMN x integer DEFAULT 3 UNIQUE REFERENCES app.users": [
        ("UNIQUE constraint of app.users", 4, ("id 1", "id 2", "id 3", "id 4")),
        ("FOREIGN KEY constraint of app.users", 0, ()),
    ],
    "ALTER TABLE app.users ADD COLUMN x bigserial, ADD COLUMN y bigint GENERATED ALWAYS AS IDENTITY": [],
    "ALTER TABLE app.users ADD COLUMN x bigint GENERATED ALWAYS AS (age * 2) STORED NOT NULL": [
        ("NOT NULL of app.users.x", 1, ("id 3: age NULL",))
    ],
    "ALTER TABLE app.users ADD COLUMN x app.given": [("type app.given of app.users.x", 4, ("id 1", "id 2", "id 3", "id 4"))],
    "ALTER TABLE app.users ADD COLUMN x app.given DEFAULT 1": [("type app.given of app.users.x", 0, ())],
    "ALTER TABLE app.users ADD COLUMN x app.given DEFAULT 1, ALTER COLUMN x SET NOT NULL": [
        ("type app.given of app.users.x", 0, ()),
        ("NOT NULL of app.users.x", 0, ()),
    ],
    "ALTER TABLE app.users ALTER COLUMN age TYPE integer": [("type integer of app.users.age", 1, ("id 2: age 3000000000",))],
    "ALTER TABLE app.users ALTER COLUMN note TYPE varchar(9)": [
        ("type varchar(9) of app.users.note", 1, ("id 2: note much too long for nine",))
    ],
    "ALTER TABLE app.users ALTER COLUMN note TYPE varchar(50)": [("type varchar(50) of app.users.note", 0, ())],
    "ALTER TABLE app.users ALTER COLUMN note TYPE varchar(5) USING upper(note)": [
        ("type varchar(5) of app.users.note", 1, ("id 2: note much too long for nine",))
    ],
    "ALTER TABLE app.users ALTER COLUMN note TYPE integer USING length(note)": [("type integer of app.users.note", 0, ())],
    "ALTER TABLE app.users ALTER COLUMN note TYPE integer USING note::text::integer": [
        ("type integer of app.users.note", 2, ("id 1: note short", "id 2: note much too long for nine"))
    ],
    "ALTER TABLE app.users ALTER COLUMN big TYPE numeric(10, 2)": [
        ("type numeric(10, 2) of app.users.big", 2, ("id 2: big 1.555", "id 4: big 1000000000.25"))
    ],
    "ALTER TABLE app.users ALTER COLUMN big TYPE numeric(20, 3)": [("type numeric(20, 3) of app.users.big", 0, ())],
    "ALTER TABLE app.users ALTER COLUMN made TYPE date": [
        ("type date of app.users.made", 1, ("id 2: made 2026-01-01 12:00:00+00",))
    ],
    "ALTER TABLE app.users ALTER COLUMN mood TYPE text": [("type text of app.users.mood", 0, ())],
    "ALTER TABLE app.users ALTER COLUMN age TYPE app.given": [
        ("type app.given of app.users.age", 2, ("id 2: age 3000000000", "id 3: age NULL"))
    ],
    "ALTER DOMAIN app.positive ADD CONSTRAINT above CHECK (VALUE > 0)": [
        ('constraint "above" of domain app.positive in app.users.years', 1, ("id 2: years -3",)),
        ('constraint "above" of domain app.positive in app.users.few', 0, ()),
    ],
    "ALTER DOMAIN app.positive ADD CONSTRAINT above CHECK (VALUE > 0) NOT VALID": [],
    "ALTER DOMAIN app.small SET NOT NULL": [
        ("NOT NULL of domain app.small in app.users.few", 2, ("id 3: few NULL", "id 4: few NULL"))
    ],
    "ALTER DOMAIN app.positive VALIDATE CONSTRAINT under_ten": [
        ('constraint "under_ten" of domain app.positive in app.users.years', 0, ()),
        ('constraint "under_ten" of domain app.positive in app.users.few', 1, ("id 2: few 20",)),
    ],
    "ALTER DOMAIN app.positive DROP CONSTRAINT under_ten": [],
    "ALTER TABLE app.log ATTACH PARTITION app.log_2 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')": [
        ("partition app.log_2 of app.log", 2, ("ctid (0,2): at 2027-01-01", "ctid (0,3): at 2025-12-31")),
        ("partition app.log_2 of app.log", 1, ("ctid (0,1): at 2026-05-01",)),
    ],
    "ALTER TABLE app.log ATTACH PARTITION app.log_2 FOR VALUES FROM (MINVALUE) TO ('2025-01-01')": [
        ("partition app.log_2 of app.log", 3, ("ctid (0,1): at 2026-01-01", "ctid (0,2): at 2027-01-01", "ctid (0,3): at 2025-12-31")),
        ("partition app.log_2 of app.log", 0, ()),
    ],
    "CREATE TABLE app.log_3 PARTITION OF app.log FOR VALUES FROM ('2027-01-01') TO (MAXVALUE)": [
        ("partition app.log_3 of app.log", 1, ("ctid (0,2): at 2027-05-01",))
    ],
    "ALTER TABLE app.parts ATTACH PARTITION app.parts_b FOR VALUES IN ('c', NULL)": [
        ("partition app.parts_b of app.parts", 2, ("ctid (0,3): c d", "ctid (0,4): c a"))
    ],
    "ALTER TABLE app.parts ATTACH PARTITION app.parts_b DEFAULT": [("partition app.parts_b of app.parts", 1, ("ctid (0,4): c a",))],
    "ALTER TABLE app.pieces ATTACH PARTITION app.pieces_0 FOR VALUES WITH (MODULUS 1, REMAINDER 0)": [
        ("partition app.pieces_0 of app.pieces", 0, ())
    ],
    "ALTER TABLE app.pairs ATTACH PARTITION app.pairs_1 FOR VALUES FROM (1, 5) TO (3, 3)": [
        ("partition app.pairs_1 of app.pairs", 3, ("ctid (0,1): x 1, y 0", "ctid (0,5): x 3, y 3", "ctid (0,6): x NULL, y 1"))
    ],
    "ALTER TABLE app.pairs ATTACH PARTITION app.pairs_1 FOR VALUES FROM (1, MAXVALUE) TO (3, MINVALUE)": [
        ("partition app.pairs_1 of app.pairs", 5, ("ctid (0,1): x 1, y 0", "ctid (0,2): x 1, y 5", "ctid (0,4): x 3, y 2", "ctid (0,5): x 3, y 3", "ctid (0,6): x NULL, y 1"))
    ],
    "ALTER TABLE app.users DROP COLUMN note": [],
    "UPDATE app.users SET note = 'x'": [],
}  # fmt: skip
ROUNDED = ("made TYPE date", "numeric(10, 2)")


@pytest.mark.parametrize("statement", sample(SCENES, 4))
def test_rows_that_stand_against_a_statement_are_counted_and_shown(conn: Conn, statement: str) -> None:
    """Each kind of demand, with rows for and against it; the server refuses what has rows against it."""
    found = look(conn, statement)
    assert [(one.what, one.rows, one.samples) for one in found] == SCENES[statement]
    assert all(one.says == "no row violates it" for one in found if one.rows == 0)
    if not any(word in statement for word in ROUNDED):
        assert accepts(conn, statement) == all(one.rows == 0 for one in found)


ONLY_18: Mapping[str, list[tuple[str, int, tuple[str, ...]]]] = {
    "ALTER TABLE app.users ADD CONSTRAINT given NOT NULL email": [("NOT NULL of app.users.email", 1, ("id 3: email NULL",))],
    "ALTER TABLE app.users ADD CONSTRAINT given NOT NULL email NOT VALID": [],
    "ALTER TABLE app.orders ADD CONSTRAINT positive CHECK (total > 0) NOT ENFORCED": [],
    "ALTER TABLE app.rooms ADD CONSTRAINT free UNIQUE (room, at WITHOUT OVERLAPS)": [
        ('constraint "free" of app.rooms', 3, ("id 1: room 1, at [1,5)", "id 2: room 1, at [4,8)", "id 4: room 1, at [7,9)"))
    ],
    "ALTER TABLE app.stays ADD FOREIGN KEY (room, PERIOD at) REFERENCES app.free (room, PERIOD at)": [
        ("FOREIGN KEY constraint of app.stays", 2, ("id 2: room 1, at [2,7)", "id 3: room 3, at [1,2)"))
    ],
    "ALTER TABLE app.users ALTER COLUMN doubled SET EXPRESSION AS (age * 3)": [],
    "ALTER TABLE app.users ALTER COLUMN doubled SET NOT NULL": [("NOT NULL of app.users.doubled", 1, ("id 3: doubled NULL",))],
}  # fmt: skip
MADE_ON_18 = """
CREATE TABLE app.free (room int4range, at int4range, PRIMARY KEY (room, at WITHOUT OVERLAPS))
INSERT INTO app.free VALUES ('[1,2)', '[1,3)'), ('[1,2)', '[3,6)'), ('[2,3)', '[1,9)')
CREATE TABLE app.stays (id integer PRIMARY KEY, room int4range, at int4range)
INSERT INTO app.stays VALUES (1, '[1,2)', '[2,5)'), (2, '[1,2)', '[2,7)'), (3, '[3,4)', '[1,2)'), (4, NULL, '[1,2)')
ALTER TABLE app.users ADD COLUMN doubled bigint GENERATED ALWAYS AS (age * 2) VIRTUAL
""".strip().split("\n")


@pytest.mark.parametrize("statement", ONLY_18)
def test_what_later_servers_know_is_counted_too(home: Server, conn: Conn, statement: str) -> None:
    """NOT NULL as a constraint, periods, constraints that are not enforced, virtual columns."""
    if home.version < 18:
        pytest.skip("from PostgreSQL 18 on")
    with conn.transaction(force_rollback=True):
        for made in MADE_ON_18:
            conn.execute(made)
        found = [(one.what, one.rows, one.samples) for one in look(conn, statement)]
        told = [
            (what, rows, tuple(s.replace("[1,2), at", "1, at").replace("[3,4), at", "3, at") for s in samples))
            for what, rows, samples in found
        ]
        assert told == ONLY_18[statement]


def nothing() -> str:
    """No row is without a kept value."""
    return "false"


def two() -> str:
    """Two rows are without a kept value."""
    return "t.id IN (SELECT id FROM app.users ORDER BY id LIMIT 2)"


Kept = Mapping[tuple[str, str], Any]
KEPT: Kept = {("app.users", "x"): two, ("app.users", '"Odd Col"'): nothing, ("app.users", "note"): nothing}

# Statements in order, and what the last one demands: rows, and the sentence where they cannot be told.
ORDERS: list[tuple[list[str], list[tuple[str, int | None, str]]]] = [
    (
        ["ALTER TABLE app.users RENAME TO people", "ALTER TABLE app.people RENAME COLUMN email TO mail", "ALTER TABLE app.people ADD CONSTRAINT m CHECK (mail <> 'A@x')"],
        [('constraint "m" of app.people', 1, "1 row violates it")],
    ),
    (
        ["ALTER TABLE app.users SET SCHEMA public", "ALTER TABLE app.orders ADD CONSTRAINT u FOREIGN KEY (user_id) REFERENCES users"],
        [('constraint "u" of app.orders', 1, "1 row references no row of public.users")],
    ),
    (
        ["ALTER TABLE app.users RENAME id TO key", "ALTER TABLE app.orders ADD FOREIGN KEY (user_id) REFERENCES app.users"],
        [("FOREIGN KEY constraint of app.orders", 1, "1 row references no row of app.users")],
    ),
    (
        ["ALTER TABLE app.animal RENAME legs TO feet", "ALTER TABLE app.bird ALTER feet SET NOT NULL"],
        [("NOT NULL of app.bird.feet", 1, "1 row holds NULL")],
    ),
    (
        ["ALTER TABLE app.bird ALTER id DROP NOT NULL", "ALTER TABLE app.animal RENAME legs TO feet", "ALTER TABLE app.bird ADD CHECK (feet > 2)"],
        [("CHECK constraint of app.bird", 1, "1 row violates it")],
    ),
    (
        ["ALTER TABLE app.users DROP COLUMN note", "ALTER TABLE app.users ADD CHECK (note <> '')"],
        [("CHECK constraint of app.users", None, "unknown: app.users has no column note today")],
    ),
    (
        ["DROP TABLE app.orders", "ALTER TABLE app.orders ADD CONSTRAINT c CHECK (total > 0)"],
        [('constraint "c" of app.orders', None, "unknown: app.orders does not exist today")],
    ),
    (
        ["DROP TABLE app.log_rest", "ALTER TABLE app.log ADD CHECK (kind <> 'c')"],
        [("CHECK constraint of app.log", None, "unknown until table app.log_rest is dropped")],
    ),
    (
        ["CREATE TABLE app.old (id integer)", "ALTER TABLE app.old ADD CONSTRAINT c CHECK (id > 0)"],
        [('constraint "c" of app.old', None, "unknown until table app.old is restored")],
    ),
    (
        ["CREATE TABLE app.old (id integer PRIMARY KEY)", "ALTER TABLE app.orders ADD FOREIGN KEY (a) REFERENCES app.old (id)"],
        [("FOREIGN KEY constraint of app.orders", None, "unknown until table app.old is restored")],
    ),
    (["CREATE UNIQUE INDEX i ON app.never (id)"], [('unique index "i" of app.never', None, "unknown: app.never does not exist today")]),
    (
        ["ALTER TABLE app.users ADD COLUMN x integer", "ALTER TABLE app.users ALTER x SET NOT NULL"],
        [("NOT NULL of app.users.x", 2, "2 rows have no captured value")],
    ),
    (
        ["ALTER TABLE app.users ADD COLUMN x integer DEFAULT 0", "ALTER TABLE app.users ALTER x SET NOT NULL"],
        [("NOT NULL of app.users.x", 0, "no row violates it")],
    ),
    (
        ["ALTER TABLE app.users ADD COLUMN x integer", "ALTER TABLE app.users ADD UNIQUE (x)"],
        [("UNIQUE constraint of app.users", None, "unknown until column x of app.users is restored")],
    ),
    (
        ['ALTER TABLE app.users DROP "Odd Col", ADD COLUMN "Odd Col" text', 'ALTER TABLE app.users ALTER "Odd Col" SET NOT NULL'],
        [('NOT NULL of app.users."Odd Col"', 0, "no row violates it")],
    ),
    (
        ["ALTER TABLE app.users ADD COLUMN y integer", "ALTER TABLE app.users ALTER y SET NOT NULL"],
        [("NOT NULL of app.users.y", 4, "4 rows hold NULL")],
    ),
    (
        ["ALTER TABLE app.users ALTER age TYPE text USING age || 'y', ALTER email TYPE varchar(9)", "ALTER TABLE app.users ADD CONSTRAINT c CHECK (age <> '5y')"],
        [('constraint "c" of app.users', 1, "1 row violates it")],
    ),
    (
        ["UPDATE app.users SET email = 'x' WHERE email IS NULL", "ALTER TABLE app.users ALTER email SET NOT NULL"],
        [("NOT NULL of app.users.email", None, "unknown until app.users.email is changed by UPDATE")],
    ),
    (
        ["DO $$ BEGIN DELETE FROM app.log_1; END $$", "ALTER TABLE app.log ALTER kind SET NOT NULL"],
        [("NOT NULL of app.log.kind", None, "unknown until app.log_1 is changed by DELETE")],
    ),
    (
        ["UPDATE app.log_1 SET kind = 'c'", "ALTER TABLE app.log ADD CHECK (kind <> 'c')"],
        [("CHECK constraint of app.log", None, "unknown until app.log_1 is changed by UPDATE")],
    ),
    (
        ["SET search_path = elsewhere", "ALTER TABLE users ALTER note SET NOT NULL"],
        [("column note of users", None, "unknown: users does not exist today")],
    ),
    (
        ['SET search_path = "$user", app', "ALTER TABLE users ALTER email SET NOT NULL"],
        [("NOT NULL of app.users.email", 1, "1 row holds NULL")],
    ),
    (
        ["SELECT set_config('search_path', current_user, false)", "ALTER TABLE users ALTER age SET NOT NULL"],
        [("column age of users", None, "unknown: search_path is set before it, so users may be another table")],
    ),
    (
        ["ALTER DOMAIN app.given RENAME TO must", "ALTER TABLE app.users ADD COLUMN x app.must"],
        [("type app.must of app.users.x", 4, "4 rows would get an invalid value of app.must")],
    ),
    (
        ["CREATE DOMAIN app.must AS text NOT NULL", "ALTER TABLE app.users ADD COLUMN x app.must"],
        [],
    ),
    (
        ["CREATE INDEX k ON app.animal (legs)", "ALTER INDEX app.k RENAME TO l", "ALTER TABLE app.animal RENAME legs TO feet", "CREATE UNIQUE INDEX m ON app.animal (feet)", "ALTER TABLE app.animal ADD PRIMARY KEY USING INDEX m"],
        [("NOT NULL of app.animal.feet", 1, "1 row holds NULL")],
    ),
    (
        ["DROP SCHEMA app CASCADE", "CREATE SCHEMA app", "ALTER TABLE app.users ALTER note SET NOT NULL"],
        [("column note of app.users", None, "unknown: app.users does not exist today")],
    ),
    (
        ["TRUNCATE app.orders", "ALTER TABLE app.orders ADD CHECK (total > 0)"],
        [("CHECK constraint of app.orders", None, "unknown until app.orders is changed by TRUNCATE")],
    ),
    (
        ["ALTER TABLE app.log DETACH PARTITION app.log_1", "ALTER TABLE app.log ALTER kind SET NOT NULL"],
        [("NOT NULL of app.log.kind", None, "unknown until app.log has lost a partition")],
    ),
    (
        ["ALTER TABLE app.orders RENAME CONSTRAINT unsure TO sure", "ALTER TABLE app.orders RENAME total TO sum", "ALTER TABLE app.orders VALIDATE CONSTRAINT sure"],
        [('constraint "sure" of app.orders', 2, "2 rows violate it")],
    ),
    (
        ["ALTER TABLE app.orders ADD CONSTRAINT n CHECK (total > 0) NOT VALID", "ALTER TABLE app.orders VALIDATE CONSTRAINT n"],
        [('constraint "n" of app.orders', 2, "2 rows violate it")],
    ),
    (
        ["ALTER TYPE app.mood RENAME TO moods", "CREATE TYPE app.mood AS ENUM ('sad', 'ok')", "ALTER TABLE app.users ALTER mood TYPE app.mood USING mood::text::app.mood, ALTER moods TYPE app.mood[] USING moods::text[]::app.mood[]"],
        [("type app.mood of app.users.mood", 1, "1 row cannot become app.mood"), ("type app.mood[] of app.users.moods", 1, "1 row cannot become app.mood[]")],
    ),
    (
        ["CREATE TYPE app.mood_2 AS ENUM ('sad', 'ok', 'glad')", "ALTER TABLE app.users ALTER mood TYPE app.mood_2 USING mood::text::app.mood_2", "DROP TYPE app.mood", "ALTER TYPE app.mood_2 RENAME TO mood", "ALTER TABLE app.users ADD CHECK (mood <> 'sad'::app.mood)"],
        [("CHECK constraint of app.users", 1, "1 row violates it")],
    ),
    (
        ["ALTER TYPE app.mood RENAME TO temper", "ALTER TABLE app.users ADD CHECK (mood <> 'sad'::app.temper)"],
        [("CHECK constraint of app.users", 1, "1 row violates it")],
    ),
    (
        ["CREATE DOMAIN app.old AS text CHECK (VALUE <> '')", "ALTER TABLE app.users ALTER note TYPE app.old"],
        [("type app.old of app.users.note", None, "unknown until type app.old is restored")],
    ),
    (
        ["ALTER DOMAIN app.positive RENAME TO number", "ALTER TABLE app.users RENAME years TO y", "ALTER TABLE app.users DROP few", "ALTER DOMAIN app.number ADD CONSTRAINT above CHECK (VALUE > 0)"],
        [('constraint "above" of domain app.number in app.users.y', 1, "1 row violates it")],
    ),
    (
        ["CREATE UNIQUE INDEX k ON app.lines (n)", "ALTER TABLE app.lines ADD CONSTRAINT k PRIMARY KEY USING INDEX k"],
        [("NOT NULL of app.lines.n", 0, "no row violates it")],
    ),
    (
        ["ALTER TABLE app.users DROP CONSTRAINT users_pkey", "ALTER TABLE app.users ADD PRIMARY KEY (age)", "ALTER TABLE app.orders ADD FOREIGN KEY (user_id) REFERENCES app.users"],
        [("FOREIGN KEY constraint of app.orders", 2, "2 rows reference no row of app.users")],
    ),
    (
        ["ALTER TABLE app.users ADD CONSTRAINT c CHECK (100 / (age - 4) > 0)"],
        [('constraint "c" of app.users', None, "at least 1 row violates it: the server says division by zero")],
    ),
    (
        ["ALTER TABLE app.users ADD CONSTRAINT c CHECK (mood <> 'never'::app.mood)"],
        [('constraint "c" of app.users', None, 'unknown: the server says invalid input value for enum app.mood: "never"')],
    ),
    (["ALTER INDEX app.users_pkey RENAME TO x", "COMMENT ON TABLE app.users IS 'x'", "SELECT 1"], []),
]  # fmt: skip


@pytest.mark.first_case
@pytest.mark.parametrize(("statements", "expected"), sample(ORDERS, 4), ids=[order[0][-1] for order in ORDERS])
def test_statements_are_followed_in_their_order(
    conn: Conn, statements: list[str], expected: list[tuple[str, int | None, str]]
) -> None:
    """What statements before it rename is asked by its name of today; what they bring back, change or drop cannot be told."""
    found = look(conn, *statements, kept=KEPT)
    before = len(look(conn, *statements[:-1], kept=KEPT))
    assert [(one.what, one.rows, one.says) for one in found[before:]] == expected
    for one in found[before:]:
        assert one.at_least == (one.rows or int(one.says.startswith("at least")))


def test_a_table_is_shown_by_its_name_of_today(conn: Conn) -> None:
    """Who has to mend the rows looks for them before anything is renamed."""
    (found,) = look(conn, "ALTER TABLE app.users RENAME TO people", "ALTER TABLE app.people ALTER email SET NOT NULL")
    assert (found.what, found.table) == ("NOT NULL of app.people.email", "app.users")
    assert look(conn, 'ALTER TABLE app."Table x" ALTER "select" SET NOT NULL')[0].table == 'app."Table x"'


def test_kept_values_decide_over_values_that_do_not_stay(home: Server, conn: Conn) -> None:
    """Rows whose old value is filled back lose nothing; those that have none are told."""
    with conn.transaction(force_rollback=True):
        conn.execute("CREATE TYPE app.mild AS ENUM ('it''s, ok', 'ok')")
        listed = "mood::text = ANY ('{\"it''s, ok\",ok}'::text[])"  # as it is before PostgreSQL 16
        statement = (
            f"ALTER TABLE app.users ALTER mood TYPE app.mild USING CASE WHEN {listed} THEN mood::text::app.mild END"
        )
        assert look(conn, statement, kept={("app.users", "mood"): nothing})[0].says == "no row violates it"
        (found,) = look(conn, statement, kept={("app.users", "mood"): lambda: "t.id > 1"})
        assert (found.says, found.samples) == (
            "2 rows cannot keep their value as app.mild",
            ("id 2: mood glad", "id 4: mood sad"),
        )
    asked = ["pg_temp.pgrunbook_is_valid_0123456789abcdef(note::text)"]  # as it is before PostgreSQL 16
    if home.version >= 16:
        asked.append("pg_catalog.pg_input_is_valid(note::text, 'character varying(5)')")
    for valid in asked:
        using = f"CASE WHEN {valid} THEN note::text::varchar(5) END"
        statement = f"ALTER TABLE app.users ALTER note TYPE varchar(5) USING {using}"
        assert look(conn, statement)[0].rows == 1
        assert look(conn, statement, kept={("app.users", "note"): nothing})[0].says == "no row violates it"
        (found,) = look(conn, statement, kept={("app.users", "note"): lambda: "true"})
        assert (found.rows, found.at_least) == (1, 1)
        assert found.says == "1 row cannot keep its value as varchar(5)"


def test_samples_are_few_and_short(conn: Conn) -> None:
    """Five at most, of 200 characters at most: never whole rows."""
    with conn.transaction(force_rollback=True):
        conn.execute(
            "INSERT INTO app.users (id, note, email) SELECT i, repeat('ü', 900), 'secret' FROM generate_series(100, 200) AS i"
        )
        (found,) = look(conn, "ALTER TABLE app.users ADD CHECK (length(note) < 30)")
    assert (found.rows, len(found.samples), {len(sample) for sample in found.samples}) == (101, 5, {200})
    assert "secret" not in str(found.samples)
    assert found.samples[0].startswith("id 1")


def test_nothing_is_changed_and_nothing_stays_locked(home: Server, conn: Conn) -> None:
    """Also in the caller's transaction, which a value that cannot be converted does not abort."""
    statement = "ALTER TABLE app.users ALTER note TYPE integer USING note::text::integer"
    with conn.transaction(force_rollback=True):
        conn.execute("INSERT INTO app.users (id, note) VALUES (77, 'mine')")
        conn.execute("SET LOCAL statement_timeout = 12345")
        assert look(conn, statement)[0].rows == 3
        assert conn.execute("SHOW statement_timeout").fetchone() == ("12345ms",)
        assert conn.execute("SHOW row_security").fetchone() == ("on",)
    assert look(conn, statement)[0].rows == 2
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    left = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'pgrunbook%'"
    assert conn.execute(left).fetchone() == (0,)
    with home.connect("against") as other, other.transaction(force_rollback=True):
        other.execute("LOCK TABLE app.users IN EXCLUSIVE MODE")
        assert look(conn, statement)[0].rows == 2, "AccessShareLock is all that is taken"


def test_what_takes_too_long_is_not_counted(conn: Conn) -> None:
    """The statement timeout ends it, and is told."""
    slow = "ALTER TABLE app.users ADD CONSTRAINT slow CHECK (pg_sleep(5) IS NOT NULL)"
    slow_value = "ALTER TABLE app.users ALTER note TYPE varchar(9) USING pg_sleep(5)::text || note"
    for statement in (slow, slow_value):
        (found,) = look(conn, statement, statement_timeout_ms=200)
        assert (found.rows, found.says, found.samples, found.at_least) == (None, "not counted in 0.2 s", (), 0)


@pytest.mark.slow
@pytest.mark.first_case
def test_a_table_that_somebody_locks_is_not_counted(home: Server, conn: Conn) -> None:
    """Nobody waits longer than the lock timeout, and for a table that is not asked nobody waits."""
    with home.connect("against") as other, other.transaction(force_rollback=True):
        other.execute("LOCK TABLE app.users IN ACCESS EXCLUSIVE MODE")
        (found,) = look(conn, "ALTER TABLE app.users ALTER note SET NOT NULL")
    with home.connect("against") as other, other.transaction(force_rollback=True):
        other.execute("LOCK TABLE app.orders IN ACCESS EXCLUSIVE MODE")
        (of_its_parent,) = look(conn, "ALTER TABLE app.users ALTER note SET NOT NULL")
    assert (found.rows, found.says) == (None, "not counted: app.users was locked for 2 s")
    assert of_its_parent.rows == 1


@pytest.mark.slow
@pytest.mark.first_case
def test_definitions_that_somebody_locks_are_not_waited_for(home: Server, conn: Conn) -> None:
    """What a statement demands cannot be known before its partitions are read: the whole text of the error."""
    with home.connect("against") as other, other.transaction(force_rollback=True):
        other.execute("LOCK TABLE app.parts_a IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Blocked) as caught:
            look(conn, "ALTER TABLE app.parts ATTACH PARTITION app.parts_b DEFAULT")
    text = re.sub(r"(?s)Detail: .*\nState", "Detail: ...\nState", str(caught.value))
    assert text == (
        "could not read the database within lock_timeout (2000 ms)\n"
        "Detail: ...\n"
        "State: Nothing changed; the transaction that read is aborted.\n"
        "Hint: Another session is changing the schema; wait until it is done, then run this again."
    )


def test_a_session_that_does_not_see_all_rows_says_so(conn: Conn) -> None:
    """A policy would hide rows, and a missing right hides all."""
    statement = "ALTER TABLE app.orders ALTER total SET NOT NULL"
    with conn.transaction(force_rollback=True):
        conn.execute("SET LOCAL ROLE runbook_reader")
        assert look(conn, statement)[0].says == "unknown: the server says permission denied for table orders"
    with conn.transaction(force_rollback=True):
        conn.execute("GRANT SELECT ON app.orders TO runbook_reader")
        conn.execute("ALTER TABLE app.orders ENABLE ROW LEVEL SECURITY")
        conn.execute("CREATE POLICY few ON app.orders USING (a > 2)")
        assert look(conn, statement)[0].rows == 1
        conn.execute("SET LOCAL ROLE runbook_reader")
        (found,) = look(conn, statement)
        assert (found.rows, found.says) == (None, "unknown: row level security hides rows from this session")


@pytest.mark.parametrize(
    "limit",
    [
        "REVOKE TEMP ON DATABASE against FROM PUBLIC; SET LOCAL ROLE runbook_reader",
        "SET LOCAL transaction_read_only = on",
    ],
)
def test_a_session_that_may_make_no_function_still_tells_what_it_can(conn: Conn, limit: str) -> None:
    """Without rights on temporary objects, or read only: that a value fails is known, how many is not."""
    with conn.transaction(force_rollback=True):
        conn.execute("GRANT SELECT ON app.users TO runbook_reader")
        conn.execute(limit)
        fits, fails, cut = look(
            conn,
            "ALTER TABLE app.users ALTER note TYPE varchar(9)",
            "ALTER TABLE app.users ALTER age TYPE integer",
            "ALTER TABLE app.users ALTER email TYPE varchar(2) USING lower(email)",
        )
    assert fits.rows == 1
    assert (fails.rows, fails.at_least) == (None, 1)
    assert fails.says.startswith(
        "at least 1 row violates it (the server says integer out of range); how many is unknown: "
    )
    assert (cut.rows, cut.at_least) == (None, 0)
    assert cut.says.startswith("unknown: ")


def test_a_lost_connection_is_raised(home: Server) -> None:
    """It is no answer about rows."""
    with home.connect("against") as conn:
        conn.close()
        with pytest.raises(psycopg.OperationalError):
            look(conn, "ALTER TABLE app.users ALTER note SET NOT NULL")


def refusal(found: list[Violation]) -> str:
    """Return the whole text with which a rollback is refused."""
    with pytest.raises(Refused) as caught:
        refuse(found)
    return str(caught.value)


HINT = (
    "Hint: Change or delete these rows and start the rollback again, which checks anew; "
    "or write a down script that handles them, or restore a backup to the time before the migration."
)


def test_a_rollback_is_refused_with_all_that_stands_against_it(conn: Conn) -> None:
    """The whole text: migration and rows, each demand with its samples, what could not be told, and what to do."""
    found = find(
        conn,
        [
            ("0007_shop", "ALTER TABLE app.orders ADD CONSTRAINT positive CHECK (total > 0)"),
            ("0007_shop", "ALTER TABLE app.users ALTER note SET NOT NULL"),
            ("0007_shop", "ALTER TABLE app.never ALTER note SET NOT NULL"),
            ("0006_pay", "ALTER TABLE app.users ALTER age TYPE integer"),
        ],
    )
    assert refusal(found) == (
        "cannot take back 0007_shop: 2 rows of app.orders and 1 row of app.users violate what it would restore\n"
        'Detail: 0007_shop: constraint "positive" of app.orders: 2 rows violate it (a 2, b p: total -5; a 3, b r: total 0); '
        "0007_shop: NOT NULL of app.users.note: 1 row holds NULL (id 3: note NULL); "
        "0006_pay: type integer of app.users.age: 1 row cannot keep its value as integer (id 2: age 3000000000); "
        "0007_shop: column note of app.never: unknown: app.never does not exist today.\n"
        f"State: Nothing changed in the database.\n{HINT}"
    )


def test_a_refusal_tells_what_is_known_for_certain(conn: Conn) -> None:
    """At least: where a number is not known, or several demands may count the same rows."""
    (one,) = look(conn, "ALTER TABLE app.users ADD CONSTRAINT c CHECK (100 / (age - 4) > 0)")
    assert refusal([one]) == (
        "cannot take back 0007_shop: at least 1 row of app.users violates what it would restore\n"
        'Detail: 0007_shop: constraint "c" of app.users: at least 1 row violates it: the server says division by zero.\n'
        f"State: Nothing changed in the database.\n{HINT}"
    )
    both = look(conn, "ALTER TABLE app.orders ADD CHECK (total > 0)", "ALTER TABLE app.orders ADD CHECK (total > -5)")
    assert refusal(both).startswith(
        "cannot take back 0007_shop: at least 2 rows of app.orders violate what it would restore\n"
    )


def test_what_could_not_be_told_alone_refuses_nothing(conn: Conn) -> None:
    """A column that comes back with its values is no reason to stay."""
    refuse(look(conn, "ALTER TABLE app.never ALTER note SET NOT NULL", "ALTER TABLE app.empty ALTER id SET NOT NULL"))
    refuse([])


# Migrations, and what their ways back demand while nobody has written anything since.
THERE_AND_BACK = {
    "ALTER TABLE app.orders DROP COLUMN a CASCADE": {"app.orders.a": None, "orders_pkey": None},
    "ALTER TABLE app.orders DROP CONSTRAINT orders_pkey": {"orders_pkey": 0},
    'ALTER TABLE app."Table x" ALTER "Id" TYPE numeric': {'app."Table x"."Id"': 0},
    "ALTER TABLE app.log DETACH PARTITION app.log_1": {"log_1": 0},
    "ALTER DOMAIN app.given DROP NOT NULL": {},
    "ALTER TABLE app.log ALTER at DROP NOT NULL": {"app.log.at": 0},
    "ALTER TABLE app.users RENAME email TO mail": {},
    "ALTER TABLE app.users DROP CONSTRAINT users_pkey CASCADE": {"users_pkey": 0},
    "ALTER TABLE app.parts_a RENAME TO other": {},
}


@pytest.mark.first_case
@pytest.mark.parametrize("statement", THERE_AND_BACK)
def test_the_ways_back_that_are_computed_are_understood(conn: Conn, statement: str) -> None:
    """What the inverse of a statement demands holds right behind it, or is about what is to be back first."""
    with conn.transaction(force_rollback=True):
        conn.execute("ALTER TABLE app.log DETACH PARTITION app.log_rest" if "DETACH" in statement else "SELECT 1")
        undo = Inverter(conn).inverse(parse(statement, "m.sql")[0])
        conn.execute(statement)
        kept: Kept = {(keep.table, keep.column): nothing for keep in undo.keeps if keep.kind == "column"}
        found = look(conn, *(step.sql for step in undo.steps), kept=kept)
    assert not [one.says for one in found if "the server says" in one.says or one.rows]
    for name, rows in THERE_AND_BACK[statement].items():
        assert any(name in one.what and one.rows in (rows, 0) for one in found), (name, found)
    assert bool(found) == bool(THERE_AND_BACK[statement])


number = st.none() | st.integers(-3, 3)
word = st.none() | st.sampled_from(["", "a", "A", "abc", "12", "99999", "1.5", " 7"])
big = st.none() | st.sampled_from([-40000, -1, 0, 7, 32768, 3_000_000_000])
rows = st.lists(st.tuples(number, number, word, big), max_size=6)
parents = st.sets(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), max_size=4)
column = st.sampled_from(["a", "b", "t", "n"])
columns = st.sampled_from(["a", "b, a", "t", "n, t", "a, b, t"])
comparison = st.builds(
    "{} {} {}".format,
    st.sampled_from(["a", "b", "n"]),
    st.sampled_from(["<", ">=", "<>", "IS DISTINCT FROM"]),
    st.integers(-3, 3),
)
condition = st.builds(
    "{} {} {}".format, comparison, st.sampled_from(["AND", "OR", "AND NOT", "OR b IS NULL AND"]), comparison
)
demand = st.one_of(
    st.builds("ALTER TABLE h ADD CHECK ({})".format, condition),
    st.builds("ALTER TABLE h ALTER {} SET NOT NULL".format, column),
    st.builds("ALTER TABLE h ADD {} ({})".format, st.sampled_from(["UNIQUE", "UNIQUE NULLS NOT DISTINCT", "PRIMARY KEY"]), columns),
    st.builds("CREATE UNIQUE INDEX ON h ({}) {} WHERE {}".format, st.sampled_from(["a", "(a + b)", "lower(t), a"]), st.sampled_from(["", "NULLS NOT DISTINCT"]), condition),
    st.builds("ALTER TABLE h ADD EXCLUDE USING btree (a WITH =, b WITH =) WHERE ({})".format, condition),
    st.builds("ALTER TABLE h ADD FOREIGN KEY ({}) REFERENCES p ({}) {}".format, st.just("a, b"), st.sampled_from(["x, y", "y, x"]), st.sampled_from(["", "MATCH FULL"])),
    st.builds("ALTER TABLE h ADD FOREIGN KEY (b) REFERENCES p1".format),
    st.builds("ALTER TABLE h ALTER n TYPE {}".format, st.sampled_from(["integer", "smallint", "numeric(5)", "text", "positive"])),
    st.builds("ALTER TABLE h ALTER t TYPE {}".format, st.sampled_from(["varchar(2)", "varchar(5)", "text", "varchar(3) USING upper(t)"])),
    st.builds("ALTER TABLE h ALTER t TYPE {0} USING t::{0}".format, st.sampled_from(["integer", "numeric", "bigint"])),
    st.builds("ALTER TABLE h ADD COLUMN c integer {} {}".format, st.sampled_from(["", "DEFAULT 3"]), st.sampled_from(["NOT NULL", "CHECK (c > 3)", "UNIQUE", "CHECK (c > a)"])),
    st.builds("ALTER TABLE parted ATTACH PARTITION h FOR VALUES FROM ({}) TO ({})".format, st.sampled_from(["-1", "MINVALUE", "0"]), st.sampled_from(["1", "2", "MAXVALUE"])),
)  # fmt: skip
MADE = """
CREATE DOMAIN positive AS bigint CHECK (VALUE > 0);
CREATE TABLE h (a integer, b integer, t text, n bigint);
CREATE TABLE p (x integer, y integer, PRIMARY KEY (x, y), UNIQUE (y, x));
CREATE TABLE p1 (k integer PRIMARY KEY);
CREATE TABLE parted (a integer, b integer, t text, n bigint) PARTITION BY RANGE (a);
CREATE TABLE parted_rest PARTITION OF parted DEFAULT
"""
# A text that comes back otherwise (" 7", "1.50") is converted, and told all the same.
CHANGES_VALUES = ("TYPE numeric", "TYPE integer USING", "TYPE bigint USING")


@pytest.mark.slow
@pytest.mark.first_case
@settings(max_examples=examples(40, 200), deadline=None, derandomize=True)
@given(rows=rows, parents=parents, statement=demand)
def test_no_row_stands_against_what_the_server_accepts(
    conn: Conn, rows: list[Any], parents: set[Any], statement: str
) -> None:
    """Random rows and demands: 0 is said exactly where the server accepts the statement."""
    assume(conn.info.server_version >= 150000 or "NULLS NOT DISTINCT" not in statement)
    with conn.transaction(force_rollback=True):
        conn.execute(MADE)
        cursor = conn.cursor()
        cursor.executemany("INSERT INTO h VALUES (%s, %s, %s, %s)", rows)
        cursor.executemany("INSERT INTO parted VALUES (%s, %s, %s, %s)", rows[:2])
        cursor.executemany("INSERT INTO p VALUES (%s, %s)", sorted(parents))
        cursor.executemany("INSERT INTO p1 VALUES (%s)", [[x] for x in {x for x, _ in parents}])
        found = look(conn, statement)
        told = all(one.rows == 0 for one in found)
        assert None not in [one.rows for one in found]
        if any(word in statement for word in CHANGES_VALUES) and not told:
            return
        assert told == accepts(conn, statement), (found, rows, parents)
