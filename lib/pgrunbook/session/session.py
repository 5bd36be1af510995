"""The session of a notebook: its run, its target, its parameters, and the recorder in its kernel.

The same cells do the same in JupyterLab and under papermill: the session finds the run by the working
directory, and makes one where there is none.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from html import escape
from typing import Any, TypeVar

import psycopg

from pgrunbook.config.targets import Target
from pgrunbook.database import activity, locks, sqlstate
from pgrunbook.database.activity import Identity
from pgrunbook.database.connection import Connection, connect
from pgrunbook.display.show import BAD, GOOD, WARN, Banner, Card, Cell, Table
from pgrunbook.errors import (
    NOTHING_CHANGED,
    Interrupted,
    Refused,
    RunbookError,
    WrongInput,
)
from pgrunbook.record import door, steps, table_file
from pgrunbook.record import run as runs
from pgrunbook.record.run import RUNNER, Part, Run, Status
from pgrunbook.seal import anchor, attempt
from pgrunbook.session import cells, naming, outputs, recorder, step_progress
from pgrunbook.session.facts import CellFacts
from pgrunbook.session.parameters import Parameters, checked
from pgrunbook.session.recorder import Recorder

ENGINE = "PGRUNBOOK_ENGINE"  # set where our engine runs the notebook
# The procedures that work for a change of the target.
CHANGES = ("prepare", "migrate", "rollback", "purge", "contract", "rollout", "backfill", "swap")
CHANGING = "The history table and schema pgrunbook say what is done; an open transaction was aborted."
View = TypeVar("View")
_begun: list[Session] = []  # the session of this kernel: one at a time


@dataclass
class Session:
    """The state that the steps of a notebook share.

    ``subject`` is what its checks are about: the digest of a plan, items to purge, the point to restore to.
    """

    procedure: str
    run: Run
    target: Target
    parameters: Any
    facts: CellFacts = field(default_factory=CellFacts)
    subject: frozenset[str] = frozenset()
    changing: bool = False
    recorder: Recorder | None = None
    works: int = 0
    _repeats: set[str] = field(default_factory=set)
    _conn: Connection | None = None
    _identity: Identity | None = None

    @property
    def conn(self) -> Connection:
        """A connection for reading, opened at its first use. Raises Unreachable."""
        if self._conn is None or self._conn.closed:
            self._conn = connect(self.target, purpose=f"{self.procedure} {self.run.run_id}")
        return self._conn

    def close(self) -> None:
        """Close the connection for reading."""
        if self._conn is not None:
            self._conn.close()

    @property
    def identity(self) -> Identity:
        """Server, database and role of the target."""
        if self._identity is None:
            self._identity = activity.identity(self.conn)
        return self._identity

    def journal(self, event: str, **facts: object) -> None:
        """Append an event of this procedure to the run's journal."""
        self.run.journal.write(event, procedure=self.procedure, **facts)

    def keep_table(self, name: str, table: Table) -> Table:
        """Write a table's rows as CSV into the run folder; return the table."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(table.headings)
        # A cell at a time: an apostrophe in one would be taken for the quote of another.
        rows = ([table_file.cell(str(v.text if isinstance(v, Cell) else v)) for v in row] for row in table.rows)
        writer.writerows(rows)
        self.run.keep(f"{name}.csv", text.getvalue(), keep_earlier=True)
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
        if self.procedure in CHANGES:
            self.refuse_replica()
            locks.wait_for_others(self.conn, self.target)
        return Card(f"Target {self.target.name}", facts, tone=BAD if self.target.protected else GOOD)

    def refuse_replica(self) -> None:
        """Raise Refused where the target's server takes no changes."""
        if self.identity.in_recovery:
            raise Refused(
                f'target "{self.target.name}" is a replica',
                detail=f"Its server (PostgreSQL {self.identity.server_version}) is in recovery and takes no changes.",
                hint="Name the primary in targets.toml.",
            )

    def following(self) -> Cell | None:
        """Return the notebook of this run that comes behind this one, None where none does."""
        names = [part.notebook for part in self.run.parts]
        mine = [part.procedure for part in self.run.parts].index(self.procedure) if self._part_status() else len(names)
        return Cell(names[mine + 1], link=names[mine + 1]) if mine + 1 < len(names) else None

    def verdict(
        self, state: str, facts: Sequence[tuple[str, object]], *, then: object, is_open: bool = False
    ) -> Banner:
        """Record the end of the procedure, and return the banner that says so; amber where something ``is_open``."""
        self.journal("verdict", outcome=Status.DONE, says=state)
        if not is_headless():
            _note_part(self.run, self.procedure, Status.DONE, state)
            self.run.release()  # the next notebook of this run has a kernel of its own
        every = [*facts, ("record", self.run.folder.name), ("next", then)]
        return Banner("done, with open gates", state, every, tone=WARN) if is_open else Banner("done", state, every)

    def note_error(self, error: BaseException) -> None:
        """Record a failed cell in run.json where no runner does it, and release the run folder."""
        if is_headless() or self._part_status() is Status.DONE:
            return
        _note_part(self.run, self.procedure, _status_of(error), str(error).partition("\n")[0])
        self.run.release()

    def seal_opened(self) -> None:
        """Open the run in the ledger again where it was sealed and somebody runs a cell; a runner does that itself."""
        if not is_headless():
            attempt.reopen(self.run, protected=self.target.protected, needs_approval=self.target.needs_approval)

    def seal_ended(self) -> None:
        """Seal the run where the cell that has just ended was its last, or failed."""
        if not is_headless():
            anchor.seal_if_over(self.run, lambda: self.target)

    def at_work(self) -> None:
        """Take the run folder again before something is changed: a cell that failed has released it.

        Raises Blocked when another process holds the run folder now, RecordFailed when the last cell was not recorded.
        """
        if self.recorder is not None and self.recorder.log.broken is not None:
            raise self.recorder.log.broken
        self.changing = True
        self.works += 1
        if not is_headless():
            self.run.hold()
            self.seal_opened()
            _note_part(self.run, self.procedure, Status.RUNNING)

    def repeat(self, cell: str) -> str:
        """Let a cell that is done be done once more, the next time that it is run."""
        self._repeats.add(cell)
        self.journal("repeat-meant", cell=cell, by=runs.operator())
        return f'Run cell "{cell}" now: it is done again, as far as the database says that there is something to do.'

    def repeats(self, cell: str) -> bool:
        """Tell whether somebody wants a cell repeated; that counts once."""
        wanted = cell in self._repeats
        self._repeats.discard(cell)
        return wanted

    def show(self, view: object) -> None:
        """Show a view above what the step returns, or above the error that it raises."""
        from IPython import get_ipython

        if get_ipython() is not None:
            from IPython.display import display

            display(view)

    def _part_status(self) -> Status | None:
        return next((p.status for p in self.run.parts if p.procedure == self.procedure), None)

    def __repr__(self) -> str:
        return f"{self.procedure} on {self.target.name}, run {self.run.run_id}"

    def _repr_html_(self) -> str:
        html = Card(
            f"{self.procedure} on {self.target.name}",
            [
                ("run", self.run.run_id),
                ("record", str(self.run.folder)),
                *[
                    (n, ", ".join(map(str, v)) if isinstance(v, tuple) else v)
                    for n, v in self.parameters.model_dump().items()
                    if n != "target" and v not in (None, "", (), {})
                ],
            ],
        )._repr_html_()
        return html + _last_run(self.procedure, self.run) + _engine_note()


