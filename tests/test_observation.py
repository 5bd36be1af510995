"""A run that is observed: monitor beside it, in its record, and never in its way."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from acting import completed, events, in_transaction, outputs, run, wait_until
from conftest import connect, do
from pgrunbook.config.targets import Target
from pgrunbook.database import control
from pgrunbook.database.connection import Connection
from pgrunbook.errors import WrongInput
from pgrunbook.record import run as runs
from pgrunbook.record.run import Run, Status
from pgrunbook.runner import observation, runbook
from pgrunbook.session.watch import kept_samples

Project = Callable[..., Target]
ONE = {"0001_a.sql": "CREATE TABLE a (id int);", "0001_a.down.sql": "DROP TABLE a;"}


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runbook of the project that migrates, observed; looks come quickly."""
    (tmp_path / "runbooks").mkdir()
    (tmp_path / "runbooks" / "watched.yaml").write_text("title: Watched\nprocedures: [migrate]\nobserve: true\n")
    monkeypatch.setenv("PGRUNBOOK_HOME", str(tmp_path))
    monkeypatch.setattr(observation, "INTERVAL_S", 0.1)


@pytest.mark.slow
@pytest.mark.usefixtures("book")
def test_release_that_is_observed_has_the_server_in_its_record(project: Project) -> None:
    """Numbers, concerns and thresholds that fired; and a table of them below what it took."""
    target = project(folder=ONE, thresholds=[{"number": "idle_in_transaction", "above": 0}])
    do(target, "CREATE TABLE other (id int)")
    with in_transaction(target, "LOCK other"):
        made, code = runbook.run("watched", "demo", {})
    assert (code, made.status, completed(made)) == (0, Status.DONE, True)
    samples = kept_samples(made.folder)
    assert len(samples) >= 3
    assert max(sample["idle_in_transaction"] for sample in samples) >= 1
    (fired,) = events(made, "threshold")
    assert (fired["procedure"], fired["number"]) == ("observe", "idle_in_transaction")
    told = outputs(made, "what-it-took")
    assert told.index("CREATE TABLE") < told.index("The server meanwhile, in ")
    assert "the longest idle transaction, s" in told
    assert not events(made, "observe-ended")


def observe(target: Target, tmp_path: Path, seconds: float = 0.4) -> Run:
    """Observe a run that does nothing."""
    made = runs.create("nothing", target.name, {}, how="headless")
    with observation.observed(made, observe=True):
        observation.threading.Event().wait(seconds)
    assert made.folder.is_relative_to(tmp_path)
    return made


@pytest.mark.usefixtures("book")
def test_observation_of_a_server_that_goes_away_begins_again(project: Project, tmp_path: Path) -> None:
    """Its session is ended: that is noted once, and it connects anew."""
    target = project(folder={})
    made = runs.create("nothing", target.name, {}, how="headless")
    with observation.observed(made, observe=True), connect(target) as conn:
        for _ in range(2):
            wait_until(lambda: bool(_pids(conn, made)))
            before = len(kept_samples(made.folder))
            wait_until(lambda before=before: len(kept_samples(made.folder)) > before)
            conn.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid = ANY (%s)", [_pids(conn, made)]
            )
        wait_until(lambda: len(events(made, "observe-away")) == 2)
    assert made.folder.is_relative_to(tmp_path)
    assert not events(made, "observe-ended")


def test_observation_that_cannot_be_leaves_the_run_alone(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No such target, a fault of ours: in the journal; a record that cannot be written: not even there."""
    target = project(folder={})
    monkeypatch.setattr(observation, "_needed", lambda _: 1 / 0)
    (ended,) = events(observe(target, tmp_path), "observe-ended")
    assert ended["detail"] == "ZeroDivisionError: division by zero"
    (ended,) = events(observe(target.model_copy(update={"name": "gone"}), tmp_path), "observe-ended")
    assert 'target "gone" is not declared' in ended["detail"]
    made = runs.create("nothing", target.name, {}, how="headless")
    made.journal.path.mkdir()
    with observation.observed(made, observe=True):
        observation.threading.Event().wait(0.2)


def test_observation_leaves_the_connections_that_a_run_needs(project: Project) -> None:
    """Where a limit allows four, a fifth is not held."""
    target = project(folder={})
    with connect(target) as conn:
        assert observation._needed(conn) is None
        conn.execute("DROP ROLE IF EXISTS limited_observer")
        conn.execute("CREATE ROLE limited_observer LOGIN CONNECTION LIMIT 4")
        try:
            conn.execute("SET SESSION AUTHORIZATION limited_observer")
            assert str(observation._needed(conn)).startswith("CONNECTION LIMIT 4 of ROLE limited_observer")
        finally:
            conn.execute("RESET SESSION AUTHORIZATION")
            conn.execute("DROP ROLE limited_observer")


@pytest.mark.usefixtures("book")
def test_webhook_without_an_address_is_refused_before_anything_starts(project: Project, tmp_path: Path) -> None:
    """Who asks to be called is told at once that nobody will be."""
    rule = {"number": "waiting", "above": 0, "does": "webhook"}
    project(folder=ONE, thresholds=[rule], webhook_from="PGRUNBOOK_TEST_NO_HOOK")
    with pytest.raises(WrongInput, match="could not find the webhook"):
        runbook.run("watched", "demo", {})
    assert not (tmp_path / "outputs").exists()


def test_line_of_a_sample_that_a_crash_cut_off_is_none(tmp_path: Path) -> None:
    """Those before it are read; no file is no sample."""
    assert kept_samples(tmp_path) == []
    (tmp_path / "samples.jsonl").write_text(json.dumps({"at": "1"}) + '\n{"at": "2"')
    assert kept_samples(tmp_path) == [{"at": "1"}]
    os.truncate(tmp_path / "samples.jsonl", 5)
    assert kept_samples(tmp_path) == []


def _pids(conn: Connection, made: Run) -> list[int]:
    found = conn.execute(
        "SELECT pid FROM pg_stat_activity WHERE application_name = %s", [f"pgrunbook observes {made.run_id}"[:63]]
    )
    return [int(str(pid)) for (pid,) in found]


@pytest.mark.slow
def test_batches_of_a_run_pause_as_long_as_they_are_asked_to(project: Project) -> None:
    """Who asks and why is in the journal; when the command is over, the run goes on and is done."""
    update = {"0001_a.sql": "UPDATE t SET c = 1;", "0001_a.down.sql": "UPDATE t SET c = 0;"}
    target = project(folder=update, batch_rows=100)
    do(
        target,
        "CREATE TABLE t (id int PRIMARY KEY, c int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 1000) AS i",
    )
    with connect(target) as conn:
        control.ask(conn, control.Command.PAUSE, "a standby lags", lease_s=20)
        made, code = run("migrate")
        assert (code, made.status) == (0, Status.DONE)
        assert conn.execute("SELECT count(*) FROM t WHERE c = 1").fetchone() == (1000,)
    (paused,) = events(made, "batches-paused")
    assert (paused["by"], paused["reason"]) == ("postgres", "a standby lags")
