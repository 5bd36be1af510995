"""The command ``pgrunbook``: a kernel is started before anything is imported, and boots while the rest loads."""

from __future__ import annotations

import gc
import sys

from pgrunbook.errors import RunbookError


def main() -> None:
    """Run the command line; print an error of ours in its own form, without a traceback."""
    # Imported modules stay: garbage collections during the imports and at the very end would cost 0.3 s.
    gc.disable()
    early = None
    try:
        if sys.argv[1:2] == ["run"] and not {"-h", "--help"} & set(sys.argv):
            from pgrunbook.runner.kernel import EarlyKernel

            early = EarlyKernel("pgrunbook.procedures.shared_steps")
        from pgrunbook.app import cli

        if early is not None:
            cli.early_kernels.append(early)
        gc.enable()
        cli.app()
    except RunbookError as exc:
        from pgrunbook.record import door

        sys.stderr.write(f"{door.masked(str(exc))}\n")
        sys.exit(exc.exit_code)
    finally:
        if early is not None:
            early.end()
        gc.freeze()
