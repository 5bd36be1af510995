"""Keeping the values of a column that is dropped, or loses some of them to another type, and filling them back.

A small table, in the transaction of the statement: the table is locked as the statement will lock it, and its values
are copied. A large one:

1. A side table is made, and a trigger that carries every row that is written from then on into it.
2. The other rows are copied, batch by batch; what the trigger has brought is newer, and stays.
3. In the transaction of the statement the trigger goes: nobody can write any more.

Where the column stays, and only its type changes, the new values are noted in that transaction, too: an old value
is given back to a row that still has the new one, and to no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from psycopg import sql

from pgrunbook.changes.keeping.cascades import CannotKeepError
from pgrunbook.changes.keeping.tables import SCHEMA, Column, Table, as_text, key_name, rows, table
from pgrunbook.changes.safe_forms.sql_text import text
from pgrunbook.changes.safe_forms.step import RANGE, Batches, Keep, SafeStep
from pgrunbook.changes.safe_forms.table import Facts, Relation
from pgrunbook.changes.syntax import tree
from pgrunbook.database.connection import Connection

VALUE, NEW = "pgrunbook_value", "pgrunbook_new"
TRIGGER = "pgrunbook_{}"


@dataclass(frozen=True)
class KeptColumn:
    """A column that is kept, with its table as it is now, and its side table."""

    keep: Keep
    table: Table
    column: Column
    changes_type: bool = False

    @property
    def side(self) -> sql.Identifier:
        """The side table."""
        return sql.Identifier(SCHEMA, self.keep.kept_as)

    @property
    def key(self) -> tuple[Column, ...]:
        """The columns of the key."""
        return self.table.named(self.table.key)

    def before(self, batch_rows: int) -> tuple[SafeStep, ...]:
        """Return the steps that copy the values of a large table while others write to it."""
        batches = Batches(
            schema=self.table.name.schema, table=self.table.name.name, alias="t", statement=self._copy(),
            key=self.table.key, key_types=tuple(column.type for column in self.key), rows=batch_rows,
        )  # fmt: skip
        told = f"{self.keep.table}.{self.keep.column}"
        starts = ";\n".join([self._make(), *self._start_writing()])
        return (
            SafeStep(starts, f"What is written to {told} from now on is kept beside it.", keeps=(self.keep,)),
            SafeStep(batches.statement, f"The values of {told} are kept.", quick=False, batches=batches),
        )

    def prologue(self, *, is_large: bool) -> list[str]:
        """Return what comes before the statement, in its transaction."""
        if is_large:
            return self._stop_writing()
        locked = sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(self.table.source)
        return [text(locked), self._make(), self._copy().replace(RANGE, "true", 1)]

    def epilogue(self) -> list[str]:
        """Return what comes behind the statement, in its transaction."""
        if not self.changes_type:
            return []
        noted = sql.SQL("UPDATE {} AS k SET {} = {} FROM {} AS t WHERE {}").format(
            self.side, sql.Identifier(NEW), as_text(sql.Identifier("t", self.column.name)), self.table.source,
            self.table.matches("t", "k"),
        )  # fmt: skip
        return [text(noted)]

    def undo(self) -> tuple[str, ...]:
        """Return the queries for the statements that take away what was made, when the statement is refused."""
        name, trigger = sql.Literal(self.side.as_string(None)), sql.Literal(TRIGGER.format(self.keep.kept_as))
        forget = sql.SQL("DELETE FROM pgrunbook.kept WHERE kept_as = {}").format(sql.Literal(self.keep.kept_as))
        table_name = sql.Literal(self.table.name.identifier().as_string(None))
        found = sql.SQL(
            "SELECT pg_catalog.format('DROP TRIGGER %I ON %s', g.tgname, g.tgrelid::pg_catalog.regclass)"
            " FROM pg_catalog.pg_trigger AS g WHERE g.tgname = {trigger}"
            " AND g.tgrelid = pg_catalog.to_regclass({table}) AND g.tgparentid = 0"
            " UNION ALL SELECT pg_catalog.format('DROP FUNCTION %s', p.oid::pg_catalog.regprocedure)"
            " FROM pg_catalog.pg_proc AS p WHERE p.proname = {function}"
            " AND p.pronamespace = pg_catalog.to_regnamespace({schema})"
            " UNION ALL SELECT {drop} WHERE pg_catalog.to_regclass({name}) IS NOT NULL"
            " UNION ALL SELECT {forget} WHERE pg_catalog.to_regclass({name}) IS NOT NULL"
        ).format(
            trigger=trigger, table=table_name, function=sql.Literal(self._function()), schema=sql.Literal(SCHEMA),
            drop=sql.Literal(text(sql.SQL("DROP TABLE {}").format(self.side))), name=name,
            forget=sql.Literal(text(forget)),
        )  # fmt: skip
        return (text(found),)

    def _make(self) -> str:
        keys = [
            sql.SQL("{} {}").format(sql.Identifier(key_name(n)), column.side_type) for n, column in enumerate(self.key)
        ]
        names = [sql.Identifier(key_name(n)) for n in range(len(self.key))]
        value = sql.SQL("{} {}").format(sql.Identifier(VALUE), self.column.side_type)
        new = [sql.SQL("{} pg_catalog.text").format(sql.Identifier(NEW))] if self.changes_type else []
        made = sql.SQL("CREATE TABLE {} ({}, PRIMARY KEY ({}))").format(
            self.side, sql.SQL(", ").join([*keys, value, *new]), sql.SQL(", ").join(names)
        )
        return text(made)

    def _copy(self) -> str:
        copied = sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} AS t WHERE {} ON CONFLICT DO NOTHING").format(
            self.side, self._targets(), self._values("t"), self.table.source, sql.SQL(RANGE)
        )
        return text(copied)

    def _targets(self) -> sql.Composable:
        return sql.SQL(", ").join(sql.Identifier(name) for name in [*map(key_name, range(len(self.key))), VALUE])

    def _values(self, alias: str) -> sql.Composable:
        found = [column.kept(sql.Identifier(alias, column.name)) for column in (*self.key, self.column)]
        return sql.SQL(", ").join(found)

    def _function(self) -> str:
        return f"write_{self.keep.kept_as}"

    def _start_writing(self) -> list[str]:
        """The function writes as its owner: who writes to the table need not be allowed to write to ours."""
        gone = [
            sql.SQL("k.{} = {}").format(sql.Identifier(key_name(n)), column.kept(sql.Identifier("old", column.name)))
            for n, column in enumerate(self.key)
        ]
        names = sql.SQL(", ").join(sql.Identifier(key_name(n)) for n in range(len(self.key)))
        body = sql.SQL(
            "BEGIN IF TG_OP <> 'INSERT' THEN DELETE FROM {side} AS k WHERE {gone}; END IF;"
            " IF TG_OP <> 'DELETE' THEN INSERT INTO {side} ({targets}) VALUES ({values})"
            " ON CONFLICT ({names}) DO UPDATE SET {value} = excluded.{value}; END IF; RETURN NULL; END"
        ).format(
            side=self.side, gone=sql.SQL(" AND ").join(gone), targets=self._targets(), values=self._values("new"),
            names=names, value=sql.Identifier(VALUE),
        )  # fmt: skip
        function = sql.SQL(
            "CREATE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
            " SET search_path = '' SET DateStyle = 'ISO' AS {}"
        ).format(sql.Identifier(SCHEMA, self._function()), sql.Literal(text(body)))
        trigger = sql.SQL(
            "CREATE TRIGGER {} AFTER INSERT OR UPDATE OR DELETE ON {} FOR EACH ROW EXECUTE FUNCTION {}()"
        ).format(
            sql.Identifier(TRIGGER.format(self.keep.kept_as)), self.table.name.identifier(),
            sql.Identifier(SCHEMA, self._function()),
        )  # fmt: skip
        return [text(function), text(trigger)]

    def _stop_writing(self) -> list[str]:
        trigger = sql.SQL("DROP TRIGGER {} ON {}").format(
            sql.Identifier(TRIGGER.format(self.keep.kept_as)), self.table.name.identifier()
        )
        function = sql.SQL("DROP FUNCTION {}()").format(sql.Identifier(SCHEMA, self._function()))
        return [text(trigger), text(function)]


def kept_column(conn: Connection, keep: Keep, *, changes_type: bool) -> KeptColumn:
    """Return a column that is to be kept. Raises CannotKeepError where its rows cannot be told apart or seen."""
    found, name = _place(conn, keep)
    if found.is_filtered:
        raise CannotKeepError(f"row level security hides rows of {keep.table} from this session")
    relation = Facts(conn).named(found.name)
    if relation is not None and relation.has_children and not found.is_partitioned:
        raise CannotKeepError(f"{keep.table} has children, whose rows no common key tells apart")
    keys = [columns for columns in keys_of(conn, found.oid) if name not in columns]
    if not keys:
        raise CannotKeepError(f"{keep.table} has no key, but for the column itself, by which to tell its rows apart")
    by = dict(zip(*keys_with_operators(conn, found.oid, keys[0]), strict=True))
    found = replace(found, key=keys[0], operators=tuple(by[column] for column in keys[0]))
    return KeptColumn(replace(keep, key=keys[0]), found, found.columns[name], changes_type)


def fill(conn: Connection, keep: Keep, *, rows_conn: Connection | None, batch_rows: int) -> tuple[SafeStep, ...]:
    """Return the step that fills the kept values of a column back, which is there again.

    What somebody wrote since it is back stays, where the column has no default that would look like it. Where only
    the type had changed, :func:`settle` has taken out the rows that somebody has changed.

    Raises CannotKeepError where nothing tells the rows apart by the columns by which they were kept.
    """
    found, name = _place(conn, keep)
    keyed = keys_with_operators(conn, found.oid, keep.key)
    if not keyed[0]:
        raise CannotKeepError(f"{keep.table} has no unique index on {', '.join(keep.key)} now")
    found = replace(found, key=keyed[0], operators=keyed[1])
    # The columns of the side table are in the order of the key then, by their number.
    number = {column: key_name(n) for n, column in enumerate(keep.key)}
    pairs = [
        sql.SQL("{} {} {}").format(
            sql.Identifier("t", column.name),
            sql.SQL(operator),
            column.given_back(sql.Identifier("k", number[column.name])),
        )
        for column, operator in zip(found.named(found.key), found.operators, strict=True)
    ]
    column = found.columns[name]
    value = column.given_back(sql.Identifier("k", VALUE))
    changed_type = _has_new(conn, keep)
    empty = not changed_type and not _has_default(conn, found.oid, name)
    untouched = sql.SQL("AND {} IS NULL ").format(sql.Identifier("t", name)) if empty else sql.SQL("")
    statement = sql.SQL("UPDATE {} AS t SET {} = {} FROM {} AS k WHERE {} {}AND {}").format(
        found.source, sql.Identifier(name), value, sql.Identifier(SCHEMA, keep.kept_as),
        sql.SQL(" AND ").join(pairs), untouched, sql.SQL(RANGE),
    )  # fmt: skip
    says = f"The kept values of {keep.table}.{keep.column} come back."
    if not is_large(conn, found, rows_conn, batch_rows):
        plain = text(statement).replace(RANGE, "true", 1)
        return (SafeStep(plain, says, own_transaction=False, quick=False, gives_back=(keep.kept_as,)),)
    types = tuple(each.type for each in found.named(found.key))
    loop = Batches(
        schema=found.name.schema, table=found.name.name, alias="t", statement=text(statement), key=found.key,
        key_types=types, rows=batch_rows,
    )  # fmt: skip
    return (SafeStep(loop.statement, says, quick=False, batches=loop, gives_back=(keep.kept_as,)),)


def settle(conn: Connection, keep: Keep) -> tuple[SafeStep, ...]:
    """Return the step that forgets the old values of rows that somebody has changed since the type was changed.

    It belongs into the transaction that changes the type back; () where the column itself had gone.
    Locks: AccessExclusiveLock on the table, as the change of type takes it.
    """
    if not _has_new(conn, keep):
        return ()
    found, name = _place(conn, keep)
    columns, operators = keys_with_operators(conn, found.oid, keep.key)
    found = replace(
        found, key=tuple(keep.key), operators=tuple(dict(zip(columns, operators, strict=True))[c] for c in keep.key)
    )
    locked = sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(found.source)
    forgotten = sql.SQL("DELETE FROM {} AS k USING {} AS t WHERE {} AND {} IS DISTINCT FROM k.{}").format(
        sql.Identifier(SCHEMA, keep.kept_as), found.source, found.matches("t", "k"),
        as_text(sql.Identifier("t", name)), sql.Identifier(NEW),
    )  # fmt: skip
    says = "Rows that somebody has changed since keep what they have."
    return (SafeStep(f"{text(locked)};\n{text(forgotten)}", says, own_transaction=False, quick=False),)


def missing(conn: Connection, keep: Keep) -> int:
    """Return how many rows of a table have no kept value for a column: they were made since."""
    found, _ = _place(conn, keep, must_be_there=False)
    found = _as_kept(conn, found, keep)
    query = sql.SQL("SELECT count(*) FROM {} AS t WHERE NOT EXISTS (SELECT FROM {} AS k WHERE {})").format(
        found.source, sql.Identifier(SCHEMA, keep.kept_as), found.matches("t", "k")
    )
    row = conn.execute(query).fetchone()
    return int(str(row[0])) if row else 0


def is_large(conn: Connection, found: Table, rows_conn: Connection | None, batch_rows: int) -> bool:
    """Tell whether a table holds more rows than go into one batch."""
    relation: Relation | None = Facts(conn).named(found.name)
    return relation is None or Facts(conn, rows_conn).has_rows_beyond(relation, batch_rows)


def keys_of(conn: Connection, oid: int) -> list[tuple[str, ...]]:
    """Return the keys of a table, the best first."""
    return [tuple(one["columns"]) for one in rows(conn, "keys", oid=oid)]


def keys_with_operators(conn: Connection, oid: int, key: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the columns of the key that has these, in the order of its index, with operators; empty for none."""
    for one in rows(conn, "keys", oid=oid):
        if sorted(one["columns"]) == sorted(key):
            return tuple(one["columns"]), tuple(one["operators"])
    return (), ()