def begin(procedure: str, model: type[Parameters], given: Mapping[str, object]) -> Session:
    """Check the parameters, find or make the run, start the recorder; return the session.

    When the set-up cell is run again, it ends the session that it began before.

    Raises WrongInput for a wrong parameter or target, Blocked when the run folder is in use.
    """
    parameters = checked(procedure, model, given)
    target = naming.target(parameters.target)
    _end_earlier()
    run = _find_run(procedure, parameters)
    if not is_headless():
        run.hold()
        attempt.reopen(run, protected=target.protected, needs_approval=target.needs_approval)
        _note_part(run, procedure, Status.RUNNING)
    here = Session(procedure, run, target, parameters, CellFacts(procedure))
    _begun.append(here)
    door.guard_logs()
    outputs.guard()
    here.recorder = None if is_headless() else recorder.start(run, procedure, how=_how())
    cells.record(run.journal, procedure, here.note_error, here.recorder, here.seal_opened, here.seal_ended)
    run.journal.write(
        "procedure-started", procedure=procedure, run_id=run.run_id, target=target.name,
        parameters=parameters.model_dump(mode="json"), how=_how(),
    )  # fmt: skip
    return here


def step(function: Callable[[Session], View]) -> Callable[[Session], View]:
    """Make a function a step: what it does is shown when it takes long, and psycopg's errors become errors of ours."""
    return _step(function, draws=True)


def live_step(function: Callable[[Session], View]) -> Callable[[Session], View]:
    """Make a function a step that draws its progress itself."""
    return _step(function, draws=False)


