"""The guide's chapters on branches: each line that they tell a person to type does what it says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable

import pytest

from conftest import ROOT, rows
from pgrunbook.branches import registry
from pgrunbook.branches.server import Server
from pgrunbook.config.targets import Target

GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
FOLDER = {"0001_a.sql": "CREATE TABLE projects (id int PRIMARY KEY)"}


def typed(chapter: str) -> list[list[str]]:
    """Return the lines of a chapter's blocks, as words."""
    text = GUIDE.partition(f"\n## {chapter}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.M | re.S)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]


@pytest.fixture
def target(project: Callable[..., Target]) -> object:
    """A target with one migration; the branches that a test makes go with it."""
    yield project(folder=FOLDER)
    for one in registry.branches():
        Server(str(one.server)).destroy()
        registry.forget(one)


@pytest.mark.slow
@pytest.mark.parametrize("chapter", ["Test Migration in Development", "Branch-Based Development"])
def test_each_line_does_what_it_says(chapter: str, target: Target) -> None:
    """The target is as it was at the end."""
    told = {}
    for words in typed(chapter):
        assert words[0] == "pgrunbook"
        command = [sys.executable, "-m", *words]
        done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
        told[" ".join(words)] = done.stdout
        assert done.returncode == (3 if "diff" in words else 0), (words, done.stderr)
    if chapter.startswith("Test"):
        assert "projects" in told["pgrunbook branch shell demo@dev-migration -c \\dt"]
        assert "projects_pkey" in told["pgrunbook branch shell demo@dev-migration -c \\d+ projects"]
    else:
        assert "public.notes" in told["pgrunbook branch diff demo@feature-branch"]
    assert rows(target, "SELECT to_regclass('projects'), to_regclass('notes')") == [(None, None)]
