"""A DELETE that goes on to other tables: what goes there is kept with it, and comes back behind it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psycopg
import pytest

from pgrunbook.errors import Refused
from pgrunbook.online.batches import run_batches
from pgrunbook.plan.step import Batches
from pgrunbook.undo_data import capture_batches, conflicts, list_entries
from pgrunbook.undo_data.size_estimate import size_estimate
from servers import Server
from test_undo_data import PLACE, Conn, back, do, state, value
from undo_data_stage import capture_obstacle

# ruff: noqa: E501 - one statement on a line, whatever its length


BASE = """
CREATE SCHEMA app
CREATE TYPE app.mood AS ENUM ('sad', 'ok')
CREATE TABLE public.shop (id integer PRIMARY KEY, code text UNIQUE NOT NULL)
CREATE TABLE public.orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, shop integer REFERENCES shop ON DELETE CASCADE, mood app.mood, backup integer REFERENCES shop ON DELETE SET NULL)
CREATE TABLE app."Line" (o bigint REFERENCES orders ON DELETE CASCADE, n integer, x numeric, PRIMARY KEY (o, n))
CREATE TABLE public.note (id integer PRIMARY KEY, o bigint REFERENCES orders ON DELETE SET NULL, t text)
CREATE TABLE public.tag (code text REFERENCES shop (code) ON DELETE CASCADE, t text, PRIMARY KEY (t)) PARTITION BY LIST (t)
CREATE TABLE public.tag_rest PARTITION OF tag DEFAULT
INSERT INTO shop SELECT i, 'c' || i FROM generate_series(1, 20) AS i
INSERT INTO orders (shop, mood, backup) SELECT 1 + i % 20, 'ok', 1 + (i * 7) % 20 FROM generate_series(1, 100) AS i
INSERT INTO app."Line" SELECT 1 + i % 100, i, i FROM generate_series(1, 300) AS i
INSERT INTO note SELECT i, 1 + i % 100, 'note' FROM generate_series(1, 50) AS i
INSERT INTO tag SELECT 'c' || 1 + i % 20, 't' || i FROM generate_series(1, 30) AS i
""".strip().split("\n")
TABLES = ("shop", "orders", 'app."Line"', "note", "tag")


@pytest.fixture
def conn(server: Server) -> Iterator[Conn]:
    """A connection to the tables as new."""
    template = server.database("cascades_template", *BASE)
    with server.copied("keeping", template), server.connect("keeping") as conn:
        yield conn


@pytest.mark.first_case
def test_all_levels_come_back(conn: Conn) -> None:
    """Rows that went with it, rows of those, references that were emptied, and rows that were both."""
    before = state(conn, *TABLES)
    with conn.transaction(force_rollback=True):
        conn.execute("DELETE FROM shop WHERE id < 12")
        wanted = state(conn, *TABLES)
    assert do(conn, "DELETE FROM shop WHERE id < 12") == 11
    assert state(conn, *TABLES) == wanted
    (whole, *parts) = list_entries(conn)
    assert {part.part_of for part in parts} == {whole.id}
    assert [part.table.name for part in parts if part.kind == "update"] == ["orders", "note"]
    assert back(conn)[1] == 0
    assert state(conn, *TABLES) == before


@pytest.mark.slow
@pytest.mark.first_case
def test_batches_keep_what_each_of_them_reaches(conn: Conn) -> None:
    """A row that loses its reference in one batch, and goes in a later one, is as it was."""
    before = state(conn, *TABLES)
    statement = "DELETE FROM shop WHERE pgrunbook_range AND id < 16"
    batches = capture_batches(conn, Batches("public", "shop", "shop", statement, ("id",), ("integer",), rows=3), PLACE)
    assert run_batches(conn, batches, resume_from="loop").rows == 15
    assert conflicts(conn, list_entries(conn)[0]).rows == 0
    assert back(conn)[1] == 0
    assert state(conn, *TABLES) == before


@pytest.mark.newest
def test_conflict_in_a_table_that_was_reached_stops_it_all(conn: Conn) -> None:
    """Nothing is changed in the table where it began either."""
    do(conn, "DELETE FROM shop WHERE id < 12")
    conn.execute("UPDATE note SET o = (SELECT min(id) FROM orders) WHERE id = 25")
    now = state(conn, *TABLES)
    with pytest.raises(Refused, match="somebody has changed 1 row since 0001_data changed it"):
        back(conn)
    assert state(conn, *TABLES) == now
    assert back(conn, on_conflict="keep")[1] == 1
    assert value(conn, "SELECT count(*) FROM shop") == 20


@pytest.mark.slow
def test_row_that_comes_while_the_delete_waits_is_kept(conn: Conn, server: Server) -> None:
    """A row that somebody adds below one that is deleted goes with it, and so it is kept with it."""
    with server.connect("keeping") as other:
        other.execute(
            "BEGIN; INSERT INTO orders (shop, mood) VALUES (3, 'sad'); INSERT INTO app.\"Line\" SELECT max(id), 1, 1 FROM orders"
        )
        thread = threading.Thread(target=lambda: do(conn, "DELETE FROM shop WHERE id = 3"))
        thread.start()
        with server.connect("keeping") as watching:
            for _ in range(1000):
                if value(watching, "SELECT count(*) FROM pg_locks WHERE NOT granted"):
                    break
                threading.Event().wait(0.01)
        other.commit()
        thread.join(timeout=30)
    assert value(conn, "SELECT count(*) FROM orders WHERE mood = 'sad'") == 0
    assert back(conn)[1] == 0
    assert value(conn, "SELECT count(*) FROM orders WHERE mood = 'sad'") == 1
    assert value(conn, 'SELECT count(*) FROM app."Line" WHERE n = 1 AND x = 1 AND o > 100') == 1


@pytest.mark.slow
@pytest.mark.first_case
def test_rows_that_refer_to_each_other_come_back_together(conn: Conn) -> None:
    """A table that refers to itself is given back whole: a part of it would miss the rest."""
    conn.execute("CREATE TABLE tree (id integer PRIMARY KEY, parent integer REFERENCES tree)")
    conn.execute("INSERT INTO tree SELECT i, nullif(i / 2, 0) FROM generate_series(1, 2000) AS i")
    before = state(conn, "tree")
    assert do(conn, "DELETE FROM tree") == 2000
    assert back(conn) == (2000, 0)
    assert state(conn, "tree") == before
    conn.execute("DROP SCHEMA pgrunbook CASCADE")
    assert (
        do(conn, "INSERT INTO tree SELECT i, i + 1 FROM generate_series(3001, 3099) AS i UNION ALL SELECT 3100, NULL")
        == 100
    )
    assert back(conn) == (100, 0)
    assert state(conn, "tree") == before


def test_table_whose_keys_are_deferrable_gets_its_rows_back(conn: Conn) -> None:
    """ON CONFLICT is not for such a table; rows that were made again are looked for instead."""
    conn.execute(
        "CREATE TABLE late (id integer PRIMARY KEY DEFERRABLE, u integer UNIQUE DEFERRABLE INITIALLY DEFERRED)"
    )
    conn.execute("INSERT INTO late SELECT i, i FROM generate_series(1, 50) AS i")
    before = state(conn, "late")
    assert do(conn, "DELETE FROM late WHERE id > 9") == 41
    conn.execute("INSERT INTO late VALUES (20, 20)")
    assert back(conn) == (40, 0)
    assert do(conn, "UPDATE late SET id = id + 1, u = 51 - u", step=2) == 50
    assert back(conn) == (50, 0)
    assert state(conn, "late") == before


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ("CREATE TABLE c (id integer REFERENCES shop ON DELETE CASCADE)", 'it cascades into "public"."c", which has no unique key that identifies its rows'),
        ("CREATE TABLE c (id integer PRIMARY KEY DEFAULT 1 REFERENCES shop ON DELETE SET DEFAULT)", 'it cascades into "public"."c", where foreign key "c_id_fkey" uses SET DEFAULT'),
        ("ALTER TABLE shop ADD parent integer REFERENCES shop ON DELETE CASCADE", 'it cascades in a circle, into "public"."shop"'),
        ("CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER f BEFORE UPDATE ON note FOR EACH ROW EXECUTE FUNCTION f()", 'it cascades into "public"."note", where a BEFORE UPDATE trigger may change more'),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_below_is_told(conn: Conn, made: str, reason: str) -> None:
    """The reason names the table."""
    conn.execute(made)
    assert capture_obstacle(conn, "DELETE FROM shop") == reason


TREES = {
    "CASCADE": "DELETE FROM tree WHERE id IN (1, 4)",
    "SET NULL": "DELETE FROM tree WHERE id IN (1, 4)",
    "SET DEFAULT": "DELETE FROM tree WHERE id IN (2, 4)",
    "CASCADE ON UPDATE SET NULL": "UPDATE tree SET id = id + 10 WHERE id = 1",
}


@pytest.mark.slow
@pytest.mark.parametrize("action", TREES)
def test_rows_that_refer_to_their_own_table_come_back(conn: Conn, action: str) -> None:
    """What the key does to them no statement shows: the table is captured as a whole, and parents come back first."""
    conn.execute(
        f"CREATE TABLE tree (id int PRIMARY KEY, up int DEFAULT 1 REFERENCES tree ON DELETE {action})".encode()
    )
    conn.execute("INSERT INTO tree VALUES (1, NULL), (2, 1), (3, 2), (4, NULL), (5, 4), (6, 6)")
    before = state(conn, "tree")
    do(conn, f"LOCK TABLE tree IN SHARE ROW EXCLUSIVE MODE;\n{TREES[action]}")
    assert state(conn, "tree") != before
    back(conn)
    assert state(conn, "tree") == before


def test_key_that_others_follow_is_given_back_to_them_too(conn: Conn) -> None:
    """ON UPDATE CASCADE takes the references along, there and back; SET NULL would lose them, and cannot be kept."""
    conn.execute("CREATE TABLE follows (id integer PRIMARY KEY, code text REFERENCES shop (code) ON UPDATE CASCADE)")
    conn.execute("DELETE FROM tag; INSERT INTO follows SELECT id, code FROM shop")
    before = state(conn, "shop", "follows")
    do(conn, "UPDATE shop SET code = 'x' || code")
    assert value(conn, "SELECT min(code) FROM follows") == "xc1"
    assert back(conn) == (20, 0)
    assert state(conn, "shop", "follows") == before
    conn.execute("CREATE TABLE loses (id integer PRIMARY KEY, code text REFERENCES shop (code) ON UPDATE SET NULL)")
    assert (
        capture_obstacle(conn, "UPDATE shop SET code = 'x'")
        == 'foreign key "loses_code_fkey" changes the rows that refer to it'
    )
    assert capture_obstacle(conn, "UPDATE shop SET id = id") is None


def test_unique_values_that_rows_took_over_go_back_in_turn(conn: Conn) -> None:
    """Row by row in the opposite order, so that no two rows have the same value in between."""
    conn.execute("CREATE TABLE q (place integer PRIMARY KEY, who text)")
    conn.execute("INSERT INTO q SELECT 501 - i, 'w' || i FROM generate_series(1, 500) AS i")
    before = state(conn, "q")
    assert do(conn, "UPDATE q SET place = place + 1") == 500
    assert back(conn) == (500, 0)
    assert state(conn, "q") == before


def test_estimate_counts_what_is_reached(conn: Conn) -> None:
    """As large a part of the other tables as of the one where it begins."""
    conn.execute("ANALYZE")
    told = size_estimate(conn, "DELETE FROM shop WHERE id <= 10")
    assert 10 + 50 + 150 < told.rows_estimate < 1.3 * (10 + 50 + 150 + 25 + 50 + 15)


@pytest.mark.slow
def test_cut_off_delete_has_left_nothing(conn: Conn) -> None:
    """What was kept of the other tables is gone with the transaction."""
    conn.execute("CREATE TABLE stop (id integer PRIMARY KEY REFERENCES shop); INSERT INTO stop VALUES (5)")
    before = state(conn, *TABLES)
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        do(conn, "DELETE FROM shop WHERE id < 12")
    assert state(conn, *TABLES) == before
    conn.execute("DELETE FROM stop")
    do(conn, "DELETE FROM shop WHERE id < 12", step=2)
    assert back(conn)[1] == 0
    assert state(conn, *TABLES) == before
