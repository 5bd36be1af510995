"""Runbooks: which procedures, in which order, and what on failure; run headless or prepared for a person."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pgrunbook import home
from pgrunbook import target as targets
from pgrunbook.errors import Refused, RunbookError, WrongInput
from pgrunbook.procedures import here as heres
from pgrunbook.procedures import migrate, prepare, restore, rollback, validate
from pgrunbook.record import journal
from pgrunbook.record import run as runs
from pgrunbook.record.kernel import EarlyKernel
from pgrunbook.record.progress import Progress
from pgrunbook.record.run import Part, Run, Status

PROCEDURES: dict[str, ModuleType] = {
    "prepare": prepare, "migrate": migrate, "validate": validate, "rollback": rollback, "restore": restore,
}  # fmt: skip
EXIT_CODES = {"WrongInput": 2, "Refused": 3}
INTERRUPTED = {"Interrupted", "KeyboardInterrupt", "Stopped"}


class Book(BaseModel):
    """A runbook as its YAML file has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    procedures: tuple[str, ...]
    on_failure: str | None = None


@dataclass(frozen=True)
class Outcome:
    """How a notebook ended: its status, the exit code that it stands for, and what it says."""

    status: Status
    exit_code: int
    says: tuple[str, ...] = ()


def load(name: str) -> Book:
    """Return the runbook of that name, or the one that consists of the procedure of that name.

    Raises WrongInput when there is neither, or the file is not right.
    """
    path = home.project_dir() / "runbooks" / f"{name}.yaml"
    if not path.is_file():
        if name in PROCEDURES:
            return Book(title=name, procedures=(name,))
        there = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise WrongInput(
            f'there is no runbook "{name}"',
            detail=f"Runbooks: {', '.join(there)}. Procedures: {', '.join(PROCEDURES)}.",
        )
    try:
        book = Book.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as exc:
        raise WrongInput(f"could not read {path.name}", detail=" ".join(str(exc).split())[:400]) from exc
    unknown = [p for p in (*book.procedures, *filter(None, [book.on_failure])) if p not in PROCEDURES]
    if unknown:
        raise WrongInput(
            f"{path.name} names procedures that do not exist: {', '.join(unknown)}",
            hint=f"There are: {', '.join(PROCEDURES)}.",
        )
    return book


