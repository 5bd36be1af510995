"""Two columns agree whatever the application writes, and how; a value that cannot be converted breaks nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
import pytest
from psycopg import sql

from budget import sample
from pgrunbook.database import step_log
from pgrunbook.database.column_sync import ColumnPair, ColumnSync, Leads, sync_name
from pgrunbook.database.own_schema import refuse_foreign
from servers import Server

Conn = psycopg.Connection[tuple[object, ...]]
TABLE = sql.Identifier("public", "t")
TYPES = """
CREATE SCHEMA app;
CREATE TYPE app.color AS ENUM ('red', 'green');
CREATE DOMAIN app.positive AS bigint CHECK (VALUE > 0);
CREATE DOMAIN app.small AS integer CHECK (VALUE < 1000);
CREATE FUNCTION app.shout(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper($1)';
"""
# Old type, new type, forward, backward; values of the old type, then of the new type that the old one can hold, and
# those that it cannot.
PAIRS: dict[str, tuple[str, str, str, str, list[str], list[str], list[str]]] = {
    "int to bigint": ("integer", "bigint", "was", "becomes", ["1", "-5", "NULL"], ["7", "NULL"], ["3000000000"]),
    "int to numeric": ("integer", "numeric", "was", "becomes", ["1", "NULL"], ["2", "2.00"], ["1.5", "'NaN'"]),
    "numeric scale": ("numeric(10,4)", "numeric(10,2)", "was", "becomes", ["1.2345", "NULL"], ["9.99"],
                      ["99999999.99"]),
    "varchar to int": ("varchar(5)", "integer", "was::integer", "becomes", ["'12'", "' 7'", "NULL"], ["9"], ["123456"]),
    "text to uuid": (
        "text", "uuid", "was::uuid", "becomes", ["'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "NULL"],
        ["'b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"], [],
    ),
    "timestamp to timestamptz": (
        "timestamp", "timestamptz", "was", "becomes", ["'2026-03-29 01:30'", "'infinity'", "NULL"],
        ["'2026-07-01 00:00+00'"], [],
    ),
    "enum to text": ("app.color", "text", "was", "becomes::app.color", ["'red'", "NULL"], ["'green'"], ["'blue'"]),
    "text to enum": ("text", "app.color", "was::app.color", "becomes", ["'red'", "NULL"], ["'green'"], []),
    "json to jsonb": ("json", "jsonb", "was", "becomes", ["'{\"b\": 1,  \"a\": 2}'", "NULL"], ["'[1]'"], []),
    "jsonb to json": ("jsonb", "json", "was", "becomes", ["'[1]'", "NULL"], ["'[1, 2]'"], ["'[1,  2]'"]),
    "array": ("integer[]", "bigint[]", "was", "becomes", ["'{1,NULL}'", "NULL"], ["'{2}'"], ["'{3000000000}'"]),
    "domains": ("app.small", "app.positive", "was", "becomes", ["1", "NULL"], ["2"], ["5000"]),
    "char": ("char(4)", "varchar(4)", "was", "becomes", ["'ab'", "NULL"], ["'cd'"], []),
    "own function": ("text", "text", "app.shout(was)", "becomes", ["'ab'", "NULL"], ["'CD'"], ["'ef'"]),
    "date to text": ("date", "text", "was", "becomes::date", ["'2026-01-02'", "NULL"], ["'03.01.2026'"], ["'soon'"]),
}  # fmt: skip


@dataclass
class Synced:
    """A table with two columns that agree."""

    server: Server
    database: str
    pair: ColumnPair
    sync: ColumnSync
    conn: Conn

    def lead(self, leads: Leads) -> None:
        """Let one of them lead."""
        self.conn.execute(self.sync.turn(self.pair, leads))

    def values(self, *ids: int) -> list[tuple[object, ...]]:
        """The two columns as text."""
        return self.conn.execute(
            "SELECT old::text, new::text FROM t WHERE id = ANY (%s) ORDER BY id", [[*ids]]
        ).fetchall()

    def notes(self) -> int:
        """How many values could not be converted."""
        return len(self.conn.execute(sql.SQL("SELECT FROM {}").format(self.sync.notes)).fetchall())


@contextmanager
def synced(server: Server, kind: str, leads: Leads = Leads.OLD, *, partitioned: bool = False) -> Iterator[Synced]:
    """Give a table whose columns are kept equal."""
    old_type, new_type, forward, backward, *_ = PAIRS[kind]
    pair = ColumnPair("old", "new", old_type, new_type, forward, backward, is_steady=kind.startswith("int "))
    made = f"CREATE TABLE t (id integer PRIMARY KEY, old {old_type}, new {new_type}, n integer)"
    if partitioned:
        made += " PARTITION BY RANGE (id); CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (10);"
        made += "CREATE TABLE t_2 PARTITION OF t FOR VALUES FROM (10) TO (1000)"
    name = f"sync_{'_'.join(kind.split())}{'_p' * partitioned}"
    template = server.database(name, TYPES, made)
    with server.copied(f"own_{name}", template), server.connect(f"own_{name}") as conn:
        step_log.create(conn)  # type: ignore[arg-type]
        conn.execute("SET TimeZone = 'Europe/Berlin'")
        conn.execute("SET DateStyle = 'German'")
        sync = ColumnSync(sync_name(TABLE, "old", "new"), TABLE)
        with conn.transaction():
            conn.execute(sync.installation(pair, leads))
        refuse_foreign(conn)  # type: ignore[arg-type]
        yield Synced(server, f"own_{name}", pair, sync, conn)


@pytest.mark.first_case
@pytest.mark.parametrize("kind", sample([*PAIRS], 5))
def test_the_new_column_follows_the_old_one(server: Server, kind: str) -> None:
    """By INSERT, UPDATE, MERGE, ON CONFLICT, under other settings and by replication: as assignment would have it."""
    values = PAIRS[kind][4]
    with synced(server, kind) as own, server.connect(own.database) as other:
        other.execute("SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'SQL, DMY'; SET search_path = app, public")
        for number, value in enumerate(values):
            other.execute(f"INSERT INTO t (id, old) VALUES ({number}, {value})")
            other.execute(
                f"INSERT INTO t (id) VALUES ({number + 10}); UPDATE t SET old = {value} WHERE id = {number + 10}"
            )
            other.execute("SET session_replication_role = replica")
            other.execute(f"INSERT INTO t (id) VALUES ({number + 20}) ON CONFLICT (id) DO NOTHING")
            other.execute(f"INSERT INTO t (id) VALUES ({number + 20}) ON CONFLICT (id) DO UPDATE SET old = {value}")
            other.execute("SET session_replication_role = origin")
            merged = (
                f"MERGE INTO t USING (SELECT 1) AS s ON id = {number + 30}"
                f" WHEN NOT MATCHED THEN INSERT (id, old) VALUES ({number + 30}, {value})"
            )
            plain = f"INSERT INTO t (id, old) VALUES ({number + 30}, {value})"
            other.execute(merged if server.version >= 15 else plain)
        wanted = (
            "CREATE TABLE wanted AS SELECT id, old, new FROM t LIMIT 0; INSERT INTO wanted SELECT id, old, {} FROM t"
        )
        own.conn.execute(wanted.format(own.pair.forward.replace("was", "old")))
        assert own.conn.execute("SELECT count(*) FROM t JOIN wanted USING (id)").fetchone() == (4 * len(values),)
        differ = "CAST(ROW(t.new) AS record) *<> CAST(ROW(w.new) AS record)"
        assert own.conn.execute(f"SELECT t.id FROM t JOIN wanted AS w USING (id) WHERE {differ}").fetchall() == []
        assert own.notes() == 0
        own.conn.execute(own.sync.proof(own.pair))


@pytest.mark.parametrize("kind", sample([*PAIRS], 5))
def test_the_old_column_follows_the_new_one(server: Server, kind: str) -> None:
    """What the old type can hold is there when one goes back; what it cannot is NULL and noted, and never an error."""
    *_, old_values, held, beyond = PAIRS[kind]
    with synced(server, kind, Leads.OLD) as own:
        for number, value in enumerate(old_values):
            own.conn.execute(f"INSERT INTO t (id, old) VALUES ({number}, {value})")
        before = own.values(*range(10))
        own.lead(Leads.NEW)
        own.conn.execute("UPDATE t SET n = 1, new = new")
        assert own.values(*range(10)) == before
        for number, value in enumerate(held, 10):
            own.conn.execute(f"INSERT INTO t (id, new) VALUES ({number}, {value})")
            own.conn.execute(
                f"INSERT INTO t (id) VALUES ({number + 10}); UPDATE t SET new = {value} WHERE id = {number + 10}"
            )
        assert own.notes() == 0
        own.conn.execute(own.sync.proof(own.pair))
        for number, value in enumerate(beyond, 50):
            own.conn.execute(f"INSERT INTO t (id, new) VALUES ({number}, {value})")
        assert [old for old, _ in own.values(*range(50, 60))] == [None] * len(beyond)
        assert all(new is not None for _, new in own.values(*range(50, 60)))
        assert own.notes() == len(beyond)
        if beyond:
            with pytest.raises(psycopg.errors.IntegrityError, match=f"in {len(beyond)} of its rows"):
                own.conn.execute(own.sync.proof(own.pair))


def _planted(conn: Conn) -> None:
    """Somebody plants what would be called where names mean what they say."""
    conn.execute(
        "CREATE SCHEMA mallory; CREATE FUNCTION mallory.shout(text) RETURNS text LANGUAGE plpgsql AS"
        " 'BEGIN RAISE ''planted''; END'; CREATE DOMAIN mallory.int8 AS text; CREATE TYPE mallory.color AS ENUM ('mad')"
    )
    conn.execute("SET search_path = mallory, pg_catalog, app")
    conn.execute("CREATE TEMP TABLE t (old integer); CREATE DOMAIN pg_temp.text AS integer CHECK (VALUE > 0)")


def _replaced(conn: Conn) -> None:
    conn.execute("SET session_replication_role = replica")


@pytest.mark.parametrize("prepare", [_planted, _replaced], ids=lambda one: one.__name__.strip("_"))
def test_no_session_evades_it(server: Server, prepare: Callable[[Conn], None]) -> None:
    """A hostile search_path, temporary objects, replication: the columns agree, and nothing planted is called."""
    with synced(server, "own function") as own, server.connect(own.database) as other:
        prepare(other)
        other.execute("INSERT INTO public.t (id, old) VALUES (1, 'ab')")
        assert own.values(1) == [("ab", "AB")]


@pytest.mark.parametrize("leads", [Leads.OLD, Leads.NEW])
def test_a_writer_needs_no_right_of_ours(server: Server, leads: Leads) -> None:
    """A role that may write single columns only: it may not even look into our schema, also where nothing converts."""
    with synced(server, "enum to text", leads) as own:
        own.conn.execute("CREATE ROLE writer_of_sync; GRANT USAGE ON SCHEMA app TO writer_of_sync")
        own.conn.execute("GRANT INSERT (id, old, new), UPDATE (old, new), SELECT (id) ON t TO writer_of_sync")
        try:
            own.conn.execute("SET ROLE writer_of_sync")
            for number, column in enumerate(("old", "new")):
                own.conn.execute(f"INSERT INTO t (id, {column}) VALUES ({number}, 'red')")
            if leads is Leads.NEW:
                own.conn.execute("UPDATE t SET new = 'blue' WHERE id = 1")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                own.conn.execute(sql.SQL("SELECT {}()").format(sql.Identifier("pgrunbook", own.sync.function_name)))
            own.conn.execute("RESET ROLE")
            wanted = [("red", "red"), (None, "blue") if leads is Leads.NEW else (None, None)]
            assert own.values(0, 1) == wanted
            assert own.notes() == (leads is Leads.NEW)
        finally:
            own.conn.execute("RESET ROLE; DROP OWNED BY writer_of_sync; DROP ROLE writer_of_sync")


def test_it_fires_behind_triggers_of_the_application(server: Server) -> None:
    """A trigger BEFORE that changes the value: the other column gets what is stored."""
    with synced(server, "int to bigint") as own:
        own.conn.execute(
            "CREATE FUNCTION app.twice() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN NEW.old := NEW.old * 2; RETURN NEW; END';"
            'CREATE TRIGGER "zz last" BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION app.twice()'
        )
        own.conn.execute("INSERT INTO t (id, old) VALUES (1, 21)")
        assert own.values(1) == [("42", "42")]


def test_rows_of_partitions_agree(server: Server) -> None:
    """Written through the parent, into a partition, and moved from one to another; a value that was cut stays."""
    with synced(server, "numeric scale", partitioned=True) as own:
        own.conn.execute("INSERT INTO t (id, old) VALUES (1, 1.2345); INSERT INTO t_2 (id, old) VALUES (11, 2.3456)")
        assert own.values(1, 11) == [("1.2345", "1.23"), ("2.3456", "2.35")]
        own.lead(Leads.NEW)
        own.conn.execute("UPDATE t SET id = id + 50 WHERE id = 1")
        assert own.values(51) == [("1.2345", "1.23")]


def test_two_names_of_one_value(server: Server) -> None:
    """Either name may be given; where an UPDATE changes both, the new one counts."""
    with synced(server, "own function", Leads.OLD) as own:
        pair = ColumnPair("old", "new", "text", "text")
        own.conn.execute("ALTER TABLE t ALTER new SET DEFAULT 'd'")
        with own.conn.transaction():
            own.conn.execute(own.sync.installation(pair, Leads.BOTH))
        own.conn.execute("INSERT INTO t (id, old) VALUES (1, 'a'); INSERT INTO t (id, new) VALUES (2, 'b')")
        own.conn.execute("INSERT INTO t (id) VALUES (3); INSERT INTO t (id, old) VALUES (4, 'x'), (5, 'x'), (6, 'x')")
        own.conn.execute("UPDATE t SET old = 'y' WHERE id = 4; UPDATE t SET new = NULL WHERE id = 5")
        own.conn.execute("UPDATE t SET old = 'o', new = 'n' WHERE id = 6")
        both = [("a", "a"), ("b", "b"), ("d", "d"), ("y", "y"), (None, None), ("n", "n")]
        assert own.values(*range(1, 7)) == both


def test_an_insert_without_names_gives_the_new_column_its_value(server: Server) -> None:
    """Its values are in the order of before the cut-over; a default of the new column gives way to them."""
    with synced(server, "int to bigint", Leads.NEW) as own:
        own.conn.execute(
            "ALTER TABLE t ALTER new SET DEFAULT 99; INSERT INTO t VALUES (1, 7); INSERT INTO t (id) VALUES (2)"
        )
        own.conn.execute("PREPARE add AS INSERT INTO t VALUES (3, $1); EXECUTE add (NULL)")
        assert own.values(1, 2, 3) == [("7", "7"), ("99", "99"), ("99", "99")]


def test_a_trigger_that_was_switched_off_is_found(server: Server) -> None:
    """The proof fails while it is off; rows written meanwhile are found once it is on again."""
    with synced(server, "int to bigint") as own:
        own.conn.execute("ALTER TABLE t DISABLE TRIGGER USER; INSERT INTO t (id, old) VALUES (1, 1)")
        with pytest.raises(psycopg.errors.RaiseException, match="switched trigger"):
            own.conn.execute(own.sync.proof(own.pair))
        trigger = sql.Identifier(own.sync.trigger_name)
        own.conn.execute(sql.SQL("ALTER TABLE t ENABLE ALWAYS TRIGGER {}").format(trigger))
        with pytest.raises(psycopg.errors.IntegrityError, match="in 1 of its rows"):
            own.conn.execute(own.sync.proof(own.pair))


@pytest.mark.parametrize("how", ["removal", "cleanup"])
def test_nothing_of_it_stays(server: Server, how: str) -> None:
    """Removal and cleanup drop the trigger, its functions and its notes; a second installation replaces the first."""
    with synced(server, "int to bigint") as own:
        own.conn.execute("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC")
        own.conn.execute("ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO PUBLIC")
        own.conn.execute("GRANT USAGE ON SCHEMA pgrunbook TO PUBLIC; CREATE ROLE onlooker_of_sync")
        try:
            with own.conn.transaction():
                own.conn.execute(own.sync.installation(own.pair, Leads.OLD))
            own.conn.execute("DISCARD ALL")
            with server.connect(own.database) as other:
                refuse_foreign(other)  # type: ignore[arg-type]
            if how == "removal":
                own.conn.execute(own.sync.removal())
            for (statement,) in own.conn.execute(own.sync.cleanup()).fetchall():
                assert how == "cleanup"
                own.conn.execute(str(statement))
            left = "SELECT relname FROM pg_class WHERE relname ~ '^sync_' UNION ALL SELECT tgname FROM pg_trigger"
            left += " UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'pgrunbook'::regnamespace"
            assert own.conn.execute(left).fetchall() == []
        finally:
            own.conn.execute("DROP ROLE onlooker_of_sync")
