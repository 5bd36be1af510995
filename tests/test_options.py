"""Boolean options of statements, in every spelling, as a real server reads them."""

from __future__ import annotations

import psycopg
import pytest

from budget import sample
from pgrunbook.database.catalog_reader import read
from pgrunbook.effects.statements import effects
from pgrunbook.review.review import review
from pgrunbook.sql.classify import cannot_run_in_a_transaction
from pgrunbook.sql.outside import reach
from pgrunbook.sql.statements import parse
from pgrunbook.sql.tree import tree
from servers import Server, known_to

# Every spelling that the parser lets through for a boolean option; the server refuses none of them.
SPELLINGS = ["", "on", "true", "1", "True", "'on'", "'TRUE'", "off", "false", "0", "'off'", '"off"', "OFF"]
OPTIONS = """
VACUUM ({}) plain: FULL, FREEZE, VERBOSE, ANALYZE, DISABLE_PAGE_SKIPPING, SKIP_LOCKED, PROCESS_TOAST, TRUNCATE
from 16 VACUUM ({}) plain: PROCESS_MAIN, SKIP_DATABASE_STATS
ANALYZE ({}) plain: VERBOSE, SKIP_LOCKED
REINDEX ({}) TABLE plain: CONCURRENTLY, VERBOSE
REINDEX ({}) INDEX plain_pkey: CONCURRENTLY, VERBOSE
CLUSTER ({}) plain USING plain_pkey: VERBOSE
EXPLAIN ({}) DELETE FROM plain: ANALYZE, VERBOSE, COSTS, SETTINGS, BUFFERS, SUMMARY
from 16 EXPLAIN ({}) DELETE FROM plain: GENERIC_PLAN
from 17 EXPLAIN ({}) DELETE FROM plain: MEMORY
""".strip().splitlines()
STAGE = "CREATE TABLE plain (id integer PRIMARY KEY, b text); INSERT INTO plain SELECT generate_series(1, 20)"
FACTS = "SELECT pg_relation_filenode('plain'), pg_relation_filenode('plain_pkey')"


def cases(version: int, word: str) -> list[tuple[str, str]]:
    """Return each statement with the option that it sets, so spelt."""
    found = []
    for line in OPTIONS:
        statement, _, names = (known_to(version, line) or "").partition(": ")
        for option in names.split(", ") if names else ():
            found.append((option, statement.format(f"{option} {word}".strip())))
    return found


def done(conn: psycopg.Connection[tuple[object, ...]], statement: str) -> tuple[bool, bool, bool]:
    """Run a statement; tell whether the table and its index have other files, and whether rows are gone."""
    before = conn.execute(FACTS).fetchone()
    conn.execute(statement.encode())
    after = conn.execute(FACTS).fetchone()
    assert before is not None
    assert after is not None
    gone = conn.execute("SELECT count(*) < 20 FROM plain").fetchone() == (True,)
    if gone:
        conn.execute("INSERT INTO plain SELECT generate_series(1, 20)")
    return before[0] != after[0], before[1] != after[1], gone


def refused_in_transaction(conn: psycopg.Connection[tuple[object, ...]], statement: str) -> bool:
    with conn.transaction(force_rollback=True):
        try:
            conn.execute(statement.encode())
        except psycopg.errors.ActiveSqlTransaction:
            return True
    return False


@pytest.mark.slow
@pytest.mark.newest
@pytest.mark.parametrize("word", sample(SPELLINGS, 7))
def test_an_option_counts_by_its_value(server: Server, word: str) -> None:
    """What is rewritten, rebuilt, changed, and refused in a transaction, is as each spelling of each option says."""
    wrong = []
    with server.connect(server.database("options", *STAGE.split("; "))) as conn:
        for option, statement in cases(server.version, word):
            node = tree(statement)
            told = effects(node, read(conn, parse(statement, "a.sql")))
            ids = {h.id for f in review([("a.sql", statement)], with_squawk=False) for h in f.hazards}
            alone = refused_in_transaction(conn, statement)
            if alone != cannot_run_in_a_transaction(node):
                wrong.append(f"{statement}: alone")
            rewritten, rebuilt, gone = done(conn, statement)
            if rewritten != bool(told.rewrites) or (rewritten or rebuilt) != bool(told.rewrites or told.rebuilds):
                wrong.append(f"{statement}: files")
            if statement.startswith("REINDEX") and ("reindex-not-concurrent" in ids) == (
                option == "CONCURRENTLY" and alone
            ):
                wrong.append(f"{statement}: finding")
            if statement.startswith("EXPLAIN") and ("explain-analyze-writes" in ids) != gone:
                wrong.append(f"{statement}: finding")
            if statement.startswith("EXPLAIN") and not gone and ids - {"lock-without-timeout"}:
                wrong.append(f"{statement}: {ids}")
            if statement.startswith("VACUUM") and ("table-rewritten" in ids) != rewritten:
                wrong.append(f"{statement}: finding")
    assert not wrong


@pytest.mark.parametrize(
    ("word", "connects"),
    [("connect", True), ("connect = true", True), ("connect = false", False), ("connect = off", False),
     ("connect = 0", False), ("connect = 'off'", False), ("create_slot = off", True), ("enabled = off", True)],
)  # fmt: skip
def test_a_subscription_connects_unless_it_is_told_not_to(newest: Server, word: str, connects: bool) -> None:
    """The server tries the address, or does not."""
    statement = f"CREATE SUBSCRIPTION s CONNECTION 'host=/nowhere' PUBLICATION p WITH ({word})"
    with newest.connect("postgres") as conn:
        tried = False
        try:
            conn.execute(statement.encode())
        except psycopg.errors.ConnectionFailure:
            tried = True
        else:
            conn.execute("ALTER SUBSCRIPTION s SET (slot_name = NONE)")
            conn.execute("DROP SUBSCRIPTION s")
    assert tried is connects
    assert bool(reach(tree(statement))) is connects
