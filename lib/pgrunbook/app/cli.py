"""The command line: ``pgrunbook`` and its commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pgrunbook.app import (
    cli_backup,
    cli_branch,
    cli_doctor,
    cli_drift,
    cli_monitor,
    cli_server,
    cli_undo_data,
    terminal,
)
from pgrunbook.errors import RunbookError, WrongInput

if TYPE_CHECKING:
    from pgrunbook.record.run import Part, Run, Status
    from pgrunbook.runner.kernel import EarlyKernel

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Runbooks as Jupyter notebooks, for changing a PostgreSQL database safely.",
)  # fmt: skip
app.add_typer(cli_server.app, name="server")
app.add_typer(cli_backup.app, name="backup")
app.add_typer(cli_branch.app, name="branch")
app.add_typer(cli_undo_data.app, name="undo-data")
app.command("drift")(cli_drift.drift)
app.command("monitor")(cli_monitor.monitor)
app.command("doctor")(cli_doctor.doctor)
early_kernels: list[EarlyKernel] = []


@app.command()
def run(
    runbook: Annotated[str, typer.Argument(help="A runbook of runbooks/, or a procedure.")] = "",
    target: Annotated[str, typer.Option(help="The target, as targets.toml declares it.")] = "",
    parameter: Annotated[list[str], typer.Option("-p", help="A parameter: key=value; of a list: key=a,b.")] = [],  # noqa: B006
    resume: Annotated[str, typer.Option(help="Go on with this run instead.")] = "",
) -> None:
    """Run a runbook headless. Exit codes: 0 done, 1 failed, 2 wrong use, 3 refused by a gate, 4 somebody is at work."""
    from pgrunbook.runner import runbook as books

    early = early_kernels.pop() if early_kernels else None
    if resume:
        if runbook or target or parameter:
            raise WrongInput(
                "--resume goes on with a run as it was started",
                detail="Its runbook, target and parameters are in its record.",
                hint=f"pgrunbook run --resume {resume}",
            )
        made, code = books.resume(resume, early)
    else:
        _refuse_without(runbook, target, "run")
        made, code = books.run(runbook, target, _pairs(parameter), early)
    terminal.end(made, code)


@app.command()
def start(
    runbook: Annotated[str, typer.Argument(help="A runbook of runbooks/, or a procedure.")] = "",
    target: Annotated[str, typer.Option(help="The target, as targets.toml declares it.")] = "",
    parameter: Annotated[list[str], typer.Option("-p", help="A parameter: key=value; of a list: key=a,b.")] = [],  # noqa: B006
    resume: Annotated[str, typer.Option(help="Open this run again instead.")] = "",
    lab: Annotated[bool, typer.Option(help="Open JupyterLab on it.")] = True,
) -> None:
    """Make a run with working copies of its notebooks, and open JupyterLab there."""
    from pgrunbook.runner import runbook as books

    if resume:
        made = books.reopen(resume)
    else:
        _refuse_without(runbook, target, "start")
        made = books.start(runbook, target, _pairs(parameter))
    sys.stdout.write(f"{made.folder}\n")
    if lab:
        _open_lab(made)


@app.command("runs")
def runs_(
    target: Annotated[str, typer.Option(help="Only the runs on this target.")] = "",
    most: Annotated[int, typer.Option(help="How many, the newest.")] = 20,
) -> None:
    """List the runs: when, what, on which target, and the status of each."""
    from pgrunbook.record import executed_copy
    from pgrunbook.record import run as records

    rows, unreadable = [], []
    for folder in records.folders():
        try:
            made = records.load(folder)
        except WrongInput as exc:
            unreadable.append(str(exc))
            continue
        if not target or made.target == target:
            rows.append(made)
    unreadable += filter(None, map(executed_copy.try_to_refresh, rows[-most:]))
    _print_runs(rows[-most:])
    sys.stderr.write("".join(f"{text}\n" for text in unreadable))


@app.command()
def show(run_id: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or its end.")]) -> None:
    """Show one run: its procedures, and the last events of its journal."""
    from pgrunbook.display.show import Table
    from pgrunbook.record import executed_copy, journal
    from pgrunbook.record import run as records

    made = records.find(run_id)
    sys.stderr.write("".join(f"{text}\n" for text in filter(None, [executed_copy.try_to_refresh(made)])))
    sys.stdout.write(f"{made.run_id}: {made.actual_status()}, {made.runbook} on {made.target} by {made.operator}\n")
    sys.stdout.write(f"{made.folder}\n\n")
    parts = [(p.procedure, status, p.started_at, p.ended_at, p.says) for p, status in _parts(made)]
    sys.stdout.write(f"{Table(['procedure', 'status', 'started', 'ended', 'says'], parts)!r}\n\n")
    events = journal.read(made.journal.path)
    last = [(e.get("at", ""), e["event"], _facts(e)) for e in events if not e["event"].startswith("cell-")]
    sys.stdout.write(f"{Table(['at', 'event', ''], last[-25:])!r}\n")


@app.command()
def accept(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or its end.")],
    gate: Annotated[
        list[str] | None, typer.Argument(help="Gates by migration:line; without any, all open ones.")
    ] = None,
) -> None:
    """Accept gates of a run's plan: statements without a safe form, which migrate refuses until they are accepted."""
    from pgrunbook.record import run as records
    from pgrunbook.session import acceptance

    chosen, left = acceptance.accept(run_id, gate or [])
    sys.stdout.write(f"accepted: {', '.join(chosen) or 'nothing, as no gate was open'}\n")
    sys.stdout.write(f"still open: {', '.join(left)}\n" if left else f"next: {records.find(run_id).next_try}\n")


