"""What a review leaves out: findings of the baseline, and files that the target has applied."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import connect, do
from pgrunbook.config.targets import Target
from pgrunbook.errors import WrongInput
from pgrunbook.review.review import as_text, review, run

OLD = "CREATE INDEX i ON orders (a);\nDROP TABLE old;\n"


def ids(text: str) -> dict[str, set[str]]:
    """Return the rules that found something, by the statement's first word."""
    return {each["statement"].split()[0]: {h["id"] for h in each["hazards"]} for each in json.loads(text)}


def looked_at(file: Path, since: Path | None, form: str = "json") -> tuple[str, int]:
    return run([file], target=None, fail_on="error", form=form, with_squawk=False, since=since)  # type: ignore[arg-type]


def test_a_team_begins_with_what_is_new(tmp_path: Path) -> None:
    """The first review writes the file and is quiet; later ones show what has come since, wherever lines have moved."""
    file, since = tmp_path / "a.sql", tmp_path / "known.json"
    file.write_text(OLD)
    assert looked_at(file, None)[1] == 1
    text, code = looked_at(file, since, "text")
    number = len(json.loads(since.read_text())["findings"])
    assert (code, text) == (0, f"2 statements: no hazards\n\nNote: baseline {since} is written, with {number} findings")
    file.write_text(f"-- moved\n\n{OLD}TRUNCATE b;\n")
    text, code = looked_at(file, since)
    assert code == 1
    assert ids(text) == {"CREATE": set(), "DROP": set(), "TRUNCATE": {"truncate"}}
    assert json.loads(since.read_text())["findings"] == sorted(
        json.loads(since.read_text())["findings"], key=lambda one: (one["migration"], one["rule"], one["statement"])
    )


@pytest.mark.parametrize("change", ["DROP TABLE other;", "DROP TABLE old CASCADE;"])
def test_another_statement_is_new(tmp_path: Path, change: str) -> None:
    """What is known is one statement of one migration, and not a rule."""
    file, since = tmp_path / "a.sql", tmp_path / "known.json"
    file.write_text(OLD)
    looked_at(file, since)
    file.write_text(OLD.replace("DROP TABLE old;", change))
    assert "drop-table" in ids(looked_at(file, since)[0])["DROP"]
    other = tmp_path / "b.sql"
    other.write_text(OLD)
    assert "drop-table" in ids(looked_at(other, since)[0])["DROP"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"findings": [1]}', '{"findings": [{"rule": "x"}]}', "\xff"])
def test_a_file_that_is_no_baseline_is_refused(tmp_path: Path, text: str) -> None:
    """It is told which, and nothing is overwritten."""
    file, since = tmp_path / "a.sql", tmp_path / "known.json"
    file.write_text("SELECT 1;")
    since.write_bytes(text.encode("latin-1"))
    with pytest.raises(WrongInput, match=r"cannot read the baseline .*known\.json") as wrong:
        looked_at(file, since)
    assert wrong.value.hint == "Name another file, or delete it: the next review with --baseline writes it anew."
    assert since.read_bytes() == text.encode("latin-1")
    with pytest.raises(WrongInput, match="cannot write the baseline"):
        looked_at(file, tmp_path / "nowhere" / "known.json")


def test_each_rule_has_a_line_at_the_end_and_one_finding_a_statement() -> None:
    """The worst first, then by number; several columns of one statement are one finding that names them all."""
    sql = "CREATE TABLE a (id int PRIMARY KEY, b timestamp, c timestamp);DROP TABLE x; DROP TABLE y; VACUUM z;"
    found = review([("a.sql", sql)], with_squawk=False, design_rules=["timestamp-without-zone"])
    (hazard,) = found[0].hazards
    assert hazard.id == "timestamp-without-zone"
    assert "a.b, a.c" in hazard.effect
    assert as_text(found).split("\n\n")[-2].splitlines() == [
        "error: drop-table: 2 x: A table is dropped with its rows.",
        "warning: lock-without-timeout: 1 x: A strong lock is requested, and no short lock_timeout bounds the wait.",
        "warning: timestamp-without-zone: 1 x: A column holds a time without its time zone.",
    ]


def test_the_first_lock_without_a_timeout_stands_for_all() -> None:
    """It counts the later ones; whoever runs the one file runs the others."""
    sql = "ALTER TABLE a ADD b text; ALTER TABLE a ADD c text; ALTER TABLE b ADD c text"
    found = review([("a.sql", sql), ("b.sql", "ALTER TABLE c ADD d text")], with_squawk=False)
    told = [[h.effect for h in f.hazards if h.id == "lock-without-timeout"] for f in found]
    assert [len(each) for each in told] == [1, 0, 0, 0]
    assert told[0][0].endswith("So does the request of 3 later statements.")


FILES = {
    "0001_a.sql": "CREATE TABLE wide (id int PRIMARY KEY, a int);",
    "0002_b.sql": "CREATE INDEX wide_a ON wide (a);",
}


def test_files_that_are_applied_are_left_out_and_their_tables_are_not_new(
    project: Callable[..., Target], tmp_path: Path
) -> None:
    """By the history table; without one the catalog says that the table is there, with its rows."""
    target = project(folder=FILES)
    with connect(target, purpose="test") as conn:
        conn.execute(FILES["0001_a.sql"])
        conn.execute("INSERT INTO wide SELECT n, n FROM generate_series(1, 20000) AS n; ANALYZE wide")
    files = [tmp_path / "migrations-demo" / name for name in FILES]
    for applied in (False, True):
        text, _ = run(files, target="demo", fail_on="error", form="json", with_squawk=False)
        assert len(json.loads(text)) == (1 if applied else 2)
        found = json.loads(text)[-1]
        assert [h["id"] for h in found["hazards"]] == ["index-not-concurrent"]
        assert found["hazards"][0]["severity"] == "error"
        if not applied:
            do(
                target,
                "CREATE TABLE schema_migrations (version text PRIMARY KEY, applied_at timestamptz DEFAULT now())",
            )
            do(target, "INSERT INTO schema_migrations VALUES ('0001')")


@pytest.mark.parametrize(
    ("make", "is_new"),
    [("CREATE TABLE t (id int, a int)", True), ("CREATE TABLE IF NOT EXISTS t (id int, a int)", False),
     ("CREATE TABLE IF NOT EXISTS public.t (id int, a int)", False)],
)  # fmt: skip
def test_if_not_exists_proves_nothing(make: str, is_new: bool) -> None:
    """Without a database the table may be there, with all its rows and readers."""
    (_, change) = review([("a.sql", f"{make}; ALTER TABLE t ALTER a TYPE bigint")], with_squawk=False)
    assert ("column-type-rewrites" in {h.id for h in change.hazards}) is not is_new
