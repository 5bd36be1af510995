"""Code that a role has planted in its own tables: what reads tables and constraints never runs it with our rights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import psycopg
import pytest

from pgrunbook.database import checksums, foreign_code, health, integrity, leftovers, measurements, query_plans
from pgrunbook.database.connection import Connection
from pgrunbook.errors import Refused
from servers import Server

Make = Callable[..., str]
ROLE = "planter"
# What each way of planting makes, with a function {f} that tells who calls it, and which of the reads would call it:
# none of them may. {f} takes a number.
PLANTED = {
    "folded in the expression of an index": "CREATE TABLE t0 (n serial); CREATE INDEX ON t0 ((n + {f}(1)))",
    "folded in the condition of an index": "CREATE TABLE t1 (n serial);"
    " CREATE INDEX ON t1 (n) WHERE n > {f}(1)",
    "folded in an exclusion constraint": "CREATE TABLE t2 (n serial, EXCLUDE ((n + {f}(1)) WITH =))",
    "folded in statistics": "CREATE TABLE t3 (n serial); CREATE STATISTICS s3 ON (n + {f}(1)) FROM t3",
    "folded in a key of partitions": "CREATE TABLE t4 (n serial) PARTITION BY RANGE ((n + {f}(1)));"
    " CREATE TABLE t4a PARTITION OF t4 DEFAULT",
    "folded in a partition's index": "CREATE TABLE t5 (n serial) PARTITION BY RANGE (n);"
    " CREATE TABLE t5a PARTITION OF t5 DEFAULT; CREATE INDEX ON t5a ((n + {f}(1)))",
    "called by a unique index": "CREATE TABLE u0 (n int); INSERT INTO u0 VALUES (1);"
    " CREATE UNIQUE INDEX ON u0 ({f}(n))",
    "called by an operator": "CREATE OPERATOR !+! (RIGHTARG = int, FUNCTION = {f});"
    " CREATE TABLE u1 (n int); INSERT INTO u1 VALUES (1);"
    " CREATE UNIQUE INDEX ON u1 ((!+! n))",
    "called by a domain in a unique index": "CREATE DOMAIN d2 AS int CHECK (VALUE > 0);"
    " CREATE TABLE u2 (n int); INSERT INTO u2 VALUES (1);"
    " CREATE UNIQUE INDEX ON u2 ((n::d2)); ALTER DOMAIN d2 ADD CHECK ({f}(VALUE) > 0) NOT VALID",
    "called by a domain over a domain": "CREATE DOMAIN d3 AS int; CREATE DOMAIN e3 AS d3;"
    " CREATE TABLE u3 (n int); INSERT INTO u3 VALUES (1);"
    " CREATE UNIQUE INDEX ON u3 (n) WHERE n::e3 > 0; ALTER DOMAIN d3 ADD CHECK ({f}(VALUE) > 0) NOT VALID",
    "called by an array of a domain": "CREATE DOMAIN d4 AS int; CREATE TABLE u4 (n int[]);"
    " INSERT INTO u4 VALUES (ARRAY[1]);"
    " CREATE UNIQUE INDEX ON u4 ((n::d4[])); ALTER DOMAIN d4 ADD CHECK ({f}(VALUE) > 0) NOT VALID",
    "called by a CHECK": "CREATE TABLE c0 (n int); INSERT INTO c0 VALUES (1);"
    " ALTER TABLE c0 ADD CONSTRAINT c0 CHECK ({f}(n) > 5) NOT VALID",
    "called by a domain in a CHECK": "CREATE DOMAIN d5 AS int; CREATE TABLE c1 (n int);"
    " INSERT INTO c1 VALUES (1);"
    " ALTER TABLE c1 ADD CONSTRAINT c1 CHECK (n::d5 > 5) NOT VALID;"
    " ALTER DOMAIN d5 ADD CHECK ({f}(VALUE) > 0) NOT VALID",
    "called by a cast that a CHECK had not": "CREATE TYPE e6 AS ENUM ('a'); CREATE TABLE c2 (n e6);"
    " INSERT INTO c2 VALUES ('a');"
    " ALTER TABLE c2 ADD CONSTRAINT c2 CHECK (n::text <> 'a') NOT VALID;"
    " CREATE FUNCTION {f}_c(e6) RETURNS text"
    " LANGUAGE plpgsql AS 'BEGIN PERFORM {f}(1); RETURN 1; END';"
    " CREATE CAST (e6 AS text) WITH FUNCTION {f}_c (e6)",
    "called by a cast of a foreign key": "CREATE TYPE e7 AS ENUM ('a'); CREATE FUNCTION {f}_c(e7) RETURNS int"
    " LANGUAGE plpgsql AS 'BEGIN RETURN {f}(1); END';"
    " CREATE CAST (e7 AS int) WITH FUNCTION {f}_c (e7) AS IMPLICIT;"
    " CREATE TABLE p3 (n int PRIMARY KEY); INSERT INTO p3 VALUES (1); CREATE TABLE c3 (n e7);"
    " INSERT INTO c3 VALUES ('a');"
    " ALTER TABLE c3 ADD CONSTRAINT c3 FOREIGN KEY (n) REFERENCES p3 NOT VALID",
    "folded beside a foreign key": "CREATE TABLE p4 (n int PRIMARY KEY); CREATE INDEX ON p4 ((n + {f}(1)));"
    " CREATE TABLE c4 (n int); INSERT INTO c4 VALUES (1);"
    " ALTER TABLE c4 ADD CONSTRAINT c4 FOREIGN KEY (n) REFERENCES p4 NOT VALID",
}  # fmt: skip
# A row is shown as text, and no cast of its own makes that: the constraint itself calls nothing.
CAST_OF_A_ROW = (
    "CREATE TABLE r0 (n int); INSERT INTO r0 VALUES (1); CREATE FUNCTION r0_c(r0) RETURNS text LANGUAGE plpgsql AS"
    " 'BEGIN PERFORM {f}(1); RETURN 1; END'; CREATE CAST (r0 AS text) WITH FUNCTION r0_c (r0);"
    " ALTER TABLE r0 ADD CONSTRAINT r0 CHECK (n > 5) NOT VALID"
)


def _function(name: str) -> str:
    """Return a function that tells who called it, although it is immutable, and in a transaction that is read only."""
    return (
        f"CREATE FUNCTION {name}_told() RETURNS void LANGUAGE plpgsql AS 'BEGIN RAISE WARNING ''{name}''; END';"
        f" CREATE FUNCTION {name}(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS"
        f" 'BEGIN PERFORM public.{name}_told(); RETURN 1; END'"
    )


@pytest.fixture
def planted(server: Server, database: Make) -> Iterator[str]:
    """A database in which an ordinary role has planted all of it."""
    name = database(f"CREATE ROLE {ROLE}", f"GRANT ALL ON SCHEMA public TO {ROLE}")
    with server.connect(name) as conn:
        conn.execute(f"SET ROLE {ROLE}")
        for place, made in enumerate([*PLANTED.values(), CAST_OF_A_ROW]):
            conn.execute(_function(f"f{place}"))
            conn.execute(made.replace("{f}", f"public.f{place}"))
        for number in range(5):
            conn.execute(f"CREATE VIEW v_t{number} AS SELECT n FROM t{number}")
    yield name
    server.run(name, f"DROP OWNED BY {ROLE} CASCADE", f"DROP ROLE {ROLE}")


def _read(server: Server, name: str) -> tuple[set[str], list[str]]:
    """Read all that validate and doctor read; return who was called, and the checks that were not made."""
    called: set[str] = set()
    not_made: list[str] = []
    with server.connect(name) as conn:
        conn.pin()
        conn.add_notice_handler(lambda told: called.add(told.message_primary or ""))
        not_made += [f"{one.kind}: {one.name}" for one in integrity.breaches(conn) if one.why == foreign_code.WHY]
    for read in (
        leftovers.remnants,
        health.row_counts,
        _sums,
        _planned,
    ):  # each in a session that has planned nothing before
        with server.connect(name) as conn:
            conn.pin()
            conn.add_notice_handler(lambda told: called.add(told.message_primary or ""))
            read(conn)
    return {one for one in called if one.startswith("f")}, not_made


def _sums(conn: Connection) -> object:
    tables = checksums.every_table(conn)
    return measurements.sums(conn, {str(table): table for table in tables})


def _planned(conn: Connection) -> object:
    """Plan, measure and explain a query of each table, of a view of it, and of the whole family of a partition."""
    for schema, name in checksums.every_table(conn):
        for query in (
            f"SELECT * FROM {schema}.{name}",
            f"DELETE FROM {schema}.{name}",
            f"SELECT * FROM {schema}.v_{name}",
        ):
            query_plans.planned(conn, query)
            query_plans.measured(conn, query)
            with contextlib.suppress(Refused, psycopg.Error):
                query_plans.explained(conn, query, execute=query.startswith("SELECT"), timeout_ms=5_000)
    return None


@pytest.mark.first_case
def test_nothing_that_a_role_has_planted_is_called(
    server: Server, planted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the guard each way but the cast of a row calls its function, as a superuser; what is not read is told."""
    called, not_made = _read(server, planted)
    assert called == set()
    assert not_made == [
        "orphans: c3", "orphans: c4", "duplicates: public.p4_pkey", "duplicates: public.u0_f6_idx",
        *(f"duplicates: public.u{number}_{name}_idx" for number, name in ((1, "expr"), (2, "n"), (3, "n"), (4, "n"))),
        *(f"rows against a constraint: c{number}" for number in range(3)),
    ]  # fmt: skip
    with server.connect(planted) as conn:
        conn.pin()
        assert {one.kind for one in leftovers.remnants(conn) if one.statement} == {"constraint not validated"}
        assert [one.name for one in leftovers.remnants(conn) if one.statement] == ["r0"]
        counts = health.row_counts(conn)
        assert {name for name, (_, is_counted) in counts.items() if is_counted} == {
            "public.p3", "public.r0", *(f"public.c{number}" for number in range(5))
        }  # fmt: skip
    monkeypatch.setattr(foreign_code, "reached", lambda _: frozenset())
    monkeypatch.setattr(foreign_code, "tables", lambda _: frozenset())
    assert _read(server, planted)[0] == {f"f{place}" for place in range(len(PLANTED))}


