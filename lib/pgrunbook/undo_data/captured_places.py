"""Where captured rows lie that the server refuses when they are reapplied; the error of a release names them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.database.facts import Facts
from pgrunbook.sql.tree import dotted_name
from pgrunbook.undo_data.capture_columns import VALUE
from pgrunbook.undo_data.registry import UndoEntry, find
from pgrunbook.undo_data.tables import as_text, key_name, table

MOST_ROWS = 5
# The columns whose values the server refuses; the words around them are in its own language. Those of an index are
# quoted, those of a foreign key are not.
_NAMES = re.compile(r"\((.*?)\)=\(")


@dataclass(frozen=True)
class CapturedPlace:
    """Where rows or values lie that a rollback has captured; ``keys`` are those of rows that the server refuses."""

    entry: UndoEntry
    keys: tuple[str, ...]

    def __str__(self) -> str:
        of = dotted_name(*self.entry.table, *(self.entry.columns if self.entry.kind == "column" else ()))
        keys = f" ({'; '.join(self.keys)})" if self.keys else ""
        return f"{dotted_name(*self.entry.there)}, captured of {of}{keys}"


def captured_places(conn: Connection, migration: str, refused: str, *, is_branch: bool = False) -> list[CapturedPlace]:
    """Return where the rows lie that a release reapplies; ``refused`` is the server's detail of an error of integrity.

    Where some hold the values that the server names, these alone. On a branch, what came back there before is still
    captured on the target. Locks: AccessShareLock on them.
    """
    all_ = find(conn, migration=migration, direction="down", states=["kept", "given back"] if is_branch else ["kept"])
    entries = [one for one in all_ if one.kind in ("column", "table")]
    ids = {one.id for one in entries}
    found = [_place(conn, one, refused) for one in entries if one.part_of not in ids]
    return [one for one in found if one.keys] or found


def _place(conn: Connection, entry: UndoEntry, refused: str) -> CapturedPlace:
    match = _NAMES.search(refused)
    names = [re.sub(r'^"(.*)"$', r"\1", each).replace('""', '"') for each in match[1].split(", ")] if match else []
    there = Facts(conn).named(entry.there)
    if there is None or not names:
        return CapturedPlace(entry, ())
    columns = table(conn, there.oid).columns
    keys = {name: key_name(number) if entry.kind == "column" else name for number, name in enumerate(entry.key)}
    keys = {name: column for name, column in keys.items() if column in columns}
    if entry.kind == "column":
        by = {**keys, entry.columns[0]: VALUE}
    else:
        by = {name: name for name in columns}
        keys = keys or {name: name for name in table(conn, there.oid).key}
    if not keys or any(name not in by for name in names):
        return CapturedPlace(entry, ())
    values = sql.SQL(", ").join(as_text(sql.Identifier(by[name])) for name in names)
    shown = sql.SQL(", ").join(as_text(sql.Identifier(column)) for column in keys.values())
    query = sql.SQL("SELECT {} FROM {} WHERE pg_catalog.strpos({}, {}) > 0 LIMIT {}")
    named = sql.SQL("pg_catalog.concat(')=(', pg_catalog.concat_ws(', ', {}), ')')").format(values)
    found = conn.execute(query.format(shown, entry.side, sql.Literal(refused), named, sql.Literal(MOST_ROWS)))
    return CapturedPlace(
        entry,
        tuple(", ".join(f"{name} {value}" for name, value in zip(keys, row, strict=True)) for row in found.fetchall()),
    )


def way_on(places: Sequence[CapturedPlace], again: str, *, target: str = "") -> str:
    """Return the hint for rows that the server refuses when they are reapplied."""
    where = dotted_name(*places[0].entry.there)
    of = f" --target {target}" if target else ""
    ids = ",".join(str(place.entry.id) for place in places)
    return (
        f"Give these rows what they refer to; or change them where they lie, by UPDATE or DELETE in {where}; then"
        f" {again}. Or drop all that was captured there: pgrunbook run purge{of} -p ids={ids}"
        " -p force=true."
    )
