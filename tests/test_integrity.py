"""Rows that break what the schema declares, whatever its constraints and indexes say."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import psycopg
import pytest

from pgrunbook.database.connection import Connection
from pgrunbook.database.integrity import Breach, breaches
from servers import Server

Make = Callable[..., str]

# Statement, kind, name, table, rows, first key: written with triggers off, as a logical replica or a load does.
ORPHANS = [
    ("CREATE TABLE c (p int REFERENCES p (id)); INSERT INTO c VALUES (1), (7), (7), (NULL)", "c_p_fkey", 2, "(7)"),
    ('CREATE TABLE "C d" ("P q" int CONSTRAINT "K" REFERENCES "P q" ("I d")); INSERT INTO "C d" VALUES (1), (9)',
     '"C d"/K', 1, "(9)"),
    (("CREATE TABLE two (a int, b text COLLATE \"POSIX\", CONSTRAINT k FOREIGN KEY (b, a) REFERENCES two_p (b, a));"
     " INSERT INTO two VALUES (1, 'x'), (1, NULL), (2, 'x')"), "two/k", 1, "(x,2)"),
    (("CREATE TABLE full_m (a int, b text, CONSTRAINT k FOREIGN KEY (a, b) REFERENCES two_p (a, b) MATCH FULL);"
     " INSERT INTO full_m VALUES (1, 'x'), (NULL, NULL), (2, NULL)"), "full_m/k", 1, "(2,)"),
    ("CREATE TABLE self (id int PRIMARY KEY, up int CONSTRAINT k REFERENCES self); INSERT INTO self VALUES (1, 2)",
     "self/k", 1, "(2)"),
    (("CREATE TABLE parts (n int CONSTRAINT k REFERENCES parts_p) PARTITION BY LIST (n);"
     " CREATE TABLE parts_1 PARTITION OF parts DEFAULT; INSERT INTO parts VALUES (1), (5)"), "parts/k", 1, "(5)"),
    (("CREATE TABLE wide (n bigint); INSERT INTO wide VALUES (8);"
     " ALTER TABLE wide ADD CONSTRAINT k FOREIGN KEY (n) REFERENCES p (id) NOT VALID"), "wide/k", 1, "(8)"),
]  # fmt: skip
PARENTS = (
    "CREATE TABLE p (id int PRIMARY KEY); INSERT INTO p VALUES (1)",
    'CREATE TABLE "P q" ("I d" int PRIMARY KEY); INSERT INTO "P q" VALUES (1)',
    "CREATE TABLE two_p (a int, b text, UNIQUE (a, b), UNIQUE (b, a)); INSERT INTO two_p VALUES (1, 'x')",
    "CREATE TABLE parts_p (n int PRIMARY KEY) PARTITION BY LIST (n)",
    "CREATE TABLE parts_p_1 PARTITION OF parts_p DEFAULT; INSERT INTO parts_p VALUES (1)",
)


@pytest.mark.every_version
def test_rows_that_reference_nothing_are_found(server: Server, database: Make) -> None:
    """Of every kind of foreign key, validated or not: composite, MATCH FULL, to itself, partitioned, quoted."""
    name = database(*PARENTS, "SET session_replication_role = replica", *(made for made, *_ in ORPHANS))
    found = _found(server, name)
    assert {(b.table.rpartition(".")[2] + "/" + b.name, b.rows, b.samples[0]) for b in found} == {
        (key if "/" in key else f"c/{key}", rows, sample) for _, key, rows, sample in ORPHANS
    }
    assert {b.kind for b in found} == {"orphans"}
    assert [b.repair for b in found if b.repair] == ["ALTER TABLE public.wide VALIDATE CONSTRAINT k"]
    with server.connect(name) as conn:
        assert [len(conn.execute(b.query.encode()).fetchall()) for b in found] == [b.rows for b in found]


DUPLICATES = [
    ("CREATE TABLE a (n int); INSERT INTO a VALUES (1), (1), (2), (NULL), (NULL)", "a (n)", 1, "(1) 2 times"),
    ('CREATE TABLE "B c" ("N" int, m text); INSERT INTO "B c" VALUES (1, \'x\'), (1, \'x\'), (1, \'y\'), (1, NULL)',
     '"B c" ("N", m)', 1, "(1,x) 2 times"),
    ("CREATE TABLE e (t text); INSERT INTO e VALUES ('A'), ('a')", "e (lower(t))", 1, "(a) 2 times"),
    ("CREATE TABLE f (t text, gone bool); INSERT INTO f VALUES ('a', true), ('a', true), ('b', false), ('b', false)",
     "f (t) WHERE NOT gone", 1, "(b) 2 times"),
    ("CREATE TABLE one (n int); INSERT INTO one VALUES (1), (2)", "one ((1))", 1, "(1) 2 times"),
    ("CREATE TABLE covers (n int, m int); INSERT INTO covers VALUES (1, 1), (1, 2)", "covers (n) INCLUDE (m)", 1,
     "(1) 2 times"),
]  # fmt: skip


@pytest.mark.every_version
def test_keys_that_stand_twice_under_a_unique_index_are_found(server: Server, database: Make) -> None:
    """A corrupt index is one that has missed some rows, as here; no index is asked. Nor is an invalid one."""
    name = database()
    switched = "UPDATE pg_index SET indisready = {0}, indisvalid = {0} WHERE indexrelid = 'i{1}'::regclass"
    with server.connect(name) as conn:
        for number, (made, key, *_) in enumerate(DUPLICATES):
            table, insert = made.split("; ")
            valid = "true" if number % 2 else "false"
            for statement in (table, f"CREATE UNIQUE INDEX i{number} ON {key}", switched.format("false", number),
                              insert, switched.format(valid, number)):  # fmt: skip
                conn.execute(statement.encode())
        conn.execute("CREATE TABLE fine (id int PRIMARY KEY, n int UNIQUE)")
        conn.execute("INSERT INTO fine VALUES (1, NULL), (2, NULL)")
    found = _found(server, name)
    assert [b.why for b in found if b.why] == []
    assert {(b.name, b.rows, b.samples) for b in found} == {
        (f"public.i{number}", rows, (sample,)) for number, (*_, rows, sample) in enumerate(DUPLICATES)
    }
    assert {b.repair for b in found} == {f"REINDEX INDEX CONCURRENTLY public.i{n}" for n in range(len(DUPLICATES))}


@pytest.mark.every_version
def test_a_collation_of_the_index_decides_what_is_twice(server: Server, database: Make) -> None:
    """As the index would: two letters that it takes for equal; NULLs, where it takes these for equal."""
    name = database(
        "CREATE TABLE n (v int); INSERT INTO n VALUES (NULL), (NULL)",
        "CREATE TABLE p (id int, PRIMARY KEY (id)) PARTITION BY LIST (id)",
        "CREATE TABLE p_1 PARTITION OF p DEFAULT; INSERT INTO p VALUES (1), (2)",
    )
    indexes = ["n (v) NULLS NOT DISTINCT"] if server.version >= 15 else []
    with server.connect(name) as conn:
        with suppress(psycopg.errors.FeatureNotSupported):  # built without ICU
            conn.execute("CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
            conn.execute("CREATE TABLE t (v text)")
            conn.execute("INSERT INTO t VALUES ('a'), ('A')")
            indexes.append("t (v COLLATE ci)")
        for index in indexes:
            with pytest.raises(psycopg.errors.UniqueViolation):
                conn.execute(f"CREATE UNIQUE INDEX CONCURRENTLY ON {index}".encode())
    assert {(b.table, b.rows) for b in _found(server, name)} == {(f"public.{i[0]}", 1) for i in indexes}


@pytest.mark.newest
def test_what_not_valid_lets_be_is_counted(version: int, server: Server, database: Make) -> None:
    """Rows against a CHECK, and against NOT NULL from 18 on; NULL breaks no CHECK; NOT ENFORCED is nobody's promise."""
    if version < 18:
        pytest.skip("PostgreSQL 18 knows them")
    name = database(
        "CREATE TABLE t (n int, m int); INSERT INTO t VALUES (1, NULL), (-1, 2), (NULL, 3)",
        "ALTER TABLE t ADD CONSTRAINT positive CHECK (n > 0) NOT VALID, ADD CONSTRAINT known NOT NULL m NOT VALID",
        "ALTER TABLE t ADD CONSTRAINT hoped CHECK (n > 5) NOT ENFORCED",
        "CREATE TABLE clean (n int); ALTER TABLE clean ADD CONSTRAINT c CHECK (n > 0) NOT VALID",
    )
    found = _found(server, name)
    assert [(b.kind, b.name, b.rows, b.samples) for b in found] == [
        ("rows against a constraint", "known", 1, ("(1,)",)),
        ("rows against a constraint", "positive", 1, ("(-1,2)",)),
    ]
    assert found[1].repair == "ALTER TABLE public.t VALIDATE CONSTRAINT positive"


