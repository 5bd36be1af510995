"""Online changes with bad input, on real servers: the traffic goes on, and one command takes all of ours away.

Which of them are asked elsewhere: rows that the server refuses, words that mean nothing and triggers that raise in
``test_backfill`` and ``test_online_backfill``; shapes and keys in ``test_swap_table``; conversions and the cut-over of
a change of type in ``test_shadow_execution``; keys and lists of a rollout in ``test_rollout``.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from acting import error, run, wait_until
from pgrunbook.record.run import Run, Status
from servers import Server, Servers

ORDERS = """
CREATE TABLE public.orders (id int PRIMARY KEY, total numeric(12,2), note text, cents bigint);
INSERT INTO orders SELECT i, i / 10.0, 'n' || i, NULL FROM generate_series(1, 20000) AS i;
CREATE TABLE public.other (id int PRIMARY KEY, n int);
INSERT INTO other VALUES (1, 0);
ANALYZE orders
"""
FILL = {"table": "orders", "fill": '{"cents": "round(total * 100)"}'}
OURS = """
SELECT tgname::text AS name FROM pg_trigger WHERE tgname ~ 'pgrunbook'
UNION SELECT proname FROM pg_proc
      WHERE pronamespace = to_regnamespace('pgrunbook') AND proname <> 'refuse_ledger_change'
UNION SELECT relname FROM pg_class
      WHERE relnamespace = to_regnamespace('pgrunbook') AND relkind = 'r'
        AND relname ~ '^(new|log|old|swap|changes)_[0-9a-f]|^t[0-9]'
"""
COMMAND = re.compile(r"pgrunbook run (\w+) --target demo((?: -p \S+)*)")
MEGABYTES = 24


@dataclass
class Place:
    """A database of a test on a server, as target ``demo``."""

    server: Server
    database: str
    folder: Path
    options: dict[str, object] = field(default_factory=dict)

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        """Run a statement of the application, in a session of its own."""
        with self.server.connect(self.database) as conn:
            cursor = conn.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def declare(self, **options: object) -> None:
        """Write targets.toml with these options."""
        lines = [f"{name} = {value}" for name, value in {"restore_points": "false", **options}.items()]
        text = '[demo]\nurl_from = "PLACE_URL"\nmigrations = "migrations"\n' + "\n".join(lines) + "\n"
        (self.folder / "targets.toml").write_text(text)

    @contextmanager
    def holding(self, statement: str) -> Iterator[None]:
        """Hold a transaction open that has executed a statement."""
        with self.server.connect(self.database) as conn:
            conn.execute(f"BEGIN; {statement}".encode())
            yield
            conn.execute("ROLLBACK")

    @property
    def left(self) -> list[str]:
        """What is left of ours on the tables of the application, and beside them."""
        return sorted(str(name) for (name,) in self.sql(OURS))


class Traffic:
    """One who reads and writes small transactions until it is over, and notes each error."""

    def __init__(self, place: Place, statement: str = "UPDATE orders SET note = note WHERE id = %s") -> None:
        self.place, self.statement, self.errors, self.done, self.longest_s = place, statement, list[str](), 0, 0.0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._work)

    def __enter__(self) -> Traffic:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join(timeout=60)

    def _work(self) -> None:
        with self.place.server.connect(self.place.database) as conn:
            while not self.over.is_set():
                began = time.monotonic()
                try:
                    conn.execute("SELECT total FROM orders WHERE id = %s", [self.done % 20_000])
                    conn.execute(self.statement.encode(), [self.done % 20_000])
                except psycopg.Error as exc:
                    self.errors.append(str(exc))
                self.done, self.longest_s = self.done + 1, max(self.longest_s, time.monotonic() - began)
                time.sleep(0.01)

    def went_on(self) -> bool:
        """Tell whether nobody saw an error, or waited for long, and whether there was any traffic."""
        assert (self.errors, self.done > 10) == ([], True)
        return self.longest_s < 5


@pytest.fixture
def place(server: Server, database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A database with a table of twenty thousand rows, on each version."""
    return _placed(server, database(ORDERS), tmp_path, monkeypatch)


