"""A trigger by which columns of a table are what expressions over its row make of them, whoever writes; for backfills.

1. It fires BEFORE INSERT or UPDATE of each row, in every session, and behind the triggers of the application.
2. The columns that are filled become what their expressions make of the row. A row that the condition leaves out stays
   as it is written.
3. With a way back, a write that changes the filled columns, or an INSERT that gives them and none of the others, makes
   the others what the expressions of the way back make of the row: programs that know the new columns only, and
   those that know the old ones only, work side by side.
4. The batches of the backfill itself, which say so by a setting, do not fire it: they write what it would write.
5. An expression that fails never makes the application's write fail: the column becomes NULL, and the proof at the end
   finds the row.

What the expressions call is resolved when the trigger is created, with the search_path and settings of then.

Source: https://www.postgresql.org/docs/current/trigger-definition.html
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from psycopg import sql

from pgrunbook.database.row_tracker import LAST, SCHEMA
from pgrunbook.sql.own_code import do
from pgrunbook.sql.tree import columns_in, tree

SETTING = "pgrunbook.fills"  # of a batch: the name of its fill
# What the conversion of a value to or from text may depend on.
_SETTINGS = ("TimeZone", "DateStyle", "IntervalStyle", "extra_float_digits", "bytea_output", "lc_monetary")
_BODY = """
DECLARE
    pgrunbook_was record := NEW;
BEGIN
    {back}
    IF {where} THEN
        {forward}
    END IF;
    {captures}
    RETURN NEW;
END
"""
_BACK = """
IF TG_OP = 'INSERT' AND {filled_given} AND {others_null}
   OR TG_OP = 'UPDATE' AND {filled_changed} AND NOT {others_changed} THEN
        {assigned}
        RETURN NEW;
    END IF;
"""
_ASSIGNED = """
        BEGIN
            NEW.{column} := {function}(NEW);
        EXCEPTION WHEN OTHERS THEN
            NEW.{column} := NULL;
        END;
"""


@dataclass(frozen=True)
class ColumnFill:
    """The trigger of a backfill; ``alias`` is the name of the row in its expressions, that of the table.

    ``values`` and ``back`` are columns and the SQL of their expressions, ``types`` the types of these columns, and
    ``columns`` all columns of the table.
    ``captures`` is what its body does, with the row as it was written as ``pgrunbook_was``, before it returns the
    filled one: for undo data.
    """

    name: str
    table: sql.Identifier
    alias: str
    values: Mapping[str, str]
    types: Mapping[str, str]
    columns: tuple[str, ...]
    where: str = ""
    back: Mapping[str, str] = field(default_factory=dict)
    captures: str = ""

    @property
    def trigger_name(self) -> str:
        """The name of the trigger."""
        return f"{LAST}_{self.name}"

    def installation(self) -> str:
        """Return the statements that create it; what an abandoned attempt has left is dropped.

        Execute them in one transaction, as a session of the target. Locks: ShareRowExclusiveLock on the table.
        """
        made = [
            self._value(number, self.types[column], text)
            for number, (column, text) in enumerate([*self.values.items(), *self.back.items()], 1)
        ]
        if self.where:
            made.append(self._value(0, "pg_catalog.bool", self.where))
        settings = sql.SQL("".join(f" SET {name} FROM CURRENT" for name in _SETTINGS))
        statements = [
            sql.SQL(self._clearance()),
            sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(self.table),
            *made,
            sql.SQL(
                "CREATE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
                " SET search_path = pg_catalog, pg_temp{} AS {}"
            ).format(self._function(), settings, sql.Literal(self._body().as_string(None))),
            *(sql.SQL("REVOKE ALL ON FUNCTION {} FROM PUBLIC").format(self._function(n)) for n in self._numbers()),
            sql.SQL("REVOKE ALL ON FUNCTION {}() FROM PUBLIC").format(self._function()),
            sql.SQL(
                "CREATE TRIGGER {} BEFORE INSERT OR UPDATE ON {} FOR EACH ROW WHEN ({}) EXECUTE FUNCTION {}()"
            ).format(sql.Identifier(self.trigger_name), self.table, sql.SQL(is_no_batch(self.name)), self._function()),
            sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(self.table, sql.Identifier(self.trigger_name)),
        ]
        return ";\n".join(one.as_string(None) for one in statements)

    def removal(self) -> str:
        """Return the statement that drops all of it that is there. Locks: AccessExclusiveLock on the table."""
        return self._clearance()

    @property
    def function_names(self) -> list[str]:
        """The names of its functions in schema pgrunbook."""
        return [self.name, *(f"{self.name}_{number}" for number in self._numbers())]

    def cleanup(self) -> str:
        """Return the query that finds the statements which drop all of it that is there."""
        return cleanup(self.name)

    def _clearance(self) -> str:
        body = f"DECLARE dropped text; BEGIN FOR dropped IN {self.cleanup()} LOOP EXECUTE dropped; END LOOP; END"
        return do(sql.SQL(body)).as_string(None)

    def _body(self) -> sql.Composed:
        filled = list(self.values)
        forward = [self._assigned(number, column) for number, column in enumerate(filled, 1)]
        back: sql.Composable = sql.SQL("")
        if self.back:
            others = list(self.back)
            assigned = [self._assigned(n, column) for n, column in enumerate(others, len(filled) + 1)]
            back = sql.SQL(_BACK).format(
                filled_given=_any(filled, "NEW.{} IS DISTINCT FROM NULL"),
                others_null=_all(others, "NEW.{} IS NOT DISTINCT FROM NULL"),
                filled_changed=_any(filled, _CHANGED), others_changed=_any(others, _CHANGED),
                assigned=sql.SQL("").join(assigned),
            )  # fmt: skip
        where = sql.SQL("coalesce({}(NEW), false)").format(self._function(0)) if self.where else sql.SQL("true")
        return sql.SQL(_BODY).format(
            back=back, where=where, forward=sql.SQL("").join(forward), captures=sql.SQL(self.captures)
        )

    def _assigned(self, number: int, column: str) -> sql.Composed:
        return sql.SQL(_ASSIGNED).format(column=sql.Identifier(column), function=self._function(number))

    def _value(self, number: int, type_: str, text: str) -> sql.Composed:
        """Return the function of one expression: its names are resolved when it is created.

        It depends on the columns that it reads, and on no other: these may be dropped beside it.
        """
        read = read_columns(text, self.alias, self.columns)
        row = sql.SQL(", ").join(sql.SQL("(pgrunbook_row).{}").format(sql.Identifier(column)) for column in read)
        return sql.SQL(
            "CREATE FUNCTION {}(pgrunbook_row {}) RETURNS {} LANGUAGE sql RETURN (SELECT ({}) FROM (SELECT {}) AS {})"
        ).format(
            self._function(number), self.table, sql.SQL(type_), sql.SQL(text), row, sql.Identifier(self.alias)
        )  # fmt: skip

    def _numbers(self) -> list[int]:
        return [*([0] if self.where else []), *range(1, len(self.values) + len(self.back) + 1)]

    def _function(self, number: int | None = None) -> sql.Identifier:
        return sql.Identifier(SCHEMA, self.name if number is None else f"{self.name}_{number}")


def read_columns(text: str, alias: str, columns: Sequence[str]) -> list[str]:
    """Return those of a table's columns that an expression over its row may read, all where it names the whole row."""
    named = columns_in(tree(f"SELECT ({text}\n)"))
    return [column for column in columns if column in named or named & {"*", alias}]


