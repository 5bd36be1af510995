"""What is made on the new table of a swap once it holds rows: indexes, keys and extended statistics of the old one.

Until the cut-over all of it has names of its own, for two indexes of a schema cannot share one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from psycopg import sql

from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import Connection, transaction
from pgrunbook.database.queries import rows
from pgrunbook.online.change_log import is_partitioned
from pgrunbook.online.swap_store import SCHEMA, TableSwap

BUILD_TIMEOUT_MS = 24 * 3_600_000
_Part = tuple[str, str, str]


def build(conn: Connection, swap: TableSwap, on_part: Callable[[str], None] = lambda _: None) -> TableSwap:
    """Make what is missing yet on the new table; return the swap with the names of its parts.

    Each part is a transaction: the same call goes on where it stopped. Raises psycopg's errors unchanged.
    Locks: ShareLock on the new table, which nobody uses.
    """
    oid = conn.oid_of("regclass", str(swap.other)) or 0
    for text, private, _ in _wanted(conn, swap, oid):
        kind = "STATISTICS" if text.startswith("CREATE STATISTICS") else "INDEX"
        if _has(conn, oid, kind, private):
            continue
        on_part(private)
        with _own_time(conn), conn.as_target():
            conn.execute(text.encode())
    has_own_index = False
    if not any(
        row["is_key"] and row["columns"] == list(swap.plan.key) for row in rows(conn, "swap", "indexes", oid=oid)
    ):
        has_own_index = True
        on_part("the key")
        with _own_time(conn):
            conn.execute(
                sql.SQL("CREATE INDEX IF NOT EXISTS {} ON {} ({})").format(
                    sql.Identifier(f"swap_{swap.name}_key"),
                    swap.other.identifier(),
                    sql.SQL(", ").join(map(sql.Identifier, swap.plan.key)),
                )
            )
    on_part("ANALYZE")
    with _own_time(conn):
        conn.execute(sql.SQL("ANALYZE {}").format(swap.other.identifier()))
    new = replace(swap.plan.new, parts=tuple(_parts_of_new(conn, swap, oid)))
    return replace(swap, plan=replace(swap.plan, new=new, has_own_index=has_own_index))


def _own_time(conn: Connection) -> AbstractContextManager[None]:
    return transaction(conn, lock_timeout_ms=BUILD_TIMEOUT_MS, statement_timeout_ms=BUILD_TIMEOUT_MS)


def parts_of_live(conn: Connection, swap: TableSwap, oid: int, letter: str) -> tuple[_Part, ...]:
    """Return the indexes, sequences of identity columns and statistics of the live table: kind, other name, name."""
    found: list[_Part] = []
    for number, row in enumerate(rows(conn, "swap", "indexes", oid=oid), 1):
        if row["name"] != f"swap_{swap.name}_key":
            found.append(("INDEX", f"swap_{swap.name}_{letter}{number}", row["name"]))
    for number, row in enumerate(identities(conn, oid), 1):
        found.append(("SEQUENCE", f"swap_{swap.name}_{letter}q{number}", row["name"]))
    for number, row in enumerate(rows(conn, "swap", "statistics", oid=oid), 1):
        found.append(("STATISTICS", f"swap_{swap.name}_{letter}s{number}", row["name"]))
    return tuple(found)


def identities(conn: Connection, oid: int) -> list[dict[str, Any]]:
    """Return the sequences of the identity columns of a table, by column."""
    return rows(conn, "swap", "identities", oid=oid)


def missing(conn: Connection, swap: TableSwap) -> list[str]:
    """Return the indexes and statistics of the live table that the other one lacks."""
    if swap.is_new_live:  # what was there at the cut-over is of the shape, or came from the old table
        oid = conn.oid_of("regclass", str(swap.table)) or 0
        there = {public for _, _, public in swap.plan.new.parts} | {f"swap_{swap.name}_key"}
        found = [row["name"] for query in ("indexes", "statistics") for row in rows(conn, "swap", query, oid=oid)]
        return [name for name in found if name not in there]
    oid = conn.oid_of("regclass", str(swap.other)) or 0
    there = {public for _, _, public in swap.other_side.parts}
    return [public for _, _, public in _wanted(conn, swap, oid) if public not in there]


def taken_names(conn: Connection, swap: TableSwap, oid: int) -> list[str]:
    """Return the names that parts of the new table will get, and that belong to something else of the schema."""
    old = {row["name"] for query in ("indexes", "owned") for row in rows(conn, "swap", query, oid=swap.relation)}
    wanted = {public for kind, _, public in _parts_of_new(conn, swap, oid) if kind != "STATISTICS"} - old
    found = rows(conn, "swap", "relations", schema=swap.table.schema, names=sorted(wanted))
    return [row["says"] for row in found]


def not_carried(conn: Connection, swap: TableSwap, oid: int) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield the indexes of the old table that the new one does not get, each with why."""
    wanted = {public for _, _, public in _wanted(conn, swap, oid)}
    for row in rows(conn, "swap", "indexes", oid=swap.relation):
        if row["name"] not in wanted:
            yield row, _why_not(row, swap.plan.left, _there(conn, oid))


