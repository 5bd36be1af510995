"""Hazards of dropping, renaming and rewriting whole tables, and of column declarations."""

# ruff: noqa: S608 - ways out are shown to people and not run

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pglast import ast

from pgrunbook.display.prose import counted
from pgrunbook.review.hazards import estimates
from pgrunbook.review.hazards.rule import Note, Scene, Severity, others_see, rule
from pgrunbook.sql.tree import constraint_kind, dotted, is_on, object_kind, quoted, relation, subcommand

_TIMES = {"timestamp"}


def new_columns(scene: Scene) -> Iterator[tuple[str, Any]]:
    """Yield the columns that a statement creates, each with its table's name as written."""
    if isinstance(scene.node, ast.CreateStmt):
        for part in scene.node.tableElts or ():
            if isinstance(part, ast.ColumnDef) and part.typeName is not None:
                yield str(relation(scene.node.relation)), part
    for table, cmd in scene.altered():
        if subcommand(cmd) == "AddColumn":
            yield table.label, cmd.def_


@rule(
    "drop-table",
    Severity.ERROR,
    on=(ast.DropStmt,),
    bad="DROP TABLE projects;",
    good="DROP TABLE IF EXISTS pg_temp.projects;",
)
def drop_table(scene: Scene) -> Iterator[Note]:
    """A table is dropped with its rows."""
    node = scene.node
    if not isinstance(node, ast.DropStmt) or object_kind(node.removeType) != "TABLE":
        return
    for entry in node.objects:
        table = scene.catalog.find(dotted(entry))
        if not others_see(table) or table.schema == "pg_temp":
            continue
        rows = scene.catalog.rows_estimate(table)
        held = "its rows" if rows is None else f"about {counted(rows, 'row')}"
        along = [lost for lost in scene.effects.loses if not lost.startswith("table ")]
        yield Note(
            f"{table.label} and {held} are lost permanently; tables that it references are locked as well"
            f" (AccessExclusiveLock).{' Dropped with it: ' + ', '.join(along) + '.' if along else ''}",
            f"ALTER TABLE {table.label} RENAME TO {quoted(table.name + '_dropped')};\n"
            "-- wait until nothing uses it, dump it, then:\nSET lock_timeout = '2s';\n"
            f"DROP TABLE {quoted(table.name + '_dropped')};  -- in a transaction of its own",
            severity=Severity.NOTE if rows == 0 else None,
        )


@rule(
    "truncate", Severity.ERROR, on=(ast.TruncateStmt,), bad="TRUNCATE orders;", good="DELETE FROM orders WHERE id = 7;"
)
def truncate(scene: Scene) -> Iterator[Note]:
    """TRUNCATE deletes all rows of a table at once, under its strongest lock."""
    if isinstance(scene.node, ast.TruncateStmt):
        for part in scene.node.relations:
            table = scene.table(part)
            yield Note(
                f"{', '.join(scene.effects.loses)} are lost permanently; readers and writers wait.",
                f"CREATE TABLE {quoted(table.name + '_kept')} AS TABLE {table.label};  -- then delete in batches",
                severity=None if others_see(table) else Severity.NOTE,
            )


@rule(
    "drop-cascade",
    Severity.ERROR,
    on=(ast.DropStmt, ast.TruncateStmt, ast.AlterTableStmt),
    bad="DROP TYPE mood CASCADE;",
    good="DROP TYPE mood;",
)
def drop_cascade(scene: Scene) -> Iterator[Note]:
    """CASCADE drops objects that the statement does not name."""
    node = scene.node
    cascades = isinstance(node, ast.DropStmt | ast.TruncateStmt) and node.behavior == 1
    for _, cmd in scene.altered():
        cascades = cascades or (subcommand(cmd) in ("DropColumn", "DropConstraint") and cmd.behavior == 1)
    if cascades:
        named = ", ".join(scene.effects.loses)
        yield Note(
            f"Everything that depends on it is lost as well, without a message: {named or 'not known here'}.",
            "-- omit CASCADE; check each dependent object, then drop it by its name",
        )


