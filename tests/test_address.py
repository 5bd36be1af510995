"""What reaches a session: what the service or URL names, then the settings of server, role and database; no shell's."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg_binary
import pytest
from psycopg import conninfo
from psycopg.pq import Conninfo

import scenes
from conftest import write_folder
from pgrunbook.branches import data_branch
from pgrunbook.branches.schema_branch import copy_schema
from pgrunbook.config.targets import Target
from pgrunbook.database import address
from pgrunbook.database.connection import OURS_BESIDE, connect
from pgrunbook.database.queries import load
from scenes import execute, plan_of, until
from servers import PROGRAMS, WHEEL, Server

# Variables of libpq that say where the server is, who connects, and how both prove it.
WHERE_AND_WHO = {
    "PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGPASSFILE", "PGSERVICEFILE",
    "PGSYSCONFDIR", "PGLOCALEDIR", "PGCHANNELBINDING", "PGCONNECT_TIMEOUT", "PGTARGETSESSIONATTRS",
    "PGLOADBALANCEHOSTS", "PGREQUIREAUTH", "PGREQUIREPEER", "PGREQUIRESSL", "PGOAUTHDEBUG", "PGOAUTHCAFILE",
    "PGGSSENCMODE", "PGGSSLIB", "PGGSSDELEGATION", "PGKRBSRVNAME", "PGMINPROTOCOLVERSION", "PGMAXPROTOCOLVERSION",
    "PGSSLMODE", "PGSSLNEGOTIATION", "PGSSLCOMPRESSION", "PGSSLCERT", "PGSSLKEY", "PGSSLCERTMODE", "PGSSLROOTCERT",
    "PGSSLCRL", "PGSSLCRLDIR", "PGSSLSNI", "PGSSLMINPROTOCOLVERSION", "PGSSLMAXPROTOCOLVERSION", "PGSSLKEYLOGFILE",
}  # fmt: skip
SHELL = {
    "PGTZ": "Asia/Tokyo", "PGOPTIONS": "-c timezone=Asia/Tokyo -c work_mem=5MB", "PGDATESTYLE": "German",
    "PGCLIENTENCODING": "LATIN1", "PGGEQO": "off", "PGAPPNAME": "shell", "PGSERVICE": "of_shell",
}  # fmt: skip
# Each layer sets what is its own, and what the next one sets otherwise.
LAYERS = [
    "ALTER SYSTEM SET datestyle = 'SQL, DMY'", "ALTER SYSTEM SET timezone = 'Europe/Rome'",
    "ALTER SYSTEM SET app.server = 'yes'", "ALTER SYSTEM SET search_path = served, public",
    "ALTER ROLE ALL SET timezone = 'Europe/Oslo'", "ALTER ROLE ALL SET intervalstyle = 'iso_8601'",
    "ALTER DATABASE layered SET intervalstyle = 'sql_standard'", "ALTER DATABASE layered SET bytea_output = 'escape'",
    "ALTER ROLE layered SET bytea_output = 'hex'", "ALTER ROLE layered SET extra_float_digits = 0",
    "ALTER ROLE layered IN DATABASE layered SET extra_float_digits = -3",
    "ALTER ROLE layered IN DATABASE layered SET client_encoding = 'LATIN1'",
    "ALTER ROLE layered IN DATABASE layered SET standard_conforming_strings = off",
    "ALTER ROLE layered IN DATABASE layered SET xmloption = 'document'",
]  # fmt: skip
SERVICE = (
    "options=-c xmloption=content -c app.service=a\\ b -c quote_all_identifiers=on"
    " -c array_nulls=off -c transform_null_equals=on\n"
    "client_encoding=LATIN1\napplication_name=service\n"
)
# The rest of a server's settings are its own; these few are ours, or differ by what is asked.
SETTINGS = """
SELECT s.name, replace(s.setting, '"', '') FROM pg_catalog.pg_settings AS s
WHERE s.context IN ('user', 'superuser', 'backend', 'superuser-backend')
AND s.name !~ '_timeout$|^log_|^lc_messages|^jit_provider|^restrict_|^application_name|^client_(encoding|connection)'
AND (
    s.category ~ '^(Client Conn|Version and|Customized)' OR s.source IN ('client', 'database', 'user', 'database user')
)
ORDER BY 1
"""


@pytest.fixture
def layered(newest: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    """A target that a service leads to, where every layer sets something; and a shell full of settings."""
    newest.run("postgres", "CREATE ROLE layered LOGIN", "CREATE DATABASE layered OWNER layered", *LAYERS,
               "SELECT pg_reload_conf()")  # fmt: skip
    where = f"host={newest.socket_dir}\nuser=layered\ndbname=layered\n"
    (tmp_path / "services").write_text(f"[layered]\n{where}{SERVICE}\n[of_shell]\noptions=-c timezone=Asia/Tokyo\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.setenv("PGSSLMODE", "disable")
    for name, value in SHELL.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("URL", f"postgresql://layered@/layered?host={newest.socket_dir}")
    until(lambda: " ".join(str(psql(newest, "dbname=postgres user=postgres", "SHOW datestyle")).split()) == "SQL, DMY")
    yield Target(name="layered", service="layered")
    newest.run("postgres", "DROP DATABASE layered WITH (FORCE)", "DROP ROLE layered", "ALTER ROLE ALL RESET ALL",
               "ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()")  # fmt: skip


def psql(server: Server, where: str, *queries: str) -> str:
    """Return what psql says in a shell that sets nothing."""
    env = {"PATH": os.environ["PATH"], "PGHOST": str(server.socket_dir)}
    env |= {"PGSERVICEFILE": os.environ.get("PGSERVICEFILE", "")}
    command = [server.programs / "psql", "-X", "-At", "-F", "\t", "-d", where, *(f"-c{query}" for query in queries)]
    done = subprocess.run(command, env=env, check=False, capture_output=True, text=True, encoding="latin1")
    assert done.returncode == 0, done.stderr
    return done.stdout


def of_session(target: Target) -> dict[str, str]:
    with connect(target) as conn, conn.as_target():
        return {str(name): str(value) for name, value in conn.execute(SETTINGS.encode())}


def of_psql(server: Server, where: str) -> dict[str, str]:
    return dict(line.split("\t") for line in psql(server, where, SETTINGS).splitlines())


def differing(one: dict[str, str], other: dict[str, str]) -> dict[str, tuple[str | None, str | None]]:
    return {n: (one.get(n), other.get(n)) for n in one.keys() | other.keys() if one.get(n) != other.get(n)}


@pytest.mark.slow
def test_a_session_has_the_settings_of_psql_in_a_clean_shell_and_so_has_the_branch(
    newest: Server, layered: Target
) -> None:
    """By a service with options and by a URL; each layer goes before the one below it, and the shell counts nowhere."""
    for target, where in ((layered, "service=layered"), (Target(name="url", url_from="URL"), os.environ["URL"])):
        wanted = of_psql(newest, where)
        assert (wanted["DateStyle"], wanted["TimeZone"], wanted["IntervalStyle"]) == (
            "SQL, DMY", "Europe/Oslo", "sql_standard",
        )  # fmt: skip
        assert (wanted["bytea_output"], wanted["extra_float_digits"]) == ("hex", "-3")
        assert wanted["search_path"] == "served, public"
        assert differing(of_session(target), wanted) == {}
        with copy_schema(target) as schema:
            for _ in range(2):
                with schema.branch() as branch:
                    assert differing(of_session(branch), wanted) == {}
    assert wanted["xmloption"] == "document"


def test_our_own_statements_read_times_whatever_the_style_of_the_target(layered: Target) -> None:
    """ISO for us, the target's for the migration; intervals likewise."""
    with connect(layered) as conn:
        for _ in range(2):
            found = conn.execute("SELECT timestamptz '2026-03-05 10:00+00', interval '1 day 2 hours'").fetchone()
            assert found == (datetime(2026, 3, 5, 10, tzinfo=UTC), timedelta(days=1, hours=2))
            with conn.transaction(), conn.as_target():
                shown = conn.execute("SELECT date '2026-03-05'::text, interval '1 day 2 hours'::text").fetchone()
                assert shown == ("05/03/2026", "1 2:00:00")


