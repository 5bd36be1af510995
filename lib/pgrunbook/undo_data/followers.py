"""Triggers by which what was captured of a row follows it: to another key, and away with it.

A key tells which row it is as long as no key changes and no row goes: after that another row may have it. So until
the captured values are reverted, reapplied or purged:

1. A row whose key changes takes what was captured of it along.
2. Of a row that goes (DELETE, TRUNCATE, a key that somebody else takes), what was captured is noted as gone, with the
   transaction. Nobody gets it again.
3. Where a step of ours deletes rows, it writes its own label over that note, in its transaction (``row_notes``).
   The step that takes it back inserts the rows again, and what has its label is theirs again.
4. What cannot be told is noted as gone too: conflicts list it.

Rows that take over keys from each other: the triggers fire in the order in which the rows were changed, so a key is
left before it is taken. Where the key is deferrable, it may be taken before. So it is noted when a row came to its
key: in this statement, it is not the one that leaves it; else the version of the row tells; else nobody can.

A row that changes its partition is deleted and inserted. BEFORE UPDATE knows both keys, and notes the new one beside
what was captured of this row alone: its writer has locked it, so nobody has to wait. The deletion of that version of
the row then moves what was captured, if the row has come to the new key.

Where no index watches the key any more (``former_keys``), another row may be inserted with it: from then on nobody
can tell whose the captured values are.

Nobody's write fails: not when the key has another name or type by now. A transaction that began before the capture
and keeps its snapshot cannot see what was captured; the server aborts it to be begun again (SQLSTATE 40001), as it
does when a row was changed meanwhile.

Source: https://www.postgresql.org/docs/current/trigger-definition.html,
https://www.postgresql.org/docs/current/ddl-system-columns.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from pgrunbook.database.column_fill import is_no_batch
from pgrunbook.database.row_tracker import LAST, truncate_triggers
from pgrunbook.sql.deparse import text
from pgrunbook.sql.own_code import do
from pgrunbook.undo_data.follower_body import HEAD, IS_NAMED, FollowerBody, has_key
from pgrunbook.undo_data.row_notes import (
    ARRIVED,
    AS_OF,
    BY,
    FILE,
    GONE,
    LEAVING,
    OF,
    ON,
    PART,
    WATCHED,
    function_name,
    next_name,
    trigger_name,
)
from pgrunbook.undo_data.tables import SCHEMA, CapturedColumn, CapturedTable, key_name

# The columns of the key, in the order of the side table.
_KEY = """
FROM unnest({names}::text[]) WITH ORDINALITY AS n (name, place)
JOIN pg_attribute AS a ON a.attname = n.name
WHERE a.attrelid = {table}::regclass
"""
# The numbers of columns stay when their names change: each call sees first whether the names are those of then.
_MADE = """
BEGIN
    EXECUTE {create} || quote_literal({head} || (
        SELECT string_agg(format({is_named}, {relation}, c.number, length(c.name), c.name), ' AND ')
        FROM (SELECT a.attnum, '.' || quote_ident(n.name) {key}) AS c (number, name)
    ) || {body});
END
"""
# Noted once, and not again when the function is replaced: which triggers there are, and by which columns they follow. A
# partition that was detached meanwhile is told by it, and by the snapshot which rows have not been written since. The
# lock for the triggers lets nobody write beside it.
_WATCHES = """
BEGIN
    IF obj_description(({function} || '()')::regprocedure, 'pg_proc') IS NULL THEN
        EXECUTE (
            SELECT format('COMMENT ON FUNCTION %s() IS %L', {function}, ARRAY[
                       to_regnamespace('pgrunbook')::oid::text, {by} || pg_current_xact_id(),
                       {as_of} || translate(pg_current_snapshot()::text, ':', ' '),
                       concat({of}, {table}::regclass::oid,
                              (SELECT string_agg(' ' || a.attnum, '' ORDER BY n.place) {key}))
                   ] || array_agg(
                       CASE g.tgname WHEN {trigger} THEN concat(g.tgrelid, ':', g.oid)
                            ELSE concat({on}, g.tgrelid, ' ', g.oid) END))
            FROM pg_trigger AS g
            WHERE g.tgfoid = ({function} || '()')::regprocedure AND (g.tgname = {trigger} OR g.tgparentid = 0)
        );
    END IF;
END
"""
# A column of the key that was dropped is there again, with another number.
_RETURNED = """
DECLARE
    noted record;
