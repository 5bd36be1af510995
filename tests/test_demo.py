"""The demo, as a whole process, on every version of PostgreSQL that is at hand."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from acting import open_folder, pgrunbook
from conftest import ROOT
from pgrunbook.app import demo
from pgrunbook.branches.server import Server
from pgrunbook.branches.server_name import server_names
from pgrunbook.config.targets import Target
from pgrunbook.errors import WrongInput
from servers import DEBIAN

INSTALLATIONS = ["", *(str(path) for path in DEBIAN[:1])]


@pytest.mark.first_case
@pytest.mark.parametrize("bindir", INSTALLATIONS, ids=lambda path: Path(path).parent.name or "wheel")
@pytest.mark.usefixtures("session_env")
def test_the_demo_releases_restores_and_rolls_back(
    bindir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From nothing to four runs that are done, with their record; the same again over what is there."""
    monkeypatch.setenv("PGRUNBOOK_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("PGRUNBOOK_TARGETS", str(ROOT / "targets.toml"))
    if bindir:
        monkeypatch.setenv("PGRUNBOOK_PG_BINDIR", bindir)
    with open_folder() as folder:
        monkeypatch.setenv("PGRUNBOOK_STATE", str(folder / "state"))
        try:
            with pgrunbook("demo", "--rows", "2000") as process:
                shown, told = process.communicate()
            assert process.returncode == 0, told
            assert sorted(server_names()) == ["demo-restored", "main"]
        finally:
            for name in server_names():
                Server(name).destroy()
    table = [line.split() for line in shown.splitlines() if line[:1].isdigit()]
    assert [line[0][17:-5] for line in table] == ["set-up-demo", "release-demo", "restore-demo", "rollback-demo"]
    assert {line[2] for line in table} == {"done"}
    assert shown.rstrip().endswith(str(tmp_path / "outputs"))
    release = json.loads(next((tmp_path / "outputs").glob("*-release-*/run.json")).read_text())
    assert release["versions"]["server"].partition(".")[0] == (Path(bindir).parent.name or "18")
    assert "Traceback" not in told


def test_only_a_database_of_an_embedded_server_is_made_anew(project: Callable[..., Target]) -> None:
    """What is somebody's real database is never dropped for a demo."""
    os.environ["ADDRESS_OF_DEMO"] = "postgresql://localhost/real"
    try:
        project(server=None, database=None, url_from="ADDRESS_OF_DEMO")
        with pytest.raises(WrongInput, match="so the demo does not touch it"):
            demo.set_up(10)
    finally:
        del os.environ["ADDRESS_OF_DEMO"]
