"""notebooks/rollout.ipynb: a flag goes on in stages, each with its gate, and back where the metric falls."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from acting import anchored, completed, error, events, newest_run, outputs, pgrunbook, run, wait_until
from conftest import do, rows
from pgrunbook.config.targets import Target
from pgrunbook.errors import Broken, Interrupted, Refused, RunbookError, StatementFailed, TargetBusy, WrongInput
from pgrunbook.procedures import rollout, rollout_steps
from pgrunbook.record import journal
from pgrunbook.record.run import Run
from pgrunbook.session import session as heres
from pgrunbook.session.session import Session

Key = TypeVar("Key")
Project = Callable[..., Target]
STAGES: list[dict[str, Any]] = [
    {"name": "friends", "keys": [1, 2, 3], "rows": 3},
    {"name": "ten", "share": 10},
    {"name": "half", "share": 50},
    {"name": "everyone", "all": True, "rows": [0, 1_000]},
]
TABLE = (
    "CREATE TABLE customers (id int PRIMARY KEY, name text, seen int DEFAULT 0);"
    "INSERT INTO customers SELECT i, 'c' || i FROM generate_series(1, 400) AS i"
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder of its own, with a folder for rollouts."""
    folder = tmp_path / "home"
    (folder / "rollouts").mkdir(parents=True)
    monkeypatch.setenv("PGRUNBOOK_HOME", str(folder))
    return folder


@pytest.fixture
def target(project: Project, home: Path) -> Target:
    """A target with a table of customers, in a project of its own."""
    assert home.is_dir()
    made = project(folder={"0001_a.sql": "SELECT 1"}, batch_rows=30)
    do(made, TABLE)
    return made


@pytest.fixture
def declare(home: Path) -> Callable[..., Path]:
    """Declare the rollout "beta"."""

    def write(stages: list[dict[str, Any]] | None = None, **given: Any) -> Path:
        facts = {"table": "customers", "column": "beta", "stages": stages or STAGES, **given}
        path = home / "rollouts" / "beta.yaml"
        path.write_text(yaml.safe_dump(facts))
        return path

    return write


def go(accept: str = "", **given: str) -> tuple[Run, int]:
    """Run the rollout."""
    return run("rollout", name="beta", accept=accept, **given)


def flagged(target: Target) -> set[int]:
    """Return who has the flag."""
    return {int(str(row[0])) for row in rows(target, "SELECT id FROM customers WHERE beta")}


def share(percent: float, keys: Iterable[Key], salt: str = "beta") -> set[Key]:
    """Return which keys are in a share, as an application would compute it."""
    hashes = {key: int(hashlib.sha256(f"{salt}:{key}".encode()).hexdigest()[:8], 16) for key in keys}
    return {key for key, value in hashes.items() if value < percent / 100 * 2**32}


def lead(accept: str = "", **given: Any) -> Session:
    """Step through the notebook in this process."""
    here = rollout.begin(target="demo", name="beta", accept=[one for one in accept.split(",") if one], **given)
    for step in (rollout.meet_the_target, rollout.plan_the_stages, rollout.add_the_flag, rollout.roll_out,
                 rollout.who_reads_it, rollout.remove_the_flag, rollout.verdict):  # fmt: skip
        step(here)
    return here


def refused(call: Callable[[], object], kind: type[RunbookError] = Refused) -> RunbookError:
    """Return the error that a call raises."""
    with pytest.raises(kind) as caught:
        call()
    return caught.value


def states(target: Target) -> dict[str, str]:
    """Return what each stage that has begun is at."""
    found = rows(target, "SELECT name, state FROM pgrunbook.rollout_stage ORDER BY stage")
    return {str(name): str(state) for name, state in found}


@pytest.fixture(autouse=True)
def leave() -> Iterator[None]:
    """End what a test began in this process."""
    yield
    heres._end_earlier()


def test_first_stage_headless(target: Target, declare: Callable[..., Path]) -> None:
    """The notebook adds the column, gives three customers the flag, and says what to type next."""
    declare()
    made, code = go("friends")
    assert code == 0, error(made)
    assert completed(made)
    assert flagged(target) == {1, 2, 3}
    assert "-p name=beta -p accept=ten" in outputs(made, "verdict")
    assert [e["stage"] for e in events(made, "stage-done")] == ["friends"]
    query = "SELECT is_nullable, column_default FROM information_schema.columns WHERE column_name = 'beta'"
    assert rows(target, query) == [("NO", "false")]
    assert anchored(target, made) == ["opened", "closed"]


