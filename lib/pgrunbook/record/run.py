"""A run: one execution of a runbook on one target, and its folder in ``outputs/``."""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import platform
import re
import secrets
import socket
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from pgrunbook import __version__
from pgrunbook.config import paths, regular_file
from pgrunbook.errors import RecordFailed, Refused, TargetBusy, WrongInput
from pgrunbook.record import door, journal
from pgrunbook.record.files import RECORD_FAILED_HINT, write_atomically
from pgrunbook.record.journal import Journal

RUN_FILE = "run.json"
JOURNAL_FILE = "journal.jsonl"
# Set beside it in a run which takes back what it has applied when it fails, as long as it has not begun that.
TAKES_BACK = "PGRUNBOOK_TAKES_BACK"
RUNNER = "PGRUNBOOK_RUNNER"  # set in the kernel by our runner: the id of the run whose folder it has locked
HELD_FILE = ".held"
WORK = "work"  # the folder of a run by hand in which its working copies are; the records lie above it
RUN_ID = re.compile(r"\d{8}T\d{6}Z-[a-z0-9-]+-[0-9a-f]{4}")

_HELD: dict[Path, int] = {}  # the folders that this process has locked: a set-up cell may be run again


class Status(StrEnum):
    """How a run, or a procedure of it, stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"
    INTERRUPTED = "interrupted"
    BROKEN_OFF = "broken off"  # run.json says running, but no process has locked its folder: it was killed


@dataclass
class Part:
    """One procedure of a run: its notebook and how it stands."""

    procedure: str
    notebook: str
    status: Status = Status.WAITING
    started_at: str = ""
    ended_at: str = ""
    says: str = ""


@dataclass
class Run:
    """The folder of a run and the contents of its ``run.json``.

    ``about`` is what its operator said of it: change, reason, risk, requested_by.
    """

    folder: Path
    run_id: str
    runbook: str
    target: str
    parameters: dict[str, Any]
    how: str
    status: Status = Status.RUNNING
    operator: str = ""
    machine: str = ""
    started_at: str = ""
    ended_at: str = ""
    parts: list[Part] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)

    @property
    def journal(self) -> Journal:
        """The journal of this run."""
        return Journal(self.folder / JOURNAL_FILE)

    @property
    def next_try(self) -> str:
        """How somebody goes on with it where it was refused: the command, or the cell where it is stepped through."""
        if self.how == "headless":
            return f"pgrunbook run --resume {self.run_id}"
        return "run the cell that refused again"

    @property
    def took_s(self) -> float | None:
        """How long it took, in seconds; None where it has not ended."""
        if not self.ended_at:
            return None
        return (datetime.fromisoformat(self.ended_at) - datetime.fromisoformat(self.started_at)).total_seconds()

    def has_applied(self, *, whole: bool = False) -> bool:
        """Tell whether it has committed steps of a migration up, or with ``whole`` all of one."""
        done = (event for event in journal.read(self.journal.path) if event["event"] == "committed")
        return any(each.get("direction") == "up" and (each.get("whole_migration") or not whole) for each in done)

    def save(self) -> None:
        """Write ``run.json``, whole. Raises RecordFailed as write_atomically does."""
        facts = {key: value for key, value in self.__dict__.items() if key != "folder"}
        facts["parts"] = [asdict(part) for part in self.parts]
        text = json.dumps(facts, indent=1, ensure_ascii=False)
        write_atomically(self.folder / RUN_FILE, door.masked_json(text + "\n"))

    def keep(self, name: str, text: str, *, keep_earlier: bool = False) -> Path:
        """Write a piece of evidence (a table as CSV) into the run folder, without secrets; return its path.

        With ``keep_earlier`` one of that name that says something else is kept, with a number.
        """
        masked = door.masked_json(text) if name.endswith(".json") else door.masked(text)
        path = self.folder / name
        if keep_earlier and path.is_file() and path.read_bytes() != masked.encode():
            keep_attempt(path)
        return self.keep_masked(name, masked)

    def keep_masked(self, name: str, parts: str | Iterable[str]) -> Path:
        """Write evidence whose secrets are masked (a plan, a snapshot of a schema) into the run folder."""
        write_atomically(self.folder / name, parts)
        return self.folder / name

    def hold(self) -> None:
        """Lock the run folder for this process, until it ends or calls :meth:`release`.

        Raises TargetBusy when another process has locked it, RecordFailed when the folder cannot be written.
        """
        if self.folder in _HELD:
            return
        try:
            handle = os.open(self.folder / HELD_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as exc:
            raise RecordFailed(
                f"could not lock the folder of run {self.run_id}",
                detail=f"{self.folder}: {exc.strerror or exc}.",
                hint=RECORD_FAILED_HINT,
            ) from exc
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 20, 0).decode() or "unknown"
            os.close(handle)
            raise TargetBusy(
                f"run {self.run_id} is already in use",
                detail=f"Process {holder} works in {self.folder}.",
                hint="Wait until it has ended (pgrunbook runs), or stop that process.",
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        _HELD[self.folder] = handle

    def release(self) -> None:
        """Unlock the run folder."""
        if self.folder in _HELD:
            os.close(_HELD.pop(self.folder))

    def is_held(self) -> bool:
        """Tell whether a process has locked the run folder."""
        if self.folder in _HELD:
            return True
        try:
            with (self.folder / HELD_FILE).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def refuse_changed(self) -> None:
        """See that the record is as this run left it, before anybody goes on with it.

        Raises Refused where the folder was copied from another machine, WrongInput where run.json and journal do not
        fit together, and as :func:`journal.read`.
        """
        self._refuse_elsewhere()
        ended = {e.get("procedure") for e in journal.read(self.journal.path) if e["event"] == "verdict"}
        lost = [part.procedure for part in self.parts if part.status is Status.DONE and part.procedure not in ended]
        if lost:
            raise WrongInput(
                f"the journal of run {self.run_id} does not fit its {RUN_FILE}",
                detail=f"{RUN_FILE} says that {lost[0]} is done, and {self.journal.path} does not: lines are missing.",
                hint=regular_file.UNREADABLE_HINT,
            )

    def _refuse_elsewhere(self) -> None:
        here = socket.gethostname()
        if self.machine and self.machine != here:
            raise Refused(
                f"run {self.run_id} was begun on {self.machine}, and this is {here}",
                detail=f"{self.folder} is a copy: its original may go on as well, and would know nothing of this one.",
                hint=f"Go on with it on {self.machine}; or start a new run here.",
            )

    def actual_status(self) -> Status:
        """Return the status: ``broken off`` where run.json says running but no process has locked the folder."""
        if self.status is Status.RUNNING and not self.is_held():
            return Status.BROKEN_OFF
        return self.status

    def standing(self) -> list[tuple[Part, Status]]:
        """Return each part with its status as it is: at work only where somebody is."""
        at_work = self.is_held()
        return [(p, p.status if at_work or p.status is not Status.RUNNING else Status.BROKEN_OFF) for p in self.parts]


def keep_attempt(path: Path) -> None:
    """Rename a file of an earlier attempt, with a number: a record is never overwritten."""
    number = 1
    while (kept := path.with_name(f"{path.stem}.attempt-{number}{path.suffix}")).exists():
        number += 1
    path.rename(kept)


def operator() -> str:
    """Return the name of the operating system's user; a container may run under an id that has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user id {os.getuid()}"


