"""A schema of 500 tables, and its snapshot beside pg_dump --schema-only."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import rounds
from ground import DATABASE, Ground, socket_dir

from pgrunbook.config.targets import Target
from pgrunbook.database.connection import connect
from pgrunbook.database.schema import snapshot

TABLES, COLUMNS = 500, 10
OURS, OURS_WHOLE, PEER = "snapshot and fingerprint", "the same as a process of its own", "pg_dump --schema-only"

ALONE = """
import sys
sys.path.insert(0, sys.argv[1])
import schema_500
schema_500.take()
"""


def make(ground: Ground) -> str:
    """Make the schema: ten columns a table, three indexes, a foreign key to the table before; return what it has."""
    columns = ", ".join(f"c{n} {'integer' if n % 2 else 'text'}" for n in range(3, COLUMNS + 1))
    with ground.session() as conn, conn.transaction():
        for n in range(TABLES):
            parent = f" REFERENCES t{n - 1}" if n else ""
            conn.execute(f"CREATE TABLE t{n} (id bigint PRIMARY KEY, parent_id bigint{parent}, {columns})".encode())
            conn.execute(f"CREATE INDEX ON t{n} (parent_id); CREATE INDEX ON t{n} (c3, c4)".encode())
    of_class = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = '{}'"
    keys = "SELECT count(*) FROM pg_constraint WHERE contype = 'f'"
    counted = [ground.count(query) for query in (of_class.format("r"), of_class.format("i"), keys)]
    return f"{counted[0]:,} tables, {TABLES * COLUMNS:,} columns, {counted[1]:,} indexes, {counted[2]:,} foreign keys"


def take() -> str:
    """Connect, read the schema, and return its fingerprint."""
    with connect(Target(name="bench", server="main", database=DATABASE), purpose="bench") as conn:
        return snapshot(conn).fingerprint


def dump(ground: Ground) -> list[str]:
    """Return the command of the peer."""
    command = [str(ground.server.program("pg_dump")), "--schema-only", "-h", socket_dir(), "-U", "postgres"]
    return [*command, "-d", DATABASE, "-f", str(ground.folder / "schema.sql")]


def measure(ground: Ground, count: int) -> rounds.Samples:
    """Measure the snapshot within a running Python, as a process of its own, and pg_dump."""
    alone = [sys.executable, "-c", ALONE, str(Path(__file__).parent)]
    things: dict[str, Callable[[], rounds.Sample]] = {
        OURS: lambda: rounds.call(take),
        PEER: lambda: rounds.process(dump(ground)),
        OURS_WHOLE: lambda: rounds.process(alone),
    }
    for thing in things.values():
        thing()  # the first one fills the caches of the server and of the system
    return rounds.interleaved(things, count)
