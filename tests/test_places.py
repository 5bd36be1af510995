"""Places: one name for each statement, wherever it is written, and no name that fits two."""

from __future__ import annotations

import getpass
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from acting import run
from conftest import do, rows
from pgrunbook.config.targets import Target
from pgrunbook.errors import Refused, WrongInput
from pgrunbook.history.files import migration_name
from pgrunbook.plan import plan as plans
from pgrunbook.review import review as reviews
from pgrunbook.session import acceptance
from pgrunbook.sql import places
from pgrunbook.sql.places import NamedPlace, Place
from pgrunbook.sql.statements import parse

Project = Callable[..., Target]
TWO = {
    "20260101000000_a/migration.sql": "ALTER TABLE a RENAME n TO number; ALTER TABLE a RENAME m TO many;\n",
    "20260102000000_b/migration.sql": "ALTER TABLE b RENAME n TO number;\n\n\n\nALTER TABLE b RENAME m TO many;\n",
}
A, B = "20260101000000_a", "20260102000000_b"
THERE = [statement.named for name, text in TWO.items() for statement in parse(text, "migration.sql", name[:16])]


@pytest.mark.parametrize(
    "place",
    [Place("a", 1), Place("a", 1, 2), Place("a", 70, 11), Place("a b", 3), Place("a:b", 3), Place("a:1", 3, 2),
     Place("a.2", 1), Place("ü:", 1), Place("way-back", 1)],
)  # fmt: skip
def test_a_place_is_read_as_it_is_written(place: Place) -> None:
    """Whatever the name of the migration holds."""
    assert places.parsed(str(place)) == place


@pytest.mark.parametrize(
    "text", ["", "a", "a:", ":1", "a:0", "a:01", "a:1.0", "a:1.1", "a:1.", "a:1.2.", "a:x", " a:1", "a:1 "]
)
def test_what_is_no_place_is_not_read(text: str) -> None:
    """The first statement of a line has no number of its own: it has one spelling."""
    assert places.parsed(text) is None


def test_statements_of_one_line_have_places_of_their_own() -> None:
    """Counted as they begin; one that ends on the line does not count."""
    found = parse("SELECT\n1; SELECT 2; SELECT 3;\nSELECT 4;", "0001_a.sql", "0001_a")
    assert [str(one.place) for one in found] == ["0001_a:1", "0001_a:2", "0001_a:2.2", "0001_a:3"]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (f"{A}:1", f"{A}:1"),
        (f"{A}:1.2", f"{A}:1.2"),
        (f"{B}:5", f"{B}:5"),
        ("migration.sql:5", f"{B}:5"),
        ("migration.sql:1.2", f"{A}:1.2"),
    ],
)
def test_a_file_names_a_statement_where_only_one_fits(given: str, found: str) -> None:
    """Else the migration does."""
    assert places.resolved([given], THERE) == [found]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("migration.sql:1", f"migration.sql:1 names 3: {A}:1, {A}:1.2 and {B}:1"),
        ("migration.sql:2", "there is no such place: migration.sql:2"),
        (f"{A}:1.3", f"there is no such place: {A}:1.3"),
        (f"{A}:5", f"there is no such place: {A}:5"),
        ("other.sql:1", "there is no such place: other.sql:1"),
    ],
)
def test_a_name_that_fits_none_or_two_is_refused(given: str, says: str) -> None:
    """The error names what is there."""
    with pytest.raises(WrongInput) as caught:
        places.resolved([given], THERE)
    assert caught.value.message == says
    assert caught.value.detail.startswith("A place is" if "names" in says else f"The places are {A}:1, {A}:1.2, {B}:1")
    assert caught.value.hint


def test_a_name_of_two_kinds_is_refused() -> None:
    """A migration may be called as another one's file, or as the gate of a way back."""
    there = [
        *(s.named for s in parse("SELECT 1", "x.sql", "x")),
        *(s.named for s in parse("SELECT 1", "x.sql.sql", "x.sql")),
    ]
    with pytest.raises(WrongInput, match=r"^x\.sql:1 names two: x:1 and x\.sql:1"):
        places.resolved(["x.sql:1"], there)
    assert places.resolved(["x.sql.sql:1", "x:1"], there) == ["x.sql:1", "x:1"]
    assert places.resolved(["way-back:b"], [NamedPlace("way-back:b")]) == ["way-back:b"]


@pytest.fixture
def target(project: Project) -> Target:
    """A target with two pending migrations of Drizzle 1.0, each with gates, whose files have the same name."""
    made = project(folder=TWO)
    do(made, "CREATE TABLE a (id int PRIMARY KEY, n int, m int); CREATE TABLE b (id int PRIMARY KEY, n int, m int)")
    do(made, "ALTER TABLE a REPLICA IDENTITY FULL; ALTER TABLE b REPLICA IDENTITY FULL")
    do(made, "CREATE PUBLICATION sends FOR TABLE a, b")
    return made


