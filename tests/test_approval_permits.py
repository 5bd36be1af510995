"""The permit is the wall: whatever changes a target is refused without an approval, by each way that makes a permit."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from acting import events
from conftest import connect, do, rows
from forks import ForkedProcess
from front_end import opened, record, shown, states
from pgrunbook.config.targets import Target
from pgrunbook.database import anchors
from pgrunbook.database.connection import Connection
from pgrunbook.errors import Refused
from pgrunbook.execute import permit
from pgrunbook.execute.permit import Permit
from pgrunbook.procedures import migrate
from pgrunbook.record import run as runs
from pgrunbook.runner import runbook
from pgrunbook.seal import attempt, signers, standing
from pgrunbook.seal.anchor_check import Anchors
from pgrunbook.seal.standing import VerificationReport
from pgrunbook.session import change_request, checks, parameters
from pgrunbook.session import session as heres
from pgrunbook.session.session import Session
from test_approval import People, expire, people

Project = Callable[..., Target]
Command = Callable[..., tuple[int, str, str]]
Maker = Callable[[Session, Connection], Permit]
__all__ = ["people"]
# Of each way: the procedure, the cell, and how it asks.
WAYS: dict[str, tuple[str, str, Maker]] = {
    "of_purge": ("purge", "purge-it", lambda here, conn: permit.of_purge(here, [], conn)),
    "of_salvage": ("restore", "salvage-rows", lambda here, conn: permit.of_salvage(here, "it", conn)),
    "of_cutover": ("restore", "fence", lambda here, conn: permit.of_cutover(here, "it", "fence", lambda: conn)),
    "of_backfill": ("backfill", "let-go", lambda here, conn: permit.of_backfill(here, "it", "let-go", conn)),
    "of_contract": ("contract", "drop-it", lambda here, conn: permit.of_contract(here, [], conn)),
    "of_rollout": ("rollout", "roll-out", lambda here, conn: permit.of_rollout(here, "it", "roll-out", conn)),
    "of_swap": ("swap", "cut-over", lambda here, conn: permit.of_swap(here, "it", "cut-over", conn)),
}  # fmt: skip
# What changes nothing in a target that asks for approvals.
NONE_NEEDED = {"of_branch", "of_set_up", "of_restore"}
OF_PLANS = {"of_run"}  # in tests/test_approval.py, by the notebooks


def test_each_way_to_a_permit_is_tried_here() -> None:
    """Whoever adds one decides whether it needs an approval."""
    ways = {name for name, _ in inspect.getmembers(permit, inspect.isfunction) if name.startswith("of_")}
    assert ways == {*WAYS} | NONE_NEEDED | OF_PLANS


@pytest.fixture
def target(project: Project, people: People) -> Iterator[Target]:
    """A target that asks for approvals, and is not protected."""
    people.are("ann")
    yield project(folder={"0001_a.sql": "SELECT 1"}, approval=True)
    heres._end_earlier()


def passed(here: Session, cell: str, about: str = "it") -> None:
    """Let a check of a notebook have passed."""

    def check(session: Session) -> None:
        session.subject = frozenset({about})

    check.__name__ = cell.replace("-", "_")
    checks.check(check)(here)


@pytest.mark.first_case
@pytest.mark.parametrize("way", WAYS)
def test_no_permit_without_an_approval(way: str, target: Target, people: People) -> None:
    """Refused before anything is written; approved it is permitted, and permitted once it may be finished."""
    procedure, cell, make = WAYS[way]
    here = heres.begin(procedure, parameters.OF[procedure], {"target": "demo"})
    for needed in checks.NEEDED[procedure][cell]:
        passed(here, needed)
    with connect(target) as conn:
        with pytest.raises(Refused) as caught:
            make(here, conn)
        assert caught.value.message == "this change is not approved"
        assert caught.value.hint == (
            f"Have it approved: pgrunbook approve {here.run.run_id}; then run the cell that refused again"
        )
        assert events(here.run, "anchored") == []
        assert rows(target, "SELECT to_regnamespace('pgrunbook') IS NULL") == [(True,)]
        people.are("bob")
        change_request.approve(change_request.to_approve(here.run.run_id), lasts=timedelta(hours=1))
        people.are("ann")
        made = make(here, conn)
        assert isinstance(made, Permit)
        (told,) = events(here.run, "change-permitted")
        assert (told["procedure"], told["cell"], told["by"]) == (procedure, cell, "bob@example.org")
        for needed in checks.NEEDED[procedure][cell]:
            passed(here, needed)
        make(here, conn)
        assert len(events(here.run, "change-permitted")) == 1


def test_a_plan_is_executed_when_somebody_else_has_approved_it(
    project: Project, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before the restore point, and by the execution itself where that was left out; then it goes on."""
    people.are("ann")
    target = project(folder={"0001_a.sql": "CREATE TABLE a (id int)"}, protected=True, restore_points=False)
    made = runbook.start("migrate", "demo", {})
    monkeypatch.chdir(made.folder)
    here = migrate.begin(target="demo")
    migrate.meet_the_target(here)
    migrate.is_it_still_so(here)
    with pytest.raises(Refused, match="this change is not approved"):
        migrate.take_restore_point(here)
    passed(here, "take-restore-point", *here.subject)
    with pytest.raises(Refused, match="this change is not approved"):
        migrate.execute_plan(here)
    assert rows(target, "SELECT to_regclass('a') IS NULL") == [(True,)]
    people.are("bob")
    change_request.approve(change_request.to_approve(made.run_id), lasts=timedelta(hours=1))
    people.are("ann")
    migrate.take_restore_point(here)
    migrate.execute_plan(here)
    assert rows(target, "SELECT to_regclass('a') IS NULL") == [(False,)]
    heres._end_earlier()


