"""Giving back what was kept: exactly the rows that nobody has changed since, batch by batch, on after a crash.

1. Where it is to stop at conflicts, all tables are compared before anything is changed.
2. The side table is walked through from its last page to its first: what was changed last is taken back first, as
   unique values that rows took over from each other require it.
3. A batch is a transaction with the row that says how far it is. Whether a row is untouched is judged inside the
   statement that changes it: what somebody writes meanwhile stays.
4. What a DELETE reached is given back after it, parents first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from psycopg import sql

from pgrunbook.database import connection
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load
from pgrunbook.errors import Refused
from pgrunbook.undo_data.comparison import Comparison, compared
from pgrunbook.undo_data.conflicts import Conflicts, conflicts, family, later, left_of
from pgrunbook.undo_data.registry import UndoEntry, mark
from pgrunbook.undo_data.tables import rows as found_rows

BATCH_ROWS = 5_000
LOCK_TIMEOUT_MS = 2_000
STATEMENT_TIMEOUT_MS = 30_000
WHOLE_TIMEOUT_MS = 3_600_000

OnConflict = Literal["keep", "restore", "stop"]

_SHOWN = 5
_PAGES_LOOKED_AT = 10
# Rows are found by their key, whatever the planner expects of a side table that nobody has analyzed.
_SETTINGS = "; ".join(
    f"SET LOCAL {name}"
    for name in (
        "enable_hashjoin = off", "enable_mergejoin = off", "enable_seqscan = off", "jit = off", "DateStyle = ISO",
    )
)  # fmt: skip

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RevertResult:
    """How many rows were given back, and those that were left as they are."""

    rows: int
    left: Conflicts


def give_back(
    conn: Connection,
    kept: UndoEntry,
    *,
    on_conflict: OnConflict = "stop",
    rows: int = BATCH_ROWS,
    on_batch: Callable[[int], None] = lambda _: None,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
) -> RevertResult:
    """Give back what one step changed; go on where an earlier call was cut off.

    ``on_conflict`` says what becomes of rows that somebody has changed since: ``keep`` leaves them, ``restore``
    overwrites them (a row that somebody has deleted stays deleted, one that others refer to stays there), ``stop``
    refuses to begin. What is changed while it runs is left as it is in all but ``restore``. ``on_batch`` is called
    with the number of rows so far, after each commit. The connection must be in autocommit mode. The table's own
    triggers fire.

    Raises Refused with the conflicts, before anything is changed; Broken when the table is not as it was;
    psycopg's errors as they come: what was committed stays, and the same call goes on.
    Locks: RowExclusiveLock on the table, and the rows of one batch.
    """
    later_ones = [one for thing in family(conn, kept) for one in later(conn, thing)]
    if later_ones:
        raise Refused(
            f"cannot give back step {kept.step} of {kept.migration} before what came after it",
            detail=f"Step {later_ones[0].step} changed rows of table {later_ones[0].table} again.",
            hint="Give back what was kept last first, in the order of of_migration.",
        )
    if on_conflict == "stop":
        _stop_at(conflicts(conn, kept), kept.migration)
    given, left = 0, Conflicts(0, ())
    for thing in family(conn, kept):
        count = thing.rows_given_back
        if thing.state != "given back":
            both = compared(conn, thing)
            count = _Loop(both, on_conflict == "restore", rows, lock_timeout_ms, statement_timeout_ms).run(on_batch)
            left += left_of(conn, thing, given_back=count)
            mark(conn, [thing.id], "given back")
            log.info("gave back %s rows to %s", count, thing.table)
        given += count
    return RevertResult(given, left)


def _stop_at(found: Conflicts, migration: str) -> None:
    if found:
        shown = [conflict.line() for conflict in found.samples[:_SHOWN]]
        more = [f"and {found.rows - len(shown)} more"] if found.rows > len(shown) else []
        raise Refused(
            f"{found.rows} rows that {migration} changed were changed by somebody since",
            detail="".join(f"\n  {line}" for line in (*shown, *more)),
            hint="Decide: on_conflict = keep leaves these rows as they are, restore overwrites them.",
        )


@dataclass(frozen=True)
class _Loop:
    """The loop over one side table."""

    both: Comparison
    overwrites: bool
    rows: int
    lock_timeout_ms: int
    statement_timeout_ms: int

    @property
    def conn(self) -> Connection:
        return self.both.conn

    def run(self, on_batch: Callable[[int], None]) -> int:
        """Give everything back; return the number of rows."""
        kept = self.both.kept
        if kept.pages_left is None:
            self.conn.execute(load("undo_data")["begin_reverting"].encode(), {"id": kept.id, "pages": self._pages()})
        pages = self._pages_per_batch()
        while True:
            before, after, given = self._batch(pages)
            if before:
                on_batch(given)
            if not after:
                return given

    def _batch(self, pages: int) -> tuple[int, int, int]:
        """Give back the last pages that are left; return how many were left, how many are now, and the rows so far."""
        timeout_ms = WHOLE_TIMEOUT_MS if self.both.table.references_itself else self.statement_timeout_ms
        with self.conn.transaction():
            connection.limit_locally(self.conn, lock_timeout_ms=self.lock_timeout_ms, statement_timeout_ms=timeout_ms)
            self.conn.execute(_SETTINGS.encode())
            (before,) = found_rows(self.conn, "read_reverting", id=self.both.kept.id)
            upto, given = int(before["pages_left"]), int(before["rows_given_back"])
            if upto == 0:
                return 0, 0, given
            after = max(0, upto - pages)
            statements = list(self._statements(after, upto))
            with self.conn.as_target():  # triggers of the application fire
                given += sum(self.conn.execute(statement).rowcount for statement in statements)
            values = {"id": self.both.kept.id, "pages_left": after, "rows_given_back": given}
            self.conn.execute(load("undo_data")["write_reverting"].encode(), values)
        return upto, after, given

    def _statements(self, first: int, end: int) -> list[sql.Composed]:
        """Compose what gives back the rows of some pages."""
        pages = sql.SQL(
            "(SELECT * FROM {} AS s WHERE s.ctid >= {}::pg_catalog.tid AND s.ctid < {}::pg_catalog.tid"
            " ORDER BY s.ctid DESC OFFSET 0) AS k"
        ).format(self.both.kept.side, sql.Literal(f"({first},0)"), sql.Literal(f"({end},0)"))
        if self.both.kept.kind == "update":
            return [self._update(pages, None if self.overwrites else self.both.is_untouched)]
        if self.both.kept.kind == "insert":
            self.conn.execute(self._lock(pages))
            return [self._delete(pages)]
        differs = sql.SQL("{} <> {}").format(self.both.hash_now, self.both.hash_before)
        overwriting = [self._update(pages, differs)] if self.overwrites and self.both.columns else []
        return [*overwriting, self._insert(pages)]

    def _update(self, pages: sql.Composable, condition: sql.Composable | None) -> sql.Composed:
        columns = [column for column in self.both.columns if not column.is_identity_always]
        assigned = [sql.SQL("{} = {}").format(sql.Identifier(c.name), self.both.given_back(c)) for c in columns]
        return sql.SQL("UPDATE {} AS t SET {} FROM {} WHERE {}{}").format(
            self.both.table.source,
            sql.SQL(", ").join(assigned),
            pages,
            self.both.matches,
            sql.SQL(" AND {}").format(condition) if condition is not None else sql.SQL(""),
        )

    def _insert(self, pages: sql.Composable) -> sql.Composed:
        table, both = self.both.table, self.both
        keys = [
            (column, column.given_back(sql.Identifier("k", f"pgrunbook_key_{number + 1}")))
            for number, column in enumerate(table.named(table.key))
            if not column.is_generated
        ]
        pairs = [*keys, *((column, both.given_back(column)) for column in both.columns)]
        return sql.SQL(
            "INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {pages}"
            " WHERE NOT EXISTS (SELECT FROM {source} AS t WHERE {matches}){quietly}"
        ).format(
            table=table.name.identifier(),
            names=sql.SQL(", ").join(sql.Identifier(column.name) for column, _ in pairs),
            values=sql.SQL(", ").join(value for _, value in pairs),
            pages=pages,
            source=table.source,
            matches=both.matches,
            quietly=sql.SQL("" if table.has_deferrable_key else " ON CONFLICT DO NOTHING"),
        )

    def _lock(self, pages: sql.Composable) -> sql.Composed:
        """Lock the rows that are to go, so that none comes that refers to them."""
        return sql.SQL("SELECT FROM {} AS t, {} WHERE {} FOR UPDATE OF t").format(
            self.both.table.source, pages, self.both.matches
        )

    def _delete(self, pages: sql.Composable) -> sql.Composed:
        untouched = sql.SQL("true") if self.overwrites else self.both.is_untouched
        return sql.SQL("DELETE FROM {} AS t USING {} WHERE {} AND {} AND NOT {}").format(
            self.both.table.source, pages, self.both.matches, untouched, self.both.is_referred_to
        )

    def _pages(self) -> int:
        found = self.conn.execute(
            "SELECT pg_catalog.pg_relation_size(%s::pg_catalog.regclass)"
            " / pg_catalog.current_setting('block_size')::pg_catalog.int8",
            [self.both.kept.side.as_string(None)],
        ).fetchone()
        return int(str(found[0])) if found else 0

    def _pages_per_batch(self) -> int:
        """Return how many pages hold a batch; all where rows refer to each other, and so have to come together."""
        if self.both.table.references_itself:
            return max(1, self._pages())
        query = sql.SQL("SELECT pg_catalog.count(*) FROM {} AS k WHERE k.ctid < {}::pg_catalog.tid")
        last = sql.Literal(f"({_PAGES_LOOKED_AT},0)")
        found = self.conn.execute(query.format(self.both.kept.side, last)).fetchone()
        on_a_page = max(1, int(str(found[0])) // min(_PAGES_LOOKED_AT, max(1, self._pages()))) if found else 1
        return max(1, self.rows // on_a_page)