def test_the_branch_is_given_what_our_own_sessions_have_otherwise() -> None:
    """Their source is the session: the query that reads the settings of the server names each."""
    asked = load("roles")["settings"]
    assert [name for name in ("search_path", *OURS_BESIDE) if f"'{name}'" not in asked] == []


def test_reset_all_leads_back_to_the_settings_of_the_target(newest: Server, layered: Target) -> None:
    """A migration's RESET ALL forgets neither the service's options nor those of the role."""
    with connect(layered) as conn, conn.as_target():
        conn.execute("SET xmloption = document; RESET ALL")
        shown = conn.execute(
            "SELECT current_setting('xmloption'), current_setting('app.service'), current_setting('timezone'),"
            " current_setting('client_encoding'), current_setting('lock_timeout')"
        ).fetchone()
    assert newest.version
    assert shown == ("content", "a b", "Europe/Oslo", "UTF8", "2s")


@pytest.mark.first_case
@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1"])
@pytest.mark.parametrize("way", ["service", "url"])
def test_the_text_of_a_migration_is_utf8_whatever_the_service_the_role_or_the_database_names(
    way: str, encoding: str, newest: Server, layered: Target
) -> None:
    """What is written is what psql writes whose client_encoding is that of the file."""
    target = layered if way == "service" else Target(name="url", url_from="URL")
    if encoding == "LATIN1":
        newest.run("postgres", "DROP DATABASE layered WITH (FORCE)",
                   "CREATE DATABASE layered OWNER layered ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")  # fmt: skip
    with connect(target) as conn, conn.as_target():
        conn.execute("CREATE TABLE public.t (a text)")
        conn.execute("INSERT INTO public.t VALUES ('Zürich')".encode())
    asked = psql(
        newest, "dbname=layered user=postgres", "SELECT encode(convert_to(a, 'UTF8'), 'hex'), length(a) FROM t"
    )
    assert asked == "5ac3bc72696368\t6\n"


