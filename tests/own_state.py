"""A state directory for one module of tests: its servers archive, and are gone afterwards."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgrunbook.branches.server import Server
from pgrunbook.branches.server_name import server_names
from servers import PROGRAMS


@contextmanager
def own_state(version: int | None = None, *, targets: str = "") -> Iterator[None]:
    """Keep servers, of a version or of the wheel's, in a folder of their own while the body runs."""
    base = Path(tempfile.mkdtemp(prefix="pgs-"))  # short: sockets lie in it
    base.chmod(0o755)
    with pytest.MonkeyPatch.context() as env:
        env.setenv("PGRUNBOOK_STATE", str(base / "state"))
        env.setenv("PGRUNBOOK_SERVER_FSYNC", "off")
        if targets:
            (base / "targets.toml").write_text(targets)
            env.setenv("PGRUNBOOK_TARGETS", str(base / "targets.toml"))
        if version is not None:
            env.setenv("PGRUNBOOK_PG_BINDIR", str(PROGRAMS[version]))
        try:
            yield
        finally:
            for name in server_names():
                Server(name).destroy()
            shutil.rmtree(base)


def need(programs: Path, name: str) -> None:
    """Skip a test where an installation has no such program: those that npm fetches are for rehearsals only."""
    if not (programs / name).is_file():
        pytest.skip(f"{programs} has no {name}")


@contextmanager
def own_source(version: int, *, targets: str = "", needs: Sequence[str] = ()) -> Iterator[Server]:
    """Give a running server named ``source`` in such a folder; skip where its installation lacks what a test needs."""
    for name in needs:
        need(PROGRAMS[version], name)
    with own_state(version, targets=targets):
        server = Server("source")
        server.start()
        yield server
