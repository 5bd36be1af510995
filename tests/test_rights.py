"""docs/rights.md: a role of exactly its statements can do everything, without CREATE on the database."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from conftest import ROOT, write_folder
from pgrunbook.branches import data_branch
from pgrunbook.branches.schema_branch import copy_schema
from pgrunbook.config.targets import Target, load
from pgrunbook.database import activity, readiness, step_log
from pgrunbook.database.connection import Connection, connect
from pgrunbook.database.readiness import Level
from pgrunbook.errors import Refused, RunbookError, Unreachable
from pgrunbook.plan import plan as plans
from pgrunbook.procedures import contract, migrate, prepare, purge, rollback, validate
from pgrunbook.session import session as heres
from pgrunbook.session.session import Session
from pgrunbook.undo_data import registry
from scenes import error_of
from servers import Server, Servers

PAGE = (ROOT / "docs" / "rights.md").read_text()
ROLE = 'The "app" 🐘'
QUOTED = '"The ""app"" 🐘"'
# What each procedure's notebook does, cell by cell.
CELLS: dict[str, tuple[Callable[[Session], object], ...]] = {
    "prepare": (
        prepare.meet_the_target, prepare.generate, prepare.is_it_safe_to_start, prepare.what_is_pending,
        prepare.what_will_it_do, prepare.make_it_safe, prepare.rehearse, prepare.prove_the_way_back,
        prepare.measure_before, prepare.freeze_the_plan, prepare.verdict,
    ),
    "migrate": (
        migrate.meet_the_target, migrate.is_it_still_so, migrate.take_restore_point, migrate.execute_plan,
        migrate.what_it_took, migrate.where_are_we, migrate.verdict,
    ),
    "validate": (
        validate.meet_the_target, validate.schema_as_promised, validate.nothing_left_behind,
        validate.data_as_promised, validate.assertions_hold, validate.as_estimated, validate.statistics_at_hand,
        validate.queries_as_fast, validate.sizes_as_measured, validate.checklist, validate.verdict,
    ),
    "rollback": (
        rollback.meet_the_target, rollback.what_goes_back, rollback.what_about_new_rows, rollback.try_it,
        rollback.take_restore_point, rollback.take_back, rollback.schema_as_before, rollback.kept_data,
        rollback.verdict,
    ),
    "contract": (
        contract.meet_the_target, contract.what_is_still_double, contract.who_uses_it, contract.do_they_agree,
        contract.drop_it, contract.verdict,
    ),
    "purge": (purge.meet_the_target, purge.what_is_captured, purge.what_goes, purge.purge_it, purge.verdict),
}  # fmt: skip
BEGIN = {
    "prepare": prepare, "migrate": migrate, "validate": validate, "rollback": rollback, "contract": contract,
    "purge": purge,
}  # fmt: skip
# Tables of the role, and one of somebody else that references are not made to.
TABLES = """
CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, status text, note text);
INSERT INTO orders (status, note) SELECT 'new', 'n' || i FROM generate_series(1, 20) AS i;
CREATE TABLE old (id serial PRIMARY KEY, name text UNIQUE);
INSERT INTO old (name) SELECT 'o' || i FROM generate_series(1, 5) AS i;
CREATE TABLE kept (id integer CONSTRAINT step_pkey PRIMARY KEY);
CREATE TABLE people (id integer PRIMARY KEY, named text UNIQUE);
INSERT INTO people SELECT i, 'p' || i FROM generate_series(1, 20) AS i;
"""
OTHERS = "CREATE TABLE others (id integer); INSERT INTO others VALUES (1)"
FOLDER = {
    "0001_a.sql": "CREATE TABLE items (id bigint GENERATED ALWAYS AS IDENTITY, order_id bigint REFERENCES orders);\n"
    "CREATE INDEX orders_status ON orders (status);\nUPDATE orders SET status = 'open';\n"
    "ALTER TABLE orders DROP COLUMN note;\nDROP TABLE old;\nDROP TABLE kept;\n"
    "ALTER TABLE people RENAME COLUMN named TO name;\n",
}
GATES = {"accept": "0001_a:4,0001_a:5,0001_a:6"}


def block(heading: str, number: int = 0) -> str:
    """Return the statements below a heading of the page, for the test's role and database."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    found = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)[number]
    assert isinstance(found, str)
    return re.sub(r"\bapp\b", lambda _: QUOTED, found).replace("DATABASE shop", "DATABASE rights")


@pytest.fixture(scope="module")
def archiving(version: int, servers: Servers) -> Server:
    """A server that archives its WAL, into nothing."""
    return servers.get(version, archive_mode="on", archive_command="true")


