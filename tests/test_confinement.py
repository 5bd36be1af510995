"""A branch's server can neither execute a program, nor write outside of its folder, nor open a TCP connection."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pgrunbook.branches import branch_server, confinement
from pgrunbook.branches.installations import for_target
from pgrunbook.branches.server import Server
from pgrunbook.errors import Unreachable
from servers import VERSIONS, Servers

pytestmark = pytest.mark.skipif(not confinement.is_there(), reason="this kernel has no Landlock")


@pytest.fixture(params=VERSIONS)
def branch(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Server]:
    """A server of a branch."""
    assert servers
    with branch_server.new_server(for_target(request.param, [])) as server:
        branch_server.start_empty(server)
        yield server


def test_a_superuser_of_a_branch_does_nothing_to_the_machine(branch: Server, tmp_path: Path) -> None:
    """Programs, files of others, connections: refused by the system; what a server needs goes on working."""
    open_folder = branch.dir.parent / "open"
    open_folder.mkdir(exist_ok=True)
    open_folder.chmod(0o777)
    written = open_folder / "written"
    with branch.connect() as conn:
        for statement in (
            f"COPY (SELECT 1) TO PROGRAM 'touch {written}'",
            f"COPY pg_catalog.pg_am (amname) FROM PROGRAM 'echo > {written}'",
            f"COPY (SELECT 1) TO '{written}'",
            f"SELECT lo_export(lo_from_bytea(0, 'x'), '{written}')",
            f"DO $$ BEGIN PERFORM lo_export(lo_from_bytea(0, 'x'), '{tmp_path}/written'); END $$",
        ):
            with pytest.raises(psycopg.Error):
                conn.execute(statement.encode())
        conn.execute(f"COPY (SELECT 1) TO '{branch.dir}/log/own'")
        conn.execute(
            "CREATE TABLE public.t AS SELECT i FROM generate_series(1, 300000) AS i; CREATE INDEX ON public.t (i)"
        )
        conn.execute(
            "SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0; SET min_parallel_table_scan_size = 0"
        )
        assert conn.execute("SELECT count(*) FROM public.t").fetchone() == (300_000,)
        conn.execute("VACUUM FULL public.t")
        conn.execute("CHECKPOINT")
        conn.execute("CREATE DATABASE another")
    assert not written.exists()
    assert not (tmp_path / "written").exists()


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
        with pytest.raises(psycopg.Error):
            conn.execute(f"SELECT public.dblink_connect('{address} ssl_min_protocol_version=TLSv1.2')".encode())
        with pytest.raises(TimeoutError):
            listening.accept()


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
