"""What crashed changes leave behind: each kind is found, explained, and removed by its own statement."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import psycopg
import pytest

from pgrunbook.database import leftovers, locks
from pgrunbook.database.connection import Connection
from pgrunbook.database.leftovers import Remnant, remnants
from pgrunbook.errors import Refused, StatementFailed, WrongInput
from pgrunbook.execute import removal
from servers import Server, Servers
from test_lock_tree import opened

ODD = 'public."Odd ""t"" 🐘"'


@pytest.fixture
def name(database: Callable[..., str]) -> str:
    """A database with a table of an odd name whose values are there twice."""
    return database(f"CREATE TABLE {ODD} (id int, b text)", f"INSERT INTO {ODD} VALUES (1, 'a'), (1, 'b')")


@pytest.fixture
def conn(server: Server, name: str) -> Iterator[Connection]:
    """A connection to it."""
    with Connection.connect(host=server.socket_dir, user="postgres", dbname=name, autocommit=True) as found:
        yield found


def of(conn: Connection, kind: str) -> list[Remnant]:
    """Return the leftovers of a kind."""
    return [one for one in remnants(conn) if one.kind == kind]


def test_a_database_in_order_has_none(conn: Connection) -> None:
    """Also with an index, a constraint, a sequence that are as they should be."""
    conn.execute("CREATE TABLE fine (id serial PRIMARY KEY, b text CHECK (b <> ''))")
    assert remnants(conn) == []


def test_an_index_that_failed_to_build_is_removed_without_blocking(conn: Connection) -> None:
    """Of CREATE INDEX CONCURRENTLY and of REINDEX CONCURRENTLY; one of a constraint is built anew."""
    with pytest.raises(psycopg.errors.UniqueViolation):
        conn.execute(f'CREATE UNIQUE INDEX CONCURRENTLY "odd i" ON {ODD} (id)')
    conn.execute(f"CREATE INDEX fine ON {ODD} (b)")
    conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'fine'::regclass")
    conn.execute("ALTER INDEX fine RENAME TO fine_ccnew1")
    conn.execute("CREATE TABLE keyed (id int PRIMARY KEY)")
    conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'keyed_pkey'::regclass")
    found = {one.name: one for one in of(conn, "invalid index")}
    assert {name: one.statement for name, one in found.items()} == {
        'public."odd i"': 'DROP INDEX CONCURRENTLY public."odd i"',
        "public.fine_ccnew1": "DROP INDEX CONCURRENTLY public.fine_ccnew1",
        "public.keyed_pkey": "REINDEX INDEX CONCURRENTLY public.keyed_pkey",
    }
    assert found["public.fine_ccnew1"].why.startswith("a REINDEX CONCURRENTLY was cut off")
    assert found['public."odd i"'].where == ODD
    for one in found.values():
        removal.remove(conn, removal.chosen(conn, one.key))
    assert remnants(conn) == []


def test_an_index_of_a_partitioned_table_says_what_it_lacks(conn: Connection) -> None:
    """It is not dropped: it is valid when each partition has its part."""
    conn.execute("CREATE TABLE p (id int) PARTITION BY RANGE (id)")
    conn.execute("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (1) TO (9)")
    conn.execute("CREATE INDEX whole ON ONLY p (id)")
    (one,) = of(conn, "invalid index")
    assert (one.name, one.statement) == ("public.whole", "")
    with pytest.raises(Refused, match="refused to remove invalid index: "):
        removal.chosen(conn, one.key)


def test_what_somebody_works_on_is_no_leftover(server: Server, name: str, conn: Connection) -> None:
    """An index that is being built: found with who builds it, and not removed."""
    builder = psycopg.connect(host=server.socket_dir, user="postgres", dbname=name, autocommit=True)

    def build() -> None:
        with pytest.raises(psycopg.errors.QueryCanceled):
            builder.execute(f"CREATE INDEX CONCURRENTLY slow ON {ODD} (b)")

    with opened(server, name, "writer", f"DELETE FROM {ODD} WHERE b = 'a'"):
        thread = threading.Thread(target=build)
        thread.start()
        found: list[Remnant] = []
        while thread.is_alive() and not found:
            found = of(conn, "invalid index")
        assert found[0].busy == f"process {builder.info.backend_pid} builds it"
        with pytest.raises(Refused, match="refused to remove"):
            removal.chosen(conn, found[0].key)
        builder.cancel_safe()
        thread.join()
    builder.close()
    assert not of(conn, "invalid index")[0].busy


@pytest.mark.parametrize("drops", [False, True], ids=["built", "dropped"])
def test_what_a_role_works_on_that_we_do_not_see_is_no_leftover(server: Server, name: str, drops: bool) -> None:
    """Progress of others is hidden from an ordinary role, and a DROP INDEX CONCURRENTLY reports none to anybody."""
    what = "DROP INDEX CONCURRENTLY slow" if drops else f"CREATE INDEX CONCURRENTLY slow ON {ODD} (b)"
    server.run(name, "CREATE ROLE ordinary LOGIN", *([f"CREATE INDEX slow ON {ODD} (b)"] if drops else []))
    worker = psycopg.connect(host=server.socket_dir, user="postgres", dbname=name, autocommit=True)

    def work() -> None:
        with pytest.raises(psycopg.errors.QueryCanceled):
            worker.execute(what.encode())

    thread = threading.Thread(target=work)
    try:
        with (
            opened(server, name, "writer", f"DELETE FROM {ODD} WHERE b = 'a'"),
            Connection.connect(host=server.socket_dir, user="ordinary", dbname=name, autocommit=True) as blind,
        ):
            thread.start()
            found: list[Remnant] = []
            while thread.is_alive() and not found:
                found = of(blind, "invalid index")
            worker.cancel_safe()
            thread.join()
            assert found[0].busy == f"process {worker.info.backend_pid} works with it"
            assert not of(blind, "invalid index")[0].busy
    finally:
        worker.close()
        server.run(name, "DROP ROLE ordinary")


def test_a_partition_that_is_half_detached_is_finished(server: Server, conn: Connection, name: str) -> None:
    """Its rows are seen by nobody through the parent; FINALIZE ends it."""
    conn.execute("CREATE TABLE p (id int) PARTITION BY RANGE (id)")
    conn.execute('CREATE TABLE "p 1" PARTITION OF p FOR VALUES FROM (1) TO (9)')
    conn.execute("SET statement_timeout = '300ms'")
    with opened(server, name, "reader", "SELECT FROM p"), pytest.raises(psycopg.errors.QueryCanceled):
        conn.execute('ALTER TABLE p DETACH PARTITION "p 1" CONCURRENTLY')
    conn.execute("RESET statement_timeout")
    (one,) = of(conn, "partition half detached")
    assert one.statement == 'ALTER TABLE public.p DETACH PARTITION public."p 1" FINALIZE'
    removal.remove(conn, one)
    assert remnants(conn) == []


def test_a_part_of_an_index_is_built_anew(conn: Connection) -> None:
    """It cannot be dropped: the index of the parent needs it."""
    conn.execute("CREATE TABLE p (id int) PARTITION BY RANGE (id)")
    conn.execute("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (1) TO (9)")
    conn.execute("CREATE INDEX whole ON p (id)")
    conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'p1_id_idx'::regclass")
    (one,) = remnants(conn)
    assert one.statement == "REINDEX INDEX CONCURRENTLY public.p1_id_idx"
    removal.remove(conn, one)
    assert remnants(conn) == []


@pytest.mark.first_case
@pytest.mark.every_version
def test_what_a_reindex_of_a_table_left_goes_also_beside_toast(server: Server, name: str, conn: Connection) -> None:
    """Cut off while it waits for an old transaction, it leaves an index for each that it was to build."""
    conn.execute(f"CREATE INDEX fine ON {ODD} (b)")
    conn.execute("SET lock_timeout = '100ms'")
    with (
        opened(server, name, "old", "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
               f"LOCK {ODD} IN ROW EXCLUSIVE MODE"),
        pytest.raises(psycopg.errors.LockNotAvailable),
    ):  # fmt: skip
        conn.execute(f"REINDEX TABLE CONCURRENTLY {ODD}")
    found = of(conn, "invalid index")
    assert sorted(one.name.partition(".")[0] for one in found) == ["pg_toast", "public"]
    for one in found:
        removal.remove(conn, removal.chosen(conn, one.key))
    assert remnants(conn) == []


@pytest.mark.every_version
def test_temporary_tables_of_sessions_that_live_are_none(server: Server, name: str, conn: Connection) -> None:
    """Of others as of ours, however many have come and gone before."""
    for gone in range(3):
        with opened(server, name, f"gone {gone}", "CREATE TEMP TABLE mine (id int)"):
            pass
    with opened(server, name, "a", "SELECT 1"), opened(server, name, "b", "CREATE TEMP TABLE mine (id int)"):
        conn.execute("CREATE TEMP TABLE mine (id int)")
        assert remnants(conn) == []


def test_two_of_one_name_are_told_apart(conn: Connection) -> None:
    """A constraint's name is one of its table only: the other one stays as it is."""
    for table in ("a", "b"):
        conn.execute(f"CREATE TABLE {table} (n int)")
        conn.execute(f"ALTER TABLE {table} ADD CONSTRAINT c CHECK (n > 0) NOT VALID")
    first, second = remnants(conn)
    removal.remove(conn, removal.chosen(conn, second.key))
    assert remnants(conn) == [first]


