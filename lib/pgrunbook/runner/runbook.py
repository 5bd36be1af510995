"""Runbooks: which procedures, in which order, and which one on failure; run headless or prepared for a person."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pgrunbook import __version__
from pgrunbook.config import paths, regular_file, targets
from pgrunbook.config.secret_patterns import SECRET_NAME
from pgrunbook.config.targets import OF_BRANCH
from pgrunbook.errors import Refused, RunbookError, WrongInput
from pgrunbook.record import cell_log, executed_copy
from pgrunbook.record import run as runs
from pgrunbook.record.run import Run, Status
from pgrunbook.runner import headless, stops
from pgrunbook.runner.kernel import EarlyKernel
from pgrunbook.seal import attempt
from pgrunbook.session import emergency as emergencies
from pgrunbook.session import naming, recorder
from pgrunbook.session import parameters as parameters_of


class Book(BaseModel):
    """A runbook as its YAML file has it; with ``observe`` monitor runs beside it.

    ``parameters`` are its own defaults, each as text as on the command line, which wins.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    procedures: tuple[str, ...] = Field(min_length=1)
    on_failure: str | None = None
    observe: bool = False
    parameters: dict[str, str] = {}


def load(name: str) -> Book:
    """Return the runbook of that name, or the one that consists of the procedure of that name.

    Raises WrongInput when there is neither, or the file is wrong.
    """
    path = paths.shipped("runbooks", f"{name}.yaml")
    if not path.is_file():
        if name in parameters_of.OF:
            return Book(title=name, procedures=(name,))
        folders = {paths.project_dir() / "runbooks", path.parent}
        there = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
        raise WrongInput(
            f'there is no runbook "{name}"',
            detail=f"Runbooks: {', '.join(there)}. Procedures: {', '.join(parameters_of.OF)}.",
            hint="Correct the name: pgrunbook run <runbook> --target <target>.",
        )
    try:
        book = Book.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as exc:
        raise _unreadable(path, regular_file.told(exc)) from exc
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise _unreadable(path, " ".join(str(exc).split())[:400]) from exc
    unknown = [p for p in (*book.procedures, *filter(None, [book.on_failure])) if p not in parameters_of.OF]
    if unknown:
        raise WrongInput(
            f"{path.name} names procedures that do not exist: {', '.join(unknown)}",
            hint=f"There are: {', '.join(parameters_of.OF)}.",
        )
    return book


