"""The captured values of a key whose type changes with loss: each row's old key is kept beside its new one.

No other key tells the rows, so both are read from a row before the statement: the key as it is, and as the statement
will make it. Two rows that become one key fail the statement itself, by the index of the key.

On the way back the old keys come back with their type, in one rewrite: a function that finds the old key by the new
one is asked by USING, and dropped again. No row has a value in between that another row has.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import psycopg
from pglast import ast
from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.database.facts import Facts
from pgrunbook.plan.step import Keep, SafeStep
from pgrunbook.sql.deparse import changed, expression, parsed, printed, text
from pgrunbook.sql.tree import dotted_name, quoted, strings, subcommand, tree
from pgrunbook.sql.tree import text as written
from pgrunbook.undo_data.cascades import CannotCaptureError
from pgrunbook.undo_data.row_notes import GONE, WRITTEN
from pgrunbook.undo_data.tables import SCHEMA, CapturedTable, key_name, table

_FOUND = (
    "CREATE FUNCTION {}({}) RETURNS {} LANGUAGE sql STABLE SET search_path = '' AS {}; REVOKE ALL ON FUNCTION {} FROM"
    " PUBLIC"
)


def key_after(
    conn: Connection, found: CapturedTable, statement: str, goes: Collection[str]
) -> tuple[CapturedTable, Mapping[str, sql.Composable]] | None:
    """Return a table with the key that a statement gives other types, as it is then, and the new values of the key.

    ``goes`` are the columns that the statement changes or drops; None where no key has all of its own changed only.
    The statement is tried on ``conn``, and aborted. Raises CannotCaptureError where its new values are others each
    time.
    """
    node = tree(statement) if statement else None
    cmds = {name: cmd for name in goes if (cmd := _change(node, quoted(name))) is not None}
    key = next((one.columns for one in found.keys if {*one.columns} & {*goes} <= cmds.keys()), None)
    if key is None:
        return None
    for name in key:
        if name in cmds and cmds[name].def_.raw_default and Facts(conn).volatile(cmds[name].def_.raw_default):
            raise CannotCaptureError(
                f"the new values of {dotted_name(*found.name, name)}, its only key, are others each time"
            )
    try:
        with conn.transaction(force_rollback=True):
            with conn.as_target():
                conn.execute(statement.encode())
            after = table(conn, found.oid).keyed(key)
    except psycopg.Error as exc:
        raise CannotCaptureError(f"the server says {exc.diag.message_primary}") from exc
    if after is None:
        return None
    made = {
        name: sql.SQL("CAST({} AS {})").format(
            sql.SQL(expression(_value(cmds[name]))), sql.SQL(after.columns[name].type)
        )
        for name in key
        if name in cmds
    }
    return after, made


def converted(now: CapturedTable, keep: Keep, statement: str) -> tuple[SafeStep, str]:
    """Return the step that makes the function, and the statement that changes the type of a key back by it.

    ``now`` is the table with the key by which it was captured, before the statement.
    """
    node = tree(statement)
    cmd = _change(node, keep.column)
    key = now.named(now.key)
    returns = written(cmd.def_.typeName)
    pairs = [
        sql.SQL("{} {} {}").format(
            sql.SQL(f"${n + 1}"), sql.SQL(operator), column.reverted(sql.Identifier("k", key_name(n)))
        )
        for n, (column, operator) in enumerate(zip(key, now.operators, strict=True))
    ]
    body = sql.SQL("SELECT CAST(k.pgrunbook_value AS {}) FROM {} AS k WHERE {} AND k.{} IS NULL").format(
        sql.SQL(returns), sql.Identifier(SCHEMA, keep.kept_as), sql.SQL(" AND ").join(pairs), sql.Identifier(GONE)
    )
    made = sql.SQL(_FOUND).format(
        _function(keep), sql.SQL(", ").join(sql.SQL(column.type) for column in key), sql.SQL(returns),
        sql.Literal(text(body)), _function(keep),
    )  # fmt: skip
    asked = sql.SQL("{}({})").format(_function(keep), sql.SQL(", ").join(sql.Identifier(c.name) for c in key))
    other = expression(_cast(_value(cmd), cmd.def_.typeName))
    using = parsed(f"SELECT coalesce({text(asked)}, {other})").targetList[0].val
    cmds = tuple(
        changed(one, def_=changed(one.def_, raw_default=using)) if one.name == cmd.name and one.subtype == cmd.subtype
        else one
        for one in node.cmds
    )  # fmt: skip
    says = f"The old {keep.column} of each row of {keep.table} is found by the new one."
    return SafeStep(text(made), says, own_transaction=False), printed(changed(node, cmds=cmds))


def conversion_end(keep: Keep) -> SafeStep:
    """Return the step that drops the function: the values are there."""
    says = f"The captured values of {keep.table}.{keep.column} are reverted."
    dropped = sql.SQL("DROP FUNCTION {}").format(_function(keep))
    return SafeStep(text(dropped), says, own_transaction=False, quick=False, gives_back=(keep.kept_as,))


def noted_as_written(now: CapturedTable, keep: Keep, is_unchanged: sql.Composable) -> str:
    """Return the statement that notes captured keys that no row of today gets back, for somebody has written it."""
    nobodys = sql.SQL("NOT EXISTS (SELECT FROM {} AS t WHERE {} AND {})").format(
        now.source, now.matches("t", "k"), is_unchanged
    )
    noted = sql.SQL("UPDATE {side} AS k SET {gone} = {written} WHERE k.{gone} IS NULL AND {nobodys}").format(
        side=sql.Identifier(SCHEMA, keep.kept_as), gone=sql.Identifier(GONE), written=sql.Literal(WRITTEN),
        nobodys=nobodys,
    )  # fmt: skip
    return text(noted)


def same_row(keep: Keep, reverted: Keep, changed_with_it: Collection[str]) -> sql.Composable:
    """Return the condition that a key captured on the way back (n) is the one that ``reverted`` (k) knows as new.

    The columns ``changed_with_it`` have old values in the one, and new ones in the other.
    """
    by = {name: key_name(n) for n, name in enumerate(reverted.key)}
    pairs = []
    for n, name in enumerate(keep.key):
        if quoted(name) == keep.column:
            pairs += [("pgrunbook_value", by[name]), (key_name(n), "pgrunbook_value")]
        elif quoted(name) not in changed_with_it:
            pairs.append((key_name(n), by[name]))
    return sql.SQL(" AND ").join(
        sql.SQL("n.{} = k.{}").format(sql.Identifier(mine), sql.Identifier(its)) for mine, its in pairs
    )


def _function(keep: Keep) -> sql.Identifier:
    return sql.Identifier(SCHEMA, f"old_{keep.kept_as}")


def _change(node: Any, column: str) -> Any:
    cmds = (cmd for cmd in getattr(node, "cmds", None) or () if subcommand(cmd) == "AlterColumnType")
    return next((cmd for cmd in cmds if quoted(cmd.name) == column), None)


def _value(cmd: Any) -> Any:
    return cmd.def_.raw_default or ast.ColumnRef(fields=(ast.String(sval=cmd.name),), location=-1)


def _cast(node: Any, type_name: Any) -> Any:
    """Return a value in a type, which is not cut: the change of type refuses one that is too long."""
    names = type_name.names
    if strings(names)[-1] == "bpchar":  # char without a length is char(1)
        names = (ast.String(sval="bpchar"),)
    return ast.TypeCast(arg=node, typeName=changed(type_name, names=names, typmods=None), location=-1)
