"""The guide's chapter "Migration Strategies": what the guide's staged rollout does, and each line that replaces it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from conftest import ROOT, do, rows
from pgrunbook.config.targets import Target
from pgrunbook.runner import runbook
from test_rollout import share

Command = Callable[..., tuple[int, str, str]]
GUIDE = (ROOT / "docs" / "guide.md").read_text()
CHAPTER = GUIDE.partition("## Migration Strategies\n")[2].partition("\n## ")[0]
ROLLOUT = CHAPTER.partition("### A staged rollout\n")[2].partition("\n### ")[0]
ORGANISATIONS = (
    "CREATE TABLE organisations (id text PRIMARY KEY);"
    "INSERT INTO organisations SELECT 'org' || i FROM generate_series(1, 200) AS i;"
    "CREATE TABLE failed_jobs (at timestamptz NOT NULL DEFAULT now())"
)


def typed(text: str) -> list[list[str]]:
    """Return the lines of blocks without a language, as words, without what is said beside them."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [shlex.split(line, comments=True) for kind, block in blocks if not kind for line in block.splitlines()]


def has(target: Target) -> set[str]:
    """Return the organisations that have the flag."""
    return {str(row[0]) for row in rows(target, "SELECT id FROM organisations WHERE new_feature_enabled")}


def test_every_run_of_the_chapter_names_a_procedure_and_its_parameters() -> None:
    """Also those in the tables: the runbook knows each, and each value is of its type."""
    inline = [shlex.split(line) for line in re.findall(r"`(pgrunbook run [^`]+)`", CHAPTER)]
    known = {path.stem for path in (ROOT / "runbooks").glob("*.yaml")}
    for words in (*inline, *typed(CHAPTER)):
        if words[:2] != ["pgrunbook", "run"] or "--resume" in words or words[2] not in known:
            continue
        given = dict(word.split("=", 1) for flag, word in pairwise(words) if flag == "-p")
        assert runbook.typed(runbook.load(words[2]), "demo", given)


@pytest.mark.slow
def test_each_line_of_the_rollout_does_what_it_says(
    project: Callable[..., Target], command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file as it stands there, and from a look to the end of the flag."""
    home = tmp_path / "home"
    (home / "rollouts").mkdir(parents=True)
    monkeypatch.setenv("PGRUNBOOK_HOME", str(home))
    (yaml,) = re.findall(r"^```yaml\n(.*?)^```$", ROLLOUT, re.M | re.S)
    (home / "rollouts" / "new-feature.yaml").write_text(yaml)
    target = project(folder={"0001_a.sql": "SELECT 1"})
    do(target, ORGANISATIONS)
    every = {f"org{i}" for i in range(1, 201)}
    keys = sorted(every)
    ten, half = share(10, keys, "new-feature"), share(50, keys, "new-feature")
    friends = {"org1", "org2"}
    lines = typed(ROLLOUT)
    after: list[set[str] | None] = [None, friends, friends, half | friends, ten | friends, every, None]
    assert len(lines) == len(after)
    for words, expected in zip(lines, after, strict=True):
        assert words[0] == "pgrunbook"
        code, told, err = command(*words[1:])
        assert code == 0, told + err
        there = rows(target, "SELECT FROM information_schema.columns WHERE column_name = 'new_feature_enabled'")
        assert bool(there) == (expected is not None)
        if expected is not None:
            assert has(target) == expected, words


@pytest.mark.newest
def test_the_guides_staged_rollout_rewrites_rows_that_have_the_flag(project: Callable[..., Target]) -> None:
    """Its flag may be NULL, its list is not counted, and its UPDATE of all rewrites rows that are on already."""
    target = project(folder={"0001_a.sql": "SELECT 1"})
    do(target, ORGANISATIONS)
    add, some, everyone, _ = (ROOT / "tests" / "guide" / "staged.sql").read_text().split(";\n")[:4]
    do(target, add)
    do(target, "INSERT INTO organisations VALUES ('third state', NULL)")
    do(target, some.replace("'org2'", "'org-two'"))
    assert has(target) == {"org1"}  # nobody says that org-two is nobody
    before = rows(target, "SELECT xmin::text FROM organisations WHERE id = 'org1'")
    do(target, everyone)
    assert rows(target, "SELECT xmin::text FROM organisations WHERE id = 'org1'") != before


def test_the_rename_is_that_of_the_example() -> None:
    """Who types the lines on the demo accepts the name that goes there."""
    (migration,) = (ROOT / "examples" / "zeitwork").glob("packages/database/migrations/0004_*_ip.sql")
    ((table, old, new),) = re.findall(r'"(\w+)" RENAME COLUMN "(\w+)" TO "(\w+)"', migration.read_text())
    assert f"# {old} is renamed to {new}, and both names work" in CHAPTER
    accepted = re.findall(r"accept=(\S+)\s|pgrunbook accept RUN ([^`]+)`", CHAPTER)
    named = {one for pair in accepted for one in pair if one.count(".") == 2}
    assert named == {f"public.{table}.{old}"}


@pytest.mark.slow
def test_the_lines_beside_the_guides_own_do_what_they_say(project: Callable[..., Target], command: Command) -> None:
    """The type change is released, a column filled, a table swapped: on tables with rows, each with exit code 0."""
    target = project(
        folder={"0001_a.sql": "CREATE TABLE instances (id int PRIMARY KEY, cpu int, millicpu bigint)"}, batch_rows=50
    )
    assert command("run", "release", "--target", "demo", "-p", "with_data=false")[0] == 0
    assert target.migrations is not None
    (target.migrations / "0002_b.sql").write_text("ALTER TABLE instances ALTER COLUMN cpu TYPE bigint")
    do(target, "INSERT INTO instances (id, cpu) SELECT i, nullif(i, 7) FROM generate_series(1, 100) AS i")
    do(target, "CREATE TABLE projects (id int PRIMARY KEY, name text); INSERT INTO projects VALUES (1, 'a'), (2, NULL)")
    table = CHAPTER.partition("| the guide | here |")[2].partition("\n\n")[0]
    lines = [shlex.split(line) for line in re.findall(r"`(pgrunbook run [^`]+)`", table)]
    assert [words[2] for words in lines] == ["release", "backfill", "swap", "rollout"]
    release, backfill, swap, _ = lines
    code, told, err = command(*backfill[1:])
    assert code == 0, told + err
    assert rows(
        target, "SELECT count(*), sum(millicpu) FROM instances WHERE millicpu IS NOT DISTINCT FROM cpu * 1000"
    ) == [(100, (5050 - 7) * 1000)]
    code, told, err = command(*release[1:], "-p", "with_data=false")
    assert code == 0, told + err
    (kind,) = rows(
        target,
        "SELECT atttypid::regtype::text FROM pg_attribute WHERE attrelid = 'instances'::regclass AND attname = 'cpu'",
    )
    assert kind == ("bigint",)
    oid = "SELECT 'projects'::regclass::oid::int8"
    before = rows(target, oid)
    code, told, err = command(*swap[1:])
    assert code == 0, told + err
    assert rows(target, oid) != before
    assert rows(target, "SELECT * FROM projects ORDER BY id") == [(1, "a"), (2, None)]
