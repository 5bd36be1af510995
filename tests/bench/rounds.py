"""Interleaved rounds and their figures, for the benchmarks."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Sample:
    """One measurement: when it began, how long it took, and of its own processes the processor time and the memory.

    ``peak_mb`` is the memory of the largest of them, at its peak.
    """

    started_at: datetime
    took_s: float
    cpu_s: float = 0.0
    exit_code: int = 0
    peak_mb: float = 0.0


Samples = dict[str, list[Sample]]


def interleaved(things: Mapping[str, Callable[[], Sample]], rounds: int) -> Samples:
    """Measure each thing once per round, every round beginning with the next one; return the samples of each."""
    names = list(things)
    samples: Samples = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            samples[name].append(things[name]())
    return samples


def process(command: Sequence[str], *, cwd: Path | None = None, may_fail: bool = False) -> Sample:
    """Run a command to its end; return its time, with the processor time of it and of its children.

    Raises RuntimeError with what it said when it fails: a program that did nothing is not fast.
    """
    with tempfile.TemporaryFile() as said:
        started_at, began = datetime.now(UTC), time.perf_counter()
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=cwd)
        _, status, used = os.wait4(child.pid, 0)
        took_s = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode and not may_fail:
            said.seek(0)
            text = said.read().decode(errors="replace").strip()
            raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}:\n{text[-3000:]}")
    return Sample(started_at, took_s, used.ru_utime + used.ru_stime, child.returncode, used.ru_maxrss / 1000)


def call(work: Callable[[], object]) -> Sample:
    """Measure a call in this process."""
    started_at, began, used = datetime.now(UTC), time.perf_counter(), time.process_time()
    work()
    return Sample(started_at, time.perf_counter() - began, time.process_time() - used)


def ratio(of: Sequence[Sample], to: Sequence[Sample]) -> float:
    """Return the median of the ratios within each round, which what else runs on the machine moves least."""
    return median(a.took_s / b.took_s for a, b in zip(of, to, strict=True))


def took(samples: Sequence[Sample]) -> tuple[float, float, float]:
    """Return median, least and most of the times, in seconds."""
    times = [sample.took_s for sample in samples]
    return median(times), min(times), max(times)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table in Markdown, line by line: the first column to the left, the others to the right."""
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def goal(what: str, reached: bool, found: str) -> str:
    """Return the line that says whether a goal was reached."""
    return f"Goal: {what}: **{'reached' if reached else 'not reached'}** ({found})."
