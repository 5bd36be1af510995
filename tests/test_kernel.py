"""The early kernel: nothing of it stays, whoever dies first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pgrunbook.errors import RecordFailed
from pgrunbook.runner.kernel import EarlyKernel
from scenes import until

RUNNER = """
import signal
from pgrunbook.runner.kernel import EarlyKernel
kernel = EarlyKernel()
print(kernel.process.pid, kernel.folder, flush=True)
signal.pause()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of these tests alone."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_a_kernel_and_its_folder_end_together(temporary: Path) -> None:
    """Also when it is ended twice, or was dead already; and its folder was nobody else's to read."""
    kernel = EarlyKernel()
    assert [path.stat().st_mode & 0o777 for path in (kernel.folder, kernel.connection_file)] == [0o700, 0o600]
    kernel.end()
    assert kernel.process.poll() is not None
    assert not list(temporary.iterdir())
    kernel.end()


def test_it_imports_what_it_is_told_to_and_survives_what_it_cannot_import(temporary: Path) -> None:
    """What the notebook needs is there when its first cell runs; a mistake is told by that cell, not here."""
    (temporary / "tells.py").write_text("import pathlib\npathlib.Path(__file__).with_name('told').touch()\n")
    (temporary / "broken.py").write_text("1 / 0\n")
    os.environ["PYTHONPATH"] = str(temporary)
    try:
        kernel = EarlyKernel("broken no_such_module tells")
    finally:
        del os.environ["PYTHONPATH"]
    try:
        until((temporary / "told").exists)
        until((kernel.folder / "k-1").exists)
    finally:
        kernel.end()


@pytest.mark.slow
def test_a_killed_runner_leaves_no_kernel_and_its_folder_to_the_next() -> None:
    """The kernel sees that its parent is gone; the folder is taken away by a later run, but not while it is in use."""
    runner = subprocess.Popen([sys.executable, "-c", RUNNER], stdout=subprocess.PIPE, text=True)
    assert runner.stdout is not None
    pid, folder = runner.stdout.readline().split()
    until((Path(folder) / "k-5").exists)
    _make_old(Path(folder))
    EarlyKernel().end()
    assert Path(folder).exists()

    runner.send_signal(signal.SIGKILL)
    runner.communicate()
    until(lambda: not Path(f"/proc/{pid}").exists())
    _make_old(Path(folder))
    EarlyKernel().end()
    assert not Path(folder).exists()


def test_what_is_not_ours_in_the_temporary_folder_is_left_alone(temporary: Path) -> None:
    """A folder without our lock, or one that is just being made."""
    (temporary / "pgrb-strange").mkdir()
    _make_old(temporary / "pgrb-strange")
    (temporary / "pgrb-young").mkdir()
    (temporary / "pgrb-young" / "log").touch()
    EarlyKernel().end()
    assert sorted(path.name for path in temporary.iterdir()) == ["pgrb-strange", "pgrb-young"]


def test_a_temporary_folder_with_a_long_path_is_no_obstacle(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a socket holds 107 bytes."""
    (deep := temporary / ("d" * 100)).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    kernel = EarlyKernel()
    try:
        until((kernel.folder / "k-5").exists)
    finally:
        kernel.end()


def test_a_temporary_folder_that_cannot_be_written_is_told(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything else is begun."""
    monkeypatch.setattr("tempfile.tempdir", str(temporary / "gone"))
    with pytest.raises(RecordFailed) as caught:
        EarlyKernel()
    first, detail, *rest = caught.value.lines()
    assert first == "could not make the folder of the kernel's sockets"
    assert (detail.startswith(f"Detail: {temporary}/gone/pgrb-"), detail.endswith(": No such file or directory.")) == (
        True,
        True,
    )
    assert rest == [
        "State: Nothing changed in the database.",
        "Hint: Make room there, or name another folder in TMPDIR.",
    ]


def _make_old(folder: Path) -> None:
    os.utime(folder, (0, 0))
