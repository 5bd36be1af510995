"""The command ``pgrunbook``: a kernel is started before anything is imported, and boots while the rest loads."""

from __future__ import annotations

import errno
import gc
import io
import os
import sys
from pathlib import Path
from typing import NoReturn

from pgrunbook.errors import RunbookError
from pgrunbook.runner import stops

NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)  # what a full or bad stdout says
CLICK_STOPPED = 130  # the exit code with which click ends a command at KeyboardInterrupt


def command() -> None:
    """Be the process ``pgrunbook``: the command line, and nothing behind it."""
    main(is_last=True)


def main(*, is_last: bool = False) -> None:
    """Run the command line; print an error of ours in its own form, without a traceback."""
    # Imported modules stay: garbage collections during the imports and at the very end would cost 0.3 s.
    gc.disable()
    _open_streams()
    with stops.listening(is_last=is_last):
        _main()


def _open_streams() -> None:
    """Write to nowhere where the shell has closed a stream (>&-), and what its encoding does not have as an escape."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - until the process ends
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _main() -> None:
    early = None
    try:
        if sys.argv[1:2] == ["run"] and not {"-h", "--help"} & set(sys.argv):
            from pgrunbook.runner.kernel import EarlyKernel

            early = EarlyKernel("pgrunbook.procedures.shared_steps")
        with stops.let_through():
            from pgrunbook.app import cli

            if early is not None:
                cli.early_kernels.append(early)
            gc.enable()
            cli.app()
    except RunbookError as exc:
        _say(exc)
    except OSError as exc:
        if exc.filename is not None or exc.errno not in NOT_WRITTEN:
            raise
        detail, hint = f"{exc.strerror}.", "Write it elsewhere; pgrunbook runs tells what a run has done."
        _say(RunbookError("could not write what was asked for", detail=detail, state="", hint=hint))
    except (KeyboardInterrupt, SystemExit) as exc:
        error = stops.stopped()
        if error is None or (isinstance(exc, SystemExit) and exc.code != CLICK_STOPPED):
            raise
        _say(error)
    finally:
        if early is not None:
            early.end()
        gc.freeze()


def _say(error: RunbookError) -> NoReturn:
    from pgrunbook.record import door

    sys.stderr.write(door.masked("\n".join(error.shown())) + "\n")
    sys.exit(error.exit_code)
