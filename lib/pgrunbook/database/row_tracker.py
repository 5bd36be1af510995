"""The tracker of a table's rows while a loop goes through them: which are done, new, or moved to another key.

One statement changes the rows that are there when it begins, each once. A loop of transactions does the same:

1. Under a lock that no writer shares, the installation notes the largest key, and creates triggers. The rows of that
   moment are those of the statement.
2. Each batch notes the key up to which it is done, in its own transaction.
3. A row that is inserted behind that moment is noted as ``skip``. A row whose key changes is noted under its new key:
   as ``todo`` where no batch has reached its old one, else as ``skip``. The latest note of a key counts.
4. A batch leaves out the rows noted as ``skip``. Behind the last batch, those noted as ``todo`` are done.

Why no row is done twice or not at all: a batch that meets a row whose key somebody is changing waits for them, and
takes the row only if the new key is in its range too; then it takes back their note, which it can see by then
(:meth:`RowTracker.settle`). Whoever comes after the batch waits for it, and their trigger sees that it is done.
A note is added and never changed by others than the loop, so nobody's transaction fails because of one.

A row that changes its partition is deleted and inserted: a trigger BEFORE UPDATE, which knows both keys, notes the
new one as ``moving``, and the insertion behind it as ``todo`` instead of ``skip``. Between the two, whoever still has
the new key may leave it, and note that: so the insertion asks for the notes of its own transaction.

Source: https://www.postgresql.org/docs/current/transaction-iso.html#XACT-READ-COMMITTED,
https://www.postgresql.org/docs/current/trigger-definition.html
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from pgrunbook.sql.own_code import do

SCHEMA = "pgrunbook"
# AFTER triggers of ours fire before those of the application, which may move another row to the key that was left,
# or change the key again; BEFORE triggers fire after those of the application, which may change the key. Triggers fire
# in the order of the bytes of their names: no name begins with less than a space, and few with more than a tilde.
FIRST, LAST = " pgrunbook", "~pgrunbook"
_LEFT = sql.SQL("(ARRAY['moving', 'todo']::pg_catalog.text[])")
_NOTES = sql.SQL("(ARRAY['moving', 'todo', 'skip']::pg_catalog.text[])")
# The version of a row whose transaction is not over is our own, or that of a savepoint below it: no other is visible.
# xmin has 32 bits: the 64 bits nearest to our own are meant. The first three are not those of a transaction.
_IS_OURS = """
(CASE WHEN {0}::pg_catalog.text::pg_catalog.int8 < 3 THEN false
      ELSE coalesce(pg_catalog.pg_xact_status(CAST(CAST(
          pgrunbook_us.own
          + ({0}::pg_catalog.text::pg_catalog.int8 - pgrunbook_us.own % 4294967296 + 6442450944) % 4294967296
          - 2147483648 AS pg_catalog.text) AS pg_catalog.xid8)) = 'in progress', false) END)
""".strip()
_OURS = "(SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.int8 AS own) AS pgrunbook_us"
# What the trigger function does; is_left says whether the loop has still to do the row.
_BODY = """
DECLARE
    is_left boolean;
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO {notes} (state, {columns})
        SELECT c.state, {new} FROM (SELECT {state_of_new} AS state) AS c
        WHERE TG_ARGV[0] <> 'beyond' OR c.state <> 'skip';
        RETURN NULL;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO {notes} (state, {columns}) VALUES ('skip', {old});
        RETURN NULL;
    ELSIF TG_OP = 'TRUNCATE' THEN
        INSERT INTO {notes} (state, {columns})
        SELECT 'skip', {noted} FROM {notes} AS n
        WHERE n.state = ANY {left} AND NOT EXISTS (SELECT FROM {table} AS t WHERE ROW({of_t}) = ROW({noted}));
        RETURN NULL;
    END IF;
    is_left := coalesce(
        {latest_of_old} <> 'skip',
        TG_ARGV[0] = 'within' AND NOT coalesce(
            (SELECT ROW({old}) <= ROW({noted}) FROM {notes} AS n WHERE n.state = 'done' ORDER BY n.id DESC LIMIT 1),
            false));
    IF TG_WHEN = 'BEFORE' THEN
        IF is_left THEN
            INSERT INTO {notes} (state, {columns}) VALUES ('moving', {new});
        END IF;
        RETURN NEW;
    END IF;
    INSERT INTO {notes} (state, {columns})
    VALUES ('skip', {old}), (CASE WHEN is_left THEN 'todo' ELSE 'skip' END, {new});
    RETURN NULL;
