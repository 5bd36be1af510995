"""Refresh the outputs that nbval compares: run the notebooks on a fresh demo database, keep the tagged outputs.

They are executed in one run folder, so that validate compares with what prepare promised.

Run it by `make notebooks`, and read the diff: each changed line is something that operators see otherwise now.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from pgrunbook.session import acceptance

ROOT = Path(__file__).parents[1]
ORDER = ["prepare", "migrate", "validate", "rollback", "restore"]
ROWS = 2_000  # in the largest table of the demo: part of the outputs
TAG = "nbval-check-output"


@contextmanager
def fresh_demo(state: Path) -> Iterator[Path]:
    """Make the demo database in a state directory of its own; give the folder of a run that was begun by hand.

    The environment leads there while it lasts.
    """
    from pgrunbook.app import demo
    from pgrunbook.branches.server import Server
    from pgrunbook.branches.server_name import server_names
    from pgrunbook.runner import runbook

    state.chmod(0o755)  # as root the server runs as another account
    chosen = {
        "PGRUNBOOK_HOME": str(ROOT),
        "PGRUNBOOK_TARGETS": str(ROOT / "targets.toml"),
        "PGRUNBOOK_STATE": str(state / "state"),
        "PGRUNBOOK_OUTPUTS": str(state / "outputs"),
        "PGRUNBOOK_SERVER_FSYNC": "off",
    }
    before = {name: os.environ.get(name) for name in chosen}
    os.environ.update(chosen)
    try:
        demo.set_up(ROWS)
        yield runbook.start("release", "demo", {}).folder
    finally:
        for name in server_names():
            Server(name).destroy()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def kept(executed: Any) -> Any:
    """Return the notebook with the outputs of tagged cells, and without whatever else a run leaves."""
    for cell in executed.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type != "code":
            continue
        if TAG in (tags or []):
            continue  # nbval wants the count beside the output; in a fresh kernel it is always the same
        cell.execution_count, cell.outputs = None, []
    names = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    executed.metadata = nbformat.from_dict({"kernelspec": names, "language_info": {"name": "python"}})
    return executed


def main() -> None:
    """Execute the notebooks in order, and write them back."""
    with tempfile.TemporaryDirectory() as state, fresh_demo(Path(state)) as folder:
        for name in ORDER:
            path = ROOT / "notebooks" / f"{name}.ipynb"
            notebook = nbformat.read(path, as_version=4)
            NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
            path.write_text(nbformat.writes(kept(notebook), indent=1) + "\n", encoding="utf-8")
            sys.stdout.write(f"{path.name}\n")
            if name == "prepare":
                acceptance.accept(folder.name, [])


if __name__ == "__main__":
    main()