@pytest.mark.newest
def test_a_period_may_be_covered_by_several_rows(version: int, server: Server, database: Make) -> None:
    """PostgreSQL 18: a foreign key with PERIOD."""
    if version < 18:
        pytest.skip("PostgreSQL 18 knows them")
    name = database(
        "CREATE TABLE p (id int4range, v daterange, PRIMARY KEY (id, v WITHOUT OVERLAPS))",
        "INSERT INTO p VALUES ('[1,2)', '[2026-01-01,2026-02-01)'), ('[1,2)', '[2026-02-01,2026-03-01)')",
        "CREATE TABLE c (p int4range, v daterange, CONSTRAINT k FOREIGN KEY (p, PERIOD v) REFERENCES p (id, PERIOD v))",
        "INSERT INTO c VALUES ('[1,2)', '[2026-01-10,2026-02-10)')",
        "SET session_replication_role = replica",
        "INSERT INTO c VALUES ('[1,2)', '[2026-02-10,2026-03-10)'), ('[5,6)', '[2026-01-01,2026-01-02)')",
    )
    (breach,) = _found(server, name)
    assert (breach.name, breach.rows) == ("k", 2)


@pytest.mark.newest
def test_every_breach_is_counted_and_a_few_are_shown(server: Server, database: Make) -> None:
    """Of ten thousand orphans five keys come over."""
    (breach,) = _found(server, database(*_many(10_000)))
    assert (breach.rows, len(breach.samples)) == (10_000, 5)


