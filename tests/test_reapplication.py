"""What was written into a new column or table comes back at the second release, whatever its type."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from budget import examples, sample
from pgrunbook import undo_data
from pgrunbook.undo_data import Site
from servers import Server
from undo_data_stage import Conn, Way, database, do, texts, value

# ruff: noqa: E501 - one statement on a line, whatever its length

DOWN, UP = Site("0001_x", "a" * 64, "down", 1), Site("0001_x", "a" * 64, "up", 1)
PER_TABLE = 14

# A value of each type of pg_catalog; a type whose input function takes none holds NULL.
VALUES = {
    "aclitem": "=r/postgres", "bit": "1", "bool": "t", "box": "(2,2),(1,1)", "bpchar": "ab ", "bytea": "\\x00ff",
    "char": "x", "cid": "7", "cidr": "10.0.0.0/8", "circle": "<(1,2),3>", "date": "infinity", "float4": "0.1",
    "float8": "-0", "inet": "10.1.2.3/8", "int2": "-32768", "int4": "2147483647", "int8": "9223372036854775807",
    "interval": "1 mon -3 days 04:00:00.000001", "json": '{"b":  1}', "jsonb": '{"a": [1, null]}', "jsonpath": "$.a[*]",
    "line": "{1,2,3}", "lseg": "[(1,2),(3,4)]", "macaddr": "08:00:2b:01:02:03", "macaddr8": "08:00:2b:01:02:03:04:05",
    "money": "$1.25", "name": "n", "numeric": "1.500", "oid": "4294967295", "path": "[(1,2),(3,4)]",
    "pg_lsn": "16/B374D848", "pg_snapshot": "10:20:10,14", "point": "(1,2)", "polygon": "((0,0),(1,1),(2,0))",
    "refcursor": "c", "regclass": "pg_class", "regcollation": '"C"', "regconfig": "english", "regdictionary": "simple",
    "regnamespace": "public", "regoper": "||/", "regoperator": "+(integer,integer)", "regproc": "now",
    "regprocedure": "sin(double precision)", "regrole": "postgres", "regtype": "integer[]", "text": "t",
    "tid": "(3,4)", "time": "24:00:00", "timestamp": "-infinity", "timestamptz": "2026-03-29 02:30:00.000001+02",
    "timetz": "23:59:59+02", "tsquery": "'a' & !'b'", "tsvector": "'a':1A 'b'", "txid_snapshot": "10:20:10,14",
    "uuid": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "varbit": "10101", "varchar": "v", "xid": "7", "xid8": "9999999999",
    "xml": "<a>1</a>", "int2vector": "1 2", "oidvector": "3 4",
    "int4range": "[1,5)", "int8range": "(,5)", "numrange": "[1.0,2.50]", "tsrange": "empty",
    "tstzrange": "[2026-01-01 00:00:00+00,)", "daterange": "[2026-01-01,2026-02-01)", "int4multirange": "{[1,2),[5,6)}",
    "int8multirange": "{}", "nummultirange": "{(,1]}", "tsmultirange": "{}", "tstzmultirange": "{}", "datemultirange": "{}",
}  # fmt: skip
# Types as they are written, with their values.
WRITTEN = {
    "varchar(50)": "v", "char(5)": "ab", "numeric(10,3)": "1.5", "numeric": "NaN", "bit(3)": "101", "bit varying(9)": "1",
    "timestamp(3)": "2026-01-01 00:00:00.123", "timestamptz(0)": "2026-01-01", "time(2) with time zone": "01:02:03+02",
    "interval day to second(2)": "1 day 00:00:01.25", "interval year": "2 years", "double precision": "Infinity",
    "integer[]": "{1,NULL,3}", "int[][]": "[0:1][2:2]={{1},{2}}", "text[]": "{}", "varchar(3)[]": "{abc,NULL}",
    "numeric(4,1)[]": "{1.0}", "public.pg_class_": "(1,x)", "mood": "ok", "mood[]": "{ok,NULL,sad}", "even": "4",
    "even[]": "{2,4}", "evens": "{2,4}", "few": "f", "lists": "{1,2}", "app.pair": '(1,"2026-01-01 00:00:00+00")', "app.pair[]": '{"(1,)",NULL}',
    "moods": "[sad,ok]", "span": "[1.5,2.5)", "spans": "{[1.5,2.5)}", "span[]": '{"[1.5,2.5)"}', "nested": '("(1,)",{sad})',
    '"Odd T"': "b", "pg_type": None,
}  # fmt: skip
TYPES = """
CREATE SCHEMA app;
CREATE TYPE pg_class_ AS (a int, b text);
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE DOMAIN even AS int CHECK (VALUE % 2 = 0);
CREATE DOMAIN evens AS even[];
CREATE DOMAIN few AS varchar(3);
CREATE DOMAIN lists AS int[] NOT NULL;
CREATE TYPE app.pair AS (x int, at timestamptz);
CREATE TYPE moods AS RANGE (subtype = mood);
CREATE TYPE span AS RANGE (subtype = numeric, multirange_type_name = spans);
CREATE TYPE nested AS (p app.pair, m mood[]);
CREATE TYPE "Odd T" AS ENUM ('a', 'b');
SET TimeZone = 'UTC';
"""
IN_CATALOG = """
SELECT t.typname::text, pg_catalog.format('pg_catalog.%I', t.typname), t.typarray <> 0
FROM pg_catalog.pg_type AS t
WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype <> 'p' AND t.typrelid = 0
  AND NOT (t.typcategory = 'A' AND t.typname LIKE '\\_%')
