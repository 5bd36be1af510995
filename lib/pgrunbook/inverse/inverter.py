"""The inverse of a statement, computed from the catalog right before the statement runs; used by rollback.

The server's own definitions (pg_get_viewdef, pg_get_indexdef ...) recreate an object. The steps are plain SQL; their
safe forms are planned at rollback. ``Undo.keeps`` names the rows, columns and tables to capture (``undo_data``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import psycopg

from pgrunbook.database.connection import Connection
from pgrunbook.database.sqlstate import Meaning, meaning
from pgrunbook.inverse import (
    alter,
    alter_other,
    cluster_wide,
    create,
    do_block,
    drop,
    grants,
    no_inverse,
    rows,
    temporary,
)
from pgrunbook.inverse.alter_table import alter_table
from pgrunbook.inverse.no_inverse import because, nothing
from pgrunbook.inverse.reader import Reader, reading
from pgrunbook.inverse.way import NoInverseError, Way
from pgrunbook.plan.way_back import Undo
from pgrunbook.sql import secrets
from pgrunbook.sql.do_branches import changes_of_rows
from pgrunbook.sql.statements import Statement
from pgrunbook.sql.tree import tree

_log = logging.getLogger(__name__)

UNWRITABLE = "It has no way back: secret, because its inverse would hold one, and no record may."
Inverse = Callable[[Reader, Way, Any], None]


class Inverter:
    """Computes the inverse of one statement after the other, each right before it is executed."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def inverse(self, statement: Statement) -> Undo:
        """Return the inverse of one statement, valid right after the statement has run.

        A statement that finds nothing to do (IF EXISTS) has an empty inverse; for one that will fail the result is
        meaningless.

        Raises Blocked when a lock of somebody else prevents reading definitions.
        Locks: AccessShareLock on what is read.
        """
        way = Way()
        node = tree(statement.sql)
        try:
            with reading(self._conn) as reader:
                _inverse(reader, way, node)
        except NoInverseError as reason:
            return Undo(statement, (), because=_sentence(str(reason)))
        except psycopg.Error as exc:
            if meaning(exc) not in (Meaning.REFUSED, Meaning.NO_RIGHT):
                raise
            _log.warning("could not compute the inverse of %s: %s", statement.kind, exc.diag.message_primary)
            return Undo(statement, (), because=f"It cannot be computed: the server says {exc.diag.message_primary}.")
        if any(secrets.spans(step.sql) for step in way.steps):
            return Undo(statement, (), because=UNWRITABLE)
        return way.undo(statement)


def _sentence(reason: str) -> str:
    return f"It {reason}"


def _unknown(_reader: Reader, _way: Way, node: Any) -> None:
    raise NoInverseError(f"cannot be computed: pgrunbook knows no inverse of {type(node).__name__}.")


def _do(reader: Reader, way: Way, node: Any) -> None:
    """DO: take back the plain statements that it will execute; of another block, the rows."""
    found, because = do_block.read(reader, node)
    if written := changes_of_rows(node):
        no_inverse.changes(reader, way, tuple(map(tree, written)))
        return
    if found is not None and not (found and all(isinstance(one.node, no_inverse.CHANGES_ROWS) for one in found)):
        do_block.take_back(reader, way, found, _inverse)
        return
    try:
        no_inverse.run(reader, way, node, "a DO block")
    except NoInverseError as exc:
        said = str(exc).rstrip(".")
        raise NoInverseError(f"{said}: {because}." if because and because not in said else f"{said}.") from None


def _inverse(reader: Reader, way: Way, node: Any) -> None:
    if not temporary.take_back(reader, way, node):
        _INVERSES.get(type(node).__name__, _unknown)(reader, way, node)


def _call(reader: Reader, way: Way, node: Any) -> None:
    """CALL: the rows that the procedure changes."""
    no_inverse.run(reader, way, node, "a procedure")


