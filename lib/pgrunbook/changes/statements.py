"""The statements of a migration file, as PostgreSQL's own parser reads them, each with its type."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import pglast
from pglast import ast, enums
from pglast.parser import ParseError

from pgrunbook.errors import WrongInput


class Type(StrEnum):
    """The guide's three types of a migration, told for each statement.

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


@dataclass(frozen=True)
class Statement:
    """One statement of a file: its exact text, where it stands, and what kind it is."""

    sql: str
    file: str
    line: int
    kind: str
    type: Type
    policy: Policy
    objects: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """The hash of the exact text."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def parse(sql: str, file: str) -> list[Statement]:
    """Split a file into its statements and say what each is; [] for a file of comments.

    Raises WrongInput, with file and line, for what does not parse, for BEGIN and COMMIT, and for
    COPY FROM STDIN.
    """
    try:
        raw = pglast.parse_sql(sql)
    except ParseError as exc:
        raise _unreadable(sql, file, exc) from exc
    found = [_statement(sql, file, node) for node in raw]
    return [_where_needed(statement, found[number + 1 :]) for number, statement in enumerate(found)]


def line_of(sql: str, index: int) -> int:
    """Return the line, counted from 1, on which a character of the text stands."""
    return sql.count("\n", 0, index) + 1


def _statement(sql: str, file: str, raw: Any) -> Statement:
    end = raw.stmt_location + raw.stmt_len if raw.stmt_len else len(sql)
    start = raw.stmt_location
    text = sql[start:end]
    start += len(text) - len(_without_leading_comments(text))
    node, line = raw.stmt, line_of(sql, start)
    _refuse(node, file, line)
    return Statement(
        sql=sql[start:end].strip(),
        file=file,
        line=line,
        kind=_kind(node),
        type=_type(node),
        policy=Policy.ALONE if _cannot_run_in_a_transaction(node) else Policy.TOGETHER,
        objects=tuple(_objects(node)),
    )


def _without_leading_comments(text: str) -> str:
    return re.sub(r"\A(?:\s+|--[^\n]*(?:\n|\Z)|/\*.*?\*/)+", "", text, flags=re.S)


def _refuse(node: Any, file: str, line: int) -> None:
    if isinstance(node, ast.TransactionStmt):
        raise WrongInput(
            f"{file}, line {line}: a migration cannot hold BEGIN, COMMIT or ROLLBACK",
            detail="The migration and its history row are committed in one transaction, which we open.",
            hint="Take the statement out; a statement that cannot run in a transaction is run alone anyway.",
        )
    if isinstance(node, ast.CopyStmt) and node.is_from and node.filename is None and not node.is_program:
        raise WrongInput(
            f"{file}, line {line}: COPY FROM STDIN cannot run from a migration file",
            detail="The data after it is for psql, not for the server.",
            hint="Write the rows as INSERT, or load them in a procedure of its own.",
        )


def _unreadable(sql: str, file: str, exc: ParseError) -> WrongInput:
    says, index = exc.args[0], exc.args[1] if len(exc.args) > 1 else 0
    line = line_of(sql, index)
    text = sql.splitlines()[line - 1].strip() if sql.splitlines() else ""
    hint = "Correct the file; PostgreSQL's own parser could not read it."
    if text.startswith("\\"):
        hint = "Commands that begin with \\ are psql's own: take them out of the migration."
    return WrongInput(f"{file}, line {line}: {says}", detail=f"The line is: {text[:200]}", hint=hint)


def _where_needed(statement: Statement, later: list[Statement]) -> Statement:
    """ALTER TYPE ... ADD VALUE runs alone only where a later statement of the file uses the new label.

    A label that was added in a transaction cannot be used before its commit
    (https://www.postgresql.org/docs/current/sql-altertype.html, Notes).
    """
    added = re.match(
        r"ALTER\s+TYPE\s.*?\sADD\s+VALUE\s+(?:IF\s+NOT\s+EXISTS\s+)?('(?:[^']|'')*')",
        statement.sql,
        re.I | re.S,
    )
    if added and any(added.group(1) in other.sql for other in later):
        return replace(statement, policy=Policy.ALONE)
    return statement


def _cannot_run_in_a_transaction(node: Any) -> bool:
    options = {o.defname for o in (getattr(node, "params", None) or ()) if isinstance(o, ast.DefElem)}
    match node:
        case ast.IndexStmt() | ast.DropStmt():
            return bool(node.concurrent)
        case ast.ReindexStmt():
            wide = node.kind in (
                enums.ReindexObjectType.REINDEX_OBJECT_SCHEMA,
                enums.ReindexObjectType.REINDEX_OBJECT_SYSTEM,
                enums.ReindexObjectType.REINDEX_OBJECT_DATABASE,
            )
            return wide or "concurrently" in options
        case ast.VacuumStmt():
            return bool(node.is_vacuumcmd)
        case ast.ClusterStmt():
            return node.relation is None
        case ast.AlterTableStmt():
            return any(isinstance(cmd.def_, ast.PartitionCmd) and cmd.def_.concurrent for cmd in node.cmds)
        case _:
            return isinstance(
                node,
                ast.CreatedbStmt | ast.DropdbStmt | ast.CreateTableSpaceStmt | ast.DropTableSpaceStmt
                | ast.AlterSystemStmt | ast.CreateSubscriptionStmt | ast.DropSubscriptionStmt,
            )  # fmt: skip


_KINDS: dict[str, str] = {
    "CreateStmt": "CREATE TABLE", "CreateTableAsStmt": "CREATE TABLE AS", "ViewStmt": "CREATE VIEW",
    "IndexStmt": "CREATE INDEX", "CreateSchemaStmt": "CREATE SCHEMA", "CreateSeqStmt": "CREATE SEQUENCE",
    "AlterSeqStmt": "ALTER SEQUENCE", "CreateEnumStmt": "CREATE TYPE", "CompositeTypeStmt": "CREATE TYPE",
    "CreateRangeStmt": "CREATE TYPE", "AlterEnumStmt": "ALTER TYPE ADD VALUE", "CreateDomainStmt": "CREATE DOMAIN",
    "AlterDomainStmt": "ALTER DOMAIN", "CreateFunctionStmt": "CREATE FUNCTION", "CreateTrigStmt": "CREATE TRIGGER",
    "CreatePolicyStmt": "CREATE POLICY", "AlterPolicyStmt": "ALTER POLICY", "CreateExtensionStmt": "CREATE EXTENSION",
    "RuleStmt": "CREATE RULE", "InsertStmt": "INSERT", "UpdateStmt": "UPDATE", "DeleteStmt": "DELETE",
    "MergeStmt": "MERGE", "TruncateStmt": "TRUNCATE", "SelectStmt": "SELECT", "DoStmt": "DO", "CallStmt": "CALL",
    "CommentStmt": "COMMENT", "VariableSetStmt": "SET", "LockStmt": "LOCK", "CopyStmt": "COPY",
    "RefreshMatViewStmt": "REFRESH MATERIALIZED VIEW", "ClusterStmt": "CLUSTER", "ReindexStmt": "REINDEX",
    "CreateStatsStmt": "CREATE STATISTICS", "AlterOwnerStmt": "ALTER OWNER",
    "AlterObjectSchemaStmt": "ALTER SET SCHEMA", "DropOwnedStmt": "DROP OWNED", "AlterDefaultPrivilegesStmt": "ALTER DEFAULT PRIVILEGES",
    "CreatePublicationStmt": "CREATE PUBLICATION", "AlterPublicationStmt": "ALTER PUBLICATION",
    "CreateRoleStmt": "CREATE ROLE", "AlterRoleStmt": "ALTER ROLE", "DropRoleStmt": "DROP ROLE",
}  # fmt: skip


def _kind(node: Any) -> str:
    name = type(node).__name__
    match node:
        case ast.AlterTableStmt():
            what = _object_word(node.objtype)
            return f"ALTER {what} " + ", ".join(dict.fromkeys(_subcommand(cmd) for cmd in node.cmds))
        case ast.RenameStmt():
            return f"RENAME {_object_word(node.renameType)}"
        case ast.DropStmt():
            return f"DROP {_object_word(node.removeType)}" + (" CONCURRENTLY" if node.concurrent else "")
        case ast.IndexStmt():
            return f"CREATE {'UNIQUE ' if node.unique else ''}INDEX{' CONCURRENTLY' if node.concurrent else ''}"
        case ast.GrantStmt() | ast.GrantRoleStmt():
            return "GRANT" if node.is_grant else "REVOKE"
        case ast.VacuumStmt():
            return "VACUUM" if node.is_vacuumcmd else "ANALYZE"
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
    "AT_EnableAlwaysRule", "AT_EnableRule", "AT_AddIdentity",
}  # fmt: skip
_HARMLESS_DROPS = {
    "OBJECT_INDEX",
    "OBJECT_STATISTIC_EXT",
    "OBJECT_POLICY",
    "OBJECT_TRIGGER",
    "OBJECT_RULE",
    "OBJECT_PUBLICATION",
}


def _type(node: Any) -> Type:
    if _changes_rows(node):
        return Type.DATA
    match node:
        case ast.RenameStmt():
            harmless = node.renameType in (
                enums.ObjectType.OBJECT_INDEX,
                enums.ObjectType.OBJECT_TABCONSTRAINT,
            )
            return Type.COMPATIBLE if harmless else Type.BREAKING
        case ast.DropStmt():
            harmless = enums.ObjectType(node.removeType).name in _HARMLESS_DROPS
            return Type.COMPATIBLE if harmless else Type.BREAKING
        case ast.AlterTableStmt():
            return Type.BREAKING if any(_breaks(cmd) for cmd in node.cmds) else Type.COMPATIBLE
        case ast.IndexStmt():
            return Type.BREAKING if node.unique else Type.COMPATIBLE
        case ast.GrantStmt() | ast.GrantRoleStmt():
            return Type.COMPATIBLE if node.is_grant else Type.BREAKING
        case ast.AlterObjectSchemaStmt() | ast.DropOwnedStmt() | ast.DropRoleStmt() | ast.CreatePolicyStmt():
            return Type.BREAKING
        case ast.RuleStmt() | ast.CreateTrigStmt() | ast.AlterDomainStmt() | ast.LockStmt():
            return Type.BREAKING
    return Type.COMPATIBLE


def _breaks(cmd: Any) -> bool:
    name = enums.AlterTableType(cmd.subtype).name
    if name == "AT_ColumnDefault":
        return cmd.def_ is None
    if name != "AT_AddColumn":
        return name in _BREAKING_SUBCOMMANDS
    kinds = {enums.ConstrType(c.contype).name for c in cmd.def_.constraints or ()}
    filled = {"CONSTR_DEFAULT", "CONSTR_IDENTITY", "CONSTR_GENERATED"} & kinds
    return bool({"CONSTR_NOTNULL", "CONSTR_PRIMARY"} & kinds) and not filled


def _changes_rows(node: Any) -> bool:
    """DML, also inside WITH; code that we cannot see into counts as changing rows."""
    opaque = ast.DoStmt | ast.CallStmt | ast.TruncateStmt | ast.CopyStmt
    dml = ast.InsertStmt | ast.UpdateStmt | ast.DeleteStmt | ast.MergeStmt
    if isinstance(node, opaque | dml):
        return True
    if not isinstance(node, ast.SelectStmt):
        return False
    return any(isinstance(part, dml) or _is_foreign_call(part) for part in _walk(node))


def _is_foreign_call(part: Any) -> bool:
    """A function outside pg_catalog, as far as its name tells, may write; the few that are known do not."""
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


def _walk(node: Any) -> Iterator[Any]:
    if isinstance(node, ast.Node):
        yield node
        for slot in node:
            yield from _walk(getattr(node, slot))
    elif isinstance(node, tuple):
        for part in node:
            yield from _walk(part)


def _objects(node: Any) -> Iterator[str]:
    """Yield the names of what a statement names first: relations, or the objects of a DROP."""
    seen: set[str] = set()
    named: list[str] = []
    if isinstance(node, ast.DropStmt):
        named = [_dotted(entry) for entry in node.objects]
    elif isinstance(node, ast.AlterEnumStmt | ast.CreateEnumStmt):
        named = [_dotted(node.typeName)]
    else:
        named = [_relation(part) for part in _walk(node) if isinstance(part, ast.RangeVar)]
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
