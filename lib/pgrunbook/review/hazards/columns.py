"""Hazards of adding, changing, renaming and dropping columns."""

# ruff: noqa: S608 - ways out are shown to people and not run

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from pglast import ast

from pgrunbook.database.catalog import Standing, Table
from pgrunbook.display.prose import counted
from pgrunbook.effects.alter_table import computes_not_null, fills_each_row
from pgrunbook.effects.result import Found
from pgrunbook.effects.type_change import judge
from pgrunbook.review.column_usage import uses_of
from pgrunbook.review.hazards import estimates
from pgrunbook.review.hazards.batches import batches, key_of
from pgrunbook.review.hazards.rule import Note, Scene, Severity, others_see, rule
from pgrunbook.sql.serial import SERIAL, plain_type
from pgrunbook.sql.tree import Name, constraint_kind, object_kind, quoted, subcommand, text, type_word


def without(definition: Any, *kinds: str) -> str:
    """Return a new column as it is written, without its constraints of these kinds, or what stands behind them."""
    bare, left_out = copy.copy(definition), False
    kept = []
    for part in definition.constraints or ():
        word = constraint_kind(part)
        left_out = word in kinds or (left_out and word.startswith("ATTR"))
        kept += [] if left_out else [part]
    bare.constraints = tuple(kept) or None
    return text(bare)


def not_null_steps(table: Table, column: str) -> str:
    """Return the statements that make a column NOT NULL without reading the table under a lock."""
    name = quoted(f"{column}_not_null")
    return (
        f"ALTER TABLE {table.label} ADD CONSTRAINT {name} CHECK ({quoted(column)} IS NOT NULL) NOT VALID;\n"
        f"ALTER TABLE {table.label} VALIDATE CONSTRAINT {name};  -- in a transaction of its own\n"
        f"ALTER TABLE {table.label} ALTER COLUMN {quoted(column)} SET NOT NULL;\n"
        f"ALTER TABLE {table.label} DROP CONSTRAINT {name};"
    )


_LATER = ("DEFAULT", "NOTNULL", "IDENTITY", "GENERATED", "CHECK", "UNIQUE", "PRIMARY", "FOREIGN")


def _added(scene: Scene) -> Iterator[tuple[Table, Any, dict[str, Any]]]:
    for table, cmd in scene.altered():
        if subcommand(cmd) == "AddColumn" and not (cmd.missing_ok and cmd.def_.colname in table.columns):
            yield table, cmd.def_, {constraint_kind(c): c for c in cmd.def_.constraints or ()}


@rule(
    "add-column-rewrites",
    Severity.ERROR,
    on=(ast.AlterTableStmt,),
    bad="ALTER TABLE orders ADD COLUMN token uuid DEFAULT gen_random_uuid();",
    good="ALTER TABLE orders ADD COLUMN made timestamptz DEFAULT now();",
)
def add_rewrites(scene: Scene) -> Iterator[Note]:
    """A new column gets a different value in each row, so that the table is rewritten."""
    for table, definition, kinds in _added(scene):
        if not fills_each_row(Found(scene.catalog), definition):
            continue
        column, bare = quoted(definition.colname), copy.copy(definition)
        bare.typeName = plain_type(definition.typeName)
        is_serial = bare.typeName is not definition.typeName
        value = text(kinds["DEFAULT"].raw_expr) if "DEFAULT" in kinds else "..."
        lines = [f"ALTER TABLE {table.label} ADD COLUMN {without(bare, *_LATER)};"]
        if is_serial:
            sequence = Name(table.schema or None, f"{table.name}_{definition.colname}_seq")
            value = f"nextval('{sequence}')"
            lines.append(
                f"CREATE SEQUENCE {sequence} AS {type_word(bare.typeName).text} OWNED BY {table.label}.{column};"
            )
        if value != "...":
            lines.append(f"ALTER TABLE {table.label} ALTER COLUMN {column} SET DEFAULT {value};")
        lines.append(batches(table, f"{column} = {value}", f"{column} IS NULL"))
        if is_serial or {"NOTNULL", "PRIMARY"} & kinds.keys():
            lines.append(not_null_steps(table, definition.colname))
        time = estimates.rewrite_time(scene.catalog, table)
        yield Note(f"Readers and writers of {table.label} wait {time} (AccessExclusiveLock).", "\n".join(lines), table)


