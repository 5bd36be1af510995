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

import httpx
import pytest
from tornado import web

from acting import newest_run
from conftest import ROOT
from front_end import TOKEN, jupyter
from pgrunbook.app import lab, lab_lock, lab_pages
from pgrunbook.config.targets import Target
from pgrunbook.procedures import migrate
from pgrunbook.record import run as runs
from pgrunbook.record.run import WORK, Run
from pgrunbook.runner import runbook
from pgrunbook.seal import attempt
from pgrunbook.session import session as heres

Project = Callable[..., Target]
FOLDER = {"0001_a.sql": "CREATE TABLE a (id int);"}


class Contents:
    """A manager of contents that only notes what it was let do."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def _get_os_path(self, path: str) -> str:
        return path

    def save(self, model: dict[str, object], path: str = "") -> None:
        """Note it."""
        assert model
        self.done.append(f"save {path}")

    def delete_file(self, path: str) -> None:
        """Note it."""
        self.done.append(f"delete {path}")

    def rename_file(self, old: str, new: str) -> None:
        """Note it."""
        self.done.append(f"rename {old} {new}")

    def restore_checkpoint(self, checkpoint: str, path: str) -> None:
        """Note it."""
        assert checkpoint
        self.done.append(f"restore {path}")


def refused(act: Callable[..., None], *given: object, why: str) -> None:
    with pytest.raises(web.HTTPError, match=why) as error:
        act(*given)
    assert error.value.status_code == 423


def test_who_saves_over_a_record_is_told_why_not(project: Project, tmp_path: Path) -> None:
    """The record, any file beside it, and a sealed file; the working copy and other files are saved."""
    project(folder=FOLDER)
    made = runbook.start("migrate", "demo", {})
    contents = Contents()
    lab_lock.guard(contents)
    sealed = tmp_path / "sealed.ipynb"
    sealed.write_text("{}")
    sealed.chmod(0o444)
    for file, why in (
        (made.folder / "01-migrate.ipynb", "The notebook to work in is work/01-migrate.ipynb."),
        (made.folder / "journal.jsonl", f"is part of the record of run {made.run_id}"),
        (made.folder / "new.txt", "only pgrunbook writes it"),
        (made.folder / "below" / "new.txt", "below/new.txt is part of the record"),
        (made.folder.parent / "ledger.jsonl", "is the ledger over all runs"),
        (sealed, "is sealed: a record is written once"),
    ):
        refused(contents.save, {"type": "file"}, str(file), why=why)
        refused(contents.save, {"type": "file", "chunk": 2}, str(file), why=why)
        refused(contents.restore_checkpoint, "one", str(file), why=why)
    assert not contents.done
    for file in (made.folder / WORK / "01-migrate.ipynb", tmp_path / "mine.ipynb"):
        contents.save({"type": "file"}, str(file))
        contents.restore_checkpoint("one", str(file))
    assert len(contents.done) == 4


def test_who_renames_or_deletes_a_record_is_told_why_not(project: Project, tmp_path: Path) -> None:
    """A file of it, its folder, the folder of all runs, a link to it; a copy in work/ as long as it is not sealed."""
    project(folder=FOLDER)
    made = runbook.start("migrate", "demo", {})
    contents = Contents()
    lab_lock.guard(contents)
    copy, mine = made.folder / WORK / "01-migrate.ipynb", tmp_path / "mine.ipynb"
    link = tmp_path / "link"
    link.symlink_to(made.folder)
    for file, why in (
        (made.folder / "journal.jsonl", f"journal.jsonl is part of the record of run {made.run_id}"),
        (made.folder, f"{made.run_id} is part of the record"),
        (link / "journal.jsonl", f"journal.jsonl is part of the record of run {made.run_id}"),
        (made.folder / WORK, "stays as its operator left it"),
        (made.folder.parent, "outputs holds records of runs"),
        (tmp_path, "holds records of runs"),
        (made.folder.parent / "ledger.jsonl", "is the ledger over all runs"),
    ):
        refused(contents.delete_file, str(file), why=why)
        refused(contents.rename_file, str(file), str(mine), why=why)
    refused(contents.rename_file, str(mine), str(made.folder / "journal.jsonl"), why="only pgrunbook writes it")
    assert not contents.done
    contents.rename_file(str(copy), str(copy.with_name("other.ipynb")))
    contents.delete_file(str(copy))
    contents.delete_file(str(mine))
    assert len(contents.done) == 3
    attempt.end(made)
    refused(contents.delete_file, str(copy), why="stays as its operator left it")
    contents.save({"type": "notebook"}, str(copy))  # a browser saves when it likes


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
        answer = client.put(record, json={"type": "notebook", "format": "json", "content": model["content"]})
        assert answer.status_code == 423
        assert "only pgrunbook writes it" in answer.text
        refuses_to_move(client, made)
    with server(tmp_path) as client:
        client.headers.clear()
        assert client.get("pgrunbook/").status_code in (302, 403)  # nobody without the token


def refuses_to_move(client: httpx.Client, made: Run) -> None:
    """Whatever a browser asks of a record by HTTP, it stays; a working copy of a run at work is renamed and deleted."""
    before = {path: path.read_bytes() for path in made.folder.iterdir() if path.is_file()}
    place = f"api/contents/outputs/{made.run_id}"
    part = {"type": "file", "format": "text", "content": "more", "chunk": 2}
    for answer in (
        client.delete(f"{place}/journal.jsonl"),
        client.delete(place),
        client.delete("api/contents/outputs"),
        client.patch(f"{place}/journal.jsonl", json={"path": "mine.jsonl"}),
        client.patch(place, json={"path": "mine"}),
        client.patch("api/contents/outputs", json={"path": "mine"}),
        client.put(f"{place}/journal.jsonl", json=part),
        client.put(f"{place}/below", json={"type": "directory"}),
        client.post(place, json={"copy_from": "notebooks/migrate.ipynb"}),
        client.post(place, json={"type": "file"}),
    ):
        assert (answer.status_code, "record" in answer.text) == (423, True), answer.text
    checkpoint = client.post(f"{place}/journal.jsonl/checkpoints").json()["id"]
    assert client.post(f"{place}/journal.jsonl/checkpoints/{checkpoint}").status_code == 423
    assert {path: path.read_bytes() for path in made.folder.iterdir() if path.is_file()} == before
    moved = client.patch(f"{place}/{WORK}/01-migrate.ipynb", json={"path": f"outputs/{made.run_id}/{WORK}/x.ipynb"})
    assert moved.status_code == 200, moved.text
    assert client.delete(f"{place}/{WORK}/x.ipynb").status_code == 204


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
