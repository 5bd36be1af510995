"""What squawk says beside our own rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgrunbook.review import squawk
from pgrunbook.review.hazards import RULES, Severity
from pgrunbook.review.hazards.design import SQUAWK
from pgrunbook.review.review import review, run


def test_findings_come_as_hazards_with_their_place() -> None:
    """Each finding is a hazard of the statement that it is about, also of several on a line."""
    sql = "SELECT 1; CREATE TABLE a (id bigint primary key,\n name char(10)); SELECT 2;"
    found = review([("a.sql", sql)], design_rules=["squawk-ban-char-field"])
    with_squawk = {f.statement.split()[0]: [h for h in f.hazards if h.id.startswith("squawk-")] for f in found}
    assert [h.id for h in with_squawk["CREATE"]] == ["squawk-ban-char-field"]
    assert with_squawk["SELECT"] == []
    assert with_squawk["CREATE"][0].line == 2


def test_what_our_rules_say_better_is_left_to_them() -> None:
    """The same statement is not told of twice, and what is harmless for us stays harmless."""
    sql = "CREATE INDEX i ON a (b); ALTER TABLE a DROP COLUMN c; ALTER TABLE a RENAME TO b;"
    found = [h.id for finding in review([("a.sql", sql)]) for h in finding.hazards]
    assert {"index-not-concurrent", "drop-column", "rename-table"} <= set(found)
    assert not [name for name in found if name.startswith("squawk-")]


def test_the_map_names_our_own_rules() -> None:
    """Every rule that is said to be better is there."""
    named = {ours for rules in squawk.SAID_BETTER.values() for ours in rules}
    assert named <= RULES.keys() | {"transaction-in-file"}
    assert not squawk.LEFT_OUT & squawk.SAID_BETTER.keys()


def test_without_squawk_a_note_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A missing squawk is told in the last line, and nothing fails."""
    monkeypatch.setattr(squawk, "program", lambda: None)
    file = tmp_path / "a.sql"
    file.write_text("SELECT 1;")
    text, code = run([file], target=None, fail_on="error", form="text")
    assert code == 0
    assert text == (
        "1 statement: no hazards\n\nNote: squawk is not installed: its rules were not checked (pip install squawk-cli)"
    )
    assert "squawk is not installed" in run([file], target=None, fail_on="error", form="sarif")[0]


def test_several_files_and_versions_are_asked_at_once() -> None:
    """Findings carry the names of the files that were given, whatever they are."""
    files = [("x/ä b.sql", "CREATE TABLE a (id serial primary key);"), ("-y", "SELECT 1;")]
    taste = [f"squawk-{rule}" for rule in SQUAWK]
    found = squawk.findings(files, major=18, in_transaction=True, design_rules=taste)
    assert {f.hazard.file for f in found} == {"x/ä b.sql"}
    assert {f.hazard.severity for f in found} <= set(Severity)


def test_a_squawk_that_does_not_answer_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """What squawk cannot say is left out."""
    monkeypatch.setattr(squawk, "program", lambda: Path("/nonexistent/squawk"))
    assert squawk.findings([("a.sql", "SELECT 1;")]) == []


def test_rules_of_taste_are_asked_for_by_name_and_squawk_can_be_left_out(tmp_path: Path) -> None:
    """Off until a target names them; --no-squawk shows our own findings only, and says nothing of squawk."""
    sql = "CREATE TABLE a (id int primary key, name varchar(9), c char(3)); ALTER TYPE m ADD VALUE 'x';"
    ids = [{h.id for f in review([("a.sql", sql)], design_rules=rules) for h in f.hazards} for rules in ([], RULED)]
    assert not [name for name in ids[0] if name.startswith("squawk-")]
    assert {name for name in ids[1] if name.startswith("squawk-")} == set(RULED)
    file = tmp_path / "a.sql"
    file.write_text('CREATE INDEX CONCURRENTLY i ON a (b); ALTER TABLE a ADD COLUMN "' + "n" * 70 + '" text;')
    both = [run([file], target=None, fail_on="never", form="json", with_squawk=on)[0] for on in (True, False)]
    assert ["squawk-identifier-too-long" in text for text in both] == [True, False]


RULED = [
    "squawk-prefer-bigint-over-int", "squawk-prefer-text-field", "squawk-ban-char-field",
    "squawk-require-enum-value-ordering",
]  # fmt: skip
