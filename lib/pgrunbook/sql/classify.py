"""What a statement is: its kind, the guide's type, whether it needs to run alone, and the objects it names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

from pglast import ast, enums

from pgrunbook.sql.tree import is_on, options, walk


class Type(StrEnum):
    """The guide's three types of a migration, given for each statement.

    ``compatible``: running code goes on as before. ``breaking``: running code that reads or writes
    what is touched may fail. ``data``: rows change.
    """

    COMPATIBLE = "backward compatible"
    BREAKING = "breaking"
    DATA = "data"


class Policy(StrEnum):
    """Whether a statement runs in its migration's transaction, or cannot and runs alone."""

    TOGETHER = "in the migration's transaction"
    ALONE = "alone"


_NEVER_IN_A_TRANSACTION = (
    ast.CreatedbStmt | ast.DropdbStmt | ast.CreateTableSpaceStmt | ast.DropTableSpaceStmt | ast.AlterSystemStmt
    | ast.CreateSubscriptionStmt | ast.AlterSubscriptionStmt | ast.DropSubscriptionStmt
)  # fmt: skip


def cannot_run_in_a_transaction(node: Any) -> bool:
    """Tell whether the server refuses a statement inside a transaction block, whatever objects it names."""
    match node:
        case ast.IndexStmt() | ast.DropStmt():
            return bool(node.concurrent)
        case ast.ReindexStmt():
            wide = node.kind in (
                enums.ReindexObjectType.REINDEX_OBJECT_SCHEMA,
                enums.ReindexObjectType.REINDEX_OBJECT_SYSTEM,
                enums.ReindexObjectType.REINDEX_OBJECT_DATABASE,
            )
            return wide or is_on(node.params, "concurrently")
        case ast.VacuumStmt():
            return bool(node.is_vacuumcmd)
        case ast.ClusterStmt():
            return node.relation is None
        case ast.DiscardStmt():
            return bool(node.target == enums.DiscardMode.DISCARD_ALL)
        case ast.AlterDatabaseStmt():
            return "tablespace" in options(node.options)
        case ast.AlterTableStmt():
            return _detaches_concurrently(node)
    return isinstance(node, _NEVER_IN_A_TRANSACTION)


def wait_is_harmless(kind: str) -> bool:
    """Tell whether others go on while a statement of this kind waits for its locks.

    It waits for old snapshots, or for a lock that conflicts with no reader and no writer
    (https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-TABLES).
    """
    return "CONCURRENTLY" in kind or kind == "VACUUM"


_KINDS: dict[str, str] = {
    "CreateStmt": "CREATE TABLE", "CreateTableAsStmt": "CREATE TABLE AS", "ViewStmt": "CREATE VIEW",
    "IndexStmt": "CREATE INDEX", "CreateSchemaStmt": "CREATE SCHEMA", "CreateSeqStmt": "CREATE SEQUENCE",
    "AlterSeqStmt": "ALTER SEQUENCE", "CreateEnumStmt": "CREATE TYPE", "CompositeTypeStmt": "CREATE TYPE",
    "CreateRangeStmt": "CREATE TYPE", "CreateDomainStmt": "CREATE DOMAIN",
    "AlterDomainStmt": "ALTER DOMAIN", "CreateFunctionStmt": "CREATE FUNCTION", "CreateTrigStmt": "CREATE TRIGGER",
    "CreatePolicyStmt": "CREATE POLICY", "AlterPolicyStmt": "ALTER POLICY", "CreateExtensionStmt": "CREATE EXTENSION",
    "RuleStmt": "CREATE RULE", "InsertStmt": "INSERT", "UpdateStmt": "UPDATE", "DeleteStmt": "DELETE",
    "MergeStmt": "MERGE", "TruncateStmt": "TRUNCATE", "SelectStmt": "SELECT", "DoStmt": "DO", "CallStmt": "CALL",
    "CommentStmt": "COMMENT", "VariableSetStmt": "SET", "LockStmt": "LOCK", "CopyStmt": "COPY",
    "RefreshMatViewStmt": "REFRESH MATERIALIZED VIEW", "ClusterStmt": "CLUSTER",
    "CreateStatsStmt": "CREATE STATISTICS", "AlterOwnerStmt": "ALTER OWNER",
    "AlterObjectSchemaStmt": "ALTER SET SCHEMA", "DropOwnedStmt": "DROP OWNED",
    "AlterDefaultPrivilegesStmt": "ALTER DEFAULT PRIVILEGES",
    "CreatePublicationStmt": "CREATE PUBLICATION", "AlterPublicationStmt": "ALTER PUBLICATION",
    "CreateRoleStmt": "CREATE ROLE", "AlterRoleStmt": "ALTER ROLE", "DropRoleStmt": "DROP ROLE",
    "CreatedbStmt": "CREATE DATABASE", "DropdbStmt": "DROP DATABASE",
    "CreateTableSpaceStmt": "CREATE TABLESPACE", "DropTableSpaceStmt": "DROP TABLESPACE",
}  # fmt: skip


