"""A branch with the target's data: two databases alike on a server of its own, and nothing left of it."""

from __future__ import annotations

import os
import secrets
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg import errors, sql

from conftest import Site, connect, do, rows
from pgrunbook.branches import branch_server, data_branch
from pgrunbook.branches.server import Server
from pgrunbook.branches.server_name import server_names
from pgrunbook.branches.server_status import ServerState
from pgrunbook.config.targets import Target
from pgrunbook.database import row_counts
from pgrunbook.database.checksums import TableName, TableSum, checksums
from pgrunbook.errors import Refused, Unreachable
from scenes import error_of, session
from servers import DEBIAN
from servers import Server as ServerOf

# ruff: noqa: E501 - one statement on a line, whatever its length

Project = Callable[..., Target]
ENOUGH = 2**40
RICH = """
CREATE TABLE a (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz DEFAULT now());
INSERT INTO a (at) SELECT now() FROM generate_series(1, 1000);
CREATE SCHEMA "Odd schema";
CREATE TABLE "Odd schema"."T 1" ("M m" text PRIMARY KEY);
INSERT INTO "Odd schema"."T 1" SELECT 'Ä' || n FROM generate_series(1, 20) n;
CREATE TABLE p (n int, at date) PARTITION BY RANGE (at);
CREATE TABLE p_2026 PARTITION OF p FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO p SELECT n, '2026-02-03' FROM generate_series(1, 50) n;
"""


def sums(target: Target) -> dict[TableName, TableSum]:
    with connect(target, purpose="test") as conn:
        return checksums(conn)


def branches() -> list[str]:
    return [name for name in server_names() if name.startswith("branch-")]


def by_address(target: Target, monkeypatch: pytest.MonkeyPatch) -> Target:
    """The same database, as one that we know only the address of."""
    address = target.conninfo()
    url = f"postgresql://{address['user']}@/{address['dbname'].replace(' ', '%20')}?host={address['host']}"
    monkeypatch.setenv("ADDRESS", url)
    return Target(name="far", url_from="ADDRESS", migrations=target.migrations)


@pytest.fixture
def quoted_name(site: Site) -> Iterator[str]:
    name = f'It\'s "a" db {secrets.token_hex(3)}'
    with site.server.connect() as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield name
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.mark.slow
def test_the_data_is_there_twice_and_equal_and_the_source_is_untouched(project: Project) -> None:
    """What is committed until now is on the branch; what is done there stays there, and is gone at the end."""
    target = project()
    do(target, RICH)
    before = sums(target)
    with data_branch.with_data(target, most_bytes=ENOUGH) as made:
        copy = made.doubled()
        assert (copy.safe.name, copy.plain.name) == ("branch of demo", "plain branch of demo")
        assert copy.how == "base backup with WAL to now"
        assert sums(copy.safe) == sums(copy.plain) == before
        do(copy.safe, "DROP TABLE p")
        do(copy.plain, "INSERT INTO a DEFAULT VALUES")
        assert rows(copy.safe, "SELECT count(*) FROM a") == [(1000,)]
        assert sums(target) == before
        folder, name = copy.server.dir, copy.server.name
        assert folder.is_dir()
    assert not folder.exists()
    assert Server(name).status().state is ServerState.ABSENT
    assert branches() == []


