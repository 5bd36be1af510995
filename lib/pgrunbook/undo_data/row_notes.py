"""Notes in a side table on the rows of which it holds something: which are gone, with whom, and who brings them back.

The triggers of :mod:`followers` write them. Used by all that reads side tables.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.database.row_tracker import FIRST, is_ours
from pgrunbook.sql.deparse import text
from pgrunbook.sql.own_code import do
from pgrunbook.undo_data.tables import SCHEMA, CapturedTable, key_name, rows
from pgrunbook.undo_data.tables import table as table_at

# Who took the row away (a transaction, or the label of a step of ours), NULL where it is there; who moved it last.
# Which version of a row will be deleted where it leaves its partition; which one it is in.
GONE, ARRIVED, LEAVING, PART = "pgrunbook_gone", "pgrunbook_arrived", "pgrunbook_leaving", "pgrunbook_part"
VERSION = "pgrunbook_version"
# The trigger that watches the partition to which it came since the capture, 0 while we park that partition; its file.
WATCHED, FILE = "pgrunbook_watched", "pgrunbook_file"
# The note of a side table whose rows cannot be told any more: the key of its table is gone.
LOST = "lost"
# Of a captured row: nobody knows which row it is of.
UNKNOWN = "unknown"
# Of a captured value: somebody has written a newer one while it was reverted.
WRITTEN = "written"
# The hash of what a step wrote into a captured row, and that of a column with its new type.
HASH, NEW = "pgrunbook_hash", "pgrunbook_new"
# How the note begins that a row has left a key before we saw it come there, which has the key to which it went.
AHEAD = "ahead "


# How the notes of the capture begin beside the triggers for the rows of a table or partition: its snapshot, and its
# transaction; the table with the numbers of the columns of the key; a table or partition with another trigger.
AS_OF, BY, OF, ON = "as of ", "by ", "of ", "on "


def function_name(kept_as: str) -> str:
    """Return the name of the trigger function of a side table."""
    return f"write_{kept_as}"


def trigger_name(kept_as: str, *, of_all: bool = False) -> str:
    """Return the name of the trigger for each row, or of that for TRUNCATE."""
    return f"{FIRST}_{kept_as}{'_all' if of_all else ''}"


def next_name(number: int) -> str:
    """Return the name of the column of a side table for the key to which a row changes its partition."""
    return f"pgrunbook_next_{number + 1}"


# The tables of then with the triggers that watch them, as the comment of the trigger function has them behind our
# schema: a partition that was detached has another trigger when it is attached again. A copy has other numbers.
_WATCHES = """CAST(pg_catalog.obj_description(CAST(pg_catalog.to_regprocedure({function}) AS pg_catalog.oid), 'pg_proc')
AS pg_catalog.text[])"""
_IS_COPY = """
coalesce(
    ({watches})[1] <> CAST(CAST(pg_catalog.to_regnamespace('pgrunbook') AS pg_catalog.oid) AS pg_catalog.text), false)
""".strip()
_NAMED_NOW = """
SELECT a.attname
FROM (SELECT CAST(pg_catalog.string_to_array(pg_catalog.substr(w.one, {length}), ' ') AS pg_catalog.int8[]) AS numbers
      FROM pg_catalog.unnest({watches}) AS w (one)
      WHERE pg_catalog.starts_with(w.one, {of})) AS k,
     pg_catalog.unnest(k.numbers) WITH ORDINALITY AS n (number, place)
JOIN pg_catalog.pg_attribute AS a ON a.attnum = n.number AND NOT a.attisdropped
WHERE n.place > 1
  AND a.attrelid = k.numbers[1]
ORDER BY n.place
""".strip()
# No transaction that the capture did not see has written this version of a row: it is the row of then, whatever
# happened to its partition. The number of a version is of the last 2^32 transactions.
_IS_OF_THEN = """
coalesce(
    pg_catalog.pg_visible_in_snapshot(
        CAST(CAST(greatest(
            {now} - (({now} - CAST(CAST({version} AS pg_catalog.text) AS pg_catalog.int8)) & 4294967295), 3
        ) AS pg_catalog.text) AS pg_catalog.xid8),
        (SELECT CAST(pg_catalog.translate(pg_catalog.substr(w.one, {length}), ' ', ':') AS pg_catalog.pg_snapshot)
         FROM pg_catalog.unnest({watches}) AS w (one)
         WHERE pg_catalog.starts_with(w.one, {as_of}))),
    false)
""".strip()
_NOW = """
CAST(CAST(pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot()) AS pg_catalog.text) AS pg_catalog.int8)
""".strip()
_IS_WRITTEN = """
EXISTS (SELECT FROM pg_catalog.unnest({watches}) AS w (one)
        WHERE w.one = pg_catalog.concat({by}, CAST({version} AS pg_catalog.text)))