@pytest.mark.slow
def test_helpers_of_a_run_that_is_over_are_removed(conn: Connection) -> None:
    """By our names, each of its kind; what has another name is somebody's. While a run is at work none is."""
    helper = "pgrunbook_0123456789ab"
    conn.execute(f"ALTER TABLE {ODD} ADD CONSTRAINT {helper} CHECK (id IS NOT NULL)")
    conn.execute(f"CREATE INDEX {helper} ON {ODD} (id)")
    conn.execute(
        f"CREATE TRIGGER {helper} BEFORE UPDATE ON {ODD} FOR EACH ROW EXECUTE FUNCTION"
        " suppress_redundant_updates_trigger()"
    )
    conn.execute(f"CREATE INDEX pgrunbook_of_mine ON {ODD} (id)")
    conn.execute("CREATE TYPE pgrunbook_new_kind AS ENUM ('a'); CREATE TYPE pgrunbook_kind AS ENUM ('a')")
    found = of(conn, "helper of a run")
    assert [one.name.split()[0] for one in found] == ["constraint", "index", "trigger", "type"]
    key, value = locks.LOCK_KEY
    with psycopg.connect(conn.info.dsn, autocommit=True) as run:
        run.execute("SELECT pg_advisory_lock(%s, %s)", [key, value])
        assert all(one.busy for one in of(conn, "helper of a run"))
        with pytest.raises(Refused, match="refused to remove helper of a run"):
            removal.chosen(conn, found[0].key)
    for one in found:
        removal.remove(conn, removal.chosen(conn, one.key))
    assert remnants(conn) == []


