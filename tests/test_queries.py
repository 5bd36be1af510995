"""The loader of named queries, and the snapshot in which they are read."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import resources

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from pgrunbook.database import queries, schema
from servers import Server

pytestmark = pytest.mark.every_version

FOLDER = resources.files("pgrunbook.database").joinpath("sql")
MODULES = sorted(entry.name.removesuffix(".sql") for entry in FOLDER.iterdir() if entry.name.endswith(".sql"))
ASKED_SINCE = {("roles", "parameters"): 15}  # an older server is not asked


def test_queries_are_loaded_by_name() -> None:
    """A query comes without its heading, and the same file is read once."""
    found = queries.parse("-- name: one\n-- a row is: a number\nSELECT 1;\n\n-- name: two\n-- a row is: b\nSELECT 2;\n")
    assert dict(found) == {"one": "SELECT 1;", "two": "SELECT 2;"}
    assert queries.load("schema") is queries.load("schema")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SELECT 1;", 'a query stands under "-- name: ..." and a line "-- a row is: ..."'),
        ("-- name: one\nSELECT 1;", 'a query stands under "-- name: ..." and a line "-- a row is: ..."'),
        ("-- name: a\n-- a row is: x\n1\n-- name: a\n-- a row is: x\n2", "a query's name comes twice: a, a"),
    ],
)
def test_file_that_breaks_the_rules_is_refused(text: str, message: str) -> None:
    """Text under no name, a query that does not say what a row is, and a name used twice are errors."""
    with pytest.raises(ValueError, match="query") as error:
        queries.parse(text)
    assert str(error.value) == message


def test_every_file_of_queries_is_well_formed() -> None:
    """All files beside the loader can be loaded."""
    assert "schema" in MODULES
    assert all(queries.load(module) for module in MODULES)


def test_a_query_for_older_servers_stands_for_the_one_of_its_name() -> None:
    """Up to the version in its name; nobody asks for it by that name."""
    text = "".join(f"-- name: {name}\n-- a row is: a\n{name};\n" for name in ("one", "one_14", "one_16", "two"))
    found = {major: dict(queries.of_version(queries.parse(text), major)) for major in (13, 14, 15, 16, 17, 18, None)}
    assert {major: told["one"] for major, told in found.items()} == {
        13: "one_14;", 14: "one_14;", 15: "one_16;", 16: "one_16;", 17: "one;", 18: "one;", None: "one;",
    }  # fmt: skip
    assert all(told.keys() == {"one", "two"} for told in found.values())


@pytest.fixture(scope="module")
def ours(server: Server) -> str:
    """A database with our own tables."""
    steps = queries.load("step_log")
    made = [
        text
        for module in ("undo_data", "control", "salvage", "rollout", "swap", "anchors", "relations")
        for name, text in queries.load(module).items()
        if name in ("create", "create_pace", "create_refused_row")
    ]
    copies = queries.load("history_table")["create_copy"]
    return server.database("our_own_tables", steps["create_schema"], steps["create"], *made, copies)


@pytest.mark.parametrize("module", MODULES)
def test_every_version_understands_every_query(server: Server, ours: str, module: str) -> None:
    """No catalog, column or function in it is missing, and no syntax; templates need their names first."""
    with server.connect(ours) as conn:
        for name, query in queries.load(module, server.version).items():
            text = re.sub(r"%\(\w+\)s|%s", "NULL", query).replace("%%", "%")
            told = conn.pgconn.prepare(b"", text.encode()).error_message.decode()
            is_template = re.search(r"\{\w*\}", query) and "syntax error" in told
            is_script = "cannot insert multiple commands" in told
            asked = server.version >= ASKED_SINCE.get((module, name), 0)
            assert not told or is_template or is_script or not asked, f"{name}: {told}"


def test_rows_have_the_fields_of_their_class(server: Server) -> None:
    """A query for the schema gives the columns that its class names, in that order."""
    parameters = {"schemas": "{}", "left_out": "{}", "left_schemas": []}
    with server.connect("postgres") as conn:
        for name, cls in schema.CLASSES.items():
            query = queries.load("schema", server.version)[name]
            columns = conn.execute(query, parameters).description or []
            assert tuple(column.name for column in columns) == cls._fields, name


def test_snapshot_sees_no_later_commit_and_cannot_write(server: Server, database: Callable[..., str]) -> None:
    """What others commit after the first read does not show, and a write is refused."""
    name = database("CREATE TABLE t (a integer)")
    with server.connect(name) as conn, server.connect(name) as other:
        with queries.snapshot_cursor(conn) as cursor:
            assert cursor.execute("SELECT count(*) FROM public.t").fetchone() == (0,)
            other.execute("INSERT INTO t VALUES (1)")
            assert cursor.execute("SELECT count(*) FROM public.t").fetchone() == (0,)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), queries.snapshot_cursor(conn) as cursor:
            cursor.execute("INSERT INTO public.t VALUES (2)")
        assert conn.info.transaction_status == TransactionStatus.IDLE


def test_snapshot_makes_text_comparable(server: Server, database: Callable[..., str]) -> None:
    """The session's own formats do not show in it, and are there again afterwards."""
    query = "SELECT '2026-01-31 12:00+00'::timestamptz::text, '1 day'::interval::text, '\\x01'::bytea::text"
    with server.connect(database()) as conn:
        conn.execute("SET DateStyle = German; SET TimeZone = 'Asia/Tokyo'; SET IntervalStyle = iso_8601")
        with queries.snapshot_cursor(conn, statement_timeout_ms=1234) as cursor:
            assert cursor.execute(query).fetchone() == ("2026-01-31 12:00:00+00", "1 day", "\\x01")
            assert cursor.execute("SHOW statement_timeout").fetchone() == ("1234ms",)
        assert conn.execute(query).fetchone() == ("31.01.2026 21:00:00 JST", "P1D", "\\x01")
