"""The way back of each statement, computed from the catalog right before it is executed; rollback goes it.

What the server says of an object (pg_get_viewdef, pg_get_indexdef ...) is what brings it back. The steps are plain
SQL, whose safe forms are planned when they are gone. Rows, and the tables and columns that are dropped, are kept
elsewhere: ``Undo.keeps`` says which.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import psycopg

from pgrunbook.database.connection import Connection
from pgrunbook.inverse import alter, alter_other, cluster_wide, create, drop, grants, no_inverse, rows
from pgrunbook.inverse.alter_table import alter_table
from pgrunbook.inverse.no_inverse import because, nothing
from pgrunbook.inverse.reader import Reader, reading
from pgrunbook.inverse.way import NoWayBackError, Way
from pgrunbook.plan.way_back import Undo
from pgrunbook.sql.statements import Statement
from pgrunbook.sql.tree import tree

_log = logging.getLogger(__name__)

WayBack = Callable[[Reader, Way, Any], None]


class Inverter:
    """Computes the way back of one statement after the other, each asked about right before it is executed."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def inverse(self, statement: Statement) -> Undo:
        """Return the way back from the state that the statement will leave.

        A statement that finds nothing to do (IF EXISTS) leaves nothing to take back; for one that will fail
        what is returned has no meaning.

        Raises Blocked when somebody holds a lock that keeps definitions from being read.
        Locks: AccessShareLock on what is read.
        """
        way = Way()
        node = tree(statement.sql)
        try:
            with reading(self._conn) as reader:
                _WAYS.get(type(node).__name__, _unknown)(reader, way, node)
        except NoWayBackError as reason:
            return Undo(statement, (), because=_sentence(str(reason)))
        except psycopg.errors.ProgrammingError as exc:
            _log.warning("the way back of %s could not be computed: %s", statement.kind, exc.diag.message_primary)
            return Undo(statement, (), because=f"It cannot be computed: the server says {exc.diag.message_primary}.")
        return way.undo(statement)


def _sentence(reason: str) -> str:
    return f"It {reason}"


def _unknown(_reader: Reader, _way: Way, node: Any) -> None:
    raise NoWayBackError(f"cannot be computed: nobody has written down how {type(node).__name__} is undone.")


_WAYS: dict[str, WayBack] = {
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
    "AlterUserMappingStmt": because("cannot be undone, because the options that a user mapping had are secret."),
    "AlterSubscriptionStmt": because("cannot be undone, because what a subscription was told before is secret."),
    "AlterTypeStmt": because("cannot be undone, because PostgreSQL does not tell what a base type was made with."),
    "AlterOpFamilyStmt": because("cannot be computed: nobody has written down how ALTER OPERATOR FAMILY is undone."),
    "ImportForeignSchemaStmt": because("cannot be computed: nobody knows which foreign tables it will make."),
    # privileges
    "GrantStmt": grants.grant, "GrantRoleStmt": grants.role, "AlterDefaultPrivilegesStmt": grants.defaults,
    # rows
    **dict.fromkeys(("InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"), no_inverse.change),
    "TruncateStmt": rows.change, "CopyStmt": no_inverse.copy, "SelectStmt": no_inverse.select,
    "ExplainStmt": no_inverse.explain,
    "DoStmt": because("cannot be computed: nobody knows what a DO block did."),
    "CallStmt": because("cannot be computed: nobody knows what a procedure did."),
    "ExecuteStmt": because("cannot be computed: nobody knows what a prepared statement did."),
    # nothing
    "ClusterStmt": no_inverse.cluster, "RefreshMatViewStmt": no_inverse.refresh,
    **dict.fromkeys(
        ("VariableSetStmt", "VariableShowStmt", "LockStmt", "VacuumStmt", "ReindexStmt", "DiscardStmt", "NotifyStmt",
         "ListenStmt", "UnlistenStmt", "CheckPointStmt", "LoadStmt", "PrepareStmt", "DeallocateStmt",
         "DeclareCursorStmt", "FetchStmt", "ClosePortalStmt", "ConstraintsSetStmt", "AlterCollationStmt",
         "AlterDatabaseRefreshCollStmt", "TransactionStmt"), nothing),
}  # fmt: skip
