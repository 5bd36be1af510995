"""Where things lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import ROOT
from pgrunbook.config import paths
from pgrunbook.errors import WrongInput
from pgrunbook.runner import runbook


def test_a_socket_lies_beside_the_data_where_the_path_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket is found where the state is."""
    monkeypatch.setenv("PGRUNBOOK_STATE", "/srv/pgr")
    assert paths.socket_dir("main") == Path("/srv/pgr/sockets/main")


@pytest.mark.parametrize("state", ["/srv/" + "long/" * 30, "/srv/a,b"])
def test_a_socket_lies_elsewhere_where_the_path_would_not_do(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    """A path that is too long for a socket, or that libpq would split, is not used; the same state gives one place."""
    monkeypatch.setenv("PGRUNBOOK_STATE", state)
    found = paths.socket_dir("main")
    assert len(str(found)) <= paths.SOCKET_DIR_MAX_BYTES
    assert "," not in str(found)
    assert found == paths.socket_dir("main") != paths.socket_dir("other")


def test_no_targets_file_is_told_with_the_folder_that_was_searched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The newcomer in the wrong folder learns where to go."""
    monkeypatch.delenv("PGRUNBOOK_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WrongInput) as caught:
        paths.project_dir()
    assert str(caught.value) == (
        "could not find targets.toml\n"
        f"Detail: It is neither in {tmp_path} nor in a folder above it.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Change to the project's folder, or name it in PGRUNBOOK_HOME."
    )


def test_a_project_needs_no_notebooks_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those that came with the library count; a file of the project comes first."""
    monkeypatch.setenv("PGRUNBOOK_HOME", str(tmp_path))
    assert paths.shipped("runbooks", "release.yaml") == ROOT / "runbooks" / "release.yaml"
    assert runbook.load("release").procedures == ("prepare", "migrate", "validate")
    (tmp_path / "runbooks").mkdir()
    own = tmp_path / "runbooks" / "release.yaml"
    own.write_text("title: ours\nprocedures: [prepare]\n")
    assert (paths.shipped("runbooks", "release.yaml"), runbook.load("release").title) == (own, "ours")
    with pytest.raises(WrongInput) as caught:
        runbook.load("nothing")
    assert caught.value.detail.startswith(
        "Runbooks: backfill, contract, release, restore, restore-drill, rollback, rollout, swap. "
    )
