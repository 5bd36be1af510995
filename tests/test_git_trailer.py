"""Trailers of commits: git keeps the hash of a run's last line, and verify asks it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pgrunbook.config.targets import Target
from pgrunbook.record import run as runs
from pgrunbook.seal import attempt, git_trailer
from test_verification import Records, begun, ended, kept, led_to, records

__all__ = ["kept", "records"]
Command = Callable[..., tuple[int, str, str]]


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=ann", "-c", "user.email=ann@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def work_tree(records: Records, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project is in a work tree of git."""
    folder = records.outputs.parent
    (folder / "targets.toml").write_text("")
    git(folder, "init", "-q")
    monkeypatch.setenv("PGRUNBOOK_HOME", str(folder))
    return folder


def commit(folder: Path, *messages: str) -> None:
    git(folder, "commit", "-q", "--allow-empty", *(word for one in messages for word in ("-m", one)))


def test_a_commit_anchors_a_run(records: Records, work_tree: Path, command: Command) -> None:
    """Its trailer is one that git itself reads; verify says up to which line commits agree."""
    commit(work_tree, "Begin")
    assert "0 trailers of commits agree" in command("verify", "--git")[1]
    code, trailer, err = command("seal", "--trailer", records.runs["two"].run_id)
    assert (code, err) == (0, "")
    commit(work_tree, "Release two", trailer)
    read = git(work_tree, "log", "-1", "--format=%(trailers:only)").strip()
    assert read == trailer.strip()
    assert read.startswith(f"Pgrunbook-Run: {records.runs['two'].run_id}\nPgrunbook-Ledger: sha256:")
    code, out, _ = command("verify", "--git", "--files")
    assert (code, "1 trailer of commits agree with the ledger: up to line 6 of 9" in out) == (0, True)


@pytest.mark.slow
def test_what_is_cut_off_or_written_anew_is_found_by_the_commits(
    records: Records, work_tree: Path, command: Command
) -> None:
    """Also with its folder; on another branch of git; a line that is another run's is told as well."""
    three, two = records.runs["three"].run_id, records.runs["two"].run_id
    commit(work_tree, "Begin")
    git(work_tree, "checkout", "-q", "-b", "other")
    commit(work_tree, "Merge", f"Squashed\n\n{git_trailer.text(records.runs['three'])}\nand more text")
    git(work_tree, "checkout", "-q", "-")
    assert command("verify", "--git")[0] == 0
    before = records.lines
    records.write(before[:7])
    code, out, _ = command("verify", "--git")
    assert (code, f"names a line of run {three} that the ledger does not have" in out) == (3, True)
    for file in records.folder("three").iterdir():
        file.unlink()
    records.folder("three").rmdir()
    records.folder("open").rename(records.outputs.parent / "away")
    records.write(before[:6])
    assert command("verify")[0] == 0  # nothing else knows
    code, out, _ = command("verify", "--git")
    assert (code, "TRUNCATED: commit " in out) == (3, True)
    records.write(before[:8])
    commit(work_tree, "Lie", git_trailer.text(records.runs["three"]).replace(three, two))
    assert "names line 8 for run" in command("verify", "--git")[1]


def test_the_ledger_of_somebody_else_is_no_accusation(
    records: Records, work_tree: Path, command: Command, tmp_path: Path
) -> None:
    """A team commits to one repository, and each has a ledger; what names no ledger has to be here."""
    with pytest.MonkeyPatch.context() as patch:
        led_to(tmp_path / "bob", patch)
        (tmp_path / "bob").mkdir()
        made = begun("one")
        ended(made)
        trailer = git_trailer.text(made)
    commit(work_tree, "Bob's release", trailer)
    code, out, _ = command("verify", "--git")
    assert (code, "1 trailers of commits name lines of another ledger" in out) == (0, True)
    commit(work_tree, "Bob's release", trailer.partition(" (line")[0])
    assert command("verify", "--git")[0] == 3
    assert records.runs


def test_no_program_of_the_work_tree_is_executed(work_tree: Path, command: Command) -> None:
    """A folder may come with a configuration: git would call its programs for each commit that has a signature."""
    planted = work_tree / "planted.sh"
    planted.write_text("#!/bin/sh\ntouch called\nexit 1\n")
    planted.chmod(0o755)
    commit(work_tree, "first")
    raw = git(work_tree, "cat-file", "commit", "HEAD")
    head, _, message = raw.partition("\n\n")
    signature = "-----BEGIN PGP SIGNATURE-----\n \n AAAA\n -----END PGP SIGNATURE-----"
    (work_tree / "signed").write_text(f"{head}\ngpgsig {signature}\n\n{message}")
    made = git(work_tree, "hash-object", "-t", "commit", "-w", "signed").strip()
    git(work_tree, "update-ref", "HEAD", made)
    git(work_tree, "config", "log.showSignature", "true")
    git(work_tree, "config", "gpg.program", str(planted))
    git(work_tree, "config", "core.fsmonitor", str(planted))
    git(work_tree, "log", "-1")
    assert (work_tree / "called").exists(), "else this proves nothing"
    (work_tree / "called").unlink()
    command("verify", "--git")
    assert not (work_tree / "called").exists()


def test_where_git_cannot_be_asked_verify_says_so(
    records: Records, work_tree: Path, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Outside of a work tree, without git; an open run has no trailer."""
    code, out, err = command("seal", "--trailer", records.runs["open"].run_id)
    assert (code, out, "is not sealed, and has no line to anchor" in err) == (3, "", True)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        code, _, err = command("verify", "--git")
    assert (code, "could not ask git for the commits of this project" in err) == (1, True)
    (work_tree / ".git").rename(work_tree / "no-git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(work_tree.parent))
    code, _, err = command("verify", "--git")
    assert (code, "not a git repository" in err) == (1, True)


@pytest.mark.parametrize(("value", "is_told"), [("", False), ("no", False), ("yes", True)])
def test_a_run_ends_with_its_trailer_where_a_setting_asks_for_it(
    records: Records, work_tree: Path, monkeypatch: pytest.MonkeyPatch, value: str, is_told: bool
) -> None:
    """In a work tree only, and of a sealed run only."""
    one = records.runs["one"]
    monkeypatch.setenv("PGRUNBOOK_GIT_TRAILER", value)
    assert git_trailer.asked_for(one) == (git_trailer.text(one) if is_told else "")
    assert git_trailer.asked_for(records.runs["open"]) == ""
    attempt.begin(one)
    assert git_trailer.asked_for(one) == ""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(work_tree.parent))
    (work_tree / ".git").rename(work_tree / "no-git")
    assert git_trailer.asked_for(records.runs["two"]) == ""


@pytest.mark.slow
def test_the_command_prints_the_trailer_of_the_run_that_it_ends(
    project: Callable[..., Target], command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On stderr; not with --quiet, whose run tells nothing."""
    project(folder={"0001_a.sql": "CREATE TABLE a (id int);"}, restore_points=False)
    (tmp_path / "targets.toml").touch()
    git(tmp_path, "init", "-q")
    monkeypatch.setenv("PGRUNBOOK_HOME", str(tmp_path))
    monkeypatch.setenv("PGRUNBOOK_GIT_TRAILER", "yes")
    code, out, err = command("run", "migrate", "--target", "demo")
    made = runs.load(runs.folders()[-1])
    assert (code, git_trailer.text(made) in err, "Pgrunbook" in out) == (0, True, False)
    assert "Pgrunbook" not in command("run", "validate", "--target", "demo", "--quiet")[2]
