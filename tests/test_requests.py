"""What waits for whom: told from the folders of the runs, whoever is asked for what."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from pgrunbook.app import requests_report
from pgrunbook.record import run as runs
from pgrunbook.record.run import Run, Status


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of runs, and two targets, of which nothing is protected."""
    monkeypatch.setenv("PGRUNBOOK_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("PGRUNBOOK_TARGETS", str(tmp_path / "targets.toml"))
    (tmp_path / "targets.toml").write_text('[shop]\nservice = "shop"\napproval = true\n[test]\nservice = "test"\n')
    return tmp_path


def ran(runbook: str, *events: tuple[str, dict[str, Any]], target: str = "test", status: Status = Status.DONE,
        **parameters: object) -> Run:  # fmt: skip
    """A run that has ended, with these events in its journal; a later one sorts behind it."""
    time.sleep(0.002)
    made = runs.create(runbook, target, {runbook: parameters}, how="headless")
    for name, facts in events:
        made.journal.write(name, procedure=runbook, **facts)
    made.status = status
    made.save()
    return made


def waiting(target: str = "") -> list[tuple[str, tuple[str, ...], str]]:
    """For what, about what, and what is typed then."""
    return [(one.waits_for, one.what, one.next) for one in requests_report.report(target).requests]


def test_nothing_waits_where_nothing_ran() -> None:
    """Nor of a run that is done."""
    assert waiting() == []
    ran("release")
    assert waiting() == []


def test_an_approval_waits_until_a_newer_run_of_its_kind() -> None:
    """It names the digest that is asked for."""
    facts = {
        "cell": "purge-it",
        "of": ["item 7"],
        "digest": "",
        "why": "",
        "system_identifier": "7",
        "database": "shop",
    }
    made = ran("purge", ("approval-needed", facts), target="shop", status=Status.REFUSED)
    ((what_for, (about,), following),) = waiting()
    assert (what_for, about[:7], following) == ("approval", "purge: ", f"pgrunbook approve {made.run_id}")
    assert [one.whom for one in requests_report.report().requests] == ["an approver"]
    assert waiting("test") == []
    ran("purge", target="shop")
    assert waiting() == []


def test_columns_wait_for_contract_until_they_are_gone() -> None:
    """What is accepted or dropped waits no more."""
    shown = ("columns-shown", {"digests": {"public.a.x": "1" * 64, "public.a.y": "2" * 64, "public.a.z": "3" * 64}})
    accepted = ("gates-accepted", {"digest": "2" * 64, "gates": ["public.a.y"], "by": "ann"})
    ran("contract", shown, accepted, ("contracted", {"column": "public.a.z"}))
    following = "pgrunbook run contract --target test -p accept=public.a.x"
    assert waiting() == [("contract", ("public.a.x",), following)]
    ran("contract", ("columns-shown", {"digests": {}}))
    assert waiting() == []


def test_a_cut_over_waits_until_it_is_done_or_given_up() -> None:
    """Of each table by itself."""
    for table in ("public.a", "public.b"):
        ran("swap", ("cut-over-postponed", {"subject": table}), table=table)
    assert [(one, about) for one, about, _ in waiting()] == [("cut-over", ("public.a",)), ("cut-over", ("public.b",))]
    ran("swap", ("cut-over", {"subject": "public.a"}), table="public.a")
    assert waiting() == [("cut-over", ("public.b",), "pgrunbook run swap --target test -p table=public.b")]
    ran("swap", ("swap-ended", {"subject": "public.b"}), table="public.b")
    assert waiting() == []


@pytest.mark.parametrize(
    "after", [("rollout-stands", {"name": "beta", "standing": "open"}), ("stage-meant", {"name": "beta"}),
              ("flag-removed", {"name": "beta"})],
)  # fmt: skip
def test_a_paused_rollout_waits_until_it_goes_on(after: tuple[str, dict[str, Any]]) -> None:
    """It is resumed by its name."""
    ran("rollout", ("rollout-begun", {"name": "beta"}), ("rollout-stands", {"name": "beta", "standing": "paused"}))
    assert waiting() == [("rollout", ("beta",), "pgrunbook run rollout --target test -p name=beta -p do=resume")]
    ran("rollout", after)
    assert waiting() == []


def test_a_run_that_cannot_be_read_is_told(home: Path) -> None:
    """The others are listed all the same."""
    made = ran("release", target="gone", status=Status.REFUSED)
    ran("swap", ("cut-over-postponed", {"subject": "a"}), table="a")
    found = requests_report.report()
    assert [one.waits_for for one in found.requests] == ["cut-over"]
    assert found.unreadable == (f'{made.run_id}: target "gone" is not declared',)
    assert (home / "outputs").is_dir()
