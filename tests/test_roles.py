"""A branch's sessions are those of the target's role: who owns what is made, what it may, which settings it brings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest

from budget import sample
from conftest import write_folder
from pgrunbook import history as histories
from pgrunbook.branches import data_branch, schema_branch, schema_load
from pgrunbook.branches.binaries import embedded
from pgrunbook.branches.schema_branch import copy_schema
from pgrunbook.config.targets import Target
from pgrunbook.database.connection import connect
from pgrunbook.database.schema import snapshot
from pgrunbook.errors import StatementFailed
from pgrunbook.history.state import leave_out
from pgrunbook.rehearse import schema_only, with_data
from scenes import execute, plan_of
from servers import Server

ROLE = 'Team "A" o\'Neil ü'
QUOTED = '"Team ""A"" o\'Neil ü"'
# What the role is, and who else is there: every attribute, membership, setting and right that a server has.
CLUSTER = f"""
CREATE ROLE {QUOTED} LOGIN CREATEROLE CREATEDB PASSWORD 'secret' CONNECTION LIMIT 3;
CREATE ROLE owners; CREATE ROLE readers NOINHERIT; CREATE ROLE "no login" REPLICATION BYPASSRLS;
CREATE ROLE boss SUPERUSER LOGIN;
GRANT owners TO {QUOTED} WITH ADMIN OPTION;
GRANT readers TO owners;
GRANT pg_read_all_stats TO readers;
ALTER ROLE {QUOTED} SET statement_timeout = '5ms';
ALTER ROLE {QUOTED} SET search_path = app, "$user", 'Odd, one';
ALTER ROLE {QUOTED} SET app.tenant = 'x''y';
ALTER ROLE ALL SET app.everybody = 'yes';
"""
DATABASE = f"""
CREATE SCHEMA app AUTHORIZATION {QUOTED}; REVOKE CREATE ON SCHEMA public FROM PUBLIC;
ALTER SCHEMA public OWNER TO pg_database_owner;
CREATE TABLE app.t (id integer PRIMARY KEY, a integer); ALTER TABLE app.t OWNER TO {QUOTED};
CREATE TABLE app.others (id integer); GRANT SELECT ON app.others TO {QUOTED};
"""
OPTIONS = "to_jsonb(a) ->> 'inherit_option', to_jsonb(a) ->> 'set_option'"
PARAMETERS = "SELECT p.parname, x FROM pg_parameter_acl AS p, unnest(p.paracl) AS x WHERE NOT (x::text ~ '^postgres=')"
# Beside the settings of the server itself, which a branch has in this place.
OF_ALL = (
    "SELECT c FROM pg_db_role_setting AS s, unnest(s.setconfig) AS c WHERE s.setrole = 0 AND s.setdatabase = 0"
    " AND c ~ '^app'"
)
# What would keep a role from being dropped, and falls with DROP OWNED.
LINKS = """
SELECT s.classid::regclass::text, s.refobjid::regrole::text, s.deptype, count(*)
FROM pg_shdepend AS s JOIN pg_database AS d ON d.oid = s.dbid
WHERE d.datname = current_database() AND s.refclassid = 'pg_authid'::regclass
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""
PROPERTIES = """
SELECT r.rolname, r.rolsuper, r.rolinherit, r.rolcreaterole, r.rolcreatedb, r.rolcanlogin, r.rolreplication,
    r.rolbypassrls, ARRAY(SELECT c FROM pg_db_role_setting AS s, unnest(s.setconfig) AS c
        WHERE s.setrole = r.oid AND s.setdatabase IN (0, (SELECT d.oid FROM pg_database AS d
            WHERE d.datname = current_database())) ORDER BY c)
FROM pg_roles AS r WHERE r.rolname !~ '^pg_' AND r.rolname <> 'runbook_reader' ORDER BY 1
"""
# A server of another version has other defaults: grants have options of their own from PostgreSQL 16 on.
MEMBERS = """
SELECT a.roleid::regrole::text, a.member::regrole::text, a.admin_option, %s
FROM pg_auth_members AS a WHERE a.member::regrole::text !~ '^pg_' ORDER BY 1, 2, 3
"""
OF_DATABASE = """
SELECT pg_get_userbyid(d.datdba), (SELECT array_agg(x::text ORDER BY x::text) FROM unnest(d.datacl) AS x),
    current_database(), (SELECT s.setconfig FROM pg_db_role_setting AS s WHERE s.setdatabase = d.oid AND s.setrole = 0)
FROM pg_database AS d WHERE d.datname = current_database()
"""