@rule(
    "add-column-not-null",
    Severity.ERROR,
    on=(ast.AlterTableStmt,),
    bad="ALTER TABLE orders ADD COLUMN state text NOT NULL;",
    good="ALTER TABLE orders ADD COLUMN state text NOT NULL DEFAULT 'new';",
)
def add_not_null(scene: Scene) -> Iterator[Note]:
    """A new column is NOT NULL and has no value for existing rows."""
    for table, definition, kinds in _added(scene):
        filled = {"DEFAULT", "IDENTITY", "GENERATED"} & kinds.keys() or type_word(definition.typeName).name in SERIAL
        if not {"NOTNULL", "PRIMARY"} & kinds.keys() or filled:
            continue
        column, rows = quoted(definition.colname), scene.catalog.rows_estimate(table)
        if not others_see(table) or rows == 0:
            continue
        held = "if the table holds any row" if rows is None else f"because the table holds about {counted(rows, 'row')}"
        yield Note(
            f"It fails on {table.label} {held}; and running code that does not know {column} cannot insert.",
            f"ALTER TABLE {table.label} ADD COLUMN {without(definition, 'NOTNULL', 'PRIMARY')};\n"
            f"-- give each row its {column}, in batches (procedure: backfill); then\n"
            + not_null_steps(table, definition.colname),
        )


@rule(
    "add-column-checks-rows",
    Severity.ERROR,
    on=(ast.AlterTableStmt,),
    bad="ALTER TABLE orders ADD COLUMN price integer CHECK (price > 0);",
    good="ALTER TABLE orders ADD COLUMN price integer;",
)
def add_checks(scene: Scene) -> Iterator[Note]:
    """A new column comes with a constraint, for which the table is read under its strongest lock."""
    for table, definition, kinds in _added(scene):
        for word in ("CHECK", "UNIQUE", "PRIMARY"):
            if word in kinds:
                yield Note(
                    f"Readers and writers of {table.label} wait {estimates.read_time(scene.catalog, table)}.",
                    f"ALTER TABLE {table.label} ADD COLUMN {without(definition, 'CHECK', 'UNIQUE', 'PRIMARY')};\n"
                    + _added_apart(table, definition, kinds[word]),
                    table,
                )
        if computes_not_null(kinds):
            name, column = quoted(f"{definition.colname}_not_null"), quoted(definition.colname)
            yield Note(
                f"Readers and writers of {table.label} wait {estimates.read_time(scene.catalog, table)}.",
                f"ALTER TABLE {table.label} ADD COLUMN {column} {type_word(definition.typeName).text}"
                f" GENERATED ALWAYS AS ({text(kinds['GENERATED'].raw_expr)}) VIRTUAL;\n"
                f"ALTER TABLE {table.label} ADD CONSTRAINT {name} NOT NULL {column} NOT VALID;\n"
                f"ALTER TABLE {table.label} VALIDATE CONSTRAINT {name};  -- in a transaction of its own",
                table,
            )


