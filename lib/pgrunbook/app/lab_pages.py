"""The pages that a Jupyter server shows of runs: plain HTML, made from the record at each look."""

from __future__ import annotations

from html import escape
from pathlib import Path
from urllib.parse import quote

from pgrunbook.config import targets
from pgrunbook.display.show import BAD, COLOURS, GOOD, QUIET, WARN, visible
from pgrunbook.errors import WrongInput
from pgrunbook.record import run as runs
from pgrunbook.record import steps
from pgrunbook.record.run import WORK, Part, Run, Status
from pgrunbook.record.steps import TO_DO, CellStanding
from pgrunbook.seal.page import STYLE, head
from pgrunbook.session import parameters

AGAIN_S = 5  # the page of a run loads itself again
SHOWN = 50
TONES = {"done": GOOD, "failed": BAD, "at work": WARN, TO_DO: QUIET}
_STYLE = f"{STYLE} table {{ width: 100%; }} code {{ background: #f6f8fa; padding: 1px 4px; white-space: nowrap; }}"


def is_procedure(name: str) -> bool:
    """Tell whether there is a procedure of that name."""
    return name in parameters.OF


def page(title: str, body: str, *, again: bool = False) -> str:
    """Return a whole page."""
    reload = f'<meta http-equiv="refresh" content="{AGAIN_S}">' if again else ""
    about = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width">{reload}'
    return (
        f"<!doctype html><html lang='en'><head>{about}<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{escape(title)}</h1>{body}</body></html>"
    )


def offer(procedure: str, url: str) -> str:
    """Return the text on top of a shipped notebook, as Markdown."""
    return (
        f"**This is `notebooks/{procedure}.ipynb` as it is shipped.** To step through it with a copy of your own and a "
        f"record in `outputs/`: `pgrunbook start {procedure} --target TARGET`, or [make a run here]({url})."
    )


def runs_page(base: str) -> str:
    """Return the page of the newest runs, each with a link to its own."""
    rows = []
    for folder in reversed(runs.folders()[-SHOWN:]):
        try:
            made = runs.load(folder)
        except WrongInput:
            continue  # `pgrunbook runs` reports a folder that cannot be read
        link = f"<a href='{base}pgrunbook/runs/{quote(made.run_id)}'>{escape(made.run_id)}</a>"
        rows.append([link, escape(made.target), _toned(made.actual_status()), escape(made.operator)])
    return page("Runs", _table(["run", "target", "status", "by"], rows) if rows else "<p>No run yet.</p>")


def run_page(made: Run, base: str, root: Path) -> str:
    """Return the guided list of the steps of a run: the next one, the state of each, and the run before it."""
    sections, following = [], ""
    for part in made.parts:
        found = steps.standing(made, part)
        if not following and part.status is not Status.DONE:
            following = next((f"{part.procedure}: {one.cell}" for one in found if one.state != "done"), "")
        sections.append(_section(made, part, found, base, root))
    said = f"<p>{escape(made.runbook)} on <b>{escape(made.target)}</b>, by {escape(made.operator)}: "
    said += f"{_toned(made.actual_status())}.{f' Next: <b>{escape(following)}</b>.' if following else ''}</p>"
    return page(f"Run {made.run_id}", said + "".join(sections), again=True)


def start_page(name: str, hidden: str) -> str:
    """Return the form that asks for the target of a new run."""
    try:
        names = sorted(targets.load_all())
    except WrongInput as exc:
        return page(f"Start {name}", f"<pre>{escape(str(exc))}</pre>")
    choices = "".join(f"<option>{escape(one)}</option>" for one in names)
    form = f"<form method='post'>{hidden}<label>Target <select name='target'>{choices}</select></label> "
    return page(f"Start {name}", f"{form}<button>Make the run</button></form><p>Nothing is executed by that.</p>")


def _section(made: Run, part: Part, found: list[CellStanding], base: str, root: Path) -> str:
    before = steps.last_run(part.procedure, made.target, but=made.folder)
    then = {one.cell: one for one in steps.standing(*before)} if before else {}
    rows = []
    for one in found:
        last = then.get(one.cell)
        told = f"{_toned(last.state)} {escape(last.says)}" if last else ""
        mark = " <small>changes the database</small>" if one.changes_state else ""
        state = f"{_toned(one.state)} {escape(one.ended_at[11:])}"
        more = f"<pre class='error'>{escape(visible(one.more))}</pre>" if one.more and one.state != "done" else ""
        rows.append([f"<code>{escape(one.cell)}</code>{mark}", state, f"{escape(one.says)}{more}", told])
    headings = ["step", "now (UTC)", "it says", *([f"in run {before[0].run_id}"] if before else [])]
    status = part.status if part.status is not Status.RUNNING or made.is_held() else Status.BROKEN_OFF
    heading = f"<h2>{_link(made, part, base, root)} {_toned(status)}</h2><p>{escape(part.says)}</p>"
    return heading + _table(headings, [row[: len(headings)] for row in rows])


def _link(made: Run, part: Part, base: str, root: Path) -> str:
    """Return the name of a part, as a link to the notebook to work in where the server can open it."""
    name = escape(part.procedure)
    copy = made.folder / WORK / part.notebook
    file = (copy if copy.is_file() else made.folder / part.notebook).resolve()
    if not file.is_relative_to(root.resolve()):
        return f"{name} <small><code>pgrunbook start --resume {escape(made.run_id)}</code></small>"
    return f"<a href='{base}lab/tree/{quote(str(file.relative_to(root.resolve())))}'>{name}</a>"


def _toned(text: str) -> str:
    tones = {**TONES, Status.REFUSED: BAD, Status.BROKEN_OFF: BAD, Status.INTERRUPTED: WARN, Status.RUNNING: WARN}
    return f"<b style='color:{COLOURS[tones.get(text, QUIET)]}'>{escape(text)}</b>"


def _table(headings: list[str], rows: list[list[str]]) -> str:
    named = [
        [f"<td data-name='{escape(n)}'>{cell}</td>" for n, cell in zip(headings, row, strict=True)] for row in rows
    ]
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in named)
    return f"<div class='wide'><table>{head(headings)}<tbody>{body}</tbody></table></div>"
