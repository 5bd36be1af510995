"""A table that is dropped is moved out of everybody's reach, and comes back with its rows and all that is its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from budget import sample
from conftest import do as target_do
from inverse_stage import is_told
from pgrunbook import undo_data
from pgrunbook.config.targets import Target
from pgrunbook.database import checksums, health, own_schema, schema
from pgrunbook.database.checksums import TableName
from pgrunbook.database.schema_diff import diff
from pgrunbook.draft.expected_differences import is_declared
from pgrunbook.errors import Broken, Refused
from pgrunbook.undo_data import Site
from pgrunbook.undo_data.reapplication import to_reapply
from pgrunbook.violations import violations
from returning import release, since
from servers import Server
from undo_data_stage import Conn, Way, database, do, texts, value

# ruff: noqa: E501 - one statement on a line, whatever its length


BASE = """
CREATE SCHEMA app;
CREATE TYPE app.mood AS ENUM ('sad', 'ok');
CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, num serial, name text UNIQUE, m app.mood DEFAULT 'ok', boss bigint REFERENCES users, low text GENERATED ALWAYS AS (lower(name)) STORED);
INSERT INTO users (name) SELECT 'N' || i FROM generate_series(1, 30) AS i;
UPDATE users SET boss = 1 WHERE id > 1;
CREATE INDEX users_name ON users (lower(name)) WHERE num > 3;
CREATE STATISTICS user_stats ON name, m FROM users;
CREATE TRIGGER users_touch BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION app.touch();
CREATE POLICY mine ON users USING (id > 0);
COMMENT ON TABLE users IS 'who';
CREATE TABLE app."Orders x" (id integer PRIMARY KEY, user_id bigint REFERENCES users ON DELETE CASCADE, n integer DEFAULT nextval('users_num_seq'), whole users);
INSERT INTO app."Orders x" SELECT i, i FROM generate_series(1, 20) AS i;
CREATE VIEW names AS SELECT id, name FROM users;
CREATE VIEW short AS SELECT name FROM names WHERE length(name) < 3;
CREATE MATERIALIZED VIEW counts AS SELECT count(*) AS n FROM users;
CREATE FUNCTION named(text) RETURNS bigint LANGUAGE sql STABLE BEGIN ATOMIC SELECT id FROM users WHERE name = $1; END;
CREATE POLICY of_user ON app."Orders x" USING (EXISTS (SELECT FROM users WHERE users.id = user_id));
CREATE TABLE p (id integer, at date, v text, user_id bigint REFERENCES users, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE app.p_2 PARTITION OF p FOR VALUES FROM ('2026-01-01') TO ('2027-01-01') PARTITION BY RANGE (id);
CREATE TABLE p_2_low PARTITION OF app.p_2 FOR VALUES FROM (0) TO (100);
INSERT INTO p SELECT i, '2025-10-01'::date + i * 3, 'v' || i, i FROM generate_series(1, 30) AS i;
CREATE TABLE parent (id serial, a integer);
CREATE TABLE child (b integer) INHERITS (parent);
INSERT INTO parent (a) VALUES (1), (2);
INSERT INTO child (a, b) VALUES (3, 4);
CREATE UNLOGGED TABLE plain (a integer, b text);
INSERT INTO plain SELECT i, 'x' FROM generate_series(1, 5) AS i;
GRANT SELECT ON users, p TO runbook_reader WITH GRANT OPTION;
GRANT UPDATE (name, boss), INSERT ON users TO PUBLIC;
GRANT USAGE ON SEQUENCE users_num_seq TO PUBLIC;
ALTER TABLE app."Orders x" ENABLE ROW LEVEL SECURITY;
ALTER TABLE users REPLICA IDENTITY USING INDEX users_pkey, CLUSTER ON users_name_key;
CREATE PUBLICATION published FOR TABLE users, parent, app."Orders x";
"""


@pytest.fixture(scope="module")
def made(server: Server) -> Iterator[Conn]:
    """A database with the tables."""
    with database(server, "keeping_tables", BASE) as conn:
        yield conn


@pytest.fixture
def conn(made: Conn) -> Iterator[Conn]:
    """A connection to the tables as new: all that is done is rolled back."""
    with made.transaction(force_rollback=True):
        yield made


# What lies in schema pgrunbook for parked tables.
PARTS = """
SELECT (SELECT count(*) FROM pg_class WHERE relname ~ '^parked_') + (SELECT count(*) FROM pg_type WHERE typname ~ '^_*parked_')
     + (SELECT count(*) FROM pg_constraint WHERE conname ~ '^parked_')
     + (SELECT count(*) FROM pg_statistic_ext WHERE stxname ~ '^parked_')
"""

DROPS = [
    "DROP TABLE plain",
    'DROP TABLE app."Orders x"',
    'DROP TABLE app."Orders x", plain',
    "DROP TABLE IF EXISTS nothing, plain",
    "DROP TABLE p",
    "DROP TABLE p_1",
    "DROP TABLE app.p_2",
    "DROP TABLE child",
    "DROP TABLE parent CASCADE",
    'ALTER TABLE app."Orders x" DROP COLUMN whole; DROP TABLE users CASCADE',
    'ALTER TABLE app."Orders x" DROP COLUMN whole; DROP TABLE users, p, app."Orders x" CASCADE',
]


@pytest.mark.first_case
@pytest.mark.parametrize("sql", sample(DROPS, 3))
def test_a_table_goes_as_if_it_were_dropped_and_comes_back(conn: Conn, sql: str) -> None:
    """The schema behind it is that of the plain statement; schema and rows are what they were, but for what is told."""
    first, _, sql = sql.rpartition("; ")
    if first:
        conn.execute(first.encode())
    before, rows = schema.snapshot(conn), checksums.checksums(conn)
    with conn.transaction(force_rollback=True):
        conn.execute(sql.encode())
        plain, plain_rows = schema.snapshot(conn), checksums.checksums(conn)
    way = Way(conn, sql)
    assert way.because == ""
    way.there()
    assert [d.line() for d in diff(plain, schema.snapshot(conn))] == []
    assert checksums.checksums(conn) == plain_rows
    assert not [name for name in health.row_counts(conn) if "pgrunbook" in name]
    kept = undo_data.list_entries(conn)
    assert {one.state for one in kept} == {"kept"}
    assert sum(one.bytes for one in kept) > 0
    way.back()
    assert checksums.checksums(conn) == rows
    left = [d.line() for d in diff(before, schema.snapshot(conn)) if not is_declared(d, way.undo.differs)]
    assert left == []
    assert {one.state for one in undo_data.list_entries(conn)} == {"given back"}
    assert not value(conn, PARTS)


def test_a_kept_table_is_out_of_reach(conn: Conn, server: Server) -> None:
    """Not even for its owner, nor where everybody is given the use of every new schema."""
    role = f"app_{server.version}"
    conn.execute(f"CREATE ROLE {role}; ALTER TABLE plain OWNER TO {role}; GRANT ALL ON users TO PUBLIC")
    conn.execute(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO PUBLIC, {role}")
    try:
        Way(conn, "DROP TABLE plain").there()
        Way(conn, 'DROP TABLE app."Orders x"', site=Site("0002", "b", "up", 1)).there()
        places = [str(one.there) for one in undo_data.list_entries(conn)]
        conn.execute(f"SET ROLE {role}")
        for place in places:
            with (
                pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for schema"),
                conn.transaction(),
            ):
                conn.execute(f"SELECT FROM {place}".encode())
    finally:
        conn.execute("RESET ROLE")
        conn.execute(f"ALTER DEFAULT PRIVILEGES REVOKE ALL ON SCHEMAS FROM PUBLIC, {role}")
        conn.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_what_refers_to_it_does_not_hold_others_up(conn: Conn) -> None:
    """Rows that it referred to can be deleted, and what it needed can be dropped but for its types."""
    conn.execute('ALTER TABLE app."Orders x" DROP COLUMN whole')
    Way(conn, 'DROP TABLE app."Orders x"').there()
    Way(conn, "DROP TABLE p", site=Site("0002", "b", "up", 1)).there()
    assert conn.execute("DELETE FROM users WHERE id > 1").rowcount == 29


def test_types_that_only_a_kept_table_had_can_be_dropped_behind_it(conn: Conn) -> None:
    """Its values are text meanwhile, and it comes back with its types, defaults, indexes and NULLs."""
    conn.execute(
        "CREATE DOMAIN app.day AS date CHECK (VALUE > '2000-01-01'); CREATE TYPE app.span AS (a date, m app.mood[])"
    )
    conn.execute(
        "CREATE TABLE typed (id integer PRIMARY KEY, m app.mood NOT NULL DEFAULT 'ok', ms app.mood[] DEFAULT '{sad}', d app.day, s app.span, UNIQUE (id, m))"
    )
    conn.execute("CREATE INDEX typed_m ON typed (m) WHERE id > 3; COMMENT ON COLUMN typed.m IS 'how'")
    conn.execute(
        "INSERT INTO typed SELECT i, 'sad', '{ok,NULL}', '2026-02-03', ROW('2026-04-05', '{sad}')::app.span FROM generate_series(1, 9) AS i; INSERT INTO typed (id) VALUES (77)"
    )
    conn.execute("DROP TABLE users CASCADE")
    before, rows = schema.snapshot(conn), checksums.checksums(conn)
    ways = [Way(conn, "DROP TABLE typed")]
    conn.execute("SET DateStyle = 'SQL, DMY'")
    ways[0].there()
    for number, sql in enumerate(("DROP TYPE app.span", "DROP TYPE app.mood", "DROP DOMAIN app.day"), 2):
        ways.append(Way(conn, sql, site=Site("0001_x", "a" * 64, "up", number)))
        ways[-1].there()
    conn.execute("RESET DateStyle")
    for way in reversed(ways):
        way.back()
    assert checksums.checksums(conn) == rows
    assert [d.line() for d in diff(before, schema.snapshot(conn))] == []


# Names that objects of schema pgrunbook have, or may have, and names that several tables of one migration have.
COLLIDING = """
CREATE SCHEMA other;
CREATE TABLE public.step (id serial CONSTRAINT batch_pkey PRIMARY KEY, a integer CONSTRAINT kept_pkey UNIQUE, CONSTRAINT step_pkey CHECK (a > 0));
CREATE TABLE public._step (id integer CONSTRAINT _pkey PRIMARY KEY, b integer);
CREATE TABLE other.step (id bigint GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME other.kept_id_seq) PRIMARY KEY, b integer, c daterange, EXCLUDE USING gist (c WITH &&));
CREATE STATISTICS kept ON id, a FROM public.step;
CREATE STATISTICS other.restore_point_pkey ON id, b FROM other.step;
CREATE INDEX kept_kept_as_key ON public.step (a);
CREATE TABLE public.parked_0123456789abcdef ("parked_0123456789abcdef_part1" integer PRIMARY KEY);
CREATE TABLE public."Kept ""x"" 🐘" (a integer CONSTRAINT "batch 🐘" PRIMARY KEY);
CREATE TABLE other."Kept ""x"" 🐘" (a integer CONSTRAINT "batch 🐘" PRIMARY KEY);
INSERT INTO public.step (a) VALUES (7);
INSERT INTO other.step (b) VALUES (8);
"""
TABLES = (
    "public.step",
    "public._step",
    "other.step",
    "public.parked_0123456789abcdef",
    'public."Kept ""x"" 🐘"',
    'other."Kept ""x"" 🐘"',
)


LIB = """
CREATE SCHEMA lib;
CREATE FUNCTION lib.one() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE FUNCTION lib.twice(integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
CREATE FUNCTION lib.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE FUNCTION lib.cmp(integer, integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $2 - $1';
CREATE OPERATOR CLASS lib.backwards FOR TYPE integer USING btree AS OPERATOR 1 >, OPERATOR 2 >=, OPERATOR 3 =, OPERATOR 4 <=, OPERATOR 5 <, FUNCTION 1 lib.cmp(integer, integer);
CREATE SEQUENCE lib.numbers;
CREATE TYPE lib.mood AS ENUM ('sad', 'ok');
CREATE TYPE lib.thing AS (a integer, m lib.mood);
CREATE ACCESS METHOD stored TYPE TABLE HANDLER heap_tableam_handler;
CREATE ROLE friend;
CREATE ROLE other_friend;
CREATE TYPE lib.pair AS (a integer, b text);
CREATE TYPE lib.span AS RANGE (subtype = integer);
CREATE DOMAIN lib.word AS text COLLATE "C" CHECK (VALUE <> '');
CREATE COLLATION lib.plain FROM "C";
CREATE TABLE lib.other (id integer PRIMARY KEY);
INSERT INTO lib.other VALUES (1), (2);
"""
# Each kind of part that may need something of the application.
NEEDS = {
    "default: function": "a integer DEFAULT lib.one()",
    "default: sequence": "a integer DEFAULT nextval('lib.numbers')",
    "default: constant of a type": "a lib.mood DEFAULT 'ok'",
    "check: function": "a integer CHECK (a > lib.one() - 1)",
    "check: constant of a type": "a lib.mood CHECK (a <> 'sad')",
    "check: order of a type": "a lib.mood, b lib.mood, CHECK (a <= b)",
    "generated: function": "a integer, g integer GENERATED ALWAYS AS (a + lib.one()) STORED, b integer",
    "generated: function alone": "a integer, g integer GENERATED ALWAYS AS (lib.one()) STORED",
    "generated: type": "a lib.mood, g boolean GENERATED ALWAYS AS (a = 'ok') STORED",
    "generated: column of a type": "a lib.mood, g lib.mood GENERATED ALWAYS AS (a) STORED, UNIQUE (g, a)",
    "types": "a lib.mood, b lib.pair, c lib.span, d lib.word, e lib.mood[], f lib.word[]",
    "key of a type": "a lib.mood PRIMARY KEY, b integer",
    "key of a domain": "a lib.word PRIMARY KEY, b integer",
    "collation": 'a text COLLATE lib.plain UNIQUE, b text COLLATE "C"',
    "exclusion": "a integer, EXCLUDE USING gist (int4range(a, a + lib.one()) WITH &&)",
    "foreign key": "a integer REFERENCES lib.other",
    "index: expression": "a integer; CREATE INDEX ON t ((a + lib.one()), a)",
    "index: predicate": "a integer; CREATE INDEX ON t (a) WHERE a > lib.one()",
    "index: operator class": "a integer; CREATE UNIQUE INDEX i ON t (a lib.backwards); ALTER TABLE t CLUSTER ON i; COMMENT ON INDEX i IS 'x'",
    "index: collation": "a text; CREATE INDEX ON t (a COLLATE lib.plain)",
    "statistics": "a integer, b integer; CREATE STATISTICS st ON (a + lib.one()), b FROM t",
    "trigger": "a integer; CREATE TRIGGER t BEFORE INSERT ON t FOR EACH ROW WHEN (NEW.a > lib.one()) EXECUTE FUNCTION lib.touch()",
    "policy": "a integer; CREATE POLICY p ON t USING (a > lib.one())",
    "rule": "a integer; CREATE RULE r AS ON DELETE TO t WHERE OLD.a > lib.one() DO INSTEAD NOTHING",
    "typed": "OF lib.thing",
    "typed with options": "OF lib.thing (a WITH OPTIONS DEFAULT lib.one(), PRIMARY KEY (a))",
    "access method": "(a integer) USING stored",
    "roles": "a integer, b serial; GRANT SELECT, INSERT ON t TO friend WITH GRANT OPTION; GRANT UPDATE (a) ON t TO friend; GRANT USAGE ON SEQUENCE t_b_seq TO friend; GRANT SELECT ON t TO PUBLIC; CREATE POLICY p ON t TO friend; ALTER TABLE t OWNER TO friend; GRANT SELECT ON t TO other_friend",
    "partitions": "(a integer DEFAULT lib.one(), b lib.mood CHECK (b <> 'sad'), id integer) PARTITION BY RANGE (id); CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (2); CREATE TABLE t_2 PARTITION OF t DEFAULT PARTITION BY LIST (id); CREATE TABLE t_2_1 PARTITION OF t_2 DEFAULT; CREATE INDEX ON t ((a + lib.one())); ALTER TABLE t_1 ALTER a SET DEFAULT 7",
    "partition key: type": "(a lib.mood, b integer DEFAULT lib.one(), PRIMARY KEY (a, b)) PARTITION BY LIST (a); CREATE TABLE t_1 PARTITION OF t FOR VALUES IN ('ok'); CREATE TABLE t_2 PARTITION OF t DEFAULT; CREATE INDEX t_b ON t (b); CREATE INDEX ON t_1 (b, a)",
    "partition key: function": "(a integer, id serial, c integer REFERENCES lib.other) PARTITION BY RANGE (lib.twice(a)); CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (9); CREATE TABLE t_2 PARTITION OF t FOR VALUES FROM (9) TO (90) PARTITION BY LIST (a); CREATE TABLE t_2_1 PARTITION OF t_2 DEFAULT; CREATE TRIGGER t BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION lib.touch(); ALTER TABLE t_2_1 DISABLE TRIGGER t; CREATE STATISTICS st ON a, id FROM t; COMMENT ON COLUMN t.a IS 'x'; ALTER TABLE t ENABLE ROW LEVEL SECURITY, ALTER COLUMN a SET STATISTICS 7, REPLICA IDENTITY FULL",
    "partition key: operator class": "(a integer NOT NULL, b text COLLATE \"C\" DEFAULT 'x', CONSTRAINT positive CHECK (a > 0)) PARTITION BY RANGE (a lib.backwards, b); CREATE TABLE t_1 PARTITION OF t DEFAULT",
    "partition key: collation": "(a text) PARTITION BY LIST (a COLLATE lib.plain); CREATE TABLE t_1 PARTITION OF t DEFAULT",
    "partition key below": "(a integer, b lib.mood) PARTITION BY LIST (a); CREATE TABLE t_1 PARTITION OF t DEFAULT PARTITION BY LIST (b); CREATE TABLE t_1_1 PARTITION OF t_1 DEFAULT; CREATE INDEX ON t (b); INSERT INTO t VALUES (3, 'ok')",
    "children": "(a integer DEFAULT lib.one(), b lib.mood); CREATE TABLE c (d integer DEFAULT lib.one()) INHERITS (t); INSERT INTO c VALUES (3, 'ok')",
}


@pytest.mark.first_case
@pytest.mark.parametrize("kind", sample(list(NEEDS), 8))
def test_a_parked_table_needs_nothing_of_the_application(conn: Conn, kind: str) -> None:
    """All that the application has made may be dropped behind it, and nothing of the table goes with that."""
    columns, _, more = NEEDS[kind].partition("; ")
    table = columns if columns.startswith(("(", "OF")) else f"({columns})"
    conn.execute(f"{LIB}; CREATE TABLE t {table}; {more}".encode())
    conn.execute(f"INSERT INTO t (a) VALUES ({VALUES.get(kind, '1')})".encode())
    before, rows = schema.snapshot(conn), checksums.checksums(conn)
    way = Way(conn, "DROP TABLE t CASCADE")
    assert way.because == ""
    way.there()
    parked = [keep.kept_as for keep in way.keeps]
    with conn.transaction(force_rollback=True):
        there = _parked(conn, parked)
        conn.execute("DROP SCHEMA lib CASCADE; DROP ROLE friend, other_friend")
        if kind != "access method" or conn.info.server_version >= 150_000:  # 14 gives no table another access method
            conn.execute("DROP ACCESS METHOD stored")
        assert _parked(conn, parked) == there
    way.back()
    assert checksums.checksums(conn) == rows
    left = [d.line() for d in diff(before, schema.snapshot(conn)) if not is_told(d, way.undo)]
    assert left == []
    assert bool(way.undo.differs) == (kind == "generated: function")


VALUES = {
    **dict.fromkeys(("default: constant of a type", "check: constant of a type", "check: order of a type", "types",
                     "generated: type", "generated: column of a type", "key of a type",
                     "partition key: type"), "'ok'"),
    **dict.fromkeys(("key of a domain", "collation", "index: collation", "partition key: collation"), "'é'"),
}  # fmt: skip


def _parked(conn: Conn, names: list[str]) -> object:
    """Everything that the catalog says of parked tables, and their rows."""
    parts = "SELECT relname, relkind FROM pg_class WHERE relname ~ %s ORDER BY 1"
    found = conn.execute(parts, ["|".join(names)]).fetchall()
    sums = checksums.checksums(conn, [TableName("pgrunbook", name) for name in names])
    objects = schema.snapshot(conn, leave_out=["nothing"]).objects
    return found, sums, [str(one) for one in objects if "parked_" in str(one)]


@pytest.mark.slow
@pytest.mark.parametrize("together", [True, False], ids=["one statement", "one each"])
def test_names_collide_with_nothing(conn: Conn, together: bool) -> None:
    """Neither with ours, nor with those of other parked tables: of tables, indexes, sequences, statistics and types."""
    conn.execute(COLLIDING)
    before, rows = schema.snapshot(conn), checksums.checksums(conn)
    drops = [f"DROP TABLE {', '.join(TABLES)}"] if together else [f"DROP TABLE {table}" for table in TABLES]
    ways = []
    for number, sql in enumerate(drops, 1):
        ways.append(Way(conn, sql, site=Site("0001_x", "a" * 64, "up", number)))
        assert ways[-1].because == ""
        ways[-1].there()
    own_schema.refuse_foreign(conn)
    assert not [d for d in diff(schema.snapshot(conn), before) if "pgrunbook" in d.name]
    foreign = "SELECT string_agg(relname, ' ') FROM pg_class WHERE relnamespace = 'pgrunbook'::regnamespace AND relname !~ '^(parked_[0-9a-f]{16}(_part[0-9]+)?|kept|step|batch|way_back|shadow|restore_point)(_pkey|_id_seq|_kept_as_key)?$'"
    assert value(conn, foreign) is None
    for way in reversed(ways):
        way.back()
    assert checksums.checksums(conn) == rows
    assert [d.line() for d in diff(before, schema.snapshot(conn))] == []
    numbers = "SELECT nextval('public.step_id_seq') || ' ' || nextval('other.kept_id_seq')"
    assert value(conn, numbers) == "2 2"


def test_an_owner_without_create_on_the_schema_of_a_table_can_park_it(conn: Conn, server: Server) -> None:
    """As they can drop it: only the way back needs CREATE there, and so does CREATE TABLE."""
    role = f"owner_{server.version}"
    conn.execute(f"CREATE ROLE {role}; CREATE SCHEMA pgrunbook AUTHORIZATION {role}; CREATE SCHEMA shut")
    conn.execute(
        "CREATE TABLE shut.t (id serial PRIMARY KEY, a integer, UNIQUE (a)); INSERT INTO shut.t (a) VALUES (1)"
    )
    conn.execute(f"ALTER TABLE shut.t OWNER TO {role}; GRANT USAGE ON SCHEMA shut TO {role}; SET LOCAL ROLE {role}")
    way = Way(conn, "DROP TABLE shut.t")
    way.there()
    with pytest.raises(psycopg.errors.InsufficientPrivilege), conn.transaction():
        way.back()
    conn.execute(f"RESET ROLE; GRANT CREATE ON SCHEMA shut TO {role}; SET LOCAL ROLE {role}")
    way.back()
    assert texts(conn, "shut.t") == ["(1,1)"]
    conn.execute("RESET ROLE")


CANNOT = {
    "DROP TABLE users CASCADE": 'values of app."Orders x".whole would be dropped with a table',
    "DROP TABLE child CASCADE": "statistics app.elsewhere are in another schema than public.child",
}


@pytest.mark.parametrize("sql", CANNOT)
def test_what_cannot_be_kept_says_why(conn: Conn, sql: str) -> None:
    """A sentence; the statement is executed as it is written."""
    conn.execute("CREATE STATISTICS app.elsewhere ON a, b FROM child")
    way = Way(conn, sql)
    assert way.because.startswith("It cannot be undone, because ")
    assert CANNOT[sql] in way.because
    assert [step.sql for step in way.expansion.steps] == [sql]


def test_purging_drops_a_family_and_nothing_else(conn: Conn) -> None:
    """Partitions go with their table; a view that somebody has made of it is refused."""
    Way(conn, "DROP TABLE p").there()
    top, *parts = undo_data.list_entries(conn)
    assert {part.part_of for part in parts} == {top.id}
    conn.execute(f"CREATE VIEW looks AS SELECT * FROM {top.there}")
    with conn.transaction(force_rollback=True), pytest.raises(Refused) as caught:
        undo_data.purge(conn, [top.id])
    assert caught.value.lines() == [
        f'cannot drop the parked table "pgrunbook"."{top.kept_as}"',
        f"Detail: cannot drop table {top.there} because other objects depend on it: view looks depends on table {top.there}".replace(
            '"', ""
        ),
        "State: Nothing changed in the database.",
        "Hint: First drop what depends on it (pgrunbook did not create it), or purge its whole family.",
    ]
    conn.execute("DROP VIEW looks")
    assert sorted(undo_data.purge(conn, [top.id])) == sorted(one.kept_as for one in (top, *parts))
    assert undo_data.list_entries(conn) == []
    assert not value(conn, PARTS)


def test_what_was_purged_or_is_gone_cannot_be_brought_back(conn: Conn) -> None:
    """It says what, when, and what is left to do."""
    way = Way(conn, "DROP TABLE plain")
    way.there()
    with conn.transaction(force_rollback=True):
        conn.execute(f"DROP TABLE pgrunbook.{way.keep.kept_as} CASCADE")
        with pytest.raises(Broken, match="cannot bring back table"):
            undo_data.unpark(conn, way.keep)
    (kept,) = undo_data.list_entries(conn)
    undo_data.purge(conn, [kept.id])
    with pytest.raises(Refused) as caught:
        undo_data.unpark(conn, way.keep)
    first, detail, state, hint = caught.value.lines()
    assert first == "cannot revert table public.plain"
    assert detail.startswith("Detail: It was purged on 20")
    assert detail.endswith("Z for 0001_x.")
    assert state == "State: Nothing changed in the database."
    assert hint == f"Hint: Restore a point in time before the purge into a new branch; {kept.kept_as} is there."
    with pytest.raises(Refused):
        undo_data.mark_reverted(conn, [kept.kept_as])


def test_the_same_statement_again_keeps_beside_what_was_kept_before(conn: Conn) -> None:
    """Nothing that is still kept is lost."""
    first = Way(conn, "DROP TABLE plain")
    first.there()
    conn.execute("CREATE TABLE plain (a integer PRIMARY KEY); INSERT INTO plain VALUES (4711)")
    second = Way(conn, "DROP TABLE plain")
    second.there()
    newer, older = undo_data.list_entries(conn)
    assert older.kept_as == f"{newer.kept_as}_{older.id}"
    second.back()
    assert texts(conn, "plain") == ["(4711)"]
    assert len(texts(conn, str(older.there))) == 5


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize("batch_rows", [7, 1_000])
def test_what_was_written_comes_back_on_the_way_forward(conn: Conn, batch_rows: int) -> None:
    """Rows of a table and values of a column that were taken back: common columns, identities, and sequences behind them."""
    site = Site("0001_x", "a" * 64, "down", 1)
    conn.execute('ALTER TABLE app."Orders x" DROP COLUMN whole')
    conn.execute(
        "CREATE TABLE moods (id integer PRIMARY KEY, m app.mood); INSERT INTO moods VALUES (1, 'sad'), (2, NULL)"
    )
    Way(conn, "DROP TABLE plain", site=site).there()
    Way(conn, "DROP TABLE p", site=Site("0001_x", "a" * 64, "down", 2)).there()
    Way(conn, 'DROP TABLE app."Orders x"', site=Site("0001_x", "a" * 64, "down", 3)).there()
    Way(conn, "DROP TABLE moods", site=Site("0001_x", "a" * 64, "down", 5)).there()
    conn.execute("CREATE TABLE moods (m app.mood, id integer)")
    conn.execute("ALTER TABLE users ADD COLUMN note text")
    conn.execute("UPDATE users SET note = 'n' || id WHERE id > 3")
    Way(conn, "ALTER TABLE users DROP COLUMN note", batch_rows, site=Site("0001_x", "a" * 64, "down", 4)).there()
    conn.execute("CREATE TABLE plain (b text DEFAULT 'd', c integer, a integer)")
    conn.execute(
        'CREATE TABLE app."Orders x" (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id bigint, twice bigint GENERATED ALWAYS AS (user_id * 2) STORED)'
    )
    conn.execute('INSERT INTO app."Orders x" (user_id) VALUES (99)')
    conn.execute("CREATE TABLE p (id integer, at date, v text, user_id bigint, PRIMARY KEY (id, at))")
    conn.execute("ALTER TABLE users ADD COLUMN note text DEFAULT 'none'")
    for kept in to_reapply(conn, ["0001_x"]):
        for number, step in enumerate(undo_data.reapply(conn, conn, kept, batch_rows=batch_rows).steps, 1):
            do(conn, step, site, number, f"forward {kept.id}")
    assert texts(conn, "moods") == ["(,2)", "(sad,1)"]
    assert texts(conn, "plain") == [f"(x,,{i})" for i in range(1, 6)]
    found = conn.execute('SELECT id, user_id, twice FROM app."Orders x" ORDER BY id').fetchall()
    assert found == [(1, 99, 198), *((i, i, i * 2) for i in range(2, 21))]
    assert value(conn, 'INSERT INTO app."Orders x" (user_id) VALUES (1) RETURNING id') == 21
    assert value(conn, "SELECT count(*) FROM p") == 30
    assert value(conn, "SELECT count(*) FROM users WHERE note = 'n' || id") == 27
    assert value(conn, "SELECT count(*) FROM users WHERE note IS NULL") == 3
    left = {(kept.table.name, kept.state) for kept in undo_data.list_entries(conn)}
    assert left == {
        ("Orders x", "kept"),  # column n is no more
        *((name, "given back") for name in ("plain", "moods", "p", "p_1", "p_2", "p_2_low", "users")),
    }


@pytest.mark.first_case
@pytest.mark.newest
@pytest.mark.parametrize("sql", ["DROP TABLE by_mood_1", "DROP TABLE by_mood"])
def test_a_partition_whose_key_has_a_type_of_the_application_comes_back(server: Server, sql: str) -> None:
    """Its key and indexes were dropped with the type: they are there before ATTACH, which would make others."""
    made = (
        "CREATE TYPE mood AS ENUM ('sad', 'ok');"
        "CREATE TABLE by_mood (id integer, m mood, x text, CHECK (m IS NOT NULL), PRIMARY KEY (m, id)) PARTITION BY LIST (m);"
        "CREATE TABLE by_mood_1 PARTITION OF by_mood FOR VALUES IN ('sad');"
        "CREATE TABLE by_mood_2 PARTITION OF by_mood FOR VALUES IN ('ok');"
        "CREATE INDEX ON by_mood (m, x); CREATE UNIQUE INDEX ON by_mood_1 (x, m); INSERT INTO by_mood VALUES (1, 'sad'), (2, 'ok')"
    )
    with database(server, "by_mood", made) as conn:
        before, rows = schema.snapshot(conn), checksums.checksums(conn)
        way = Way(conn, sql)
        way.there()
        way.back()
        assert checksums.checksums(conn) == rows
        assert [line.line() for line in diff(before, schema.snapshot(conn))] == []


# What a partition key needs, and the statement that drops it behind the table.
KEY_NEEDS = {
    "(a lib.mood) PARTITION BY LIST (a)": ("'ok'", "DROP TYPE lib.thing, lib.mood"),
    "(a integer) PARTITION BY RANGE (lib.twice(a))": ("1", "DROP FUNCTION lib.twice(integer)"),
    "(a integer) PARTITION BY RANGE (a lib.backwards)": ("1", "DROP OPERATOR CLASS lib.backwards USING btree"),
}


@pytest.mark.slow
@pytest.mark.every_version
@pytest.mark.parametrize("later", [False, True], ids=["same migration", "later migration"])
@pytest.mark.parametrize("table", sample(list(KEY_NEEDS), 3))
def test_what_a_partition_key_needs_can_be_dropped_behind_it(conn: Conn, table: str, later: bool) -> None:
    """And both come back, the last first."""
    value_, drop = KEY_NEEDS[table]
    conn.execute(
        f"{LIB}; CREATE TABLE t {table}; CREATE TABLE t_1 PARTITION OF t DEFAULT; INSERT INTO t VALUES ({value_})".encode()
    )
    before, rows = schema.snapshot(conn), checksums.checksums(conn)
    ways = [Way(conn, "DROP TABLE t")]
    ways[0].there()
    ways.append(Way(conn, drop, site=Site("0002_x" if later else "0001_x", "a" * 64, "up", 2)))
    ways[1].there()
    assert [way.because for way in ways] == ["", ""]
    for way in reversed(ways):
        way.back()
    assert checksums.checksums(conn) == rows
    assert [d.line() for d in diff(before, schema.snapshot(conn))] == []


# A table that is dropped, what is written meanwhile, and the rows that then keep it away.
AGAINST = {
    "a row that it refers to is gone": ("DROP TABLE a_child", "DELETE FROM a_parent WHERE id = 3", ["id 3: parent 3"]),
    "a key that it refers to, of a type of the application": ("DROP TABLE a_moody", "DELETE FROM a_mood WHERE m = 'ok'", ["id 2: m ok"]),
    "a row refers to none of its own": ("DROP TABLE a_parent CASCADE", "INSERT INTO a_child VALUES (77, 77)", ["id 77: parent 77"]),
    "a row within its bound is in the default partition": ("DROP TABLE a_1", "INSERT INTO a VALUES ('ok', 99), ('sad', 99)", ["m ok, id 99"]),
    "nothing": ("DROP TABLE a_child, a_1", "INSERT INTO a_parent VALUES (99); INSERT INTO a VALUES ('sad', 99)", []),
}  # fmt: skip
REFERRING = """
CREATE TABLE a_parent (id integer PRIMARY KEY);
CREATE TABLE a_child (id integer PRIMARY KEY, parent integer REFERENCES a_parent);
INSERT INTO a_parent SELECT generate_series(1, 5);
INSERT INTO a_child SELECT i, i FROM generate_series(1, 5) AS i;
CREATE TABLE a_mood (m app.mood PRIMARY KEY);
CREATE TABLE a_moody (id integer PRIMARY KEY, m app.mood REFERENCES a_mood);
INSERT INTO a_mood VALUES ('sad'), ('ok');
INSERT INTO a_moody VALUES (1, 'sad'), (2, 'ok');
CREATE TABLE a (m app.mood, id integer, PRIMARY KEY (m, id)) PARTITION BY LIST (m);
CREATE TABLE a_1 PARTITION OF a FOR VALUES IN ('ok');
CREATE TABLE a_rest PARTITION OF a DEFAULT;
INSERT INTO a VALUES ('ok', 1);
"""


@pytest.mark.first_case
@pytest.mark.parametrize("case", AGAINST)
def test_rows_that_keep_a_parked_table_away_are_told_before(conn: Conn, case: str) -> None:
    """Those of the parked table, and those that were written meanwhile."""
    drop, write, told = AGAINST[case]
    conn.execute(REFERRING)
    way = Way(conn, drop)
    way.there()
    conn.execute(write.encode())
    whole = [step.sql for keep in way.keeps for step in undo_data.unpark(conn, keep)]
    found = violations.find(conn, [("m", sql) for sql in (*whole, *(step.sql for step in way.undo.steps))])
    assert [sample for one in found for sample in one.samples if one.at_least] == told
    assert [one.says for one in found if one.rows is None] == []


@pytest.mark.slow
@pytest.mark.newest
def test_rollback_is_refused_by_rows_that_keep_a_parked_table_away(project: Callable[..., Target]) -> None:
    """They are named as they are today, with the name of the parked table."""
    target = project(folder={"0001_a.sql": "DROP TABLE a_child, a_1"})
    target_do(target, f"CREATE SCHEMA app; CREATE TYPE app.mood AS ENUM ('sad', 'ok'); {REFERRING}")
    release(target)
    target_do(target, "DELETE FROM a_parent WHERE id = 3; INSERT INTO a VALUES ('ok', 99)")
    found = {one.what: (one.table, one.samples) for one in since(target).violations}
    (parked,) = {name for name, _ in found.values() if name.startswith("pgrunbook.parked_")}
    assert found == {
        'constraint "a_child_parent_fkey" of public.a_child': (parked, ("id 3: parent 3",)),
        "partition public.a_1 of public.a": ("public.a_rest", ("m ok, id 99",)),
    }
