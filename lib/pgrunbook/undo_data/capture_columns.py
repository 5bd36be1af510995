"""Capture of a column's values before the column is dropped, or its type changed with loss.

Of a small table, in the transaction of the statement: lock the table as the statement will, and copy the values.
Of a large table:

1. Create a side table, and a trigger that copies every row written from then on into it.
2. Copy the other rows, batch by batch; a value that the trigger has copied is newer, and stays.
3. Drop the trigger in the transaction of the statement, whose lock keeps writers out. Before, read the keys again of
   which it is not certain whether the loop has copied them behind a writer: a row was deleted meanwhile, or its
   writer's snapshot is older than the copy.

Where only the type changes, that transaction also stores a hash of each new value: the old value is reverted only
in rows that still have the new one.

From then on until the values are reverted, reapplied or purged, triggers let them follow their rows (``followers``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.database.facts import Facts
from pgrunbook.database.relations import Relation
from pgrunbook.plan.step import RANGE, Batches, Keep, SafeStep
from pgrunbook.sql.deparse import text
from pgrunbook.sql.do_branches import unfolded
from pgrunbook.sql.tree import constraint_kind, quoted, subcommand, tree
from pgrunbook.undo_data.cascades import CannotCaptureError
from pgrunbook.undo_data.followers import Followers, obstacle
from pgrunbook.undo_data.former_keys import formerly_keyed, see_apart
from pgrunbook.undo_data.key_values import key_after
from pgrunbook.undo_data.row_notes import GONE, NEW, PART, function_name, refuse_switched_off, trigger_name
from pgrunbook.undo_data.tables import (
    SCHEMA,
    CapturedColumn,
    CapturedTable,
    key_name,
    keyed_without_index,
    rows,
    table,
)

VALUE = "pgrunbook_value"
# The note that the value of a key has to be read again.
AGAIN = "again"
_WRITING = """
DECLARE
    goes boolean := TG_OP = 'DELETE';
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM {side};
        RETURN NULL;
    ELSIF TG_OP = 'UPDATE' AND {before} OPERATOR(pg_catalog.*=) {after} THEN
        RETURN NULL;
    END IF;
    IF pg_catalog.current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
        -- It does not see what others have copied since its snapshot, and must not fail because of it.
        IF TG_OP <> 'INSERT' THEN
            INSERT INTO {side} ({names}, {gone}) VALUES ({old_key}, {again});
        END IF;
        IF TG_OP <> 'DELETE' THEN
            INSERT INTO {side} ({names}, {gone}) VALUES ({new_key}, {again});
        END IF;
        RETURN NULL;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        goes := {old_record} OPERATOR(pg_catalog.*<>) {new_record};
    END IF;
    IF goes THEN
        IF NOT EXISTS (SELECT FROM {source} AS t WHERE {taken}) THEN
            DELETE FROM {side} AS k WHERE {at_old} AND k.{gone} IS NULL;
            IF NOT FOUND THEN
                -- A batch may be copying it now.
                INSERT INTO {side} ({names}, {gone}) VALUES ({old_key}, {again});
            END IF;
        END IF;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO {side} ({targets}) VALUES ({values})
        ON CONFLICT ({names}) WHERE {gone} IS NULL DO UPDATE SET {value} = excluded.{value}{part};
    END IF;
    RETURN NULL;
END
"""
_AGAIN = (
    "DELETE FROM {side} AS k USING {side} AS b WHERE b.{gone} = {again} AND k.{gone} IS NULL AND {same}",
    """INSERT INTO {side} ({targets}) SELECT {values} FROM {side} AS b JOIN {source} AS t ON {matches}
