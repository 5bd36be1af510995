"""A dump of a target, as pg_dump writes it and a branch's server reads it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import IO

from pgrunbook.branches import installations
from pgrunbook.branches.binaries import Installation
from pgrunbook.branches.server import Server
from pgrunbook.database.connection import Connection

# What a newer pg_dump sets at the beginning of every dump, and since when servers know it.
SET_SINCE = {17: "SET transaction_timeout = 0;\n"}
PUBLIC_IS_CLOSED_SINCE = 15
PUBLIC = "SCHEMA public"
LAST_OF_HEAD = b"SELECT pg_catalog.set_config("
HINTS = {
    r'collation "(?P<name>[^"]+)" for encoding': "Install the locale {name} on this machine (Debian: package locales).",
    r"(lock|statement) timeout": "Another session holds a lock on a table: wait until it has ended, then try again.",
}


def options(postgres: Installation, conn: Connection) -> list[str]:
    """Return pg_dump's options for a dump that a server of an installation can load; ``conn`` leads to the target."""
    # A subscription holds the address of its publisher, would read from it, and is no part of a schema.
    usual = ["--no-tablespaces", "--no-subscriptions", "--lock-wait-timeout=2000"]
    lacks_lz4 = installations.LZ4 in installations.needs(conn).features and not installations.has_lz4(postgres)
    return [*usual, "--no-toast-compression"] if lacks_lz4 else usual


def head(dump: IO[bytes], postgres: Installation) -> str:
    """Read the settings that a dump begins with; return those that a server of the installation knows.

    Nothing after them is read, so that another process can go on there: ``dump`` must be unbuffered.
    """
    lines = []
    while line := _line(dump):
        lines.append(line)
        if line.startswith(LAST_OF_HEAD):
            break
    return known(b"".join(lines).decode(), postgres.major)


def known(text: str, server_major: int) -> str:
    """Return a dump without the settings at its beginning that a server of that version does not know."""
    for major, line in SET_SINCE.items():
        if server_major < major:
            text = text.replace(line, "", 1)
    return text


def prepare(server: Server, database: str, lacks: Sequence[str], *, for_dump: bool = True) -> None:
    """Give a new database of a branch what a dump begins with, before the dump is loaded; drop what the target lacks.

    Where it is not ``for_dump``, it begins as each database of its server does.

    A pg_dump from PostgreSQL 15 on, of whatever server, says what differs from a schema in which only the owner of the
    database may create. A server of PostgreSQL 14 makes one in which everybody may.
    """
    postgres = server.installation
    is_newer = postgres.program("pg_dump").parent != postgres.bindir
    statements = [f"DROP {each}" for each in lacks]
    if for_dump and is_newer and postgres.major < PUBLIC_IS_CLOSED_SINCE and PUBLIC not in lacks:
        statements += ["ALTER SCHEMA public OWNER TO pg_database_owner", "REVOKE CREATE ON SCHEMA public FROM PUBLIC"]
    if statements:
        with server.connect(purpose="branch", database=database) as conn:
            for statement in statements:
                conn.execute(statement.encode())


def advice(told: str) -> str:
    """Return what to do where a dump could not be made or loaded, by what the program has told."""
    found = ((re.search(pattern, told), text) for pattern, text in HINTS.items())
    return next((f"{text.format(**match.groupdict())} " for match, text in found if match), "Correct what it says. ")


def _line(dump: IO[bytes]) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n") and (byte := os.read(dump.fileno(), 1)):
        line += byte
    return bytes(line)
