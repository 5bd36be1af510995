"""A statement that needs rows is no failure on an empty branch: with the target's rows it is judged."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from conftest import do, rows
from pgrunbook.config.targets import Target
from pgrunbook.draft import missing_rows
from pgrunbook.sql.classify import Policy
from returning import RELEASE, execute, plan_of, rehearsed, take_back
from servers import Server

# ruff: noqa: E501 - one statement on a line, whatever its length

Project = Callable[..., Target]
TABLES = """
CREATE TABLE people (id integer PRIMARY KEY, name text UNIQUE);
INSERT INTO people VALUES (1, 'ann'), (2, 'bob');
CREATE TABLE orders (id integer PRIMARY KEY, person integer NOT NULL REFERENCES people, share numeric CHECK (share > 0));
INSERT INTO orders VALUES (1, 1, 1);
CREATE FUNCTION find(text) RETURNS integer LANGUAGE plpgsql AS 'DECLARE found integer; BEGIN SELECT id INTO STRICT found FROM people WHERE name = $1; RETURN found; END';
CREATE PROCEDURE order_for(who text) LANGUAGE plpgsql AS 'BEGIN INSERT INTO orders VALUES (9, find(who)); END';
"""
NEEDS = {
    "a foreign key": ("INSERT INTO orders VALUES (2, 2, 1)", "violates foreign key constraint"),
    "a value": ("INSERT INTO orders VALUES (2, (SELECT id FROM people WHERE name = 'bob'))", "violates not-null constraint"),
    "a check": ("INSERT INTO orders SELECT 2, 1, count(*) FROM people", "violates check constraint"),
    "a divisor": ("UPDATE orders SET share = share / (SELECT count(*) FROM people)", ""),
    "a division": ("INSERT INTO orders SELECT 2, 1, 1.0 / count(*) FROM people", "division by zero"),
    "a function": ("INSERT INTO orders VALUES (2, find('bob'))", "query returned no rows"),
    "a procedure": ("CALL order_for('bob')", "query returned no rows"),
    "a block": ("DO $$ BEGIN IF NOT EXISTS (SELECT FROM people) THEN RAISE EXCEPTION 'nobody'; END IF; END $$", "nobody"),
    "a merge": ("MERGE INTO orders USING (VALUES (2)) AS s (id) ON orders.id = s.id WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.id)", "violates foreign key constraint"),
}  # fmt: skip


@pytest.mark.slow
def test_statements_that_need_rows_are_passed_over_there(project: Project) -> None:
    """They are named with the server's words; what follows in the file is rehearsed, there and back, and released."""
    sql = ";\n".join([f"{sql};\nDELETE FROM orders WHERE id <> 1" for sql, _ in NEEDS.values()])
    target = project(
        folder={
            "0001_m.sql": f"{sql};\nALTER TABLE orders ADD COLUMN note text;\n",
            "0002_m.sql": NEEDS["a foreign key"][0],
        }
    )
    do(target, TABLES)
    done = rehearsed(target)
    told = [words for _, words in NEEDS.values() if words]
    assert len(done.need_rows) == len(told) + 1
    assert all(words in line for words, line in zip(told, done.need_rows, strict=False))
    assert [change.proof.proven for change in done.changes] == [True, True]
    assert all(step.keeps for step in plan_of(target, done).changes[1].steps)
    execute(target, plan_of(target, done), RELEASE)
    assert rows(target, "SELECT id, person FROM orders ORDER BY id") == [(1, 1), (2, 2)]
    take_back(target)
    assert rows(target, "SELECT id, person, share::text FROM orders") == [(1, 1, "1")]


OWN_FAULT = [
    "INSERT INTO orders VALUES (2, NULL)",
    "INSERT INTO orders VALUES (2, 1, -1)",
    "INSERT INTO people VALUES (3, 'x'), (3, 'y')",
    "INSERT INTO people VALUES ('x')",
    "INSERT INTO nowhere VALUES (1)",
    "ALTER TABLE orders ADD FOREIGN KEY (id) REFERENCES people (share)",
    "DO $$ BEGIN PERFORM nothing(); END $$",
]


def test_what_fails_whatever_the_rows_are_is_refused_there(server: Server) -> None:
    """Literals, names, types and duplicates of the statement itself."""
    made = TABLES.replace("\nINSERT INTO", "\n-- ").strip().split(";\n")
    with server.connect(server.database("missing_rows", *made)) as conn:
        for sql in OWN_FAULT:
            with pytest.raises(psycopg.Error):
                missing_rows.execute(conn, sql, Policy.TOGETHER)
