"""The command ``pgrunbook throttle``: a person slows down, pauses or stops the batches of a run that is at work."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pgrunbook.app import terminal


def throttle(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or its end.")],
    word: Annotated[str, typer.Argument(metavar="WORD", help="pause, resume, faster, slower or stop.")],
    reason: Annotated[str, typer.Option(help="Why; the run shows and records it.")] = "",
) -> None:
    """Let the batches of a run pause, resume, work faster or slower, or stop; pgrunbook runs lists the runs."""
    from pgrunbook.record import run as records
    from pgrunbook.session import naming, run_control

    with terminal.looking(naming.target(records.find(run_id).target)):
        sys.stdout.write(f"{run_control.tell(run_id, word, reason)}\n")
