"""Cascades of a DELETE: the tables whose rows it deletes too, or sets NULL, over all levels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.undo_data.followers import obstacle
from pgrunbook.undo_data.registry import BATCH, Side
from pgrunbook.undo_data.tables import CapturedTable, ForeignKey, foreign_keys, key_name, row, table

CASCADE, SET_NULL, SET_DEFAULT = "c", "n", "d"


class CannotCaptureError(Exception):
    """A reason that follows "cannot be captured, because"."""


class RowsNotShownError(CannotCaptureError):
    """No form of a statement shows the rows that it changes, so that only whole tables can be captured."""


@dataclass(frozen=True)
class Reach:
    """A foreign key by which a DELETE reaches another table, parents first."""

    key: ForeignKey
    parent: CapturedTable
    child: CapturedTable
    kind: Literal["delete", "update"]

    def capture(self, parent: Side, side: Side, gone: Side | None) -> sql.Composable:
        """Return the statement that captures the child rows of the parent rows in this batch.

        It runs after the statement that locked the parent's rows, with its own snapshot: nobody can insert a row
        that refers to them any more. Rows in ``gone`` are deleted by another key, and not set NULL.
        """
        columns = zip(self.key.columns, self.key.referenced, self.key.operators, strict=True)
        pairs = [
            sql.SQL("{} {} {}").format(_value(self.parent, to), sql.SQL(operator), sql.Identifier("c", name))
            for name, to, operator in columns
        ]
        return sql.SQL(
            "INSERT INTO {side} ({targets}) SELECT {values} FROM {child} AS c WHERE EXISTS ("
            "SELECT FROM {parent} AS k WHERE k.{batch} = pg_catalog.pg_current_xact_id() AND {pairs}){but}"
            " FOR UPDATE OF c ON CONFLICT DO NOTHING"
        ).format(
            side=side.identifier,
            targets=side.targets(),
            values=side.values(row("c"), row("c") if self.kind == "delete" else None),
            child=self.child.source,
            parent=parent.identifier,
            batch=sql.Identifier(BATCH),
            pairs=sql.SQL(" AND ").join(pairs),
            but=_but(self.child, gone),
        )


def reaches(conn: Connection, origin: CapturedTable) -> list[Reach]:
    """Return the foreign keys by which a DELETE reaches other tables, parents first; [] when it reaches none.

    Raises CannotCaptureError when what it does there cannot be captured, RowsNotShownError when only all rows can be.
    """
    found: list[Reach] = []
    waiting: list[tuple[CapturedTable, tuple[int, ...]]] = [(origin, (origin.oid,))]
    while waiting:
        parent, path = waiting.pop(0)
        for reach in _from(conn, parent):
            if reach.child.oid in path:
                raise RowsNotShownError(f"it cascades in a circle, into {reach.child.name}")
            if reach in found:
                continue
            found.append(reach)
            if reach.kind == "delete":
                waiting.append((reach.child, (*path, reach.child.oid)))
    return _parents_first(found)


def _from(conn: Connection, parent: CapturedTable) -> Iterator[Reach]:
    for key in foreign_keys(conn, parent.oid):
        if key.on_delete not in (CASCADE, SET_NULL, SET_DEFAULT):
            continue
        child = table(conn, key.oid)
        if reason := _reason(child):
            raise CannotCaptureError(f"it cascades into {child.name}, {reason}")
        if reason := _not_shown(key, parent, child):
            raise RowsNotShownError(f"it cascades into {child.name}, {reason}")
        yield Reach(key, parent, child, "delete" if key.on_delete == CASCADE else "update")


def _reason(child: CapturedTable) -> str:
    if not child.key:
        return "which has no unique key that identifies its rows"
    return "where row level security hides rows" if child.is_filtered else ""


def _not_shown(key: ForeignKey, parent: CapturedTable, child: CapturedTable) -> str:
    """Return why the rows that a DELETE reaches do not show what becomes of them, "" where they do."""
    if key.on_delete == SET_DEFAULT:
        return f'where foreign key "{key.name}" uses SET DEFAULT'
    if key.on_delete == SET_NULL and child.has_before_update:
        return "where a BEFORE UPDATE trigger may change more"
    if key.on_delete == SET_NULL and obstacle(child):
        return f"which {obstacle(child)}"
    if any(parent.columns[name].is_generated and name not in parent.key for name in key.referenced):
        return "which refers to a generated column"
    return ""


def _parents_first(found: list[Reach]) -> list[Reach]:
    """Order them: all keys into a table before the keys out of it, and those that set NULL last."""
    ordered: list[Reach] = []
    left = [reach for reach in found if reach.kind == "delete"]
    while left:
        blocked = {reach.child.oid for reach in left}
        ready = [reach for reach in left if reach.parent.oid not in blocked]
        ordered += ready
        left = [reach for reach in left if reach not in ready]
    return ordered + [reach for reach in found if reach.kind == "update"]


def _but(child: CapturedTable, gone: Side | None) -> sql.Composable:
    if gone is None:
        return sql.SQL("")
    found = sql.SQL(" AND NOT EXISTS (SELECT FROM {} AS g WHERE {})")
    return found.format(gone.identifier, child.matches("c", "g"))


def _value(parent: CapturedTable, name: str) -> sql.Composable:
    """Return the value of a column of the parent, as it is in its side table."""
    stored = key_name(parent.key.index(name)) if name in parent.key else name
    return parent.columns[name].reverted(sql.Identifier("k", stored))