_CHANGED = "(CAST(ROW(NEW.{0}) AS pg_catalog.record) OPERATOR(pg_catalog.*<>) CAST(ROW(OLD.{0}) AS pg_catalog.record))"


def cleanup(name: str) -> str:
    """Return the query that finds the statements which drop what a fill of that name has left."""
    found = sql.SQL(
        "SELECT x.dropped FROM ("
        "SELECT 1 AS place, pg_catalog.format('DROP TRIGGER %I ON %s', g.tgname, g.tgrelid::pg_catalog.regclass)"
        " AS dropped FROM pg_catalog.pg_trigger AS g JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=)"
        " g.tgfoid WHERE p.pronamespace OPERATOR(pg_catalog.=) pg_catalog.to_regnamespace({schema})::pg_catalog.oid"
        " AND p.proname OPERATOR(pg_catalog.=) {name} AND g.tgparentid OPERATOR(pg_catalog.=) 0::pg_catalog.oid"
        " UNION ALL SELECT 2, pg_catalog.format('DROP FUNCTION %s', p.oid::pg_catalog.regprocedure)"
        " FROM pg_catalog.pg_proc AS p"
        " WHERE p.pronamespace OPERATOR(pg_catalog.=) pg_catalog.to_regnamespace({schema})::pg_catalog.oid"
        " AND p.proname OPERATOR(pg_catalog.~) {pattern}) AS x (place, dropped) ORDER BY x.place"
    ).format(schema=sql.Literal(SCHEMA), name=sql.Literal(name), pattern=sql.Literal(f"^{name}(_[0-9]+)?$"))
    return found.as_string(None)


def is_no_batch(name: str) -> str:
    """Return the condition that a write is not one of the batches of a fill of that name."""
    condition = "coalesce(pg_catalog.current_setting({}, true), '') OPERATOR(pg_catalog.<>) {}::pg_catalog.text"
    return sql.SQL(condition).format(sql.Literal(SETTING), sql.Literal(name)).as_string(None)


def fill_name(table: sql.Identifier, columns: tuple[str, ...]) -> str:
    """Return the name of the trigger that fills these columns: the same in every run."""
    about = "\0".join([table.as_string(None), *columns])
    return "fill_" + hashlib.sha256(about.encode()).hexdigest()[:16]


def _any(columns: list[str], text: str) -> sql.Composed:
    return sql.SQL("({})").format(sql.SQL(" OR ").join(sql.SQL(text).format(sql.Identifier(c)) for c in columns))


def _all(columns: list[str], text: str) -> sql.Composed:
    return sql.SQL("({})").format(sql.SQL(" AND ").join(sql.SQL(text).format(sql.Identifier(c)) for c in columns))
