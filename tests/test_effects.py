"""What effects says of a statement, against what real servers do when they run it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import psycopg
import pytest
from pglast import ast, enums

from budget import sample
from pgrunbook.branches.binaries import installation
from pgrunbook.database.catalog import UNKNOWN, Catalog
from pgrunbook.database.catalog_reader import read
from pgrunbook.database.connection import Connection
from pgrunbook.effects.result import Effects
from pgrunbook.effects.statements import effects
from pgrunbook.review.hazards import Severity, Timeouts, Transactions
from pgrunbook.review.review import review
from pgrunbook.review.safe_mode import refusals
from pgrunbook.sql.lock_modes import ACCESS_EXCLUSIVE, CONFLICTS, ROW_EXCLUSIVE, SHARE, Lock, blocks, covers, strongest
from pgrunbook.sql.statements import Statement, parse
from pgrunbook.sql.tree import subcommand, tree
from servers import WHEEL, Servers, known_to
from test_advice import in_use

pytestmark = pytest.mark.every_version

FOLDER = Path(__file__).parent / "effects"
SETUP = (FOLDER / "setup.sql").read_text()


# What test_inverse leaves out: the database is this one, the object the server's own, the way back in no transaction.
OF_THE_SERVER = (
    "from 15 ALTER DATABASE effects REFRESH COLLATION VERSION",
    "ALTER DATABASE effects SET work_mem = '8MB'",
    "ALTER DATABASE effects CONNECTION LIMIT 10",
    "ALTER OPERATOR pg_catalog.= (integer, integer) SET (RESTRICT = eqsel)",
    "ALTER TEXT SEARCH CONFIGURATION pg_catalog.simple DROP MAPPING FOR email",
    "ALTER TEXT SEARCH DICTIONARY pg_catalog.simple (ACCEPT = false)",
    "CREATE SUBSCRIPTION shop_new CONNECTION 'dbname=x' PUBLICATION news WITH (connect = false, slot_name = NONE)",
)
CASES = [line for line in (FOLDER / "cases.sql").read_text().splitlines() if line and not line.startswith("--")]
CASES += OF_THE_SERVER


def cases(version: int) -> list[str]:
    """Return the statements that a version knows."""
    return [statement for line in CASES if (statement := known_to(version, line)) is not None]


PLANNED = (
    "SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "WITH", "EXPLAIN", "DO", "CREATE TABLE", "CREATE M", "REFRESH",
    "TRUNCATE", "COPY (", "DECLARE",
)  # fmt: skip
# What the planner decides, and no text tells: which partitions a condition leaves, and into which one a row goes.
PRUNED = ("UPDATE shop.day SET at", "DELETE FROM shop.log WHERE", "INSERT INTO shop.day")


@dataclass(frozen=True)
class Seen:
    """What a server did with a statement; relations by name, indexes apart."""

    locks: frozenset[tuple[str, str]]
    index_locks: frozenset[tuple[str, str]]
    new_files: frozenset[str]
    new_index_files: frozenset[str]
    scanned: frozenset[str]


@dataclass(frozen=True)
class Past:
    """A database as setup.sql makes it, with everything that was there before a statement."""

    conn: psycopg.Connection[tuple[object, ...]]
    major: int
    kinds: dict[str, str]
    oids: dict[int, str]
    table_of: dict[str, str]
    catalog: Catalog

    def files(self) -> dict[str, object]:
        """Return the file of every relation that was there, by name: an index can come back as another one."""
        rows = self.conn.execute(
            "SELECT c.oid::regclass::text, c.relfilenode FROM pg_class AS c JOIN pg_namespace AS n"
            " ON n.oid = c.relnamespace WHERE n.nspname IN ('shop', 'attic', 'public')"
        ).fetchall()
        return {str(name): file for name, file in rows if str(name) in self.kinds}


@pytest.fixture(scope="session")
def past(version: int, servers: Servers) -> Iterator[Past]:
    settings = {"autovacuum": "off"}
    if version != WHEEL or installation().library("pg_stat_statements"):
        settings["shared_preload_libraries"] = "pg_stat_statements"
    server = servers.get(version, **settings)
    with server.connect(server.database("effects", "SET TimeZone = 'Europe/Berlin'", SETUP)) as conn:
        conn.execute("SET TimeZone = 'Europe/Berlin'")
        yield _past(conn)


def _past(conn: psycopg.Connection[tuple[object, ...]]) -> Past:
    statements = [s for case in cases(conn.info.server_version // 10_000) for s in parse(case, "cases.sql")]
    rows = conn.execute(
        "SELECT c.oid::bigint, c.oid::regclass::text, c.relkind::text, i.indrelid::regclass::text FROM pg_class AS c"
        " LEFT JOIN pg_index AS i ON i.indexrelid = c.oid WHERE c.relkind <> 'c'"
        " AND c.relnamespace IN ('shop'::regnamespace, 'attic'::regnamespace)"
    ).fetchall()
    return Past(
        conn,
        conn.info.server_version // 10_000,
        {str(name): str(kind) for _, name, kind, _ in rows},
        {int(str(oid)): str(name) for oid, name, _, _ in rows},
        {str(name): str(table) for _, name, _, table in rows if table},
        read(conn, statements),
    )


def _run(past: Past, statement: str) -> Seen:
    conn, before = past.conn, past.files()
    conn.execute("SELECT pg_stat_force_next_flush()" if past.major >= 15 else "SELECT pg_sleep(0.5)")
    conn.execute("SELECT 1")
    with conn.transaction(force_rollback=True):
        if statement.startswith("COPY"):
            with conn.cursor().copy(statement.encode()) as copy:
                list(copy)
        else:
            conn.execute(statement.encode())
        oids = list(past.oids)
        held = conn.execute(
            "SELECT relation::bigint, mode FROM pg_locks WHERE pid = pg_backend_pid() AND relation = ANY (%s)", [oids]
        ).fetchall()
        read_now = conn.execute(
            "SELECT relid::bigint FROM pg_stat_xact_all_tables WHERE seq_scan > 0 AND relid = ANY (%s)", [oids]
        ).fetchall()
        new = {name for name, file in past.files().items() if file != before[name]}
    locks = {(past.oids[int(str(oid))], str(mode)) for oid, mode in held}
    indexes = {pair for pair in locks if past.kinds[pair[0]] in "iI"}
    return Seen(
        frozenset(locks - indexes),
        frozenset(indexes),
        frozenset(name for name in new if past.kinds[name] in "rm"),
        frozenset(name for name in new if past.kinds[name] == "i"),
        frozenset(past.oids[int(str(oid))] for (oid,) in read_now),
    )


@pytest.mark.parametrize("line", sample(CASES, 6))
def test_effects_are_what_the_server_does(past: Past, line: str) -> None:
    """Locks, new files and scans of every kind of statement are as the server shows them."""
    statement = known_to(past.major, line)
    if statement is None:
        pytest.skip(f"PostgreSQL {past.major} does not know this")
    told = effects(tree(statement), past.catalog)
    seen = _run(past, statement)
    assert told.fails == ()
    if statement.startswith(PRUNED):
        is_open = any("partition" in what for what in told.unsure)
        assert set(strongest(seen.locks)) <= set(told.locks) or is_open
        return
    _same_locks(past, told, seen)
    assert {*told.rewrites, *told.empties} == seen.new_files
    rebuilt = {*told.rebuilds, *(i for i, table in past.table_of.items() if table in (*told.rewrites, *told.empties))}
    assert rebuilt & past.kinds.keys() == seen.new_index_files
    _same_scans(statement, told, seen)


def _same_locks(past: Past, told: Effects, seen: Seen) -> None:
    def is_index(lock: Lock) -> bool:
        return past.kinds.get(lock.object, "") in ("i", "I")

    # A sequence in a default is read by nextval, which blocks nobody but ALTER SEQUENCE: not told.
    quiet = ("RowExclusiveLock", "AccessShareLock")
    counted = {pair for pair in seen.locks if past.kinds[pair[0]] != "S" or pair[1] not in quiet}
    weak = {lock for lock in told.locks if past.kinds.get(lock.object) == "S" and lock.mode in quiet}
    assert [lock for lock in told.locks if not is_index(lock) and lock not in weak] == list(strongest(counted))
    told_of_indexes = {lock for lock in told.locks if is_index(lock)}
    assert told_of_indexes <= set(strongest(seen.index_locks))
    for lock in set(strongest(seen.index_locks)) - told_of_indexes:
        table = told.mode_on(past.table_of[lock.object])
        assert table is not None, lock
        assert covers(table, lock.mode), lock


def _same_scans(statement: str, told: Effects, seen: Seen) -> None:
    """Queries are read as the planner likes; so is the other side of a foreign key. TRUNCATE counts as a scan."""
    if statement.startswith(PLANNED):
        assert set(told.scans) <= seen.scanned
        return
    partners = {lock.object for lock in told.locks} if "FOREIGN KEY" in statement or " TYPE " in statement else set()
    assert set(told.scans) <= seen.scanned
    assert seen.scanned - set(told.scans) <= partners


@pytest.mark.slow
@pytest.mark.parametrize("part", [CASES[7::60], pytest.param(CASES, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.newest
def test_a_statement_alone_is_judged_as_among_others(past: Past, part: list[str]) -> None:
    """What is read of the database for it alone is all that its effects need."""
    other = {}
    for line in part:
        statement = known_to(past.major, line)
        if statement is not None:
            alone = effects(tree(statement), read(past.conn, parse(statement, "cases.sql")))  # type: ignore[arg-type]
            among = effects(tree(statement), past.catalog)
            if alone != among:
                other[statement] = (alone, among)
    assert other == {}


# Rules that tell of rows read or written anew while others wait.
OF_LONG_LOCKS = {
    "column-type-rewrites", "index-not-concurrent", "set-not-null-scans", "check-validates", "add-column-rewrites",
    "add-column-checks-rows", "foreign-key-validates", "key-builds-index", "partition-is-read", "table-rewritten",
    "materialized-view-locked", "reindex-not-concurrent", "domain-constraint", "validate-with-add",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.newest
def test_no_finding_tells_of_a_long_lock_where_there_is_none(past: Past) -> None:
    """Where the server reads and writes no table anew, or lets others work meanwhile, no rule of long locks stops."""
    catalog = in_use(past.catalog)
    false = {}
    for statement in cases(past.major):
        seen = _run(past, statement)
        waits = any(ROW_EXCLUSIVE in CONFLICTS[mode] for _, mode in seen.locks)
        if waits and (seen.new_files or seen.new_index_files or seen.scanned):
            continue
        (found,) = review([("a.sql", statement)], catalog, transactions=Transactions.STATEMENT,
                          timeouts=Timeouts(lock_ms=2_000), with_squawk=False)  # fmt: skip
        told = {hazard.id for hazard in found.hazards if hazard.severity is not Severity.NOTE} & OF_LONG_LOCKS
        if told:
            false[statement] = told
    assert false == {}


@pytest.mark.slow
@pytest.mark.newest
def test_each_long_lock_has_a_finding(past: Past) -> None:
    """Where a big table is read or written anew while others wait, the review stops at it."""
    big = {k: replace(t, rows_estimate=50_000_000, table_bytes=1 << 32) if t.kind in "rm" else t
           for k, t in past.catalog.tables.items()}  # fmt: skip
    catalog = replace(past.catalog, tables=MappingProxyType(big))
    missed = []
    for statement in cases(past.major):
        told = effects(tree(statement), catalog)
        modes = [told.mode_on(label) for label in (*told.rewrites, *told.scans)]
        (found,) = review([("a.sql", statement)], catalog, transactions=Transactions.FILE,
                          timeouts=Timeouts(lock_ms=2_000), with_squawk=False)  # fmt: skip
        is_told = any(hazard.severity is not Severity.NOTE for hazard in found.hazards)
        if not is_told and any(mode is not None and ROW_EXCLUSIVE in CONFLICTS[mode] for mode in modes):
            missed.append(statement)
    assert not missed


@pytest.mark.parametrize("statement", ["ALTER TABLE shop.users ALTER COLUMN seen TYPE timestamp"])
def test_time_zone_decides_about_timestamps(past: Past, statement: str) -> None:
    """In a session in UTC a timestamp with and without zone are the same number: nothing is rewritten."""
    past.conn.execute("SET TimeZone = 'UTC'")
    try:
        catalog = read(past.conn, parse(statement, "x.sql"))
        told, seen = effects(tree(statement), catalog), _run(past, statement)
    finally:
        past.conn.execute("SET TimeZone = 'Europe/Berlin'")
    assert told.rewrites == ()
    assert seen.new_files == frozenset()


@pytest.mark.parametrize(
    ("statement", "locks"),
    sample([
        ("CREATE INDEX CONCURRENTLY new ON shop.plain (b)", {("shop.plain", "ShareUpdateExclusiveLock")}),
        ("REINDEX TABLE CONCURRENTLY shop.plain",
         {("shop.plain", "ShareUpdateExclusiveLock"), ("shop.plain_a", "ShareUpdateExclusiveLock")}),
        ("DROP INDEX CONCURRENTLY shop.plain_a",
         {("shop.plain", "ShareUpdateExclusiveLock"), ("shop.plain_a", "ShareUpdateExclusiveLock")}),
        ("VACUUM shop.plain", {("shop.plain", "ShareUpdateExclusiveLock")}),
        ("VACUUM FULL shop.plain", {("shop.plain", "AccessExclusiveLock")}),
    ], 3),
)  # fmt: skip
def test_what_runs_outside_a_transaction_is_known_too(past: Past, statement: str, locks: set[tuple[str, str]]) -> None:
    """A second session that holds a conflicting lock sees exactly the mode that effects tells, waiting."""
    told = {(lock.object, lock.mode) for lock in effects(tree(statement), past.catalog).locks}
    assert told == locks
    table_mode = next(mode for name, mode in locks if name == "shop.plain")
    host = past.conn.info.host
    seen: set[str] = set()
    with (
        Connection.connect(host=host, user="postgres", dbname="effects", autocommit=True) as other,
        Connection.connect(host=host, user="postgres", dbname="effects", autocommit=True) as watcher,
        past.conn.transaction(force_rollback=True),
    ):
        past.conn.execute("LOCK TABLE shop.plain IN SHARE UPDATE EXCLUSIVE MODE")
        other.execute("SET lock_timeout = '300ms'")
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(_gives_up, other, statement)
            while not running.done():
                seen |= _waiting(watcher, other.info.backend_pid)
        running.result()
    assert table_mode in seen


def _waiting(watcher: psycopg.Connection[tuple[object, ...]], pid: int) -> set[str]:
    rows = watcher.execute(
        "SELECT mode FROM pg_locks WHERE pid = %s AND relation = 'shop.plain'::regclass::oid AND NOT granted", [pid]
    ).fetchall()
    return {str(mode) for (mode,) in rows}


def _gives_up(conn: psycopg.Connection[tuple[object, ...]], statement: str) -> None:
    with pytest.raises(psycopg.errors.LockNotAvailable):
        conn.execute(statement.encode())


def test_enough_kinds_are_compared() -> None:
    """Every statement is another one, and there are many."""
    assert len(CASES) == len(set(CASES)) > 450


# The kinds of statements, and of parts of ALTER TABLE, that no case has, by why.
NOT_COMPARED = {
    "it cannot run in a transaction": {
        "AlterSystemStmt", "AlterTableMoveAllStmt", "CreatedbStmt", "CreateTableSpaceStmt", "DropTableSpaceStmt",
        "DropdbStmt", "DetachPartitionFinalize",
    },
    "it goes on with what another statement has begun": {
        "AlterSubscriptionStmt", "AlterUserMappingStmt", "ExecuteStmt", "FetchStmt",
        "TransactionStmt",
    },
    "it needs a library": {"ImportForeignSchemaStmt", "SecLabelStmt"},
    "it is a part of a statement, or is made by the server itself": {
        "PLAssignStmt", "RawStmt", "ReplicaIdentityStmt", "ReturnStmt", "SetOperationStmt", "AddColumnToView",
        "AddIndex", "AddIndexConstraint", "CookedColumnDefault", "DropOids", "ReAddComment", "ReAddConstraint",
        "ReAddDomainConstraint", "ReAddIndex", "ReAddStatistics", "ReplaceRelOptions",
    },
}  # fmt: skip


def test_every_kind_of_statement_is_compared() -> None:
    """Whatever the parser knows has a case, on some version, or a reason why not."""
    nodes = [tree(known_to(WHEEL, case) or case.partition(" ")[2].partition(" ")[2]) for case in CASES]
    parts = {subcommand(cmd) for node in nodes if isinstance(node, ast.AlterTableStmt) for cmd in node.cmds}
    every = {name for name in dir(ast) if name.endswith("Stmt")}
    every |= {one.name.removeprefix("AT_") for one in enums.AlterTableType}
    assert every - {type(node).__name__ for node in nodes} - parts == set().union(*NOT_COMPARED.values())


DEEP = """
CREATE SCHEMA deep;
CREATE TABLE deep.users (id integer PRIMARY KEY, best integer);
CREATE TABLE deep.orders (id integer PRIMARY KEY, user_id integer REFERENCES deep.users ON DELETE CASCADE);
CREATE TABLE deep.items (id integer PRIMARY KEY, order_id integer REFERENCES deep.orders ON DELETE CASCADE);
CREATE TABLE deep.notes (id integer PRIMARY KEY, item_id integer REFERENCES deep.items);
CREATE TABLE deep.marks (id integer PRIMARY KEY, item_id integer REFERENCES deep.items ON DELETE SET NULL);
CREATE TABLE deep.footnotes (note_id integer REFERENCES deep.notes ON DELETE CASCADE);
CREATE TABLE deep.stays (id integer PRIMARY KEY, user_id integer REFERENCES deep.users ON DELETE CASCADE, at date)
    PARTITION BY RANGE (id);
