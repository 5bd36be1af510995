"""Archived WAL that is compressed: read and restored from in either form, named where it is damaged, never lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from acting import wait_until
from own_state import own_source
from pgrunbook.branches import archive, archive_compression, backup, frames, verification, wal_segments
from pgrunbook.branches.archive import create_restore_point, wait_archived
from pgrunbook.branches.frames import SUFFIX
from pgrunbook.branches.recovery import restore
from pgrunbook.branches.recovery_target import Point
from pgrunbook.branches.server import Server
from pgrunbook.branches.server_status import ServerState
from pgrunbook.errors import Broken

pytestmark = pytest.mark.newest
POINTS = 4
COMPRESS = (
    "from pgrunbook.branches import archive_compression; from pgrunbook.branches.server import Server; "
    "archive_compression.compress(Server('source'))"
)
TARGETS = '[shop]\nserver = "source"\nkeep_backups = 1\nkeep_days = 1\n'
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def source(version: int) -> Iterator[Server]:
    """A server with a base backup and a restore point in each of its archived segments, which are compressed."""
    with own_source(version, targets=TARGETS, needs=["pg_waldump"]) as server:
        with server.connect() as conn, conn.as_target():
            conn.execute("CREATE TABLE t (n int)")
            backup.take_base_backup(server)
            for number in range(POINTS):
                conn.execute("INSERT INTO t SELECT generate_series(1, 20000)")
                wait_archived(conn, create_restore_point(conn, f"point-{number}"))
        plain = names(server)
        before = {name: (server.archive_dir / name).read_bytes() for name in plain}
        times = {name: archive.archived_at(server, name) for name in plain}
        assert archive_compression.compress(server) == len(plain) - 1
        assert names(server) == [*(f"{name}{SUFFIX}" for name in plain[:-1]), plain[-1]]
        assert archive.archived(server) == plain
        assert {name: octets(server, name) for name in plain} == before
        assert {name: archive.archived_at(server, name) for name in plain} == times
        yield server


def names(server: Server) -> list[str]:
    """Return the files of the archive's segments."""
    return sorted(path.name for path in server.archive_dir.iterdir() if wal_segments.NAME.match(path.name[:24])
                  and not path.name.endswith(".backup"))  # fmt: skip


def octets(server: Server, name: str) -> bytes:
    return b"".join(wal_segments.pieces(server.archive_dir / name))


def rows(server: Server) -> int:
    with server.connect() as conn, conn.as_target():
        return int(conn.execute("SELECT count(*) FROM t").fetchall()[0][0])


@pytest.mark.slow
@pytest.mark.first_case
def test_compressed_wal_is_restored_from_and_read(source: Server) -> None:
    """To each kind of point, and its restore points are found; it takes a fraction of the room."""
    assert [one.name for one in archive.restore_points(source)] == [f"point-{number}" for number in range(POINTS)]
    (source.dir / "restore-points.json").unlink()
    assert [one.name for one in archive.restore_points(source)] == [f"point-{number}" for number in range(POINTS)]
    assert verification.damage_of_wal(source, *stretch(source)) is None
    assert len(backup.windows(source)) == 1
    try:
        assert rows(restore(source, Point(name="point-2"), name="restored").server) == 60000
        assert not (Server("restored").dir / "wal").exists()
    finally:
        Server("restored").destroy()
    packed = list(source.archive_dir.glob(f"*{SUFFIX}"))
    assert sum(path.stat().st_size for path in packed) < len(packed) * wal_segments.SEGMENT_BYTES / 5


def stretch(server: Server) -> tuple[int, int]:
    numbers = [wal_segments.number(name) for name in archive.archived(server)]
    return min(numbers), max(numbers)


def planted(kind: str, path: Path, of: Path) -> None:
    """Put something that is no file in the place of one, as a superuser of the server can."""
    if kind == "link":
        path.symlink_to(of)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["", SUFFIX])
