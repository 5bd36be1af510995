"""Processes of tests that are forked from one that has imported the library, instead of importing it in 1.3 s each.

They are processes of their own: killed, interrupted and waited for as any other, and gone when their parent is. What
runs the command ``pgrunbook``, tests/test_kernel.py and tests/test_engine.py start theirs as a user does.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from pgrunbook.runner.kernel import EarlyKernel

MESSAGE_BYTES = 1 << 20
IMPORTS = (
    *(f"pgrunbook.procedures.{name}" for name in ["prepare", "migrate", "validate", "rollback", "restore", "purge"]),
    "ipykernel.kernelapp",
    "ipykernel.debugger",
    "ipykernel.pylab.backend_inline",
    "scenes",
)
KERNEL = "from ipykernel import kernelapp; kernelapp.launch_new_instance()"
# Their parent, which ends when this process does.
_parent: list[tuple[subprocess.Popen[bytes], socket.socket]] = []


class ForkedProcess:
    """A process that runs some code with arguments; used as a subprocess.Popen."""

    stdin = stdout = stderr = None

    def __init__(self, code: str, *arguments: str, told: int, env: dict[str, str] | None = None) -> None:
        """Fork it; what it writes goes to the file ``told``."""
        question = {"code": code, "arguments": arguments, "env": {**os.environ, **(env or {})}, "cwd": str(Path.cwd())}
        self.pid = int(_ask(question, told))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, None while it lives."""
        if self.returncode is None:
            self.returncode = _ask({"poll": self.pid})
        return self.returncode

    def wait(self) -> int:
        """Wait for its end."""
        while (code := self.poll()) is None:
            time.sleep(0.005)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it lives."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)


class ForkedKernel(EarlyKernel):
    """A kernel that has imported everything before it was asked for."""

    def _boot(self, imports: str) -> Any:
        assert imports
        options = ("-f", str(self.connection_file), "--HistoryManager.enabled=False", "--quiet")
        return ForkedProcess(KERNEL, *options, told=self.log.fileno(), env={"PYDEVD_DISABLE_FILE_VALIDATION": "1"})


def end() -> None:
    """End the parent, and what is left of its children."""
    while _parent:
        process, ours = _parent.pop()
        ours.close()
        process.wait()


def serve(number: int) -> None:
    """Fork a process for each question, and tell how they ended."""
    import gc
    import importlib

    for name in IMPORTS:
        importlib.import_module(name)
    gc.freeze()
    asked, children = socket.socket(fileno=number), set()
    while True:
        text, files, *_ = socket.recv_fds(asked, MESSAGE_BYTES, 1)
        if not text:
            break
        question = json.loads(text)
        if "poll" in question:
            pid, status = os.waitpid(question["poll"], os.WNOHANG)
            children -= {pid}
            asked.send(json.dumps(os.waitstatus_to_exitcode(status) if pid else None).encode())
            continue
        pid = os.fork()
        if pid == 0:
            asked.close()
            _run(question, files[0])
        os.close(files[0])
        children.add(pid)
        asked.send(json.dumps(pid).encode())
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _ask(question: dict[str, Any], *files: int) -> Any:
    if not _parent:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        here = str(Path(__file__).parent)
        code = f"import sys; sys.path.insert(0, {here!r}); import forks; forks.serve(int(sys.argv[1]))"
        command = [sys.executable, "-P", "-c", code, str(theirs.fileno())]
        _parent.append((subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True), ours))
        theirs.close()
    socket.send_fds(_parent[0][1], [json.dumps(question).encode()], list(files))
    return json.loads(_parent[0][1].recv(MESSAGE_BYTES))


def _run(question: dict[str, Any], told: int) -> None:
    """Be the process that was asked for; it never returns."""
    code = 1
    try:
        os.setsid()
        os.dup2(told, 1)
        os.dup2(told, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.clear()
        os.environ.update(question["env"], JPY_PARENT_PID=str(os.getppid()))
        os.chdir(question["cwd"])
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["-c", *question["arguments"]]
        exec(question["code"], {"__name__": "__main__"})  # noqa: S102 - it is the tests' own
        code = 0
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
