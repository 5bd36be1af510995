"""A notebook at work: its run, its target, its parameters, and the recorder in its kernel.

The same cells do the same in JupyterLab and under papermill: the run is found by the working
directory, and where there is none, one is made.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from html import escape
from pathlib import Path
from time import monotonic
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pgrunbook import target as targets
from pgrunbook.database import activity
from pgrunbook.database.activity import Identity
from pgrunbook.database.connection import Connection, connect
from pgrunbook.errors import Refused, RunbookError, WrongInput
from pgrunbook.record import run as runs
from pgrunbook.record.run import Part, Run, Status
from pgrunbook.record.show import BAD, GOOD, WARN, Banner, Card, Cell, Table
from pgrunbook.target import SECRET_NAME, SECRET_VALUE, Target

RUNNER = "PGRUNBOOK_RUNNER"  # set in the kernel by our runner: the id of the run whose folder it holds
OURS = "of_pgrunbook"  # marks our recorder among the kernel's hooks
ENGINE = "PGRUNBOOK_ENGINE"  # set where our engine runs the notebook


class Parameters(BaseModel):
    """What every procedure is told. Unknown names are refused, and nothing is converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    target: str


@dataclass
class Here:
    """What a notebook's steps share."""

    procedure: str
    run: Run
    target: Target
    parameters: Any
    facts: dict[str, Any] = field(default_factory=dict)
    _conn: Connection | None = None
    _identity: Identity | None = None

    @property
    def conn(self) -> Connection:
        """A connection for reading, opened at its first use. Raises Unreachable."""
        if self._conn is None or self._conn.closed:
            self._conn = connect(self.target, purpose=f"{self.procedure} {self.run.run_id}")
        return self._conn

    @property
    def identity(self) -> Identity:
        """Who the target's server and database are."""
        if self._identity is None:
            self._identity = activity.identity(self.conn)
        return self._identity

    def journal(self, event: str, **facts: object) -> None:
        """Append an event of this procedure to the run's journal."""
        self.run.journal.write(event, procedure=self.procedure, **facts)

    def keep_table(self, name: str, table: Table) -> Table:
        """Keep a table's rows as CSV in the run folder; return the table."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(table.headings)
        writer.writerows([str(v.text if isinstance(v, Cell) else v) for v in row] for row in table.rows)
        self.run.keep(f"{name}.csv", text.getvalue())
        return table

    def meet_the_target(self) -> Card:
        """Return the card of the target: server, database, role, who is connected, whether it is protected."""
        who = self.identity
        busy = activity.sessions(self.conn)
        connected = ", ".join(f"{s.application} ({s.sessions})" for s in busy[:6]) or "nobody else"
        facts: list[tuple[str, object]] = [
            ("server", f"PostgreSQL {who.server_version}, {who.role}"),
            ("database", f"{who.database}, {who.size_bytes / 1024 / 1024:,.0f} MB"),
            ("we are", who.session_user + (" (superuser)" if who.superuser else "")),
            ("connected", connected),
            (
                "protected",
                Cell("PROTECTED" if self.target.protected else "no", BAD if self.target.protected else "plain"),
            ),
        ]
        self.journal("target-met", server_version=who.server_version, database=who.database,
                     system_identifier=who.system_identifier, session_user=who.session_user)  # fmt: skip
        self.run.versions.setdefault("server", who.server_version)
        if who.in_recovery and self.procedure in ("prepare", "migrate", "rollback"):
            raise Refused(
                f'target "{self.target.name}" is a replica',
                detail=f"Its server (PostgreSQL {who.server_version}) is in recovery and takes no changes.",
                hint="Name the primary in targets.toml.",
            )
        return Card(f"Target {self.target.name}", facts, tone=BAD if self.target.protected else GOOD)

    def verdict(self, state: str, facts: Sequence[tuple[str, object]], *, then: str) -> Banner:
        """Record that the procedure came to its end, and return the banner that says so."""
        self.journal("verdict", outcome=Status.DONE, says=state)
        if not _headless():
            _note_part(self.run, self.procedure, Status.DONE, state)
        every = [*facts, ("record", self.run.folder.name), ("next", then)]
        return Banner("done", state, every)

    def __repr__(self) -> str:
        return f"{self.procedure} on {self.target.name}, run {self.run.run_id}"

    def _repr_html_(self) -> str:
        html = Card(
            f"{self.procedure} on {self.target.name}",
            [
                ("run", self.run.run_id),
                ("record", str(self.run.folder)),
                *[(n, v) for n, v in self.parameters.model_dump().items() if n != "target" and v not in (None, "")],
            ],
        )._repr_html_()
        return html + _last_run(self.procedure, self.run) + _engine_note()


def begin(procedure: str, model: type[Parameters], given: Mapping[str, object]) -> Here:
    """Check the parameters, find or make the run, start the recorder; return what the steps share.

    Raises WrongInput for a parameter or target that is not right, Blocked when the run folder is in use.
    """
    parameters = checked(procedure, model, given)
    target = targets.load(parameters.target)
    run = _find_run(procedure, parameters)
    if not _headless():
        run.hold()
        _note_part(run, procedure, Status.RUNNING)
    _record_cells(run, procedure)
    run.journal.write(
        "procedure-started", procedure=procedure, target=target.name, parameters=parameters.model_dump(mode="json"),
        how=_how(),
    )  # fmt: skip
    return Here(procedure, run, target, parameters)


def checked(
    procedure: str, model: type[Parameters], given: Mapping[str, object], *, from_text: bool = False
) -> Parameters:
    """Return the parameters as the procedure's model has them; with ``from_text`` each is given as text.

    Raises WrongInput when one is unknown, missing, mistyped, out of range or looks like a secret.
    """
    for name, value in given.items():
        if SECRET_NAME.search(name) or (isinstance(value, str) and SECRET_VALUE.search(value)):
            raise WrongInput(
                f'parameter "{name}" looks like a secret',
                detail="Parameters are written into the record in clear.",
                hint="Name a target; targets.toml names a libpq service or an environment variable.",
            )
    try:
        return model.model_validate_strings(given) if from_text else model.model_validate(given)
    except ValidationError as exc:
        raise WrongInput(
            f"the parameters of {procedure} are not right",
            detail="; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors()),
            hint=f"{procedure} knows: {', '.join(model.model_fields)}.",
        ) from None


def _find_run(procedure: str, parameters: Parameters) -> Run:
    folder = Path.cwd()
    if (folder / runs.RUN_FILE).is_file():
        run = runs.load(folder)
        if run.target != parameters.target:
            raise WrongInput(
                f'this run is for target "{run.target}", not for "{parameters.target}"',
                detail=f"The notebook lies in the folder of run {run.run_id}.",
                hint="Leave the target as it is, or start another run: pgrunbook start.",
            )
        return run
    return runs.create(procedure, parameters.target, parameters.model_dump(mode="json"), how=_how())


def _headless() -> bool:
    return RUNNER in os.environ


def _how() -> str:
    if _headless():
        return "headless"
    return "papermill" if not _asks_can_be_answered() else "by hand"


def _asks_can_be_answered() -> bool:
    """Tell whether a person sits at the notebook: only then does the front end answer input()."""
    try:
        from IPython import get_ipython

        shell = get_ipython()
        return bool(shell.kernel.get_parent()["content"]["allow_stdin"]) if shell else True
    except (AttributeError, KeyError, ImportError):
        return True


def _engine_note() -> str:
    if _how() != "papermill" or ENGINE in os.environ:
        return ""
    return (
        "<div style='color:#9a6700;margin-top:6px'>Stock papermill marks cells as completed that were not. "
        "Run it with <code>--engine pgrunbook</code>, and the record is truthful.</div>"
    )


def _last_run(procedure: str, this: Run) -> str:
    """A line on the last run of the same procedure on the same target, with a link to its notebook."""
    for folder in reversed(runs.folders()):
        if folder == this.folder:
            continue
        try:
            run = runs.load(folder)
        except WrongInput:
            continue  # a folder that cannot be read is told by `pgrunbook runs`, not here
        part = next((p for p in run.parts if p.procedure == procedure), None)
        if run.target == this.target and part is not None:
            standing = part.status if part.status is not Status.RUNNING else run.standing()
            link = escape(str(folder / part.notebook))
            says = escape(f": {part.says}" if part.says else "")
            return (
                f"<div style='margin-top:6px'>Last run of {procedure} here: <b>{standing}</b>{says} "
                f"(<a href='{link}'>{escape(run.run_id)}</a>)</div>"
            )
    return f"<div style='margin-top:6px'>{procedure} was not run on this target before.</div>"


def _note_part(run: Run, procedure: str, status: Status, says: str = "") -> None:
    """Keep run.json up to date where no runner does it."""
    part = next((p for p in run.parts if p.procedure == procedure), None)
    if part is None:
        part = Part(procedure, f"{procedure}.ipynb")
        run.parts.append(part)
    part.status, part.says = status, says
    if status is Status.RUNNING:
        part.started_at, run.status = runs.stamp(), Status.RUNNING
    else:
        part.ended_at = runs.stamp()
        worst = [p.status for p in run.parts if p.status is not Status.DONE]
        run.status = (
            worst[-1] if worst and worst[-1] is not Status.WAITING else (Status.RUNNING if worst else Status.DONE)
        )
        run.ended_at = runs.stamp() if run.status is not Status.RUNNING else ""
    run.save()


def _record_cells(run: Run, procedure: str) -> None:
    """Write every cell that runs in this kernel into the journal, also those run twice or changed."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return
    started = {"at": monotonic()}

    def before(info: Any) -> None:
        started["at"] = monotonic()
        digest = sha256(str(info.raw_cell).encode()).hexdigest()
        run.journal.write("cell-started", procedure=procedure, cell=info.cell_id, source_sha256=digest)

    def after(result: Any) -> None:
        error = result.error_before_exec or result.error_in_exec
        took_ms = round((monotonic() - started["at"]) * 1000, 1)
        told = {"error": error.lines() if isinstance(error, RunbookError) else [str(error)[:500]],
                "kind": type(error).__name__} if error else {}  # fmt: skip
        run.journal.write("cell-ended", procedure=procedure, cell=result.info.cell_id if result.info else None,
                          ok=error is None, ms=took_ms, **told)  # fmt: skip
        if error is not None and not _headless():
            _note_part(run, procedure, _status_of(error), str(error).splitlines()[0] if str(error) else "")

    for name, hook in (("pre_run_cell", before), ("post_run_cell", after)):
        for old in [h for h in shell.events.callbacks[name] if getattr(h, OURS, False)]:
            shell.events.unregister(name, old)  # the set-up cell was run again: one recorder is enough
        setattr(hook, OURS, True)
        shell.events.register(name, hook)


def _status_of(error: BaseException) -> Status:
    if isinstance(error, Refused):
        return Status.REFUSED
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Interrupted":
        return Status.INTERRUPTED
    return Status.FAILED


def stop_tone(level: str) -> str:
    """Return the tone in which a check's verdict is shown."""
    return {"ok": GOOD, "look": WARN, "stop": BAD}.get(level, WARN)
