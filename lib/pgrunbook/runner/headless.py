"""The headless execution of a run: its notebooks one after the other, through papermill and our engine."""

from __future__ import annotations

import gc
import logging
import re
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pgrunbook.config import paths
from pgrunbook.errors import RecordFailed, RunbookError, WrongInput
from pgrunbook.record import door, journal
from pgrunbook.record import run as runs
from pgrunbook.record.run import RUNNER, TAKES_BACK, Part, Run, Status
from pgrunbook.runner import observation, stops
from pgrunbook.runner.kernel import EarlyKernel
from pgrunbook.runner.progress import ProgressDisplay
from pgrunbook.seal import anchor, attempt
from pgrunbook.session import naming

EXIT_CODES = {"WrongInput": 2, "Refused": 3, "TargetBusy": 4}
STOPPED = "the run was stopped between two cells"
INTERRUPTED = {"Interrupted", "KeyboardInterrupt", "Stopped", "KernelDied"}
# Obstacles from outside: the same run can go on when they are gone, so nothing is taken back.
PASSING = INTERRUPTED | {"Blocked", "TargetBusy", "Unreachable", "RecordFailed"}
TOLD = {error.__name__ for error in RunbookError.__subclasses__()} | {
    "RunbookError", "TargetBusy", "Stopped", "KernelDied", "CellTimeout"
}  # fmt: skip
IN_THE_DATABASE = "State: As the history table and schema pgrunbook say; an open transaction was aborted."


FORMATS = ("rfc3987_syntax", "isoduration", "webcolors", "fqdn", "uri_template", "jsonpointer", "rfc3339_validator")


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a notebook ended: its status, the exit code for it, the lines of its error, and the kind of error."""

    status: Status
    exit_code: int
    says: tuple[str, ...] = ()
    kind: str = ""


def next_step(made: Run) -> str:
    """Return what to do after a run that is not done, "" where its own error has said it."""
    ended = [e for e in journal.read(made.journal.path) if e["event"] == "run-ended"]
    return str(ended[-1]["next"]) if ended else ""


def go_on(made: Run, on_failure: str | None, early: EarlyKernel | None, *, observe: bool = False) -> int:
    """Run the procedures that are not done; after a failure, the one that takes back what was applied.

    With ``observe`` a monitor looks on meanwhile.
    """
    door.guard_logs()
    ended = False
    try:
        with naming.login_of_run(made.target, made.run_id, partial(attempt.write_late, made)):
            with observation.observed(made, observe=observe):
                outcome = _run_stoppable(made, on_failure, early)
            made.status, made.ended_at = outcome.status, runs.stamp()
            made.versions |= _server_version(made)
            made.save()
            made.journal.write(
                "run-ended", status=made.status, exit_code=outcome.exit_code, next=_next(made, on_failure, outcome)
            )
            ended = True
            anchor.seal(made, partial(naming.target, made.target))
    except RecordFailed as exc:
        if not ended:
            # run.json still says running, but nobody is at work: every list of runs will show "broken off".
            exc.hint = f"Make room or repair the folder, then: pgrunbook run --resume {made.run_id}"
        raise
    finally:
        if early is not None:
            early.end()
        made.release()
    return outcome.exit_code


def way_back(made: Run, on_failure: str | None) -> Part | None:
    """Return the part that takes back what the run applied, None where none was begun."""
    return next((p for p in made.parts if p.procedure == on_failure and p.procedure not in made.parameters), None)


def source(procedure: str) -> Path:
    """Return the path of a procedure's notebook. Raises WrongInput where it is missing."""
    path = paths.shipped("notebooks", f"{procedure}.ipynb")
    if not path.is_file():
        raise WrongInput(f"could not find the notebook of {procedure}", detail=f"{path} does not exist.")
    return path


def import_papermill() -> Any:
    """Import papermill without the formats of jsonschema that nobody here uses, which take 0.1 to 0.9 s.

    jsonschema allows that: it does not check a format whose library cannot be imported.
    """
    blocked = [name for name in FORMATS if name not in sys.modules]
    sys.modules.update(dict.fromkeys(blocked))  # type: ignore[arg-type]  # None makes an import fail
    try:
        gc.disable()  # the imported modules stay
        import papermill
    finally:
        gc.enable()
        for name in blocked:
            del sys.modules[name]
    return papermill


