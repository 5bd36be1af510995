"""The commands ``pgrunbook branch``: branches of a target, made, used as targets, compared, made anew and removed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgrunbook.app import cli_drift, terminal
from pgrunbook.errors import Refused, RunbookError, WrongInput

if TYPE_CHECKING:
    from pgrunbook.branches.branch import Branch
    from pgrunbook.config.targets import Target

app = typer.Typer(no_args_is_help=True, help="Branches: copies of a target, each a target itself (demo@dev).")

SPAN = re.compile(r"(\d{1,4})(h|d|w)")
UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
NEVER = "never"

TargetName = Annotated[str, typer.Option("--target", help="The target, as targets.toml declares it.")]
FullName = Annotated[str, typer.Argument(metavar="TARGET@NAME", help="The branch: demo@dev-migration.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Force = Annotated[bool, typer.Option("--force", help="Also where sessions are connected to it; they are ended.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="The name of the new branch: dev-migration.")],
    target: Annotated[str, typer.Option(help="The target, or a branch of one.")] = "",
    at: Annotated[str, typer.Option(help="A restore point, lsn:0/3000060, or a time with zone; else now.")] = "",
    purpose: Annotated[str, typer.Option(help="What it is for, for those who find it.")] = "",
    expires: Annotated[str, typer.Option(help="When it may be cleaned away: 12h, 7d, 4w, or never.")] = "7d",
    schema_only: Annotated[bool, typer.Option("--schema-only", help="Without any row.")] = False,
    rows: Annotated[
        int | None, typer.Option(min=1, help="At most so many rows of each table, and those that they reference.")
    ] = None,
    durable: Annotated[
        bool, typer.Option("--durable", help="It writes to the disk for good, as a target does.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a branch of a target, of now or of a point in time, which is a target then: demo@NAME; a recorded run."""
    from pgrunbook.branches import providers
    from pgrunbook.branches.branch import checked
    from pgrunbook.branches.provider import Wanted
    from pgrunbook.branches.recovery_target import parse_point
    from pgrunbook.config.targets import OF_BRANCH
    from pgrunbook.record import run as runs

    of = terminal.chosen(target, "branch create dev")
    if schema_only and (rows is not None or at):
        raise WrongInput("--schema-only has no rows: neither --rows nor --at go with it")
    wanted = Wanted(
        name=name, owner=runs.operator(), purpose=purpose, expires_at=_expiry(expires),
        at=parse_point(at) if at else None, has_data=not schema_only, rows=rows, is_durable=durable,
    )  # fmt: skip
    full_name = f"{of.name.partition(OF_BRANCH)[0]}{OF_BRANCH}{checked(name)}"
    with _recorded("branch-create", full_name) as journal, terminal.working():
        made = providers.of_target(of).create(of, wanted)
        journal("branch-made", branch=full_name, server=made.server, masked=made.masked, of=made.of, purpose=purpose)
    if as_json:
        _write_json([made])
        return
    sys.stdout.write(f"{made.full_name} is ready: pgrunbook run release --target {made.full_name}\n")
    if of.protected and not made.masked and made.has_data:
        sys.stdout.write(
            "It holds the data of a protected target as they are: no column is masked (docs/branches.md).\n"
        )


@app.command("list")
def list_(
    target: Annotated[str, typer.Option(help="Only the branches of this target.")] = "", as_json: AsJson = False
) -> None:
    """List the branches: whose, what for, how old and large, until when; those of rehearsals, too."""
    from pgrunbook.app import branch_table

    found, failed = _listed(target)
    if as_json:
        _write_json([one for _, one in found])
        _tell(failed)
        return
    protected = {of.name for of, _ in found if of.protected}
    sys.stdout.write(f"{branch_table.table([one for _, one in found], protected)!r}\n")
    _tell(failed)


@app.command()
def show(name: FullName, as_json: AsJson = False) -> None:
    """Show one branch, with how it is reached."""
    from pgrunbook.branches.server import Server
    from pgrunbook.display.show import Card

    _, found = _found(name, may_be_lost=True)
    if as_json:
        _write_json([found])
        return
    facts = [(key, value) for key, value in json.loads(found.model_dump_json()).items() if value not in (None, "", [])]
    if found.server:
        facts.append(("socket", str(Server(found.server).socket_dir)))
    sys.stdout.write(f"{Card(found.full_name, facts)!r}\n")


@app.command()
def delete(names: Annotated[list[str], typer.Argument(metavar="TARGET@NAME...")], force: Force = False) -> None:
    """Remove branches with all that belongs to them; a recorded run. One that is in use is refused."""
    from pgrunbook.branches import providers

    for name in names:
        of, found = _found(name, may_be_lost=True)
        _refuse_used(of, found, force=force)
        with _recorded("branch-delete", found.full_name) as journal:
            providers.of_branch(found).delete(of, found)
            journal("branch-removed", branch=found.full_name, server=found.server)
        sys.stdout.write(f"{name} is removed\n")