CREATE TABLE deep.stays_1 PARTITION OF deep.stays FOR VALUES FROM (1) TO (10);
CREATE TABLE deep.nights (stay_id integer REFERENCES deep.stays ON DELETE CASCADE);
CREATE TABLE deep.heirs (at date) INHERITS (deep.orders);
CREATE TABLE deep.fixed (user_id integer REFERENCES deep.users ON DELETE RESTRICT);
INSERT INTO deep.users VALUES (1, 1);
INSERT INTO deep.orders VALUES (1, 1);
INSERT INTO deep.items VALUES (1, 1);
INSERT INTO deep.marks VALUES (1, 1);
INSERT INTO deep.stays VALUES (1, 1, '2026-01-01');
INSERT INTO deep.nights VALUES (1);
INSERT INTO deep.heirs VALUES (2, 1, '2026-01-01');
ALTER TABLE deep.users ADD FOREIGN KEY (best) REFERENCES deep.items ON DELETE CASCADE DEFERRABLE;
"""


@pytest.fixture
def deep(past: Past) -> Iterator[Past]:
    """The server with tables that refer to each other over many hops, in a ring, with partitions and heirs."""
    past.conn.execute(DEEP.encode())
    yield past
    past.conn.execute("DROP SCHEMA deep CASCADE")


@pytest.mark.parametrize(
    "statement",
    sample(
        [
            "TRUNCATE deep.users CASCADE",
            "TRUNCATE deep.stays_1 CASCADE",
            "TRUNCATE ONLY deep.orders CASCADE",
            "TRUNCATE deep.orders CASCADE",
            "TRUNCATE deep.stays, deep.nights",
            "TRUNCATE deep.footnotes",
            "DELETE FROM deep.users",
            "DELETE FROM deep.orders",
            "DELETE FROM deep.items",
            "DELETE FROM deep.marks",
            "WITH gone AS (DELETE FROM deep.users RETURNING id) SELECT count(*) FROM gone",
        ],
        3,
    ),
)
def test_foreign_keys_are_followed_as_far_as_the_server_does(deep: Past, statement: str) -> None:
    """TRUNCATE ... CASCADE and ON DELETE CASCADE lock every table on the way, and no other; TRUNCATE empties it."""
    told = effects(tree(statement), read(deep.conn, [_one(statement)]))
    size = (
        "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'deep'::regnamespace AND relkind IN ('r', 'p')"
    )
    files = f"SELECT name, pg_relation_filenode(name::regclass) FROM ({size}) AS t (name)".encode()
    with deep.conn.transaction(force_rollback=True):
        before = dict(deep.conn.execute(files).fetchall())
        deep.conn.execute(statement.encode())
        held = deep.conn.execute(
            "SELECT c.oid::regclass::text, l.mode FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation"
            " WHERE l.pid = pg_backend_pid() AND c.relnamespace = 'deep'::regnamespace AND c.relkind IN ('r', 'p')"
        ).fetchall()
        emptied = {name for name, file in deep.conn.execute(files).fetchall() if file != before[name]}
    assert told.fails == ()
    assert list(told.locks) == list(strongest((str(name), str(mode)) for name, mode in held))
    assert set(told.empties) == emptied


def _one(text: str) -> Statement:
    (statement,) = parse(text, "x.sql")
    return statement


def test_modes_block_whom_postgresql_says() -> None:
    """Readers wait for AccessExclusiveLock alone, writers for ShareLock and above."""
    assert blocks(ACCESS_EXCLUSIVE) == ("readers", "row locks", "writers", "vacuum", "schema changes")
    assert blocks(SHARE) == ("writers", "vacuum", "schema changes")
    assert blocks("RowExclusiveLock") == ("schema changes",)
    assert blocks("ShareUpdateExclusiveLock") == ("vacuum", "schema changes")


def test_without_a_catalog_the_text_is_taken_for_what_it_says() -> None:
    """Names stay as they are written, and what the text cannot tell is said."""
    told = effects(tree(_one("ALTER TABLE users ALTER COLUMN age TYPE bigint").sql), UNKNOWN)
    assert told.locks == (Lock("users", ACCESS_EXCLUSIVE),)
    assert told.rewrites == ("users",)
    assert told.unsure
    dropped = effects(tree("DROP INDEX users_email"), UNKNOWN)
    assert dropped.locks == (Lock("users_email", ACCESS_EXCLUSIVE),)
    assert dropped.unsure == ("the table of the index; it is locked in the same mode",)


def test_dependents_make_statements_fail_or_are_lost(past: Past) -> None:
    """What a view or a foreign key stops is told before the server says it; CASCADE tells what goes along."""
    fails = {
        "ALTER TABLE shop.users ALTER COLUMN memory TYPE bigint": "view shop.rich uses shop.users.memory",
        "DROP TABLE shop.orders": "foreign key items_order_id_fkey of shop.items depends on shop.orders",
        "ALTER TABLE shop.users DROP COLUMN memory": "view shop.rich depends on shop.users.memory",
    }
    for statement, reason in fails.items():
        assert reason in effects(tree(statement), past.catalog).fails
        with pytest.raises(psycopg.Error), past.conn.transaction(force_rollback=True):
            past.conn.execute(statement.encode())
    told = effects(tree("DROP TABLE shop.users CASCADE"), past.catalog)
    assert "view shop.rich" in told.loses
    assert "foreign key orders_user on shop.orders" in told.loses


def test_a_generated_column_is_told_with_those_that_it_is_made_of(past: Past) -> None:
    """It hinders their change and their drop; PostgreSQL 14 drops it with them."""
    with past.conn.transaction(force_rollback=True):
        past.conn.execute("CREATE TABLE shop.made (a integer, b integer GENERATED ALWAYS AS (a * 2) STORED)")
        drop, change = (f"ALTER TABLE shop.made {clause}" for clause in ("DROP COLUMN a", "ALTER COLUMN a TYPE bigint"))
        catalog = read(past.conn, [_one(drop)])
        assert "generated column b uses shop.made.a" in effects(tree(change), catalog).fails
        told = effects(tree(drop), catalog)
        try:
            past.conn.execute(drop.encode())
        except psycopg.errors.DependentObjectsStillExist:
            assert "generated column b depends on shop.made.a" in told.fails
        else:
            assert "generated column b" in told.loses
            assert not told.fails


def test_statements_that_the_server_counts_are_read(past: Past) -> None:
    """A column that pg_stat_statements shows in use is refused; where the extension is not made, nobody knows."""
    drop = [_one("ALTER TABLE shop.users DROP COLUMN doc")]
    assert not read(past.conn, drop).uses_known
    try:
        past.conn.execute("CREATE EXTENSION pg_stat_statements")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this server comes without pg_stat_statements")
    try:
        past.conn.execute("SELECT pg_stat_statements_reset()")
        for _ in range(3):
            past.conn.execute("SELECT doc FROM shop.users WHERE id = 1")
        (refusal,) = refusals(drop, read(past.conn, drop), set())
    finally:
        past.conn.execute("DROP EXTENSION pg_stat_statements")
    assert refusal.object == "shop.users.doc"
    assert refusal.reason == "the column is in use: 3 calls in pg_stat_statements"
