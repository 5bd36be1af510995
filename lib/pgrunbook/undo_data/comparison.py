"""What is kept beside what is there now, as SQL expressions; conflicts and giving back are made of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from psycopg import sql

from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import Connection
from pgrunbook.errors import Refused
from pgrunbook.undo_data.registry import HASH, UndoEntry, refuse
from pgrunbook.undo_data.tables import Column, Table, foreign_keys, hash_of, key_name, row, rows, table_named


@dataclass(frozen=True)
class Comparison:
    """A thing that is kept beside its table: ``t`` is the row that is there now, ``k`` what is kept of it."""

    conn: Connection
    kept: UndoEntry
    table: Table

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The columns that count."""
        return self.table.named(self.kept.columns)

    @property
    def matches(self) -> sql.Composable:
        """Whether both have the same key."""
        return self.table.matches("t", "k")

    @property
    def hash_now(self) -> sql.Composable:
        """The hash of the row as it is."""
        return self._hash("t")

    def _hash(self, alias: str) -> sql.Composable:
        return hash_of(self.columns, [sql.Identifier(alias, column.name) for column in self.columns])

    @property
    def hash_before(self) -> sql.Composable:
        """The hash of the values that are kept."""
        return hash_of(self.columns, [self.given_back(column) for column in self.columns])

    @property
    def is_untouched(self) -> sql.Composable:
        """Whether the row is as the step left it."""
        return sql.SQL("{} = {}").format(self.hash_now, row("k")(HASH))

    @property
    def is_gone(self) -> sql.Composable:
        """Whether there is no row; a column of the key is never NULL."""
        return sql.SQL("{} IS NULL").format(sql.Identifier("t", self.table.key[0]))

    @property
    def is_back(self) -> sql.Composable:
        """Whether the row is as it was before, under the key that it had then."""
        if not {*self.kept.key} & {*self.kept.columns}:
            return sql.SQL("false")
        old = [
            self.given_back(column)
            if column.name in self.kept.columns
            else column.given_back(sql.Identifier("k", key_name(number)))
            for number, column in enumerate(self.table.named(self.kept.key))
        ]
        pairs = [
            sql.SQL("{} {} {}").format(sql.Identifier("o", name), sql.SQL(operator), value)
            for name, operator, value in zip(self.kept.key, self.table.operators, old, strict=True)
        ]
        return sql.SQL("EXISTS (SELECT FROM {} AS o WHERE {} AND {} = {})").format(
            self.table.source, sql.SQL(" AND ").join(pairs), self._hash("o"), self.hash_before
        )

    def given_back(self, column: Column) -> sql.Composable:
        """Return the value that a column is given back."""
        return column.given_back(sql.Identifier("k", column.name))

    @cached_property
    def is_referred_to(self) -> sql.Composable:
        """Whether a row of another table, or one that the step did not make, refers to this one."""
        found: list[sql.Composable] = []
        for key in foreign_keys(self.conn, self.table.oid):
            (about,) = rows(self.conn, "relation_of", oid=key.oid)
            pairs = [
                sql.SQL("{} {} {}").format(sql.Identifier("t", to), sql.SQL(operator), sql.Identifier("c", name))
                for name, to, operator in zip(key.columns, key.referenced, key.operators, strict=True)
            ]
            if key.oid == self.table.oid:
                ours = sql.SQL("NOT EXISTS (SELECT FROM {} AS o WHERE {})")
                pairs.append(ours.format(self.kept.side, self.table.matches("c", "o")))
            found.append(
                sql.SQL("EXISTS (SELECT FROM {} AS c WHERE {})").format(
                    TableName(about["schema"], about["name"]).identifier(), sql.SQL(" AND ").join(pairs)
                )
            )
        return sql.SQL("({})").format(sql.SQL(" OR ").join(found)) if found else sql.SQL("false")


def compared(conn: Connection, kept: UndoEntry) -> Comparison:
    """Return a thing beside its table. Raises Broken and Refused as :func:`conflicts` does."""
    refuse(kept)
    found = table_named(conn, kept.table, kept.key)
    if found.is_filtered:
        raise Refused(
            f"cannot compare the rows of table {kept.table}",
            detail="Row level security hides some of them from this session.",
            hint="Do it as the table's owner, or as a role with BYPASSRLS.",
        )
    return Comparison(conn, kept, found)
