"""Queries that count the rows which violate a demand, and show a few of them; nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow, tuple_row

from pgrunbook.database.checksums import STATEMENT_TIMEOUT_MS as STATEMENT_TIMEOUT_MS
from pgrunbook.database.connection import READ_LOCK_TIMEOUT_MS, Connection, limit_locally
from pgrunbook.database.queries import blocked_on_lock_timeout, load
from pgrunbook.database.sqlstate import Meaning, is_of_statement, meaning
from pgrunbook.sql.tree import quoted

SAMPLES = 5
SAMPLE_CHARS = 200
VIOLATE = ("row violates it", "rows violate it")


@dataclass(frozen=True)
class RowDemand:
    """What a statement demands of today's rows: ``where`` is true for those that violate it.

    ``shown`` are the values in a sample, by name. ``unclear`` says why the answer is unknown, "" if it can be asked.
    ``count`` counts in place of a query. ``missing`` returns the condition that a row has no captured value, if rows
    that have one do not violate the demand. ``function`` creates a temporary function that catches the error of a row;
    ``caught`` is the condition that calls it. If only the function can answer, ``where`` is "".
    """

    what: str
    table: str
    key: tuple[str, ...] = ()
    source: str = ""
    where: str = ""
    shown: tuple[tuple[str, str], ...] = ()
    words: tuple[str, str] = VIOLATE
    unclear: str = ""
    count: Callable[[], int] | None = None
    missing: Callable[[], str] | None = None
    function: str = ""
    caught: str = ""
    as_today: bool = True


@dataclass(frozen=True)
class RowDemandAnswer:
    """How many rows violate a demand (None: unknown), how many at least, some of them, and a sentence."""

    rows: int | None
    says: str
    samples: tuple[str, ...] = ()
    at_least: int = 0


class RowQueries:
    """Queries on the rows of a database, each in its own short transaction."""

    def __init__(self, conn: Connection, statement_timeout_ms: int) -> None:
        self._conn = conn
        self._timeout_ms = statement_timeout_ms

    @contextmanager
    def short(self, *, function: str = "") -> Iterator[psycopg.Cursor[TupleRow]]:
        """Give a cursor that reads under timeouts; its settings and functions are gone afterwards.

        Inside the caller's transaction it is a savepoint. row_security is off, so that no policy hides rows silently.
        """
        with self._conn.transaction(force_rollback=True), psycopg.Cursor(self._conn, row_factory=tuple_row) as cursor:
            limit_locally(self._conn, lock_timeout_ms=READ_LOCK_TIMEOUT_MS, statement_timeout_ms=self._timeout_ms)
            cursor.execute("SET LOCAL row_security = off; SET LOCAL jit = off")
            if function:
                with self._conn.as_target():
                    cursor.execute(function.encode())
            cursor.execute("SET LOCAL transaction_read_only = on")
            yield cursor

    @contextmanager
    def names(self) -> Iterator[None]:
        """Read definitions. Raises Blocked when a lock prevents that."""
        with blocked_on_lock_timeout(READ_LOCK_TIMEOUT_MS), self.short():
            yield

    def ask(self, wanted: RowDemand) -> RowDemandAnswer:
        """Return how many rows violate a demand, and which; an unknown answer is reported, not raised."""
        if wanted.unclear:
            return RowDemandAnswer(None, wanted.unclear)
        try:
            if wanted.count is not None:
                return _counted(wanted, wanted.count(), ())
            return self._asked(wanted)
        except psycopg.Error as exc:
            if meaning(exc) is Meaning.LOST:
                raise
            return self._unasked(wanted, exc)

    def _asked(self, wanted: RowDemand) -> RowDemandAnswer:
        if not wanted.where:
            return self._answer(wanted, wanted.caught, wanted.function)
        try:
            return self._answer(wanted, wanted.where)
        except psycopg.Error as exc:
            if not wanted.function or not _may_be_of_a_row(exc) or not self._is_of_a_row(wanted):
                raise
            return self._caught(wanted, exc)

    def _caught(self, wanted: RowDemand, reason: psycopg.Error) -> RowDemandAnswer:
        """Count again with a function that catches the error of a row, if the session may create one."""
        try:
            return self._answer(wanted, wanted.caught, wanted.function)
        except psycopg.errors.QueryCanceled:
            raise
        except psycopg.Error as exc:
            says = f"at least 1 row violates it ({_said(reason)}); how many is unknown: {_said(exc)}"
            return RowDemandAnswer(None, says, at_least=1)

    def _answer(self, wanted: RowDemand, where: str, function: str = "") -> RowDemandAnswer:
        if wanted.missing is not None:
            where = f"({where}) AND {wanted.missing()}"
        with self.short(function=function) as cursor, self._conn.as_target():
            cursor.execute(_query("count_violations", source=wanted.source, where=where))
            rows = int((cursor.fetchone() or (0,))[0])
        if not rows:
            return _counted(wanted, rows, ())
        with self.short(function=function) as cursor, self._conn.as_target():
            shown = ", ".join(f"CAST({value} AS text)" for value in (*_key(wanted), *(v for _, v in wanted.shown)))
            more = {"shown": shown, "limit": str(SAMPLES)}
            cursor.execute(_query("sample_violations", source=wanted.source, where=where, **more))
            return _counted(wanted, rows, tuple(sorted(_sample(wanted, row) for row in cursor.fetchall())))

    def _is_of_a_row(self, wanted: RowDemand) -> bool:
        """Tell whether an error comes from a row: planning the query alone does not raise it."""
        try:
            with self.short() as cursor, self._conn.as_target():
                cursor.execute(_query("plan_of_violations", source=wanted.source, where=wanted.where or wanted.caught))
        except psycopg.Error:
            return False
        return True

    def _unasked(self, wanted: RowDemand, exc: psycopg.Error) -> RowDemandAnswer:
        if isinstance(exc, psycopg.errors.QueryCanceled):
            return RowDemandAnswer(None, f"not counted in {self._timeout_ms / 1000:g} s")
        if isinstance(exc, psycopg.errors.LockNotAvailable):
            return RowDemandAnswer(
                None, f"not counted: {wanted.table} was locked for {READ_LOCK_TIMEOUT_MS / 1000:g} s"
            )
        if isinstance(exc, psycopg.errors.InsufficientPrivilege):
            return RowDemandAnswer(None, _hidden(exc))
        if _may_be_of_a_row(exc) and wanted.as_today and self._is_of_a_row(wanted):
            return RowDemandAnswer(None, f"at least 1 row violates it: {_said(exc)}", at_least=1)
        return RowDemandAnswer(None, f"unknown: {_said(exc)}")


def _may_be_of_a_row(exc: psycopg.Error) -> bool:
    """Tell whether a row may have caused an error: not where the statement does not fit today's schema."""
    return meaning(exc) is Meaning.REFUSED and not is_of_statement(exc)


