"""Capture of a column's values before the column is dropped, or its type changed with loss.

Of a small table, in the transaction of the statement: lock the table as the statement will, and copy the values.
Of a large table:

1. Create a side table, and a trigger that copies every row written from then on into it.
2. Copy the other rows, batch by batch; a value that the trigger has copied is newer, and stays.
3. Drop the trigger in the transaction of the statement, whose lock keeps writers out.

Where only the type changes, that transaction also stores a hash of each new value: the old value is reverted only
in rows that still have the new one.

From then on until the values are reverted, reapplied or purged, triggers let them follow their rows: a changed key
changes in the side table too, and the value of a row that is deleted goes, for another row may get its key. What a
migration or a rollback of ours deletes comes back with its key, and keeps its value.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.database.relations import Facts, Relation
from pgrunbook.database.row_tracker import truncate_triggers
from pgrunbook.plan.step import RANGE, Batches, Keep, SafeStep
from pgrunbook.sql.deparse import text
from pgrunbook.sql.tree import tree
from pgrunbook.undo_data.cascades import CannotCaptureError
from pgrunbook.undo_data.tables import SCHEMA, Column, Table, key_name, rows, table

VALUE, NEW = "pgrunbook_value", "pgrunbook_new"
TRIGGER, TRIGGER_OF_ALL = "pgrunbook_{}", "pgrunbook_{}_all"
TRIGGER_OF_MOVES = "zz_pgrunbook_{}"  # behind those of the application, which may change the key
_FOLLOWING = """
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM {side} AS k WHERE NOT EXISTS (SELECT FROM {table} AS t WHERE {matches});
    ELSIF TG_OP = 'DELETE' THEN
        IF pg_catalog.current_setting('application_name') NOT LIKE 'pgrunbook %' THEN
            DELETE FROM {side} AS k WHERE {gone};
        END IF;
    ELSIF {before} OPERATOR(pg_catalog.*<>) {after} THEN
        DELETE FROM {side} AS k WHERE {taken};
        UPDATE {side} AS k SET ({keys}) = ROW({new}) WHERE {gone};
    END IF;
    RETURN NEW;
EXCEPTION
    -- The key has another type by now, or is gone: nobody's write fails, and what cannot follow is not reverted.
    WHEN undefined_column OR undefined_function OR datatype_mismatch OR data_exception THEN
        BEGIN
            IF TG_OP = 'TRUNCATE' THEN
                DELETE FROM {side};
            ELSE
                DELETE FROM {side} AS k WHERE {gone_by_text};
            END IF;
        EXCEPTION
            WHEN undefined_function OR datatype_mismatch OR data_exception THEN NULL;
        END;
        RETURN NEW;
