"""The guide's chapter "Point-in-Time Recovery": each line that it tells a person to type does what it says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from acting import newest_run, outputs, run
from conftest import ROOT, Site, do, rows
from pgrunbook.branches import backup
from pgrunbook.branches.recovery_target import Point, parse_point
from pgrunbook.branches.server import Server
from pgrunbook.config.targets import Target
from pgrunbook.errors import WrongInput

Command = Callable[..., tuple[int, str, str]]
GUIDE = (ROOT / "docs" / "guide.md").read_text()
CHAPTER = GUIDE.partition("## Point-in-Time Recovery\n")[2].partition("\n## ")[0]
GUIDES_MOMENT = "2024-01-15 10:30:00"


def typed() -> list[str]:
    """Return the lines of the chapter's blocks, without what is said beside them.

    Those for a server that is not ours are typed by ``test_received``.
    """
    ours = re.sub(r"^### A server that is not ours\n.*?^(?=### )", "", CHAPTER, flags=re.M | re.S)
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", ours, re.M | re.S)
    return [line.partition("#")[0].strip() for kind, block in blocks if not kind for line in block.splitlines()]


def test_the_moment_of_the_guide_is_none() -> None:
    """It has no zone; ours, beside it, has one."""
    with pytest.raises(WrongInput, match="has no zone"):
        parse_point(GUIDES_MOMENT)
    (ours,) = re.findall(r"-p to=(2024\S+)", CHAPTER)
    assert parse_point(ours) == Point(time=datetime(2024, 1, 15, 10, 30, tzinfo=UTC))
    for text in re.findall(r"^\| `([^`]+)`(?:, `([^`]+)`)? \| a (?:place|time|restore point)", CHAPTER, re.M):
        assert all(parse_point(one) for one in text if one)


@pytest.mark.slow
def test_each_line_does_what_it_says(project: Callable[..., Target], site: Site, command: Command) -> None:
    """From the list of backups to the restored rows, and the server taken away at the end."""
    target = project(folder={"0001_a.sql": "CREATE TABLE projects (id int PRIMARY KEY)"})
    taken = backup.take_base_backup(site.server)
    assert run("migrate")[1] == 0
    do(target, "INSERT INTO projects VALUES (1)")
    assert target.migrations is not None
    Path(target.migrations, "0002_b.sql").write_text("CREATE TABLE b (id int)")
    assert run("migrate")[1] == 0
    do(target, "DELETE FROM projects")
    told = {}
    try:
        for line in typed():
            words = shlex.split(line)
            assert words[0] == "pgrunbook"
            code, told[line], err = command(*words[1:])
            assert code == 0, err
        assert taken.id in told["pgrunbook backup list --target demo"]
        assert told["pgrunbook backup verify --target demo"].splitlines()[-1] == "all of it is whole"
        assert rows(target.model_copy(update={"server": "before-it"}), "SELECT id FROM projects") == [(1,)]
        made = newest_run()
        assert made is not None
        assert "psql" in outputs(made, "what-next", 0)
        (destroy,) = re.findall(r"`pgrunbook (server destroy [^`]+)`", CHAPTER)
        assert command(*shlex.split(destroy))[0] == 0
    finally:
        Server("before-it").destroy()
    assert CHAPTER.count("`pgrunbook run restore --target demo -p to=2024-01-15T10:30:00Z -p name=before-it`") == 1
