"""A branch's server can neither execute a program, nor write outside of its folder, nor open a TCP connection."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from pgrunbook.branches import branch_server, confinement
from pgrunbook.branches.installations import Needs, for_target
from pgrunbook.branches.server import Server
from pgrunbook.errors import RunbookError, Unreachable
from servers import VERSIONS, Servers

pytestmark = pytest.mark.skipif(not confinement.is_there(), reason="this kernel has no Landlock")


@pytest.fixture(params=[(version, where) for version in VERSIONS for where in (None, 1)], ids=str)
def branch(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Server]:
    """A server of a branch, on the disk and in memory."""
    assert servers
    version, data_bytes = request.param
    with branch_server.new_server(for_target(Needs(version)), data_bytes=data_bytes) as server:
        branch_server.start_empty(server)
        yield server


# What a superuser may do to the machine, each by another door of PostgreSQL.
DOORS = (
    "COPY (SELECT 1) TO PROGRAM 'cat > {}'",
    "COPY pg_catalog.pg_am (amname) FROM PROGRAM 'echo x > {} && false'",
    "COPY (SELECT 1) TO '{}'",
    "DO $$ DECLARE made oid := lo_from_bytea(0, 'x'); BEGIN PERFORM lo_export(made, '{}'); END $$",
)


def opened(branch: Server, door: str) -> bool:
    """Tell whether a statement wrote a file outside of the server's folder."""
    outside = branch.dir.parent / "outside"
    outside.mkdir(exist_ok=True)
    outside.chmod(0o777)
    written = outside / "written"
    with branch.connect() as conn, suppress(psycopg.Error):
        conn.execute(door.format(written).encode())
    is_there = written.exists()
    written.unlink(missing_ok=True)
    return is_there


@pytest.mark.slow
@pytest.mark.first_case
def test_a_superuser_of_a_branch_does_nothing_to_the_machine(branch: Server) -> None:
    """Programs and files of others are refused by the system; and where it is not confined, each door is open."""
    assert [door for door in DOORS if opened(branch, door)] == []
    branch.stop()
    branch.is_confined = False
    branch.launch(more=branch_server.SETTINGS)
    assert [door for door in DOORS if opened(branch, door)] == list(DOORS)


@pytest.mark.first_case
def test_what_a_server_needs_goes_on_working(branch: Server) -> None:
    """Its own files, parallel workers, whole tables written anew, another database."""
    with branch.connect() as conn:
        conn.execute(f"COPY (SELECT 1) TO '{branch.dir}/log/own'")
        conn.execute("CREATE TABLE public.t AS SELECT i FROM generate_series(1, 300000) AS i")
        conn.execute("CREATE INDEX ON public.t (i)")
        conn.execute("SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0")
        conn.execute("SET min_parallel_table_scan_size = 0")
        (plan,) = conn.execute("EXPLAIN (ANALYZE, FORMAT JSON) SELECT count(*) FROM public.t").fetchone() or ("",)
        assert '"Workers Launched": 2' in json.dumps(plan)
        conn.execute("VACUUM FULL public.t")
        conn.execute("CHECKPOINT")
        conn.execute("CREATE DATABASE another")


@pytest.mark.slow
@pytest.mark.first_case
def test_a_process_of_a_branch_ends_no_other(branch: Server) -> None:
    """It keeps the confinement for good, and files that we opened for it are closed again here."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    branch.stop()
    branch.launch(more=branch_server.SETTINGS)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    with branch.connect() as conn:
        status = Path(f"/proc/{conn.info.backend_pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status


@pytest.mark.slow
def test_the_log_is_opened_by_the_account_of_the_server(branch: Server) -> None:
    """A link that somebody laid in its place leads root nowhere."""
    if branch.installation.account is None:
        pytest.skip("the server runs as we do")
    branch.stop()
    ours = branch.dir.parent / "ours"
    ours.write_text("ours")
    ours.chmod(0o600)
    branch.do("rm", "log/postgresql.log")
    branch.do("ln", "-s", str(ours), "log/postgresql.log")
    with pytest.raises(RunbookError):
        branch.launch(more=branch_server.SETTINGS)
    assert (ours.read_text(), ours.stat().st_uid) == ("ours", 0)
    branch.do("rm", "log/postgresql.log")


@pytest.mark.slow
@pytest.mark.first_case
def test_no_tcp_leaves_a_branch(branch: Server) -> None:
    """Whatever library tries: here dblink, with libpq's own doors open."""
    if confinement.version() < 4:
        pytest.skip("this kernel's Landlock knows no network")
    with socket.socket() as listening, branch.connect() as conn:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(0.2)
        try:
            conn.execute("CREATE EXTENSION dblink SCHEMA public")
        except psycopg.errors.UndefinedFile:
            pytest.skip("this server comes without dblink")
        address = f"host=127.0.0.1 hostaddr=127.0.0.1 port={listening.getsockname()[1]} connect_timeout=2"
        with pytest.raises(psycopg.Error, match="Permission denied"):
            conn.execute(f"SELECT public.dblink_connect('{address} ssl_min_protocol_version=TLSv1.2')".encode())
        with pytest.raises(TimeoutError):
            listening.accept()


@pytest.mark.slow
def test_a_server_that_does_not_start_says_why(servers: Servers) -> None:
    """The log is told, as with pg_ctl."""
    assert servers
    with branch_server.new_server() as server:
        branch_server.start_empty(server)
        server.stop()
        with pytest.raises(Unreachable) as caught:
            server.launch(more={"wal_level": "minimal"})
    assert caught.value.message.startswith("could not start server")
    assert "wal_level" in caught.value.detail
