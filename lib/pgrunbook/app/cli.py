"""The command line: ``pgrunbook`` and its commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pgrunbook.app import (
    cli_approval,
    cli_archive,
    cli_backup,
    cli_branch,
    cli_doctor,
    cli_drift,
    cli_key,
    cli_monitor,
    cli_report,
    cli_runs,
    cli_server,
    cli_throttle,
    cli_undo_data,
    cli_verify,
    terminal,
)
from pgrunbook.errors import Refused, RunbookError, WrongInput

if TYPE_CHECKING:
    from pgrunbook.app.run_report import TargetStanding
    from pgrunbook.config.targets import Target
    from pgrunbook.database.connection import Connection
    from pgrunbook.record.run import Run
    from pgrunbook.runner.kernel import EarlyKernel

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Runbooks as Jupyter notebooks, for changing a PostgreSQL database safely.",
)  # fmt: skip
app.add_typer(cli_server.app, name="server")
app.add_typer(cli_backup.app, name="backup")
app.add_typer(cli_branch.app, name="branch")
app.add_typer(cli_undo_data.app, name="undo-data")
app.add_typer(cli_key.app, name="key")
app.command("verify")(cli_verify.verify)
app.command("seal")(cli_verify.seal)
app.command("archive")(cli_archive.archive)
app.command("report")(cli_report.report)
app.command("diff")(cli_report.diff)
app.command("evidence")(cli_report.evidence)
app.command("drift")(cli_drift.drift)
app.command("monitor")(cli_monitor.monitor)
app.command("doctor")(cli_doctor.doctor)
app.command("runs")(cli_runs.runs)
app.command("show")(cli_runs.show)
app.command("accept")(cli_runs.accept)
app.command("approve")(cli_approval.approve)
app.command("requests")(cli_approval.requests)
app.command("throttle")(cli_throttle.throttle)
early_kernels: list[EarlyKernel] = []
ABOUT = ("change", "reason", "risk", "requested_by")
Emergency = Annotated[
    str, typer.Option("--emergency", help="Why it does without approval and window: a reason of some words.")
]
Why = Annotated[
    list[str], typer.Option("--why", help="Of the change: reason=..., change=..., risk=..., requested_by=...")
]


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from pgrunbook import __version__

        sys.stdout.write(f"pgrunbook {__version__}\n")
        raise typer.Exit


@app.callback()
def command(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version, and end.")
    ] = False,
) -> None:
    """Runbooks as Jupyter notebooks, for changing a PostgreSQL database safely."""


@app.command()
def run(
    runbook: Annotated[str, typer.Argument(help="A runbook of runbooks/, or a procedure.")] = "",
    target: Annotated[str, typer.Option(help="The target, as targets.toml declares it.")] = "",
    parameter: Annotated[list[str], typer.Option("-p", help="A parameter: key=value; of a list: key=a,b.")] = [],  # noqa: B006
    why: Why = [],  # noqa: B006
    resume: Annotated[str, typer.Option(help="Go on with this run instead.")] = "",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Tell nothing but errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tell every event of the journal.")] = False,
    as_json: cli_runs.AsJson = False,
    emergency: Emergency = "",
    wait_approval: Annotated[
        str, typer.Option("--wait-approval", help="Wait so long for an approval, then go on: 2h, 30m.")
    ] = "",
) -> None:
    """Run a runbook headless. Exit codes: 0 done, 1 failed, 2 wrong use, 3 refused by a gate, 4 somebody is at work."""
    from pgrunbook.runner import runbook as books
    from pgrunbook.runner.progress import Telling, telling

    early = early_kernels.pop() if early_kernels else None
    if quiet and verbose:
        raise WrongInput("--quiet and --verbose exclude each other")
    patience = cli_approval.duration(wait_approval, "--wait-approval") if wait_approval else None
    much = Telling.ERRORS if quiet else Telling.EVENTS if verbose else Telling.CELLS
    if resume:
        if runbook or target or parameter or why:
            raise WrongInput(
                "--resume goes on with a run as it was started",
                detail="Its runbook, target and parameters are in its record.",
                hint=f"pgrunbook run --resume {resume}",
            )
        with telling(much):
            made, code = books.resume(resume, early, emergency=emergency)
    else:
        _refuse_without(runbook, target, "run")
        with telling(much):
            made, code = books.run(
                runbook, target, _pairs(parameter), early, about=_about(why), emergency=emergency
            )  # fmt: skip
    if patience is not None:
        with telling(much):
            made, code = cli_approval.wait(made, code, patience)
    terminal.end(made, code, quiet=quiet, as_json=as_json)


@app.command()
def start(
    runbook: Annotated[str, typer.Argument(help="A runbook of runbooks/, or a procedure.")] = "",
    target: Annotated[str, typer.Option(help="The target, as targets.toml declares it.")] = "",
    parameter: Annotated[list[str], typer.Option("-p", help="A parameter: key=value; of a list: key=a,b.")] = [],  # noqa: B006
    why: Why = [],  # noqa: B006
    resume: Annotated[str, typer.Option(help="Open this run again instead.")] = "",
    lab: Annotated[bool, typer.Option(help="Open JupyterLab on it.")] = True,
    emergency: Emergency = "",
) -> None:
    """Make a run with working copies of its notebooks, and open JupyterLab there."""
    from pgrunbook.runner import runbook as books

    if resume:
        made = books.reopen(resume, emergency=emergency)
    else:
        _refuse_without(runbook, target, "start")
        made = books.start(runbook, target, _pairs(parameter), about=_about(why), emergency=emergency)
    sys.stdout.write(f"{made.folder}\n")
    if lab:
        _open_lab(made)


@app.command()
def schema(
    file: Annotated[
        Literal[
            "plan",
            "rehearsal",
            "drift",
            "backup",
            "branch",
            "run",
            "runs",
            "show",
            "status",
            "accept",
            "verify",
            "approve",
            "requests",
        ],
        typer.Argument(help="plan.json, rehearsal.json, or what a command prints with --json."),
    ],
) -> None:
    """Print the JSON Schema of what is written for your own automation."""
    from pgrunbook.app import json_schema

    sys.stdout.write(json_schema.kept(file))


@app.command()
def status(
    target: Annotated[str, typer.Option(help="Only this target.")] = "", as_json: cli_runs.AsJson = False
) -> None:
    """Show each target: whether it answers, its version, what is pending, and whether a run is at work."""
    from pgrunbook.app import run_report
    from pgrunbook.display.show import Table
    from pgrunbook.session import naming

    chosen = [naming.target(target)] if target else naming.targets_of_file()
    found = [_standing(one) for one in chosen]
    if as_json:
        sys.stdout.write(run_report.StatusReport(targets=tuple(found)).model_dump_json(indent=1) + "\n")
    else:
        headings = ["target", "server", "version", "pending", "now"]
        rows = [one.row() for one in found]
        sys.stdout.write(f"{Table(headings, rows, empty='targets.toml declares no target.')!r}\n")
    if any(one.error for one in found):
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
    cli_runs.write_table(made)
    released = next((run for run in made if run.runbook == "release"), None)
    if released is not None:
        sys.stdout.write(f"\nOpen what an auditor reads: {released.folder / released.parts[0].notebook}\n")
        sys.stdout.write("Step through one yourself: .venv/bin/pgrunbook start release --target demo\n")
    sys.stdout.write(f"\nThe record of each is its folder below:\n{made[-1].folder.parent}\n")
    sys.exit(code)


def _standing(target: Target) -> TargetStanding:
    from pgrunbook import history as histories
    from pgrunbook.app.run_report import TargetStanding
    from pgrunbook.database import activity, locks
    from pgrunbook.database.connection import connect

    try:
        with terminal.looking(target), connect(target, purpose="status") as conn:
            who = activity.identity(conn)
            server = f"PostgreSQL {who.server_version}, {who.role}"
            now = locks.run_in_progress(conn)
            left = _unfinished(conn, target)
            if target.migrations is None:
                return TargetStanding(target=target.name, server=server, at_work=now or None, unfinished=left)
            history = histories.read(conn, target)
            return TargetStanding(
                target=target.name, server=server, version=history.version() or None, at_work=now or None,
                pending=len(history.pending()), problems=len(history.problems()),
                for_contract=_waiting(conn), unfinished=left,
            )  # fmt: skip
    except RunbookError as exc:
        return TargetStanding(target=target.name, error=exc.message)


def _waiting(conn: Connection) -> tuple[str, ...] | None:
    """Return the columns that wait for contract, None where schema pgrunbook is not to be read."""
    from pgrunbook.database import shadows

    try:
        return tuple(one.label for one in shadows.read(conn))
    except Refused:
        return None


def _unfinished(conn: Connection, target: Target) -> tuple[str, ...] | None:
    """Return the changes that nobody has ended, None where schema pgrunbook is not to be read."""
    from pgrunbook.procedures import unfinished_changes

    try:
        return unfinished_changes.names(conn, target.name)
    except Refused:
        return None


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


def _about(why: list[str]) -> dict[str, str]:
    """Return what the record says of why something is changed."""
    about = _pairs(why)
    wrong = [name for name in about if name not in ABOUT]
    if wrong:
        raise WrongInput(f'--why "{wrong[0]}" is not known', hint=f"It is one of: {', '.join(ABOUT)}.")
    return about


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