def _placed(server: Server, database: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    (folder / "migrations").mkdir(exist_ok=True)
    monkeypatch.setenv("PLACE_URL", f"postgresql://postgres@/{database}?host={server.socket_dir}")
    monkeypatch.setenv("PGRUNBOOK_TARGETS", str(folder / "targets.toml"))
    monkeypatch.setenv("PGRUNBOOK_OUTPUTS", str(folder / "outputs"))
    made = Place(server, database, folder)
    made.declare()
    return made


@pytest.fixture
def small_disk(place: Place) -> Iterator[Path]:
    """A disk of some megabytes, as a tablespace; skipped where nobody may mount one."""
    folder = place.server.socket_dir / f"small_{place.database}"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("it takes root to mount a small disk")
    try:
        owner = place.server.socket_dir.stat()
        os.chown(folder, owner.st_uid, owner.st_gid)
        name = f"small_{place.database}"
        place.server.administer(f"CREATE TABLESPACE {name} LOCATION '{folder}'")
        place.sql(f"ALTER TABLE orders SET TABLESPACE {name}")
        yield folder
        place.server.administer(f"DROP DATABASE {place.database} WITH (FORCE)", f"CREATE DATABASE {place.database}",
                                f"DROP TABLESPACE {name}")  # fmt: skip
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


def take_away(told: str) -> Run:
    """Run the one command that an error names; all of ours is gone behind it."""
    found = COMMAND.findall(told)
    assert found, told
    name, options = found[-1]
    given = dict(word.split("=", 1) for word in shlex.split(options) if word != "-p")
    made, code = run(name, **{key: value.rstrip(".") for key, value in given.items()})
    assert (made.status, code) == (Status.DONE, 0), error(made)
    return made


def failed(place: Place, runbook: str, **given: str) -> str:
    """Run what has to fail, beside traffic that goes on; return the error, which names the state and the command."""
    with Traffic(place) as traffic:
        made, code = run(runbook, **given)
        assert (made.status, code) == (Status.FAILED, 1), error(made)
    assert traffic.went_on()
    return error(made)


@pytest.mark.slow
@pytest.mark.every_version
def test_old_snapshot_that_never_ends_ends_the_patience_of_a_backfill(place: Place) -> None:
    """It is named with its session; nothing is written, and one command takes the trigger away beside it."""
    with place.holding("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM other"):
        time.sleep(1.1)
        told = failed(place, "backfill", **FILL, max_transaction_age_s="1", patience_s="1")
        assert told.startswith("batches have waited for 1 s, because an old transaction keeps dead rows\nDetail: ")
        assert "State: 0 rows are filled and committed; its trigger is there." in told
        take_away(told)
        assert place.left == []
    assert place.sql("SELECT count(*) FROM orders WHERE cents IS NOT NULL AND id > 5000") == [(0,)]  # no batch


@pytest.mark.slow
@pytest.mark.every_version
def test_trigger_of_a_backfill_never_gets_its_lock(place: Place) -> None:
    """A writer that is idle in its transaction: it is named, nobody waits behind us, nothing is there."""
    place.declare(attempts=2, lock_patience_ms=200, lock_timeout_ms=200)
    with place.holding("UPDATE orders SET note = 'held' WHERE id = 20000"):
        told = failed(place, "backfill", **FILL)
        assert told.startswith("could not install its trigger on public.orders in 2 attempts\n")
        assert "State: Nothing changed in the database." in told
        assert place.left == []
    take_away(told)


@pytest.mark.slow
@pytest.mark.every_version
@pytest.mark.parametrize("has_undo_data", ["false", "true"])
def test_trigger_of_a_backfill_is_not_let_go(place: Place, has_undo_data: str) -> None:
    """A reader that never ends holds the table at the end: all rows are filled, and the trigger fills on."""
    place.declare(attempts=2, lock_patience_ms=200, lock_timeout_ms=200)
    holder = place.server.connect(place.database)

    def hold() -> None:
        wait_until(lambda: place.sql("SELECT to_regclass('pgrunbook.batch') IS NOT NULL") == [(True,)])
        wait_until(lambda: place.sql("SELECT count(*) > 0 FROM pgrunbook.batch") == [(True,)])
        holder.execute("BEGIN; SELECT count(*) FROM orders")

    with holder:
        thread = threading.Thread(target=hold)
        thread.start()
        told = failed(place, "backfill", **FILL, undo_data=has_undo_data, most_batch_rows="500")
        thread.join(timeout=60)
        assert told.startswith("could not take its trigger from public.orders in 2 attempts\n")
        assert "All rows are filled and committed" in told
        assert place.sql("SELECT count(*) FROM orders WHERE cents IS DISTINCT FROM round(total * 100)") == [(0,)]
        holder.execute("ROLLBACK")
    take_away(told)
    assert place.left == []
    whole = 0 if has_undo_data == "true" else 20_000
    assert place.sql("SELECT count(cents) FROM orders") == [(whole,)]


@pytest.mark.slow
@pytest.mark.every_version
@pytest.mark.parametrize("has_undo_data", ["false", "true"])
def test_trigger_of_the_application_that_raises_in_the_middle(place: Place, has_undo_data: str) -> None:
    """The row is named; one command takes away what is ours, with undo data also what was filled."""
    place.sql("""
        CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF new.id = 15000 AND new.cents IS DISTINCT FROM old.cents THEN RAISE 'not this one'; END IF; RETURN new;
        END $$;
        CREATE TRIGGER no BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION no()
    """)
    with Traffic(place, "UPDATE other SET n = %s") as traffic:
        made, code = run("backfill", **FILL, undo_data=has_undo_data)
        told = error(made)
        assert (made.status, code) == (Status.FAILED, 1), told
    assert traffic.went_on()
    assert told.startswith(
        "could not fill a row of public.orders: not this one\nDetail: It is the row id = 15000.\nState: "
    )
    take_away(told)
    assert place.left == []
    (filled,) = place.sql("SELECT count(cents) FROM orders")[0]
    assert (filled == 0) is (has_undo_data == "true")


@pytest.mark.slow
@pytest.mark.every_version
def test_disk_is_full_in_a_backfill(place: Place, small_disk: Path) -> None:
    """What is committed stays, others work on, and one command gives up; with room the same run would go on."""
    place.sql("ALTER TABLE orders ADD COLUMN label text")  # no room on any page is enough for it
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        stats = os.statvfs(small_disk)
        file.write(b"0" * max(0, stats.f_bavail * stats.f_frsize - 300_000))
    with Traffic(place, "UPDATE other SET n = %s") as traffic:
        made, code = run("backfill", table="orders", fill='{"label": "repeat(id::text, 60)"}')
        told = error(made)
        assert (made.status, code) == (Status.FAILED, 1), told
    assert traffic.went_on()
    assert "could not go on: could not extend file" in told
    assert "are filled and committed; its trigger is there." in told
    take_away(told)
    assert place.left == []


@pytest.mark.slow
@pytest.mark.every_version
def test_disk_is_full_in_the_copy_of_a_swap(place: Place, small_disk: Path) -> None:
    """The table of today is whole, others work on, and nothing is left of the swap, which would fill the disk on."""
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        stats = os.statvfs(small_disk)
        file.write(b"0" * max(0, stats.f_bavail * stats.f_frsize - 600_000))
    shape = "ALTER TABLE {table} ALTER COLUMN id TYPE bigint"
    with Traffic(place, "UPDATE other SET n = %s") as traffic:
        made, code = run("swap", table="orders", shape=shape)
        told = error(made)
        assert (made.status, code) == (Status.FAILED, 1), told
    assert traffic.went_on()
    assert told.startswith(
        "gave up the swap of public.orders: there is no more room for it\nDetail: Could not extend file"
    )
    assert "State: Table public.orders is as it was; nothing of a swap is left." in told
    assert place.left == []
    assert place.sql("SELECT count(*), pg_typeof(min(id))::text FROM orders") == [(20_000, "integer")]


@pytest.fixture
def lagging(servers: Servers, version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A server with a standby, made by pg_basebackup, whose replay is paused for good."""
    server = servers.get(version, wal_keep_size="'256MB'")
    database = f"lagging_{os.getpid()}"
    server.make(database)
    server.run(database, ORDERS)
    data = server.socket_dir / "standby"
    common = ["-h", str(server.socket_dir), "-U", "postgres"]
    servers._run(server.programs / "pg_basebackup", "-D", data, "-R", "-X", "stream", "-c", "fast", *common)
    options = f"-p 6543 -k {server.socket_dir} -c listen_addresses=''"
    control = server.programs / "pg_ctl"
    servers._run(control, "-D", data, "-w", "-o", options, "-l", server.socket_dir / "standby.log", "start")
    try:
        where = f"postgresql://postgres@/{database}?host={server.socket_dir}&port=6543"
        with psycopg.connect(where, autocommit=True) as replica:
            replica.execute("SELECT pg_wal_replay_pause()")
        yield _placed(server, database, tmp_path, monkeypatch)
    finally:
        servers._run(control, "-D", data, "-m", "immediate", "-w", "stop")
        server.administer(f"DROP DATABASE {database} WITH (FORCE)")


@pytest.mark.slow
@pytest.mark.every_version
def test_standby_that_falls_behind_for_good_ends_the_patience(lagging: Place) -> None:
    """It is named with its lag; the primary works on, and one command takes the trigger away."""
    lagging.sql("INSERT INTO other SELECT i, i FROM generate_series(2, 1000) AS i")
    time.sleep(1.5)
    told = failed(lagging, "backfill", **FILL, max_lag_s="1", patience_s="1")
    assert told.startswith("batches have waited for 1 s, because a standby lags\nDetail: a standby lags: ")
    assert "are filled and committed; its trigger is there." in told
    take_away(told)
    assert lagging.left == []


@pytest.mark.slow
@pytest.mark.every_version
def test_session_that_is_lost_says_what_a_crash_may_have_taken_back(place: Place) -> None:
    """Batches that were alone have not waited for the disk; the same run goes on, and all rows are filled."""
    place.sql(
        "CREATE FUNCTION ends() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END'"
    )
    place.sql("CREATE TRIGGER ends BEFORE UPDATE ON orders FOR EACH ROW WHEN (OLD.id = 9000) EXECUTE FUNCTION ends()")
    made, code = run("backfill", **FILL)
    assert (made.status, code) != (Status.DONE, 0)
    told = error(made)
    assert "If the server crashed, it may have taken back those of its last moment, which are filled again." in told
    place.sql("DROP TRIGGER ends ON orders")
    made, code = run("backfill", **FILL)
    assert (made.status, code) == (Status.DONE, 0), error(made)
    assert place.sql("SELECT count(*) FROM orders WHERE cents IS DISTINCT FROM round(total * 100)") == [(0,)]