@pytest.mark.slow
def test_what_was_permitted_may_be_finished_when_the_approval_has_expired(target: Target, people: People) -> None:
    """A swap that is half way: its approval was for this very choice; another one asks again."""
    here = heres.begin("swap", parameters.Swap, {"target": "demo"})
    with connect(target) as conn:
        for needed in checks.NEEDED["swap"]["make-and-fill"]:
            passed(here, needed)
        with pytest.raises(Refused):
            permit.of_swap(here, "it", "make-and-fill", conn)
        people.are("bob")
        change_request.approve(change_request.to_approve(here.run.run_id), lasts=timedelta(seconds=3))
        people.are("ann")
        permit.of_swap(here, "it", "make-and-fill", conn)
        expire(here.run)
        permit.of_swap(here, "it", "cut-over", conn)
        signers.path().write_text("".join(x for x in signers.path().read_text().splitlines(True) if "bob" not in x))
        with pytest.raises(Refused, match="does not count"):
            permit.of_swap(here, "it", "cut-over", conn)


@pytest.mark.slow
def test_by_hand_the_cell_is_refused_until_somebody_has_approved(project: Project, people: People) -> None:
    """Then the same cell goes on, in the same kernel; the record has both attempts and the approval."""
    people.are("ann")
    target = project(folder={"0001_a.sql": "ALTER TABLE a ADD m int"}, protected=True)
    do(target, "CREATE TABLE a (id int PRIMARY KEY)")
    made = runbook.start("migrate", "demo", {})
    with opened(made, "01-migrate.ipynb") as front:
        front.begin()
        assert front.run("meet-the-target", "is-it-still-so")["status"] == "ok"
        refused = front.run("take-restore-point")
        assert (refused["status"], refused["ename"]) == ("error", "Refused")
        assert f"pgrunbook approve {made.run_id}; then run the cell that refused again" in str(refused["traceback"])
        assert front.run("execute-plan")["status"] == "error"
        people.are("bob")
        change_request.approve(change_request.to_approve(made.run_id), lasts=timedelta(hours=1))
        people.are("ann")
        every = front.cells()
        rest = every[every.index("take-restore-point") :]
        assert front.run(*rest)["status"] == "ok"
    assert rows(target, "SELECT count(*) FROM pg_attribute WHERE attname = 'm'") == [(1,)]
    copy = record(made, "01-migrate.ipynb")
    assert states(copy)["take-restore-point"] == "completed"
    assert "this change is not approved" in str(copy)
    assert [e["by"] for e in events(made, "approved")] == ["bob@example.org"]
    assert not attempt.is_open(made)


@pytest.mark.slow
def test_by_hand_an_emergency_is_red(project: Project, people: People) -> None:
    """Declared when it is started; the banner stands above what the cell shows."""
    people.are("ann")
    target = project(folder={"0001_a.sql": "ALTER TABLE a ADD m int"}, protected=True)
    do(target, "CREATE TABLE a (id int PRIMARY KEY)")
    made = runbook.start("migrate", "demo", {}, emergency="orders fail since 14:02")
    with opened(made, "01-migrate.ipynb") as front:
        every = front.cells()
        assert front.run(*every)["status"] == "ok"
    copy = record(made, "01-migrate.ipynb")
    for cell in ("take-restore-point", "execute-plan"):
        assert "EMERGENCY: This is changed without the approval of somebody else" in shown(copy, cell)
    assert rows(target, "SELECT count(*) FROM pg_attribute WHERE attname = 'm'") == [(1,)]


PROCEDURE = """
import os, signal, sys
from test_approval_permits import WAYS, passed
from conftest import connect
from pgrunbook.session import checks, parameters
from pgrunbook.session import session as heres
way = sys.argv[1]
procedure, cell, make = WAYS[way]
here = heres.begin(procedure, parameters.OF[procedure], {"target": "demo"})
for needed in checks.NEEDED[procedure][cell]:
    passed(here, needed)
with connect(here.target) as conn:
    make(here, conn)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_is_killed_when_it_was_permitted_is_anchored(
    way: str, project: Project, people: People, command: Command, tmp_path: Path
) -> None:
    """Before it has changed anything; it stays open, is true, and its end is anchored when it is sealed."""
    people.are("ann")
    target = project(folder={"0001_a.sql": "SELECT 1"})
    with (tmp_path / "told").open("w") as told:
        assert ForkedProcess(PROCEDURE, way, told=told.fileno()).wait() in (-9, 137)
    found = verified(target)
    assert (found.exit_code, found.runs[0].outcome, found.runs[0].anchor) == (0, "open", "in the database, by postgres")
    assert command("seal", found.runs[0].run)[0] == 0
    found = verified(target)
    assert (found.exit_code, found.problems, found.notes, found.runs[0].anchor) == (
        0, (), (), "in the database, by postgres"
    )  # fmt: skip
    assert rows(target, "SELECT kind FROM pgrunbook.ledger ORDER BY seq") == [("opened",), ("closed",)]


def verified(target: Target) -> VerificationReport:
    """What verify says of all runs, with the target's own database."""
    with connect(target) as conn:
        seen = Anchors(anchors.rows(conn), anchors.place(conn), anchors.is_guarded(conn))
    return standing.report(runs.folders()[0].parent, files=True, target="demo", anchors=seen)