def typed(book: Book, target: str, given: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the parameters of each procedure, typed by its model: "0123" stays text where the model says text.

    Raises WrongInput for a parameter that no procedure knows, that is mistyped, or looks like a secret.
    """
    if "target" in given:
        raise WrongInput("the target is not a parameter", hint="Name it with --target.")
    given = {**book.parameters, **given}
    models = {name: parameters_of.OF[name] for name in book.procedures}
    known = {key for model in models.values() for key in model.model_fields}
    for key in given:
        if key not in known and not SECRET_NAME.search(key):
            raise WrongInput(
                f'parameter "{key}" is not known',
                detail=f"The procedures of this runbook know: {', '.join(sorted(known - {'target'}))}.",
                hint="Correct its name; nothing was started.",
            )
    parameters: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        mine = {
            "target": target,
            **{k: v for k, v in given.items() if k in model.model_fields or k not in known},
        }
        typed_ones = parameters_of.checked(name, model, mine, from_text=True)
        parameters[name] = typed_ones.model_dump(mode="json", exclude_unset=True)
    return parameters


def run(
    name: str,
    target: str,
    given: Mapping[str, str],
    early: EarlyKernel | None = None,
    *,
    about: Mapping[str, str] | None = None,
    emergency: str = "",
) -> tuple[Run, int]:
    """Run a runbook on a target, headless; return the run and the exit code. ``about`` is why, as ``Run.about``.

    ``emergency`` is the reason to do without approval and window, "" for none.

    Raises WrongInput before anything starts.
    """
    book = load(name)
    emergencies.check(emergency)
    parameters = typed(book, target, given)
    chosen = naming.target(target)
    if book.observe:
        chosen.webhook()
    attempt.refuse_unsigned(target, protected=chosen.protected)
    with stops.held():
        made = runs.create(name, target, parameters, how="headless", procedures=book.procedures, about=about)
        made.hold()
        made.journal.write("run-started", run_id=made.run_id, runbook=name, target=target, operator=made.operator)
        emergencies.declare(made, emergency)
        attempt.begin(made, protected=chosen.protected, needs_approval=chosen.needs_approval)
        return made, headless.go_on(made, book.on_failure, early, observe=book.observe)


def resume(run_id: str, early: EarlyKernel | None = None, *, emergency: str = "") -> tuple[Run, int]:
    """Go on with a run where the database shows that it stopped; return the run and the exit code.

    ``emergency`` is the reason to do without approval and window from now on.

    A run that was broken off during its rollback goes on with the rollback.

    Raises WrongInput for a run that does not exist, was made by hand or by another version, Refused for one that is
    done or was taken back, Blocked when it is at work.
    """
    broken = runs.find(run_id)
    emergencies.check(emergency)
    with stops.held():
        broken.hold()
        try:
            book = load(broken.runbook)
            _refuse_to_go_on(broken, book)
            chosen = naming.target(broken.target)
            attempt.begin(broken, protected=chosen.protected, needs_approval=chosen.needs_approval)
            emergencies.declare(broken, emergency)
            broken.status, broken.ended_at = Status.RUNNING, ""
            broken.save()
            broken.journal.write("run-resumed", run_id=broken.run_id)
        except RunbookError:
            broken.release()
            raise
        return broken, headless.go_on(broken, book.on_failure, early, observe=book.observe)


def _refuse_to_go_on(broken: Run, book: Book) -> None:
    if broken.status is Status.DONE and attempt.is_open(broken):
        raise Refused(
            f"run {broken.run_id} is done, and its record is not sealed",
            detail="It was killed behind its last procedure.",
            state="The database is as the run left it.",
            hint=f"Seal it: pgrunbook seal {broken.run_id}",
        )
    if broken.status is Status.DONE:
        raise Refused(f"run {broken.run_id} is done", detail="There is nothing to go on with.", hint="Start a new run.")
    back = headless.way_back(broken, book.on_failure)
    if back is not None and back.status is Status.DONE:
        raise Refused(
            f"run {broken.run_id} was taken back after it failed",
            detail="Nothing that it had applied is in the database now.",
            hint="Correct what failed, then start a new run.",
        )
    if broken.how != "headless":
        raise WrongInput(
            f"run {broken.run_id} was made by hand",
            hint=f"Open its notebooks again: pgrunbook start --resume {broken.run_id}",
        )
    _refuse_other_version(broken)
    _refuse_other_target(broken)


def _refuse_other_version(made: Run) -> None:
    """Raise WrongInput for a run that another version made: its plan and its record may follow other rules."""
    version = made.versions.get("pgrunbook", "")  # before 0.2.0 a run by hand did not record it
    name = f"pgrunbook {version}" if version else "that version"
    command = "start" if made.how == "by hand" else "run"
    if version != __version__:
        raise WrongInput(
            f"run {made.run_id} was made by pgrunbook {version or 'before 0.2.0'}, and this is {__version__}",
            detail="The plan and the record of a run are for the version that made it.",
            hint=f"Install {name} to go on with the run; where nothing of it was applied, start a new one: "
            f"pgrunbook {command} {made.runbook} --target {made.target}",
        )


def _refuse_other_target(made: Run) -> None:
    """Refuse a run whose record is not what it was, or whose target has another name now.

    Raises WrongInput, Refused.
    """
    made.refuse_changed()
    if not naming.is_known(made.target):
        if OF_BRANCH in made.target:
            raise WrongInput(
                f'run {made.run_id} is for branch "{made.target}", which is not there any more',
                detail="What the run has done is gone with it.",
                hint="Start a new run, on another branch: pgrunbook branch list shows them.",
            )
        raise WrongInput(
            f'run {made.run_id} is for target "{made.target}", which targets.toml does not declare now',
            detail=f"{targets.targets_file()} declares {', '.join(sorted(targets.load_all())) or 'no target'}.",
            hint="Give the target its name back to go on with the run; or start a new run on the new name.",
        )


def reopen(run_id: str, *, emergency: str = "") -> Run:
    """Return a run that was made by hand, to open its notebooks again; ``emergency`` as in :func:`resume`.

    Raises WrongInput for a run that does not exist, was made headless, or by another version.
    """
    made = runs.find(run_id)
    emergencies.check(emergency)
    if made.how != "by hand":
        raise WrongInput(
            f"run {made.run_id} was not made by hand", hint=f"Go on with it: pgrunbook run --resume {made.run_id}"
        )
    _refuse_other_version(made)
    _refuse_other_target(made)
    if emergency:
        with attempt.addition(made):
            emergencies.declare(made, emergency)
    executed_copy.refresh(made)
    return made


def start(
    name: str, target: str, given: Mapping[str, str], *, about: Mapping[str, str] | None = None, emergency: str = ""
) -> Run:
    """Make a run with working copies of its notebooks, for a person to step through; return it.

    Raises WrongInput as :func:`run` does.
    """
    import nbformat

    headless.import_papermill()
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    book = load(name)
    emergencies.check(emergency)
    parameters = typed(book, target, given)
    chosen = naming.target(target)
    attempt.refuse_unsigned(target, protected=chosen.protected)
    made = runs.create(
        name, target, parameters, how="by hand", procedures=book.procedures, about=about, status=Status.WAITING
    )
    (made.folder / runs.WORK).mkdir(mode=0o700)
    for part in made.parts:
        notebook = load_notebook_node(str(headless.source(part.procedure)))
        for cell in notebook.cells:
            if cell.cell_type == "code":  # what it showed is of another database
                cell.outputs, cell.execution_count = [], None
        filled = parameterize_notebook(notebook, parameters[part.procedure], engine_name="pgrunbook")
        for cell in filled.cells:
            if "injected-parameters" in cell.metadata.get("tags", []):
                cell.id = "injected-parameters"
        made.keep(f"{runs.WORK}/{part.notebook}", nbformat.writes(filled) + "\n")
        cell_log.give(executed_copy.log_of(made, part.notebook), recorder.given(filled))
    executed_copy.refresh(made)
    made.journal.write("run-started", run_id=made.run_id, runbook=name, target=target, operator=made.operator)
    emergencies.declare(made, emergency)
    attempt.begin(made, protected=chosen.protected, needs_approval=chosen.needs_approval)
    return made


def _unreadable(path: Path, detail: str) -> WrongInput:
    hint = "It has title, procedures (a list) and, if wanted, on_failure; see runbooks/release.yaml."
    return WrongInput(f"could not read the runbook {path.name}", detail=detail, hint=hint)
