"""What the tests of ways back share: two rich databases, and a keeper as small as can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgrunbook.database import checksums, schema
from pgrunbook.database.schema import Snapshot
from pgrunbook.database.schema_diff import Difference, diff
from pgrunbook.draft.expected_differences import is_declared
from pgrunbook.inverse.inverter import Inverter
from pgrunbook.plan.step import Keep
from pgrunbook.plan.way_back import Undo
from pgrunbook.sql import statements
from pgrunbook.sql.classify import Policy
from pgrunbook.sql.statements import Statement
from servers import Server, known_to

# ruff: noqa: E501 - one statement on a line, whatever its length

Conn = psycopg.Connection[tuple[Any, ...]]
EFFECTS = Path(__file__).parent / "effects"

# What setup.sql and the snapshots' own stage have not: the rarer objects, owners, privileges and comments.
# "from 15 " and "before 15 " in front: only there.
MORE = """
CREATE SCHEMA rare
CREATE SEQUENCE rare.numbers START 5
SELECT nextval('rare.numbers'), nextval('rare.numbers')
CREATE TABLE rare.people (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text COLLATE "C" NOT NULL DEFAULT 'nobody', num serial, age integer CHECK (age > 0), half integer GENERATED ALWAYS AS (age / 2) STORED, photo bytea, "Odd Col" varchar(9), CONSTRAINT one_name UNIQUE (name) WITH (fillfactor = 70))
INSERT INTO rare.people (name, age) SELECT 'n' || i, i FROM generate_series(1, 30) AS i
ALTER TABLE rare.people ALTER COLUMN name SET STORAGE EXTERNAL, ALTER COLUMN name SET STATISTICS 77, ALTER COLUMN name SET (n_distinct = 5), ALTER COLUMN photo SET COMPRESSION pglz
ALTER TABLE rare.people ALTER COLUMN id SET INCREMENT BY 3
CREATE INDEX people_age ON rare.people (age DESC) INCLUDE (name) WHERE age > 3
CREATE INDEX people_expression ON rare.people ((age + 1), lower(name))
ALTER INDEX rare.people_expression ALTER COLUMN 1 SET STATISTICS 44
ALTER TABLE rare.people CLUSTER ON one_name
ALTER TABLE rare.people REPLICA IDENTITY USING INDEX one_name
CREATE TABLE rare.friends (person bigint REFERENCES rare.people ON DELETE CASCADE, name text REFERENCES rare.people (name) ON UPDATE CASCADE DEFERRABLE, since date DEFAULT '2026-01-01')
CREATE VIEW rare.adults WITH (security_barrier = true) AS SELECT id, name, age FROM rare.people WHERE age > 17
CREATE VIEW rare.old AS SELECT id, name FROM rare.adults WHERE age > 60
ALTER VIEW rare.adults ALTER COLUMN name SET DEFAULT 'x'
CREATE MATERIALIZED VIEW rare.ages AS SELECT age, count(*) AS n FROM rare.people GROUP BY age
CREATE UNIQUE INDEX ages_age ON rare.ages (age)
CREATE FUNCTION rare.watch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'
CREATE FUNCTION rare.adult(integer) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 > 17'
CREATE FUNCTION rare.add(a integer, b integer DEFAULT 1) RETURNS integer LANGUAGE sql IMMUTABLE COST 7 SET work_mem = '1MB' AS 'SELECT a + b'
CREATE FUNCTION rare.named(text) RETURNS text LANGUAGE sql STABLE BEGIN ATOMIC SELECT name FROM rare.people WHERE name = $1; END
CREATE PROCEDURE rare.work(INOUT n integer) LANGUAGE plpgsql AS 'BEGIN n := 1; END'
CREATE AGGREGATE rare.total(integer) (SFUNC = int4pl, STYPE = integer, INITCOND = '0')
CREATE TRIGGER watched BEFORE UPDATE OF age ON rare.people FOR EACH ROW WHEN (NEW.age > 3) EXECUTE FUNCTION rare.watch()
ALTER TABLE rare.people DISABLE TRIGGER watched
CREATE CONSTRAINT TRIGGER later AFTER INSERT ON rare.people DEFERRABLE FOR EACH ROW EXECUTE FUNCTION rare.watch()
CREATE RULE hush AS ON DELETE TO rare.friends WHERE false DO INSTEAD NOTHING
CREATE POLICY mine ON rare.people AS RESTRICTIVE FOR UPDATE TO runbook_reader USING (age > 1) WITH CHECK (age > 2)
ALTER TABLE rare.people ENABLE ROW LEVEL SECURITY
ALTER TABLE rare.people ADD CONSTRAINT grown CHECK (rare.adult(age) OR age < 18) NOT VALID
CREATE STATISTICS rare.people_stats (dependencies) ON age, name FROM rare.people
ALTER STATISTICS rare.people_stats SET STATISTICS 55
CREATE TYPE rare.size AS ENUM ('s', 'm', 'l')
CREATE TYPE rare.pair AS (a integer, b text COLLATE "C")
CREATE TYPE rare.reals AS RANGE (subtype = float8, subtype_diff = float8mi)
CREATE DOMAIN rare.even AS integer DEFAULT 2 NOT NULL CONSTRAINT is_even CHECK (VALUE % 2 = 0)
CREATE TABLE rare.things (id integer, size rare.size NOT NULL DEFAULT 'm', pair rare.pair, span rare.reals, even rare.even, note text)
INSERT INTO rare.things (id, size) SELECT i, 's' FROM generate_series(1, 9) AS i
CREATE INDEX things_size ON rare.things (size)
CREATE COLLATION rare.posix (provider = libc, locale = 'POSIX')
CREATE OPERATOR rare.<+> (LEFTARG = integer, RIGHTARG = integer, FUNCTION = int4pl, COMMUTATOR = OPERATOR(rare.<+>))
CREATE CAST (rare.pair AS text) WITH INOUT AS ASSIGNMENT
CREATE FUNCTION rare.falling(integer, integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $2 - $1'
CREATE OPERATOR CLASS rare.down FOR TYPE integer USING btree AS OPERATOR 1 >, OPERATOR 2 >=, OPERATOR 3 =, OPERATOR 4 <=, OPERATOR 5 <, FUNCTION 1 rare.falling(integer, integer)
ALTER OPERATOR FAMILY rare.down USING btree ADD OPERATOR 1 > (integer, bigint), FUNCTION 1 btint48cmp(integer, bigint)
COMMENT ON OPERATOR CLASS rare.down USING btree IS 'falling'
ALTER OPERATOR CLASS rare.down USING btree OWNER TO runbook_reader
CREATE OPERATOR CLASS rare.nearest FOR TYPE point USING gist AS STORAGE box, OPERATOR 15 <-> (point, point) FOR ORDER BY pg_catalog.float_ops, FUNCTION 8 (point, point) gist_point_distance(internal, point, smallint, oid, internal)
CREATE OPERATOR CLASS rare.pairs DEFAULT FOR TYPE rare.pair USING hash AS STORAGE rare.pair
CREATE INDEX things_down ON rare.things (id rare.down)
CREATE TEXT SEARCH CONFIGURATION rare.words (PARSER = default)
ALTER TEXT SEARCH CONFIGURATION rare.words ADD MAPPING FOR word, asciiword WITH simple
CREATE TEXT SEARCH DICTIONARY rare.plain (TEMPLATE = simple, stopwords = 'english')
CREATE FOREIGN DATA WRAPPER nowhere OPTIONS (debug 'true')
CREATE SERVER far TYPE 'x' VERSION '1' FOREIGN DATA WRAPPER nowhere OPTIONS (host 'a')
CREATE FOREIGN TABLE rare.remote (id integer OPTIONS (k 'v') NOT NULL, name text DEFAULT 'n') SERVER far OPTIONS (t 'u')
CREATE USER MAPPING FOR PUBLIC SERVER far
CREATE FUNCTION rare.seen() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN NULL; END'
CREATE EVENT TRIGGER watcher ON ddl_command_end WHEN TAG IN ('CREATE CAST') EXECUTE FUNCTION rare.seen()
from 15 CREATE PUBLICATION papers FOR TABLE rare.people (id, name) WHERE (id > 5), rare.friends WITH (publish = 'insert')
before 15 CREATE PUBLICATION papers FOR TABLE rare.people, rare.friends WITH (publish = 'insert')
CREATE PUBLICATION nothing
from 15 CREATE PUBLICATION whole FOR TABLES IN SCHEMA rare WITH (publish = 'insert')
before 15 CREATE PUBLICATION whole FOR TABLE ONLY rare.things, rare.people WITH (publish = 'insert', publish_via_partition_root = true)
CREATE TABLE rare.events (id bigint, at date NOT NULL, kind text, person bigint, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)
CREATE TABLE rare.events_1 PARTITION OF rare.events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')
CREATE TABLE rare.events_2 PARTITION OF rare.events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')
INSERT INTO rare.events SELECT i, '2025-06-01'::date + i, 'k', 1 FROM generate_series(1, 40) AS i
CREATE INDEX events_kind ON rare.events (kind)
ALTER INDEX rare.events_2_kind_idx RENAME TO "events 2 by kind"
ALTER TABLE rare.events ADD CONSTRAINT who FOREIGN KEY (person) REFERENCES rare.people
ALTER TABLE rare.events ADD CONSTRAINT kind_there CHECK (kind <> '')
CREATE TRIGGER events_watched BEFORE UPDATE ON rare.events FOR EACH ROW EXECUTE FUNCTION rare.watch()
ALTER TABLE rare.events_2 DISABLE TRIGGER events_watched
ALTER TABLE rare.events_1 ALTER COLUMN kind SET DEFAULT 'one'
CREATE TABLE rare.events_3 (id bigint NOT NULL, at date NOT NULL, kind text, person bigint, CONSTRAINT kind_there CHECK (kind <> ''))
CREATE TABLE rare.animal (id integer, legs integer DEFAULT 4)
CREATE TABLE rare.dog (bark text) INHERITS (rare.animal)
CREATE TABLE rare.bird (legs integer DEFAULT 2, wings integer) INHERITS (rare.animal)
ALTER TABLE rare.bird ALTER COLUMN legs SET NOT NULL
CREATE UNIQUE INDEX animal_id ON rare.animal (id)
CREATE TABLE rare.herd (id bigint GENERATED ALWAYS AS IDENTITY, name text)
CREATE TABLE rare.flock () INHERITS (rare.herd)
INSERT INTO rare.herd (name) SELECT 'h' || i FROM generate_series(1, 5) AS i
CREATE VIEW rare.by_key AS SELECT p.id, p.name, p.age FROM rare.people AS p GROUP BY p.id
COMMENT ON TABLE rare.people IS 'people, it''s them'
COMMENT ON COLUMN rare.people.name IS 'given'
COMMENT ON CONSTRAINT grown ON rare.people IS 'why'
COMMENT ON CONSTRAINT is_even ON DOMAIN rare.even IS 'why even'
COMMENT ON INDEX rare.people_age IS 'fast'
COMMENT ON TRIGGER watched ON rare.people IS 'watch'
COMMENT ON POLICY mine ON rare.people IS 'only mine'
COMMENT ON VIEW rare.old IS 'old ones'
COMMENT ON COLUMN rare.old.name IS 'old name'
COMMENT ON FUNCTION rare.add(integer, integer) IS 'plus'
COMMENT ON TYPE rare.size IS 'sizes'
COMMENT ON COLUMN rare.pair.a IS 'first'
COMMENT ON SCHEMA rare IS 'rare things'
COMMENT ON PUBLICATION papers IS 'daily'
COMMENT ON AGGREGATE rare.total(integer) IS 'sum'
COMMENT ON CAST (rare.pair AS text) IS 'cast'
COMMENT ON EVENT TRIGGER watcher IS 'sees'
COMMENT ON SERVER far IS 'far away'
COMMENT ON STATISTICS rare.people_stats IS 'stats'
COMMENT ON SEQUENCE rare.numbers IS 'counts'
COMMENT ON MATERIALIZED VIEW rare.ages IS 'ages'
GRANT SELECT ON rare.people TO runbook_reader
GRANT SELECT (name), UPDATE (name) ON rare.people TO PUBLIC
GRANT ALL ON rare.old TO runbook_reader WITH GRANT OPTION
GRANT USAGE ON SCHEMA rare TO runbook_reader
GRANT EXECUTE ON FUNCTION rare.add(integer, integer) TO runbook_reader
REVOKE EXECUTE ON FUNCTION rare.add(integer, integer) FROM PUBLIC
REVOKE USAGE ON TYPE rare.size FROM PUBLIC
GRANT USAGE ON SEQUENCE rare.numbers TO runbook_reader
GRANT USAGE ON FOREIGN SERVER far TO runbook_reader
ALTER VIEW rare.adults OWNER TO runbook_reader
ALTER FUNCTION rare.watch() OWNER TO runbook_reader
ALTER TYPE rare.size OWNER TO runbook_reader
ALTER DEFAULT PRIVILEGES IN SCHEMA rare GRANT SELECT ON TABLES TO runbook_reader
ALTER DEFAULT PRIVILEGES FOR ROLE runbook_reader REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC
""".strip().split("\n")


@dataclass(frozen=True)
class Stage:
    """A database, and what it is before anything is done to it; every change to it is rolled back."""

    server: Server
    conn: Conn
    before: Snapshot

    @property
    def version(self) -> int:
        """The server's major version."""
        return self.server.version


def make(server: Server, name: str, made: Sequence[str]) -> Iterator[Stage]:
    """Give a database in which these statements were executed."""
    with server.connect(server.database(name, *made)) as conn:
        conn.execute("SET lock_timeout = '5s'")
        yield Stage(server, conn, server.once(f"snapshot of {name}", lambda: schema.snapshot(conn)))


def rarer(version: int) -> list[str]:
    """Return the statements that make the rarer objects of a version."""
    return [statement for line in MORE if (statement := known_to(version, line)) is not None]


@pytest.fixture(scope="session")
def shop(server: Server) -> Iterator[Stage]:
    """The database of the statements in effects/cases.sql."""
    yield from make(server, "undo_shop", [(EFFECTS / "setup.sql").read_text()])


@pytest.fixture(scope="session")
def rare(server: Server) -> Iterator[Stage]:
    """The database of the rarer objects."""
    yield from make(server, "undo_rare", rarer(server.version))


def statement(sql: str) -> Statement:
    """Return the only statement of a text."""
    (found,) = statements.parse(sql, "m.sql")
    return found


def inverse(conn: Conn, sql: str) -> Undo:
    """Compute the way back of a statement."""
    return Inverter(conn).inverse(statement(sql))


def there_and_back(stage: Stage, sql: str) -> tuple[Undo, list[Difference]]:
    """Execute a statement and go its way back, in a transaction that is rolled back; return what differs."""
    conn = stage.conn
    with conn.transaction(force_rollback=True):
        undo = inverse(conn, sql)
        before = checksums.checksums(conn) if undo.keeps and not undo.of_rows else {}
        keeper = Keeper(conn, undo)
        keeper.keep(sql)
        if undo.because or undo.of_rows:
            return undo, []
        keeper.go_back()
        if before:
            assert checksums.checksums(conn) == before, "rows"
        return undo, diff(stage.before, schema.snapshot(conn))


def is_told(difference: Difference, undo: Undo) -> bool:
    """Tell whether a way back has said that this differs."""
    return is_declared(difference, undo.differs)


@dataclass
class Keeper:
    """Keeps what a way back needs, and gives it back, in a few lines."""

    conn: Conn
    undo: Undo
    place: str = "kept"

    def keep(self, sql: str) -> None:
        """Execute a statement plainly, or rename the tables away that it would drop."""
        tables = [keep.table for keep in self.undo.keeps if keep.kind == "table"]
        self.conn.execute("CREATE SCHEMA IF NOT EXISTS pgrunbook")
        for number, keep in enumerate(self.undo.keeps):
            if keep.kind == "column":
                key = ", ".join(f'"{name}"' for name in keep.key) or "row_number() OVER () AS ctid_"
                self.conn.execute(
                    f"CREATE TABLE pgrunbook.{self.place}_{number} AS SELECT {key}, {keep.column}::text AS kept FROM {keep.table}"
                )
        if tables:
            self._detach(tables)
        elif not sql.startswith("COPY"):
            self.conn.execute(sql)

    def go_back(self) -> None:
        """Give tables back, then execute the steps, filling columns where they say so."""
        for keep in self.undo.keeps:
            if keep.kind == "table":
                _, name = keep.table.split(".")
                self.conn.execute(f"ALTER TABLE pgrunbook.{name} SET SCHEMA {keep.table.split('.')[0]}")
        for step in self.undo.steps:
            assert step.policy is Policy.TOGETHER
            assert statement(step.sql)  # one statement, which a migration may hold
            self.conn.execute(step.sql)
            for keep in step.fills:
                self._fill(keep)

    def _fill(self, keep: Keep) -> None:
        number = self.undo.keeps.index(keep)
        if keep.key:
            on = " AND ".join(f't."{name}" = k."{name}"' for name in keep.key)
            self.conn.execute(
                f"UPDATE {keep.table} AS t SET {keep.column} = k.kept::{keep.type} FROM pgrunbook.{self.place}_{number} AS k WHERE {on}"
            )
            return
        numbered = f"SELECT ctid, tableoid, row_number() OVER () AS ctid_ FROM {keep.table}"
        self.conn.execute(
            f"UPDATE {keep.table} AS t SET {keep.column} = k.kept::{keep.type} FROM pgrunbook.{self.place}_{number} AS k, ({numbered}) AS n"
            " WHERE n.ctid_ = k.ctid_ AND t.ctid = n.ctid AND t.tableoid = n.tableoid"
        )

    def _detach(self, tables: Sequence[str]) -> None:
        """Do what the way back says that DROP TABLE does to others, and move the tables away."""
        for told in self.undo.detaches:
            self.conn.execute(told)
        for table in tables:
            self.conn.execute(f"ALTER TABLE {table} SET SCHEMA pgrunbook")


__all__ = [
    "Callable",
    "Keeper",
    "Server",
    "Stage",
    "Undo",
    "inverse",
    "is_told",
    "statement",
    "there_and_back",
]
