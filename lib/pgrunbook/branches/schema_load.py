"""A dump of a schema, loaded into an empty branch."""

from __future__ import annotations

import logging
import os
import re
import subprocess

import psycopg
from psycopg.conninfo import make_conninfo

from pgrunbook.branches import target_dump
from pgrunbook.branches.branch_target import BranchTarget
from pgrunbook.branches.server import Server
from pgrunbook.database import address
from pgrunbook.errors import Unreachable

log = logging.getLogger(__name__)

WITHOUT = "Or plan without a rehearsal (rehearse = False); then nothing is promised about its result."
# As pg_dump begins what belongs to an object. A cut within a text that looks so leaves a quote open, which fails.
ENTRY = re.compile(r"(?<=;\n)(?=\n\n--\n-- Name: )")
ENTRIES_AT_ONCE = 100  # each takes some locks until the part ends
# Tells psql that nothing but SQL follows, until the same word comes again; a server is sent SQL only.
FOR_PSQL = re.compile(r"^\\restrict (\w+)\n", re.M)


def in_parts(branch: BranchTarget, dump: str) -> bool:
    """Load a dump in parts of many statements, each a transaction; return whether the server took all of them.

    It takes two thirds of the time that psql takes.
    """
    if told := FOR_PSQL.search(dump):
        dump = dump.replace(told[0], "", 1).replace(f"\\unrestrict {told[1]}\n", "", 1)
    entries = ENTRY.split(dump)
    parts = ("".join(entries[n : n + ENTRIES_AT_ONCE]) for n in range(0, len(entries), ENTRIES_AT_ONCE))
    where = branch.as_superuser().model_copy(update={"options": address.NO_TIMEOUTS})
    try:
        with psycopg.connect(make_conninfo(**where.conninfo()), autocommit=True) as conn:
            for part in parts:
                conn.execute(part.encode())
    except psycopg.Error as exc:
        log.info("the schema is loaded by its statements, as a part of them failed: %s", exc)
        return False
    return True


def by_statements(server: Server, branch: BranchTarget, dump: str) -> None:
    """Load a dump as psql does. Raises Unreachable with the statement that the server refuses."""
    command = [str(server.program("psql")), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", str(server.socket_dir)]
    command += ["-U", branch.superuser, "-d", make_conninfo(dbname=branch.database)]
    env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "PGOPTIONS": address.NO_TIMEOUTS}
    done = subprocess.run(command, env=env, input=dump.encode(), capture_output=True, check=False, cwd="/")
    told = done.stderr.decode(errors="replace")
    if done.returncode:
        raise Unreachable(
            "could not create an empty branch of the schema",
            detail=" ".join(told.split())[:600],
            hint=target_dump.advice(told) + WITHOUT,
        )
