"""Chromium on a JupyterLab server: what a person does there by hand."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from front_end import TOKEN, jupyter

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PATIENCE_MS = 120_000
WIDE_PX = 1_180


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

    def wait_for(self, cell: str, text: str) -> None:
        """Wait until a cell shows a text."""
        shown = f"() => {{ {_go_to(cell)} return content.activeCell.node.textContent.includes({text!r}); }}"
        self._page.wait_for_function(shown, timeout=PATIENCE_MS)

    def restart(self) -> None:
        """Restart the kernel."""
        self._page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")

    def picture_of(self, cell: str, part: str = "") -> bytes:
        """Return a picture of a cell, or of a part of it, as PNG."""
        self._page.evaluate(f"() => {{ {_go_to(cell)} content.scrollToItem(content.activeCellIndex, 'start'); }}")
        node = self._page.evaluate_handle(f"() => {{ {_go_to(cell)} return content.activeCell.node; }}").as_element()
        shown = node.query_selector(part) if part else node
        return bytes(shown.screenshot())

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
        self._context, self._url = chromium.new_context(viewport={"width": WIDE_PX, "height": 900}), url
        page = self._context.new_page()
        page.goto(f"{url}lab?token={TOKEN}", timeout=PATIENCE_MS)  # the cookie is for the tabs after it
        page.close()

    def open(self, path: str) -> Tab:
        """Open a notebook, by its path within the server's folder, in a tab of its own."""
        page = self._context.new_page()
        workspace = "".join(filter(str.isalnum, path))
        page.goto(f"{self._url}lab/workspaces/{workspace}/tree/{path}?reset", timeout=PATIENCE_MS)
        return Tab(page)

    def read(self, address: str) -> str:
        """Return the text of a page, as a person reads it."""
        page = self._context.new_page()
        page.goto(address if ":" in address else f"{self._url}{address}", timeout=PATIENCE_MS)
        text = str(page.inner_text("body"))
        page.close()
        return text

    def picture_of(self, address: str, height: int) -> bytes:
        """Return a picture of the top of a page as PNG."""
        page = self._context.new_page()
        page.goto(address if ":" in address else f"{self._url}{address}", timeout=PATIENCE_MS)
        taken = bytes(page.screenshot(clip={"x": 0, "y": 0, "width": WIDE_PX, "height": height}))
        page.close()
        return taken

    def refuses(self, notebook: str) -> int:
        """Save over a record, as a tab in which it is open would; return what the server answers."""
        answer = self._context.request.put(
            f"{self._url}api/contents/{notebook}", data={"type": "file", "format": "text", "content": "{}"},
            headers={"Authorization": f"token {TOKEN}"},
        )  # fmt: skip
        return int(answer.status)


@contextmanager
def lab_at(root: Path, own: Path) -> Iterator[Browser]:
    """JupyterLab on a folder as `pgrunbook start` opens it, its own files in another, and a browser on it."""
    options = [f"--ServerApp.root_dir={root}", "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None"]
    settings = dict.fromkeys(("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR"), str(own / ".lab"))
    with jupyter("jupyterlab", own, *options, **settings) as url, chromium() as found:
        yield Browser(found, url)


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        try:
            yield found
        finally:
            found.close()
