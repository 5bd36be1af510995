"""What tests of procedures share: runs, what they left, locks that stand in the way, programs beside us."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat

from conftest import connect
from pgrunbook.config.targets import Target
from pgrunbook.record import journal
from pgrunbook.record import run as runs
from pgrunbook.record.run import Part, Run, Status
from pgrunbook.runner import runbook
from pgrunbook.session import parameters

PATIENCE_S = 60
# Whoever runs the tests in the background has SIGINT ignored, and we would inherit it.
COMMAND = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from pgrunbook.__main__ import command
command()
"""


def run(name: str, target: str = "demo", /, **given: str) -> tuple[Run, int]:
    """Run a runbook or a procedure headless, in this process.

    The branch with data, which takes a second or two, is left out where a test does not ask for it.
    """
    known = {key for procedure in runbook.load(name).procedures for key in parameters.OF[procedure].model_fields}
    if "with_data" in known:
        given.setdefault("with_data", "false")
    return runbook.run(name, target, given)


def go_on_with(made: Run, procedure: str, **parameters: object) -> tuple[Run, int]:
    """Let a run that ended go on with one more procedure, as a longer runbook would."""
    return runbook.resume(lengthen(made, procedure, **parameters).run_id)


def lengthen(made: Run, procedure: str, **parameters: object) -> Run:
    """Put one more procedure behind those of a run that ended."""
    made = runs.load(made.folder)
    last = made.parts[-1]
    if last.procedure != procedure or last.status is Status.DONE:
        made.parts.append(Part(procedure, f"{len(made.parts) + 1:02}-{procedure}.ipynb"))
    made.parameters[procedure] = {"target": made.target, **parameters}
    made.status = Status.INTERRUPTED
    made.save()
    return made


def events(made: Run, name: str = "") -> list[dict[str, Any]]:
    """Return the events of a run's journal, all or those of one name."""
    return [e for e in journal.read(made.journal.path) if name in ("", e["event"])]


def cells(made: Run, part: int = -1) -> dict[str, str]:
    """Return the state of each code cell of an executed notebook, by the cell's id."""
    return {c.id: c.metadata.papermill.status for c in notebook(made, part).cells if c.cell_type == "code"}


def outputs(made: Run, cell: str, part: int = -1) -> str:
    """Return what a cell of an executed notebook shows, as text."""
    found = next(c for c in notebook(made, part).cells if c.id == cell)
    texts = [o.get("text") or o.get("data", {}).get("text/plain") or "\n".join(o.get("traceback", []))
             for o in found.outputs]  # fmt: skip
    return "\n".join(texts)


def error(made: Run, part: int = -1) -> str:
    """Return the text of the error that ended an executed notebook."""
    ended = [e for e in events(made, "notebook-ended") if e["procedure"] == made.parts[part].procedure]
    return "\n".join(ended[-1]["says"])


def notebook(made: Run, part: int = -1) -> Any:
    """Return an executed notebook, the last by default; it must be a valid one."""
    found = nbformat.read(made.folder / made.parts[part].notebook, as_version=4)
    nbformat.validate(found)
    return found


def completed(made: Run, part: int = -1) -> bool:
    """Tell whether every code cell of a notebook ran to its end."""
    return set(cells(made, part).values()) == {"completed"}


def facts(path: Path) -> Any:
    """Return what a JSON file holds."""
    return json.loads(path.read_text())


def wait_until(condition: Callable[[], object]) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("waited in vain")
        time.sleep(0.02)


@contextmanager
def in_transaction(target: Target, statement: str, *, age_s: float = 0) -> Iterator[int]:
    """Hold a transaction open in which a statement ran, ``age_s`` seconds old at least; give its process id."""
    with connect(target, purpose="billing") as conn, connect(target, purpose="test") as other, conn.transaction():
        conn.execute(statement.encode())
        pid = conn.info.backend_pid
        age = "SELECT clock_timestamp() - xact_start > make_interval(secs => %s) FROM pg_stat_activity WHERE pid = %s"
        wait_until(lambda: other.execute(age.encode(), [age_s, pid]).fetchone() == (True,))
        yield pid


@contextmanager
def pgrunbook(*arguments: str, before: Sequence[str] = (), **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run the command ``pgrunbook`` beside us, ``before`` put before it; it is ended with the scene."""
    command = [*before, sys.executable, "-c", COMMAND, *arguments]
    with subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ), **options
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that the server's account can reach: every pytest of root closes those of all the others."""
    with tempfile.TemporaryDirectory(prefix="pgrb-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def newest_run() -> Run | None:
    """Return the run that was begun last, None where there is none."""
    folders = runs.folders()
    return runs.load(folders[-1]) if folders else None


def has_begun(runbook_name: str, migration: str) -> bool:
    """Tell whether the newest run, of that runbook, has sent a statement of a migration."""
    made = newest_run()
    if made is None or made.runbook != runbook_name:
        return False
    return any(e["migration"] == migration for e in events(made, "step-started"))


# A migration that waits, in one statement, until somebody opens the gate; on the branch of a rehearsal it is open.
GATE = "CREATE SCHEMA scene; CREATE TABLE scene.gate (open boolean)"
WAITS = """DO $$ BEGIN
    WHILE current_setting('cluster_name') NOT LIKE 'branch%' AND NOT EXISTS (SELECT FROM scene.gate WHERE open) LOOP
        PERFORM pg_sleep(0.02);
    END LOOP;
END $$;
"""
OPEN_THE_GATE = "INSERT INTO scene.gate VALUES (true)"


def anchored(target: Target, made: Run) -> list[str]:
    """Return what of a run's record the target holds: the kinds of the ledger's lines, in their order."""
    query = b"SELECT l.kind FROM pgrunbook.ledger AS l WHERE l.run_id = %s ORDER BY l.seq"
    with connect(target) as conn:
        return [str(row[0]) for row in conn.execute(query, [made.run_id])]
