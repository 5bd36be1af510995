"""The effects of ALTER TABLE, subcommand by subcommand; for ``effects.statements``.

Source: https://www.postgresql.org/docs/current/sql-altertable.html
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from pglast import enums

from pgrunbook.database.catalog import Standing, Table
from pgrunbook.effects import result as fx
from pgrunbook.effects.constraint_drop import drop_constraint, drop_constraint_of
from pgrunbook.effects.proofs import excludes_bound, fits_partition, proves_not_null
from pgrunbook.effects.tables_below import goes_below, lock_below
from pgrunbook.effects.type_change import TypeChange, judge, kind_of
from pgrunbook.sql.lock_modes import (
    ACCESS_EXCLUSIVE,
    ACCESS_SHARE,
    MODES,
    ROW_SHARE,
    SHARE_ROW_EXCLUSIVE,
    SHARE_UPDATE_EXCLUSIVE,
)
from pgrunbook.sql.serial import SERIAL
from pgrunbook.sql.tree import Name, constraint_kind, enum_name, functions_in, relation, strings, subcommand, type_word

SEQUENCES_FOLLOW_FROM = GENERATED_STOP_FROM = 15  # SET LOGGED of their table; the drop of a column they are made of

_WEAKER = {
    "SetStatistics": SHARE_UPDATE_EXCLUSIVE, "SetOptions": SHARE_UPDATE_EXCLUSIVE,
    "ResetOptions": SHARE_UPDATE_EXCLUSIVE, "ClusterOn": SHARE_UPDATE_EXCLUSIVE,
    "DropCluster": SHARE_UPDATE_EXCLUSIVE, "ValidateConstraint": SHARE_UPDATE_EXCLUSIVE,
    "AttachPartition": SHARE_UPDATE_EXCLUSIVE, "DetachPartitionFinalize": SHARE_UPDATE_EXCLUSIVE,
    "EnableTrig": SHARE_ROW_EXCLUSIVE, "EnableAlwaysTrig": SHARE_ROW_EXCLUSIVE,
    "EnableReplicaTrig": SHARE_ROW_EXCLUSIVE, "EnableTrigAll": SHARE_ROW_EXCLUSIVE,
    "EnableTrigUser": SHARE_ROW_EXCLUSIVE, "DisableTrig": SHARE_ROW_EXCLUSIVE,
    "DisableTrigAll": SHARE_ROW_EXCLUSIVE, "DisableTrigUser": SHARE_ROW_EXCLUSIVE,
}  # fmt: skip
# Storage parameters that affect plans or pages at once; all others block neither readers nor writers.
_STRONG_OPTIONS = {
    "user_catalog_table", "security_barrier", "security_invoker", "check_option", "fastupdate", "buffering",
    "gin_pending_list_limit", "pages_per_range", "autosummarize",
}  # fmt: skip
# Functions that are not volatile; an unknown function counts as volatile.
_STABLE = {
    "now", "transaction_timestamp", "statement_timestamp", "current_setting", "lower", "upper", "concat", "md5",
    "to_jsonb", "jsonb_build_object", "json_build_object", "timezone", "date_trunc", "make_interval", "coalesce",
}  # fmt: skip


def mode_of(cmd: Any) -> str:
    """Return the lock that a subcommand takes on its table."""
    word = subcommand(cmd)
    if word in ("SetRelOptions", "ResetRelOptions", "ReplaceRelOptions"):
        strong = any(item.defname in _STRONG_OPTIONS for item in cmd.def_ or ())
        return ACCESS_EXCLUSIVE if strong else SHARE_UPDATE_EXCLUSIVE
    if word == "AddConstraint" and constraint_kind(cmd.def_) == "FOREIGN":
        return SHARE_ROW_EXCLUSIVE
    if word == "DetachPartition" and cmd.def_.concurrent:
        return SHARE_UPDATE_EXCLUSIVE
    return _WEAKER.get(word, ACCESS_EXCLUSIVE)


def collect(found: fx.Found, node: Any) -> None:
    """Collect the effects of ALTER TABLE, and of ALTER VIEW, ALTER SEQUENCE and the like, which share its node."""
    table = found.catalog.find(relation(node.relation))
    if table.standing is Standing.MISSING and node.missing_ok:
        return
    mode = max((mode_of(cmd) for cmd in node.cmds), key=MODES.index)
    found.lock(table, mode)
    for cmd in node.cmds:
        lock_below(found, table, cmd, mode, inh=bool(node.relation.inh))
    collect_commands(found, table, node.cmds, inh=bool(node.relation.inh))


def collect_commands(found: fx.Found, table: Table, cmds: Sequence[Any], *, inh: bool = True) -> None:
    """Collect what subcommands do beside the locks on their table."""
    dropped = {cmd.name for cmd in cmds if subcommand(cmd) == "DropConstraint"}
    for cmd in cmds:
        reached = table if goes_below(table, cmd, inh=inh) else replace(table, children=())
        if subcommand(cmd) == "SetNotNull":
            _set_not_null(found, reached, cmd.name, without=dropped)
        elif handler := _HANDLERS.get(subcommand(cmd)):
            handler(found, reached, cmd)


def collect_index(found: fx.Found, node: Any) -> None:
    """Collect the effects of ALTER INDEX, whose node is ALTER TABLE's too."""
    name = relation(node.relation)
    known = found.catalog.index(name)
    label = known[1].label if known else str(name)
    if known or not (found.catalog.connected and node.missing_ok):
        for cmd in node.cmds:
            found.locks.add((label, mode_of(cmd)))
            if subcommand(cmd) == "AttachPartition":
                _attach_index(found, name, relation(cmd.def_.name))


