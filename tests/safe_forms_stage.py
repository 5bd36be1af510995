"""What the tests of safe forms share: an executor as small as can be, which watches each step from inside."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from pgrunbook.config.targets import Target
from pgrunbook.database import checksums, locks, schema, step_log
from pgrunbook.database.checksums import TableName, TableSum
from pgrunbook.database.connection import Connection
from pgrunbook.database.facts import Facts
from pgrunbook.database.schema import Snapshot
from pgrunbook.online.batches import run_batches
from pgrunbook.plan.step import Expansion, Gate, SafeStep
from pgrunbook.safe_forms import expander, gates, small_table
from pgrunbook.safe_forms.expander import BATCH_ROWS, Expander
from pgrunbook.safe_forms.form import Case, Form
from pgrunbook.sql import statements
from pgrunbook.sql.classify import Policy
from pgrunbook.sql.deparse import parsed
from pgrunbook.sql.statements import Statement
from servers import Server

# ruff: noqa: E501 - one statement on a line, whatever its length

Conn = psycopg.Connection[tuple[Any, ...]]


def change_form(monkeypatch: pytest.MonkeyPatch, form: Form, change: Callable[[Expansion], Expansion]) -> None:
    """Let a safe form return something else: there is no honest way to make it err."""

    def other(case: Case) -> Expansion | None:
        found = form(case)
        return found and change(found)

    monkeypatch.setattr(expander, "FORMS", tuple(other if each is form else each for each in expander.FORMS))


# The modes that let others read and write (https://www.postgresql.org/docs/current/explicit-locking.html).
LETS_OTHERS_WRITE = {"AccessShareLock", "RowShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock"}

BASE = """
CREATE SCHEMA app
CREATE TYPE app.mood AS ENUM ('sad', 'ok')
CREATE DOMAIN app.positive AS integer CHECK (VALUE > 0)
CREATE FUNCTION app.twice(integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2'
CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.touched := clock_timestamp(); RETURN NEW; END'
CREATE TABLE public.u (id integer PRIMARY KEY, code text NOT NULL, UNIQUE (code))
INSERT INTO u SELECT i, 'c' || i FROM generate_series(1, 50) AS i
CREATE TABLE public.t (id integer PRIMARY KEY, a integer, b text, c integer, m app.mood DEFAULT 'ok', "Odd Col" text, at timestamptz)
INSERT INTO t SELECT i, i, 'b' || i, 1 + i % 50, 'sad', 'x' || i, '2026-01-01'::timestamptz + i * interval '1 day' FROM generate_series(1, 200) AS i
CREATE TABLE app."T x" (k1 text, k2 integer, v integer, w jsonb, PRIMARY KEY (k1, k2))
INSERT INTO app."T x" SELECT 'k' || i % 7, i, i, '{"n": 1}' FROM generate_series(1, 150) AS i
CREATE TABLE public.keyless (a integer, b text)
INSERT INTO keyless SELECT i, 'b' || i FROM generate_series(1, 100) AS i
CREATE TABLE public.p (id integer, at date NOT NULL, v integer, w text) PARTITION BY RANGE (at)
CREATE TABLE public.p_2025 PARTITION OF p FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')
CREATE TABLE public.p_2026 PARTITION OF p FOR VALUES FROM ('2026-01-01') TO ('2027-01-01') PARTITION BY LIST (w)
CREATE TABLE public.p_2026_x PARTITION OF p_2026 FOR VALUES IN ('x')
CREATE TABLE public.p_2026_y PARTITION OF p_2026 FOR VALUES IN ('y', NULL)
INSERT INTO p SELECT i, '2025-03-01'::date + i * 5, 1 + i % 50, CASE WHEN i % 2 = 0 THEN 'x' ELSE 'y' END FROM generate_series(1, 120) AS i
CREATE TABLE public.p_2027 (id integer, at date NOT NULL, v integer, w text)
INSERT INTO p_2027 SELECT i, '2027-03-01'::date + i, i, 'z' FROM generate_series(1, 50) AS i
CREATE TABLE public.q (a integer, b varchar(9)) PARTITION BY LIST (b)
CREATE TABLE public.q_rest PARTITION OF q DEFAULT
CREATE TABLE public.q_a (a integer, b varchar(9))
INSERT INTO q SELECT i, 'r' || i FROM generate_series(1, 40) AS i
INSERT INTO q_a SELECT i, 'a' FROM generate_series(1, 40) AS i
CREATE TABLE public.h (a integer, b text) PARTITION BY HASH (a)
CREATE TABLE public.h0 (a integer, b text)
INSERT INTO h0 SELECT i FROM generate_series(1, 200) AS i WHERE satisfies_hash_partition('h'::regclass, 2, 0, i)
CREATE TABLE public.two (a integer, b integer, c text) PARTITION BY RANGE (a, b)
CREATE TABLE public.two_1 (a integer, b integer, c text)
INSERT INTO two_1 SELECT 1 + i % 3, 50, 'c' FROM generate_series(1, 60) AS i
CREATE TABLE public.d (a integer, b text) PARTITION BY RANGE (a, lower(b))
CREATE TABLE public.d_rest PARTITION OF d DEFAULT
CREATE TABLE public.d_5 PARTITION OF d FOR VALUES FROM (5, 'a') TO (5, 'x') PARTITION BY LIST (b)
CREATE TABLE public.d_5_rest PARTITION OF d_5 DEFAULT
CREATE TABLE public.d_5_n (a integer, b text)
INSERT INTO d SELECT 5 + i % 2, 'r' || i FROM generate_series(1, 80) AS i
INSERT INTO d_5_n SELECT 5, 'n' FROM generate_series(1, 40)
CREATE INDEX twin ON p_2025 (v, lower(w), id)
CREATE MATERIALIZED VIEW public.mv AS SELECT c, count(*) AS n FROM t GROUP BY c
CREATE UNIQUE INDEX mv_c ON mv (c)
CREATE INDEX t_b ON t (b)
CREATE INDEX t_b_c ON t (b, c)
CREATE TABLE public.parent (a integer, b text)
CREATE TABLE public.child (c integer) INHERITS (parent)
INSERT INTO child SELECT i, 'b', i FROM generate_series(1, 30) AS i
CREATE TABLE public.watched (id integer PRIMARY KEY, a integer, touched timestamptz)
INSERT INTO watched SELECT i, i, '2026-01-01' FROM generate_series(1, 60) AS i
CREATE TRIGGER touch BEFORE UPDATE ON watched FOR EACH ROW EXECUTE FUNCTION app.touch()
""".strip().split("\n")

SEEN = """
SELECT l.mode
FROM pg_locks AS l
JOIN pg_class AS c ON c.oid = l.relation
WHERE l.pid = pg_backend_pid() AND l.relation = ANY (%s::oid[]) AND c.relkind IN ('r', 'p', 'm')
"""
FILES = "SELECT json_object_agg(oid, relfilenode) FROM pg_class WHERE oid = ANY (%s::oid[])"
READ = "SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0) FROM pg_stat_xact_user_tables WHERE schemaname <> 'pgrunbook'"
RELATIONS = """
SELECT array_agg(c.oid::bigint)
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'pgrunbook', 'performed')
"""


@dataclass(frozen=True)
class Stage:
    """A database with the tables of ``BASE``, as new."""

    server: Server
    conn: Conn

    @property
    def version(self) -> int:
        """The server's major version."""
        return self.server.version

    def session(self) -> Conn:
        """Open another session, which does not wait for locks."""
        conn = self.server.connect("stage")
        conn.execute("SET lock_timeout = '2s'")
        return conn


