"""The commands about runs that there are: list them, show one, accept gates of its plan."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgrunbook.errors import WrongInput

if TYPE_CHECKING:
    from pgrunbook.record.run import Run

RED, PLAIN = "\x1b[31m", "\x1b[0m"
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def runs(
    target: Annotated[str, typer.Option(help="Only the runs on this target.")] = "",
    most: Annotated[int, typer.Option(help="How many, the newest.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the runs: when, what, on which target, and the status of each."""
    from pgrunbook.record import executed_copy
    from pgrunbook.record import run as records
    from pgrunbook.seal import copies

    found, unreadable = [], []
    for folder in records.folders():
        try:
            made = records.load(folder)
        except WrongInput as exc:
            unreadable.append(str(exc))
            continue
        if not target or made.target == target:
            found.append(made)
    broken_off = [made for made in found[-most:] if made.actual_status() is records.Status.BROKEN_OFF]
    unreadable += filter(None, map(executed_copy.try_to_refresh, broken_off))
    sys.stderr.write(copies.told(made.folder for made in found))
    if as_json:
        from pgrunbook.app import run_report

        report = run_report.RunsReport(
            runs=tuple(run_report.of(made) for made in found[-most:]), unreadable=tuple(unreadable)
        )
        sys.stdout.write(report.model_dump_json(indent=1) + "\n")
        return
    write_table(found[-most:])
    sys.stderr.write("".join(f"{text}\n" for text in unreadable))


def show(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or its end.")], as_json: AsJson = False
) -> None:
    """Show one run: its procedures, and the last events of its journal; with --json all of them."""
    from pgrunbook.display.show import Table, visible
    from pgrunbook.record import executed_copy, journal
    from pgrunbook.record import run as records

    made = records.find(run_id)
    sys.stderr.write("".join(f"{text}\n" for text in filter(None, [executed_copy.try_to_refresh(made)])))
    if as_json:
        from pgrunbook.app import run_report

        sys.stdout.write(run_report.shown(made).model_dump_json(indent=1) + "\n")
        return
    said = f"{made.run_id}: {made.actual_status()}, {made.runbook} on {made.target} by {made.operator}"
    sys.stdout.write(f"{visible(said)}\n")
    sys.stdout.write(f"{made.folder}\n\n")
    parts = [(p.procedure, status, p.started_at, p.ended_at, p.says) for p, status in made.standing()]
    sys.stdout.write(f"{Table(['procedure', 'status', 'started', 'ended', 'says'], parts)!r}\n\n")
    events = journal.read(made.journal.path)
    last = [(e.get("at", ""), e["event"], _facts(e)) for e in events if not e["event"].startswith("cell-")]
    sys.stdout.write(f"{Table(['at', 'event', ''], last[-25:])!r}\n")


def accept(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or its end.")],
    gate: Annotated[
        list[str] | None, typer.Argument(help="Gates by migration:line; without any, all open ones.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Accept gates of a run's plan: statements without a safe form, which migrate refuses until they are accepted."""
    from pgrunbook.record import run as records
    from pgrunbook.session import acceptance

    chosen, left = acceptance.accept(run_id, gate or [])
    made = records.find(run_id)
    following = "" if left else made.next_try
    if as_json:
        from pgrunbook.app import run_report

        report = run_report.AcceptedGates(
            run_id=made.run_id, accepted=tuple(chosen), still_open=tuple(left), next=following
        )
        sys.stdout.write(report.model_dump_json(indent=1) + "\n")
        return
    sys.stdout.write(f"accepted: {', '.join(chosen) or 'nothing, as no gate was open'}\n")
    sys.stdout.write(f"still open: {', '.join(left)}\n" if left else f"next: {following}\n")


def write_table(made: Sequence[Run]) -> None:
    """Write runs as a table; a change without an approval is red where somebody looks at a terminal."""
    from pgrunbook.display.show import Table
    from pgrunbook.seal import approval_check
    from pgrunbook.session import emergency

    standing = approval_check.of_runs(made)
    loud = {run_id: f", {word.upper()}" for run_id, word in standing.items() if word in approval_check.LOUD}
    loud |= {run.run_id: ", EMERGENCY" for run in made if emergency.EMERGENCY in run.about and run.run_id not in loud}

    rows = [
        (
            run.run_id,
            run.target,
            run.actual_status(),
            f"{run.how}{loud.get(run.run_id, '')}",
            "-" if run.took_s is None else f"{run.took_s:.1f} s",
            " ".join(f"{part.procedure}:{status}" for part, status in run.standing()),
        )
        for run in made
    ]
    headings = ["run", "target", "status", "how", "took", "procedures"]
    urgent = set(loud) if sys.stdout.isatty() else set()
    for line in repr(Table(headings, rows, empty="No run yet.")).splitlines():
        sys.stdout.write(f"{RED}{line}{PLAIN}\n" if line.partition(" ")[0] in urgent else f"{line}\n")


def _facts(event: dict[str, Any]) -> str:
    passed_over = ("seq", "at", "event", "pid", "prev")
    return ", ".join(f"{k} {v}" for k, v in event.items() if k not in passed_over)[:160]
