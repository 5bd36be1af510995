"""The pages of records: whatever is in a record, it is shown, and nothing of it is executed."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import pytest

from pgrunbook.app import terminal
from pgrunbook.record import run as runs
from pgrunbook.record.run import Part, Run, Status
from pgrunbook.seal import attempt, notebook_page, output_cuts, report, run_index, signing_key
from pgrunbook.seal.evidence import FIELDS

Command = Callable[..., tuple[int, str, str]]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

EVIL = {  # what may stand in a database, or be shown by a cell that somebody has changed
    "a script": "<script>document.title = 'EVIL'</script>",
    "a handler": "<img src=x onerror=\"document.title = 'EVIL'\">",
    "a script in a drawing": "<svg xmlns='http://www.w3.org/2000/svg' onload=\"document.title = 'EVIL'\"><g/></svg>",
    "an address that is a script": "<a href=\"javascript:document.title = 'EVIL'\">x</a>",
    "a frame": "<iframe src=\"javascript:parent.document.title = 'EVIL'\"></iframe>",
    "a style for the page": "<style>header { display: none } body { background: url(https://example.org/x) }</style>",
    "a style that covers the page": "<div style='position:fixed;top:0;left:0;width:100%;height:100%'>done</div>",
    "a form": "<form action='https://example.org'><input name=x></form>",
    "another base": "<base href='https://example.org/'>",
    "another page soon": "<meta http-equiv='refresh' content='0;url=https://example.org'>",
    "an end of the page": "</section></body></html><h1>done</h1>",
    "escapes of a terminal": "\x1b[2J\x1b[1;1H\x1b]0;EVIL\x07red\x1b[31m",
    "text from right to left": "abc\u202etxt.exe",
}


OWN = frozenset(("html", "head", "meta", "title", "style", "body", "section", "header", "img"))  # of the page itself


class Seen(HTMLParser):
    """What a browser would find in a page: its elements, their attributes and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.text += data


@pytest.fixture(autouse=True)
def own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records and keys of this test's own."""
    for name in ("outputs", "state", "signers"):
        monkeypatch.setenv(f"PGRUNBOOK_{name.upper()}", str(tmp_path / name))


def cell(name: str, *outputs: Any, status: str = "completed") -> Any:
    """A code cell that was executed."""
    made = nbformat.v4.new_code_cell(f"migrate.{name}(here)", execution_count=1, outputs=list(outputs))
    made.id, made.metadata["papermill"] = name, {"status": status}
    return made


def shown(**data: str) -> Any:
    """An output of such types: text_html, image_png, image_svg."""
    types = {"image_svg": "image/svg+xml"}
    return nbformat.v4.new_output("display_data", {types.get(k, k.replace("_", "/")): text for k, text in data.items()})


def done(
    *cells: Any, name: str = "release", status: Status = Status.DONE, says: str = "The database is at version 2."
) -> Run:
    """A run with an executed notebook, sealed where it has ended."""
    made = runs.create(name, "demo", {"migrate": {"target": "demo"}}, how="headless")
    made.about = {"reason": "more rows", "change": "CHG-7"}
    attempt.begin(made)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Migrate: do *that*"), *cells])
    (made.folder / "01-migrate.ipynb").write_text(nbformat.writes(notebook))
    made.parts = [Part("migrate", "01-migrate.ipynb", status, "", runs.stamp(), says)]
    made.journal.write("step-started", migration="0001_a", direction="up", step=1, kind="CREATE TABLE", sha256="0" * 64)
    made.journal.write(
        "step-ran", migration="0001_a", direction="up", step=1, attempt=1, ms=12.5, waited_ms=0.0, rows=3
    )
    made.journal.write("committed", migration="0001_a", direction="up", steps=[1], whole_migration=True)
    made.status, made.ended_at = status, runs.stamp()
    if status is Status.RUNNING:
        made.journal.write("cell-started", procedure="migrate", cell="execute-plan")
        made.ended_at = ""
    made.save()
    if status is not Status.RUNNING:
        attempt.end(made)
    return made


