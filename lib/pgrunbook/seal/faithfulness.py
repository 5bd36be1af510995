"""Whether the three places of a record agree: the executed notebooks, the journal, and the rows in the database.

What differs is said in the seal, and nothing is corrected.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from pgrunbook.config import regular_file
from pgrunbook.config.regular_file import is_there
from pgrunbook.display.prose import counted
from pgrunbook.errors import WrongInput
from pgrunbook.record import cell_attempts, cell_log, executed_copy
from pgrunbook.record.cell_attempts import SET_UP
from pgrunbook.record.journal import Event
from pgrunbook.record.run import Part, Run

MOST_TOLD = 20
UNWRITTEN = frozenset(("parameters", "injected-parameters"))  # the recorder begins in the cell after these: set-up


def differences(run: Run, events: Sequence[Event], rows: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """Return what differs, a sentence each, [] where all agrees.

    ``rows`` are those that the target's database has of this run; None where it has none, or was not asked.
    """
    found = []
    for part in run.parts:
        if part.notebook and part.started_at:
            log = executed_copy.log_of(run, part.notebook)
            found += _of_log(log, part, events) if is_there(log) else _of_notebook(run, part, events)
    if rows is not None:
        found += _of_rows(events, rows)
    more = len(found) - MOST_TOLD
    return [*found[:MOST_TOLD], f"and {more} more"] if more > 0 else found


def _of_notebook(run: Run, part: Part, events: Sequence[Event]) -> list[str]:
    """Return what differs between the last executed copy of a notebook and the journal since it was started."""
    path = run.folder / part.notebook
    try:
        cells = regular_file.read_json(path, dict)["cells"]
        shown = [(str(c.get("id", "")), _source(c), _failed(c)) for c in cells if _was_executed(c)]
    except (WrongInput, KeyError, TypeError, AttributeError) as exc:
        return [f"{part.notebook} cannot be read: {' '.join(str(exc).split())[:200]}"]
    written = _since_its_start(part, events)
    found = []
    started = [e for e in written if e["event"] == "cell-started"]
    sources = [sha256(source.encode()).hexdigest() for _, source, _ in shown]
    recorded = [str(e.get("source_sha256", "")) for e in started]
    if recorded != sources:
        lost, more = Counter(recorded) - Counter(sources), Counter(sources) - Counter(recorded)
        found += [f"{part.notebook}: a cell that ran is not in it ({_cell(started, d)})" for d in lost.elements()]
        found += [f"{part.notebook}: cell {c} was not executed as it stands there"
                  for (c, _, _), d in zip(shown, sources, strict=True) if more[d]]  # fmt: skip
        if not found:
            found.append(f"{part.notebook}: its cells stand in another order than they ran in")
    found += [
        f"{part.notebook}: cell {e.get('cell')} is none of the procedure's own"
        for e in started
        if e.get("as_in_source") is False
    ]
    failed = {sha256(source.encode()).hexdigest() for _, source, is_failed in shown if is_failed}
    ended = {str(e.get("cell")): e.get("ok") for e in written if e["event"] == "cell-ended"}
    for event in started:
        says = ended.get(str(event.get("cell")))
        if says is False and event.get("source_sha256") not in failed:
            found.append(f"{part.notebook}: cell {event.get('cell')} failed, and shows no error")
    return found


def _of_log(log: Path, part: Part, events: Sequence[Event]) -> list[str]:
    """Return what differs between what the kernels of a notebook wrote of its cells, and the journal.

    The executed copy of what somebody stepped through is made from the former.
    """
    try:
        lines = cell_log.read(log)
        given = cell_attempts.from_log(lines) or {"cells": []}
        every = cell_attempts.attempts(lines, [str(cell["id"]) for cell in given["cells"]], living=None)
    except (WrongInput, KeyError, TypeError, ValueError) as exc:
        return [f"{log.name} cannot be read: {' '.join(str(exc).split())[:200]}"]
    shown = Counter(
        sha256(one.source.encode()).hexdigest()
        for one in every
        if one.cell != SET_UP and one.ended is not cell_attempts.Ended.UNSEEN
    )
    started = [e for e in events if e["event"] == "cell-started" and e.get("procedure") == part.procedure]
    ran = Counter(str(e.get("source_sha256", "")) for e in started if e.get("cell") != SET_UP)
    lost = [f"{log.name}: a cell that ran is not in it ({_cell(started, d)})" for d in (ran - shown).elements()]
    more = sum((shown - ran).values())
    return [*lost, f"{log.name}: {counted(more, 'cell')} of it did not run, as the journal says"] if more else lost


def _of_rows(events: Sequence[Event], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what differs between the steps that the journal says were committed, and the database's own rows."""
    told = {
        (str(e.get("migration")), str(e.get("direction")), int(step))
        for e in events
        if e["event"] == "committed"
        for step in e.get("steps", ())
    }
    there = {(r["migration"], r["direction"], r["step"]) for r in rows if r["kind"] != "history row"}
    done = {
        (r["migration"], r["direction"], r["step"]) for r in rows if r["state"] == "done" and r["kind"] != "history row"
    }
    missing = [
        f"{m} {d}, step {s}: committed as the journal says, and the database has no row" for m, d, s in told - there
    ]
    extra = [f"{m} {d}, step {s}: done as the database says, and the journal does not" for m, d, s in done - told]
    return [*sorted(missing), *sorted(extra)]


def _since_its_start(part: Part, events: Sequence[Event]) -> list[Event]:
    """Return the events of a procedure since its notebook was started for the last time."""
    begun = [
        n for n, e in enumerate(events) if e["event"] == "notebook-started" and e.get("procedure") == part.procedure
    ]
    return [e for e in events[begun[-1] if begun else 0 :] if e.get("procedure") == part.procedure]


def _was_executed(cell: Mapping[str, Any]) -> bool:
    tags = set(cell.get("metadata", {}).get("tags", ()))
    if cell["cell_type"] != "code" or tags & UNWRITTEN or cell.get("id") == SET_UP:
        return False
    status = cell["metadata"].get("papermill", {}).get("status")
    return status in ("completed", "failed") and cell.get("execution_count") is not None


def _source(cell: Mapping[str, Any]) -> str:
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def _failed(cell: Mapping[str, Any]) -> bool:
    return any(output.get("output_type") == "error" for output in cell.get("outputs", ()))


def _cell(started: Sequence[Event], digest: str) -> str:
    return next((json.dumps(e.get("cell")) for e in started if e.get("source_sha256") == digest), "?")
