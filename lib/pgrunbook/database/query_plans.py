"""How the server executes a query, and the queries that take most of its time; prepare and validate ask."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from pglast import ast
from pglast.parser import ParseError
from psycopg import sql
from psycopg.rows import dict_row

from pgrunbook.database import foreign_code, health, queries
from pgrunbook.database.connection import Connection, transaction
from pgrunbook.database.sqlstate import Meaning, meaning, said
from pgrunbook.display import progress
from pgrunbook.errors import Refused, WrongInput
from pgrunbook.sql.tree import trees, walk

GENERIC_PLAN_SINCE = 160_000
ANALYZE_TIMEOUT_MS = 600_000
AS_OWNER = "Plan it as the role that owns them, which is no superuser, outside of this run."
ENOUGH_CALLS = 5  # of a query of the traffic: a load that runs once says nothing about it
_WRITES = (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt, ast.CreateTableAsStmt, ast.LockingClause)
# What the server counts of all users; ours and its own are no queries of the application.
_HEAVIEST = """
SELECT s.queryid::text AS id,
       pg_catalog.min(s.query) AS query,
       pg_catalog.sum(s.calls)::bigint AS calls,
       pg_catalog.sum(s.total_exec_time) AS total_ms,
       pg_catalog.bool_and(r.rolsuper OR r.rolname = session_user) AS is_trusted
FROM {}.pg_stat_statements AS s
JOIN pg_catalog.pg_database AS d ON d.oid = s.dbid
JOIN pg_catalog.pg_roles AS r ON r.oid = s.userid
WHERE d.datname = pg_catalog.current_database()
  AND s.query ~* '^\\s*(SELECT|WITH|INSERT|UPDATE|DELETE|MERGE|VALUES|TABLE)\\M'
  AND s.query !~* 'pgrunbook|pg_catalog|(FROM|JOIN)\\s+(ONLY\\s+)?(pg_|information_schema)'
  AND (s.queryid::text = ANY (%(ids)s::text[]) OR %(ids)s::text[] IS NULL)
GROUP BY s.queryid
HAVING pg_catalog.sum(s.calls) >= %(calls)s OR %(ids)s::text[] IS NOT NULL
ORDER BY total_ms DESC
LIMIT %(most)s
"""


@dataclass(frozen=True)
class QueryPlan:
    """A plan: its nodes from the top, each indented by its depth, with the planner's cost and the rows it expects.

    ``rows`` and ``blocks`` (found in memory or read) are those of an execution, None where it was only planned.
    """

    nodes: tuple[str, ...]
    cost: float
    rows_estimate: float
    rows: float | None = None
    blocks: int | None = None
    ms: float | None = None


@dataclass(frozen=True)
class MeasuredQuery:
    """A query's median time in ms, None where it was not executed, and its plan; or the error that it ended with."""

    median_ms: float | None
    plan: QueryPlan | None = None
    error: str = ""


@dataclass(frozen=True)
class HeavyQuery:
    """What pg_stat_statements has counted of a query: calls, and their time in ms. Its text has no values."""

    query: str
    calls: int
    total_ms: float
    plan: QueryPlan | None = None


def measured(conn: Connection, query: str, *, time_writes: bool = False) -> MeasuredQuery:
    """Return the median time of a few runs of a query, and its plan.

    What it does is aborted. One whose tables hold code of other roles is not even planned. A query that writes is
    planned, not executed, unless ``time_writes``: then it locks and writes its rows for a moment, its triggers fire
    and its sequences go on.

    Locks: those of the query, for as long as one run takes.
    """
    if why := foreign_code.hinders(conn, query):
        return MeasuredQuery(None, error=why)
    if not _writes(query):
        timing = health.time_query(conn, query)
        if timing.error:
            return MeasuredQuery(None, error=timing.error)
        return _explained(conn, query, timing.median_ms, "ANALYZE, TIMING OFF", read_only=True)
    if not time_writes:
        return planned(conn, query)
    runs = [_explained(conn, query, None, "ANALYZE, TIMING OFF", read_only=False) for _ in range(health.TIMES)]
    failed = next((run for run in runs if run.error), None)
    times = [run.plan.ms for run in runs if run.plan and run.plan.ms is not None]
    return failed or MeasuredQuery(round(statistics.median(times), 3), runs[-1].plan)


def planned(conn: Connection, query: str) -> MeasuredQuery:
    """Return the plan of a query, which is not executed. Locks: AccessShareLock on its tables, while it is planned."""
    return _explained(conn, query, None, "ANALYZE OFF", read_only=True)


def explained(conn: Connection, query: str, *, execute: bool, timeout_ms: int) -> str:
    """Return what EXPLAIN says of one statement, in its own words; ``execute`` carries it out, and aborts that.

    What a statement writes is locked until the abort, its triggers fire, and its sequences go on.

    Raises WrongInput where it is none, or several, Refused where its tables hold code of other roles, and psycopg's
    errors.
    Locks: those of the statement, for as long as it runs; without ``execute`` AccessShareLock on what it names.
    """
    if not _is_one(query):
        raise WrongInput("EXPLAIN takes one statement", detail=f"This is none, or several: {query[:80]}")
    if why := foreign_code.hinders(conn, query):
        raise Refused(f"refused to plan {query[:80]}", detail=f"On what it reads: {why}.", hint=AS_OWNER)
    options = "ANALYZE, BUFFERS" if execute else "VERBOSE OFF"
    with conn.transaction(force_rollback=True):
        conn.execute(b"SET LOCAL statement_timeout = %d" % timeout_ms)
        if not (execute and _writes(query)):
            conn.execute("SET TRANSACTION READ ONLY")
        with conn.as_target():
            found = conn.execute(f"EXPLAIN ({options}) {query}".encode(), binary=True).fetchall()
    return "\n".join(str(line) for (line,) in found)


