"""What was captured goes where its row goes: random writers, and each row is known by a number that nobody changes."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from budget import sample
from pgrunbook.undo_data import StepKey, capture_statement
from servers import Server
from undo_data_stage import Conn, Way, database, give_back_migration

ROWS, STEPS = 40, 60
TABLES = {
    "integer": "id integer PRIMARY KEY, n integer, a integer, b integer)",
    "two columns": "id integer, k text DEFAULT 'k', n integer, a integer, b integer, PRIMARY KEY (k, id))",
    "deferrable": "id integer PRIMARY KEY DEFERRABLE, n integer, a integer, b integer)",
    "numeric": "id numeric UNIQUE NOT NULL, n integer, a integer, b integer)",
    "partitions": "id integer PRIMARY KEY, n integer, a integer, b integer) PARTITION BY RANGE (id)",
    "both": "id integer PRIMARY KEY DEFERRABLE, n integer, a integer, b integer) PARTITION BY RANGE (id)",
}
QUICK = ("integer", "deferrable", "partitions")


class Writer:
    """Random writes, each of which another writer of the application could do."""

    def __init__(self, conn: Conn, chance: random.Random, *, shifts: bool) -> None:
        self.conn, self.chance, self.shifts = conn, chance, shifts
        self.numbers = iter(range(1_000, 1_000_000))

    def key(self) -> int:
        """Some key, in use or not."""
        return self.chance.randrange(0, 2 * ROWS)

    def free(self) -> int:
        """A key that nobody has."""
        used = {int(str(row[0])) for row in self.conn.execute("SELECT id FROM t")}
        return self.chance.choice(sorted({*range(-9, 3 * ROWS)} - used))

    def insert(self) -> None:
        """Insert a row, or another number into the one that has the key."""
        form = self.chance.choice(["DO NOTHING", "(id) DO UPDATE SET id = t.id"])
        if self.shifts or form == "DO NOTHING":
            self.conn.execute(f"INSERT INTO t (id, n, a) VALUES ({self.free()}, {next(self.numbers)}, 0)".encode())
        else:
            key, number = self.key(), next(self.numbers)
            self.conn.execute(f"INSERT INTO t (id, n, a) VALUES ({key}, {number}, 0) ON CONFLICT DO NOTHING".encode())

    def delete(self) -> None:
        """Delete some rows."""
        first = self.key()
        self.conn.execute(f"DELETE FROM t WHERE id BETWEEN {first} AND {first + self.chance.randrange(3)}".encode())

    def replace(self) -> None:
        """Delete a row, and insert another one with its key."""
        key = self.key()
        if self.conn.execute(f"DELETE FROM t WHERE id = {key}".encode()).rowcount:
            self.conn.execute(f"INSERT INTO t (id, n, a) VALUES ({key}, {next(self.numbers)}, 0)".encode())

    def move(self) -> None:
        """Change the key of a row."""
        self.conn.execute(f"UPDATE t SET id = {self.free()} WHERE id = {self.key()}".encode())

    def swap(self) -> None:
        """Let two rows take each other's key."""
        one, other, between = self.key(), self.key(), self.free()
        if one != other:
            for old, new in ((one, between), (other, one), (between, other)):
                self.conn.execute(f"UPDATE t SET id = {new} WHERE id = {old}".encode())

    def merge(self) -> None:
        """Delete a row and move others in one statement."""
        gone, moved, to = self.key(), self.key(), self.free()
        if self.conn.info.server_version >= 150_000 and gone != moved:
            self.conn.execute(
                f"MERGE INTO t USING (VALUES ({gone}, true), ({moved}, false)) AS s (id, goes) ON t.id = s.id"
                f" WHEN MATCHED AND s.goes THEN DELETE WHEN MATCHED THEN UPDATE SET id = {to}".encode()
            )

    def shift(self) -> None:
        """Let each row take the key of the next one."""
        if self.shifts:
            self.conn.execute(f"UPDATE t SET id = id + {self.chance.choice([1, -1])}".encode())

    def as_replica(self) -> None:
        """Do something as what applies replicated changes."""
        self.conn.execute("SET LOCAL session_replication_role = replica")
        self.chance.choice([self.move, self.delete, self.replace])()
        self.conn.execute("SET LOCAL session_replication_role = origin")

    def undone(self) -> None:
        """Do something, and think better of it."""
        self.conn.execute("SAVEPOINT s")
        self.chance.choice([self.move, self.delete, self.swap])()
        self.conn.execute("ROLLBACK TO s")

    def write(self) -> None:
        """Do some of it in one transaction."""
        does: list[Callable[[], None]] = [
            self.insert, self.delete, self.replace, self.move, self.swap, self.merge, self.shift, self.as_replica,
            self.undone,
        ]  # fmt: skip
        with self.conn.transaction():
            for _ in range(self.chance.choice([1, 1, 1, 3])):
                self.chance.choice(does)()


@pytest.mark.first_case
@pytest.mark.newest
@pytest.mark.parametrize("seed", sample(list(range(8)), 8))
@pytest.mark.parametrize("kind", [pytest.param(k, marks=() if k in QUICK else [pytest.mark.slow]) for k in TABLES])
def test_each_row_gets_what_was_captured_of_it(server: Server, kind: str, seed: int) -> None:
    """By an UPDATE, and by a dropped column: the row of then, and no other."""
    with database(server, "followers", f"CREATE TABLE t ({TABLES[kind]}") as conn:
        if "PARTITION" in TABLES[kind]:
            for number in range(4):
                low, high = (number * 20 if number else "MINVALUE", number * 20 + 20)
                conn.execute(f"CREATE TABLE t_{number} PARTITION OF t FOR VALUES FROM ({low}) TO ({high})".encode())
            conn.execute("CREATE TABLE t_rest PARTITION OF t DEFAULT")
        conn.execute(f"INSERT INTO t (id, n, a, b) SELECT i, i, i, i FROM generate_series(1, {ROWS}) AS i".encode())
        with conn.transaction():
            conn.execute(
                capture_statement(conn, "UPDATE t SET a = 0 WHERE id % 3 > 0", StepKey("r", "m", "up", 1)).encode()
            )
        way = Way(conn, "ALTER TABLE t DROP COLUMN b")
        way.there()
        writer = Writer(conn, random.Random(f"{seed} {kind}"), shifts="DEFERRABLE" in TABLES[kind])  # noqa: S311
        for _ in range(STEPS):
            writer.write()
        way.back()
        give_back_migration(conn, "m", "up", on_conflict="keep")
        found = conn.execute("SELECT n, a, b FROM t").fetchall()
    wrong_a = [(n, a) for n, a, _ in found if a != (n if n <= ROWS else 0)]
    wrong_b = [(n, b) for n, _, b in found if b != (n if n <= ROWS else None)]
    assert (wrong_a, wrong_b) == ([], [])