def test_the_page_of_a_run_has_all_that_an_auditor_reads() -> None:
    """Verdict, who, what, why, target, steps with times, pictures, the notebook with its code folded; no network."""
    picture = shown(image_png=PNG)
    made = done(cell("execute-plan", picture), cell("verdict", shown(text_html="<b>done</b>", text_plain="done")))
    page = report.write(made).read_text()
    seen = Seen(page)
    for text in (
        "done: release on demo", "The database is at version 2.", "more rows", "CHG-7", "CREATE TABLE", "12.5 ms",
        "committed", "sealed in line 2 of the ledger, unsigned", "migrate.verdict(here)", "Migrate: do that",
    ):  # fmt: skip
        assert text in seen.text, text
    assert [facts.get("class") for tag, facts in seen.tags if tag == "header"] == ["good"]
    assert page.count(f"data:image/png;base64,{PNG}") == 2  # among the pictures, and in its cell
    assert ("b", {}) in seen.tags
    assert not re.search(r"""(src|href)=["']?(https?:|//)""", page)
    assert not [tag for tag, _ in seen.tags if tag in ("script", "link", "iframe", "object", "embed")]


def test_what_failed_comes_first() -> None:
    """With its error, and a link to its cell."""
    error = nbformat.v4.new_output(
        "error", ename="Refused", evalue="no", traceback=["\x1b[31mit was refused\x1b[0m", "Hint: x"]
    )
    made = done(cell("execute-plan", error, status="failed"), status=Status.FAILED, says="it was refused")
    made.journal.write("cell-ended", procedure="migrate", cell="execute-plan", ok=False, ms=1, error=["it was refused"])
    page = report.write(made).read_text()
    assert page.index("What failed") < page.index("Who, what, when, why")
    assert "<header class='bad'>" in page
    assert "href='#migrate-execute-plan'" in page
    assert 'id="migrate-execute-plan"' in page
    assert "[31m" not in page


def test_a_run_that_was_killed_has_the_same_page() -> None:
    """It says so, and which cell was at work."""
    page = report.write(done(cell("execute-plan"), status=Status.RUNNING, says="")).read_text()
    assert "broken off: release on demo" in page
    assert "It was at work when the run was killed." in page
    assert "not sealed: it is open in the ledger" in page


@pytest.mark.first_case
@pytest.mark.parametrize("what", EVIL)
def test_what_is_evil_is_shown_and_not_executed(what: str) -> None:
    """In HTML, in a text, in an error, in a name, and in what a person wrote."""
    evil = EVIL[what]
    outputs = [
        shown(text_html=evil, text_plain="x"), shown(text_plain=evil), shown(text_markdown=evil), shown(image_svg=evil),
        nbformat.v4.new_output("stream", name="stdout", text=evil),
        nbformat.v4.new_output("error", ename="X", evalue=evil, traceback=[evil]),
        nbformat.v4.new_output("display_data", {"application/javascript": evil, evil: evil}),
    ]  # fmt: skip
    made = done(cell("verdict", *outputs), nbformat.v4.new_markdown_cell(evil), says=evil)
    made.about["reason"] = evil
    made.journal.write("cell-ended", procedure=evil, cell=evil, ok=False, ms=1, error=[evil])
    page = report.write(made).read_text()
    seen = Seen(page)
    assert {tag for tag, _ in seen.tags} <= OWN | notebook_page.TAGS
    assert not [name for _, facts in seen.tags for name in facts if name.startswith("on")]
    assert [facts for tag, facts in seen.tags if tag == "meta" and "refresh" in facts.values()] == []
    assert len([tag for tag, _ in seen.tags if tag in ("style", "title", "body")]) == 3
    assert all(str(facts["src"]).startswith("data:image/") for tag, facts in seen.tags if tag == "img")
    addresses = [str(facts["href"]) for tag, facts in seen.tags if tag == "a" and "href" in facts]
    assert all(address.startswith(("#", "https:")) for address in addresses)
    assert "position:" not in "".join(str(facts.get("style")) for _, facts in seen.tags)
    assert "script-src 'none'" in page
    assert not set(page) & {"\x1b", "\x07", "\u202e"}