def _added_apart(table: Table, definition: Any, constraint: Any) -> str:
    """Return the statements that give a new column its CHECK or key, while others read and write the table."""
    column, word = quoted(definition.colname), constraint_kind(constraint)
    ending = {"CHECK": f"{definition.colname}_check", "UNIQUE": f"{definition.colname}_key", "PRIMARY": "pkey"}[word]
    name = quoted(constraint.conname or f"{table.name}_{ending}")
    if word == "CHECK":
        return (
            f"ALTER TABLE {table.label} ADD CONSTRAINT {name} CHECK ({text(constraint.raw_expr)}) NOT VALID;\n"
            f"ALTER TABLE {table.label} VALIDATE CONSTRAINT {name};  -- in a transaction of its own"
        )
    steps = [f"CREATE UNIQUE INDEX CONCURRENTLY {name} ON {table.label} ({column});  -- outside a transaction"]
    steps += [not_null_steps(table, definition.colname)] if word == "PRIMARY" else []
    key = "PRIMARY KEY" if word == "PRIMARY" else "UNIQUE"
    return "\n".join([*steps, f"ALTER TABLE {table.label} ADD CONSTRAINT {name} {key} USING INDEX {name};"])


@rule(
    "column-type-rewrites",
    Severity.ERROR,
    on=(ast.AlterTableStmt,),
    bad="ALTER TABLE orders ALTER COLUMN total TYPE bigint;",
    good="ALTER TABLE orders ALTER COLUMN total SET DEFAULT 0;",
)
def type_rewrites(scene: Scene) -> Iterator[Note]:
    """A column's new type is stored differently, so that the table and all its indexes are rewritten."""
    for table, cmd in scene.altered():
        if subcommand(cmd) != "AlterColumnType":
            continue
        change = judge(table.columns.get(cmd.name), cmd, scene.catalog)
        if not change.rewrites:
            continue
        time = estimates.rewrite_time(scene.catalog, table)
        perhaps = "" if change.known else " This depends on the column's current type, which is not known here."
        old, new = quoted(cmd.name), quoted(f"{cmd.name}_new")
        using = cmd.def_.raw_default
        value = f"{old}::{change.new}" if using is None else text(using)
        own = f"ALTER TABLE {table.label} NOT OF;  -- a table of a type gets no column\n" if table.of_type else ""
        yield Note(
            f"Readers and writers of {table.label} wait {time} (AccessExclusiveLock), the disk needs room for a second"
            f" copy, and the column's statistics are lost.{perhaps}",
            f"{own}ALTER TABLE {table.label} ADD COLUMN {new} {change.new};\n"
            f"-- a trigger that writes {new} from {old} and {old} from {new}, before the first batch\n"
            + batches(table, f"{new} = {value}", f"{new} IS DISTINCT FROM {value}")
            + f"\n-- on {new}: constraints NOT VALID, then VALIDATE; indexes CONCURRENTLY\n"
            f"BEGIN; SET LOCAL lock_timeout = '200ms';\n"
            f"ALTER TABLE {table.label} RENAME COLUMN {old} TO {quoted(cmd.name + '_old')};\n"
            f"ALTER TABLE {table.label} RENAME COLUMN {new} TO {old}; COMMIT;  -- procedure: backfill",
            table,
        )


@rule(
    "column-type-rebuilds-index",
    Severity.ERROR,
    on=(ast.AlterTableStmt,),
    setup="CREATE TABLE users (id integer PRIMARY KEY, name text); CREATE INDEX users_lower ON users (lower(name));",
    bad="ALTER TABLE users ALTER COLUMN name TYPE varchar;",
    good="DROP INDEX CONCURRENTLY users_lower; ALTER TABLE users ALTER COLUMN name TYPE varchar;",
)
def type_rebuilds(scene: Scene) -> Iterator[Note]:
    """A column's new type leaves the table as it is, but an index is rebuilt or a CHECK reads all rows."""
    for table, cmd in scene.altered():
        if subcommand(cmd) == "AlterColumnType" and not scene.effects.rewrites and scene.effects.scans:
            what = ", ".join(scene.effects.rebuilds) or "a CHECK over it"
            yield Note(
                f"Readers and writers of {table.label} wait for {what}, {estimates.read_time(scene.catalog, table)}.",
                "-- drop the index or the CHECK first; afterwards create it again, CONCURRENTLY or NOT VALID",
                table,
            )


