"""Every table and B-tree index of a database read by pg_amcheck, on a server of ours that is a copy; drill uses it.

Source: https://www.postgresql.org/docs/current/app-pgamcheck.html
"""

from __future__ import annotations

from psycopg.conninfo import make_conninfo

from pgrunbook.branches import isolation
from pgrunbook.branches.binaries import last_lines, run_as
from pgrunbook.branches.server import Server
from pgrunbook.errors import Refused, RunbookError

FOUND_DAMAGE = 2
MOST_TOLD = 20


def damage(server: Server, database: str) -> list[str]:
    """Return what is corrupt in a database, [] where nothing is; reading a page compares its checksum, too.

    Where the copy lacks the extension amcheck, it is made there, in pg_catalog.

    Raises Refused for a server that is no copy, WrongInput without the program, RunbookError where it cannot look.
    Locks: AccessShareLock on one table and one index at a time.
    """
    if not isolation.is_isolated(server):
        raise Refused(
            f'refused to check server "{server.name}" by pg_amcheck: it is not a copy',
            detail="The extension amcheck would be made in a database that is in use.",
            hint="Check a restored server, as the runbook restore-drill does.",
        )
    address = make_conninfo(host=str(server.socket_dir), port=5432, user=server.superuser, dbname=database)
    command = [str(server.program("pg_amcheck")), "--install-missing", "--jobs=2", address]
    done = run_as(server.installation.account, command, cwd=server.dir)
    if done.returncode not in (0, FOUND_DAMAGE):
        raise RunbookError(
            f'could not check database "{database}" of server "{server.name}" by pg_amcheck',
            detail=last_lines(done.stderr or done.stdout),
            hint="Where it lacks the extension amcheck, install PostgreSQL's contrib programs.",
        )
    told = [" ".join(line.split()) for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return told[:MOST_TOLD] if done.returncode else []