""".strip()
# What is put in names columns of tables with any alias but these.
_HAS_TRIGGER = """
(EXISTS (SELECT FROM pg_catalog.pg_trigger AS pgrunbook_g
         WHERE pgrunbook_g.oid = {trigger} AND pgrunbook_g.tgrelid = {part})
 OR {trigger} = 0 AND EXISTS (SELECT FROM pg_catalog.pg_class AS pgrunbook_c
                              WHERE pgrunbook_c.oid = {part}
                                AND pgrunbook_c.relnamespace = pg_catalog.to_regnamespace('pgrunbook')))
""".strip()
# TRUNCATE gives a partition another file; one that is newer than the capture has no trigger for it.
_IS_WHOLE = """
({trigger} = 0 OR {file} = pg_catalog.pg_relation_filenode(CAST({part} AS pg_catalog.regclass))
 OR EXISTS (SELECT FROM pg_catalog.pg_trigger AS pgrunbook_g
            WHERE pgrunbook_g.tgrelid = {part} AND pgrunbook_g.tgname = {of_all}))
""".strip()
_WATCHED_PARTS = """
SELECT n.part
FROM (SELECT CAST(pg_catalog.split_part(w.one, ':', 1) AS pg_catalog.oid) AS part,
             CAST(pg_catalog.split_part(w.one, ':', 2) AS pg_catalog.oid) AS trigger
      FROM pg_catalog.unnest({watches}) AS w (one)
      WHERE pg_catalog.strpos(w.one, ':') > 0) AS n
WHERE {has_trigger}
""".strip()

# The row of a trigger that nobody has switched off, not even for a time, is that which CREATE TRIGGER wrote.
_SEEN = """
DECLARE
    switched name := (
        SELECT max(g.tgname)
        FROM pg_trigger AS g
        WHERE g.tgfoid = {function}::regprocedure
          AND (g.tgenabled <> 'A'
               OR NOT EXISTS (SELECT
                              FROM pg_depend AS d
                              WHERE d.classid = 'pg_trigger'::regclass AND d.objid = g.oid
                                AND d.refobjid = g.tgfoid AND d.xmin = g.xmin)));
BEGIN
    IF switched IS NOT NULL THEN
        RAISE object_not_in_prerequisite_state USING MESSAGE = format({says}, switched);
    END IF;
