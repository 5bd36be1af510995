"""app/lab.py: what a Jupyter server shows of runs, and that it does not save over records."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from tornado import web

from acting import newest_run
from conftest import ROOT
from front_end import TOKEN, jupyter
from pgrunbook.app import lab, lab_pages
from pgrunbook.config.targets import Target
from pgrunbook.procedures import migrate
from pgrunbook.record import run as runs
from pgrunbook.record.run import WORK
from pgrunbook.runner import runbook
from pgrunbook.session import session as heres

Project = Callable[..., Target]
FOLDER = {"0001_a.sql": "CREATE TABLE a (id int);"}


def test_who_saves_over_a_record_is_told_why_not(project: Project, tmp_path: Path) -> None:
    """The record, any file beside it, and a sealed file; the working copy and other files are saved."""
    project(folder=FOLDER)
    made = runbook.start("migrate", "demo", {})
    contents = SimpleNamespace(_get_os_path=str)
    sealed = tmp_path / "sealed.ipynb"
    sealed.write_text("{}")
    sealed.chmod(0o444)
    for file, why in (
        (made.folder / "01-migrate.ipynb", "The notebook to work in is work/01-migrate.ipynb."),
        (made.folder / "journal.jsonl", f"is part of the record of run {made.run_id}"),
        (made.folder / "new.txt", "only pgrunbook writes it"),
        (sealed, "is sealed: a record is written once"),
    ):
        with pytest.raises(web.HTTPError, match=why) as refused:
            lab.before_save({"type": "file"}, str(file), contents)
        assert refused.value.status_code == 423
    for file in (made.folder / WORK / "01-migrate.ipynb", tmp_path / "mine.ipynb"):
        lab.before_save({"type": "file"}, str(file), contents)


@pytest.mark.slow
def test_the_page_of_a_run_is_the_list_of_its_steps(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the next one, which of them change the database, and how each ended in the run before."""
    project(folder=FOLDER)
    before = runbook.run("migrate", "demo", {})[0]
    made = runbook.start("release", "demo", {})
    page = lab_pages.run_page(runs.load(made.folder), "/", tmp_path / "elsewhere")
    assert "Next: <b>prepare: meet-the-target</b>" in page
    assert f"<code>pgrunbook start --resume {made.run_id}</code>" in page  # the server cannot open it
    assert f"in run {before.run_id}" in page
    assert "DONE: The database is at version 0001_a." in page  # what the verdict of migrate said there
    assert f"<a href='/lab/tree/{made.run_id}/work/02-migrate.ipynb'>" in lab_pages.run_page(
        made, "/", made.folder.parent
    )
    monkeypatch.chdir(tmp_path)
    here = migrate.begin(target="demo")
    shown = here._repr_html_()
    heres._end_earlier()
    assert "its steps" in shown
    assert "execute-plan" in shown


@pytest.mark.slow
def test_a_jupyter_server_has_it_all_without_being_told(project: Project, tmp_path: Path) -> None:
    """A shipped notebook offers a run and is saved without the offer; the pages are there; records stay."""
    project(folder=FOLDER)
    (tmp_path / "notebooks").mkdir()
    shipped = tmp_path / "notebooks" / "migrate.ipynb"
    shipped.write_bytes((ROOT / "notebooks" / "migrate.ipynb").read_bytes())
    assert os.environ["PGRUNBOOK_OUTPUTS"] == str(tmp_path / "outputs")
    with server(tmp_path) as client:
        model = client.get("api/contents/notebooks/migrate.ipynb").json()
        offer = model["content"]["cells"][0]
        assert "pgrunbook start migrate --target TARGET" in offer["source"]
        assert client.get("pgrunbook/start/migrate").status_code == 200
        answer = client.put("api/contents/notebooks/migrate.ipynb", json={**model, "format": "json"})
        assert answer.status_code == 200
        assert lab.OFFER not in shipped.read_text()
        assert "No run yet." in client.get("pgrunbook/").text

        xsrf = client.cookies["_xsrf"]
        answer = client.post("pgrunbook/start/migrate", data={"target": "demo", "_xsrf": xsrf})
        assert answer.status_code == 302
        made = newest_run()
        assert made is not None
        assert answer.headers["location"].endswith(f"/pgrunbook/runs/{made.run_id}")
        assert "execute-plan" in client.get(f"pgrunbook/runs/{made.run_id}").text
        assert made.run_id in client.get("pgrunbook/").text
        assert client.get("pgrunbook/runs/nonsense").status_code == 404
        answer = client.post("pgrunbook/start/migrate", data={"target": "nowhere", "_xsrf": xsrf})
        assert (answer.status_code, 'target "nowhere" is not declared' in answer.text) == (409, False)
        assert "target &quot;nowhere&quot; is not declared" in answer.text

        record = f"api/contents/outputs/{made.run_id}/01-migrate.ipynb"
        refused = client.put(record, json={"type": "notebook", "format": "json", "content": model["content"]})
        assert refused.status_code == 423
        assert "only pgrunbook writes it" in refused.text
    with server(tmp_path) as client:
        client.headers.clear()
        assert client.get("pgrunbook/").status_code in (302, 403)  # nobody without the token


@pytest.mark.slow
def test_a_jupyter_server_is_told_of_it_by_what_is_installed(tmp_path: Path) -> None:
    """By the wheel; and by `make setup`, whose editable install has no files for the environment."""
    told = "etc/jupyter/jupyter_server_config.d/pgrunbook.json"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(tmp_path / "copy")], check=True)
    build = f"from setuptools import build_meta; print(build_meta.build_wheel({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path / "copy", capture_output=True, check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        (name,) = [one for one in wheel.namelist() if one.endswith(f".data/data/{told}")]
        assert json.loads(wheel.read(name)) == {"ServerApp": {"jpserver_extensions": {"pgrunbook.app.lab": True}}}
    recipe = subprocess.run(["make", "-B", "-n", "setup"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in recipe.splitlines() if "etc/jupyter" in line]
    subprocess.run(["sh", "-c", line], cwd=tmp_path / "copy", check=True)
    assert (tmp_path / "copy" / ".venv" / told).is_file()


@contextmanager
def server(root: Path) -> Iterator[httpx.Client]:
    """A Jupyter server with a root of its own; give a client of it."""
    headers = {"Authorization": f"token {TOKEN}"}
    with (
        jupyter("jupyter_server", root, f"--ServerApp.root_dir={root}") as url,
        httpx.Client(base_url=url, headers=headers, timeout=60) as client,
    ):
        yield client
