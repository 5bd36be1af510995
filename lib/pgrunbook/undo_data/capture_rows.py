"""Capture of rows: an UPDATE, DELETE or INSERT is rewritten so that it also fills a side table.

UPDATE, from PostgreSQL 18 on: one statement updates the rows, returns their old and new values, and inserts these
 (https://www.postgresql.org/docs/18/dml-returning.html).

UPDATE, before 18, in one statement:

1. Read and lock the rows; under READ COMMITTED this gives the newest version of each, as UPDATE would see it.
2. Update them by their key. Not by ctid: that would not find a version that is newer than the statement.
3. Insert what was read, with the hash of what was written.

DELETE and INSERT: one statement, whose RETURNING gives the rows that were deleted or inserted.

DELETE that cascades: several statements, the first of which reports the number of rows:

1. Capture and lock the rows: nobody can insert a row that refers to them any more.
2. Table by table, parents first, capture and lock the rows that the cascade will reach.
3. Delete the rows by the keys that were captured in this transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pglast import ast, enums
from psycopg import sql

from pgrunbook.database import routines_reader
from pgrunbook.database.connection import Connection
from pgrunbook.database.facts import Facts
from pgrunbook.database.relations import Relation
from pgrunbook.errors import Refused
from pgrunbook.plan.step import RANGE, Batches, Keep
from pgrunbook.sql.deparse import changed, expression, parsed, printed, text
from pgrunbook.sql.do_branches import changes_of_rows, names_taken
from pgrunbook.sql.tree import apart, column_names, dotted_name, tree, walk
from pgrunbook.undo_data import capture_tables
from pgrunbook.undo_data.cascades import CannotCaptureError, RowsNotShownError, reaches
from pgrunbook.undo_data.followers import obstacle
from pgrunbook.undo_data.former_keys import formerly_keyed, see_apart, watch
from pgrunbook.undo_data.registry import BATCH, Side, StepKey, add_side_tables, name_of
from pgrunbook.undo_data.row_notes import label_of, labelled, returned
from pgrunbook.undo_data.tables import CapturedColumn, CapturedTable, foreign_keys, row, table

CHANGING = (ast.UpdateStmt, ast.DeleteStmt, ast.InsertStmt)
ANYWHERE = StepKey("", "", "up", 0)
_OLD, _NEW = "pgrunbook_old", "pgrunbook_new"
_RETURNING_BOTH = 18


@dataclass(frozen=True)
class CaptureRewrite:
    """The statement that captures, executed in place of the written one, and its side tables, parents first."""

    sql: str
    sides: tuple[Side, ...]


def capture_batches(
    conn: Connection, batches: Batches, place: StepKey, *, keep_until: datetime | None = None
) -> Batches:
    """Return a loop that captures the rows it changes, each batch in its own transaction; create its side tables.

    The same call after a crash gives the same loop and the same side tables.

    Raises Refused when the rows cannot be captured.
    """
    return replace(batches, statement=capture_statement(conn, batches.statement, place, keep_until=keep_until))


def capture_statement(
    conn: Connection, statement: str, place: StepKey, *, keep_until: datetime | None = None, keeps: Sequence[Keep] = (),
    follows: Collection[str] | None = None,
) -> str:  # fmt: skip
    """Return the statement that captures the rows it changes, to execute instead; create its side tables.

    ``keeps`` have the old key of a table that has none now; then writers are locked out. Triggers follow
    what an INSERT inserts into the tables ``follows`` (None: all); into others it inserts without a lock.

    The first result reports the number of rows of the written statement. It may be several statements: execute them
    in one transaction, each with its own snapshot (READ COMMITTED).

    Raises Refused when the rows cannot be captured.
    """
    if capture_tables.locked(statement) is not None:
        return capture_tables.begin(conn, statement, place, keep_until=keep_until)
    try:
        found = rewrite(conn, statement, place, keeps, follows=follows)
    except CannotCaptureError as exc:
        raise Refused(
            "cannot capture the rows that a statement changes",
            detail=f"They cannot be captured, because {exc}: {' '.join(statement.split())[:200]}",
            hint="Rewrite the statement so that its rows can be captured, or run it without capture: "
            "then only a restore brings the rows back.",
        ) from exc
    former = [side.table for side in found.sides if side.table.is_key_former]
    for each in (one for unwatched in former for one in watch(unwatched)):
        conn.execute(each.encode())
    add_side_tables(conn, place, found.sides, keep_until=keep_until)
    after = [see_apart(one) for one in former if one.has_before_update]
    return "; ".join([found.sql, *noted(conn, place.migration, place.step, found.sides), *after])


def noted(conn: Connection, migration: str, step: int, sides: Sequence[Side]) -> list[str]:
    """Return what follows in the transaction: what other steps have captured goes with deleted rows, and returns."""
    deletes = label_of(migration, step)
    gone = [each for side in sides if side.kind == "delete" for each in labelled(conn, side.table, deletes)]
    inserts = label_of(migration)
    return [*gone, *(each for side in sides if side.kind == "insert" for each in returned(conn, side.table, inserts))]


def rewrite(
    conn: Connection,
    statement: str,
    place: StepKey,
    keeps: Sequence[Keep] = (),
    *,
    follows: Collection[str] | None = None,
    only_named: bool = False,
) -> CaptureRewrite:
    """Return the form of a statement, or of the INSERTs of a run, that captures; nothing is created.

    ``keeps`` and ``follows`` as for :func:`capture_statement`; with ``only_named`` an UPDATE captures the columns that
    it names, and not what a trigger of the application changes beside.

    Raises CannotCaptureError if none exists, RowsNotShownError where its tables may be captured as a whole.
    """
    texts = apart(statement)
    node = tree(texts[0])
    if isinstance(node, ast.DoStmt):
        return _of_block(conn, node, place, keeps, follows)
    target = _target(conn, node, keeps)
    if isinstance(node, ast.InsertStmt):
        side = _side(place, "insert", target, target.plain)
        side = replace(side, follows=follows is None or dotted_name(*target.name) in follows)
        return CaptureRewrite(_returning_each(texts, side, _alias(node)), (side,))
    node = parsed(texts[0])
    if isinstance(node, ast.DeleteStmt):
        found = reaches(conn, target)
        columns = tuple(column for column in target.plain if column.name not in target.key)
        side = _side(place, "delete", target, columns, is_shared=bool(found))
        if found:
            return _cascading(node, place, side, found)
        return CaptureRewrite(_returning(node, side, _alias(node), _alias(node)), (side,))
    side = _side(place, "update", target, _assigned(conn, node, target, only_named=only_named))
    if conn.info.server_version // 10_000 >= _RETURNING_BOTH:
        return CaptureRewrite(_returning(node, side, _OLD, _NEW), (side,))
    return CaptureRewrite(_before_and_after(node, side), (side,))


def _of_block(
    conn: Connection, node: Any, place: StepKey, keeps: Sequence[Keep], follows: Collection[str] | None
) -> CaptureRewrite:
    """Return the statements of a DO block that does nothing but change rows, each with its capture, instead of it."""
    found = [rewrite(conn, text_, place, keeps, follows=follows) for text_ in changes_of_rows(node)]
    sides = tuple(side for one in found for side in one.sides)
    if not found or len({side.kept_as for side in sides}) < len(sides):
        raise RowsNotShownError("only an UPDATE, DELETE or INSERT shows which rows it changes")
    if why := routines_reader.not_of_catalog(conn, names_taken(node), conn.schemas()):
        raise RowsNotShownError(why)
    return CaptureRewrite("; ".join(one.sql for one in found), sides)


def _target(conn: Connection, node: Any, keeps: Sequence[Keep]) -> CapturedTable:
    """Return the table that a statement changes. Raises CannotCaptureError when its rows cannot be captured."""
    if isinstance(node, ast.TruncateStmt):
        raise RowsNotShownError("TRUNCATE would keep the table locked while all rows are copied; write DELETE instead")
    if not isinstance(node, CHANGING):
        raise RowsNotShownError("only an UPDATE, DELETE or INSERT shows which rows it changes")
    relation = Facts(conn).relation(node.relation)
    reason = _not_because(node, relation)
    if reason or relation is None:
        raise CannotCaptureError(reason)
    if hidden := _shows_no_rows(node):
        raise RowsNotShownError(hidden)
    found = table(conn, relation.oid)
    if not found.key and not isinstance(node, ast.InsertStmt):
        found = formerly_keyed(conn, found, keeps)
    if not found.key:
        raise CannotCaptureError(f"{found.name} has no unique key that identifies its rows")
    if isinstance(node, ast.UpdateStmt) and obstacle(found):
        raise CannotCaptureError(f"{found.name} {obstacle(found)}")
    if found.is_filtered:  # RETURNING needs to see the row, and a later comparison all of them
        raise CannotCaptureError(f"row level security hides rows of {found.name} from this session")
    return found


def _not_because(node: Any, relation: Relation | None) -> str:
    if relation is None:
        return f'there is no table "{node.relation.relname}"'
    if relation.kind not in "rp":
        return f"{relation.sql} is not a table"
    if relation.is_temporary:
        return f"{relation.sql} is temporary"
    if relation.has_rules:
        return f"{relation.sql} has rules"
    if relation.inherits_down and node.relation.inh and not isinstance(node, ast.InsertStmt):
        return f"{relation.sql} has child tables, and no unique key spans them"
    return ""


def _shows_no_rows(node: Any) -> str:
    """Return why a statement cannot show the rows that it changes, "" where it can."""
    if node.returningClause:
        return "its RETURNING clause returns rows to an unknown client"
    for cte in node.withClause.ctes if node.withClause else ():
        if any(isinstance(part, (*CHANGING, ast.MergeStmt)) for part in walk(cte.ctequery)):
            return f'its WITH query "{cte.ctename}" changes rows too'
    conflict = getattr(node, "onConflictClause", None)
    if conflict is not None and conflict.action == enums.OnConflictAction.ONCONFLICT_UPDATE:
        return "ON CONFLICT DO UPDATE inserts some rows and updates others"
    return ""


def _assigned(conn: Connection, node: Any, target: CapturedTable, *, only_named: bool) -> tuple[CapturedColumn, ...]:
    """Return the columns that an UPDATE may change: those it names, or all when a BEFORE trigger may change more."""
    names = {part.name for part in node.targetList}
    for name in sorted(names & set(target.columns)):
        if target.columns[name].is_identity_always:
            raise CannotCaptureError(
                f'column "{name}" is GENERATED ALWAYS AS IDENTITY, and its old value cannot be set again'
            )
    if target.is_key_former and names & {*target.key}:
        column = min(names & {*target.key})
        raise CannotCaptureError(f'{target.name} has no unique key, and column "{column}" of its old one is changed')
    for key in foreign_keys(conn, target.oid):
        if key.on_update in ("n", "d") and names & set(key.referenced):
            raise RowsNotShownError(f'foreign key "{key.name}" changes the rows that refer to it')
    if target.has_before_update and not only_named:
        return tuple(column for column in target.plain if not column.is_identity_always)
    chosen = tuple(column for column in target.plain if column.name in names)
    return chosen or target.named(target.key)


def _returning(node: Any, side: Side, old: str, new: str) -> str:
    """Compose one statement that inserts what the change returns into the side table."""
    both = f"WITH (OLD AS {_OLD}, NEW AS {_NEW}) " if (old, new) == (_OLD, _NEW) else ""
    return _composed(
        "{ctes}pgrunbook_changed AS ({statement} RETURNING {both}{values})"
        " INSERT INTO {side} ({targets}) SELECT * FROM pgrunbook_changed",
        ctes=_ctes(node),
        statement=printed(_qualified(node, side.table)),
        both=both,
        values=side.values(row(old), row(new)),
        side=side.identifier,
        targets=side.targets(),
    )


def _returning_each(texts: Sequence[str], side: Side, alias: str) -> str:
    """Compose the INSERTs of a run, which have the same table and alias: each inserts what it returns.

    They stay as they are written, whose rows may be many.
    """
    composed = _composed(
        "\nRETURNING {values}) INSERT INTO {side} ({targets}) SELECT * FROM pgrunbook_changed",
        values=side.values(row(alias), row(alias)),
        side=side.identifier,
        targets=side.targets(),
    )
    return ";\n".join(f"WITH pgrunbook_changed AS ({each}{composed}" for each in texts)


def _before_and_after(node: Any, side: Side) -> str:
    """Compose the UPDATE for servers whose RETURNING gives new values only."""
    if node.fromClause and RANGE in column_names(node.whereClause):
        raise CannotCaptureError("it joins another table and runs in batches, which needs PostgreSQL 18")
    alias, target, ctes = _alias(node), side.table, _ctes(node)
    node = _qualified(node, target)
    names = [*target.key, *(column.name for column in side.columns if column.name not in target.key)]
    before = [
        sql.SQL("{} AS {}").format(sql.Identifier(alias, name), sql.Identifier(_renamed(number)))
        for number, name in enumerate(names)
    ]
    read = parsed("SELECT 1")
    read.fromClause, read.whereClause = (node.relation, *(node.fromClause or ())), node.whereClause
    plain = changed(node, whereClause=None, fromClause=(*(node.fromClause or ()), ast.RangeVar(
        relname="pgrunbook_before", inh=True, relpersistence="p")))  # fmt: skip
    pairs = [
        sql.SQL("{} {} {}").format(
            sql.Identifier(alias, name), sql.SQL(operator), sql.Identifier("pgrunbook_before", _renamed(number))
        )
        for number, (name, operator) in enumerate(zip(target.key, target.operators, strict=True))
    ]
    if node.fromClause and node.whereClause is not None:
        pairs.append(sql.SQL("({})").format(sql.SQL(expression(node.whereClause))))
    return _composed(
        "{ctes}pgrunbook_before AS MATERIALIZED (SELECT {before} {read} FOR NO KEY UPDATE OF {alias}),"
        " pgrunbook_changed AS ({statement} WHERE {near} AND {pairs} RETURNING {values})"
        " INSERT INTO {side} ({targets}) SELECT * FROM pgrunbook_changed",
        ctes=ctes,
        before=sql.SQL(", ").join(before),
        read=printed(read).removeprefix("SELECT 1 "),
        alias=sql.Identifier(alias),
        statement=printed(plain),
        near=_near(alias, target.key[0]),
        pairs=sql.SQL(" AND ").join(pairs),
        values=side.values(lambda name: sql.Identifier("pgrunbook_before", _renamed(names.index(name))), row(alias)),
        side=side.identifier,
        targets=side.targets(),
    )


def _near(alias: str, name: str) -> sql.Composable:
    """Bound the key by its lowest and highest captured value; else the planner may read the whole table."""
    bound = "(SELECT b.{0} FROM pgrunbook_before AS b ORDER BY b.{0}{1} LIMIT 1)"
    first, last = (sql.SQL(bound).format(sql.Identifier(_renamed(0)), sql.SQL(way)) for way in ("", " DESC"))
    return sql.SQL("{} BETWEEN {} AND {}").format(sql.Identifier(alias, name), first, last)


def _cascading(node: Any, place: StepKey, side: Side, found: Sequence[Any]) -> CaptureRewrite:
    """Compose the statements of a DELETE that cascades to other tables."""
    alias, target = _alias(node), side.table
    qualified = _qualified(node, target)
    read = parsed("SELECT 1")
    read.fromClause, read.whereClause = (qualified.relation, *(node.usingClause or ())), node.whereClause
    with_ = _ctes(node).removesuffix(", ") + " " if node.withClause else ""
    statements = [
        _composed(
            "INSERT INTO {side} ({targets}) {with_}SELECT {values} {read} FOR UPDATE OF {alias} ON CONFLICT DO NOTHING",
            side=side.identifier,
            targets=side.targets(),
            with_=with_,
            values=side.values(row(alias), row(alias)),
            read=printed(read).removeprefix("SELECT 1 "),
            alias=sql.Identifier(alias),
        )
    ]
    sides = {("delete", target.oid, ""): side}
    for reach in found:
        gone = sides.get(("delete", reach.child.oid, ""))
        via = "" if reach.kind == "delete" else reach.key.name
        if (reach.kind, reach.child.oid, via) not in sides:
            sides[reach.kind, reach.child.oid, via] = _part(place, side, reach, via)
        parent, own = sides["delete", reach.parent.oid, ""], sides[reach.kind, reach.child.oid, via]
        statements.append(text(reach.capture(parent, own, gone if reach.kind == "update" else None)))
    deleted = "DELETE FROM {} AS t USING {} AS k WHERE k.{} = pg_catalog.pg_current_xact_id() AND {}"
    batch = sql.Identifier(BATCH)
    statements.append(text(sql.SQL(deleted).format(target.source, side.identifier, batch, target.matches("t", "k"))))
    return CaptureRewrite("; ".join(statements), tuple(sides.values()))


def _part(place: StepKey, whole: Side, reach: Any, via: str) -> Side:
    child = reach.child
    names = [c.name for c in child.plain if c.name not in child.key] if reach.kind == "delete" else reach.key.emptied
    part = _side(place, reach.kind, child, child.named(names), is_shared=True, via=via)
    return replace(part, part_of=whole.kept_as)


def _side(
    place: StepKey,
    kind: Any,
    target: CapturedTable,
    columns: tuple[CapturedColumn, ...],
    *,
    is_shared: bool = False,
    via: str = "",
) -> Side:
    side = Side(name_of(place, kind, target.name, via), kind, target, columns, is_shared=is_shared)
    for name in side.own_names & {column.name for column in side.captured}:
        raise CannotCaptureError(f'column "{name}" of {target.name} has the name of a column of ours beside it')
    return side


def _ctes(node: Any) -> str:
    """Return the start of the statement: its own WITH, which must stand at the top, ready for one more query."""
    if not node.withClause:
        return "WITH "
    alone = changed(parsed("SELECT 1"), withClause=node.withClause)
    return printed(alone).removesuffix(" SELECT 1") + ", "


def _qualified(node: Any, target: CapturedTable) -> Any:
    relation = changed(node.relation, schemaname=target.name.schema, relname=target.name.name)
    return changed(node, relation=relation, withClause=None)


def _alias(node: Any) -> str:
    return str(node.relation.alias.aliasname if node.relation.alias else node.relation.relname)


def _renamed(number: int) -> str:
    return f"pgrunbook_{number + 1}"


def _composed(template: str, **parts: sql.Composable | str) -> str:
    """Compose a statement from parts; text parts are inserted unchanged."""
    whole = {name: sql.SQL(part) if isinstance(part, str) else part for name, part in parts.items()}
    return text(sql.SQL(template).format(**whole))