@pytest.mark.slow
def test_flag_goes_on_in_stages_and_goes(target: Target, declare: Callable[..., Path]) -> None:
    """From a column that is not there to one that is not there any more, each stage accepted by a person."""
    declare()
    made, code = go()
    assert code == 0, error(made)
    assert rows(target, "SELECT FROM information_schema.columns WHERE column_name = 'beta'") == []
    assert [go("friends")[1], go("ten,half")[1]] == [0, 0]
    assert flagged(target) == share(50, range(1, 401)) | {1, 2, 3}
    assert go("everyone")[1] == 0
    assert flagged(target) == set(range(1, 401))
    assert rows(target, "INSERT INTO customers VALUES (401) RETURNING beta") == [(True,)]
    made, code = go("remove")
    assert (code, completed(made)) == (0, True)
    assert "the flag is removed" in outputs(made, "verdict")
    assert rows(target, "SELECT FROM information_schema.columns WHERE column_name = 'beta'") == []
    assert rows(target, "SELECT state FROM pgrunbook.rollout") == [("removed",)]
    assert rows(target, "SELECT FROM pgrunbook.rollout_row") == []
    assert go("remove")[1] == 0  # it is over, and stays so


def test_nobody_accepts_nothing_changes(target: Target, declare: Callable[..., Path]) -> None:
    """No column, no schema of ours, and the verdict waits for a person."""
    declare()
    here = lead()
    assert rows(target, "SELECT to_regnamespace('pgrunbook')::text") == [(None,)]
    assert rows(target, "SELECT FROM information_schema.columns WHERE column_name = 'beta'") == []
    assert [e for e in journal.read(here.run.journal.path) if e["event"] == "stage-meant"] == []


@pytest.mark.slow
def test_another_number_of_rows_than_expected_is_refused(target: Target, declare: Callable[..., Path]) -> None:
    """Before the stage changes one: a share that is larger than thought, a key that no row has."""
    declare([{**STAGES[0], "rows": 3}, {"name": "ten", "share": 10, "rows": [1, 20]}])
    lead("friends")
    due = len(share(10, range(1, 401)) - {1, 2, 3})
    told = refused(lambda: lead("ten"))
    assert told.lines() == [
        f'stage "ten" does not begin: it would change {due} rows, and 1 to 20 are expected',
        "Detail: Counted in public.customers now.",
        "State: This stage changed nothing; the stages before it are as they were.",
        "Hint: Correct it in rollouts/beta.yaml, or find out who changed the table.",
    ]
    assert flagged(target) == {1, 2, 3}
    assert states(target) == {"friends": "done"}


@pytest.mark.slow
def test_key_that_no_row_has_is_named(target: Target, declare: Callable[..., Path]) -> None:
    """A list with a mistake in it changes nothing."""
    declare([{"name": "friends", "keys": [1, 2, 999]}])
    told = refused(lambda: lead("friends"))
    assert told.message == 'stage "friends" does not begin: no row has these keys of its list: 999'
    assert not flagged(target)


def test_key_that_is_none_of_the_table_is_named(target: Target, declare: Callable[..., Path]) -> None:
    """Before anything is accepted: text for a number is a mistake in the file, not a fault of the server's."""
    declare([{"name": "friends", "keys": [1, "org1"]}])
    assert str(refused(lead)) == (
        'stage "friends" names a key that is none of public.customers\n'
        'Detail: invalid input syntax for type integer: "org1"; the key is id (integer).\n'
        "State: Nothing changed in the database.\n"
        "Hint: Correct its keys in rollouts/beta.yaml."
    )
    assert rows(target, "SELECT to_regnamespace('pgrunbook')::text") == [(None,)]


SEEN = {"query": "SELECT count(*) FROM customers WHERE seen > 0 AND beta", "at_most": 2, "every_s": 0.1}


