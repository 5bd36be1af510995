"""The process that serves a data directory; ``branches.server`` asks for it first."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pgrunbook.branches import confinement
from pgrunbook.branches.binaries import Installation

CONNECT_TIMEOUT_S = 2.0
RESIDENTS_TIMEOUT_S = 3.0
BEGIN_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Postmaster:
    """The server process of one data directory, running or not.

    postmaster.pid alone proves nothing: after a crash its number may belong to somebody else's process,
    and a signal would end that one. So the process also has to listen on the socket (SO_PEERCRED says who does),
    or to have the data directory as its working directory.
    """

    data_dir: Path
    socket_dir: Path

    def pid(self) -> int | None:
        """Return the process id of the running postmaster, None when it does not run."""
        pid = self.pid_in_file()
        if pid is not None and (self._listener() == pid or _lives_in(pid, self.data_dir)):
            return pid
        return None

    def end(self, how: signal.Signals, timeout_s: int) -> bool:
        """Tell the postmaster to end, and wait for it; return whether it has ended, or did not run.

        As pg_ctl does, which looks ten times a second.
        Source: https://www.postgresql.org/docs/current/server-shutdown.html
        """
        ends_at = time.monotonic() + timeout_s
        if (pid := self.pid()) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)
        while self.pid() is not None and time.monotonic() < ends_at:
            time.sleep(0.005)
        return self.pid() is None

    def serves(self, handle: int) -> bool:
        """Tell whether a connected unix socket leads to the postmaster of this data directory."""
        pid = self.pid()
        return pid is not None and _peer(handle) in (pid, None)

    def pid_in_file(self) -> int | None:
        """Return the number in postmaster.pid, whichever process has it now; None where there is none."""
        try:
            return abs(int((self.data_dir / "postmaster.pid").read_text().split("\n", 1)[0]))
        except (OSError, ValueError):
            return None

    def number_is_reused(self) -> bool:
        """Tell whether postmaster.pid names a living process that certainly does not serve this data directory.

        PostgreSQL would refuse to start then. It recognizes the number of a dead process by itself, and then
        checks whether the old shared memory is still in use; so that is left to it.
        """
        pid = self.pid_in_file()
        return pid is not None and _exists(pid) and self.pid() is None and self.residents() == []

    def residents(self) -> list[int] | None:
        """Return the processes that work in the data directory, None where the system does not say."""
        if not Path("/proc/self/cwd").exists() or not self.data_dir.is_dir():
            return None if self.data_dir.is_dir() else []
        owner, found = self.data_dir.stat().st_uid, []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if entry.stat().st_uid == owner and (entry / "cwd").samefile(self.data_dir):
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile, or is a zombie
            except PermissionError:
                if os.geteuid() == 0:
                    return None  # a container without CAP_SYS_PTRACE
                continue  # not dumpable: an agent that keeps secrets, never PostgreSQL
        return sorted(found)

    def lasting_residents(self) -> list[int] | None:
        """Return the residents that remain after those of a killed server have had time to end."""
        ends_at = time.monotonic() + RESIDENTS_TIMEOUT_S
        while (found := self.residents()) and time.monotonic() < ends_at:
            time.sleep(0.05)
        return found

    def start_confined(
        self,
        postgres: Installation,
        options: Sequence[str],
        writable: Sequence[Path],
        environment: Mapping[str, str],
        timeout_s: int,
    ) -> subprocess.CompletedProcess[str]:
        """Start a server as pg_ctl does, confined (``branches.confinement``), and wait until it is ready.

        Its output goes to log/postgresql.log beside the data directory. Returns the exit code 1 where it is not ready
        in time, or has ended.
        """
        folder, account, log = self.data_dir.parent, postgres.account, Path("log/postgresql.log")
        command = [str(postgres.program("postgres")), "-D", "data", *options]
        confine = confinement.confining(postgres.bindir, writable)

        def alone() -> None:
            if os.fork():  # nobody waits for the server but the system itself
                os._exit(0)
            told = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)  # as the account, not as root
            for number in (1, 2):
                os.dup2(told, number)
            confine()

        try:
            subprocess.run(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC", **environment},
                umask=0o077,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
                start_new_session=True,
                preexec_fn=alone,
                check=False,
            )
        except (OSError, subprocess.SubprocessError) as exc:
            return subprocess.CompletedProcess(command, 1, "", f"The system did not confine the server: {exc}")
        began = time.monotonic()
        while not self._is_ready():
            waited_s = time.monotonic() - began
            if waited_s > timeout_s or (waited_s > BEGIN_TIMEOUT_S and not self._is_starting()):
                return subprocess.CompletedProcess(command, 1, "", "")
            time.sleep(0.01)
        return subprocess.CompletedProcess(command, 0, "", "")

    def _is_ready(self) -> bool:
        """Tell whether the eighth line of postmaster.pid says so, as pg_ctl reads it."""
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().split("\n")
        except OSError:
            return False
        return len(lines) > 7 and lines[7].strip() == "ready" and self.pid() is not None

    def _is_starting(self) -> bool:
        return bool(self.residents()) or self.pid() is not None

    def _listener(self) -> int | None:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(CONNECT_TIMEOUT_S)
            try:
                client.connect(str(self.socket_dir / ".s.PGSQL.5432"))
            except OSError:
                return None
            peer = _peer(client.fileno())
            return self.pid_in_file() if peer is None else peer


def _peer(handle: int) -> int | None:
    """Return the process that listens at the other end of a unix socket, None where the system does not say."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    with socket.socket(fileno=os.dup(handle)) as end:
        told = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", told)[0])


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _lives_in(pid: int, folder: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").samefile(folder)
    except OSError:
        return False
