"""Rows that a step changes are kept, and exactly those that nobody has changed since are given back."""

from __future__ import annotations

import csv
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from budget import sample
from pgrunbook.database import control
from pgrunbook.display import progress
from pgrunbook.errors import Broken, Interrupted, Refused
from pgrunbook.online.batches import run_batches
from pgrunbook.plan.step import Batches
from pgrunbook.procedures import undo_data_views
from pgrunbook.undo_data import (
    StepKey,
    UndoEntry,
    capture_batches,
    capture_statement,
    conflict_file,
    conflicts,
    entries_of_migration,
    left_file,
    list_entries,
    purge,
    revert,
)
from pgrunbook.undo_data.conflicts import EachConflict
from pgrunbook.undo_data.size_estimate import size_estimate
from servers import Server
from undo_data_stage import capture_obstacle, give_back_migration

pytestmark = pytest.mark.every_version

# ruff: noqa: E501 - one statement on a line, whatever its length

Conn = psycopg.Connection[tuple[Any, ...]]

BASE = """
CREATE SCHEMA app
CREATE TYPE app.mood AS ENUM ('sad', 'ok')
CREATE TYPE app.pair AS (x integer, at timestamptz)
CREATE DOMAIN app.positive AS integer CHECK (VALUE > 0)
CREATE TABLE app."T x" ("K 1" text, k2 app.positive, m app.mood DEFAULT 'ok', moods app.mood[], pair app.pair, n numeric, f float8, j jsonb, js json, p point, x xml, t timestamptz, ts timestamptz[], ch char(5), bits bit(3), iv interval, by bytea, nul text, "select" varchar(7), g integer GENERATED ALWAYS AS (k2 * 2) STORED, PRIMARY KEY ("K 1", k2))
INSERT INTO app."T x" SELECT 'k' || i % 7, i, 'sad', '{ok,NULL,sad}', ROW(i, '2026-01-01'::timestamptz)::app.pair, 1.50 + i, i / 3.0, '{"a": [1, "x"]}', '{"b":  1}', point(i, 1), NULL, '2026-01-01 12:00', ARRAY['2026-05-05'::timestamptz], 'ab', '101', '1 day 24 hours', '\\x00ff', NULL, 'long' FROM generate_series(1, 40) AS i
CREATE TABLE public.t (id integer PRIMARY KEY, a integer, b text, c integer)
INSERT INTO t SELECT i, i, 'b' || i, i % 5 FROM generate_series(1, 200) AS i
CREATE TABLE public.ident (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a text NOT NULL UNIQUE, num bigint GENERATED ALWAYS AS IDENTITY)
INSERT INTO ident (a) SELECT 'a' || i FROM generate_series(1, 30) AS i
CREATE TABLE public.p (id integer, at date, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)
CREATE TABLE public.p_1 PARTITION OF p FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')
CREATE TABLE public.p_2 (v text, at date NOT NULL, id integer NOT NULL)
ALTER TABLE p ATTACH PARTITION p_2 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')
INSERT INTO p SELECT i, '2025-10-01'::date + i * 3, 'v' || i FROM generate_series(1, 60) AS i
CREATE TABLE public.keyless (a integer)
CREATE VIEW public.seen AS SELECT * FROM t
""".strip().split("\n")

PLACE = StepKey("run", "0001_data", "up", 1)
BY_ID = Batches("public", "t", "t", "", ("id",), ("integer",), rows=30)


@pytest.fixture
def conn(server: Server) -> Iterator[Conn]:
    """A connection to the tables as new."""
    template = server.database("keeping_template", *BASE)
    with server.copied("keeping", template), server.connect("keeping") as conn:
        with suppress(psycopg.errors.FeatureNotSupported):  # a server may be built without libxml
            conn.execute("""UPDATE app."T x" SET x = '<a>1</a>'""")
        yield conn


def do(conn: Conn, statement: str, step: int = 1) -> int:
    """Execute a statement so that it keeps what it changes; return the number of rows."""
    with conn.transaction():
        return conn.execute(capture_statement(conn, statement, replace(PLACE, step=step))).rowcount


def loop(conn: Conn, statement: str, **options: Any) -> int:
    """Execute a statement in batches, keeping."""
    batches = capture_batches(conn, replace(BY_ID, statement=statement, **options), PLACE)
    return run_batches(conn, batches, resume_from="loop").rows


def state(conn: Conn, *tables: str) -> list[list[str]]:
    """Return the rows of tables, as text."""
    return [sorted(row[0] for row in conn.execute(f"SELECT row_::text FROM {name} AS row_")) for name in tables]


def back(conn: Conn, **options: Any) -> tuple[int, int]:
    """Give everything back; return how many rows were, and how many were left."""
    given = give_back_migration(conn, PLACE.migration, PLACE.direction, **options)
    return given.rows, given.left.rows


def value(conn: Conn, query: str) -> Any:
    row = conn.execute(query).fetchone()
    assert row is not None
    return row[0]


EVERYTHING = ("t", 'app."T x"', "ident", "p")


