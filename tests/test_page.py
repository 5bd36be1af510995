"""The pages of records on a phone and on paper, in a real browser: nothing is cut off at the right."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from browser import CHROMIUM, chromium
from pgrunbook.app import lab_pages
from pgrunbook.display.lock_chart import Lane, Lanes, LockBar
from pgrunbook.display.show import Banner, Bar, Card, Cell, Table, Timeline
from pgrunbook.record import run as runs
from pgrunbook.record.run import Part, Run
from pgrunbook.seal import report, run_index

PHONE_PX, PAPER_PX = 390, 718  # A4 between margins of 10 mm, at 96 pixels an inch
LONG = "public.a_table_with_a_long_name_of_sixty_three_characters_as_the_most"
NUMBERS = [f"number {n}" for n in range(8)]
VIEWS = {
    "table": Table(["table", "what it waits for", *NUMBERS], [[LONG, "waits " * 20, *range(8)]] * 3, title=LONG),
    "folded table": Table(["statement"], [[Cell("UPDATE", under=f"UPDATE {LONG} SET a = 1")]]),
    "card": Card("Target", [("record", f"/srv/{LONG}/{LONG}"), ("server", "PostgreSQL 18")]),
    "banner": Banner("done", f"The database is at version {LONG}.", [("record", LONG), ("next", LONG * 3)]),
    "timeline": Timeline("What ran", [(f"{LONG} 7: ALTER TABLE", [Bar(0, 500, "#2da44e")])], [("runs", "#2da44e")]),
    "lanes": Lanes("Locks", [Lane(f"UPDATE {LONG}", [LockBar(0, 9, "readers")], [LockBar(0, 9, "writers")], (0, 9))]),
}
# What reaches beyond the right edge and is not within something that scrolls.
BEYOND = """() => {
    const scrolls = (one) => one && (getComputedStyle(one).overflowX !== "visible" || scrolls(one.parentElement));
    return [...document.querySelectorAll("body *")].filter((one) =>
        one.checkVisibility() && one.getBoundingClientRect().right > document.documentElement.clientWidth + 1 &&
        !scrolls(one.parentElement)).map((one) => `${one.tagName}: ${one.textContent.slice(0, 60)}`);
}"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None and "PGRUNBOOK_TEST_BROWSER" not in os.environ,
        reason="chromium is not installed (Debian's package chromium; .ci/run installs it)",
    ),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser for all pages."""
    with chromium() as found:
        yield found


@pytest.fixture(autouse=True)
def own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of this test's own."""
    for name in ("outputs", "state", "signers"):
        monkeypatch.setenv(f"PGRUNBOOK_{name.upper()}", str(tmp_path / name))


def test_all_that_a_cell_shows_fits_a_phone_and_paper(browser: Any) -> None:
    """Long names, tables of ten columns, pictures; what folds within a table, and code, is left out in print."""
    opened = look(browser, made().folder / report.REPORT_FILE)
    folds = opened.locator("td details, .code")
    assert folds.count() > 2
    assert not any(one.is_visible() for one in folds.all())
    assert opened.get_by_text("ALTER TABLE planned").is_visible()  # plan.sql is open in print
    opened.emulate_media(media="screen")
    assert not opened.get_by_text("ALTER TABLE planned").is_visible()
    assert opened.get_by_text("injected-parameters", exact=True).is_visible()
    opened.close()


@pytest.mark.parametrize("which", ["index", "runs", "run", "start"])
def test_the_lists_of_runs_and_steps_fit_a_phone_and_paper(which: str, browser: Any, tmp_path: Path) -> None:
    """A row is a list of names and values on a phone, so that its outcome is seen."""
    run, file = made(), tmp_path / "page.html"
    if which == "index":
        file = run_index.write(run.folder.parent)
    else:
        pages = {"runs": lambda: lab_pages.runs_page("/"), "run": lambda: lab_pages.run_page(run, "/", tmp_path),
                 "start": lambda: lab_pages.start_page("release", "")}  # fmt: skip
        file.write_text(pages[which]().replace('http-equiv="refresh"', ""))
    look(browser, file).close()


def look(browser: Any, file: Path) -> Any:
    """Look at a page on a phone and as it is printed; give it as it is printed."""
    opened = browser.new_page(viewport={"width": PHONE_PX, "height": 844})
    opened.goto(file.as_uri())
    assert opened.evaluate("() => document.scrollingElement.scrollWidth") <= PHONE_PX
    assert opened.evaluate(BEYOND) == []
    for table in opened.locator("table:has(.plain)").all():
        assert table.evaluate("(one) => one.scrollWidth <= one.parentElement.clientWidth")
    opened.set_viewport_size({"width": PAPER_PX, "height": 1000})
    opened.emulate_media(media="print")
    assert opened.evaluate("() => document.scrollingElement.scrollWidth") <= PAPER_PX
    assert opened.evaluate(BEYOND) == []
    return opened


def made() -> Run:
    """A run with an executed notebook that shows each kind of view, and its page."""
    run = runs.create("release", "demo", {"migrate": {"target": LONG}}, how="headless")
    cells = [nbformat.v4.new_code_cell("here", id="a1b2c3", metadata={"tags": ["injected-parameters"]})]
    for name, view in VIEWS.items():
        html = nbformat.v4.new_output("display_data", {"text/html": view._repr_html_()})
        cells.append(nbformat.v4.new_code_cell("here", id=name.replace(" ", "-"), outputs=[html]))
    (run.folder / "01-migrate.ipynb").write_text(nbformat.writes(nbformat.v4.new_notebook(cells=cells)))
    (run.folder / "plan.sql").write_text(f"ALTER TABLE planned ADD {LONG * 4} int;")
    run.parts = [Part("migrate", "01-migrate.ipynb", says=f"The database is at version {LONG}.")]
    for step in range(3):
        run.journal.write(
            "step-ran", migration=LONG, direction="up", step=step, attempt=1, ms=1.5, waited_ms=0.0, rows=3,
            blockers="billing, idle in transaction for 318 s",
        )  # fmt: skip
    run.save()
    report.write(run)
    return run
