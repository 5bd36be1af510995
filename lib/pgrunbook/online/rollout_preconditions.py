"""Whether a flag can be rolled out on a table: what its key, its column, its values and its owner have to be."""

from __future__ import annotations

import re

import psycopg
from psycopg import sql

from pgrunbook.database import foreign_code
from pgrunbook.database.connection import Connection
from pgrunbook.database.facts import Facts
from pgrunbook.database.relations import Column, Relation, UniqueKey
from pgrunbook.database.sqlstate import Meaning, meaning, said
from pgrunbook.errors import Refused, WrongInput
from pgrunbook.online.rollout_table import RolloutTable
from pgrunbook.plan.rollout import DeclaredRollout

# Types whose values have one text in every session.
KEY_TYPES = re.compile(r"smallint|integer|bigint|uuid|text|character varying(\([0-9]+\))?|character\([0-9]+\)")
FLAG_TYPES = re.compile(r"boolean|smallint|integer|bigint|text|character varying(\([0-9]+\))?")


def find(conn: Connection, rollout: DeclaredRollout) -> RolloutTable:
    """Return the table of a rollout as it is now. Raises WrongInput and Refused where there is no rollout on it."""
    facts = Facts(conn)
    relation = _relation(facts, rollout, rollout.table)
    _refuse_odd(conn, relation)
    key, column = _key(facts, relation), facts.columns(relation).get(rollout.column)
    if column is not None:
        _refuse_column(relation, column)
    flag_type = column.type if column is not None else rollout.type
    table = RolloutTable(
        rollout, relation.schema, relation.name, relation.oid, key.columns, key.types,
        _type(facts, rollout, flag_type), column is not None, column.default if column is not None else None,
        _of(facts, rollout, relation, key) if rollout.of else None,
    )  # fmt: skip
    _refuse_values(conn, table)
    _refuse_keys(table)
    return table


def _relation(facts: Facts, rollout: DeclaredRollout, name: str) -> Relation:
    try:
        oid = facts.conn.oid_of("regclass", name)
    except psycopg.Error as exc:
        if meaning(exc) is not Meaning.REFUSED:
            raise
        oid = None
    found = None if oid is None else facts.relation_of(oid)
    if found is None or found.kind not in ("r", "p"):
        raise WrongInput(
            f'there is no table "{name}" in database {facts.conn.info.dbname}',
            hint=f"Correct it in rollouts/{rollout.name}.yaml.",
        )
    return found


def _of(facts: Facts, rollout: DeclaredRollout, flags: Relation, key: UniqueKey) -> RolloutTable:
    """Return the table whose rows are rolled out. Raises Refused where no row of the flag's table stands for one."""
    relation = _relation(facts, rollout, rollout.of)
    foreign_code.refuse(
        {(relation.schema, relation.name)} & foreign_code.tables(facts.conn), "read", "let somebody else roll out"
    )
    its = _key(facts, relation)
    if its.types != key.types:
        raise Refused(
            f"cannot roll out a flag of {relation.label} in {flags.label}: their keys are of other types",
            detail=f"{', '.join(its.columns)} ({', '.join(its.types)}) and {', '.join(key.columns)}"
            f" ({', '.join(key.types)}).",
            hint="The key of the flag's table is that of the other one.",
        )
    needed = [
        column.name
        for column in facts.columns(flags).values()
        if column.not_null and not (column.default or column.generated or column.sequence)
        and column.name not in (*key.columns, rollout.column)
    ]  # fmt: skip
    if needed:
        raise Refused(
            f"cannot add rows to {flags.label}: {', '.join(needed)} is NOT NULL and has no default",
            detail=f"A row is added for each of {relation.label} that has none, when a stage needs it.",
            hint="Give that column a default, or add the rows yourself.",
        )
    return RolloutTable(rollout, relation.schema, relation.name, relation.oid, its.columns, its.types, "", False, None)


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