@pytest.mark.first_case
@pytest.mark.newest
@pytest.mark.parametrize(
    ("statement", "rows"),
    sample([
        ("UPDATE t SET c = c + 1, b = NULL WHERE id % 2 = 0", 100),
        ("UPDATE t AS old SET (a, b) = (SELECT 1, 'x') FROM p WHERE p.id = old.id", 60),
        ("WITH few AS (SELECT 3 AS n) UPDATE t SET c = n FROM few WHERE id < n", 2),
        ("UPDATE t SET id = id + 1000, c = 0", 200),
        ('UPDATE app."T x" SET m = \'ok\', moods = \'{ok}\', pair = NULL, n = n * 2, f = 0, j = NULL, js = \'1\', p = NULL, x = NULL, t = now(), ts = NULL, ch = NULL, bits = NULL, iv = NULL, by = NULL, nul = \'x\', "select" = NULL', 40),
        ('UPDATE app."T x" AS "Odd A" SET moods[1] = \'sad\' WHERE "Odd A".k2 > 5', 35),
        ('DELETE FROM app."T x" WHERE k2 > 3', 37),
        ("DELETE FROM t USING p WHERE p.id = t.id AND t.id > 40", 20),
        ("DELETE FROM ident WHERE id > 5", 25),
        ("UPDATE ident SET a = a || '.'", 30),
        ("INSERT INTO t SELECT i, i FROM generate_series(150, 260) AS i ON CONFLICT DO NOTHING", 60),
        ("INSERT INTO ident (a) VALUES ('new'), ('newer')", 2),
        ("WITH few AS (SELECT i FROM generate_series(195, 210) AS i) INSERT INTO t AS new SELECT i, i FROM few ON CONFLICT DO NOTHING", 10),
        ("INSERT INTO p VALUES (1, '2026-12-12', 'n')", 1),
        ("DELETE FROM p WHERE id % 3 = 0", 20),
        ("UPDATE p SET v = upper(v)", 60),
        ("UPDATE p SET at = at + 100 WHERE at < '2025-12-31'", 30),
        ("UPDATE public.p_2 SET v = 'in' WHERE id > 50", 10),
    ], 4),
)  # fmt: skip
def test_what_a_statement_changes_is_given_back_exactly(conn: Conn, statement: str, rows: int) -> None:
    """The number of rows is that of the statement as written, the end too; given back, all is as it was."""
    before = state(conn, *EVERYTHING)
    with conn.transaction(force_rollback=True):
        assert conn.execute(statement).rowcount == rows
        wanted = state(conn, *EVERYTHING)
    assert do(conn, statement) == rows
    if "now()" not in statement and "INTO ident" not in statement:
        assert state(conn, *EVERYTHING) == wanted
    assert back(conn) == (rows, 0)
    assert state(conn, *EVERYTHING) == before


def test_settings_of_the_session_do_not_make_a_row_look_changed(conn: Conn) -> None:
    """Values are compared by their binary form; a session with other settings sees no conflict."""
    before = state(conn, 'app."T x"')
    do(
        conn,
        "UPDATE app.\"T x\" SET f = f / 7, t = t + '1 s', ts = ts || now(), iv = iv * 2, by = by || by, pair = ROW(k2, now())",
    )
    conn.execute("SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'SQL, DMY'; SET IntervalStyle = 'sql_standard'")
    conn.execute("SET extra_float_digits = 0; SET bytea_output = 'escape'")
    assert back(conn) == (40, 0)
    conn.execute("RESET ALL")
    assert state(conn, 'app."T x"') == before


def test_value_that_differs_in_form_only_counts_as_changed(conn: Conn) -> None:
    """1.50 and 1.500 are equal to =, and an application can tell them apart."""
    do(conn, 'UPDATE app."T x" SET n = 1.50 WHERE k2 = 1')
    conn.execute('UPDATE app."T x" SET n = 1.500 WHERE k2 = 1')
    assert conflicts(conn, list_entries(conn)[0]).rows == 1


def test_loop_keeps_batch_by_batch(conn: Conn) -> None:
    """Each batch's rows are kept by its own transaction, and progress counts the rows that were changed."""
    before = state(conn, "t")
    assert loop(conn, "UPDATE t SET c = c + 1000 WHERE pgrunbook_range AND t.id <> 50") == 199
    kept = list_entries(conn)[0]
    assert value(conn, f"SELECT count(DISTINCT xmin::text) FROM pgrunbook.{kept.kept_as}") == 7
    assert (kept.kind, kept.columns, kept.key, kept.state) == ("update", ("c",), ("id",), "kept")
    told: list[int] = []
    given = revert(conn, kept, rows=1, on_batch=told.append)
    assert (given.rows, given.left.rows) == (199, 0)
    assert told[-1] == 199
    assert state(conn, "t") == before


def test_loop_that_deletes_keeps_too(conn: Conn) -> None:
    """Also with a key that is composite, and of a type of the application."""
    before = state(conn, 'app."T x"')
    options = {"schema": "app", "table": "T x", "alias": "T x", "key": ("K 1", "k2"), "key_types": ("text", "app.positive"), "rows": 7}  # fmt: skip
    assert loop(conn, 'DELETE FROM app."T x" WHERE pgrunbook_range AND k2 > 10', **options) == 30
    assert back(conn) == (30, 0)
    assert state(conn, 'app."T x"') == before