def create(
    runbook: str,
    target: str,
    parameters: Mapping[str, Any],
    *,
    how: str,
    procedures: Iterable[str] = (),
    about: Mapping[str, str] | None = None,
    status: Status = Status.RUNNING,
) -> Run:
    """Create the folder of a new run and return the run.

    All that it has to do is in the first ``run.json``: a run that is killed then goes on with all of it.

    Raises RecordFailed when the folder cannot be created.
    """
    now = datetime.now(UTC)
    plain = "-".join(re.findall(r"[a-z0-9]+", f"{runbook}-{target}".lower()))
    # The last part begins with the milliseconds, so that runs of one second sort in the order of their start.
    run_id = f"{now:%Y%m%dT%H%M%SZ}-{plain}-{now.microsecond // 1000:03x}{secrets.token_hex(1)[0]}"
    folder = paths.outputs_dir() / run_id
    try:
        if not folder.parent.exists():
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    except OSError as exc:
        raise RecordFailed(
            "could not create the folder of this run",
            detail=f"{folder}: {exc.strerror or exc}.",
            hint="Make the outputs folder writable, or name another one in PGRUNBOOK_OUTPUTS.",
        ) from exc
    run = Run(folder, run_id, runbook, target, dict(parameters), how, status, about=dict(about or {}))
    run.parts = [Part(procedure, f"{number:02}-{procedure}.ipynb") for number, procedure in enumerate(procedures, 1)]
    run.operator, run.machine, run.started_at = operator(), socket.gethostname(), stamp(now)
    run.versions = {"pgrunbook": __version__, "python": platform.python_version()}
    run.save()
    return run


