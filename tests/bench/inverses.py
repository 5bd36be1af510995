"""The ways back of 100 pending migrations on 500 tables, each computed right before its statement is executed."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from statistics import median
from typing import LiteralString

import rounds
import schema_500
from ground import DATABASE, Ground, ground, temporary
from psycopg import sql

from pgrunbook.inverse.inverter import Inverter
from pgrunbook.sql import statements
from pgrunbook.sql.statements import Statement

MIGRATIONS, GOAL_S = 100, 3.0
WIDE = "bench_wide"
# Ten kinds, ten times each, every time on other tables.
KINDS = {
    "create a table": "CREATE TABLE made_{n} (id bigint PRIMARY KEY, t_id bigint REFERENCES t{n}, told text)",
    "add a column": "ALTER TABLE t{n} ADD COLUMN added_{n} text NOT NULL DEFAULT ''",
    "create an index": "CREATE INDEX ON t{n} (c5, c7)",
    "add a check": "ALTER TABLE t{n} ADD CHECK (c3 > 0)",
    "add a foreign key": "ALTER TABLE t{n} ADD CONSTRAINT t{n}_other FOREIGN KEY (parent_id) REFERENCES t{m}",
    "set not null": "ALTER TABLE t{n} ALTER COLUMN c7 SET NOT NULL",
    "change a type": "ALTER TABLE t{n} ALTER COLUMN c3 TYPE bigint",
    "drop a column": "ALTER TABLE t{n} DROP COLUMN c4",
    "drop a table": "DROP TABLE t{n} CASCADE",
    "update rows": "UPDATE t{n} SET c4 = lower(c4) WHERE c5 > 10",
}

Lines = list[str]


@dataclass
class Took:
    """The times of one round: of each inverse by its kind, and of reading the whole schema once with pg_dump."""

    peer_s: float
    each_s: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    @property
    def all_s(self) -> float:
        """The time of all inverses of the round."""
        return sum(sum(some) for some in self.each_s.values())


def inverses(site: Ground, count: int) -> Lines:
    """Measure the inverses of all statements, executed in between, each round on a clone of the schema."""
    site.new_database()
    what = schema_500.make(site)
    site.settle()
    _execute(site, "ALTER DATABASE {now} RENAME TO {wide}")
    with site.autovacuum_off():
        took = [_round(site) for _ in range(count + 1)][1:]  # the first one fills the caches; not counted
    _execute(site, "DROP DATABASE {wide}")
    return [
        "## Ways back of many migrations",
        "",
        f"{MIGRATIONS} pending migrations of ten kinds on {what}; {count} rounds after one that is not counted.",
        "Each way back is computed right before its statement, as execution does; the statements are not counted.",
        "The peer reads the whole schema once, which is what every tool pays that compares schemas.",
        "",
        *_tables(took),
    ]


def _tables(took: list[Took]) -> Lines:
    whole, ratio = [some.all_s for some in took], median(some.all_s / some.peer_s for some in took)
    of_peer = _seconds([some.peer_s for some in took])
    kinds = [(kind, *_milliseconds([s for some in took for s in some.each_s[kind]])) for kind in KINDS]
    return [
        *rounds.table(
            ["", "median s", "range s", "ratio to pg_dump"],
            [(f"all {MIGRATIONS} ways back", *_seconds(whole), f"{ratio:.2f}"), (schema_500.PEER, *of_peer, "1.00")],
        ),
        "",
        *rounds.table(["way back of", "median ms", "range ms"], kinds),
        "",
        rounds.goal(f"under {GOAL_S:g} s", max(whole) < GOAL_S, f"{max(whole):.2f} s at most"),
    ]


def pending() -> list[tuple[str, Statement]]:
    """Return the statements of the migrations, each with its kind, in the order in which they are executed."""
    found = []
    for number in range(MIGRATIONS):
        kind = list(KINDS)[number % len(KINDS)]
        text = KINDS[kind].format(n=number * 4 + 2, m=number * 4)
        found.append((kind, statements.parse(text, f"{number:04}_step.sql")[0]))
    return found


def _round(site: Ground) -> Took:
    _execute(site, "DROP DATABASE IF EXISTS {now} WITH (FORCE)")
    _execute(site, "CREATE DATABASE {now} TEMPLATE {wide}")
    took = Took(rounds.process(schema_500.dump(site)).took_s)
    with site.server.connect(purpose="bench", database=DATABASE) as conn:
        inverter = Inverter(conn)
        for kind, statement in pending():
            began = rounds.call(lambda asked=statement: _computed(inverter, asked))
            took.each_s[kind].append(began.took_s)
            with conn.as_target():
                conn.execute(statement.sql.encode())
    return took


def _computed(inverter: Inverter, statement: Statement) -> None:
    undo = inverter.inverse(statement)
    if undo.because or not (undo.steps or undo.of_rows or undo.keeps):
        raise RuntimeError(f"{statement.sql}: no way back was computed: {undo.because}")


def _execute(site: Ground, told: LiteralString) -> None:
    with site.server.connect(purpose="bench") as conn:
        conn.execute("SET statement_timeout = '60s'")
        conn.execute(sql.SQL(told).format(now=sql.Identifier(DATABASE), wide=sql.Identifier(WIDE)))


def _seconds(times_s: list[float]) -> tuple[str, str]:
    return f"{median(times_s):.2f}", f"{min(times_s):.2f} to {max(times_s):.2f}"


def _milliseconds(times_s: list[float]) -> tuple[str, str]:
    each = [time_s * 1000 for time_s in times_s]
    return f"{median(each):.1f}", f"{min(each):.1f} to {max(each):.1f}"


if __name__ == "__main__":
    with temporary() as folder:
        (folder / "targets.toml").write_text("", encoding="utf-8")
        with ground(folder, folder / "targets.toml") as site:
            sys.stdout.write("\n".join(inverses(site, int(sys.argv[1]) if len(sys.argv) > 1 else 5)) + "\n")