@pytest.mark.slow
def test_metric_that_falls_takes_the_stage_back(target: Target, declare: Callable[..., Path]) -> None:
    """A real writer makes it fall while the stage is held: those rows lose the flag, but for what somebody changed."""
    declare([STAGES[0], {"name": "half", "share": 50, "hold_s": 600}], metric=SEEN)
    lead("friends")
    half = sorted(share(50, range(1, 401)) - {1, 2, 3})

    def suffer() -> None:
        wait_until(lambda: states(target).get("half") == "held")
        do(target, f"UPDATE customers SET beta = false WHERE id = {half[0]}")
        do(target, f"DELETE FROM customers WHERE id = {half[1]}")
        do(target, f"UPDATE customers SET seen = 1 WHERE id IN ({half[2]}, {half[3]}, {half[4]})")

    writer = threading.Thread(target=suffer)
    writer.start()
    told = refused(lambda: lead("half"))
    writer.join()
    assert told.message == 'stage "half" was taken back: the metric fell to 3, at most 2 was wanted'
    assert told.detail == (
        f"{len(half) - 2:,} rows lost the flag again; 1 row changed by somebody meanwhile stay as they are;"
        " 1 row were deleted meanwhile."
    )
    assert flagged(target) == {1, 2, 3}
    assert states(target) == {"friends": "done", "half": "back"}
    assert rows(target, "SELECT why FROM pgrunbook.rollout_stage WHERE stage = 2") == [
        ("the metric fell to 3, at most 2 was wanted",)
    ]
    lead()  # a run that nobody lets begin it again leaves it
    assert flagged(target) == {1, 2, 3}
    do(target, "UPDATE customers SET seen = 0")
    lead("half", watch_s=0.0)
    assert flagged(target) == {1, 2, 3} | set(half[2:])
    assert states(target)["half"] == "held"


def test_bad_metric_lets_no_stage_begin(target: Target, declare: Callable[..., Path]) -> None:
    """It is asked before the first row is changed."""
    declare(metric={"query": "SELECT 7", "at_most": 5})
    told = refused(lambda: lead("friends"))
    assert told.message == 'stage "friends" does not begin: the metric is 7 before it'
    assert told.detail == "It has to be at most 5."
    assert not flagged(target)


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("SELECT NULL", "it gives NULL, and a metric is one number"),
        ("SELECT 'x'", "it gives x, and a metric is one number"),
        ("SELECT true", "it gives t, and a metric is one number"),
        ("SELECT 'NaN'::float8", "it gives no number"),
        ("SELECT 1 UNION ALL SELECT 2", "it gives 2 rows of 1 columns"),
        ("SELECT 1 WHERE false", "it gives 0 rows of 1 columns"),
        ("SELECT 1, 2", "it gives 1 rows of 2 columns"),
        ("SELECT no_such_column", "could not be checked"),
        ("SELECT 1; DROP TABLE customers", "it holds 2 statements"),
        ("DELETE FROM customers", "no query that only reads"),
        ("SELECT lied()", "refused"),
        ("SELECT 1 FROM pg_sleep(30)", "within 0.2 s"),
    ],
)
def test_metric_without_a_number_changes_nothing(
    target: Target, declare: Callable[..., Path], query: str, why: str
) -> None:
    """An error, NULL, two rows, text, a write, a wait: nobody knows whether it holds, so nothing changes."""
    do(target, "CREATE FUNCTION lied() RETURNS int LANGUAGE sql AS 'DELETE FROM customers RETURNING 1'")
    declare(metric={"query": query, "at_most": 5, "timeout_s": 0.2})
    told = refused(lambda: lead("friends"), Broken)
    assert told.message == 'could not measure the metric of stage "friends"'
    assert why in told.detail
    assert told.state == "Its stage stays as it is; nobody knows whether the metric holds."
    assert rows(target, "SELECT count(*) FROM customers WHERE NOT beta") == [(400,)]


@pytest.mark.slow
def test_metric_leads_on_by_itself(target: Target, declare: Callable[..., Path]) -> None:
    """Stages that go by the metric begin when the hold of the one before is over; a person's stage waits."""
    declare([{**STAGES[0], "hold_s": 0.3},
             {"name": "ten", "share": 10, "go": "metric", "rows": [10, 80], "hold_s": 0.2},
             {"name": "half", "share": 50}], metric=SEEN)  # fmt: skip
    lead("friends")
    assert states(target) == {"friends": "done", "ten": "done"}
    looks = rows(target, "SELECT looks > 1, metric_before, metric_now FROM pgrunbook.rollout_stage WHERE stage = 2")
    assert looks == [(True, 0.0, 0.0)]


