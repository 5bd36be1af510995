"""The compressed files of a base backup: as the server sent them, when they are unpacked again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime

import pytest

from own_state import own_source
from pgrunbook.branches import backup, backup_files, frames
from pgrunbook.branches.archive import create_restore_point
from pgrunbook.branches.backup import BaseBackup, list_base_backups, take_base_backup
from pgrunbook.branches.recovery import restore
from pgrunbook.branches.recovery_target import Point
from pgrunbook.branches.server import Server
from pgrunbook.errors import RunbookError
from servers import WHEEL

NEW = ("compression", "stored_bytes")
ROWS = "SELECT count(*), sum(n) FROM t"


@pytest.fixture(scope="module")
def source() -> Iterator[Server]:
    """A server with a table of several frames that can hardly be compressed."""
    with own_source(WHEEL) as server:
        with server.connect() as conn, conn.as_target():
            conn.execute("CREATE TABLE t (n int, noise bytea)")
            conn.execute("ALTER TABLE t ALTER noise SET STORAGE PLAIN")
            noise = "(SELECT decode(string_agg(md5((n * 100 + m)::text), ''), 'hex') FROM generate_series(1, 100) m)"
            conn.execute(f"INSERT INTO t SELECT n, {noise} FROM generate_series(1, 6000) n")  # type: ignore[arg-type]
        yield server


@pytest.fixture(scope="module")
def taken(source: Server) -> BaseBackup:
    """A backup, with a file that is not held in memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backup_files, "HELD_BYTES", 1_000_000)
        return take_base_backup(source)


@pytest.mark.slow
def test_what_is_unpacked_is_what_postgresql_sent(source: Server, taken: BaseBackup) -> None:
    """PostgreSQL's own pg_verifybackup finds every file as it was, and its WAL."""
    assert taken.compression == "zstd"
    assert taken.stored_bytes < taken.bytes
    assert taken.stored_bytes == sum(path.stat().st_size for path in taken.path.rglob("*") if path.is_file())
    assert any(file.expected and file.expected.bytes > 2 * frames.FRAME_BYTES for file in taken.files())
    backup_files.unpack(source, taken.path, taken.files(), "unpacked")
    try:
        assert source.run("pg_verifybackup", "unpacked").stdout.strip() == "backup successfully verified"
        assert (source.dir / "unpacked").stat().st_mode & 0o777 == 0o700
    finally:
        source.do("rm", "-rf", "unpacked")


@pytest.mark.slow
def test_a_backup_that_was_not_compressed_is_restored(source: Server) -> None:
    """As earlier versions took them: the facts beside it do not name a compression."""
    path = source.backups_dir / "20260101T000000000Z"
    source.run("pg_basebackup", "-h", str(source.socket_dir), "-U", "postgres", "-D", str(path), "-c", "fast")
    with source.connect() as conn, conn.as_target():
        conn.execute("INSERT INTO t VALUES (0)")
        point = Point(name="plain", at_lsn=create_restore_point(conn, "plain"))
        rows = conn.execute(ROWS).fetchone()
    now = datetime.now(UTC)
    told = {**asdict(backup.facts(path, now, now, source.installation.version)), "path": None}
    told |= {"started_at": now.isoformat(), "ended_at": now.isoformat()}
    source.write(f"backups/{path.name}.json", json.dumps({k: v for k, v in told.items() if k not in NEW}))
    plain = list_base_backups(source)[0]
    assert (plain.compression, plain.stored_bytes) == ("", plain.bytes)
    try:
        done = restore(source, point, name="restored", backup=plain)
        with done.server.connect() as conn, conn.as_target():
            assert conn.execute(ROWS).fetchone() == rows
    finally:
        Server("restored").destroy()
        source.do("sh", "-c", f"rm -rf backups/{path.name}*")


@pytest.mark.slow
def test_a_backup_that_breaks_off_is_removed(source: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the program that failed has said is told."""
    before = sorted(source.backups_dir.iterdir())
    cut_off = ["sh", "-c", "tar -cf - -C / etc/hostname; echo lost >&2; exit 3"]
    monkeypatch.setattr(backup, "_command", lambda *_: cut_off)
    with pytest.raises(RunbookError, match="could not run sh: exit code 3") as failed:
        take_base_backup(source)
    assert failed.value.detail == "lost"
    assert sorted(source.backups_dir.iterdir()) == before