@rule(
    "change-under-dependents",
    Severity.ERROR,
    bad="CREATE TABLE a (b integer); CREATE VIEW v AS SELECT b FROM a; ALTER TABLE a ALTER COLUMN b TYPE bigint;",
    good="CREATE TABLE a (b integer); ALTER TABLE a ALTER COLUMN b TYPE bigint;",
)
def under_dependents(scene: Scene) -> Iterator[Note]:
    """Other objects depend on what is changed or dropped, and PostgreSQL refuses."""
    reasons = [*scene.effects.fails, *_views_before(scene)]
    for reason in reasons:
        if "must hold no row" not in reason:
            yield Note(
                f"It fails: {reason}.",
                "-- in one transaction: drop the dependent objects, make this change, recreate them with their grants",
            )


def _views_before(scene: Scene) -> Iterator[str]:
    """Yield the views that these files create over a column that changes, of a table that nobody knows."""
    for table, cmd in scene.altered():
        is_known = table.standing is not Standing.UNKNOWN
        if subcommand(cmd) in ("AlterColumnType", "DropColumn") and not is_known:
            for other in scene.earlier:
                if isinstance(other.node, ast.ViewStmt | ast.CreateTableAsStmt):
                    query = text(other.node.query)
                    if table.name in query and cmd.name in query:
                        yield f"a view in {other.statement.place} reads {cmd.name}"


@rule(
    "rename-column",
    Severity.ERROR,
    on=(ast.RenameStmt,),
    bad="ALTER TABLE nodes RENAME COLUMN ip TO internal_ip;",
    good="ALTER TABLE nodes ADD COLUMN internal_ip text;",
)
def rename_column(scene: Scene) -> Iterator[Note]:
    """A column gets a new name while running code uses the old one."""
    node = scene.node
    if not isinstance(node, ast.RenameStmt) or object_kind(node.renameType) != "COLUMN" or node.relation is None:
        return
    table, old, new = scene.table(node.relation), quoted(node.subname), quoted(node.newname)
    if not others_see(table):
        return
    yield Note(
        f"After the commit every statement that names {table.label}.{old} fails, and after a rollback every statement"
        f" that names {new}; views keep the old name, functions with text bodies break."
        + _counted(scene, table, [node.subname]),
        _beside(table, node.subname, node.newname)
        + f"\n-- move readers, then writers, to {new}; drop {old} one release later (procedure: backfill)",
    )


def _beside(table: Table, old: str, new: str) -> str:
    """Return the statements that put a column of another name beside one, and keep it equal."""
    column = table.columns.get(old)
    if column is None:
        return f"-- ADD COLUMN {quoted(new)} with the type of {quoted(old)}, a trigger that keeps both equal, batches"
    change, there = f"{quoted(new)} = {quoted(old)}", f"{quoted(new)} IS DISTINCT FROM {quoted(old)}"
    return (
        f"ALTER TABLE {table.label} ADD COLUMN {quoted(new)} {column.type};\n"
        + kept_equal(table, old, new)
        + "\n"
        + batches(table, change, there)
    )


def kept_equal(table: Table, source: str, target: str, value: str = "") -> str:
    """Return the trigger that sets one column from another whenever a row is written."""
    name = quoted(f"{table.name}_both")
    value = value or f"NEW.{quoted(source)}"
    return (
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.{quoted(target)} := {value};"
        " RETURN NEW; END $$;\n"
        f"CREATE TRIGGER {name} BEFORE INSERT OR UPDATE ON {table.label} FOR EACH ROW EXECUTE FUNCTION {name}();"
        "  -- before the first batch"
    )


