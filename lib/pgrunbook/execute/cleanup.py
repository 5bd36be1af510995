"""The cleanup of a safe form whose statement the server refused: all of its helper objects go, or none.

1. What the failed step left half done (an invalid index) is dropped.
2. Nothing more is dropped where the statement was cut off instead of refused (cancelled, out of disk): the next
   attempt uses the helpers. Nor where rows were filled meanwhile, or a batch is committed: that is data.
3. One transaction drops the helpers and withdraws the rows of their steps. Behind a savepoint it executes these
   steps once more. Where that fails, the steps had changed more than helpers (a column dropped beside a
   constraint), and everything stays for the next attempt.
4. A helper that was built outside a transaction (an index) is dropped CONCURRENTLY. Until it is gone, its step
   stays recorded as intended: the next attempt checks whether the index is there.

Used by migrate and rollback, through ``execute.execution``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psycopg
from psycopg import errors as pg

from pgrunbook.database import connection
from pgrunbook.database.connection import READ_LOCK_TIMEOUT_MS, Connection
from pgrunbook.execute import failures
from pgrunbook.execute.bookkeeping import RECORD_LIMITS, Bookkeeping
from pgrunbook.execute.events import EventLog
from pgrunbook.execute.lock_requests import RETRIED
from pgrunbook.execute.results import StepState
from pgrunbook.plan.plan import Change, Step
from pgrunbook.safe_forms.update_delete import BATCHES
from pgrunbook.sql import statements
from pgrunbook.sql.classify import Policy

AGAIN_MS = 2_000
# The safe form whose steps beside its loop are helpers, and no data.
LOOP = BATCHES


class _ChangedMoreError(Exception):
    """The steps changed more than the cleanup of their safe form takes away."""


@dataclass
class Cleanup:
    """Cleans up after a step; ``ask`` calls a function with a lock_timeout until it has acquired its locks."""

    conn: Connection
    account: EventLog
    marks: Bookkeeping
    ask: Callable[[Change, Sequence[Step], Callable[[int], None]], None]

    def failed(self, change: Change, step: Step, *, undoes: bool) -> str:
        """Drop what a failed step left, with ``undoes`` its helpers too; return why something stays, or ""."""
        try:
            self.clear(change, step, READ_LOCK_TIMEOUT_MS)
            if undoes:
                self._statement(change, step.statement)
        except _ChangedMoreError as more:
            self.account.event("helpers-stay", change, step=step.number, reason=str(more))
        except psycopg.Error as error:
            said = failures.one_line(error)
            self.account.event("not-undone", change, step=step.number, error=said)
            return said
        return ""

    def clear(self, change: Change, step: Step, lock_timeout_ms: int) -> bool:
        """Drop what an attempt that was cut off left; return whether there was anything.

        A drop that blocks others waits for its lock no longer than a read does, whatever ``lock_timeout_ms`` is.
        """
        connection.limit(self.conn, **RECORD_LIMITS)
        found = self._found(step.leftovers)
        for statement in found:
            self.account.event("leftover-dropped", change, sql=statement)
            if _policy(statement) is Policy.ALONE:
                limits = {"lock_timeout_ms": lock_timeout_ms, "statement_timeout_ms": step.statement_timeout_ms}
                connection.limit(self.conn, **limits)
            with self.conn.as_target():
                self.conn.execute(statement.encode())
            connection.limit(self.conn, **RECORD_LIMITS)
        return bool(found)

    def is_done(self, step: Step) -> bool:
        """Ask the catalog whether a step that runs alone took effect; False where the catalog cannot show it."""
        if step.done is None:
            return False
        with self.conn.as_target():
            return self.conn.execute(step.done.encode()).fetchone() == (True,)

    def _statement(self, change: Change, number: int) -> None:
        mine = change.of_statement(number)
        known = (StepState.DONE, StepState.DONE_BEFORE)
        there = [step for step in mine if self.account.results.of(change, step).state in known]
        loops = [step for step in mine if step.batches is not None]
        if any(step.gives_back for step in there):
            return  # what was captured is in its column again, and would go with it
        if not there or (
            loops and not (change.statements[number - 1].form == LOOP and self._is_unbegun(change, loops))
        ):
            return
        queries = change.statements[number - 1].cleanup
        before = {step.number: self.account.results.of(change, step).state for step in there}
        try:
            self.ask(change, there, lambda lock_timeout_ms: self._together(change, there, queries, lock_timeout_ms))
        except (psycopg.Error, _ChangedMoreError):
            for step in there:
                self.account.results.set(change, step, state=before[step.number])
            raise
        self._alone(change, [step for step in there if step.policy is Policy.ALONE], queries)
        undone = [step for step in there if step.policy is not Policy.ALONE or not self.is_done(step)]
        self.account.results.mark(change, undone, StepState.UNDONE)
        self.account.event("undone", change, steps=[step.number for step in undone])

    def _is_unbegun(self, change: Change, loops: Sequence[Step]) -> bool:
        """Tell whether no batch of these loops is committed: then their helpers alone are there."""
        return not self.marks.has_batches(change, loops)

    def _together(self, change: Change, there: Sequence[Step], queries: Sequence[str], lock_timeout_ms: int) -> None:
        limits = {**RECORD_LIMITS, "lock_timeout_ms": lock_timeout_ms}
        alone = [step for step in there if step.policy is Policy.ALONE]
        with connection.transaction(self.conn, **limits):
            self._execute(change, queries, Policy.TOGETHER)
            self._repeat([step for step in there if step.policy is not Policy.ALONE and step.quick], alone)
            self.marks.withdraw(change, there)
            self.marks.forget(change, [step for step in change.steps if step.statement == there[0].statement])
            self.marks.intend(change, alone)

    def _repeat(self, steps: Sequence[Step], alone: Sequence[Step]) -> None:
        """Check that the steps can be executed once more; none of them reads rows.

        A step that uses an index built ``alone`` cannot be tried where that index is dropped already.
        """
        indexes_are_gone = bool(alone) and not any(map(self.is_done, alone))
        missing = (pg.UndefinedObject, pg.UndefinedTable) if indexes_are_gone else ()
        try:
            with self.conn.transaction(force_rollback=True):
                self.conn.execute(b"SET LOCAL statement_timeout = %d" % AGAIN_MS)
                for step in steps:
                    with suppress(*missing), self.conn.transaction(), self.conn.as_target():
                        self.conn.execute(step.sql.encode())
        except RETRIED:
            raise
        except psycopg.Error as exc:
            raise _ChangedMoreError(exc.diag.message_primary or failures.one_line(exc)) from exc

    def _alone(self, change: Change, alone: Sequence[Step], queries: Sequence[str]) -> None:
        self._execute(change, queries, Policy.ALONE)
        gone = [step for step in alone if not self.is_done(step)]
        if gone:
            with connection.transaction(self.conn, **RECORD_LIMITS):
                self.marks.withdraw(change, gone)

    def _execute(self, change: Change, queries: Sequence[str], policy: Policy) -> None:
        for query in queries:
            for statement in self._found(query):
                if _policy(statement) is policy:
                    self.account.event("helper-dropped", change, sql=statement)
                    with self.conn.as_target():
                        self.conn.execute(statement.encode())

    def _found(self, query: str | None) -> list[str]:
        if not query:
            return []
        with self.conn.as_target():
            return [str(row[0]) for row in self.conn.execute(query.encode())]


def _policy(statement: str) -> Policy:
    return statements.parse(statement, "cleanup")[0].policy