def test_what_another_tool_works_with_is_no_leftover(server: Server, name: str, conn: Connection) -> None:
    """Its session says who it is."""
    conn.execute("CREATE SCHEMA repack")
    conn.execute("CREATE TABLE repack.log_16384 (id int)")
    assert not of(conn, "of another tool")[0].busy
    with opened(server, name, "pg_repack", "SELECT 1"):
        assert of(conn, "of another tool")[0].busy


def test_constraints_and_sequences_are_mended(conn: Connection) -> None:
    """VALIDATE, and a number ahead of the rows; a constraint that rows violate says so and stays."""
    conn.execute("CREATE TABLE s (id serial, b int)")
    conn.execute("INSERT INTO s VALUES (50, 1)")
    conn.execute(
        "ALTER TABLE s ADD CONSTRAINT good CHECK (b > 0) NOT VALID, ADD CONSTRAINT bad CHECK (b > 5) NOT VALID"
    )
    keys = {one.name: one.key for one in remnants(conn)}
    assert set(keys) == {"good", "bad", "s_id_seq"}
    for name in ("good", "s_id_seq"):
        removal.remove(conn, removal.chosen(conn, keys[name]))
    with pytest.raises(StatementFailed, match="could not remove constraint not validated: bad of s") as failed:
        removal.remove(conn, removal.chosen(conn, keys["bad"]))
    assert "is violated by some row" in failed.value.detail
    assert [one.name for one in remnants(conn)] == ["bad"]
    assert conn.execute("SELECT nextval('s_id_seq')").fetchone() == (51,)
    with pytest.raises(WrongInput, match="there is no leftover"):
        removal.chosen(conn, keys["good"])


