"""Inverse of a DO block that executes plain statements where they are needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from pglast import ast

from pgrunbook.inverse import create, name_resolution, no_inverse
from pgrunbook.inverse.reader import Reader
from pgrunbook.inverse.way import NoInverseError, Way
from pgrunbook.sql.catalog_names import CatalogNames, catalog_names
from pgrunbook.sql.classify import kind
from pgrunbook.sql.do_branches import BranchStatement, read_block
from pgrunbook.sql.tree import object_kind, subcommand, text

Inverse = Callable[[Reader, Way, Any], None]


def read(reader: Reader, node: Any) -> tuple[tuple[BranchStatement, ...] | None, str]:
    """Return the statements of a block, None where these are not known, and then why.

    Raises NoInverseError where a name that the reading takes for PostgreSQL's own may be somebody's: on a branch, a
    function or table of the application may answer otherwise.
    """

    def ask(query: Any) -> list[dict[str, Any]]:
        _refuse_names_of_others(reader, catalog_names([query]))
        return reader.catalog_rows(query)

    reading = read_block(node, ask)
    if reading.statements is not None:
        _refuse_names_of_others(reader, reading.names)
    return reading.statements, reading.because


def _refuse_names_of_others(reader: Reader, taken: CatalogNames) -> None:
    if why := reader.not_of_catalog(taken):
        raise NoInverseError(f"cannot be computed: nobody can know what a DO block did, because {why}.")


def take_back(reader: Reader, way: Way, found: Sequence[BranchStatement], inverse: Inverse) -> None:
    """Write the inverses of the statements that will be executed, the last one first.

    Each is computed from the catalog before the block; prepare proves that they lead back together.
    Raises NoInverseError where nobody can tell whether one is executed, or where rows or tables would be captured.
    """
    runs = [one.node for each in _blocks(reader, found) for one in each]
    if not runs:
        return
    fresh = {name for node in runs for name in _made(node)}
    for one in found:  # what is executed may let a later condition hold
        if isinstance(one.node, no_inverse.CHANGES_ROWS) and not _is_of(one.node, fresh):
            raise NoInverseError(
                "cannot be undone, because rows that a DO block changes beside objects are not captured."
            )
    ways: list[Way] = []
    for node in (node for node in runs if not isinstance(node, no_inverse.CHANGES_ROWS)):
        ways.append(Way())
        inverse(reader, ways[-1], node)
        captured = {keep.kind for keep in ways[-1].keeps}
        if captured - {"column"} and (captured != {"table"} or len(found) > 1):
            raise NoInverseError("cannot be undone, because what a DO block destroys is not captured.")
    for each in reversed(ways):
        way.follow(each)


def _blocks(reader: Reader, found: Sequence[BranchStatement]) -> list[list[BranchStatement]]:
    """Return the statements whose conditions hold; of a block with handlers all of them or none."""
    held = [one for one in found if all(reader.is_true(text(query)) is answer for query, answer in one.conditions)]
    blocks = []
    for handler, members in groupby(held, key=lambda one: one.handler):
        group = list(members)
        if not handler or not any(_fails(reader, one.node) for one in group):
            blocks.append(group)
    return blocks


def _made(node: Any) -> set[tuple[str, ...]]:
    """Return the tables and columns that a statement makes, by the names that it gives them."""
    if isinstance(node, ast.CreateStmt):
        return {(node.relation.relname,)}
    if isinstance(node, ast.AlterTableStmt):
        added = (cmd.def_.colname for cmd in node.cmds if subcommand(cmd) == "AddColumn")
        return {(node.relation.relname, name) for name in added}
    return set()


def _is_of(node: Any, fresh: set[tuple[str, ...]]) -> bool:
    """Tell whether a statement changes only rows and values that go with what the block makes."""
    relation = getattr(node, "relation", None)
    if relation is None:
        return False
    of_columns = isinstance(node, ast.UpdateStmt) and all((relation.relname, p.name) in fresh for p in node.targetList)
    return of_columns or (relation.relname,) in fresh


def _fails(reader: Reader, node: Any) -> bool:
    """Tell whether a statement will meet an object that is there already, or miss one. Raises NoInverseError."""
    match node:
        case ast.AlterTableStmt():
            return any(_fails_part(reader, node, cmd) for cmd in node.cmds)
        case ast.CreateEnumStmt() | ast.CompositeTypeStmt() | ast.CreateRangeStmt() | ast.CreateDomainStmt():
            return create.is_there(reader, node)
        case ast.CreateStmt(relation=made) | ast.CreateSeqStmt(sequence=made) | ast.ViewStmt(view=made):
            return reader.relation(made) is not None
        case ast.IndexStmt():
            over = reader.relation(node.relation)
            return over is None or (bool(node.idxname) and reader.named(over.schema, node.idxname) is not None)
        case ast.AlterPublicationStmt():
            return any(_is_published(reader, node, one) for one in node.pubobjects or ())
        case ast.RenameStmt() if object_kind(node.renameType) == "COLUMN":
            table = reader.relation(node.relation)
            names = {column.name for column in reader.columns([table.oid])} if table is not None else set()
            return node.subname not in names or node.newname in names
        case ast.DropStmt():
            return not node.missing_ok and len(name_resolution.of_drop(reader, node)) < len(node.objects)
    return _is_named(reader, node)


def _is_named(reader: Reader, node: Any) -> bool:
    """Tell whether an object is there that a statement makes, and that has a name of its own, or on its table."""
    match node:
        case ast.CreatePolicyStmt(table=over, policy_name=name):
            return _is_on(reader, "policy", over, name)
        case ast.CreateTrigStmt(relation=over, trigname=name):
            return not node.replace and _is_on(reader, "trigger", over, name)
        case ast.CreateSchemaStmt(schemaname=name) if name:
            return reader.address("schema", [name]) is not None
        case ast.CreateExtensionStmt(extname=name):
            return reader.address("extension", [name]) is not None
        case ast.CreateRoleStmt(role=name):
            return reader.address("role", [name]) is not None
        case ast.CreatePublicationStmt(pubname=name):
            return reader.address("publication", [name]) is not None
    raise NoInverseError(f"cannot be computed: nobody can know whether a DO block has executed {kind(node)}.")


def _fails_part(reader: Reader, node: Any, cmd: Any) -> bool:
    table = reader.relation(node.relation)
    if table is None:
        return not node.missing_ok
    columns = {column.name for column in reader.columns([table.oid])}
    constraints = {each.name for each in reader.constraints([table.oid])}
    match subcommand(cmd):
        case "AddColumn":
            return not cmd.missing_ok and cmd.def_.colname in columns
        case "AddConstraint":
            return cmd.def_.conname in constraints
        case "DropConstraint":
            return not cmd.missing_ok and cmd.name not in constraints
        case "DropColumn":
            return not cmd.missing_ok and cmd.name not in columns
    return cmd.name is not None and cmd.name not in columns


def _is_on(reader: Reader, word: str, over: Any, name: str) -> bool:
    table = reader.relation(over)
    return table is None or reader.address(word, [table.schema, table.name, name]) is not None


def _is_published(reader: Reader, node: Any, one: Any) -> bool:
    """Tell whether a publication has, or lacks, a table that it shall get, or lose."""
    table = reader.relation(one.pubtable.relation) if one.pubtable is not None else None
    if table is None:
        raise NoInverseError("cannot be computed: nobody can know what a DO block has published.")
    is_there = reader.address("publication relation", [table.schema, table.name], [node.pubname]) is not None
    return is_there is ("DROP" not in node.action.name)
