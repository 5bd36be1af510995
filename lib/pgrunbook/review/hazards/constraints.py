"""Hazards of constraints: foreign keys, checks, keys, partitions."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

from pglast import ast

from pgrunbook.database.catalog import Table
from pgrunbook.review.hazards import estimates
from pgrunbook.review.hazards.columns import without
from pgrunbook.review.hazards.rule import Note, Scene, Severity, others_see, rule
from pgrunbook.sql.tree import constraint_kind, quoted, relation, strings, subcommand, text


def added_keys(scene: Scene) -> Iterator[tuple[Table, Any, tuple[str, ...], Any]]:
    """Yield each foreign key that a statement creates: its table, the referenced table, its columns, its node."""
    for table, cmd in scene.altered():
        if subcommand(cmd) == "AddConstraint" and constraint_kind(cmd.def_) == "FOREIGN":
            yield table, cmd.def_.pktable, strings(cmd.def_.fk_attrs), cmd.def_
        elif subcommand(cmd) == "AddColumn":
            yield from _of_columns(table, (cmd.def_,))
    if isinstance(scene.node, ast.CreateStmt):
        table = scene.table(scene.node.relation)
        yield from _of_columns(table, scene.node.tableElts or ())
        for part in scene.node.tableElts or ():
            if isinstance(part, ast.Constraint) and constraint_kind(part) == "FOREIGN":
                yield table, part.pktable, strings(part.fk_attrs), part


def _of_columns(table: Table, parts: Any) -> Iterator[tuple[Table, Any, tuple[str, ...], Any]]:
    for part in parts:
        for node in (getattr(part, "constraints", None) or ()) if isinstance(part, ast.ColumnDef) else ():
            if constraint_kind(node) == "FOREIGN":
                yield table, node.pktable, (part.colname,), node


def has_index(table: Table, columns: tuple[str, ...]) -> bool:
    """Whether a valid index begins with the columns, in any order, and covers all rows."""
    return any(
        set(index.keys[: len(columns)]) == set(columns) and index.valid and not index.partial for index in table.indexes
    )


@rule(
    "foreign-key-validates",
    Severity.ERROR,
    on=(ast.AlterTableStmt,),
    bad="ALTER TABLE orders ADD CONSTRAINT c FOREIGN KEY (user_id) REFERENCES users (id);",
    good="ALTER TABLE orders ADD CONSTRAINT c FOREIGN KEY (user_id) REFERENCES users (id) NOT VALID;",
)
def foreign_key_validates(scene: Scene) -> Iterator[Note]:
    """A foreign key checks all rows while writers of both tables wait."""
    for table, cmd in scene.altered():
        if subcommand(cmd) != "AddConstraint" or constraint_kind(cmd.def_) != "FOREIGN" or cmd.def_.skip_validation:
            continue
        partner = scene.table(cmd.def_.pktable)
        name = quoted(cmd.def_.conname or f"{table.name}_{'_'.join(strings(cmd.def_.fk_attrs))}_fkey")
        columns = ", ".join(map(quoted, strings(cmd.def_.fk_attrs)))
        there = ", ".join(map(quoted, strings(cmd.def_.pk_attrs)))
        rest = {"c": " ON DELETE CASCADE", "n": " ON DELETE SET NULL", "r": " ON DELETE RESTRICT"}
        yield Note(
            f"Every INSERT, UPDATE and DELETE on {table.label} and on {partner.label} waits"
            f" {estimates.read_time(scene.catalog, table)} (ShareRowExclusiveLock on both).",
            f"ALTER TABLE {table.label} ADD CONSTRAINT {name} FOREIGN KEY ({columns}) REFERENCES {partner.label}"
            f"{f' ({there})' if there else ''}{rest.get(cmd.def_.fk_del_action, '')} NOT VALID;\n"
            f"ALTER TABLE {table.label} VALIDATE CONSTRAINT {name};  -- in a transaction of its own",
            table,
        )


@rule(
    "foreign-key-locks-both",
    Severity.WARNING,
    on=(ast.AlterTableStmt,),
    bad="ALTER TABLE orders ADD COLUMN buyer_id integer REFERENCES users (id);",
    good="ALTER TABLE orders ADD COLUMN buyer_id integer;",
)
def foreign_key_inline(scene: Scene) -> Iterator[Note]:
    """A new column comes with a foreign key, so that two tables are locked at once."""
    for table, cmd in scene.altered():
        for _, target, _, node in _of_columns(table, (cmd.def_,)) if subcommand(cmd) == "AddColumn" else ():
            partner = scene.table(target)
            if not others_see(partner):
                continue  # nobody holds a lock on it
            key = _apart(table, cmd.def_, node)
            yield Note(
                f"Readers and writers of {table.label} wait (AccessExclusiveLock) while the statement waits for its"
                f" lock on {partner.label}, whose writers wait too (ShareRowExclusiveLock).",
                f"ALTER TABLE {table.label} ADD COLUMN {without(cmd.def_, 'FOREIGN')};\n"
                f"ALTER TABLE {table.label} ADD {text(key)};\nALTER TABLE {table.label} VALIDATE CONSTRAINT"
                f" {quoted(key.conname)};  -- in a transaction of its own",
                table,
            )


def _apart(table: Table, definition: Any, node: Any) -> Any:
    """Return a column's foreign key as the constraint of the table, not validated."""
    key = copy.copy(node)
    key.conname = node.conname or f"{table.name}_{definition.colname}_fkey"
    key.fk_attrs, key.skip_validation = (ast.String(sval=definition.colname),), True
    behind = [constraint_kind(part) for part in definition.constraints[definition.constraints.index(node) + 1 :]]
    own = list(takewhile(lambda word: word.startswith("ATTR"), behind))
    key.initdeferred = "ATTR_DEFERRED" in own
    key.deferrable = key.initdeferred or "ATTR_DEFERRABLE" in own
    return key


