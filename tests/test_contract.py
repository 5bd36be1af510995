"""notebooks/contract.ipynb: the column that lives beside another goes when a person accepts it, and not before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from acting import events
from conftest import connect, do, rows
from pgrunbook.config.targets import Target
from pgrunbook.database import leftovers, shadows
from pgrunbook.database.schema import snapshot
from pgrunbook.database.schema_diff import diff
from pgrunbook.display.show import Cell
from pgrunbook.errors import Blocked, Refused, StatementFailed, WrongInput
from pgrunbook.procedures import contract
from pgrunbook.session import acceptance
from pgrunbook.session import session as heres
from pgrunbook.session.session import Session
from renames import rename
from scenes import error_of, execute, safe_plan_of, session

Project = Callable[..., Target]
TABLE = "CREATE TABLE nodes (id int PRIMARY KEY, ip text UNIQUE, n int); INSERT INTO nodes SELECT i, 'ip' || i, i"
RENAME = "ALTER TABLE nodes RENAME COLUMN ip TO ip_address"


@pytest.fixture
def target(project: Project) -> Target:
    """A target with a table of which a column is renamed, and lives under both names."""
    target = project(folder={"0001_a.sql": "SELECT 1"})
    do(target, f"{TABLE} FROM generate_series(1, 120) AS i")
    rename(target, RENAME)
    return target


@pytest.fixture(autouse=True)
def leave() -> Iterator[None]:
    """End what a test began in this process."""
    yield
    heres._end_earlier()


def up_to_the_drop(**given: object) -> Session:
    """Step through the notebook in this process, up to the cell that drops."""
    here = contract.begin(target="demo", **given)
    contract.meet_the_target(here)
    contract.what_is_still_double(here)
    contract.who_uses_it(here)
    contract.do_they_agree(here)
    return here


def waiting(target: Target) -> list[str]:
    with connect(target) as conn:
        return [one.label for one in shadows.read(conn)]


@pytest.mark.slow
def test_nothing_goes_before_a_person_has_accepted_it(target: Target) -> None:
    """The refusal names the commands; what was accepted for the run goes, and then nothing waits."""
    here = up_to_the_drop()
    refused = error_of(lambda: contract.drop_it(here))
    assert isinstance(refused, Refused)
    assert str(refused) == (
        "nobody has accepted that public.nodes.ip goes\n"
        "Detail: What is dropped is gone for the code that still uses it: who-uses-it shows what is known of that.\n"
        "State: Nothing changed in the database.\n"
        f"Hint: pgrunbook accept {here.run.run_id} public.nodes.ip; then pgrunbook run --resume {here.run.run_id}. "
        "Or pgrunbook run contract --target demo -p accept=public.nodes.ip"
    )
    assert waiting(target) == ["public.nodes.ip"]
    assert acceptance.accept(here.run.run_id, []) == (["public.nodes.ip"], [])
    contract.what_is_still_double(here)
    table = contract.drop_it(here)
    assert [str(cell) for cell in table.rows[0][:2]] == ["public.nodes.ip", "public.nodes.ip_address"]
    assert waiting(target) == []
    assert "1 column is dropped; no column waits." in str(contract.verdict(here))


@pytest.mark.slow
def test_what_waits_for_contract_is_no_leftover(target: Target, command: Callable[..., tuple[int, str, str]]) -> None:
    """Neither the column nor its index is one that troubleshoot would remove; status tells that it waits."""
    with connect(target) as conn:
        assert leftovers.remnants(conn) == []
        (row,) = conn.execute("SELECT count(*) FROM pg_index WHERE indrelid = 'public.nodes'::regclass").fetchall()
        assert row == (3,)
    code, out, _ = command("status", "--target", "demo")
    assert code == 0
    assert "1, 1 column waits for contract" in out


@pytest.mark.first_case
@pytest.mark.usefixtures("target")
@pytest.mark.parametrize(
    ("statement", "is_refused"),
    [
        ("ALTER TABLE nodes RENAME COLUMN ip_address TO address", True),
        ("ALTER TABLE public.nodes DROP COLUMN ip", True),
        ("DROP TABLE nodes", True),
        ("ALTER TABLE nodes ALTER COLUMN n TYPE bigint", False),
    ],
)
def test_review_on_the_target_shows_what_comes_before_contract(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path, statement: str, is_refused: bool
) -> None:
    """As prepare would refuse it; behind the contract, and without a target, nobody says so."""
    file = tmp_path / "0002_b.sql"
    file.write_text(f"{statement};\n")
    _, out, _ = command("review", str(file), "--target", "demo", "--no-squawk")
    assert ("error: waits-for-contract" in out) is is_refused
    if is_refused:
        says = "prepare refuses it: public.nodes.ip lives beside public.nodes.ip_address"
        assert says in out
        assert "-- before it: pgrunbook run contract --target demo" in out
    _, out, _ = command("review", str(file), "--no-squawk")
    assert "waits-for-contract" not in out


@pytest.mark.slow
def test_what_is_left_is_what_the_plain_sql_leaves(project: Project, target: Target) -> None:
    """Trigger, functions, notes and index are gone too; what was written by either name is there."""
    do(
        target,
        "INSERT INTO nodes (id, ip) VALUES (1001, 'old'); INSERT INTO nodes (id, ip_address) VALUES (1002, 'new')",
    )
    contract.drop_it(up_to_the_drop(accept="all"))
    other = project(folder={"0001_a.sql": "SELECT 1"}, name="other")
    do(other, f"{TABLE} FROM generate_series(1, 120) AS i; {RENAME}")
    with connect(target) as one, connect(other) as two:
        assert diff(snapshot(two), snapshot(one)) == []
    assert rows(target, "SELECT ip_address FROM nodes WHERE id > 1000 ORDER BY id") == [("old",), ("new",)]
    left = "SELECT proname FROM pg_proc WHERE pronamespace = 'pgrunbook'::regnamespace"
    assert rows(target, left) == [("refuse_ledger_change",)], "that of the records, which stays"
    assert rows(target, "SELECT to_regclass('pgrunbook.sync_x') IS NULL AND count(*) = 0 FROM pgrunbook.shadow") == [
        (True,)
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("target")
def test_a_name_that_does_not_wait_is_wrong() -> None:
    """Those that wait are named, for the parameter as for the command."""
    wrong = error_of(lambda: up_to_the_drop(accept="public.nodes.n"))
    assert isinstance(wrong, WrongInput)
    assert str(wrong) == (
        "no column public.nodes.n waits for contract\n"
        "Detail: These wait: public.nodes.ip.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Name it as here: schema.table.column."
    )
    heres._end_earlier()
    here = up_to_the_drop()
    unknown = error_of(lambda: acceptance.accept(here.run.run_id, ["public.nodes.n"]))
    assert isinstance(unknown, WrongInput)
    assert "Detail: It has shown: public.nodes.ip." in str(unknown)


@pytest.mark.slow
def test_rows_that_differ_keep_the_column(target: Target) -> None:
    """Somebody has switched the trigger off, written one name, and switched it on again."""
    trigger = rows(target, "SELECT tgname FROM pg_trigger WHERE tgrelid = 'nodes'::regclass AND NOT tgisinternal")[0][0]
    do(target, f"ALTER TABLE nodes DISABLE TRIGGER \"{trigger}\"; UPDATE nodes SET ip = 'other' WHERE id = 7")
    off = error_of(lambda: up_to_the_drop(accept="all"))
    assert isinstance(off, Refused)
    assert f"somebody has switched trigger {trigger} off" in str(off)
    heres._end_earlier()
    do(target, f'ALTER TABLE nodes ENABLE ALWAYS TRIGGER "{trigger}"')
    differ = error_of(lambda: up_to_the_drop(accept="all"))
    assert isinstance(differ, Refused)
    assert str(differ).startswith('cannot drop public.nodes.ip: rows differ\nDetail: two columns of "public"."nodes"')
    assert waiting(target) == ["public.nodes.ip"]


@pytest.mark.slow
def test_a_trigger_that_is_switched_behind_the_proof_keeps_the_column(target: Target) -> None:
    """Off, one name written, and on again, in one transaction: nothing is dropped until the rows are compared anew."""
    here = up_to_the_drop(accept="all")
    trigger = rows(target, "SELECT tgname FROM pg_trigger WHERE tgrelid = 'nodes'::regclass AND NOT tgisinternal")[0][0]
    off_and_on = f"ALTER TABLE nodes DISABLE TRIGGER \"{trigger}\"; UPDATE nodes SET ip = 'other' WHERE id = 7"
    do(target, f'{off_and_on}; ALTER TABLE nodes ENABLE ALWAYS TRIGGER "{trigger}"')
    refused = error_of(lambda: contract.drop_it(here))
    assert isinstance(refused, Refused)
    assert str(refused) == (
        "cannot drop public.nodes.ip: somebody has switched its trigger off since its rows were compared\n"
        "Detail: It may be on again; rows that were written meanwhile may hold one value as public.nodes.ip, and"
        " another one as public.nodes.ip_address.\n"
        "State: Dropped: none; still there, unchanged: public.nodes.ip.\n"
        'Hint: Let it fire (ENABLE ALWAYS), and run cell "do-they-agree" again: it names rows that differ.'
    )
    assert waiting(target) == ["public.nodes.ip"]
    differ = error_of(lambda: contract.do_they_agree(here))
    assert isinstance(differ, Refused)
    assert "do not agree, in 1 of its rows" in str(differ)
    do(target, "UPDATE nodes SET ip = 'ip7' WHERE id = 7")
    contract.do_they_agree(here)
    contract.drop_it(here)
    assert waiting(target) == []


@pytest.mark.slow
@pytest.mark.usefixtures("none_is_small")
def test_a_column_that_was_not_followed_is_told(project: Project) -> None:
    """Behind a change of type the other column leads: nothing is lost with what the old one lacks."""
    target = project(folder={"0001_a.sql": "ALTER TABLE nodes ALTER COLUMN n TYPE bigint"}, batch_rows=50)
    do(target, f"{TABLE} FROM generate_series(1, 120) AS i")
    execute(target, safe_plan_of(target))
    cell = contract.do_they_agree(up_to_the_drop()).rows[0][2]
    assert isinstance(cell, Cell)
    assert cell.under == ""
    heres._end_earlier()
    trigger = rows(target, "SELECT tgname FROM pg_trigger WHERE tgrelid = 'nodes'::regclass AND NOT tgisinternal")[0][0]
    do(target, f'ALTER TABLE nodes DISABLE TRIGGER "{trigger}"; UPDATE nodes SET n = 5000 WHERE id = 7')
    do(target, f'ALTER TABLE nodes ENABLE ALWAYS TRIGGER "{trigger}"')
    here = up_to_the_drop(accept="all")
    cell = contract.do_they_agree(here).rows[0][2]
    assert isinstance(cell, Cell)
    assert cell.text == "not asked: the other column leads"
    assert cell.under == "its trigger was switched off meanwhile: what came then is in public.nodes.n only"
    contract.drop_it(here)
    assert rows(target, "SELECT n FROM nodes WHERE id = 7") == [(5000,)]


@pytest.mark.slow
def test_what_depends_on_the_column_keeps_it(target: Target) -> None:
    """A view that somebody has made over the old name since: it is shown before, and nothing is dropped."""
    do(target, "CREATE VIEW shown AS SELECT ip FROM nodes")
    here = contract.begin(target="demo", accept="all")
    contract.meet_the_target(here)
    contract.what_is_still_double(here)
    assert "public.shown" in str(contract.who_uses_it(here))
    contract.do_they_agree(here)
    failed = error_of(lambda: contract.drop_it(here))
    assert isinstance(failed, StatementFailed)
    assert "view public.shown depends on column ip of table public.nodes" in str(failed)
    assert failed.state == "Dropped: none; still there, unchanged: public.nodes.ip."
    assert waiting(target) == ["public.nodes.ip"]
    do(target, "INSERT INTO nodes (id, ip) VALUES (1001, 'still')")
    assert rows(target, "SELECT ip_address FROM nodes WHERE id = 1001") == [("still",)]


@pytest.mark.slow
def test_somebody_who_holds_the_table_is_waited_for_and_named(project: Project) -> None:
    """In bounded time, and nobody queues behind us."""
    target = project(folder={"0001_a.sql": "SELECT 1"}, attempts=2, lock_patience_ms=100, lock_timeout_ms=100)
    do(target, f"{TABLE} FROM generate_series(1, 3) AS i")
    rename(target, RENAME)
    here = up_to_the_drop(accept="all")
    with session(target, "BEGIN; SELECT FROM nodes"):
        blocked = error_of(lambda: contract.drop_it(here))
    assert isinstance(blocked, Blocked)
    assert blocked.message == "could not lock public.nodes.ip in 2 attempts (lock_timeout 100 ms)"
    assert blocked.state == "Dropped: none; still there, unchanged: public.nodes.ip."
    assert [e["event"] for e in events(here.run) if e["event"].startswith("contract")] == [
        "contract-meant", "contract-stopped"
    ]  # fmt: skip
