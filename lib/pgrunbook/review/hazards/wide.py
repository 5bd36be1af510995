"""Hazards of statements that reach beyond what they name, and of MERGE and ON CONFLICT over many rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pglast import ast, enums

from pgrunbook.review.hazards.breaking import made
from pgrunbook.review.hazards.rule import Note, Scene, Severity, others_see, rule
from pgrunbook.safe_forms.names import type_of
from pgrunbook.sql import wide_statements
from pgrunbook.sql.tree import object_kind, walk


@rule(
    "reaches-beyond",
    Severity.ERROR,
    on=(
        ast.RenameStmt,
        ast.AlterObjectSchemaStmt,
        ast.AlterEnumStmt,
        ast.DropOwnedStmt,
        ast.DropdbStmt,
        ast.AlterTableMoveAllStmt,
        ast.AlterDatabaseStmt,
    ),
    bad="DROP OWNED BY intern;",
    good="DROP INDEX orders_total_idx;",
)
def reaches_beyond(scene: Scene) -> Iterator[Note]:
    """A statement drops, renames or rewrites more than the one table or column that it names."""
    node = scene.node
    found = wide_statements.reach(node)
    if found is None or isinstance(node, ast.ReindexStmt | ast.DropStmt) or _is_told(scene, node):
        return
    yield Note(f"{found.says[0].upper()}{found.says[1:]}.", "-- name each object by itself, after the code has moved")


def _is_told(scene: Scene, node: Any) -> bool:
    """Tell whether another rule tells it, or the statements have made it themselves."""
    relation_ = getattr(node, "relation", None)
    if isinstance(node, ast.RenameStmt) and _is_replaced(scene, node):
        return True
    if relation_ is None:
        name = type_of(node)
        return bool(name) and any(name[-1] in made(other.node) for other in scene.earlier)
    if isinstance(node, ast.AlterObjectSchemaStmt):
        return True
    return object_kind(node.renameType) != "ATTRIBUTE" and not others_see(scene.table(relation_))


def _is_replaced(scene: Scene, node: Any) -> bool:
    """Whether the statements give the old name to another object, as for an enum that is made anew."""
    _, old = wide_statements.renamed(node) or ("", "")
    return any(old in made(other.node) for other in scene.later)


@rule(
    "domain-constraint",
    Severity.WARNING,
    on=(ast.AlterDomainStmt,),
    bad="ALTER DOMAIN positive ADD CONSTRAINT small CHECK (VALUE < 100);",
    good="ALTER DOMAIN positive ADD CONSTRAINT small CHECK (VALUE < 100) NOT VALID;",
)
def domain_constraint(scene: Scene) -> Iterator[Note]:
    """A constraint of a domain is checked over all rows of each table that has a column of it."""
    node = scene.node
    if not isinstance(node, ast.AlterDomainStmt) or node.subtype not in ("C", "O", "V"):
        return
    if node.subtype != "C" or not node.def_.skip_validation:
        yield Note(
            "Writers of these tables wait until every row is read.",
            "-- ADD CONSTRAINT ... NOT VALID holds for new rows at once; or a CHECK on each table, NOT VALID first",
        )


@rule(
    "merge-unbatched",
    Severity.ERROR,
    on=(ast.MergeStmt, ast.InsertStmt),
    bad="MERGE INTO projects p USING feed f ON f.id = p.id WHEN MATCHED THEN UPDATE SET name = f.name;",
    good="INSERT INTO projects (id, name) VALUES (1, 'a') ON CONFLICT (id) DO UPDATE SET name = 'a';",
)
def merge_unbatched(scene: Scene) -> Iterator[Note]:
    """MERGE, or INSERT ... ON CONFLICT DO UPDATE from a query, can change all rows in one transaction."""
    node = scene.node
    changes = (enums.CmdType.CMD_UPDATE, enums.CmdType.CMD_DELETE)
    is_merge = isinstance(node, ast.MergeStmt) and any(w.commandType in changes for w in node.mergeWhenClauses)
    if is_merge or (isinstance(node, ast.InsertStmt) and _updates_from_query(node)):
        table = scene.table(node.relation)
        yield Note(
            "Every changed row stays locked for other writers to the end, and one error undoes all of it.",
            f"-- UPDATE and INSERT on {table.label} itself, in batches by its key (procedure: backfill)",
            table,
        )


def _updates_from_query(node: Any) -> bool:
    clause, query = node.onConflictClause, node.selectStmt
    if clause is None or clause.action != enums.OnConflictAction.ONCONFLICT_UPDATE or query is None:
        return False
    return any(isinstance(part, ast.RangeVar | ast.RangeFunction) for part in walk(query))