@rule(
    "drop-column",
    Severity.ERROR,
    on=(ast.AlterTableStmt,),
    bad="ALTER TABLE projects DROP COLUMN old;",
    good="ALTER TABLE projects ALTER COLUMN old DROP NOT NULL;",
)
def drop_column(scene: Scene) -> Iterator[Note]:
    """A column is dropped with its values while code may still read it."""
    for table, cmd in scene.altered():
        if subcommand(cmd) != "DropColumn" or not others_see(table):
            continue
        if scene.catalog.connected and cmd.name not in table.columns:
            continue
        column = quoted(cmd.name)
        goes = [lost for lost in scene.effects.loses if not lost.startswith("the values")]
        along = f" Dropped with it: {', '.join(goes)}." if goes else ""
        yield Note(
            f"The values of {table.label}.{column} are lost permanently, and code with a cached column list"
            f" fails.{along}{_counted(scene, table, [cmd.name])}",
            f"-- 1. release code that neither reads nor writes it; 2. copy the values:\n"
            f"CREATE TABLE {quoted(f'{table.name}_{cmd.name}_kept')} AS SELECT {key_of(table)}, {column} FROM"
            f" {table.label};\n"
            f"ALTER TABLE {table.label} ALTER COLUMN {column} DROP NOT NULL;\n"
            f"-- 3. wait until nothing uses it; then, in a transaction of its own:\nSET lock_timeout = '2s';\n"
            f"ALTER TABLE {table.label} DROP COLUMN {column};",
        )


def _counted(scene: Scene, table: Table, columns: list[str]) -> str:
    if not scene.catalog.uses_known:
        return ""
    calls = sum(use.calls for use in uses_of(scene.catalog, table, columns[0]))
    return f" pg_stat_statements counts {calls:,} calls that use it." if calls else ""


@rule(
    "set-not-null-scans",
    Severity.ERROR,
    on=(ast.AlterTableStmt,),
    bad="ALTER TABLE orders ALTER COLUMN total SET NOT NULL;",
    good="ALTER TABLE orders ADD CONSTRAINT total_there CHECK (total IS NOT NULL) NOT VALID;",
)
def set_not_null(scene: Scene) -> Iterator[Note]:
    """A column becomes NOT NULL and no validated CHECK proves it: the table is read under its strongest lock."""
    for table, cmd in scene.altered():
        adds = subcommand(cmd) == "AddConstraint" and constraint_kind(cmd.def_) == "NOTNULL"
        adds = adds and not cmd.def_.skip_validation
        if not scene.effects.scans:
            continue
        time = estimates.read_time(scene.catalog, table)
        effect = f"Readers and writers of {table.label} wait {time} (AccessExclusiveLock)."
        if subcommand(cmd) == "SetNotNull" or adds:
            severity = Severity.NOTE if _may_be_proven(scene, table) else None
            column = cmd.name if not adds else cmd.def_.keys[0].sval
            yield Note(effect, not_null_steps(table, column), table, severity)
        elif adopted := _nullable_keys(table, cmd):
            steps = [not_null_steps(table, column) for column in adopted]
            yield Note(effect, "\n".join([*steps, f"{scene.sql};"]), table)


def _may_be_proven(scene: Scene, table: Table) -> bool:
    """Whether a constraint is validated before that another migration has added, and that nobody knows here."""
    named = {constraint.name for constraint in table.constraints}
    return table.standing is Standing.UNKNOWN and any(
        subcommand(cmd) == "ValidateConstraint" and altered.key == table.key and cmd.name not in named
        for other in scene.earlier
        for altered, cmd in other.altered()
    )


def _nullable_keys(table: Table, cmd: Any) -> list[str]:
    """Return the columns that become NOT NULL because a primary key adopts an index over them."""
    node = cmd.def_
    if subcommand(cmd) != "AddConstraint" or constraint_kind(node) != "PRIMARY" or not node.indexname:
        return []
    keys = next((index.keys for index in table.indexes if index.name == node.indexname), ())
    return [key for key in keys if key in table.columns and not table.columns[key].not_null]