def load(folder: Path) -> Run:
    """Return the run of a folder. Raises WrongInput when it holds no readable ``run.json``."""
    try:
        facts: dict[str, Any] = regular_file.read_json(folder / RUN_FILE, dict)
        parts = [Part(**_texts({**part, "status": Status(part["status"])})) for part in facts.pop("parts")]
        made = Run(folder=folder, parts=parts, **{**facts, "status": Status(facts["status"])})
        _texts({name: value for name, value in facts.items() if name not in ("parameters", "versions", "about")})
        for moment in (made.started_at, *filter(None, (made.ended_at, *(p.started_at for p in parts)))):
            if datetime.fromisoformat(moment).tzinfo is None:
                raise ValueError(f"{moment} has no time zone")
        if not all(isinstance(value, dict) for value in (made.parameters, made.versions, made.about)):
            raise TypeError("parameters, versions and about are no objects")
    except WrongInput as exc:
        raise _unreadable(folder, exc.detail) from exc
    except KeyError as exc:
        raise _unreadable(folder, f"It has no {exc}.") from exc
    except (ValueError, TypeError, AttributeError) as exc:
        raise _unreadable(folder, f"{' '.join(str(exc).split())[:200]}.") from exc
    if made.run_id != folder.name:
        raise WrongInput(
            f"{RUN_FILE} in {folder} is that of another run",
            detail=f"It names run {made.run_id}.",
            hint="Put the folder's own file back; a run's folder keeps its name.",
        )
    return made


def _texts(facts: dict[str, Any]) -> dict[str, Any]:
    wrong = next((name for name, value in facts.items() if not isinstance(value, str)), None)
    if wrong is not None:
        raise TypeError(f"{wrong} is no text")
    return facts


def _unreadable(folder: Path, detail: str) -> WrongInput:
    return WrongInput(f"could not read the run in {folder}", detail=detail, hint=regular_file.UNREADABLE_HINT)


def find(run_id: str) -> Run:
    """Return the run with that id, or the only run whose id begins or ends with it.

    Raises WrongInput when there is none, or more than one.
    """
    every = [folder.name for folder in folders()]
    found = [name for name in every if name == run_id] or [
        name for name in every if run_id and (name.startswith(run_id) or name.endswith(run_id))
    ]
    if len(found) != 1:
        raise WrongInput(
            f'could not find the run "{run_id}"',
            detail=f"{paths.outputs_dir()} holds {len(found)} runs whose id begins or ends with it.",
            hint="See the ids with: pgrunbook runs",
        )
    return load(paths.outputs_dir() / found[0])


def folders() -> list[Path]:
    """Return the folders of all runs, oldest first."""
    outputs = paths.outputs_dir()
    if not outputs.is_dir():
        return []
    there = (folder for folder in outputs.iterdir() if (folder / RUN_FILE).is_file())
    return sorted(there, key=lambda folder: (folder.name[:16], folder.name[-4:]))


def folder_here() -> Path | None:
    """Return the folder of the run that this process works in, by its working directory; None where it is none."""
    here = Path.cwd()
    for folder in (here, *([here.parent] if here.name == WORK else [])):
        if (folder / RUN_FILE).is_file():
            return folder
    return None


def again() -> str:
    """Return how to go on with the run of this process, as a hint says it: headless, or in the notebook by hand."""
    run_id = os.environ.get(RUNNER)
    return f"go on with this run: pgrunbook run --resume {run_id}" if run_id else "run this cell again"


def go_on_command(run_id: str) -> str:
    """Return the command that goes on with another run, also one begun by hand; its record may be elsewhere."""
    try:
        is_by_hand = load(paths.outputs_dir() / run_id).how == "by hand"
    except WrongInput:
        is_by_hand = False
    return f"pgrunbook {'start' if is_by_hand else 'run'} --resume {run_id}"


def after_failure(*, applied: bool) -> str:
    """Return how to go on after an error that somebody corrects, of a run that has ``applied`` something or nothing.

    Other than :func:`again`, which is for obstacles from outside: of these the runner takes nothing back.
    """
    return "start a new run, when this one has taken back what it applied" if takes_back(applied=applied) else again()


def takes_back(*, applied: bool) -> bool:
    """Tell whether the runner of this process will take back what its run has ``applied``, after a failure."""
    return applied and bool(os.environ.get(TAKES_BACK))


def stamp(moment: datetime | None = None) -> str:
    """Return a time as records spell it: UTC, to the millisecond, with Z."""
    return (moment or datetime.now(UTC)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
