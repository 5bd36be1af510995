"""Revert of captured rows: those that nobody has changed since, in batches, resumed after a crash.

1. With on_conflict = stop, compare all tables before anything is changed.
2. Read the side table from its last page to its first: what was changed last is reverted first, for rows may have
   taken over unique values from each other.
3. Revert each batch in one transaction with the record of its progress. The statement that reverts a row also checks
   that it is unchanged: what somebody writes meanwhile stays.
4. Revert the tables that a DELETE cascaded into after its own, parents first; those that refer to each other in a
   circle in rounds (``circles``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import psycopg
from psycopg import sql

from pgrunbook.database import connection
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load
from pgrunbook.display.prose import counted
from pgrunbook.errors import Refused
from pgrunbook.undo_data.circles import circle_of, insert_rest
from pgrunbook.undo_data.comparison import Comparison, compare
from pgrunbook.undo_data.conflicts import Conflict, Conflicts, EachConflict, conflicts, family, later, left_of
from pgrunbook.undo_data.refused_rows import put_aside, revert_aside, revert_in_turn
from pgrunbook.undo_data.registry import UndoEntry, mark, stop_following
from pgrunbook.undo_data.revert_pace import TIMEOUTS, RevertPace, RevertThrottle, side_pages
from pgrunbook.undo_data.row_notes import ARRIVED, GONE, HASH, label_of, labelled, returned
from pgrunbook.undo_data.silence import silenced
from pgrunbook.undo_data.tables import rows as found_rows

BATCH_ROWS = 5_000
LOCK_TIMEOUT_MS = 2_000
STATEMENT_TIMEOUT_MS = 30_000
WHOLE_TIMEOUT_MS = 3_600_000

OnConflict = Literal["keep", "restore", "stop"]
# How to go on, as a clause, where the server refuses rows as they were before.
LEAVE_REFUSED = "roll back with -p on_conflict=keep, which leaves the rows whose old values the server refuses"

# Rows are found by their key, whatever the planner expects of a side table without statistics.
_SETTINGS = "; ".join(
    f"SET LOCAL {name}"
    for name in (
        "enable_hashjoin = off", "enable_mergejoin = off", "enable_seqscan = off", "jit = off", "DateStyle = ISO",
    )
)  # fmt: skip

log = logging.getLogger(__name__)


LeftRows = Callable[[UndoEntry], AbstractContextManager[EachConflict]]


def _untold(_: UndoEntry) -> AbstractContextManager[EachConflict]:
    def ignored(_: Conflict) -> None:
        """They are counted only."""

    return nullcontext(ignored)


@dataclass(frozen=True)
class RevertResult:
    """How many rows were reverted, and those that were left unchanged."""

    rows: int
    left: Conflicts


def revert(
    conn: Connection,
    entry: UndoEntry,
    *,
    on_conflict: OnConflict = "stop",
    rows: int = BATCH_ROWS,
    later_times: int = 1,
    on_batch: Callable[[int], None] = lambda _: None,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
    fires_triggers: bool = True,
    leaves_refused: bool = True,
    left_rows: LeftRows = _untold,
    throttle: RevertThrottle | None = None,
) -> RevertResult:
    """Revert the rows that one step changed; resume where an earlier call was interrupted.

    A batch has ``rows``, after the first one ``later_times`` as many; or what a ``throttle`` gives it.
    ``on_conflict`` decides about rows that somebody has changed since: ``keep`` leaves them, ``restore`` overwrites
    them (a row that somebody has deleted stays deleted, an inserted one that others refer to stays), ``stop`` refuses
    to begin. Rows changed while it runs are overwritten by ``restore`` only. ``on_batch`` gets the number of rows so
    far, after each commit. The connection must be in autocommit mode. Without ``fires_triggers`` those of the
    application are silent; then check the foreign keys behind it. Rows that the server refuses are left and returned;
    without ``leaves_refused`` its error is raised. ``left_rows`` yields, for an entry, what takes each row left.

    Raises Refused with the conflicts, before anything is changed; Broken when the table has changed; psycopg's
    errors unchanged: what was committed stays, and the same call resumes.
    Locks: RowExclusiveLock on the table, and the rows of one batch.
    """
    if later_ones := [one for thing in family(conn, entry) for one in later(conn, thing)]:
        raise Refused(
            f"cannot revert step {entry.step} of {entry.migration} before a later step",
            detail=f"Step {later_ones[0].step} changed rows of table {later_ones[0].table} again.",
            hint="Revert the latest step first, in the order of entries_of_migration.",
        )
    if on_conflict == "stop":
        _stop_at(conflicts(conn, entry), entry.migration)
    given, left = 0, Conflicts(0, ())
    circle = circle_of(conn, entry)
    loop = partial(
        _Loop, overwrites=on_conflict == "restore", rows=rows, later_times=later_times, lock_timeout_ms=lock_timeout_ms,
        statement_timeout_ms=statement_timeout_ms, fires_triggers=fires_triggers, leaves_refused=leaves_refused,
        is_in_circle=bool(circle), throttle=throttle,
    )  # fmt: skip
    for thing in family(conn, entry):
        count = thing.rows_given_back
        if thing.state != "given back":
            count = loop(compare(conn, thing)).run(on_batch)
            ends = [thing]
            if circle:
                ends = circle if all(one.state == "given back" for one in circle if one.id != thing.id) else []
                rest = [loop(compare(conn, one)).insert_rest for one in ends]
                count += insert_rest(conn, ends, rest, is_silent=not fires_triggers, leaves_refused=leaves_refused)
            for one in ends:
                with left_rows(one) as each:
                    left += left_of(conn, one, reverted=None if circle else count, each=each)
            _end(conn, thing, lock_timeout_ms=lock_timeout_ms, statement_timeout_ms=statement_timeout_ms)
            log.info("reverted %s rows of %s", count, thing.table)
        given += count
    return RevertResult(given, left)


def _stop_at(found: Conflicts, migration: str) -> None:
    if found:
        them = "it" if found.rows == 1 else "them"
        raise Refused(
            f"somebody has changed {counted(found.rows, 'row')} since {migration} changed {them}",
            detail=found.lines(),
            hint="Choose on_conflict: keep leaves these rows unchanged, restore overwrites them.",
        )


def _end(conn: Connection, thing: UndoEntry, *, lock_timeout_ms: int, statement_timeout_ms: int) -> None:
    with conn.transaction():
        connection.limit_locally(conn, lock_timeout_ms=lock_timeout_ms, statement_timeout_ms=statement_timeout_ms)
        found_rows(conn, "read_revert", id=thing.id)  # another session that reverts the same step ends it first
        stop_following(conn, thing.kept_as)
        mark(conn, [thing.id], "given back")


@dataclass(frozen=True)
class _Loop:
    """The loop over one side table."""

    both: Comparison
    overwrites: bool
    rows: int
    later_times: int
    lock_timeout_ms: int
    statement_timeout_ms: int
    fires_triggers: bool
    leaves_refused: bool
    is_in_circle: bool = False
    throttle: RevertThrottle | None = None
    refused: list[int] = field(default_factory=list)

    @property
    def conn(self) -> Connection:
        return self.both.conn

    def run(self, on_batch: Callable[[int], None]) -> int:
        """Revert everything; return the number of rows. Raises Interrupted, Blocked as ``database.control``."""
        entry = self.both.entry
        if entry.pages_left is None:
            self.conn.execute(
                load("undo_data")["begin_revert"].encode(), {"id": entry.id, "pages": side_pages(self.conn, entry)}
            )
        pace = RevertPace(
            self.conn, entry, self.rows, self.later_times, self.throttle, is_whole=self.both.table.references_itself
        )
        while True:
            pace.turn()
            try:
                before, after, given = self._batch(pace.pages)
            except TIMEOUTS as exc:
                if not pace.may_retry(exc):
                    raise
                continue
            pace.worked(given)
            if before:
                on_batch(given)
            if not after:
                return given + self._moved()

    def insert_rest(self, has_parents: bool) -> int:
        """Insert captured rows that are not there, whose parents are there only or all; return how many."""
        side = sql.SQL("{} AS k").format(self.both.entry.side)
        with self.conn.transaction():
            connection.limit_locally(
                self.conn, lock_timeout_ms=self.lock_timeout_ms, statement_timeout_ms=WHOLE_TIMEOUT_MS
            )
            statement = self._insert(side, self.both.has_all_parents if has_parents else sql.SQL("true"))
            with nullcontext() if self.fires_triggers else silenced(self.conn), self.conn.as_target():
                given = self.conn.execute(statement).rowcount
            for note in self._notes():
                self.conn.execute(note.encode())
        return given

    def _moved(self) -> int:
        """Revert rows whose key has changed meanwhile: what was captured of them has another place by then."""
        if self.both.entry.kind != "update" or ARRIVED not in self.both.side_columns:
            return 0
        side = sql.SQL("(SELECT s.xmin, s.* FROM {} AS s WHERE s.{} IS NOT NULL) AS k").format(
            self.both.entry.side, sql.Identifier(ARRIVED)
        )
        statement = self._update(side, self.both.is_untouched)
        with self.conn.transaction():
            connection.limit_locally(
                self.conn, lock_timeout_ms=self.lock_timeout_ms, statement_timeout_ms=WHOLE_TIMEOUT_MS
            )
            with nullcontext() if self.fires_triggers else silenced(self.conn), self.conn.as_target():
                return self.conn.execute(statement).rowcount

    def _batch(self, pages: int) -> tuple[int, int, int]:
        """Revert the last pages that are left; return the pages left before and after, and the rows so far."""
        timeout_ms = WHOLE_TIMEOUT_MS if self.both.table.references_itself else self.statement_timeout_ms
        with self.conn.transaction():
            connection.limit_locally(self.conn, lock_timeout_ms=self.lock_timeout_ms, statement_timeout_ms=timeout_ms)
            self.conn.execute(_SETTINGS.encode())
            (before,) = found_rows(self.conn, "read_revert", id=self.both.entry.id)
            upto, given = int(before["pages_left"]), int(before["rows_given_back"])
            if upto == 0:
                return 0, 0, given
            after = max(0, upto - pages)
            with nullcontext() if self.fires_triggers else silenced(self.conn):
                more, after = self._reverted(after, upto)
                given += more
            for statement in self._notes():
                self.conn.execute(statement.encode())
            values = {"id": self.both.entry.id, "pages_left": after, "rows_given_back": given}
            self.conn.execute(load("undo_data")["write_revert"].encode(), values)
        return upto, after, given

    def _reverted(self, after: int, upto: int) -> tuple[int, int]:
        """Revert rows of these pages, or of all that are left; return how many, and the pages that are left then.

        Where keys are checked at the end of a statement, rows of later batches may have what these rows need.
        """
        for first in (after, 0) if self.both.table.has_deferrable_key and not self.refused else (after,):
            try:
                with self.conn.transaction():
                    return self._revert(self._span(first, upto)), first
            except psycopg.IntegrityError as exc:
                log.info("%s refuses rows of %s: %s", "the server", self.both.entry.table, exc.diag.message_primary)
                refusal = exc
        self.refused.append(upto)
        places = self.conn.execute(sql.SQL("SELECT k.ctid::pg_catalog.text FROM {}").format(self._span(after, upto)))
        given, left = revert_in_turn(self.conn, lambda some: self._revert(_at(self.both, some)),
                                     [str(place) for (place,) in places.fetchall()])  # fmt: skip
        assigned = put_aside(self.conn, self.both.table, self.both.columns, self.both.entry.key)
        if left and assigned and self.both.entry.kind == "update":
            more, left = revert_aside(
                self.conn, lambda some: self._aside(assigned, some),
                lambda some: self._revert(_at(self.both, some), is_checked=True), left,
            )  # fmt: skip
            given += more
        if left and not self.leaves_refused:
            raise refusal
        return given, after

    def _revert(self, pages: sql.Composable, *, is_checked: bool = False) -> int:
        """Revert captured rows; ``is_checked`` where they were not changed by anybody else."""
        statements = self._statements(pages, is_checked=is_checked)  # it asks, and not as the target
        with self.conn.as_target():
            given = sum(self.conn.execute(each).rowcount for each in statements)
            if self.both.table.has_deferrable_key or self.both.table.has_deferrable_reference:
                self.conn.execute("SET CONSTRAINTS ALL IMMEDIATE")
        return given

    def _aside(self, assigned: Sequence[sql.Composable], places: Sequence[str]) -> int:
        """Set unique values of rows aside, one after the other; raise what a row that somebody has changed is."""
        statement = sql.SQL("UPDATE {} AS t SET {} FROM {} WHERE {}{}")
        condition = sql.SQL("") if self.overwrites else sql.SQL(" AND {}").format(self.both.is_untouched)
        updates = [
            statement.format(
                self.both.table.source, sql.SQL(", ").join(assigned), _at(self.both, [place]), self.both.matches,
                condition,
            )
            for place in places
        ]  # fmt: skip
        with self.conn.as_target():
            found = [self.conn.execute(each).rowcount for each in updates]
        if 0 in found:
            raise psycopg.IntegrityError("somebody has changed one of the rows meanwhile")
        return sum(found)

    def _notes(self) -> list[str]:
        """Return the statements that let what other steps have captured go and return with these rows."""
        entry, table = self.both.entry, self.both.table
        if entry.kind == "insert":
            return labelled(self.conn, table, label_of(entry.migration))
        return returned(self.conn, table, label_of(entry.migration, entry.step)) if entry.kind == "delete" else []

    def _span(self, first: int, end: int) -> sql.Composed:
        """Return some pages of the side table, what was changed last first."""
        return sql.SQL(
            "(SELECT s.ctid, s.xmin, s.* FROM {} AS s"
            " WHERE s.ctid >= {}::pg_catalog.tid AND s.ctid < {}::pg_catalog.tid ORDER BY s.ctid DESC OFFSET 0) AS k"
        ).format(self.both.entry.side, sql.Literal(f"({first},0)"), sql.Literal(f"({end},0)"))

    def _statements(self, pages: sql.Composable, *, is_checked: bool) -> list[sql.Composed]:
        """Compose the statements that revert the rows of some pages."""
        if self.both.entry.kind == "update":
            return [self._update(pages, None if self.overwrites or is_checked else self.both.is_untouched)]
        if self.both.entry.kind == "insert":
            self.conn.execute(self._lock(pages))
            return [self._delete(pages)]
        differs = sql.SQL("{} <> {}").format(self.both.hash_now, self.both.hash_before)
        overwriting = [self._update(pages, differs)] if self.overwrites and self.both.columns else []
        if self.is_in_circle:
            return [*overwriting, self._insert(pages, self.both.has_all_parents)]
        is_checked = self.fires_triggers or not self.leaves_refused
        return [*overwriting, self._insert(pages, sql.SQL("true") if is_checked else self.both.has_parents)]

    def _update(self, pages: sql.Composable, condition: sql.Composable | None) -> sql.Composed:
        columns = [column for column in self.both.columns if not column.is_identity_always]
        if not self.fires_triggers and self.leaves_refused:
            condition = sql.SQL(" AND ").join([*filter(None, [condition]), self.both.has_parents])
        assigned = [sql.SQL("{} = {}").format(sql.Identifier(c.name), self.both.reverted(c)) for c in columns]
        return sql.SQL("UPDATE {} AS t SET {} FROM {} WHERE {}{}").format(
            self.both.table.source,
            sql.SQL(", ").join(assigned),
            pages,
            self.both.matches,
            sql.SQL(" AND {}").format(condition) if condition is not None else sql.SQL(""),
        )

    def _insert(self, pages: sql.Composable, has_parents: sql.Composable) -> sql.Composed:
        table, both = self.both.table, self.both
        keys = [
            (column, column.reverted(sql.Identifier("k", f"pgrunbook_key_{number + 1}")))
            for number, column in enumerate(table.named(table.key))
            if not column.is_generated
        ]
        pairs = [*keys, *((column, both.reverted(column)) for column in both.columns)]
        return sql.SQL(
            "INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {pages}"
            " WHERE {has_parents} AND NOT EXISTS (SELECT FROM {source} AS t WHERE {matches}){quietly}"
        ).format(
            table=table.name.identifier(),
            names=sql.SQL(", ").join(sql.Identifier(column.name) for column, _ in pairs),
            values=sql.SQL(", ").join(value for _, value in pairs),
            pages=pages,
            has_parents=has_parents,
            source=table.source,
            matches=both.matches,
            quietly=sql.SQL("" if table.has_deferrable_key else " ON CONFLICT DO NOTHING"),
        )

    def _lock(self, pages: sql.Composable) -> sql.Composed:
        """Lock the rows to delete, so that nobody inserts a row that refers to them."""
        return sql.SQL("SELECT FROM {} AS t, {} WHERE {} FOR UPDATE OF t").format(
            self.both.table.source, pages, self.both.matches
        )

    def _delete(self, pages: sql.Composable) -> sql.Composed:
        untouched = sql.SQL("true") if self.overwrites else self.both.is_untouched
        deleted = sql.SQL("DELETE FROM {} AS t USING {} WHERE {} AND {} AND NOT {}").format(
            self.both.table.source, pages, self.both.matches, untouched, self.both.is_referred_to
        )
        if GONE in self.both.side_columns:
            return deleted
        # No trigger notes which rows these are.
        noted = "WITH pgrunbook_deleted AS ({} RETURNING k.ctid AS place)"
        noted += " UPDATE {} AS s SET {} = NULL FROM pgrunbook_deleted AS d WHERE s.ctid = d.place"
        return sql.SQL(noted).format(deleted, self.both.entry.side, sql.Identifier(HASH))


def _at(both: Comparison, places: Sequence[str]) -> sql.Composed:
    """Return the captured rows at some places of the side table."""
    return sql.SQL(
        "(SELECT s.ctid, s.xmin, s.* FROM {} AS s WHERE s.ctid = ANY ({}::pg_catalog.tid[]) OFFSET 0) AS k"
    ).format(both.entry.side, sql.Literal([f"{place}" for place in places]))
