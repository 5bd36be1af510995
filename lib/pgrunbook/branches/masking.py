"""Masked columns of a branch: their values are gone from it before anybody connects, so that real data do not leak.

A rule is for one column: ``null``, ``hash`` (equal values stay equal, within one branch), or a constant.

1. Rules that cannot hold are refused before anything is copied: a column that is not there, NOT NULL and null, a hash
   of a type that has none, one side of a foreign key alone.
2. The values are written by one UPDATE a table, while no trigger and no rule fires, and the table is written anew with
   its partitions and children: nothing of the old rows stays in it. So it goes with statistics, materialized views,
   undo data and other databases of the server.
3. While the server is stopped, the WAL that all of this has left is removed, and files that belong to no table: of
   those that a transaction was making when the server was copied.

What is not named stays: large objects, and copies that the application has made elsewhere.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from pgrunbook.branches import branch_server, shadow_values
from pgrunbook.branches.branch_target import OF_EVERY_CLUSTER, POSTGRES, BranchTarget
from pgrunbook.branches.server import Server
from pgrunbook.config.targets import OF_BRANCH, Constant, MaskRule, Target
from pgrunbook.database import connection
from pgrunbook.database.connection import Connection, connect
from pgrunbook.database.queries import load
from pgrunbook.database.sqlstate import said
from pgrunbook.display import progress
from pgrunbook.errors import RunbookError, WrongInput

LIMITS = {"lock_timeout_ms": 60_000, "statement_timeout_ms": 3_600_000}
TEXTS = frozenset({"text", "varchar", "bpchar", "citext"})
INTEGERS = {"int2": 2**15 - 1, "int4": 2**31 - 1, "int8": 2**63 - 1}
ON_TABLES = ("r", "p")
HEX_DIGITS, FILES_AT_ONCE = 64, 1_000
MOST_DIGITS = 18  # of a bigint
# How values are spelled so that equal ones are spelled alike.
SPELLED = {"citext": "pg_catalog.lower({}::pg_catalog.text)", "numeric": "pg_catalog.trim_scale({})"}
# Where it is kept whether something fires: that is D for no session, A for each, R for those of a replica.
FIRES = (("pg_trigger", "tgenabled"), ("pg_rewrite", "ev_enabled"), ("pg_event_trigger", "evtenabled"))
SILENCE = "UPDATE {catalog} SET {column} = 'D' WHERE {column} = %(how)s RETURNING oid"
LET_FIRE = "UPDATE {catalog} SET {column} = %(how)s WHERE oid = ANY (%(oids)s)"
STATISTICS = ("pg_statistic", "pg_statistic_ext_data")
FILE = re.compile(r"(\d+)(_[a-z]+)?(\.\d+)?")  # of a table or an index: a part of it, or of its maps


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
    is_fuzzy: bool
    most_chars: int | None
    most_digits: int | None

    @property
    def table(self) -> tuple[str, str]:
        return self.schema_name, self.table_name

    @property
    def size(self) -> int:
        """How many values a hash may have, or how many characters; 0 where the type has no hash."""
        if self.base_name in TEXTS:
            return 0 if self.is_fuzzy else self.most_chars or HEX_DIGITS
        if self.base_name == "numeric":
            digits = MOST_DIGITS if self.most_digits is None else min(self.most_digits, MOST_DIGITS)
            return 10**digits if digits > 0 else 0
        return INTEGERS.get(self.base_name, HEX_DIGITS * (self.base_name in ("uuid", "bytea")))


class _Member(NamedTuple):
    schema_name: str
    table_name: str
    has_rows: bool
    is_foreign: bool

    @property
    def table(self) -> tuple[str, str]:
        return self.schema_name, self.table_name


class _Key(NamedTuple):
    name: str
    is_full: bool
    schema_name: str
    table_name: str
    columns: list[str]
    other_schema: str
    other_table: str
    other_columns: list[str]


def check(conn: Connection, target: Target) -> dict[str, _Column]:
    """Return the column of each rule of a target, as a database has it; ``conn`` is a session of the target.

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
    _linked(conn, target, found)
    return found


