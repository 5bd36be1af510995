"""Restore points read from the bytes of the WAL: all that pg_waldump finds, and the time that it does not show."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from own_state import own_source
from pgrunbook.branches import archive, restore_point_index, restore_point_records, wal_segments
from pgrunbook.branches.archive import create_restore_point, wait_archived
from pgrunbook.branches.recovery_target import lsn_number
from pgrunbook.branches.server import Server

FOUND = re.compile(r"lsn: ([0-9A-F]+/[0-9A-F]+), .*desc: RESTORE_POINT (.*)$", re.M)


@pytest.fixture(scope="module")
def source(version: int) -> Iterator[Server]:
    """A server with restore points of all lengths in every place of a page, over three segments."""
    with own_source(version, needs=["pg_waldump"]) as server:
        with server.connect() as conn, conn.as_target():
            conn.execute("CREATE TABLE t (n int, b text)")
            lsn = ""
            for number in range(120):
                rows = "INSERT INTO t SELECT n, repeat('b', n %% 60) FROM generate_series(1, %s) AS n"
                conn.execute(rows, [number * 17])
                lsn = create_restore_point(conn, f"p{number}" + "x" * (number % 50))
                if number in (40, 80):
                    wait_archived(conn, lsn)
            wait_archived(conn, lsn)
        yield server


@pytest.mark.slow
@pytest.mark.newest
def test_all_restore_points_are_found_where_pg_waldump_finds_them(source: Server) -> None:
    """Also those that go over from one page to the next."""
    names = archive.archived(source)
    paths = [str(source.archive_dir / name) for name in (names[0], names[-1])]
    words = [str(source.program("pg_waldump")), "--rmgr=XLOG", *paths]
    told = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    expected = [(name, lsn_number(lsn)) for lsn, name in FOUND.findall(told)]
    found = archive.restore_points(source)
    assert [(point.name, lsn_number(point.lsn)) for point in found] == expected
    assert len(found) == 120
    now = datetime.now(UTC)
    assert all(now - timedelta(minutes=5) < point.created_at < now for point in found)
    assert [point.created_at for point in found] == sorted(point.created_at for point in found)
    pages = {lsn_number(point.lsn) // 8192 == (lsn_number(point.lsn) + 97) // 8192 for point in found}
    assert pages == {True, False}


@pytest.mark.slow
@pytest.mark.newest
def test_a_record_over_the_end_of_a_segment_is_found(source: Server, tmp_path: Path) -> None:
    """Its beginning lies in one file, its end in the next: cut a segment's text anywhere, it reads the same."""
    path = source.archive_dir / archive.archived(source)[0]
    whole = restore_point_records._text(path, wal_segments.number(path.name))
    (first, *_) = restore_point_records.read([path])
    at = next(place for place in restore_point_records._places(whole.octets) if whole.lsn(place) == first.lsn)
    for cut in (at + 1, at + 50, at + 97):
        head = restore_point_records._Text(whole.octets[:cut], [one for one in whole.pages if one[0] < cut])
        tail = head.end()
        assert tail.lsn(len(tail.octets) - (cut - at)) == first.lsn
    assert tmp_path


@pytest.mark.slow
@pytest.mark.newest
def test_what_only_looks_like_a_restore_point_is_none(source: Server, tmp_path: Path) -> None:
    """The checksum of the record decides: WAL may hold the bytes of other WAL."""
    path = source.archive_dir / archive.archived(source)[0]
    (first, second, *_) = restore_point_records.read([path])
    octets = bytearray(path.read_bytes())
    octets[lsn_number(first.lsn) % wal_segments.SEGMENT_BYTES + 40] ^= 1
    copy = tmp_path / path.name
    copy.write_bytes(octets)
    assert next(restore_point_records.read([copy])) == second


@pytest.mark.slow
@pytest.mark.newest
def test_archived_wal_is_read_once(source: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is noted beside the archive is what the WAL says, also where a segment went, or comes back."""
    note = source.dir / restore_point_index.FILE
    note.unlink(missing_ok=True)
    chain = archive.timelines(source)
    expected = restore_point_index.archived(source, chain)
    assert expected == archive.restore_points(source)
    names = archive.archived(source)
    assert json.loads(note.read_text())["read"] == names[:-1]
    read: list[str] = []
    real = restore_point_records._text
    monkeypatch.setattr(
        restore_point_records, "_text", lambda path, number: (read.append(path.name), real(path, number))[1]
    )
    assert restore_point_index.archived(source, chain) == expected
    assert [name for name in read if name in names] == [names[-1]]
    note.write_text("{")
    assert restore_point_index.archived(source, chain) == expected
    aside = source.dir / names[1]
    (source.archive_dir / names[1]).rename(aside)
    without = restore_point_index.archived(source, chain)
    first, behind = (wal_segments.number(names[1]) + more for more in (0, 1))
    places = {lsn_number(point.lsn) // wal_segments.SEGMENT_BYTES for point in without}
    assert first not in places
    assert behind in places
    aside.rename(source.archive_dir / names[1])
    assert restore_point_index.archived(source, chain) == expected
