"""What verifying the records of 10,000 runs costs, and the page of them; each run has two signed lines."""

from __future__ import annotations

import json
import os
import shutil
import sys
from hashlib import sha256
from pathlib import Path

import rounds
from ground import temporary

from pgrunbook.record import run as runs
from pgrunbook.record.run import Run, Status
from pgrunbook.seal import attempt, envelope, ledger, run_index, signing_key
from pgrunbook.seal.envelope import Envelope
from pgrunbook.seal.signing_key import SigningKey

RUNS, FILES, ROUNDS = 10_000, 26, 3
GOAL_S, GOAL_BYTES = 10.0, 4_000_000
NAMES = ("OUTPUTS", "STATE", "SIGNERS")

Lines = list[str]


def records() -> Lines:
    """Measure ``pgrunbook verify`` as a process, and the page of all runs as it is made and as it is opened."""
    before = {name: os.environ.get(f"PGRUNBOOK_{name}") for name in NAMES}
    with temporary() as folder:
        try:
            os.environ.update({f"PGRUNBOOK_{name}": str(folder / name.lower()) for name in NAMES})
            make(RUNS)
            command = [sys.executable, "-m", "pgrunbook", "verify"]
            verified = [rounds.process(command) for _ in range(ROUNDS)]
            made = [rounds.call(lambda: run_index.write(folder / "outputs")) for _ in range(ROUNDS)]
            page = folder / "outputs" / run_index.INDEX_FILE
            return _told(verified, made, page.stat().st_size, _opened(page, folder))
        finally:
            for name, value in before.items():
                os.environ.pop(f"PGRUNBOOK_{name}", None) if value is None else os.environ.update(
                    {f"PGRUNBOOK_{name}": value}
                )


def make(count: int) -> None:
    """Make a sealed run as a release leaves it, and its lines again under other ids, chained and signed each."""
    signing_key.make("bench")
    key = signing_key.load()
    assert key is not None
    first = _first()
    file = ledger.path(first.folder.parent)
    opened, closed = file.read_bytes().splitlines()
    facts = json.loads((first.folder / runs.RUN_FILE).read_text())
    before, seq = sha256(closed).hexdigest(), 2
    with file.open("ab") as written:
        for number in range(count - 1):
            run_id = f"20260101T{number // 3600:02}{number // 60 % 60:02}{number % 60:02}Z-release-demo-{number:04x}"
            (first.folder.parent / run_id).mkdir()
            (first.folder.parent / run_id / runs.RUN_FILE).write_text(json.dumps({**facts, "run_id": run_id}))
            for line in (opened, closed):
                seq += 1
                more = {"opened": seq - 1} if line is closed else {}
                made = _again(line, key, run_id=run_id, seq=seq, prev=before, **more)
                before = sha256(made).hexdigest()
                written.write(made + b"\n")


def _first() -> Run:
    made = runs.create("release", "demo", {}, how="headless")
    attempt.begin(made)
    for number in range(FILES):
        (made.folder / f"table-{number}.csv").write_text("a\n")
    made.status, made.ended_at = Status.DONE, runs.stamp()
    made.save()
    attempt.end(made)
    return made


def _again(line: bytes, key: SigningKey, **facts: object) -> bytes:
    statement = envelope.read(line).statement()
    statement["predicate"].update(facts)
    payload = envelope.encoded(statement)
    return Envelope(payload, (key.sign(envelope.signed_bytes(payload)),)).line()


def _opened(page: Path, folder: Path) -> float | None:
    """Return how much longer a browser needs for the page than for an empty one, in s; None without Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        return None
    empty = folder / "empty.html"
    empty.write_text("<!doctype html><title>empty</title>")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile",
               "--dump-dom"]  # fmt: skip
    things = {one.name: lambda one=one: rounds.process([*command, one.as_uri()]) for one in (empty, page)}
    rounds.interleaved(things, 1)
    found = rounds.interleaved(things, ROUNDS)
    return rounds.took(found[page.name])[0] - rounds.took(found[empty.name])[0]


def _told(verified: list[rounds.Sample], made: list[rounds.Sample], size: int, opened: float | None) -> Lines:
    took, index = rounds.took(verified)[0], rounds.took(made)[0]
    cpu = sorted(sample.cpu_s for sample in verified)[len(verified) // 2]
    memory = max(sample.peak_mb for sample in verified)
    shown = "no Chromium here" if opened is None else f"{opened:.2f} s longer than an empty page"
    return [
        "## Records of 10,000 runs",
        "",
        f"{RUNS:,} runs with two signed lines each, over {FILES} files; {ROUNDS} rounds, medians.",
        "",
        *rounds.table(
            ["what", "took", "processor", "memory"],
            [
                ["`pgrunbook verify`", f"{took:.1f} s", f"{cpu:.1f} s", f"{memory:.0f} MB"],
                [f"`index.html`, {size / 1e6:.1f} MB, made", f"{index:.1f} s", "", ""],
                ["and opened in Chromium", shown, "", ""],
            ],
        ),
        "",
        rounds.goal("10,000 runs verified in 10 s of processor time", cpu < GOAL_S, f"{cpu:.1f} s"),
        rounds.goal("the page of 10,000 runs below 4 MB", size < GOAL_BYTES, f"{size / 1e6:.1f} MB"),
    ]