WHERE b.{gone} = {again} ON CONFLICT DO NOTHING""",
    "DELETE FROM {side} WHERE {gone} = {again}",
)


@dataclass(frozen=True)
class ColumnCapture:
    """A column to capture, with its table as it is now, and its side table.

    Of a key that is new with the statement, nothing can be captured before. ``made`` are the new values of a key whose
    types the statement changes, by column; the table then has its key as it is after the statement.
    """

    keep: Keep
    table: CapturedTable
    column: CapturedColumn
    changes_type: bool = False
    is_key_new: bool = False
    made: Mapping[str, sql.Composable] = field(default_factory=dict)

    @property
    def side(self) -> sql.Identifier:
        """The side table."""
        return sql.Identifier(SCHEMA, self.keep.kept_as)

    @property
    def key(self) -> tuple[CapturedColumn, ...]:
        """The columns of the key."""
        return self.table.named(self.table.key)

    @property
    def _followers(self) -> Followers:
        return Followers(self.keep.kept_as, self.table, is_old_seen=True)

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
        seen = [see_apart(self.table)] if self.table.is_key_former else []
        return [text(locked), *seen, *self._make(), self._copy().replace(RANGE, "true", 1)]

    def epilogue(self) -> list[str]:
        """Return the statements that run after it, in its transaction."""
        follows = self._followers.creation()
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
        triggers = map(sql.Literal, self._triggers)
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
            triggers=sql.SQL(", ").join(triggers), table=table_name,
            function=sql.Literal(function_name(self.keep.kept_as)),
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
        made = sql.SQL("CREATE TABLE {} ({})").format(
            self.side, sql.SQL(", ").join([*keys, value, *new, *self._followers.columns])
        )
        return [
            text(sql.SQL("DO {}").format(sql.Literal(text(looks)))),
            text(made),
            *self._followers.indexes(is_unique=True),
        ]

    def _copy(self) -> str:
        if self.made:
            return self._copy_beside_new_key()
        copied = sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} AS t WHERE {} ON CONFLICT DO NOTHING").format(
            self.side, self._targets(), self._values("t"), self.table.source, sql.SQL(RANGE)
        )
        return text(copied)

    def _copy_beside_new_key(self) -> str:
        """Copy old values beside new keys; no alias hides the name that the statement may give the table."""
        key = [column.captured(self.made.get(column.name, sql.Identifier(column.name))) for column in self.key]
        part = [sql.SQL("tableoid")] if self.table.is_partitioned else []
        values = sql.SQL(", ").join([*key, self.column.captured(sql.Identifier(self.column.name)), *part])
        copied = sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} WHERE {} ON CONFLICT DO NOTHING").format(
            self.side, self._targets(), values, self.table.source, sql.SQL(RANGE)
        )
        return text(copied)

    def _targets(self) -> sql.Composable:
        part = [PART] if self.table.is_partitioned else []
        return sql.SQL(", ").join(map(sql.Identifier, [*map(key_name, range(len(self.key))), VALUE, *part]))

    def _values(self, alias: str) -> sql.Composable:
        found = [column.captured(sql.Identifier(alias, column.name)) for column in (*self.key, self.column)]
        if self.table.is_partitioned:
            found.append(sql.SQL("TG_RELID" if alias == "new" else "t.tableoid"))
        return sql.SQL(", ").join(found)

    @property
    def _triggers(self) -> tuple[str, str]:
        return f"{trigger_name(self.keep.kept_as)}_copy", f"{trigger_name(self.keep.kept_as)}_copy_all"

    def _captured_key(self, row: str) -> list[sql.Composable]:
        return [column.captured(sql.Identifier(row, column.name)) for column in self.key]

    def _start_writing(self) -> list[str]:
        """Create the trigger; its function runs as its owner, for writers have no rights on the side table.

        ENABLE ALWAYS: the triggers also fire in sessions that apply replicated changes.
        """
        function, table_ = self._followers.function, self.table.name.identifier()
        made = sql.SQL(
            "CREATE FUNCTION {0}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
            " SET search_path = '' SET DateStyle = 'ISO' AS {1}; REVOKE ALL ON FUNCTION {0}() FROM PUBLIC"
        ).format(function, sql.Literal(text(self._body())))
        statements = [text(made)]
        events = ("INSERT OR UPDATE OR DELETE ON {} FOR EACH ROW", "TRUNCATE ON {} FOR EACH STATEMENT")
        for name, fires in zip(self._triggers, events, strict=True):
            trigger = sql.Identifier(name)
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
        keys = {row: self._captured_key(row) for row in ("old", "new")}
        return sql.SQL(_WRITING).format(
            side=self.side, gone=sql.Identifier(GONE), again=sql.Literal(AGAIN), before=before, after=after,
            at_old=self._followers.has_key(keys["old"]), source=self.table.source, names=self._followers.keys(),
            old_record=record(*(sql.Identifier("old", column.name) for column in self.key)),
            new_record=record(*(sql.Identifier("new", column.name) for column in self.key)),
            old_key=sql.SQL(", ").join(keys["old"]), new_key=sql.SQL(", ").join(keys["new"]),
            taken=sql.SQL(" AND ").join(taken), targets=self._targets(), values=self._values("new"),
            value=sql.Identifier(VALUE),
            part=sql.SQL(", {0} = excluded.{0}" if self.table.is_partitioned else "").format(sql.Identifier(PART)),
        )  # fmt: skip

    def _stop_writing(self) -> list[str]:
        """Read again what the trigger could not tell, under the lock of the statement, and drop the trigger."""
        same = sql.SQL(" AND ").join(
            sql.SQL("k.{0} = b.{0}").format(sql.Identifier(key_name(n))) for n in range(len(self.key))
        )
        parts: dict[str, sql.Composable] = {
            "side": self.side, "gone": sql.Identifier(GONE), "again": sql.Literal(AGAIN), "same": same,
            "targets": self._targets(), "values": self._values("t"), "source": self.table.source,
            "matches": self.table.matches("t", "b"),
        }  # fmt: skip
        seen = refuse_switched_off(self.keep.kept_as, f"{self.keep.table}.{self.keep.column}")
        again = [seen, *(sql.SQL(each).format(**parts) for each in _AGAIN)]
        triggers = [
            sql.SQL("DROP TRIGGER {} ON {}").format(sql.Identifier(name), self.table.name.identifier())
            for name in self._triggers
        ]
        function = sql.SQL("DROP FUNCTION {}()").format(self._followers.function)
        locked = sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(self.table.source)
        return [text(statement) for statement in (locked, *again, *triggers, function)]


def column_capture(
    conn: Connection,
    keep: Keep,
    *,
    changes_type: bool,
    statement: str = "",
    without: Collection[str] = (),
    rows_conn: Connection | None = None,
) -> ColumnCapture:
    """Return a column to capture; the columns ``without`` change too, and cannot be part of the key.

    A key that the ``statement`` itself adds will do.
    Raises CannotCaptureError when no key identifies its rows, or some are hidden.
    """
    found, name = place(conn, keep)
    relation = Facts(conn).named(found.name)
    if relation is not None and relation.is_temporary:
        raise CannotCaptureError(f"{keep.table} is temporary")
    if found.is_filtered or (rows_conn is not None and _is_filtered(rows_conn, keep)):
        raise CannotCaptureError(f"row level security hides rows of {keep.table} from this session")
    keys = [key.columns for key in found.keys if not {name, *without} & {*key.columns}]
    own = key_after(conn, found, statement, {name, *without}) if not keys else None
    if own is not None:
        after, made = own
        _refuse_obstacle(after, keep)
        return ColumnCapture(replace(keep, key=after.key), after, found.columns[name], changes_type, made=made)
    there = found.keyed(keys[0]) if keys else _added_key(conn, found, statement, {name, *without})
    is_key_new = not keys and there is not None
    if there is None and not found.key and not {*keep.key} & {name, *without}:
        there = formerly_keyed(conn, found, [keep])
    if there is None or not there.key:
        raise CannotCaptureError(f"{keep.table} has no unique key without this column")
    found = there
    _refuse_obstacle(found, keep)
    return ColumnCapture(replace(keep, key=found.key), found, found.columns[name], changes_type, is_key_new)


def _refuse_obstacle(found: CapturedTable, keep: Keep) -> None:
    if obstacle(found):
        raise CannotCaptureError(f"{keep.table} {obstacle(found)}")


def _added_key(conn: Connection, found: CapturedTable, statement: str, goes: Collection[str]) -> CapturedTable | None:
    """Return a table with the primary key that a statement adds to it, of columns that stay; None without one."""
    for cmd in getattr(tree(statement), "cmds", None) or () if statement else ():
        if subcommand(cmd) == "AddConstraint" and constraint_kind(cmd.def_) == "PRIMARY" and cmd.def_.keys:
            names = [part.sval for part in cmd.def_.keys]
            if not {*names} & {*goes} and {*names} <= found.columns.keys():
                return keyed_without_index(conn, found, names, is_deferrable=bool(cmd.def_.deferrable))
    return None


def record(*values: sql.Composable) -> sql.Composable:
    """Return values as one record, which *= and *<> compare by bytes, whatever the types."""
    return sql.SQL("CAST(ROW({}) AS record)").format(sql.SQL(", ").join(values))


def hash_of_new(alias: str, name: str) -> sql.Composable:
    """Return the hash of a value's binary form, which does not depend on settings."""
    return sql.SQL("pg_catalog.sha256(pg_catalog.record_send(ROW({})))").format(sql.Identifier(alias, name))


