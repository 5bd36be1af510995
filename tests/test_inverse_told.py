"""What a way back tells beside the schema, and how little it asks: positions, privileges by others, round trips."""

from __future__ import annotations

import psycopg
import pytest

import inverse_stage
from inverse_stage import Conn, Stage, inverse
from pgrunbook.errors import Blocked

# Where a sequence stands: told by setval, or by where an identity starts.
OF_POSITION = """
TRUNCATE rare.people RESTART IDENTITY CASCADE
ALTER SEQUENCE rare.numbers RESTART
ALTER SEQUENCE rare.numbers INCREMENT 7 RESTART WITH 3
SELECT setval('rare.numbers', 100)
ALTER TABLE rare.people ALTER COLUMN id DROP IDENTITY
ALTER TABLE rare.people ALTER COLUMN id RESTART WITH 500
ALTER TABLE rare.people ALTER COLUMN id SET CACHE 7, ALTER COLUMN age SET DEFAULT 3
ALTER TABLE rare.people DROP COLUMN id CASCADE
ALTER TABLE rare.people DROP COLUMN num
ALTER TABLE rare.herd DROP COLUMN id
DROP SEQUENCE rare.numbers
DROP SEQUENCE rare.people_num_seq CASCADE
""".strip().split("\n")
NOT_OF_POSITION = """
TRUNCATE rare.people CASCADE
ALTER SEQUENCE rare.numbers INCREMENT 7
ALTER SEQUENCE rare.numbers OWNED BY rare.things.id
ALTER TABLE rare.people DROP COLUMN age CASCADE
ALTER TABLE rare.people ALTER COLUMN num TYPE bigint
CREATE SEQUENCE rare.more
CREATE TABLE rare.numbered (id bigint GENERATED ALWAYS AS IDENTITY)
DROP TABLE rare.people CASCADE
INSERT INTO rare.people (name) VALUES ('a')
""".strip().split("\n")


@pytest.mark.parametrize(
    ("sql", "told"), [*((sql, True) for sql in OF_POSITION), *((sql, False) for sql in NOT_OF_POSITION)]
)
def test_a_way_back_says_whether_it_holds_where_a_sequence_stands(rare: Stage, sql: str, told: bool) -> None:
    """A branch has no positions: who computes a way back there has to compute such a one again on the target."""
    undo = inverse(rare.conn, sql)
    assert undo.because == ""
    assert undo.of_position == told
    positions = ("setval(", "AS IDENTITY (SEQUENCE NAME")
    assert any(word in step.sql for step in undo.steps for word in positions) == told


def test_a_sequence_that_was_never_asked_has_a_position_too(rare: Stage) -> None:
    """On the target it may have been: no setval is told then, but that there may be another position is."""
    with rare.conn.transaction(force_rollback=True):
        rare.conn.execute("CREATE SEQUENCE rare.fresh")
        undo = inverse(rare.conn, "DROP SEQUENCE rare.fresh")
    assert undo.of_position
    assert not any("setval" in step.sql for step in undo.steps)


def test_what_an_extensions_tables_hold_is_told_to_be_lost(rare: Stage) -> None:
    """They come back with what the extension's script makes; configuration that was written to them is kept nowhere."""
    with rare.conn.transaction(force_rollback=True):
        rare.conn.execute("CREATE TABLE rare.configured (name text, value text)")
        rare.conn.execute("ALTER EXTENSION plpgsql ADD TABLE rare.configured")
        rare.conn.execute(
            "UPDATE pg_extension SET extconfig = ARRAY['rare.configured'::regclass]::oid[], extcondition = ARRAY['']"
            " WHERE extname = 'plpgsql'"
        )
        undo = inverse(rare.conn, "DROP EXTENSION plpgsql CASCADE")
    assert undo.because == ""
    assert "the rows of rare.configured will be as extension plpgsql creates them" in [
        each.why for each in undo.differs
    ]
    assert not any(keep.table == "rare.configured" for keep in undo.keeps)


ROLES = ("undo_a", "undo_b", "undo_c")
# Each executed on tables on which undo_a was granted with the option, granted undo_b so, and that one undo_c.
BY_OTHERS = """
REVOKE ALL ON rare.granted FROM undo_a CASCADE
REVOKE GRANT OPTION FOR SELECT ON rare.granted FROM undo_a CASCADE
REVOKE SELECT (name) ON rare.granted FROM undo_a CASCADE
GRANT DELETE ON rare.granted TO undo_a, undo_b
ALTER TABLE rare.granted OWNER TO runbook_reader
DROP TABLE rare.granted
DROP VIEW rare.granted_too
DROP FUNCTION rare.granted_three()
""".strip().split("\n")


@pytest.mark.parametrize("sql", BY_OTHERS)
def test_what_others_than_the_owner_granted_is_granted_by_them_again(rare: Stage, sql: str) -> None:
    """REVOKE ... CASCADE takes it, also from roles that the statement does not name."""
    with rare.conn.transaction(force_rollback=True):
        _grant_by_others(rare.conn)
        before = _privileges(rare.conn)
        undo = inverse(rare.conn, sql)
        keeper = inverse_stage.Keeper(rare.conn, undo)
        keeper.keep(sql)
        keeper.go_back()
        assert _privileges(rare.conn) == before
        assert undo.differs == ()
        assert rare.conn.execute("SELECT current_user, current_setting('role')").fetchone() == ("postgres", "none")


