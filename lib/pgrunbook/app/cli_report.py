"""The commands that make runs readable: ``report``, ``diff`` and ``evidence``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def report(
    run_id: Annotated[str, typer.Argument(metavar="[RUN]", help="A run's id, or its end; without one, all runs.")] = "",
) -> None:
    """Write the page of a run, ``report.html``; and the page of all runs, ``outputs/index.html``."""
    from pgrunbook.config import paths
    from pgrunbook.record import run as records
    from pgrunbook.seal import report as reports
    from pgrunbook.seal import run_index

    if run_id:
        sys.stdout.write(f"{reports.write(records.find(run_id))}\n")
    sys.stdout.write(f"{run_index.write(paths.outputs_dir())}\n")


def diff(
    left: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or its end.")],
    right: Annotated[str, typer.Argument(metavar="RUN", help="Another one's.")],
) -> None:
    """Show what differs between two runs: parameters, plan, outcome, durations, schema, versions."""
    from pgrunbook.record import run as records
    from pgrunbook.seal import run_diff

    sys.stdout.write(f"{run_diff.table(records.find(left), records.find(right))!r}\n")


def evidence(
    since: Annotated[str, typer.Option("--from", metavar="DAY", help="The first day: 2026-01-01.")] = "",
    until: Annotated[str, typer.Option("--to", metavar="DAY", help="The last day.")] = "",
    target: Annotated[str, typer.Option(help="Only changes of this target.")] = "",
) -> None:
    """Print the sealed changes of a period as CSV, with what PCI DSS, SOC 2 and ISO 27001 ask for."""
    from datetime import date

    from pgrunbook.config import paths
    from pgrunbook.errors import WrongInput
    from pgrunbook.seal import evidence as changes

    for day in filter(None, (since, until)):
        try:
            date.fromisoformat(day)
        except ValueError as exc:
            raise WrongInput(f'"{day}" is no day', hint="Write it as 2026-11-30.") from exc
    count = changes.write(sys.stdout, paths.outputs_dir(), since=since, until=until, target=target)
    sys.stderr.write(f"{count} sealed attempts\n")
