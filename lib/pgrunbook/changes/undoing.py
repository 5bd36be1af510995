"""Taking away what a safe form has made, when the server refuses its statement: all of it, or nothing.

1. What the refused step itself left half done (an invalid index) is cleared away.
2. No more is undone where rows were filled meanwhile: that is data.
3. In one transaction the helpers are taken away, and the rows of their steps withdrawn. Behind a savepoint the
   steps are done once more: where they cannot be, they had changed more than helpers (a column dropped beside
   a constraint), and everything stays as it is, to be gone on with.
4. What was built alone (an index) is dropped without keeping others out. Until it is gone, its step counts as
   meant to be done: whoever goes on looks whether it is there.

Used by migrate and rollback, through ``changes.execute``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg

from pgrunbook.changes import statements, trouble
from pgrunbook.changes.account import Account
from pgrunbook.changes.asking import RETRIED
from pgrunbook.changes.marks import RECORD_LIMITS, Marks
from pgrunbook.changes.plan import Change, Step
from pgrunbook.changes.results import StepState
from pgrunbook.changes.statements import Policy
from pgrunbook.database import connection
from pgrunbook.database.connection import Connection

AGAIN_MS = 2_000
# Not the statement's fault, nor that of the rows: cancelled, out of disk or memory, an error of the system.
NOT_REFUSED = ("53", "57", "58")


class _ChangedMoreError(Exception):
    """The steps changed more than their safe form takes away again."""


@dataclass
class Undoing:
    """Undoes the steps of one statement; ``ask`` calls a function with a lock_timeout until it has its locks."""

    conn: Connection
    account: Account
    marks: Marks
    ask: Callable[[Change, Sequence[Step], Callable[[int], None]], None]

    def refused(self, change: Change, step: Step, exc: psycopg.Error) -> str:
        """Take away what the safe form of a refused step's statement has made; return why something stays, or ""."""
        try:
            connection.limit(self.conn, **RECORD_LIMITS)
            self.clear(change, step.leftovers)
            if (exc.sqlstate or "")[:2] not in NOT_REFUSED:
                self._statement(change, step.statement)
        except _ChangedMoreError as more:
            self.account.event("helpers-stay", change, step=step.number, reason=str(more))
        except psycopg.Error as error:
            said = trouble.one_line(error)
            self.account.event("not-undone", change, step=step.number, error=said)
            return said
        return ""

    def clear(self, change: Change, query: str | None) -> None:
        """Execute the statements that a query gives: they clear away what a cut-off attempt left."""
        for statement in self._found(query):
            self.account.event("leftover-dropped", change, sql=statement)
            self.conn.execute(statement.encode())

    def is_done(self, step: Step) -> bool:
        """Ask the catalog whether a step that runs alone took effect; False where nothing would tell."""
        return step.done is not None and self.conn.execute(step.done.encode()).fetchone() == (True,)

    def _statement(self, change: Change, number: int) -> None:
        mine = change.of_statement(number)
        known = (StepState.DONE, StepState.DONE_BEFORE)
        there = [step for step in mine if self.account.results.of(change, step).state in known]
        if not there or any(step.batches is not None for step in mine):
            return
        queries = change.statements[number - 1].undo
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

    def _together(self, change: Change, there: Sequence[Step], queries: Sequence[str], lock_timeout_ms: int) -> None:
        limits = {**RECORD_LIMITS, "lock_timeout_ms": lock_timeout_ms}
        alone = [step for step in there if step.policy is Policy.ALONE]
        with connection.transaction(self.conn, **limits):
            self._execute(change, queries, Policy.TOGETHER)
            self._do_again([step for step in there if step.policy is not Policy.ALONE and step.quick])
            self.marks.withdraw(change, there)
            self.marks.meant(change, alone)

    def _do_again(self, steps: Sequence[Step]) -> None:
        """See that the steps can be done once more; none of them reads rows."""
        try:
            with self.conn.transaction(force_rollback=True):
                self.conn.execute(b"SET LOCAL statement_timeout = %d" % AGAIN_MS)
                for step in steps:
                    self.conn.execute(step.sql.encode())
        except RETRIED:
            raise
        except psycopg.Error as exc:
            raise _ChangedMoreError(exc.diag.message_primary or trouble.one_line(exc)) from exc

    def _alone(self, change: Change, alone: Sequence[Step], queries: Sequence[str]) -> None:
        self._execute(change, queries, Policy.ALONE)
        gone = [step for step in alone if not self.is_done(step)]
        if gone:
            with connection.transaction(self.conn, **RECORD_LIMITS):
                self.marks.withdraw(change, gone)

    def _execute(self, change: Change, queries: Sequence[str], policy: Policy) -> None:
        for query in queries:
            for statement in self._found(query):
                if statements.parse(statement, "undo")[0].policy is policy:
                    self.account.event("helper-dropped", change, sql=statement)
                    self.conn.execute(statement.encode())

    def _found(self, query: str | None) -> list[str]:
        return [str(row[0]) for row in self.conn.execute(query.encode())] if query else []