@pytest.mark.newest
def test_cut_off_loop_has_kept_what_it_has_changed_and_goes_on(conn: Conn, server: Server) -> None:
    """After a crash in a batch the same call goes on with the same side table, and no row is kept twice."""
    before = state(conn, "t")
    batches = capture_batches(conn, replace(BY_ID, statement="UPDATE t SET c = c + 1000 WHERE pgrunbook_range"), PLACE)
    with server.connect("keeping") as other:
        other.execute("BEGIN; UPDATE t SET b = b WHERE id = 100")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            run_batches(conn, batches, resume_from="loop", lock_timeout_ms=50)
        other.rollback()
    assert value(conn, f"SELECT count(*) FROM pgrunbook.{list_entries(conn)[0].kept_as}") == 90
    assert loop(conn, "UPDATE t SET c = c + 1000 WHERE pgrunbook_range") == 200
    assert len(list_entries(conn)) == 1
    assert back(conn) == (200, 0)
    assert state(conn, "t") == before


def test_cut_off_giving_back_goes_on(conn: Conn) -> None:
    """What was given back is not touched again, nor is what somebody writes to it afterwards; the rest follows."""
    before = state(conn, "t")
    loop(conn, "UPDATE t SET b = repeat(b, 300) WHERE pgrunbook_range")
    kept = list_entries(conn)[0]

    def fail(rows: int) -> None:
        raise KeyboardInterrupt(str(rows))

    with pytest.raises(KeyboardInterrupt):
        revert(conn, kept, rows=1, on_batch=fail)
    (kept,) = list_entries(conn)
    assert kept.state == "giving back"
    assert 0 < kept.rows_given_back < 200
    conn.execute("UPDATE t SET b = 'mine' WHERE id = 200")
    assert back(conn) == (200, 0)
    assert value(conn, "SELECT b FROM t WHERE id = 200") == "mine"
    conn.execute("UPDATE t SET b = 'b200' WHERE id = 200")
    assert state(conn, "t") == before
    assert revert(conn, kept).rows == 200


@pytest.mark.newest
def test_giving_back_obeys_the_control_row_and_goes_on(conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    """An abort that is asked for meanwhile ends it between two batches; when it is over the rest follows."""
    monkeypatch.setattr(control, "LOOK_S", 0.0)
    before = state(conn, "t")
    loop(conn, "UPDATE t SET b = repeat(b, 300) WHERE pgrunbook_range")
    kept = list_entries(conn)[0]
    with pytest.raises(Interrupted, match="the run was aborted"):
        revert(conn, kept, rows=1, on_batch=lambda _: control.ask(conn, control.Command.ABORT, "a test"))
    assert 0 < list_entries(conn)[0].rows_given_back < 200
    conn.execute("DELETE FROM pgrunbook.control")
    assert back(conn) == (200, 0)
    assert state(conn, "t") == before


@pytest.mark.newest
def test_rows_left_by_a_revert_that_was_cut_off_are_all_in_its_file(conn: Conn, tmp_path: Path) -> None:
    """Cut off between two batches, and while the file is written: the last try lists what all have left."""
    loop(conn, "UPDATE t SET b = repeat(b, 300) WHERE pgrunbook_range")
    conn.execute("UPDATE t SET b = 'mine' WHERE id IN (1, 100, 200)")
    (kept,) = list_entries(conn)

    def fail(rows: int) -> None:
        raise KeyboardInterrupt(str(rows))

    @contextmanager
    def full(entry: UndoEntry) -> Iterator[EachConflict]:
        with left_file(tmp_path, entry) as each:
            yield lambda one: (each(one), fail(1))[0]

    with pytest.raises(KeyboardInterrupt):
        revert(conn, kept, on_conflict="keep", rows=1, on_batch=fail, left_rows=lambda part: left_file(tmp_path, part))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt):
        revert(conn, list_entries(conn)[0], on_conflict="keep", left_rows=full)
    assert list(tmp_path.iterdir()) == []
    name = f"conflicts-left-{kept.kept_as}.csv"
    (tmp_path / f".{name}.killed").write_text("half")
    given = revert(conn, list_entries(conn)[0], on_conflict="keep", left_rows=lambda part: left_file(tmp_path, part))
    assert (given.rows, given.left.rows) == (197, 3)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert sorted(row["key"] for row in written(tmp_path / name)) == ["id '1'", "id '100'", "id '200'"]


def test_later_change_of_another_column_is_no_conflict_and_stays(conn: Conn) -> None:
    """Only the columns that the UPDATE assigned are compared, and given back."""
    do(conn, "UPDATE t SET c = c + 1")
    conn.execute("UPDATE t SET a = -1 WHERE id < 10")
    assert back(conn) == (200, 0)
    assert value(conn, "SELECT count(*) FROM t WHERE c = id % 5") == 200
    assert value(conn, "SELECT count(*) FROM t WHERE a = -1") == 9


def test_conflicts_are_told_with_all_values_before_anything_is_changed(conn: Conn) -> None:
    """stop is the default; the error names the rows and what was, what was written, and what is now."""
    do(conn, "UPDATE t SET c = c + 1, b = 'new'")
    conn.execute(
        "UPDATE t SET b = 'mine' WHERE id = 7; DELETE FROM t WHERE id = 8; UPDATE t SET b = 'b9', c = 4 WHERE id = 9"
    )
    now = state(conn, "t")
    with pytest.raises(Refused) as error:
        back(conn)
    assert str(error.value) == (
        "somebody has changed 2 rows since 0001_data changed them\n"
        "Detail: \n"
        "  \"public\".\"t\" (id 7) changed since 0001_data: before b 'b7', c '2'; wrote b 'new', c '3'; now b 'mine', c '3'\n"
        "  \"public\".\"t\" (id 8) deleted since 0001_data: before b 'b8', c '3'; wrote b 'new', c '4'; now no row\n"
        "State: Nothing changed in the database.\n"
        "Hint: Choose on_conflict: keep leaves these rows unchanged, restore overwrites them."
    )
    assert state(conn, "t") == now


