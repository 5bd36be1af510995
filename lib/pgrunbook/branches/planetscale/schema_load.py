"""The schema of a target, loaded into a branch at PlanetScale that has none: from a dump, without owners."""

from __future__ import annotations

import subprocess

from pgrunbook.branches import installations, target_dump
from pgrunbook.branches.binaries import last_lines
from pgrunbook.config.targets import Target
from pgrunbook.database import address
from pgrunbook.database.connection import connect
from pgrunbook.display import progress
from pgrunbook.errors import Unreachable

HAS_TABLES = """
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
)
"""


def load(target: Target, branch: Target) -> None:
    """Load the schema, in one transaction; nothing is done where the branch has tables: PlanetScale has copied it.

    Raises Unreachable where it can be neither dumped nor loaded.
    Locks: the dump takes AccessShareLock on every table of the target, with a lock timeout of 2 s.
    """
    with connect(branch, purpose="branch") as conn:
        if conn.execute(HAS_TABLES.encode()).fetchone() == (True,):
            return
        major = conn.info.server_version // 10_000
    with connect(target, purpose="copies the schema") as conn:
        postgres = installations.of_target(target, conn)
        options = [*target_dump.options(postgres, conn), "--schema-only", "--no-owner"]
    clients = installations.client_environment(postgres)
    with progress.doing("copying the schema"):
        dumped = _run([str(postgres.program("pg_dump")), *options], {**address.environment(target), **clients}, target)
        text = target_dump.known(dumped, major)
        psql = [str(postgres.program("psql")), "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1"]
        _run(psql, {**address.environment(branch), **clients}, target, text=text)


def _run(command: list[str], environment: dict[str, str], target: Target, text: str = "") -> str:
    done = subprocess.run(command, env=environment, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unreachable(
            f'could not copy the schema of target "{target.name}"',
            detail=last_lines(done.stderr),
            hint=f"{target_dump.advice(done.stderr)}Then make the branch again.",
        )
    return done.stdout