END
"""
_TRIGGERS = """
DECLARE
    last record;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE 'rows cannot be tracked from isolation level % on', current_setting('transaction_isolation');
    END IF;
    SELECT {columns} INTO last FROM {notes} WHERE state = 'end';
    {created};
END
"""
# A trigger for each statement is not inherited by partitions, and TRUNCATE of one fires its own only.
_OF_PARTITIONS = """
DECLARE
    part regclass;
BEGIN
    FOR part IN
        SELECT p.relid
        FROM pg_partition_tree({table}::regclass) AS p
        JOIN pg_class AS c ON c.oid = p.relid AND c.relkind IN ('r', 'p')
        WHERE p.level > 0
    LOOP
        EXECUTE {create} || part || {execute};
        EXECUTE {alter} || part || {enable};
    END LOOP;
END
"""


@dataclass(frozen=True)
class RowTracker:
    """The triggers on a table, and the table of their notes in schema pgrunbook; both have the name.

    ``key`` is the key of the loop.
    """

    name: str
    table: sql.Identifier
    key: tuple[str, ...]

    @property
    def notes(self) -> sql.Identifier:
        """The table of notes."""
        return sql.Identifier(SCHEMA, self.name)

    def installation(self, types: Sequence[str], collations: Sequence[str], *, is_partitioned: bool) -> str:
        """Return the statements that create the table of notes, and the triggers that write into it.

        ``types`` and ``collations`` are those of the key's columns, "" for no collation. Execute them in one
        transaction under READ COMMITTED. What has the name already is dropped: an abandoned loop has left it.
        Locks: ShareRowExclusiveLock on the table and its partitions.
        """
        made = [
            sql.SQL("{} {}{}").format(
                sql.Identifier(name), sql.SQL(type_), sql.SQL(f" COLLATE {collation}" if collation else "")
            )
            for name, type_, collation in zip(self.columns, types, collations, strict=True)
        ]
        statements = [
            sql.SQL(self._clearance()),
            sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(self.table),
            sql.SQL(
                "CREATE TABLE {} (id pg_catalog.int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
                " state pg_catalog.text NOT NULL, {})"
            ).format(self.notes, sql.SQL(", ").join(made)),
            sql.SQL("CREATE INDEX ON {} (state, id)").format(self.notes),
            sql.SQL("CREATE INDEX ON {} ({})").format(self.notes, _list(self.columns)),
            sql.SQL("INSERT INTO {} (state, {}) SELECT 'end', {} FROM {} AS t ORDER BY {} LIMIT 1").format(
                self.notes, _list(self.columns), self._of("t"), self.table,
                sql.SQL(", ").join(sql.SQL("t.{} DESC").format(sql.Identifier(name)) for name in self.key),
            ),
            sql.SQL(
                "CREATE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
                " SET search_path = pg_catalog, pg_temp AS {}"
            ).format(self._function, sql.Literal(self._body(is_partitioned=is_partitioned).as_string(None))),
            *self._triggers(is_partitioned=is_partitioned),
        ]  # fmt: skip
        return ";\n".join(statement.as_string(None) for statement in statements)

    def removal(self, *, is_partitioned: bool) -> str:
        """Return the statements that drop the triggers and the notes of a loop that is done.

        Locks: AccessExclusiveLock on the table and its partitions.
        """
        triggers = [f"{place}_{self.name}_{name}" for place, name, *_ in self._row_triggers(is_partitioned)]
        dropped = [
            sql.SQL("DROP TRIGGER {} ON {}").format(sql.Identifier(name), self.table).as_string(None)
            for name in (*triggers, self._emptied)
        ]
        return ";\n".join([*dropped, self._clearance()])

    def _clearance(self) -> str:
        body = f"DECLARE dropped text; BEGIN FOR dropped IN {self.cleanup()} LOOP EXECUTE dropped; END LOOP; END"
        return do(sql.SQL(body)).as_string(None)

    def cleanup(self) -> str:
        """Return the query that finds the statements which drop triggers and notes."""
        found = sql.SQL(
            "SELECT pg_catalog.format('DROP TRIGGER %I ON %s', g.tgname, g.tgrelid::pg_catalog.regclass)"
            " FROM pg_catalog.pg_trigger AS g"
            " WHERE g.tgfoid OPERATOR(pg_catalog.=) pg_catalog.to_regprocedure({called})::pg_catalog.oid"
            " AND g.tgparentid OPERATOR(pg_catalog.=) 0::pg_catalog.oid"
            " UNION ALL SELECT {function} WHERE pg_catalog.to_regprocedure({called}) IS NOT NULL"
            " UNION ALL SELECT {notes} WHERE pg_catalog.to_regclass({named}) IS NOT NULL"
        ).format(
            called=sql.Literal(f"{self._function.as_string(None)}()"),
            function=sql.Literal(sql.SQL("DROP FUNCTION {}()").format(self._function).as_string(None)),
            notes=sql.Literal(sql.SQL("DROP TABLE {}").format(self.notes).as_string(None)),
            named=sql.Literal(self.notes.as_string(None)),
        )
        return found.as_string(None)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the key in the table of notes."""
        return tuple(f"pgrunbook_key_{number}" for number in range(1, len(self.key) + 1))

    def is_due(self, alias: str) -> sql.Composable:
        """Return the condition that a row, which a batch has reached, is not noted as new or done.

        Whether there is any note is asked once a statement.
        """
        state = self._latest("state OPERATOR(pg_catalog.<>) 'skip'::pg_catalog.text", self._of(alias))
        return sql.SQL(
            "(NOT EXISTS (SELECT FROM {} AS pgrunbook_any WHERE pgrunbook_any.state OPERATOR(pg_catalog.=) ANY {})"
            " OR coalesce({}, true))"
        ).format(self.notes, _NOTES, state)

    def is_left(self, alias: str, ids: Sequence[int]) -> sql.Composable:
        """Return the condition that a row has the key of one of these notes, and is still to be done."""
        state = self._latest("state OPERATOR(pg_catalog.<>) 'skip'::pg_catalog.text", self._of(alias))
        return sql.SQL("({} AND coalesce({}, false))").format(self.is_noted(alias, ids), state)

    def end(self) -> sql.Composed:
        """Return the query for the largest key at the start, as texts; no row where the table was empty."""
        shown = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in self.columns)
        return sql.SQL("SELECT {} FROM {} WHERE state = 'end'").format(shown, self.notes)

    def left(self, most: int) -> sql.Composed:
        """Return the query for the notes of rows that are still to be done, the oldest first."""
        return sql.SQL("SELECT id FROM {} WHERE state = ANY {} ORDER BY id LIMIT {}").format(
            self.notes, _LEFT, sql.Literal(most)
        )

    def key_of(self, id_: int) -> sql.Composed:
        """Return the query for the key of a note, as texts."""
        shown = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in self.columns)
        return sql.SQL("SELECT {} FROM {} WHERE id = {}").format(shown, self.notes, sql.Literal(id_))

    def progress(self, upto: sql.Composable) -> sql.Composed:
        """Return the statement that notes the key up to which all is done."""
        return sql.SQL("INSERT INTO {} (state, {}) VALUES ('done', {})").format(self.notes, _list(self.columns), upto)

    def settle(self, alias: str, reached: sql.Composable, ids: Sequence[int] = ()) -> sql.Composed:
        """Return the statement that notes as done what a batch has just done, among what was noted as left.

        These are the notes ``ids``, and those of rows that the batch was not meant for: it waited for whoever moved
        them. ``reached`` is the condition of the batch's rows. Execute it behind the batch, in its transaction.
        """
        return sql.SQL(
            "UPDATE {notes} AS n SET state = 'skip' WHERE n.state = ANY {left}"
            " AND EXISTS (SELECT FROM {notes} AS e WHERE e.state = ANY {left})"
            " AND (n.id = ANY ({ids}::pg_catalog.int8[]) OR n.id IN (SELECT {latest} FROM {table} AS {alias}"
            " WHERE {reached} AND {is_ours}))"
        ).format(
            notes=self.notes, left=_LEFT, ids=sql.Literal(f"{{{','.join(map(str, ids))}}}"),
            latest=self._latest("id", self._of(alias)), table=self.table, alias=sql.Identifier(alias),
            reached=reached, is_ours=is_ours(sql.Identifier(alias, "xmin")),
        )  # fmt: skip

    def is_noted(self, alias: str, ids: Sequence[int]) -> sql.Composable:
        """Return the condition that a row has the key of one of these notes."""
        keys = sql.SQL(", ").join(sql.Identifier("pgrunbook_note", name) for name in self.columns)
        return sql.SQL(
            "ROW({}) OPERATOR(pg_catalog.=) ANY (SELECT {} FROM {} AS pgrunbook_note"
            " WHERE pgrunbook_note.id OPERATOR(pg_catalog.=) ANY ({}::pg_catalog.int8[]))"
        ).format(self._of(alias), keys, self.notes, sql.Literal(f"{{{','.join(map(str, ids))}}}"))

    def _latest(self, what: str, key: sql.Composable, *, ours: bool = False) -> sql.Composable:
        """Return something of the latest note of a key, as a subquery; nothing where there is no note.

        ``ours`` are those that this transaction has written.
        """
        return sql.SQL(
            "(SELECT pgrunbook_note.{what} FROM {notes} AS pgrunbook_note"
            " WHERE ROW({columns}) OPERATOR(pg_catalog.=) ROW({key})"
            " AND pgrunbook_note.state OPERATOR(pg_catalog.=) ANY {states}{by}"
            " ORDER BY pgrunbook_note.id DESC LIMIT 1)"
        ).format(
            by=sql.SQL(" AND {}").format(is_ours(sql.Identifier("pgrunbook_note", "xmin"))) if ours else sql.SQL(""),
            what=sql.SQL(what), notes=self.notes, key=key, states=_NOTES,
            columns=sql.SQL(", ").join(sql.Identifier("pgrunbook_note", name) for name in self.columns),
        )  # fmt: skip

    def _of(self, row: str) -> sql.Composable:
        return sql.SQL(", ").join(sql.Identifier(row, name) for name in self.key)

    @property
    def function_name(self) -> str:
        """The name of the trigger function."""
        return f"note_{self.name}"

    @property
    def _function(self) -> sql.Identifier:
        return sql.Identifier(SCHEMA, self.function_name)

    def _body(self, *, is_partitioned: bool) -> sql.Composed:
        comes = "CASE {} WHEN 'moving' THEN 'todo' ELSE 'skip' END" if is_partitioned else "'skip'"
        return sql.SQL(_BODY).format(
            notes=self.notes, columns=_list(self.columns), table=self.table, left=_LEFT,
            old=self._of("old"), new=self._of("new"), of_t=self._of("t"),
            noted=sql.SQL(", ").join(sql.Identifier("n", name) for name in self.columns),
            latest_of_old=self._latest("state", self._of("old")),
            state_of_new=sql.SQL(comes).format(self._latest("state", self._of("new"), ours=True)),
        )  # fmt: skip

    def _triggers(self, *, is_partitioned: bool) -> list[sql.Composed]:
        """Return the statements that create the triggers, and let them fire in every session."""
        made = self._row_triggers(is_partitioned)
        created = sql.SQL(_TRIGGERS).format(
            columns=_list(self.columns), notes=self.notes,
            created=sql.SQL(";\n    ").join(self._trigger(*one) for one in made),
        )  # fmt: skip
        found = [
            sql.SQL("REVOKE ALL ON FUNCTION {}() FROM PUBLIC").format(self._function),
            do(created),
        ]
        for place, name, *_ in made:
            trigger = sql.Identifier(f"{place}_{self.name}_{name}")
            found.append(sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(self.table, trigger))
        found += truncate_triggers(self.table, self._emptied, self._function, is_partitioned=is_partitioned)
        return found

    def _row_triggers(self, is_partitioned: bool) -> list[tuple[str, str, str, sql.Composable, str]]:
        """Return the triggers for each row: ``within`` is for keys up to the last one of the start, else ``beyond``."""
        old, new = (sql.SQL("ROW({})").format(self._of(row)) for row in ("old", "new"))
        changes = sql.SQL(
            "CAST({} AS pg_catalog.record) OPERATOR(pg_catalog.*<>) CAST({} AS pg_catalog.record)"
        ).format(old, new)
        found: list[tuple[str, str, str, sql.Composable, str]] = []
        if not is_partitioned:
            found.append((FIRST, "come", "AFTER INSERT", new, "<="))
        for where, operator in (("within", "<="), ("beyond", ">")):
            moves = sql.SQL("{} AND {}").format(changes, old)
            found.append((FIRST, f"moved_{where}", "AFTER UPDATE", moves, operator))
            found += [(LAST, f"moving_{where}", "BEFORE UPDATE", moves, operator)] if is_partitioned else []
            # Where a row waited for its key, the one that left it is noted behind "moving".
            found += [(FIRST, f"come_{where}", "AFTER INSERT", new, operator)] if is_partitioned else []
        return [*found, (FIRST, "gone_beyond", "AFTER DELETE", old, ">")]

    @property
    def _emptied(self) -> str:
        return f"{FIRST}_{self.name}_emptied"

    def _trigger(self, place: str, name: str, event: str, when: sql.Composable, operator: str) -> sql.Composed:
        """Return the PL/pgSQL that creates a trigger, whose condition ends in a comparison with the last key.

        The key is in the trigger itself: a transaction that began before the installation cannot see our notes.
        """
        head = sql.SQL("CREATE TRIGGER {} {} ON {} FOR EACH ROW WHEN (").format(
            sql.Identifier(f"{place}_{self.name}_{name}"), sql.SQL(event), self.table
        )
        where = name.partition("_")[2]
        last = sql.SQL(", ").join(
            sql.SQL("quote_nullable(last.{})").format(sql.Identifier(column)) for column in self.columns
        )
        compared = sql.SQL("{} || concat_ws(', ', {}) || ')'").format(
            sql.Literal(f" OPERATOR(pg_catalog.{operator}) ROW("), last
        )
        return sql.SQL("EXECUTE {} || {} || {}").format(
            sql.Literal((head + when).as_string(None)),
            compared,
            sql.Literal(
                sql.SQL(") EXECUTE FUNCTION {}({})").format(self._function, sql.Literal(where)).as_string(None)
            ),
        )