def test_keep_leaves_and_restore_overwrites(conn: Conn) -> None:
    """A row that somebody has deleted stays deleted in both: only its kept columns are known."""
    for decision, shown, left in (("keep", "mine", 2), ("restore", "b7", 1)):
        conn.execute("DROP SCHEMA IF EXISTS pgrunbook CASCADE; UPDATE t SET b = 'b' || id")
        do(conn, "UPDATE t SET b = 'new'")
        conn.execute("UPDATE t SET b = 'mine' WHERE id = 7; DELETE FROM t WHERE id = 8")
        assert back(conn, on_conflict=decision)[1] == left
        assert value(conn, "SELECT b FROM t WHERE id = 7") == shown
        conn.execute("INSERT INTO t VALUES (8, 8, 'b8', 3)")


def test_many_conflicts_are_counted_and_a_few_are_shown(conn: Conn) -> None:
    """The list is bounded, the number is not."""
    do(conn, "UPDATE t SET c = c + 1")
    conn.execute("UPDATE t SET c = -1")
    found = conflicts(conn, list_entries(conn)[0], samples=3)
    assert (found.rows, len(found.samples)) == (200, 3)
    streamed: list[str] = []
    assert conflicts(conn, list_entries(conn)[0], samples=3, each=lambda one: streamed.append(one.line())) == found
    assert len(set(streamed)) == 200


# What a step does, what somebody writes since, and what the file says of it: before, wrote, now, what happens then.
OUTCOMES = [
    ("UPDATE t SET b = 'it''s' WHERE id = 7", "UPDATE t SET b = NULL WHERE id = 7", ["'b7'", "'it''s'", "NULL"], "overwritten with the value before", True),
    ("UPDATE t SET b = NULL WHERE id = 7", "DELETE FROM t WHERE id = 7", ["'b7'", "NULL", "no row"], "stays deleted: only these columns of it were captured", True),
    ("UPDATE t SET b = repeat('w', 20000) WHERE id = 7", "UPDATE t SET b = repeat('n', 20000) WHERE id = 7", ["'b7'", f"'{'w' * 100}'", f"'{'n' * 10_000}'..."], "overwritten with the value before", True),
    ("UPDATE t SET b = '1' WHERE id = 7", "UPDATE t SET b = '=cmd()' WHERE id = 7", ["'b7'", "'1'", "'=cmd()'"], "overwritten with the value before", True),
    ("DELETE FROM t WHERE id = 7", "INSERT INTO t VALUES (7, 7, 'mine', 2)", ["'b7'", "no row", "'mine'"], "overwritten with the values before", True),
    ("INSERT INTO t VALUES (1007)", "UPDATE t SET b = 'mine' WHERE id = 1007", ["no row", "only its hash was captured", "'mine'"], "deleted, as it was inserted", True),
    ("INSERT INTO t VALUES (1007)", "CREATE TABLE kid (t int REFERENCES t); INSERT INTO kid VALUES (1007)", ["no row", "only its hash was captured", "NULL"], "left as it is: rows of another table refer to it", False),
    ("UPDATE t SET password = 'new' WHERE id = 7", "UPDATE t SET password = 'mine' WHERE id = 7", ["NULL", "'***'", "'***'"], "overwritten with the value before", True),
]  # fmt: skip


@pytest.mark.first_case
@pytest.mark.newest
@pytest.mark.parametrize(("step", "since", "values", "outcome", "is_gone"), sample(OUTCOMES, 3))
def test_each_conflict_is_in_a_file(
    conn: Conn, tmp_path: Path, step: str, since: str, values: list[str], outcome: str, is_gone: bool
) -> None:
    """What the file says becomes so; and what is left then is in a file of its own."""
    conn.execute("ALTER TABLE t ADD COLUMN password text")
    do(conn, step)
    conn.execute(since.encode())
    (entry,) = list_entries(conn)
    column = "password" if "password" in step else "b"
    for decision, said in (("stop", "somebody has to decide"), ("keep", "left as it is"), ("restore", outcome)):
        with progress.doing("comparing rows") as stage, conflict_file(tmp_path, decision) as into:
            found_rows = conflicts(conn, entry, each=into(entry)).rows
            assert str(stage) == f"comparing rows: {found_rows} in conflict, the last of public.t"
        found = [row for row in written(tmp_path / "conflicts.csv") if row["column"] == column]
        assert [
            [row["value before"], row["value it wrote"], row["value now"], row["what happens"]] for row in found
        ] == [[*values, said]]
        assert (found[0]["release"], found[0]["changed by"], found[0]["table"]) == ("run", "0001_data", "public.t")
        assert found[0]["key"] in ("id '7'", "id '1007'")
    revert(conn, entry, on_conflict="restore", left_rows=lambda part: left_file(tmp_path, part))
    files = [path.name for path in tmp_path.iterdir()]
    assert (files == ["conflicts.csv"]) == (is_gone and "deleted:" not in outcome)
    with conflict_file(tmp_path, "restore") as into:
        if is_gone and "deleted:" not in outcome:
            conflicts(conn, entry, each=into(entry))
    assert not (tmp_path / "conflicts.csv").exists()