def test_what_only_others_can_grant_is_told(rare: Stage) -> None:
    """An owner cannot grant in another's name unless he may become that role."""
    with rare.conn.transaction(force_rollback=True):
        _grant_by_others(rare.conn)
        rare.conn.execute(
            "GRANT ALL ON SCHEMA rare TO undo_c; ALTER TABLE rare.granted OWNER TO undo_c; SET ROLE undo_c"
        )
        undo = inverse(rare.conn, "REVOKE ALL ON rare.granted FROM undo_a CASCADE")
    told = "what undo_a has granted on TABLE rare.granted may be gone: only undo_a can grant it"
    assert told in [each.why for each in undo.differs]
    assert not any("SET LOCAL ROLE" in step.sql for step in undo.steps)


def _grant_by_others(conn: Conn) -> None:
    conn.execute("CREATE TABLE rare.granted (id integer PRIMARY KEY, name text)")
    conn.execute("CREATE VIEW rare.granted_too AS SELECT 1 AS name")
    conn.execute("CREATE FUNCTION rare.granted_three() RETURNS integer LANGUAGE sql AS 'SELECT 1'")
    for role in ROLES:
        conn.execute(f"CREATE ROLE {role}")
        conn.execute(f"GRANT USAGE ON SCHEMA rare TO {role}")
    for by, to in zip(("postgres", *ROLES), ROLES, strict=False):
        conn.execute(f"SET LOCAL ROLE {by}")
        for what in ("SELECT, INSERT ON rare.granted", "SELECT (name), UPDATE (name) ON rare.granted",
                     "SELECT ON rare.granted_too", "EXECUTE ON FUNCTION rare.granted_three()"):  # fmt: skip
            conn.execute(f"GRANT {what} TO {to} WITH GRANT OPTION")
    conn.execute("RESET ROLE")


def _privileges(conn: Conn) -> list[tuple[object, ...]]:
    """Return who was granted what by whom."""
    acls = """
        SELECT c.relname::text AS name, '' AS part, c.relacl AS acl FROM pg_class AS c WHERE c.relname LIKE 'granted%'
        UNION ALL
        SELECT a.attrelid::regclass::text, a.attname, a.attacl FROM pg_attribute AS a WHERE a.attacl IS NOT NULL
        UNION ALL
        SELECT p.proname, '', p.proacl FROM pg_proc AS p WHERE p.proname LIKE 'granted%'
    """
    return conn.execute(
        "SELECT o.name, o.part, g.grantor::regrole::text, g.grantee, g.privilege_type, g.is_grantable"
        f" FROM ({acls}) AS o CROSS JOIN LATERAL aclexplode(o.acl) AS g ORDER BY 1, 2, 3, 4, 5"
    ).fetchall()


# How often the server is asked, the beginning and the end of the transaction among them.
ROUND_TRIPS = {
    "CREATE TABLE rare.brand_new (id integer)": 2,
    "ALTER TABLE rare.things ADD COLUMN more integer": 3,
    "ALTER TABLE rare.people ADD CONSTRAINT known CHECK (age < 200)": 3,
    "CREATE INDEX ON rare.people (half)": 4,
    "ALTER TABLE rare.things ALTER COLUMN id SET NOT NULL": 4,
    "ALTER TABLE rare.things ALTER COLUMN id TYPE bigint": 6,
    'ALTER TABLE rare.people DROP COLUMN "Odd Col"': 7,
    "DROP TABLE rare.people CASCADE": 7,
    "UPDATE rare.things SET note = 'x'": 6,
}


@pytest.mark.parametrize("sql", ROUND_TRIPS)
def test_a_way_back_costs_few_round_trips(rare: Stage, sql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is computed before every statement that is executed, also on a server that is far away."""
    asked: list[object] = []
    execute = psycopg.Cursor.execute

    def counted(cursor: psycopg.Cursor[tuple[object, ...]], query: bytes, *rest: object) -> object:
        asked.append(query)
        return execute(cursor, query, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(psycopg.Cursor, "execute", counted)
    inverse(rare.conn, sql)
    assert len(asked) <= ROUND_TRIPS[sql]


@pytest.mark.slow
@pytest.mark.first_case
def test_who_holds_a_lock_is_waited_for_shortly_and_aborts_nothing(rare: Stage) -> None:
    """The caller's transaction lives on, and its settings are what they were."""
    with rare.server.connect("undo_rare") as other, rare.conn.transaction(force_rollback=True):
        other.execute("BEGIN; LOCK TABLE rare.people IN ACCESS EXCLUSIVE MODE")
        rare.conn.execute("SET LOCAL search_path = rare; SET LOCAL lock_timeout = '77ms'")
        with pytest.raises(Blocked, match="could not read the database within lock_timeout"):
            inverse(rare.conn, "DROP VIEW adults CASCADE")
        told = "SELECT current_setting('search_path'), current_setting('lock_timeout')"
        assert rare.conn.execute(told).fetchone() == ("rare", "77ms")
        other.execute("ROLLBACK")
