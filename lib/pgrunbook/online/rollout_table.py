"""The table of a staged rollout: its key, its flag column, and the conditions that say which rows a stage is about.

A row is in a share by a hash of its key, which every server and every program computes alike: the first 32 bits of
sha256 of ``salt:key`` (the parts of a key with ``:`` between them) are below ``share / 100 * 2^32``. So whoever is in
10 % is in 50 % too, and the application can ask whether a key is in without reading the flag.

Whatever a text of ours compares is of a type whose operators are in pg_catalog, and named there: the texts run with
the names of the target, for the triggers of the application.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgrunbook.database import foreign_code
from pgrunbook.database.connection import Connection
from pgrunbook.database.facts import Facts
from pgrunbook.database.relations import Column, Relation, UniqueKey
from pgrunbook.database.sqlstate import Meaning, meaning, said
from pgrunbook.errors import Refused, WrongInput
from pgrunbook.plan.rollout import DeclaredRollout, RolloutStage
from pgrunbook.plan.step import RANGE

ROWS = sql.Identifier("pgrunbook", "rollout_row")
# Types whose values have one text in every session.
KEY_TYPES = re.compile(r"smallint|integer|bigint|uuid|text|character varying(\([0-9]+\))?|character\([0-9]+\)")
FLAG_TYPES = re.compile(r"boolean|smallint|integer|bigint|text|character varying(\([0-9]+\))?")


@dataclass(frozen=True)
class RolloutTable:
    """A table with the flag of a rollout; ``has_flag`` is whether the column is there."""

    rollout: DeclaredRollout
    schema: str
    name: str
    oid: int
    key: tuple[str, ...]
    key_types: tuple[str, ...]
    flag_type: str
    has_flag: bool
    default: str | None

    @property
    def identifier(self) -> sql.Identifier:
        """Its name for composed SQL."""
        return sql.Identifier(self.schema, self.name)

    @property
    def label(self) -> str:
        """Its name for people."""
        return f"{self.schema}.{self.name}"

    @property
    def flag(self) -> sql.Identifier:
        """The flag column of the table, which texts call t."""
        return sql.Identifier("t", self.rollout.column)

    @property
    def on(self) -> sql.Composable:
        """The value after."""
        return self._value(self.rollout.on)

    @property
    def off(self) -> sql.Composable:
        """The value before."""
        return self._value(self.rollout.off)

    def _value(self, text: str) -> sql.Composable:
        return sql.SQL("CAST({} AS {})").format(sql.Literal(text), sql.SQL(self.flag_type))

    def is_value(self, value: sql.Composable) -> sql.Composable:
        """The condition that the flag has a value."""
        return sql.SQL("{} OPERATOR(pg_catalog.=) {}").format(self.flag, value)

    @property
    def row_key(self) -> sql.Composable:
        """The key of a row as one text, by which pgrunbook.rollout_row names it."""
        return sql.SQL("CAST(pg_catalog.json_build_array({}) AS pg_catalog.text)").format(self._parts)

    @property
    def _parts(self) -> sql.Composable:
        return sql.SQL(", ").join(
            sql.SQL("CAST({} AS pg_catalog.text)").format(sql.Identifier("t", column)) for column in self.key
        )

    def member(self, stage: RolloutStage, keys: Sequence[Sequence[str]] | None = None) -> sql.Composable:
        """The condition that a row is in a stage, or among these keys of its list."""
        if stage.all:
            return sql.SQL("true")
        if stage.keys is not None:
            return self._listed(stage.texts if keys is None else keys)
        hashed = sql.SQL(
            "CAST(CAST('x' OPERATOR(pg_catalog.||) pg_catalog.substr(pg_catalog.encode(pg_catalog.sha256("
            "pg_catalog.convert_to(pg_catalog.concat_ws(':', {}, {}), 'UTF8')), 'hex'), 1, 8) AS pg_catalog.bit(32))"
            " AS pg_catalog.int8)"
        ).format(sql.Literal(self.rollout.seed), self._parts)
        return sql.SQL("{} OPERATOR(pg_catalog.<) {}::pg_catalog.int8").format(hashed, sql.Literal(stage.bound))

    def _listed(self, keys: Sequence[Sequence[str]]) -> sql.Composable:
        if len(self.key) == 1:
            values = sql.SQL(", ").join(sql.Literal(key[0]) for key in keys)
            return sql.SQL("{} OPERATOR(pg_catalog.=) ANY (CAST(ARRAY[{}] AS {}[]))").format(
                sql.Identifier("t", self.key[0]), values, sql.SQL(self.key_types[0])
            )
        rows = [
            sql.SQL(" AND ").join(
                sql.SQL("{} OPERATOR(pg_catalog.=) CAST({} AS {})").format(
                    sql.Identifier("t", column), sql.Literal(part), sql.SQL(type_)
                )
                for column, part, type_ in zip(self.key, key, self.key_types, strict=True)
            )
            for key in keys
        ]
        return sql.SQL("({})").format(sql.SQL(" OR ").join(sql.SQL("({})").format(row) for row in rows))

    @property
    def is_decided(self) -> sql.Composable:
        """The condition that a row of ours in pgrunbook.rollout_row, r, says: it was given the flag, or it was changed.

        Where such a row does not have the flag, somebody has taken it away: nobody gets it twice.
        """
        return sql.SQL(
            "r.rollout OPERATOR(pg_catalog.=) {} AND r.row_key OPERATOR(pg_catalog.=) {}"
            " AND r.state OPERATOR(pg_catalog.=) ANY (ARRAY['on', 'changed'])"
        ).format(sql.Literal(self.rollout.name), self.row_key)

    def write(self, stage: RolloutStage, number: int, keys: Sequence[Sequence[str]] | None = None) -> sql.Composable:
        """The statement that gives rows of a stage the flag, and notes each; it has the word for a range, or ``keys``.

        A row that has another value than that before is left, and so is one whose flag somebody has taken away.
        """
        return sql.SQL(
            "WITH changed AS (UPDATE {table} AS t SET {column} = {on} WHERE {range} AND {member} AND {is_off}"
            " AND NOT EXISTS (SELECT FROM {rows} AS r WHERE {is_decided})"
            " RETURNING {row_key} AS row_key, {is_on} AS is_on)"
            " INSERT INTO {rows} AS n (rollout, row_key, stage, state, set_at)"
            " SELECT {name}, c.row_key, {number}, 'on', pg_catalog.clock_timestamp() FROM changed AS c WHERE c.is_on"
            " ON CONFLICT (rollout, row_key)"
            " DO UPDATE SET stage = excluded.stage, state = 'on', set_at = excluded.set_at"
        ).format(
            table=self.identifier,
            column=sql.Identifier(self.rollout.column),
            on=self.on,
            range=sql.SQL(RANGE if keys is None else "true"),
            member=self.member(stage, keys),
            is_off=self.is_value(self.off),
            is_on=self.is_value(self.on),
            is_decided=self.is_decided,
            rows=ROWS,
            row_key=self.row_key,
            name=sql.Literal(self.rollout.name),
            number=sql.Literal(number),
        )

    def take_back(self, keys: Sequence[str]) -> sql.Composable:
        """The statement that takes the flag of these rows away where they still have it; it returns their keys."""
        return sql.SQL(
            "UPDATE {} AS t SET {} = {} FROM ({}) AS d WHERE {} AND {} RETURNING {}"
        ).format(
            self.identifier, sql.Identifier(self.rollout.column), self.off, self._named(keys), self._matches,
            self.is_value(self.on), self.row_key,
        )  # fmt: skip

    def still_there(self, keys: Sequence[str]) -> sql.Composable:
        """The query for those of these rows that exist, by their keys."""
        return sql.SQL("SELECT {} FROM {} AS t, ({}) AS d WHERE {}").format(
            self.row_key, self.identifier, self._named(keys), self._matches
        )

    def missing(self, keys: Sequence[Sequence[str]]) -> sql.Composable:
        """The query for the places, from 0, of those keys that no row has."""
        rows = sql.SQL(", ").join(
            sql.SQL("({}, {})").format(
                sql.Literal(place),
                sql.SQL(", ").join(
                    sql.SQL("CAST({} AS {})").format(sql.Literal(part), sql.SQL(type_))
                    for part, type_ in zip(key, self.key_types, strict=True)
                ),
            )
            for place, key in enumerate(keys)
        )
        names = sql.SQL(", ").join(sql.Identifier(f"k{place}") for place in range(len(self.key)))
        return sql.SQL(
            "SELECT d.place FROM (VALUES {}) AS d (place, {}) WHERE NOT EXISTS (SELECT FROM {} AS t WHERE {})"
            " ORDER BY d.place"
        ).format(rows, names, self.identifier, self._matches)

    def _named(self, keys: Sequence[str]) -> sql.Composable:
        parts = [
            sql.SQL("CAST(CAST(k.row_key AS pg_catalog.json) OPERATOR(pg_catalog.->>) {} AS {}) AS {}").format(
                sql.Literal(place), sql.SQL(type_), sql.Identifier(f"k{place}")
            )
            for place, type_ in enumerate(self.key_types)
        ]
        return sql.SQL("SELECT {} FROM pg_catalog.unnest(CAST({} AS pg_catalog.text[])) AS k (row_key)").format(
            sql.SQL(", ").join(parts), sql.Literal(list(keys))
        )

    @property
    def _matches(self) -> sql.Composable:
        return sql.SQL(" AND ").join(
            sql.SQL("{} OPERATOR(pg_catalog.=) {}").format(
                sql.Identifier("t", column), sql.Identifier("d", f"k{place}")
            )
            for place, column in enumerate(self.key)
        )


def find(conn: Connection, rollout: DeclaredRollout) -> RolloutTable:
    """Return the table of a rollout as it is now. Raises WrongInput and Refused where there is no rollout on it."""
    facts = Facts(conn)
    try:
        oid = conn.oid_of("regclass", rollout.table)
    except psycopg.Error as exc:
        if meaning(exc) is not Meaning.REFUSED:
            raise
        oid = None
    relation = None if oid is None else facts.relation_of(oid)
    if relation is None or relation.kind not in ("r", "p"):
        raise WrongInput(
            f'there is no table "{rollout.table}" in database {conn.info.dbname}',
            hint=f"Correct table in rollouts/{rollout.name}.yaml.",
        )
    _refuse_odd(conn, relation)
    key, column = _key(facts, relation), facts.columns(relation).get(rollout.column)
    if column is not None:
        _refuse_column(relation, column)
    flag_type = column.type if column is not None else rollout.type
    table = RolloutTable(
        rollout, relation.schema, relation.name, relation.oid, key.columns, key.types,
        _type(facts, rollout, flag_type), column is not None, column.default if column is not None else None,
    )  # fmt: skip
    _refuse_values(conn, table)
    _refuse_keys(table)
    return table


def has_default(conn: Connection, table: RolloutTable, value: sql.Composable) -> bool:
    """Return whether the default of the flag is a value: False where it is another, none, or no constant."""
    if table.default is None:
        return False
    try:
        with conn.transaction(force_rollback=True):
            conn.execute("SET TRANSACTION READ ONLY")
            query = sql.SQL("SELECT CAST({} AS {}) OPERATOR(pg_catalog.=) {}")
            asked = query.format(sql.SQL(table.default), sql.SQL(table.flag_type), value)
            return conn.execute(asked).fetchone() == (True,)
    except psycopg.Error as exc:
        if meaning(exc) is not Meaning.REFUSED:
            raise
        return False


def refuse_default(conn: Connection, table: RolloutTable) -> None:
    """Raise Refused where the flag is there before its rollout, and new rows would not be off."""
    if table.has_flag and not has_default(conn, table, table.off):
        column = f'column "{table.rollout.column}" of {table.label}'
        raise Refused(
            f"the default of {column} is {table.default or 'missing'}, not {table.rollout.off}",
            detail="Rows that are inserted meanwhile are off until a stage reaches them.",
            hint=f"ALTER TABLE {table.label} ALTER COLUMN {table.rollout.column} SET DEFAULT '{table.rollout.off}'",
        )


def _refuse_odd(conn: Connection, relation: Relation) -> None:
    instead = f"let somebody without rights beyond that table roll out {relation.label}"
    names = {(relation.schema, relation.name)}
    foreign_code.refuse(names & foreign_code.tables(conn), "change rows of", instead)
    if foreign_code.written(conn, [relation.oid], fires=True):
        foreign_code.refuse(names, "change rows of", instead)
    odd = "has tables that inherit from it" if relation.inherits_down else "has rules" if relation.has_rules else ""
    if odd:
        raise Refused(
            f"cannot roll out a flag of {relation.label}: it {odd}",
            detail="Which rows a statement changes there, and how often, is not to be told.",
            hint="Put the flag into a table of its own, with the same key.",
        )


def _key(facts: Facts, relation: Relation) -> UniqueKey:
    key = facts.loop_key(relation)
    if key is None:
        raise Refused(
            f"cannot roll out a flag of {relation.label}: no key tells its rows apart",
            hint="Add a primary key, or a unique index on columns that are NOT NULL.",
        )
    odd = [type_ for type_ in key.types if not KEY_TYPES.fullmatch(type_)]
    if odd:
        raise Refused(
            f"cannot roll out a flag of {relation.label}: its key is of type {', '.join(odd)}",
            detail="A share is a hash of the key's text, and a value of this type has another text in another session.",
            hint="Put the flag into a table with a key of integers, uuids or text.",
        )
    return key


def _refuse_column(relation: Relation, column: Column) -> None:
    name = f'column "{column.name}" of {relation.label}'
    if column.generated:
        raise Refused(f"{name} is generated: nobody sets it", hint="Name another column in the rollout.")
    if not column.not_null:
        raise Refused(
            f"{name} can be NULL, which is neither on nor off",
            hint="Make it NOT NULL with a default by a migration: ALTER COLUMN ... SET DEFAULT, UPDATE, SET NOT NULL.",
        )


def _type(facts: Facts, rollout: DeclaredRollout, name: str) -> str:
    """Return the type of the flag as SQL needs it; one that is declared may be spelt in another way."""
    try:
        oid, found = facts.type_oid(name), facts.type(name)
    except psycopg.Error as exc:
        if meaning(exc) is not Meaning.REFUSED:
            raise
        oid, found = None, None
    spelt = facts.conn.execute("SELECT pg_catalog.format_type(%s, NULL)", [oid]).fetchone() or ("",)
    length = re.fullmatch(r"(?i)(?:character varying|varchar) *(\([0-9]+\))", name)
    full = f"{spelt[0]}{length[1] if length else ''}"
    if found is None or (found.kind != "e" and not FLAG_TYPES.fullmatch(full)):
        raise Refused(
            f'column "{rollout.column}" cannot be a flag: it is of type {name}',
            hint="A flag is a boolean, an integer, a text or an enum.",
        )
    return full


def _refuse_keys(table: RolloutTable) -> None:
    for stage in table.rollout.stages:
        for key in stage.texts:
            if len(key) != len(table.key):
                raise WrongInput(
                    f'stage "{stage.name}" names {", ".join(key)}; the key of {table.label} is {", ".join(table.key)}',
                    hint="A key of several columns is a list: keys: [[1, eu], [2, us]]",
                )


def _refuse_values(conn: Connection, table: RolloutTable) -> None:
    try:
        with conn.transaction():
            found = conn.execute(sql.SQL("SELECT {} OPERATOR(pg_catalog.=) {}").format(table.on, table.off)).fetchone()
    except psycopg.DataError as exc:
        raise WrongInput(
            f'enabled and disabled are no values of column "{table.rollout.column}" ({table.flag_type})',
            detail=f"{said(exc)}.",
            hint=f"Correct them in rollouts/{table.rollout.name}.yaml.",
        ) from exc
    if found == (True,):
        raise WrongInput(f"enabled and disabled are the same {table.flag_type}",
                         hint=f"Correct them in rollouts/{table.rollout.name}.yaml.")  # fmt: skip
