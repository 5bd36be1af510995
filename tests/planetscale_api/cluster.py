"""The servers behind the API: made, backed up, restored, and reached over TLS on addresses of their own."""

from __future__ import annotations

import functools
import secrets
import shutil
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from psycopg import sql

from pgrunbook.branches import binaries

ADMIN = "pscale_admin"  # the superuser, as which no customer logs in
OWNER = "postgres"  # what customers' roles inherit; no superuser
MOST = 120
SETTINGS = """
unix_socket_directories = '{folder}'
listen_addresses = '{host}'
port = 5432
ssl = on
ssl_cert_file = 'cert'
ssl_key_file = 'key'
password_encryption = 'scram-sha-256'
fsync = off
shared_buffers = '16MB'
max_wal_size = '256MB'
wal_level = replica
archive_mode = on
archive_command = 'cp %p ../archive/%f'
"""
RESTORE = """
restore_command = 'cp {archive}/%f %p'
recovery_target_action = promote
"""


@functools.cache
def network() -> str:
    """Return the first three numbers of this process's loopback addresses: no two servers share one."""
    return f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250) + 1}"


def certificate(folder: Path) -> None:
    """Make a certificate for all addresses."""
    names = ",".join(f"IP:{network()}.{number}" for number in range(1, MOST + 1))
    make = ["openssl", "req", "-new", "-x509", "-days", "2", "-nodes", "-subj", "/CN=horizon", "-newkey", "ec"]
    make += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-addext", f"subjectAltName={names}"]
    make += ["-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    subprocess.run(make, check=True, capture_output=True)


class Cluster:
    """One server, in a folder of its own."""

    def __init__(self, root: Path, number: int) -> None:
        self.root, self.dir = root, root / f"b{number}"
        self.host = f"{network()}.{number}"
        self.postgres = binaries.installation()

    def make(self) -> None:
        """Make an empty one, with the role that owns everything, and start it."""
        self._folders()
        self._do("cp", "-a", str(self._template()), "data")
        self.start()
        with self.admin() as conn:
            conn.execute(f"CREATE ROLE {OWNER} NOLOGIN CREATEDB CREATEROLE")
            conn.execute(f"GRANT pg_monitor, pg_read_all_data, pg_write_all_data, pg_signal_backend TO {OWNER}")
            conn.execute(f"ALTER DATABASE postgres OWNER TO {OWNER}")

    def start(self, more: str = "", *, listens: bool = True) -> None:
        """Start it; where it does not listen, only we get in."""
        host = self.host if listens else ""
        self._do("tee", "data/provider.conf", text=SETTINGS.format(folder=self.dir, host=host) + more)
        for name in ("key", "cert"):
            self._do("tee", f"data/{name}", text=(self.root / name).read_text())
            self._do("chmod", "600", f"data/{name}")
        self._do("tee", "data/pg_hba.conf", text=f"local all {ADMIN} trust\nlocal replication {ADMIN} trust\n"
                 "hostssl all all all scram-sha-256\n")  # fmt: skip
        self._program("pg_ctl", "-D", "data", "-w", "-l", "log", "-s", "start")

    def destroy(self) -> None:
        """Stop it at once, and remove its files."""
        if (self.dir / "data" / "postmaster.pid").exists():
            self._program("pg_ctl", "-D", "data", "-m", "immediate", "-w", "-s", "stop")
        shutil.rmtree(self.dir, ignore_errors=True)

    def stop(self) -> None:
        """Stop it; nothing is removed."""
        self._program("pg_ctl", "-D", "data", "-m", "fast", "-w", "-s", "stop")

    def admin(self) -> psycopg.Connection[tuple[object, ...]]:
        """Connect as the superuser."""
        return psycopg.connect(host=str(self.dir), user=ADMIN, dbname="postgres", autocommit=True)

    def back_up(self, backup_id: str) -> int:
        """Take a base backup; return its size in bytes."""
        where = f"backups/{backup_id}"
        self._program("pg_basebackup", "-D", where, "-X", "fetch", "-c", "fast", "-h", str(self.dir), "-U", ADMIN)
        return sum(file.stat().st_size for file in (self.dir / where).rglob("*") if file.is_file())

    def restore(self, source: Cluster, backup_id: str, at: datetime | None) -> None:
        """Become what a server was when a backup ended, or at a later moment."""
        self._folders()
        with source.admin() as conn:
            conn.execute("SELECT pg_current_xact_id()")
            (name,) = conn.execute("SELECT pg_walfile_name(pg_current_wal_insert_lsn())").fetchone() or ("",)
            conn.execute("SELECT pg_switch_wal()")
        ends_at = time.monotonic() + 30
        while not (source.dir / "archive" / str(name)).exists():
            assert time.monotonic() < ends_at, "the WAL is not archived"
            time.sleep(0.02)
        self._do("cp", "-a", str(source.dir / "backups" / backup_id), "data")
        self._do("touch", "data/recovery.signal")
        aim = f"recovery_target_time = '{at.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}+00'" if at else \
            "recovery_target = 'immediate'"  # fmt: skip
        self.start(RESTORE.format(archive=source.dir / "archive") + aim + "\n")
        with self.admin() as conn:
            while conn.execute("SELECT pg_is_in_recovery()").fetchone() == (True,):
                time.sleep(0.05)

    def create_role(self, name: str, password: str, until: datetime | None, inherits: list[str]) -> None:
        """Make a role that may log in."""
        words = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} VALID UNTIL {}{}").format(
            sql.Identifier(name),
            sql.Literal(password),
            sql.Literal(until.isoformat() if until else "infinity"),
            sql.SQL(" IN ROLE {}").format(sql.SQL(", ").join(map(sql.Identifier, inherits)))
            if inherits
            else sql.SQL(""),
        )
        with self.admin() as conn:
            conn.execute(words)

    def change_role(self, name: str, *, password: str | None = None, until: datetime | None = None) -> None:
        """Give a role another password, or another end."""
        role = sql.Identifier(name)
        with self.admin() as conn:
            if password is not None:
                conn.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(role, sql.Literal(password)))
            if until is not None:
                conn.execute(sql.SQL("ALTER ROLE {} VALID UNTIL {}").format(role, sql.Literal(until.isoformat())))

    def drop_role(self, name: str, successor: str | None) -> None:
        """Drop a role; what it owns goes to a successor. Raises psycopg.Error where it owns something, and has none."""
        role = sql.Identifier(name)
        with self.admin() as conn:
            conn.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(role))
            conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [name])
            databases = [str(row[0]) for row in conn.execute("SELECT datname FROM pg_database WHERE datallowconn")]
            if successor:
                for database in databases:
                    with psycopg.connect(host=str(self.dir), user=ADMIN, dbname=database, autocommit=True) as there:
                        there.execute(sql.SQL("REASSIGN OWNED BY {} TO {}").format(role, sql.Identifier(successor)))
                        there.execute(sql.SQL("DROP OWNED BY {}").format(role))
            conn.execute(sql.SQL("DROP ROLE {}").format(role))

    def schema(self, database: str, schema: str) -> list[tuple[str, str]]:
        """Return the tables of a schema, each with what pg_dump says of it."""
        with psycopg.connect(host=str(self.dir), user=ADMIN, dbname=database, autocommit=True) as conn:
            names = conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY 1", [schema])
            tables = [str(row[0]) for row in names]
        dump = ("pg_dump", "-s", "-h", str(self.dir), "-U", ADMIN, "-d", database, "-t")
        return [(name, self._program(*dump, f'"{schema}"."{name}"')) for name in tables]

    def _template(self) -> Path:
        ready = self.root / "template"
        if not ready.is_dir():
            options = ("-A", "trust", "-U", ADMIN, "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
            self._program("initdb", *options, "-D", str(ready))
            self._do("tee", "-a", str(ready / "postgresql.conf"), text="\ninclude 'provider.conf'\n")
        return ready

    def _folders(self) -> None:
        self.dir.mkdir(mode=0o700)
        if account := self.postgres.account:
            shutil.chown(self.dir, account.uid, account.gid)
        self._do("mkdir", "archive", "backups")

    def _program(self, name: str, *args: str) -> str:
        command = [str(self.postgres.program(name)), *args]
        return binaries.run_checked(self.postgres.account, command, cwd=self.dir).stdout

    def _do(self, *command: str, text: str = "") -> None:
        binaries.run_checked(self.postgres.account, list(command), cwd=self.dir, text=text)
