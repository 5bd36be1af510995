"""What is read of a database for a judgement, on a real server."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable, Iterator
from dataclasses import replace

import psycopg
import pytest

from budget import sample
from conftest import connect
from pgrunbook.config.targets import Target
from pgrunbook.database.catalog import Catalog, Standing, Table, Use, Weight
from pgrunbook.database.catalog_reader import read
from pgrunbook.database.connection import Connection
from pgrunbook.effects.catalog_after import after
from pgrunbook.effects.statements import effects
from pgrunbook.review.column_usage import uses_of
from pgrunbook.review.hazards import Transactions
from pgrunbook.review.review import Finding, review
from pgrunbook.sql.lock_modes import ACCESS_EXCLUSIVE, Lock
from pgrunbook.sql.statements import parse
from pgrunbook.sql.tree import Name, tree
from servers import Server

SETUP = """
CREATE SCHEMA "Odd";
CREATE TABLE users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email varchar(50) NOT NULL, price numeric(10,2)
);
CREATE TABLE "Odd"."Orders" (id int PRIMARY KEY, user_id bigint REFERENCES users ON DELETE CASCADE, "total sum" int);
CREATE INDEX lower_email ON users (lower(email)) WHERE price > 0;
CREATE VIEW mails AS SELECT email FROM users;
CREATE VIEW mails_too AS SELECT email AS e FROM mails;
CREATE PUBLICATION everything FOR TABLE users;
CREATE TABLE log (id int, at date) PARTITION BY RANGE (at);
CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
INSERT INTO users (email) SELECT 'x' FROM generate_series(1, 5000);
INSERT INTO log SELECT n, '2025-02-02' FROM generate_series(1, 20000) AS n;
"""


@pytest.fixture
def conn(project: Callable[..., Target]) -> Iterator[Connection]:
    target = project(folder={})
    with connect(target, purpose="test") as connection:
        for statement in SETUP.strip().split(";\n"):
            connection.execute(statement.encode())
        yield connection


def catalog_of(conn: Connection, sql: str) -> Catalog:
    return read(conn, parse(sql, "a.sql"))


def test_touched_tables_are_read_with_all_that_hangs_on_them(conn: Connection) -> None:
    """Columns, keys in both directions, indexes, dependents through views, publications and sequences."""
    conn.execute("ANALYZE users")
    found = catalog_of(conn, "ALTER TABLE users DROP COLUMN email;")
    users = found.find(Name(None, "users"))
    assert (users.standing, users.label, users.rows_estimate) == (Standing.THERE, "public.users", 5000)
    assert users.weight is Weight.SMALL
    assert users.columns["email"].modifiers == (50,)
    assert users.columns["price"].modifiers == (10, 2)
    lower = next(index for index in users.indexes if index.name == "lower_email")
    assert (lower.keys, lower.uses, lower.plain, lower.partial) == (("",), frozenset({"email", "price"}), False, True)
    names = {(d.kind, d.name, d.columns) for d in users.dependents}
    assert ("view", "public.mails", ("email",)) in names
    assert ("view", "public.mails_too", ("email",)) in names
    assert ("publication", "everything", ()) in names
    assert ("sequence", "public.users_id_seq", ("id",)) in names
    ((orders, key),) = found.references_to(users)
    assert (orders.label, key.columns, key.on_delete) == ('"Odd"."Orders"', ("user_id",), "c")


@pytest.mark.parametrize(
    ("sql", "read"),
    sample(
        [
            ("TRUNCATE users CASCADE", {"users", "Orders", "lines", "remarks", "replies"}),
            ("DO $$ BEGIN TRUNCATE users CASCADE; END $$", {"users", "Orders", "lines", "remarks", "replies"}),
            ("DELETE FROM users", {"users", "Orders", "lines", "remarks"}),
            (
                "WITH gone AS (DELETE FROM users RETURNING id) SELECT id FROM gone",
                {"users", "Orders", "lines", "remarks"},
            ),
            ("TRUNCATE users", {"users", "Orders"}),
            ("DROP TABLE users CASCADE", {"users", "Orders"}),
            ("UPDATE users SET email = 'x'", {"users", "Orders"}),
        ],
        3,
    ),
)
def test_foreign_keys_are_read_as_far_as_a_statement_follows_them(conn: Connection, sql: str, read: set[str]) -> None:
    """TRUNCATE ... CASCADE goes through all, DELETE up to the first without ON DELETE CASCADE, others one hop."""
    conn.execute('CREATE TABLE lines (id int PRIMARY KEY, order_id int REFERENCES "Odd"."Orders" ON DELETE CASCADE)')
    conn.execute("CREATE TABLE remarks (id int PRIMARY KEY, line_id int REFERENCES lines)")
    conn.execute("CREATE TABLE replies (remark_id int REFERENCES remarks)")
    assert {table.name for table in catalog_of(conn, sql).tables.values()} - {"users_id_seq"} == read


@pytest.mark.parametrize("name", ["mood", '"Mood"'])
def test_tables_that_use_a_type_only_as_an_array_are_read(conn: Connection, name: str) -> None:
    """DROP TYPE ... CASCADE takes their columns as well."""
    conn.execute(f"CREATE TYPE {name} AS ENUM ('good'); CREATE TABLE felt (moods {name}[], many {name}[][])".encode())
    drop = f"DROP TYPE {name} CASCADE"
    told = effects(tree(drop), catalog_of(conn, drop))
    assert told.locks == (Lock("public.felt", ACCESS_EXCLUSIVE),)
    assert told.loses == ("the values of column public.felt.moods", "the values of column public.felt.many")


def test_a_type_of_the_system_reads_no_table(conn: Connection) -> None:
    """Not even as an array, or every migration would read the whole database."""
    conn.execute("CREATE TABLE words (them text[])")
    assert catalog_of(conn, "SELECT '{a}'::text[], 'a'::text").tables == {}


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("sql", "there", "gone"),
    sample(
        [
            ('ALTER TABLE users SET SCHEMA "Odd"', '"Odd".users', "public.users"),
            ('ALTER TABLE users RENAME TO "People"', 'public."People"', "public.users"),
            ("ALTER SCHEMA public RENAME TO new", "new.users", "public.users"),
            ('ALTER TABLE log SET SCHEMA "Odd"', '"Odd".log', "public.log"),
            ('ALTER VIEW mails SET SCHEMA "Odd"', '"Odd".mails', "public.mails"),
            ('ALTER VIEW mails RENAME TO "Mails"', 'public."Mails"', "public.mails"),
            ('ALTER SCHEMA "Odd" RENAME TO new', 'new."Orders"', '"Odd"."Orders"'),
        ],
        3,
    ),
)
def test_what_moves_is_found_as_the_server_has_it_then(conn: Connection, sql: str, there: str, gone: str) -> None:
    """Under its new name with its sequences, indexes, views, partitions and foreign keys in both directions."""
    touched = '; SELECT FROM users, "Odd"."Orders", log, log_1, mails, mails_too, users_id_seq'
    told = after(catalog_of(conn, sql + touched), tree(sql))
    conn.execute(sql.encode())
    found = catalog_of(conn, "SELECT FROM " + ", ".join(table.label for table in told.tables.values()))
    assert told.labelled(there)
    assert told.labelled(gone) is None
    assert {key: _lasting(table) for key, table in told.tables.items()} == {
        key: _lasting(table) for key, table in found.tables.items()
    }


@pytest.mark.first_case
@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE log RENAME at TO day",
        "ALTER TABLE log ADD COLUMN kind text NOT NULL DEFAULT 'x'",
        "ALTER TABLE log DROP COLUMN id",
        "ALTER TABLE log ALTER id TYPE bigint",
        "ALTER TABLE ONLY log ALTER id SET DEFAULT 3",
        "ALTER TABLE users RENAME id TO key",
        "ALTER TABLE users RENAME CONSTRAINT users_pkey TO first",
        "ALTER INDEX users_pkey RENAME TO first",
        "ALTER INDEX lower_email RENAME TO lowered",
        'ALTER TABLE "Odd"."Orders" DROP CONSTRAINT "Orders_pkey"',
        "ALTER TABLE users ADD CONSTRAINT one UNIQUE USING INDEX free",
        "CREATE TYPE mood AS ENUM ('sad'); ALTER TABLE users ADD felt mood[]",
        "CREATE DOMAIN short AS varchar(9) CHECK (VALUE <> ''); ALTER TABLE users ADD COLUMN name short",
        "ALTER DOMAIN given RENAME TO taken; ALTER TABLE users ADD COLUMN name taken DEFAULT 'x'",
        'ALTER DOMAIN given SET SCHEMA "Odd"; ALTER TABLE users ADD COLUMN name "Odd".given DEFAULT 1',
    ],
)
def test_what_changes_in_a_table_is_as_the_server_has_it_then(conn: Connection, sql: str) -> None:
    """Its columns, indexes and constraints by name, and those of the tables below; also in types made before."""
    conn.execute("CREATE UNIQUE INDEX free ON users (id, email); CREATE DOMAIN given AS text NOT NULL")
    touched = '; SELECT FROM users, "Odd"."Orders", log'
    told = catalog_of(conn, sql + touched)
    for statement in parse(sql, "a.sql"):
        told = after(told, tree(statement.sql))
    conn.execute(sql.encode())
    assert _named(told) == _named(catalog_of(conn, touched))


WEB = """
CREATE SCHEMA other; CREATE ROLE weaver; GRANT CREATE ON SCHEMA public, other TO weaver; SET ROLE weaver;
CREATE TYPE mood AS ENUM ('a'); CREATE DOMAIN pos AS int CHECK (VALUE > 0); CREATE DOMAIN other.far AS text;
RESET ROLE;
CREATE SEQUENCE numbers; CREATE FUNCTION one() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE TABLE a (id int PRIMARY KEY, code text UNIQUE, n int DEFAULT nextval('numbers'), m mood, ms mood[], p pos,
                f other.far, g int DEFAULT one(), up int REFERENCES a, own serial, CHECK (n > one()), CHECK (g > 0));
