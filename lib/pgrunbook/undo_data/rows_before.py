"""The rows of a table as they will be when later steps are taken back, as an item of FROM; used by conflicts.

Each later entry is laid over the rows of today, the newest first: captured values over changed ones, deleted rows
beside the others, inserted rows left out, a parked table in the place of none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from psycopg import sql

from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import Connection
from pgrunbook.undo_data.capture_columns import VALUE, hash_of_new
from pgrunbook.undo_data.registry import UndoEntry
from pgrunbook.undo_data.row_notes import GONE, NEW, PART, VERSION, is_there, label_of
from pgrunbook.undo_data.tables import SCHEMA, CapturedColumn, CapturedTable, key_name, row, rows, table, table_named


@dataclass(frozen=True)
class RowsBefore:
    """A table, and its rows as they will be; its columns, too, are those of that time."""

    table: CapturedTable
    source: sql.Composable
    is_layered: bool = False

    def matches(
        self, kept_as: str, side: str, side_columns: Collection[str], *, follows: bool, alias: str = "t"
    ) -> sql.Composable:
        """Return the condition that a row is the one of which a row of a side table was captured.

        What follows its row knows the key that this has today, or had when a step of ours deleted it; other rows of
        side tables know that of then.
        """
        names = self.last_key if follows and self.is_layered else ()
        label = sql.Identifier(alias, self.label) if self.is_layered else None
        part = sql.Identifier(alias, self.part if self.is_layered else "tableoid")
        version = sql.Identifier(alias, self.version if self.is_layered else "xmin")
        there = [is_there(kept_as, side, side_columns, label, part=part, version=version)] if follows else []
        return sql.SQL(" AND ").join([self.table.matches(alias, side, names), *there])

    @property
    def label(self) -> str:
        """The name of the column for the label of the step whose way back will have inserted the row again."""
        return self._free(GONE)

    @property
    def part(self) -> str:
        """The name of the column for the partition in which the row is, NULL where it will be inserted again."""
        return self._free(PART)

    @property
    def version(self) -> str:
        """The name of the column for the xmin of the row, NULL where it will be inserted again."""
        return self._free(VERSION)

    @property
    def last_key(self) -> tuple[str, ...]:
        """The names of the columns for the key that the row has today, or had when it was deleted."""
        numbers = {name: number for number, name in enumerate(sorted(self.table.key), 1)}
        return tuple(self._free(f"pgrunbook_last_{numbers[name]}") for name in self.table.key)

    def _free(self, name: str) -> str:
        while name in self.table.columns:
            name += "_"
        return name


def rows_before(conn: Connection, name: TableName, key: Sequence[str], later: Sequence[UndoEntry]) -> RowsBefore:
    """Return a table with the key by which its rows were captured; ``later`` is taken back before, in this order.

    Raises Broken when it will not exist, or have no unique index on these columns.
    """
    later = [one for one in later if one.table == name]
    parked = next((one for one in later if one.kind == "table"), None)
    found = table_named(conn, name if parked is None else parked.there, key)
    before = RowsBefore(found, found.source)
    for one in later:
        if one.kind != "table":
            before = _Layer(before, one, _side(conn, one)).result()
    return before


def _side(conn: Connection, entry: UndoEntry) -> Mapping[str, CapturedColumn]:
    (found,) = rows(conn, "oid_of", schema=SCHEMA, name=entry.kept_as)
    return table(conn, found["oid"]).columns


@dataclass(frozen=True)
class _Layer:
    """An entry over the rows that are there when it is taken back: ``t`` is such a row, ``g`` what was captured."""

    below: RowsBefore
    entry: UndoEntry
    side: Mapping[str, CapturedColumn]

    def result(self) -> RowsBefore:
        """Return the rows after it."""
        columns = dict(self.below.table.columns)
        values = {name: row("t")(name) for name in columns}
        if self.entry.kind == "column":
            (name,) = self.entry.columns
            columns[name] = self._column(name, columns.get(name))
            values[name] = self._value(name, columns[name])
        elif self.entry.kind == "update":
            for name in self.entry.columns:
                values[name] = sql.SQL("CASE WHEN {} THEN {} ELSE {} END").format(
                    self._is_there, columns[name].reverted(row("g")(name)), row("t")(name)
                )
        below = self.below
        values[below.label] = row("t")(below.label) if below.is_layered else sql.SQL("CAST(NULL AS pg_catalog.text)")
        values[below.part] = row("t")(below.part if below.is_layered else "tableoid")
        # A rollback notes which rows are those of then before it writes them.
        values[below.version] = row("t")(below.version if below.is_layered else "xmin")
        for name, last in zip(below.table.key, below.last_key, strict=True):
            values[last] = row("t")(last if below.is_layered else name)
        where: sql.Composable = sql.SQL("")
        beside: sql.Composable = sql.SQL("")
        if self.entry.kind == "insert":
            where = sql.SQL(" WHERE NOT {}").format(self._is_there)
        if self.entry.kind == "delete":
            beside = self._deleted(columns)
        source = sql.SQL("(SELECT {} FROM {} AS t LEFT JOIN {} AS g ON {}{}{})").format(
            _selected(values), self.below.source, self.entry.side, self._matches, where, beside
        )
        return RowsBefore(replace(self.below.table, columns=columns), source, is_layered=True)

    @property
    def _is_there(self) -> sql.Composable:
        return sql.SQL("{} IS NOT NULL").format(row("g")(key_name(0)))

    @property
    def _matches(self) -> sql.Composable:
        if sorted(self.entry.key) != sorted(self.below.table.key):
            return sql.SQL("false")
        by = dict(zip(self.below.table.key, self.below.table.operators, strict=True))
        table = replace(self.below.table, key=self.entry.key, operators=tuple(by[name] for name in self.entry.key))
        keyed_ = replace(self.below, table=table)
        follows = GONE in self.side
        return keyed_.matches(self.entry.kept_as, "g", self.side, follows=follows)

    def _column(self, name: str, now: CapturedColumn | None) -> CapturedColumn:
        """The column of that time: a type of the application was captured as text."""
        then = self.side[VALUE]
        if now is not None and now.is_of_application:
            return now
        return replace(then, name=name)

    def _value(self, name: str, then: CapturedColumn) -> sql.Composable:
        value = then.reverted(row("g")(VALUE))
        if NEW not in self.side:
            return value
        is_same = sql.SQL("{} = {}").format(hash_of_new("t", name), row("g")(NEW))
        # Whoever has changed the value since the change of type is in conflict: no value equals NULL.
        return sql.SQL("CASE WHEN {} THEN {} END").format(is_same, value)

    def _deleted(self, columns: Mapping[str, CapturedColumn]) -> sql.Composable:
        numbers = {name: key_name(number) for number, name in enumerate(self.entry.key)}
        values = {}
        for name, column in columns.items():
            stored = numbers.get(name, name if name in self.side else "")
            empty = sql.SQL("CAST(NULL AS {})").format(sql.SQL(column.type))
            values[name] = column.reverted(row("g")(stored)) if stored else empty
        values[self.below.label] = sql.Literal(label_of(self.entry.migration, self.entry.step))
        values[self.below.part] = sql.SQL("CAST(NULL AS pg_catalog.oid)")
        values[self.below.version] = sql.SQL("CAST(NULL AS pg_catalog.xid)")
        for name, last in zip(self.below.table.key, self.below.last_key, strict=True):
            values[last] = values[name]
        return sql.SQL(" UNION ALL SELECT {} FROM {} AS g WHERE NOT EXISTS (SELECT FROM {} AS t WHERE {})").format(
            _selected(values), self.entry.side, self.below.source, self._matches
        )


def _selected(values: Mapping[str, sql.Composable]) -> sql.Composable:
    return sql.SQL(", ").join(sql.SQL("{} AS {}").format(value, sql.Identifier(name)) for name, value in values.items())
