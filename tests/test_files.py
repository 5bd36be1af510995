"""Files of a record: whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgrunbook.errors import RecordFailed
from pgrunbook.record.files import write_atomically


def test_a_file_is_replaced_not_written_over(tmp_path: Path) -> None:
    """Whoever has the old one open keeps all of it, and nothing else is left in the folder."""
    path = tmp_path / "run.json"
    path.write_text("old")
    with path.open() as reader:
        write_atomically(path, "new ✓")
        assert reader.read() == "old"
    assert path.read_text(encoding="utf-8") == "new ✓"
    assert (path.stat().st_mode & 0o777, list(tmp_path.iterdir())) == (0o600, [path])


@pytest.mark.parametrize(("name", "why"), [("gone/run.json", "No such file or directory"), ("taken", "Is a directory")])
def test_a_file_that_cannot_be_written_is_told(tmp_path: Path, name: str, why: str) -> None:
    """With the state of the database, and without a half file left behind."""
    (tmp_path / "taken").mkdir()
    path = tmp_path / name
    with pytest.raises(RecordFailed) as caught:
        write_atomically(path, "new")
    assert str(caught.value) == (
        f"could not write the record {path.name}\n"
        f"Detail: {path}: {why}.\n"
        "State: The database is as the last recorded step left it; a step that cannot be recorded is not run.\n"
        "Hint: Free space or repair the folder, then run the same command again: it resumes where the database is."
    )
    assert [found.name for found in tmp_path.iterdir()] == ["taken"]