@pytest.mark.slow
@pytest.mark.newest
def test_a_check_that_takes_too_long_or_is_locked_out_is_no_finding(server: Server, database: Make) -> None:
    """It is named with its reason, as unknown: neither broken nor whole."""
    name = database(*_many(100_000))
    with server.connect(name) as conn:
        for limits, why in (
            ({"check_timeout_ms": 1}, "canceling statement due to statement timeout"),
            ({"whole_timeout_ms": 0}, "the time for all checks was up"),
        ):
            (breach,) = (b for b in breaches(conn, **limits) if b.kind == "orphans")
            assert (breach.rows, breach.why) == (None, why)
        with server.connect(name) as other, other.transaction():
            other.execute("LOCK TABLE c")
            (breach,) = breaches(conn)
        assert breach.why == "could not read the database within lock_timeout (2000 ms)"


@pytest.mark.newest
def test_what_is_not_ours_to_read_or_to_call_is_not_checked(server: Server, database: Make) -> None:
    """A policy hides no row from it silently, and no function of somebody else's runs with a superuser's rights."""
    name = database(*_many(1))
    server.run(name, "CREATE ROLE reader LOGIN", "CREATE ROLE owner_of_it", "GRANT SELECT ON c TO reader",
               "ALTER TABLE c ENABLE ROW LEVEL SECURITY", "GRANT ALL ON SCHEMA public TO owner_of_it",
               "SET ROLE owner_of_it", "CREATE FUNCTION f(int) RETURNS int IMMUTABLE RETURN $1",
               "CREATE TABLE mine (n int); CREATE UNIQUE INDEX ON mine (f(n))")  # fmt: skip
    try:
        with server.connect(name) as conn:
            assert {(b.name, b.why) for b in breaches(conn) if b.why} == {
                ("public.mine_f_idx", "it calls functions of another role, which would run with our rights")
            }
            info = conn.info.get_parameters()
        with Connection.connect(**{**info, "user": "reader"}, autocommit=True) as conn:
            told = {b.name: b.why for b in breaches(conn)}
        assert told["c_p_fkey"] in ("permission denied for table p", ('query would be affected by row-level security'
                                    ' policy for table "c"'))  # fmt: skip
    finally:
        server.run(name, "DROP OWNED BY reader, owner_of_it", "DROP ROLE reader, owner_of_it")


def _many(orphans: int) -> tuple[str, ...]:
    return (
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (p int REFERENCES p)",
        "SET session_replication_role = replica",
        f"INSERT INTO c SELECT generate_series(1, {orphans})",
    )


def _found(server: Server, name: str) -> list[Breach]:
    with server.connect(name) as conn:
        return breaches(conn)
