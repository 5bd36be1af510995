"""What people wait for while a release is prepared: a wide schema, many statements, a long file, many rows."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import rounds
from ground import ROOT, Ground, ground, temporary

from pgrunbook.record import journal
from pgrunbook.record import run as runs

TABLES, INSERTS, FILE_BYTES, ROWS, FILL_ROWS = 2_000, 5_000, 20 << 20, 1_000_000, 9_000_000
TARGET = "waiting"
TABLE = (
    "CREATE TABLE t{n} (id bigint PRIMARY KEY, a text, b integer, c timestamptz, d numeric, parent bigint{parent});"
    " CREATE INDEX ON t{n} (b); CREATE INDEX ON t{n} (parent)"
)
SEEDS = "CREATE TABLE seeds (id integer PRIMARY KEY, name text NOT NULL, amount numeric)"
MANY_ROWS = f"""
CREATE TABLE many (
    id bigint PRIMARY KEY, a integer, b text, c text, d timestamptz DEFAULT now(), e numeric
);
INSERT INTO many
SELECT n, n % 1000, 'text ' || n, repeat('x', 100), now(), n / 7.0 FROM generate_series(1, {ROWS}) AS n;
CREATE INDEX ON many (a);
CREATE TABLE fill AS SELECT n AS id, repeat(md5(n::text), 6) AS x FROM generate_series(1, {FILL_ROWS}) AS n;
ALTER TABLE fill ADD PRIMARY KEY (id);
VACUUM ANALYZE many;
VACUUM ANALYZE fill
"""
# The figures of before, and what was aimed at, both on a quiet machine with two cores.
BEFORE_S = {"wide": 29.0, "inserts": 189.0, "file": 94.0, "rows": 71.6}
GOAL_S = {"wide": 8.0, "inserts": 20.0, "file": 20.0, "rows": 30.0}

Lines = list[str]


@dataclass(frozen=True)
class Scene:
    """A database and a release that is prepared on it."""

    name: str
    says: str
    make: Callable[[Ground], None]
    release: Callable[[], str]


def section(folder: Path) -> str:
    """Return the section of targets.toml, whose folder of migrations is written before each scene."""
    (folder / TARGET).mkdir()
    return f'[{TARGET}]\nserver = "main"\ndatabase = "bench"\nmigrations = "{folder / TARGET}"\n'


def _tables(site: Ground) -> None:
    with site.session() as conn:
        for first in range(0, TABLES, 100):
            made = (TABLE.format(n=n, parent=f" REFERENCES t{n - 1}" if n else "") for n in range(first, first + 100))
            conn.execute("; ".join(made).encode())


def _seeds(site: Ground) -> None:
    with site.session() as conn:
        conn.execute(SEEDS.encode())


def _rows(site: Ground) -> None:
    with site.session() as conn:
        conn.execute("SET statement_timeout = 0")
        for statement in MANY_ROWS.split(";\n"):
            conn.execute(statement.encode())


def _long_file() -> str:
    each = FILE_BYTES // 40_000
    values = (f"({n}, '{'text of a row, ' * (each // 15)}', {n}.5)" for n in range(40_000))
    return "INSERT INTO seeds (id, name, amount) VALUES\n" + ",\n".join(values) + ";\n"


SCENES = (
    Scene("wide", f"ADD COLUMN on a schema of {TABLES:,} tables", _tables,
          lambda: "ALTER TABLE t5 ADD COLUMN added text;\n"),
    Scene("inserts", f"{INSERTS:,} INSERTs of a row", _seeds,
          lambda: "".join(f"INSERT INTO seeds (id, name, amount) VALUES ({n}, 'name {n}', {n}.5);\n"
                          for n in range(INSERTS))),
    Scene("file", f"one INSERT of {FILE_BYTES >> 20} MB", _seeds, _long_file),
    Scene("rows", f"ADD COLUMN and an UPDATE of {ROWS:,} rows, in a database of 2.8 GB", _rows,
          lambda: "ALTER TABLE many ADD COLUMN added text;\nUPDATE many SET added = upper(b);\n"),
)  # fmt: skip


def waiting(site: Ground, count: int) -> Lines:
    """Measure prepare with both rehearsals, as a whole process, on each scene."""
    rows = []
    for scene in SCENES:
        site.new_database()
        scene.make(site)
        site.checkpoint()  # a database that is to be changed was not made a moment ago
        (site.folder / TARGET / "0001_release.sql").write_text(scene.release(), encoding="utf-8")
        command = [str(ROOT / ".venv/bin/pgrunbook"), "run", "prepare", "--target", TARGET, "-p", "most_mb=100000"]
        samples = [rounds.process(command) for _ in range(count)]
        middle, least, most = rounds.took(samples)
        parts = _parts(runs.folders()[-1])
        before, goal = BEFORE_S[scene.name], GOAL_S[scene.name]
        reached = "reached" if middle <= goal else "not reached"
        peak_mb = max(sample.peak_mb for sample in samples)
        rows.append((scene.says, f"{middle:.1f}", f"{least:.1f} to {most:.1f}", parts, f"{before:g}",
                     f"{goal:g}: {reached}", f"{peak_mb:.0f}"))  # fmt: skip
    return [
        "## What people wait for",
        "",
        f"prepare with both rehearsals, a whole process, {count} times each; its cells make-it-safe and rehearse.",
        "",
        *rounds.table(
            ["", "median s", "range s", "make-it-safe and rehearse, s", "was s", "goal s", "memory MB"], rows
        ),
    ]


def _parts(folder: Path) -> str:
    took: dict[str, float] = {}
    for event in journal.read(folder / "journal.jsonl"):
        if event["event"] == "cell-ended":
            took[str(event["cell"])] = float(event["ms"]) / 1000
    return f"{took.get('make-it-safe', 0):.1f} and {took.get('rehearse', 0):.1f}"


if __name__ == "__main__":
    with temporary() as folder:
        (folder / "targets.toml").write_text(section(folder), encoding="utf-8")
        with ground(folder, folder / "targets.toml") as site:
            sys.stdout.write("\n".join(waiting(site, int(sys.argv[1]) if len(sys.argv) > 1 else 1)) + "\n")
