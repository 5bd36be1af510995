"""Which PostgreSQL a branch runs on, and that a target behind TLS can be dumped with what pip installs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from pgrunbook.branches import data_branch, installations, server_package
from pgrunbook.branches.binaries import embedded, installation
from pgrunbook.branches.installations import Needs
from pgrunbook.branches.schema_branch import copy_schema
from pgrunbook.config.targets import Target
from pgrunbook.database.connection import connect
from pgrunbook.database.readiness import Check, Level
from pgrunbook.errors import WrongInput
from servers import PROGRAMS, VERSIONS, WHEEL, Server, Servers, told_version

OTHERS = [version for version in VERSIONS if version != WHEEL]
PASSWORD = "it's a p@ss"  # noqa: S105 - of a test's own server


@pytest.mark.parametrize("major", VERSIONS)
def test_a_branch_runs_on_the_targets_own_major(servers: Servers, major: int) -> None:
    """Where it is installed; the wheel's is one of them."""
    assert servers
    chosen = installations.for_target(Needs(major))
    assert (chosen.major, chosen.version) == (major, told_version(PROGRAMS[major]))


def test_what_the_target_uses_decides(servers: Servers) -> None:
    """A newer major with it is better than the own one without; where none has it, the error says what to install."""
    assert servers
    with pytest.raises(WrongInput) as caught:
        installations.for_target(Needs(15, ("postgis", "plpgsql", "pg_cron", "vector")))
    error = caught.value
    assert error.message.startswith("could not find an installation of PostgreSQL with ")
    assert "apt" not in error.detail
    assert error.hint == (
        "Install what has it (Debian: apt install postgresql-15 postgresql-15-cron postgresql-15-postgis-3), "
        "or name its folder in PGRUNBOOK_PG_BINDIR."
    )
    with pytest.raises(WrongInput) as caught:
        installations.for_target(Needs(29))
    assert caught.value.message == "could not find PostgreSQL 29 or newer for the branches of this target"


