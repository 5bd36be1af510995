"""Batches that do not wait for the disk: only where nobody else is at work, and never behind the end of the loop."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import psycopg
import pytest

from pgrunbook.database.connection import Connection
from pgrunbook.online.batches import BatchProgress, run_batches
from pgrunbook.online.brakes import Brakes
from pgrunbook.online.throttle import Throttle, ThrottleGoals
from pgrunbook.plan.step import Batches
from servers import ADMINISTRATION, Server, Servers

ROWS = 300
A_STANDBY = {"synchronous_standby_names": "s", "synchronous_commit": "local"}  # or else no session would go on
PLUS_ONE = Batches(
    schema="public", table="t", alias="t", statement="UPDATE t SET c = t.c + 1 WHERE pgrunbook_range",
    key=("id",), key_types=("integer",), rows=30,
)  # fmt: skip
TELLS = replace(PLUS_ONE, statement="UPDATE t SET told = current_setting('synchronous_commit') WHERE pgrunbook_range")
SLOW_WRITER = {"wal_writer_delay": "10s", "wal_writer_flush_after": "1GB"}  # so that a crash takes back what it may


@dataclass
class Crashing:
    """A table on a server that one may crash."""

    servers: Servers
    server: Server
    database: str

    def connect(self) -> Connection:
        """Begin a session."""
        conn = self.server.connect(self.database)
        assert isinstance(conn, Connection)
        return conn

    def crash(self) -> None:
        """Stop the server at once, as kill -9 would, and start it again."""
        control = [self.server.programs / "pg_ctl", "-D", self.server.socket_dir / "data", "-w"]
        self.servers._run(*control, "-m", "immediate", "stop")
        self.servers._run(*control, "-l", self.server.socket_dir / "log", "start", "-o", self._options)

    @property
    def _options(self) -> str:
        lines = (self.server.socket_dir / "data" / "postmaster.opts").read_text().split('"')
        return " ".join(word for word in lines[1::2])

    def found(self) -> tuple[int, int, int]:
        """Return the batches and rows that the progress tells, and the rows that are changed."""
        with self.connect() as conn:
            told = conn.execute(
                "SELECT coalesce(sum(batches), 0)::int, coalesce(sum(rows), 0)::int FROM pgrunbook.batch"
            )
            ((batches, rows),) = told.fetchall()
            ((changed,),) = conn.execute("SELECT count(*) FROM t WHERE c = 1").fetchall()
        return int(str(batches)), int(str(rows)), int(str(changed))


@pytest.fixture
def crashing(servers: Servers, version: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crashing]:
    """A table whose loop is alone."""
    server, database = servers.get(version, **SLOW_WRITER), f"crashing_{os.getpid()}"
    server.make(database)
    rows = f"INSERT INTO t SELECT i, 0 FROM generate_series(1, {ROWS}) AS i"
    server.run(database, "CREATE TABLE t (id integer PRIMARY KEY, c integer, told text)", rows)
    monkeypatch.setattr(Brakes, "is_alone", lambda _: True)
    yield Crashing(servers, server, database)
    server.made.pop(ADMINISTRATION).close()  # the crash has ended it
    server.administer(f"DROP DATABASE {database} WITH (FORCE)")


def throttle(conn: Connection) -> Throttle:
    """A throttle whose batches stay small."""
    ((table,),) = conn.execute("SELECT 't'::regclass::oid::int").fetchall()
    return Throttle(conn, int(str(table)), ThrottleGoals(most_rows=30), rows=30)


@pytest.mark.parametrize(
    ("alone", "given", "told"),
    [(True, {}, "off"), (False, {}, "on"), pytest.param(True, A_STANDBY, "local", marks=pytest.mark.slow)],
)
@pytest.mark.newest
def test_it_waits_for_the_disk_where_others_are_at_work_or_standbys_are_to_be_waited_for(
    servers: Servers, version: int, monkeypatch: pytest.MonkeyPatch, alone: bool, given: dict[str, str], told: str
) -> None:
    """Where the caller does not allow for a crash it always does."""
    server, database = servers.get(version, **given), f"waiting_{os.getpid()}"
    monkeypatch.setattr(Brakes, "is_alone", lambda _: alone)
    server.make(database)
    rows = f"INSERT INTO t SELECT i, 0 FROM generate_series(1, {ROWS}) AS i"
    server.run(database, "CREATE TABLE t (id integer PRIMARY KEY, c integer, told text)", rows)
    try:
        with server.connect(database) as conn:
            assert isinstance(conn, Connection)
            run_batches(conn, TELLS, resume_from="throttled", throttle=throttle(conn), late=True)
            assert conn.execute("SELECT DISTINCT told FROM t").fetchall() == [(told,)]
            run_batches(conn, TELLS, resume_from="not allowed", throttle=throttle(conn))
            assert conn.execute("SELECT DISTINCT told FROM t").fetchall() == [("on" if told == "off" else told,)]
    finally:
        server.administer(f"DROP DATABASE {database} WITH (FORCE)")


@pytest.mark.slow
def test_a_crash_in_the_middle_takes_back_whole_batches(crashing: Crashing) -> None:
    """The progress tells what is there, and the loop goes on behind it: each row is changed once."""
    done: list[BatchProgress] = []

    def on_batch(progress: BatchProgress) -> None:
        done.append(progress)
        if len(done) == 5:
            crashing.crash()

    with crashing.connect() as conn, pytest.raises(psycopg.OperationalError):
        run_batches(conn, PLUS_ONE, resume_from="loop", throttle=throttle(conn), late=True, on_batch=on_batch)
    batches, rows, changed = crashing.found()
    assert batches <= 5
    assert rows == changed == 30 * batches
    with crashing.connect() as conn:
        assert run_batches(conn, PLUS_ONE, resume_from="loop", throttle=throttle(conn), late=True).rows == ROWS
    assert crashing.found() == (10, ROWS, ROWS)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["done", "to go on later", "a row is refused"])
def test_behind_its_end_a_crash_takes_nothing_back(crashing: Crashing, end: str) -> None:
    """However the loop ends: what it told is on the disk."""
    with crashing.connect() as conn:
        if end == "a row is refused":
            conn.execute("ALTER TABLE t ADD CHECK (id <> 200 OR c = 0)")
            with pytest.raises(psycopg.errors.CheckViolation):
                run_batches(conn, PLUS_ONE, resume_from="loop", throttle=throttle(conn), late=True)
        else:
            most = None if end == "done" else 4
            run_batches(conn, PLUS_ONE, resume_from="loop", throttle=throttle(conn), late=True, most_batches=most)
        crashing.crash()
    assert crashing.found() == {
        "done": (10, ROWS, ROWS), "to go on later": (4, 120, 120), "a row is refused": (6, 180, 180),
    }[end]  # fmt: skip
