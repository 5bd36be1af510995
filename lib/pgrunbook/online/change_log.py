"""The log of changes of a table that is synchronised with another: which keys were written, and whether it was emptied.

A trigger notes the key of each row that is written, the old and the new one where they differ, in the writer's own
transaction. It notes no values: whoever brings the other table up to date reads the row as it is by then. So an update
to NULL, of the key, or of a generated column needs no rule of its own, and what is read twice is right twice.

:func:`drain` brings one table up to date with the other in one snapshot:

1. Rows of the other table whose keys are in the log go; where the table was emptied, all of them.
2. The rows that have these keys now are written.
3. The log of that snapshot is emptied.

All is of one snapshot, or behind a lock that no writer shares. A change is in the snapshot with its note, or neither
is. So behind it both tables hold the same rows, as of that snapshot, and all constraints that hold in the one hold in
the other; within step 2 too, for the rows of step 1 are gone.

Source: https://www.postgresql.org/docs/current/transaction-iso.html#XACT-REPEATABLE-READ
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from pgrunbook.database import own_schema
from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import Connection
from pgrunbook.database.row_tracker import FIRST, truncate_triggers
from pgrunbook.online.swap_store import SCHEMA, SwapSide, SwapState, TableSwap

FEW_NOTES = 20_000
_BODY = """
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO {log} (is_emptied) VALUES (true);
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO {log} ({columns}) VALUES ({old});
    END IF;
    IF TG_OP = 'INSERT' OR TG_OP = 'UPDATE' AND CAST(ROW({old}) AS record) *<> CAST(ROW({new}) AS record) THEN
        INSERT INTO {log} ({columns}) VALUES ({new});
    END IF;
    RETURN NULL;
