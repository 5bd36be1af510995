"""A kernel that boots while the rest of the program is still being imported.

It imports what notebooks need before it answers, in parallel to the runner, which imports papermill.
It listens on sockets in a private folder instead of TCP ports, which others on the machine could reach.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pgrunbook.errors import RecordFailed

PREFIX = "pgrb-"
YOUNG_S = 60
PATH_MAX_BYTES = 107 - len("/pgrb-12345678/k-5")  # the limit of a socket's path, less the part that we append
# An import that fails is reported by the notebook's own set-up cell, where the record shows it.
# Imported modules stay, so that a garbage collection would cost a fifth of the boot for nothing.
BOOT = """
import contextlib, gc, importlib, sys
gc.disable()
for name in sys.argv.pop().split():
    with contextlib.suppress(Exception):
        importlib.import_module(name)
from ipykernel import kernelapp
gc.freeze()
gc.enable()
kernelapp.launch_new_instance()
"""
# glibc gives texts of many megabytes back at once only where its threshold stays: left alone, it grows with them.
ENVIRONMENT = {"PYDEVD_DISABLE_FILE_VALIDATION": "1", "MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_ARENA_MAX": "2"}


class EarlyKernel:
    """A running ipykernel process, to be adopted by a kernel manager or ended."""

    def __init__(self, imports: str = "") -> None:
        """Start the kernel; it imports the modules named in ``imports`` (with blanks between) as it boots.

        Raises RecordFailed when its files cannot be written into the temporary folder.
        """
        try:
            self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_temporary()))  # mkdtemp makes it 0700
            self.log = (self.folder / "log").open("wb")
            fcntl.flock(self.log, fcntl.LOCK_EX)  # the kernel inherits the lock: it is held while either of us lives
            self.connection_file = self.folder / "kernel.json"
            self.connection_file.write_text(json.dumps(_connection(self.folder)))
            self.connection_file.chmod(0o600)
        except OSError as exc:
            raise RecordFailed(
                "could not make the folder of the kernel's sockets",
                detail=f"{exc.filename or _temporary()}: {exc.strerror or exc}.",
                hint="Make room there, or name another folder in TMPDIR.",
            ) from exc
        self.process = self._boot(imports)
        self._context: Any = None
        _sweep()

    def _boot(self, imports: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            # -P: a module in the working directory cannot replace one of Python's own
            [sys.executable, "-P", "-c", BOOT, "-f", str(self.connection_file),
             "--HistoryManager.enabled=False", "--quiet", imports],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,  # Ctrl-C is for the runner, which interrupts the kernel itself
            env={**os.environ, **ENVIRONMENT, "JPY_PARENT_PID": str(os.getpid())},
        )  # fmt: skip

    def manager(self) -> Any:
        """Return a jupyter_client kernel manager that owns this process."""
        import zmq
        from jupyter_client.manager import AsyncKernelManager
        from jupyter_client.provisioning.local_provisioner import LocalProvisioner

        manager = AsyncKernelManager(connection_file=str(self.connection_file))
        manager.context.setsockopt(zmq.RECONNECT_IVL, 5)  # ms; the default is 100, lost where the kernel is not up yet
        manager.load_connection_file()
        provisioner = LocalProvisioner(parent=manager, kernel_id=secrets.token_hex(8), kernel_spec=None)
        provisioner.process = self.process
        provisioner.pid = self.process.pid
        provisioner.pgid = self.process.pid
        provisioner.connection_info = manager.get_connection_info()
        manager.provisioner = provisioner
        manager._attempted_start = True
        self._context = manager.context
        return manager

    def end(self) -> None:
        """Kill the process, if it still lives, and remove its folder."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.log.close()
        if self._context is not None:
            self._context.destroy(linger=0)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def sockets() -> Iterator[Path]:
    """Give the body a private folder for the sockets of a kernel; a killed process leaves it to the next sweep."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_temporary()))
    try:
        with (folder / "log").open("wb") as log:
            fcntl.flock(log, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _temporary() -> Path:
    """Return the temporary folder, or /tmp where its path is too long for a socket in it."""
    chosen = Path(tempfile.gettempdir())
    return chosen if len(os.fsencode(chosen)) <= PATH_MAX_BYTES else Path("/tmp")  # noqa: S108  # mkdtemp is safe there


def _connection(folder: Path) -> dict[str, object]:
    ports = {f"{name}_port": port for port, name in enumerate(("shell", "iopub", "stdin", "control", "hb"), 1)}
    return {
        "transport": "ipc",
        "ip": str(folder / "k"),
        "key": secrets.token_hex(32),
        "signature_scheme": "hmac-sha256",
        "kernel_name": "python3",
        **ports,
    }


def _sweep() -> None:
    """Remove the folders of runners that were killed: their lock is free, as its holders have ended."""
    for folder in _temporary().glob(f"{PREFIX}*"):
        try:
            facts = folder.lstat()
            if facts.st_uid != os.geteuid() or time.time() - facts.st_mtime < YOUNG_S:
                continue
            with (folder / "log").open("rb") as log:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # in use, or somebody else's, or gone by now