def _run_stoppable(made: Run, on_failure: str | None, early: EarlyKernel | None) -> Outcome:
    """Run the parts; a signal between two cells, or before the first, ends the run as interrupted."""
    try:
        with stops.let_through(), ProgressDisplay(f"{made.runbook} on {made.target}", made.journal.path) as progress:
            return _run_parts(made, on_failure, progress, early)
    except KeyboardInterrupt:
        left = [part for part in made.parts if part.status is not Status.DONE]
        for part in left:
            if part.status is Status.RUNNING:
                part.status, part.ended_at, part.says = Status.INTERRUPTED, runs.stamp(), STOPPED
                made.journal.write("notebook-ended", procedure=part.procedure, status=part.status,
                                   kind="KeyboardInterrupt", says=[STOPPED])  # fmt: skip
        return Outcome(Status.INTERRUPTED, 1, (STOPPED,), "KeyboardInterrupt") if left else Outcome(Status.DONE, 0)


def _run_parts(made: Run, on_failure: str | None, progress: ProgressDisplay, early: EarlyKernel | None) -> Outcome:
    back = way_back(made, on_failure)
    if back is not None:  # broken off during its rollback: go on with that
        _execute(made, back, progress, early, on_failure)
        failed = next(part for part in made.parts if part.status is not Status.DONE or part is back)
        return Outcome(Status.FAILED, 1, (failed.says,))
    for part in list(made.parts):
        if part.status is Status.DONE:
            continue
        outcome = _execute(made, part, progress, early, on_failure)
        early = None
        if outcome.status is Status.DONE:
            continue
        if (
            on_failure
            and outcome.status is Status.FAILED
            and outcome.kind not in PASSING | {"WrongInput"}
            and (made.has_applied(whole=True) or _half_done(made))
        ):
            made.parts.append(Part(on_failure, f"{len(made.parts) + 1:02}-{on_failure}.ipynb"))
            _execute(made, made.parts[-1], progress, None, on_failure)
        return outcome
    return Outcome(Status.DONE, 0)


def _next(made: Run, on_failure: str | None, outcome: Outcome) -> str:
    """Return what to do now, where only the run as a whole can say it."""
    resume = f"pgrunbook run --resume {made.run_id}"
    back = way_back(made, on_failure)
    if back is not None and back.status is Status.DONE:
        return "What this run applied was taken back. Correct what failed, then start a new run."
    if back is not None:
        return (
            f"THE ROLLBACK DID NOT FINISH ({back.status}): {back.says}\n"
            f"State: {_standing(made)}\n"
            f"Hint: Read {back.notebook}, correct what it names, then go on with the rollback: {resume}"
        )
    if outcome.status is Status.INTERRUPTED or outcome.kind in PASSING:
        return f"Go on with it: {resume}"
    half = _half_done(made) if outcome.status is Status.FAILED else []
    if half:
        return (
            f"{', '.join(half)} is partly applied. Correct what failed, and go on: {resume}; or take back what was "
            f"done: pgrunbook run rollback --target {made.target} -p of_run={made.run_id}"
        )
    if outcome.status is Status.FAILED and made.has_applied(whole=True):
        return f"Take back what it applied: pgrunbook run rollback --target {made.target} -p of_run={made.run_id}"
    return ""


def _standing(made: Run) -> str:
    """Return what of this run is applied, as the database itself says."""
    import psycopg  # imported only here: the runner of a successful run does not need it

    from pgrunbook import history as histories
    from pgrunbook.database import step_log
    from pgrunbook.database.connection import connect

    try:
        target = naming.target(made.target)
        with connect(target, purpose="asks what is applied") as conn:
            still = step_log.applied_by_run(conn, made.run_id)
            at = histories.read(conn, target).version() or "(none)"
    except (RunbookError, psycopg.Error) as exc:
        why = str(exc).partition("\n")[0]
        return f"Not known: the database could not be asked ({why}). Its history table and schema pgrunbook will say."
    return f"The database is at version {at}; of this run still applied: {', '.join(still) or 'nothing'}."


def _half_done(made: Run) -> list[str]:
    """Return the migrations that this run has begun and not finished, as the database says."""
    import psycopg

    from pgrunbook.database import step_log
    from pgrunbook.database.connection import connect

    if not any(e["event"] == "step-started" for e in journal.read(made.journal.path)):
        return []
    try:
        with connect(naming.target(made.target), purpose="asks what is applied") as conn:
            return [one.migration for one in step_log.unfinished(conn, "up") if one.run_id == made.run_id]
    except (RunbookError, psycopg.Error):
        return []  # the rollback, or the resumed run, asks again


