"""Masked columns of a branch: their values are gone from it before anybody connects, so that real data do not leak.

A rule is for one column: ``null``, ``hash`` (equal values stay equal, within one branch), or a constant.

1. Rules that cannot hold are refused before anything is copied: a column that is not there, NOT NULL and null, a hash
   of a type that has none, one side of a foreign key alone.
2. The values are written by one UPDATE a table, without triggers, and the table is written anew: nothing of the old
   rows stays in it. So it goes with statistics, materialized views, undo data and other databases of the server.
3. The WAL that all of this has left is removed, while the server is stopped.

What is not named stays: large objects, and copies that the application has made elsewhere.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from pgrunbook.branches.branch_target import OF_EVERY_CLUSTER
from pgrunbook.branches.server import Server
from pgrunbook.config.targets import Constant, MaskRule, Target
from pgrunbook.database import connection
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load
from pgrunbook.database.sqlstate import said
from pgrunbook.display import progress
from pgrunbook.errors import RunbookError, WrongInput

LIMITS = {"lock_timeout_ms": 60_000, "statement_timeout_ms": 3_600_000}
TEXTS = frozenset({"text", "varchar", "bpchar", "citext"})
INTEGERS = {"int2": 2**15 - 1, "int4": 2**31 - 1, "int8": 2**63 - 1}
ON_TABLES = ("r", "p")
HEX_DIGITS = 64
MOST_DIGITS = 18  # of a bigint


class _Column(NamedTuple):
    schema_name: str
    table_name: str
    column_name: str
    kind: str
    is_generated: bool
    is_always_identity: bool
    is_not_null: bool
    is_partition_key: bool
    type_name: str
    base_name: str
    category: str
    most_chars: int | None
    most_digits: int | None

    @property
    def table(self) -> tuple[str, str]:
        return self.schema_name, self.table_name


class _Key(NamedTuple):
    name: str
    schema_name: str
    table_name: str
    columns: list[str]
    other_schema: str
    other_table: str
    other_columns: list[str]


def check(conn: Connection, target: Target) -> dict[str, _Column]:
    """Return the column of each rule of a target, as a database has it.

    Raises WrongInput where there is no such column, or the rule cannot hold for it.
    """
    found: dict[str, _Column] = {}
    for name, rule in target.masking.items():
        column = _column(conn, name)
        if column is None:
            raise _wrong(target, name, "The database has no such column.", "Write it as table.column.")
        if told := _refused(column, rule):
            raise _wrong(target, name, *told)
        found[name] = column
    _refuse_half_keys(conn, target, found)
    return found


def apply(server: Server, target: Target, database: str) -> None:
    """Mask the columns of a branch that runs; its WAL is gone afterwards, so it is started anew.

    Raises WrongInput as :func:`check`, RunbookError where the server refuses the values.
    """
    if not target.masking:
        return
    with progress.doing("masking columns"):
        with server.connect(purpose="branch", database=database) as conn:
            connection.limit(conn, **LIMITS)
            try:
                with conn.as_target():  # the rules' names are the target's
                    columns = check(conn, target)
                conn.execute("SET session_replication_role = replica")
                _write(conn, target, columns)
            except psycopg.Error as exc:
                raise _could_not(target, exc) from exc
        _drop_others(server, database)
        server.stop()
        server.run("pg_resetwal", "-D", "data")
        server.do("rm", "-rf", "archive")
        server.do("mkdir", "archive")
        server.launch()


def _write(conn: Connection, target: Target, columns: Mapping[str, _Column]) -> None:
    salt = secrets.token_hex(16)
    by_table: dict[tuple[str, str], list[sql.Composed]] = {}
    for name, column in columns.items():
        value = _value(column, target.masking[name], salt)
        by_table.setdefault(column.table, []).append(
            sql.SQL("{} = {}").format(sql.Identifier(column.column_name), value)
        )
    for table, values in by_table.items():
        conn.execute(sql.SQL("UPDATE {} SET {}").format(sql.Identifier(*table), sql.SQL(", ").join(values)))
    for (kept,) in conn.execute(load("masking")["undo_data"].encode()).fetchall():
        conn.execute(f"TRUNCATE {kept}".encode())
    for (view,) in conn.execute(load("masking")["views"].encode()).fetchall():
        conn.execute(f"REFRESH MATERIALIZED VIEW {view}".encode())
    # Dead rows hold the old values, and so do the statistics of before, in a table of the catalog and in its TOAST.
    for table in by_table:
        conn.execute(sql.SQL("VACUUM (FULL, ANALYZE) {}").format(sql.Identifier(*table)))
    conn.execute("ANALYZE")
    for catalog in ("pg_statistic", "pg_statistic_ext_data"):
        conn.execute(f"VACUUM (FULL) pg_catalog.{catalog}".encode())


def _value(column: _Column, rule: MaskRule, salt: str) -> sql.Composable:
    """Return the expression that a column gets; NULL stays NULL under a hash."""
    made: sql.Composable
    if rule == "null":
        return sql.SQL("NULL")
    if isinstance(rule, Constant):
        made = sql.Literal(rule.constant)
    else:
        salted = sql.SQL("pg_catalog.convert_to({} OPERATOR(pg_catalog.||) {}::pg_catalog.text, 'UTF8')").format(
            sql.Literal(salt), sql.Identifier(column.column_name)
        )
        octets = sql.SQL("pg_catalog.sha256({})").format(salted)
        digits = sql.SQL("pg_catalog.encode({}, 'hex')").format(octets)
        if column.base_name == "bytea":
            made = octets
        elif column.base_name == "uuid":
            made = sql.SQL("pg_catalog.left({}, 32)").format(digits)
        elif column.base_name in TEXTS:
            made = sql.SQL("pg_catalog.left({}, {})").format(digits, sql.Literal(column.most_chars or HEX_DIGITS))
        else:
            number = sql.SQL(
                "('x' OPERATOR(pg_catalog.||) pg_catalog.left({}, 15))::pg_catalog.bit(60)::pg_catalog.int8"
            )
            most = INTEGERS.get(column.base_name) or 10 ** min(column.most_digits or MOST_DIGITS, MOST_DIGITS)
            made = sql.SQL("pg_catalog.mod({}, {}::pg_catalog.int8)").format(number.format(digits), sql.Literal(most))
    return sql.SQL("CAST({} AS {})").format(made, sql.SQL(column.type_name))


def _column(conn: Connection, name: str) -> _Column | None:
    try:
        with conn.cursor(row_factory=class_row(_Column)) as cursor:
            return cursor.execute(load("masking")["column"].encode(), {"rule": name}).fetchone()
    except psycopg.errors.InvalidParameterValue:  # it is no name
        return None


def _refused(column: _Column, rule: MaskRule) -> tuple[str, str] | None:
    """Return why a rule cannot hold for a column, and what to do; None where it can."""
    if column.kind not in ON_TABLES:
        return "It is no table that has rows of its own.", "Name the column of the table behind it."
    if column.is_generated:
        return "The column is generated.", "Mask the columns that it is generated from."
    if column.is_always_identity:
        return "The column is GENERATED ALWAYS AS IDENTITY: it cannot be written.", "Numbers of rows tell little."
    if column.is_partition_key:
        return "The table is partitioned by it.", "Rows would change their partition: mask other columns."
    if rule == "null" and column.is_not_null:
        return "The column is NOT NULL.", 'Use "hash", or {constant = "..."}.'
    hashable = column.base_name in {*TEXTS, *INTEGERS, "uuid", "bytea", "numeric"}
    if rule == "hash" and (not hashable or column.most_digits == 0):
        return f"Type {column.type_name} has no hash.", 'Use "null", or {constant = "..."}.'
    return None


def _refuse_half_keys(conn: Connection, target: Target, found: Mapping[str, _Column]) -> None:
    """Raise WrongInput for a masked column of a foreign key whose other side keeps its value, or gets another."""
    rules = {(*column.table, column.column_name): (name, target.masking[name]) for name, column in found.items()}
    unmasked: tuple[str, MaskRule | None] = ("", None)
    with conn.cursor(row_factory=class_row(_Key)) as cursor:
        keys = cursor.execute(load("masking")["references"].encode()).fetchall()
    for key in keys:
        for mine, other in zip(key.columns, key.other_columns, strict=True):
            name, rule = rules.get((key.schema_name, key.table_name, mine), unmasked)
            other_name, other_rule = rules.get((key.other_schema, key.other_table, other), unmasked)
            if (rule is None and other_rule is None) or rule == "null" or rule == other_rule != "null":
                continue
            raise _wrong(
                target,
                name or other_name,
                f"Foreign key {key.name} leads from {key.table_name}.{mine} to {key.other_table}.{other}.",
                'Mask both sides by "hash", or the side that references by "null".',
            )


def _drop_others(server: Server, database: str) -> None:
    """Drop the databases that came along with the server's files: nobody has masked them."""
    kept = [database, server.database, *OF_EVERY_CLUSTER, "template0"]
    with server.connect(purpose="branch") as admin:
        for (name,) in admin.execute(load("masking")["others"].encode(), {"kept": kept}).fetchall():
            admin.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(sql.Identifier(str(name))))
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(str(name))))


def described(masked: Iterable[str], *, is_protected: bool) -> str:
    """Return what a list shows of the masked columns of a branch."""
    return ", ".join(masked) or ("none: the data are those of a protected target" if is_protected else "")


def _wrong(target: Target, name: str, detail: str, hint: str) -> WrongInput:
    return WrongInput(
        f'column "{name}" of target "{target.name}" cannot be masked',
        detail=detail,
        state="Nothing is copied that could be seen.",
        hint=f"{hint} The rules are in section [{target.name}.masking] of targets.toml.",
    )


def _could_not(target: Target, exc: psycopg.Error) -> RunbookError:
    return RunbookError(
        f'could not mask the columns of a branch of target "{target.name}"',
        detail=said(exc),
        hint="Choose another rule for the column that the server names.",
    )
