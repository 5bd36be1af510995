"""Which PostgreSQL a branch runs on, and that a target behind TLS can be dumped with what pip installs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pgrunbook.branches import installations
from pgrunbook.branches.binaries import installation
from pgrunbook.branches.schema_branch import copy_schema
from pgrunbook.config.targets import Target
from pgrunbook.database.connection import connect
from pgrunbook.errors import WrongInput
from servers import PROGRAMS, VERSIONS, WHEEL, Servers, told_version

DEBIANS = [version for version in VERSIONS if version != WHEEL]
PASSWORD = "it's a p@ss"  # noqa: S105 - of a test's own server


@pytest.mark.parametrize("major", VERSIONS)
def test_a_branch_runs_on_the_targets_own_major(servers: Servers, major: int) -> None:
    """Where it is installed; the wheel's is one of them."""
    assert servers
    chosen = installations.for_target(major, ["plpgsql"])
    assert (chosen.major, chosen.version) == (major, told_version(PROGRAMS[major]))


def test_an_extension_decides(servers: Servers) -> None:
    """A newer major with it is better than the own one without; where none has it, the error says what to install."""
    assert servers
    with pytest.raises(WrongInput) as caught:
        installations.for_target(15, ["postgis", "plpgsql"])
    assert str(caught.value).splitlines()[0] == (
        "could not find an installation of PostgreSQL with postgis for the branches"
    )
    assert "apt: " not in caught.value.hint
    assert "apt" not in caught.value.detail
    assert "PGRUNBOOK_PG_BINDIR" in caught.value.hint
    with pytest.raises(WrongInput) as caught:
        installations.for_target(29, ["plpgsql"])
    assert caught.value.message == "could not find PostgreSQL 29 or newer for the branches of this target"


@pytest.mark.skipif(not DEBIANS, reason="there is no PostgreSQL but the wheel's")
def test_the_named_installation_is_used(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, whatever was used before."""
    assert servers
    first = installations.for_target(DEBIANS[0], [])
    monkeypatch.setenv("PGRUNBOOK_PG_BINDIR", str(PROGRAMS[WHEEL]))
    assert first.major == DEBIANS[0]
    assert installations.for_target(DEBIANS[0], []).major == WHEEL


@pytest.fixture
def secured(servers: Servers, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A server that lets in over TLS with a password only; the keywords of its address, and a passfile."""
    if not DEBIANS or shutil.which("openssl") is None:
        pytest.skip("the wheel's server is built without OpenSSL, or there is no openssl")
    folder = tmp_path / "tls"
    folder.mkdir()
    make = ["openssl", "req", "-new", "-x509", "-days", "2", "-nodes", "-subj", "/CN=localhost", "-addext"]
    make += ["subjectAltName=DNS:localhost", "-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    subprocess.run(make, check=True, capture_output=True)
    port = str(_free_port())
    server = servers.get(DEBIANS[-1], listen_addresses="localhost", port=port)
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