def written(path: Path) -> list[dict[str, str]]:
    """Return the rows of a file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_deleted_row_that_was_made_again_is_a_conflict(conn: Conn) -> None:
    """Unless it is the same; and one whose unique value is taken is told before, and left out."""
    do(conn, "DELETE FROM ident WHERE id <= 4")
    conn.execute("INSERT INTO ident OVERRIDING SYSTEM VALUE VALUES (1, 'a1', 1), (2, 'mine', 2), (100, 'a3', 100)")
    found, refused = conflicts(conn, list_entries(conn)[0]).samples
    assert (found.way, found.key, found.before, found.wrote) == (
        "made again", {"id": "2"}, {"a": "a2", "num": "2"}, None,
    )  # fmt: skip
    assert (refused.way, refused.key) == ("displaced", {"id": "3"})
    given = revert(conn, list_entries(conn)[0], on_conflict="keep")
    assert given.rows == 1
    assert sorted((one.way, one.key["id"]) for one in given.left.samples) == [("displaced", "3"), ("made again", "2")]
    assert value(conn, "SELECT array_agg(a ORDER BY id) FROM ident WHERE id < 5") == ["a1", "mine", "a4"]


def test_restore_overwrites_a_row_that_was_made_again(conn: Conn) -> None:
    """All its columns are as they were."""
    before = state(conn, "t")
    do(conn, "DELETE FROM t WHERE id <= 4")
    conn.execute("INSERT INTO t VALUES (2, -2, 'mine', NULL)")
    assert back(conn, on_conflict="restore") == (4, 0)
    assert state(conn, "t") == before


@pytest.mark.newest
def test_new_row_that_others_refer_to_is_not_taken_away(conn: Conn) -> None:
    """Neither with "restore": rows that somebody has made would go with it."""
    conn.execute("CREATE TABLE child (id integer PRIMARY KEY, t integer REFERENCES t ON DELETE CASCADE)")
    do(conn, "INSERT INTO t VALUES (1001), (1002), (1003)")
    conn.execute("INSERT INTO child VALUES (1, 1001); UPDATE t SET b = 'mine' WHERE id = 1002")
    ways = {one.key["id"]: one.way for one in conflicts(conn, list_entries(conn)[0]).samples}
    assert ways == {"1001": "referred to", "1002": "changed"}
    assert back(conn, on_conflict="restore") == (2, 1)
    assert value(conn, "SELECT array_agg(id) FROM t WHERE id > 1000") == [1001]
    assert value(conn, "SELECT count(*) FROM child") == 1


@pytest.mark.newest
def test_trigger_that_adds_to_an_update_makes_all_columns_kept(conn: Conn) -> None:
    """What a BEFORE trigger writes to other columns is kept too; it fires again when rows are given back."""
    conn.execute(
        "CREATE FUNCTION twist() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.c <> OLD.c THEN NEW.b := NEW.c; END IF; RETURN NEW; END'"
    )
    conn.execute("CREATE TRIGGER twist BEFORE UPDATE OF c ON t FOR EACH ROW EXECUTE FUNCTION twist()")
    do(conn, "UPDATE t SET c = c + 1")
    assert list_entries(conn)[0].columns == ("id", "a", "b", "c")
    conn.execute("DROP TRIGGER twist ON t")
    assert back(conn) == (200, 0)
    assert value(conn, "SELECT count(*) FROM t WHERE b = 'b' || id") == 200


def test_row_that_is_changed_while_it_is_read_is_kept_in_its_newest_version(conn: Conn, server: Server) -> None:
    """Somebody's transaction that ends while the UPDATE waits: its value is what is kept, and what is updated."""
    with server.connect("keeping") as other:
        other.execute("BEGIN; UPDATE t SET c = 77 WHERE id = 5")
        thread = threading.Thread(target=lambda: do(conn, "UPDATE t SET c = c + 1 WHERE id < 10"))
        thread.start()
        with server.connect("keeping") as watching:
            for _ in range(1000):
                if value(watching, "SELECT count(*) FROM pg_locks WHERE NOT granted"):
                    break
                threading.Event().wait(0.01)
        other.commit()
        thread.join(timeout=30)
    assert value(conn, "SELECT c FROM t WHERE id = 5") == 78
    assert back(conn) == (9, 0)
    assert value(conn, "SELECT c FROM t WHERE id = 5") == 77


