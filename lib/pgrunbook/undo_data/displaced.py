"""Captured rows that the server would refuse: another row has their values now, or their parent is gone.

Another row is one that keeps them: not one which the same revert changes, too. Constraints of other tables are left to
the server. Used by conflicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import sql

from pgrunbook.undo_data.capture_columns import record
from pgrunbook.undo_data.comparison import Comparison
from pgrunbook.undo_data.registry import STATES, UndoEntry, find
from pgrunbook.undo_data.row_notes import HASH
from pgrunbook.undo_data.tables import hash_of, key_name, rows

_OTHER, _NEW, _ALSO = "o", "pgrunbook_e", "k2"
_NEW_ROW = sql.Identifier(_NEW)


def is_displaced(both: Comparison, family: Sequence[UndoEntry]) -> sql.Composable:
    """Return the condition that a row which was changed or deleted cannot be as before, of one that is not there, that
    it cannot be inserted; ``family`` are its DELETE's entries.
    """
    apart = [index for index in rows(both.conn, "indexes_apart", oid=both.table.oid) if _is_asked(both, index)]
    found = [_is_taken(both, index) for index in apart]
    parents = [key for key in rows(both.conn, "references_of", oid=both.table.oid, all=True)
               if _is_new(both, key["columns"])]  # fmt: skip
    others = _with_it(both) if parents else []
    found += [_is_orphan(both, key, [*others, *family]) for key in parents if not _is_moving(key, others)]
    return sql.SQL("({})").format(sql.SQL(" OR ").join(found)) if found else sql.SQL("false")


def _is_asked(both: Comparison, index: dict[str, Any]) -> bool:
    """Tell whether a captured row may have other values in an index, which are known before."""
    columns = both.table.columns
    if not {*index["columns"]} <= columns.keys() or any(columns[name].is_generated for name in index["columns"]):
        return False
    is_key = both.entry.kind == "delete" and {*index["columns"]} == {*both.entry.key} and not index["predicate"]
    return _is_new(both, index["columns"]) and not is_key


def _is_new(both: Comparison, columns: Sequence[str]) -> bool:
    return both.entry.kind == "delete" or bool({*columns} & {*both.entry.columns})


def _is_taken(both: Comparison, index: dict[str, Any]) -> sql.Composable:
    """Return the condition that another row has what the index tells apart."""
    values = sql.SQL(", ").join(
        sql.SQL("{} AS {}").format(both.reverted_or_now(both.table.columns[name]), sql.Identifier(name))
        for name in index["columns"]
    )
    names = [sql.Identifier(f"{_NEW}_{number}") for number in range(len(index["expressions"]))]
    made = sql.SQL(", ").join(
        sql.SQL("{} AS {}").format(sql.SQL(each), name) for each, name in zip(index["expressions"], names, strict=True)
    )
    where = sql.SQL(" WHERE {}").format(sql.SQL(index["predicate"])) if index["predicate"] else sql.SQL("")
    new = sql.SQL("(SELECT {} FROM (SELECT {}) AS n{}) AS {}").format(made, values, where, _NEW_ROW)
    alike = "({0} {1} {2} OR {0} IS NULL AND {2} IS NULL)" if index["nulls_are_equal"] else "{0} {1} {2}"
    parts: list[sql.Composable] = [
        sql.SQL(alike).format(sql.SQL(f"({each})"), sql.SQL(operator), sql.SQL("{}.{}").format(_NEW_ROW, name))
        for each, operator, name in zip(index["expressions"], index["operators"], names, strict=True)
    ]
    parts += [sql.SQL("({})").format(sql.SQL(index["predicate"]))] if index["predicate"] else []
    parts += _is_another(both)
    return sql.SQL("EXISTS (SELECT FROM {}, {} AS {} WHERE {})").format(
        new, both.source, sql.Identifier(_OTHER), sql.SQL(" AND ").join(parts)
    )


def _is_another(both: Comparison) -> list[sql.Composable]:
    """Return the conditions that a row (o) is not the captured one, and that the revert does not change it."""
    if both.entry.kind == "delete":
        return []
    same = sql.SQL(" AND ").join(
        sql.SQL("{} {} {}").format(sql.Identifier(_OTHER, name), sql.SQL(operator), sql.Identifier("t", name))
        for name, operator in zip(both.table.key, both.table.operators, strict=True)
    )
    now = hash_of(both.columns, [sql.Identifier(_OTHER, column.name) for column in both.columns])
    also = sql.SQL("EXISTS (SELECT FROM {} AS {} WHERE {} AND {} = {})").format(
        both.entry.side, sql.Identifier(_ALSO), both.matching(_OTHER, _ALSO), now, sql.Identifier(_ALSO, HASH)
    )
    return [sql.SQL("NOT ({})").format(same), sql.SQL("NOT {}").format(also)]


def _is_moving(key: dict[str, Any], others: Sequence[UndoEntry]) -> bool:
    """Tell whether what a foreign key refers to is changed before: then the server tells."""
    changed = [one for one in others if one.table == (key["parent_schema"], key["parent_name"])]
    return any(one.kind in ("column", "table") or (one.kind == "update" and {*one.columns} & {*key["referenced"]})
               for one in changed)  # fmt: skip


def _is_orphan(both: Comparison, key: dict[str, Any], others: Sequence[UndoEntry]) -> sql.Composable:
    """Return the condition that the row to which the captured one refers is gone, and does not come back with it."""
    values = [both.reverted_or_now(both.table.columns[name]) for name in key["columns"]]
    now = [sql.Identifier("t", name) for name in key["columns"]]
    pairs = list(zip(key["referenced"], key["operators"], values, strict=True))
    found = [sql.SQL("{} IS NULL").format(value) for value in values]
    there = sql.SQL("EXISTS (SELECT FROM {} AS f WHERE {})")
    found.append(there.format(sql.SQL(key["parent"]), _joined([("f", to, of, value) for to, of, value in pairs])))
    for one in others:
        if one.kind == "delete" and one.table == (key["parent_schema"], key["parent_name"]):
            names = {name: key_name(number) for number, name in enumerate(one.key)}
            again = [("f", names.get(to, to), of, value) for to, of, value in pairs]
            found.append(there.format(one.side, _joined(again)))
    if both.entry.kind == "update":  # a value that stays is not checked: behind a NOT VALID key it may have no parent
        found.append(sql.SQL("{} OPERATOR(pg_catalog.*=) {}").format(record(*values), record(*now)))
    return sql.SQL("NOT ({})").format(sql.SQL(" OR ").join(found))


def _joined(pairs: Sequence[tuple[str, str, str, sql.Composable]]) -> sql.Composable:
    return sql.SQL(" AND ").join(
        sql.SQL("{} {} {}").format(sql.Identifier(alias, name), sql.SQL(operator), value)
        for alias, name, operator, value in pairs
    )


def _with_it(both: Comparison) -> list[UndoEntry]:
    """Return the entries that are taken back before it, or with it."""
    entry = both.entry
    same = find(both.conn, states=STATES, migration=entry.migration, direction=entry.direction, steps=[entry.step])
    return [*both.later, *(one for one in same if one.run_id == entry.run_id)]
