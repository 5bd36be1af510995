"""Gates: what migrate refuses until somebody accepts it, and who did."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from acting import events, go_on_with, outputs, run
from conftest import do, rows
from pgrunbook.config.targets import Target
from pgrunbook.errors import Refused, WrongInput
from pgrunbook.plan import plan as plans
from pgrunbook.record.run import Run, Status
from pgrunbook.runner import runbook
from pgrunbook.session import acceptance

Project = Callable[..., Target]
FILES = {"0001_a.sql": "ALTER TABLE a DROP COLUMN gone;\nALTER TABLE a ADD m int;\nALTER TABLE a RENAME n TO number"}


@pytest.fixture
def target(project: Project) -> Target:
    """A target whose only migration has two gates; its rows have a key, so that a column of theirs can be kept."""
    made = project(folder=FILES)
    do(made, "CREATE TABLE a (id int PRIMARY KEY, n int, gone text); ALTER TABLE a REPLICA IDENTITY FULL")
    do(made, "CREATE PUBLICATION sends FOR TABLE a")
    return made


@pytest.mark.slow
def test_a_gate_stops_migrate_until_it_is_accepted_in_the_run(target: Target) -> None:
    """Named one by one or all that are open; the journal says who, and the same run goes on."""
    made, code = run("release")
    assert (code, made.status) == (3, Status.REFUSED)
    assert rows(target, "SELECT count(*) FROM pg_attribute WHERE attname = 'number'") == [(0,)]
    assert made.parts[1].says == "the plan has 2 gates that nobody has accepted"
    shown = outputs(made, "verdict", 0)
    assert shown.startswith("DONE, WITH OPEN GATES: Nothing changed in the database")
    for key in ("0001_a:1", "0001_a:3"):
        assert f"  gate {key}: pgrunbook accept {made.run_id} {key}" in shown
    assert shown.splitlines()[-1] == "  next: 02-migrate.ipynb"
    assert acceptance.accept(made.run_id, ["0001_a:1"]) == (["0001_a:1"], ["0001_a:3"])
    again, code = runbook.resume(made.run_id)
    assert (code, again.parts[1].says) == (3, "the plan has 1 gate that nobody has accepted")
    assert acceptance.accept(made.run_id, []) == (["0001_a:3"], [])
    done, code = runbook.resume(made.run_id)
    assert (code, done.status) == (0, Status.DONE)
    assert rows(target, "SELECT attname FROM pg_attribute WHERE attrelid = 'a'::regclass AND attnum > 0 "
                "AND NOT attisdropped ORDER BY attname") == [("id",), ("m",), ("number",)]  # fmt: skip
    told = events(made, "gates-accepted")
    assert [e["gates"] for e in told] == [["0001_a:1"], ["0001_a:3"]]
    for given in ([], ["0001_a:1"]):
        with pytest.raises(Refused) as caught:
            acceptance.accept(made.run_id, given)
        assert (caught.value.exit_code, str(caught.value)) == (
            3,
            (
                f"cannot accept gates of run {made.run_id}: its plan was executed, or begun\n"
                "Detail: An acceptance counts before the first statement runs.\n"
                "State: Nothing changed in the database or in the record.\n"
                f"Hint: See what was accepted and done: pgrunbook show {made.run_id}"
            ),
        )
    assert events(made, "gates-accepted") == told
    assert all(e["by"] and e["digest"] == events(made, "plan-frozen")[0]["digest"] for e in told)


@pytest.mark.slow
@pytest.mark.usefixtures("target")
def test_a_gate_may_be_accepted_before_the_run(target: Target) -> None:
    """As a parameter of the release: it is part of the plan then, and of its digest."""
    made, code = run("release", accept="0001_a:1,0001_a:3")
    assert (code, made.status) == (0, Status.DONE)
    assert rows(target, "SELECT count(*) FROM pg_attribute WHERE attname = 'number'") == [(1,)]


@pytest.mark.usefixtures("target")
@pytest.mark.slow
def test_what_is_no_gate_cannot_be_accepted() -> None:
    """Neither in the run nor by the parameter; the statements that are there are named."""
    made, code = run("prepare")
    assert code == 0
    with pytest.raises(WrongInput) as caught:
        acceptance.accept(made.run_id, ["0001_a:2"])
    assert str(caught.value) == (
        f"the plan of run {made.run_id} has no gate 0001_a:2\n"
        "Detail: Its gates: 0001_a:1, 0001_a:3.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Name a gate by its place, as freeze-the-plan shows it."
    )
    made, code = run("prepare", accept="0001_a:7")
    assert (code, made.parts[0].says) == (2, "there is no such place: 0001_a:7")


@pytest.mark.slow
@pytest.mark.usefixtures("target")
def test_another_plan_than_the_approved_one_is_refused() -> None:
    """The digest, or how it begins, is what somebody has approved."""
    accept = "0001_a:1,0001_a:3"
    made, code = run("release", accept=accept, approved="0123456789ab")
    assert (code, made.parts[1].says) == (3, "the plan is not the one that was approved")


@pytest.mark.slow
def test_another_plan_in_the_folder_than_the_frozen_one_is_refused(target: Target) -> None:
    """Also one that is whole in itself: the journal says which plan was frozen."""
    made, _ = run("prepare", accept="0001_a:1,0001_a:3")
    path = made.folder / "plan.json"
    plan = plans.read(path)
    path.write_text(plan.model_copy(update={"attempts": 99}).text(), encoding="utf-8")
    done, code = go_on_with(made, "migrate")
    assert (code, done.parts[-1].says) == (3, "plan.json is not the plan that was frozen in this run")
    assert rows(target, "SELECT count(*) FROM pg_attribute WHERE attname = 'number'") == [(0,)]


@pytest.mark.slow
def test_a_migration_without_a_way_back_is_a_gate(project: Project) -> None:
    """Rows that nothing tells apart cannot be kept: it is named before it is executed, and accepted by its name."""
    target = project(folder={"0001_a.sql": "DELETE FROM a WHERE n > 1"})
    do(target, "CREATE TABLE a (n int); INSERT INTO a VALUES (1), (2)")
    made, code = run("release")
    assert (code, made.status) == (3, Status.REFUSED)
    assert rows(target, "SELECT count(*) FROM a") == [(2,)]
    (gate,) = plans.read(made.folder / "plan.json").gates()
    assert gate.key == "way-back:0001_a"
    assert gate.gate.says == (
        "irreversible: after this, only the restore point leads back (0001_a:1: It cannot be undone, because "
        '"public"."a" has no unique key that identifies its rows)'
    )
    assert acceptance.accept(made.run_id, ["way-back:0001_a"]) == (["way-back:0001_a"], [])
    done, code = runbook.resume(made.run_id)
    assert (code, done.status) == (0, Status.DONE)
    back, code = run("rollback")
    assert code == 3
    assert back.parts[0].says.startswith("cannot take back 0001_a: 0001_a:1: It cannot be undone")
    assert (
        refusal(back)[0]
        == f"no gate of run {back.run_id} is to be accepted: its rollback was refused for something else"
    )
    assert refusal(back)[1].startswith(
        "Detail: Cell what-goes-back: cannot take back 0001_a: 0001_a:1: It cannot be undone"
    )
    assert refusal(back)[3].startswith("Hint: pgrunbook run restore --target demo -p to=")
    assert run("prepare", accept="way-back:0009")[1] == 2


def refusal(made: Run) -> list[str]:
    """Return the lines of the error of an acceptance."""
    with pytest.raises(WrongInput) as caught:
        acceptance.accept(made.run_id, [])
    return caught.value.lines()
