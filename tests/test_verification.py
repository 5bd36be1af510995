"""Base backups and archived WAL that somebody has damaged: each kind is named, and never restored."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from own_state import need, own_source
from pgrunbook.branches import backup as backups
from pgrunbook.branches import frames, verification, wal_segments
from pgrunbook.branches.archive import archived, create_restore_point, timelines, wait_archived
from pgrunbook.branches.backup import BaseBackup, take_base_backup
from pgrunbook.branches.recovery import restore
from pgrunbook.branches.recovery_target import Point, lsn_number
from pgrunbook.branches.server import Server
from pgrunbook.branches.server_status import ServerState
from pgrunbook.errors import Broken

pytestmark = pytest.mark.newest


@dataclass(frozen=True)
class Ground:
    """A server with a base backup, and four archived segments with rows and a restore point in each."""

    source: Server
    backup: BaseBackup
    heap: str
    points: list[Point]


@pytest.fixture(scope="module")
def ground(version: int) -> Iterator[Ground]:
    with own_source(version) as source:
        points = []
        with source.connect() as conn, conn.as_target():
            conn.execute("CREATE TABLE t (n int)")
            conn.execute("INSERT INTO t SELECT generate_series(1, 1000)")
            conn.execute("ALTER SYSTEM SET work_mem = '5MB'")
            row = conn.execute("SELECT pg_relation_filepath('t')").fetchone()
            assert row
            taken = take_base_backup(source)
            for number in range(4):
                conn.execute("INSERT INTO t SELECT generate_series(1, 20000)")
                lsn = create_restore_point(conn, f"point-{number}")
                points.append(Point(name=f"point-{number}", at_lsn=lsn))
                wait_archived(conn, lsn)
        yield Ground(source, taken, str(row[0]), points)


@contextmanager
def kept(path: Path) -> Iterator[Path]:
    """Put a file back as it was afterwards."""
    octets, facts = path.read_bytes(), path.stat()
    try:
        yield path
    finally:
        path.write_bytes(octets)
        path.chmod(facts.st_mode & 0o777)
        shutil.chown(path, facts.st_uid, facts.st_gid)
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def flip(path: Path, offset: int) -> None:
    """Flip one bit of a file."""
    octets = bytearray(path.read_bytes())
    octets[offset] ^= 1
    path.write_bytes(octets)


def frame_of_another(path: Path) -> None:
    """Put something else that was compressed well in the place of a file."""
    octets = b"".join(frames.pieces(path))
    path.write_bytes(frames.compressed(octets[:-1] + bytes([octets[-1] ^ 1])))


TORN = "cannot be decompressed"
# kind, which file of the backup, what is done to it, what the error says of it
DAMAGES: list[tuple[str, Callable[[Ground], str], Callable[[Path], None], str]] = [
    ("rows", lambda g: g.heap, lambda path: flip(path, path.stat().st_size // 2), TORN),
    ("a frame's header", lambda g: g.heap, lambda path: flip(path, 1), TORN),
    ("a frame's length", lambda g: g.heap, lambda path: flip(path, 6), TORN),
    ("a frame's checksum", lambda g: g.heap, lambda path: flip(path, -1), TORN),
    ("a row, compressed anew", lambda g: g.heap, frame_of_another, "checksum mismatch"),
    ("a file's end", lambda g: g.heap, lambda path: path.write_bytes(path.read_bytes()[:-1]), TORN),
    ("a file without a frame", lambda g: g.heap, lambda path: path.write_bytes(b""), "has size 0 instead of"),
    ("a file that is gone", lambda g: g.heap, Path.unlink, "not on disk"),
    ("the manifest", lambda _: "backup_manifest", lambda path: flip(path, 60), "checksum"),
    ("the manifest's form", lambda _: "backup_manifest", lambda path: flip(path, 0), "cannot be read"),
    ("the manifest's checksum", lambda _: "backup_manifest", lambda path: flip(path, -10), "checksum"),
    ("the manifest that is gone", lambda _: "backup_manifest", Path.unlink, "could not open file"),
    ("the label", lambda _: "backup_label", lambda path: flip(path, 30), "checksum mismatch"),
    ("the control file", lambda _: "global/pg_control", lambda path: flip(path, 40), TORN),
    ("settings", lambda _: "postgresql.conf", lambda path: flip(path, 50), TORN),
    (
        "ALTER SYSTEM's settings",
        lambda _: "postgresql.auto.conf",
        lambda path: flip(path, 60),
        TORN,
    ),
    ("ALTER SYSTEM's settings that are gone", lambda _: "postgresql.auto.conf", Path.unlink, "not on disk"),
    ("its WAL", lambda g: f"pg_wal/{own_wal(g)}", lambda path: flip(path, 60), TORN),
    ("its WAL that is cut off", lambda g: f"pg_wal/{own_wal(g)}", lambda path: path.write_bytes(b""), "has size 0"),
    ("its WAL that is gone", lambda g: f"pg_wal/{own_wal(g)}", Path.unlink, "not on disk"),
]


def own_wal(ground: Ground) -> str:
    return wal_segments.names(ground.backup.path / "pg_wal")[0]


def stored(backup: BaseBackup, name: str) -> Path:
    """Return where a file of a backup lies."""
    return next(file.path for file in backup.files() if file.name == name)


@pytest.mark.first_case
@pytest.mark.parametrize(("named", "damage", "says"), [d[1:] for d in DAMAGES], ids=[d[0] for d in DAMAGES])
def test_a_damaged_base_backup_is_not_restored(
    ground: Ground, named: Callable[[Ground], str], damage: Callable[[Path], None], says: str
) -> None:
    """The error names the file; nothing of the new server stays."""
    file = named(ground)
    with kept(stored(ground.backup, file)) as path:
        damage(path)
        with pytest.raises(Broken) as failed:
            restore(ground.source, ground.points[0], name="damaged")
    assert failed.value.message == f'base backup {ground.backup.id} of server "source" is damaged'
    assert f"{file}: " in failed.value.detail
    assert says in failed.value.detail
    assert f"mv {ground.backup.path}.json" in failed.value.hint
    assert Server("damaged").status().state is ServerState.ABSENT
    assert not list(ground.source.dir.parent.glob("damaged*"))


@pytest.mark.slow
def test_every_damaged_file_is_named(ground: Ground) -> None:
    """Not the first one only."""
    with kept(stored(ground.backup, ground.heap)) as heap, kept(stored(ground.backup, "backup_label")) as label:
        flip(heap, 100)
        flip(label, 30)
        found = verification.damage_of_backup(ground.backup)
    assert {one.file for one in found} == {ground.heap, "backup_label"}
    assert verification.damage_of_backup(ground.backup) == []


def test_facts_beside_a_backup_that_are_not_its_own_are_named(ground: Ground) -> None:
    """By these a backup is chosen."""
    with kept(ground.backup.path.with_suffix(".json")) as path:
        path.write_text(path.read_text().replace(ground.backup.stop_lsn, "0/2000001"))
        (changed,) = backups.list_base_backups(ground.source)
        (found,) = verification.damage_of_backup(changed)
        assert str(found) == f"{path.name}: stop_lsn are not those of the backup"
        path.write_text("{")
        with pytest.raises(Broken, match=f"could not read the facts of base backup {ground.backup.id}") as failed:
            backups.list_base_backups(ground.source)
    assert str(path) in failed.value.detail


def segment(ground: Ground, number: int) -> Path:
    """Return the archived segment that holds a restore point."""
    lsn = str(ground.points[number].at_lsn)
    return ground.source.archive_dir / timelines(ground.source).name(wal_segments.number_at(lsn, end=True))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100_000])


@pytest.mark.first_case
@pytest.mark.parametrize(
    "damage",
    [lambda path: flip(path, 300_000), lambda path: flip(path, 4), lambda path: flip(path, 8192 * 20 + 9), cut],
    ids=["a record", "the first page", "a page", "its end"],
)
def test_a_damaged_segment_is_named_with_how_far_replay_came(ground: Ground, damage: Callable[[Path], None]) -> None:
    """The segment, the LSN that replay reached and the one that was asked for; nothing of the new server stays."""
    need(ground.source.installation.bindir, "pg_waldump")
    with kept(segment(ground, 1)) as path:
        damage(path)
        with pytest.raises(Broken) as failed:
            restore(ground.source, ground.points[2], name="damaged")
        stretch = [wal_segments.number(name) for name in archived(ground.source)]
        found = verification.damage_of_wal(ground.source, wal_segments.number(path.name) - 1, max(stretch))
    assert failed.value.message == f'could not reach restore point "point-2": WAL segment {path.name} is damaged'
    assert f"LSN {ground.points[2].at_lsn} was asked for" in failed.value.detail
    reached = failed.value.hint.rpartition("lsn:")[2].rstrip(".")
    assert lsn_number(str(ground.points[0].at_lsn)) <= lsn_number(reached) < lsn_number(str(ground.points[1].at_lsn))
    assert found
    assert found.file == path.name
    assert not list(ground.source.dir.parent.glob("damaged*"))
    assert verification.damage_of_wal(ground.source, min(stretch), max(stretch)) is None


@pytest.mark.slow
def test_a_missing_segment_is_found_before_anything_is_copied(ground: Ground) -> None:
    """It is named, with the LSN that replay would reach; what lies before it can be restored."""
    with kept(segment(ground, 1)) as path:
        path.unlink()
        first, second = backups.windows(ground.source)[0], backups.windows(ground.source)[1:]
        assert (first.missing, second) == ((path.name,), [])
        with pytest.raises(Broken) as failed:
            restore(ground.source, ground.points[2], name="gap")
        start = wal_segments.start_lsn(wal_segments.number(path.name))
        assert failed.value.message == 'could not reach restore point "point-2": WAL is missing before it'
        assert failed.value.detail == (
            f"The archive lacks {path.name}: replay from base backup {ground.backup.id} would end at {start}, "
            f"and {ground.points[2].at_lsn} was asked for."
        )
        assert failed.value.hint.endswith(f"the last is lsn:{start}.")
        try:
            assert restore(ground.source, ground.points[0], name="before").server.status().pid
        finally:
            Server("before").destroy()


@pytest.mark.slow
def test_a_backup_after_a_gap_begins_a_window_of_its_own(ground: Ground) -> None:
    """What lies in the gap cannot be restored, what lies behind the new backup can."""
    with kept(segment(ground, 1)) as path:
        path.unlink()
        taken = take_base_backup(ground.source)
        try:
            before, behind = backups.windows(ground.source)
        finally:
            shutil.rmtree(taken.path)
            taken.path.with_suffix(".json").unlink()
    assert before.missing == (path.name,)
    assert before.latest_lsn == wal_segments.start_lsn(wal_segments.number(path.name))
    assert (behind.earliest_lsn, behind.missing) == (taken.stop_lsn, ())
