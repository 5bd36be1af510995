"""The guide's rules of design, and which rules are of taste; off unless a target switches them on by id."""

from __future__ import annotations

from collections.abc import Iterator

from pglast import ast

from pgrunbook.config.targets import Target
from pgrunbook.errors import WrongInput
from pgrunbook.review.hazards.constraints import added_keys, has_index
from pgrunbook.review.hazards.rule import RULES, Note, Scene, Severity, rule
from pgrunbook.sql.tree import is_on, quoted, relation

AUDIT = ("created_at", "updated_at")
ALL = "all"
# Rules of squawk that are a matter of taste, too.
SQUAWK = (
    "prefer-bigint-over-int", "prefer-bigint-over-smallint", "prefer-identity", "prefer-text-field", "ban-char-field",
    "ban-create-domain-with-constraint", "ban-drop-constraint", "require-enum-value-ordering",
)  # fmt: skip


def design_rules(target: Target) -> tuple[str, ...]:
    """Return the ids of the rules of design that a target switches on, "all" expanded; () for none.

    Raises WrongInput when an id is not one of them.
    """
    known = (*(one.id for one in RULES.values() if one.taste), *(f"squawk-{name}" for name in SQUAWK))
    unknown = [name for name in target.design_rules if name not in (*known, ALL)]
    if unknown:
        raise WrongInput(
            f'target "{target.name}" switches on rules of design that do not exist: {", ".join(unknown)}',
            detail=f"Known rules: {', '.join(known)}; {ALL} stands for all of them.",
            hint="Correct design_rules in targets.toml.",
        )
    return known if ALL in target.design_rules else tuple(name for name in known if name in target.design_rules)


@rule(
    "design-uuid-key",
    Severity.WARNING,
    on=(ast.CreateStmt,),
    taste=True,
    bad="CREATE TABLE a (id bigint PRIMARY KEY);",
    good="CREATE TABLE a (id uuid PRIMARY KEY DEFAULT gen_random_uuid());",
)
def uuid_key(scene: Scene) -> Iterator[Note]:
    """A new table has no UUID as its primary key."""
    node = scene.node
    if not isinstance(node, ast.CreateStmt) or node.partbound or node.inhRelations or _is_copy(node):
        return
    table = scene.final.find(relation(node.relation))
    key = next((index for index in table.indexes if index.primary), None)
    columns = key.keys if key else ()
    if len(columns) != 1 or table.columns[columns[0]].base != "uuid":
        yield Note(
            f"{table.label} has {'the primary key ' + ', '.join(columns) if columns else 'no primary key'}.",
            "-- id uuid PRIMARY KEY DEFAULT gen_random_uuid(), or uuidv7() from PostgreSQL 18 on, which keeps new rows"
            " together",
        )


@rule(
    "design-audit-columns",
    Severity.WARNING,
    on=(ast.CreateStmt,),
    taste=True,
    bad="CREATE TABLE a (id uuid PRIMARY KEY);",
    good="CREATE TABLE a (id uuid PRIMARY KEY, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL);",
)
def audit_columns(scene: Scene) -> Iterator[Note]:
    """A new table does not record when its rows were created and changed."""
    node = scene.node
    if not isinstance(node, ast.CreateStmt) or node.partbound or node.inhRelations or _is_copy(node):
        return
    table = scene.final.find(relation(node.relation))
    missing = [name for name in AUDIT if name not in table.columns]
    if missing:
        yield Note(
            f"{table.label} has no {' and no '.join(missing)}.",
            "\n".join(f"-- {name} timestamptz NOT NULL DEFAULT now()" for name in missing),
        )


def _is_copy(node: ast.CreateStmt) -> bool:
    return any(isinstance(part, ast.TableLikeClause) for part in node.tableElts or ())


@rule(
    "design-foreign-key-indexed",
    Severity.ERROR,
    on=(ast.AlterTableStmt, ast.CreateStmt),
    taste=True,
    bad="CREATE TABLE a (id uuid PRIMARY KEY, b uuid REFERENCES b (id));",
    good="CREATE TABLE a (id uuid PRIMARY KEY, b uuid REFERENCES b (id)); CREATE INDEX ON a (b);",
)
def foreign_key_indexed(scene: Scene) -> Iterator[Note]:
    """A foreign key has no index."""
    for table, _, columns, _ in added_keys(scene):
        if columns and not has_index(scene.final.at(table.key), columns):
            listed = ", ".join(map(quoted, columns))
            yield Note(
                f"The foreign key ({listed}) of {table.label} has no index.",
                f"CREATE INDEX CONCURRENTLY {quoted('_'.join((table.name, *columns)))} ON {table.label} ({listed});",
            )


@rule(
    "design-foreign-key-cascades",
    Severity.WARNING,
    on=(ast.AlterTableStmt, ast.CreateStmt),
    taste=True,
    bad="CREATE TABLE a (id uuid PRIMARY KEY, b uuid REFERENCES b (id));",
    good="CREATE TABLE a (id uuid PRIMARY KEY, b uuid REFERENCES b (id) ON DELETE CASCADE);",
)
def foreign_key_cascades(scene: Scene) -> Iterator[Note]:
    """A foreign key does not say what happens to its rows when the referenced row is deleted."""
    for table, target, columns, node in added_keys(scene):
        if node.fk_del_action not in ("c", "n", "d"):
            listed = ", ".join(map(quoted, columns))
            yield Note(
                f"A row of {relation(target)} cannot be deleted while {table.label} refers to it.",
                f"-- FOREIGN KEY ({listed}) REFERENCES {relation(target)} ON DELETE CASCADE",
            )


@rule(
    "design-concurrently",
    Severity.ERROR,
    on=(ast.IndexStmt, ast.ReindexStmt),
    taste=True,
    bad="CREATE INDEX ON a (b);",
    good="CREATE INDEX CONCURRENTLY a_b ON a (b);",
)
def concurrently(scene: Scene) -> Iterator[Note]:
    """An index is created or rebuilt without CONCURRENTLY, whatever the size of its table."""
    node = scene.node
    makes = isinstance(node, ast.IndexStmt) and not node.concurrent and scene.table(node.relation).kind != "p"
    rebuilds = isinstance(node, ast.ReindexStmt) and not is_on(node.params, "concurrently")
    if makes or rebuilds:
        yield Note("Writers of the table wait.", "-- write CONCURRENTLY")