@pytest.mark.slow
def test_one_acceptance_is_for_one_statement(target: Target) -> None:
    """A name that fits gates of two migrations, or two of a line, is refused by prepare, and by accept."""
    both = f"migration.sql:1 names 3: {A}:1, {A}:1.2 and {B}:1"
    for given in ({"accept": "migration.sql:1"}, {"safe_forms_off": json.dumps({"migration.sql:1": "why"})}):
        made, code = run("prepare", rehearse="false", **given)
        assert (code, made.parts[0].says) == (2, both)
    made, code = run("prepare", rehearse="false", accept=f"migration.sql:5,{A}:1.2")
    assert code == 0
    plan = plans.read(made.folder / "plan.json")
    assert [gate.key for gate in plan.gates()] == ["rehearsal", f"{A}:1", f"{A}:1.2", f"{B}:1", f"{B}:5"]
    assert [gate.key for gate in acceptance.left(made, plan)] == [f"{A}:1", f"{B}:1"]
    with pytest.raises(WrongInput) as caught:
        acceptance.accept(made.run_id, ["migration.sql:1"])
    assert caught.value.message == both
    assert acceptance.accept(made.run_id, [f"{B}:1"]) == ([f"{B}:1"], [f"{A}:1"])
    assert rows(target, "SELECT count(*) FROM pg_attribute WHERE attname = 'number'") == [(0,)]


@pytest.mark.slow
def test_migrate_refuses_a_name_that_fits_two(target: Target) -> None:
    """Where nothing was prepared as well, and nothing is executed."""
    made, code = run("migrate", accept="migration.sql:1")
    assert (code, made.parts[0].says) == (2, f"migration.sql:1 names 3: {A}:1, {A}:1.2 and {B}:1")
    made, code = run("migrate", accept=f"{A}:1,{B}:1")
    assert (code, made.parts[0].says) == (3, "the plan has 2 gates that nobody has accepted")
    assert rows(target, "SELECT count(*) FROM pg_attribute WHERE attname = 'number'") == [(0,)]


@pytest.mark.slow
@pytest.mark.usefixtures("target")
def test_a_gate_that_somebody_accepted_is_not_accepted_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record names one person for each gate; the same person may say it again."""
    made, _ = run("prepare", rehearse="false")
    monkeypatch.setattr(getpass, "getuser", lambda: "alice")
    assert acceptance.accept(made.run_id, [f"{A}:1"])[0] == [f"{A}:1"]
    before = made.journal.path.read_bytes()
    assert acceptance.accept(made.run_id, [f"{A}:1"])[0] == [f"{A}:1"]
    monkeypatch.setattr(getpass, "getuser", lambda: "bob")
    with pytest.raises(Refused) as caught:
        acceptance.accept(made.run_id, [f"{A}:1.2", f"{A}:1"])
    assert caught.value.message == f"gate {A}:1 of run {made.run_id} is accepted already"
    assert caught.value.detail.startswith("alice accepted it at 2")
    assert caught.value.exit_code == 3
    assert made.journal.path.read_bytes() == before


@pytest.mark.parametrize(
    ("path", "name"),
    [("x/0001_a.sql", "0001_a"), ("x/20260101_a/migration.sql", "20260101_a"), ("0001.a.sql", "0001.a")],
)
def test_a_file_has_the_name_of_its_migration(path: str, name: str) -> None:
    """As the history has it."""
    assert migration_name(Path(path)) == name


def test_the_review_names_statements_as_prepare_does(tmp_path: Path) -> None:
    """The place in text, JSON and SARIF, beside the real file, which code hosts point to."""
    files = []
    for name, text in TWO.items():
        path = tmp_path / name
        path.parent.mkdir()
        path.write_text(f"BEGIN; {text}", encoding="utf-8")
        files.append(path)
    text, _ = reviews.run(files, target=None, fail_on="never", form="text")
    for place, path, line in ((f"{A}:1.2", files[0], 1), (f"{A}:1.3", files[0], 1), (f"{B}:5", files[1], 5)):
        assert f"{place}: ALTER TABLE" in text
        assert f"  at {path}:{line}\n" in text
    told = json.loads(reviews.run(files, target=None, fail_on="never", form="json")[0])
    assert [one["place"] for one in told] == [f"{A}:1", f"{A}:1.2", f"{A}:1.3", f"{B}:1", f"{B}:1.2", f"{B}:5"]
    assert {(one["file"], one["line"]) for one in told[3:]} == {(str(files[1]), 1), (str(files[1]), 5)}
    found = json.loads(reviews.run(files, target=None, fail_on="never", form="sarif")[0])["runs"][0]["results"]
    spots = {
        (one["locations"][0]["logicalLocations"][0]["fullyQualifiedName"],
         one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"],
         one["locations"][0]["physicalLocation"]["region"]["startLine"])
        for one in found
    }  # fmt: skip
    assert (f"{A}:1.2", str(files[0]), 1) in spots
    assert (f"{B}:5", str(files[1]), 5) in spots