END
"""


def is_watched(kept_as: str, alias: str, columns: Collection[str]) -> sql.Composable:
    """Return the condition that the partition of a captured row was not detached since the row is there."""
    part, trigger = sql.Identifier(alias, PART), sql.Identifier(alias, WATCHED)
    noted = sql.SQL(_WATCHED_PARTS).format(
        watches=watches(kept_as),
        has_trigger=sql.SQL(_HAS_TRIGGER).format(part=sql.SQL("n.part"), trigger=sql.SQL("n.trigger")),
    )
    since_capture = sql.SQL("{} = ANY (ARRAY({}))").format(part, noted)
    found = since_capture
    if WATCHED in columns:
        since_arrival = sql.SQL(_HAS_TRIGGER).format(part=part, trigger=trigger)
        if FILE in columns:
            is_whole = sql.SQL(_IS_WHOLE).format(
                part=part, trigger=trigger, file=sql.Identifier(alias, FILE),
                of_all=sql.Literal(trigger_name(kept_as, of_all=True)),
            )  # fmt: skip
            since_arrival = sql.SQL("({} AND {})").format(since_arrival, is_whole)
        found = sql.SQL("CASE WHEN {} IS NULL THEN {} ELSE {} END").format(trigger, since_capture, since_arrival)
    return sql.SQL("({} OR {})").format(is_copy(watches(kept_as)), found)


def comes_to(part: sql.Composable, trigger: sql.Composable) -> sql.Composable:
    """Return what an UPDATE of a side table sets for a row that comes to a partition, which this trigger watches."""
    found = (
        "{} = {}, {} = (SELECT pg_catalog.max(g.oid) FROM pg_catalog.pg_trigger AS g"
        " WHERE g.tgrelid = {} AND g.tgname = {}),"
        " {} = pg_catalog.pg_relation_filenode(CAST({} AS pg_catalog.regclass))"
    )
    return sql.SQL(found).format(
        sql.Identifier(PART), part, sql.Identifier(WATCHED), part, trigger, sql.Identifier(FILE), part
    )


def is_in_part(
    kept_as: str, alias: str, columns: Collection[str], part: sql.Composable, version: sql.Composable | None
) -> sql.Composable:
    """Return the condition that a captured row is in this partition, and that it is known to be the row of then.

    Behind what was detached, another row may have its key: then its partition has to have been watched since the
    capture, or its ``version`` (the xmin) to be of that time. ``part`` is NULL where it is to be inserted again.
    """
    if PART not in columns:
        return sql.SQL("true")
    found = "({is_copy} OR (coalesce({noted} = {part}, {noted} IS NOT NULL) AND ({of_then} OR {is_watched})))"
    return sql.SQL(found).format(
        is_copy=is_copy(watches(kept_as)), noted=sql.Identifier(alias, PART), part=part,
        of_then=sql.SQL("false") if version is None else is_of_then(kept_as, alias, columns, version),
        is_watched=is_watched(kept_as, alias, columns),
    )  # fmt: skip


def is_of_then(kept_as: str, alias: str, columns: Collection[str], version: sql.Composable) -> sql.Composable:
    """Return the condition that nobody has written a row since the capture, by its ``version`` (the xmin).

    The capture itself may have written it: an UPDATE, or a change of type.
    """
    noted = watches(kept_as)
    found = [
        sql.SQL(_IS_OF_THEN).format(
            now=sql.SQL(_NOW), version=version, watches=noted, length=len(AS_OF) + 1, as_of=sql.Literal(AS_OF)
        )
    ]
    if HASH in columns:  # the statement that wrote the row wrote down what it captured, too
        its = sql.SQL("{} = {}").format(version, sql.Identifier(alias, "xmin"))
        found.append(sql.SQL("coalesce({}, false)").format(its))
    elif NEW in columns:
        found.append(sql.SQL(_IS_WRITTEN).format(version=version, watches=noted, by=sql.Literal(BY)))
    return sql.SQL("({})").format(sql.SQL(" OR ").join(found))


def watches(kept_as: str) -> sql.Composable:
    """Return the notes of the capture, as an array."""
    function = sql.Identifier(SCHEMA, function_name(kept_as)).as_string(None)
    return sql.SQL(_WATCHES).format(function=sql.Literal(f"{function}()"))


def is_copy(notes: sql.Composable) -> sql.Composable:
    """Return the condition that this is a copy of the database of these notes, with other numbers."""
    return sql.SQL(_IS_COPY).format(watches=notes)


def named_now(notes: sql.Composable) -> sql.Composable:
    """Return the query for the names that the columns of the key have now."""
    return sql.SQL(_NAMED_NOW).format(watches=notes, of=sql.Literal(OF), length=len(OF) + 1)


def is_there(
    kept_as: str,
    alias: str,
    columns: Collection[str],
    label: sql.Composable | None = None,
    *,
    part: sql.Composable | None = None,
    version: sql.Composable | None = None,
) -> sql.Composable:
    """Return the condition that a row of a side table (by its alias) is that of the row which has its key.

    ``columns`` are those of the side table; older versions made none of these. ``label`` is that of the step which
    will have inserted the row again, ``part`` the partition in which the row is, ``version`` its xmin.
    """
    if columns and GONE not in columns:
        return sql.SQL("true")
    gone = sql.Identifier(alias, GONE)
    is_known = sql.SQL("NOT EXISTS (SELECT FROM {} AS l WHERE l.{} = {})").format(
        sql.Identifier(SCHEMA, kept_as), sql.Identifier(GONE), sql.Literal(LOST)
    )
    its = (
        sql.SQL("{} IS NULL").format(gone)
        if label is None
        else sql.SQL("{} IS NOT DISTINCT FROM {}").format(gone, label)
    )
    is_its = sql.SQL("true") if part is None else is_in_part(kept_as, alias, columns, part, version)
    return sql.SQL("({} AND {} AND {})").format(its, is_known, is_its)


def is_row(alias: str, columns: Collection[str]) -> sql.Composable:
    """Return the condition that a row of a side table is what was captured of a row, and not a note of ours."""
    if columns and GONE not in columns:
        return sql.SQL("true")
    return sql.SQL("({0} IS NULL OR {0} <> {1} AND NOT pg_catalog.starts_with({0}, {2}))").format(
        sql.Identifier(alias, GONE), sql.Literal(LOST), sql.Literal(AHEAD)
    )


def are_at_work(conn: Connection, kept_as: str, oid: int, key: Sequence[str]) -> bool:
    """Tell whether all triggers that let captured rows follow are on this table, and nobody has switched one off.

    Nor did so meanwhile, and the columns of the ``key`` are those of then. The catalog tells: whoever switches a
    trigger off and on again writes its row of pg_trigger anew, and not those of pg_depend that CREATE TRIGGER wrote
    with it. A copy of the database, from a dump, has rows of its own: there it is not known, and not doubted.
    """
    found = rows(conn, "at_work", function=function_name(kept_as), oid=oid, key=list(key), of=OF, on=ON)
    return bool(found and found[0]["are_at_work"])


def refuse_switched_off(kept_as: str, what: str) -> sql.Composed:
    """Return the statement that fails where somebody has switched off a trigger by which ``what`` was copied."""
    says = f'somebody has switched trigger "%s" off while {what.replace("%", "%%")} was copied'
    function = sql.Identifier(SCHEMA, function_name(kept_as)).as_string(None)
    return do(sql.SQL(_SEEN).format(function=sql.Literal(f"{function}()"), says=sql.Literal(says)))


def label_of(migration: str, step: int | None = None) -> str:
    """Return what is noted of rows that a step deletes, and whose return takes the step back.

    Without ``step``: of rows that a rollback deletes, because the migration had inserted them. When it goes up again,
    that step may have another number.
    """
    return f"{migration}:{'inserted' if step is None else step}"


def labelled(conn: Connection, table: CapturedTable, label: str) -> list[str]:
    """Return the statements that note which captured rows have gone with the rows that a step has just deleted.

    And when: between two batches, another row may come to a key, and be deleted there too.
    """
    return [
        text(
            sql.SQL(
                "UPDATE {side} AS k SET {gone} = {label}, {arrived} = k.{gone}"
                " WHERE k.{gone} = pg_catalog.pg_current_xact_id()::pg_catalog.text"
            ).format(
                side=sql.Identifier(SCHEMA, one["kept_as"]),
                gone=sql.Identifier(GONE),
                label=sql.Literal(label),
                arrived=sql.Identifier(ARRIVED),
            )
        )
        for one in rows(conn, "followers", oid=table.oid)
    ]


def told_apart(conn: Connection, oid: int) -> list[str]:
    """Return the statements that note which captured rows are those of then behind a partition that was detached.

    Their version tells, which a rollback that writes them takes away; from then on triggers follow them again.
    """
    found = []
    for one in rows(conn, "followers", oid=oid):
        there = table_at(conn, oid).keyed(one["key"])
        columns = {each["name"] for each in rows(conn, "side_columns", kept_as=f"{SCHEMA}.{one['kept_as']}")}
        if there is None or FILE not in columns:
            continue
        part, version = sql.Identifier("t", "tableoid"), sql.Identifier("t", "xmin")
        noted = sql.SQL("UPDATE {} AS k SET {} FROM {} AS t WHERE NOT {} AND {} AND {}").format(
            sql.Identifier(SCHEMA, one["kept_as"]), comes_to(part, sql.Literal(trigger_name(one["kept_as"]))),
            there.source, is_watched(one["kept_as"], "k", columns), there.matches("t", "k"),
            is_there(one["kept_as"], "k", columns, part=part, version=version),
        )  # fmt: skip
        found.append(text(noted))
    return found


def returned(conn: Connection, table: CapturedTable, label: str) -> list[str]:
    """Return the statements that give what has gone with a step's rows to those that it has just inserted again.

    Of several rows that had one key in turn, the last one comes back first.
    """
    found = []
    for one in rows(conn, "followers", oid=table.oid):
        there = table.keyed(one["key"])
        if there is None:
            continue
        columns = {each["name"] for each in rows(conn, "side_columns", kept_as=f"{SCHEMA}.{one['kept_as']}")}
        comes: sql.Composable = sql.SQL("")
        if FILE in columns:
            comes = sql.SQL(", {}").format(comes_to(sql.SQL("t.tableoid"), sql.Literal(trigger_name(one["kept_as"]))))
        elif PART in columns:
            comes = sql.SQL(", {} = t.tableoid").format(sql.Identifier(PART))
        found.append(
            text(
                sql.SQL(
                    "UPDATE {side} AS k SET {gone} = NULL{comes} FROM ("
                    "SELECT DISTINCT ON (t.tableoid, t.ctid) g.ctid AS place, t.tableoid FROM {side} AS g, {table} AS t"
                    " WHERE g.{gone} = {label} AND {matches} AND {ours} ORDER BY t.tableoid, t.ctid,"
                    " CAST(pg_catalog.split_part(g.{arrived}, ' ', 1) AS pg_catalog.numeric) DESC NULLS LAST"
                    ") AS t WHERE k.ctid = t.place"
                    " AND NOT EXISTS (SELECT FROM {side} AS o WHERE o.{gone} IS NULL AND {same})"
                ).format(
                    side=sql.Identifier(SCHEMA, one["kept_as"]), gone=sql.Identifier(GONE), table=table.source,
                    comes=comes, label=sql.Literal(label), arrived=sql.Identifier(ARRIVED),
                    matches=there.matches("t", "g"), ours=is_ours(sql.SQL("t.xmin")),
                    same=sql.SQL(" AND ").join(
                        sql.SQL("o.{0} = k.{0}").format(sql.Identifier(key_name(n))) for n in range(len(there.key))
                    ),
                )
            )
        )  # fmt: skip
    return found