BEGIN
    IF to_regclass('pgrunbook.kept') IS NOT NULL THEN
        FOR noted IN
            SELECT DISTINCT f.oid, obj_description(f.oid, 'pg_proc')::text[] AS notes, k.key_columns::text[] AS key
            FROM pg_trigger AS g
            JOIN pg_proc AS f ON f.oid = g.tgfoid AND f.pronamespace = to_regnamespace('pgrunbook')
            JOIN pgrunbook.kept AS k ON f.proname = 'write_' || k.kept_as
            WHERE g.tgrelid = {table}::regclass AND {column} = ANY (k.key_columns::text[])
        LOOP
            EXECUTE (
                SELECT format('COMMENT ON FUNCTION %s IS %L', noted.oid::regprocedure, array_agg(
                    CASE WHEN starts_with(w.one, {of}) THEN {of} || (
                             SELECT string_agg(CASE WHEN old.attisdropped THEN now.attnum::text ELSE n.number END, ' '
                                               ORDER BY n.place)
                             FROM unnest(string_to_array(substr(w.one, {length}), ' '))
                                  WITH ORDINALITY AS n (number, place)
                             LEFT JOIN pg_attribute AS now
                               ON n.place > 1 AND noted.key[n.place - 1] = {column}
                              AND now.attrelid = {table}::regclass AND now.attname = {column}
                             LEFT JOIN pg_attribute AS old
                               ON old.attrelid = now.attrelid AND old.attnum::text = n.number)
                         ELSE w.one END ORDER BY w.place))
                FROM unnest(noted.notes) WITH ORDINALITY AS w (one, place)
            );
        END LOOP;
    END IF;
END
"""
_NO_UNIQUE = """
DECLARE
    dropped text;
BEGIN
    FOR dropped IN
        SELECT i.indexrelid::regclass FROM pg_index AS i WHERE i.indrelid = {}::regclass AND i.indisunique
    LOOP
        EXECUTE 'DROP INDEX ' || dropped;
    END LOOP;
