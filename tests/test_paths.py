"""Where things lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgrunbook.config import paths
from pgrunbook.errors import WrongInput


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