# What ends otherwise by a setting: conversions, constants, the text of values, names, arithmetic.
MIGRATION = """
CREATE TABLE public.made (id integer PRIMARY KEY, t timestamp, d date, s text, x text);
INSERT INTO public.made VALUES (1, '05.03.2026 10:00', '05.03.2026', 'ü€', current_setting('app.service', true));
INSERT INTO made SELECT 2, now(), now(),
    concat(interval '1 day 2 hours', ' ', '\\x61'::bytea, ' ', 0.1::float8 + 0.2), 'x';
UPDATE made SET t = '05.03.2026 12:30' WHERE id = 2; UPDATE made SET d = '06.03.2026' WHERE id = 2;
ALTER TABLE made ALTER t TYPE timestamptz; CREATE TABLE mine (a integer); INSERT INTO mine VALUES (1);
"""
STATE = """
SELECT m.id, extract(epoch from m.t), m.d - date '2026-01-01', encode(convert_to(m.s, 'UTF8'), 'hex'), m.x,
    'served.mine'::regclass::oid > 0 FROM public.made AS m ORDER BY 1
"""


@pytest.mark.slow
def test_a_migration_ends_on_target_and_branch_as_in_psql_with_the_targets_settings(
    newest: Server, layered: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever this shell sets: by the settings of each layer; one file, executed by both."""
    monkeypatch.setattr(scenes, "connect", connect)
    newest.run("layered", "CREATE SCHEMA served AUTHORIZATION layered")
    write_folder(tmp_path / "m", {"0001_m.sql": MIGRATION})
    target = layered.model_copy(update={"migrations": tmp_path / "m"})
    newest.make("by_psql", "layered")
    newest.run("postgres", "ALTER DATABASE by_psql OWNER TO layered")
    newest.run(
        "postgres", *(one.replace("DATABASE layered", "DATABASE by_psql") for one in LAYERS if "DATABASE" in one)
    )
    try:
        psql(newest, "service=layered dbname=by_psql", "SET client_encoding = 'UTF8'", MIGRATION)
        wanted = psql(newest, "dbname=by_psql user=postgres", STATE)
        with data_branch.with_data(target, most_bytes=2**40) as copy:
            with connect(copy.safe) as conn, conn.as_target():
                conn.execute(MIGRATION.encode())
            with connect(copy.safe.as_superuser()) as conn:
                of_branch = conn.execute(STATE.encode()).fetchall()
        execute(target, plan_of(target))
    finally:
        newest.run("postgres", "DROP DATABASE by_psql WITH (FORCE)")
    assert psql(newest, "dbname=layered user=postgres", STATE) == wanted
    assert "\n".join("\t".join(map(shown, row)) for row in of_branch) + "\n" == wanted
    assert "1\t1772701200.000000\t63\tc3bce282ac\ta b\tt" in wanted  # 10:00 in Oslo, the fifth of March


def shown(value: object) -> str:
    return {True: "t", False: "f"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def test_every_variable_that_libpq_reads_is_a_setting_of_the_shell_or_an_address() -> None:
    """Asked from the libraries themselves: psycopg's, and that of the wheel's programs."""
    own = Path(psycopg_binary.__file__).parent.parent / "psycopg_binary.libs"
    libraries = [*own.glob("libpq*.so*"), *(PROGRAMS[WHEEL].parent / "lib").glob("libpq.so*")]
    assert len(libraries) >= 2
    for library in libraries:
        words = {word.decode() for word in re.findall(rb"\x00(PG[A-Z][A-Z_0-9]*)(?=\x00)", library.read_bytes())}
        assert {"PGTZ", "PGOPTIONS", "PGHOST"} <= words
        assert {w for w in words if not w.startswith("PGRES_")} - WHERE_AND_WHO - {*address.SHELL_SETTINGS} == set()
    assert {*address.SHELL_SETTINGS} == SHELL.keys()
    assert not WHERE_AND_WHO & SHELL.keys()


def test_a_program_that_we_start_has_nothing_of_the_shell_either(layered: Target) -> None:
    """It has the address and the options of its target, also those of a service; the role's timeouts are lifted."""
    told = address.environment(layered)
    assert told.keys() & {*address.SHELL_SETTINGS} == {"PGOPTIONS", "PGCLIENTENCODING", "PGAPPNAME"}
    assert told["PGAPPNAME"] == "service"
    given = SERVICE.partition("options=")[2].partition("\n")[0]
    assert told["PGOPTIONS"] == f"{given} {address.NO_TIMEOUTS}"
    assert (told["PGUSER"], told["PGDATABASE"], told["PGCLIENTENCODING"]) == ("layered", "layered", "UTF8")
    assert told["PGHOST"].startswith("/")
    url = address.environment(Target(name="url", url_from="URL"))
    assert url["PGOPTIONS"] == address.NO_TIMEOUTS
    assert os.environ.keys().isdisjoint(SHELL)


def test_a_program_is_given_every_keyword_that_libpq_has_a_variable_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a URL or a service asks of a connection (certificates, protocol versions, ...), a program is asked, too."""
    variables = {o.keyword.decode(): o.envvar.decode() for o in Conninfo.get_defaults() if o.envvar}
    given = {keyword: "5" if keyword in ("port", "connect_timeout") else f"a {keyword}" for keyword in variables}
    del given["service"]
    monkeypatch.setenv("STAGING", conninfo.make_conninfo("", **given))
    wanted = {variables[keyword]: value for keyword, value in given.items()}
    # With the role's own timeouts lifted: pg_dump lifts them itself, but after its first statement.
    wanted |= {"PGOPTIONS": f"{given['options']} {address.NO_TIMEOUTS}", "PGCLIENTENCODING": "UTF8"}
    (tmp_path / "services").write_text("[staging]\n" + "".join(f"{word}={value}\n" for word, value in given.items()))
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    for target in (Target(name="s", url_from="STAGING"), Target(name="s", service="staging")):
        told = address.environment(target)
        assert {name: told.get(name) for name in wanted} == wanted


def test_a_service_without_options_is_left_to_libpq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So are the keywords without a variable (sslpassword, keepalives); one that is not there fails as it should."""
    (tmp_path / "services").write_text("[plain]\nhost=/nowhere\nsslpassword=x\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    for name in ("plain", "missing"):
        told = address.environment(Target(name="s", service=name))
        assert (told["PGSERVICE"], told["PGOPTIONS"]) == (name, address.NO_TIMEOUTS)