@pytest.mark.slow
def test_a_hold_goes_on_over_many_runs(target: Target, declare: Callable[..., Path]) -> None:
    """A run that ends before the hold leaves it; rows that came since are caught up with by the next."""
    declare([{"name": "half", "share": 50, "hold_s": 1.0}, {"name": "everyone", "all": True, "rows": [0, 999]}])
    here = lead("half", watch_s=0.0)
    assert states(target) == {"half": "held"}
    assert "is held for" in str(journal.read(here.run.journal.path)[-1])
    do(target, "INSERT INTO customers SELECT i, 'new' FROM generate_series(401, 500) AS i")
    lead(watch_s=30.0)
    assert states(target) == {"half": "done"}
    assert flagged(target) == share(50, range(1, 501))


@pytest.mark.slow
def test_somebody_who_stops_it_reads_what_it_is_at(
    target: Target, declare: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted kernel, while a hold is watched: the state of each stage, and both ways on."""
    declare([{"name": "half", "share": 50, "hold_s": 60.0}, {"name": "everyone", "all": True, "rows": [0, 999]}])

    def stop(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(rollout_steps, "_watch", stop)
    found = refused(lambda: lead("half", watch_s=30.0), Interrupted)
    assert found.state == 'rollout beta is open: stage "half" is held. Batches that were committed stay.'
    assert "do=step-back" in found.hint
    assert len(flagged(target)) == len(share(50, range(1, 401)))


@pytest.mark.slow
def test_paused_it_rests_and_resumed_it_goes_on(target: Target, declare: Callable[..., Path]) -> None:
    """Whatever a scheduled run accepts meanwhile."""
    declare()
    lead("friends")
    lead(do="pause")
    lead("ten")
    assert states(target) == {"friends": "done"}
    lead("ten", do="resume")
    assert states(target) == {"friends": "done", "ten": "done"}


@pytest.mark.slow
def test_a_person_takes_one_stage_back_or_all(target: Target, declare: Callable[..., Path]) -> None:
    """The newest first; abandoned, nobody has the flag by it, the default is off, and it does not go on."""
    declare()
    lead("friends,ten,half,everyone")
    assert flagged(target) == set(range(1, 401))
    here = lead(do="step-back")
    rollout.roll_out(here)  # the cell run again: no second stage
    assert flagged(target) == share(50, range(1, 401)) | {1, 2, 3}
    assert rows(target, "INSERT INTO customers VALUES (401) RETURNING beta") == [(False,)]
    do(target, "UPDATE customers SET beta = false WHERE id = 2")
    lead(do="abandon")
    assert flagged(target) == set()
    assert set(states(target).values()) == {"back"}
    lead("friends,ten")
    assert flagged(target) == set()
    refused(lambda: lead(do="resume"))
    refused(lambda: lead(do="step-back"))
    lead("remove")
    assert rows(target, "SELECT FROM information_schema.columns WHERE column_name = 'beta'") == []


@pytest.mark.slow
def test_flag_stays_while_it_tells_rows_apart(target: Target, declare: Callable[..., Path]) -> None:
    """Before the rollout is over; where somebody has set rows otherwise; where a view needs the column."""
    declare()
    lead("friends")
    assert refused(lambda: lead("remove")).message == 'cannot remove the flag: rollout "beta" is not over'
    lead("ten,half,everyone")
    do(target, "UPDATE customers SET beta = false WHERE id IN (7, 8)")
    told = refused(lambda: lead("remove"))
    assert told.message == "cannot remove the flag: 2 rows of public.customers are not on"
    assert told.hint == "Settle these rows first: WHERE beta <> 'true'"
    do(target, "UPDATE customers SET beta = true; CREATE VIEW testers AS SELECT id FROM customers WHERE beta")
    here = rollout.begin(target="demo", name="beta", accept=["remove"])
    rollout.plan_the_stages(here)
    assert ("view", "public.testers", "") in rollout.who_reads_it(here).rows
    told = refused(lambda: rollout.remove_the_flag(here), StatementFailed)
    assert "other objects depend on it" in str(told)
    assert len(flagged(target)) == 400


def test_what_is_accepted_has_to_be_a_stage(target: Target, declare: Callable[..., Path]) -> None:
    """A slip of the pen; a name without a file."""
    declare()
    told = refused(lambda: lead("friend"), WrongInput)
    assert told.message == 'rollout "beta" has no stage friend'
    for name, message in (("", "no rollout is named"), ("gamma", "no rollout"), ("../beta", "no rollout")):
        here = rollout.begin(target="demo", name=name)
        told = refused(lambda here=here: rollout.plan_the_stages(here), WrongInput)  # type: ignore[misc]
        assert message in told.message
        assert told.detail == "Folder rollouts of the project has: beta."
    assert rows(target, "SELECT to_regnamespace('pgrunbook')::text") == [(None,)]


def test_cells_out_of_order_change_nothing(target: Target, declare: Callable[..., Path]) -> None:
    """Before the check has passed in this kernel; and when the file has changed since."""
    declare()
    here = rollout.begin(target="demo", name="beta", accept=["friends"])
    for step in (rollout.add_the_flag, rollout.roll_out, rollout.remove_the_flag):
        assert 'before cell "plan-the-stages" has passed' in refused(lambda step=step: step(here)).message  # type: ignore[misc]
    rollout.plan_the_stages(here)
    assert 'before cell "who-reads-it" has passed' in refused(lambda: rollout.remove_the_flag(here)).message
    assert rows(target, "SELECT to_regnamespace('pgrunbook')::text") == [(None,)]


@pytest.mark.slow
def test_two_runs_of_one_rollout(target: Target, declare: Callable[..., Path]) -> None:
    """The second gives way with exit code 4, also while the first one only watches; a pause from beside ends that."""
    declare([{**STAGES[0], "hold_s": 600}])
    with pgrunbook("run", "rollout", "--target", "demo", "-p", "name=beta", "-p", "accept=friends") as first:
        wait_until(lambda: rows(target, "SELECT to_regclass('pgrunbook.rollout_stage')::text") != [(None,)])
        wait_until(lambda: states(target).get("friends") == "held")
        told = refused(lead, TargetBusy)
        assert told.message == 'rollout "beta" is at work on this database'
        assert told.exit_code == 4
        lead(do="pause")
        assert first.wait(timeout=60) == 0
    assert states(target) == {"friends": "held"}


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["stage-meant", "stage-writing", "held", "stage-back-meant"])
def test_killed_at_any_moment_it_goes_on(target: Target, declare: Callable[..., Path], moment: str) -> None:
    """SIGKILL to the whole run: another run goes on where the database is."""
    do(target, "INSERT INTO customers SELECT i, 'c' FROM generate_series(401, 3000) AS i")
    ids = range(1, 3001)
    metric = {"query": "SELECT count(*) FROM customers WHERE seen > 0", "at_most": 0, "every_s": 0.1}
    declare([{"name": "half", "share": 50, "hold_s": 600}], metric=metric)
    with pgrunbook("run", "rollout", "--target", "demo", "-p", "name=beta", "-p", "accept=half",
                   start_new_session=True) as process:  # fmt: skip
        if moment == "stage-back-meant":
            wait_until(lambda: has_told("stage-written"))
            do(target, "UPDATE customers SET seen = 1 WHERE id = 1")
        wait_until(lambda: has_told("stage-written") if moment == "held" else has_told(moment))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if moment == "stage-back-meant":
        refused(lead)
        assert (flagged(target), states(target)) == (set(), {"half": "back"})
        return
    lead("half", watch_s=0.0)
    assert (flagged(target), states(target)) == (share(50, ids), {"half": "held"})
    noted = rows(target, "SELECT count(*) FROM pgrunbook.rollout_row WHERE state = 'on'")
    assert noted == [(len(share(50, ids)),)]


def has_told(event: str) -> bool:
    """Tell whether the newest run's journal has an event."""
    made = newest_run()
    return made is not None and bool(events(made, event))