@pytest.fixture
def none_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no table be so small that its rewrite is plain: the few rows of a test stand for many."""
    monkeypatch.setattr(small_table, "MOST_ROWS", -1)


@pytest.fixture
def stage(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """The stage as new: a copy of a database, in which no table is small."""
    monkeypatch.setattr(small_table, "MOST_ROWS", -1)
    with server.copied("stage", server.database("stage_template", *BASE)), server.connect("stage") as conn:
        yield Stage(server, conn)


@dataclass
class Watch:
    """What the steps took and did: modes on tables that were there before, rows read, files written anew."""

    modes: list[tuple[SafeStep, frozenset[str]]] = field(default_factory=list)
    read: list[tuple[SafeStep, int]] = field(default_factory=list)
    rewritten: list[SafeStep] = field(default_factory=list)

    def of_slow_steps(self, expansions: Sequence[Expansion]) -> set[str]:
        """The modes that were held by steps of safe forms that may take long."""
        slow = [step for expansion in expansions if expansion.form for step in expansion.steps if not step.quick]
        return {mode for step, modes in self.modes if step in slow for mode in modes}

    def rows_read_quickly(self) -> int:
        """How many rows were read under whatever lock a quick step took, but for the largest key of a loop."""
        return sum(rows for step, rows in self.read if step.quick and "'end'" not in step.sql)


def plan(conn: Conn, sql: str, **options: Any) -> list[Expansion]:
    """Plan the statements of a file."""
    return plan_forms(statements.parse(sql, "m.sql"), conn, **options)


def perform(
    conn: Conn,
    expansions: Sequence[Expansion],
    *,
    watch: Watch | None = None,
    until: Callable[[SafeStep], bool] | None = None,
    target: Target | None = None,
) -> None:
    """Execute what is planned: what is done is remembered in the step's own transaction, and not done again.

    With a ``target`` what runs alone gives way to clients, as in an execution.
    """
    step_log.create(conn)
    conn.execute("CREATE SCHEMA IF NOT EXISTS performed; CREATE TABLE IF NOT EXISTS performed.did (place text)")
    waiting: list[tuple[str, SafeStep]] = []
    for number, expansion in enumerate(expansions):
        for place, step in enumerate(expansion.steps):
            if until is not None and until(step):
                return
            waiting.append((f"{number}.{place}", step))
            if step.own_transaction or step.policy is Policy.ALONE:
                together, alone = waiting[:-1], waiting[-1]
                _together(conn, together, watch)
                _own(conn, *alone, watch, target)
                waiting = []
            elif place == 0 and len(waiting) > 1 and waiting[-2][1].own_transaction:
                raise AssertionError("a step of its own was joined")
    _together(conn, waiting, watch)


def undo(conn: Conn, expansions: Sequence[Expansion]) -> None:
    """Take away what an abandoned sequence has left."""
    for expansion in reversed(expansions):
        for query in expansion.cleanup:
            for (statement,) in conn.execute(query).fetchall():
                conn.execute(statement)


def end(conn: Conn) -> tuple[Snapshot, dict[TableName, TableSum]]:
    """The schema and the sums of the data."""
    left = [*schema.OURS, "performed"]
    return schema.snapshot(conn, leave_out=left), checksums.checksums(conn, leave_out=left)


def _together(conn: Conn, steps: Sequence[tuple[str, SafeStep]], watch: Watch | None) -> None:
    left = [(place, step) for place, step in steps if not _did(conn, place)]
    with conn.transaction():
        for place, step in left:
            _send(conn, step, watch)
            conn.execute("INSERT INTO performed.did VALUES (%s)", [place])


def _own(conn: Conn, place: str, step: SafeStep, watch: Watch | None, target: Target | None) -> None:
    if _did(conn, place):
        return
    if step.batches is not None:
        run_batches(conn, step.batches, resume_from=place)
    elif step.policy is Policy.ALONE:
        giving_way(conn, target, lambda: _alone(conn, place, step))
    else:
        with conn.transaction():
            _send(conn, step, watch)
            conn.execute("INSERT INTO performed.did VALUES (%s)", [place])
        return
    conn.execute("INSERT INTO performed.did VALUES (%s)", [place])


def giving_way(conn: Conn, target: Target | None, work: Callable[[], object]) -> None:
    """Do the work of a step that runs alone, again where it gave way to a client."""
    while True:
        try:
            with locks.Watch(target, conn.info.backend_pid, gives_way="soon") if target else nullcontext():
                work()
            return
        except locks.GaveWay:
            pass


def _alone(conn: Conn, place: str, step: SafeStep) -> None:
    """Clear away what is left, and ask whether an earlier attempt took effect, where there was one."""
    clear(conn, step)
    if _did(conn, f"{place} began") and took_effect(conn, step):
        return
    conn.execute("INSERT INTO performed.did VALUES (%s)", [f"{place} began"])
    conn.execute(step.sql)


def took_effect(conn: Conn, step: SafeStep) -> bool:
    """Tell whether an attempt that was cancelled at its very end has done its work."""
    return step.done is not None and conn.execute(step.done).fetchone() == (True,)


def clear(conn: Conn, step: SafeStep) -> None:
    """Drop what an attempt at a step has left."""
    for (statement,) in conn.execute(step.leftovers).fetchall() if step.leftovers else ():
        conn.execute(statement)


def _did(conn: Conn, place: str) -> bool:
    return conn.execute("SELECT FROM performed.did WHERE place = %s", [place]).fetchone() is not None


def _send(conn: Conn, step: SafeStep, watch: Watch | None) -> None:
    if watch is None:
        conn.execute(step.sql)
        return
    relations = _one(conn, RELATIONS)
    read, files = _one(conn, READ), _one(conn, FILES, [relations])
    conn.execute(step.sql)
    watch.modes.append((step, frozenset(row[0] for row in conn.execute(SEEN, [relations]).fetchall())))
    watch.read.append((step, _one(conn, READ) - read))
    after = _one(conn, FILES, [relations])
    if step.quick and any(files[oid] != file for oid, file in after.items()):
        watch.rewritten.append(step)


def _one(conn: Conn, query: str, values: Sequence[object] | None = None) -> Any:
    row = conn.execute(query, values).fetchone()
    assert row is not None
    return row[0]


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll a condition for ten seconds at most."""
    for _ in range(1_000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come about within 10 s")


def plan_forms(
    written: Sequence[Statement],
    conn: Connection,
    *,
    off: Mapping[str, str] | None = None,
    fresh: Collection[str] = (),
    batch_rows: int = BATCH_ROWS,
) -> list[Expansion]:
    """Return what is executed in place of each statement of a migration, judged on the database as it is now."""
    planner = Expander(conn, off=off, fresh=fresh, batch_rows=batch_rows, release=written)
    for statement in written:
        planner.expand(statement)
    return planner.end_file()


def gate(statement: Statement, conn: Connection, *, batch_rows: int = BATCH_ROWS) -> Gate | None:
    """Return the gate that a statement meets on this database, None where it meets none."""
    return gates.find(Case(statement, parsed(statement.sql), Facts(conn), batch_rows=batch_rows))
