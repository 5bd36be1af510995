"""What keeps a copy of a server to itself: every branch and every restored server starts with it.

1. Its settings stand on the command line, which beats every file and ALTER SYSTEM: no library that acts is loaded,
   nothing is archived, replicated or listened to beyond its own folder.
2. No program of libpq's finds a way out: dblink, postgres_fdw and subscriptions are given addresses that are none.
3. Foreign tables are closed, whatever foreign-data wrapper they have.
4. What the copy brought along in its catalog is closed: subscriptions, and libraries that sessions would load.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg.conninfo import make_conninfo

from pgrunbook.branches.branch_target import BranchTarget
from pgrunbook.database.address import AS_SUPERUSER, NO_TIMEOUTS
from pgrunbook.database.connection import CONNECT_TIMEOUT_S, Connection
from pgrunbook.database.queries import load
from pgrunbook.errors import Refused

if TYPE_CHECKING:
    from pgrunbook.branches.server import Server

log = logging.getLogger(__name__)

MARK = "isolated"
MARK_TEXT = "This server is a copy. While this file is here, it starts without what would reach outside.\n"
MADE_FOR = "Made for target "
# Preloaded libraries that only look, log or check what is sent; every other may act by itself.
HARMLESS_LIBRARIES = frozenset({"auto_explain", "passwordcheck", "pg_hint_plan", "pg_stat_statements", "pgaudit"})
# libpq refuses both values before it opens a connection, and says them in its error.
WAY_OUT = "nothing-leaves-a-branch"
ENVIRONMENT = {
    "PGHOSTADDR": WAY_OUT,
    "PGSSLMINPROTOCOLVERSION": WAY_OUT,
    "PGSERVICEFILE": f"/{WAY_OUT}",
    "PGSYSCONFDIR": f"/{WAY_OUT}",
    "PGPASSFILE": f"/{WAY_OUT}",
}
SESSION_LIBRARIES = ("session_preload_libraries", "local_preload_libraries")
FOREIGN_TABLES = "restrict_nonsystem_relation_kind"
# The minor version of each major that brought the setting; from 17 on every version has it.
FOREIGN_TABLES_SINCE = {14: 13, 15: 8, 16: 4}
SETTINGS = {
    # Libraries, and programs that the server starts.
    "shared_preload_libraries": "",
    **dict.fromkeys(SESSION_LIBRARIES, ""),
    "jit_provider": "llvmjit",
    "restore_command": "",
    "archive_command": "",
    "archive_timeout": "0",
    "archive_cleanup_command": "",
    "recovery_end_command": "",
    "ssl_passphrase_command": "",
    # Other servers, and who comes in from elsewhere.
    "primary_conninfo": "",
    "primary_slot_name": "",
    "synchronous_standby_names": "",
    "max_logical_replication_workers": "0",
    "max_sync_workers_per_subscription": "0",
    "listen_addresses": "",
    "bonjour": "off",
    "ssl": "off",
    # Files and logs elsewhere.
    "data_directory": "data",
    "hba_file": "data/pg_hba.conf",
    "ident_file": "data/pg_ident.conf",
    "external_pid_file": "",
    "log_destination": "stderr",
    "logging_collector": "off",
    # Targets of a recovery that the source once had: two of them keep a server from starting.
    **dict.fromkeys((f"recovery_target{kind}" for kind in ("", "_lsn", "_name", "_time", "_xid")), ""),
}  # fmt: skip
SINCE = {
    15: {"archive_library": ""},
    17: {"sync_replication_slots": "off", "synchronized_standby_slots": ""},
    18: {"oauth_validator_libraries": ""},
}
UNTIL = {14: {"stats_temp_directory": "pg_stat_tmp"}, 15: {"promote_trigger_file": ""}}
FROM_THE_SERVER = ("command line", "override")
_RESTRICTED = "access to non-system foreign table is restricted"


def isolate(server: Server, *, target: str = "") -> None:
    """Mark a server as a copy; from its next start on it reaches nothing outside, until the mark is removed.

    The mark also tells the ``target`` that it was made for.
    """
    server.write(MARK, MARK_TEXT + (f"{MADE_FOR}{json.dumps(target)}\n" if target else ""))


def made_for(server: Server) -> tuple[str, datetime] | None:
    """Return the target that a copy was made for, and when it was marked; None for another server."""
    try:
        path = server.dir / MARK
        told = path.read_text(encoding="utf-8").partition(MADE_FOR)[2]
        return str(json.loads(told or '""')), datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except FileNotFoundError:
        return None


def is_isolated(server: Server) -> bool:
    """Tell whether a server is marked as a copy."""
    return (server.dir / MARK).is_file()


def environment(server: Server) -> dict[str, str]:
    """Return the environment variables that keep libpq in a copy from finding a way out; {} for another server."""
    return dict(ENVIRONMENT) if is_isolated(server) else {}


def options(server: Server, own: Mapping[str, str], more: Mapping[str, str]) -> list[str]:
    """Return pg_ctl's options that give a copy all of its settings; [] for another server.

    ``own`` are those of every server of ours, ``more`` those of this start, which win.
    """
    if not is_isolated(server):
        return []
    words = {name: value for name, value in {**settings(server), **own}.items() if name not in more}
    # Those of this start come last: no target of a recovery may be set, or unset, behind another one.
    told = [*words.items(), *more.items()]
    return ["-o", shlex.join(word for name, value in told for word in ("-c", f"{name}={value}"))]


def settings(server: Server) -> dict[str, str]:
    """Return the settings that keep a copy to itself; of what its files preload, what is harmless stays."""
    postgres = server.installation
    found = dict(SETTINGS)
    for major, more in SINCE.items():
        found |= more if postgres.major >= major else {}
    for major, more in UNTIL.items():
        found |= more if postgres.major <= major else {}
    if server.preloaded is None:
        told = server.run("postgres", "-D", "data", "-c", "data_directory=data", "-C", "shared_preload_libraries")
        server.preloaded = told.stdout
    kept = [name for name in _names(server.preloaded) if name in HARMLESS_LIBRARIES]
    found["shared_preload_libraries"] = ", ".join(kept)
    if int(postgres.version.partition(".")[2] or 0) >= FOREIGN_TABLES_SINCE.get(postgres.major, 0):
        found[FOREIGN_TABLES] = "foreign-table"
    return found


def close(server: Server, database: str = "postgres") -> None:
    """Close what a copy that runs has brought along in its catalog, and see that its settings hold.

    The session that does it loads no library. Subscriptions of every database are disabled and forget their slot,
    so that dropping one asks nobody; their rows stay to be looked at.

    Raises Refused where a setting does not hold, or where the database has foreign servers and this version of
    PostgreSQL cannot close their tables.
    """
    nothing = " ".join([*(f"-c {name}=" for name in SESSION_LIBRARIES), NO_TIMEOUTS, AS_SUPERUSER])
    target = BranchTarget(
        name=f"server {server.name}", server=server.name, database=database, role=server.superuser, options=nothing
    )
    address = make_conninfo(**target.conninfo(), connect_timeout=CONNECT_TIMEOUT_S)
    with psycopg.connect(address, autocommit=True) as conn:
        conn.execute("SET search_path = pg_catalog, pg_temp")
        for (statement,) in conn.execute(load("isolation")["settings_of_sessions"].encode()).fetchall():
            conn.execute(str(statement).encode())
        # By hand, as ALTER SUBSCRIPTION works in its own database only, and some let nobody in.
        for (name,) in conn.execute(load("isolation")["close_subscriptions"].encode()).fetchall():
            log.info('subscription "%s" is disabled on server "%s"', name, server.name)
    wanted = settings(server)
    with server.connect(purpose="branch", database=database) as conn:
        _check_settings(conn, wanted)
        if FOREIGN_TABLES not in wanted:
            _refuse_foreign_servers(conn)


def refuse_links(server: Server, folder: Path) -> None:
    """See that no link in a data directory leads out of it. Raises Refused with those that do.

    What a copy writes through such a link, it writes into the files of its source.
    """
    found = [path for path in (*folder.iterdir(), *(folder / "pg_tblspc").iterdir()) if path.is_symlink()]
    own = (server.dir.resolve(), folder.resolve())
    out = [path for path in found if not any(path.resolve().is_relative_to(place) for place in own)]
    if out:
        raise Refused(
            f'refused to start server "{server.name}": its files lead out of its folder',
            detail="; ".join(f"{path.relative_to(folder)} is a link to {path.readlink()}" for path in out),
            hint="A copy would write there into the files of its source. Report this.",
        )


def _names(libraries: str) -> list[str]:
    """Return the names of libraries in a setting, without their folders and endings."""
    names = (part.strip().strip('"') for part in libraries.split(","))
    return [re.sub(r"\.(so|dylib|dll)$", "", Path(name).name) for name in names if name]


def _check_settings(conn: Connection, wanted: Mapping[str, str]) -> None:
    rows = conn.execute(load("isolation")["sources"], {"names": sorted(wanted)}).fetchall()
    other = [f"{name} ({source})" for name, source in rows if source not in FROM_THE_SERVER]
    missing = sorted(set(wanted) - {str(name) for name, _ in rows})
    if other or missing:
        raise Refused(
            "the copy of the server could reach outside",
            detail=f"Settings that do not hold: {', '.join([*other, *missing])}.",
            hint="Report this, with the version of PostgreSQL.",
        )


def _refuse_foreign_servers(conn: Connection) -> None:
    servers = conn.execute("SELECT s.srvname::text FROM pg_catalog.pg_foreign_server AS s").fetchall()
    if servers:
        raise Refused(
            "cannot keep foreign tables closed on a copy of the server",
            detail=f"There are foreign servers ({', '.join(str(row[0]) for row in servers)}), and this version "
            f"of PostgreSQL has no {FOREIGN_TABLES}.",
            hint="Use the newest minor version: 14.13, 15.8, 16.4 and all later ones have it.",
        )


def explained(told: str) -> str:
    """Return why a statement cannot succeed on a copy, by what the server told; "" for any other error."""
    if WAY_OUT in told or _RESTRICTED in told or "hostaddr values" in told:
        return "It reaches outside of the database, which a branch never does."
    if "preload" in told:
        return "It needs a preloaded library, and a branch loads none that acts by itself."
    return ""
