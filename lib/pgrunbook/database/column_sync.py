"""Two columns of a table that agree while others write: a trigger that lets one follow the other; for type changes.

1. ``Leads.OLD``, before the cut-over: whatever writes a row, the new column becomes what ``forward`` makes of the old
   one. Rows that were there before are filled in batches; whoever writes one meanwhile fills it too, so that no notes
   are needed of rows that are inserted or moved.
2. ``Leads.NEW``, after it: the old column follows, so that going back loses no write. It keeps a value that
   ``forward`` makes the new one of; any other becomes what ``backward`` makes of it. Nobody names the old column, so
   an INSERT that gives it a value has none for its columns' names: its values are in the old order, and the value is
   the new column's.
3. ``Leads.BOTH``: two names of one value. An INSERT that gives the old name a value fills the new one from it, any
   other one fills the old one. An UPDATE of one changes the other; where both change, the new one counts.

A value that cannot be converted never makes the application's write fail: the column that follows becomes NULL, and a
row in the table of notes says that this has happened. :meth:`ColumnSync.proof` finds such rows.

The trigger fires in every session, behind the triggers BEFORE of the application, which may change the row. What
``forward`` and ``backward`` call is resolved when they are created, with the search_path of then; the settings that a
conversion may depend on are those of then too, whatever a writer has set.

Source: https://www.postgresql.org/docs/current/trigger-definition.html,
https://www.postgresql.org/docs/current/sql-createfunction.html
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from psycopg import sql

from pgrunbook.database.queries import load
from pgrunbook.database.row_tracker import LAST, SCHEMA
from pgrunbook.sql.own_code import do

# What the conversion of a value to or from text may depend on.
_SETTINGS = ("TimeZone", "DateStyle", "IntervalStyle", "extra_float_digits", "bytea_output", "lc_monetary", "xmloption")
_AGREES = """
DECLARE
    made {new_type};
BEGIN
    made := {forward}(was);
    IF CAST(ROW(made) AS record) OPERATOR(pg_catalog.*=) CAST(ROW(becomes) AS record) THEN
        RETURN true;
    END IF;
    RETURN made IS NOT DISTINCT FROM becomes;
EXCEPTION WHEN OTHERS THEN
    RETURN false;  -- it cannot be converted, or its type has no equality beside that of its bytes
END
"""
_OLD_LEADS = """
BEGIN
    BEGIN
        NEW.{new} := {forward}(NEW.{old});
        RETURN NEW;
    EXCEPTION WHEN OTHERS THEN
        NEW.{new} := NULL;
    END;
    INSERT INTO {notes} DEFAULT VALUES;
    RETURN NEW;
END
"""
_NEW_LEADS = """
BEGIN
    IF {agrees}(NEW.{old}, NEW.{new}) THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'INSERT' AND NEW.{old} IS DISTINCT FROM NULL THEN
        NEW.{new} := {forward}(NEW.{old});
        RETURN NEW;
    END IF;
    BEGIN
        NEW.{old} := {backward}(NEW.{new});
    EXCEPTION WHEN OTHERS THEN
        NEW.{old} := NULL;
    END;
    IF NOT {agrees}(NEW.{old}, NEW.{new}) THEN
        NEW.{old} := NULL;
        INSERT INTO {notes} DEFAULT VALUES;
    END IF;
    RETURN NEW;
END
"""
_BOTH_LEAD = """
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.{old} IS DISTINCT FROM NULL THEN
            NEW.{new} := {forward}(NEW.{old});
        ELSE
            NEW.{old} := {backward}(NEW.{new});
        END IF;
    ELSIF CAST(ROW(NEW.{new}) AS record) OPERATOR(pg_catalog.*<>) CAST(ROW(OLD.{new}) AS record) THEN
        NEW.{old} := {backward}(NEW.{new});
    ELSIF CAST(ROW(NEW.{old}) AS record) OPERATOR(pg_catalog.*<>) CAST(ROW(OLD.{old}) AS record) THEN
        NEW.{new} := {forward}(NEW.{old});
    END IF;
    RETURN NEW;
END
"""
_PROOF = """
DECLARE
    found text;
    rows bigint;
BEGIN
    SELECT g.tgname INTO found
    FROM pg_trigger AS g
    JOIN pg_class AS c ON c.oid = g.tgrelid AND c.relkind = 'r'
    WHERE g.tgfoid = {called}::regprocedure AND g.tgenabled <> 'A';
    IF found IS NOT NULL THEN
        RAISE 'somebody has switched trigger % off', found;
    END IF;
    {begins};
    SELECT count(*), min({place}) INTO rows, found FROM {table} AS t WHERE NOT {agrees}(t.{old}, t.{new});
    IF rows > 0 THEN
        RAISE integrity_constraint_violation USING MESSAGE = format({says}, rows), DETAIL = format({more}, found);
    END IF;