END
"""
# Types of the application may be a key only when their text is the same under all settings.
_STEADY = {"bigint", "boolean", "bytea", "integer", "numeric", "smallint", "uuid"}


@dataclass(frozen=True)
class ColumnCapture:
    """A column to capture, with its table as it is now, and its side table."""

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
        name = f"{self.keep.table}.{self.keep.column}"
        starts = ";\n".join([*self._make(), *self._start_writing()])
        return (
            SafeStep(starts, f"What is written to {name} from now on is captured too.", keeps=(self.keep,)),
            SafeStep(batches.statement, f"The values of {name} are captured.", quick=False, batches=batches),
        )

    def prologue(self, *, is_large: bool) -> list[str]:
        """Return the statements that run before it, in its transaction."""
        if is_large:
            return self._stop_writing()
        locked = sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(self.table.source)
        return [text(locked), *self._make(), self._copy().replace(RANGE, "true", 1)]

    def epilogue(self) -> list[str]:
        """Return the statements that run after it, in its transaction."""
        follows = self._start_following()
        if not self.changes_type:
            return follows
        hashed = sql.SQL("UPDATE {} AS k SET {} = {} FROM {} AS t WHERE {}").format(
            self.side, sql.Identifier(NEW), hash_of_new("t", self.column.name), self.table.source,
            self.table.matches("t", "k"),
        )  # fmt: skip
        return [text(hashed), *follows]

    def cleanup(self) -> tuple[str, ...]:
        """Return the queries that find the cleanup statements, for when the server refuses the statement."""
        name = sql.Literal(self.side.as_string(None))
        triggers = [sql.Literal(each.format(self.keep.kept_as)) for each in (TRIGGER, TRIGGER_OF_ALL)]
        forget = sql.SQL("DELETE FROM pgrunbook.kept WHERE kept_as = {}").format(sql.Literal(self.keep.kept_as))
        table_name = sql.Literal(self.table.name.identifier().as_string(None))
        found = sql.SQL(
            "SELECT pg_catalog.format('DROP TRIGGER %I ON %s', g.tgname, g.tgrelid::pg_catalog.regclass)"
            " FROM pg_catalog.pg_trigger AS g"
            " WHERE g.tgname OPERATOR(pg_catalog.=) ANY (ARRAY[{triggers}]::pg_catalog.name[])"
            " AND g.tgrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass({table})"
            " AND g.tgparentid OPERATOR(pg_catalog.=) 0::pg_catalog.oid"
            " UNION ALL SELECT pg_catalog.format('DROP FUNCTION %s', p.oid::pg_catalog.regprocedure)"
            " FROM pg_catalog.pg_proc AS p WHERE p.proname OPERATOR(pg_catalog.=) {function}"
            " AND p.pronamespace OPERATOR(pg_catalog.=) pg_catalog.to_regnamespace({schema})"
            " UNION ALL SELECT {drop} WHERE pg_catalog.to_regclass({name}) IS NOT NULL"
            " UNION ALL SELECT {forget} WHERE pg_catalog.to_regclass({name}) IS NOT NULL"
        ).format(
            triggers=sql.SQL(", ").join(triggers), table=table_name, function=sql.Literal(self._function()),
            schema=sql.Literal(SCHEMA),
            drop=sql.Literal(text(sql.SQL("DROP TABLE {}").format(self.side))), name=name,
            forget=sql.Literal(text(forget)),
        )  # fmt: skip
        return (text(found),)

    def _make(self) -> list[str]:
        """Create the side table, after a check that row level security hides no row from this role."""
        name = self.table.name.identifier().as_string(None)
        looks = sql.SQL(
            "BEGIN IF pg_catalog.row_security_active({}) THEN"
            " RAISE insufficient_privilege USING MESSAGE = {}; END IF; END"
        ).format(sql.Literal(name), sql.Literal(f"row level security hides rows of {name} from this role"))
        keys = [
            sql.SQL("{} {}").format(sql.Identifier(key_name(n)), column.side_type) for n, column in enumerate(self.key)
        ]
        value = sql.SQL("{} {}").format(sql.Identifier(VALUE), self.column.side_type)
        new = [sql.SQL("{} pg_catalog.bytea").format(sql.Identifier(NEW))] if self.changes_type else []
        made = sql.SQL("CREATE TABLE {} ({}, PRIMARY KEY ({}))").format(
            self.side, sql.SQL(", ").join([*keys, value, *new]), self._key_names()
        )
        return [text(sql.SQL("DO {}").format(sql.Literal(text(looks)))), text(made)]

    def _key_names(self) -> sql.Composable:
        return sql.SQL(", ").join(sql.Identifier(key_name(n)) for n in range(len(self.key)))

    def _copy(self) -> str:
        copied = sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} AS t WHERE {} ON CONFLICT DO NOTHING").format(
            self.side, self._targets(), self._values("t"), self.table.source, sql.SQL(RANGE)
        )
        return text(copied)

    def _targets(self) -> sql.Composable:
        return sql.SQL(", ").join(sql.Identifier(name) for name in [*map(key_name, range(len(self.key))), VALUE])

    def _values(self, alias: str) -> sql.Composable:
        found = [column.captured(sql.Identifier(alias, column.name)) for column in (*self.key, self.column)]
        return sql.SQL(", ").join(found)

    def _function(self) -> str:
        return f"write_{self.keep.kept_as}"

    def _start_writing(self) -> list[str]:
        """Create the trigger; its function runs as its owner, for writers have no rights on the side table.

        ENABLE ALWAYS: the triggers also fire in sessions that apply replicated changes.
        """
        function, table_ = sql.Identifier(SCHEMA, self._function()), self.table.name.identifier()
        made = sql.SQL(
            "CREATE FUNCTION {0}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
            " SET search_path = '' SET DateStyle = 'ISO' AS {1}; REVOKE ALL ON FUNCTION {0}() FROM PUBLIC"
        ).format(function, sql.Literal(text(self._body())))
        statements = [text(made)]
        for name, fires in (
            (TRIGGER, "INSERT OR UPDATE OR DELETE ON {} FOR EACH ROW"),
            (TRIGGER_OF_ALL, "TRUNCATE ON {} FOR EACH STATEMENT"),
        ):
            trigger = sql.Identifier(name.format(self.keep.kept_as))
            after = sql.SQL(fires).format(table_)
            statements.append(
                text(sql.SQL("CREATE TRIGGER {} AFTER {} EXECUTE FUNCTION {}()").format(trigger, after, function))
            )
            statements.append(text(sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(table_, trigger)))
        return statements

    def _body(self) -> sql.Composable:
        """The body of the trigger function; a key that another row has by the end of the statement stays."""
        watched = list(dict.fromkeys(column.name for column in (*self.key, self.column)))
        before, after = (record(*(sql.Identifier(row, name) for name in watched)) for row in ("old", "new"))
        taken = [
            sql.SQL("{} {} {}").format(
                sql.Identifier("t", column.name), sql.SQL(operator), sql.Identifier("old", column.name)
            )
            for column, operator in zip(self.key, self.table.operators, strict=True)
        ]
        return sql.SQL(
            "BEGIN IF TG_OP = 'TRUNCATE' THEN DELETE FROM {side}; RETURN NULL; END IF;"
            " IF TG_OP = 'UPDATE' AND {before} OPERATOR(pg_catalog.*=) {after} THEN RETURN NULL; END IF;"
            " IF TG_OP <> 'INSERT' THEN DELETE FROM {side} AS k WHERE {gone}"
            " AND NOT EXISTS (SELECT FROM {source} AS t WHERE {taken}); END IF;"
            " IF TG_OP <> 'DELETE' THEN INSERT INTO {side} ({targets}) VALUES ({values})"
            " ON CONFLICT ({names}) DO UPDATE SET {value} = excluded.{value}; END IF; RETURN NULL; END"
        ).format(
            side=self.side, before=before, after=after, gone=self._has_key("old"), source=self.table.source,
            taken=sql.SQL(" AND ").join(taken), targets=self._targets(), values=self._values("new"),
            names=self._key_names(), value=sql.Identifier(VALUE),
        )  # fmt: skip

    def _start_following(self) -> list[str]:
        """Create the triggers that let captured values follow their rows.

        No column stands in a trigger itself, and one that is gone is no error: the table stays free to change. A row
        that moves to another partition is deleted and inserted: only BEFORE UPDATE knows both keys.
        """
        function, table_ = sql.Identifier(SCHEMA, self._function()), self.table.name.identifier()
        before, after = (record(*(sql.Identifier(row, column.name) for column in self.key)) for row in ("old", "new"))
        new = [column.captured(sql.Identifier("new", column.name)) for column in self.key]
        body = sql.SQL(_FOLLOWING).format(
            side=self.side, gone=self._has_key("old"), taken=self._has_key("new"), before=before, after=after,
            table=self.table.name.identifier(), matches=self.table.matches("t", "k"),
            keys=self._key_names(), gone_by_text=self._had_key(), new=sql.SQL(", ").join(new),
        )  # fmt: skip
        made = sql.SQL(
            "CREATE OR REPLACE FUNCTION {0}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
            " SET search_path = '' SET DateStyle = 'ISO' AS {1}; REVOKE ALL ON FUNCTION {0}() FROM PUBLIC"
        ).format(function, sql.Literal(text(body)))
        fires = {TRIGGER: "AFTER UPDATE OR DELETE ON {} FOR EACH ROW"}
        if self.table.is_partitioned:
            fires = {TRIGGER: "AFTER DELETE ON {} FOR EACH ROW", TRIGGER_OF_MOVES: "BEFORE UPDATE ON {} FOR EACH ROW"}
        statements = [text(made)]
        for name, event in fires.items():
            trigger = sql.Identifier(name.format(self.keep.kept_as))
            statements.append(
                text(
                    sql.SQL("CREATE OR REPLACE TRIGGER {} {} EXECUTE FUNCTION {}()").format(
                        trigger, sql.SQL(event).format(table_), function
                    )
                )
            )
            statements.append(text(sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(table_, trigger)))
        of_all = TRIGGER_OF_ALL.format(self.keep.kept_as)
        emptied = truncate_triggers(table_, of_all, function, is_partitioned=self.table.is_partitioned)
        return [*statements, *map(text, emptied)]

    def _had_key(self) -> sql.Composable:
        """The condition for the old key by the text of the row: a field of a record keeps its type for a session."""
        pairs = [
            sql.SQL("k.{} = CAST(pg_catalog.to_jsonb(old) ->> {} AS {})").format(
                sql.Identifier(key_name(n)), sql.Literal(column.name), column.side_type
            )
            for n, column in enumerate(self.key)
        ]
        return sql.SQL(" AND ").join(pairs)

    def _has_key(self, row: str) -> sql.Composable:
        pairs = [
            sql.SQL("k.{} = {}").format(sql.Identifier(key_name(n)), column.captured(sql.Identifier(row, column.name)))
            for n, column in enumerate(self.key)
        ]
        return sql.SQL(" AND ").join(pairs)

    def _stop_writing(self) -> list[str]:
        triggers = [
            sql.SQL("DROP TRIGGER {} ON {}").format(
                sql.Identifier(name.format(self.keep.kept_as)), self.table.name.identifier()
            )
            for name in (TRIGGER, TRIGGER_OF_ALL)
        ]
        function = sql.SQL("DROP FUNCTION {}()").format(sql.Identifier(SCHEMA, self._function()))
        return [text(statement) for statement in (*triggers, function)]


def column_capture(
    conn: Connection,
    keep: Keep,
    *,
    changes_type: bool,
    without: Collection[str] = (),
    rows_conn: Connection | None = None,
) -> ColumnCapture:
    """Return a column to capture; the columns ``without`` change too, and cannot be part of the key.

    Raises CannotCaptureError when no key identifies its rows, or some are hidden.
    """
    found, name = place(conn, keep)
    relation = Facts(conn).named(found.name)
    if relation is not None and relation.is_temporary:
        raise CannotCaptureError(f"{keep.table} is temporary")
    if found.is_filtered or (rows_conn is not None and _is_filtered(rows_conn, keep)):
        raise CannotCaptureError(f"row level security hides rows of {keep.table} from this session")
    if relation is not None and relation.has_children and not found.is_partitioned:
        raise CannotCaptureError(f"{keep.table} has child tables, and no unique key spans them")
    keys = [columns for columns in keys_of(conn, found.oid) if not {name, *without} & {*columns}]
    if not keys:
        raise CannotCaptureError(f"{keep.table} has no unique key without this column")
    unsteady = [column.name for column in found.named(keys[0]) if not _is_steady(column)]
    if unsteady:
        raise CannotCaptureError(f"{keep.table} has the key {', '.join(unsteady)}, whose text depends on settings")
    by = dict(zip(*keys_with_operators(conn, found.oid, keys[0]), strict=True))
    found = replace(found, key=keys[0], operators=tuple(by[column] for column in keys[0]))
    return ColumnCapture(replace(keep, key=keys[0]), found, found.columns[name], changes_type)


def record(*values: sql.Composable) -> sql.Composable:
    """Return values as one record, which *= and *<> compare by bytes, whatever the types."""
    return sql.SQL("CAST(ROW({}) AS record)").format(sql.SQL(", ").join(values))


def hash_of_new(alias: str, name: str) -> sql.Composable:
    """Return the hash of a value's binary form, which does not depend on settings."""
    return sql.SQL("pg_catalog.sha256(pg_catalog.record_send(ROW({})))").format(sql.Identifier(alias, name))


