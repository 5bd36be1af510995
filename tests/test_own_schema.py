"""A schema pgrunbook is used only when it is ours, whatever somebody else has put into it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta

import psycopg
import pytest
from psycopg import sql

from acting import run
from budget import sample
from conftest import do, rows
from pgrunbook import undo_data
from pgrunbook.app.main import main
from pgrunbook.config.targets import Target
from pgrunbook.database import connection, inverse_log, own_schema, shadows, step_log
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load
from pgrunbook.errors import Broken, Refused, RunbookError
from pgrunbook.record.run import Status
from pgrunbook.undo_data import registry
from scenes import error_of
from servers import Server

Project = Callable[..., Target]
CREATE = (load("step_log")["create_schema"], load("step_log")["create"], load("undo_data")["create"])
ANCHORS = (load("anchors")["create"], "REVOKE ALL ON FUNCTION pgrunbook.refuse_ledger_change() FROM PUBLIC")
ON_LEDGER = "ON pgrunbook.ledger FOR EACH STATEMENT EXECUTE FUNCTION"
GUARD = "CREATE OR REPLACE FUNCTION pgrunbook.refuse_ledger_change() RETURNS trigger LANGUAGE"
REFUSES = "BEGIN RAISE EXCEPTION ''rows of pgrunbook.ledger are never changed or deleted''; END"

# What writes into public.canary with the rights of whoever calls it; the sequence counts it over an abort, too.
CANARY = """
CREATE TABLE public.canary (who name, is_super boolean);
CREATE SEQUENCE public.songs;
GRANT ALL ON public.canary, public.songs TO PUBLIC;
CREATE FUNCTION public.sing() RETURNS boolean LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_catalog.nextval(''public.songs'');
           INSERT INTO public.canary SELECT current_user, rolsuper FROM pg_catalog.pg_roles
           WHERE rolname = current_user; RETURN true; END';
