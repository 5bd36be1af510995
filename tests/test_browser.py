"""The browser: a whole release by hand in JupyterLab, with what goes wrong there; its record is that of automation."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from acting import in_transaction, run, wait_until
from conftest import do, rows
from front_end import TOKEN, jupyter, record, shown, states, top
from pgrunbook.config.targets import Target
from pgrunbook.record import executed_copy
from pgrunbook.record import run as runs
from pgrunbook.record.run import WORK, Run, Status
from pgrunbook.runner import runbook
from pgrunbook.session import acceptance

Project = Callable[..., Target]
CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
FILES = {"0001_a.sql": "ALTER TABLE a ADD m int;\nALTER TABLE a RENAME n TO number"}
BEFORE = "CREATE TABLE a (id int PRIMARY KEY, n int); CREATE PUBLICATION sends FOR TABLE a"  # a gate for the rename
PATIENCE_MS = 120_000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(590),
    pytest.mark.skipif(
        CHROMIUM is None and "PGRUNBOOK_TEST_BROWSER" not in os.environ,
        reason="chromium is not installed (Debian's package chromium; .ci/run installs it)",
    ),
]


def test_a_release_by_hand_leaves_the_record_that_automation_leaves(project: Project) -> None:
    """A gate that is closed, a cell twice and out of order, a kernel that is restarted, a tab that is closed."""
    target = project(folder=FILES, lock_timeout_ms=300, attempts=100)
    do(target, BEFORE)
    made = runbook.start("release", "demo", {"with_data": "false"})
    with lab_at(made) as browser:
        tab = browser.open("01-prepare.ipynb")
        tab.run_all()
        tab.close()

        tab = browser.open("02-migrate.ipynb")
        tab.run("parameters", "injected-parameters", "set-up", "meet-the-target", "where-are-we", "is-it-still-so")
        assert states(record(made, "02-migrate.ipynb"))["is-it-still-so"] == "failed"  # a gate is closed
        acceptance.accept(made.run_id, [])
        tab.run("is-it-still-so", "take-restore-point")
        with in_transaction(target, "LOCK TABLE a IN ACCESS SHARE MODE"):
            tab.ask("execute-plan")
            wait_until(lambda: "waiting for blockers" in executed_copy.log_of(made, "02-migrate.ipynb").read_text())
            tab.close()
        wait_until(lambda: fresh(made, "02-migrate.ipynb")["execute-plan"] == "completed")

        tab = browser.open("02-migrate.ipynb")
        tab.restart()
        tab.run(
            "parameters", "injected-parameters", "set-up", "execute-plan", "what-it-took", "where-are-we", "verdict"
        )
        tab.close()
        tab = browser.open("03-validate.ipynb")
        tab.run_all()
        assert browser.refuses("01-prepare.ipynb") == 423
    assert (runs.load(made.folder).actual_status(), rows(target, "SELECT number, m FROM a")) == (Status.DONE, [])
    migrated = record(made, "02-migrate.ipynb")
    assert "This step is done: " in shown(migrated, "execute-plan")
    assert "<details><summary>Run 1, " in shown(migrated, "execute-plan")
    assert "Cell `where-are-we`: Out of order: before it, is-it-still-so" in top(migrated)
    assert "The kernel was started 2 times." in top(migrated)

    do(target, "DROP SCHEMA pgrunbook CASCADE; DROP PUBLICATION sends; DROP TABLE a, schema_migrations")
    do(target, BEFORE)
    headless, code = run("release", accept="0001_a:2")
    assert code == 0
    for part in made.parts:
        by_hand, there = (record(one, part.notebook) for one in (made, headless))
        assert kinds(by_hand) == kinds(there), part.notebook


def kinds(notebook: Any) -> list[tuple[str, str, list[str]]]:
    """Return each code cell with its state and the kinds of what it shows at its end."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    last = [[o for o in cell.outputs if o.output_type in ("execute_result", "error")][-1:] for cell in code]
    return [
        ("injected" if "injected-parameters" in cell.metadata.tags else cell.id, cell.metadata.papermill.status,
         sorted(found[0].get("data", {"error": ""})) if found else [])
        for cell, found in zip(code, last, strict=True)
    ]  # fmt: skip


def fresh(made: Run, notebook: str) -> dict[str, str]:
    """Return how the cells of a record stand now."""
    executed_copy.refresh(made)
    return states(record(made, notebook))


class Tab:
    """A notebook that is open in JupyterLab."""

    def __init__(self, page: Any) -> None:
        self._page = page
        page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
            timeout=PATIENCE_MS,
        )

    def run_all(self) -> None:
        """Do what Run > Run All Cells does, and wait until all is done."""
        self._page.evaluate("() => jupyterapp.commands.execute('notebook:run-all-cells')")

    def run(self, *cells: str) -> None:
        """Run cells, one after the other; one that fails stops nothing."""
        for cell in cells:
            self._page.evaluate(f"async () => {{ {_go_to(cell)} await jupyterapp.commands.execute('{_RUN}'); }}")

    def ask(self, cell: str) -> None:
        """Run a cell and do not wait."""
        self._page.evaluate(f"() => {{ {_go_to(cell)} void jupyterapp.commands.execute('{_RUN}'); }}")

    def restart(self) -> None:
        """Restart the kernel."""
        self._page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")

    def close(self) -> None:
        """Close the tab of the browser; the kernel goes on."""
        self._page.close(run_before_unload=False)


_RUN = "notebook:run-cell"


def _go_to(cell: str) -> str:
    return (
        "const content = jupyterapp.shell.currentWidget.content; content.deselectAll(); content.activeCellIndex = "
        f"content.widgets.findIndex(one => one.model.id === '{cell}');"
    )


class Browser:
    """Chromium on a JupyterLab server."""

    def __init__(self, chromium: Any, url: str) -> None:
        self._context, self._url = chromium.new_context(viewport={"width": 1280, "height": 900}), url
        page = self._context.new_page()
        page.goto(f"{url}lab?token={TOKEN}", timeout=PATIENCE_MS)  # the cookie is for the tabs after it
        page.close()

    def open(self, notebook: str) -> Tab:
        """Open a working copy in a tab of its own."""
        page = self._context.new_page()
        page.goto(f"{self._url}lab/workspaces/{notebook[:2]}/tree/{WORK}/{notebook}?reset", timeout=PATIENCE_MS)
        return Tab(page)

    def refuses(self, notebook: str) -> int:
        """Save over a record, as a tab in which it is open would; return what the server answers."""
        answer = self._context.request.put(
            f"{self._url}api/contents/{notebook}", data={"type": "file", "format": "text", "content": "{}"},
            headers={"Authorization": f"token {TOKEN}"},
        )  # fmt: skip
        return int(answer.status)


@contextmanager
def lab_at(made: Run) -> Iterator[Browser]:
    """JupyterLab as `pgrunbook start` opens it, and a browser on it."""
    from playwright.sync_api import sync_playwright

    folder = made.folder.parent.parent
    options = [f"--ServerApp.root_dir={made.folder}", "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None"]
    own = dict.fromkeys(("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR"), str(folder / ".lab"))
    with jupyter("jupyterlab", folder, *options, **own) as url, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        try:
            yield Browser(chromium, url)
        finally:
            chromium.close()