def is_large(conn: Connection, found: Table, rows_conn: Connection | None, batch_rows: int) -> bool:
    """Tell whether a table holds more rows than go into one batch."""
    relation: Relation | None = Facts(conn).named(found.name)
    return relation is None or Facts(conn, rows_conn).has_rows_beyond(relation, batch_rows)


def keys_of(conn: Connection, oid: int) -> list[tuple[str, ...]]:
    """Return the keys of a table, the best first."""
    return [tuple(one["columns"]) for one in rows(conn, "keys", oid=oid)]


def keys_with_operators(conn: Connection, oid: int, key: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the key over these columns, in the order of its index, with operators; empty when there is none."""
    for one in rows(conn, "keys", oid=oid):
        if sorted(one["columns"]) == sorted(key):
            return tuple(one["columns"]), tuple(one["operators"])
    return (), ()


def is_changed_type(statement: str, column: str) -> bool:
    """Tell whether a statement changes the type of the column."""
    node = tree(statement)
    cmds = getattr(node, "cmds", None) or ()
    return any(cmd.subtype.name == "AT_AlterColumnType" and cmd.name == column for cmd in cmds)


def column_name(conn: Connection, keep: Keep) -> str:
    """Return a captured column's name as the catalog has it."""
    return place(conn, keep)[1]


def place(conn: Connection, keep: Keep, *, must_be_there: bool = True) -> tuple[Table, str]:
    """Return the table of a captured column, as it is now, and the column's name as the catalog has it."""
    found = rows(conn, "column_named", table=keep.table, column=keep.column)
    if not found or (must_be_there and found[0]["name"] is None):
        raise CannotCaptureError(f"{keep.table}.{keep.column} does not exist")
    return table(conn, found[0]["oid"]), str(found[0]["name"])


def keyed_as_captured(conn: Connection, found: Table, keep: Keep) -> Table:
    """Return a table with the key by which a column was captured, in that order."""
    by = dict(zip(*keys_with_operators(conn, found.oid, keep.key), strict=True))
    if not by:
        raise CannotCaptureError(f"{keep.table} has no unique index on {', '.join(keep.key)} now")
    return replace(found, key=tuple(keep.key), operators=tuple(by[column] for column in keep.key))


def _is_filtered(conn: Connection, keep: Keep) -> bool:
    there = rows(conn, "column_named", table=keep.table, column=keep.column)
    return bool(there) and bool(rows(conn, "traits", oid=there[0]["oid"])[0]["is_filtered"])


def _is_steady(column: Column) -> bool:
    return not column.is_of_application or column.is_word or column.base_type in _STEADY