def _attach_index(found: fx.Found, whole: Name, part: Name) -> None:
    """The tables of both indexes stay usable; the partition's index is locked as a whole."""
    for name in (whole, part):
        if known := found.catalog.index(name):
            found.lock(known[0], ACCESS_SHARE)
            if name == part:
                found.locks.add((known[1].label, ACCESS_EXCLUSIVE))


def is_volatile(found: fx.Found, expression: Any) -> bool:
    """Whether an expression may return a different value for each row."""
    for name in functions_in(expression):
        if name in _STABLE:
            continue
        known = found.catalog.volatile_functions.get(name)
        if known is None:
            found.cannot_know(f"whether function {name} is volatile; it counts as volatile")
        if known is not False:
            return True
    return False


def fills_each_row(found: fx.Found, definition: Any) -> bool:
    """Whether a new column has another value in each row, or one to be checked, so that its table is rewritten."""
    kinds = {constraint_kind(c): c for c in definition.constraints or ()}
    word = type_word(definition.typeName)
    is_stored = "GENERATED" in kinds and kinds["GENERATED"].generated_kind != "v"
    if is_stored or "IDENTITY" in kinds or word.name in SERIAL:
        return True
    is_checked = kind_of(word, found.catalog).checked and not word.array
    return is_checked or ("DEFAULT" in kinds and is_volatile(found, kinds["DEFAULT"].raw_expr))


def computes_not_null(kinds: Mapping[str, Any]) -> bool:
    """Whether a new column is computed whenever it is read, and must not be NULL."""
    return "NOTNULL" in kinds and "GENERATED" in kinds and kinds["GENERATED"].generated_kind == "v"


def _add_column(found: fx.Found, table: Table, cmd: Any) -> None:
    definition = cmd.def_
    if cmd.missing_ok and definition.colname in table.columns:
        return
    kinds = {constraint_kind(c): c for c in definition.constraints or ()}
    default = kinds["DEFAULT"].raw_expr if "DEFAULT" in kinds else None
    if fills_each_row(found, definition):
        found.rewrite(table)
    if {"CHECK", "UNIQUE", "PRIMARY"} & kinds.keys() or computes_not_null(kinds):
        found.scan(table)
    if "FOREIGN" in kinds:
        found.lock_family(found.catalog.find(relation(kinds["FOREIGN"].pktable)), SHARE_ROW_EXCLUSIVE)
        if default is not None:
            found.scan(table)
    filled = type_word(definition.typeName).name in SERIAL or {"IDENTITY", "GENERATED"} & kinds.keys()
    if {"NOTNULL", "PRIMARY"} & kinds.keys() and default is None and not filled:
        found.fails[f"{table.label} must hold no row: {definition.colname} is NOT NULL and has no default"] = None
        found.scan(table)


def _drop_column(found: fx.Found, table: Table, cmd: Any) -> None:
    if found.catalog.connected and cmd.name not in table.columns and table.standing is not Standing.NEW:
        return
    name = f"{table.label}.{cmd.name}"
    found.lose(f"the values of column {name}")
    cascade = cmd.behavior == 1
    for member in found.catalog.below(table):
        for index in member.indexes:
            if cmd.name in index.uses:
                found.lose(f"index {index.label}")
                found.locks.add((index.label, ACCESS_EXCLUSIVE))
    for constraint in table.constraints:
        if cmd.name in constraint.columns and constraint.kind != "n":
            drop_constraint_of(found, table, constraint, cascade=cascade)
    for dependent in table.dependents:
        if cmd.name in dependent.columns:
            _drop_dependent(found, dependent.kind, dependent.name, name, cascade=cascade)


