"""A rename from release to contract and back: what drift, validate, status and later migrations know in each state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from acting import anchored, error, events, newest_run, outputs, pgrunbook, run, wait_until
from conftest import connect, do, rows
from pgrunbook.config.targets import Target
from pgrunbook.database import shadows
from pgrunbook.database.schema import snapshot
from pgrunbook.database.schema_diff import diff
from pgrunbook.draft.expected_differences import is_declared, until_contract
from pgrunbook.record.run import Status
from pgrunbook.runner import runbook
from pgrunbook.session import acceptance
from pgrunbook.session import session as heres
from scenes import beside, execute, gone, safe_plan_of, session, until

Project = Callable[..., Target]
Command = Callable[..., tuple[int, str, str]]
TABLE = "CREATE TABLE nodes (id int PRIMARY KEY, ip text UNIQUE, n int);"
RENAME = "ALTER TABLE nodes RENAME COLUMN ip TO ip_address;"
ROWS = "INSERT INTO nodes SELECT i, 'ip' || i, i FROM generate_series(1, 2500) AS i"
LATER = "ALTER TABLE nodes DROP COLUMN ip_address;"


@pytest.fixture(autouse=True)
def leave() -> Iterator[None]:
    """End what a test began in this process."""
    yield
    heres._end_earlier()


def add(target: Target, name: str, text: str) -> None:
    """Add a migration to the target's folder."""
    assert target.migrations is not None
    (Path(target.migrations) / name).write_text(text)


def released(project: Project) -> Target:
    """A target on which the rename is released over its rows, without a gate."""
    target = project(folder={"0001_a.sql": TABLE})
    assert run("release")[1] == 0
    do(target, ROWS)
    add(target, "0002_b.sql", RENAME)
    made, code = run("release")
    assert (code, made.status) == (0, Status.DONE)
    return target


@pytest.mark.slow
def test_from_release_to_contract_and_back(project: Project, command: Command) -> None:
    """In each state drift is clean, status and validate know it, and the way back leads back."""
    target = released(project)
    assert command("drift", "--target", "demo")[0] == 0
    assert command("drift", "--target", "demo", "--against", "validated")[0] == 0
    assert "1 column waits for contract" in command("status", "--target", "demo")[1]

    add(target, "0003_c.sql", LATER)
    made, code = run("prepare")
    assert (code, made.parts[0].says) == (
        3, "could not plan 0003_c:1 (ALTER TABLE DROP COLUMN): public.nodes.ip lives beside public.nodes.ip_address"
    )  # fmt: skip
    add(target, "0003_c.sql", "ALTER TABLE nodes ADD COLUMN more text; CREATE INDEX ON nodes (ip_address, more);")
    assert run("release")[1] == 0  # what leaves the pair alone is released as ever
    assert command("drift", "--target", "demo")[0] == 0
    do(target, "UPDATE nodes SET ip = 'old code' WHERE id = 1; UPDATE nodes SET ip_address = 'new code' WHERE id = 2")

    refused, code = run("contract")
    assert (code, refused.status) == (3, Status.REFUSED)
    assert "nobody has accepted that public.nodes.ip goes" in error(refused)
    assert acceptance.accept(refused.run_id, ["public.nodes.ip"]) == (["public.nodes.ip"], [])
    made, code = runbook.resume(refused.run_id)
    assert (code, made.status) == (0, Status.DONE)
    assert "1 column is dropped; no column waits." in outputs(made, "verdict")
    assert command("drift", "--target", "demo")[0] == 0
    assert command("drift", "--target", "demo", "--against", "validated")[0] == 0
    assert "waits for contract" not in command("status", "--target", "demo")[1]
    made, code = run("validate")
    assert (code, made.status) == (0, Status.DONE)

    made, code = run("rollback", migrations="2")
    assert (code, made.status) == (0, Status.DONE)
    assert rows(target, "SELECT ip FROM nodes WHERE id < 4 ORDER BY id") == [("old code",), ("new code",), ("ip3",)]
    assert run("release")[1] == 0
    assert command("drift", "--target", "demo")[0] == 0


@pytest.mark.slow
def test_a_minute_later_it_goes_back_with_what_was_written(project: Project, command: Command) -> None:
    """Before contract: one short transaction, no write of either version lost, and the release goes up again."""
    target = released(project)
    do(target, "UPDATE nodes SET ip = 'old code' WHERE id = 1; UPDATE nodes SET ip_address = 'new code' WHERE id = 2")
    do(target, "INSERT INTO nodes (id, ip_address) VALUES (9000, 'come'); DELETE FROM nodes WHERE id = 3")
    made, code = run("rollback", with_data="true")
    assert (code, made.status) == (0, Status.DONE)
    found = rows(target, "SELECT ip FROM nodes WHERE id IN (1, 2, 3, 4, 9000) ORDER BY id")
    assert found == [("old code",), ("new code",), ("ip4",), ("come",)]
    assert command("drift", "--target", "demo")[0] == 0
    assert "waits for contract" not in command("status", "--target", "demo")[1]
    made, code = run("release", with_data="true")
    assert (code, made.status) == (0, Status.DONE)
    assert rows(target, "SELECT count(*) FROM nodes WHERE ip IS DISTINCT FROM ip_address") == [(0,)]


