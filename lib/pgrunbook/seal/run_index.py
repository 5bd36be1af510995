"""The page of all runs: ``outputs/index.html``, to be searched and filtered without a server, fast with 10,000 runs."""

from __future__ import annotations

import json
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from pgrunbook.display.prose import counted
from pgrunbook.errors import WrongInput
from pgrunbook.record import run as runs
from pgrunbook.record.files import write_atomically
from pgrunbook.record.run import Run
from pgrunbook.seal import approval_check, page, standing
from pgrunbook.seal.report import REPORT_FILE

INDEX_FILE = "index.html"
# What a row of the page holds, in this order; its script knows them by their place.
FIELDS = ("run", "began", "runbook", "target", "who", "outcome", "took", "seal", "link", "approval")

EVERYBODY = {"who": "everybody"}
HEADINGS = ("run", "began (UTC)", "runbook", "target", "who", "outcome", "took, s", "seal", "approval")


def write(outputs: Path) -> Path:
    """Write the page of all runs of a folder, with how each stands in the ledger; return its path.

    Raises RecordFailed when it cannot be written.
    """
    said, seals, approved = _seals(outputs)
    rows, unreadable = [], 0
    for folder in sorted(
        (one for one in outputs.iterdir() if (one / runs.RUN_FILE).is_file()), key=lambda one: one.name
    ):
        try:
            rows.append(_row(runs.load(folder), seals, approved))
        except WrongInput:
            unreadable += 1
    rows.reverse()
    path = outputs / INDEX_FILE
    write_atomically(path, page.whole("All runs", _body(rows, said, unreadable), script=_script()))
    return path


def _seals(outputs: Path) -> tuple[str, dict[str, str], dict[str, str]]:
    """Return what verify says of all, of each run's chain and signatures, and of whose approval it rests on."""
    try:
        found = standing.report(outputs)
    except WrongInput as exc:
        return f"not verified: {exc.message}", {}, {}
    word = {0: "true", 1: "not checked"}.get(found.exit_code, "NOT TRUE")
    seals = {
        one.run: one.chain
        if one.chain != "holds"
        else one.outcome
        if one.outcome in ("open", "at work")
        else one.signature
        for one in found.runs
    }
    told = "; ".join(f"{one.word}: {one.says}" for one in found.problems[:5])
    return (
        f"{word}: {len(found.runs)} runs, {found.lines} lines. {told}",
        seals,
        {one.run: one.approval for one in found.runs},
    )


def _row(run: Run, seals: dict[str, str], approved: dict[str, str]) -> list[Any]:
    link = REPORT_FILE if (run.folder / REPORT_FILE).is_file() else ""
    took = "" if run.took_s is None else f"{run.took_s:.1f}"
    status = str(run.actual_status())
    seal = seals.get(run.run_id, "not in the ledger")
    return [
        run.run_id,
        run.started_at[:19],
        run.runbook,
        run.target,
        run.operator,
        status,
        took,
        seal,
        link,
        approved.get(run.run_id, "-"),
    ]


def _body(rows: list[list[Any]], said: str, unreadable: int) -> str:
    data = json.dumps(rows, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    drills = sum("drill" in row[2] for row in rows)
    open_ = sum(row[7] == "open" for row in rows)
    loud = sum(row[9] in approval_check.LOUD for row in rows)
    tone = "good" if said.startswith("true") else "warn" if said.startswith("not") else "bad"
    lost = f"<p>{unreadable} folders could not be read: pgrunbook runs names them.</p>" if unreadable else ""
    fields = ("runbook", "target", "who", "outcome", "seal", "approval")
    filters = "".join(
        f"<select data-field='{FIELDS.index(name)}'><option value=''>{EVERYBODY.get(name, f'every {name}')}</option>"
        "</select>"
        for name in fields
    )
    return (
        f"<header class='{tone}'><h1>{len(rows):,} runs</h1>"
        f"<p>Records, when this page was made: {escape(said)}</p>"
        f"<p>{drills:,} recovery drills · {open_:,} open in the ledger</p></header>{lost}{_loud(loud)}"
        f"<div class='filter'><input id='search' type='search' placeholder='search'>{filters}"
        "from <input id='from' type='date'> to <input id='to' type='date'></div>"
        "<svg id='line' role='img' width='100%' height='70'></svg><p id='count' class='quiet'></p>"
        f"<div class='wide'><table>{page.head(HEADINGS)}<tbody id='rows'></tbody></table></div>"
        "<button id='more'>more</button><noscript>This page needs its own script to list the runs.</noscript>"
        f"<script type='application/json' id='data'>{data}</script>"
    )


def _loud(count: int) -> str:
    says = f"{counted(count, 'run')} changed a protected target without the approval of somebody else: see the column."
    return f"<header class='bad'><p>{says}</p></header>" if count else ""


def _script() -> str:
    return (resources.files("pgrunbook.seal") / "templates" / "index.js").read_text(encoding="utf-8")
