"""Hazards of changing a table or column through a copy: losses between copy and swap, and after the swap."""

# ruff: noqa: S608 - ways out are shown to people and not run

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pglast import ast

from pgrunbook.database.catalog import Table
from pgrunbook.review.hazards import estimates
from pgrunbook.review.hazards.rule import Note, Scene, Severity, Transactions, others_see, rule
from pgrunbook.sql.tree import columns_in, functions_in, object_kind, quoted, relation, relations_named, subcommand

_SWAP = """\
BEGIN; SET LOCAL lock_timeout = '200ms'; SET LOCAL statement_timeout = '5s';
LOCK TABLE {old}, {new} IN ACCESS EXCLUSIVE MODE;
-- apply the changes that the trigger has logged since the copy, until none is left; compare counts
ALTER TABLE {old} RENAME TO {kept}; ALTER TABLE {new} RENAME TO {name};
-- re-point foreign keys (NOT VALID), views, sequences (OWNED BY), grants, policies, publications
-- create a trigger that copies new writes to {kept}
COMMIT;  -- procedure: swap"""


_AGGREGATES = {"max", "min", "count", "sum", "avg", "bool_or", "bool_and", "string_agg", "array_agg", "jsonb_agg"}


def _source(node: Any) -> Any:
    """Return the RangeVar of INSERT ... SELECT ... FROM one table; None for another INSERT, or a name of WITH."""
    query = getattr(node, "selectStmt", None)
    sources = getattr(query, "fromClause", None) or ()
    only = next(iter(sources), None) if len(sources) == 1 else None
    return only if any(only is named for named in relations_named(node)) else None


@rule(
    "insert-select-unbatched",
    Severity.WARNING,
    on=(ast.InsertStmt,),
    bad="INSERT INTO archive (id, at) SELECT id, at FROM events;",
    good="INSERT INTO archive (id, at) SELECT id, at FROM events WHERE id > 0 ORDER BY id LIMIT 1000;",
)
def insert_select(scene: Scene) -> Iterator[Note]:
    """A whole table is copied in one transaction."""
    for node in scene.written:
        if not isinstance(node, ast.InsertStmt) or _source(node) is None:
            continue
        query = node.selectStmt
        is_one_row = bool(_AGGREGATES & set(functions_in(query.targetList)))
        if query.whereClause is None and query.limitCount is None and not query.groupClause and not is_one_row:
            table = scene.table(_source(node))
            yield Note(
                f"One transaction stays open {estimates.change_time(scene.catalog, table)}: meanwhile vacuum cannot"
                " clean up any table, replicas lag, and one error undoes everything.",
                f"-- INSERT INTO {relation(node.relation)} (...) SELECT ... FROM {table.label} WHERE id > $last"
                " ORDER BY id LIMIT 1000, one transaction each (procedure: backfill)",
                table,
            )


@rule(
    "copy-loses-writes",
    Severity.ERROR,
    on=(ast.InsertStmt,),
    bad="INSERT INTO projects_new SELECT * FROM projects; ALTER TABLE projects RENAME TO projects_old;"
    " ALTER TABLE projects_new RENAME TO projects;",
    good="INSERT INTO archive (id) SELECT id FROM projects;",
)
def loses_writes(scene: Scene) -> Iterator[Note]:
    """A table is copied to replace the original, which is written meanwhile."""
    for node in scene.written:
        source = _source(node) if isinstance(node, ast.InsertStmt) else None
        if source is None:
            continue
        names = {source.relname, node.relation.relname}
        renamed = {s.node.relation.relname for s in scene.later if _renames_table(s)}
        if (names <= renamed or node.relation.relname == f"{source.relname}_new") and others_see(scene.table(source)):
            old, new = relation(source), relation(node.relation)
            yield Note(
                f"A row that is inserted, updated or deleted in {old} after the copy has read the table does not change"
                f" in {new}: the swap loses that write.",
                f"-- before the copy: a trigger on {old} that writes every change into {new} or into a log\n"
                + _SWAP.format(old=old, new=new, kept=quoted(source.relname + "_old"), name=quoted(source.relname)),
            )


def _renames_table(scene: Scene) -> bool:
    return isinstance(scene.node, ast.RenameStmt) and object_kind(scene.node.renameType) == "TABLE"


