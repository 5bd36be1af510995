"""A dump of the target's rows, loaded into a branch by pg_dump and psql, with nothing in between."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence

import psycopg
from psycopg import sql

from pgrunbook.branches import installations, roles, target_dump
from pgrunbook.branches.binaries import last_lines
from pgrunbook.branches.roles import Roles
from pgrunbook.branches.server import Server
from pgrunbook.config.targets import Target
from pgrunbook.database import address
from pgrunbook.database.connection import connect
from pgrunbook.database.queries import load as queries
from pgrunbook.database.sqlstate import said
from pgrunbook.errors import Unreachable

VIOLATED = "violates foreign key constraint"
REMOVED = "The target was only read; the branch is removed."
WITHOUT = (
    "Or rehearse on an empty branch only (with_data = False): then nothing is promised about times, locks and rows."
)


class OrphansError(Unreachable):
    """The target has rows that reference nothing: the server refuses to make their foreign keys behind them."""


def load(
    server: Server,
    target: Target,
    database: str,
    found: Roles,
    *,
    only: Sequence[str] | None = None,
    parts: Sequence[str] = (),
    with_orphans: bool = False,
) -> None:
    """Load everything of the target into a database of a branch, or the rows and positions of ``only`` these.

    ``only`` names tables and sequences that the branch has, empty, as SQL does: no trigger fires for their rows.
    ``parts`` are pg_dump's options for a part of everything, as --section=pre-data.
    ``with_orphans`` makes the foreign keys that rows stand against as the target has them, without a look at the rows.

    Raises OrphansError where such rows keep a foreign key from being made, Unreachable when they cannot be copied.
    Locks: AccessShareLock on every table that is dumped, with a lock timeout of 2 s.
    """
    if only is not None and not only:
        return
    there = {**address.environment(target), **installations.client_environment(server.installation)}
    what = [*_whole(target), *parts] if only is None else ["--data-only", *(f"--table={name}" for name in only)]
    with connect(target, purpose="copies the data") as conn:
        dump_command = [str(server.program("pg_dump")), *target_dump.options(server.installation, conn), *what]
    stops = [] if with_orphans else ["-v", "ON_ERROR_STOP=1"]
    load_command = [str(server.program("psql")), "-X", "-q", *stops, "-h", str(server.socket_dir)]
    load_command += ["-p", "5432", "-U", server.superuser, "-d", psycopg.conninfo.make_conninfo(dbname=database)]
    own = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    own["PGOPTIONS"] = f"{address.NO_TIMEOUTS} {address.AS_SUPERUSER}"
    if only is not None:
        own["PGOPTIONS"] += " -c session_replication_role=replica"
    answered = _pipe(server, target, found, dump_command, there, load_command, own)
    if with_orphans:
        _add_broken_keys(server, target, database, answered)


def not_copied(target: Target, told: str, advice: str = "") -> Unreachable:
    """Return the error for data that could not be copied to a branch, which is removed then."""
    return Unreachable(
        f'could not copy the data of target "{target.name}"',
        detail=told[:600],
        state=REMOVED,
        hint=advice + WITHOUT,
    )


def _pipe(
    server: Server,
    target: Target,
    found: Roles,
    dump_command: Sequence[str],
    there: dict[str, str],
    load_command: Sequence[str],
    own: dict[str, str],
) -> str:
    """Pipe pg_dump into psql; return what that has said.

    The address is in the environment: everybody on the machine can see arguments.
    """
    with (
        tempfile.TemporaryFile("w+") as said,
        tempfile.TemporaryFile("w+") as answered,
        tempfile.NamedTemporaryFile("w", prefix="pgrunbook-") as head,
    ):
        dump = subprocess.Popen(dump_command, env=there, stdout=subprocess.PIPE, stderr=said, cwd="/", bufsize=0)
        try:
            assert dump.stdout is not None  # noqa: S101 - it is a pipe
            head.write(target_dump.head(dump.stdout, server.installation))
            head.flush()
            loaded = subprocess.run(
                [*load_command, "-f", head.name, "-f", "-"], env=own, stdin=dump.stdout, stdout=subprocess.DEVNULL,
                stderr=answered, check=False, cwd="/",
            )  # fmt: skip
        except BaseException:
            dump.kill()
            raise
        finally:
            if dump.stdout:
                dump.stdout.close()  # where psql has given up, pg_dump sees it now
            dump.wait()
        if loaded.returncode or dump.returncode:
            told = answered if loaded.returncode else said
            told.seek(0)
            text = last_lines(told.read())
            failed = not_copied(target, text, roles.advice(text, found.session) or target_dump.advice(text))
            if loaded.returncode and VIOLATED in text:
                raise OrphansError(failed.message, detail=failed.detail, state=failed.state, hint=failed.hint)
            raise failed
        answered.seek(0)
        return answered.read()


def _add_broken_keys(server: Server, target: Target, database: str, answered: str) -> None:
    """Add the foreign keys that psql could not: unvalidated, and marked as validated, as rows stand against them.

    Raises Unreachable where it could not do anything else.
    """
    errors = [line for line in answered.splitlines() if " ERROR: " in line and VIOLATED not in line]
    asked = queries("data_branch")["foreign_keys"].encode()
    with connect(target, purpose="copies the data") as conn:
        keys = conn.execute(asked).fetchall()
    try:
        with server.connect(purpose="branch", database=database) as conn:
            there = {row[:2] for row in conn.execute(asked)}
            for table, name, made, commented in (key for key in keys if key[:2] not in there):
                conn.execute(str(made).encode())
                conn.execute(queries("data_branch")["call_valid"].encode(), {"table": table, "name": name})
                conn.execute(str(commented).encode())
                errors = [line for line in errors if f'constraint "{name}" for table' not in line]  # its comment
    except psycopg.Error as exc:
        errors.append(said(exc))
    if errors:
        raise not_copied(target, last_lines("\n".join(errors)), "Correct the rows that reference nothing. ")


def _whole(target: Target) -> list[str]:
    """Return pg_dump's options that leave out the rows of views which are filled from another server."""
    with connect(target, purpose="copies the data") as conn:
        views = conn.execute(queries("data_branch")["views_from_outside"].encode()).fetchall()
    return [f"--exclude-table-data={sql.Identifier(*map(str, view)).as_string(None)}" for view in views]