def is_ours(xmin: sql.Composable) -> sql.Composable:
    """Return the condition that this transaction has written the version of a row, by its ``xmin``."""
    return sql.SQL("(SELECT {} FROM {})").format(sql.SQL(_IS_OURS).format(xmin), sql.SQL(_OURS))


def truncate_triggers(
    table: sql.Identifier, name: str, function: sql.Identifier, *, is_partitioned: bool
) -> list[sql.Composed]:
    """Return the statements that create a trigger on TRUNCATE of a table or one of its partitions, in every session."""
    created = sql.SQL("CREATE OR REPLACE TRIGGER {} AFTER TRUNCATE ON ").format(sql.Identifier(name))
    executes = sql.SQL(" FOR EACH STATEMENT EXECUTE FUNCTION {}()").format(function)
    enables = sql.SQL(" ENABLE ALWAYS TRIGGER {}").format(sql.Identifier(name))
    found = [sql.SQL("{}{}{}").format(created, table, executes), sql.SQL("ALTER TABLE {}{}").format(table, enables)]
    if is_partitioned:
        parts = sql.SQL(_OF_PARTITIONS).format(
            table=sql.Literal(table.as_string(None)), alter=sql.Literal("ALTER TABLE ONLY "),
            create=sql.Literal(created.as_string(None)), execute=sql.Literal(executes.as_string(None)),
            enable=sql.Literal(enables.as_string(None)),
        )  # fmt: skip
        found.append(do(parts))
    return found


def tracker_name(table: sql.Identifier, statement: str) -> str:
    """Return the name of the tracker of a loop: the same in every plan of the same text."""
    about = "\0".join([table.as_string(None), statement])
    return "moves_" + hashlib.sha256(about.encode()).hexdigest()[:16]


def _list(names: Sequence[str]) -> sql.Composable:
    return sql.SQL(", ").join(map(sql.Identifier, names))
