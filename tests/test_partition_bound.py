"""The condition of a partition's bounds is PostgreSQL's own: a CHECK of it is seen as a proof, and no row is read."""

from __future__ import annotations

from typing import Any

import pytest

from pgrunbook.sql.deparse import parsed
from pgrunbook.sql.partition_bound import bound_condition, proof
from servers import Server

# ruff: noqa: E501 - one case on a line, whatever its length


# Columns, the key, and the bounds of one partition.
BOUNDS = """
at date | RANGE (at) | FROM ('2027-01-01') TO ('2028-01-01')
at date | RANGE (at) | FROM (MINVALUE) TO ('2028-01-01')
at date | RANGE (at) | FROM ('infinity') TO (MAXVALUE)
at date | RANGE (at) | FROM (MINVALUE) TO (MAXVALUE)
at timestamptz | RANGE (at) | FROM ('2027-01-01') TO ('2028-01-01')
at timestamp(3) | RANGE (at) | FROM ('2027-01-01') TO ('2028-01-01')
b interval | RANGE (b) | FROM ('1 day') TO ('2 days')
b uuid | RANGE (b) | FROM ('00000000-0000-0000-0000-000000000000') TO (MAXVALUE)
b integer | RANGE (b) | FROM (1 + 1) TO (2 * 3)
b bigint | RANGE (b) | FROM (-5) TO (5000000000)
b double precision | RANGE (b) | FROM (1) TO (2.5)
b numeric(5, 2) | RANGE (b) | FROM (1) TO (3)
b numeric(5, 2) | LIST (b) | IN (1.555, 2)
b smallint | LIST (b) | IN (1)
b bigint | LIST (b) | IN (1, 2)
b boolean | LIST (b) | IN (false, NULL)
b varchar(9) | RANGE (b) | FROM ('a') TO ('b')
b varchar(9) | LIST (b) | IN ('a')
b varchar(9) | LIST (b) | IN ('a', 'b')
b varchar(9) | LIST (b) | IN (NULL)
b varchar | LIST (b) | IN ('a', 'b', NULL)
b char(4) | LIST (b) | IN ('a', 'b')
b char(4) | RANGE (b) | FROM ('a') TO ('b')
b char(9) | LIST (b COLLATE "C") | IN ('a', 'b')
b char(9) | LIST (b COLLATE "C") | IN ('a')
b char(9) | RANGE (b COLLATE "C") | FROM ('a') TO ('b')
b char | LIST (b COLLATE "C") | IN ('a', 'b')
b short | LIST (b COLLATE "C") | IN ('a', 'b')
b padded | LIST (b COLLATE "C") | IN ('a', 'b')
b name | LIST (b COLLATE "POSIX") | IN ('a', 'b')
b char(9) | RANGE (b COLLATE "C") | FROM ('a') TO (MAXVALUE)
b "char" | LIST (b) | IN ('a', 'b')
b name | LIST (b) | IN ('a')
b bytea | LIST (b) | IN ('\\x01')
b bit(3) | LIST (b) | IN (B'101')
b inet | LIST (b) | IN ('1.1.1.1')
b int4range | LIST (b) | IN ('[1,2)')
b integer[] | LIST (b) | IN ('{1}', '{2}')
b mood | LIST (b) | IN ('sad')
b mood | RANGE (b) | FROM ('sad') TO ('ok')
b positive | LIST (b) | IN (1, 2)
b positive | RANGE (b) | FROM (1) TO (3)
b short | LIST (b) | IN ('a', 'b', NULL)
b text COLLATE "C" | LIST (b) | IN ('a', 'b', NULL)
b text | LIST (b COLLATE "C") | IN ('a', 'b', NULL)
b text | LIST (b COLLATE "C") | IN ('a')
b text | RANGE (b COLLATE "C") | FROM ('a') TO ('b')
b text | RANGE (lower(b) COLLATE "C") | FROM ('a') TO ('b')
b text | LIST (lower(b)) | IN ('a', 'b')
b varchar | RANGE (lower(b)) | FROM ('a') TO ('b')
b integer | RANGE ((b + 1)) | FROM (1) TO (3)
b integer | LIST ((b::bigint)) | IN (1, 2)
b text | LIST ((b::varchar(3))) | IN ('ax', 'bx')
b jsonb | LIST ((b ->> 'k')) | IN ('x', 'y', NULL)
at timestamp | RANGE ((at::date)) | FROM ('2027-01-01') TO ('2028-01-01')
at timestamp | LIST (date_trunc('month', at)) | IN ('2027-01-01', '2027-02-01')
at date | RANGE (EXTRACT(year FROM at)) | FROM (2027) TO (2028)
a integer, "B b" text | LIST ("B b") | IN ('it''s')
a integer, b integer | RANGE (a, b) | FROM (1, 10) TO (3, 99)
a integer, b integer | RANGE (a, b) | FROM (1, 10) TO (1, 99)
a integer, b integer | RANGE (a, b) | FROM (1, MINVALUE) TO (1, MAXVALUE)
a integer, b integer | RANGE (a, b) | FROM (1, MINVALUE) TO (3, MINVALUE)
a integer, b integer | RANGE (a, b) | FROM (MINVALUE, MINVALUE) TO (3, 4)
a integer, b integer, c text | RANGE (a, b, c) | FROM (1, 2, 'x') TO (1, 4, 'y')
a integer, b integer, c text | RANGE (a, b, c) | FROM (1, 2, 'x') TO (1, 2, 'y')
a integer, b text | RANGE (a, lower(b)) | FROM (1, 'x') TO (2, 'y')
""".strip().split("\n")
BELOW_DOMAINS = """
SELECT a.attname::text, CASE t.typtype WHEN 'd' THEN format_type(t.typbasetype, t.typtypmod) ELSE format_type(a.atttypid, a.atttypmod) END
FROM pg_attribute AS a
JOIN pg_type AS t ON t.oid = a.atttypid
WHERE a.attrelid = 's'::regclass AND a.attnum > 0
"""