@app.command()
def schema(
    file: Annotated[
        Literal["plan", "rehearsal", "drift", "backup"],
        typer.Argument(help="plan.json, rehearsal.json, or what drift or backup prints."),
    ],
) -> None:
    """Print the JSON Schema of what is written for your own automation."""
    from pgrunbook.app import json_schema

    sys.stdout.write(json_schema.kept(file))


@app.command()
def status(target: Annotated[str, typer.Option(help="Only this target.")] = "") -> None:
    """Show each target: whether it answers, its version, what is pending, and whether a run is at work."""
    from pgrunbook.display.show import Table
    from pgrunbook.session import naming

    chosen = [naming.target(target)] if target else naming.targets_of_file()
    rows, failed = [], []
    for one in chosen:
        try:
            rows.append(_standing(one))
        except RunbookError as exc:
            rows.append((one.name, "-", "-", "-", exc.message))
            failed.append(exc)
    headings = ["target", "server", "version", "pending", "now"]
    sys.stdout.write(f"{Table(headings, rows, empty='targets.toml declares no target.')!r}\n")
    if failed:
        sys.exit(1)


@app.command()
def review(
    files: Annotated[list[Path], typer.Argument(help="Migration files, in the order in which they would run.")],
    target: Annotated[str, typer.Option(help="Review on this target; without one, from the text alone.")] = "",
    fail_on: Annotated[str, typer.Option(help="Exit 1 at or above this: error, warning or never.")] = "error",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    sarif: Annotated[bool, typer.Option("--sarif", help="Print SARIF 2.1.0, for code scanning.")] = False,
    no_squawk: Annotated[bool, typer.Option("--no-squawk", help="Show the findings of our own rules only.")] = False,
    baseline: Annotated[
        Path | None, typer.Option(help="Leave out the findings in this file; where there is none, write them to it.")
    ] = None,
) -> None:
    """Show what migration files would lock, rewrite, break or lose, and the way out; for pull requests."""
    from pgrunbook.review import review as reviews

    floor: reviews.FailOn
    match fail_on:
        case "error" | "warning" | "never":
            floor = fail_on
        case _:
            raise WrongInput(f'--fail-on "{fail_on}" is not known', hint="It is error, warning or never.")
    if json and sarif:
        raise WrongInput("--json and --sarif exclude each other")
    form: reviews.Form = "json" if json else "sarif" if sarif else "text"
    text, code = reviews.run(
        files, target=target or None, fail_on=floor, form=form, with_squawk=not no_squawk, since=baseline
    )
    sys.stdout.write(text.rstrip("\n") + "\n")
    sys.exit(code)