CREATE FUNCTION public.sing_at_rows() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM public.sing(); RETURN NEW; END';
"""
TRIGGER = "CREATE TRIGGER t BEFORE INSERT ON pgrunbook.step FOR EACH ROW EXECUTE FUNCTION public.sing_at_rows()"
STEADY = "CREATE FUNCTION public.steady(text) RETURNS {0} IMMUTABLE LANGUAGE sql AS 'SELECT $1::{0}'; "
LET_IN = "GRANT USAGE ON SCHEMA pgrunbook TO app"
ENTRY = (
    "INSERT INTO pgrunbook.kept (run_id, migration, direction, step, kind, table_schema, table_name, key_columns,"
    " columns, kept_as) VALUES ('r', 'm', 'up', 1, '{}', 'public', 'old', '{{}}', '{{}}', '{}')"
)
SIDE = (
    f"{ENTRY.format('column', 'kept_0123456789abcdef')}; CREATE TABLE pgrunbook.kept_0123456789abcdef"
    " (pgrunbook_key_1 int PRIMARY KEY, pgrunbook_value text,"
    f" pgrunbook_batch xid8 DEFAULT pg_catalog.pg_current_xact_id()); {LET_IN}"
)
WRITER = (
    "CREATE FUNCTION pgrunbook.write_kept_0123456789abcdef() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
    " SET search_path = '' AS 'BEGIN RETURN NULL; END'"
)
HIDDEN = "REVOKE ALL ON FUNCTION pgrunbook.write_kept_0123456789abcdef() FROM PUBLIC"
# A table of somebody else, parked with everything that hangs on it, under a generated name.
PARKED_AS = "parked_0123456789abcdef"
PARKED_BESIDE = (
    f"{ENTRY.format('table', PARKED_AS)}; CREATE TABLE pgrunbook.{PARKED_AS} (id serial PRIMARY KEY,"
    f" n int GENERATED ALWAYS AS IDENTITY, t text DEFAULT public.sing());"
    f" CREATE TRIGGER t BEFORE INSERT ON pgrunbook.{PARKED_AS} FOR EACH ROW EXECUTE FUNCTION public.sing_at_rows();"
    f" CREATE RULE r AS ON UPDATE TO pgrunbook.{PARKED_AS} DO INSTEAD NOTHING;"
    f" CREATE POLICY p ON pgrunbook.{PARKED_AS}; ALTER TABLE pgrunbook.{PARKED_AS} ENABLE ROW LEVEL SECURITY;"
    f" CREATE STATISTICS pgrunbook.s ON id, n FROM pgrunbook.{PARKED_AS};"
    f" GRANT ALL ON pgrunbook.{PARKED_AS} TO PUBLIC; ALTER TABLE pgrunbook.{PARKED_AS} OWNER TO app"
)
NO_BATCH = "DROP TABLE pgrunbook.batch; "
ALTER_STEP = "ALTER TABLE pgrunbook.step "
ALTER_BATCH = "ALTER TABLE pgrunbook.batch "

# What may be on a table of ours, or in our schema: the statement, and the name by which it is refused.
PLANTED = {
    f"CREATE TRIGGER t BEFORE INSERT {ON_LEDGER} public.sing_at_rows()": "trigger t on table pgrunbook.ledger",
    f"CREATE OR REPLACE TRIGGER append_only BEFORE INSERT {ON_LEDGER} public.sing_at_rows()": "trigger append_only on",
    f"CREATE TRIGGER t BEFORE INSERT {ON_LEDGER} pgrunbook.refuse_ledger_change()": "trigger t on table",
    f"{GUARD} plpgsql AS 'BEGIN PERFORM public.sing(); RETURN NULL; END'": "function pgrunbook.refuse_ledger_change()",
    f"{GUARD} plpgsql SECURITY DEFINER AS '{REFUSES}'": "function pgrunbook.refuse_ledger_change()",
    f"{GUARD} plpgsql SET search_path = public AS '{REFUSES}'": "function pgrunbook.refuse_ledger_change()",
    "ALTER FUNCTION pgrunbook.refuse_ledger_change() OWNER TO app": "refuse_ledger_change() belongs to",
    "ALTER TABLE pgrunbook.ledger ALTER COLUMN kind SET DEFAULT public.sing()::text": "default of column kind",
    f"{LET_IN}; GRANT INSERT ON pgrunbook.ledger TO app": "INSERT on table pgrunbook.ledger granted to app",
    TRIGGER: "trigger t on table pgrunbook.step",
    f"{TRIGGER}; {ALTER_STEP} DISABLE TRIGGER t": "trigger t on table pgrunbook.step",
    TRIGGER.replace("CREATE TRIGGER t BEFORE", "CREATE CONSTRAINT TRIGGER t AFTER"): "trigger t on table",
    "CREATE RULE r AS ON INSERT TO pgrunbook.way_back DO ALSO SELECT public.sing()": "rule r on table",
    "CREATE POLICY p ON pgrunbook.kept USING (public.sing())": "policy p on table pgrunbook.kept",
    f"{ALTER_STEP} ENABLE ROW LEVEL SECURITY": "row level security of table pgrunbook.step",
    f"{ALTER_STEP} FORCE ROW LEVEL SECURITY": "row level security of table pgrunbook.step",
    f"{ALTER_STEP} ALTER COLUMN kind SET DEFAULT public.sing()::text": "default of column kind",
    f"{ALTER_STEP} ALTER COLUMN backend_pid SET DEFAULT public.sing()::int": "default of column backend_pid",
    f"{ALTER_STEP} ALTER COLUMN kind SET DEFAULT"
    " pg_catalog.query_to_xml('SELECT public.sing()', true, true, '')::text": "default of column kind",
    f"{STEADY.format('text')} {ALTER_BATCH} ADD COLUMN g text GENERATED ALWAYS AS (public.steady(name))"
    " STORED": "default of column g of table pgrunbook.batch",
    f"{ALTER_STEP} ADD CONSTRAINT c CHECK (public.sing()) NOT VALID": "constraint c on table pgrunbook.step",
    f"CREATE TABLE public.mine (id text PRIMARY KEY); {ALTER_BATCH} ADD CONSTRAINT k FOREIGN KEY (name)"
    " REFERENCES public.mine": "constraint k on table pgrunbook.batch",
    "CREATE TABLE public.mine (id text CONSTRAINT k REFERENCES pgrunbook.batch ON DELETE"
    " CASCADE)": "constraint k on table public.mine",
    f"{ALTER_BATCH} ADD CONSTRAINT x EXCLUDE USING btree (pass WITH =)": "constraint x on table pgrunbook.batch",
    "CREATE DOMAIN public.d AS text CHECK (public.sing());"
    f" {ALTER_STEP} ALTER COLUMN kind TYPE public.d": "type public.d of column kind",
    f"CREATE TYPE public.e AS ENUM ('a'); {ALTER_BATCH} ADD COLUMN e public.e": "type public.e of column e",
    f"{STEADY.format('text')} CREATE INDEX i ON pgrunbook.step (public.steady(kind))": "index pgrunbook.i",
    f"{STEADY.format('boolean')} CREATE INDEX i ON pgrunbook.step (kind)"
    " WHERE public.steady(kind)": "index pgrunbook.i",
    "CREATE TABLE public.child () INHERITS (pgrunbook.step)": "inheritance of table public.child",
    f"CREATE TABLE public.parent (name text); {ALTER_BATCH} INHERIT public.parent": "inheritance of table",
    f"CREATE TYPE public.r AS (name text); {NO_BATCH} CREATE TABLE pgrunbook.batch OF public.r": "type public.r of",
    f"{NO_BATCH} CREATE VIEW pgrunbook.batch AS SELECT public.sing()": "view pgrunbook.batch",
    f"{NO_BATCH} CREATE TABLE pgrunbook.batch (name text) PARTITION BY LIST (name)": "table pgrunbook.batch",
    "CREATE TABLE pgrunbook.mine ()": "table pgrunbook.mine",
    "CREATE TABLE pgrunbook.kept_0123456789abcdef ()": "kept_0123456789abcdef has no entry in pgrunbook.kept",
    f"{WRITER}; {HIDDEN}": "write_kept_0123456789abcdef has no entry",
    "CREATE VIEW pgrunbook.v AS SELECT 1 AS one": "view pgrunbook.v",
    "CREATE MATERIALIZED VIEW pgrunbook.v AS SELECT 1 AS one": "materialized view pgrunbook.v",
    "CREATE SEQUENCE pgrunbook.s": "sequence pgrunbook.s",
    "CREATE FUNCTION pgrunbook.f() RETURNS int LANGUAGE sql AS 'SELECT 1'": "function pgrunbook.f()",
    "CREATE PROCEDURE pgrunbook.f() LANGUAGE sql AS 'SELECT 1'": "pgrunbook.f()",
    "CREATE AGGREGATE pgrunbook.a(int) (SFUNC = pg_catalog.int4pl, STYPE = int)": "pgrunbook.a(integer)",
    "CREATE OPERATOR pgrunbook.=== (FUNCTION = pg_catalog.int4eq, LEFTARG = int, RIGHTARG = int)": "operator",
    "CREATE OPERATOR CLASS pgrunbook.c FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 3 =,"
    " FUNCTION 1 pg_catalog.btint4cmp(int, int)": "operator class pgrunbook.c",
    "CREATE TYPE pgrunbook.r AS (a int)": "pgrunbook.r",
    "CREATE DOMAIN pgrunbook.d AS int": "type pgrunbook.d",
    "CREATE TYPE pgrunbook.r AS RANGE (SUBTYPE = int)": "function pgrunbook.r(integer,integer)",
    "CREATE COLLATION pgrunbook.c (LOCALE = 'C')": "collation pgrunbook.c",
    "CREATE TEXT SEARCH CONFIGURATION pgrunbook.c (COPY = pg_catalog.simple)": "text search configuration",
    "CREATE CONVERSION pgrunbook.c FOR 'LATIN1' TO 'UTF8' FROM pg_catalog.iso8859_1_to_utf8": "conversion",
    "CREATE STATISTICS pgrunbook.x ON kind, state FROM pgrunbook.step": "statistics object pgrunbook.x",
    f"{STEADY.format('text')} CREATE STATISTICS public.x ON (public.steady(kind)), state"
    " FROM pgrunbook.step": "statistics object public.x",
    f"{ALTER_STEP} ADD COLUMN g text": "column g, a text, of table pgrunbook.step",
    f"{ALTER_STEP} ALTER COLUMN kind TYPE varchar": "column kind, a character varying, of table pgrunbook.step",
    f"{ALTER_STEP} ALTER COLUMN kind TYPE varchar(9)": "column kind, a character varying(9), of table",
    f"{ALTER_STEP} RENAME COLUMN kind TO sort": "column sort, a text, of table pgrunbook.step",
    f"CREATE COLLATION public.c (LOCALE = 'C'); {ALTER_STEP} ALTER COLUMN kind TYPE text"
    " COLLATE public.c": "collation public.c of column kind of table pgrunbook.step",
    f"{ALTER_STEP} SET UNLOGGED": "table pgrunbook.step, which is unlogged",
    f"{NO_BATCH} CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;"
    " CREATE FOREIGN TABLE pgrunbook.batch (name text) SERVER s": "foreign table pgrunbook.batch",
    "CREATE EXTENSION fuzzystrmatch SCHEMA pgrunbook": "function pgrunbook.",
    **{
        f"{LET_IN}; GRANT {right} ON pgrunbook.way_back TO app": f"{right} on table pgrunbook.way_back granted to app"
        for right in ("INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
    },
    **{
        f"{LET_IN}; GRANT {right} (sql) ON pgrunbook.way_back TO app": f"{right} on column sql of table"
        for right in ("INSERT", "UPDATE", "REFERENCES")
    },
    f"{LET_IN}; GRANT INSERT ON pgrunbook.step TO PUBLIC": "INSERT on table pgrunbook.step granted to PUBLIC",
    f"{LET_IN}; GRANT INSERT ON pgrunbook.step TO team": "INSERT on table pgrunbook.step granted to team",
    f"{LET_IN}; GRANT UPDATE ON SEQUENCE pgrunbook.kept_id_seq TO app": "UPDATE on sequence pgrunbook.kept_id_seq",
    "GRANT CREATE ON SCHEMA pgrunbook TO app": "CREATE on schema pgrunbook granted to app",
    f"{LET_IN}; ALTER DEFAULT PRIVILEGES IN SCHEMA pgrunbook GRANT INSERT ON TABLES TO app": "INSERT on default",
    f"{SIDE}; {WRITER}": "EXECUTE on function pgrunbook.write_kept_0123456789abcdef() granted to PUBLIC",
    f"{SIDE}; CREATE TRIGGER t BEFORE INSERT ON pgrunbook.kept_0123456789abcdef FOR EACH ROW"
    " EXECUTE FUNCTION public.sing_at_rows()": "trigger t on table pgrunbook.kept_0123456789abcdef",
    f"{SIDE}; ALTER TABLE pgrunbook.kept_0123456789abcdef ADD g text DEFAULT public.sing()": "default of column g",
    f"CREATE TABLE pgrunbook.{PARKED_AS} ()": f"{PARKED_AS} has no entry in pgrunbook.kept",
    f"{PARKED_BESIDE}; CREATE TABLE pgrunbook.{PARKED_AS}_1 ()": f"{PARKED_AS}_1 has no entry in pgrunbook.kept",
    f"{PARKED_BESIDE}; UPDATE pgrunbook.kept SET state = 'purged'": f"{PARKED_AS} has no entry in pgrunbook.kept",
    f"{ENTRY.format('column', PARKED_AS)}; CREATE TABLE pgrunbook.{PARKED_AS} ()": f"{PARKED_AS} has no entry",
    f"{ENTRY.format('table', 'kept_0123456789abcdef')}; CREATE TABLE pgrunbook.kept_0123456789abcdef"
    " ()": "kept_0123456789abcdef has no entry",
    f"{PARKED_BESIDE}; CREATE TABLE pgrunbook.old ()": "table pgrunbook.old",
    f"{PARKED_BESIDE}; CREATE TABLE pgrunbook.{PARKED_AS}_part1 ()": f"table pgrunbook.{PARKED_AS}_part1",
    f"{PARKED_BESIDE}; CREATE SEQUENCE pgrunbook.{PARKED_AS}_part1": f"sequence pgrunbook.{PARKED_AS}_part1",
    f"{PARKED_BESIDE}; CREATE VIEW pgrunbook.{PARKED_AS}_1 AS SELECT 1 AS one": f"view pgrunbook.{PARKED_AS}_1",
    f"{ENTRY.format('table', PARKED_AS)}; CREATE VIEW pgrunbook.{PARKED_AS} AS SELECT 1 AS one": "view pgrunbook.",
    f"{PARKED_BESIDE}; CREATE FUNCTION pgrunbook.write_{PARKED_AS}() RETURNS trigger LANGUAGE plpgsql AS"
    " 'BEGIN RETURN NULL; END'": f"function pgrunbook.write_{PARKED_AS}()",
    f"{PARKED_BESIDE}; CREATE DOMAIN pgrunbook.{PARKED_AS}_2 AS int": f"type pgrunbook.{PARKED_AS}_2",
}

# What the operators of a database do with it, and what comes with a table that was parked.
LEGITIMATE = {
    "nothing": "SELECT 1",
    "readers": "GRANT USAGE ON SCHEMA pgrunbook TO PUBLIC; GRANT SELECT ON ALL TABLES IN SCHEMA pgrunbook TO PUBLIC",
    "default privileges before they were taken back": "GRANT ALL ON ALL TABLES IN SCHEMA pgrunbook TO app",
    "publication": "CREATE PUBLICATION p FOR ALL TABLES",
    "index": "CREATE INDEX ON pgrunbook.step (ended_at)",
    "comment": "COMMENT ON TABLE pgrunbook.step IS 'ours'",
    "storage": f"{ALTER_STEP} SET (autovacuum_enabled = off); {ALTER_STEP} REPLICA IDENTITY FULL",
    "statistics": f"{ALTER_STEP} ALTER COLUMN kind SET STATISTICS 9; CREATE STATISTICS public.x ON kind, state"
    " FROM pgrunbook.step",
    "a view of an operator": "CREATE VIEW public.steps AS SELECT * FROM pgrunbook.step",
    "older tables": "DROP TABLE pgrunbook.kept, pgrunbook.way_back",
    "side table": f"{SIDE}; {WRITER}; {HIDDEN}",
    "parked table": PARKED_BESIDE,
}


def prepared(server: Server) -> str:
    """Return a database with the canary, our schema, and two ordinary roles of which one is in the other."""
    roles = (
        "DO $$BEGIN CREATE ROLE app; CREATE ROLE team; GRANT team TO app; EXCEPTION WHEN duplicate_object THEN END$$"
    )
    return server.database("own_schema", roles, CANARY, *CREATE, *ANCHORS)


@pytest.fixture
def looked_at(server: Server) -> Iterator[Callable[..., Connection]]:
    """Give a function that executes statements beside our schema as superuser; all of it is rolled back."""
    with server.connect(prepared(server)) as conn:
        conn.pin()
        with conn.transaction(force_rollback=True):

            def make(*statements: str) -> Connection:
                conn.execute("; ".join(statements).encode())
                return conn

            yield make


@pytest.fixture
def target(project: Project) -> Target:
    """A database with one migration to execute, and the canary."""
    found = project(folder={"0001_a.sql": "CREATE TABLE a (id int PRIMARY KEY);"})
    do(found, CANARY)
    return found


@pytest.fixture
def mallory(target: Target) -> Iterator[str]:
    """An ordinary role that may create schemas in the database."""
    name = f"mallory_{os.getpid()}"
    do(target, f"CREATE ROLE {name}; GRANT CREATE ON DATABASE {target.database} TO {name}")
    do(target, f"GRANT USAGE, CREATE ON SCHEMA public TO {name}")
    yield name
    do(target, f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


@pytest.fixture
def operator(target: Target) -> Iterator[str]:
    """An ordinary role that releases."""
    name = f"operator_{os.getpid()}"
    do(target, f"CREATE ROLE {name}")
    yield name
    do(target, f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


def as_role(target: Target, role: str, *statements: str) -> None:
    """Execute statements as a role."""
    do(target, "; ".join([f"SET ROLE {role}", *statements]))


def make(target: Target) -> None:
    """Create our schema with all of its tables."""
    with connection.connect(target) as conn:
        registry.create(conn)


# What reads from our schema or writes to it first, in any procedure.
ENTRANCES: dict[str, Callable[[Connection], object]] = {
    "create": step_log.create,
    "create the registry": registry.create,
    "exists": step_log.exists,
    "of plan": lambda conn: step_log.of_plan(conn, {"0001_a": "f"}, "up"),
    "unfinished": lambda conn: step_log.unfinished(conn, "up"),
    "applied by a run": lambda conn: step_log.applied_by_run(conn, "run"),
    "last step": step_log.last_history_step,
    "step": lambda conn: step_log.history_step(conn, "0001_a"),
    "restore points": step_log.restore_points,
    "inverses": lambda conn: inverse_log.read(conn, "0001_a"),
    "shadows": shadows.read,
    "entries": undo_data.list_entries,
    "purge": lambda conn: registry.purge(conn, older_than=timedelta(0)),
    "find": lambda conn: registry.find_named(conn, ["kept_0123456789abcdef"]),
}


def sung(target: Target) -> list[tuple[object, ...]]:
    """Return who has called the canary; an aborted call leaves only its number."""
    return rows(
        target, "SELECT c.who, c.is_super FROM public.songs AS s LEFT JOIN public.canary AS c ON true WHERE s.is_called"
    )


def test_the_canary_sings_where_nobody_looks(target: Target) -> None:
    """The trap works: whoever writes a step executes the trigger."""
    make(target)
    do(target, TRIGGER)
    with connection.connect(target) as conn:
        key = {"run_id": "r", "migration": "m", "direction": "up", "file_sha256": "f", "plan_digest": "d"}
        step_log.write(conn, key, "done", [{"step": 1, "kind": "k", "sha256": "s"}])
    assert sung(target) == [("postgres", True)]


@pytest.mark.parametrize("statement", sample(PLANTED, 3))
def test_what_is_planted_is_refused_by_its_name(looked_at: Callable[..., Connection], statement: str) -> None:
    """On a table of ours or beside it, whatever its kind and whoever owns it; and what others may do there."""
    conn = looked_at(statement)
    before = conn.execute("SELECT count(*) FROM public.canary").fetchone()
    error = error_of(lambda: step_log.create(conn))
    assert isinstance(error, Refused)
    assert error.exit_code == 3
    assert PLANTED[statement] in error.detail
    assert conn.execute("SELECT count(*) FROM public.canary").fetchone() == before


@pytest.mark.every_version
@pytest.mark.parametrize("name", LEGITIMATE)
def test_what_is_legitimate_is_not_refused(looked_at: Callable[..., Connection], name: str) -> None:
    """What operators add, what an older version has made, and what a parked table brought along."""
    conn = looked_at(LEGITIMATE[name])
    registry.create(conn)
    assert step_log.exists(conn)
    assert conn.is_schema_ours


@pytest.mark.every_version
def test_a_dump_that_was_restored_is_ours(server: Server, database: Callable[..., str]) -> None:
    """With other owners, from the text that pg_dump writes."""
    source = database(
        *(LEGITIMATE[name] for name in ("side table", "parked table")),
        template=prepared(server),
    )
    copy, where = database(), ("-h", server.socket_dir, "-U", "postgres")
    dump = subprocess.run([server.client("pg_dump"), *where, "--no-owner", source], capture_output=True, check=True)
    subprocess.run(
        [server.client("psql"), *where, "-X", "-q", "-v", "ON_ERROR_STOP=1", copy],
        input=dump.stdout.replace(b"SET transaction_timeout = 0;\n", b"", 1), stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    with server.connect(copy) as conn:
        conn.pin()
        assert registry.exist(conn)


def test_a_right_counts_where_its_role_may_look_into_the_schema(looked_at: Callable[..., Connection]) -> None:
    """By a right on the schema, or on every schema."""
    conn = looked_at("GRANT INSERT ON pgrunbook.step TO app")
    own_schema.refuse_foreign(conn)
    conn.is_schema_ours = False
    conn.execute("GRANT pg_read_all_data TO app")
    error = error_of(lambda: own_schema.refuse_foreign(conn))
    assert isinstance(error, Refused)
    assert error.detail == "INSERT on table pgrunbook.step granted to app."


def test_a_membership_without_set_role_makes_nothing_ours(looked_at: Callable[..., Connection]) -> None:
    """From PostgreSQL 16 on, WITH SET FALSE."""
    conn = looked_at("ALTER SCHEMA pgrunbook OWNER TO team")
    if conn.info.server_version < 160000:
        pytest.skip("every membership lets SET ROLE")
    conn.execute("GRANT team TO postgres WITH SET FALSE, INHERIT TRUE")
    assert isinstance(error_of(lambda: step_log.exists(conn)), Refused)
    conn.execute("GRANT team TO postgres WITH SET TRUE")
    assert step_log.exists(conn)


@pytest.mark.parametrize("entrance", sample(ENTRANCES, 3))
def test_every_entrance_refuses_a_schema_of_somebody_else(target: Target, mallory: str, entrance: str) -> None:
    """Exactly our tables, in a schema of an ordinary user who may create one, with a trigger that waits for us."""
    as_role(target, mallory, *CREATE, TRIGGER)
    with connection.connect(target) as conn:
        error = error_of(lambda: ENTRANCES[entrance](conn))
    assert str(error) == (
        f"cannot use schema pgrunbook of database {target.database}: not all of it is ours\n"
        f"Detail: schema pgrunbook belongs to {mallory}; sequence pgrunbook.kept_id_seq belongs to {mallory};"
        f" table pgrunbook.batch belongs to {mallory}; table pgrunbook.kept belongs to {mallory};"
        f" table pgrunbook.published belongs to {mallory}; and 5 more.\n"
        "State: Nothing in this schema was read or executed.\n"
        "Hint: Ask who has made it, then drop or REVOKE it. If you trust the role that owns it or has the right, run as"
        " that role, or let a superuser GRANT that role to yours."
    )
    assert sung(target) == []


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize(
    "statements",
    [
        ("CREATE SCHEMA pgrunbook",),
        CREATE,
        ("CREATE SCHEMA pgrunbook", "CREATE VIEW pgrunbook.step AS SELECT public.sing() AS run_id"),
    ],
    ids=["empty schema", "our tables", "view"],
)
def test_a_release_refuses_a_schema_of_somebody_else(target: Target, mallory: str, statements: tuple[str, ...]) -> None:
    """The superuser's release executes nothing of it, and no migration."""
    as_role(target, mallory, *statements)
    made, code = run("release")
    assert (code, made.status is Status.DONE) == (3, False)
    assert sung(target) == []
    assert rows(target, "SELECT pg_catalog.to_regclass('public.a')") == [(None,)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prepare", "migrate", "validate", "rollback", "restore", "purge"])
def test_every_procedure_calls_nothing_of_somebody_else(target: Target, mallory: str, name: str) -> None:
    """By a superuser, whatever it reads first: on each table of ours, triggers and rules of an ordinary user."""
    planted = [
        f"CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON pgrunbook.{table} FOR EACH ROW EXECUTE FUNCTION"
        f" public.sing_at_rows(); CREATE POLICY p ON pgrunbook.{table} USING (public.sing());"
        f" ALTER TABLE pgrunbook.{table} FORCE ROW LEVEL SECURITY, ENABLE ROW LEVEL SECURITY"
        for table in (*step_log.TABLES, "kept")
    ]
    as_role(target, mallory, *CREATE, *planted)
    made, code = run(name)
    assert (code == 0, made.status is Status.DONE) == (False, False)
    assert sung(target) == []


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("status", 0),
        ("review {file} --target demo", 0),
        ("undo-data list --target demo", 3),
        ("undo-data purge --id 1 --target demo", 3),
    ],
)
def test_a_command_calls_nothing_of_somebody_else(
    target: Target,
    mallory: str,
    words: str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Where it reads our schema it refuses it by name."""
    as_role(target, mallory, *CREATE, TRIGGER)
    monkeypatch.setattr("sys.argv", ["pgrunbook", *words.format(file=f"{target.migrations}/0001_a.sql").split()])
    with pytest.raises(SystemExit) as ended:
        main()
    told = "".join(capfd.readouterr())
    assert (ended.value.code or 0) == code, told
    assert (f"schema pgrunbook belongs to {mallory}" in told) == (code == 3)
    assert sung(target) == []


def test_a_table_of_somebody_else_in_our_schema_is_refused(target: Target, mallory: str) -> None:
    """With a name of ours, by a role that has been let in."""
    with connection.connect(target) as conn:
        step_log.create(conn)
    do(target, f"GRANT USAGE, CREATE ON SCHEMA pgrunbook TO {mallory}")
    as_role(target, mallory, CREATE[2])
    with connection.connect(target) as conn:
        error = error_of(lambda: registry.exist(conn))
    assert isinstance(error, Refused)
    assert f"table pgrunbook.kept belongs to {mallory}" in error.detail


def test_a_schema_that_appears_while_ours_is_created_is_refused(
    target: Target, mallory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the creation; what was created in it is taken back."""

    def too_early(_: Connection) -> bool:
        as_role(target, mallory, "CREATE SCHEMA IF NOT EXISTS pgrunbook")
        return False

    monkeypatch.setattr(step_log, "_is_complete", too_early)
    with connection.connect(target) as conn, pytest.raises(Refused, match="not all of it is ours"):
        step_log.create(conn)
    assert rows(target, "SELECT pg_catalog.to_regclass('pgrunbook.step')") == [(None,)]


def look_as(target: Target, login: str, *before: str) -> RunbookError | None:
    """Look at the schema as a session of another role; return what it refuses."""
    with connection.connect(target) as conn:
        conn.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(login)))
        for statement in before:
            conn.execute(statement.encode())
        try:
            own_schema.refuse_foreign(conn)
        except RunbookError as exc:
            return exc
    return None