@rule(
    "if-exists-hides",
    Severity.NOTE,
    on=(ast.DropStmt, ast.AlterTableStmt),
    taste=True,
    bad="ALTER TABLE projects DROP COLUMN IF EXISTS old;",
    good="ALTER TABLE projects DROP COLUMN old;",
)
def if_exists(scene: Scene) -> Iterator[Note]:
    """IF EXISTS succeeds silently in the wrong database, in the wrong schema and for a misspelt name."""
    node = scene.node
    missing_ok = isinstance(node, ast.DropStmt) and node.missing_ok
    for _, cmd in scene.altered():
        missing_ok = missing_ok or (subcommand(cmd) in ("DropColumn", "DropConstraint") and cmd.missing_ok)
    if missing_ok:
        sql = scene.sql
        yield Note(
            "A migration that did nothing looks like one that worked.",
            f"{sql.replace(' IF EXISTS', '').replace(' if exists', '')};",
        )


@rule(
    "rename-table",
    Severity.ERROR,
    on=(ast.RenameStmt, ast.AlterObjectSchemaStmt),
    bad="ALTER TABLE projects RENAME TO works;",
    good="CREATE VIEW works AS SELECT * FROM projects;",
)
def rename_table(scene: Scene) -> Iterator[Note]:
    """A table gets a new name or schema while running code uses the old one."""
    node = scene.node
    if isinstance(node, ast.RenameStmt) and object_kind(node.renameType) == "TABLE":
        new = quoted(node.newname)
    elif isinstance(node, ast.AlterObjectSchemaStmt) and node.relation is not None:
        new = f"{quoted(node.newschema)}.{quoted(node.relation.relname)}"
    else:
        return
    table = scene.table(node.relation)
    if others_see(table) and not scene.may_be_new(table) and not _has_stand_in(scene, node.relation.relname):
        yield Note(
            f"After the commit every statement that names {table.label} fails; views, foreign keys and cached plans"
            " follow the table, not the name.",
            f"BEGIN; SET LOCAL lock_timeout = '200ms';\n{scene.sql};\n"
            f"CREATE VIEW {table.label} AS SELECT * FROM {new};  -- until no code uses the old name\nCOMMIT;",
        )


def _has_stand_in(scene: Scene, name: str) -> bool:
    """Whether a view takes the old name in the same transaction."""
    views = (s for s in scene.later if isinstance(s.node, ast.ViewStmt) and scene.commits_with(s))
    return any(view.node.view.relname == name for view in views)


@rule(
    "table-rewritten",
    Severity.ERROR,
    on=(ast.VacuumStmt, ast.ClusterStmt, ast.AlterTableStmt),
    bad="VACUUM FULL orders;",
    good="VACUUM orders;",
)
def rewritten(scene: Scene) -> Iterator[Note]:
    """VACUUM FULL, CLUSTER or a change of storage rewrites a whole table under its strongest lock."""
    node = scene.node
    full = isinstance(node, ast.VacuumStmt) and node.is_vacuumcmd and is_on(node.options, "full")
    words = {"SetLogged", "SetUnLogged", "SetTableSpace", "SetAccessMethod", "SetExpression"}
    stored = any(subcommand(cmd) in words for _, cmd in scene.altered()) and scene.effects.rewrites
    if not (full or stored or isinstance(node, ast.ClusterStmt)):
        return
    for label in scene.effects.rewrites or ("every table",):
        table = scene.catalog.labelled(label)
        time = estimates.rewrite_time(scene.catalog, table) if table else "for as long as the rewrite takes"
        yield Note(
            f"Readers and writers of {label} wait {time} (AccessExclusiveLock).",
            "-- a copy beside it that is kept equal, then swapped (procedure: swap)"
            if stored
            else f"VACUUM (ANALYZE){f' {label}' if table else ''};"
            "  -- usually enough; to shrink a table that is in use: procedure swap",
            table,
        )