@rule(
    "copy-by-position",
    Severity.WARNING,
    on=(ast.InsertStmt,),
    bad="INSERT INTO projects_new SELECT * FROM projects;",
    good="INSERT INTO projects_new (id, name) SELECT id, name FROM projects;",
)
def by_position(scene: Scene) -> Iterator[Note]:
    """Rows are copied by the position of columns, not by their names."""
    for node in scene.written:
        source = _source(node) if isinstance(node, ast.InsertStmt) and not node.cols else None
        if source is not None and "*" in columns_in(node.selectStmt.targetList):
            new = relation(node.relation)
            yield Note(
                f"If the columns of {new} have another order, values end up in the wrong columns; generated columns"
                " and GENERATED ALWAYS identities refuse values.",
                f"{_by_name(scene, node, source)}\n-- GENERATED ALWAYS AS IDENTITY needs OVERRIDING SYSTEM VALUE; its"
                " sequence starts at 1 until setval",
            )


def _by_name(scene: Scene, node: Any, source: Any) -> str:
    columns = ", ".join(quoted(name) for name, column in scene.table(source).columns.items() if not column.generated)
    if not columns:
        return "-- name the columns of both: INSERT INTO ... (id, name) SELECT id, name FROM ..."
    return f"INSERT INTO {relation(node.relation)} ({columns}) SELECT {columns} FROM {relation(source)};"


@rule(
    "like-leaves-behind",
    Severity.WARNING,
    on=(ast.TableLikeClause,),
    bad="CREATE TABLE projects_new (LIKE projects INCLUDING ALL);",
    good="CREATE TABLE projects_new (id int PRIMARY KEY, name text);",
)
def like(scene: Scene) -> Iterator[Note]:
    """LIKE does not copy everything that belongs to a table."""
    if not isinstance(scene.node, ast.CreateStmt):
        return
    for part in scene.node.tableElts or ():
        if not isinstance(part, ast.TableLikeClause):
            continue
        table = scene.table(part.relation)
        new, left = relation(scene.node.relation), _left_behind(scene, table)
        severity = Severity.NOTE if scene.catalog.connected and not left else None
        yield Note(
            f"{new} lacks {', '.join([*left, _ALWAYS_LEFT])}. Indexes get other names, a serial default still uses"
            f" the sequence that {table.label} owns, an identity starts at 1 again.",
            f"-- then add the foreign keys of {table.label} (NOT VALID, then VALIDATE), triggers, ALTER TABLE {new}"
            " ENABLE ROW LEVEL SECURITY and the policies, OWNER TO, GRANT, REPLICA IDENTITY, SET (fillfactor ...),"
            " publications;\n-- then OWNED BY and setval of its sequences (procedure: swap does and checks all of it)",
            severity=severity,
        )


_ALWAYS_LEFT = "owner, grants, replica identity, storage parameters and the table's comment"


def _left_behind(scene: Scene, table: Table) -> list[str]:
    if not scene.catalog.connected:
        return ["foreign keys in both directions, triggers, rules, publications, row level security and policies"]
    found = [f"foreign key {key.name}" for key in table.foreign_keys()]
    found += [f"foreign key {key.name} of {other.label}" for other, key in scene.catalog.references_to(table)]
    found += [f"{d.kind} {d.name}" for d in table.of_kind("trigger", "policy", "rule", "publication")]
    return [*found, *(["row level security"] if table.row_security else [])]


def _pair(scene: Scene) -> tuple[Scene, str, str, str] | None:
    """Return the rename that freed the name for this one, a -> x before b -> a, as (scene, a, b, x)."""
    node = scene.node
    if not isinstance(node, ast.RenameStmt) or object_kind(node.renameType) not in ("TABLE", "COLUMN"):
        return None
    column = object_kind(node.renameType) == "COLUMN"
    for other in scene.earlier:
        theirs = other.node
        if not isinstance(theirs, ast.RenameStmt) or theirs.renameType != node.renameType:
            continue
        if theirs.newname == (node.subname if column else node.relation.relname):
            continue  # it is renamed back
        if column and theirs.relation.relname == node.relation.relname and theirs.subname == node.newname:
            return other, node.newname, node.subname, theirs.newname
        if object_kind(node.renameType) == "TABLE" and theirs.relation.relname == node.newname:
            return other, node.newname, node.relation.relname, theirs.newname
    return None


@rule(
    "renames-not-atomic",
    Severity.ERROR,
    on=(ast.RenameStmt,),
    bad="ALTER TABLE a RENAME COLUMN b TO b_old; ALTER TABLE a RENAME COLUMN b_new TO b;",
    good="BEGIN; ALTER TABLE a RENAME COLUMN b TO b_old; ALTER TABLE a RENAME COLUMN b_new TO b; COMMIT;",
)
def not_atomic(scene: Scene) -> Iterator[Note]:
    """Two renames that belong together may be committed separately."""
    pair = _pair(scene)
    if pair is None or scene.commits_with(pair[0]):
        return
    other, name, _, _ = pair
    unless = " unless the tool that runs this file makes it one transaction" if scene.may_commit_with(other) else ""
    yield Note(
        f"Between the two {quoted(name)} does not exist, and every statement that names it fails{unless}; if the"
        " second rename waits for a lock, this lasts as long as the wait.",
        f"BEGIN; SET LOCAL lock_timeout = '200ms';\n{other.sql};\n{scene.sql};\nCOMMIT;",
        severity=Severity.ERROR if scene.transactions is not Transactions.UNKNOWN else None,
    )


