"""The command ``pgrunbook``: a kernel is started before anything is imported, and boots while the rest loads."""

from __future__ import annotations

import sys

from pgrunbook.errors import RunbookError


def main() -> None:
    """Run the command line; an error of ours is told in its own form, without a traceback."""
    early = None
    try:
        if sys.argv[1:2] == ["run"] and not {"-h", "--help"} & set(sys.argv):
            from pgrunbook.record.kernel import EarlyKernel

            early = EarlyKernel("pgrunbook.procedures.at_work")
        from pgrunbook import cli

        if early is not None:
            cli.early_kernels.append(early)
        cli.app()
    except RunbookError as exc:
        sys.stderr.write(f"{exc}\n")
        sys.exit(exc.exit_code)
    finally:
        if early is not None:
            early.end()


if __name__ == "__main__":
    main()