@rule(
    "foreign-key-without-index",
    Severity.WARNING,
    on=(ast.AlterTableStmt, ast.CreateStmt),
    taste=True,
    bad="CREATE TABLE orders (id int PRIMARY KEY, user_id int REFERENCES users (id) ON DELETE CASCADE);",
    good="CREATE TABLE orders (id int PRIMARY KEY, user_id int REFERENCES users (id));"
    " CREATE INDEX ON orders (user_id);",
)
def foreign_key_without_index(scene: Scene) -> Iterator[Note]:
    """No index begins with a foreign key's columns."""
    for table, target, columns, node in added_keys(scene):
        final = scene.final.at(table.key)
        if has_index(final, columns) or not columns:
            continue
        partner = scene.table(target)
        listed = ", ".join(map(quoted, columns))
        finds = "finds the rows to delete" if node.fk_del_action == "c" else "looks for referencing rows"
        perhaps = " (judged by these files alone)" if others_see(table) and not scene.catalog.connected else ""
        yield Note(
            f"Each DELETE on {partner.label}, and each UPDATE of its key, {finds} by reading the whole of"
            f" {table.label}{perhaps}.",
            f"CREATE INDEX CONCURRENTLY {quoted('_'.join((table.name, *columns)))} ON {table.label} ({listed});",
        )


@rule(
    "check-validates",
    Severity.ERROR,
    on=(ast.AlterTableStmt,),
    bad="ALTER TABLE orders ADD CONSTRAINT total_check CHECK (total > 0);",
    good="ALTER TABLE orders ADD CONSTRAINT total_check CHECK (total > 0) NOT VALID;",
)
def check_validates(scene: Scene) -> Iterator[Note]:
    """A CHECK reads all rows while readers and writers wait."""
    for table, cmd in scene.altered():
        if subcommand(cmd) == "AddConstraint" and constraint_kind(cmd.def_) == "CHECK" and not cmd.def_.skip_validation:
            name = quoted(cmd.def_.conname or f"{table.name}_check")
            yield Note(
                f"Readers and writers of {table.label} wait {estimates.read_time(scene.catalog, table)}"
                " (AccessExclusiveLock).",
                f"ALTER TABLE {table.label} ADD CONSTRAINT {name} CHECK ({text(cmd.def_.raw_expr)}) NOT VALID;\n"
                f"ALTER TABLE {table.label} VALIDATE CONSTRAINT {name};  -- in a transaction of its own",
                table,
            )