@app.command()
def url(name: FullName) -> None:
    """Print the URL of a branch, for any client; a branch that is stopped is started.

    At PlanetScale it has a role of its own, which ends with its TTL.
    """
    from pgrunbook.branches.planetscale import login
    from pgrunbook.database import address

    branch = _target(name)
    place = branch.planetscale
    told = address.keywords(branch) if place is None else login.lasting(place, branch.database)
    sys.stdout.write(f"{address.url(told)}\n")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def shell(name: FullName, more: typer.Context) -> None:
    """Open psql on a branch; what follows the name goes to psql: -c 'SELECT 1'."""
    from pgrunbook.branches import binaries, installations
    from pgrunbook.database import address

    branch = _target(name)
    postgres = binaries.with_clients(binaries.installation())
    sys.stdout.flush()
    own = address.given_options(branch) if branch.planetscale else ""
    environment = {**address.environment(branch), **installations.client_environment(postgres), "PGOPTIONS": own}
    if branch.planetscale is not None:
        from pgrunbook.branches.planetscale import login

        login.leave_to_program()
    program = str(postgres.program("psql"))
    os.execve(program, [program, *more.args], environment)


@app.command()
def schema(name: FullName) -> None:
    """Print the schema of a branch as SQL, as pg_dump writes it."""
    from pgrunbook.branches import binaries, installations
    from pgrunbook.database import address

    branch = _target(name)
    postgres = binaries.with_clients(binaries.installation())
    environment = {**address.environment(branch), **installations.client_environment(postgres)}
    done = subprocess.run(
        [str(postgres.program("pg_dump")), "--schema-only", "--exclude-schema=pgrunbook"],
        env=environment, capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RunbookError(f'could not read the schema of branch "{name}"', detail=done.stderr.decode().strip())
    sys.stdout.write(done.stdout.decode())


@app.command()
def diff(
    name: FullName,
    against: Annotated[
        str, typer.Option(help="Another branch or target; else the target that it is a branch of.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Name what the schema of a branch has over its target's.

    Exit codes: 0 nothing differs, 1 it could not be compared, 2 wrong use, 3 something differs.
    """
    of, found = _found(name)
    cli_drift.drift(target=found.full_name, against=against or of.name, as_json=as_json)


@app.command()
def reset(name: FullName, force: Force = False) -> None:
    """Make a branch anew, of the same moment (of now, where it was of now); a recorded run."""
    from pgrunbook.branches import providers
    from pgrunbook.branches.provider import Capability, need

    of, found = _found(name)
    provider = providers.of_branch(found)
    need(provider, of, Capability.RESET)
    source = providers.target_of(of, found.parent) if found.parent else of
    _refuse_used(of, found, force=force)
    with _recorded("branch-reset", found.full_name) as journal, terminal.working():
        made = provider.reset(source, found)
        journal("branch-reset", branch=made.full_name, server=made.server, before=found.server)
    sys.stdout.write(f"{name} is made anew, of {made.of}\n")


@app.command()
def promote(name: FullName, force: Force = False) -> None:
    """Make a branch a database of its own, which writes to the disk for good; a recorded run."""
    from pgrunbook.branches import providers
    from pgrunbook.branches.provider import Capability, need

    of, found = _found(name)
    provider = providers.of_branch(found)
    need(provider, of, Capability.PROMOTE)
    _refuse_used(of, found, force=force)
    with _recorded("branch-promote", found.full_name) as journal, terminal.working():
        told = provider.promote(of, found)
        journal("branch-promoted", branch=found.full_name, server=found.server)
    sys.stdout.write(f"{name} is a branch no more. {told}\n")


@app.command()
def clean(
    target: Annotated[str, typer.Option(help="Only the branches of this target.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove branches that have expired, are half made or have lost their server; a recorded run.

    An expired one that sessions are connected to stays, and is named; so does one that cannot be removed (exit code 1).
    """
    now = datetime.now(UTC)
    listed, failed = _listed(target)
    for of, found in listed:
        try:
            told = _cleaned(of, found, now, dry_run=dry_run)
        except RunbookError as exc:
            told = f"stays: {exc.message}"
            failed.append(exc)
        if told:
            sys.stdout.write(f"{found.full_name} {told}\n")
    _tell(failed)


def _cleaned(of: Target, found: Branch, now: datetime, *, dry_run: bool) -> str:
    """Remove a branch that nobody needs, or what a killed process has left beside it; return what was done, if any."""
    from pgrunbook.branches import branch_server, providers, registry, server_branches
    from pgrunbook.branches.branch import BranchState

    is_over = found.is_expired(now) or found.state in (BranchState.HALF_MADE, BranchState.GONE)
    why = "it has expired" if found.is_expired(now) else f"it is {found.state}"
    if not is_over and (found.spare_server is None or registry.is_held(found.full_name)):
        return ""
    if is_over and not found.is_of_ours and (used := _sessions(of, found)):
        return f"stays: {why}, and {used[0]} is connected"
    if dry_run:
        return f"would be removed: {why}" if is_over else f"would lose server {found.spare_server}: of a killed reset"
    with _recorded("branch-clean", found.full_name) as journal:
        if not is_over:
            server_branches.remove_spare(found)
            journal("server-removed", branch=found.full_name, server=found.spare_server)
            return f"has lost server {found.spare_server}: a killed reset has left it"
        if found.is_of_ours:
            branch_server.clear_leftovers()
        else:
            providers.of_branch(found).delete(of, found)
        journal("branch-removed", branch=found.full_name, server=found.server, why=why)
    return f"is removed: {why}"


def _listed(target: str) -> tuple[list[tuple[Target, Branch]], list[RunbookError]]:
    """Return the branches of a target, or of all, and the errors of those that could not be asked, where it is all."""
    from pgrunbook.branches import providers

    found, failed = [], []
    for of in providers.known_targets(target):
        try:
            found += [(of, one) for one in providers.with_rehearsals(of)]
        except RunbookError as exc:
            if target:
                raise
            failed.append(exc)
    return found, failed


def _tell(failed: list[RunbookError]) -> None:
    if failed:
        sys.stderr.write("".join(f"{exc}\n" for exc in failed))
        sys.exit(1)


def _found(name: str, *, may_be_lost: bool = False) -> tuple[Target, Branch]:
    """Return the target of a branch, and the branch; where it ``may_be_lost``, the target need not be declared.

    Raises WrongInput where there is none of that name.
    """
    from pgrunbook.branches import providers
    from pgrunbook.config import targets
    from pgrunbook.config.targets import OF_BRANCH

    of, _, branch = name.partition(OF_BRANCH)
    if not branch:
        raise WrongInput(
            f'"{name}" names no branch',
            hint="Write the target's name, @ and the branch's: demo@dev-migration; pgrunbook branch list shows all.",
        )
    found = next((one for one in providers.known_targets() if one.name == of), None) if may_be_lost else None
    found = found or targets.load(of)
    return found, providers.find(found, branch)


def _target(name: str) -> Target:
    from pgrunbook.branches import providers

    of, found = _found(name)
    return providers.target_of(of, found.name)


def _sessions(of: Target, found: Branch) -> list[str]:
    """Return who is connected to a branch, [] where it is stopped."""
    from pgrunbook.branches import providers
    from pgrunbook.branches.branch import BranchState
    from pgrunbook.branches.branch_target import BranchTarget
    from pgrunbook.database.connection import connect
    from pgrunbook.database.queries import load

    if found.state is not BranchState.READY:
        return []
    target = providers.target_of(of, found.name)
    seeing = target.as_superuser() if isinstance(target, BranchTarget) else target
    with terminal.looking(seeing), connect(seeing, purpose="branch") as conn:
        rows = conn.execute(load("branches")["sessions"].encode()).fetchall()
    return [f"process {pid} of {role} ({application or 'no name'})" for pid, role, application, _ in rows]


def _refuse_used(of: Target, found: Branch, *, force: bool) -> None:
    used = [] if force else _sessions(of, found)
    if used:
        raise Refused(
            f'branch "{found.full_name}" is in use',
            detail=f"Connected are: {', '.join(used[:5])}.",
            state="It is as it was.",
            hint="Wait until they have ended; or end them with it: --force.",
        )


def _expiry(text: str) -> datetime | None:
    if text == NEVER:
        return None
    match = SPAN.fullmatch(text)
    if match is None or not int(match[1]):
        raise WrongInput(f'"{text}" is no span of time', hint="Write 12h, 7d, 4w, or never.")
    return datetime.now(UTC) + int(match[1]) * UNITS[match[2]]


def _write_json(found: Sequence[Branch]) -> None:
    from pgrunbook.branches.branch import BranchReport

    sys.stdout.write(BranchReport(branches=tuple(found)).model_dump_json(indent=1) + "\n")


@contextmanager
def _recorded(what: str, full_name: str) -> Iterator[Any]:
    """Record what is done to a branch as a run: intent before, outcome after, also where somebody stops it."""
    import psycopg

    from pgrunbook.database import sqlstate
    from pgrunbook.record import run as runs
    from pgrunbook.record.run import Status
    from pgrunbook.seal import attempt

    made = runs.create(what, full_name, {}, how="command")
    made.hold()
    made.journal.write("run-started", run_id=made.run_id, runbook=what, target=full_name, operator=made.operator)
    attempt.begin(made)
    made.status = Status.INTERRUPTED
    try:
        try:
            yield made.journal.write
            made.status = Status.DONE
        except psycopg.Error as exc:
            state = "pgrunbook branch list shows how the branch stands; its target was only read."
            raise sqlstate.explained(exc, full_name, state=state, again="run the same command again") from exc
    except RunbookError as exc:
        made.status = Status.REFUSED if isinstance(exc, Refused) else Status.FAILED
        made.journal.write("failed", error=exc.lines())
        raise
    finally:
        made.ended_at = runs.stamp()
        made.journal.write("run-ended", status=made.status)
        made.save()
        attempt.end(made)
        made.release()
