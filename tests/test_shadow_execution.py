"""A change of type beside the traffic as a plan: released, killed, refused, taken back; and what stands in its way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from acting import error, run
from budget import sample
from conftest import connect, do, rows
from pgrunbook.config.targets import Target
from pgrunbook.database.schema import snapshot
from pgrunbook.database.schema_diff import diff
from pgrunbook.errors import Blocked, StatementFailed
from pgrunbook.plan.plan import Change, Step
from pgrunbook.record.run import Status
from scenes import beside, error_of, execute, gone, safe_plan_of, session, until
from test_execution_of_safe_forms import Place, _short_pauses, place
from test_up_down_up import trials

Project = Callable[..., Target]
__all__ = ["_short_pauses", "place"]
pytestmark = pytest.mark.newest

TABLES = """
CREATE TABLE orders (id serial PRIMARY KEY, amount integer NOT NULL DEFAULT 1 CHECK (amount > 0), code varchar(9));
CREATE TABLE lines (id integer PRIMARY KEY, order_id integer REFERENCES orders);
INSERT INTO orders (amount, code) SELECT i, i FROM generate_series(1, 300) AS i;
INSERT INTO lines SELECT i, i FROM generate_series(1, 300) AS i;
"""
# Of the tables of ``place``.
OWN = "ALTER TABLE orders ALTER COLUMN amount TYPE bigint;"
CHANGE = "ALTER TABLE orders ALTER COLUMN amount TYPE bigint;"
BOTH = "ALTER TABLE orders ALTER amount TYPE bigint, ALTER customer TYPE bigint;"
KEYS = "ALTER TABLE customers ALTER id TYPE bigint;\nALTER TABLE orders ALTER customer TYPE bigint;"
OURS = "SELECT attname FROM pg_attribute WHERE attname LIKE 'pgrunbook%' AND attrelid > 16384 AND NOT attisdropped"


@pytest.mark.slow
def test_a_release_and_its_rollback(project: Project) -> None:
    """No gate; what is written after it is there when it is taken back, and nothing of ours stays."""
    target = project(folder={"0001_a.sql": CHANGE}, batch_rows=100)
    do(target, TABLES)
    made, code = run("release", with_data="true")
    assert (code, made.status) == (0, Status.DONE), error(made)
    assert rows(target, "SELECT pg_typeof(amount)::text FROM orders LIMIT 1") == [("bigint",)]
    do(target, "INSERT INTO orders (amount, code) VALUES (7, 'new'); UPDATE orders SET amount = 9 WHERE id = 1")
    made, code = run("rollback", with_data="true")
    assert (code, made.status) == (0, Status.DONE), error(made)
    query = "SELECT pg_typeof(amount)::text, amount FROM orders WHERE code IN ('1', 'new') ORDER BY id"
    assert rows(target, query) == [("integer", 9), ("integer", 7)]
    assert rows(target, OURS) == []
    left = "SELECT proname FROM pg_proc WHERE proname LIKE '%\\_sync\\_%' AND pronamespace = 'pgrunbook'::regnamespace"
    assert rows(target, left) == []


@dataclass
class Before:
    """An observer that calls a function before each step."""

    call: Callable[[Step], None]

    def begins(self, _: Change, step: Step, *__: object) -> None:
        """A step is about to be sent."""
        self.call(step)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


# Three floors of keys, of which one refers to itself and one has two columns, as a team finds them.
FLOORS = """
CREATE TABLE tops (id serial PRIMARY KEY, up integer REFERENCES tops);
CREATE TABLE mids (top_id integer REFERENCES tops, id integer GENERATED ALWAYS AS IDENTITY, PRIMARY KEY (top_id, id));
CREATE TABLE leaves (id serial PRIMARY KEY, top_id integer NOT NULL, mid_id integer,
                     FOREIGN KEY (top_id, mid_id) REFERENCES mids ON UPDATE CASCADE);