def is_written(alias: str, name: str, side: str) -> sql.Composable:
    """Return the condition that a row does not hold any more what the change of type made of its captured value."""
    return sql.SQL("({} IS DISTINCT FROM {})").format(hash_of_new(alias, name), sql.Identifier(side, NEW))


def is_large(conn: Connection, found: CapturedTable, rows_conn: Connection | None, batch_rows: int) -> bool:
    """Tell whether a table holds more rows than go into one batch."""
    relation: Relation | None = Facts(conn).named(found.name)
    return relation is None or Facts(conn, rows_conn).has_rows_beyond(relation, batch_rows)


def is_changed_type(statement: str, keep: Keep) -> bool:
    """Tell whether a statement changes the type of a captured column."""
    cmds = [cmd for node in unfolded(tree(statement)) for cmd in getattr(node, "cmds", None) or ()]
    return any(cmd.subtype.name == "AT_AlterColumnType" and quoted(cmd.name) == keep.column for cmd in cmds)


def column_name(conn: Connection, keep: Keep) -> str:
    """Return a captured column's name as the catalog has it."""
    return place(conn, keep)[1]


def place(conn: Connection, keep: Keep, *, must_be_there: bool = True) -> tuple[CapturedTable, str]:
    """Return the table of a captured column, as it is now, and the column's name as the catalog has it."""
    found = rows(conn, "column_named", table=keep.table, column=keep.column)
    if not found or (must_be_there and found[0]["name"] is None):
        raise CannotCaptureError(f"{keep.table}.{keep.column} does not exist")
    return table(conn, found[0]["oid"]), str(found[0]["name"])


def _is_filtered(conn: Connection, keep: Keep) -> bool:
    there = rows(conn, "column_named", table=keep.table, column=keep.column)
    return bool(there) and bool(rows(conn, "traits", oid=there[0]["oid"])[0]["is_filtered"])
