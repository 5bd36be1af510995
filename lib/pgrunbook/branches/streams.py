"""Programs that octets stream through, and those that this process becomes; run as the server's account."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pgrunbook.branches.binaries import ServerAccount, last_lines, told_as
from pgrunbook.errors import RunbookError

log = logging.getLogger(__name__)

PIPE_BYTES = 1024 * 1024  # what Linux lets everybody have; 64 kB wake the other side too often


def become(account: ServerAccount | None, command: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> None:
    """Let this process go on as a program, run as ``run_as`` does; it has our output and gets our signals."""
    whole, who = told_as(account, command, environment)
    os.chdir(cwd)
    os.umask(who["umask"])
    if "user" in who:
        os.setgroups([])
        os.setgid(who["group"])
        os.setuid(who["user"])
    os.execvpe(whole[0], whole, who["env"])


@contextlib.contextmanager
def piped(
    account: ServerAccount | None,
    command: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program as ``run_as`` does while the body writes its input and reads its output.

    Raises RunbookError with the end of its stderr when it fails; that comes before an error of the broken pipe.
    """
    whole, who = told_as(account, command, environment)
    with tempfile.TemporaryFile() as told:
        with subprocess.Popen(
            whole, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=told, pipesize=PIPE_BYTES, **who
        ) as done:
            assert done.stdin is not None  # noqa: S101 - it is a pipe
            try:
                yield done
                done.stdin.close()
            except BrokenPipeError:
                log.info("%s has closed its input", command[0])  # its exit code and its words follow
            except BaseException:
                done.kill()
                raise
            finally:
                with contextlib.suppress(BrokenPipeError):
                    done.stdin.close()
        if done.returncode != 0:
            told.seek(0)
            raise RunbookError(
                f"could not run {Path(command[0]).name}: exit code {done.returncode}",
                detail=last_lines(told.read().decode("utf-8", "replace")),
            )