INSERT INTO tops (up) SELECT nullif(i - 1, 0) FROM generate_series(1, 300) AS i;
INSERT INTO mids (top_id) SELECT id FROM tops;
INSERT INTO leaves (top_id, mid_id) SELECT top_id, id FROM mids;
"""
GROW = """ALTER TABLE tops ALTER id TYPE bigint;
ALTER TABLE tops ALTER up TYPE bigint;
ALTER TABLE mids ALTER top_id TYPE bigint, ALTER id TYPE bigint;
ALTER TABLE leaves ALTER id TYPE bigint, ALTER top_id TYPE bigint, ALTER mid_id TYPE bigint;
"""


@pytest.mark.slow
def test_keys_and_all_that_refers_to_them_grow_in_one_release(project: Project) -> None:
    """Without a gate: sequences grow too, the keys hold, and a rollback brings all of it back, with new rows."""
    target = project(folder={"0001_a.sql": GROW}, batch_rows=100)
    do(target, FLOORS)
    with connect(target) as conn:
        before = snapshot(conn, leave_out=["pgrunbook", "public.schema_migrations"])
    made, code = run("release", with_data="true")
    assert (code, made.status) == (0, Status.DONE), error(made)
    keys = "SELECT DISTINCT data_type::text FROM information_schema.columns WHERE table_schema = 'public'"
    assert rows(target, f"{keys} AND column_name ~ '^(id|up|top_id|mid_id)$'") == [("bigint",)]
    assert rows(target, "SELECT DISTINCT data_type::text FROM pg_sequences WHERE schemaname = 'public'") == [
        ("bigint",)
    ]
    do(target, "INSERT INTO tops (up) VALUES (300); INSERT INTO mids (top_id) VALUES (301)")
    do(target, "INSERT INTO leaves (top_id, mid_id) VALUES (301, 301)")
    made, code = run("rollback", with_data="true")
    assert (code, made.status) == (0, Status.DONE), error(made)
    with connect(target) as conn:
        found = diff(before, snapshot(conn, leave_out=["pgrunbook", "public.schema_migrations"]))
    assert [each.line() for each in found] == []
    assert rows(target, "SELECT id, top_id, mid_id FROM leaves WHERE id > 299 ORDER BY id") == [
        (300, 300, 300), (301, 301, 301),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["begins", "ran"])
def test_killed_between_two_columns_it_goes_on(place: Place, moment: str) -> None:
    """Both columns are changed or none: SIGKILL at each step, and the next run ends it."""
    number = 0
    while True:
        number += 1
        target = place(BOTH, name=f"both{number}")
        plan = safe_plan_of(target)
        if number > len(plan.changes[0].steps):
            return
        with beside(target, plan, killed_when=f"{moment} {number}") as process:
            assert process.wait() == -9
        until(gone(target))
        types = "SELECT DISTINCT pg_typeof(amount)::text, pg_typeof(customer)::text FROM orders"
        assert rows(target, types) == [("integer", "integer")]
        do(target, "UPDATE orders SET customer = 1, amount = 7 WHERE id % 2 = 0")
        execute(target, plan)
        assert rows(target, types) == [("bigint", "bigint")]
        assert rows(target, "SELECT count(*) FROM orders WHERE customer = 1 AND amount = 7 AND id % 2 = 0") == [(250,)]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["begins", "ran"])
def test_killed_at_any_step_it_goes_on(place: Place, moment: str) -> None:
    """SIGKILL right before each step, and right before its end is committed: the next run ends it, no row is lost."""
    number = 0
    while True:
        number += 1
        target = place(KEYS, name=f"safe{number}")
        do(target, "ALTER TABLE orders ADD CONSTRAINT known FOREIGN KEY (customer) REFERENCES customers")
        before = rows(target, "SELECT id, customer FROM orders ORDER BY id")
        plan = safe_plan_of(target)
        if number > len(plan.changes[0].steps):
            return
        with beside(target, plan, killed_when=f"{moment} {number}") as process:
            assert process.wait() == -9
        until(gone(target))
        do(target, "UPDATE orders SET customer = 1 + id % 19 WHERE id % 2 = 0; INSERT INTO customers VALUES (100)")
        execute(target, plan)
        assert rows(target, "SELECT count(*) FROM orders AS o JOIN customers AS c ON c.id = o.customer") == [(500,)]
        assert rows(target, "SELECT id, customer FROM orders WHERE id % 2 = 1 ORDER BY id") == before[::2]
        types = (
            "SELECT pg_typeof(customer)::text, (SELECT pg_typeof(id)::text FROM customers LIMIT 1) FROM orders LIMIT 1"
        )
        assert rows(target, types) == [("bigint", "bigint")]
        left = "SELECT conname FROM pg_constraint WHERE conname LIKE 'pgrunbook%' UNION ALL"
        left += " SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"
        assert rows(target, left) == []


def test_rows_that_cannot_be_converted_are_named_before_anything_is_written(place: Place) -> None:
    """Five of them by their key; nothing of ours is left in the table."""
    target = place("ALTER TABLE orders ALTER COLUMN code TYPE integer USING substr(code, 2)::integer;")
    do(target, "UPDATE orders SET code = 'cx' WHERE id IN (7, 8)")
    refused = error_of(lambda: execute(target, safe_plan_of(target)))
    assert isinstance(refused, StatementFailed)
    assert refused.message.endswith('values of "public"."orders" cannot be converted, in 2 of its rows')
    assert refused.detail.startswith(
        '7: invalid input syntax for type integer: "x". 8: invalid input syntax for type integer: "x".'
    )
    assert rows(target, OURS) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "both"),
    [(OWN, "pgrunbook_old_amount"), ("ALTER TABLE orders RENAME COLUMN amount TO total;", "total")],
)
def test_a_cutover_that_gets_no_lock_is_given_up(place: Place, change: str, both: str) -> None:
    """Bounded, and named with who holds it; what is done stays, clients write on, and the same plan ends it later."""
    target = place(change, lock_timeout_ms=100, lock_patience_ms=100, attempts=2)
    plan = safe_plan_of(target)
    with session(target) as other:
        held = plan.changes[0].steps[-2].number

        def holds(step: Step) -> None:
            if step.number == held:
                other.execute("BEGIN; SELECT FROM orders WHERE id = 1")

        blocked = error_of(lambda: execute(target, plan, observer=Before(holds)))
        assert isinstance(blocked, Blocked)
        assert blocked.message.startswith('could not lock "')
        assert f"rocess {other.info.backend_pid} " in blocked.detail
        assert "steps are done and stay so" in blocked.state
        do(target, "SET lock_timeout = '100ms'; UPDATE orders SET amount = 6 WHERE id = 2")
        other.execute("COMMIT")
    do(target, "UPDATE orders SET amount = 5 WHERE id = 2")
    execute(target, plan)
    assert rows(target, f"SELECT amount, {both} FROM orders WHERE id = 2") == [(5, 5)]
    type_ = "bigint" if change == OWN else "integer"
    assert rows(target, "SELECT pg_typeof(amount)::text FROM orders LIMIT 1") == [(type_,)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made", "told", "gone"),
    sample([
        ("CREATE INDEX since ON orders (amount)", "index public.since", "DROP INDEX since"),
        ("CREATE VIEW since AS SELECT amount FROM orders", "rule _RETURN on view public.since", "DROP VIEW since"),
        ("ALTER TABLE orders ADD CONSTRAINT since CHECK (amount <> -7)", "constraint since on table public.orders",
         "ALTER TABLE orders DROP CONSTRAINT since"),
    ], 3),
)  # fmt: skip
def test_what_was_hung_on_the_column_meanwhile_is_not_passed_over(
    place: Place, made: str, told: str, gone: str
) -> None:
    """The cut-over is refused, the traffic goes on; without it the same plan ends."""
    target = place(OWN)
    plan = safe_plan_of(target)
    last = plan.changes[0].steps[-1].number

    def hangs(step: Step) -> None:
        if step.number == last:
            do(target, made)

    refused = error_of(lambda: execute(target, plan, observer=Before(hangs)))
    assert isinstance(refused, StatementFailed)
    assert f"{told} hangs on column amount of" in refused.message
    do(target, f"UPDATE orders SET amount = 5 WHERE id = 2; {gone}")
    execute(target, plan)
    assert rows(target, "SELECT pg_typeof(amount)::text, amount FROM orders WHERE id = 2") == [("bigint", 5)]


@pytest.mark.slow
def test_values_that_the_old_type_cannot_hold_stand_in_the_way_back(project: Project) -> None:
    """It is refused before anything is changed; once they are gone, it is taken back."""
    target = project(folder={"0001_a.sql": CHANGE}, batch_rows=100)
    do(target, TABLES)
    assert run("release")[1] == 0
    do(target, "INSERT INTO orders (amount, code) VALUES (3000000000, 'big')")
    made, code = run("rollback")
    assert code == 1
    assert 'two columns of "public"."orders" do not agree, in 1 of its rows' in error(made)
    assert "Detail: One is 301. What the other type cannot hold is NULL there." in error(made)
    assert rows(target, "SELECT pg_typeof(amount)::text FROM orders LIMIT 1") == [("bigint",)]
    assert rows(target, "SELECT conname FROM pg_constraint WHERE conname LIKE 'pgrunbook%'") == []
    do(target, "DELETE FROM orders WHERE code = 'big'")
    made, code = run("rollback")
    assert (code, made.status) == (0, Status.DONE), error(made)
    assert rows(target, "SELECT pg_typeof(amount)::text FROM orders LIMIT 1") == [("integer",)]


@pytest.mark.slow
def test_what_stopped_half_way_is_taken_back(project: Project) -> None:
    """A key that is not unique any more under the new type: the runner takes the first change back, and all of ours."""
    second = "ALTER TABLE orders ALTER code TYPE integer USING code::integer / 2;"
    target = project(folder={"0001_a.sql": f"{CHANGE}\n{second}"}, batch_rows=100)
    do(target, TABLES + "CREATE UNIQUE INDEX ON orders (code);")
    before = rows(target, "SELECT * FROM orders ORDER BY id")
    made, code = run("release")
    assert code == 1
    assert "could not create unique index" in error(made, [one.procedure for one in made.parts].index("migrate"))
    assert rows(target, "SELECT pg_typeof(amount)::text FROM orders LIMIT 1") == [("integer",)]
    assert rows(target, "SELECT * FROM orders ORDER BY id") == before
    assert rows(target, OURS) == []
    assert rows(target, "SELECT FROM pgrunbook.shadow") == []
    assert rows(target, "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = 'orders'::regclass") == []


@pytest.mark.slow
def test_contract_drops_the_old_column(project: Project) -> None:
    """Then the schema is that of the plain change, and rollback says that nothing leads back."""
    target = project(folder={"0001_a.sql": CHANGE}, batch_rows=100)
    do(target, TABLES)
    assert run("release")[1] == 0
    assert rows(target, OURS) == [("pgrunbook_old_amount",)]
    made, code = run("contract", accept="all")
    assert (code, made.status) == (0, Status.DONE), error(made)
    assert rows(target, OURS) == []
    assert rows(target, "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = 'orders'::regclass") == []
    other = project(folder={"0001_a.sql": "SELECT 1"}, name="other")
    do(other, TABLES + CHANGE)
    with connect(target) as one, connect(other) as two:
        left = ["pgrunbook", "public.schema_migrations"]
        found = diff(snapshot(two, leave_out=left), snapshot(one, leave_out=left))
    assert [(each.change, each.name) for each in found] == [("moved", "public.orders")]
    made, code = run("rollback")
    assert (code, made.status) == (3, Status.REFUSED)
    assert "has dropped public.orders.pgrunbook_old_amount, from which it would come back" in error(made)


@pytest.mark.slow
def test_contract_of_one_of_two_columns_ends_the_way_back_of_both(project: Project) -> None:
    """They were changed by one statement; the other one goes when a person accepts that, too."""
    change = "ALTER TABLE orders ALTER amount TYPE bigint, ALTER code TYPE integer USING code::integer;"
    target = project(folder={"0001_a.sql": change}, batch_rows=100)
    do(target, TABLES)
    made, code = run("release")
    assert (code, made.status) == (0, Status.DONE), error(made)
    assert rows(target, f"{OURS} ORDER BY 1") == [("pgrunbook_old_amount",), ("pgrunbook_old_code",)]
    made, code = run("contract", accept="public.orders.pgrunbook_old_amount")
    assert rows(target, OURS) == [("pgrunbook_old_code",)], error(made)
    made, code = run("rollback")
    assert (code, made.status) == (3, Status.REFUSED)
    assert "has dropped public.orders.pgrunbook_old_amount, from which it would come back" in error(made)
    made, code = run("contract", accept="all")
    assert (code, made.status) == (0, Status.DONE), error(made)
    assert rows(target, OURS) == []
    assert rows(target, "SELECT pg_typeof(amount)::text, pg_typeof(code)::text FROM orders LIMIT 1") == [
        ("bigint", "integer"),
    ]  # fmt: skip


@pytest.mark.slow
def test_what_follows_in_the_release_is_proven_as_well(project: Project) -> None:
    """Rows that are changed and deleted behind it, and the last column of the table, which is another one by then."""
    found = trials(
        project,
        "ALTER TABLE t ALTER a TYPE bigint; UPDATE t SET a = a + 1 WHERE id < 9; DELETE FROM t WHERE id = 3",
        "ALTER TABLE t DROP COLUMN b",
    )
    assert {name: change.proof.told for name, change in found.items() if not change.proof.proven} == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made", "listed"),
    sample(
        [("orders", "id,amount,code"), ("orders (id, amount)", "id,amount"), ("lines, orders (id, code)", "id,code")], 9
    ),
)
def test_a_published_table_is_released_and_contracted(project: Project, made: str, listed: str) -> None:
    """PostgreSQL refuses the plain change where a list has the column; drift tells of nothing that was declared."""
    target = project(folder={"0001_a.sql": CHANGE}, batch_rows=100)
    do(target, TABLES + f"CREATE PUBLICATION sent FOR TABLE {made};")
    attributes = "SELECT array_to_string(attnames, ',') FROM pg_publication_tables WHERE tablename = 'orders'"
    is_listed = "SELECT prattrs IS NOT NULL FROM pg_publication_rel WHERE prrelid = 'orders'::regclass"
    before = rows(target, is_listed)
    done, code = run("release", with_data="true")
    assert (code, done.status) == (0, Status.DONE), error(done)
    assert (rows(target, is_listed), rows(target, attributes)) == ([(True,)], [(",".join(sorted_as(target, listed)),)])
    done, code = run("rollback", with_data="true")
    assert (code, done.status) == (0, Status.DONE), error(done)
    assert (rows(target, is_listed), rows(target, attributes)) == (before, [(listed,)])
    done, code = run("release")
    assert (code, done.status) == (0, Status.DONE), error(done)
    done, code = run("contract", accept="all")
    assert (code, done.status) == (0, Status.DONE), error(done)
    assert (rows(target, is_listed), rows(target, attributes)) == (before, [(",".join(sorted_as(target, listed)),)])
    done, code = run("validate")
    assert (code, done.status) == (0, Status.DONE), error(done)


def sorted_as(target: Target, listed: str) -> list[str]:
    """Columns in the order in which the table has them."""
    query = "SELECT attname::text FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attnum > 0 ORDER BY attnum"
    return [str(name) for (name,) in rows(target, query) if name in listed.split(",")]