@pytest.fixture
def target(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Target]]:
    """Make a target that is reached as the role, with a folder of migrations."""
    name = '"The Shop"'
    server.make(name)
    with server.connect("The Shop") as conn:
        conn.execute(CLUSTER)
        conn.execute(DATABASE)
        conn.execute(f"ALTER DATABASE {name} OWNER TO owners; REVOKE ALL ON DATABASE {name} FROM PUBLIC")
        conn.execute(
            f"GRANT CONNECT, CREATE ON DATABASE {name} TO {QUOTED}; ALTER DATABASE {name} SET app.place = 'shop'"
        )
        conn.execute(f"ALTER ROLE {QUOTED} IN DATABASE {name} SET work_mem = '7MB'")
        if server.version >= 15:
            conn.execute(f"GRANT SET ON PARAMETER log_min_duration_statement TO {QUOTED}")
    monkeypatch.setenv("URL_of_role", f"postgresql:///The%20Shop?host={server.socket_dir}")
    monkeypatch.setenv("PGUSER", ROLE)

    def make(*migrations: str, **options: object) -> Target:
        write_folder(tmp_path / "m", {f"{n:04}_m.sql": text for n, text in enumerate(migrations, 1)})
        return Target.model_validate(
            {"name": "shop", "url_from": "URL_of_role", "migrations": tmp_path / "m", "batch_rows": 5, **options}
        )

    yield make
    monkeypatch.undo()
    with server.connect("postgres") as conn:
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
        conn.execute("ALTER ROLE ALL RESET app.everybody")
        if server.version >= 15:
            conn.execute(f"REVOKE SET ON PARAMETER log_min_duration_statement FROM {QUOTED}")
        for role in (QUOTED, "owners", "readers", '"no login"', "boss"):
            conn.execute(f"DROP ROLE {role}")


def asked(conn: psycopg.Connection[tuple[object, ...]], query: str) -> list[tuple[object, ...]]:
    return conn.execute(query.encode()).fetchall()


