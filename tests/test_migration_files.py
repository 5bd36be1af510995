"""Files of a migrations folder: read whole and once, and nothing that is not one of them."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pgrunbook.errors import WrongInput
from pgrunbook.history import files
from pgrunbook.history.files import read_bytes, read_migration
from pgrunbook.history.folder import TOOLS

SECRET = "root:*:19000:0:99999:7:::"  # noqa: S105 - what must not be shown


def a_socket(path: Path) -> None:
    """Bind a socket, whose path would be too long from here."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


PLANTED: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "a link to a file elsewhere": (lambda path, out: path.symlink_to(out), "It is a link that leads out of"),
    "a link that leads out by a link": (
        lambda path, out: ((path.parent / "hop").symlink_to(out), path.symlink_to("hop")),
        "It is a link that leads out of",
    ),
    "a relative link": (
        lambda path, out: path.symlink_to(os.path.relpath(out, path.parent)), "It is a link that leads out of",
    ),
    "a link to itself": (lambda path, _: path.symlink_to(path.name), "Too many levels of symbolic links"),
    "a FIFO": (lambda path, _: os.mkfifo(path), "It is no file."),
    "a link to a device": (lambda path, _: path.symlink_to("/dev/zero"), "It is no file."),
    "a socket": (lambda path, _: a_socket(path), "No such device or address"),
    "a folder": (lambda path, _: path.mkdir(), "It is no file."),
    "a file of 200 MB": (
        lambda path, _: (path.touch(), os.truncate(path, 200_000_000)), "It has 200 MB; 64 MB are read at most.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", PLANTED)
def test_what_is_no_file_of_the_folder_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    """At once, and nothing of it is read."""
    plant, why = PLANTED[kind]
    folder, elsewhere = tmp_path / "migrations", tmp_path / "shadow"
    folder.mkdir()
    elsewhere.write_text(SECRET)
    path = folder / "0001_a.sql"
    plant(path, elsewhere)
    with pytest.raises(WrongInput) as caught:
        read_bytes(path, folder)
    assert caught.value.message == f"cannot read {path}"
    assert why in caught.value.detail
    assert SECRET not in str(caught.value)


def test_a_file_that_this_user_may_not_read_is_told_with_the_way() -> None:
    """It is the right that lacks, and not the file that is in the wrong place."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    (folder / "0001_a.sql").touch(mode=0o000)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        with pytest.raises(WrongInput) as caught:
            read_bytes(folder / "0001_a.sql", folder)
    finally:
        if is_root:
            os.seteuid(0)
        shutil.rmtree(folder)
    assert (caught.value.detail, caught.value.hint) == ("Permission denied.", "Make it readable for this user.")


def test_a_link_within_the_folder_is_read(tmp_path: Path) -> None:
    """Also where the folder itself is reached by a link."""
    folder = tmp_path / "real"
    folder.mkdir()
    (folder / "0001_a.sql").write_text("SELECT 1")
    (folder / "0002_b.sql").symlink_to("0001_a.sql")
    (tmp_path / "migrations").symlink_to(folder)
    for root in (folder, tmp_path / "migrations"):
        assert read_bytes(root / "0002_b.sql", root) == b"SELECT 1"


def test_a_down_script_is_read_alike(tmp_path: Path) -> None:
    """A link out beside a migration is refused, too."""
    (tmp_path / "shadow").write_text(SECRET)
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_a.sql").write_text("SELECT 1")
    down = folder / "0001_a.down.sql"
    down.symlink_to(tmp_path / "shadow")
    with pytest.raises(WrongInput, match="leads out of"):
        read_migration(folder / "0001_a.sql", down, root=folder, name="0001_a", ordinal=0, when_ms=None)


LAYOUTS = {
    "plain": {"0001_a.sql": "SELECT 1"},
    "dbmate": {"20260101000000_a.sql": "-- migrate:up\nSELECT 1\n-- migrate:down\nSELECT 1\n"},
    "drizzle": {
        "0000_a.sql": "SELECT 1",
        "meta/_journal.json": '{"version": "7", "dialect": "postgresql", "entries": '
        '[{"idx": 0, "version": "7", "when": 1, "tag": "0000_a", "breakpoints": true}]}',
    },
    "drizzle's folders": {"20260101000000_a/migration.sql": "SELECT 1", "20260101000000_a/snapshot.json": "{}"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_tools_folder_is_read_beyond_itself(tmp_path: Path, layout: str) -> None:
    """Each file of each layout in turn is a link out of the folder, and so is each folder in it."""
    folders = {name.split("/")[0] for name in LAYOUTS[layout] if "/" in name}
    for name in [*LAYOUTS[layout], *folders]:
        if name.endswith("snapshot.json"):
            continue  # it is never read
        folder = tmp_path / name.replace("/", "-") / "migrations"
        out = folder.with_name("out")
        for each, text in LAYOUTS[layout].items():
            (folder / each).parent.mkdir(parents=True, exist_ok=True)
            (folder / each).write_text(text)
        shutil.move(folder / name, out)
        (folder / name).symlink_to(out)
        tool = next(tool for tool in TOOLS.values() if tool.kind == layout.split("'")[0])
        with pytest.raises(WrongInput, match="leads out of"):
            tool.read_folder(folder)


def test_a_bound_is_a_bound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file of just so many bytes is read."""
    monkeypatch.setattr(files, "MOST_BYTES", 8)
    (tmp_path / "a.sql").write_text("SELECT 1")
    assert read_bytes(tmp_path / "a.sql", tmp_path) == b"SELECT 1"
