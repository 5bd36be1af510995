"""Restores while others write all the time: each holds exactly the rows that were committed before its point."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from own_state import own_source
from pgrunbook.branches import incremental
from pgrunbook.branches.archive import create_restore_point
from pgrunbook.branches.backup import take_base_backup
from pgrunbook.branches.recovery import restore
from pgrunbook.branches.recovery_target import Point
from pgrunbook.branches.server import Server

WRITERS, ROWS_BETWEEN, POINTS, RESTORES = 3, 100, 14, 10


@pytest.fixture(scope="module")
def source(version: int) -> Iterator[Server]:
    with own_source(version) as server:
        with server.connect() as conn, conn.as_target():
            conn.execute("CREATE TABLE ledger (writer int, n int, PRIMARY KEY (writer, n))")
        yield server


@contextmanager
def writing(server: Server) -> Iterator[None]:
    """Let some sessions insert row after row, each in a transaction of its own, while the body runs."""
    over = threading.Event()

    def write(writer: int) -> None:
        with server.connect() as conn, conn.as_target():
            n = 0
            while not over.is_set():
                n += 1
                conn.execute("INSERT INTO ledger VALUES (%s, %s)", [writer, n])

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(1, WRITERS + 1)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.mark.slow
def test_a_restore_holds_the_rows_before_its_point_and_none_after(source: Server) -> None:
    """The session that makes the points knows its rows; of each other one all rows up to some are there."""
    chosen = random.Random(16)  # noqa: S311 - which points are restored is no secret
    points: list[tuple[Point, int]] = []
    with writing(source):
        take_base_backup(source)
        with source.connect() as conn, conn.as_target():
            for number in range(POINTS):
                for n in range(ROWS_BETWEEN):
                    conn.execute("INSERT INTO ledger VALUES (0, %s)", [number * ROWS_BETWEEN + n + 1])
                lsn = create_restore_point(conn, f"point-{number}")
                points.append((Point(name=f"point-{number}", at_lsn=lsn), (number + 1) * ROWS_BETWEEN))
                if number == POINTS // 2 and not incremental.hindrance(source):
                    incremental.take(source)
        used = set()
        for number, (point, rows) in enumerate(chosen.sample(points, RESTORES)):
            done = restore(source, point, name=f"restored-{number}")
            used.add(done.backup.onto is not None)
            with done.server.connect() as conn, conn.as_target():
                found = conn.execute("SELECT writer, count(*), max(n) FROM ledger GROUP BY 1 ORDER BY 1").fetchall()
            assert found[0] == (0, rows, rows)
            assert all(count == last for _, count, last in found)
            assert len(found) == WRITERS + 1
            done.server.destroy()
    if not incremental.hindrance(source):
        assert used == {True, False}