def _drop_dependent(found: fx.Found, kind: str, name: str, of: str, *, cascade: bool) -> None:
    if kind == "sequence":
        found.locks.add((name, ACCESS_EXCLUSIVE))
        found.lose(f"sequence {name}")
    elif cascade or kind == "statistics" or (kind == "generated column" and not found.is_from(GENERATED_STOP_FROM)):
        found.lose(f"{kind} {name}")
        if kind in ("view", "materialized view"):
            found.locks.add((name, ACCESS_EXCLUSIVE))
    else:
        found.fails[f"{kind} {name} depends on {of}"] = None


def _alter_type(found: fx.Found, table: Table, cmd: Any) -> None:
    change = judge(table.columns.get(cmd.name), cmd, found.catalog)
    if not change.known and table.standing is not Standing.NEW:
        found.cannot_know(f"the current type of {table.label}.{cmd.name}; the table counts as rewritten")
    if change.rewrites:
        found.rewrite(table)
    column = table.columns.get(cmd.name)
    for dependent in table.of_kind("sequence") if column is not None and column.identity else ():
        if cmd.name in dependent.columns:
            found.locks.add((dependent.name, SHARE_ROW_EXCLUSIVE))
    for member in found.catalog.below(table):
        _follow_type(found, member, cmd.name, change)
    for dependent in table.of_kind("view", "materialized view", "rule", "policy", "generated column"):
        if cmd.name in dependent.columns:
            found.fails[f"{dependent.kind} {dependent.name} uses {table.label}.{cmd.name}"] = None
    found.lose(f"the statistics of column {table.label}.{cmd.name}")


def _follow_type(found: fx.Found, table: Table, column: str, change: TypeChange) -> None:
    """Collect what a type change rebuilds: indexes, checks and foreign keys over the column."""
    for index in table.indexes:
        if column in index.uses:
            found.locks.add((index.label, ACCESS_EXCLUSIVE))
            if not change.rewrites and change.rebuilds(index):
                found.rebuilds[index.label] = None
                found.scans[table.label] = None
    for constraint in table.constraints:
        if column not in constraint.columns:
            continue
        if constraint.kind == "c" and constraint.valid:
            found.scan(table)
        if constraint.partner is not None:
            found.lock(found.catalog.at(constraint.partner), ACCESS_EXCLUSIVE)
    for other, key in found.catalog.references_to(table):
        if column in key.partner_columns:
            found.lock(other, ACCESS_EXCLUSIVE)
            if change.rewrites or change.reindexes:
                found.scan(other)


def _set_not_null(found: fx.Found, table: Table, name: str, *, without: Set[str] = frozenset()) -> None:
    for member in found.catalog.below(table):
        column = member.columns.get(name)
        if (column is None or not column.not_null) and not proves_not_null(member, name, without=without):
            found.scan_alone(member)


def _add_constraint(found: fx.Found, table: Table, cmd: Any) -> None:
    node = cmd.def_
    match constraint_kind(node):
        case "FOREIGN":
            found.lock_family(found.catalog.find(relation(node.pktable)), SHARE_ROW_EXCLUSIVE)
            if not node.skip_validation:
                found.scan(table)
        case "CHECK" if not node.skip_validation:
            found.scan(table)
        case "NOTNULL" if not node.skip_validation:
            _set_not_null(found, table, strings(node.keys)[0])
        case "PRIMARY" | "UNIQUE" | "EXCLUSION":
            _add_key(found, table, node)


def _add_key(found: fx.Found, table: Table, node: Any) -> None:
    is_primary = constraint_kind(node) == "PRIMARY"
    known = found.catalog.index(Name(None, node.indexname)) if node.indexname else None
    if node.indexname is None:
        found.scan(table if table.kind == "p" else replace(table, children=()))
    if not is_primary:
        return
    for key in strings(node.keys or ()) if node.indexname is None else known[1].keys if known else ():
        _set_not_null(found, table, key)
    if node.indexname is not None and known is None:
        found.cannot_know(
            f"whether the columns of index {node.indexname} are NOT NULL; if not, the whole table is read"
        )
        found.scan(table)


def _validate(found: fx.Found, table: Table, cmd: Any) -> None:
    known = [constraint for constraint in table.constraints if constraint.name == cmd.name]
    if known and known[0].valid:
        return
    found.scan(table)
    if known and known[0].partner is not None:
        found.lock_family(found.catalog.at(known[0].partner), ROW_SHARE)