@rule(
    "validate-with-add",
    Severity.WARNING,
    on=(ast.AlterTableStmt,),
    bad="BEGIN; ALTER TABLE orders ADD CONSTRAINT c CHECK (total > 0) NOT VALID;"
    " ALTER TABLE orders VALIDATE CONSTRAINT c; COMMIT;",
    good="ALTER TABLE orders VALIDATE CONSTRAINT c;",
)
def validate_with_add(scene: Scene) -> Iterator[Note]:
    """A constraint is validated in the transaction that added it, under the lock of ADD CONSTRAINT."""
    for table, cmd in scene.altered():
        if subcommand(cmd) != "ValidateConstraint":
            continue
        for other in scene.earlier:
            names = [c.def_.conname for _, c in other.altered() if subcommand(c) == "AddConstraint"]
            if cmd.name in names and scene.commits_with(other):
                yield Note(
                    f"The lock of ADD CONSTRAINT on {table.label} is held {estimates.read_time(scene.catalog, table)}.",
                    f"{scene.sql};  -- in a migration, or a transaction, of its own",
                    table,
                )


@rule(
    "key-builds-index",
    Severity.ERROR,
    on=(ast.AlterTableStmt,),
    bad="ALTER TABLE orders ADD CONSTRAINT orders_num UNIQUE (num);",
    good="ALTER TABLE orders ADD CONSTRAINT orders_num UNIQUE USING INDEX orders_num;",
)
def key_builds_index(scene: Scene) -> Iterator[Note]:
    """A primary key, unique or exclusion constraint builds its index while readers and writers wait."""
    for table, cmd in scene.altered():
        kind = constraint_kind(cmd.def_) if subcommand(cmd) == "AddConstraint" else ""
        if kind not in ("PRIMARY", "UNIQUE", "EXCLUSION") or cmd.def_.indexname or not scene.effects.scans:
            continue
        columns = ", ".join(map(quoted, strings(cmd.def_.keys)))
        name = quoted(cmd.def_.conname or f"{table.name}_{'pkey' if kind == 'PRIMARY' else 'key'}")
        word = "PRIMARY KEY" if kind == "PRIMARY" else "UNIQUE"
        way = (
            f"CREATE UNIQUE INDEX CONCURRENTLY {name} ON {table.label} ({columns});\n"
            f"ALTER TABLE {table.label} ADD CONSTRAINT {name} {word} USING INDEX {name};"
        )
        if kind == "EXCLUSION":
            way = "-- PostgreSQL cannot build it concurrently: use a maintenance window, or procedure swap"
        if kind == "PRIMARY":
            way += "\n-- first make each column NOT NULL through a validated CHECK"
        yield Note(
            f"Readers and writers of {table.label} wait {estimates.index_time(scene.catalog, table)}"
            " (AccessExclusiveLock).",
            way,
            table,
        )


@rule(
    "soft-delete-with-unique",
    Severity.NOTE,
    on=(ast.AlterTableStmt, ast.CreateStmt),
    taste=True,
    bad="CREATE TABLE users (id int PRIMARY KEY, email text UNIQUE, deleted_at timestamptz);",
    good="CREATE TABLE users (id int PRIMARY KEY, email text, deleted_at timestamptz);"
    " CREATE UNIQUE INDEX ON users (email) WHERE deleted_at IS NULL;",
)
def soft_delete(scene: Scene) -> Iterator[Note]:
    """A table marks rows as deleted, and its unique key still covers them."""
    adds = isinstance(scene.node, ast.CreateStmt | ast.AlterTableStmt) and "deleted_at" in _new_columns(scene)
    if not adds:
        return
    table = scene.final.find(relation(scene.node.relation))
    unique = [i for i in table.indexes if i.unique and not i.primary and not i.partial]
    for index in unique or ():
        keys = ", ".join(map(quoted, index.keys))
        yield Note(
            f"A row of {table.label} that is marked as deleted still occupies its {keys}: no new row can have it.",
            f"CREATE UNIQUE INDEX CONCURRENTLY {quoted('_'.join((table.name, *index.keys, 'live')))} ON {table.label}"
            f" ({keys}) WHERE deleted_at IS NULL;  -- in the place of {index.name}",
        )
    if not unique and others_see(table):
        yield Note(
            f"Rows of {table.label} that are marked as deleted stay in every index, and in every query that does not"
            " exclude them; a unique key has to exclude them.",
            "-- a unique key: CREATE UNIQUE INDEX CONCURRENTLY, with WHERE deleted_at IS NULL",
        )


def _new_columns(scene: Scene) -> set[str]:
    if isinstance(scene.node, ast.CreateStmt):
        return {part.colname for part in scene.node.tableElts or () if isinstance(part, ast.ColumnDef)}
    return {cmd.def_.colname for _, cmd in scene.altered() if subcommand(cmd) == "AddColumn"}