@pytest.mark.slow
def test_a_check_of_the_condition_proves_the_bounds(server: Server) -> None:
    """For every kind of key, the server says that the CHECK implies the bounds, and on the default partition too."""
    said: list[str] = []
    with server.connect("postgres") as conn, conn.transaction(force_rollback=True):
        conn.add_notice_handler(lambda notice: said.append(str(notice.message_primary)))
        conn.execute("CREATE SCHEMA bounds; SET search_path = bounds; CREATE TYPE mood AS ENUM ('sad', 'ok')")
        conn.execute("CREATE DOMAIN positive AS integer CHECK (VALUE > 0); CREATE DOMAIN short AS varchar(5)")
        conn.execute("CREATE DOMAIN padded AS char(5)")
        unseen = [case for case in BOUNDS if _proofs(conn, said, *case.split(" | ")) != 3]
    assert unseen == []


def test_a_key_by_an_operator_class_is_not_told() -> None:
    """Its operators are not those of the type, and the text of the key does not name them."""
    bound = parsed("CREATE TABLE x PARTITION OF s FOR VALUES FROM ('a') TO ('b')").partbound
    assert bound_condition("s", "RANGE (b)", {"b": "text"}, bound) is not None
    assert bound_condition("s", "RANGE (b text_pattern_ops)", {"b": "text"}, bound) is None
    assert bound_condition("s", "RANGE (b)", {}, parsed("CREATE TABLE x PARTITION OF s DEFAULT").partbound) is None


def _proofs(conn: Any, said: list[str], columns: str, key: str, bounds: str) -> int:
    """Return how many proofs the server sees: of the default partition, then of it and the attached table's rows."""
    with conn.transaction(force_rollback=True):
        conn.execute(f"CREATE TABLE s ({columns}) PARTITION BY {key}; CREATE TABLE s_rest PARTITION OF s DEFAULT")
        (key_as_told,) = conn.execute("SELECT pg_get_partkeydef('s'::regclass)").fetchone()
        types = dict(conn.execute(BELOW_DOMAINS).fetchall())
        bound = parsed(f"CREATE TABLE x PARTITION OF s FOR VALUES {bounds}").partbound
        condition = bound_condition("s", key_as_told, types, bound)
        conn.execute(f"ALTER TABLE s_rest ADD CHECK (NOT ({condition}))")
        conn.execute(f"CREATE TABLE y (LIKE s); ALTER TABLE y ADD CHECK ({condition})")
        said.clear()
        conn.execute("SET LOCAL client_min_messages = debug1")
        conn.execute(f"CREATE TABLE x PARTITION OF s FOR VALUES {bounds}; DROP TABLE x")
        conn.execute(f"ALTER TABLE s ATTACH PARTITION y FOR VALUES {bounds}")
        return sum("implied by existing constraints" in each for each in said)


def test_a_hash_is_told_only_where_a_check_proves_it(server: Server) -> None:
    """Of values with a collation no CHECK does: the call in it has one, that of the bounds has none."""
    said: list[str] = []
    bound = parsed("CREATE TABLE x PARTITION OF s FOR VALUES WITH (MODULUS 4, REMAINDER 1)").partbound
    with server.connect("postgres") as conn, conn.transaction(force_rollback=True):
        conn.add_notice_handler(lambda notice: said.append(str(notice.message_primary)))
        conn.execute("CREATE SCHEMA hashed; SET search_path = hashed; SET LOCAL client_min_messages = debug1")
        conn.execute("CREATE DOMAIN d AS varchar(9); CREATE TYPE mood AS ENUM ('sad')")
        for type_ in ("integer", "uuid", "mood", "text", "varchar(9)", "char(3)", "name", "d", "text[]"):
            conn.execute(f"CREATE TABLE s (b {type_}) PARTITION BY HASH (b); CREATE TABLE y (LIKE s)".encode())
            types = dict(conn.execute(BELOW_DOMAINS.encode()).fetchall())
            told = proof("hashed.s", "HASH (b)", types, bound)  # type: ignore[arg-type]
            always = bound_condition("hashed.s", "HASH (b)", {"b": "integer"}, bound)
            conn.execute(f"ALTER TABLE y ADD CHECK ({always})".encode())
            said.clear()
            conn.execute("ALTER TABLE s ATTACH PARTITION y FOR VALUES WITH (MODULUS 4, REMAINDER 1)")
            assert any("implied by existing constraints" in each for each in said) is (told is not None), type_
            conn.execute("DROP TABLE s")
