"""Statements that reach outside of their database: a branch cannot show what they do, so they are not rehearsed.

Each is judged by itself; what DO blocks, functions and triggers hold is asked for node by node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

from pglast import ast, enums
from pglast.parser import ParseError

from pgrunbook.sql.tree import dotted, is_on, options, strings, trees, walk

_SUBSCRIPTION = "is about a subscription, which a branch does not have"
_TABLESPACE = "makes or removes a folder outside of the data directory"
_LIBRARY = "loads a library from the server's machine"
_PRELOADED = "needs a preloaded library that acts by itself, which a branch does not load"
_FILES = "reads or writes files of the server's machine"
_SESSIONS = "ends what other sessions do"
_SERVER = "changes settings of the whole server"
_REPLICATION = "changes what other servers are sent, or apply"
_ELSEWHERE = "sends something to another server"
_SCHEDULER = "tells a scheduler what to run later"
_CODE = "runs code in a language that may reach anything"

# Extensions whose library has to be preloaded, and acts by itself.
PRELOADED_EXTENSIONS = frozenset({
    "bdr", "citus", "pg_cron", "pg_net", "pg_squeeze", "pg_task", "pgactive", "pglogical", "spock", "timescaledb",
})  # fmt: skip
# Schemas in which an extension keeps only functions that reach outside.
_SCHEMAS = MappingProxyType({
    "amqp": _ELSEWHERE, "aws_lambda": _ELSEWHERE, "aws_s3": _ELSEWHERE, "azure_storage": _ELSEWHERE,
    "cron": _SCHEDULER, "net": _ELSEWHERE, "pglogical": _REPLICATION, "spock": _REPLICATION, "utl_file": _FILES,
    "utl_http": _ELSEWHERE, "utl_smtp": _ELSEWHERE,
})  # fmt: skip
_FUNCTIONS = MappingProxyType({
    **dict.fromkeys(("pg_terminate_backend", "pg_cancel_backend"), _SESSIONS),
    **dict.fromkeys(("pg_reload_conf", "pg_rotate_logfile", "pg_promote"), _SERVER),
    **dict.fromkeys(
        ("pg_create_physical_replication_slot", "pg_create_logical_replication_slot", "pg_drop_replication_slot",
         "pg_copy_physical_replication_slot", "pg_copy_logical_replication_slot", "pg_replication_slot_advance",
         "pg_sync_replication_slots", "pg_logical_slot_get_changes", "pg_logical_slot_get_binary_changes",
         "pg_logical_slot_peek_changes", "pg_logical_slot_peek_binary_changes", "pg_replication_origin_create",
         "pg_replication_origin_drop", "pg_replication_origin_advance", "pg_replication_origin_session_setup"),
        _REPLICATION,
    ),
    **dict.fromkeys(("pg_stat_file", "lo_import", "lo_export"), _FILES),
    **dict.fromkeys(
        ("http", "http_get", "http_post", "http_put", "http_patch", "http_delete", "http_head",
         "run_command_on_workers", "run_command_on_shards", "run_command_on_placements", "run_command_on_all_nodes"),
        _ELSEWHERE,
    ),
    **dict.fromkeys(("add_job", "run_job", "schedule_in_database"), _SCHEDULER),
})  # fmt: skip
_PREFIXES = MappingProxyType({
    "dblink": _ELSEWHERE, "postgres_fdw_": _ELSEWHERE, "pg_read_": _FILES, "pg_ls_": _FILES, "pg_file_": _FILES,
    "pg_logdir_": _FILES,
})  # fmt: skip
# Functions that execute the text which is their first argument.
_OF_TEXT = frozenset({"query_to_xml", "query_to_xmlschema", "query_to_xml_and_xmlschema", "ts_stat"})
_TRUSTED_LANGUAGES = frozenset({"sql", "plpgsql", "plperl", "pltcl", "plv8", "plrust", "plcoffee", "plls", "pllua"})
# What these name is kept for later, and not run with them.
_ONLY_STORED = (
    ast.CreateFunctionStmt, ast.ViewStmt, ast.RuleStmt, ast.CreatePolicyStmt, ast.AlterPolicyStmt, ast.CreateTrigStmt,
    ast.CreateEventTrigStmt, ast.CreateStmt, ast.CreateForeignTableStmt, ast.CreateDomainStmt, ast.AlterDomainStmt,
    ast.CreateStatsStmt, ast.CommentStmt, ast.DoStmt, ast.DefineStmt,
)  # fmt: skip
_READS_ROWS = (
    ast.SelectStmt, ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt, ast.TruncateStmt, ast.CopyStmt,
    ast.CreateTableAsStmt, ast.RefreshMatViewStmt, ast.ExplainStmt, ast.PrepareStmt, ast.DeclareCursorStmt,
    ast.VacuumStmt,
)  # fmt: skip


def reach(node: Any) -> str:
    """Return what a statement does outside of its database, as "it ..." goes on; "" where it stays inside."""
    look = _LOOKS.get(type(node))
    found = look(node) if look is not None else ""
    return found or next(filter(None, map(_of_call, _calls(node))), "")


def reaches(sql: str) -> bool:
    """Tell whether one of the statements in a text reaches outside by itself."""
    return any(map(reach, trees(sql)))


def relations_read(node: Any) -> list[ast.RangeVar]:
    """Return the relations whose rows a statement reads or writes when it runs; [] for one that touches no rows."""
    if not isinstance(node, _READS_ROWS) or _leaves_out_data(node):
        return []
    own = {part.ctename for part in walk(node) if isinstance(part, ast.CommonTableExpr)}
    named = (part for part in walk(node) if isinstance(part, ast.RangeVar))
    return [name for name in named if name.schemaname or name.relname not in own]


def _calls(node: Any) -> Iterator[Any]:
    """Yield the calls of functions that run with a statement."""
    is_plan = isinstance(node, ast.ExplainStmt) and not is_on(node.options, "analyze")
    if isinstance(node, _ONLY_STORED) or is_plan or _leaves_out_data(node):
        return
    yield from (part for part in walk(node) if isinstance(part, ast.FuncCall))


def _leaves_out_data(node: Any) -> bool:
    match node:
        case ast.CreateTableAsStmt():
            return bool(node.into.skipData)
        case ast.RefreshMatViewStmt():
            return bool(node.skipData)
    return False


def _of_call(call: Any) -> str:
    schema, name = dotted(call.funcname)
    if schema is not None and schema in _SCHEMAS:
        return f"{_SCHEMAS[schema]} ({schema}.{name})"
    found = _FUNCTIONS.get(name) or next((told for word, told in _PREFIXES.items() if name.startswith(word)), "")
    if found:
        return f"{found} ({name})"
    return _of_text(call.args[0]) if name in _OF_TEXT and call.args else ""


def _of_text(argument: Any) -> str:
    while isinstance(argument, ast.TypeCast):
        argument = argument.arg
    query = getattr(getattr(argument, "val", None), "sval", None)
    try:
        found = trees(query) if query is not None else ()
    except ParseError:
        return ""  # the server refuses it as well
    return next(filter(None, map(reach, found)), "")


def _copy(node: Any) -> str:
    if node.is_program:
        return "runs a program on the server's machine"
    return _FILES if node.filename is not None else ""


def _create_subscription(node: Any) -> str:
    connects = is_on(node.options, "connect", default=True)
    return "connects to a publisher, and makes a slot there" if connects else ""


def _of_object(node: Any) -> str:
    kind = getattr(node, "renameType", None) if isinstance(node, ast.RenameStmt) else _object_type(node)
    if kind == enums.ObjectType.OBJECT_SUBSCRIPTION:
        return _SUBSCRIPTION
    return "is about a tablespace, which a branch does not have" if kind == enums.ObjectType.OBJECT_TABLESPACE else ""


def _object_type(node: Any) -> Any:
    return (
        getattr(node, "objectType", None) if not isinstance(node, ast.CommentStmt | ast.SecLabelStmt) else node.objtype
    )


def _extension(node: Any) -> str:
    return f"{_PRELOADED} ({node.extname})" if node.extname in PRELOADED_EXTENSIONS else ""


def _drop(node: Any) -> str:
    if node.removeType != enums.ObjectType.OBJECT_EXTENSION:
        return ""
    names = PRELOADED_EXTENSIONS.intersection(strings(node.objects))
    return f"{_PRELOADED} ({', '.join(sorted(names))})" if names else ""


def _create_function(node: Any) -> str:
    language = getattr(options(node.options).get("language"), "sval", "sql")
    return _LIBRARY if language.lower() == "c" else ""


def _do(node: Any) -> str:
    language = getattr(options(node.args).get("language"), "sval", "plpgsql")
    return "" if language.lower() in _TRUSTED_LANGUAGES else f"{_CODE} ({language})"


_LOOKS: dict[type, Callable[[Any], str]] = {
    ast.CopyStmt: _copy,
    ast.CreateSubscriptionStmt: _create_subscription,
    **dict.fromkeys((ast.AlterSubscriptionStmt, ast.DropSubscriptionStmt), lambda _: _SUBSCRIPTION),
    **dict.fromkeys((ast.CreateTableSpaceStmt, ast.DropTableSpaceStmt), lambda _: _TABLESPACE),
    ast.AlterTableSpaceOptionsStmt: lambda _: "is about a tablespace, which a branch does not have",
    **dict.fromkeys((ast.RenameStmt, ast.AlterOwnerStmt, ast.CommentStmt, ast.SecLabelStmt), _of_object),
    ast.AlterSystemStmt: lambda _: _SERVER,
    ast.ImportForeignSchemaStmt: lambda _: "asks a foreign server for its tables",
    ast.LoadStmt: lambda _: _LIBRARY,
    **dict.fromkeys((ast.CreateExtensionStmt, ast.AlterExtensionStmt), _extension),
    ast.DropStmt: _drop,
    ast.CreateFunctionStmt: _create_function,
    ast.DoStmt: _do,
}