def kind(node: Any) -> str:
    """Return a statement's kind, in the words of the manual."""
    name = type(node).__name__
    match node:
        case ast.AlterTableStmt():
            what = _object_word(node.objtype)
            concurrently = " CONCURRENTLY" if _detaches_concurrently(node) else ""
            return f"ALTER {what} " + ", ".join(dict.fromkeys(_subcommand(cmd) for cmd in node.cmds)) + concurrently
        case ast.RenameStmt():
            return f"RENAME {_object_word(node.renameType)}"
        case ast.DropStmt():
            return f"DROP {_object_word(node.removeType)}" + (" CONCURRENTLY" if node.concurrent else "")
        case ast.IndexStmt():
            return f"CREATE {'UNIQUE ' if node.unique else ''}INDEX{' CONCURRENTLY' if node.concurrent else ''}"
        case ast.GrantStmt() | ast.GrantRoleStmt():
            return "GRANT" if node.is_grant else "REVOKE"
        case ast.VacuumStmt():
            full = " FULL" if is_on(node.options, "full") else ""
            return f"VACUUM{full}" if node.is_vacuumcmd else "ANALYZE"
        case ast.ReindexStmt():
            return "REINDEX" + (" CONCURRENTLY" if is_on(node.params, "concurrently") else "")
        case ast.AlterEnumStmt():
            return "ALTER TYPE RENAME VALUE" if node.oldVal is not None else "ALTER TYPE ADD VALUE"
        case ast.SelectStmt() if node.intoClause is not None:
            return "SELECT INTO"
        case ast.CreateTableAsStmt() if node.objtype == enums.ObjectType.OBJECT_MATVIEW:
            return "CREATE MATERIALIZED VIEW"
    return _KINDS.get(name, re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.removesuffix("Stmt")).upper())


def _object_word(kind: Any) -> str:
    return (
        str(enums.ObjectType(kind).name)
        .removeprefix("OBJECT_")
        .replace("_", " ")
        .replace("MATVIEW", "MATERIALIZED VIEW")
    )


def _subcommand(cmd: Any) -> str:
    """AT_AlterColumnType -> ALTER COLUMN TYPE."""
    name = enums.AlterTableType(cmd.subtype).name.removeprefix("AT_")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).upper()