END
"""
# What was noted before the rows are read is among what is read; what is noted later is found by the guard.
_FROM_HERE = "DELETE FROM {notes}"
_UNLESS_NOTED = """
    IF NOT EXISTS (SELECT FROM {notes})
       AND NOT EXISTS (SELECT
                       FROM pg_trigger AS g
                       WHERE g.tgfoid = {called}::regprocedure
                         AND NOT EXISTS (SELECT
                                         FROM pg_depend AS d
                                         WHERE d.classid = 'pg_trigger'::regclass
                                           AND d.objid = g.oid
                                           AND d.refobjid = g.tgfoid
                                           AND d.xmin = g.xmin)) THEN
        RETURN;
    END IF
"""
_TRIAL = """
DECLARE
    one record;
    made {new_type};
    rows bigint := 0;
    told text := '';
BEGIN
    FOR one IN SELECT {place} AS place, t.{old} AS was FROM {table} AS t LOOP
        BEGIN
            made := {forward}(one.was);
            IF {not_null} AND made IS NOT DISTINCT FROM NULL THEN
                RAISE 'it would be NULL';
            END IF;
        EXCEPTION WHEN OTHERS THEN
            rows := rows + 1;
            IF rows <= 5 THEN
                told := told || format(' %s: %s.', one.place, sqlerrm);
            END IF;
        END;
    END LOOP;
    IF rows > 0 THEN
        RAISE integrity_constraint_violation USING MESSAGE = format({says}, rows), DETAIL = ltrim(told);
    END IF;
END
"""
_HIDDEN = """
DECLARE
    taken text;
BEGIN
    FOR taken IN {granted} LOOP
        EXECUTE taken;
    END LOOP;