def _attach(found: fx.Found, table: Table, cmd: Any) -> None:
    child = found.catalog.find(relation(cmd.def_.name))
    found.lock_family(child, ACCESS_EXCLUSIVE)
    covered = all(any(index.keys == own.keys for own in child.indexes) for index in table.indexes)
    if not fits_partition(child, cmd.def_.bound, table) or not covered:
        found.scan(child)
    for key in table.foreign_keys():
        if key.partner is not None:
            found.lock(found.catalog.at(key.partner), SHARE_ROW_EXCLUSIVE)
    for sibling in (found.catalog.at(name) for name in table.children):
        if sibling.bound == "DEFAULT":
            found.lock_family(sibling, ACCESS_EXCLUSIVE)
            if not excludes_bound(sibling, cmd.def_.bound):
                found.scan(sibling)


def _detach(found: fx.Found, table: Table, cmd: Any) -> None:
    for member in found.catalog.below(found.catalog.find(relation(cmd.def_.name))):
        found.lock(member, ACCESS_EXCLUSIVE)
    _default_partition(found, table)


def _default_partition(found: fx.Found, table: Table) -> None:
    for sibling in (found.catalog.at(name) for name in table.children):
        if sibling.bound == "DEFAULT":
            found.lock(sibling, ACCESS_EXCLUSIVE)


def _inherit(found: fx.Found, _table: Table, cmd: Any) -> None:
    mode = SHARE_UPDATE_EXCLUSIVE if subcommand(cmd) == "AddInherit" else ACCESS_SHARE
    found.lock(found.catalog.find(relation(cmd.def_)), mode)


def _rewrite(found: fx.Found, table: Table, cmd: Any) -> None:
    there = {"SetLogged": table.persistence == "p", "SetUnLogged": table.persistence == "u",
             "SetTableSpace": cmd.name == table.tablespace, "SetAccessMethod": cmd.name == table.method}  # fmt: skip
    if not there[subcommand(cmd)] or table.standing is Standing.UNKNOWN:
        found.rewrite(table)
        for index in table.indexes:
            found.locks.add((index.label, ACCESS_EXCLUSIVE))
        follows = subcommand(cmd) in ("SetLogged", "SetUnLogged")
        if follows and found.is_from(SEQUENCES_FOLLOW_FROM):
            lock_owned(found, table)


def _owner(found: fx.Found, table: Table, cmd: Any) -> None:
    """Another owner gets the table's own sequences, too; the same one changes nothing."""
    kind = enum_name(enums.RoleSpecType, cmd.newowner.roletype)
    new = cmd.newowner.rolename if kind == "CSTRING" else found.catalog.role
    if new != table.owner:
        lock_owned(found, table)


def _alter_constraint(found: fx.Found, table: Table, cmd: Any) -> None:
    for constraint in table.constraints:
        of_this = constraint.name == cmd.def_.conname and constraint.partner is not None
        if of_this and constraint.partner is not None and getattr(cmd.def_, "alterEnforceability", False):
            found.lock(found.catalog.at(constraint.partner), ACCESS_EXCLUSIVE)


def _sequence(found: fx.Found, table: Table, cmd: Any) -> None:
    mode = ACCESS_EXCLUSIVE if subcommand(cmd) == "DropIdentity" else SHARE_ROW_EXCLUSIVE
    for dependent in table.of_kind("sequence"):
        if cmd.name in dependent.columns:
            found.locks.add((dependent.name, mode))


def _cluster_on(found: fx.Found, table: Table, cmd: Any) -> None:
    for index in table.indexes:
        if index.name == cmd.name:
            found.locks.add((index.label, SHARE_UPDATE_EXCLUSIVE))


def _set_expression(found: fx.Found, table: Table, cmd: Any) -> None:
    column = table.columns.get(cmd.name)
    if column is None or column.generated:
        found.rewrite(table)


def _owned(table: Table) -> Iterable[str]:
    return (dependent.name for dependent in table.of_kind("sequence"))


def lock_owned(found: fx.Found, table: Table) -> None:
    """Collect the locks on a table's own sequences, which change schema or owner and are dropped with it."""
    for name in _owned(table):
        found.locks.add((name, ACCESS_EXCLUSIVE))


_HANDLERS = {
    "AddColumn": _add_column, "DropColumn": _drop_column, "AlterColumnType": _alter_type,
    "AddConstraint": _add_constraint, "DropConstraint": drop_constraint,
    "ValidateConstraint": _validate, "AttachPartition": _attach, "DetachPartition": _detach,
    "AddInherit": _inherit, "DropInherit": _inherit, "SetLogged": _rewrite, "SetUnLogged": _rewrite,
    "SetTableSpace": _rewrite, "SetAccessMethod": _rewrite, "AddIdentity": _sequence, "SetIdentity": _sequence,
    "DropIdentity": _sequence, "ClusterOn": _cluster_on, "SetExpression": _set_expression,
    "ChangeOwner": _owner, "AlterConstraint": _alter_constraint,
}  # fmt: skip