@pytest.fixture
def target(archiving: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    """A database whose role may do nothing yet but own its tables, and which nobody else may create in."""
    server = archiving
    server.make("rights")
    with server.connect("rights") as conn:
        conn.execute("REVOKE ALL ON DATABASE rights FROM PUBLIC; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        conn.execute(f"CREATE ROLE {QUOTED} LOGIN")
        conn.execute(f"GRANT USAGE, CREATE ON SCHEMA public TO {QUOTED}; SET ROLE {QUOTED}")
        conn.execute(TABLES)
        conn.execute(f"RESET ROLE; REVOKE ALL ON SCHEMA public FROM {QUOTED}; REVOKE ALL ON SCHEMA public FROM PUBLIC")
        conn.execute(OTHERS)
    write_folder(tmp_path / "m", FOLDER)
    (tmp_path / "targets.toml").write_text(f'[shop]\nurl_from = "URL_shop"\nmigrations = "{tmp_path / "m"}"\n')
    monkeypatch.setenv("PGRUNBOOK_TARGETS", str(tmp_path / "targets.toml"))
    monkeypatch.setenv("PGRUNBOOK_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("URL_shop", f"postgresql:///rights?host={server.socket_dir}")
    monkeypatch.setenv("PGUSER", ROLE)
    yield Target.model_validate({"name": "shop", "url_from": "URL_shop", "migrations": tmp_path / "m"})
    heres._end_earlier()
    with server.connect("postgres") as conn:
        conn.execute("DROP DATABASE rights WITH (FORCE)")
        conn.execute(f"DROP OWNED BY {QUOTED}; DROP ROLE {QUOTED}")


@pytest.fixture
def admin(archiving: Server, target: Target) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """The administrator of the database."""
    assert target.name == "shop"
    with archiving.connect("rights") as conn:
        yield conn


def step_through(procedure: str, monkeypatch: pytest.MonkeyPatch, **given: object) -> Session:
    """Run the cells of a notebook in this process; the next one goes on in the folder of its run."""
    here = BEGIN[procedure].begin(target="shop", **given)
    monkeypatch.chdir(here.run.folder)
    for cell in CELLS[procedure]:
        cell(here)
    return here


def asked(conn: psycopg.Connection[tuple[object, ...]], query: str) -> list[tuple[object, ...]]:
    return conn.execute(query.encode()).fetchall()


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.every_version
def test_a_role_of_the_pages_statements_can_do_everything(
    admin: psycopg.Connection[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """prepare with rows, migrate, validate, contract, rollback and purge; what is made is its own."""
    grant(admin, "Always", "A branch", "Seeing who blocks", "Restore points")
    tables = "SELECT to_regclass('old')::text, to_regclass('items')::text, sum((status = 'open')::int) FROM orders"
    prepared = step_through("prepare", monkeypatch, **GATES)
    assert plans.read(prepared.run.folder / "plan.json").changes[0].proof.proven
    step_through("migrate", monkeypatch)
    assert asked(admin, tables) == [(None, "items", 20)]
    step_through("validate", monkeypatch)
    both = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'people' AND column_name ~ '^name'"
    assert asked(admin, both) == [(2,)]
    monkeypatch.chdir("/")
    step_through("contract", monkeypatch, accept="all")
    assert asked(admin, both) == [(1,)]
    monkeypatch.chdir("/")
    step_through("rollback", monkeypatch)
    assert asked(admin, tables) == [("old", None, 0)]
    assert asked(admin, "SELECT sum(id), max(name), nextval('old_id_seq') FROM old GROUP BY ()") == [(15, "o5", 6)]
    assert asked(admin, "SELECT count(*) FROM orders WHERE note = 'n' || id AND status = 'new'") == [(20,)]
    monkeypatch.chdir("/")
    step_through("purge", monkeypatch, everything=True, force=True)
    left = "SELECT string_agg(relname, ' ') FROM pg_class WHERE relname ~ '^(parked_|kept_[0-9a-f]{16})'"
    assert asked(admin, left) == [(None,)]
    owners = "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relnamespace = 'pgrunbook'::regnamespace"
    assert asked(admin, owners) == [(QUOTED,)]
    assert asked(admin, f"SELECT has_database_privilege('{ROLE}', 'rights', 'CREATE')") == [(False,)]
    assert asked(admin, "SELECT count(*) FROM pgrunbook.restore_point") == [(2,)]


@pytest.mark.first_case
def test_each_missing_right_is_named_with_the_statement(
    admin: psycopg.Connection[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is done, or on the branch; a branch of tables with row level security takes more."""

    def refused() -> RunbookError:
        monkeypatch.chdir("/")
        return error_of(lambda: step_through("prepare", monkeypatch, with_data=False))

    admin.execute(block("Always").split(";")[0].encode())
    admin.execute(f"ALTER ROLE {QUOTED} CONNECTION LIMIT 1".encode())
    told = refused()
    assert told.message == "it is not safe to start: rights, connections"
    assert f"Let an administrator run ALTER ROLE {QUOTED} CONNECTION LIMIT 4, or more." in told.hint
    admin.execute(f"ALTER ROLE {QUOTED} CONNECTION LIMIT 4".encode())
    admin.execute(block("Always", 1).encode())
    told = refused()
    assert isinstance(told, Refused)
    assert told.hint.startswith(f"Let an administrator run CREATE SCHEMA pgrunbook AUTHORIZATION {QUOTED}. Let an")
    assert f"GRANT EXECUTE ON FUNCTION pg_create_restore_point(text), pg_switch_wal() TO {QUOTED}; or set" in told.hint
    assert told.hint.endswith(
        "or set restore_points = false for this target: then no restore point is made before a change, and only the"
        " migrations' own ways back, and a restore by your provider's or your own backups, lead back."
    )
    admin.execute(f"CREATE SCHEMA pgrunbook AUTHORIZATION {QUOTED}".encode())
    grant(admin, "Restore points")
    told = refused()
    assert isinstance(told, Unreachable)
    assert "permission denied for table others" in told.detail
    assert told.hint.startswith(f"Let an administrator run GRANT pg_read_all_data TO {QUOTED} (docs/rights.md)")
    grant(admin, "A branch")
    admin.execute("ALTER TABLE others ENABLE ROW LEVEL SECURITY; GRANT SELECT ON others TO PUBLIC")
    with pytest.raises(Unreachable) as caught, data_branch.with_data(load("shop"), most_bytes=2**30):
        pass
    assert caught.value.hint.startswith(f"Let a superuser run ALTER ROLE {QUOTED} BYPASSRLS")


@pytest.mark.slow
@pytest.mark.first_case
def test_nothing_speaks_of_a_restore_point_where_there_is_none(
    admin: psycopg.Connection[tuple[object, ...]], target: Target, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither a gate nor a refusal, a card or the record: with restore_points = false."""
    grant(admin, "Always", "A branch")
    file = tmp_path / "targets.toml"
    file.write_text(f"{file.read_text()}restore_points = false\n")
    write_folder(tmp_path / "m", {"0001_a.sql": "DO $$ BEGIN EXECUTE 'TRUNCATE ' || lower('OLD'); END $$;"})
    here = step_through("prepare", monkeypatch, with_data=False, accept="way-back:0001_a,0001_a:1")
    gates = {gate.key: gate.gate for gate in plans.read(here.run.folder / "plan.json").gates()}
    assert gates["way-back:0001_a"].says.startswith("irreversible: after this, no restore point leads back (")
    assert gates["way-back:0001_a"].how.endswith(
        "only a backup of yours or your provider's leads back, without what was written after it."
    )
    here = step_through("migrate", monkeypatch)
    texts = [path.read_text(errors="replace") for path in here.run.folder.rglob("*") if path.is_file()]
    assert not [text for text in texts if "only the restore point" in text or "pgrunbook run restore" in text]
    monkeypatch.chdir("/")
    told = error_of(lambda: step_through("rollback", monkeypatch))
    assert told.detail.startswith("No run made a restore point before it.")
    assert told.hint == "Restore a backup of yours, or by your provider's own way, beside the database."
    assert target.name == "shop"


@pytest.mark.newest
def test_schema_pgrunbook_is_handed_over_as_the_page_says(
    admin: psycopg.Connection[tuple[object, ...]], archiving: Server
) -> None:
    """From a superuser, whose own sessions refuse it then."""
    grant(admin, "Always")
    admin.execute("DROP SCHEMA pgrunbook")
    with archiving.connect("rights") as conn:
        registry.create(conn)
    with connect(load("shop")) as own:
        assert "GRANT" not in check(own).advice
        assert check(own).level is Level.STOP
    admin.execute(block("Handing schema pgrunbook over").encode())
    with connect(load("shop")) as own:
        assert check(own).level is not Level.STOP
        assert registry.list_entries(own) == []
    with archiving.connect("rights") as conn:
        assert isinstance(error_of(lambda: registry.list_entries(conn)), Refused)


@pytest.mark.slow
def test_a_branch_has_schema_pgrunbook_as_the_target_has_it(
    admin: psycopg.Connection[tuple[object, ...]],
) -> None:
    """The role may not create it there either, and owns it where it does on the target."""
    grant(admin, "Always", "A branch")
    shop = load("shop")
    with copy_schema(shop) as schema, schema.branch() as branch, connect(branch) as conn:
        step_log.create(conn)
        query = "SELECT n.nspowner::regrole::text FROM pg_namespace AS n WHERE n.nspname = 'pgrunbook'"
        assert asked(conn, query) == [(QUOTED,)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("CREATE SCHEMA another")


def grant(admin: psycopg.Connection[tuple[object, ...]], *headings: str) -> None:
    """Execute the statements of the page below these headings; of the first one there are two parts."""
    for heading in headings:
        for number in range(2 if heading == "Always" else 1):
            admin.execute(block(heading, number).encode())


def check(conn: Connection) -> readiness.Check:
    """Return what prepare finds about the rights."""
    limits, who = readiness.Limits(), activity.identity(conn)
    found = readiness.checks(conn, who, limits, data_dir=None, needs_restore_point=False)
    return next(one for one in found if one.name == "rights")