def _server_version(made: Run) -> dict[str, str]:
    met = [e for e in journal.read(made.journal.path) if e["event"] == "target-met"]
    return {"server": str(met[-1]["server_version"])} if met else {}


def _execute(
    made: Run, part: Part, progress: ProgressDisplay, early: EarlyKernel | None, on_failure: str | None
) -> Outcome:
    """Run one notebook through papermill and our engine; keep what an earlier attempt left."""
    kernel = early or EarlyKernel(f"pgrunbook.procedures.{part.procedure}")
    try:
        with stops.held():
            if (made.folder / part.notebook).exists():
                runs.keep_attempt(made.folder / part.notebook)
            part.status, part.started_at, part.ended_at, part.says = Status.RUNNING, runs.stamp(), "", ""
            made.save()
            made.journal.write("notebook-started", procedure=part.procedure, notebook=part.notebook)
        progress.procedure(part.procedure)
        outcome = _papermill(made, part, kernel, progress, on_failure)
    finally:
        kernel.end()
    with stops.held():
        part.ended_at, part.status = runs.stamp(), outcome.status
        part.says = outcome.says[0] if outcome.says else _verdict(made, part.procedure)
        made.save()
        made.journal.write("notebook-ended", procedure=part.procedure, status=part.status, kind=outcome.kind,
                           says=list(outcome.says))  # fmt: skip
        progress.ended(part, outcome.says)
    return outcome


def _papermill(
    made: Run, part: Part, kernel: EarlyKernel, progress: ProgressDisplay, on_failure: str | None
) -> Outcome:
    papermill = import_papermill()
    from papermill.exceptions import PapermillExecutionError

    # The procedure of on_failure is not in the runbook's list: its only parameters are these.
    parameters = made.parameters.get(part.procedure) or {
        "target": made.target, "of_run": made.run_id, "with_data": False,  # prepare tried it a moment ago
    }  # fmt: skip
    environment = {
        "PGRUNBOOK_HOME": str(paths.project_dir()),
        "PGRUNBOOK_OUTPUTS": str(paths.outputs_dir()),
        RUNNER: made.run_id,
        TAKES_BACK: on_failure if on_failure and part.procedure != on_failure else "",
    }
    manager = kernel.manager()
    first = f"import os; os.chdir({str(made.folder)!r}); os.environ.update({environment!r})"
    try:
        notebook = papermill.execute_notebook(
            str(source(part.procedure)), None, parameters=parameters, engine_name="pgrunbook", km=manager,
            kernel_name="python3", record_path=str(made.folder / part.notebook), first_code=first,
            on_cell=progress.cell, progress_bar=False,
        )  # fmt: skip
    except PapermillExecutionError as exc:
        return _ended(exc)
    except KeyboardInterrupt:
        return Outcome(Status.INTERRUPTED, 1, (STOPPED,), "KeyboardInterrupt")
    except RunbookError:
        raise
    except Exception as exc:  # the kernel did not start, or papermill failed: the run ends with a record all the same
        if stops.stopped() is not None:  # what a stop was turned into on its way here
            return Outcome(Status.INTERRUPTED, 1, (STOPPED,), "KeyboardInterrupt")
        log.exception("could not run the notebook %s", part.notebook)
        says = (f"could not run {part.notebook}: {type(exc).__name__}: {exc}", IN_THE_DATABASE)
        return Outcome(Status.FAILED, 1, says, type(exc).__name__)
    finally:
        manager.context.destroy(linger=0)
    if notebook.metadata.papermill["exception"]:
        return Outcome(Status.INTERRUPTED, 1, (STOPPED,), "Stopped")
    return Outcome(Status.DONE, 0)


def _ended(exc: Any) -> Outcome:
    """Return what the error of a cell means for the run; an error that is not ours gets our form."""
    name = str(exc.ename)
    says = tuple(re.sub(r"\x1b\[[0-9;]*m", "", line) for line in exc.traceback)
    if name not in TOLD:
        says = (
            RunbookError(f"{name}: {exc.evalue}").lines()[0],
            IN_THE_DATABASE,
            "Hint: The executed notebook has the whole traceback.",
        )
    status = Status.INTERRUPTED if name in INTERRUPTED else Status.REFUSED if name == "Refused" else Status.FAILED
    return Outcome(status, EXIT_CODES.get(name, 1), says, name)


def _verdict(made: Run, procedure: str) -> str:
    events = [e for e in journal.read(made.journal.path) if e["event"] == "verdict" and e["procedure"] == procedure]
    return str(events[-1]["says"]) if events else ""