def apply(server: Server, branch: BranchTarget) -> None:
    """Mask the columns of a branch that runs; its WAL is gone afterwards, so it is started anew.

    Raises WrongInput as :func:`check`, RunbookError where the server refuses the values.
    """
    if not branch.masking:
        return
    database = str(branch.database)
    with progress.doing("masking columns"):
        try:
            with connect(branch, purpose="branch") as conn:
                columns, settings = check(conn, branch), (conn.search_path, conn.beside)
            with _nothing_fires(server, database), _session(server, database) as conn:
                conn.search_path, conn.beside = settings  # expressions of indexes and views name what they need
                _write(conn, branch, columns)
                _fill_views(conn)
                _take_statistics(conn)
                files = {str(path) for (path,) in conn.execute(load("masking")["files"].encode())}
        except psycopg.Error as exc:
            raise _could_not(branch, exc) from exc
        _drop_others(server, database)
        server.stop()
        _remove_orphans(server, files)
        server.run("pg_resetwal", "-D", "data")
        server.do("rm", "-rf", "archive")
        server.do("mkdir", "archive")
        server.launch()


@contextmanager
def _session(server: Server, database: str) -> Iterator[Connection]:
    """Give a session for which no foreign key fires, and no trigger or rule but those for replicas."""
    with server.connect(purpose="branch", database=database) as conn:
        connection.limit(conn, **LIMITS)
        conn.execute("SET session_replication_role = replica")
        yield conn


@contextmanager
def _nothing_fires(server: Server, database: str) -> Iterator[None]:
    """Let no trigger, rule or event trigger fire in the body, also none that does in the session of a replica.

    By hand, as ALTER TABLE would itself call event triggers. Sessions that are open already do not notice.
    """
    found: list[tuple[str, str, str, list[object]]] = []
    with _session(server, database) as conn:
        for catalog, column in FIRES:
            names = {"catalog": sql.Identifier("pg_catalog", catalog), "column": sql.Identifier(column)}
            for how in "AR":
                changed = conn.execute(sql.SQL(SILENCE).format(**names), {"how": how}).fetchall()
                found.append((catalog, column, how, [oid for (oid,) in changed]))
    yield
    with _session(server, database) as conn:
        for catalog, column, how, oids in found:
            names = {"catalog": sql.Identifier("pg_catalog", catalog), "column": sql.Identifier(column)}
            conn.execute(sql.SQL(LET_FIRE).format(**names), {"how": how, "oids": oids})


def _write(conn: Connection, target: Target, columns: Mapping[str, _Column]) -> None:
    salt, sizes = secrets.token_hex(16), _linked(conn, target, columns)
    by_table: dict[tuple[str, str], dict[str, sql.Composable]] = {}
    for name, column in columns.items():
        value = _value(column, target.masking[name], salt, sizes[column])
        by_table.setdefault(column.table, {})[column.column_name] = value
    for table, other, value in [*shadow_values.beside(conn, by_table)]:
        by_table[table][other] = value
    families = {table: _family(conn, table) for table in by_table}
    with conn.as_target():
        for table, given in by_table.items():
            values = [sql.SQL("{} = {}").format(sql.Identifier(column), value) for column, value in given.items()]
            for named in _written(table, families[table]):
                conn.execute(sql.SQL("UPDATE {} SET {}").format(named, sql.SQL(", ").join(values)))
        written = {one.table for family in families.values() for one in family if one.has_rows}
        for table in sorted(written):  # dead rows hold the old values
            conn.execute(sql.SQL("VACUUM (FULL) {}").format(sql.Identifier(*table)))
    if kept := [str(name) for (name,) in conn.execute(load("masking")["undo_data"].encode())]:
        conn.execute(f"TRUNCATE {', '.join(kept)}".encode())


def _written(table: tuple[str, str], family: Sequence[_Member]) -> list[sql.Composable]:
    """Return what is updated so that each row of a table is; foreign tables below it have none on a branch."""
    if not any(one.is_foreign for one in family):
        return [sql.Identifier(*table)]
    return [sql.SQL("ONLY {}").format(sql.Identifier(*one.table)) for one in family if one.has_rows]


