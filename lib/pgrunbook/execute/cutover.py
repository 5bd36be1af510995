"""The cut-over that a permit allows: a fence around the database of today, and programs led to a restored server.

1. The fence is raised; what it takes away is journalled before, for the way back.
2. Rows of today are carried over, and what is left behind is listed: all of it behind the fence, so nothing is missed.
3. The restored server becomes one of its own, with fsync on.
4. Programs are led over. From the intent on, nothing is carried any more: the restored server is theirs.

Each may be done again after a crash.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pgrunbook.branches.server import Server
from pgrunbook.config import service_file
from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection
from pgrunbook.errors import RunbookError, WrongInput
from pgrunbook.execute.permit import Permit
from pgrunbook.online import fence, salvage, salvage_plan, salvage_rows
from pgrunbook.online.fence import DatabaseSession, Openness
from pgrunbook.online.salvage_plan import SalvageChoice
from pgrunbook.record import journal
from pgrunbook.record import run as runs
from pgrunbook.record.run import Run
from pgrunbook.session import naming

HOOK_TIMEOUT_S = 120


def administrator(target: Target) -> Connection:
    """Open a session in another database of the target's server. Raises Unreachable."""
    other = "template1" if target.database in (None, "postgres") else "postgres"
    return Server(str(target.server)).connect(purpose="cuts over", database=other)


def raise_fence(
    admin: Connection,
    target: Target,
    permit: Permit,
    subject: str,
    ours: Sequence[int],
    on_end: Callable[[DatabaseSession], None],
) -> str:
    """Raise the fence, and return what the server says to who wants in. Raises as ``online.fence``."""
    permit.check(subject, None)
    fence.raise_fence(admin, target.database or "postgres", ours, on_end)
    return fence.proof(target)


def carry(
    today: Connection, branch: Connection, target: Target, tables: Sequence[str], name: str
) -> Mapping[str, Mapping[str, int]]:
    """Bring rows of tables to the branch as they are today; return what became of them, by table.

    Rows that were deleted since stay on the branch. Sequences are set to where they stand today. Raises Refused where
    rows refer to what the branch lacks, and psycopg's errors.
    """
    found: Mapping[str, Mapping[str, int]] = {}
    if tables:
        choice = SalvageChoice(tuple(tables), {}, rows="changed")
        plan = salvage_plan.plan(today, branch, choice)
        salvage_rows.stage(today, branch, plan, choice, name, where_ms=1, keep_days=target.keep_days)
        salvage.run(branch, target, plan, choice, name)
        found = salvage.became(branch, plan, name)
    fence.sequences_forward(today, branch)
    return found


def service_of(target: Target) -> tuple[Path, str] | None:
    """Return the service file of a target and the service in it, None where it has none."""
    if target.cutover_service_file is None:
        return None
    return target.cutover_service_file, target.cutover_service or target.name


def place_of(server: Server) -> dict[str, str]:
    """Return where a server is, as a service says it."""
    return {"host": str(server.socket_dir), "port": "5432"}


def lead(target: Target, permit: Permit | None, subject: str, to: Mapping[str, str], before: Mapping[str, str]) -> None:
    """Lead programs to a server: the service is switched, then the hook is called.

    Raises WrongInput for a service that is not there, RunbookError where the file cannot be written or the hook fails.
    """
    if permit is not None:
        permit.check(subject, None)
    if (service := service_of(target)) is not None:
        service_file.switch(*service, to)
    if target.cutover_hook:
        _call(target, to, before)


def take_back(made: Run) -> list[str]:
    """Lead programs back to the database of before, and take the fence down; return what was done, as sentences.

    Raises WrongInput for a run that has raised no fence, and as :func:`lead`.
    """
    events = journal.read(made.journal.path)
    raised = next((e for e in events if e["event"] == "fence-meant"), None)
    if raised is None:
        raise WrongInput(f"run {made.run_id} has raised no fence", hint="See what it did: pgrunbook show RUN")
    target, done = naming.target(made.target), []
    made.journal.write("cut-over-taken-back-meant", procedure="restore", by=runs.operator())
    led = [e for e in events if e["event"] == "switch-meant"]
    if led:
        lead(target, None, "", led[-1]["before"], led[-1]["to"])
        done.append(f"Programs are led to server {target.server} again; rows that they wrote on server "
                    f"{led[-1]['server']} meanwhile are there only.")  # fmt: skip
    with administrator(target) as admin:
        fence.lower(admin, raised["database"], Openness(raised["lets_in"], tuple(raised["may_connect"])))
    done.append(f"Database {raised['database']} of server {target.server} lets in whoever could connect before.")
    made.journal.write("cut-over-taken-back", procedure="restore", done=done, by=runs.operator())
    return done


def _call(target: Target, to: Mapping[str, str], before: Mapping[str, str]) -> None:
    told: dict[str, Any] = {
        **os.environ,
        "PGRUNBOOK_TARGET": target.name,
        "PGRUNBOOK_DATABASE": target.database or "postgres",
        **{f"PGRUNBOOK_TO_{key.upper()}": value for key, value in to.items()},
        **{f"PGRUNBOOK_FROM_{key.upper()}": value for key, value in before.items()},
    }
    try:
        done = subprocess.run(
            list(target.cutover_hook), env=told, capture_output=True, text=True, timeout=HOOK_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise _hook_failed(target, str(exc)) from exc
    if done.returncode:
        raise _hook_failed(target, f"Exit code {done.returncode}: {' '.join((done.stderr or done.stdout).split())}")


def _hook_failed(target: Target, detail: str) -> RunbookError:
    return RunbookError(
        f"the cut-over hook of target {target.name} failed: {target.cutover_hook[0]}",
        detail=detail,
        state="The fence is up, and the restored server is ready; whether programs are led there the hook has to say.",
        hint="Mend the hook, then go on with this run: it is called again. Or back: pgrunbook server unfence --run RUN",
    )