END
"""


@dataclass(frozen=True)
class ChangeLog:
    """The log of a table's changes, and the trigger that writes it; ``side`` is the side of the table."""

    name: str
    table: TableName
    key: tuple[str, ...]
    side: SwapSide

    @property
    def log(self) -> sql.Identifier:
        """The table of the log."""
        return sql.Identifier(SCHEMA, self.name)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the key in the log."""
        return tuple(f"pgrunbook_key_{number}" for number in range(1, len(self.key) + 1))

    def create(self, conn: Connection) -> None:
        """Create the log and the function of its triggers; what is left of an earlier one goes."""
        for statement in self.drop():
            conn.execute(statement)
        made = [
            sql.SQL("{} {}{}").format(
                sql.Identifier(name), sql.SQL(type_), sql.SQL(f" COLLATE {collation}" if collation else "")
            )
            for name, type_, collation in zip(self.columns, self.side.types, self.side.collations, strict=True)
        ]
        conn.execute(
            sql.SQL("CREATE TABLE {} (is_emptied pg_catalog.bool NOT NULL DEFAULT false, {})").format(
                self.log, sql.SQL(", ").join(made)
            )
        )
        body = sql.SQL(_BODY).format(
            log=self.log, columns=_names(self.columns), old=_names(self.key, "old"), new=_names(self.key, "new")
        )
        conn.execute(
            sql.SQL(
                "CREATE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
                " SET search_path = pg_catalog, pg_temp AS {}"
            ).format(self._function, sql.Literal(body.as_string(conn)))
        )
        conn.execute(sql.SQL("REVOKE ALL ON FUNCTION {}() FROM PUBLIC").format(self._function))
        own_schema.hide(conn, self.name, f"note_{self.name}")

    def watch(self, *, is_partitioned: bool) -> list[sql.Composed]:
        """Return the statements that create the triggers: from the commit on, every writer notes what they write.

        Locks: ShareRowExclusiveLock on the table and its partitions: whoever wrote before has ended by then.
        """
        name = sql.Identifier(self._trigger)
        made = sql.SQL("CREATE TRIGGER {} AFTER INSERT OR UPDATE OR DELETE ON {} FOR EACH ROW EXECUTE FUNCTION {}()")
        return [
            made.format(name, self.table.identifier(), self._function),
            sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(self.table.identifier(), name),
            *truncate_triggers(
                self.table.identifier(), f"{self._trigger}_emptied", self._function, is_partitioned=is_partitioned
            ),
        ]

    def drop(self) -> list[sql.Composed]:
        """Return the statements that drop the log with its triggers, wherever they are.

        Locks: AccessExclusiveLock on the table of the triggers.
        """
        return [
            sql.SQL("DROP TABLE IF EXISTS {}").format(self.log),
            sql.SQL("DROP FUNCTION IF EXISTS {}() CASCADE").format(self._function),
        ]

    def noted(self, conn: Connection) -> tuple[int, bool]:
        """Return how many notes the log holds, and whether the table was emptied since the last drain."""
        query = sql.SQL("SELECT pg_catalog.count(*), coalesce(pg_catalog.bool_or(c.is_emptied), false) FROM {} AS c")
        notes, was_emptied = conn.execute(query.format(self.log)).fetchone() or (0, False)
        return int(str(notes)), bool(was_emptied)

    def keys(self) -> sql.Composed:
        """Return the query for the keys that were written, each once."""
        return sql.SQL("(SELECT DISTINCT {} FROM {} AS c WHERE NOT c.is_emptied)").format(
            _names(self.columns, "c"), self.log
        )

    @property
    def _function(self) -> sql.Identifier:
        return sql.Identifier(SCHEMA, f"note_{self.name}")

    @property
    def _trigger(self) -> str:
        return f"{FIRST}_{self.name}"


def of_live(swap: TableSwap) -> ChangeLog:
    """Return the log of the table that the application writes to."""
    return ChangeLog(swap.changes, swap.table, swap.plan.key, swap.live_side)


def drain(conn: Connection, swap: TableSwap) -> int:
    """Bring the other table up to date; return how many notes there were.

    Call it in a transaction that is REPEATABLE READ, or that holds a lock on the live table which no writer shares.
    Locks: RowExclusiveLock on the other table; AccessExclusiveLock where the live table was emptied.
    """
    notes, was_emptied = of_live(swap).noted(conn)
    if notes:
        Drain.of(conn, swap).run(conn, notes, was_emptied=was_emptied)
    return notes


@dataclass(frozen=True)
class Drain:
    """A drain that is composed, for a time when each round trip counts; ``stash`` holds what the other table keeps."""

    log: ChangeLog
    is_few_known: bool
    stash: tuple[sql.Composed, ...]
    by_key: tuple[sql.Composed, ...]
    emptied: tuple[sql.Composed, ...]

    @classmethod
    def of(cls, conn: Connection, swap: TableSwap) -> Drain:
        """Compose a drain."""
        log, kept = of_live(swap), _kept(conn, swap)
        source, target = whole(conn, swap.table), swap.other.identifier()
        other_keys = _equal("t", swap.plan.key, "c", log.columns, swap.other_side, casts=True)
        stash = sql.SQL(
            "CREATE TEMPORARY TABLE pgrunbook_stash ON COMMIT DROP AS SELECT {} FROM {} AS t JOIN {} AS c ON {}"
        ).format(_names([*swap.plan.key, *kept], "t"), target, log.keys(), other_keys)
        live_keys = _equal("s", swap.plan.key, "c", log.columns, swap.live_side)
        joined = sql.SQL(" JOIN {} AS c ON {}").format(log.keys(), live_keys)
        gone = sql.SQL("DELETE FROM {} AS t USING {} AS c WHERE {}").format(target, log.keys(), other_keys)
        return cls(
            log,
            swap.state in (SwapState.READY, SwapState.CUT_OVER),
            (stash,) if kept else (),
            (gone, *_written(swap, source, target, joined, kept)),
            (sql.SQL("TRUNCATE {}").format(target), *_written(swap, source, target, sql.SQL(""), kept)),
        )

    def plan(self, conn: Connection) -> None:
        """Let the server plan it once, so that what it has to read for that is at hand. Locks: as the drain."""
        with conn.as_target():
            for statement in self.by_key if not self.stash else ():
                conn.execute(sql.SQL("EXPLAIN {}").format(statement))

    def run(self, conn: Connection, notes: int, *, was_emptied: bool) -> None:
        """Execute it, in one round trip; nothing else is read before."""
        script: list[sql.Composable] = [*self.stash, *(self.emptied if was_emptied else self.by_key)]
        if self.is_few_known and notes <= FEW_NOTES:
            # By the index on the key: the log was never analysed, and its dead rows let the server expect many more.
            script.insert(0, sql.SQL("SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"))
        script.append(sql.SQL("DELETE FROM {}").format(self.log.log))
        if self.stash:
            script.append(sql.SQL("DROP TABLE pg_temp.pgrunbook_stash"))
        with conn.as_target():
            conn.execute(sql.SQL("; ").join(script))


def _written(
    swap: TableSwap, source: sql.Composable, target: sql.Composable, joined: sql.Composable, kept: Sequence[str]
) -> list[sql.Composed]:
    """Return the statements that write rows; columns that only the other table has keep what they held."""
    insert = sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} AS s{}")
    names, values = filled(swap.other_side)
    if not kept:
        return [insert.format(target, names, values, source, joined)]
    stashed = [sql.SQL("CAST({} AS {})").format(value(expression), sql.SQL(type_)) for expression, type_ in
               zip(_key_values(swap), swap.other_side.types, strict=True)]  # fmt: skip
    match = sql.SQL(" AND ").join(
        sql.SQL("h.{} {} {}").format(sql.Identifier(column), sql.SQL(operator), expression)
        for column, operator, expression in zip(swap.plan.key, swap.other_side.operators, stashed, strict=True)
    )
    both = sql.SQL("{}, {}").format(names, _names(kept))
    back = sql.SQL("{}, {}").format(values, _names(kept, "h"))
    known = sql.SQL("{} JOIN pg_temp.pgrunbook_stash AS h ON {}").format(joined, match)
    unknown = sql.SQL("{} WHERE NOT EXISTS (SELECT FROM pg_temp.pgrunbook_stash AS h WHERE {})").format(joined, match)
    return [insert.format(target, both, back, source, known), insert.format(target, names, values, source, unknown)]


def _key_values(swap: TableSwap) -> list[str]:
    given = dict(swap.other_side.filled)
    return [given[column] for column in swap.plan.key]


def filled(side: SwapSide) -> tuple[sql.Composable, sql.Composable]:
    """Return the columns of a side that are written, and their values from a row ``s`` of the other side."""
    names = [column for column, _ in side.filled]
    return _names(names), sql.SQL(", ").join(value(expression) for _, expression in side.filled)


def value(expression: str) -> sql.SQL:
    """Return an expression of the operator, or of ours, as it is."""
    return sql.SQL(expression)


def _kept(conn: Connection, swap: TableSwap) -> list[str]:
    """Return the columns of the other table that are not written from the live one, and not generated."""
    given = {column for column, _ in swap.other_side.filled}
    query = (
        "SELECT a.attname::text FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = pg_catalog.to_regclass(%s)::oid"
        " AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum"
    )
    return [str(name) for (name,) in conn.execute(query, [str(swap.other)]) if name not in given]


def _equal(
    one: str, columns: Sequence[str], other: str, others: Sequence[str], side: SwapSide, *, casts: bool = False
) -> sql.Composed:
    """Return the condition that a row has a key of the log, by the operators of the index on its table."""
    pairs = []
    for column, logged, operator, type_ in zip(columns, others, side.operators, side.types, strict=True):
        right: sql.Composable = sql.Identifier(other, logged)
        right = sql.SQL("CAST({} AS {})").format(right, sql.SQL(type_)) if casts else right
        pairs.append(sql.SQL("{} {} {}").format(sql.Identifier(one, column), sql.SQL(operator), right))
    return sql.SQL(" AND ").join(pairs)


def is_partitioned(conn: Connection, table: TableName) -> bool:
    """Tell whether a table is partitioned."""
    query = "SELECT c.relkind = 'p' FROM pg_catalog.pg_class AS c WHERE c.oid = pg_catalog.to_regclass(%s)::oid"
    return conn.execute(query, [str(table)]).fetchone() == (True,)


def whole(conn: Connection, table: TableName) -> sql.Composed:
    """Return the rows of a table without those of tables that inherit from it, but with those of its partitions."""
    return sql.SQL("{}{}").format(sql.SQL("" if is_partitioned(conn, table) else "ONLY "), table.identifier())


def _names(columns: Sequence[str], of: str = "") -> sql.Composable:
    return sql.SQL(", ").join(sql.Identifier(*filter(None, [of, column])) for column in columns)