def _fill_views(conn: Connection) -> None:
    """Fill the materialized views anew; those that are filled from elsewhere, or from such ones, stay empty."""
    elsewhere = {tuple(row) for row in conn.execute(load("data_branch")["views_from_outside"].encode())}
    views = [tuple(map(str, row)) for row in conn.execute(load("masking")["views"].encode())]
    with conn.as_target():
        for view in views:
            conn.execute(sql.SQL("REFRESH MATERIALIZED VIEW {} WITH NO DATA").format(sql.Identifier(*view)))
        left = [view for view in views if view not in elsewhere]
        while left:
            again = [view for view in left if not _is_filled(conn, view)]
            if len(again) == len(left):
                return
            left = again


def _is_filled(conn: Connection, view: Sequence[str]) -> bool:
    """Fill a materialized view; return whether it could be, as each that it reads is filled."""
    try:
        conn.execute(sql.SQL("REFRESH MATERIALIZED VIEW {}").format(sql.Identifier(*view)))
    except psycopg.errors.ObjectNotInPrerequisiteState:
        return False
    return True


def _take_statistics(conn: Connection) -> None:
    """Take all statistics anew: those of before lie in tables of the catalog, and in their TOAST."""
    for catalog in STATISTICS:
        conn.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier("pg_catalog", catalog)))
    branch_server.analyze(conn)
    for catalog in STATISTICS:
        conn.execute(sql.SQL("VACUUM (FULL) {}").format(sql.Identifier("pg_catalog", catalog)))


def _value(column: _Column, rule: MaskRule, salt: str, size: int) -> sql.Composable:
    """Return the expression that a column gets; NULL stays NULL under a hash, and what is equal stays equal."""
    made: sql.Composable
    if rule == "null":
        return sql.SQL("NULL")
    if isinstance(rule, Constant):
        made = sql.Literal(rule.constant)
    else:
        spelled = sql.SQL(SPELLED.get(column.base_name, "{}")).format(sql.Identifier(column.column_name))
        salted = sql.SQL("pg_catalog.convert_to({} OPERATOR(pg_catalog.||) {}::pg_catalog.text, 'UTF8')").format(
            sql.Literal(salt), spelled
        )
        octets = sql.SQL("pg_catalog.sha256({})").format(salted)
        digits = sql.SQL("pg_catalog.encode({}, 'hex')").format(octets)
        if column.base_name == "bytea":
            made = octets
        elif column.base_name == "uuid":
            made = sql.SQL("pg_catalog.left({}, 32)").format(digits)
        elif column.base_name in TEXTS:
            made = sql.SQL("pg_catalog.left({}, {})").format(digits, sql.Literal(size))
        else:
            number = sql.SQL(
                "('x' OPERATOR(pg_catalog.||) pg_catalog.left({}, 15))::pg_catalog.bit(60)::pg_catalog.int8"
            )
            made = sql.SQL("pg_catalog.mod({}, {}::pg_catalog.int8)").format(number.format(digits), sql.Literal(size))
    return sql.SQL("CAST({} AS {})").format(made, sql.SQL(column.type_name))


def _column(conn: Connection, name: str) -> _Column | None:
    """Return the column that a rule names, as a session of the target would find it; None where there is none."""
    try:
        names = conn.execute(load("masking")["names"].encode(), {"rule": name}).fetchall()
    except psycopg.errors.InvalidParameterValue:  # it is no name
        return None
    if len(names) not in (2, 3):
        return None
    *table, (column, _) = names
    oid = conn.oid_of("regclass", ".".join(str(spelled) for _, spelled in table))
    with conn.cursor(row_factory=class_row(_Column)) as cursor:
        return cursor.execute(load("masking")["column"].encode(), {"oid": oid, "column": column}).fetchone()


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
    if rule == "hash" and column.is_fuzzy:
        return "Its collation takes different values for equal.", 'Use "null", or {constant = "..."}.'
    if rule == "hash" and not column.size:
        return f"Type {column.type_name} has no hash.", 'Use "null", or {constant = "..."}.'
    return None