def test_a_schema_is_ours_when_our_role_or_a_group_of_ours_owns_it(target: Target, mallory: str, operator: str) -> None:
    """Ours directly, through a role, after SET ROLE; not somebody else's; a superuser's always."""
    as_role(target, mallory, *CREATE)
    assert look_as(target, mallory) is None
    assert isinstance(look_as(target, operator), Refused)
    do(target, f"GRANT {mallory} TO {operator}")
    assert look_as(target, operator) is None
    assert look_as(target, operator, f"SET ROLE {mallory}") is None
    do(target, f"REVOKE {mallory} FROM {operator}; DROP SCHEMA pgrunbook CASCADE")
    make(target)
    assert look_as(target, operator) is None


def test_a_superuser_is_no_member_of_every_role(target: Target, mallory: str) -> None:
    """It may SET ROLE to everybody; only a membership that a superuser has granted counts."""
    as_role(target, mallory, *CREATE)
    assert isinstance(look_as(target, "postgres"), Refused)
    do(target, f"GRANT {mallory} TO postgres")
    assert look_as(target, "postgres") is None
    do(target, f"REVOKE {mallory} FROM postgres")


def test_a_role_that_grants_itself_to_us_gains_nothing(target: Target, mallory: str, operator: str) -> None:
    """Before PostgreSQL 15 a role may do so."""
    as_role(target, mallory, *CREATE)
    for victim in ("postgres", operator):
        with connection.connect(target) as conn:
            conn.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(mallory)))
            try:
                conn.execute(sql.SQL("GRANT {} TO {}").format(*map(sql.Identifier, (mallory, victim))))
            except psycopg.errors.InsufficientPrivilege:
                assert conn.info.server_version >= 150000
        assert isinstance(look_as(target, victim), Refused)