def test_the_branch_archives_nothing_and_reaches_nobody(project: Project) -> None:
    """What somebody set on the source with ALTER SYSTEM does not make the branch write there or wait for it."""
    target = project()
    do(target, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    do(target, "ALTER SYSTEM SET archive_command = 'false'")
    do(target, "ALTER SYSTEM SET work_mem = '5MB'")
    try:
        with data_branch.with_data(target, most_bytes=ENOUGH) as copy:
            wanted = {**branch_server.settings(copy.server), "synchronous_standby_names": "", "work_mem": "5MB"}
            assert {name: rows(copy.safe, f"SHOW {name}")[0][0] for name in wanted} == wanted
            do(copy.safe, "CREATE TABLE written ()")
            assert list(copy.server.archive_dir.iterdir()) == []
    finally:
        for name in ("synchronous_standby_names", "archive_command", "work_mem"):
            do(target, f"ALTER SYSTEM RESET {name}")


@pytest.mark.slow
def test_a_prepared_transaction_does_not_stand_in_the_way(project: Project) -> None:
    """It came along in the base backup with its locks; on the branch it is aborted."""
    target = project()
    do(target, "CREATE TABLE a (n int)")
    with connect(target, purpose="test") as conn:
        conn.execute("BEGIN; LOCK TABLE a; PREPARE TRANSACTION 'somebody''s'")
        try:
            with data_branch.with_data(target, most_bytes=ENOUGH) as made:
                copy = made.doubled()
                do(copy.safe, "ALTER TABLE a ADD m int")
                assert rows(copy.plain, "SELECT gid FROM pg_prepared_xacts") == []
        finally:
            conn.execute("ROLLBACK PREPARED 'somebody''s'")


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize("way", ["server", "address"])
def test_the_branch_starts_sessions_with_the_settings_of_the_target(
    project: Project, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ALTER DATABASE and ALTER ROLE say where names are looked for: on both databases of the branch."""
    target = project()
    do(target, "CREATE SCHEMA app; CREATE SCHEMA postgres; CREATE TABLE app.t ()")
    do(target, f"ALTER DATABASE {target.database} SET search_path = app, \"$user\", 'Odd one'")
    do(target, f"ALTER DATABASE {target.database} SET app.tenant = 'x''y'")
    with data_branch.with_data(
        target if way == "server" else by_address(target, monkeypatch), most_bytes=ENOUGH
    ) as made:
        copy = made.doubled()
        for branch in (copy.safe, copy.plain):
            assert rows(branch, "SHOW search_path") == [('app, "$user", "Odd one"',)]
            assert rows(branch, "SHOW app.tenant") == [("x'y",)]
            do(branch, "DROP TABLE t")


@pytest.mark.slow
def test_a_dump_gives_the_same_data(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a server that is not ours; with owners, and the planner knows the tables."""
    target = project()
    do(target, RICH + "CREATE ROLE owner_of_p; ALTER TABLE p OWNER TO owner_of_p; CREATE TABLE pgrunbook.more ()")
    try:
        with data_branch.with_data(by_address(target, monkeypatch), most_bytes=ENOUGH) as made:
            copy = made.doubled()
            assert copy.how == "dump and restore"
            assert (copy.safe.name, copy.safe.url_from) == ("branch of far", None)
            assert sums(copy.safe) == sums(copy.plain) == sums(target)
            assert rows(copy.plain, "SELECT tableowner FROM pg_tables WHERE tablename = 'p'") == [("owner_of_p",)]
            assert rows(copy.plain, "SELECT reltuples FROM pg_class WHERE relname = 'a'") == [(1000.0,)]
            if copy.server.installation.major >= 17:
                assert rows(copy.safe, "SELECT lower('Ä')") == [("ä",)]
        assert branches() == []
    finally:
        do(target, "DROP OWNED BY owner_of_p; DROP ROLE owner_of_p")


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize("way", ["server", "address"])
def test_a_database_may_have_any_name(
    project: Project, way: str, quoted_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With blanks and both kinds of quotes."""
    target = project().model_copy(update={"database": quoted_name})
    do(target, RICH)
    if way == "address":
        monkeypatch.setenv("PGDATABASE", "elsewhere")
        monkeypatch.setenv("ADDRESS", f"postgresql://postgres@/?host={target.conninfo()['host']}")
        reached = Target(name="far", url_from="ADDRESS", database=quoted_name)
    else:
        reached = target
    with data_branch.with_data(reached, most_bytes=ENOUGH) as made:
        copy = made.doubled()
        assert copy.safe.database == quoted_name
        assert sums(copy.safe) == sums(copy.plain) == sums(target)


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize("how_it_ends", [RuntimeError, KeyboardInterrupt])
def test_the_branch_is_gone_however_the_rehearsal_ends(project: Project, how_it_ends: type[BaseException]) -> None:
    """Also while a session still writes on it."""
    target = project()
    made: list[Path] = []

    def rehearse() -> None:
        with data_branch.with_data(target, most_bytes=ENOUGH) as copy, connect(copy.safe, purpose="test") as conn:
            made.append(copy.server.dir)
            conn.execute("BEGIN; CREATE TABLE half_done ()")
            raise how_it_ends

    with pytest.raises(how_it_ends):
        rehearse()
    assert not made[0].exists()
    assert branches() == []


@pytest.mark.slow
def test_what_a_dead_process_left_is_cleared_away_and_what_a_living_one_uses_is_not(project: Project) -> None:
    """The lock of its server tells which is which, not the process id, which is given anew."""
    target = project()
    dead, living = Server(f"branch-{os.getpid()}-00dead"), Server("branch-999999999-00a11e")
    with dead.lock():
        dead.make_folders(dead.dir)
        branch_server.start_empty(dead)
    with living.lock():
        living.make_folders(living.dir)
        branch_server.start_empty(living)
        half = dead.dir.with_name("branch-7-0000aa.gone")
        half.mkdir()
        with data_branch.with_data(target, most_bytes=ENOUGH):
            assert dead.status().state is ServerState.ABSENT
            assert living.status().state is ServerState.RUNNING
        assert not half.exists()
    branch_server.clear_leftovers()
    assert branches() == []


def test_a_database_that_is_too_large_is_not_copied(project: Project) -> None:
    """The refusal says both sizes, and nothing is made."""
    target = project()
    error = error_of(lambda: data_branch.with_data(target, most_bytes=1024 * 1024).__enter__())
    assert isinstance(error, Refused)
    size_mb = str(rows(target, "SELECT round(pg_database_size(current_database()) / 1048576.0)")[0][0])
    assert error.lines() == [
        'refused to copy the data of target "demo": it is larger than allowed',
        f"Detail: Database {target.database} has {size_mb} MB; 1 MB are allowed.",
        "State: Nothing changed in the database.",
        f"Hint: Allow more. {data_branch.WITHOUT}",
    ]
    assert branches() == []


def test_a_disk_that_is_too_small_is_found_before_the_copy(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal says what there is and what it takes."""
    target = project()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**30, 2**30 - 2**20, 2**20))
    error = error_of(lambda: data_branch.with_data(target, most_bytes=ENOUGH).__enter__())
    assert isinstance(error, Refused)
    assert error.message == 'refused to copy the data of target "demo": there is too little space on the disk'
    assert " has 1 MB left; 2 copies and a fifth more need " in error.detail
    assert branches() == []


@pytest.mark.slow
def test_there_is_no_twin_where_the_disk_has_room_for_two_copies_only(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ways back are tried after the release then, on a further copy."""
    target = project()
    ((bytes_,),) = rows(target, "SELECT sum(pg_database_size(oid))::int8 FROM pg_database")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**40, int(2.5 * bytes_)))
    with data_branch.with_data(target, most_bytes=ENOUGH, twin=True) as copy:
        assert copy.twin is None
        assert branches() == [copy.server.name]


ORPHANS = (
    'CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (p int CONSTRAINT "K ey" REFERENCES p, q int REFERENCES p);'
    " COMMENT ON CONSTRAINT \"K ey\" ON c IS 'it''s'; CREATE TABLE o (p int REFERENCES p);"
    " SET session_replication_role = replica; INSERT INTO c VALUES (1, NULL), (2, NULL); INSERT INTO o VALUES (7)"
)
ORPHANS_IN_PARTITIONS = (
    "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE o (p int REFERENCES p) PARTITION BY LIST (p);"
    " CREATE TABLE o1 PARTITION OF o DEFAULT; SET session_replication_role = replica; INSERT INTO o VALUES (7)"
)
KEYS = (
    "SELECT conname, convalidated, pg_get_constraintdef(oid), obj_description(oid) FROM pg_constraint"
    " WHERE contype = 'f' ORDER BY conname, conrelid"
)


@pytest.mark.slow
@pytest.mark.every_version
@pytest.mark.parametrize("made", [ORPHANS, pytest.param(ORPHANS_IN_PARTITIONS, marks=pytest.mark.slow)])
def test_rows_that_reference_nothing_are_copied_by_a_dump(
    project: Project, server: ServerOf, database: Callable[..., str], monkeypatch: pytest.MonkeyPatch, made: str
) -> None:
    """As the target has them: its foreign key says that it is validated, with its comment.

    Before 18 none of a partitioned table can be made without a look at the rows: then it is said what is wrong.
    """
    project()
    monkeypatch.setenv("ADDRESS", f"host={server.socket_dir} user=postgres dbname={database(made)}")
    far = Target(name="far", url_from="ADDRESS")
    if made == ORPHANS_IN_PARTITIONS and server.version < 18:
        error = error_of(lambda: data_branch.with_data(far, most_bytes=ENOUGH).__enter__())
        assert isinstance(error, Unreachable)
        assert "NOT VALID foreign key" in error.detail
        assert "rows that reference nothing" in error.hint
        return
    with data_branch.with_data(far, most_bytes=ENOUGH) as copy:
        assert sums(copy.safe) == sums(far)
        assert rows(copy.safe, KEYS) == rows(far, KEYS)
        assert len(rows(copy.safe, KEYS)) > 1
        with pytest.raises(errors.ForeignKeyViolation):
            do(copy.safe, "INSERT INTO o VALUES (8)")


@pytest.mark.slow
def test_a_target_that_is_locked_cannot_be_dumped(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """pg_dump waits two seconds for its locks; then it is said what was in the way, and nothing is left."""
    target = project()
    do(target, "CREATE TABLE a (n int)")
    far = by_address(target, monkeypatch)
    with session(target, "LOCK TABLE a"):
        error = error_of(lambda: data_branch.with_data(far, most_bytes=ENOUGH).__enter__())
    assert isinstance(error, Unreachable)
    assert error.message == 'could not copy the data of target "far"'
    assert "canceling statement due to" in error.detail
    assert error.state == "The target was only read; the branch is removed."
    assert branches() == []


@pytest.mark.slow
def test_tablespaces_do_not_keep_a_branch_from_being_made(
    project: Project, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base backup brings them into the branch's folder, a dump goes without (test_isolation has what lies there)."""
    target = project()
    folder = site.server.dir / "far"
    site.server.do("mkdir", "far")
    do(target, f"CREATE TABLESPACE far LOCATION '{folder}'")
    try:
        with data_branch.with_data(target, most_bytes=ENOUGH) as copy:
            assert sums(copy.safe) == sums(target)
        with data_branch.with_data(by_address(target, monkeypatch), most_bytes=ENOUGH) as copy:
            assert sums(copy.safe) == sums(target)
    finally:
        do(target, "DROP TABLESPACE far")


@pytest.mark.parametrize("can", [True, False])
def test_databases_are_cloned_where_the_file_system_can(site: Site, monkeypatch: pytest.MonkeyPatch, can: bool) -> None:
    """From PostgreSQL 18 on; where a kernel cannot, the server would fail."""
    if not can:
        monkeypatch.setattr(os, "copy_file_range", lambda *_: os.truncate("/nowhere", 0))
    with site.server.connect() as admin:
        branch_server.share_blocks(admin)
        found = admin.execute("SELECT pg_catalog.current_setting('file_copy_method', true)").fetchone()
    assert found == ("clone" if can else "copy",) or site.server.installation.major < 18


COPIES = "SELECT count(*) FROM pg_database WHERE datname ~ '^(plain|safe)_'"


@pytest.mark.slow
def test_each_database_of_a_branch_has_the_targets_name_in_its_turn(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also that of the database which every cluster has, where our own sessions are; a large branch has more buffers."""
    monkeypatch.setattr(branch_server, "BUFFERS_BYTES", 1 << 20)
    for database in (project().database, "postgres"):
        target = Target(name="demo", server="main", database=database)
        asked = "SELECT pg_catalog.current_database()::text"
        with data_branch.with_data(target, most_bytes=ENOUGH, twin=True) as made:
            copy = made.doubled()
            assert copy.twin is not None
            for branch in (copy.plain, copy.safe):
                with copy.in_place(branch) as there:
                    assert rows(there, asked) == [(database,)]
                    do(there, f"CREATE TABLE of_{branch.name.split()[0]} ()")
            do(copy.twin.safe, "CREATE TABLE of_back ()")
            for branch in (copy.plain, copy.safe, copy.twin.safe):
                found = "SELECT relname::text FROM pg_class WHERE relname ~ '^of_(plain|back|branch)$'"
                assert rows(branch, found) == [(f"of_{branch.name.split()[0]}",)]
            for branch in (copy.safe, copy.twin.safe):
                assert rows(branch, asked) == [(database,)]
            assert rows(copy.twin.safe, COPIES) == [(0,)]
            asked = "SELECT current_setting('full_page_writes'), pg_size_bytes(current_setting('shared_buffers')) >> 20"
            (measured, buffers), (unmeasured, others) = (*rows(copy.safe, asked), *rows(copy.twin.safe, asked))
            assert (measured, unmeasured) == ("on", "off")
            assert 1 < buffers == others < 128
        with data_branch.with_data(target, most_bytes=ENOUGH, plain=False) as copy:
            assert copy.plain.database == copy.safe.database
            assert rows(copy.safe, COPIES) == [(0,)]


# Everything that can be unlogged; recovery empties it, and sets sequences back.
UNLOGGED = """
CREATE UNLOGGED TABLE plain (id bigint GENERATED ALWAYS AS IDENTITY (START 100), num serial, v text, twice bigint GENERATED ALWAYS AS (num * 2) STORED, PRIMARY KEY (id));
INSERT INTO plain (v) SELECT 'v' || i FROM generate_series(1, 300) AS i;
CREATE UNLOGGED TABLE referring (id bigint PRIMARY KEY REFERENCES plain, up bigint REFERENCES referring);
INSERT INTO referring SELECT 399 - i, CASE WHEN i > 0 THEN 400 - i END FROM generate_series(0, 9) AS i;
CREATE SCHEMA "Odd ""s"" x";
CREATE UNLOGGED TABLE "Odd ""s"" x"."T.1 $ 🐘*" ("M m" text PRIMARY KEY);
INSERT INTO "Odd ""s"" x"."T.1 $ 🐘*" SELECT 'Ä' || n FROM generate_series(1, 20) n;
CREATE TABLE parts (id integer, at date) PARTITION BY RANGE (at);
CREATE UNLOGGED TABLE parts_a PARTITION OF parts FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE parts_b PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO parts SELECT i, '2025-12-20'::date + i FROM generate_series(1, 30) AS i;
CREATE UNLOGGED TABLE parent (a integer); CREATE TABLE child () INHERITS (parent);
INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (3);
CREATE UNLOGGED TABLE empty (a integer);
CREATE TABLE counted (n integer); INSERT INTO counted VALUES (0);
CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN UPDATE public.counted SET n = n + 1; RETURN NEW; END';
CREATE TRIGGER counts BEFORE INSERT ON plain FOR EACH ROW EXECUTE FUNCTION count_it();
ALTER TABLE plain ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE RULE nowhere AS ON INSERT TO referring DO INSTEAD NOTHING;
"""
SEQUENCE_15 = "CREATE UNLOGGED SEQUENCE alone START 7; SELECT nextval('alone'), nextval('alone')"
POSITIONS = """
SELECT c.relname, pg_sequence_last_value(c.oid) FROM pg_class AS c WHERE c.relkind = 'S' AND c.relnamespace = 'public'::regnamespace ORDER BY 1
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "programs", [None, *(pytest.param(path, marks=pytest.mark.slow, id=path.parent.name) for path in DEBIAN)]
)
def test_what_is_unlogged_is_on_the_branch_too(
    site: Site, programs: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base backup has nothing of it: rows of tables and partitions, and the positions of sequences."""
    server = site.server
    if programs is not None:
        monkeypatch.setenv("PGRUNBOOK_PG_BINDIR", str(programs))
        server = Server("of-another-version")
        server.start()
    try:
        with server.connect() as conn:
            conn.execute("CREATE DATABASE unlogged")
        target = Target(name="unlogged", server=server.name, database="unlogged")
        do(target, UNLOGGED)
        if server.installation.major >= 15:
            do(target, SEQUENCE_15)
        positions = rows(target, POSITIONS)
        assert ("plain_num_seq", 300) in positions
        assert ("plain_id_seq", 399) in positions
        with data_branch.with_data(target, most_bytes=ENOUGH, twin=True) as made:
            copy = made.doubled()
            assert copy.twin is not None
            for branch in (copy.safe, copy.plain, copy.twin.safe):
                assert sums(branch.as_superuser()) == sums(target)
                assert rows(branch.as_superuser(), POSITIONS) == positions
                assert rows(branch.as_superuser(), "TABLE counted") == [(0,)]
    finally:
        with server.connect() as conn:
            conn.execute("DROP DATABASE IF EXISTS unlogged WITH (FORCE)")
        if programs is not None:
            server.destroy()


@pytest.mark.slow
def test_a_branch_with_fewer_rows_than_the_target_is_noticed(project: Project) -> None:
    """Counted on both sides."""
    target = project()
    do(target, RICH + "CREATE TABLE u (n int); INSERT INTO u SELECT generate_series(1, 10)")
    tables = ["public.a", '"Odd schema"."T 1"', "public.p", "public.u", "public.not_there"]
    with data_branch.with_data(target, most_bytes=ENOUGH) as copy:
        do(copy.safe, "DELETE FROM a WHERE n <= 50; DELETE FROM p WHERE n <= 6; DELETE FROM u")
        with connect(target, purpose="test") as there, connect(copy.safe, purpose="test") as here:
            found = row_counts.compared(there, here, tables)
            assert row_counts.compared(here, there, ["public.not_there"]) == []
    assert found == [
        ("public.a", 1000, 950), ('"Odd schema"."T 1"', 20, 20), ("public.p", 50, 44), ("public.u", 10, 0),
    ]  # fmt: skip
    assert [beside.table for beside in found if beside.falls_short] == ["public.p", "public.u"]


@pytest.mark.slow
def test_the_rows_of_a_big_table_are_estimated_from_its_size(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the catalog with too small a file beside it is found, though both have the same statistics."""
    target = project()
    do(target, "CREATE TABLE u (n int); INSERT INTO u SELECT generate_series(1, 50000); ANALYZE u")
    monkeypatch.setattr(row_counts, "COUNT_EXACTLY_BELOW_BYTES", -1)
    with (
        data_branch.with_data(target, most_bytes=ENOUGH) as copy,
        connect(target, purpose="test") as there,
        connect(copy.safe, purpose="test") as here,
    ):
        do(copy.safe, "CREATE TABLE v AS TABLE u LIMIT 0; TRUNCATE u")
        do(copy.safe, "UPDATE pg_class SET reltuples = 50000, relpages = 222 WHERE relname = 'u'")
        assert row_counts.compared(there, here, ["public.u"]) == [("public.u", 50000, 0)]
