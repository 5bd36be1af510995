"""pgrunbook backup: taken, listed, verified and removed, each in words and as JSON that keeps to its schema."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator

import jsonschema
import pytest

from own_state import own_source
from pgrunbook.app import json_schema
from pgrunbook.branches import archive, backup, retention, wal_segments
from pgrunbook.branches.archive import create_restore_point, wait_archived
from pgrunbook.branches.recovery import restore
from pgrunbook.branches.recovery_target import Point, lsn_number
from pgrunbook.branches.server import Server
from pgrunbook.errors import Broken, WrongInput

Command = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.newest


TARGETS = (
    '[shop]\nserver = "source"\nkeep_backups = 1\nkeep_days = 1\n[other]\nserver = "elsewhere"\nkeep_backups = 9\n'
)


@pytest.fixture(scope="module")
def source(version: int) -> Iterator[Server]:
    """A server that target ``shop`` is on; two restore points in segments of their own, behind no backup yet."""
    with own_source(version, targets=TARGETS, needs=["pg_waldump"]) as server:
        with server.connect() as conn, conn.as_target():
            conn.execute("CREATE TABLE t (n int)")
        yield server


@pytest.fixture
def fresh(source: Server) -> Server:
    """The server without backups."""
    source.do("sh", "-c", "rm -rf backups/*")
    return source


def point(server: Server, name: str) -> Point:
    with server.connect() as conn, conn.as_target():
        conn.execute("INSERT INTO t SELECT generate_series(1, 1000)")
        lsn = create_restore_point(conn, name)
        wait_archived(conn, lsn)
    return Point(name=name, at_lsn=lsn)


def printed(command: Command, *words: str) -> tuple[int, dict[str, object]]:
    code, out, _ = command("backup", *words, "--target", "shop", "--json")
    found = json.loads(out)
    jsonschema.Draft202012Validator(json.loads(json_schema.kept("backup"))).validate(found)
    return code, found


@pytest.mark.slow
@pytest.mark.first_case
def test_a_backup_is_taken_listed_and_verified(fresh: Server, command: Command) -> None:
    """In words for a person, and as JSON for a program."""
    code, out, _ = command("backup", "create", "--target", "shop")
    (taken,) = backup.list_base_backups(fresh)
    assert (code, out.split(":")[0]) == (0, taken.id)
    code, out, _ = command("backup", "list", "--target", "shop")
    assert code == 0
    assert out.splitlines()[0].split("  ")[0] == "base backup"
    assert out.splitlines()[1].startswith(taken.id)
    assert out.splitlines()[2].startswith(f"can be restored: {taken.ended_at:%Y-%m-%dT%H:%M:%SZ} to 2")
    code, found = printed(command, "list")
    assert (code, found["damage"], found["removed_backups"]) == (0, None, [])
    assert [one["id"] for one in found["backups"]] == [taken.id]  # type: ignore[attr-defined]
    assert printed(command, "verify")[1]["damage"] == []
    assert command("backup", "verify", "--target", "shop")[1].splitlines()[-1] == "all of it is whole"
    assert len(printed(command, "create")[1]["backups"]) == 2  # type: ignore[arg-type]


@pytest.mark.slow
def test_what_is_damaged_or_missing_is_named_with_exit_code_3(fresh: Server, command: Command) -> None:
    """A file of a backup, a record of the WAL, and a segment that is gone."""
    taken = backup.take_base_backup(fresh)
    for name in ("damaged-1", "damaged-2", "damaged-3"):
        point(fresh, name)
    segments = archive.archived(fresh)[-3:]
    paths = [taken.path / "backup_label", fresh.archive_dir / segments[0], fresh.archive_dir / segments[1]]
    kept = [path.read_bytes() for path in paths]
    try:
        for path in paths[:2]:
            octets = bytearray(path.read_bytes())
            octets[40] ^= 1
            path.write_bytes(octets)
        paths[2].unlink()
        code, found = printed(command, "verify")
        lines = [str(line) for line in found["damage"]]  # type: ignore[attr-defined]
        assert code == 3
        assert [line.split(": ")[0] for line in lines] == [
            f"base backup {taken.id}", f"WAL segment {segments[0]}", f"WAL segment {segments[1]}",
        ]  # fmt: skip
        assert "backup_label" in lines[0]
        assert lines[2].endswith(": it is missing")
        code, out, _ = command("backup", "verify", "--target", "shop")
        assert (code, out.splitlines()[-3:]) == (3, lines)
        assert f"WAL is missing: {segments[1]}" in command("backup", "list", "--target", "shop")[1]
    finally:
        for path, octets in zip(paths, kept, strict=True):
            path.write_bytes(octets)
            shutil.chown(path, *fresh.dir.stat()[4:6])


@pytest.mark.slow
def test_what_no_restore_point_needs_is_removed_with_its_wal(fresh: Server, command: Command) -> None:
    """The newest stay, and what a restore point of the last days needs; the WAL before them goes."""
    backup.take_base_backup(fresh)
    needed = backup.take_base_backup(fresh)
    offered = point(fresh, "offered")
    unneeded = backup.take_base_backup(fresh)
    newest = backup.take_base_backup(fresh)
    code, found = printed(command, "expire")
    assert code == 0
    assert [one["id"] for one in found["backups"]] == [needed.id, newest.id]  # type: ignore[attr-defined]
    assert unneeded.id in found["removed_backups"]  # type: ignore[operator]
    first = archive.archived(fresh)[0]
    assert wal_segments.number(first) == wal_segments.number_at(needed.start_lsn)
    assert not [path.name for path in fresh.archive_dir.glob("*.backup") if path.name < first]
    assert not unneeded.path.exists()
    assert printed(command, "verify")[1]["damage"] == []
    try:
        assert restore(fresh, offered, name="restored").backup.id == needed.id
    finally:
        Server("restored").destroy()
    out = command("backup", "expire", "--target", "shop")[1]
    assert f"{needed.id} stays for restore point offered of 2" in out
    assert "removed: 0 base backups, 0 WAL segments" in out
    # A day later nobody offers it any more.
    later = retention.choose(fresh, keep=1, days=0)
    assert [one.id for one in later.backups] == [needed.id]
    assert all(wal_segments.number(name[:24]) < lsn_number(newest.start_lsn) >> 24 for name in later.segments)


@pytest.mark.slow
def test_nothing_is_removed_while_what_would_stay_is_damaged(fresh: Server, command: Command) -> None:
    """The older one may be the only whole one."""
    backup.take_base_backup(fresh)
    newest = backup.take_base_backup(fresh)
    label = newest.path / "backup_label"
    label.write_bytes(label.read_bytes()[:-1])
    code, _, err = command("backup", "expire", "--target", "shop")
    assert code == Broken.exit_code
    assert err.splitlines()[0] == f"refused to remove older base backups: {newest.id}, which would stay, is damaged"
    assert "backup_label" in err
    assert len(backup.list_base_backups(fresh)) == 2


@pytest.mark.parametrize("word", ["create", "list", "verify", "expire", "receive"])
def test_a_target_must_be_named(source: Server, command: Command, word: str) -> None:
    """The hint shows how."""
    assert source
    code, _, err = command("backup", word)
    assert (code, err.splitlines()[0]) == (WrongInput.exit_code, "a target must be named")
    assert err.splitlines()[-1] == f"Hint: For example: pgrunbook backup {word} --target demo"


def test_a_server_of_ours_needs_nobody_to_receive_its_wal(source: Server, command: Command) -> None:
    """It archives by itself."""
    assert source
    code, _, err = command("backup", "receive", "--target", "shop")
    assert (code, err.splitlines()[0]) == (3, 'target "shop" needs nobody to receive its WAL')
