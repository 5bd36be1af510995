"""Traffic on a branch while a plan is rehearsed there: it shows how each step would slow the application down.

1. For each touched table, the keys of up to 10,000 rows are copied to a table of schema pgrunbook.
2. pgbench reads and updates rows by these keys, three to one, at a steady rate. A transaction that has to
   wait is late, and those behind it become late as well, as in the application. So the latency is the time
   from when a transaction was due to when it was done.
3. An update sets a column to itself. Columns that the plan changes are not used: then what fails here would
   also fail in an application that is ready for the plan.
"""

from __future__ import annotations

import logging
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import class_row

from pgrunbook.branches.binaries import last_lines
from pgrunbook.branches.server import Server
from pgrunbook.config.targets import Target
from pgrunbook.database import connection, step_log
from pgrunbook.database.connection import TRAFFIC, Connection, connect
from pgrunbook.database.queries import load
from pgrunbook.errors import RunbookError, Unreachable

log = logging.getLogger(__name__)

CLIENTS = 4
READS, WRITES = 3, 1
KEYS = 10_000
MOST_TABLES = 60  # pgbench takes 128 scripts
LONGEST_S = 86_400
START_TIMEOUT_S, END_TIMEOUT_S = 10.0, 15.0
POLL_S, CATCH_UP_S = 0.02, 0.5
LIMITS = {"lock_timeout_ms": 10_000, "statement_timeout_ms": 600_000}
SESSION = "-c lock_timeout=600000 -c statement_timeout=600000 -c client_connection_check_interval=1000"


@dataclass(frozen=True)
class Latency:
    """A transaction: when it was due, in milliseconds since ``began``, and how long it took from then on."""

    at_ms: float
    ms: float


@dataclass
class Traffic:
    """The measurements of the traffic; empty until it has ended.

    ``latencies`` are in the order in which transactions were due; those that the server aborted (a deadlock)
    count as transactions only. ``failed`` says why pgbench, or one of its clients, ended early: a statement
    that would fail in an application, too; "" where none did.
    """

    latencies: tuple[Latency, ...] = ()
    transactions: int = 0
    failed: str = ""


@dataclass(frozen=True)
class _Table:
    schema: str
    name: str
    rows_estimate: float
    key: list[str] | None
    columns: list[str] | None
    writable: list[str] | None

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)


@dataclass(frozen=True)
class _Script:
    text: str
    weight: int


@contextmanager
def traffic(
    server: Server,
    target: Target,
    tables: Sequence[str],
    *,
    per_second: int,
    leave_columns: Mapping[str, Collection[str]],
    began: float,
) -> Iterator[Traffic]:
    """Run traffic against a branch while the body runs; the numbers are there afterwards.

    ``target`` is a database on ``server``. ``tables`` and the keys of ``leave_columns`` are named as SQL
    does (``public.orders``). Tables that do not exist, and all beyond the first 60, get no traffic; those
    without a key or without rows are only read. ``began`` is of ``time.monotonic``. Triggers fire for the
    updates.

    Raises Unreachable when pgbench cannot be started; nothing is raised when it ends early.
    """
    measured = Traffic()
    folder = f"traffic-{secrets.token_hex(4)}"
    made: list[sql.Identifier] = []
    try:
        with connect(target, purpose="makes traffic") as conn:
            connection.limit(conn, **LIMITS)
            scripts = _scripts(conn, tables, leave_columns, made)
        if not scripts:
            yield measured
            return
        server.do("mkdir", folder)
        for number, script in enumerate(scripts):
            server.write(f"{folder}/{number}.sql", script.text)
        with tempfile.TemporaryFile("w+") as said:
            process = _start(server, target, folder, scripts, per_second, said)
            try:
                _wait_for_it(target, process, said)
                yield measured
                time.sleep(CATCH_UP_S)  # transactions that waited until now are still late, and have to be measured
            finally:
                ended_early = process.poll() is not None
                _end(process)
                _read(server, folder, measured, began)
                measured.failed = _why(said, ended_early=ended_early)
    finally:
        server.do("rm", "-rf", folder)
        _drop(target, made)


def _scripts(
    conn: Connection, names: Sequence[str], leave_columns: Mapping[str, Collection[str]], made: list[sql.Identifier]
) -> list[_Script]:
    """Make the tables of keys, add their names to ``made``, and return the scripts for pgbench."""
    scripts: list[_Script] = []
    mark = secrets.token_hex(3)
    for name in list(dict.fromkeys(names))[:MOST_TABLES]:
        with conn.cursor(row_factory=class_row(_Table)) as cursor:
            table = cursor.execute(load("traffic")["tables"], {"table": name}).fetchone()
        if table is None:
            continue
        left = set(leave_columns.get(name, ()))
        keys = sql.Identifier("pgrunbook", f"load_{mark}_{len(made) + 1}")
        rows = 0
        if table.key and not left.intersection(table.key):
            made.append(keys)
            rows = _sample(conn, table, keys)
        if rows:
            scripts += _by_key(table, keys, rows, left)
        else:
            text = sql.SQL("SELECT 1 FROM {} LIMIT 1;\n").format(table.identifier)
            scripts.append(_Script(text.as_string(), READS))
    return scripts