@pytest.mark.slow
def test_what_somebody_does_to_the_pair_is_drift(project: Project, command: Command) -> None:
    """An index of ours that is dropped, a column more: told against what was validated, and against the history."""
    target = released(project)
    (index,) = rows(target, "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'nodes'::regclass"
                            " AND indexrelid::regclass::text LIKE 'pgrunbook%'")[0]  # fmt: skip
    do(target, f"DROP INDEX {index}")
    assert command("drift", "--target", "demo", "--against", "validated")[0] == 3
    do(target, "ALTER TABLE nodes ADD COLUMN stray int")
    code, out, _ = command("drift", "--target", "demo")
    assert code == 3
    assert "public.nodes.stray" in out
    assert "public.nodes.ip " not in out


@pytest.mark.slow
def test_killed_at_every_step_both_names_come_to_agree(project: Project) -> None:
    """kill -9 of the runner twice at each step, while somebody writes by the old name in between."""
    target = project(folder={"0001_a.sql": RENAME}, batch_rows=500)
    do(target, f"{TABLE} {ROWS}")
    plain = project(folder={"0001_a.sql": "SELECT 1"}, name="plain")
    do(plain, f"{TABLE} {RENAME}")
    plan = safe_plan_of(target)
    number = 0
    for step in plan.changes[0].steps:
        for moment in ("begins", "ran"):
            with beside(target, plan, killed_when=f"{moment} {step.number}") as process:
                assert process.wait() == -9, step
            until(gone(target))
            number += 1
            do(target, f"UPDATE nodes SET ip = 'written {number}' WHERE id = {number}")
            do(target, f"INSERT INTO nodes (id, ip) VALUES ({9000 + number}, 'come {number}')")
    execute(target, plan)
    assert rows(target, "SELECT count(*) FROM nodes WHERE ip IS DISTINCT FROM ip_address") == [(0,)]
    assert rows(target, "SELECT count(*) FROM nodes WHERE ip_address ~ '^(written|come) '") == [(2 * number,)]
    with connect(target) as one, connect(plain) as other:
        left = [*diff(snapshot(other, leave_out=["pgrunbook", "drizzle"]), snapshot(one, leave_out=["pgrunbook"]))]
        assert [d.line() for d in left if not is_declared(d, until_contract(one)) and "migration" not in d.name] == []


@pytest.mark.slow
def test_contract_killed_while_it_waits_goes_on(project: Project) -> None:
    """kill -9 of the runner before it has its lock: nothing is dropped; resumed, all of it is."""
    target = project(folder={"0001_a.sql": RENAME}, lock_patience_ms=60_000)
    do(target, f"{TABLE} {ROWS}")
    execute(target, safe_plan_of(target))
    with (
        session(target, "BEGIN; SELECT FROM nodes LIMIT 1"),
        pgrunbook("run", "contract", "--target", "demo", "-p", "accept=all") as process,
    ):
        wait_until(lambda: (made := newest_run()) is not None and events(made, "contract-meant"))
        process.kill()
        until(gone(target, "contract"))  # the kernel ends with its runner
    with connect(target) as conn:
        assert [one.label for one in shadows.read(conn)] == ["public.nodes.ip"]
    do(target, "INSERT INTO nodes (id, ip) VALUES (9001, 'still')")
    interrupted = newest_run()
    assert interrupted is not None
    made, code = runbook.resume(interrupted.run_id)
    assert (code, made.status) == (0, Status.DONE)
    assert rows(target, "SELECT ip_address FROM nodes WHERE id = 9001") == [("still",)]
    with connect(target) as conn:
        assert shadows.read(conn) == []


@pytest.mark.slow
def test_a_change_of_type_is_contracted_too(project: Project, command: Command) -> None:
    """Until then it goes back; after it the old values are gone, and rollback says so instead of failing half way."""
    target = project(folder={"0001_a.sql": TABLE})
    assert run("release")[1] == 0
    do(target, ROWS)
    add(target, "0002_b.sql", "ALTER TABLE nodes ALTER COLUMN n TYPE bigint;")
    made, code = run("release")
    assert (code, made.status) == (0, Status.DONE)
    assert "1 column waits for contract" in command("status", "--target", "demo")[1]
    assert command("drift", "--target", "demo")[0] == 0
    made, code = run("contract", accept="all")
    assert (code, made.status) == (0, Status.DONE)
    assert anchored(target, made) == ["opened", "closed"]
    do(target, "UPDATE nodes SET n = 3000000000 WHERE id = 1; INSERT INTO nodes VALUES (9001, 'x', 1)")
    for against in ("history", "validated"):
        assert command("drift", "--target", "demo", "--against", against)[0] == 0, against
    made, code = run("rollback")
    assert (code, made.status) == (3, Status.REFUSED)
    assert "has dropped public.nodes.pgrunbook_old_n, from which it would come back" in error(made)


@pytest.mark.slow
def test_a_table_of_this_very_release_is_changed_as_written_and_back(project: Project) -> None:
    """Nobody uses it yet: nothing lives on beside its columns, and the way back is plain too, with what was written."""
    target = project(
        folder={
            "0001_a.sql": "CREATE TABLE orders (id serial PRIMARY KEY, cpu int, ip text)",
            "0002_b.sql": "ALTER TABLE orders ALTER COLUMN cpu TYPE bigint",
            "0003_c.sql": "ALTER TABLE orders RENAME COLUMN ip TO address",
        }
    )
    assert run("release")[1] == 0
    do(target, "INSERT INTO orders (cpu, address) SELECT i, 'x' FROM generate_series(1, 3000) AS i")
    made, code = run("rollback", migrations="2")
    assert code == 0, error(made)
    columns = (
        "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = 'orders'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )
    assert rows(target, columns) == [("id", "integer"), ("cpu", "integer"), ("ip", "text")]
    assert rows(target, "SELECT count(*), sum(cpu), count(ip) FROM orders") == [(3000, 4501500, 3000)]