def _linked(conn: Connection, target: Target, found: Mapping[str, _Column]) -> dict[_Column, int]:
    """Return how large the hash of each column may be, so that it is the same on both sides of every foreign key.

    Raises WrongInput for a masked column of a foreign key whose other side keeps its value, or gets another.
    """
    rules = {
        (*one.table, column.column_name): (name, column)
        for name, column in found.items()
        for one in _family(conn, column.table)
    }
    pairs: list[tuple[_Column, _Column]] = []
    with conn.cursor(row_factory=class_row(_Key)) as cursor:
        keys = cursor.execute(load("masking")["references"].encode()).fetchall()
    for key in keys:
        mine = [rules.get((key.schema_name, key.table_name, column)) for column in key.columns]
        others = [rules.get((key.other_schema, key.other_table, column)) for column in key.other_columns]
        nulls = [one is not None and target.masking[one[0]] == "null" for one in mine]
        for number, (one, other) in enumerate(zip(mine, others, strict=True)):
            if (one is None and other is None) or (nulls[number] and (all(nulls) or not key.is_full)):
                continue
            if one and other and target.masking[one[0]] == target.masking[other[0]] == "hash":
                pairs.append((one[1], other[1]))
                continue
            raise _wrong(
                target,
                (one or other or ("",))[0],
                f"Foreign key {key.name} leads from {key.table_name}.{key.columns[number]} "
                f"to {key.other_table}.{key.other_columns[number]}.",
                'Mask both sides by "hash", or the side that references by "null".',
            )
    sizes = {column: column.size for column in found.values()}
    for _ in pairs:
        for one_column, other_column in pairs:
            sizes[one_column] = sizes[other_column] = min(sizes[one_column], sizes[other_column])
    return sizes


def _family(conn: Connection, table: tuple[str, str]) -> list[_Member]:
    with conn.cursor(row_factory=class_row(_Member)) as cursor:
        return cursor.execute(load("masking")["family"], {"schema": table[0], "table": table[1]}).fetchall()


def _drop_others(server: Server, database: str) -> None:
    """Drop the databases that came along with the server's files: nobody has masked them.

    Those that every cluster has are made anew; our own sessions may use one of them.
    """
    own = {database, "template0", *([server.database] if server.database != POSTGRES else [])}
    with server.connect(purpose="branch", database=database) as admin:
        connection.limit(admin, **LIMITS)
        for (name,) in admin.execute(load("masking")["others"].encode(), {"kept": sorted(own)}).fetchall():
            named = sql.Identifier(str(name))
            admin.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(named))
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(named))
            if name in OF_EVERY_CLUSTER:
                is_template = sql.SQL("true" if name != POSTGRES else "false")
                made = sql.SQL("CREATE DATABASE {} TEMPLATE template0 IS_TEMPLATE {} {}")
                admin.execute(made.format(named, is_template, branch_server.file_copy(server)))


def _remove_orphans(server: Server, files: set[str]) -> None:
    """Remove the files in the folders of a database's tables that belong to none of them; the server is stopped."""
    found = []
    for folder in {Path(path).parent for path in files}:
        for path in (server.data_dir / folder).iterdir():
            match = FILE.fullmatch(path.name)
            if match and str(folder / match[1]) not in files:
                found.append(f"data/{folder}/{path.name}")
    for begin in range(0, len(found), FILES_AT_ONCE):
        server.do("rm", "-f", *found[begin : begin + FILES_AT_ONCE])


def described(masked: Iterable[str], *, is_protected: bool) -> str:
    """Return what a list shows of the masked columns of a branch."""
    return ", ".join(masked) or ("none: the data are those of a protected target" if is_protected else "")


def _wrong(target: Target, name: str, detail: str, hint: str) -> WrongInput:
    return WrongInput(
        f'column "{name}" of target "{target.name}" cannot be masked',
        detail=detail,
        state="Nothing is copied that could be seen.",
        hint=f"{hint} The rules are in section [{target.name.partition(OF_BRANCH)[0]}.masking] of targets.toml.",
    )


def _could_not(branch: BranchTarget, exc: psycopg.Error) -> RunbookError:
    return RunbookError(
        f'could not mask the columns of branch "{branch.name}"',
        detail=said(exc),
        state="The target was only read; the branch is removed.",
        hint="Choose another rule for the column that the server names.",
    )
