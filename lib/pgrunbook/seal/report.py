"""The page of a run: ``report.html`` in its folder, made from the record, to be read offline and printed.

It has the verdict first, then what failed, who did what, when and why, the plan, the steps with their times, the
pictures, and the executed notebooks with their code folded. A run that was killed has the same page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from pgrunbook.errors import Broken, WrongInput
from pgrunbook.record import executed_copy, journal
from pgrunbook.record.files import write_atomically
from pgrunbook.record.journal import Event
from pgrunbook.record.run import Run, Status
from pgrunbook.seal import approval_check, ledger, notebook_page, output_cuts, page
from pgrunbook.seal.ledger import Line
from pgrunbook.seal.page import table

REPORT_FILE = "report.html"
SQL_FILES = ("plan.sql", "rollback-plan.sql")
MOST_SQL = 200_000  # characters on the page
WHY = {"change": "change", "reason": "reason", "risk": "risk", "requested_by": "requested by"}


def write(run: Run) -> Path:
    """Write the page of a run into its folder, and return its path.

    Raises WrongInput where the record cannot be read, RecordFailed when the page cannot be written.
    """
    executed_copy.try_to_refresh(run)
    events = journal.read(run.journal.path)
    line = ledger.last_of(ledger.path(run.folder.parent), run.run_id)
    notebooks = [(part.procedure, part.notebook, _notebook(run.folder / part.notebook)) for part in run.parts]
    cuts = {name: output_cuts.cut(one, name) if one is not None else 0 for _, name, one in notebooks}
    parts = [
        _verdict(run, line),
        _unapproved(run),
        _failed(run, events),
        _facts(run, events, line),
        _procedures(run),
        _steps(events),
        *(_sql(run.folder / name) for name in SQL_FILES),
        _pictures([one for _, _, one in notebooks if one is not None]),
        *(_cells(*one, output_cuts.told(cuts[name])) for one in notebooks for name in one[1:2]),
    ]
    path = run.folder / REPORT_FILE
    write_atomically(path, page.whole(f"{run.runbook} on {run.target}: {run.actual_status()}", "\n".join(parts)))
    return path


def _verdict(run: Run, line: Line | None) -> str:
    status = run.actual_status()
    tone = {Status.DONE: "good", Status.REFUSED: "warn", Status.RUNNING: "warn", Status.WAITING: "warn"}.get(
        status, "bad"
    )
    said = [part.says for part in run.parts if part.says]
    sealed = "not sealed: it is open in the ledger" if line is None or line.is_open else _seal(line)
    return (
        f"<header class='{tone}'><h1>{escape(str(status))}: {escape(run.runbook)} on {escape(run.target)}</h1>"
        f"<p>{escape(said[-1]) if said else ''}</p>"
        f"<p class='quiet'>{escape(run.run_id)} · {escape(sealed)}</p></header>"
    )


def _seal(line: Line) -> str:
    signer = line.predicate.get("signer")
    by = f"signed with {signer['fingerprint']}" if isinstance(signer, dict) else "unsigned"
    return f"sealed in line {line.seq} of the ledger, {by}; whether that is true: pgrunbook verify --files"


def _unapproved(run: Run) -> str:
    """What it changed and nobody else has approved; "" where that is not so."""
    word = approval_check.of_runs([run]).get(run.run_id, "")
    says = f"{word.upper()}: {run.target} was changed without the approval of somebody else."
    return f"<header class='bad'><p>{escape(says)}</p></header>" if word in approval_check.LOUD else ""


def _failed(run: Run, events: Sequence[Event]) -> str:
    """The cells that failed, with their errors; of a run that was killed, the cell that was at work."""
    found = [
        (str(e.get("procedure", "")), str(e.get("cell", "")), list(e.get("error", ())))
        for e in events
        if e["event"] == "cell-ended" and e.get("ok") is False
    ]
    open_ = {str(e.get("cell")): e for e in events if e["event"] == "cell-started"}
    for event in events:
        if event["event"] == "cell-ended":
            open_.pop(str(event.get("cell")), None)
    if run.actual_status() is Status.BROKEN_OFF:
        found += [
            (str(e.get("procedure")), cell, ["It was at work when the run was killed."]) for cell, e in open_.items()
        ]
    if not found:
        return ""
    told = "".join(
        f"<div class='cell failed'><a href='#{escape(f'{procedure}-{cell}')}'>{escape(f'{procedure}: {cell}')}</a>"
        f"<pre class='error'>{escape(notebook_page.plain(chr(10).join(map(str, error))))}</pre></div>"
        for procedure, cell, error in found
    )
    return f"<section><h2>What failed</h2>{told}</section>"


def _facts(run: Run, events: Sequence[Event], line: Line | None) -> str:
    said: Mapping[str, Any] = line.predicate if line is not None and not line.is_open else {}
    operator, target, plan = (_object(said.get(name)) for name in ("operator", "target", "plan"))
    proven = ", ".join(map(str, operator.get("proven", ()))) or "nothing"
    accepted = [
        f"{', '.join(e['gates'])} by {e.get('by', '')} at {e['at']}" for e in events if e["event"] == "gates-accepted"
    ]
    rows = [
        ("who", f"{run.operator} (as the environment says), user id {operator.get('os_uid', '?')}, on {run.machine}"),
        ("in the database", operator.get("database_role", "")),
        ("proven of that", proven if said else "not sealed"),
        ("approval", "none" if not said.get("approval") else json.dumps(said["approval"])),
        *((name, run.about.get(key, "")) for key, name in WHY.items()),
        ("when", f"{run.started_at} to {run.ended_at or 'now'}, {_took(run)}"),
        ("target", f"{run.target}: {target.get('database', '')}, PostgreSQL {target.get('server_version', '?')}"),
        ("system", target.get("system_identifier", "")),
        ("plan", plan.get("digest", "")),
        ("migrations", ", ".join(map(str, plan.get("migrations", ())))),
        ("rehearsed", plan.get("rehearsed", "")),
        ("way back", _object(plan.get("way_back")).get("unproven", "") or ("proven" if plan else "")),
        ("gates accepted", "; ".join(accepted)),
        ("record agrees", _agreement(said)),
        ("how", run.how),
        ("versions", ", ".join(f"{name} {version}" for name, version in run.versions.items())),
        ("git commit", said.get("git_commit", "")),
        ("parameters", json.dumps(run.parameters, ensure_ascii=False)),
    ]  # fmt: skip
    told = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(notebook_page.plain(str(value)))}</td></tr>"
        for name, value in rows
        if value
    )
    return f"<section><h2>Who, what, when, why</h2><table class='facts'>{told}</table></section>"


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _agreement(said: Mapping[str, Any]) -> str:
    faithful = _object(said.get("faithful"))
    if not faithful:
        return ""
    asked = "" if faithful.get("database_asked") else "; the database was not asked"
    differences = faithful.get("differences") or []
    told = "; ".join(map(str, differences if isinstance(differences, list) else [differences]))
    return (told or "notebooks and journal agree") + asked


def _procedures(run: Run) -> str:
    rows = [
        (part.procedure, str(status), _clock(part.started_at), _span(part.started_at, part.ended_at), part.says)
        for part, status in run.standing()
    ]
    return f"<section><h2>Procedures</h2>{table(('procedure', 'status', 'began', 'took', 'says'), rows)}</section>"


def _steps(events: Sequence[Event]) -> str:
    """One row for each step that ran, with its times; the last attempt counts."""
    kinds = {
        (e.get("migration"), e.get("step")): str(e.get("kind", "")) for e in events if e["event"] == "step-started"
    }
    done = {
        (e.get("migration"), e.get("direction"), step)
        for e in events
        if e["event"] == "committed"
        for step in e.get("steps", ())
    }
    found: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for e in events:
        if e["event"] == "step-ran":
            key = (e.get("migration"), e.get("direction"), e.get("step"))
            kind = kinds.get((e.get("migration"), e.get("step")), "")
            times = (f"{e.get('ms', 0):,} ms", f"{e.get('waited_ms', 0):,} ms")
            state = "committed" if key in done else "not committed"
            found[key] = (*key, kind, *times, e.get("rows"), e.get("attempt"), state, e.get("blockers", ""))
    if not found:
        return ""
    headings = ("migration", "direction", "step", "kind", "ran", "waited", "rows", "attempt", "state", "blockers")
    said = [at for at in range(len(headings)) if any(row[at] not in (None, "") for row in found.values())]
    rows = [[row[at] for at in said] for row in found.values()]
    return f"<section><h2>Steps</h2>{table([headings[at] for at in said], rows)}</section>"


def _sql(path: Path) -> str:
    """The SQL of a plan, folded on a screen and open in print; "" where there is none."""
    if not path.is_file():
        return ""
    sql = path.read_text(encoding="utf-8", errors="replace")
    more = f"\n... and {len(sql) - MOST_SQL:,} more characters in {path.name}" if len(sql) > MOST_SQL else ""
    told = escape(notebook_page.plain(sql[:MOST_SQL] + more))
    return f"<section><details class='plan'><summary>{escape(path.name)}</summary><pre>{told}</pre></details></section>"


def _pictures(notebooks: Sequence[Any]) -> str:
    found = [address for one in notebooks for address in notebook_page.pictures(one)]
    shown = "".join(f"<img alt='picture' src='{address}'>" for address in found)
    return f"<section><h2>Pictures</h2>{shown}</section>" if shown else ""


def _notebook(path: Path) -> Any:
    """Return an executed notebook; None where there is none, or it cannot be read."""
    import nbformat

    if not path.is_file():
        return None
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, AttributeError, Broken, WrongInput):
        return None


def _cells(procedure: str, name: str, notebook: Any, cuts: str) -> str:
    if notebook is None:
        return f"<section><h2>{escape(procedure)}</h2><p class='quiet'>There is no notebook of it.</p></section>"
    body = notebook_page.rendered(notebook, f"{procedure}-")
    cut = f"<p class='warn'>{escape(cuts)}</p>" if cuts else ""
    return f"<section class='notebook'><h2>{escape(procedure)} <small>{escape(name)}</small></h2>{cut}{body}</section>"


def _took(run: Run) -> str:
    return f"{run.took_s:.1f} s" if run.took_s is not None else "not ended"


def _clock(moment: str) -> str:
    return f"{moment[:19].replace('T', ' ')}Z" if moment else ""


def _span(begin: str, end: str) -> str:
    if not begin or not end:
        return ""
    return f"{(datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds():.1f} s"
