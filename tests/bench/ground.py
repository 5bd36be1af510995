"""The ground that everything is measured on: one embedded server in a temporary state directory, fsync on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from psycopg import sql

from pgrunbook.branches import backup
from pgrunbook.branches.server import Server
from pgrunbook.branches.server_name import server_names
from pgrunbook.config import paths
from pgrunbook.database.connection import Connection

ROOT = Path(__file__).parents[2]
DATABASE = "bench"
EMPTY = "bench_empty"


@dataclass(frozen=True)
class Ground:
    """A folder for generated files, and a running server."""

    folder: Path
    server: Server

    @contextmanager
    def session(self, purpose: str = "bench") -> Iterator[Connection]:
        """Give a session of the database, in which names mean what they mean to an application."""
        with self.server.connect(purpose=purpose, database=DATABASE) as conn, conn.as_target():
            yield conn

    def new_database(self) -> None:
        """Make the database anew as a clone of the empty one, and let the server settle."""
        with self.server.connect(purpose="bench") as conn:
            conn.execute("SET statement_timeout = '60s'")
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(DATABASE)))
            conn.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(DATABASE), sql.Identifier(EMPTY))
            )
            conn.execute("CHECKPOINT")

    @contextmanager
    def autovacuum_off(self) -> Iterator[None]:
        """Keep autovacuum away, so that nothing changes the statistics while the body measures."""
        with self.server.connect(purpose="bench") as conn:
            conn.execute("ALTER SYSTEM SET autovacuum = off")
            conn.execute("SELECT pg_reload_conf()")
            try:
                yield
            finally:
                conn.execute("ALTER SYSTEM RESET autovacuum")
                conn.execute("SELECT pg_reload_conf()")

    @contextmanager
    def with_room(self) -> Iterator[None]:
        """Let the tables that are measured fit into shared buffers, and WAL be as PostgreSQL's default writes it."""
        settings = {"shared_buffers": "2GB", "wal_compression": "off"}
        self._set_and_restart([f"SET {name} = '{value}'" for name, value in settings.items()])
        try:
            yield
        finally:
            self._set_and_restart([f"RESET {name}" for name in settings])

    def _set_and_restart(self, changes: list[str]) -> None:
        with self.server.connect(purpose="bench") as conn:
            for change in changes:
                conn.execute(f"ALTER SYSTEM {change}".encode())
        self.server.stop()
        self.server.start()

    def checkpoint(self) -> None:
        """Let the server write to the disk what it has in memory."""
        with self.server.connect(purpose="bench") as conn:
            conn.execute("SET statement_timeout = '600s'")
            conn.execute("CHECKPOINT")

    def settle(self) -> None:
        """Give the database the statistics that autovacuum would give it in time."""
        with self.session() as conn:
            conn.execute("SET statement_timeout = '60s'")
            conn.execute("VACUUM ANALYZE")

    def count(self, query: str) -> int:
        """Return the number that a query finds in the database."""
        with self.session() as conn:
            row = conn.execute(query.encode()).fetchone()
        return int(str(row[0])) if row else 0


@contextmanager
def state(folder: Path, targets: Path) -> Iterator[None]:
    """Let pgrunbook keep its servers and runs in a folder; its servers are gone afterwards."""
    meant = {
        "PGRUNBOOK_HOME": str(ROOT),
        "PGRUNBOOK_STATE": str(folder / "state"),
        "PGRUNBOOK_OUTPUTS": str(folder / "outputs"),
        "PGRUNBOOK_TARGETS": str(targets),
        "PGRUNBOOK_SERVER_FSYNC": "on",
    }
    before = dict(os.environ)
    os.environ.update(meant)
    os.environ.pop("PGRUNBOOK_RUNNER", None)
    try:
        yield
    finally:
        for name in server_names():
            Server(name).destroy()
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def temporary() -> Iterator[Path]:
    """Give a temporary folder that the server's account may enter."""
    with tempfile.TemporaryDirectory(prefix="pgrunbook-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@contextmanager
def ground(folder: Path, targets: Path) -> Iterator[Ground]:
    """Give a running server with an empty database to clone and a base backup, which restore points need."""
    with state(folder, targets):
        server = Server("main")
        server.start()
        with server.connect(purpose="bench") as conn:
            conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(EMPTY)))
        backup.take_base_backup(server)
        yield Ground(folder, server)


def socket_dir() -> str:
    """Return the directory of the server's socket, for the peers."""
    return str(paths.socket_dir("main"))


def version(package: str) -> str:
    """Return the version of an installed package."""
    return metadata.version(package)
