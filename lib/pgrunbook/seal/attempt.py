"""The attempts of a run, each between two lines of the ledger: it opens, and is sealed when it ends.

Called where a run begins and ends: by the runner, by the recorder of a notebook that somebody steps through, and by the
commands that are recorded. A run that goes on after it was sealed opens a new attempt, which names the line before.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pgrunbook.config import regular_file
from pgrunbook.errors import RecordFailed, Refused, WrongInput
from pgrunbook.record import journal
from pgrunbook.record import run as runs
from pgrunbook.record.files import write_atomically
from pgrunbook.record.run import Run, Status, operator
from pgrunbook.seal import (
    copies,
    faithfulness,
    file_modes,
    ledger,
    predicate,
    secret_scan,
    signers,
    signing_key,
    subjects,
)
from pgrunbook.seal.changes import OPENING
from pgrunbook.seal.copies import MARK_FILE
from pgrunbook.seal.ledger import CLOSED, OPENED, Line
from pgrunbook.seal.signing_key import SigningKey

MOST_NAMED = 5

log = logging.getLogger(__name__)


def refuse_unsigned(target: str, *, protected: bool) -> None:
    """See that what is about to begin can be signed, where its target is protected.

    Raises Refused for a protected target without a key that ``signers`` names; and as ``signing_key.load``.
    """
    key = signing_key.load()
    if not protected:
        return
    known = signers.load() or {}
    if key is None or key.public.fingerprint not in known:
        detail = (
            f"{signers.path()} does not name {key.public.fingerprint}." if key else "There is no key to sign it with."
        )
        hint = (
            f"Have your line of pgrunbook key show added to {signers.path()}."
            if key
            else "Make one: pgrunbook key new."
        )
        raise Refused(
            f'target "{target}" is protected: what is done to it is signed by somebody who is known',
            detail=detail,
            state="Nothing was started; nothing changed in the database.",
            hint=hint,
        )


def begin(run: Run, *, protected: bool = False, needs_approval: bool = False) -> Line:
    """Open an attempt of a run: the ledger says so before anything is done, and what its target asks for.

    Raises RecordFailed when the ledger cannot be written, WrongInput where the journal is not as the run's last line
    says, and as :func:`refuse_unsigned`.
    """
    refuse_unsigned(run.target, protected=protected)
    copies.refuse_unusable()
    file = ledger.path(run.folder.parent)
    continues = standing(run).get("seq")
    if continues is not None:
        _refuse_altered(run, ledger.last_of(file, run.run_id))
    facts = predicate.of_opening(run, protected=protected, needs_approval=needs_approval, continues=continues)
    _mark(run, {})
    key = signing_key.load()
    line = ledger.append(file, OPENED, run.run_id, subjects.journal_only(run), facts, key)
    file_modes.release(run)
    run.journal.write(
        OPENING, ledger=line.ledger, seq_of_line=line.seq, sha256=line.sha256, protected=protected,
        needs_approval=needs_approval, fingerprint=key.public.fingerprint if key else "",
    )  # fmt: skip
    _mark(run, _facts(line))
    return line


def end(
    run: Run, rows: Sequence[Mapping[str, Any]] | None = None, *, anchored: Mapping[str, Any] | None = None
) -> Line:
    """Seal an attempt that has ended: its files, what they say, and whether they agree; copy it where that is asked.

    ``rows`` are the steps that the target's database has of this run, None where it has none or was not asked;
    ``anchored`` is where the line that opened the attempt is anchored, None where it is nowhere.

    Raises Refused where a file holds a secret, RecordFailed when it cannot be written or signed.
    """
    found = secret_scan.scan(run)
    if found:
        raise _holds_secrets(run, found)
    key = signing_key.load()
    events = journal.read(run.journal.path)
    before = standing(run)
    opened = before["seq"] if before.get("kind") == OPENED else None
    differences = faithfulness.differences(run, events, rows)
    facts = predicate.of_closing(run, events, has_key=key is not None)
    facts |= {
        "opened": opened,
        "anchor": dict(anchored) if anchored else None,
        "faithful": {"holds": not differences, "differences": differences, "database_asked": rows is not None},
    }
    _mark(run, {})
    line = _closed(run, facts, key)
    _mark(run, _facts(line))
    file_modes.protect(run)
    copies.try_to_copy(run)
    return line


def is_open(run: Run) -> bool:
    """Tell whether an attempt of a run is open: it began, and was not sealed."""
    return standing(run).get("kind") == OPENED


def standing(run: Run) -> dict[str, Any]:
    """Return the last line of a run: kind, ledger, seq, sha256; {} where it has none.

    Its folder remembers it; where that is lost and the journal names a line, the ledger is asked, and where somebody
    was killed while a line was written.
    """
    try:
        marked: dict[str, Any] = regular_file.read_json(run.folder / MARK_FILE, dict)
    except WrongInput:
        if not any(e["event"] == OPENING for e in journal.read(run.journal.path)):
            return {}
    else:
        if marked:
            return marked
    line = ledger.last_of(ledger.path(run.folder.parent), run.run_id)
    return _facts(line) if line is not None else {}


def closings(run: Run) -> Iterator[Line]:
    """Yield the lines that have ended attempts of a run, newest first."""
    for raw in ledger.lines_backwards(ledger.path(run.folder.parent)) if standing(run) else ():
        line = ledger.line_of(raw)
        if line is None or line.predicate["run_id"] != run.run_id:
            continue
        if not line.is_open:
            yield line
        elif line.predicate.get("continues") is None:
            return


def reopen(run: Run, *, protected: bool = False, needs_approval: bool = False) -> None:
    """Open an attempt where none is open: a cell is run again in a run that was sealed. Raises as :func:`begin`."""
    if not is_open(run):
        begin(run, protected=protected, needs_approval=needs_approval)


def redact(run: Run) -> list[secret_scan.SecretPlace]:
    """Mask the secrets in the files of a run that is not sealed yet; its journal says where they were.

    Raises RecordFailed when a file cannot be written.
    """
    places = secret_scan.redact(run)
    if places:
        run.journal.write("redacted", places=[str(place) for place in places], by=operator())
    return places


def is_over(run: Run) -> bool:
    """Tell whether an attempt of a run is open, and the run has ended as a whole."""
    return run.status not in (Status.RUNNING, Status.WAITING) and is_open(run)


@contextmanager
def addition(run: Run) -> Iterator[None]:
    """Let a command add to the record of a run: in the open attempt, or in one of its own where it was sealed.

    A run that the ledger does not know (of before 0.3.0) stays as it is. Raises as :func:`begin` and :func:`end`.
    """
    if standing(run).get("kind") != CLOSED:
        yield
        return
    begin(run)
    try:
        yield
    finally:
        end(runs.load(run.folder))


def write_late(run: Run, event: str, **facts: object) -> None:
    """Write an event into the journal of a run that may be sealed already. Raises as :func:`addition`."""
    with addition(run):
        run.journal.write(event, **facts)


def _refuse_altered(run: Run, line: Line | None) -> None:
    told = line.predicate.get("journal") if line is not None else None
    if line is None or not isinstance(told, dict):
        return
    if subjects.digest(run.journal.path, int(told["bytes"])) != told["sha256"]:
        raise WrongInput(
            f"the journal of run {run.run_id} is not as it was when line {line.seq} of the ledger was written",
            detail=f"The first {told['bytes']} bytes of {run.journal.path} have another sha256.",
            hint=regular_file.UNREADABLE_HINT,
        )


def _closed(run: Run, facts: Mapping[str, Any], key: SigningKey | None) -> Line:
    try:
        found = subjects.of(run)
    except OSError as exc:
        raise RecordFailed(
            f"could not seal run {run.run_id}",
            detail=f"{exc.filename}: {exc.strerror}.",
            state=_state(run),
            hint=f"Repair the folder, then: pgrunbook seal {run.run_id}",
        ) from exc
    return ledger.append(ledger.path(run.folder.parent), CLOSED, run.run_id, found, facts, key)


def _mark(run: Run, facts: Mapping[str, Any]) -> None:
    write_atomically(run.folder / MARK_FILE, json.dumps(facts) + "\n")


def _facts(line: Line) -> dict[str, Any]:
    return {"kind": line.predicate["kind"], "ledger": line.ledger, "seq": line.seq, "sha256": line.sha256}


def _holds_secrets(run: Run, found: Sequence[secret_scan.SecretPlace]) -> Refused:
    named = ", ".join(map(str, found[:MOST_NAMED]))
    more = f", and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    return Refused(
        f"the record of run {run.run_id} holds secrets, and is not sealed",
        detail=f"{named}{more}.",
        state=_state(run),
        hint=f"Look at them; change what was seen by others; then mask them: pgrunbook seal {run.run_id} --redact",
    )


def _state(run: Run) -> str:
    return f"The run has ended ({run.status}); in the ledger it stays open until it is sealed."