def test_a_check_that_calls_code_of_another_role_is_not_validated_with_our_rights(
    server: Server, name: str, conn: Connection
) -> None:
    """VALIDATE would run it as us: the code of a table's owner would be a superuser's."""
    role = "planter_of_checks"
    with server.connect(name) as admin:
        admin.execute(f"DROP ROLE IF EXISTS {role}")
        admin.execute(f"CREATE ROLE {role}")
        admin.execute(f"GRANT CREATE ON SCHEMA public TO {role}")
        try:
            admin.execute(f"SET ROLE {role}")
            admin.execute("CREATE TABLE bait (id int); INSERT INTO bait VALUES (1)")
            admin.execute("CREATE TABLE caught (who text); GRANT ALL ON caught TO PUBLIC")
            admin.execute("CREATE FUNCTION evil(int) RETURNS boolean LANGUAGE plpgsql AS"
                          " 'BEGIN INSERT INTO public.caught VALUES (current_user); RETURN true; END'")  # fmt: skip
            admin.execute("ALTER TABLE bait ADD CONSTRAINT planted CHECK (evil(id)) NOT VALID")
            admin.execute("CREATE DOMAIN dom AS int; ALTER DOMAIN dom ADD CONSTRAINT too CHECK (evil(VALUE)) NOT VALID")
            admin.execute("RESET ROLE")
            found = of(conn, "constraint not validated")
            assert {one.name: one.statement for one in found} == {"planted": "", "too": ""}
            for one in found:
                assert "runs code of another role with our rights" in one.why
                with pytest.raises(Refused):
                    removal.chosen(conn, one.key)
            assert conn.execute("SELECT count(*) FROM public.caught").fetchone() == (0,)
        finally:
            admin.execute("RESET ROLE")
            admin.execute(f"DROP OWNED BY {role} CASCADE")
            admin.execute(f"DROP ROLE {role}")


def test_a_lock_that_is_not_to_be_had_is_not_waited_for(
    server: Server, name: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A moment, and the leftover is there as before."""
    monkeypatch.setattr(removal, "LOCK_TIMEOUT_MS", 100)
    conn.execute(f"ALTER TABLE {ODD} ADD CONSTRAINT good CHECK (id > 0) NOT VALID")
    (one,) = remnants(conn)
    with opened(server, name, "owner", f"LOCK {ODD}"), pytest.raises(StatementFailed) as failed:
        removal.remove(conn, one)
    assert "canceling statement due to lock timeout" in failed.value.detail
    assert remnants(conn) == [one]


def test_slots_and_prepared_transactions(server: Server, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot that nobody reads, and a transaction that was prepared and forgotten; each says what goes with it."""
    other = servers.get(server.version, max_prepared_transactions="2", wal_level="logical")
    name = other.database("left_behind", "CREATE TABLE t (id int)")
    with Connection.connect(host=other.socket_dir, user="postgres", dbname=name, autocommit=True) as conn:
        conn.execute("SELECT pg_create_physical_replication_slot('odd_slot', true)")
        conn.execute("BEGIN")
        conn.execute("INSERT INTO t VALUES (1)")
        conn.execute("PREPARE TRANSACTION 'it''s'")
        assert not of(conn, "prepared transaction"), "it is young"
        monkeypatch.setattr(leftovers, "LONG_PREPARED_S", 0.0)
        found = {one.kind: one for one in remnants(conn)}
        assert found["prepared transaction"].name == "it's"
        assert "COMMIT PREPARED keeps it" in found["prepared transaction"].loses
        assert found["replication slot"].loses == "its reader has to begin anew"
        for one in found.values():
            removal.remove(conn, one)
        assert remnants(conn) == []


def test_what_other_tools_make_is_told_and_left_to_them(conn: Connection) -> None:
    """Each with the tool's own way out."""
    conn.execute("CREATE SCHEMA repack")
    conn.execute("CREATE TABLE repack.log_16384 (id int)")
    conn.execute("CREATE TABLE pgosc_st_books_1a2b3c (id int)")
    conn.execute(f'ALTER TABLE {ODD} ADD COLUMN "_pgroll_new_b" text, ADD COLUMN __reshape_0000 int')
    found = of(conn, "of another tool")
    assert [(one.name, one.statement) for one in found] == [
        ("table public.pgosc_st_books_1a2b3c", ""),
        ("table repack.log_16384", ""),
        ("column _pgroll_new_b", ""),
        ("column __reshape_0000", ""),
    ]
    assert "pgroll rollback, or pgroll complete" in found[2].why
    with pytest.raises(Refused, match="refused to remove"):
        removal.chosen(conn, found[0].key)