def test_what_is_evil_reaches_no_terminal(command: Command) -> None:
    """In runs, show, requests and verify: names, verdicts and events that somebody has written into a record."""
    evil = " ".join(EVIL.values())
    made = done(says=evil)
    facts = json.loads((made.folder / "run.json").read_text())
    facts |= {"operator": evil, "target": evil, "runbook": evil}
    (made.folder / "run.json").chmod(0o600)
    (made.folder / "run.json").write_text(json.dumps(facts))
    for words in (("runs",), ("show", made.run_id), ("requests",), ("verify", "--files")):
        _, out, err = command(*words)
        assert not set(out + err) & {"\x1b", "\x07", "\u202e"}, words


def test_outputs_that_are_too_large_are_cut_and_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture, a text, a table and an error; what is behind what fits is cut, too. Here a page holds little."""
    monkeypatch.setattr(output_cuts, "MOST_BYTES", 20_000)
    monkeypatch.setattr(output_cuts, "WHOLE_BYTES", 200_000)
    large = "x" * (output_cuts.MOST_BYTES + 1)
    outputs = [
        shown(image_png="iVBORw0KGgo" * 4_000), nbformat.v4.new_output("stream", name="stdout", text=large),
        shown(text_html=f"<b>{large}</b>"), nbformat.v4.new_output("error", ename="X", evalue="x", traceback=[large]),
    ]  # fmt: skip
    small = [shown(text_plain="y" * 19_000) for _ in range(12)]
    page = report.write(done(cell("verdict", *outputs), cell("more", *small))).read_text()
    cuts = page.count("and is cut here: it is whole in 01-migrate.ipynb.")
    assert cuts > 4
    assert f"{cuts} outputs too large for this page: cut" in page
    assert len(page) < 300_000


@pytest.mark.slow
def test_a_notebook_of_fifty_megabytes_has_a_page_in_seconds() -> None:
    """In a process of its own: time and memory are bounded."""
    made = done(cell("verdict", shown(image_png="iVBORw0KGgo" * 4_600_000)))
    code = (
        "import resource, sys, time; from pgrunbook.record import run as runs; from pgrunbook.seal import report; "
        "made = runs.find(sys.argv[1]); began = time.process_time(); path = report.write(made); "
        "print(path.stat().st_size, time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    told = subprocess.run([sys.executable, "-c", code, made.run_id], capture_output=True, text=True, check=True)
    size, took_s, peak_kb = map(float, told.stdout.split())
    assert size < 1_000_000
    assert took_s < 30
    assert peak_kb < 800_000


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_in_a_browser_nothing_of_it_runs_and_the_index_does(tmp_path: Path) -> None:
    """A real one: the title stays ours; of the index our own script runs, and no other."""
    evil = [shown(text_html=text, image_svg=text) for text in EVIL.values()]
    made = done(cell("verdict", *evil), says=EVIL["a script"], name="release")
    pages = [report.write(made), run_index.write(tmp_path / "outputs")]
    for page in pages:
        command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile",
                   "--virtual-time-budget=3000", "--dump-dom", page.as_uri()]  # fmt: skip
        told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
        assert re.search("<title>([^<]*)</title>", told)[1] in ("release on demo: done", "All runs")  # type: ignore[index]
    assert f'<td data-name="run"><a href="{made.run_id}/report.html">{made.run_id}</a></td>' in told
    assert "1 of 1 runs" in told


def test_the_index_has_every_run_and_what_verify_says(command: Command, tmp_path: Path) -> None:
    """Open runs, drills, and whether the records are true; a name that looks like markup stays a name."""
    signing_key.make("ann")
    first, second = done(name="release"), done(name="restore-drill")
    killed = done(name="</script><script>alert(1)", status=Status.RUNNING)
    code, out, _ = command("report", first.run_id)
    assert (code, out.split()) == (0, [str(first.folder / "report.html"), str(tmp_path / "outputs" / "index.html")])
    page = (tmp_path / "outputs" / "index.html").read_text()
    data = re.search("<script type='application/json' id='data'>(.*?)</script>", page, re.S)
    assert data is not None
    rows = {row[0]: row[2:] for row in json.loads(data[1])}
    assert rows[first.run_id][:1] + rows[first.run_id][3:4] + rows[first.run_id][5:] == [
        "release",
        "done",
        "ann",
        "report.html",
        "-",
    ]
    assert rows[killed.run_id][3:6] == ["broken off", "", "open"]
    assert rows[killed.run_id][0] == "</script><script>alert(1)"
    assert "true: 3 runs, 5 lines" in page
    assert "1 recovery drills · 1 open in the ledger" in page
    assert page.count("<script") == 2
    (second.folder / "01-migrate.ipynb").unlink()
    assert command("report")[0] == 0


@pytest.mark.slow
def test_the_index_of_ten_thousand_runs_is_small_and_made_in_seconds(tmp_path: Path) -> None:
    """What a person opens has a few megabytes; no other file is needed."""
    first = done()
    facts = json.loads((first.folder / "run.json").read_text())
    for number in range(10_000):
        name = f"20260101T{number // 3600:02}{number // 60 % 60:02}{number % 60:02}Z-release-demo-{number:04x}"
        (tmp_path / "outputs" / name).mkdir()
        (tmp_path / "outputs" / name / "run.json").write_text(json.dumps({**facts, "run_id": name}))
    began = time.process_time()
    size = run_index.write(tmp_path / "outputs").stat().st_size
    assert size < 4_000_000
    assert time.process_time() - began < 20


def test_a_run_that_ends_has_its_page_without_asking(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Done or failed; it stays as it ended where no page can be made, and a setting says no."""
    monkeypatch.setenv("PGRUNBOOK_REPORTS", "")
    first, second = done(), done(status=Status.FAILED, says="it failed")
    terminal.end(first, 0)
    assert capsys.readouterr().err == f"done: {first.folder}\npage: {first.folder / 'report.html'}\n"
    assert first.run_id in (tmp_path / "outputs" / "index.html").read_text()
    second.journal.write("run-ended", status="failed", exit_code=1, next="Do this.")
    with pytest.raises(SystemExit) as caught:
        terminal.end(second, 1)
    assert caught.value.code == 1
    assert (second.folder / "report.html").is_file()
    third = done(status=Status.FAILED, says="it failed")
    third.journal.write("run-ended", status="failed", exit_code=1, next="Do this.")
    (third.folder / "report.html").mkdir()  # somebody's
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        terminal.end(third, 1)
    assert caught.value.code == 1
    status, following, told = capsys.readouterr().err.splitlines()
    assert (status, following) == (f"failed: {third.folder}", "Do this.")
    assert told.startswith("no page was made of it (could not write")
    assert told.endswith(f"; make it with: pgrunbook report {third.run_id}")
    fourth = done()
    monkeypatch.setenv("PGRUNBOOK_REPORTS", "no")
    terminal.end(fourth, 0)
    assert not (fourth.folder / "report.html").exists()


