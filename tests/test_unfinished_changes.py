"""Online changes whose runner was killed: doctor and status name each to a role that owns its database and no more."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

import pytest
import yaml

from acting import error, pgrunbook, run, wait_until
from forks import ForkedProcess
from kill_stage import ENDS_S, children, sessions
from pgrunbook.config import targets
from pgrunbook.record.run import Status
from scenes import beside, safe_plan_of
from servers import Server
from test_online_bad_input import FILL, ORDERS, Place, _placed
from test_online_faults import state

Command = Callable[..., tuple[int, str, str]]
WIDER = "ALTER TABLE {table} ALTER COLUMN id TYPE bigint"
WAITS = ("-p", "max_transaction_age_s=1")
OLD = """
SELECT clock_timestamp() - min(xact_start) > '1 s'
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
LEADS = 'from test_rollout import lead\nlead("half", watch_s=0.0)'


@pytest.fixture
def owned(
    server: Server, database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    """A database whose owner, and that of its tables, is the role of the target."""
    name, role = database(ORDERS), f"owner_{os.getpid()}"
    place = _placed(server, name, tmp_path, monkeypatch)
    server.administer(f"CREATE ROLE {role} LOGIN", f"ALTER DATABASE {name} OWNER TO {role}")
    for table in ("orders", "other"):
        place.sql(f"ALTER TABLE {table} OWNER TO {role}")
    place.sql(f"ALTER SCHEMA public OWNER TO {role}")
    monkeypatch.setenv("PLACE_URL", f"postgresql://{role}@/{name}?host={server.socket_dir}")
    (tmp_path / "migrations" / "0001_a.sql").write_text("SELECT 1;")
    yield place
    server.administer(f"DROP DATABASE {name} WITH (FORCE)", f"DROP ROLE {role}", f"CREATE DATABASE {name}")


def killed_while_it_waits(place: Place, begun: Callable[[], bool], *words: str) -> None:
    """Kill a run with its kernels once it has begun: an old transaction keeps it from going on."""
    with place.holding("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM other"):
        wait_until(lambda: is_true(place, OLD))
        with pgrunbook("run", *words, "--target", "demo", "-p", "table=orders", *WAITS) as process:
            ends = time.monotonic() + ENDS_S  # on a busy machine a run takes a minute to begin
            while process.poll() is None and not begun() and time.monotonic() < ends:
                time.sleep(0.05)
            assert process.poll() is None, process.communicate()
            kill(process.pid)
    wait_until(lambda: not sessions(targets.load("demo")))


def is_true(place: Place, query: str) -> bool:
    return place.sql(f"SELECT ({query})") == [(True,)]


def kill(pid: int) -> None:
    for one in (pid, *children(pid)):
        with suppress(ProcessLookupError):
            os.kill(one, 9)


def told(command: Command) -> tuple[str, str]:
    """Return what doctor and status print."""
    code, doctor, _ = command("doctor", "--target", "demo")
    assert code in (0, 1, 3), doctor
    _, status, _ = command("status", "--target", "demo", "--json")
    return " ".join(doctor.split()), status


@pytest.mark.slow
def test_swap_that_was_killed_is_named_with_its_commands(owned: Place, command: Command) -> None:
    """While it copies; a copy goes on, or goes away, by the command that doctor names."""
    killed_while_it_waits(owned, lambda: state(owned) == "copying", "swap", "-p", f"shape={WIDER}")
    doctor, status = told(command)
    assert "swap of public.orders is half copied" in doctor
    assert "pgrunbook run swap --target demo -p table=public.orders -p do=abandon" in doctor
    assert "swap of public.orders is half copied" in status
    made, code = run("swap", table="public.orders", do="abandon")
    assert (made.status, code) == (Status.DONE, 0), error(made)
    doctor, status = told(command)
    assert "swap of public.orders" not in doctor + status
    assert owned.left == []


@pytest.mark.slow
def test_backfill_that_was_killed_is_named_with_its_commands(owned: Place, command: Command) -> None:
    """Its trigger fills on, and goes by the statement that doctor names."""
    begun = "SELECT count(*) > 0 FROM pg_trigger WHERE tgname ~ '^~pgrunbook_fill_'"
    killed_while_it_waits(owned, lambda: is_true(owned, begun), "backfill", "-p", f"fill={FILL['fill']}")
    doctor, status = told(command)
    assert "helper of a run: trigger" in doctor
    assert "DROP FUNCTION pgrunbook." in doctor
    assert "helper of a run: trigger" in status
    assert "pgrunbook run --resume" in doctor


@pytest.mark.slow
@pytest.mark.parametrize("change", ["RENAME COLUMN total TO amount", "ALTER COLUMN id TYPE bigint"])
def test_change_that_was_killed_is_named_with_its_commands(owned: Place, command: Command, change: str) -> None:
    """Before its cut-over: half applied, with the run that goes on and the way back."""
    (owned.folder / "migrations" / "0001_a.sql").write_text(f"ALTER TABLE orders {change};")
    target = targets.load("demo")
    plan = safe_plan_of(target)
    with beside(target, plan, killed_when=f"begins {plan.changes[0].steps[-1].number}") as process:
        assert process.wait() == -9
    wait_until(lambda: not sessions(target))
    doctor, status = told(command)
    assert "0001_a is half applied" in doctor
    assert "pgrunbook run --resume" in doctor
    assert "pgrunbook run rollback --target demo" in doctor
    assert "0001_a is half done" in status


@pytest.mark.slow
def test_stage_of_a_rollout_that_was_killed_is_named_with_its_commands(
    owned: Place, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some rows of the stage have the flag and others not, until it goes on or back."""
    owned.declare(batch_rows=20)
    home = owned.folder / "home"
    (home / "rollouts").mkdir(parents=True)
    declared = {"table": "orders", "column": "beta", "stages": [{"name": "half", "share": 50}]}
    (home / "rollouts" / "beta.yaml").write_text(yaml.safe_dump(declared))
    monkeypatch.setenv("PGRUNBOOK_HOME", str(home))
    with TemporaryFile() as file:
        process = ForkedProcess(LEADS, told=file.fileno())
        begun = "SELECT count(*) > 0 FROM pgrunbook.rollout_row"
        wait_until(lambda: process.poll() is not None or (
            is_true(owned, "to_regclass('pgrunbook.rollout_row') IS NOT NULL") and is_true(owned, begun)))  # fmt: skip
        file.seek(0)
        assert process.poll() is None, file.read()
        process.kill()
        process.wait()
    wait_until(lambda: not sessions(targets.load("demo")))
    doctor, status = told(command)
    assert 'stage "half" of rollout beta is written by half' in doctor
    assert "pgrunbook run rollout --target demo -p name=beta -p do=abandon" in doctor
    assert "of rollout beta is written by half" in status