END
"""


class Leads(StrEnum):
    """Which of two columns the other one follows."""

    OLD = "old"
    NEW = "new"
    BOTH = "both"


@dataclass(frozen=True)
class ColumnPair:
    """Two columns of a table, and the expressions that make the value of one from the other.

    Types are spelt as in SQL, with their modifiers. ``forward`` has the name ``was`` for the old value, ``backward``
    the name ``becomes`` for the new one; their results are assigned to the columns. ``is_steady`` says that neither
    depends on a setting: then none is set for each row, which costs 5 microseconds.
    """

    old: str
    new: str
    old_type: str
    new_type: str
    forward: str = "was"
    backward: str = "becomes"
    is_steady: bool = False

    def renamed(self, old: str, new: str) -> ColumnPair:
        """Return the pair under other names."""
        return replace(self, old=old, new=new)


@dataclass(frozen=True)
class ColumnSync:
    """The trigger, its functions and its table of notes, which all have ``name`` in theirs."""

    name: str
    table: sql.Identifier

    @property
    def function_name(self) -> str:
        """The name of the trigger function."""
        return f"write_{self.name}"

    @property
    def trigger_name(self) -> str:
        """The name of the trigger."""
        return f"{LAST}_{self.name}"

    @property
    def notes(self) -> sql.Identifier:
        """The table with a row for each value that could not be converted."""
        return sql.Identifier(SCHEMA, self.name)

    def installation(self, pair: ColumnPair, leads: Leads) -> str:
        """Return the statements that create it; what an abandoned attempt has left is dropped.

        Execute them in one transaction, as the role, and with the settings, of the migration.
        Locks: ShareRowExclusiveLock on the table and its partitions.
        """
        trigger, convert = sql.Identifier(self.trigger_name), self._convert
        statements: list[sql.Composable] = [
            sql.SQL(self._clearance()),
            sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(self.table),
            sql.SQL("CREATE TABLE {} (id pg_catalog.int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY)").format(self.notes),
            convert("forward", "was", pair.old_type, pair.new_type, pair.forward),
            convert("backward", "becomes", pair.new_type, pair.old_type, pair.backward),
            sql.SQL(
                "CREATE FUNCTION {}(was {}, becomes {}) RETURNS pg_catalog.bool LANGUAGE plpgsql"
                " SET search_path = pg_catalog, pg_temp{} AS {}"
            ).format(
                self._function("agrees"), sql.SQL(pair.old_type), sql.SQL(pair.new_type), _settings(pair),
                self._literal(_AGREES, pair),
            ),
            sql.SQL(self.turn(pair, leads)),
            *(sql.SQL("REVOKE ALL ON FUNCTION {} FROM PUBLIC").format(self._function(kind)) for kind in _KINDS),
            do(self._hidden()),
            sql.SQL("CREATE TRIGGER {} BEFORE INSERT OR UPDATE ON {} FOR EACH ROW EXECUTE FUNCTION {}()").format(
                trigger, self.table, self._function("write")
            ),
            sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(self.table, trigger),
        ]  # fmt: skip
        return ";\n".join(statement.as_string(None) for statement in statements)

    def turn(self, pair: ColumnPair, leads: Leads) -> str:
        """Return the statement that lets another column lead, or knows the columns by other names.

        Execute it while nobody writes to the table.
        """
        body = {Leads.OLD: _OLD_LEADS, Leads.NEW: _NEW_LEADS, Leads.BOTH: _BOTH_LEAD}[leads]
        made = sql.SQL(
            "CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
            " SET search_path = pg_catalog, pg_temp{} AS {}"
        ).format(self._function("write"), _settings(pair), self._literal(body, pair))
        return made.as_string(None)

    def trial(self, pair: ColumnPair, key: Sequence[str], *, not_null: bool) -> str:
        """Return the statements that fail where a row's value cannot be converted, and name rows by their key.

        They read all rows, and leave nothing behind. Locks: AccessShareLock on the table.
        """
        block = sql.SQL(_TRIAL).format(
            new_type=sql.SQL(pair.new_type), old=sql.Identifier(pair.old), table=self.table,
            place=_place(key), forward=self._function("forward"), not_null=sql.Literal(not_null),
            says=sql.Literal(f"values of {self.table.as_string(None)} cannot be converted, in %s of its rows"),
        )  # fmt: skip
        made = self._convert("forward", "was", pair.old_type, pair.new_type, pair.forward)
        dropped = sql.SQL("DROP FUNCTION {}").format(self._function("forward"))
        statements = (sql.SQL(self._clearance()), made, do(block), dropped)
        return ";\n".join(statement.as_string(None) for statement in statements)

    def missing(self, pair: ColumnPair) -> sql.Composed:
        """Return the condition of rows of ``t`` that nobody has filled."""
        is_due = "t.{} IS NOT DISTINCT FROM NULL AND {} IS DISTINCT FROM NULL"  # IS NULL asks a composite's fields
        return sql.SQL(is_due).format(sql.Identifier(pair.new), self.converted(pair))

    def converted(self, pair: ColumnPair) -> sql.Composed:
        """Return the value of the new column, made from the old one of ``t``."""
        return sql.SQL("{}(t.{})").format(self._function("forward"), sql.Identifier(pair.old))

    def proof(self, pair: ColumnPair, key: Sequence[str] = ()) -> str:
        """Return the statement that fails where a row's columns do not agree, or the trigger is switched off.

        It reads all rows, and names one by its key. Locks: AccessShareLock on the table.
        """
        return self._proof(pair, key, _FROM_HERE)

    def guard(self, pair: ColumnPair, key: Sequence[str] = ()) -> str:
        """Return the statement that fails where the proof would, while nobody writes to the table.

        It reads rows only where one could not be converted since the proof, or somebody has had the trigger off.
        """
        return self._proof(pair, key, _UNLESS_NOTED)

    def _proof(self, pair: ColumnPair, key: Sequence[str], begins: str) -> str:
        called = sql.Literal(f"{self._function('write').as_string(None)}()")
        block = sql.SQL(_PROOF).format(
            called=called, table=self.table, agrees=self._function("agrees"), place=_place(key),
            says=sql.Literal(f"two columns of {self.table.as_string(None)} do not agree, in %s of its rows"),
            more=sql.Literal("One is %s. What the other type cannot hold is NULL there."),
            begins=sql.SQL(begins).format(notes=self.notes, called=called),
            old=sql.Identifier(pair.old), new=sql.Identifier(pair.new),
        )  # fmt: skip
        return do(block).as_string(None)

    def removal(self) -> str:
        """Return the statements that drop the trigger and what belongs to it.

        Locks: AccessExclusiveLock on the table and its partitions.
        """
        dropped = sql.SQL("DROP TRIGGER {} ON {}").format(sql.Identifier(self.trigger_name), self.table)
        return ";\n".join([dropped.as_string(None), self._clearance()])

    def cleanup(self) -> str:
        """Return the query that finds the statements which drop all of it that is there."""
        found = [
            sql.SQL(
                "SELECT pg_catalog.format('DROP TRIGGER %I ON %s', g.tgname, g.tgrelid::pg_catalog.regclass)"
                " FROM pg_catalog.pg_trigger AS g JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) g.tgfoid"
                " WHERE p.pronamespace OPERATOR(pg_catalog.=) pg_catalog.to_regnamespace({})::pg_catalog.oid"
                " AND p.proname OPERATOR(pg_catalog.=) {} AND g.tgparentid OPERATOR(pg_catalog.=) 0::pg_catalog.oid"
            ).format(sql.Literal(SCHEMA), sql.Literal(self.function_name)),
            sql.SQL(
                "SELECT pg_catalog.format('DROP FUNCTION %s', p.oid::pg_catalog.regprocedure)"
                " FROM pg_catalog.unnest({}::pg_catalog.text[]) WITH ORDINALITY AS k (name, place)"
                " JOIN pg_catalog.pg_proc AS p ON p.proname OPERATOR(pg_catalog.=) k.name"
                " WHERE p.pronamespace OPERATOR(pg_catalog.=) pg_catalog.to_regnamespace({})::pg_catalog.oid"
            ).format(sql.Literal([f"{kind}_{self.name}" for kind in _KINDS]), sql.Literal(SCHEMA)),
            sql.SQL("SELECT {} WHERE pg_catalog.to_regclass({}) IS NOT NULL").format(
                sql.Literal(f"DROP TABLE {self.notes.as_string(None)}"), sql.Literal(self.notes.as_string(None))
            ),
        ]
        return sql.SQL(" UNION ALL ").join(found).as_string(None)

    def _clearance(self) -> str:
        body = f"DECLARE dropped text; BEGIN FOR dropped IN {self.cleanup()} LOOP EXECUTE dropped; END LOOP; END"
        return do(sql.SQL(body)).as_string(None)

    def _hidden(self) -> sql.Composed:
        """Return the block that takes back what default privileges have given to others."""
        names = [self.name, f"{self.name}_id_seq", *(f"{kind}_{self.name}" for kind in _KINDS)]
        query = load("own_schema")["granted"].replace("%(names)s", sql.Literal(names).as_string(None))
        return sql.SQL(_HIDDEN).format(granted=sql.SQL(query.replace("%%", "%").rstrip().rstrip(";")))

    def _convert(self, kind: str, argument: str, given: str, made: str, expression: str) -> sql.Composed:
        return sql.SQL("CREATE FUNCTION {}({} {}) RETURNS {} LANGUAGE sql RETURN {}").format(
            self._function(kind), sql.SQL(argument), sql.SQL(given), sql.SQL(made), sql.SQL(f"({expression})")
        )

    def _literal(self, body: str, pair: ColumnPair) -> sql.Literal:
        composed = sql.SQL(body).format(
            old=sql.Identifier(pair.old), new=sql.Identifier(pair.new), new_type=sql.SQL(pair.new_type),
            forward=self._function("forward"), backward=self._function("backward"), agrees=self._function("agrees"),
            notes=self.notes,
        )  # fmt: skip
        return sql.Literal(composed.as_string(None))

    def _function(self, kind: str) -> sql.Identifier:
        return sql.Identifier(SCHEMA, f"{kind}_{self.name}")


_KINDS = ("write", "agrees", "forward", "backward")  # in the order in which they can be dropped


def filled(columns: Sequence[tuple[ColumnSync, ColumnPair]], rows: str) -> str:
    """Return the UPDATE that fills the new columns of a table in rows that nobody has written meanwhile.

    ``rows`` is the condition of those rows of ``t``, "" for all.
    """
    made = [sql.SQL("{} = {}").format(sql.Identifier(pair.new), sync.converted(pair)) for sync, pair in columns]
    due = sql.SQL(" OR ").join(sync.missing(pair) for sync, pair in columns)
    update = sql.SQL("UPDATE {} AS t SET {} WHERE {}({})")
    condition = sql.SQL(f"{rows} AND " if rows else "")
    return update.format(columns[0][0].table, sql.SQL(", ").join(made), condition, due).as_string(None)


def _place(key: Sequence[str]) -> sql.Composed:
    """Return the text by which a row ``t`` is named: its key, or where it lies."""
    values = [sql.Identifier("t", column) for column in key] or [sql.Identifier("t", "ctid")]
    return sql.SQL("concat_ws(', ', {})").format(sql.SQL(", ").join(values))


def _settings(pair: ColumnPair) -> sql.SQL:
    names = () if pair.is_steady else _SETTINGS
    return sql.SQL("".join(f" SET {name} FROM CURRENT" for name in names))


def sync_name(table: sql.Identifier, old: str, new: str) -> str:
    """Return the name of the sync of two columns: the same in every plan."""
    about = "\0".join([table.as_string(None), old, new])
    return "sync_" + hashlib.sha256(about.encode()).hexdigest()[:16]