def _step(function: Callable[[Session], View], *, draws: bool) -> Callable[[Session], View]:
    @wraps(function)
    def explained(here: Session) -> View:
        with step_progress.shown(here.run.journal, here.procedure, draws=draws):
            try:
                return function(here)
            except psycopg.Error as exc:
                raise _explained(here, exc) from exc

    return explained


def _explained(here: Session, exc: psycopg.Error) -> RunbookError:
    state = CHANGING if here.changing else NOTHING_CHANGED
    return sqlstate.explained(exc, here.target.name, state=state, again=runs.again(), mended=_mended(here))


def _mended(here: Session) -> str:
    return runs.after_failure(applied=here.run.has_applied())


def _find_run(procedure: str, parameters: Parameters) -> Run:
    folder = runs.folder_here()
    if folder is not None:
        run = runs.load(folder)
        run.refuse_changed()
        if run.target != parameters.target:
            raise WrongInput(
                f'this run is for target "{run.target}", not for "{parameters.target}"',
                detail=f"The notebook lies in the folder of run {run.run_id}.",
                hint="Leave the target as it is, or start another run: pgrunbook start.",
            )
        return run
    return runs.create(procedure, parameters.target, parameters.model_dump(mode="json"), how=_how())


def is_headless() -> bool:
    """Tell whether a runner executes this notebook, and nobody steps through it."""
    return RUNNER in os.environ


def _how() -> str:
    if is_headless():
        return "headless"
    return "papermill" if not _asks_can_be_answered() else "by hand"


def _asks_can_be_answered() -> bool:
    """Tell whether a person runs the notebook: only then does the front end answer input()."""
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
        "Run it with <code>--engine pgrunbook</code> for a truthful record.</div>"
    )


def _last_run(procedure: str, this: Run) -> str:
    """Return a line on the last run of the same procedure on the same target, with a link to its notebook."""
    last = steps.last_run(procedure, this.target, but=this.folder)
    if last is None:
        return f"<div style='margin-top:6px'>{procedure} was not run on this target before.</div>"
    run, part = last
    standing = part.status if part.status is not Status.RUNNING else run.actual_status()
    link = escape(str(run.folder / part.notebook if part.notebook else run.folder))
    says = escape(f": {part.says}" if part.says else "")
    rows = [(one.cell, one.state, one.says) for one in steps.standing(run, part)]
    table = Table(["step", "then", "it said"], rows)._repr_html_() if rows else ""
    folded = f"<details><summary>its steps</summary>{table}</details>" if rows else ""
    return (
        f"<div style='margin-top:6px'>Last run of {procedure} here: <b>{standing}</b>{says} "
        f"(<a href='{link}'>{escape(run.run_id)}</a>){folded}</div>"
    )


def _note_part(run: Run, procedure: str, status: Status, says: str = "") -> None:
    """Write a part's status into run.json where no runner does it."""
    run.parts = runs.load(run.folder).parts  # the other notebooks of this run have kernels of their own
    part = next((p for p in run.parts if p.procedure == procedure), None)
    if part is None:
        part = Part(procedure, "")  # the notebook lies elsewhere; the run folder holds its evidence only
        run.parts.append(part)
    part.status, part.says = status, says
    if status is Status.RUNNING:
        part.started_at, part.ended_at = runs.stamp(), ""
    else:
        part.ended_at = runs.stamp()
    run.status = _status_of_all([p.status for p in run.parts])
    run.ended_at = runs.stamp() if run.status not in (Status.RUNNING, Status.WAITING) else ""
    run.save()


def _status_of_all(parts: list[Status]) -> Status:
    """Return the run's status: a running part counts first, then the last failure, then a part not opened yet."""
    wrong = [s for s in parts if s not in (Status.RUNNING, Status.WAITING, Status.DONE)]
    if Status.RUNNING in parts:
        return Status.RUNNING
    return wrong[-1] if wrong else Status.WAITING if Status.WAITING in parts else Status.DONE


def _end_earlier() -> None:
    """End the session that this kernel began before: the set-up cell is run again."""
    recorder.stop()
    while _begun:
        earlier = _begun.pop()
        earlier.close()
        if not is_headless() and earlier._part_status() is Status.RUNNING:
            _note_part(earlier.run, earlier.procedure, Status.INTERRUPTED, "the set-up cell was run again")
        earlier.run.release()


def _status_of(error: BaseException) -> Status:
    if isinstance(error, Refused):
        return Status.REFUSED
    return Status.INTERRUPTED if isinstance(error, KeyboardInterrupt | Interrupted) else Status.FAILED


def stop_tone(level: str) -> str:
    """Return the tone in which a check's verdict is shown."""
    return {"ok": GOOD, "look": WARN, "stop": BAD}.get(level, WARN)
