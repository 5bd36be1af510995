"""Triggers by which what was captured of a row follows it: to another key, and away with it.

A key tells which row it is as long as no key changes and no row goes: after that another row may have it. So until
the captured values are reverted, reapplied or purged:

1. A row whose key changes takes what was captured of it along.
2. Of a row that goes (DELETE, TRUNCATE, a key that somebody else takes), what was captured is noted as gone, with the
   transaction. Nobody gets it again.
3. Where a step of ours deletes rows, it writes its own label over that note, in its transaction (``row_notes``).
   The step that takes it back inserts the rows again, and what has its label is theirs again.
4. What cannot be told is noted as gone too: conflicts list it.

Rows that take over keys from each other: the triggers fire in the order in which the rows were changed, so a key is
left before it is taken. Where the key is deferrable, it may be taken before. So it is noted when a row came to its
key: in this statement, it is not the one that leaves it; else the version of the row tells; else nobody can. A row
that changes its partition is deleted and inserted: BEFORE UPDATE knows both keys, and the deletion that follows is
that of another row than one that came to the key in this transaction, if it deletes an older version.

Nobody's write fails: not when the key has another name or type by now. A transaction that began before the capture
and keeps its snapshot cannot see what was captured; the server aborts it to be begun again (SQLSTATE 40001), as it
does when a row was changed meanwhile.

Source: https://www.postgresql.org/docs/current/trigger-definition.html,
https://www.postgresql.org/docs/current/ddl-system-columns.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from pgrunbook.database.row_tracker import FIRST, LAST, is_ours, truncate_triggers
from pgrunbook.sql.deparse import text
from pgrunbook.undo_data.row_notes import ARRIVED, GONE, LOST, function_name
from pgrunbook.undo_data.tables import SCHEMA, Column, Table, key_name

_BODY = """
DECLARE
    {variables};
    is_ours boolean;
    this pg_catalog.text;
    leaving pg_catalog.tid[];
    named pg_catalog.text[];
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        BEGIN
            UPDATE {side} AS k SET {gone} = pg_catalog.pg_current_xact_id()
            WHERE k.{gone} IS NULL AND NOT EXISTS (SELECT FROM {table} AS t WHERE {matches});
        EXCEPTION WHEN OTHERS THEN
            UPDATE {side} AS k SET {gone} = pg_catalog.pg_current_xact_id() WHERE k.{gone} IS NULL;
        END;
        RETURN NULL;
    END IF;
    BEGIN
        {old_read};
        IF TG_OP = 'UPDATE' THEN
            {new_read};
        END IF;
    EXCEPTION WHEN undefined_column OR undefined_function OR datatype_mismatch OR data_exception THEN
        -- The key has another name or type by now.
        BEGIN
            named := ARRAY(
                SELECT a.attname
                FROM pg_catalog.unnest(CAST(
                    pg_catalog.obj_description({named_side}::pg_catalog.regclass, 'pg_class') AS pg_catalog.int2[]
                )) WITH ORDINALITY AS n (number, place)
                JOIN pg_catalog.pg_attribute AS a ON a.attnum = n.number AND NOT a.attisdropped
                WHERE a.attrelid = coalesce(
                    (SELECT p.relid
                     FROM pg_catalog.pg_partition_ancestors(TG_RELID) AS p
                     JOIN pg_catalog.pg_trigger AS g
                       ON g.tgrelid = p.relid AND g.tgname = TG_NAME AND g.tgparentid = 0),
                    TG_RELID)
                ORDER BY n.place);
            IF pg_catalog.cardinality(named) < {count} THEN
                RAISE undefined_column;
            END IF;
            {old_read_by_text};
            IF TG_OP = 'UPDATE' THEN
                {new_read_by_text};
            END IF;
        EXCEPTION WHEN undefined_column OR undefined_function OR datatype_mismatch OR data_exception THEN
            INSERT INTO {side} ({gone})
            SELECT {lost} WHERE NOT EXISTS (SELECT FROM {side} AS k WHERE k.{gone} = {lost});
            RETURN NEW;
        END;
    END;
    IF TG_OP = 'UPDATE' AND CAST(ROW({old}) AS pg_catalog.record)
        OPERATOR(pg_catalog.*=) CAST(ROW({new}) AS pg_catalog.record) THEN
        {watches}RETURN NEW;
    END IF;
    {behind}IF TG_OP = 'UPDATE' AND TG_WHEN = 'AFTER' AND EXISTS (
        SELECT FROM {side} AS k
        WHERE {at_new} AND k.xmin::pg_catalog.text = NEW.xmin::pg_catalog.text
          AND k.cmin::pg_catalog.text = NEW.cmin::pg_catalog.text
    ) THEN
        RETURN NEW;  -- This statement is the one that captures.
    END IF;
    {moves}
    RETURN NEW;