def test_what_can_be_fetched_is_named_first(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command comes before Debian's packages, where it is enough; and never twice."""
    assert servers
    monkeypatch.setattr(installations, "PLACES", ())
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(server_package, "fetched", list)
    monkeypatch.setattr(server_package, "bindir", lambda _: Path("/nowhere"))
    monkeypatch.setattr(server_package, "majors", lambda: [17, 18])
    for name in ("pgcrypto", "uuid-ossp"):
        with pytest.raises(WrongInput) as caught:
            installations.for_target(Needs(WHEEL, (name,)))
        assert caught.value.hint == (
            f"Fetch the server of that version: pgrunbook server get {WHEEL}. Install what has it (Debian: apt install "
            f"postgresql-{WHEEL} postgresql-contrib), or name its folder in PGRUNBOOK_PG_BINDIR."
        )
    with pytest.raises(WrongInput) as caught:
        installations.for_target(Needs(WHEEL, ("plpython3u", "pgcrypto")))
    assert caught.value.hint.startswith(
        f"Install what has it (Debian: apt install postgresql-{WHEEL} postgresql-contrib postgresql-plpython3-{WHEEL})"
    )
    with pytest.raises(WrongInput) as caught:
        installations.for_target(Needs(WHEEL, (), (), (installations.ICU,)))
    assert caught.value.message == "could not find an installation of PostgreSQL with ICU collations for the branches"
    assert f"pgrunbook server get {WHEEL}" in caught.value.hint


@pytest.mark.skipif(not OTHERS, reason="there is no PostgreSQL but the wheel's")
def test_the_named_installation_is_used(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, whatever was used before; and refused by its name where it is older, or lacks what the target uses."""
    assert servers
    older = Needs(OTHERS[0])
    first = installations.for_target(older)
    monkeypatch.setenv("PGRUNBOOK_PG_BINDIR", str(PROGRAMS[WHEEL]))
    assert first.major == OTHERS[0]
    assert installations.for_target(older).major == WHEEL
    with pytest.raises(WrongInput) as caught:
        installations.for_target(replace(older, extensions=("pgcrypto", "plpgsql"), features=(installations.ICU,)))
    assert caught.value.message == (
        f"PGRUNBOOK_PG_BINDIR names PostgreSQL {told_version(PROGRAMS[WHEEL])} in {installation().bindir}, "
        "which lacks ICU collations, pgcrypto"
    )
    assert caught.value.hint.startswith("Unset PGRUNBOOK_PG_BINDIR, or install there what is missing. ")
    monkeypatch.setenv("PGRUNBOOK_PG_BINDIR", str(PROGRAMS[OTHERS[0]]))
    assert installations.for_target(older).major == OTHERS[0]
    with pytest.raises(WrongInput) as caught:
        installations.for_target(Needs(WHEEL))
    named = f"PGRUNBOOK_PG_BINDIR names PostgreSQL {told_version(PROGRAMS[OTHERS[0]])} in {PROGRAMS[OTHERS[0]]}"
    assert str(caught.value).splitlines() == [
        f"{named}, which is older than the target's {WHEEL}",
        "Detail: A branch runs on the target's major version, or on a newer one.",
        "State: Nothing changed in the database.",
        f"Hint: Name PostgreSQL {WHEEL} or a newer one, or unset PGRUNBOOK_PG_BINDIR.",
    ]


@pytest.mark.every_version
def test_prepare_says_on_what_the_branches_run(server: Server, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The target's own version is good; a newer one is said, with what it means; none stops, where one is needed."""
    monkeypatch.setenv("FAR", f"host={server.socket_dir} user=postgres dbname=postgres")
    far = Target(name="far", url_from="FAR")
    limit = f"PostgreSQL {version}, with what the target uses"
    with connect(far) as conn:
        own = installations.of_target(far, conn)
        same = installations.check(far, conn, needed=True)
        assert same == Check("branches", f"PostgreSQL {own.version} in {own.bindir}, the target's major version", limit,
                             Level.GOOD)  # fmt: skip
        monkeypatch.setenv("PGRUNBOOK_PG_BINDIR", str(embedded().bindir))
        newer = installations.check(far, conn, needed=True)
        if version < WHEEL:
            assert newer.level is Level.WARN
            assert newer.found.endswith(f"{embedded().bindir}, newer than the target's {version}")
            assert newer.advice.startswith(f"What only versions after {version} know or allow does not fail in the")
            assert newer.advice.endswith(f"Unset PGRUNBOOK_PG_BINDIR, or name PostgreSQL {version} in it.")
            with monkeypatch.context() as patch:  # none of that version is there
                patch.delenv("PGRUNBOOK_PG_BINDIR")
                patch.setattr(installations, "_all", lambda _: iter([embedded()]))
                patch.setattr(server_package, "bindir", lambda _: Path("/nowhere"))
                advice = installations.check(far, conn, needed=True).advice
            assert advice.endswith(f"Or install it (Debian: apt install postgresql-{version}).")
        monkeypatch.setenv("PGRUNBOOK_PG_BINDIR", "/nowhere")
        levels = [installations.check(far, conn, needed=needed).level for needed in (True, False)]
        assert levels == [Level.STOP, Level.WARN]


@pytest.mark.parametrize(
    ("statement", "lacks", "package"),
    [
        ("CREATE EXTENSION postgis", "postgis", f"postgresql-{WHEEL}-postgis-3"),
        ("CREATE EXTENSION pgcrypto", "pgcrypto", "postgresql-contrib"),
        ("CREATE COLLATION c (provider = icu, locale = 'de')", "ICU collations", f"postgresql-{WHEEL}"),
        ("SELECT '<a/>'::xml", "XML", f"postgresql-{WHEEL}"),
        ("CREATE TABLE t (a text COMPRESSION lz4)", "lz4 compression", f"postgresql-{WHEEL}"),
        ("SELECT 1/0", "", ""),
    ],
)
def test_what_a_branch_lacks_is_explained(newest: Server, statement: str, lacks: str, package: str) -> None:
    """The wheel's server says it in its own words; the hint says what to install."""
    with newest.connect("postgres") as conn, pytest.raises(psycopg.Error) as caught:
        conn.execute(statement)
    told = f"{caught.value.diag.message_primary} {caught.value.diag.message_detail or ''}"
    with newest.connect("postgres") as conn:
        said = installations.explained(told, conn)
    assert said.startswith(f"The branch's PostgreSQL lacks {lacks}. ") if lacks else said == ""
    assert package in said


USES = {
    "ICU collation of a column": ('CREATE TABLE t (a text COLLATE "de-x-icu")', [installations.ICU]),
    "ICU collation of an index": (
        'CREATE TABLE t (a text); CREATE INDEX ON t (a COLLATE "de-x-icu")',
        [installations.ICU],
    ),
    "ICU collation of its own": ("CREATE COLLATION c (provider = icu, locale = 'de')", [installations.ICU]),
    "XML": ("CREATE TABLE t (a xml[])", [installations.XML]),
    "lz4": ("CREATE TABLE t (a text COMPRESSION lz4)", [installations.LZ4]),
    "nothing": ('CREATE TABLE t (a text COLLATE "C")', []),
}


@pytest.mark.first_case
@pytest.mark.parametrize("name", USES)
def test_what_a_database_uses_of_a_build_is_read(name: str, servers: Servers) -> None:
    """ICU, XML and lz4 are there or not by how PostgreSQL was built."""
    complete = [one for one in VERSIONS if all(LACKS not in read(one) for LACKS in installations.LACKS.values())]
    if not complete:
        pytest.skip("no PostgreSQL here is built with all of them")
    server = servers.get(complete[-1])
    statements, features = USES[name]
    with server.copied("uses", "template1"):
        server.run("uses", *statements.split("; "), "CREATE EXTENSION pgcrypto")
        with server.connect("uses") as conn:
            found = installations.needs(conn)
    assert list(found.features) == features
    assert (found.major, found.extensions) == (complete[-1], ("pgcrypto", "plpgsql"))
    assert {"pgcrypto", "hstore"} <= set(found.available)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [False, True], ids=["empty", "with rows"])
def test_a_branch_does_without_lz4(rows: bool, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its server may be built without; then columns are compressed otherwise there, so nothing fails."""
    able = [one for one in VERSIONS if installations.LACKS[installations.LZ4] not in read(one)]
    if not able or installations.has_lz4(embedded()):
        pytest.skip("there is no server with lz4, or none without")
    server = servers.get(able[-1])
    monkeypatch.setenv("PGRUNBOOK_PG_BINDIR", str(embedded().bindir))
    with server.copied("lz4", "template1"):
        server.run("lz4", "CREATE TABLE t (a text COMPRESSION lz4)", "INSERT INTO t VALUES (repeat('x', 9000))")
        monkeypatch.setenv("FAR", f"host={server.socket_dir} user=postgres dbname=lz4")
        far = Target(name="far", url_from="FAR")
        if rows:
            with data_branch.with_data(far, most_bytes=2**40) as copy, connect(copy.safe) as conn:
                assert conn.execute("SELECT length(a) FROM public.t").fetchone() == (9000,)
        else:
            with copy_schema(far) as schema, schema.branch() as branch, connect(branch) as conn:
                assert conn.execute("SELECT count(*) FROM public.t").fetchone() == (0,)


def read(version: int) -> bytes:
    return (PROGRAMS[version] / "postgres").read_bytes()


@pytest.fixture
def secured(servers: Servers, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A server that lets in over TLS with a password only; the keywords of its address, and a passfile."""
    if not OTHERS or shutil.which("openssl") is None:
        pytest.skip("the wheel's server is built without OpenSSL, or there is no openssl")
    folder = tmp_path / "tls"
    folder.mkdir()
    make = ["openssl", "req", "-new", "-x509", "-days", "2", "-nodes", "-subj", "/CN=localhost", "-addext"]
    make += ["subjectAltName=DNS:localhost", "-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    subprocess.run(make, check=True, capture_output=True)
    port = str(_free_port())
    server = servers.get(OTHERS[-1], listen_addresses="localhost", port=port)
    data = server.socket_dir / "data"
    for name in ("key", "cert"):
        shutil.copy(folder / name, data / name)
        (data / name).chmod(0o600)
        shutil.chown(data / name, data.owner(), data.group())
    (data / "pg_hba.conf").write_text("local all postgres trust\nhostssl all all all scram-sha-256\n")
    admin = {"host": str(server.socket_dir), "port": port, "user": "postgres", "dbname": "postgres"}
    with psycopg.connect(**admin, autocommit=True) as conn:  # type: ignore[arg-type]
        quoted = PASSWORD.replace("'", "''")
        conn.execute(f"SET password_encryption = 'scram-sha-256'; CREATE ROLE secured LOGIN PASSWORD '{quoted}'")
        for name, value in (("ssl", "on"), ("ssl_cert_file", "cert"), ("ssl_key_file", "key")):
            conn.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        conn.execute("SELECT pg_reload_conf()")
        conn.execute("CREATE DATABASE secured OWNER secured")
    passfile = tmp_path / "passfile"
    passfile.write_text(f"localhost:{port}:secured:secured:{PASSWORD}\n")
    passfile.chmod(0o600)
    yield {"host": "localhost", "port": port, "passfile": str(passfile), "sslrootcert": str(folder / "cert")}
    with psycopg.connect(**admin, autocommit=True) as conn:  # type: ignore[arg-type]
        conn.execute("DROP DATABASE secured WITH (FORCE)")
        conn.execute("DROP ROLE secured")


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize("programs", ["installed", "wheel"])
def test_a_target_behind_tls_is_copied(
    secured: dict[str, str], programs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """verify-full, scram and a passfile; with an installed pg_dump, and with the wheel's, which knows no TLS itself."""
    service = {**secured, "dbname": "secured", "user": "secured", "sslmode": "verify-full"}
    (tmp_path / "services").write_text("[shop]\n" + "".join(f"{name}={value}\n" for name, value in service.items()))
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    if programs == "wheel":
        monkeypatch.setenv("PGRUNBOOK_PG_BINDIR", str(installation().bindir))
    shop = Target(name="shop", service="shop")
    with connect(shop) as conn:
        conn.execute("CREATE TABLE public.t (id integer PRIMARY KEY)")
        assert conn.execute("SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone() == (True,)
    with copy_schema(shop) as schema, schema.branch() as branch, connect(branch) as conn:
        found = conn.execute("SELECT tableowner::text FROM pg_catalog.pg_tables WHERE tablename = 't'").fetchall()
        assert found == [("secured",)]
    (tmp_path / "services").write_text(
        "[shop]\n" + "".join(f"{name}={value}\n" for name, value in {**service, "sslrootcert": "/dev/null"}.items())
    )
    with pytest.raises(psycopg.Error):
        psycopg.connect("service=shop")


def _free_port() -> int:
    import socket

    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])
