"""Named queries from ``sql/<module>.sql``, and the snapshot and settings under which they are read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow, dict_row, tuple_row

from pgrunbook.database.connection import READ_LOCK_TIMEOUT_MS, READ_STATEMENT_TIMEOUT_MS, Connection
from pgrunbook.errors import Blocked

_HEADING = re.compile(r"^-- name: (\w+)\n-- a row is: (.+)\n", re.M)
_FOR_OLDER = re.compile(r"(\w+)_(\d\d)")

# The settings on which the text of definitions and values depends. And row_security: where it is on, a policy
# hides rows silently; where it is off, the server raises an error instead.
SETTINGS = MappingProxyType({
    "search_path": "",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "quote_all_identifiers": "off",
    "row_security": "off",
    "jit": "off",
})  # fmt: skip


@cache
def load(module: str, major: int | None = None) -> Mapping[str, str]:
    """Return the queries of ``sql/<module>.sql`` by their names.

    Two lines head each query, ``-- name: lock_queue`` and ``-- a row is: a session that waits for a lock``.
    A query ``lock_queue_14`` stands for ``lock_queue`` on servers up to PostgreSQL 14: where a file has such
    queries, name the server's major version.

    Raises ValueError when a name comes twice, or text stands under no name.
    """
    text = resources.files(__package__).joinpath("sql", f"{module}.sql").read_text(encoding="utf-8")
    return of_version(parse(text), major)


def of_version(queries: Mapping[str, str], major: int | None) -> Mapping[str, str]:
    """Return the queries for a server of this version, each by the name that all versions share."""
    chosen = {name: query for name, query in queries.items() if not _FOR_OLDER.fullmatch(name)}
    older = [(int(found[2]), found[1], found[0]) for name in queries if (found := _FOR_OLDER.fullmatch(name))]
    for last, name, told in sorted(older, reverse=True):  # the oldest that fits comes last, and stays
        if major is not None and major <= last:
            chosen[name] = queries[told]
    return MappingProxyType(chosen)


def parse(text: str) -> Mapping[str, str]:
    """Return the queries of a file's text by their names. Raises ValueError as :func:`load` does."""
    before, *parts = _HEADING.split(text)
    if before.strip() or text.count("-- name:") != len(parts) // 3:
        raise ValueError('a query stands under "-- name: ..." and a line "-- a row is: ..."')
    names = parts[0::3]
    if len(set(names)) < len(names):
        raise ValueError(f"a query's name comes twice: {', '.join(sorted(names))}")
    return MappingProxyType(dict(zip(names, (query.strip() for query in parts[2::3]), strict=True)))


def rows(conn: Connection, module: str, query: str, **parameters: object) -> list[dict[str, Any]]:
    """Return the rows of the named query of a module for this server's version, each by the names of its columns."""
    text = load(module, conn.info.server_version // 10_000)[query]
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(text.encode(), parameters or None).fetchall()


@contextmanager
def snapshot_cursor(
    conn: Connection,
    *,
    lock_timeout_ms: int = READ_LOCK_TIMEOUT_MS,
    statement_timeout_ms: int = READ_STATEMENT_TIMEOUT_MS,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[psycopg.Cursor[TupleRow]]:
    """Give a cursor that reads one snapshot of the database, under settings that make its text comparable.

    Outside a transaction it opens one of its own, repeatable read and read only. Inside the caller's transaction it
    reads under the caller's isolation level, and resets the settings afterwards; when a statement fails, the abort
    of the caller's transaction resets them. ``settings`` are set beside the usual ones.

    Raises Blocked when a lock could not be acquired within ``lock_timeout_ms``.
    """
    wanted = {
        **SETTINGS,
        **settings,
        "lock_timeout": str(lock_timeout_ms),
        "statement_timeout": str(statement_timeout_ms),
    }
    with blocked_on_lock_timeout(lock_timeout_ms), _own_transaction(conn) as cursor:
        before = _set_locally(cursor, wanted)
        yield cursor
        _set_locally(cursor, before)


@contextmanager
def blocked_on_lock_timeout(lock_timeout_ms: int) -> Iterator[None]:
    """Raise Blocked when the body, which reads, could not acquire a lock within ``lock_timeout_ms``."""
    try:
        yield
    except psycopg.errors.LockNotAvailable as exc:
        raise Blocked(
            f"could not read the database within lock_timeout ({lock_timeout_ms} ms)",
            detail=str(exc).strip(),
            state="Nothing changed; the transaction that read is aborted.",
            hint="Another session is changing the schema; wait until it is done, then run this again.",
        ) from exc


@contextmanager
def _own_transaction(conn: Connection) -> Iterator[psycopg.Cursor[TupleRow]]:
    cursor = psycopg.Cursor(conn, row_factory=tuple_row)
    if conn.info.transaction_status != TransactionStatus.IDLE:
        yield cursor
        return
    with conn.transaction():
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield cursor


def _set_locally(cursor: psycopg.Cursor[TupleRow], settings: Mapping[str, str]) -> dict[str, str]:
    """Set them for the open transaction; return their previous values."""
    cursor.execute(
        "SELECT s.key, pg_catalog.current_setting(s.key), pg_catalog.set_config(s.key, s.value, true)"
        " FROM pg_catalog.json_each_text(%s::json) AS s",
        [json.dumps(dict(settings))],
    )
    return {name: before for name, before, _ in cursor.fetchall()}