_BREAKING_SUBCOMMANDS = {
    "AT_DropColumn", "AT_AlterColumnType", "AT_SetNotNull", "AT_AddConstraint", "AT_EnableRowSecurity",
    "AT_ForceRowSecurity", "AT_SetUnLogged", "AT_DropIdentity", "AT_DropExpression", "AT_DetachPartition",
    "AT_EnableAlwaysRule", "AT_EnableRule", "AT_AddIdentity", "AT_DropNotNull", "AT_DisableRowSecurity",
    "AT_NoForceRowSecurity", "AT_EnableTrig", "AT_EnableAlwaysTrig", "AT_EnableReplicaTrig", "AT_EnableTrigAll",
    "AT_EnableTrigUser", "AT_DisableTrig", "AT_DisableTrigAll", "AT_DisableTrigUser", "AT_EnableReplicaRule",
    "AT_DisableRule", "AT_DropInherit", "AT_ChangeOwner", "AT_SetExpression", "AT_GenericOptions",
    "AT_AlterColumnGenericOptions",
}  # fmt: skip
# No statement of running code names or meets them.
_HARMLESS_RENAMES = {
    "OBJECT_INDEX", "OBJECT_DOMCONSTRAINT", "OBJECT_TRIGGER", "OBJECT_POLICY", "OBJECT_RULE",
    "OBJECT_STATISTIC_EXT", "OBJECT_EVENT_TRIGGER",
}  # fmt: skip
_HARMLESS_DROPS = {"OBJECT_INDEX", "OBJECT_STATISTIC_EXT"}
_ALWAYS_BREAKING = (
    ast.AlterObjectSchemaStmt | ast.AlterOwnerStmt | ast.ReassignOwnedStmt | ast.DropOwnedStmt | ast.DropRoleStmt
    | ast.CreatePolicyStmt | ast.AlterPolicyStmt | ast.DropdbStmt | ast.DropTableSpaceStmt | ast.DropSubscriptionStmt
    | ast.AlterSubscriptionStmt | ast.DropUserMappingStmt | ast.AlterUserMappingStmt | ast.AlterForeignServerStmt
    | ast.AlterFdwStmt | ast.RuleStmt | ast.CreateTrigStmt | ast.LockStmt | ast.AlterTSConfigurationStmt
    | ast.AlterTSDictionaryStmt
    # UPDATE and DELETE fail on a published table without a key
    | ast.CreatePublicationStmt | ast.AlterPublicationStmt
)  # fmt: skip
_RIGHTS = {"superuser", "createdb", "createrole", "inherit", "canlogin", "isreplication", "bypassrls"}
_CONNECTIONS = {"allow_connections", "connection_limit"}
_OF_PLANNER = {"cost", "rows", "parallel", "leakproof", "volatility", "support"}
_COSTS = ("log_", "track_", "enable_", "jit", "autovacuum", "effective_", "max_parallel", "random_page_cost",
          "seq_page_cost", "work_mem", "maintenance_work_mem")  # fmt: skip


def type_of(node: Any) -> Type:
    """Return which of the guide's types a statement has, as far as its text shows."""
    if _changes_rows(node):
        return Type.DATA
    return Type.BREAKING if _may_break(node) else Type.COMPATIBLE


def _may_break(node: Any) -> bool:
    """Tell whether a statement of code that goes on running may fail behind it, or do something else."""
    asked = _BREAKING_WHERE.get(type(node))
    return isinstance(node, _ALWAYS_BREAKING) if asked is None else bool(asked(node))


def _alters(node: Any) -> bool:
    # A row that is written with as many values as before no longer fits a composite type with one more.
    return node.objtype == enums.ObjectType.OBJECT_TYPE or any(_breaks(cmd) for cmd in node.cmds)


def _takes_a_right(node: Any) -> bool:
    """Tell whether ALTER ROLE does more than give a right or a member."""
    given = options(node.options)
    rights = {name for name, value in given.items() if name in _RIGHTS and value.boolval}
    return node.action < 0 or not given.keys() <= rights | {"rolemembers"}


def _sets(node: Any) -> bool:
    return not str(node.setstmt.name).startswith(_COSTS)


