"""What is executed around a statement, so that what it destroys is kept; planned in prepare, and on the way back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from pglast import ast
from psycopg import sql

from pgrunbook.changes.keeping.cascades import CannotKeepError
from pgrunbook.changes.keeping.columns import KeptColumn, column_name, is_changed_type, is_large, kept_column
from pgrunbook.changes.keeping.registry import Kept as KeptThing
from pgrunbook.changes.keeping.registry import create
from pgrunbook.changes.keeping.rewriting import CHANGING, cannot_because
from pgrunbook.changes.keeping.tables import SCHEMA, rows
from pgrunbook.changes.safe_forms.sql_text import parsed, text
from pgrunbook.changes.safe_forms.step import Expansion, Keep, SafeStep
from pgrunbook.changes.undo import Undo
from pgrunbook.database.connection import Connection
from pgrunbook.database.data import TableName
from pgrunbook.database.queries import load
from pgrunbook.database.schema import KEPT_SCHEMA
from pgrunbook.errors import Refused

_ROWS = (*CHANGING, ast.TruncateStmt, ast.MergeStmt, ast.CopyStmt)


@dataclass(frozen=True)
class Site:
    """A written statement in one direction: the names of what keeps for it are made of that."""

    migration: str
    file_sha256: str
    direction: str
    statement: int

    def name(self, keep: Keep) -> str:
        """Return the name of what keeps something: the same in every plan of the same text."""
        about = "\0".join([*map(str, vars(self).values()), keep.kind, keep.table, keep.column])
        prefix = KEPT_SCHEMA if keep.kind == "table" else "kept_"
        return prefix + hashlib.sha256(about.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Kept:
    """An expansion that keeps; ``because`` says why nothing can be kept, and the expansion is as it was then."""

    expansion: Expansion
    keeps: tuple[Keep, ...]
    because: str = ""


def around(
    conn: Connection, expansion: Expansion, undo: Undo, site: Site, *, rows_conn: Connection | None, batch_rows: int
) -> Kept:
    """Return what is executed for a statement, with the steps that keep what its way back needs.

    It is asked right before the statement is executed on ``conn``, often an empty branch; ``rows_conn`` leads to
    the database whose rows count. Nothing is made.

    Locks: AccessShareLock on what is read.
    """
    keeps = tuple(k if k.kind == "rows" else replace(k, kept_as=site.name(k)) for k in undo.keeps)
    try:
        if undo.of_rows:
            return Kept(_keeping_rows(conn, expansion, keeps), keeps)
        if any(keep.kind == "table" for keep in keeps):
            return Kept(_keeping_tables(conn, expansion, undo, keeps), keeps)
        return _keeping_columns(conn, expansion, keeps, rows_conn, batch_rows)
    except CannotKeepError as reason:
        return Kept(expansion, undo.keeps, f"It cannot be undone, because {reason}.")


def bring_back(conn: Connection, keep: Keep) -> tuple[SafeStep, ...]:
    """Return the step that moves a kept table back to its place, with all that is its own.

    Raises CannotKeepError where it is not kept any more.
    """
    schema = parsed(f"TABLE {keep.table}").fromClause[0].schemaname
    found = [one["sql"] for one in rows(conn, "moving_back", kept_as=keep.kept_as, schema=schema)]
    if not found:
        raise CannotKeepError(f"table {keep.table} is not kept any more")
    found.append(text(sql.SQL("DROP SCHEMA {}").format(sql.Identifier(keep.kept_as))))
    says = f"Table {keep.table} comes back with its rows."
    return (SafeStep(";\n".join(found), says, own_transaction=False, gives_back=(keep.kept_as,)),)


def note(conn: Connection, run_id: str, site: Site, step: int, keep: Keep, *, keep_until: datetime | None) -> None:
    """Note in the list, in the transaction that is open, that a column or a table is kept from now on."""
    create(conn)
    name = parsed(f"TABLE {keep.table}").fromClause[0]
    columns = [parsed(f"SELECT {keep.column}").targetList[0].val.fields[-1].sval] if keep.column else []
    values: Mapping[str, object] = {
        "run_id": run_id, "migration": site.migration, "direction": site.direction, "step": step,
        "kind": keep.kind, "schema": name.schemaname, "name": name.relname, "key": list(keep.key),
        "columns": columns, "kept_as": keep.kept_as, "keep_until": keep_until,
    }  # fmt: skip
    conn.execute(load("keeping")["note"].encode(), values)


def make_way(conn: Connection, kept_as: str) -> None:
    """Give an older thing of this name another one: the same statement was executed, taken back, and is again.

    What is still kept under it is gone on with.
    """
    create(conn)
    for one in rows(conn, "of_name", kept_as=kept_as):
        if one["state"] in ("kept", "giving back") and one["kind"] != "table":
            continue
        other = f"{kept_as}_{one['id']}"
        schema = one["kind"] == "table"
        told = kept_as if schema else f"{SCHEMA}.{kept_as}"
        query = "is_schema" if schema else "is_relation"
        if rows(conn, query, name=told)[0]["is_there"]:
            old = sql.Identifier(kept_as) if schema else sql.Identifier(SCHEMA, kept_as)
            rename = sql.SQL("ALTER SCHEMA {} RENAME TO {}" if schema else "ALTER TABLE {} RENAME TO {}")
            conn.execute(rename.format(old, sql.Identifier(other)))
        conn.execute(load("keeping")["renamed"].encode(), {"id": one["id"], "kept_as": other})


def mark_given_back(conn: Connection, names: tuple[str, ...]) -> None:
    """Note, in the transaction that is open, that columns or tables were given back."""
    conn.execute(load("keeping")["given_back"].encode(), {"names": list(names)})


def as_keep(kept: KeptThing) -> Keep:
    """Return a thing of the list as a way back names it."""
    column = sql.Identifier(*kept.columns).as_string(None) if kept.kind == "column" else ""
    table = kept.table.identifier().as_string(None)
    return Keep("column" if column else "table", table, column, kept.key, kept_as=kept.kept_as)


def refuse_purged(kept: KeptThing) -> None:
    """Raise Refused for something that was purged: there is nothing to give back."""
    if kept.state == "purged":
        raise Refused(
            f"cannot give back what was kept of table {TableName(*kept.table)}",
            detail=f"It was purged; it had been made on {kept.made_at:%Y-%m-%d %H:%M} for {kept.migration}.",
            hint="Restore to a point in time before it, beside this database, and fetch it from there.",
        )


def _keeping_rows(conn: Connection, expansion: Expansion, keeps: tuple[Keep, ...]) -> Expansion:
    steps = []
    for step in expansion.steps:
        statement = step.batches.statement if step.batches else step.sql
        node = parsed(statement)
        if isinstance(node, _ROWS) or (step.sql == expansion.statement.sql and len(expansion.steps) == 1):
            because = cannot_because(conn, statement)
            if because:
                raise CannotKeepError(because)
            step = replace(step, keeps=keeps)  # noqa: PLW2901
        steps.append(step)
    return replace(expansion, steps=tuple(steps))


def _keeping_tables(conn: Connection, expansion: Expansion, undo: Undo, keeps: tuple[Keep, ...]) -> Expansion:
    """Move tables away instead of dropping them; columns of other tables that go with them are not kept that way."""
    others = [keep for keep in keeps if keep.kind != "table"]
    if others:
        raise CannotKeepError(f"values of {others[0].table}.{others[0].column} would go with a table")
    statements = list(undo.detaches)
    for keep in keeps:
        name = sql.Identifier(keep.kept_as)
        statements.append(text(sql.SQL("CREATE SCHEMA {}").format(name)))
        statements += [one["sql"] for one in rows(conn, "moving", table=keep.table, schema=keep.kept_as)]
    names = ", ".join(keep.table for keep in keeps)
    step = SafeStep(";\n".join(statements), f"{names}: moved away instead of dropped.", keeps=keeps)
    return replace(
        expansion,
        form="keep-table",
        explains="The table is moved to a schema of ours instead, so that it can come back with its rows.",
        steps=(step,),
    )


def _keeping_columns(
    conn: Connection, expansion: Expansion, keeps: tuple[Keep, ...], rows_conn: Connection | None, batch_rows: int
) -> Kept:
    found: list[tuple[KeptColumn, bool]] = []
    for keep in keeps:
        changes = is_changed_type(expansion.statement.sql, column_name(conn, keep))
        kept = kept_column(conn, keep, changes_type=changes)
        found.append((kept, is_large(conn, kept.table, rows_conn, batch_rows)))
    if not found:
        return Kept(expansion, keeps)
    before = [step for kept, large in found if large for step in kept.before(batch_rows)]
    place = next((n for n, step in enumerate(expansion.steps) if _destroys(step, expansion)), 0)
    own = expansion.steps[place]
    whole = [
        *(statement for kept, large in found for statement in kept.prologue(is_large=large)),
        own.sql,
        *(statement for kept, _ in found for statement in kept.epilogue()),
    ]
    small = tuple(kept.keep for kept, large in found if not large)
    step = replace(own, sql=";\n".join(whole), own_transaction=True, keeps=(*own.keeps, *small))
    steps = (*before, *expansion.steps[:place], step, *expansion.steps[place + 1 :])
    expansion = replace(
        expansion,
        form=expansion.form or "keep-column",
        explains=f"{expansion.explains} What it destroys is kept before.".strip(),
        steps=steps,
        undo=(*expansion.undo, *(query for kept, _ in found for query in kept.undo())),
    )
    return Kept(expansion, tuple(kept.keep for kept, _ in found))


def _destroys(step: SafeStep, expansion: Expansion) -> bool:
    """Tell whether a step drops a column or changes a type: the one around which it is kept."""
    if step.sql == expansion.statement.sql:
        return True
    cmds = getattr(parsed(step.sql), "cmds", None) or () if step.batches is None else ()
    return any(cmd.subtype.name in ("AT_DropColumn", "AT_AlterColumnType") for cmd in cmds)
