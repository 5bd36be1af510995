"""The embedded PostgreSQL server: created, started, stopped and destroyed; every notebook's demo runs on it.

It listens on a unix socket only and archives its WAL from the first minute. Every path that PostgreSQL
sees is relative to the server's folder, so that a state directory with blanks, quotes or a very
long name does no harm, and a restored server finds the archive of its source as ``../../<name>/archive``.
Run by root, pgrunbook writes into the folders of the server's account only as that account.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

from pgrunbook.branches import (
    confinement,
    datadir,
    half_restored,
    in_memory,
    isolation,
    lock_file,
    server_facts,
    server_name,
    socket_folder,
)
from pgrunbook.branches.binaries import Installation, at, installation, last_lines, run_as, run_checked, state_folder
from pgrunbook.branches.branch_target import BranchTarget
from pgrunbook.branches.postmaster import Postmaster
from pgrunbook.branches.server_facts import ServerFacts
from pgrunbook.branches.server_status import ServerState, ServerStatus
from pgrunbook.config import paths
from pgrunbook.database.connection import Connection, connect
from pgrunbook.display.prose import listed
from pgrunbook.errors import Blocked, Refused, RunbookError, Unreachable

log = logging.getLogger(__name__)

START_TIMEOUT_S = STOP_TIMEOUT_S = 60
LOCK_TIMEOUT_S = 120
START_ATTEMPTS = 20
START_PAUSE_S = 0.5
REMOVE_ATTEMPTS, REMOVE_PAUSE_S = 10, 0.5
LOCKED = ("backups", "archive")
OUTLIVED = ("pre-existing shared memory block", 'lock file "postmaster.pid" already exists')
LOG_LIMIT_BYTES = 16 * 1024 * 1024


class Server:
    """One embedded server in ``<state>/servers/<name>``: data, log, archive, backups.

    Any number of processes may hold one for the same name; an instance belongs to one thread.

    Raises WrongInput for a name that is not made of lower-case letters, digits, - and _.
    """

    def __init__(self, name: str = "main") -> None:
        self.name = server_name.checked(name)
        self.dir = paths.state_dir() / "servers" / name
        self.data_dir = self.dir / "data"
        self.log_file = self.dir / "log" / "postgresql.log"
        self.archive_dir = self.dir / "archive"
        self.backups_dir = self.dir / "backups"
        self.backups_lock, self.archive_lock = (self.dir.with_name(f"{name}.{of}.lock") for of in LOCKED)
        self.socket_dir = paths.socket_dir(name)
        self._postmaster = Postmaster(self.data_dir, self.socket_dir)
        said = server_facts.read(self.dir)
        self.superuser, self.database, self._bindir = said.superuser, said.database, said.bindir
        self.own_settings, self.is_confined = said.settings, said.is_confined
        self.preloaded: str | None = None  # what its files preload: isolation asks them once a start
        self._locks_held = 0

    @cached_property
    def installation(self) -> Installation:
        """The PostgreSQL that this server runs on."""
        return at(Path(self._bindir)) if self._bindir and Path(self._bindir).is_dir() else installation()

    def start(self, *, timeout_s: int = START_TIMEOUT_S) -> ServerStatus:
        """Start the server, and create it first where it is absent; nothing happens when it runs.

        Raises Unreachable when it does not come up, Refused when its files belong to somebody else or to another major
        version, when it is half restored or its data are lost, WrongInput for a name of our branches, RunbookError when
        it cannot be created, Blocked when another process has locked it.
        """
        server_name.refuse_branch_name(self.name)
        with self.lock():
            half_restored.refuse(self.name, self.dir)
            if self.pid() is None:
                if not self._is_there():
                    half_restored.refuse_lost(self.name, self.dir)
                    self._create()
                self.launch(timeout_s=timeout_s)
            return self.status()

    def stop(self) -> ServerStatus:
        """Stop the server and end its sessions (pg_ctl's mode fast); nothing happens when it does not run.

        Raises Unreachable when it does not stop in time.
        """
        with self.lock():
            if self.pid() is not None:
                log.info('stopping server "%s"', self.name)
                told_before = self.log_bytes()
                if not self._postmaster.end(signal.SIGINT, STOP_TIMEOUT_S):
                    raise Unreachable(
                        f'could not stop server "{self.name}" in {STOP_TIMEOUT_S} s',
                        detail=last_lines(self.log_since(told_before)),
                        state="The server is still running, or stopping.",
                        hint=f"Read {self.log_file}, then stop it again.",
                    )
            return self.status()

    def stop_at_once(self) -> None:
        """Stop the server without writing what it holds (pg_ctl's mode immediate): its next start recovers that."""
        self._postmaster.end(signal.SIGQUIT, STOP_TIMEOUT_S)

    def status(self) -> ServerStatus:
        """Tell what the server is doing now."""
        pid, there = self.pid(), self._is_there()
        state = ServerState.RUNNING if pid else ServerState.STOPPED if there else ServerState.ABSENT
        says = half_restored.told(self.dir) or ""
        if says:
            state = ServerState.HALF_RESTORED
        elif not there and self._gone.exists():
            state, says = ServerState.HALF_REMOVED, f"pgrunbook server destroy --name {self.name} removes the rest"
        return ServerStatus(self.name, state, self._data_major(), pid, self.data_dir, self.socket_dir, says)

    def destroy(self) -> ServerStatus:
        """Stop the server and remove its data, log, archive and backups; nothing happens when it is absent.

        Raises Unreachable when it does not stop, Blocked when some of its processes do not end; nothing is
        removed then.
        """
        with self.lock():
            self.stop()
            residents = self._postmaster.lasting_residents()
            if residents:
                raise Blocked(
                    f'could not destroy server "{self.name}"',
                    detail=f"Processes {listed(residents)} still work in {self.data_dir}.",
                    state="The server is stopped; its files are all there.",
                    hint="Wait for them to end, or end them, then destroy it again.",
                )
            if self.dir.exists():
                log.info('removing server "%s"', self.name)
                if place := in_memory.place_of(self.data_dir):
                    shutil.rmtree(place, ignore_errors=True)
                _remove(self._gone)
                self.dir.rename(self._gone)
            _remove(self._gone)
            if self.socket_dir.is_dir() and self.socket_dir.lstat().st_uid == self._owner():
                shutil.rmtree(self.socket_dir, ignore_errors=True)
            for file in (self.backups_lock, self.archive_lock, self._lock_file):
                file.unlink(missing_ok=True)
            return self.status()

    def program(self, name: str) -> Path:
        """Return the path of one of PostgreSQL's programs, as pg_dump; raises WrongInput without it."""
        return self.installation.program(name)

    def run(self, program: str, *args: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run one of PostgreSQL's programs as the server's account, in the server's folder.

        Raises RunbookError with what it wrote to stderr when it fails.
        """
        command = [str(self.program(program)), *args]
        return run_checked(self.installation.account, command, cwd=self.dir, text=text)

    def connect(self, *, purpose: str = "server", database: str = "") -> Connection:
        """Open an autocommit connection as its superuser. Raises Unreachable when the server does not answer."""
        name = f"server {self.name}"
        target = BranchTarget(name=name, server=self.name, database=database or self.database, superuser=self.superuser)
        return connect(target.as_superuser(), purpose=purpose)

    def pid(self) -> int | None:
        """Return the process id of the running server, None when it does not run."""
        return self._postmaster.pid()

    @contextlib.contextmanager
    def lock(self, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
        """Hold the server's lock file, so that nobody else starts, stops, creates or destroys it meanwhile.

        Raises Blocked when another process does not release it within ``timeout_s``.
        """
        if self._locks_held:
            yield
            return
        handle = self._locked_file(timeout_s)
        self._locks_held += 1
        try:
            yield
        finally:
            self._locks_held -= 1
            os.close(handle)

    def make_folders(self, folder: Path) -> None:
        """Create a server's folder with log, archive and backups in it, which only the account can read."""
        account = self.installation.account
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            if account:
                os.chown(folder, account.uid, account.gid, follow_symlinks=False)
        self._check_owner(folder)
        self.do("mkdir", "-p", "log", "archive", "backups", cwd=folder)

    def do(self, *command: str, text: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a system program as the server's account in the server's folder. Raises RunbookError when it fails."""
        return run_checked(self.installation.account, command, cwd=cwd or self.dir, text=text)

    def write(self, path: str, text: str) -> None:
        """Write a file in the server's folder as its account, so that it is there whole or not at all."""
        self.do("sh", "-c", 'cat > "$1.new" && mv -f "$1.new" "$1"', "sh", path, text=text)

    def keep_facts(self) -> None:
        """Write into the server's folder what other processes have to know of it."""
        facts = ServerFacts(
            superuser=self.superuser,
            database=self.database,
            bindir=str(self.installation.bindir),
            settings=self.own_settings,
            is_confined=self.is_confined,
        )
        self.write(server_facts.FILE, facts.model_dump_json(indent=1) + "\n")

    def launch(self, *, timeout_s: int = START_TIMEOUT_S, more: Mapping[str, str] | None = None) -> None:
        """Start the postmaster of an existing server that does not run; the caller holds the lock.

        ``more`` are settings for this start alone, which beat ``own_settings``, those of each start. A copy gets all of
        its settings on the command line (``branches.isolation``). A killed postmaster leaves backends that hold its
        shared memory until they notice. PostgreSQL refuses to start beside them, so the start is tried START_ATTEMPTS
        times. Where nobody reaps the dead postmaster (a container without an init), PostgreSQL takes it for
        living until the backends are gone and we remove its postmaster.pid.
        """
        self._check_ownership()
        self.preloaded = None
        own = {**datadir.settings(self.installation, self.name, self.socket_dir), **self.own_settings}
        settings = {**own, **(more or {})}
        self.write(f"data/{datadir.SETTINGS_FILE}", datadir.text(settings))
        last_word = isolation.options(self, settings, more or {})
        socket_folder.make(self.socket_dir, self._owner())
        if self.log_bytes() > LOG_LIMIT_BYTES:
            self.do("mv", "-f", "log/postgresql.log", "log/postgresql.log.1")
        for attempt in range(1, START_ATTEMPTS + 1):
            self._clear_leftovers()
            told_before = self.log_bytes()
            log.info('starting server "%s" (attempt %s of %s)', self.name, attempt, START_ATTEMPTS)
            done = self._started(last_word, timeout_s)
            if done.returncode == 0:
                return
            told = self.log_since(told_before)
            outlived = any(text in told for text in OUTLIVED)
            if not outlived or self.pid() or attempt == START_ATTEMPTS:
                raise self._did_not_start(told or done.stderr, attempt)
            time.sleep(START_PAUSE_S)

    def log_bytes(self) -> int:
        """Return the size of the server's log, from which :meth:`log_since` can read on."""
        return self.log_file.stat().st_size if self.log_file.is_file() else 0

    def log_since(self, offset_bytes: int) -> str:
        """Return what the server has written to its log after the offset."""
        if not self.log_file.is_file():
            return ""
        return self.do("tail", "-c", f"+{offset_bytes + 1}", "log/postgresql.log").stdout

    @property
    def _gone(self) -> Path:
        return self.dir.with_name(f"{self.name}.gone")

    @property
    def _lock_file(self) -> Path:
        return self.dir.with_name(f"{self.name}.lock")

    def _locked_file(self, timeout_s: float) -> int:
        state_folder("servers")
        try:
            handle = lock_file.take(self._lock_file, timeout_s)
        except PermissionError as exc:
            raise self._of_another(self._lock_file) from exc
        if handle is None:
            raise Blocked(
                f'could not lock server "{self.name}" in {timeout_s:.0f} s',
                detail="Another process is starting, stopping, restoring or destroying it.",
                hint="Wait for it to finish, then do this again.",
            )
        return handle

    def _create(self) -> None:
        """Create the data directory as a copy of the template, under another name first."""
        log.info('creating server "%s"', self.name)
        was_there = self.dir.exists()
        try:
            template = datadir.template(self.installation)
            self.make_folders(self.dir)
            self.do("rm", "-rf", "data.new")
            self.do("cp", "-a", os.path.relpath(template / "data", self.dir), "data.new")
            if datadir.fsync() == "on":
                self.run("initdb", "--sync-only", "-D", "data.new")
            self.do("mv", "data.new", "data")
        except BaseException as exc:
            shutil.rmtree(self.dir / "data.new" if was_there else self.dir, ignore_errors=True)
            if isinstance(exc, OSError) or type(exc) is RunbookError:
                raise self._not_made(exc) from exc
            raise

    def _check_ownership(self) -> None:
        self._check_owner(self.dir)
        if self._data_major() != self.installation.major:
            raise Refused(
                f'server "{self.name}" is of PostgreSQL {self._data_major()}',
                detail=f"The programs in {self.installation.bindir} are version {self.installation.version}.",
                hint="Name an installation of that version in PGRUNBOOK_PG_BINDIR.",
            )

    def _check_owner(self, folder: Path) -> None:
        if folder.lstat().st_uid != self._owner():
            raise self._of_another(folder)

    def _of_another(self, path: Path) -> Refused:
        return Refused(
            f'server "{self.name}" belongs to another user',
            detail=f"{path} was made by another user, or for another PGRUNBOOK_SERVER_ACCOUNT.",
            hint="Run as that user, set PGRUNBOOK_SERVER_ACCOUNT as it was, or use another PGRUNBOOK_STATE.",
        )

    def _is_there(self) -> bool:
        try:
            return self.data_dir.is_dir()
        except PermissionError as exc:
            raise self._of_another(self.dir) from exc

    def _owner(self) -> int:
        return self.installation.account.uid if self.installation.account else os.geteuid()

    def _data_major(self) -> int | None:
        try:
            return int((self.data_dir / "PG_VERSION").read_text())
        except (OSError, ValueError):
            return None

    def _clear_leftovers(self) -> None:
        """Remove the files that keep PostgreSQL from starting although no process serves this data directory."""
        if self._postmaster.number_is_reused():
            log.info('removing postmaster.pid of server "%s": it names a process of somebody else', self.name)
            self.do("rm", "-f", "data/postmaster.pid")
            for leftover in self.socket_dir.glob(".s.PGSQL.*"):
                leftover.unlink(missing_ok=True)

    def _started(self, last_word: list[str], timeout_s: int) -> subprocess.CompletedProcess[str]:
        if self.is_confined and last_word and confinement.is_there():
            place = in_memory.place_of(self.data_dir)
            writable = (self.dir, self.socket_dir, *([place / "data"] if place else []))
            environment, words = isolation.environment(self), shlex.split(last_word[1])
            return self._postmaster.start_confined(self.installation, words, writable, environment, timeout_s)
        options = ("-D", "data", "-l", "log/postgresql.log", "-w", "-t", str(timeout_s))
        return self._pg_ctl("start", *options, *last_word)

    def _pg_ctl(self, *args: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.program("pg_ctl")), *args]
        return run_as(self.installation.account, command, cwd=self.dir, environment=isolation.environment(self))

    def _not_made(self, exc: RunbookError | OSError) -> RunbookError:
        return RunbookError(
            f'could not create server "{self.name}"',
            detail=exc.detail if isinstance(exc, RunbookError) else str(exc),
            state="There is no such server; its half-made files are removed.",
            hint=f"Make 100 MB of space in {paths.state_dir()}, or name another folder in PGRUNBOOK_STATE.",
        )

    def _did_not_start(self, told: str, attempts: int) -> Unreachable:
        tried = f" in {attempts} attempts" if attempts > 1 else ""
        pid, living = self.pid(), self._postmaster.residents()
        state = "The server is stopped; its data is as it was."
        if pid:
            state = f"The server is still starting (process {pid})."
        elif living:
            state = f"The server is stopped, but processes {listed(living)} still work in {self.data_dir}."
        return Unreachable(
            f'could not start server "{self.name}"{tried}',
            detail=last_lines(told),
            state=state,
            hint=f"Read {self.log_file}, then: pgrunbook server start --name {self.name}.",
        )


def _remove(folder: Path) -> None:
    """Remove a folder; a program that a killed restore has left may write into it for a moment yet."""
    for _ in range(REMOVE_ATTEMPTS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(REMOVE_PAUSE_S)
    shutil.rmtree(folder)
