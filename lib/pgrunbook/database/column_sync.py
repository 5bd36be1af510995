"""Two columns of a table that agree while others write: a trigger that lets one follow the other; for type changes.

1. ``Leads.OLD``, before the cut-over: whatever writes a row, the new column becomes what ``forward`` makes of the old
   one. Rows that were there before are filled in batches; whoever writes one meanwhile fills it too, so that no notes
   are needed of rows that are inserted or moved.
2. ``Leads.NEW``, after it: the old column follows, so that going back loses no write. It keeps a value that
   ``forward`` makes the new one of; any other becomes what ``backward`` makes of it. Nobody names the old column, so
   an INSERT that gives it a value has none for its columns' names: its values are in the old order, and the value is
   the new column's. Where ``forward`` reads ``others``, the old column keeps its value until the new one is changed,
   and then becomes what ``backward`` makes of it: the other columns have no say any more.
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

from pgrunbook.database import column_sync_bodies as bodies
from pgrunbook.database.queries import load
from pgrunbook.database.row_tracker import LAST, SCHEMA
from pgrunbook.sql.own_code import do

# What the conversion of a value to or from text may depend on.
_SETTINGS = ("TimeZone", "DateStyle", "IntervalStyle", "extra_float_digits", "bytea_output", "lc_monetary", "xmloption")


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
    depends on a setting: then none is set for each row, which costs 5 microseconds. ``others`` are further columns of
    the row, with their types, that ``forward`` reads by the names that :meth:`argument` gives; ``again`` then makes
    the new value of an old one (``was``) that is alone. ``is_behind`` says that the new column has taken the old one's
    place.
    """

    old: str
    new: str
    old_type: str
    new_type: str
    forward: str = "was"
    backward: str = "becomes"
    is_steady: bool = False
    others: tuple[tuple[str, str], ...] = ()
    again: str = ""
    is_behind: bool = False

    def behind(self, old: str, new: str) -> ColumnPair:
        """Return the pair under the names that the columns have after the cut-over."""
        return replace(self, old=old, new=new, is_behind=True)

    @staticmethod
    def argument(number: int) -> str:
        """Return the name by which ``forward`` knows another column."""
        return f"beside_{number}"


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
        trigger = sql.Identifier(self.trigger_name)
        statements: list[sql.Composable] = [
            sql.SQL(self._clearance()),
            sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(self.table),
            sql.SQL("CREATE TABLE {} (id pg_catalog.int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY)").format(self.notes),
            *self._functions(pair),
            sql.SQL(self.turn(pair, leads)),
            *(sql.SQL("REVOKE ALL ON FUNCTION {} FROM PUBLIC").format(self._function(kind)) for kind in _kinds(pair)),
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
        new_leads = bodies.NEW_LEADS_ALONE if pair.others else bodies.NEW_LEADS
        body = {Leads.OLD: bodies.OLD_LEADS, Leads.NEW: new_leads, Leads.BOTH: bodies.BOTH_LEAD}[leads]
        made = sql.SQL(
            "CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
            " SET search_path = pg_catalog, pg_temp{} AS {}"
        ).format(self._function("write"), _settings(pair), self._literal(body, pair))
        return made.as_string(None)

    def trial(self, pair: ColumnPair, key: Sequence[str], *, not_null: bool) -> str:
        """Return the statements that fail where a row's value cannot be converted, and name rows by their key.

        They read all rows, and leave nothing behind. Locks: AccessShareLock on the table.
        """
        block = sql.SQL(bodies.TRIAL).format(
            new_type=sql.SQL(pair.new_type), table=self.table, place=_place(key),
            selected=sql.SQL(", ").join(
                sql.SQL("{} AS {}").format(sql.Identifier("t", column), sql.Identifier(argument))
                for column, argument, _ in _arguments(pair)
            ),
            found=sql.SQL(", ").join(sql.Identifier("one", argument) for _, argument, _ in _arguments(pair)),
            forward=self._function("forward"), not_null=sql.Literal(not_null),
            says=sql.Literal(f"values of {self.table.as_string(None)} cannot be converted, in %s of its rows"),
        )  # fmt: skip
        made = self._convert("forward", _arguments(pair), pair.new_type, pair.forward)
        dropped = sql.SQL("DROP FUNCTION {}").format(self._function("forward"))
        statements = (sql.SQL(self._clearance()), made, do(block), dropped)
        return ";\n".join(statement.as_string(None) for statement in statements)

    def missing(self, pair: ColumnPair) -> sql.Composed:
        """Return the condition of rows of ``t`` that nobody has filled."""
        is_due = "t.{} IS NOT DISTINCT FROM NULL AND {} IS DISTINCT FROM NULL"  # IS NULL asks a composite's fields
        return sql.SQL(is_due).format(sql.Identifier(pair.new), self.converted(pair))

    def converted(self, pair: ColumnPair) -> sql.Composed:
        """Return the value of the new column, made from the old one of ``t``, or from several."""
        return sql.SQL("{}({})").format(self._function("forward"), _given("t", pair))

    def proof(self, pair: ColumnPair, key: Sequence[str] = ()) -> str:
        """Return the statement that fails where a row's columns do not agree, or the trigger is switched off.

        It reads all rows, and names one by its key. Locks: AccessShareLock on the table.
        """
        return self._proof(pair, key, bodies.FROM_HERE)

    def guard(self, pair: ColumnPair, key: Sequence[str] = ()) -> str:
        """Return the statement that fails where the proof would, while nobody writes to the table.

        It reads rows only where one could not be converted since the proof, or somebody has had the trigger off.
        """
        return self._proof(pair, key, bodies.UNLESS_NOTED)

    def _proof(self, pair: ColumnPair, key: Sequence[str], begins: str) -> str:
        called = sql.Literal(f"{self._function('write').as_string(None)}()")
        block = sql.SQL(bodies.PROOF).format(
            called=called, table=self.table, place=_place(key), agrees=self._function(_compares(pair)),
            compared=sql.SQL(", ").join(
                [sql.Identifier("t", pair.old), sql.Identifier("t", pair.new)]
                + [sql.Identifier("t", other) for other, _ in pair.others if not pair.is_behind]
            ),
            says=sql.Literal(f"two columns of {self.table.as_string(None)} do not agree, in %s of its rows"),
            more=sql.Literal("One is %s. What the other type cannot hold is NULL there."),
            begins=sql.SQL(begins).format(notes=self.notes, called=called),
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
        return sql.SQL(bodies.HIDDEN).format(granted=sql.SQL(query.replace("%%", "%").rstrip().rstrip(";")))

    def _functions(self, pair: ColumnPair) -> list[sql.Composable]:
        """Return the statements that create the conversions, and the functions that compare what they make."""
        was, becomes = [(pair.old, "was", pair.old_type)], [(pair.new, "becomes", pair.new_type)]
        found: list[sql.Composable] = [
            self._convert("forward", _arguments(pair), pair.new_type, pair.forward),
            self._convert("backward", becomes, pair.old_type, pair.backward),
        ]
        if not pair.others:
            return [*found, self._comparison("agrees", bodies.AGREES, pair, was + becomes)]
        of_row = [*was, *becomes, *_arguments(pair)[1:]]
        return [
            *found,
            self._convert("again", was, pair.new_type, pair.again),
            self._comparison("follows", bodies.AGREES, pair, of_row),
            self._comparison("returns", bodies.AGREES, replace(pair, others=()), was + becomes, forward="again"),
            self._comparison("agrees", bodies.AGREES_ALONE, pair, was + becomes),
        ]

    def _comparison(
        self, kind: str, body: str, pair: ColumnPair, arguments: Sequence[Argument], forward: str = "forward"
    ) -> sql.Composed:
        composed = sql.SQL(
            "CREATE FUNCTION {}({}) RETURNS pg_catalog.bool LANGUAGE plpgsql"
            " SET search_path = pg_catalog, pg_temp{} AS {}"
        )
        body_ = self._literal(body, pair, forward)
        return composed.format(self._function(kind), _declared(arguments), _settings(pair), body_)

    def _convert(self, kind: str, arguments: Sequence[Argument], made: str, expression: str) -> sql.Composed:
        composed = sql.SQL("CREATE FUNCTION {}({}) RETURNS {} LANGUAGE sql RETURN {}")
        return composed.format(self._function(kind), _declared(arguments), sql.SQL(made), sql.SQL(f"({expression})"))

    def _literal(self, body: str, pair: ColumnPair, forward: str = "forward") -> sql.Literal:
        composed = sql.SQL(body).format(
            old=sql.Identifier(pair.old), new=sql.Identifier(pair.new), notes=self.notes,
            made_type=sql.SQL(_as_of("becomes", pair.new_type)), was_type=sql.SQL(_as_of("was", pair.old_type)),
            given=sql.SQL(", ").join(sql.Identifier(argument) for _, argument, _ in _arguments(pair)),
            row=_given("NEW", pair), forward=self._function(forward),
            numbers=sql.Literal(sql.Identifier(SCHEMA, f"{self.name}_id_seq").as_string(None)),
            **{kind: self._function(kind) for kind in ("backward", "again", "agrees", "returns")},
        )  # fmt: skip
        return sql.Literal(composed.as_string(None))

    def _function(self, kind: str) -> sql.Identifier:
        return sql.Identifier(SCHEMA, f"{kind}_{self.name}")


# In the order in which they can be dropped.
_KINDS = ("write", "agrees", "follows", "returns", "forward", "backward", "again")
Argument = tuple[str, str, str]  # of a conversion: the column, the name by which it is known, the type


def _kinds(pair: ColumnPair) -> list[str]:
    return [kind for kind in _KINDS if pair.others or kind not in ("follows", "returns", "again")]


def _arguments(pair: ColumnPair) -> list[Argument]:
    """Return the arguments of ``forward``."""
    others = ((other, pair.argument(number), type_) for number, (other, type_) in enumerate(pair.others))
    return [(pair.old, "was", pair.old_type), *others]


def _declared(arguments: Sequence[Argument]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL(f"{argument} {type_}") for _, argument, type_ in arguments)


def _given(row: str, pair: ColumnPair) -> sql.Composed:
    """Return the arguments of ``forward`` for a row, which is ``t`` or NEW."""
    return sql.SQL(", ").join(
        sql.SQL(f"{row}.{{}}").format(sql.Identifier(column)) for column, _, _ in _arguments(pair)
    )


def _compares(pair: ColumnPair) -> str:
    """Return the kind of the function that tells whether the columns of a row agree."""
    return "follows" if pair.others and not pair.is_behind else "agrees"


def _as_of(argument: str, type_: str) -> str:
    """Return the type of a variable; that of an argument goes on when somebody renames the type."""
    return type_ if "(" in type_ else f"{argument}%TYPE"


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