def typed(book: Book, target: str, given: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the parameters of each procedure, typed by its model: "0123" stays text where text is meant.

    Raises WrongInput for a parameter that no procedure knows, that is mistyped, or looks like a secret.
    """
    models = {name: PROCEDURES[name].Parameters for name in book.procedures}
    known = {key for model in models.values() for key in model.model_fields}
    for key in given:
        if key not in known and not targets.SECRET_NAME.search(key):
            raise WrongInput(
                f'parameter "{key}" is not known',
                detail=f"The procedures of this runbook know: {', '.join(sorted(known - {'target'}))}.",
            )
    parameters: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        mine = {
            "target": target,
            **{k: v for k, v in given.items() if k in model.model_fields or k not in known},
        }
        typed_ones = heres.checked(name, model, mine, from_text=True)
        parameters[name] = typed_ones.model_dump(mode="json", exclude_unset=True)
    return parameters


def run(name: str, target: str, given: Mapping[str, str], early: EarlyKernel | None = None) -> tuple[Run, int]:
    """Run a runbook on a target, headless; return the run and the exit code.

    Raises WrongInput before anything starts.
    """
    book = load(name)
    parameters = typed(book, target, given)
    targets.load(target)
    made = runs.create(name, target, parameters, how="headless")
    made.parts = [Part(p, f"{n:02}-{p}.ipynb") for n, p in enumerate(book.procedures, 1)]
    made.hold()
    made.save()
    made.journal.write("run-started", run_id=made.run_id, runbook=name, target=target, operator=made.operator)
    return made, _go_on(made, book, early)


def resume(run_id: str, early: EarlyKernel | None = None) -> tuple[Run, int]:
    """Go on with a run where the database shows that it stopped; return the run and the exit code.

    Raises WrongInput for a run that does not exist or was made by hand, Refused for one that is done or
    was taken back, Blocked when it is at work.
    """
    broken = runs.find(run_id)
    broken.hold()
    book = load(broken.runbook)
    if broken.status is Status.DONE:
        raise Refused(f"run {broken.run_id} is done", detail="There is nothing to go on with.", hint="Start a new run.")
    if any(p.procedure == book.on_failure and p.procedure not in book.procedures for p in broken.parts):
        raise Refused(
            f"run {broken.run_id} was taken back after it failed",
            hint="Mend what failed, then start a new run.",
        )
    if broken.how != "headless":
        raise WrongInput(
            f"run {broken.run_id} was made by hand",
            hint=f"Open its notebooks again: pgrunbook start --resume {broken.run_id}",
        )
    broken.status, broken.ended_at = Status.RUNNING, ""
    broken.save()
    broken.journal.write("run-resumed", run_id=broken.run_id)
    return broken, _go_on(broken, book, early)


def start(name: str, target: str, given: Mapping[str, str]) -> Run:
    """Make a run with working copies of its notebooks, for a person to step through; return it.

    Raises WrongInput as :func:`run` does.
    """
    import nbformat
    from papermill.parameterize import parameterize_notebook

    book = load(name)
    parameters = typed(book, target, given)
    targets.load(target)
    made = runs.create(name, target, parameters, how="by hand")
    for procedure in book.procedures:
        notebook = nbformat.read(_source(procedure), as_version=4)
        notebook.metadata.setdefault("papermill", {})
        filled = parameterize_notebook(notebook, parameters[procedure], engine_name="pgrunbook")
        made.parts.append(Part(procedure, f"{procedure}.ipynb"))
        made.keep(f"{procedure}.ipynb", nbformat.writes(filled) + "\n")
    made.save()
    made.journal.write("run-started", run_id=made.run_id, runbook=name, target=target, operator=made.operator)
    return made


def _go_on(made: Run, book: Book, early: EarlyKernel | None) -> int:
    """Run the procedures that are not done; at a failure, the one that takes back what was applied."""
    exit_code = 0
    with Progress(f"{made.runbook} on {made.target}", made.journal.path) as progress:
        try:
            for part in list(made.parts):
                if part.status is Status.DONE:
                    continue
                outcome = _execute(made, part, made.parameters[part.procedure], progress, early)
                early, exit_code = None, outcome.exit_code
                if outcome.status is not Status.DONE:
                    made.status = outcome.status
                    if book.on_failure and outcome.status is Status.FAILED and _has_applied(made):
                        _take_back(made, book.on_failure, progress)
                    break
            else:
                made.status = Status.DONE
        finally:
            if early is not None:
                early.end()
            made.ended_at = runs.stamp()
            made.save()
            made.journal.write("run-ended", status=made.status, exit_code=exit_code)
            made.release()
    return exit_code


def _take_back(made: Run, procedure: str, progress: Progress) -> None:
    part = Part(procedure, f"{len(made.parts) + 1:02}-{procedure}.ipynb")
    made.parts.append(part)
    _execute(made, part, {"target": made.target, "of_run": made.run_id}, progress, None)


def _execute(
    made: Run, part: Part, parameters: dict[str, Any], progress: Progress, early: EarlyKernel | None
) -> Outcome:
    """Run one notebook through papermill and our engine; keep what an earlier attempt left."""
    kernel = early or EarlyKernel()
    _keep_earlier(made.folder / part.notebook)
    part.status, part.started_at, part.ended_at, part.says = Status.RUNNING, runs.stamp(), "", ""
    made.save()
    made.journal.write("notebook-started", procedure=part.procedure, notebook=part.notebook)
    progress.procedure(part.procedure)
    try:
        outcome = _papermill(made, part, parameters, kernel, progress)
    finally:
        kernel.end()
        part.ended_at = runs.stamp()
    part.status, part.says = (
        outcome.status,
        outcome.says[0] if outcome.says else _verdict(made, part.procedure),
    )
    made.save()
    made.journal.write("notebook-ended", procedure=part.procedure, status=part.status, says=list(outcome.says))
    progress.ended(part, outcome.says)
    return outcome


def _papermill(made: Run, part: Part, parameters: dict[str, Any], kernel: EarlyKernel, progress: Progress) -> Outcome:
    papermill = _import_papermill()
    from papermill.exceptions import PapermillExecutionError

    environment = {
        "PGRUNBOOK_HOME": str(home.project_dir()),
        "PGRUNBOOK_OUTPUTS": str(home.outputs_dir()),
        heres.RUNNER: made.run_id,
    }
    first = f"import os; os.chdir({str(made.folder)!r}); os.environ.update({environment!r})"
    try:
        notebook = papermill.execute_notebook(
            str(_source(part.procedure)), None, parameters=parameters, engine_name="pgrunbook", km=kernel.manager(),
            kernel_name="python3", record_path=str(made.folder / part.notebook), first_code=first,
            on_cell=progress.cell, progress_bar=False,
        )  # fmt: skip
    except PapermillExecutionError as exc:
        name = str(exc.ename)
        says = tuple(re.sub(r"\x1b\[[0-9;]*m", "", line) for line in exc.traceback)
        status = Status.INTERRUPTED if name in INTERRUPTED else Status.REFUSED if name == "Refused" else Status.FAILED
        return Outcome(status, EXIT_CODES.get(name, 1), says if len(says) < 8 else (f"{name}: {exc.evalue}",))
    if notebook.metadata.papermill["exception"]:
        return Outcome(Status.INTERRUPTED, 1, ("the run was told to stop between two cells",))
    return Outcome(Status.DONE, 0)


def _import_papermill() -> Any:
    """Import papermill without the grammar of IRIs, which jsonschema builds for 0.8 s and nobody here uses."""
    blocked = "rfc3987_syntax" not in sys.modules
    if blocked:
        sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]  # makes its import fail, which jsonschema allows for
    try:
        import papermill
    finally:
        if blocked:
            del sys.modules["rfc3987_syntax"]
    return papermill


def _source(procedure: str) -> Path:
    path = home.project_dir() / "notebooks" / f"{procedure}.ipynb"
    if not path.is_file():
        raise WrongInput(f"could not find the notebook of {procedure}", detail=f"{path} is not there.")
    return path


def _keep_earlier(path: Path) -> None:
    """A record is never overwritten: what an earlier attempt left gets a number."""
    if not path.exists():
        return
    number = 1
    while (kept := path.with_name(f"{path.stem}.attempt-{number}.ipynb")).exists():
        number += 1
    path.rename(kept)


def _has_applied(made: Run) -> bool:
    events = journal.read(made.journal.path)
    return any(e["event"] == "committed" and e.get("whole_migration") and e.get("direction") == "up" for e in events)


def _verdict(made: Run, procedure: str) -> str:
    events = [e for e in journal.read(made.journal.path) if e["event"] == "verdict" and e["procedure"] == procedure]
    return str(events[-1]["says"]) if events else ""


__all__ = ["PROCEDURES", "Book", "Outcome", "RunbookError", "load", "resume", "run", "start", "typed"]
