"""Queries that may be slow after a change: their plans before and now, and EXPLAIN of those that a person chose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import psycopg

from pgrunbook.config.targets import Target
from pgrunbook.database import query_plans
from pgrunbook.database.connection import Connection
from pgrunbook.database.measurements import Measurements
from pgrunbook.database.sqlstate import Meaning, meaning, said
from pgrunbook.display.show import BAD, Cell, Table
from pgrunbook.procedures import promise, query_views
from pgrunbook.procedures.measured_views import beginning
from pgrunbook.procedures.query_views import ComparedQuery
from pgrunbook.record import door

HEAVIEST = 5


def table(critical: Sequence[ComparedQuery], heavy_ones: Sequence[ComparedQuery], why: str) -> Table:
    """Return the queries with their plans and costs, before the last change and now."""
    rows = [
        (
            door.masked(one.name), Cell(one.error, BAD) if one.error else one.basis if one in heavy_ones else "planned",
            "" if one.now_ms is None else f"{one.now_ms:,.1f}", query_views.plan(one),
            *("" if plan is None else f"{plan.cost:,.0f}" for plan in (one.before, one.now)),
        )
        for one in (*critical, *heavy_ones)
    ]  # fmt: skip
    headings = ["query", "of", "ms", "plan", "cost before", "cost now"]
    empty = f"None: the target names no critical_queries, and {why or 'the server has counted none'}."
    return Table(headings, rows, title="Queries: choose what is explained", empty=empty)


def compared(target: Target, conn: Connection) -> list[ComparedQuery]:
    """Return the critical queries of a target, planned now, with their plans before the last change; none is executed.

    Locks: AccessShareLock on the tables of each, while it is planned.
    """
    found = promise.measured_last(target.name)
    before = found[1] if found else Measurements(rows={}, queries_ms={})
    return [
        query_views.of_critical(name, before, query_plans.planned(conn, query))
        for name, query in target.critical_queries.items()
    ]


def heavy(conn: Connection) -> tuple[list[ComparedQuery], str]:
    """Return the queries that took most time since the server counts, and why there are none, "" where there are."""
    found, why = query_plans.heaviest(conn, most=HEAVIEST)
    queries = [
        ComparedQuery(
            beginning(one.query), None, one.total_ms / one.calls, None, one.plan, f"mean of {one.calls:,} calls"
        )
        for one in found.values()
    ]
    return queries, why


def explained(target: Target, conn: Connection, asked: list[tuple[str, bool]], timeout_s: int) -> Table:
    """EXPLAIN what a person has chosen: names of critical queries, or texts; those to be executed are aborted.

    One that cannot be executed in time, or without waiting for a lock, is planned only.

    Raises WrongInput for a text that is not one statement. Locks: as ``query_plans.explained``.
    """
    rows = list(_explained(target, conn, asked, timeout_s * 1000))
    return Table(["query", "was", "cost expected, ms", "plan"], rows, title="Each was aborted: nothing of it is kept")


def _explained(
    target: Target, conn: Connection, asked: list[tuple[str, bool]], timeout_ms: int
) -> Iterator[tuple[object, ...]]:
    for name, execute in asked:
        query, error = target.critical_queries.get(name, name), ""
        try:
            plan = query_plans.explained(conn, query, execute=execute, timeout_ms=timeout_ms)
        except psycopg.Error as exc:
            if meaning(exc) is Meaning.LOST:
                raise
            plan, error = "", said(exc)
        if error and execute:
            plan = _planned_only(conn, query, timeout_ms)
        was = (
            Cell(f"not executed: {error}" if execute else error, BAD) if error else "executed" if execute else "planned"
        )
        told = door.masked(plan)
        yield door.masked(beginning(name)), was, told.partition("\n")[0], Cell("", under=told, fold="plan")


def _planned_only(conn: Connection, query: str, timeout_ms: int) -> str:
    try:
        return query_plans.explained(conn, query, execute=False, timeout_ms=timeout_ms)
    except psycopg.Error as exc:
        if meaning(exc) is Meaning.LOST:
            raise
        return f"not planned: {said(exc)}"