END
"""
_WATCHES = """IF CAST(ROW({old_value}) AS pg_catalog.record)
            OPERATOR(pg_catalog.*<>) CAST(ROW({new_value}) AS pg_catalog.record) THEN
            UPDATE {side} AS k SET {gone} = pg_catalog.pg_current_xact_id() WHERE {at_old} AND k.{gone} IS NULL;
        END IF;
        """
# Whoever does not see the trigger does not see what was captured either.
_BEHIND = """
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger AS g WHERE g.tgrelid = TG_RELID AND g.tgname = TG_NAME) THEN
        RAISE serialization_failure USING MESSAGE = 'could not serialize access due to concurrent update',
            DETAIL = 'The snapshot of this transaction is older than the capture of a column of this table.';
    END IF;
    """
_IN_ORDER = """IF TG_OP = 'DELETE' THEN
        is_ours := {old_is_ours};
        UPDATE {side} AS k SET {gone} = pg_catalog.pg_current_xact_id()
        WHERE {at_old} AND k.{gone} IS NULL
          AND (is_ours OR k.{arrived} IS DISTINCT FROM pg_catalog.pg_current_xact_id()::pg_catalog.text);
        RETURN NULL;
    END IF;
    UPDATE {side} AS k SET {gone} = pg_catalog.pg_current_xact_id() WHERE {at_new} AND k.{gone} IS NULL;
    UPDATE {side} AS k SET {keys} = {new_row}, {arrived} = pg_catalog.pg_current_xact_id()
    WHERE {at_old} AND k.{gone} IS NULL;"""
_DEFERRED = """is_ours := {old_is_ours};
    this := pg_catalog.pg_current_xact_id()::pg_catalog.text || ' ';
    IF TG_OP = 'UPDATE' AND TG_WHEN = 'AFTER' THEN
        this := this || NEW.cmin::pg_catalog.text || ' ';
    END IF;
    leaving := ARRAY(
        SELECT k.ctid
        FROM {side} AS k
        WHERE {at_old} AND k.{gone} IS NULL
          AND (k.{arrived} IS NULL
               OR NOT pg_catalog.starts_with(k.{arrived}, pg_catalog.split_part(this, ' ', 1) || ' ')
               OR (is_ours
                   AND (TG_OP = 'DELETE' OR TG_WHEN = 'BEFORE' OR NOT pg_catalog.starts_with(k.{arrived}, this)))));
    IF pg_catalog.cardinality(leaving) > 1 OR EXISTS (
        SELECT
        FROM {side} AS k
        WHERE k.ctid = ANY (leaving)
          AND pg_catalog.starts_with(k.{arrived}, pg_catalog.split_part(this, ' ', 1) || ' ')
    ) THEN
        IF EXISTS (SELECT FROM {side} AS k WHERE k.ctid = ANY (leaving) AND {is_version}) THEN
            leaving := ARRAY(SELECT k.ctid FROM {side} AS k WHERE k.ctid = ANY (leaving) AND {is_version});
        ELSE
            UPDATE {side} AS k SET {gone} = pg_catalog.pg_current_xact_id() WHERE k.ctid = ANY (leaving);
            RETURN NEW;
        END IF;
    END IF;
    IF TG_OP = 'DELETE' THEN
        UPDATE {side} AS k SET {gone} = pg_catalog.pg_current_xact_id() WHERE k.ctid = ANY (leaving);
    ELSE
        UPDATE {side} AS k
        SET {keys} = {new_row},
            {arrived} = this || CASE TG_WHEN WHEN 'AFTER' THEN NEW.ctid::pg_catalog.text ELSE '' END
        WHERE k.ctid = ANY (leaving);
    END IF;"""
_IS_VERSION = (
    "pg_catalog.starts_with(k.{arrived}, pg_catalog.split_part(this, ' ', 1) || ' ')"
    " AND pg_catalog.split_part(k.{arrived}, ' ', 3) = OLD.ctid::pg_catalog.text"
)
# The numbers of the key's columns stay when their names change: the side table has them as its comment.
_NUMBERS = """
BEGIN
    EXECUTE (
        SELECT format('COMMENT ON TABLE %s IS %L', {side}, array_agg(a.attnum ORDER BY n.place))
        FROM unnest({names}::text[]) WITH ORDINALITY AS n (name, place)
        JOIN pg_attribute AS a ON a.attname = n.name
        WHERE a.attrelid = {table}::regclass
    );