def _sample(conn: Connection, table: _Table, keys: sql.Identifier) -> int:
    """Copy the keys of some rows, from all over the table; return how many."""
    columns = sql.SQL(", ").join(map(sql.Identifier, table.key or ()))
    step_log.create_schema(conn)
    # Sampled pages are read in their order: with a much larger sample, LIMIT would leave out the table's end.
    percent = 100 * 1.1 * KEYS / table.rows_estimate if table.rows_estimate > 2 * KEYS else 100
    conn.execute(
        sql.SQL(
            "CREATE TABLE {} AS SELECT pg_catalog.row_number() OVER ()::int AS pgrunbook_n, s.*"
            " FROM (SELECT {} FROM {} TABLESAMPLE SYSTEM ({}) LIMIT {}) AS s"
        ).format(keys, columns, table.identifier, sql.Literal(percent), sql.Literal(KEYS))
    )
    conn.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY (pgrunbook_n)").format(keys))
    conn.execute(sql.SQL("ANALYZE {}").format(keys))
    row = conn.execute(sql.SQL("SELECT pg_catalog.count(*) FROM {}").format(keys)).fetchone()
    return int(str(row[0])) if row else 0


def _by_key(table: _Table, keys: sql.Identifier, rows: int, left: set[str]) -> list[_Script]:
    key = table.key or []
    columns = sql.SQL(", ").join(map(sql.Identifier, key))
    where = sql.SQL("WHERE ({0}) = (SELECT {0} FROM {1} WHERE pgrunbook_n = :pgrunbook_n)").format(columns, keys)
    pick = sql.SQL(f"\\set pgrunbook_n random(1, {rows})\n")
    seen = sql.SQL(", ").join(sql.Identifier(c) for c in table.columns or () if c not in left)
    read = sql.SQL("{}SELECT {} FROM {} {};\n").format(pick, seen, table.identifier, where)
    scripts = [_Script(read.as_string(), READS)]
    for column in [c for c in table.writable or () if c not in left and c not in key][:1]:
        name = sql.Identifier(column)
        write = sql.SQL("{}UPDATE {} SET {} = {} {};\n").format(pick, table.identifier, name, name, where)
        scripts.append(_Script(write.as_string(), WRITES))
    return scripts


def _start(
    server: Server, target: Target, folder: str, scripts: Sequence[_Script], per_second: int, said: IO[str]
) -> subprocess.Popen[str]:
    address = make_conninfo(**{**target.conninfo(), "application_name": TRAFFIC, "options": SESSION})
    # Only with a duration does pgbench react to SIGALRM: it then finishes its transactions and its log.
    command = [str(server.program("pgbench")), "-n", "-M", "simple", "-c", str(CLIENTS), "-T", str(LONGEST_S)]
    command += ["-R", str(per_second), "-l", f"--log-prefix={folder}/log"]
    for number, script in enumerate(scripts):
        command += ["-f", f"{folder}/{number}.sql@{script.weight}"]
    account = server.installation.account
    log.info('starting traffic on server "%s": %s transactions a second', server.name, per_second)
    return subprocess.Popen(
        [*command, address],
        cwd=server.dir,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=said,
        text=True,
        env={"LC_ALL": "C", "TZ": "UTC"},
        umask=0o077,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
        start_new_session=True,  # Ctrl-C is for us: we end it in good order
    )


def _wait_for_it(target: Target, process: subprocess.Popen[str], said: IO[str]) -> None:
    """Wait until all clients are connected, or pgbench has ended already, which ``failed`` reports at the end."""
    query = "SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE application_name = %s"
    ends_at = time.monotonic() + START_TIMEOUT_S
    with connect(target, purpose="makes traffic") as conn:
        while process.poll() is None:
            if conn.execute(query, [TRAFFIC]).fetchone() == (CLIENTS,):
                return
            if time.monotonic() > ends_at:
                raise Unreachable(
                    f"could not start traffic in {START_TIMEOUT_S:.0f} s",
                    detail=_why(said, ended_early=False) or "pgbench did not connect.",
                    hint="Rehearse again, or without traffic.",
                )
            time.sleep(POLL_S)


def _end(process: subprocess.Popen[str]) -> None:
    """Let pgbench finish its transactions and its log."""
    if process.poll() is None:
        process.send_signal(signal.SIGALRM)
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        log.warning("pgbench did not end within %.0f s: killed, and the end of its log is lost", END_TIMEOUT_S)
        process.kill()
        process.wait()


def _read(server: Server, folder: str, measured: Traffic, began: float) -> None:
    """Read pgbench's log: client, number, latency in us (or why there is none), script, and when it ended.

    Source: https://www.postgresql.org/docs/current/pgbench.html (Per-Transaction Logging)
    """
    offset_s = time.time() - time.monotonic() + began
    found = []
    for path in (server.dir / folder).glob("log.*"):
        for line in path.read_text(encoding="ascii").splitlines():
            words = line.split()
            if len(words) < 6:
                continue  # cut off, where it was killed
            measured.transactions += 1
            if words[2].isdigit():
                ms = int(words[2]) / 1000
                ended_ms = (int(words[4]) + int(words[5]) / 1_000_000 - offset_s) * 1000
                found.append(Latency(at_ms=round(ended_ms - ms, 3), ms=ms))
    measured.latencies = tuple(sorted(found, key=lambda latency: latency.at_ms))


def _why(said: IO[str], *, ended_early: bool) -> str:
    """Return what ended pgbench or a client of it, "" where nothing did."""
    said.seek(0)
    text = said.read()
    lines = [line for line in text.splitlines() if "aborted" in line or "ERROR:" in line or "error:" in line]
    return last_lines("\n".join(lines) or text) or "pgbench ended early." if lines or ended_early else ""


def _drop(target: Target, made: Sequence[sql.Identifier]) -> None:
    if not made:
        return
    try:
        with connect(target, purpose="makes traffic") as conn:
            connection.limit(conn, **LIMITS)
            for keys in made:
                conn.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(keys))
    except (psycopg.Error, RunbookError) as exc:
        log.warning("could not drop the tables of keys for traffic in schema pgrunbook of the branch: %s", exc)
