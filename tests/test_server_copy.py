"""A copy of a running server, file by file: whole, whatever its sessions do meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import do, rows
from pgrunbook.branches import data_branch, server_copy
from pgrunbook.branches.server_copy import _copy, _Files
from pgrunbook.config.targets import Target
from pgrunbook.errors import RunbookError
from scenes import error_of, session, until

Project = Callable[..., Target]
BANK = """
CREATE TABLE bank (id int PRIMARY KEY, amount bigint, filler text);
INSERT INTO bank SELECT n, 1000, repeat('x', 500) FROM generate_series(1, 2000) AS n;
CREATE TABLE done (n int);
"""
MOVE = """
UPDATE bank SET amount = amount + CASE WHEN id = {n} % 2000 + 1 THEN -1 ELSE 1 END
 WHERE id IN ({n} % 2000 + 1, ({n} + 7) % 2000 + 1);
INSERT INTO done VALUES ({n})
"""


@pytest.mark.slow
def test_a_copy_of_a_server_at_work_is_whole(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are written, tables made, filled and dropped while the files are copied: WAL puts all of it right."""
    target = project()
    do(target, BANK)
    stop, begun, written = threading.Event(), threading.Event(), 0

    def write() -> None:
        nonlocal written
        with session(target) as conn:
            for n in range(1_000_000):
                if stop.is_set():
                    return
                conn.execute(f"BEGIN; {MOVE.format(n=n)}; COMMIT".encode())
                conn.execute(
                    f"CREATE TABLE made_{n} AS TABLE bank LIMIT 100; DROP TABLE IF EXISTS made_{max(n - 3, 0)}".encode()
                )
                written = n + 1
                begun.set()

    before = 0
    copied = server_copy._copy_all

    def slowly(here: data_branch.Server, files: object) -> None:
        until(lambda: written > before + 5)  # also between the list of the files and their copies
        copied(here, files)  # type: ignore[arg-type]
        until(lambda: written > before + 10)

    monkeypatch.setattr(server_copy, "_copy_all", slowly)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        begun.wait(30)
        before = written
        with data_branch.with_data(target, most_bytes=2**40) as copy:
            for branch in (copy.safe, copy.plain):
                assert rows(branch, "SELECT count(*), sum(amount) FROM bank") == [(2000, 2_000_000)]
                ((count, last),) = rows(branch, "SELECT count(*), max(n) + 1 FROM done")
                assert count == last > before
                assert rows(branch, f"SELECT count(*) FROM made_{last - 2}") == [(100,)]
                do(branch, "REINDEX TABLE bank")
                do(branch, "VACUUM bank")
    finally:
        stop.set()
        writer.join()


def test_a_file_that_is_replaced_meanwhile_is_copied_whole(tmp_path: Path) -> None:
    """As a server replaces its map of files; one that is gone is none."""
    folder, to = tmp_path / "from", tmp_path / "to"
    folder.mkdir()
    to.mkdir()
    whole, stop = "x" * 100_000, threading.Event()

    def replace() -> None:
        while not stop.is_set():
            (folder / "new").write_text(whole)
            (folder / "new").replace(folder / "map")

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        until((folder / "map").exists)
        for _ in range(20):
            _copy(None, _Files(folder, ("gone", "map"), to, 0))
            assert (to / "map").read_text() == whole
    finally:
        stop.set()
        writer.join()


def test_a_file_that_cannot_be_copied_is_an_error(tmp_path: Path) -> None:
    """Where its folder is not there, a program says the same as of a file that is gone."""
    (tmp_path / "file").touch()
    error = error_of(lambda: _copy(None, _Files(tmp_path, ("file",), tmp_path / "nowhere", 0)))
    assert type(error) is RunbookError
    assert "nowhere" in error.detail
