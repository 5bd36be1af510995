"""The history table: what hangs on it and would run somebody else's code with our rights is refused by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from acting import run
from conftest import do, rows
from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection
from pgrunbook.history import dbmate, drizzle, foreign_parts, plain
from pgrunbook.history.drizzle_states import Regime
from servers import Server
from test_own_schema import CANARY, STEADY, sung

ROLES = "DO $$BEGIN CREATE ROLE app; CREATE ROLE team; GRANT team TO app; EXCEPTION WHEN duplicate_object THEN END$$"
TABLE = "CREATE SCHEMA h; CREATE TABLE h.t (version text PRIMARY KEY, at timestamptz DEFAULT now())"
THEIRS = "ALTER TABLE h.t OWNER TO app"
TRIGGER = "CREATE TRIGGER g BEFORE INSERT ON {} FOR EACH ROW EXECUTE FUNCTION public.sing_at_rows()"

PLANTED = {
    TRIGGER.format("h.t"): "trigger g on table h.t",
    "CREATE RULE r AS ON INSERT TO h.t DO ALSO SELECT public.sing()": "rule r on table h.t",
    "CREATE POLICY p ON h.t USING (public.sing())": "policy p on table h.t",
    "ALTER TABLE h.t ADD n boolean DEFAULT public.sing()": "default value for column n of table h.t",
    "ALTER TABLE h.t ADD n text DEFAULT now()::text || public.sing()": "default value for column n of table h.t",
    "ALTER TABLE h.t ADD n text DEFAULT pg_catalog.query_to_xml('SELECT public.sing()', true, true, '')": "default",
    f"{STEADY.format('text')} ALTER TABLE h.t ADD n text GENERATED ALWAYS AS (public.steady(version))"
    " STORED": "default value for column n of table h.t",
    "ALTER TABLE h.t ADD CONSTRAINT c CHECK (public.sing())": "constraint c on table h.t",
    "ALTER TABLE h.t ADD CONSTRAINT x EXCLUDE USING btree (at WITH =)": "constraint x on table h.t",
    f"{STEADY.format('text')} CREATE INDEX i ON h.t (public.steady(version))": "index h.i",
    f"{STEADY.format('boolean')} CREATE INDEX i ON h.t (at) WHERE public.steady(version)": "index h.i",
    "CREATE DOMAIN public.d AS text CHECK (public.sing()); ALTER TABLE h.t ADD n public.d": "type public.d",
    f"CREATE TABLE h.child () INHERITS (h.t); {TRIGGER.format('h.child')};"
    " ALTER TABLE h.child OWNER TO app": "trigger g on table h.child",
}

LEGITIMATE = {
    "plain": plain.Plain().create_table("").format,
    "dbmate": dbmate.Dbmate().create_table("").format,
    "drizzle": drizzle.Drizzle().create_table(Regime.JOURNAL).format,
    "drizzle 1.0": drizzle.Drizzle().create_table(Regime.NAMES).format,
}
COLUMNS = (
    "a timestamptz DEFAULT CURRENT_TIMESTAMP, b timestamp DEFAULT CURRENT_TIMESTAMP(3), c timestamp DEFAULT (now() AT"
    " TIME ZONE 'utc'), d boolean DEFAULT false, e int DEFAULT -1, f text DEFAULT 'it''s', g varchar(9) DEFAULT NULL,"
    " i bigint GENERATED ALWAYS AS IDENTITY, j bigserial, k timestamptz DEFAULT clock_timestamp(), UNIQUE (a)"
)


@pytest.fixture
def connected(server: Server) -> Iterator[Callable[..., Connection]]:
    """Give a function that executes statements in a database with the canary; all of it is rolled back."""
    with server.connect(server.database("foreign_parts", ROLES, CANARY, TABLE)) as conn:
        conn.pin()
        with conn.transaction(force_rollback=True):

            def make(*statements: str) -> Connection:
                conn.execute("; ".join(statements).encode())
                return conn

            yield make


@pytest.mark.parametrize("statement", PLANTED)
def test_what_hangs_on_a_history_table_is_refused_by_its_name(
    connected: Callable[..., Connection], statement: str
) -> None:
    """On a table of somebody else, or on a child of ours that somebody else owns."""
    conn = connected(statement, "ALTER FUNCTION public.sing_at_rows() OWNER TO app", THEIRS)
    with pytest.raises(foreign_parts.Refused) as caught:
        foreign_parts.refuse(conn, "h", "t")
    assert PLANTED[statement] in caught.value.detail


@pytest.mark.every_version
@pytest.mark.parametrize("tool", LEGITIMATE)
def test_the_table_of_each_tool_is_accepted(connected: Callable[..., Connection], tool: str) -> None:
    """Of the application's role, as the tool itself creates it."""
    table = psycopg.sql.Identifier("h", "own")
    conn = connected(LEGITIMATE[tool](table=table).as_string(), "ALTER TABLE h.own OWNER TO app")
    foreign_parts.refuse(conn, "h", "own")


@pytest.mark.every_version
def test_plain_defaults_and_what_its_trusted_owner_has_put_on_it_are_accepted(
    connected: Callable[..., Connection],
) -> None:
    """Times, constants, sequences; a trigger of a superuser, a check of our own."""
    theirs = (f"CREATE TABLE h.own ({COLUMNS})", "ALTER TABLE h.own OWNER TO app")
    conn = connected(*theirs, TRIGGER.format("h.t"), "ALTER TABLE h.t ADD CHECK (version <> '')")
    foreign_parts.refuse(conn, "h", "own")
    foreign_parts.refuse(conn, "h", "t")


def test_a_role_that_ours_may_become_is_trusted(connected: Callable[..., Connection]) -> None:
    """Not by a superuser, who may become everybody."""
    conn = connected(TRIGGER.format("h.t"), "ALTER FUNCTION public.sing_at_rows() OWNER TO team", THEIRS)
    conn.execute("ALTER TABLE h.t OWNER TO team")
    with pytest.raises(foreign_parts.Refused):
        foreign_parts.refuse(conn, "h", "t")
    conn.execute("SET SESSION AUTHORIZATION app")
    foreign_parts.refuse(conn, "h", "t")


def test_nothing_is_put_on_it_while_it_is_held(server: Server, database: Callable[..., str]) -> None:
    """From the look to the end of the transaction that writes its row."""
    name = database(ROLES, CANARY, TABLE, THEIRS, "GRANT ALL ON SCHEMA h TO app")
    with server.connect(name) as conn, conn.transaction(), server.connect(name) as other:
        foreign_parts.hold(conn, "h", "t")
        other.execute("SET ROLE app; SET lock_timeout = '50ms'")
        rule = "CREATE RULE r AS ON INSERT TO h.t DO ALSO SELECT 1"
        for statement in (TRIGGER.format("h.t"), "ALTER TABLE h.t ADD n int", rule):
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute(statement)


@pytest.mark.slow
def test_a_release_runs_nothing_of_a_history_table_made_before_it(project: Callable[..., Target]) -> None:
    """By an ordinary user who may create a schema."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a (id int PRIMARY KEY);"})
    table = "evil.schema_migrations"
    columns = "version text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now()"
    do(target, f"{CANARY}; {ROLES}; CREATE SCHEMA evil AUTHORIZATION app")
    do(target, f"SET ROLE app; CREATE TABLE {table} ({columns}); {TRIGGER.format(table)}")
    made, code = run("release")
    assert code == 3
    assert made.status.value == "refused"
    assert sung(target) == []
    assert rows(target, "SELECT pg_catalog.to_regclass('public.a')") == [(None,)]