@rule(
    "materialized-view-locked",
    Severity.ERROR,
    on=(ast.RefreshMatViewStmt,),
    bad="REFRESH MATERIALIZED VIEW totals;",
    good="REFRESH MATERIALIZED VIEW CONCURRENTLY totals;",
)
def refresh(scene: Scene) -> Iterator[Note]:
    """A materialized view is refreshed while its readers wait."""
    node = scene.node
    if isinstance(node, ast.RefreshMatViewStmt) and not node.concurrent:
        view = scene.table(node.relation)
        key = any(index.unique and index.plain and index.valid for index in view.indexes)
        way = f"REFRESH MATERIALIZED VIEW CONCURRENTLY {view.label};"
        if node.skipData:
            yield Note(
                f"{view.label} cannot be read until it is refreshed with its data.", "-- leave it as it is", view
            )
        elif key or not scene.catalog.connected:
            yield Note(f"Readers of {view.label} wait for as long as its query runs (AccessExclusiveLock).", way, view)
        else:
            first = f"-- first a unique index on the columns that identify a row of {view.label}, CONCURRENTLY; then"
            yield Note(
                f"Readers of {view.label} wait for as long as its query runs (AccessExclusiveLock).",
                f"{first} {way}",
                view,
            )


@rule(
    "timestamp-without-zone",
    Severity.WARNING,
    on=(ast.AlterTableStmt, ast.CreateStmt),
    taste=True,
    bad="CREATE TABLE a (id int PRIMARY KEY, made timestamp NOT NULL);",
    good="CREATE TABLE a (id int PRIMARY KEY, made timestamptz NOT NULL);",
)
def without_zone(scene: Scene) -> Iterator[Note]:
    """A column holds a time without its time zone."""
    found = [(t, quoted(d.colname)) for t, d in new_columns(scene) if d.typeName.names[-1].sval in _TIMES]
    if found:
        yield Note(
            f"What now() writes to {_listed(found)} depends on each session's TimeZone, and the hour that is repeated"
            " when summer time ends is ambiguous.",
            f"-- timestamptz instead: {', '.join(f'{column} timestamptz' for _, column in found)}",
        )


def _listed(found: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{table}.{column}" for table, column in found)


@rule(
    "default-but-nullable",
    Severity.NOTE,
    on=(ast.AlterTableStmt, ast.CreateStmt),
    taste=True,
    bad="ALTER TABLE orgs ADD COLUMN flag boolean DEFAULT false;",
    good="ALTER TABLE orgs ADD COLUMN flag boolean NOT NULL DEFAULT false;",
)
def nullable(scene: Scene) -> Iterator[Note]:
    """A boolean or timestamp column has a default but can be NULL."""
    found = []
    for table, definition in new_columns(scene):
        kinds = {constraint_kind(c) for c in definition.constraints or ()}
        word = definition.typeName.names[-1].sval
        if word in ("bool", "timestamp", "timestamptz") and "DEFAULT" in kinds and not kinds & {"NOTNULL", "PRIMARY"}:
            found.append((table, quoted(definition.colname)))
    if found:
        yield Note(
            f"{_listed(found)} can be NULL, a third state that queries easily forget; NOT NULL costs nothing here,"
            " because the default fills all rows at once.",
            f"-- add NOT NULL to {', '.join(column for _, column in found)}",
        )


@rule(
    "updated-at-stays",
    Severity.NOTE,
    on=(ast.AlterTableStmt, ast.CreateStmt),
    taste=True,
    bad="CREATE TABLE a (id int PRIMARY KEY, updated_at timestamptz NOT NULL DEFAULT now());",
    good="CREATE TABLE a (id int PRIMARY KEY, updated_at timestamptz NOT NULL DEFAULT now());"
    " CREATE TRIGGER touch BEFORE UPDATE ON a FOR EACH ROW EXECUTE FUNCTION touch();",
)
def updated_at(scene: Scene) -> Iterator[Note]:
    """No trigger updates a column that should hold the time of the last change."""
    for table, definition in new_columns(scene):
        if definition.colname in ("updated_at", "modified_at") and not _gets_trigger(scene, table):
            yield Note(
                f"After an UPDATE {table}.{definition.colname} still holds the time of the INSERT.",
                f"CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                f" NEW.{quoted(definition.colname)} := now(); RETURN NEW; END $$;\n"
                f"CREATE TRIGGER touch BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION touch();",
            )


def _gets_trigger(scene: Scene, table: str) -> bool:
    makes = (other.node for other in scene.scenes if isinstance(other.node, ast.CreateTrigStmt))
    return any(str(relation(node.relation)) == table for node in makes)