def heaviest(conn: Connection, *, most: int, ids: list[str] | None = None) -> tuple[dict[str, HeavyQuery], str]:
    """Return the queries that took most time in this database, by their id, and why there are none, "" where there are.

    With ``ids`` only these; else those of five calls and more. The server of PostgreSQL 16 and later plans them without
    values; not those of other users: planning calls functions, with our rights.
    """
    found = queries.rows(conn, "query_plans", "extension")
    if not found:
        return {}, "pg_stat_statements is not installed"
    try:
        with conn.cursor(row_factory=dict_row) as cursor:
            asked = sql.SQL(_HEAVIEST).format(sql.Identifier(found[0]["schema"]))
            told = cursor.execute(asked, {"ids": ids, "most": most, "calls": ENOUGH_CALLS}).fetchall()
    except psycopg.Error as exc:
        if meaning(exc) is Meaning.LOST:
            raise
        return {}, f"pg_stat_statements could not be read: {said(exc)}"
    plans_them = conn.info.server_version >= GENERIC_PLAN_SINCE
    return {
        row["id"]: HeavyQuery(
            row["query"], row["calls"], round(row["total_ms"], 3),
            _explained(conn, row["query"], None, "GENERIC_PLAN", read_only=True).plan
            if plans_them and row["is_trusted"] and _is_one(row["query"]) else None,
        )
        for row in told
    }, "" if told else "it has seen no query of the application"  # fmt: skip


def without_statistics(conn: Connection) -> dict[str, list[str]]:
    """Return the tables with rows and their columns of which the planner knows nothing, as far as we may read them."""
    return {row["name"]: row["columns"] for row in queries.rows(conn, "query_plans", "without_statistics")}


def analyze(conn: Connection, tables: Sequence[str], *, lock_timeout_ms: int) -> dict[str, str]:
    """ANALYZE the tables, named as SQL does; return those of which there are still none, and why.

    The server passes over a table of another owner with a mere warning.

    Locks: ShareUpdateExclusiveLock on one table after the other.
    """
    refused: dict[str, str] = {}
    warned: list[str] = []

    def note(warning: psycopg.errors.Diagnostic) -> None:
        warned.append(warning.message_primary or "")

    conn.add_notice_handler(note)
    with progress.doing("making statistics") as stage:
        for place, table in enumerate(tables, 1):
            stage.how_far(f"{table}, table {place} of {len(tables)}")
            warned.clear()
            try:
                with transaction(conn, lock_timeout_ms=lock_timeout_ms, statement_timeout_ms=ANALYZE_TIMEOUT_MS):
                    conn.execute(sql.SQL("ANALYZE {}").format(sql.SQL(table)))
            except psycopg.Error as exc:
                if meaning(exc) is Meaning.LOST:
                    raise
                warned.append(said(exc))
            if warned:
                refused[table] = "; ".join(warned)
    conn.remove_notice_handler(note)
    return refused


def _writes(query: str) -> bool:
    try:
        return any(isinstance(part, _WRITES) for node in trees(query) for part in walk(node))
    except ParseError:
        return False  # the server says what is wrong, in a transaction that is read only


def _is_one(query: str) -> bool:
    try:
        return len(trees(query)) == 1
    except ParseError:
        return False


def _explained(
    conn: Connection, query: str, median_ms: float | None, options: str, *, read_only: bool
) -> MeasuredQuery:
    if why := foreign_code.hinders(conn, query):
        return MeasuredQuery(median_ms, error=why)
    text = f"EXPLAIN ({options}, BUFFERS, FORMAT JSON) {query}".encode()
    with_values = options != "GENERIC_PLAN"  # its $1 are known to the simple protocol only
    try:
        with conn.transaction(force_rollback=True):
            if read_only:
                conn.execute("SET TRANSACTION READ ONLY")
            with conn.as_target():
                row = conn.execute(text, binary=with_values).fetchone()  # binary: the protocol of one statement
    except psycopg.Error as exc:
        if meaning(exc) is Meaning.LOST:
            raise
        return MeasuredQuery(median_ms, error=said(exc))
    told: Any = row[0] if row else []
    return MeasuredQuery(median_ms, _plan(told[0]))


def _plan(told: dict[str, Any]) -> QueryPlan:
    top = told["Plan"]
    executed = "Actual Rows" in top
    return QueryPlan(
        nodes=tuple(_nodes(top)),
        cost=top["Total Cost"],
        rows_estimate=top["Plan Rows"],
        rows=top["Actual Rows"] if executed else None,
        blocks=top["Shared Hit Blocks"] + top["Shared Read Blocks"] if executed else None,
        ms=told.get("Execution Time"),
    )


def _nodes(node: dict[str, Any], depth: int = 0) -> Iterator[str]:
    on = ".".join(node[key] for key in ("Schema", "Relation Name") if key in node)
    using = node.get("Index Name")
    yield "  " * depth + node["Node Type"] + (f" on {on}" if on else "") + (f" using {using}" if using else "")
    for below in node.get("Plans", ()):
        yield from _nodes(below, depth + 1)
