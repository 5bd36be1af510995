"""The trailer of a commit that anchors a run: with the commit, git keeps the hash of the run's last line.

::

    Pgrunbook-Run: 20261130T004009Z-release-shop-167f
    Pgrunbook-Ledger: sha256:5f0c... (line 12 of ledger 9a1b2c3d4e5f6071)

Whoever cuts that line off the ledger, or writes it anew, would have to write the history of git anew as well.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pgrunbook.config import paths
from pgrunbook.errors import Refused, WrongInput
from pgrunbook.record.run import RUN_ID, Run
from pgrunbook.seal import ledger
from pgrunbook.seal.verification import Verification

NAMED = "PGRUNBOOK_GIT_TRAILER"
RUN, LEDGER = "Pgrunbook-Run", "Pgrunbook-Ledger"
_GIT_S = 60
_TRAILER = re.compile(
    rf"^{RUN}: (?P<run>{RUN_ID.pattern})[ \t]*\r?\n"
    rf"{LEDGER}: sha256:(?P<sha256>[0-9a-f]{{64}})(?: \(line (?P<seq>\d+) of ledger (?P<ledger>[0-9a-f]+)\))?",
    re.M,
)


@dataclass(frozen=True)
class CommitTrailer:
    """What a commit says of a run: the hash of a line, and its ledger, "" where the commit does not name it."""

    commit: str
    run_id: str
    sha256: str
    ledger: str


def text(run: Run) -> str:
    """Return the lines of the trailer that anchors a run. Raises Refused for a run that is not sealed."""
    line = ledger.last_of(ledger.path(run.folder.parent), run.run_id)
    if line is None or line.is_open:
        raise Refused(
            f"run {run.run_id} is not sealed, and has no line to anchor",
            detail="Its last attempt is open." if line is not None else "The ledger has no line of it.",
            hint=f"Go on with it, or seal it as it is: pgrunbook seal {run.run_id}",
        )
    return f"{RUN}: {run.run_id}\n{LEDGER}: sha256:{line.sha256} (line {line.seq} of ledger {line.ledger})\n"


def asked_for(run: Run) -> str:
    """Return the trailer where somebody asks for it, the project is in a work tree of git, and the run is sealed."""
    if os.environ.get(NAMED, "").strip().lower() in ("", "0", "no", "off", "false"):
        return ""
    try:
        _git("rev-parse", "--is-inside-work-tree")
        return text(run)
    except (WrongInput, Refused):
        return ""


def check(found: Verification, outputs: Path) -> None:
    """See that each line which a commit of the project names is in the ledger, and of that run; add the problems.

    A commit may name the ledger of somebody else, who works on another machine: it is counted, and told.

    Raises WrongInput where the project is in no work tree of git, or git is not to be had.
    """
    lines = {line.sha256: line for line in found.lines}
    names = {str(line.predicate["ledger"]) for line in found.lines}
    known = {line.run_id for line in found.lines}
    others = ours = newest = 0
    for one in _trailers():
        line = lines.get(one.sha256)
        is_here = one.run_id in known or (outputs / one.run_id).is_dir()
        if line is None and one.ledger and one.ledger not in names and not is_here:
            others += 1
        elif line is None:
            says = f"commit {one.commit[:12]} names a line of run {one.run_id} that the ledger does not have"
            found.note("chain", "truncated", says, one.run_id)
        elif line.run_id != one.run_id:
            says = f"commit {one.commit[:12]} names line {line.seq} for run {one.run_id}, and it is of {line.run_id}"
            found.note("chain", "altered", says, one.run_id, line.seq)
        else:
            ours, newest = ours + 1, max(newest, line.seq)
    of_all = max((line.seq for line in found.lines), default=0)
    told = f": up to line {newest} of {of_all}" if ours else ""
    found.notes.append(f"{ours} trailer{'s' if ours != 1 else ''} of commits agree with the ledger{told}")
    if others:
        found.notes.append(f"{others} trailers of commits name lines of another ledger")
    if _git("rev-parse", "--is-shallow-repository").strip() == "true":
        found.notes.append("this clone of the repository is shallow: commits that it lacks were not asked")


def _trailers() -> Iterator[CommitTrailer]:
    for entry in _git("log", "--all", "--format=%H%x00%B%x1e").split("\x1e"):
        commit, _, message = entry.strip().partition("\0")
        for match in _TRAILER.finditer(message):
            yield CommitTrailer(commit, match["run"], match["sha256"], match["ledger"] or "")


# What the configuration of a work tree may have git execute: a program that checks signatures, one that watches files.
_OWN = ("--no-pager", "-c", "log.showSignature=false", "-c", "core.fsmonitor=false")


def _git(*arguments: str) -> str:
    folder = paths.project_dir()
    try:
        done = subprocess.run(
            ["git", *_OWN, *arguments], cwd=folder, capture_output=True, text=True, errors="replace", timeout=_GIT_S,
            check=False,
        )  # fmt: skip
        why = done.stderr.strip().partition("\n")[0]
    except (OSError, subprocess.TimeoutExpired) as exc:
        done, why = None, str(exc)
    if done is None or done.returncode:
        raise WrongInput(
            "could not ask git for the commits of this project",
            detail=f"{folder}: {why}.",
            hint="Leave --git out, or run it in a work tree of git.",
        )
    return done.stdout
