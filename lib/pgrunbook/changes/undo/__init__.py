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

from pgrunbook.changes.undo import alter, alter_more, create, drop, grants, others, rows, whole
from pgrunbook.changes.undo.alter_table import alter_table
from pgrunbook.changes.undo.others import because, nothing
from pgrunbook.changes.undo.parts import NoWayBackError, Way
from pgrunbook.changes.undo.reader import Reader
from pgrunbook.changes.undo.reading import reading
from pgrunbook.database.connection import Connection
from pgrunbook.plan.step import Keep
from pgrunbook.plan.way_back import FILLED_AFTER, Undo
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
    "CreateRoleStmt": whole.create_role, "CreatedbStmt": whole.create_database,
    "CreateTableSpaceStmt": whole.create_tablespace, "CreateSubscriptionStmt": whole.create_subscription,
    # DROP
    "DropStmt": drop.drop, "DropRoleStmt": drop.drop_role, "DropUserMappingStmt": drop.drop_user_mapping,
    "DropdbStmt": drop.cannot, "DropTableSpaceStmt": drop.cannot, "DropSubscriptionStmt": drop.cannot,
    "DropOwnedStmt": drop.cannot,
    # ALTER
    "AlterSeqStmt": alter_more.sequence, "AlterFunctionStmt": alter_more.function,
    "AlterPolicyStmt": create.alter_policy, "AlterDomainStmt": alter_more.domain, "AlterEnumStmt": alter_more.enum,
    "AlterExtensionStmt": alter_more.extension, "AlterExtensionContentsStmt": alter_more.extension_contents,
    "AlterPublicationStmt": alter_more.publication, "AlterStatsStmt": alter_more.statistics,
    "AlterEventTrigStmt": alter_more.event_trigger, "AlterForeignServerStmt": alter_more.server,
    "AlterFdwStmt": alter_more.wrapper, "AlterTSDictionaryStmt": alter_more.dictionary,
    "AlterTSConfigurationStmt": alter_more.dictionary, "AlterOperatorStmt": alter_more.operator,
    "AlterRoleStmt": whole.alter_role, "AlterRoleSetStmt": whole.alter_settings,
    "AlterDatabaseSetStmt": whole.alter_settings, "AlterDatabaseStmt": whole.alter_database,
    "AlterSystemStmt": whole.alter_system, "AlterTableSpaceOptionsStmt": whole.tablespace_options,
    "AlterTableMoveAllStmt": whole.move_all, "ReassignOwnedStmt": whole.reassign,
    "AlterUserMappingStmt": because("cannot be undone, because the options that a user mapping had are secret."),
    "AlterSubscriptionStmt": because("cannot be undone, because what a subscription was told before is secret."),
    "AlterTypeStmt": because("cannot be undone, because PostgreSQL does not tell what a base type was made with."),
    "AlterOpFamilyStmt": because("cannot be computed: nobody has written down how ALTER OPERATOR FAMILY is undone."),
    "ImportForeignSchemaStmt": because("cannot be computed: nobody knows which foreign tables it will make."),
    # privileges
    "GrantStmt": grants.grant, "GrantRoleStmt": grants.role, "AlterDefaultPrivilegesStmt": grants.defaults,
    # rows
    **dict.fromkeys(("InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"), others.change),
    "TruncateStmt": rows.change, "CopyStmt": others.copy, "SelectStmt": others.select,
    "ExplainStmt": others.explain,
    "DoStmt": because("cannot be computed: nobody knows what a DO block did."),
    "CallStmt": because("cannot be computed: nobody knows what a procedure did."),
    "ExecuteStmt": because("cannot be computed: nobody knows what a prepared statement did."),
    # nothing
    "ClusterStmt": others.cluster, "RefreshMatViewStmt": others.refresh,
    **dict.fromkeys(
        ("VariableSetStmt", "VariableShowStmt", "LockStmt", "VacuumStmt", "ReindexStmt", "DiscardStmt", "NotifyStmt",
         "ListenStmt", "UnlistenStmt", "CheckPointStmt", "LoadStmt", "PrepareStmt", "DeallocateStmt",
         "DeclareCursorStmt", "FetchStmt", "ClosePortalStmt", "ConstraintsSetStmt", "AlterCollationStmt",
         "AlterDatabaseRefreshCollStmt", "TransactionStmt"), nothing),
}  # fmt: skip

__all__ = ["FILLED_AFTER", "Inverter", "Keep", "Undo"]