END
"""
_NO_UNIQUE = """
DECLARE
    dropped text;
BEGIN
    FOR dropped IN
        SELECT i.indexrelid::regclass FROM pg_index AS i WHERE i.indrelid = {}::regclass AND i.indisunique
    LOOP
        EXECUTE 'DROP INDEX ' || dropped;
    END LOOP;
END
"""
# Types of the application may be a key only when their text is the same under all settings.
_STEADY = {"bigint", "boolean", "bytea", "integer", "numeric", "smallint", "uuid"}


@dataclass(frozen=True)
class Followers:
    """The triggers on a table that let the rows of one side table follow; ``table`` has the key of the side table.

    ``is_old_seen`` says that a transaction which is older than the capture may still see the rows as they were.
    What somebody writes into the column ``watched`` is newer than what was captured of the row: that is gone then.
    """

    kept_as: str
    table: Table
    is_old_seen: bool = False
    watched: Column | None = None

    @property
    def side(self) -> sql.Identifier:
        """The side table."""
        return sql.Identifier(SCHEMA, self.kept_as)

    @property
    def key(self) -> tuple[Column, ...]:
        """The columns of the key."""
        return self.table.named(self.table.key)

    @property
    def function(self) -> sql.Identifier:
        """The trigger function."""
        return sql.Identifier(SCHEMA, function_name(self.kept_as))

    @property
    def columns(self) -> list[sql.Composed]:
        """The definitions of the columns that a side table has for it."""
        return [sql.SQL("{} pg_catalog.text").format(sql.Identifier(name)) for name in (GONE, ARRIVED)]

    def indexes(self, *, is_unique: bool) -> list[str]:
        """Return the statements that create the indexes of the side table.

        Where ``is_unique``, what is there has each key once until :meth:`creation`; then a deferrable key may be there
        twice for a moment.
        """
        found: list[tuple[str, sql.Composable]] = [("INDEX ON {} ({}) WHERE {} IS NOT NULL", sql.Identifier(GONE))]
        if is_unique:
            found.append(("UNIQUE INDEX ON {} ({}) WHERE {} IS NULL", self.keys()))
        if self.table.is_key_deferrable or not is_unique:
            found.append(("INDEX ON {} ({}) WHERE {} IS NULL", self.keys()))
        return [
            text(sql.SQL(f"CREATE {made}").format(self.side, columns, sql.Identifier(GONE))) for made, columns in found
        ]

    def creation(self) -> list[str]:
        """Return the statements that create function and triggers, in the place of what has the name.

        Locks: ShareRowExclusiveLock on the table and its partitions.
        """
        made = sql.SQL(
            "CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
            " SET search_path = '' AS {}"
        ).format(self.function, sql.Literal(text(self._body())))
        numbers = sql.SQL(_NUMBERS).format(
            names=sql.Literal(list(self.table.key)), table=sql.Literal(self._name.as_string(None)),
            side=sql.Literal(self.side.as_string(None)),
        )  # fmt: skip
        statements = [
            made,
            sql.SQL("DO {}").format(sql.Literal(text(numbers))),
            sql.SQL("REVOKE ALL ON FUNCTION {}() FROM PUBLIC").format(self.function),
        ]
        fires = {trigger_name(self.kept_as): "AFTER UPDATE OR DELETE"}
        if self.table.is_partitioned:
            fires = {trigger_name(self.kept_as): "AFTER DELETE", f"{LAST}_{self.kept_as}": "BEFORE UPDATE"}
        for name, event in fires.items():
            trigger = sql.Identifier(name)
            statements.append(
                sql.SQL("CREATE OR REPLACE TRIGGER {} {} ON {} FOR EACH ROW EXECUTE FUNCTION {}()").format(
                    trigger, sql.SQL(event), self._name, self.function
                )
            )
            statements.append(sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(self._name, trigger))
        all_ = trigger_name(self.kept_as, of_all=True)
        statements += truncate_triggers(self._name, all_, self.function, is_partitioned=self.table.is_partitioned)
        if self.table.is_key_deferrable:
            dropped = sql.SQL(_NO_UNIQUE).format(sql.Literal(self.side.as_string(None)))
            statements.append(sql.SQL("DO {}").format(sql.Literal(text(dropped))))
        return [text(statement) for statement in statements]

    @property
    def _name(self) -> sql.Identifier:
        return self.table.name.identifier()

    def keys(self) -> sql.Composable:
        """Return the names of the side table's columns for the key."""
        return sql.SQL(", ").join(sql.Identifier(key_name(n)) for n in range(len(self.key)))

    def has_key(self, values: Sequence[sql.Composable]) -> sql.Composable:
        """Return the condition that a row of the side table has this key."""
        pairs = [
            sql.SQL("k.{} = {}").format(sql.Identifier(key_name(n)), value) for n, value in enumerate(values)
        ]  # fmt: skip
        return sql.SQL(" AND ").join(pairs)

    def _body(self) -> sql.Composable:
        variables = {row: [sql.SQL(f"{row}_{n}") for n in range(1, len(self.key) + 1)] for row in ("old", "new")}
        both = [*variables["old"], *variables["new"]]
        parts: dict[str, sql.Composable] = {
            "side": self.side, "named_side": sql.Literal(self.side.as_string(None)),
            "gone": sql.Identifier(GONE), "arrived": sql.Identifier(ARRIVED),
            "table": self._name, "matches": self.table.matches("t", "k"), "lost": sql.Literal(LOST),
            "count": sql.Literal(len(self.key)), "keys": sql.SQL("({})").format(self.keys()),
            "old": sql.SQL(", ").join(variables["old"]), "new": sql.SQL(", ").join(variables["new"]),
            "new_row": sql.SQL("ROW({})").format(sql.SQL(", ").join(variables["new"])),
            "at_old": self.has_key(variables["old"]), "at_new": self.has_key(variables["new"]),
            "old_is_ours": is_ours(sql.SQL("OLD.xmin")),
            "is_version": sql.SQL(_IS_VERSION).format(arrived=sql.Identifier(ARRIVED)),
            "variables": sql.SQL(";\n    ").join(
                sql.SQL("{} {}").format(variable, column.side_type)
                for variable, column in zip(both, (*self.key, *self.key), strict=True)
            ),
        }  # fmt: skip
        for row, names in variables.items():
            parts[f"{row}_read"] = _assigned(names, [c.captured(sql.Identifier(row, c.name)) for c in self.key])
            by_text = [
                sql.SQL("CAST(pg_catalog.to_jsonb({}) ->> named[{}] AS {})").format(
                    sql.SQL(row), sql.Literal(n), column.side_type
                )
                for n, column in enumerate(self.key, 1)
            ]
            parts[f"{row}_read_by_text"] = _assigned(names, by_text)
        moves = _DEFERRED if self.table.is_key_deferrable else _IN_ORDER
        if self.watched is not None:
            parts["old_value"], parts["new_value"] = (sql.Identifier(row, self.watched.name) for row in ("old", "new"))
        return sql.SQL(_BODY).format(
            behind=sql.SQL(_BEHIND if self.is_old_seen else ""), moves=sql.SQL(moves).format(**parts),
            watches=sql.SQL(_WATCHES if self.watched is not None else "").format(**parts), **parts,
        )  # fmt: skip


def trigger_name(kept_as: str, *, of_all: bool = False) -> str:
    """Return the name of the trigger for each row, or of that for TRUNCATE."""
    return f"{FIRST}_{kept_as}{'_all' if of_all else ''}"


def unsteady(table: Table) -> list[str]:
    """Return the columns of a key whose text depends on settings, so that nobody can follow it; [] for none."""
    return [c.name for c in table.named(table.key) if c.is_of_application and not (c.is_word or c.base_type in _STEADY)]


def obstacle(table: Table) -> str:
    """Return why triggers cannot follow the rows of a table, after its name; "" when they can."""
    if unsteady(table):
        return f"has the key {', '.join(unsteady(table))}, whose text depends on settings"
    if not table.is_own:
        return "belongs to another role: only its owner may let triggers follow what is captured"
    if table.is_partitioned and any(column.is_generated for column in table.named(table.key)):
        return (
            "is partitioned and has a generated column in its key: nobody knows where a row goes that changes its key"
        )
    return ""


def _assigned(names: Sequence[sql.Composable], values: Sequence[sql.Composable]) -> sql.Composable:
    pairs = zip(names, values, strict=True)
    return sql.SQL(";\n            ").join(sql.SQL("{} := {}").format(name, value) for name, value in pairs)