def is_changed_type(statement: str, column: str) -> bool:
    """Tell whether a statement leaves a column where it is: it changes the type."""
    node = tree(statement)
    cmds = getattr(node, "cmds", None) or ()
    return any(cmd.subtype.name == "AT_AlterColumnType" and cmd.name == column for cmd in cmds)


def column_name(conn: Connection, keep: Keep) -> str:
    """Return a kept column's name as the catalog has it."""
    return _place(conn, keep)[1]


def _place(conn: Connection, keep: Keep, *, must_be_there: bool = True) -> tuple[Table, str]:
    found = rows(conn, "column_named", table=keep.table, column=keep.column)
    if not found or (must_be_there and found[0]["name"] is None):
        raise CannotKeepError(f"{keep.table}.{keep.column} is not there")
    return table(conn, found[0]["oid"]), str(found[0]["name"])


def _as_kept(conn: Connection, found: Table, keep: Keep) -> Table:
    """Return a table with the key by which a column was kept, in that order."""
    by = dict(zip(*keys_with_operators(conn, found.oid, keep.key), strict=True))
    if not by:
        raise CannotKeepError(f"{keep.table} has no unique index on {', '.join(keep.key)} now")
    return replace(found, key=tuple(keep.key), operators=tuple(by[column] for column in keep.key))


def _has_new(conn: Connection, keep: Keep) -> bool:
    side = sql.Identifier(SCHEMA, keep.kept_as).as_string(None)
    return any(one["name"] == NEW for one in rows(conn, "side_columns", kept_as=side))


def _has_default(conn: Connection, oid: int, name: str) -> bool:
    return bool(rows(conn, "has_default", oid=oid, column=name)[0]["has_default"])