def _wanted(conn: Connection, swap: TableSwap, oid: int) -> Iterator[tuple[str, str, str]]:
    """Yield what the new table gets of the old one: the statement, the name until the cut-over, and the name then."""
    there = _there(conn, oid)
    is_whole = is_partitioned(conn, swap.other)
    for number, row in enumerate(rows(conn, "swap", "indexes", oid=swap.relation), 1):
        if not _why_not(row, swap.plan.left, there, private=f"swap_{swap.name}_n{number}"):
            private = f"swap_{swap.name}_n{number}"
            yield _index(swap.other, private, row, is_whole), private, row["name"]
    for number, row in enumerate(rows(conn, "swap", "statistics", oid=swap.relation), 1):
        if row["name"] not in swap.plan.left:
            private = f"swap_{swap.name}_s{number}"
            yield _statistics(swap.other, private, row), private, row["name"]


def _there(conn: Connection, oid: int) -> list[dict[str, Any]]:
    return rows(conn, "swap", "indexes", oid=oid)


def _why_not(
    row: Mapping[str, Any], left: Collection[str], there: Sequence[Mapping[str, Any]], private: str = ""
) -> str:
    others = [one for one in there if one["name"] != private]
    if row["name"] in left:
        return "left on purpose"
    if not row["is_valid"]:
        return "it is INVALID"
    if row["is_primary"] and any(one["is_primary"] for one in others):
        return "the shape has a primary key of its own"
    if row["name"] in {one["name"] for one in others}:
        return "the shape has one of this name"
    return ""


def _index(new: TableName, private: str, row: Mapping[str, Any], is_whole: bool) -> str:
    """Return the statements that make an index, or a constraint with its index, under another name."""
    name, table = sql.Identifier(private), new.identifier()
    by_text = row["constraint_type"] == "x" or row["has_period"] or (row["constraint"] and is_whole)
    found = []
    if by_text:
        found.append(sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(table, name, sql.SQL(row["definition"])))
        if row["options"]:
            options = sql.SQL(", ".join(row["options"]))
            found.append(sql.SQL("ALTER INDEX {}.{} SET ({})").format(sql.Identifier(SCHEMA), name, options))
    else:
        unique = sql.SQL("UNIQUE " if row["is_unique"] else "")
        found.append(sql.SQL("CREATE {}INDEX {} ON {}{}").format(unique, name, table, sql.SQL(row["rest"])))
        if row["tablespace"]:
            found.append(
                sql.SQL("ALTER INDEX {}.{} SET TABLESPACE {}").format(
                    sql.Identifier(SCHEMA), name, sql.Identifier(row["tablespace"])
                )
            )
        if row["constraint"]:
            word = "PRIMARY KEY" if row["constraint_type"] == "p" else "UNIQUE"
            defers = " DEFERRABLE" * row["is_deferrable"] + " INITIALLY DEFERRED" * row["is_deferred"]
            found.append(
                sql.SQL("ALTER TABLE {0} ADD CONSTRAINT {1} {2} USING INDEX {1}{3}").format(
                    table, name, sql.SQL(word), sql.SQL(defers)
                )
            )
    found += [
        sql.SQL("ALTER INDEX {}.{} {}").format(sql.Identifier(SCHEMA), name, sql.SQL(target))
        for target in row["targets"]
    ]
    return "; ".join(one.as_string(None) for one in found)


def _statistics(new: TableName, private: str, row: Mapping[str, Any]) -> str:
    name = sql.Identifier(SCHEMA, private)
    found = [
        sql.SQL("CREATE STATISTICS {} {} ON {} FROM {}").format(
            name, sql.SQL(row["kinds"]), sql.SQL(row["columns"]), new.identifier()
        )
    ]
    if row["target"] is not None and row["target"] >= 0:
        found.append(sql.SQL("ALTER STATISTICS {} SET STATISTICS {}").format(name, sql.Literal(row["target"])))
    return "; ".join(one.as_string(None) for one in found)


def _has(conn: Connection, oid: int, kind: str, private: str) -> bool:
    query = "indexes" if kind == "INDEX" else "statistics"
    return private in {row["name"] for row in rows(conn, "swap", query, oid=oid)}


def _parts_of_new(conn: Connection, swap: TableSwap, oid: int) -> Iterator[_Part]:
    """Yield the parts of the new table with the names that they get: those of the old one where they stand for them."""
    public = {private: name for _, private, name in _wanted(conn, swap, oid)}
    old = rows(conn, "swap", "indexes", oid=swap.relation)
    primary = next((row["name"] for row in old if row["is_primary"]), None)
    for row in rows(conn, "swap", "indexes", oid=oid):
        private = row["name"]
        if private == f"swap_{swap.name}_key":
            continue
        own = (
            swap.table.name + private.removeprefix(swap.other.name) if private.startswith(swap.other.name) else private
        )
        name = public.get(private) or (primary if row["is_primary"] and primary else own)
        yield "INDEX", private, name
    before = {row["column"]: row["name"] for row in identities(conn, swap.relation)}
    for row in identities(conn, oid):
        named = before.get(row["column"]) or swap.table.name + row["name"].removeprefix(swap.other.name)
        yield "SEQUENCE", row["name"], named
    for row in rows(conn, "swap", "statistics", oid=oid):
        yield "STATISTICS", row["name"], public.get(row["name"], row["name"])