CREATE UNIQUE INDEX a_n ON a (n); CREATE INDEX a_one ON a ((n + one()));
CREATE TABLE b (id int PRIMARY KEY REFERENCES a, code text REFERENCES a (code), n int REFERENCES a (n), m mood);
CREATE TABLE other.c (id int PRIMARY KEY REFERENCES b ON DELETE CASCADE, code text REFERENCES a (code));
CREATE TABLE kid (k int) INHERITS (a);
CREATE TABLE par (id int PRIMARY KEY, x int REFERENCES a, y int, CHECK (x > 0)) PARTITION BY RANGE (id);
CREATE TABLE par_1 PARTITION OF par FOR VALUES FROM (1) TO (9);
CREATE INDEX par_y ON par (y); CREATE TABLE ref (p int REFERENCES par, q int REFERENCES a);
CREATE VIEW v AS SELECT id, m FROM a; CREATE VIEW vv AS SELECT id FROM v; CREATE VIEW w AS SELECT code FROM b;
CREATE MATERIALIZED VIEW mv AS SELECT n FROM a;
"""
TORN = """
DROP TABLE a CASCADE
DROP TABLE b CASCADE
DROP TABLE a, b CASCADE
DROP TABLE par CASCADE
DROP TABLE kid
DROP TABLE ref; DROP TABLE par_1
DROP VIEW v CASCADE
DROP VIEW vv, v
DROP MATERIALIZED VIEW mv
DROP SCHEMA other CASCADE
DROP SCHEMA public CASCADE
DROP TYPE mood CASCADE
DROP DOMAIN pos CASCADE
DROP DOMAIN other.far CASCADE
DROP SEQUENCE numbers CASCADE
DROP SEQUENCE a_own_seq CASCADE
DROP FUNCTION one CASCADE
DROP OWNED BY weaver CASCADE
DROP INDEX a_n CASCADE
DROP INDEX a_one
ALTER TABLE a DROP CONSTRAINT a_pkey CASCADE
ALTER TABLE a DROP CONSTRAINT a_code_key CASCADE
ALTER TABLE a DROP CONSTRAINT a_g_check
ALTER TABLE a DROP CONSTRAINT a_up_fkey
ALTER TABLE b DROP CONSTRAINT b_pkey CASCADE
ALTER TABLE par DROP CONSTRAINT par_pkey CASCADE
ALTER TABLE par DROP CONSTRAINT par_x_fkey
ALTER TABLE par DROP CONSTRAINT par_x_check
ALTER TABLE ref DROP CONSTRAINT ref_p_fkey
ALTER TABLE a DROP COLUMN id CASCADE
ALTER TABLE a DROP COLUMN code CASCADE
ALTER TABLE a DROP COLUMN n CASCADE
ALTER TABLE a DROP COLUMN m CASCADE
ALTER TABLE a DROP COLUMN own
ALTER TABLE par DROP COLUMN x, ADD COLUMN z int
ALTER TABLE a RENAME CONSTRAINT a_pkey TO pk; ALTER TABLE a DROP CONSTRAINT pk CASCADE
ALTER TABLE a RENAME TO z; DROP TYPE mood CASCADE
ALTER TABLE a RENAME m TO felt; DROP DOMAIN pos CASCADE; DROP TYPE mood CASCADE
DROP INDEX par_y
ALTER TABLE b ALTER m TYPE text; DROP TYPE mood CASCADE
ALTER TABLE b RENAME TO y; ALTER TABLE y SET SCHEMA other; DROP SCHEMA other CASCADE
CREATE TYPE new AS ENUM ('x'); ALTER TABLE b ADD o new, ADD os new[]; DROP TYPE new CASCADE
ALTER TABLE b ADD CONSTRAINT more FOREIGN KEY (n) REFERENCES a; ALTER TABLE a DROP CONSTRAINT a_pkey CASCADE
ALTER TABLE b ADD CONSTRAINT more FOREIGN KEY (n) REFERENCES a; ALTER TABLE a DROP COLUMN code CASCADE
""".strip().split("\n")


@pytest.mark.slow
@pytest.mark.parametrize("torn", [TORN[::8], pytest.param(TORN, marks=pytest.mark.slow)], ids=["some", "all"])
def test_what_falls_with_a_drop_is_not_there_afterwards(newest: Server, torn: list[str]) -> None:
    """Relations, columns, defaults, indexes and constraints are those that the server has left."""
    names = "a, b, kid, par, par_1, ref, v, vv, w, mv, numbers, other.c, z, other.a, a_own_seq, other.y"
    wrong = {}
    with newest.connect(newest.database("web")) as conn, conn.transaction(force_rollback=True):
        conn.execute(WEB)
        for sql in torn:
            told = catalog_of(conn, f"{sql}; SELECT FROM {names}")
            for statement in parse(sql, "a.sql"):
                told = after(told, tree(statement.sql))
            with conn.transaction(force_rollback=True):
                conn.execute(sql.encode())
                there = catalog_of(conn, f"SELECT FROM {names}")
            if _parts(told) != _parts(there):
                wrong[sql] = (_parts(told) - _parts(there), _parts(there) - _parts(told))
    assert wrong == {}


def _parts(catalog: Catalog) -> set[tuple[str, str, object]]:
    """Return what stands in a catalog, part by part."""
    found: set[tuple[str, str, object]] = set()
    for table in catalog.tables.values():
        found |= {
            (table.label, "table", None),
            *((table.label, "column", (each.name, each.expression)) for each in table.columns.values()),
            *((table.label, "index", each.name) for each in table.indexes),
            *((table.label, "constraint", (c.name, c.partner_index)) for c in table.constraints if c.kind != "n"),
            *((table.label, "above", key) for key in table.parents),
            *((table.label, "below", key) for key in table.children),
            *((table.label, d.kind, d.name) for d in table.of_kind("view", "materialized view", "sequence")),
        }
    return found


def _named(catalog: Catalog) -> dict[str, object]:
    """Return the parts of the tables by their names."""
    keep = {"public.users", "public.log", "public.log_1", '"Odd"."Orders"'}
    return {
        label: (
            {name: (c.base_name, c.modifiers, c.checked, c.not_null) for name, c in table.columns.items()},
            {index.name: (index.keys, index.uses, index.primary) for index in table.indexes},
            {c.name: (c.kind, set(c.columns), c.index) for c in table.constraints if c.kind != "n"},
            [(key.columns, key.partner_columns) for _, key in catalog.references_to(table)],
        )
        for label, table in ((table.label, table) for table in catalog.tables.values())
        if label in keep
    }


def _lasting(table: Table) -> Table:
    """What counts of a table but its statistics, which come late, and the text of keys, which nobody reads."""
    constraints = tuple(replace(c, definition="") if c.kind == "f" else c for c in table.constraints)
    indexes = tuple(replace(index, definition="") for index in table.indexes)
    told = replace(table, constraints=constraints, indexes=indexes)
    return replace(told, rows_estimate=0, table_bytes=0, reads=0, writes=0, vacuumed_at=None)


def test_partitions_count_for_their_parent(conn: Connection) -> None:
    """Weight, rows and size of a partitioned table are those of its partitions."""
    conn.execute("ANALYZE log")
    found = catalog_of(conn, "ALTER TABLE log ADD COLUMN x text;")
    log = found.find(Name(None, "log"))
    assert [member.name for member in found.below(log)] == ["log", "log_1"]
    assert found.rows_estimate(log) == 20_000
    assert found.weight(log) is Weight.BIG


def test_sizes_are_known_without_statistics(conn: Connection) -> None:
    """A table that was never analysed is not taken for empty, and one without a page is."""
    conn.execute("CREATE TABLE never (id int)")
    found = catalog_of(conn, "DROP TABLE users; DROP TABLE never;")
    assert found.find(Name(None, "users")).rows_estimate
    assert found.find(Name(None, "never")).rows_estimate == 0
    assert found.find(Name(None, "never")).weight is Weight.NOTHING


def test_names_are_found_by_the_search_path_of_the_session(conn: Connection) -> None:
    """A name without a schema is the first one on the path; one that is not there is told as missing."""
    conn.execute('CREATE TABLE "Odd".users (id int)')
    conn.execute('SET search_path = "Odd", public')
    found = catalog_of(conn, "DROP TABLE users; DROP TABLE public.users; DROP TABLE nothing;")
    assert found.find(Name(None, "users")).label == '"Odd".users'
    assert found.find(Name("public", "users")).label == "public.users"
    assert found.find(Name(None, "nothing")).standing is Standing.MISSING


def test_reading_leaves_the_session_as_it_was(conn: Connection) -> None:
    """Settings and transaction are the caller's."""
    before = conn.execute("SELECT current_setting('search_path'), current_setting('TimeZone')").fetchone()
    catalog_of(conn, "DROP TABLE users;")
    after = conn.execute("SELECT current_setting('search_path'), current_setting('TimeZone')").fetchone()
    assert before == after
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_statements_that_the_server_counted_tell_who_uses_a_column(conn: Connection) -> None:
    """A star uses all columns; another table's column of the same name does not count."""
    catalog = catalog_of(conn, "DROP TABLE users;")
    assert not catalog.uses_known
    uses = (
        Use("SELECT email FROM users WHERE id = $1", 3),
        Use("SELECT * FROM users", 2),
        Use("SELECT email FROM others", 5),
        Use("UPDATE users SET email = $1", 7),
        Use("SELECT id FROM users", 11),
        Use("SELECT broken FROM FROM users", 13),
    )
    catalog = Catalog(connected=True, tables=catalog.tables, uses=uses, uses_known=True)
    users = catalog.find(Name(None, "users"))
    assert sum(use.calls for use in uses_of(catalog, users, "email")) == 12


