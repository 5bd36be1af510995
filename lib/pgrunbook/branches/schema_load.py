"""A dump of a schema, loaded into an empty branch."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import groupby, repeat

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
ENTRY = re.compile(r"(?<=;\n)(?=\n\n?--\n-- Name: )")
ENTRIES_AT_ONCE = 100  # each takes some locks until the part ends
# What belongs to one table each, and is loaded by two sessions: they share the tables.
OF_ONE_TABLE, OF_TWO_TABLES = frozenset({"CONSTRAINT", "INDEX"}), "FK CONSTRAINT"
SESSIONS = 2
SETTING = re.compile(r"^(?:SET |SELECT pg_catalog\.set_config\().*;\n", re.M)  # of a session, before all else
KIND = re.compile(r"\n\n?--\n-- Name: .*; Type: ([A-Z ]+); Schema: ")
QUOTE = re.compile(r"['\"$\\]")
TABLE = re.compile(r"\n(?:ALTER TABLE (?:ONLY )?|CREATE (?:UNIQUE )?INDEX .*? ON (?:ONLY )?)(\S+)")
# Tells psql that nothing but SQL follows, until the same word comes again; a server is sent SQL only.
FOR_PSQL = re.compile(r"^\\restrict (\w+)\n", re.M)


def in_parts(branch: BranchTarget, dump: str) -> bool:
    """Load a dump in parts of many statements, each a transaction; return whether the server took all of them.

    It takes half of the time that psql takes. What belongs to tables is loaded by two sessions, all of a table by one.
    """
    if told := FOR_PSQL.search(dump):
        dump = dump.replace(told[0], "", 1).replace(f"\\unrestrict {told[1]}\n", "", 1)
    where = branch.as_superuser().model_copy(update={"options": address.NO_TIMEOUTS})
    try:
        with ExitStack() as stack:
            opened = [psycopg.connect(make_conninfo(**where.conninfo()), autocommit=True) for _ in range(SESSIONS)]
            sessions = [stack.enter_context(conn) for conn in opened]
            pool = stack.enter_context(ThreadPoolExecutor(SESSIONS))
            parts = ENTRY.split(dump)
            for conn in sessions[1:]:
                conn.execute("".join(SETTING.findall(parts[0])).encode())
            for kind, entries in groupby(parts, _kind):
                if kind is None:
                    _execute(sessions[0], "".join, list(entries))
                    continue
                shares: list[list[str]] = [[] for _ in sessions]
                for entry in entries:
                    shares[_share(entry)].append(entry)
                join = _each_by_itself if kind == OF_TWO_TABLES else "".join
                list(pool.map(_execute, sessions, repeat(join), shares))
    except psycopg.Error as exc:
        log.info("the schema is loaded by its statements, as a part of them failed: %s", exc)
        return False
    return True


def _kind(entry: str) -> str | None:
    """Return what entries that two sessions may load have in common, None for others.

    One with a quote may have been cut within a text: it stays where it is, before what was cut from it.
    """
    if QUOTE.search(entry):
        return None
    kind = found[1] if (found := KIND.match(entry)) else ""
    return OF_TWO_TABLES if kind == OF_TWO_TABLES else "" if kind in OF_ONE_TABLE else None


def _share(entry: str) -> int:
    """Return which session loads an entry: of one table, always the same."""
    found = TABLE.search(entry)
    return zlib.crc32(found[1].encode()) % SESSIONS if found else 0


def _each_by_itself(entries: Iterable[str]) -> str:
    """Join entries that lock two tables: each is a transaction, so that none waits for one that waits for it."""
    return "".join(f"BEGIN;{entry}COMMIT;" for entry in entries)


def _execute(conn: psycopg.Connection, join: Callable[[Iterable[str]], str], entries: Sequence[str]) -> None:
    for first in range(0, len(entries), ENTRIES_AT_ONCE):
        conn.execute(join(entries[first : first + ENTRIES_AT_ONCE]).encode())


def by_statements(server: Server, branch: BranchTarget, dump: str) -> None:
    """Load a dump as psql does. Raises Unreachable with the statement that the server refuses."""
    command = [str(server.program("psql")), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", str(server.socket_dir)]
    command += ["-U", branch.superuser, "-d", make_conninfo(dbname=branch.database)]
    env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    env["PGOPTIONS"] = f"{address.NO_TIMEOUTS} {address.AS_SUPERUSER}"
    done = subprocess.run(command, env=env, input=dump.encode(), capture_output=True, check=False, cwd="/")
    told = done.stderr.decode(errors="replace")
    if done.returncode:
        raise Unreachable(
            "could not create an empty branch of the schema",
            detail=" ".join(told.split())[:600],
            hint=target_dump.advice(told) + WITHOUT,
        )
