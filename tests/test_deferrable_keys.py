"""Deferrable keys of a column that changes its type: no client that relies on a late check ever fails."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest

from permits import permitted_of
from pgrunbook.database import shadows
from pgrunbook.database.connection import connect
from pgrunbook.database.schema_diff import diff
from pgrunbook.draft.expected_differences import is_declared
from pgrunbook.execute import contract
from safe_forms_stage import perform, plan, undo
from scenes import until
from servers import Server
from swap_stage import URL, stage_of, url_of
from test_shadow_column import Conn, looks, planned, stage, undone

pytestmark = pytest.mark.usefixtures("none_is_small")

TABLE = """
CREATE TABLE app.t (id integer PRIMARY KEY, n integer NOT NULL, m integer, k integer,
    CONSTRAINT deferred UNIQUE (n) DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT "of a statement" UNIQUE (m) INCLUDE (k) WITH (fillfactor = 80) DEFERRABLE,
    CONSTRAINT both_ways UNIQUE (k, n, m) DEFERRABLE);
INSERT INTO app.t SELECT i, i, i, i % 5 FROM generate_series(1, 100) AS i;
ALTER TABLE app.t CLUSTER ON deferred;
COMMENT ON CONSTRAINT deferred ON app.t IS 'late';
COMMENT ON INDEX app.both_ways IS 'an index';
"""
CHANGE = "ALTER TABLE app.t ALTER n TYPE bigint, ALTER m TYPE bigint"


@contextmanager
def swapping(server: Server) -> Iterator[None]:
    """Let a client swap values, row by row in a transaction, and shift them in one statement; it must not fail."""
    stopped, begun = threading.Event(), threading.Event()

    def swap() -> None:
        luck = random.Random(7)  # noqa: S311
        with server.connect("shadow_safe") as conn:
            conn.prepare_threshold = None  # a prepared SELECT of the column ends once, as behind the plain change
            while not stopped.is_set():
                a, b = luck.sample(range(1, 101), 2)
                with conn.transaction():
                    ((here,), (there,)) = (
                        conn.execute(f"SELECT n FROM app.t WHERE id = {id_}").fetchone() or (0,) for id_ in (a, b)
                    )
                    conn.execute(f"UPDATE app.t SET n = {there} WHERE id = {a}")
                    conn.execute(f"UPDATE app.t SET n = {here} WHERE id = {b}")
                conn.execute("UPDATE app.t SET m = m + 1")
                begun.set()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(swap)
        try:
            until(lambda: begun.is_set() or running.done())
            yield
        finally:
            stopped.set()
        running.result()


def refuses_two_of_one(conn: Conn) -> str:
    """See that the key is checked at the end of the transaction; return the name by which it is told."""
    both = "UPDATE app.t SET n = (SELECT n FROM app.t WHERE id = 2) WHERE id = 1; UPDATE app.t SET k = 0 WHERE id = 1"
    with pytest.raises(psycopg.errors.UniqueViolation) as refused:
        conn.execute(both)
    return refused.value.diag.constraint_name or ""


@pytest.mark.slow
@pytest.mark.newest
def test_clients_swap_values_all_the_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """There, on the way back, and there again until contract; it ends as the plain change does."""
    with stage(server, "deferrable", TABLE) as both:
        before = looks(both.conn)
        with swapping(server):
            expansions = planned(both.conn, CHANGE)
        kept = refuses_two_of_one(both.conn)  # the older of the two keys is asked first
        assert f"app.t.{kept}" in [one.object for one in expansions[0].differs if one.kind == "until contract"]
        both.plain.execute(CHANGE)
        differ = diff(looks(both.plain), looks(both.conn))
        assert [d.line() for d in differ if not is_declared(d, expansions[0].differs)] == []
        both.conn.execute("UPDATE app.t SET n = 3000000000 WHERE id = 1")
        with swapping(server):
            pass
        both.conn.execute("UPDATE app.t SET n = -1 WHERE n = 3000000000")
        with swapping(server):
            undone(both.conn, expansions)
        assert refuses_two_of_one(both.conn) == "deferred"
        assert diff(before, looks(both.conn)) == []
        assert both.conn.execute("SELECT count(DISTINCT n), min(n) FROM app.t").fetchall() == [(100, -1)]
        planned(both.conn, CHANGE)
        monkeypatch.setenv(URL, url_of(server, "shadow_safe"))
        for one in shadows.read(both.conn):  # type: ignore[arg-type]
            with connect(stage_of(server, "shadow_safe").target, purpose="contract") as conn:
                contract.drop(
                    conn, stage_of(server, "shadow_safe").target, one, permitted_of(contract.subject(one), conn)
                )
        assert refuses_two_of_one(both.conn) == "deferred"
        differ = diff(looks(both.plain), looks(both.conn))
        assert [d.line() for d in differ if not is_declared(d, expansions[0].differs)] == []


@pytest.mark.slow
def test_given_up_at_any_step_it_leaves_nothing(server: Server) -> None:
    """Cleanup behind each number of steps: the keys are as before, and clients swap on."""
    number, total = 0, 1
    while number < total:
        with stage(server, "deferrable", TABLE) as both:
            before = looks(both.conn)
            made = plan(both.conn, CHANGE, batch_rows=50)
            total = len(made[0].steps)
            perform(both.conn, made, until=lambda step, last=made[0].steps[number]: step is last)
            undo(both.conn, made)
            assert [d.line() for d in diff(before, looks(both.conn))] == []
            with swapping(server):
                pass
        number += 1


@pytest.mark.slow
def test_a_conversion_that_may_bring_two_values_together_is_a_gate(server: Server) -> None:
    """Or keep them apart where the old type has one: the columns could not both have the key."""
    made = "CREATE TABLE app.t (id integer PRIMARY KEY, n numeric, w text, s integer);"
    made += "ALTER TABLE app.t ADD UNIQUE (n) DEFERRABLE, ADD UNIQUE (w) DEFERRABLE, ADD UNIQUE (s) DEFERRABLE"
    forms = {
        "n TYPE bigint": "", "n TYPE text": "", "w TYPE integer USING w::integer": "", "s TYPE varchar(3)": "",
        "s TYPE bigint USING (s / 2)": "", "s TYPE bigint USING s::bigint": "shadow-column",
        "s TYPE numeric(9, 2)": "shadow-column", "s TYPE smallint": "shadow-column", "s TYPE text": "shadow-column",
    }  # fmt: skip
    with stage(server, "apart", made) as both:
        for clause, form in forms.items():
            (found,) = plan(both.conn, f"ALTER TABLE app.t ALTER {clause}", batch_rows=15)
            assert found.form == form, clause
            assert form or (found.gate and "is deferrable, and two values of" in found.gate.says), clause