@pytest.mark.parametrize("kind", ["link", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("fifo", "folder"))])
def test_what_is_no_file_is_neither_followed_nor_waited_for(source: Server, kind: str, form: str) -> None:
    """We may read more than the server's account may: what we read would come within its reach."""
    lsn = next(one.lsn for one in archive.restore_points(source) if one.name == "point-1")
    name = archive.timelines(source).name(wal_segments.number_at(lsn))
    packed = source.archive_dir / f"{name}{SUFFIX}"
    path, aside = packed.with_name(f"{name}{form}"), packed.with_name(f"aside{SUFFIX}")
    plain = packed.with_name("aside")
    plain.write_bytes(octets(source, name))
    packed.rename(aside)
    planted(kind, path, aside if form else plain)
    try:
        with pytest.raises(frames.DamagedFrame, match="no file"):
            octets(source, name)
        archive_compression.compress(source)
        assert [one for one in names(source) if one.startswith(name)] == [path.name]
        damage = verification.damage_of_wal(source, *stretch(source))
        assert damage is not None
        assert (damage.file, "no file" in damage.says) == (name, True)
        if kind == "link" and not form:
            return  # the server's own account follows it, to what it may read
        with pytest.raises(Broken, match="WAL") as failed:
            restore(source, Point(name="point-2"), name="restored")
        assert name in " ".join(map(str, failed.value.lines()))
        assert Server("restored").status().state is ServerState.ABSENT
    finally:
        path.rmdir() if kind == "folder" else path.unlink()
        plain.unlink()
        aside.rename(packed)


def places(path: Path) -> list[int]:
    """Return a place of each kind in a compressed segment: a frame's header, a block's, data, checksums, its end."""
    size = path.stat().st_size
    return [*range(12), size // 3, size // 2, *range(size - 5, size)]


@pytest.mark.slow
def test_every_kind_of_byte_of_a_compressed_segment_is_named(source: Server) -> None:
    """Also what a frame's length, a frame that is skipped or one of another segment would hide."""
    name = archive.archived(source)[2]
    path = source.archive_dir / f"{name}{SUFFIX}"
    whole = path.read_bytes()
    frame = frames.zstd.get_frame_size(whole)
    damaged = [whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :] for at in places(path)]
    damaged += [whole[:-1], whole[frame:], whole + whole[:frame], b"", whole + b"\0"]
    other = (source.archive_dir / f"{archive.archived(source)[1]}{SUFFIX}").read_bytes()
    try:
        for one in [*damaged, other]:
            path.write_bytes(one)
            found = verification.damage_of_wal(source, *stretch(source))
            assert found
            assert found.file == name
    finally:
        path.write_bytes(whole)
    assert verification.damage_of_wal(source, *stretch(source)) is None


@pytest.mark.slow
def test_a_restore_names_the_damaged_segment(source: Server) -> None:
    """As where it is plain; nothing of the new server stays."""
    name = archive.archived(source)[3]
    path = source.archive_dir / f"{name}{SUFFIX}"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        with pytest.raises(Broken, match=f"WAL segment {name} is damaged") as failed:
            restore(source, Point(name="point-3"), name="damaged")
    finally:
        path.write_bytes(whole)
    assert "it cannot be decompressed" in failed.value.detail
    assert Server("damaged").status().state is ServerState.ABSENT