@rule(
    "column-swap",
    Severity.ERROR,
    on=(ast.RenameStmt,),
    bad="ALTER TABLE a RENAME COLUMN b TO b_old; ALTER TABLE a RENAME COLUMN b_new TO b;",
    good="ALTER TABLE a ADD COLUMN b_new bigint;",
)
def column_swap(scene: Scene) -> Iterator[Note]:
    """A column takes over the name of another column."""
    pair = _pair(scene)
    if pair is None or object_kind(scene.node.renameType) != "COLUMN":
        return
    _, name, new, kept = map(str, pair)
    table = scene.table(scene.node.relation)
    yield Note(
        f"Views, indexes, foreign keys, checks, defaults, grants and publications stay with {quoted(kept)}: reports"
        " still read the old values, and DROP COLUMN fails or drops these objects too. Running code reads other"
        " values under the same name.",
        f"-- first: SELECT count(*) FROM {table.label} WHERE {quoted(new)} IS DISTINCT FROM ...{quoted(name)};\n"
        "-- in one transaction with the renames: defaults, NOT NULL, constraints, grants and views for the new"
        f" {quoted(name)}, and a trigger that writes {quoted(kept)}, for the way back (procedure: backfill)",
    )


@rule(
    "table-swap",
    Severity.ERROR,
    on=(ast.RenameStmt,),
    bad="BEGIN; ALTER TABLE p RENAME TO p_old; ALTER TABLE p_new RENAME TO p; COMMIT;",
    good="ALTER TABLE p RENAME TO p_old;",
)
def table_swap(scene: Scene) -> Iterator[Note]:
    """A table takes over the name of another table."""
    pair = _pair(scene)
    if pair is None or object_kind(scene.node.renameType) != "TABLE":
        return
    _, name, new, kept = map(str, pair)
    old = next((t for t in scene.catalog.tables.values() if t.name == kept), None)
    follow = [f"{d.kind} {d.name}" for d in old.dependents] if old else []
    follow += [f"foreign key {key.name} of {o.label}" for o, key in scene.catalog.references_to(old)] if old else []
    what = ", ".join(follow) or "views, foreign keys, functions, sequences and publications"
    unlocked = "" if scene.timeouts.lock_ms else " No lock_timeout bounds the wait for the lock."
    yield Note(
        f"{what} stay with {quoted(kept)}: they show old rows and refuse new ones. Nothing compares the two tables"
        f" before the swap, and nothing copies new writes back after it.{unlocked}",
        _SWAP.format(old=quoted(name), new=quoted(new), kept=quoted(kept), name=quoted(name))
        + f"\nANALYZE {quoted(name)};",
    )


@rule(
    "drop-after-swap",
    Severity.ERROR,
    on=(ast.DropStmt, ast.AlterTableStmt),
    bad="ALTER TABLE projects RENAME TO projects_old; DROP TABLE projects_old;",
    good="ALTER TABLE projects RENAME TO projects_old;",
)
def drop_after_swap(scene: Scene) -> Iterator[Note]:
    """A table or column that a swap has renamed is dropped, and with it the way back."""
    for what in _given_up(scene):
        yield Note(
            f"Without a trigger that copies new writes back, {what} lacks all writes since the swap. A sequence that"
            " it owns, and the live table's default that uses it, are dropped with it or make the DROP fail.",
            f"-- check first: nothing reads {what} (pg_stat_user_tables), counts and checksums agree, the new one has"
            " run for the agreed time;\n-- OWNED BY of its sequences; then the DROP, in a later release",
        )


def _given_up(scene: Scene) -> Iterator[str]:
    node = scene.node
    if not isinstance(node, ast.DropStmt | ast.AlterTableStmt):
        return
    moved = {s.node.newname for s in scene.earlier if isinstance(s.node, ast.RenameStmt)}
    if isinstance(node, ast.DropStmt) and object_kind(node.removeType) == "TABLE":
        for entry in node.objects:
            name = entry[-1].sval
            if name in moved or name.endswith("_old"):
                yield quoted(name)
    for table, cmd in scene.altered():
        if subcommand(cmd) == "DropColumn" and (cmd.name in moved or cmd.name.endswith("_old")):
            yield f"{table.label}.{quoted(cmd.name)}"