@pytest.mark.first_case
@pytest.mark.parametrize("keep", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_branch_has_the_roles_rights_and_settings_of_the_target(
    server: Server, target: Callable[..., Target], keep: bool
) -> None:
    """Each attribute, membership, setting and right; and what a rehearsal changes of them is put back."""
    shop, members = target(), MEMBERS % (OPTIONS if server.version >= 16 else "NULL")
    with server.connect("The Shop") as source:
        if server.version >= 16:
            source.execute(
                f"GRANT readers TO {QUOTED} WITH INHERIT FALSE, SET FALSE; GRANT readers TO owners WITH ADMIN TRUE"
            )
            source.execute(f"GRANT readers TO {QUOTED} WITH SET TRUE GRANTED BY owners")
        queries = [PROPERTIES, members, OF_DATABASE, OF_ALL, LINKS, *([PARAMETERS] if server.version >= 15 else [])]
        wanted = [asked(source, query) for query in queries]
    with copy_schema(shop, keep=keep) as schema:
        for _ in range(2):
            with schema.branch() as branch, connect(branch.as_superuser()) as conn:
                assert [asked(conn, query) for query in queries] == wanted
                with connect(branch) as own:
                    assert asked(own, "SELECT session_user, current_user") == [(ROLE, ROLE)]
                    assert own.search_path == 'app, "$user", "Odd, one"'
                    assert asked(own, "SHOW work_mem") == [("7MB",)]
                    assert asked(own, "SELECT current_setting('app.tenant'), current_setting('app.place')") == [
                        ("x'y", "shop")]  # fmt: skip
                    if server.version >= 15:
                        own.execute("SET log_min_duration_statement = 5")
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        own.execute("SET session_replication_role = replica")
                conn.execute(
                    f"ALTER ROLE {QUOTED} RESET ALL; ALTER ROLE boss NOSUPERUSER; REVOKE readers FROM owners CASCADE"
                )
                conn.execute("CREATE ROLE another; GRANT owners TO another; ALTER ROLE readers SET work_mem = '1MB'")
                conn.execute('DROP ROLE "no login"')
                conn.execute("ALTER ROLE ALL SET app.everybody = 'no'; ALTER ROLE ALL SET app.more = 'yes'")
                conn.execute("GRANT readers TO another WITH ADMIN OPTION; CREATE ROLE third")
                conn.execute("SET ROLE another; GRANT readers TO third; RESET ROLE")
                if server.version >= 15:
                    conn.execute("GRANT SET ON PARAMETER work_mem TO another; GRANT SET ON PARAMETER jit TO readers")


@pytest.mark.slow
@pytest.mark.newest
@pytest.mark.first_case
@pytest.mark.parametrize("name", ["copied", schema_branch.LOADED])
def test_a_branch_that_is_copied_is_as_the_one_that_was_loaded(
    server: Server, target: Callable[..., Target], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Its schema, and what the roles own in it, whatever its name is and whichever role was there in between."""
    loads, load = [], schema_load.in_parts
    monkeypatch.setattr(schema_load, "in_parts", lambda *given: loads.append(given) or load(*given))
    monkeypatch.setenv("URL_of_role", f"postgresql:///{name}?host={server.socket_dir}")
    with server.copied(name, '"The Shop"'):
        with server.connect(name) as source:
            wanted = asked(source, LINKS)
        with copy_schema(target(url_from="URL_of_role"), keep=True) as schema:
            found = set()
            for _ in range(3):
                with schema.branch() as branch, connect(branch.as_superuser()) as conn:
                    assert asked(conn, LINKS) == wanted
                    found.add(snapshot(conn).fingerprint)
                    conn.execute("CREATE ROLE passing; ALTER TABLE app.t OWNER TO passing")
    assert (len(found), len(loads)) == (1, 2)  # the second is the copy


@pytest.mark.slow
@pytest.mark.newest
def test_what_a_role_makes_is_its_own_and_what_it_may_not_fails_on_the_branch(target: Callable[..., Target]) -> None:
    """The promised schema is the one that the release ends in; a right that is missing is found before the fact."""
    shop = target(
        "CREATE TABLE app.made (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, t integer REFERENCES app.t)",
        "ALTER TABLE app.t ADD COLUMN b text; UPDATE app.t SET a = 1; CREATE INDEX ON app.t (b)",
    )
    with connect(shop) as conn:
        history = histories.read(conn, shop)
        here = snapshot(conn, leave_out=leave_out(history))
        done = schema_only.rehearse(shop, history, history.pending(), lambda: here, conn, off={})
        assert done.unlike == ()
        with_data.rehearse(shop, history.pending(), done, conn, most_bytes=2**40)
        execute(shop, plan_of(shop).model_copy(update={"changes": done.changes}))
        assert snapshot(conn, leave_out=[*leave_out(history), "pgrunbook"]).fingerprint == done.end.fingerprint
        assert asked(conn, "SELECT tableowner FROM pg_catalog.pg_tables WHERE tablename = 'made'") == [(ROLE,)]
    for number, (statement, told) in enumerate(
        [
            ("DROP TABLE app.others", "must be owner of table others"),
            ("CREATE EXTENSION file_fdw", "permission denied to create extension"),
            ("CREATE CAST (integer AS text) WITH INOUT", "must be owner of type integer or type text"),
        ],
        3,
    ):
        (Path(str(shop.migrations)) / f"{number:04}_m.sql").write_text(statement)
        with connect(shop) as conn:
            history = histories.read(conn, shop)
            with pytest.raises(StatementFailed) as caught:
                schema_only.rehearse(shop, history, history.pending(), partial(snapshot, conn), conn, off={})
        assert told in caught.value.message
        (Path(str(shop.migrations)) / f"{number:04}_m.sql").unlink()


# What somebody has done with the schema public, whose rights and owner versions make differently.
PUBLIC = [
    "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
    "SELECT 'as it was made'",
    "REVOKE ALL ON SCHEMA public FROM PUBLIC",
    "GRANT CREATE ON SCHEMA public TO PUBLIC",
    "GRANT CREATE ON SCHEMA public TO runbook_reader WITH GRANT OPTION",
    "ALTER SCHEMA public OWNER TO pg_database_owner",
    "ALTER SCHEMA public OWNER TO runbook_reader",
    "DROP SCHEMA public; CREATE SCHEMA public",
]
RIGHTS_ON_PUBLIC = """
SELECT n.nspowner::regrole::text, a.grantor::regrole::text, a.grantee::regrole::text, a.privilege_type, a.is_grantable
FROM pg_namespace AS n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS a
WHERE n.nspname = 'public' ORDER BY 1, 2, 3, 4
"""


@pytest.mark.slow
@pytest.mark.every_version
@pytest.mark.parametrize("is_newer", [False, True])
@pytest.mark.parametrize("statements", sample(PUBLIC, len(PUBLIC)))
def test_the_schema_public_is_as_open_as_the_targets(
    server: Server, database: Callable[..., str], monkeypatch: pytest.MonkeyPatch, statements: str, is_newer: bool
) -> None:
    """Until PostgreSQL 14 everybody may create in it, unless somebody has seen to that; on a newer branch too."""
    name = database(*statements.split("; "))
    monkeypatch.setenv("URL_OF_PUBLIC", f"host={server.socket_dir} user=postgres dbname={name}")
    if is_newer:
        monkeypatch.setenv("PGRUNBOOK_PG_BINDIR", str(embedded().bindir))
    with server.connect(name) as conn:
        wanted = asked(conn, RIGHTS_ON_PUBLIC)
    target = Target(name="public", url_from="URL_OF_PUBLIC")
    with copy_schema(target) as schema, schema.branch() as branch, connect(branch.as_superuser()) as conn:
        assert asked(conn, RIGHTS_ON_PUBLIC) == wanted


@pytest.mark.slow
@pytest.mark.newest
def test_two_targets_with_roles_of_one_name_do_not_meet(target: Callable[..., Target]) -> None:
    """Each rehearsal has a server of its own."""
    shop = target()
    with copy_schema(shop) as one, copy_schema(shop) as other, one.branch() as a, other.branch() as b:
        with connect(a.as_superuser()) as first:
            first.execute(f"ALTER ROLE {QUOTED} NOCREATEDB")
        with connect(b.as_superuser()) as second:
            assert asked(second, "SELECT rolcreatedb FROM pg_roles WHERE rolname = 'owners'") == [(False,)]
            assert (ROLE, True) in asked(second, "SELECT rolname, rolcreatedb FROM pg_roles")


@pytest.mark.slow
@pytest.mark.newest
def test_rows_are_measured_by_who_sees_them_all(target: Callable[..., Target], server: Server) -> None:
    """The branch holds what the target's role may not read; the migration itself runs as the role."""
    shop = target("UPDATE app.t SET a = 5")
    with server.connect("The Shop") as conn:
        conn.execute("INSERT INTO app.t SELECT i, i FROM generate_series(1, 20) AS i")
    with data_branch.with_data(shop, most_bytes=2**40) as copy, connect(copy.safe) as own:
        assert asked(own, "SELECT session_user") == [(ROLE,)]
        with connect(copy.safe.as_superuser()) as all_:
            assert asked(all_, "SELECT count(*) FROM app.t") == [(20,)]