@app.command()
def demo(
    rows: Annotated[int, typer.Option(min=1, max=100_000_000, help="Rows in the largest table.")] = 200_000,
    only_set_up: Annotated[bool, typer.Option("--only-set-up", help="Make the database, run nothing.")] = False,
) -> None:
    """Make the demo database anew; release, restore and roll back on it; show the runs."""
    from pgrunbook.app import demo as demos

    made = [demos.set_up(rows)]
    code = 0
    if not only_set_up:
        done, code = demos.show_off()
        made += done
    _print_runs(made)
    sys.stdout.write(f"\nThe record of each is its folder below:\n{made[-1].folder.parent}\n")
    sys.exit(code)


def _print_runs(made: list[Run]) -> None:
    from pgrunbook.display.show import Table

    rows = [
        (
            r.run_id,
            r.target,
            r.actual_status(),
            r.how,
            _took(r),
            " ".join(f"{p.procedure}:{status}" for p, status in _parts(r)),
        )
        for r in made
    ]
    headings = ["run", "target", "status", "how", "took", "procedures"]
    sys.stdout.write(f"{Table(headings, rows, empty='No run yet.')!r}\n")


def _parts(made: Run) -> list[tuple[Part, Status]]:
    """Return each part with its status as it is: at work only where somebody is."""
    from pgrunbook.record.run import Status

    at_work = made.is_held()
    return [(p, p.status if at_work or p.status is not Status.RUNNING else Status.BROKEN_OFF) for p in made.parts]


def _took(made: Run) -> str:
    from datetime import datetime

    if not made.ended_at:
        return "-"
    span = datetime.fromisoformat(made.ended_at) - datetime.fromisoformat(made.started_at)
    return f"{span.total_seconds():.1f} s"


def _facts(event: dict[str, Any]) -> str:
    passed_over = ("seq", "at", "event", "pid")
    return ", ".join(f"{k} {v}" for k, v in event.items() if k not in passed_over)[:160]


def _standing(target: Any) -> tuple[object, ...]:
    from pgrunbook import history as histories
    from pgrunbook.database import activity, locks
    from pgrunbook.database.connection import connect
    from pgrunbook.display.prose import counted

    with terminal.looking(target), connect(target, purpose="status") as conn:
        who = activity.identity(conn)
        server = f"PostgreSQL {who.server_version}, {who.role}"
        now = locks.run_in_progress(conn) or "no run"
        if target.migrations is None:
            return (target.name, server, "-", "-", now)
        history = histories.read(conn, target)
        problems = history.problems()
        pending = f"{len(history.pending())}" + (f", {counted(len(problems), 'problem')}" if problems else "")
        return (target.name, server, history.version() or "(none)", pending, now)


def _refuse_without(runbook: str, target: str, command: str) -> None:
    lacking = " and ".join(name for name, given in (("a runbook", runbook), ("a target", target)) if not given)
    if lacking:
        raise WrongInput(
            f"{lacking} must be named",
            detail="The runbooks are the files of runbooks/; targets.toml declares the targets.",
            hint=f"For example: pgrunbook {command} release --target demo",
        )


def _open_lab(made: Run) -> None:
    import os

    from pgrunbook.app import lab
    from pgrunbook.record import run as runs

    first = next((p for p in made.parts if p.status != "done"), made.parts[0])
    arguments = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={made.folder}"]
    arguments.append(str(made.folder / runs.WORK / first.notebook))
    if os.geteuid() == 0:
        arguments.append("--allow-root")
    os.execve(sys.executable, arguments, lab.environment())


def _pairs(given: list[str]) -> dict[str, str]:
    pairs = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise WrongInput(f'parameter "{text}" has no value', hint="Write it as key=value.")
        if key in pairs:
            raise WrongInput(f'parameter "{key}" is given twice')
        pairs[key] = value
    return pairs