@pytest.mark.slow
def test_many_statements_on_many_tables_are_read_and_judged_soon(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the queries nor the work for a statement grow with the statements, be there 500 tables."""
    for number in range(500):
        refers = f"REFERENCES t_{number - 1}" if number else ""
        conn.execute(f"CREATE TABLE t_{number} (id int PRIMARY KEY, other int {refers}, name varchar(20))".encode())
    both = "ALTER TABLE t_{0} ALTER COLUMN name TYPE text; CREATE INDEX ON t_{0} (name);"
    sent = []
    execute = psycopg.Cursor.execute

    def counted(self: object, query: object, *args: object, **options: object) -> object:
        sent.append(query)
        return execute(self, query, *args, **options)  # type: ignore[arg-type]

    def judged(most: int) -> tuple[list[Finding], Catalog, int]:
        """Return the findings, the catalog, and how many functions were called."""
        sql = "".join(both.format(number) for number in range(0, most, 10))
        sent.clear()
        with cProfile.Profile() as profile:
            catalog = read(conn, parse(sql, "a.sql"))
            found = review([("a.sql", sql)], catalog, transactions=Transactions.FILE, with_squawk=False)
        assert len(sent) <= 16
        return found, catalog, int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]

    monkeypatch.setattr(psycopg.Cursor, "execute", counted)
    judged(10)  # what is read once
    half = judged(250)[2]
    found, catalog, calls = judged(500)
    assert calls < 2.3 * half
    assert len(found) == 100
    assert len(catalog.tables) >= 149