def _query(name: str, **given: str) -> sql.Composed:
    return sql.SQL(load("violations")[name]).format(**{slot: sql.SQL(text) for slot, text in given.items()})


def _key(wanted: RowDemand) -> tuple[str, ...]:
    return tuple(f"t.{quoted(name)}" for name in wanted.key) or ("t.ctid",)


def _sample(wanted: RowDemand, row: TupleRow) -> str:
    names = wanted.key or ("ctid",)
    key = [f"{name} {'NULL' if value is None else value}" for name, value in zip(names, row, strict=False)]
    values = zip((name for name, _ in wanted.shown), row[len(names) :], strict=True)
    shown = [f"{name} {'NULL' if value is None else value}" for name, value in values]
    text = ": ".join(", ".join(part) for part in (key, shown) if part)
    return text if len(text) <= SAMPLE_CHARS else text[: SAMPLE_CHARS - 1] + "…"


def _counted(wanted: RowDemand, rows: int, samples: tuple[str, ...]) -> RowDemandAnswer:
    if not rows:
        return RowDemandAnswer(0, "no row violates it")
    return RowDemandAnswer(rows, f"{rows:,} {wanted.words[rows != 1]}", samples, at_least=rows)


def _said(exc: psycopg.Error) -> str:
    return f"the server says {exc.diag.message_primary or str(exc).strip()}"


def _hidden(exc: psycopg.Error) -> str:
    """Say what this session may not see. A policy that would hide rows raises the same error as a missing right."""
    if "rls" in (exc.diag.source_file or ""):
        return "unknown: row level security hides rows from this session"
    return f"unknown: {_said(exc)}"