ORDER BY t.typname
"""
# What takes no value by its input function.
TAKES_NONE = {
    "gtsvector", "pg_brin_bloom_summary", "pg_brin_minmax_multi_summary", "pg_dependencies", "pg_mcv_list",
    "pg_ndistinct", "pg_node_tree",
}  # fmt: skip


@pytest.fixture(scope="module")
def made(server: Server) -> Iterator[Conn]:
    """A database with types of the application."""
    with database(server, "reapplying", TYPES) as conn:
        yield conn


@pytest.fixture
def conn(made: Conn) -> Iterator[Conn]:
    """A connection to it: all that is done is rolled back."""
    with made.transaction(force_rollback=True):
        yield made


def typed(conn: Conn) -> list[tuple[str, str | None]]:
    """Return every type that a column can have, as it is written, with a value; and arrays of those of the catalog."""
    found: list[tuple[str, str | None]] = list(WRITTEN.items())
    for name, written, has_array in conn.execute(IN_CATALOG).fetchall():
        assert name in VALUES or name in TAKES_NONE, name
        found.append((written, VALUES.get(name) if _is_built_in(conn, name) else None))
        if has_array:
            found.append((f"{written}[]", None))
    return found


def _is_built_in(conn: Conn, name: str) -> bool:
    """Tell whether this server was built with what a type needs: xml takes no value without libxml."""
    if name != "xml":
        return True
    try:
        with conn.transaction():
            conn.execute("SELECT '<a/>'::xml")
    except psycopg.errors.FeatureNotSupported:
        return False
    return True


def forward(conn: Conn, batch_rows: int = 1_000) -> list[str]:
    """Reapply all that is captured; return what is left, and why."""
    left = []
    for kept in undo_data.to_reapply(conn, ["0001_x"]):
        found = undo_data.reapply(conn, conn, kept, batch_rows=batch_rows)
        left += [found.left] if found.left else []
        for number, step in enumerate(found.steps, 1):
            do(conn, step, UP, number, f"forward {kept.id}")
    return left


@pytest.mark.slow
@pytest.mark.newest
def test_values_of_every_type_go_there_and_back_and_there(conn: Conn) -> None:
    """A column of each type of the catalog, and of each kind that an application makes; its array, too."""
    types = typed(conn)
    for first in range(0, len(types), PER_TABLE * examples(3, 1)):
        with conn.transaction(force_rollback=True):
            there_and_back_and_there(conn, types[first : first + PER_TABLE])


def there_and_back_and_there(conn: Conn, types: list[tuple[str, str | None]]) -> None:
    """Add columns, write to them, drop them as a rollback does, and add them again."""
    columns = [f"c{number} {type_}" for number, (type_, _) in enumerate(types)]
    adds = f"ALTER TABLE t {', '.join(f'ADD COLUMN {column}' for column in columns)}".replace("lists", "int[]").encode()
    conn.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 2)")
    conn.execute(adds)
    for number, (type_, told) in enumerate(types):
        if told is not None:
            conn.execute(f"UPDATE t SET c{number} = %s::{type_} WHERE id = 1".encode(), [told])
        elif number and types[number - 1][0] == type_.removesuffix("[]"):
            conn.execute(f"UPDATE t SET c{number} = ARRAY[c{number - 1}, NULL] WHERE id = 1".encode())
    before = texts(conn, "t")
    Way(conn, f"ALTER TABLE t {', '.join(f'DROP COLUMN c{n}' for n in range(len(types)))}", site=DOWN).there()
    assert texts(conn, "t") == ["(1)", "(2)"]
    conn.execute(adds)
    assert forward(conn) == []
    assert texts(conn, "t") == before
    assert {kept.state for kept in undo_data.list_entries(conn)} == {"given back"}


@pytest.mark.newest
def test_rows_of_every_type_come_back_into_a_table(conn: Conn) -> None:
    """A table with a column of each type is dropped by a rollback, and made again by the same text."""
    types = typed(conn)
    columns = ", ".join(f"c{number} {type_}" for number, (type_, _) in enumerate(types))
    create = f"CREATE TABLE t (id int PRIMARY KEY, {columns})"
    conn.execute(create.encode())
    names = [f"c{n}" for n, (_, told) in enumerate(types) if told is not None]
    values = [f"%s::{type_}" for type_, told in types if told is not None]
    conn.execute(
        f"INSERT INTO t (id, {', '.join(names)}) VALUES (1, {', '.join(values)})".encode(),
        [told for _, told in types if told is not None],
    )
    before = texts(conn, "t")
    Way(conn, "DROP TABLE t", site=DOWN).there()
    conn.execute(create.encode())
    assert forward(conn) == []
    assert texts(conn, "t") == before


# How a column is made again after a rollback that captured ('ab', '12', NULL): which values it takes, and what is told.
AGAIN = {
    "varchar(50)": (["12", None, "ab"], ""),
    "text": (["12", None, "ab"], ""),
    "varchar(1)": ([None, None, None], "2 values of public.t.b do not fit character varying(1)"),
    "char(2)": ([None, None, None], "column b has type character(2) now, and the values are character varying"),
    "int": ([None, None, None], "column b has type integer now, and the values are character varying"),
    "mood": ([None, None, None], "column b has type mood now, and the values are character varying"),
    "text GENERATED ALWAYS AS ('x') STORED": (["x", "x", "x"], "column b is generated"),
    "": ([], "column b does not exist"),
}


@pytest.mark.parametrize("type_", sample(AGAIN, 3))
def test_what_another_type_does_not_take_stays_and_is_told(conn: Conn, type_: str) -> None:
    """Nothing that is captured is passed over in silence, cut or rounded."""
    held, told = AGAIN[type_]
    conn.execute(
        "CREATE TABLE t (id int PRIMARY KEY, b varchar(50)); INSERT INTO t VALUES (1, 'ab'), (2, '12'), (3, NULL)"
    )
    Way(conn, "ALTER TABLE t DROP COLUMN b", site=DOWN).there()
    if type_:
        conn.execute(f"ALTER TABLE t ADD COLUMN b {type_}".encode())
    (kept,) = undo_data.to_reapply(conn, ["0001_x"])
    start = f"What public.t.b held before the rollback stays captured as pgrunbook.{kept.kept_as}: "
    assert forward(conn) == ([f"{start}{told}."] if told else [])
    if type_:
        assert sorted((row[0] for row in conn.execute("SELECT b FROM t")), key=str) == held


def test_columns_and_rows_that_a_table_does_not_take_are_told(conn: Conn) -> None:
    """A column that is gone, one that rounds, and one of another type."""
    conn.execute(
        "CREATE TABLE t (id int PRIMARY KEY, a int, n numeric, v text); INSERT INTO t VALUES (1, 1, 1.25, 'a'), (2, 2, 2, 'b')"
    )
    Way(conn, "DROP TABLE t", site=DOWN).there()
    conn.execute("CREATE TABLE t (id int PRIMARY KEY, n numeric(5, 1), v int)")
    (told,) = forward(conn)
    assert told.endswith(
        ": its table has no column a and v that takes its values, and 1 row of it does not fit its columns."
    )
    assert texts(conn, "t") == ["(2,2.0,)"]


@pytest.mark.first_case
@pytest.mark.parametrize("batch_rows", [5, 1_000])
@pytest.mark.parametrize(
    "column", ["serial UNIQUE", "int GENERATED ALWAYS AS IDENTITY", "bigint GENERATED BY DEFAULT AS IDENTITY"]
)
def test_numbers_come_back_and_go_on_after_the_highest(conn: Conn, column: str, batch_rows: int) -> None:
    """Also of an identity that is always generated."""
    conn.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'v' FROM generate_series(1, 10) AS i"
    )
    conn.execute(f"ALTER TABLE t ADD COLUMN n {column}".encode())
    conn.execute("INSERT INTO t (id) VALUES (11); DELETE FROM t WHERE id IN (2, 3)")
    before = texts(conn, "t")
    Way(conn, "ALTER TABLE t DROP COLUMN n", site=DOWN).there()
    conn.execute(f"ALTER TABLE t ADD COLUMN n {column.removesuffix(' UNIQUE')}".encode())
    assert forward(conn, batch_rows) == []
    assert texts(conn, "t") == before
    assert value(conn, "INSERT INTO t (id) VALUES (12) RETURNING n") == 12


@pytest.mark.first_case
@pytest.mark.parametrize(("by", "expected"), [("1 RESTART 100", 100), ("1 RESTART 9", 12), ("-1 RESTART -50", -50)])
def test_a_sequence_is_never_set_back(conn: Conn, by: str, expected: int) -> None:
    """One that was restarted and has given nothing since, and one that descends, stand where they stand."""
    conn.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 11)")
    conn.execute("ALTER TABLE t ADD COLUMN n serial")
    Way(conn, "ALTER TABLE t DROP COLUMN n", site=DOWN).there()
    conn.execute("ALTER TABLE t ADD COLUMN n serial")
    conn.execute(f"ALTER SEQUENCE t_n_seq MINVALUE -99 INCREMENT {by}".encode())
    assert forward(conn, 1_000) == []
    assert value(conn, "SELECT nextval('t_n_seq')") == expected
