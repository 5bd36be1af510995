"""Captured rows compared with the rows of today, as SQL expressions; used by conflicts and revert_rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.errors import Refused
from pgrunbook.undo_data.registry import UndoEntry, refuse_purged
from pgrunbook.undo_data.row_notes import GONE, HASH, UNKNOWN, are_at_work, is_there
from pgrunbook.undo_data.rows_before import RowsBefore, rows_before
from pgrunbook.undo_data.tables import CapturedColumn, CapturedTable, foreign_keys, hash_of, key_name, row, rows, table


@dataclass(frozen=True)
class Comparison:
    """An entry beside its table: ``t`` is the row of today, ``k`` what was captured of it.

    Where ``later`` entries are taken back before, ``t`` is the row as it will be then.
    """

    conn: Connection
    entry: UndoEntry
    before: RowsBefore
    later: Sequence[UndoEntry] = ()

    @property
    def table(self) -> CapturedTable:
        """The table of today."""
        return self.before.table

    @property
    def source(self) -> sql.Composable:
        """The rows of today."""
        return self.before.source

    @cached_property
    def columns(self) -> tuple[CapturedColumn, ...]:
        """The columns that are compared."""
        return self.table.named(self.entry.columns)

    @property
    def matches(self) -> sql.Composable:
        """The condition that both are the same row: they have the same key, and it is known that it followed."""
        return self.matching("t", "k")

    def matching(self, alias: str, side: str) -> sql.Composable:
        """Return that condition for a row and one of the side table with these aliases."""
        if not self.is_followed:
            return sql.SQL("false")
        follows = GONE in self.side_columns
        return self.before.matches(self.entry.kept_as, side, self.side_columns, follows=follows, alias=alias)

    @cached_property
    def side_columns(self) -> frozenset[str]:
        """The columns of the side table."""
        return frozenset(
            one["name"] for one in rows(self.conn, "side_columns", kept_as=self.entry.side.as_string(None))
        )

    @cached_property
    def is_followed(self) -> bool:
        """Whether the captured rows have followed theirs until now; else nobody knows which row has a key now."""
        if self.entry.kind == "delete" or GONE not in self.side_columns or self.entry.state == "given back":
            return True
        return are_at_work(self.conn, self.entry.kept_as, self.table.oid, self.entry.key)

    @property
    def hash_now(self) -> sql.Composable:
        """The hash of the row of today."""
        return self._hash("t")

    def _hash(self, alias: str) -> sql.Composable:
        return hash_of(self.columns, [sql.Identifier(alias, column.name) for column in self.columns])

    @property
    def hash_before(self) -> sql.Composable:
        """The hash of the captured values."""
        return hash_of(self.columns, [self.reverted(column) for column in self.columns])

    @property
    def is_untouched(self) -> sql.Composable:
        """The condition that nobody changed the row since the step."""
        return sql.SQL("{} = {}").format(self.hash_now, row("k")(HASH))

    @property
    def is_gone(self) -> sql.Composable:
        """The condition that the row does not exist; a column of the key is never NULL."""
        return sql.SQL("{} IS NOT DISTINCT FROM NULL").format(sql.Identifier("t", self.table.key[0]))

    @property
    def is_unidentified(self) -> sql.Composable:
        """The condition that somebody has the key of a captured row, and nobody knows whether it is the same row.

        An inserted row that is not there may also have another key now, unless triggers have seen it go.
        """
        gone = sql.Identifier("k", GONE)
        others = sql.SQL("EXISTS (SELECT FROM {} AS o WHERE {})").format(self.source, self.table.matches("o", "k"))
        match self.entry.kind, GONE in self.side_columns:
            case "update", True:
                found = sql.SQL("(({0} IS NULL OR {0} = {1}) AND {2})")
            case "insert", True:
                found = sql.SQL("({0} IS NULL OR {0} = {1} OR {0} ~ '^[0-9]+$' AND {2} AND NOT {3})")
            case "insert", False:
                found = sql.SQL("{4} IS NOT NULL")  # of those that we have deleted it is NULL
            case _:
                return sql.SQL("false")
        return found.format(gone, sql.Literal(UNKNOWN), others, self._has_heir, row("k")(HASH))

    @property
    def _has_heir(self) -> sql.Composable:
        """The condition that another row of the side table has come to the key of one that is gone."""
        same = [sql.SQL("h.{0} = k.{0}").format(sql.Identifier(key_name(n))) for n in range(len(self.entry.key))]
        return sql.SQL("EXISTS (SELECT FROM {} AS h WHERE {} AND {} IS NULL)").format(
            self.entry.side, sql.SQL(" AND ").join(same), sql.Identifier("h", GONE)
        )

    @property
    def is_back(self) -> sql.Composable:
        """The condition that the row is already as before the step, under its old key."""
        if not {*self.entry.key} & {*self.entry.columns}:
            return sql.SQL("false")
        old = [
            self.reverted(column)
            if column.name in self.entry.columns
            else column.reverted(sql.Identifier("k", key_name(number)))
            for number, column in enumerate(self.table.named(self.entry.key))
        ]
        pairs = [
            sql.SQL("{} {} {}").format(sql.Identifier("o", name), sql.SQL(operator), value)
            for name, operator, value in zip(self.entry.key, self.table.operators, old, strict=True)
        ]
        return sql.SQL("({} AND EXISTS (SELECT FROM {} AS o WHERE {} AND {} = {}))").format(
            is_there(self.entry.kept_as, "k", self.side_columns) if self.is_followed else sql.SQL("false"),
            self.source, sql.SQL(" AND ").join(pairs), self._hash("o"), self.hash_before,
        )  # fmt: skip

    def reverted(self, column: CapturedColumn) -> sql.Composable:
        """Return the captured value of a column."""
        return column.reverted(sql.Identifier("k", column.name))

    @cached_property
    def has_parents(self) -> sql.Composable:
        """The condition that the rows of other tables exist to which the row will refer; the server checks it itself
        where triggers fire. What is checked at the end of a transaction may refer to what comes later.
        """
        return self._has_parents(has_all=False)

    @cached_property
    def has_all_parents(self) -> sql.Composable:
        """The condition that all rows exist to which the row will refer, also of its own table."""
        return self._has_parents(has_all=True)

    def _has_parents(self, *, has_all: bool) -> sql.Composable:
        found: list[sql.Composable] = []
        for key in rows(self.conn, "references_of", oid=self.table.oid, all=has_all):
            values = [self.reverted_or_now(self.table.columns[name]) for name in key["columns"]]
            pairs = [
                sql.SQL("{} {} {}").format(sql.Identifier("f", to), sql.SQL(operator), value)
                for to, operator, value in zip(key["referenced"], key["operators"], values, strict=True)
            ]
            free = [sql.SQL("{} IS NULL").format(value) for value in values]
            if key["is_own"]:
                own = [self.reverted_or_now(self.table.columns[name]) for name in key["referenced"]]
                same = [
                    sql.SQL("{} {} {}").format(mine, sql.SQL(operator), value)
                    for mine, operator, value in zip(own, key["operators"], values, strict=True)
                ]
                free.append(sql.SQL(" AND ").join(same))
            found.append(
                sql.SQL("({} OR EXISTS (SELECT FROM {} AS f WHERE {}))").format(
                    sql.SQL(" OR ").join(free), sql.SQL(key["parent"]), sql.SQL(" AND ").join(pairs)
                )
            )
        return sql.SQL(" AND ").join(found) if found else sql.SQL("true")

    def reverted_or_now(self, column: CapturedColumn) -> sql.Composable:
        """Return what a column of the row holds when it is reverted."""
        if column.name in self.entry.columns:
            return self.reverted(column)
        if self.entry.kind == "delete":
            return column.reverted(sql.Identifier("k", key_name(self.entry.key.index(column.name))))
        return sql.Identifier("t", column.name)

    @cached_property
    def is_referred_to(self) -> sql.Composable:
        """The condition that a row of another table, or one that the step did not insert, refers to this row."""
        found: list[sql.Composable] = []
        for key in foreign_keys(self.conn, self.table.oid):
            child = table(self.conn, key.oid)
            before = rows_before(self.conn, child.name, child.key, self.later) if child.key else None
            pairs = [
                sql.SQL("{} {} {}").format(sql.Identifier("t", to), sql.SQL(operator), sql.Identifier("c", name))
                for name, to, operator in zip(key.columns, key.referenced, key.operators, strict=True)
            ]
            if key.oid == self.table.oid:
                ours = sql.SQL("NOT EXISTS (SELECT FROM {} AS o WHERE {})")
                pairs.append(ours.format(self.entry.side, self.table.matches("c", "o")))
            found.append(
                sql.SQL("EXISTS (SELECT FROM {} AS c WHERE {})").format(
                    child.source if before is None else before.source, sql.SQL(" AND ").join(pairs)
                )
            )
        return sql.SQL("({})").format(sql.SQL(" OR ").join(found)) if found else sql.SQL("false")


def compare(conn: Connection, entry: UndoEntry, later: Sequence[UndoEntry] = ()) -> Comparison:
    """Return the comparison of an entry with its table, after ``later`` entries are taken back, in this order.

    Raises Broken and Refused as :func:`conflicts` does.
    """
    refuse_purged(entry)
    found = rows_before(conn, entry.table, entry.key, later)
    if found.table.is_filtered:
        raise Refused(
            f"cannot compare the rows of table {entry.table}",
            detail="Row level security hides some of them from this session.",
            hint="Connect as the table's owner, or as a role with BYPASSRLS.",
        )
    return Comparison(conn, entry, found, later)
