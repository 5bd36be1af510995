"""A revert that is killed while it lists what it left, and two that begin at once: each row goes back once."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest

from conftest import connect, do, rows
from forks import ForkedProcess
from pgrunbook import undo_data
from pgrunbook.config.targets import Target
from pgrunbook.database.locks import EXECUTOR_KEY, one_executor
from pgrunbook.errors import TargetBusy
from pgrunbook.undo_data import StepKey, capture_statement, conflict_file, list_entries, revert
from pgrunbook.undo_data.revert_rows import RevertResult
from returning import ROLLBACK, everything, execute, prepared, release
from scenes import meanwhile, session, until
from servers import Server
from undo_data_stage import Conn, value

ROWS, CHANGED = 30_000, 20_000
PLACE = StepKey("run", "0001_data", "up", 1)
# What a process does that is killed.
REVERTS = """
import sys
from pathlib import Path
from pgrunbook.database.connection import Connection
from pgrunbook.undo_data import conflict_file, conflicts, left_file, list_entries, revert
folder = Path(sys.argv[2])
with Connection.connect(host=sys.argv[1], user="postgres", dbname="at_once", autocommit=True) as conn:
    (entry,) = list_entries(conn)
    if sys.argv[3] == "before":
        with conflict_file(folder, "keep") as of:
            conflicts(conn, entry, each=of(entry))
    else:
        revert(conn, entry, on_conflict="keep", left_rows=lambda part: left_file(folder, part))
"""


@pytest.fixture
def conn(server: Server) -> Iterator[Conn]:
    """A connection to a table of which all rows were changed, two thirds of them by somebody again."""
    with server.copied("at_once", "template1"), server.connect("at_once") as conn:
        conn.execute("CREATE TABLE t (id integer PRIMARY KEY, a integer, b text)")
        conn.execute(f"INSERT INTO t SELECT i, i, repeat('b', 50) FROM generate_series(1, {ROWS}) AS i".encode())
        with conn.transaction():
            conn.execute(capture_statement(conn, "UPDATE t SET a = 0, b = ''", PLACE).encode())
        conn.execute(f"UPDATE t SET a = -1 WHERE id <= {CHANGED}".encode())
        yield conn


@pytest.mark.slow
@pytest.mark.every_version
@pytest.mark.parametrize("moment", ["before", "behind"])
def test_a_kill_while_the_conflicts_are_written_leaves_no_half_file(
    conn: Conn, server: Server, tmp_path: Path, moment: str
) -> None:
    """Before a revert and behind it: nothing of the file is there, and the next try writes it whole."""
    name = "conflicts.csv" if moment == "before" else f"conflicts-left-{list_entries(conn)[0].kept_as}.csv"

    def half() -> bool:
        with suppress(FileNotFoundError):
            return any(file.stat().st_size > 0 for file in tmp_path.glob(f".{name}.*"))
        return False

    with (tmp_path / "told").open("w+") as told:
        process = ForkedProcess(REVERTS, str(server.socket_dir), str(tmp_path), moment, told=told.fileno())
        until(half)
        process.kill()
        assert process.wait() == -9
    assert not (tmp_path / name).exists()
    (entry,) = list_entries(conn)
    if moment == "before":
        with conflict_file(tmp_path, "keep") as of:
            assert undo_data.conflicts(conn, entry, each=of(entry)).rows == CHANGED
        assert entry.state == "kept"
    else:
        assert entry.state == "giving back"
        given = revert(conn, entry, on_conflict="keep", left_rows=lambda part: undo_data.left_file(tmp_path, part))
        assert (given.rows, given.left.rows) == (ROWS - CHANGED, CHANGED)
        assert value(conn, "SELECT count(*) FROM t WHERE a = id AND b = repeat('b', 50)") == ROWS - CHANGED
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([name, "told"])
    with (tmp_path / name).open() as file:
        keys = [row["key"] for row in csv.DictReader(file) if row["column"] == "a"]
    assert sorted(keys) == sorted(f"id '{number}'" for number in range(1, CHANGED + 1))


@pytest.mark.slow
@pytest.mark.every_version
def test_two_reverts_of_one_step_share_its_rows(conn: Conn, server: Server) -> None:
    """Each batch is one session's: both end, each row went back once, and what somebody wrote stays."""
    (entry,) = list_entries(conn)

    def reverted(_: int) -> RevertResult:
        with server.connect("at_once") as own:
            return revert(own, entry, on_conflict="keep", rows=500)

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(reverted, range(2)))
    assert {result.left.rows for result in both} == {CHANGED}
    assert value(conn, "SELECT count(*) FROM t WHERE a = id AND b = repeat('b', 50)") == ROWS - CHANGED
    assert value(conn, f"SELECT count(*) FROM t WHERE a = -1 AND b = '' AND id <= {CHANGED}") == CHANGED
    assert asdict(list_entries(conn)[0])["state"] == "given back"


@pytest.mark.slow
def test_of_two_rollbacks_at_once_one_is_told_that_the_other_is_at_work(project: Callable[..., Target]) -> None:
    """It changes nothing; the other one takes everything back, once."""
    target = project(folder={"0001_x.sql": "UPDATE t SET a = a + 1;\nALTER TABLE t DROP COLUMN b"})
    do(target, "CREATE TABLE t (id integer PRIMARY KEY, a integer, b text)")
    do(target, "INSERT INTO t SELECT i, i, 'b' || i FROM generate_series(1, 50) AS i")
    before = everything(target)
    release(target)
    plan, _ = prepared(target)
    executes = f"SELECT FROM pg_locks WHERE (classid, objid) = ({EXECUTOR_KEY[0]}, {EXECUTOR_KEY[1]}) AND granted"
    with session(target, "LOCK TABLE t IN ACCESS SHARE MODE") as other, meanwhile(
        lambda: execute(target, plan, ROLLBACK)
    ) as first:  # fmt: skip
        until(lambda: rows(target, executes))
        with connect(target, purpose="migrate too") as conn, pytest.raises(TargetBusy), one_executor(conn, wait_s=0.1):
            raise AssertionError("both are at work")
        other.execute("ROLLBACK")
        first.result()
    assert everything(target) == before
    assert rows(target, "SELECT count(*) FROM schema_migrations") == [(0,)]