END
"""


@dataclass(frozen=True)
class Followers:
    """The triggers on a table that let the rows of one side table follow; ``table`` has the key of the side table.

    ``is_old_seen`` says that a transaction which is older than the capture may still see the rows as they were.
    What somebody writes into the column ``watched`` is newer than what was captured of the row: that is gone then.
    In batches that say so by a setting (``database.column_fill``), the trigger for each row is silent: those of the
    fill ``silent_in``, which change no key.
    """

    kept_as: str
    table: CapturedTable
    is_old_seen: bool = False
    watched: CapturedColumn | None = None
    silent_in: str = ""

    @property
    def side(self) -> sql.Identifier:
        """The side table."""
        return sql.Identifier(SCHEMA, self.kept_as)

    @property
    def key(self) -> tuple[CapturedColumn, ...]:
        """The columns of the key."""
        return self.table.named(self.table.key)

    @property
    def function(self) -> sql.Identifier:
        """The trigger function."""
        return sql.Identifier(SCHEMA, function_name(self.kept_as))

    @property
    def columns(self) -> list[sql.Composed]:
        """The definitions of the columns that a side table has for it."""
        found = [sql.SQL("{} pg_catalog.text").format(sql.Identifier(name)) for name in (GONE, ARRIVED)]
        if self.table.is_partitioned:
            found.append(sql.SQL("{} pg_catalog.text").format(sql.Identifier(LEAVING)))
            found += [sql.SQL("{} pg_catalog.oid").format(sql.Identifier(name)) for name in (PART, WATCHED, FILE)]
            found += [
                sql.SQL("{} {}").format(sql.Identifier(next_name(n)), column.side_type)
                for n, column in enumerate(self.key)
            ]
        return found

    def indexes(self, *, is_unique: bool) -> list[str]:
        """Return the statements that create the indexes of the side table.

        Where ``is_unique``, what is there has each key once until :meth:`creation`; then a deferrable key may be there
        twice for a moment.
        """
        found: list[tuple[str, sql.Composable]] = [("INDEX ON {} ({}) WHERE {} IS NOT NULL", sql.Identifier(GONE))]
        if is_unique:
            found.append(("UNIQUE INDEX ON {} ({}) WHERE {} IS NULL", self.keys()))
        if self.table.is_key_deferrable or not is_unique:
            found.append(("INDEX ON {} ({}) WHERE {} IS NULL", self.keys()))
        return [
            text(sql.SQL(f"CREATE {made}").format(self.side, columns, sql.Identifier(GONE))) for made, columns in found
        ]

    def creation(self) -> list[str]:
        """Return the statements that create function and triggers, in the place of what has the name.

        Locks: ShareRowExclusiveLock on the table and its partitions.
        """
        statements = [do(self._made()), sql.SQL("REVOKE ALL ON FUNCTION {}() FROM PUBLIC").format(self.function)]
        inserts = "INSERT OR " if self.table.is_key_former else ""
        fires = {trigger_name(self.kept_as): f"AFTER {inserts}UPDATE OR DELETE"}
        if self.table.is_partitioned:
            fires[f"{LAST}_{self.kept_as}"] = "BEFORE UPDATE"
        for name, event in fires.items():
            trigger = sql.Identifier(name)
            statements.append(
                sql.SQL("CREATE OR REPLACE TRIGGER {} {} ON {} FOR EACH ROW{} EXECUTE FUNCTION {}()").format(
                    trigger, sql.SQL(event), self._name, self._when, self.function
                )
            )
            statements.append(sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(self._name, trigger))
        all_ = trigger_name(self.kept_as, of_all=True)
        statements += truncate_triggers(self._name, all_, self.function, is_partitioned=self.table.is_partitioned)
        noted = sql.SQL(_WATCHES).format(
            function=sql.Literal(self.function.as_string(None)), table=sql.Literal(self._name.as_string(None)),
            trigger=sql.Literal(trigger_name(self.kept_as)), by=sql.Literal(BY), as_of=sql.Literal(AS_OF),
            of=sql.Literal(OF), on=sql.Literal(ON), key=self._key(),
        )  # fmt: skip
        statements.append(do(noted))
        if self.table.is_key_deferrable:
            dropped = sql.SQL(_NO_UNIQUE).format(sql.Literal(self.side.as_string(None)))
            statements.append(do(dropped))
        return [text(statement) for statement in statements]

    def _made(self) -> sql.Composable:
        """Return the PL/pgSQL that creates the function."""
        create = sql.SQL(
            "CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS "
        ).format(self.function)
        oid = sql.SQL("{}::regclass::oid").format(sql.Literal(self._name.as_string(None)))
        body = FollowerBody(self.kept_as, self.table, self.is_old_seen, self.watched)
        return sql.SQL(_MADE).format(
            create=sql.Literal(text(create)), head=sql.Literal(HEAD), body=sql.Literal(text(body.whole())),
            is_named=sql.Literal(IS_NAMED), relation=oid if self.table.is_partitioned else sql.Literal("TG_RELID"),
            key=self._key(),
        )  # fmt: skip

    def _key(self) -> sql.Composable:
        return sql.SQL(_KEY).format(
            names=sql.Literal(list(self.table.key)), table=sql.Literal(self._name.as_string(None))
        )

    @property
    def _when(self) -> sql.Composable:
        return sql.SQL(f" WHEN ({is_no_batch(self.silent_in)})" if self.silent_in else "")

    @property
    def _name(self) -> sql.Identifier:
        return self.table.name.identifier()

    def keys(self) -> sql.Composable:
        """Return the names of the side table's columns for the key."""
        return sql.SQL(", ").join(sql.Identifier(key_name(n)) for n in range(len(self.key)))

    def has_key(self, values: Sequence[sql.Composable]) -> sql.Composable:
        """Return the condition that a row of the side table has this key."""
        return has_key(values)


def note_returned(table: sql.Identifier, column: str) -> str:
    """Return the statement that notes by which number a column is there again, for what follows rows by it.

    Whoever has written meanwhile has been noted: then nobody knows any more which row a captured one is of.
    """
    noted = sql.SQL(_RETURNED).format(
        table=sql.Literal(table.as_string(None)), column=sql.Literal(column), of=sql.Literal(OF), length=len(OF) + 1
    )
    return text(do(noted))


def unsteady(table: CapturedTable) -> list[str]:
    """Return the columns of a key whose text depends on settings, so that nobody can follow it; [] for none."""
    return [name for name in table.key if name in table.unsteady]


def obstacle(table: CapturedTable) -> str:
    """Return why triggers cannot follow the rows of a table that is our own, after its name; "" when they can."""
    if not table.is_own:
        return ""
    if unsteady(table):
        return f"has the key {', '.join(unsteady(table))}, whose text depends on settings"
    if table.is_partitioned and any(column.is_generated for column in table.named(table.key)):
        return (
            "is partitioned and has a generated column in its key: nobody knows where a row goes that changes its key"
        )
    return ""