_BREAKING_WHERE: dict[type[ast.Node], Callable[[Any], object]] = {
    ast.RenameStmt: lambda node: enums.ObjectType(node.renameType).name not in _HARMLESS_RENAMES,
    ast.DropStmt: lambda node: enums.ObjectType(node.removeType).name not in _HARMLESS_DROPS,
    ast.AlterTableStmt: _alters,
    ast.IndexStmt: lambda node: node.unique,
    ast.AlterEnumStmt: lambda node: node.oldVal is not None,
    ast.GrantStmt: lambda node: not node.is_grant,
    ast.GrantRoleStmt: lambda node: not node.is_grant,
    ast.AlterDomainStmt: lambda node: node.subtype != "V",
    ast.AlterRoleStmt: _takes_a_right,
    ast.AlterDatabaseStmt: lambda node: not options(node.options).keys().isdisjoint(_CONNECTIONS),
    ast.AlterRoleSetStmt: _sets,
    ast.AlterDatabaseSetStmt: _sets,
    ast.AlterSystemStmt: _sets,
    ast.AlterSeqStmt: lambda node: not options(node.options).keys() <= {"owned_by", "cache"},
    ast.AlterFunctionStmt: lambda node: not options(node.actions).keys() <= _OF_PLANNER,
    ast.AlterOpFamilyStmt: lambda node: node.isDrop,
}


def _breaks(cmd: Any) -> bool:
    name = enums.AlterTableType(cmd.subtype).name
    match name:
        case "AT_ColumnDefault":
            return cmd.def_ is None
        case "AT_SetIdentity":
            always = options(cmd.def_).get("generated")
            return always is not None and chr(always.ival) == "a"
        case "AT_ReplicaIdentity":
            return bool(cmd.def_.identity_type == "n")  # UPDATE and DELETE of a published table fail
        case "AT_SetRelOptions" | "AT_ResetRelOptions":
            return not options(cmd.def_).keys().isdisjoint({"security_invoker", "check_option"})
    if name != "AT_AddColumn":
        return name in _BREAKING_SUBCOMMANDS
    kinds = {enums.ConstrType(c.contype).name for c in cmd.def_.constraints or ()}
    serial = str(cmd.def_.typeName.names[-1].sval).endswith(("serial", "serial2", "serial4", "serial8"))
    filled = serial or {"CONSTR_DEFAULT", "CONSTR_IDENTITY", "CONSTR_GENERATED"} & kinds
    return bool({"CONSTR_NOTNULL", "CONSTR_PRIMARY"} & kinds) and not filled


def _changes_rows(node: Any) -> bool:
    """DML, also inside WITH; code that cannot be read counts as changing rows."""
    opaque = ast.DoStmt | ast.CallStmt | ast.TruncateStmt
    dml = ast.InsertStmt | ast.UpdateStmt | ast.DeleteStmt | ast.MergeStmt
    if isinstance(node, opaque | dml):
        return True
    if isinstance(node, ast.CopyStmt):
        return bool(node.is_from)
    if not isinstance(node, ast.SelectStmt):
        return False
    return any(isinstance(part, dml) or _is_foreign_call(part) for part in walk(node))


def _is_foreign_call(part: Any) -> bool:
    """Tell whether a function call may write: by its name alone, any but a few known ones may."""
    if not isinstance(part, ast.FuncCall):
        return False
    return part.funcname[-1].sval not in (
        "set_config",
        "current_setting",
        "pg_sleep",
        "count",
        "now",
        "setval",
    )


def _detaches_concurrently(node: Any) -> bool:
    return any(isinstance(cmd.def_, ast.PartitionCmd) and bool(cmd.def_.concurrent) for cmd in node.cmds)


def objects(node: Any) -> Iterator[str]:
    """Yield the objects that a statement names, each once: relations, or what a DROP drops."""
    seen: set[str] = set()
    named: list[str] = []
    if isinstance(node, ast.DropStmt):
        named = [_dotted(entry) for entry in node.objects]
    elif isinstance(node, ast.AlterEnumStmt | ast.CreateEnumStmt):
        named = [_dotted(node.typeName)]
    else:
        named = [_relation(part) for part in walk(node) if isinstance(part, ast.RangeVar)]
    for name in named:
        if name and name not in seen:
            seen.add(name)
            yield name


def _relation(part: Any) -> str:
    return f"{part.schemaname}.{part.relname}" if part.schemaname else str(part.relname)


def _dotted(entry: Any) -> str:
    if isinstance(entry, ast.TypeName):
        entry = entry.names
    parts = entry if isinstance(entry, tuple) else (entry,)
    texts: list[str] = [p.sval for p in parts if isinstance(p, ast.String)]
    return ".".join(texts)