@pytest.mark.slow
@pytest.mark.newest
def test_a_role_that_the_database_gives_to_a_superuser_is_not_trusted(server: Server, planted: str) -> None:
    """Its owner may set that: what runs as that role takes the superuser's back with RESET ROLE."""
    server.run(planted, f"ALTER DATABASE {planted} SET role = '{ROLE}'")
    with server.connect(planted) as conn:
        assert conn.execute("SELECT current_user").fetchone() == (ROLE,)
        assert foreign_code.reached(conn)
    assert _read(server, planted)[0] == set()
    with server.connect("postgres") as conn:
        conn.execute(f"ALTER DATABASE {planted} RESET role")


@pytest.mark.newest
def test_code_of_roles_that_we_trust_is_none_of_others(server: Server, planted: str) -> None:
    """Its own role and a member of it read as before; for anybody else, as for a superuser, it is another's."""
    server.run(planted, "CREATE ROLE member_of_it LOGIN", f"GRANT {ROLE} TO member_of_it", "CREATE ROLE stranger LOGIN",
               f"ALTER ROLE {ROLE} LOGIN")  # fmt: skip
    try:
        found = {}
        for role in (ROLE, "member_of_it", "stranger", "postgres"):
            with server.connect(planted) as admin:
                given = {**admin.info.get_parameters(), "user": role}
            with Connection.connect(**given, autocommit=True) as conn:
                found[role] = len(foreign_code.reached(conn)), len(foreign_code.tables(conn))
        assert found[ROLE] == found["member_of_it"] == (0, 0)
        assert found["stranger"] == found["postgres"]
        assert min(found["postgres"]) > 0
    finally:
        server.run(planted, "DROP ROLE member_of_it, stranger")