def test_two_runs_are_compared(command: Command) -> None:
    """Only what differs, a row each."""
    first, second = done(), done(status=Status.FAILED, says="it failed")
    second.about["risk"] = "high"
    second.save()
    code, out, _ = command("diff", first.run_id, second.run_id)
    assert code == 0
    lines = {line.split("  ")[0]: line for line in out.splitlines()}
    assert {"outcome", "why: risk", "procedure: migrate"} <= lines.keys()
    assert lines["outcome"].split()[1:] == ["done", "failed"]
    assert "runbook" not in lines
    assert command("diff", first.run_id, first.run_id)[1] == "Nothing differs.\n"


def test_the_evidence_of_a_period_is_a_table(command: Command) -> None:
    """A row for each sealed attempt, with what the page in the docs maps; nothing that a spreadsheet would execute."""
    first = done()
    first.about["reason"] = "=HYPERLINK(1)"
    with attempt.addition(first):
        first.save()
    code, out, err = command("evidence")
    told = list(csv.DictReader(io.StringIO(out)))
    assert (code, err, len(told), tuple(told[0])) == (0, "2 sealed attempts\n", 2, FIELDS)
    assert (told[0]["run"], told[0]["reason"], told[0]["change"]) == (first.run_id, "more rows", "CHG-7")
    assert (told[0]["committed"], told[0]["approval"]) == ("0001_a up: 1 steps", "none")
    assert told[1]["reason"] == "'=HYPERLINK(1)"
    assert (told[0]["signature"], told[0]["chain"], told[0]["record_agrees"]) == ("unsigned", "holds", "yes")
    assert len(command("evidence", "--from", "2999-01-01")[1].splitlines()) == 1
    assert len(command("evidence", "--target", "other")[1].splitlines()) == 1
    assert command("evidence", "--to", "soon")[0] == 2