_INVERSES: dict[str, Inverse] = {
    "AlterTableStmt": alter_table, "RenameStmt": alter.rename, "AlterOwnerStmt": alter.owner,
    "AlterObjectSchemaStmt": alter.set_schema, "AlterObjectDependsStmt": alter.depends,
    "CommentStmt": alter.comment, "SecLabelStmt": alter.label,
    # CREATE
    "CreateStmt": create.table, "CreateForeignTableStmt": create.table, "CreateTableAsStmt": create.table_as,
    "ViewStmt": create.view, "IndexStmt": create.index, "CreateSeqStmt": create.sequence,
    "CreateFunctionStmt": create.function, "CreateTrigStmt": create.trigger, "RuleStmt": create.rule,
    "CreatePolicyStmt": create.policy, "CreateSchemaStmt": create.schema, "CreateStatsStmt": create.statistics,
    **dict.fromkeys(("CreateEnumStmt", "CompositeTypeStmt", "CreateRangeStmt", "CreateDomainStmt"), create.type_),
    "DefineStmt": create.define, "CreateCastStmt": create.cast, "CreateTransformStmt": create.transform,
    "CreateOpClassStmt": create.operator_class, "CreateOpFamilyStmt": create.operator_family,
    "CreateConversionStmt": create.conversion, "CreateUserMappingStmt": create.user_mapping,
    "CreatePLangStmt": create.language,
    "CreateExtensionStmt": create.extension,
    "CreatePublicationStmt": create.of_name("PUBLICATION", "pubname", "publication"),
    "CreateEventTrigStmt": create.of_name("EVENT TRIGGER", "trigname", "event trigger"),
    "CreateAmStmt": create.of_name("ACCESS METHOD", "amname", "access method"),
    "CreateFdwStmt": create.of_name("FOREIGN DATA WRAPPER", "fdwname", "foreign-data wrapper"),
    "CreateForeignServerStmt": create.of_name("SERVER", "servername", "server"),
    "CreateRoleStmt": cluster_wide.create_role, "CreatedbStmt": cluster_wide.create_database,
    "CreateTableSpaceStmt": cluster_wide.create_tablespace, "CreateSubscriptionStmt": cluster_wide.create_subscription,
    # DROP
    "DropStmt": drop.drop, "DropRoleStmt": drop.drop_role, "DropUserMappingStmt": drop.drop_user_mapping,
    "DropdbStmt": drop.cannot, "DropTableSpaceStmt": drop.cannot, "DropSubscriptionStmt": drop.cannot,
    "DropOwnedStmt": drop.cannot,
    # ALTER
    "AlterSeqStmt": alter_other.sequence, "AlterFunctionStmt": alter_other.function,
    "AlterPolicyStmt": create.alter_policy, "AlterDomainStmt": alter_other.domain, "AlterEnumStmt": alter_other.enum,
    "AlterExtensionStmt": alter_other.extension, "AlterExtensionContentsStmt": alter_other.extension_contents,
    "AlterPublicationStmt": alter_other.publication, "AlterStatsStmt": alter_other.statistics,
    "AlterEventTrigStmt": alter_other.event_trigger, "AlterForeignServerStmt": alter_other.server,
    "AlterFdwStmt": alter_other.wrapper, "AlterTSDictionaryStmt": alter_other.dictionary,
    "AlterTSConfigurationStmt": alter_other.dictionary, "AlterOperatorStmt": alter_other.operator,
    "AlterRoleStmt": cluster_wide.alter_role, "AlterRoleSetStmt": cluster_wide.alter_settings,
    "AlterDatabaseSetStmt": cluster_wide.alter_settings, "AlterDatabaseStmt": cluster_wide.alter_database,
    "AlterSystemStmt": cluster_wide.alter_system, "AlterTableSpaceOptionsStmt": cluster_wide.tablespace_options,
    "AlterTableMoveAllStmt": cluster_wide.move_all, "ReassignOwnedStmt": cluster_wide.reassign,
    "AlterUserMappingStmt": because("has no way back: secret, because its old options are not read."),
    "AlterSubscriptionStmt": because("has no way back: secret, because its old options are not read."),
    "AlterTypeStmt": because("cannot be undone, because PostgreSQL does not show the old properties of a base type."),
    "AlterOpFamilyStmt": because("cannot be computed: pgrunbook knows no inverse of ALTER OPERATOR FAMILY."),
    "ImportForeignSchemaStmt": because("cannot be computed: nobody can know which foreign tables it will create."),
    # privileges
    "GrantStmt": grants.grant, "GrantRoleStmt": grants.role, "AlterDefaultPrivilegesStmt": grants.defaults,
    # rows
    **dict.fromkeys(("InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"), no_inverse.change),
    "TruncateStmt": rows.change, "CopyStmt": no_inverse.copy, "SelectStmt": no_inverse.select,
    "ExplainStmt": no_inverse.explain,
    "DoStmt": _do,
    "CallStmt": _call,
    "ExecuteStmt": because("cannot be computed: nobody can know what a prepared statement did."),
    # nothing
    "ClusterStmt": no_inverse.cluster, "RefreshMatViewStmt": no_inverse.refresh,
    **dict.fromkeys(
        ("VariableSetStmt", "VariableShowStmt", "LockStmt", "VacuumStmt", "ReindexStmt", "DiscardStmt", "NotifyStmt",
         "ListenStmt", "UnlistenStmt", "CheckPointStmt", "LoadStmt", "PrepareStmt", "DeallocateStmt",
         "DeclareCursorStmt", "FetchStmt", "ClosePortalStmt", "ConstraintsSetStmt", "AlterCollationStmt",
         "AlterDatabaseRefreshCollStmt", "TransactionStmt"), nothing),
}  # fmt: skip