def test_default_privileges_open_our_schema_to_nobody(target: Target, mallory: str) -> None:
    """What every new schema gives to others is taken back before anything is written to ours."""
    do(target, f"ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO {mallory}")
    do(target, f"ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {mallory}, PUBLIC")
    do(target, f"ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO {mallory}")
    make(target)
    ours = "SELECT a.grantee FROM pg_catalog.{}, pg_catalog.aclexplode({}) AS a WHERE {} AND a.grantee NOT IN (10)"
    assert rows(target, ours.format("pg_namespace", "nspacl", "nspname = 'pgrunbook'")) == []
    assert rows(target, ours.format("pg_class", "relacl", "relnamespace = 'pgrunbook'::regnamespace")) == []


def create_in_an_aborted_transaction(conn: Connection) -> None:
    """Of whose abort only COMMIT tells."""
    with connection.transaction(conn, lock_timeout_ms=1_000, statement_timeout_ms=1_000):
        step_log.create(conn)
        conn.pgconn.exec_(b"SELECT 1 / 0")


def test_a_connection_looks_once(target: Target) -> None:
    """Where the schema is ours; where it does not exist yet, or a transaction may take it back, it looks again."""
    with connection.connect(target) as conn:
        assert not step_log.exists(conn)
        assert not conn.is_schema_ours
        with conn.transaction(force_rollback=True):
            step_log.create(conn)
            assert conn.is_schema_ours
        assert not conn.is_schema_ours
        with suppress(psycopg.errors.DivisionByZero), conn.transaction():
            step_log.create(conn)
            conn.execute("SELECT 1 / 0")
        assert not conn.is_schema_ours
        with conn.transaction():
            with conn.transaction(force_rollback=True):
                step_log.create(conn)
            assert not conn.is_schema_ours
            step_log.create(conn)
            raise psycopg.Rollback
        assert not conn.is_schema_ours
        assert isinstance(error_of(lambda: create_in_an_aborted_transaction(conn)), Broken)
        assert not conn.is_schema_ours
        with conn.transaction(), conn.transaction():
            step_log.create(conn)
        assert conn.is_schema_ours
