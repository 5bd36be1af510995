"""docs/records.md and docs/evidence.md: each line that they tell a person to type does what it says."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import ROOT
from pgrunbook.app import cli
from pgrunbook.config.targets import Target
from pgrunbook.record import run as runs
from pgrunbook.seal import signers
from pgrunbook.seal.evidence import FIELDS

Project = Callable[..., Target]
Command = Callable[..., tuple[int, str, str]]
DOCS = {name: (ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("records.md", "evidence.md")}
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8").partition("## Records\n")[2]


def typed(text: str) -> list[str]:
    """The command lines in the blocks of a page."""
    blocks = re.findall(r"```\n(.*?)```", text, re.S)
    return [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def test_the_pages_name_commands_and_fields_that_there_are() -> None:
    """Every command in a block or a text, and every column of the evidence."""
    known = cli.app.registered_commands, cli.app.registered_groups
    names = {c.name or c.callback.__name__ for c in known[0] if c.callback} | {str(g.name) for g in known[1]}
    told = {word for text in DOCS.values() for word in re.findall(r"pgrunbook ([a-z-]+)", text)}
    assert told <= names | {"pgrunbook"}
    columns = re.findall(r"\| ([^|]*)\|\n", DOCS["evidence.md"].partition("| what is asked for")[2])
    assert {name for cell in columns for name in re.findall(r"`([a-z_]+)`", cell)} <= set(FIELDS)


@pytest.mark.slow
def test_each_line_of_the_pages_does_what_it_says(
    project: Project, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order in which they stand there."""
    project(folder={"0001_t.sql": "CREATE TABLE t (a int);"}, restore_points=False)
    monkeypatch.setenv("PGRUNBOOK_KEY", str(tmp_path / "key"))
    monkeypatch.setenv("PGRUNBOOK_SIGNERS", str(tmp_path / "signers"))
    monkeypatch.chdir(tmp_path)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "bob"], check=True)
    done = []
    for text in DOCS.values():
        for line in typed(text):
            last = runs.folders()[-1].name if runs.folders() else ""
            words = shlex.split(line.replace(" RUN", f" {last}"))
            if "revoke" in words:
                words[words.index("SHA256:...")] = next(iter(signers.load() or {}))
            code, _, err = command(*words[1:])
            assert code == 0, (line, err)
            done.append(line)
    assert len(done) >= 10
    assert command("verify", "--files", "--target", "demo")[0] == 0
    for line in typed(GUIDE)[1:]:  # the key is there
        code, _, err = command(*shlex.split(line.replace(" RUN", f" {runs.folders()[-1].name}"))[1:])
        assert code == 0, (line, err)
    assert len(typed(GUIDE)) == 3
