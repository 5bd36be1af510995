"""What pgrunbook adds to a Jupyter server, with nothing to configure: pages of runs, and records that stay.

- A notebook of ``notebooks/`` offers a run in its first cell, which is shown only and never saved.
- ``/pgrunbook/`` lists the runs; the page of each is the guided list of its steps.
- Whoever saves over a record, renames it or deletes it is refused, with the reason.
"""

from __future__ import annotations

import asyncio
from functools import wraps
from html import escape
from pathlib import Path
from typing import Any

from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.utils import url_path_join
from tornado import web

from pgrunbook.app import lab_lock, lab_pages
from pgrunbook.config import paths
from pgrunbook.errors import RunbookError
from pgrunbook.record import executed_copy
from pgrunbook.record import run as runs

OFFER = "offer-of-a-run"


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "pgrunbook.app.lab"}]


def _load_jupyter_server_extension(server: Any) -> None:
    contents = server.contents_manager
    contents.register_pre_save_hook(before_save)
    lab_lock.guard(contents)
    _offer(contents, url_path_join(server.connection_url, "pgrunbook", "start"))
    base = url_path_join(server.web_app.settings["base_url"], "pgrunbook")
    server.web_app.add_handlers(".*$", [
        (url_path_join(base, r"/?"), RunsPage),
        (url_path_join(base, r"runs/([A-Za-z0-9-]+)"), RunPage),
        (url_path_join(base, r"start/([a-z-]+)"), StartPage),
    ])  # fmt: skip


def before_save(model: dict[str, Any], **_: Any) -> None:
    """Take our offer out of a notebook before it is saved."""
    if model.get("type") == "notebook" and model.get("content"):
        model["content"]["cells"] = [c for c in model["content"]["cells"] if c.get("id") != OFFER]


def _offer(contents: Any, url: str) -> None:
    """Let a notebook of a project's ``notebooks/`` begin with the offer of a run, wherever it is opened."""
    get = contents.get

    @wraps(get)
    async def offering(path: str, *given: Any, **options: Any) -> Any:
        model = get(path, *given, **options)
        model = await model if asyncio.iscoroutine(model) else model
        file = Path(contents._get_os_path(path))
        if model.get("type") == "notebook" and model.get("content") and _is_shipped(file):
            says = lab_pages.offer(file.stem, url_path_join(url, file.stem))
            cell = {"cell_type": "markdown", "id": OFFER, "metadata": {"tags": [OFFER]}, "source": says}
            model["content"]["cells"].insert(0, cell)
        return model

    contents.get = offering


def _is_shipped(file: Path) -> bool:
    return file.parent.name == "notebooks" and lab_pages.is_procedure(file.stem)


class RunsPage(JupyterHandler):  # type: ignore[misc]  # skipped by mypy, as notebooks' libraries are
    """The list of runs."""

    @web.authenticated
    def get(self) -> None:
        """Show the newest runs."""
        self.finish(lab_pages.runs_page(self.base_url))


class RunPage(JupyterHandler):  # type: ignore[misc]
    """The guided list of the steps of one run."""

    @web.authenticated
    def get(self, run_id: str) -> None:
        """Show how each step stands now, and how it ended in the run before."""
        try:
            made = runs.find(run_id)
            executed_copy.try_to_refresh(made)
        except RunbookError as exc:
            raise web.HTTPError(404, str(exc)) from exc
        self.finish(lab_pages.run_page(made, self.base_url, Path(self.contents_manager.root_dir)))


class StartPage(JupyterHandler):  # type: ignore[misc]
    """The form that makes a run of a runbook or procedure."""

    @web.authenticated
    def get(self, name: str) -> None:
        """Show the form."""
        self.finish(lab_pages.start_page(name, self.xsrf_form_html()))

    @web.authenticated
    async def post(self, name: str) -> None:
        """Make the run, and lead to its page."""
        from pgrunbook.runner import runbook

        try:
            made = await asyncio.to_thread(runbook.start, name, self.get_body_argument("target"), {})
        except RunbookError as exc:
            self.set_status(409)
            self.finish(lab_pages.page("No run was made", f"<pre>{escape(str(exc))}</pre>"))
            return
        self.redirect(url_path_join(self.base_url, "pgrunbook", "runs", made.run_id))


def config_path() -> str:
    """Return the folder of configuration that names this extension, for a server whose environment lacks it."""
    return str(Path(__file__).parent / "jupyter")


def environment() -> dict[str, str]:
    """Return what a server is started with, so that it finds the project and this extension."""
    import os

    known = os.environ.get("JUPYTER_CONFIG_PATH")
    return {
        **os.environ,
        "PGRUNBOOK_HOME": str(paths.project_dir()),
        "PGRUNBOOK_OUTPUTS": str(paths.outputs_dir()),
        "JUPYTER_CONFIG_PATH": os.pathsep.join([config_path(), *([known] if known else [])]),
    }
