"""The window of a target: days, hours that cross midnight, peak hours, freeze dates, odd zones, changed clocks."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from pgrunbook.branches.branch import Branch
from pgrunbook.branches.branch_target import branch_target
from pgrunbook.branches.planetscale import branches as planetscale_branches
from pgrunbook.config import targets
from pgrunbook.config.window import ChangeWindow
from pgrunbook.errors import WrongInput


def is_open(moment: str, **options: Any) -> bool:
    """Whether a window is open at a moment of UTC."""
    return not ChangeWindow(**options).closed_by(datetime.fromisoformat(moment).replace(tzinfo=UTC))


NIGHTS = {"days": ("mon", "fri"), "hours": "22:00-05:00"}
DAYTIME = {"hours": ("08:00-12:00", "13:00-17:00")}


@pytest.mark.parametrize(
    ("options", "moment", "expected"),
    [
        ({}, "2026-11-30T00:00", True),
        # A night belongs to the day on which it begins: 2026-11-30 is a Monday.
        (NIGHTS, "2026-11-30T21:59", False),
        (NIGHTS, "2026-11-30T22:00", True),
        (NIGHTS, "2026-12-01T04:59", True),
        (NIGHTS, "2026-12-01T05:00", False),
        (NIGHTS, "2026-12-01T22:00", False),
        (NIGHTS, "2026-11-30T04:59", False),
        (NIGHTS, "2026-12-05T04:59", True),
        (NIGHTS, "2026-12-06T04:59", False),
        # The night of Sunday ends on Monday: the week is a circle.
        ({"days": "sun", "hours": "23:00-01:00"}, "2026-11-30T00:30", True),
        ({"days": "mon", "hours": "23:00-01:00"}, "2026-11-30T00:30", False),
        # Several spans, and the end of the day.
        (DAYTIME, "2026-11-30T11:59", True),
        (DAYTIME, "2026-11-30T12:00", False),
        (DAYTIME, "2026-11-30T13:00", True),
        ({"hours": "20:00-24:00"}, "2026-11-30T23:59", True),
        ({"hours": "20:00-24:00"}, "2026-12-01T00:00", False),
        # Peak hours close it on every day, also such that cross midnight.
        ({"peak_hours": "11:30-13:30"}, "2026-11-30T11:30", False),
        ({"peak_hours": "11:30-13:30"}, "2026-11-30T13:30", True),
        ({"peak_hours": "23:30-00:30"}, "2026-11-30T00:15", False),
        # Freeze dates are whole days of the zone, with both ends.
        ({"freeze": "2026-12-24"}, "2026-12-24T23:59", False),
        ({"freeze": "2026-12-24"}, "2026-12-25T00:00", True),
        ({"freeze": ("2026-12-20/2027-01-06",)}, "2027-01-06T12:00", False),
        ({"freeze": ("2026-12-20/2027-01-06",)}, "2026-12-19T23:59", True),
        ({"freeze": "2026-12-24", "hours": "22:00-05:00"}, "2026-12-25T01:00", True),
        ({"freeze": "2026-12-24", "zone": "Pacific/Kiritimati"}, "2026-12-23T10:00", False),
        ({"freeze": "2026-12-24", "zone": "Pacific/Kiritimati"}, "2026-12-24T10:00", True),
        ({"freeze": "2026-12-24", "zone": "Pacific/Pago_Pago"}, "2026-12-24T10:59", True),
        ({"freeze": "2026-12-24", "zone": "Pacific/Pago_Pago"}, "2026-12-24T11:00", False),
        # Zones off by parts of an hour.
        ({"hours": "09:00-10:00", "zone": "Asia/Kathmandu"}, "2026-11-30T03:15", True),
        ({"hours": "09:00-10:00", "zone": "Asia/Kathmandu"}, "2026-11-30T03:14", False),
        ({"hours": "09:00-10:00", "zone": "Australia/Eucla"}, "2026-11-30T00:15", True),
        # 2026-10-25, Europe/Berlin: 03:00 summer time is 02:00 again; both hours of 02:xx are inside.
        ({"hours": "02:00-03:00", "zone": "Europe/Berlin"}, "2026-10-24T23:59", False),
        ({"hours": "02:00-03:00", "zone": "Europe/Berlin"}, "2026-10-25T00:30", True),
        ({"hours": "02:00-03:00", "zone": "Europe/Berlin"}, "2026-10-25T01:30", True),
        ({"hours": "02:00-03:00", "zone": "Europe/Berlin"}, "2026-10-25T02:00", False),
        # 2026-03-29, Europe/Berlin: 02:00 is 03:00 at once; the hour never comes.
        ({"hours": "02:00-03:00", "zone": "Europe/Berlin"}, "2026-03-29T00:59", False),
        ({"hours": "02:00-03:00", "zone": "Europe/Berlin"}, "2026-03-29T01:00", False),
        ({"hours": "01:00-03:30", "zone": "Europe/Berlin"}, "2026-03-29T01:29", True),
        ({"hours": "01:00-03:30", "zone": "Europe/Berlin"}, "2026-03-29T01:30", False),
        # Lord Howe puts its clock back by half an hour: 01:30 to 02:00 come twice.
        ({"hours": "01:30-02:00", "zone": "Australia/Lord_Howe"}, "2026-04-04T14:45", True),
        ({"hours": "01:30-02:00", "zone": "Australia/Lord_Howe"}, "2026-04-04T15:15", True),
        ({"hours": "01:30-02:00", "zone": "Australia/Lord_Howe"}, "2026-04-04T15:30", False),
    ],
)  # fmt: skip
def test_a_window_is_open_by_the_clock_on_its_wall(options: dict[str, Any], moment: str, expected: bool) -> None:
    """Its first minute is inside, its last is not."""
    assert is_open(moment, **options) is expected


@pytest.mark.parametrize(
    ("options", "moment", "says"),
    [
        (NIGHTS, "2026-12-01T22:00",
         "it is tue 2026-12-01 22:00 in UTC, and it is open mon, fri, 22:00-05:00"),
        ({"peak_hours": "11:30-13:30", "zone": "Europe/Berlin"}, "2026-11-30T11:00",
         "it is mon 2026-11-30 12:00 in Europe/Berlin, and 11:30-13:30 are peak hours"),
        ({"freeze": "2026-11-20/2026-12-05"}, "2026-11-30T11:00",
         "it is mon 2026-11-30 11:00 in UTC, and 2026-11-20/2026-12-05 is frozen"),
    ],
)  # fmt: skip
def test_a_closed_window_says_why(options: dict[str, Any], moment: str, says: str) -> None:
    """With the time in its own zone."""
    assert ChangeWindow(**options).closed_by(datetime.fromisoformat(moment).replace(tzinfo=UTC)) == says


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("options", "opens"),
    [
        ({**NIGHTS, "zone": "Europe/Berlin"}, "2026-11-30T21:00:00+00:00"),
        ({"freeze": "2026-11-20/2026-12-05", "hours": "08:00-09:00"}, "2026-12-06T08:00:00+00:00"),
        ({"peak_hours": "00:00-24:00"}, "None"),
    ],
)
def test_it_says_when_it_opens_next(options: dict[str, Any], opens: str) -> None:
    """Within two months; a window that never opens says so."""
    found = ChangeWindow(**options).opens_after(datetime(2026, 11, 30, 12, 0, 30, tzinfo=UTC))
    assert (found.isoformat() if found else "None") == opens


def declared(folder: Path, text: str, patch: pytest.MonkeyPatch) -> targets.Target:
    """Load a target of which targets.toml says this."""
    (folder / "targets.toml").write_text(f'[shop]\nservice = "shop"\n{text}')
    tomllib.loads((folder / "targets.toml").read_text())
    patch.setenv("PGRUNBOOK_TARGETS", str(folder / "targets.toml"))
    return targets.load("shop")


def test_targets_toml_declares_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TOML's own dates are dates as well; one span needs no list; what is protected asks for an approval."""
    said = '[shop.window]\ndays = ["mon"]\nhours = "22:00-05:00"\nfreeze = [2026-12-24, "2027-01-01"]\n'
    found = declared(tmp_path, said, monkeypatch)
    assert found.window == ChangeWindow(days=("mon",), hours=("22:00-05:00",), freeze=("2026-12-24", "2027-01-01"))
    assert not found.needs_approval
    needs = [declared(tmp_path, text, monkeypatch).needs_approval for text in
             ("protected = true\n", "approval = true\n", "protected = true\napproval = false\n")]  # fmt: skip
    assert needs == [True, True, False]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('hours = "25:00-26:00"', '"25:00-26:00" is no span of hours, as 22:00-05:00 is'),
        ('hours = "09:00-09:00"', '"09:00-09:00" is no span of hours'),
        ("hours = []", "at least 1 item"),
        ('peak_hours = "noon"', '"noon" is no span of hours'),
        ('days = ["monday"]', "window.days"),
        ("days = []", "at least 1 item"),
        ('zone = "Mars/Olympus"', '"Mars/Olympus" is no time zone, as Europe/Berlin is'),
        ('zone = "../../etc/passwd"', '"../../etc/passwd" is no time zone'),
        ('freeze = "24.12.2026"', '"24.12.2026" is no date'),
        ('freeze = "2026-12-24/2026-12-20"', "ends before it begins"),
        ('open = "always"', "window.open: Extra inputs are not permitted"),
    ],
)
def test_what_is_no_window_is_refused(line: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the option's name, before anything is begun."""
    with pytest.raises(WrongInput) as caught:
        declared(tmp_path, f"[shop.window]\n{line}\n", monkeypatch)
    assert says in caught.value.detail


def test_a_branch_of_a_target_may_be_changed_at_any_time() -> None:
    """It is a copy: neither approval nor window is for it, of whichever provider."""
    window = ChangeWindow(freeze=("2020-01-01/2029-12-31",))
    source = targets.Target(name="shop", server="main", database="shop", protected=True, window=window)
    found = branch_target(source, "shop@dev", "main", "dev", role="a", superuser="b", options="")
    assert (found.needs_approval, found.window) == (False, None)
    place = targets.Planetscale(organization="o", database="d")
    source = targets.Target(name="shop", planetscale=place, restore_points=False, approval=True, window=window)
    branch = Branch(target="shop", name="dev", provider="planetscale", owner="ann", made_at=datetime.now(UTC))
    made = planetscale_branches._target(source, branch)
    assert (made.needs_approval, made.window) == (False, None)


def test_the_window_of_the_docs_is_one() -> None:
    """docs/approval.md says what is typed."""
    text = (ROOT / "docs" / "approval.md").read_text().partition("```toml\n")[2].partition("```")[0]
    found = ChangeWindow(**tomllib.loads(text)["shop"]["window"])
    assert found.closed_by(datetime(2026, 11, 30, 22, 30, tzinfo=UTC)) == ""
    assert "is frozen" in found.closed_by(datetime(2026, 12, 28, 22, 30, tzinfo=UTC))