@pytest.mark.slow
def test_a_segment_that_is_archived_again_is_no_obstacle(source: Server) -> None:
    """A server does so after a crash: its file is there twice, until the same is compressed anew."""
    name = archive.archived(source)[1]
    plain, packed = source.archive_dir / name, source.archive_dir / f"{name}{SUFFIX}"
    held, whole = octets(source, name), packed.read_bytes()
    shutil.copy(source.archive_dir / archive.archived(source)[-1], plain)  # whose it is, and who may read it
    plain.write_bytes(held)
    assert archive.archived(source).count(name) == 1
    archive_compression.compress(source)
    assert (plain.exists(), packed.read_bytes()) == (False, whole)
    plain.write_bytes(held)
    packed.write_bytes(whole[:1000])
    archive_compression.compress(source)
    assert (plain.exists(), octets(source, name)) == (False, held)
    plain.write_bytes(held[:-1] + b"x")
    archive_compression.compress(source)
    assert plain.exists()
    found = verification.damage_of_wal(source, *stretch(source))
    assert str(found) == f"{name}: it is there twice, plain and compressed, and they differ"
    plain.unlink()
    plain.write_bytes(b"short")
    archive_compression.compress(source)
    assert plain.read_bytes() == b"short"
    plain.unlink()


@pytest.mark.slow
def test_a_server_archives_on_beside_compressed_segments_after_a_crash(source: Server) -> None:
    """What it archives again meets no plain file of that name, so nothing fails."""
    with source.connect() as conn, conn.as_target():
        wait_archived(conn, create_restore_point(conn, "before"))
    archive_compression.compress(source)
    for done in source.data_dir.glob("pg_wal/archive_status/*.done"):
        if not done.name.endswith((".backup.done", ".history.done")):
            done.rename(done.with_suffix(".ready"))
    source.stop_at_once()
    source.start()
    with source.connect() as conn, conn.as_target():
        wait_archived(conn, create_restore_point(conn, "behind"))
        wait_until(lambda: not list(source.data_dir.glob("pg_wal/archive_status/*.ready")))
        assert conn.execute("SELECT failed_count FROM pg_stat_archiver").fetchall() == [(0,)]
    archive_compression.compress(source)
    assert verification.damage_of_wal(source, *stretch(source)) is None
    assert sum(not name.endswith(SUFFIX) for name in names(source)) == 1


@pytest.mark.slow
def test_whenever_compressing_is_killed_each_segment_is_there_whole(source: Server) -> None:
    """In one form or the other; the next time goes on, and removes what is half made."""
    held = {name: octets(source, name) for name in archive.archived(source)}
    for number in range(10):
        for name in list(held)[:-1]:
            plain, packed = source.archive_dir / name, source.archive_dir / f"{name}{SUFFIX}"
            if not plain.exists():
                shutil.copy(source.archive_dir / list(held)[-1], plain)
                plain.write_bytes(held[name])
            packed.unlink(missing_ok=True)
        with subprocess.Popen([sys.executable, "-c", COMPRESS], env=os.environ) as process:
            try:
                wait_until(lambda: bool(list(source.archive_dir.glob(f"*{SUFFIX}*"))) or process.poll() is not None)
                process.wait(0.01 * number)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
        assert {name: octets(source, name) for name in archive.archived(source)} == held
    archive_compression.compress(source)
    assert names(source) == [*(f"{name}{SUFFIX}" for name in list(held)[:-1]), list(held)[-1]]
    assert not list(source.archive_dir.glob("*.new"))
    assert {name: octets(source, name) for name in held} == held


@pytest.mark.slow
def test_expiry_removes_compressed_segments_and_backups_compress_the_rest(source: Server, command: Command) -> None:
    """A segment goes in whichever form it is; the commands leave none but the newest plain."""
    first = archive.archived(source)[0]
    assert command("backup", "create", "--target", "shop")[0] == 0
    assert sum(not name.endswith(SUFFIX) for name in names(source)) == 1
    with source.connect() as conn, conn.as_target():
        for name in ("later", "last"):
            wait_archived(conn, create_restore_point(conn, name))
    assert sum(not name.endswith(SUFFIX) for name in names(source)) > 1
    assert command("backup", "expire", "--target", "shop")[0] == 0
    assert sum(not name.endswith(SUFFIX) for name in names(source)) == 1
    assert command("backup", "verify", "--target", "shop")[0] == 0
    assert f"{first}{SUFFIX}" not in names(source)