@pytest.mark.newest
@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("TRUNCATE t", "TRUNCATE would keep the table locked while all rows are copied; write DELETE instead"),
        ("UPDATE keyless SET a = 1", '"public"."keyless" has no unique key that identifies its rows'),
        ("DELETE FROM keyless", '"public"."keyless" has no unique key that identifies its rows'),
        ("UPDATE seen SET a = 1", '"public"."seen" is not a table'),
        ("UPDATE nowhere SET a = 1", 'there is no table "nowhere"'),
        ("DELETE FROM t RETURNING id", "its RETURNING clause returns rows to an unknown client"),
        ("WITH gone AS (DELETE FROM p RETURNING id) UPDATE t SET a = 0 FROM gone", 'its WITH query "gone" changes rows too'),
        ("INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET a = 0", "ON CONFLICT DO UPDATE inserts some rows and updates others"),
        ("UPDATE ident SET num = DEFAULT", 'column "num" is GENERATED ALWAYS AS IDENTITY, and its old value cannot be set again'),
        ("MERGE INTO t USING p ON t.id = p.id WHEN MATCHED THEN DELETE", "only an UPDATE, DELETE or INSERT shows which rows it changes"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_told(conn: Conn, statement: str, reason: str) -> None:
    """Nothing is executed, and nothing is made."""
    assert capture_obstacle(conn, statement) == reason
    with pytest.raises(Refused) as error:
        capture_statement(conn, statement, PLACE)
    assert str(error.value) == (
        "cannot capture the rows that a statement changes\n"
        f"Detail: They cannot be captured, because {reason}: {statement}\n"
        "State: Nothing changed in the database.\n"
        "Hint: Rewrite the statement so that its rows can be captured, or run it without capture: "
        "then only a restore brings the rows back."
    )
    assert list_entries(conn) == []


@pytest.mark.slow
def test_steps_are_given_back_in_turn(conn: Conn) -> None:
    """Each step restores what it found; the first cannot be given back before the second that built on it."""
    before = state(conn, "t")
    do(conn, "UPDATE t SET c = c + 1", 1)
    do(conn, "UPDATE t SET c = c * 2, id = id + 1000 WHERE c > 2", 2)
    do(conn, "DELETE FROM t WHERE c > 3", 3)
    do(conn, "INSERT INTO t SELECT 1, 1 WHERE false UNION ALL SELECT 5000, 1", 4)
    do(conn, "UPDATE t SET b = 'x' WHERE id = 5000", 5)
    first = entries_of_migration(conn, "0001_data", "up")[-1]
    with pytest.raises(Refused) as error:
        revert(conn, first)
    assert str(error.value).startswith("cannot revert step 1 of 0001_data before a later step\nDetail: Step ")
    assert back(conn)[1] == 0
    assert state(conn, "t") == before
    assert entries_of_migration(conn, "0001_data", "up") == []


# What somebody writes after `UPDATE t SET c = 0`, and the keys that are in conflict then.
FOLLOWED = {
    "deleted, and its key used again": ("DELETE FROM t WHERE id = 5; INSERT INTO t VALUES (5, 5, 'another', 0)", ["5"]),
    "deleted": ("DELETE FROM t WHERE id = 5", ["5"]),
    "moved": ("UPDATE t SET id = 1007 WHERE id = 7", []),
    "moved, and its key used again": ("UPDATE t SET id = 1007 WHERE id = 7; INSERT INTO t VALUES (7, 7, 'another', 0)", []),
    "moved and changed": ("UPDATE t SET id = 1007, c = 9 WHERE id = 7", ["1007"]),
    "swapped": ("UPDATE t SET id = 0 WHERE id = 8; UPDATE t SET id = 8 WHERE id = 9; UPDATE t SET id = 9 WHERE id = 0", []),
    "merged": ("MERGE INTO t USING (SELECT 5 AS id) AS s ON t.id = s.id WHEN MATCHED THEN DELETE; INSERT INTO t VALUES (5, 5, 'another', 0)", ["5"]),
    "upserted": ("INSERT INTO t VALUES (5) ON CONFLICT (id) DO UPDATE SET id = 1005", []),
    "replicated": ("SET session_replication_role = replica; DELETE FROM t WHERE id = 5; INSERT INTO t VALUES (5, 5, 'another', 0); RESET session_replication_role", ["5"]),
    "all gone but one": ("TRUNCATE t; INSERT INTO t VALUES (5, 5, 'another', 0)", ["5", "6"]),
    "switched off": ("ALTER TABLE t DISABLE TRIGGER ALL; DELETE FROM t WHERE id = 5; INSERT INTO t VALUES (5, 5, 'another', 0)", ["5", "6"]),
    "made anew": ("CREATE TABLE u (LIKE t INCLUDING ALL); INSERT INTO u SELECT * FROM t; DROP TABLE t CASCADE; ALTER TABLE u RENAME TO t", ["5", "6"]),
    "renamed key": ("ALTER TABLE t RENAME id TO k; DELETE FROM t WHERE k = 5; INSERT INTO t VALUES (5, 5, 'another', 0); ALTER TABLE t RENAME k TO id", ["5"]),
    "wider key": ("ALTER TABLE t ALTER id TYPE bigint; DELETE FROM t WHERE id = 5; INSERT INTO t VALUES (5, 5, 'another', 0); UPDATE t SET id = 10000000000 WHERE id = 6", ["5", "6"]),
}  # fmt: skip


@pytest.mark.first_case
@pytest.mark.parametrize("write", sample(FOLLOWED, 4))
def test_captured_rows_follow_theirs(conn: Conn, server: Server, write: str) -> None:
    """What was captured is reverted in the row of which it was captured, whatever its key is now, and in no other."""
    if write == "merged" and conn.info.server_version < 150_000:
        pytest.skip("MERGE is of PostgreSQL 15")
    conn.execute("DROP VIEW seen; UPDATE t SET c = id")
    assert do(conn, "UPDATE t SET c = 0 WHERE id < 10") == 9
    writes, keys = FOLLOWED[write]
    with server.connect("keeping") as other:
        other.execute(writes.encode())
    found = conflicts(conn, list_entries(conn)[0])
    assert (
        {*keys}
        <= {one.key["id"] for one in found.samples}
        <= ({*keys} if len(keys) < 2 else {*map(str, range(10)), *keys})
    )
    before = dict(conn.execute("SELECT b, c FROM t WHERE c = 0").fetchall())
    back(conn, on_conflict="keep")
    wanted = {f"b{n}": n for n in range(1, 10)} if len(keys) < 2 else {}
    now = dict(conn.execute("SELECT b, c FROM t").fetchall())
    if write == "moved and changed":
        wanted["b7"] = 9
    assert {name: now[name] for name in before} == {name: wanted.get(name, 0) for name in before}
    assert conn.execute("SELECT tgname FROM pg_trigger WHERE tgname ~ 'pgrunbook'").fetchall() == []


@pytest.mark.newest
def test_the_verdict_names_our_triggers(conn: Conn) -> None:
    """And until when they stay; purge takes them away."""
    assert undo_data_views.triggers(conn) == []
    do(conn, "UPDATE t SET c = 0 WHERE id < 10")
    says = "on public.t, until what they let follow its rows is reverted, reapplied or purged"
    assert undo_data_views.triggers(conn) == [("triggers of pgrunbook", says)]
    purge(conn, [list_entries(conn)[0].id])
    assert undo_data_views.triggers(conn) == []
    assert conn.execute("SELECT tgname FROM pg_trigger WHERE tgname ~ 'pgrunbook'").fetchall() == []


SELF_MOVING = """
CREATE FUNCTION moves() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  UPDATE odd SET id = id || 'a' WHERE id = NEW.id; RETURN NULL; END $$;
CREATE TRIGGER "Moves" AFTER UPDATE OF id ON odd FOR EACH ROW WHEN (pg_trigger_depth() < 2) EXECUTE FUNCTION moves();
"""
# A table whose key is unlike others, and how the row is moved whose key is five times x.
ODD = {
    "char": "CREATE TABLE odd (id char(9) PRIMARY KEY, n int, c int)",
    "any case": "CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false); CREATE TABLE odd (id text COLLATE any_case PRIMARY KEY, n int, c int)",
    "domain": "CREATE DOMAIN name9 AS varchar(9); CREATE TABLE odd (id name9 PRIMARY KEY, n int, c int)",
    "child": "CREATE TABLE parent (id text, n int, c int); CREATE TABLE odd (PRIMARY KEY (id)) INHERITS (parent)",
    "row security": "CREATE TABLE odd (id text PRIMARY KEY, n int, c int); ALTER TABLE odd ENABLE ROW LEVEL SECURITY",
    "triggers that move it": f"CREATE TABLE odd (id text PRIMARY KEY, n int, c int); {SELF_MOVING}",
    "generated": "CREATE TABLE odd (n int, id text GENERATED ALWAYS AS (n::text) STORED PRIMARY KEY, c int)",
}


@pytest.mark.newest
@pytest.mark.parametrize("kind", sample(ODD, 3))
def test_rows_with_odd_keys_are_followed(conn: Conn, kind: str) -> None:
    """Whatever moves them: the application's triggers, its parent table, a key that takes other texts for equal."""
    if kind == "any case" and not conn.execute("SELECT FROM pg_collation WHERE collname = 'und-x-icu'").fetchall():
        pytest.skip("this build has no collation that takes different texts for equal")
    conn.execute(ODD[kind].encode())
    names = "n, c" if kind == "generated" else "id, n, c"
    of = (lambda n: f"{n}, {n}") if kind == "generated" else (lambda n: f"repeat('x', {n}), {n}, {n}")
    for n in (4, 5, 6):
        conn.execute(f"INSERT INTO odd ({names}) VALUES ({of(n)})".encode())
    do(conn, "UPDATE odd SET c = 0")
    table = "parent" if kind == "child" else "odd"
    moved = "n = 50" if kind == "generated" else "id = upper(id)"
    conn.execute(f"UPDATE {table} SET {moved} WHERE n = 5; DELETE FROM {table} WHERE n = 4".encode())
    again = "4, 0" if kind == "generated" else "repeat('x', 4), 104, 0"
    conn.execute(f"INSERT INTO odd ({names}) VALUES ({again})".encode())
    back(conn, on_conflict="keep")
    wanted = [(4, 0), (6, 6), (50, 5)] if kind == "generated" else [(5, 5), (6, 6), (104, 0)]
    assert conn.execute("SELECT n, c FROM odd ORDER BY n").fetchall() == wanted


# What a later step does to rows of which a step before has captured values, and what somebody writes then.
OURS = {
    "deleted": ("DELETE FROM t WHERE id < 6", "", {5: 5}),
    "deleted, and another made": ("DELETE FROM t WHERE id = 5", "INSERT INTO t VALUES (5, 5, 'another', 0)", {5: 0}),
    "deleted, made and gone": ("DELETE FROM t WHERE id = 5", "INSERT INTO t VALUES (5); DELETE FROM t WHERE id = 5", {5: 5}),
    "moved": ("UPDATE t SET id = id + 1000 WHERE id < 6", "", {5: 5}),
    "moved again": ("UPDATE t SET id = id + 1000 WHERE id < 6", "UPDATE t SET id = 2005 WHERE id = 1005", {2005: 5}),
    "moved, and deleted": ("UPDATE t SET id = id + 1000 WHERE id < 6", "DELETE FROM t WHERE id = 1005; INSERT INTO t VALUES (1005, 5, 'another', 0)", {1005: 0}),
}  # fmt: skip


@pytest.mark.first_case
@pytest.mark.parametrize("later", sample(OURS, 4))
def test_what_a_later_step_takes_away_comes_back_with_its_row(conn: Conn, later: str) -> None:
    """Not with another row that has its key meanwhile."""
    conn.execute("UPDATE t SET c = id")
    do(conn, "UPDATE t SET c = 0 WHERE id < 10", 1)
    step, writes, wanted = OURS[later]
    do(conn, step, 2)
    conn.execute(writes.encode() or b"SELECT")
    back(conn, on_conflict="keep")
    assert {key: value(conn, f"SELECT c FROM t WHERE id = {key}") for key in wanted} == wanted
    assert value(conn, "SELECT count(*) FROM t WHERE id IN (1, 2, 3, 4) AND c = id") == 4


def test_a_session_with_an_old_snapshot_fails_as_it_would_without_capture(conn: Conn, server: Server) -> None:
    """It cannot see what was captured; the rows themselves were changed, so the server says the same."""
    with server.connect("keeping") as other:
        other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT")
        other.execute("SELECT count(*) FROM ident")
        do(conn, "UPDATE t SET c = 0 WHERE id < 10")
        other.execute("DELETE FROM t WHERE id = 50")
        with pytest.raises(psycopg.errors.SerializationFailure):
            other.execute("DELETE FROM t WHERE id = 5")


@pytest.mark.newest
def test_size_is_estimated_from_statistics(conn: Conn) -> None:
    """Within a third of the truth on a table that was analyzed; nothing is executed."""
    conn.execute("INSERT INTO t SELECT i, i, 'text ' || i, 1 FROM generate_series(201, 20000) AS i; ANALYZE t")
    before = state(conn, "t")
    assert size_estimate(conn, "DELETE FROM t WHERE pgrunbook_range").rows_estimate == 20_000
    statement = "UPDATE t SET b = b || '!', c = 2 WHERE id > 10000"
    told = size_estimate(conn, statement)
    assert state(conn, "t") == before
    do(conn, statement)
    assert told.rows_estimate == pytest.approx(10_000, rel=0.1)
    assert told.bytes_estimate == pytest.approx(list_entries(conn)[0].bytes, rel=0.34)


def test_what_is_kept_is_listed_and_purged(conn: Conn) -> None:
    """By number, by age, or when its time is over; what was purged is told when somebody wants it back."""
    do(conn, "UPDATE t SET c = 1", 1)
    with conn.transaction():
        text = capture_statement(
            conn,
            "UPDATE t SET c = 2",
            replace(PLACE, step=2),
            keep_until=value(conn, "SELECT now() - interval '1 hour'"),
        )
        conn.execute(text)
    second, first = list_entries(conn)
    assert (first.keep_until, second.step, second.bytes > 0) == (None, 2, True)
    assert purge(conn) == [second.kept_as]
    assert purge(conn, older_than=value(conn, "SELECT interval '1 day'")) == []
    assert purge(conn, [first.id]) == [first.kept_as]
    assert list_entries(conn) == []
    assert value(conn, "SELECT count(*) FROM pg_class WHERE relname ~ '^kept_' AND relkind = 'r'") == 0
    with pytest.raises(Refused, match="cannot revert table"):
        revert(conn, first)


def test_nothing_of_the_application_is_held_by_what_is_kept(conn: Conn) -> None:
    """Types, columns and tables can be dropped while rows of them are kept; giving back then says what is missing."""
    do(conn, 'UPDATE app."T x" SET m = NULL, pair = NULL, moods = NULL')
    conn.execute('ALTER TABLE app."T x" DROP COLUMN pair; DROP TYPE app.pair')
    with pytest.raises(Broken) as error:
        back(conn)
    assert error.value.detail == "The table no longer has column pair."
    conn.execute("DROP SCHEMA app CASCADE")
    with pytest.raises(Broken) as error:
        back(conn)
    assert error.value.detail == "The table does not exist."


def test_rows_that_row_level_security_hides_are_not_taken_for_deleted(conn: Conn) -> None:
    """The owner keeps and gives back; a session from which a policy hides rows is refused."""
    conn.execute("ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON t USING (id < 10)")
    conn.execute("GRANT ALL ON t TO runbook_reader")
    do(conn, "UPDATE t SET c = 1")
    conn.execute(
        "GRANT USAGE ON SCHEMA pgrunbook, public TO runbook_reader; GRANT ALL ON ALL TABLES IN SCHEMA pgrunbook TO runbook_reader; SET ROLE runbook_reader"
    )
    with pytest.raises(Refused, match="cannot compare the rows"):
        back(conn)
    conn.execute("RESET ROLE")
    assert back(conn) == (200, 0)
