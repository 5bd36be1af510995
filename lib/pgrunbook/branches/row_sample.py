"""Some rows of each table of a target on a branch, and every row that these reference: so that all constraints hold.

1. The schema is loaded without keys, indexes and triggers.
2. Of each table some rows are copied, under one snapshot of the target.
3. Foreign key by foreign key, the rows that are referenced and not there are copied, until none is missing.
4. Keys, indexes and triggers are made; sequences stand where the target's stand.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import psycopg
from psycopg import IsolationLevel, sql
from psycopg.rows import class_row

from pgrunbook.branches import data_dump, roles, target_dump
from pgrunbook.branches.roles import Roles
from pgrunbook.branches.server import Server
from pgrunbook.config.targets import Target
from pgrunbook.database import connection
from pgrunbook.database.connection import Connection, connect
from pgrunbook.database.queries import load
from pgrunbook.database.sqlstate import said
from pgrunbook.display import progress

log = logging.getLogger(__name__)

AT_ONCE = 1_000
LIMITS = {"lock_timeout_ms": 10_000, "statement_timeout_ms": 600_000}


class _Table(NamedTuple):
    schema_name: str
    table_name: str
    columns: list[str]


class _Key(NamedTuple):
    schema_name: str
    table_name: str
    other_schema: str
    other_table: str
    alone: str
    other_alone: str
    columns: list[str]
    other_columns: list[str]
    types: list[str]
    operators: list[str]
    written: list[str]

    @property
    def table(self) -> sql.Composed:
        """The table that references, without children: a key counts for partitions, and for no others."""
        return sql.SQL("{} {}").format(sql.SQL(self.alone), sql.Identifier(self.schema_name, self.table_name))

    @property
    def other(self) -> sql.Composed:
        """The table that is referenced, likewise."""
        return sql.SQL("{} {}").format(sql.SQL(self.other_alone), sql.Identifier(self.other_schema, self.other_table))

    def joined(self, one: str, other: str, names: Sequence[sql.Composable]) -> sql.Composed:
        """Return that the referenced columns of ``other`` equal what ``names`` say of ``one``, as the key says it."""
        pairs = (
            sql.SQL("{} OPERATOR({}) {}").format(
                sql.Identifier(other, column), sql.SQL(operator), sql.SQL("{}.{}").format(sql.Identifier(one), name)
            )
            for column, operator, name in zip(self.other_columns, self.operators, names, strict=True)
        )
        return sql.SQL(" AND ").join(pairs)


def load_into(server: Server, target: Target, database: str, found: Roles, *, rows: int, with_orphans: bool) -> None:
    """Load the schema of a target into a database of a branch, with at most ``rows`` of each table; 0 for none.

    Raises Unreachable and OrphansError as :func:`data_dump.load`.
    Locks: AccessShareLock on every table of the target that is read, with a lock timeout.
    """
    data_dump.load(server, target, database, found, parts=["--section=pre-data"])
    if rows:
        with (
            connect(target, purpose="copies the data") as there,
            server.connect(purpose="branch", database=database) as here,
        ):
            for conn in (there, here):
                connection.limit(conn, **LIMITS)
            there.isolation_level, there.read_only = IsolationLevel.REPEATABLE_READ, True
            try:
                with there.transaction():
                    _sample(there, here, rows)
            except psycopg.Error as exc:
                told = said(exc)
                raise data_dump.not_copied(
                    target, told, roles.advice(told, found.session) or target_dump.advice(told)
                ) from exc
    data_dump.load(server, target, database, found, parts=["--section=post-data"], with_orphans=with_orphans)


def _sample(there: Connection, here: Connection, rows: int) -> None:
    with there.cursor(row_factory=class_row(_Table)) as cursor:
        tables = cursor.execute(load("row_sample")["tables"].encode()).fetchall()
    stage = progress.current()
    for number, table in enumerate(tables, 1):
        name, columns = sql.Identifier(table.schema_name, table.table_name), _listed(table.columns)
        query = sql.SQL("SELECT {} FROM ONLY {} LIMIT {}").format(columns, name, sql.Literal(rows))
        _copy(there, here, query, name, columns)
        stage.how_far(f"{number} of {len(tables)} tables")
    with there.cursor(row_factory=class_row(_Key)) as cursor:
        keys = cursor.execute(load("row_sample")["keys"].encode()).fetchall()
    asked: set[tuple[object, ...]] = set()  # what the target does not have either is not asked for again
    while sum(_follow(there, here, number, key, asked) for number, key in enumerate(keys)):
        log.info("rows that were copied reference further ones")
    for schema, sequence, value in there.execute(load("row_sample")["positions"].encode()).fetchall():
        position = sql.SQL("SELECT pg_catalog.setval({}::pg_catalog.regclass, {})")
        named = sql.Identifier(str(schema), str(sequence)).as_string(None)
        here.execute(position.format(sql.Literal(named), sql.Literal(value)))


def _follow(there: Connection, here: Connection, number: int, key: _Key, asked: set[tuple[object, ...]]) -> int:
    """Copy the rows that a foreign key references and the branch lacks; return how many were asked for."""
    name = sql.Identifier(key.other_schema, key.other_table)
    unknown = [row for row in _lacking(here, key) if (number, *row) not in asked]
    for begin in range(0, len(unknown), AT_ONCE):
        new = unknown[begin : begin + AT_ONCE]
        asked.update((number, *row) for row in new)
        words = [sql.Identifier(f"c{position}") for position in range(len(key.columns))]
        arrays = sql.SQL(", ").join(
            sql.SQL("pg_catalog.unnest({}::pg_catalog.text[])").format(sql.Literal([row[position] for row in new]))
            for position in range(len(key.columns))
        )
        typed = [sql.SQL("{}::{}").format(word, sql.SQL(kind)) for word, kind in zip(words, key.types, strict=True)]
        wanted = sql.SQL("SELECT {} FROM ROWS FROM ({}) AS x ({})").format(
            sql.SQL(", ").join(sql.SQL("{} AS {}").format(t, w) for t, w in zip(typed, words, strict=True)),
            arrays,
            sql.SQL(", ").join(words),
        )
        columns = _listed(key.written)
        query = sql.SQL("SELECT {} FROM {} AS r JOIN ({}) AS w ON {}").format(
            sql.SQL(", ").join(sql.Identifier("r", column) for column in key.written),
            key.other, wanted, key.joined("w", "r", words),
        )  # fmt: skip
        _copy(there, here, query, name, columns)
    return len(unknown)


def _lacking(here: Connection, key: _Key) -> list[tuple[object, ...]]:
    """Return the values, as text, that rows on the branch reference and that are not there."""
    mine = [sql.Identifier(column) for column in key.columns]
    query = sql.SQL("SELECT DISTINCT {} FROM {} AS m WHERE {} AND NOT EXISTS (SELECT FROM {} AS r WHERE {})").format(
        sql.SQL(", ").join(sql.SQL("m.{}::pg_catalog.text").format(word) for word in mine),
        key.table,
        sql.SQL(" AND ").join(sql.SQL("m.{} IS NOT NULL").format(word) for word in mine),
        key.other,
        key.joined("m", "r", mine),
    )
    return here.execute(query).fetchall()


def _copy(
    there: Connection, here: Connection, query: sql.Composable, table: sql.Identifier, columns: sql.Composable
) -> None:
    """Copy what a query of the target returns into a table of the branch."""
    out = sql.SQL("COPY ({}) TO STDOUT").format(query)
    listed = sql.SQL("({})").format(columns) if columns.as_string() else sql.SQL("")
    into = sql.SQL("COPY {} {} FROM STDIN").format(table, listed)
    with there.cursor() as reading, here.cursor() as writing, reading.copy(out) as source, writing.copy(into) as copy:
        for data in source:
            copy.write(data)


def _listed(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))
