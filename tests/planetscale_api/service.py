"""The API as a test sees it: a process, the environment that leads there, and what it can be told to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from pgrunbook.branches.binaries import server_account
from planetscale_api.cluster import ADMIN
from planetscale_api.web import TOKEN

CALM: dict[str, Any] = {
    "faults": [], "revoked": False, "accesses": None, "per_page": 2, "rate": 600, "delay_s": 0.2, "unready_s": 0,
    "archive_lag_s": 300,
}  # fmt: skip


@dataclass(frozen=True)
class Service:
    """A running API."""

    folder: Path
    url: str

    def environment(self) -> dict[str, str]:
        """Return the variables with which the library asks it."""
        names = ("PLANETSCALE_SERVICE_TOKEN_ID", "PLANETSCALE_SERVICE_TOKEN")
        return {"PLANETSCALE_API_URL": f"{self.url}/v1", **dict(zip(names, TOKEN, strict=True))}

    def tell(self, **wanted: object) -> dict[str, Any]:
        """Tell it what to do."""
        asked = urllib.request.Request(f"{self.url}/control", json.dumps(wanted).encode())  # noqa: S310
        with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310
            found: dict[str, Any] = json.load(answer)
        return found

    def log(self) -> list[str]:
        """Return what it was asked since the last time."""
        found: list[str] = self.tell(log=True)["log"]
        return found

    @contextmanager
    def admin(self, database: str, branch: str = "main") -> Iterator[psycopg.Connection[tuple[object, ...]]]:
        """Connect to a branch as the provider's superuser, by a door that customers do not have."""
        folder = self.tell(where=[database, branch])["where"][0]
        with psycopg.connect(host=folder, user=ADMIN, dbname="postgres", autocommit=True) as conn:
            yield conn

    def roles(self, database: str, branch: str = "main") -> tuple[list[str], list[str]]:
        """Return the roles of a branch that the API has, and those that the server has for it."""
        in_api, on_server = self.tell(roles=[database, branch])["roles"]
        return in_api, on_server


@contextmanager
def running(folder: Path, programs: Path) -> Iterator[Service]:
    """Run it, on that installation of PostgreSQL, with one database: shop."""
    folder.mkdir(mode=0o700)
    if account := server_account():
        shutil.chown(folder, account.uid, account.gid)
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PGRUNBOOK_PG_BINDIR": str(programs), "PYTHONPATH": f"{tests}:{tests.parent / 'lib'}"}
    command = [sys.executable, "-m", "planetscale_api", str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        service = Service(folder, f"http://127.0.0.1:{int(process.stdout.readline())}")
        service.tell(add_database={"name": "shop"})
        yield service
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()
