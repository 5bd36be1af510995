"""A hundred ordinary files of six tools: what the review says of them is what a reviewer stops at."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import psycopg
import pytest

from pgrunbook.database.catalog_reader import read
from pgrunbook.review.hazards import Timeouts, Transactions
from pgrunbook.review.review import Finding, review
from pgrunbook.review.statement_scenes import script
from servers import Server
from test_advice import in_use

FOLDER = Path(__file__).parent / "ordinary" / "folders"
SCHEMA_AUTH = """
CREATE SCHEMA auth; CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS 'SELECT NULL::uuid';
"""

# By tool: what is told of its folder as a whole, without a database.
OF_THE_FOLDER = {
    "prisma": "20240103000000_role_enum note transaction-in-file",
    "drizzle": """
        0001_old_style error foreign-key-validates
        0001_old_style warning locks-held-to-the-end
        0001_old_style warning lock-without-timeout
        0001_old_style error index-not-concurrent
    """,  # CREATE TABLE IF NOT EXISTS proves nothing
    "django": "0001_initial note transaction-in-file",
    "rails": "",
    "flyway": "V6__views warning lock-without-timeout",
    "hand": """
        001_auth warning lock-without-timeout
        002_todos note value-depends-on-time-zone
        004_column note transaction-in-file
    """,
}
# What is told of each file by itself, on a database with big tables, but for "transaction-in-file".
ON_A_DATABASE = {
    "prisma": """
        20240103000000_role_enum warning locks-held-to-the-end
        20240103000000_role_enum error column-type-rewrites
        20240107000000_settings_optional warning drop-default
        20240114000000_status_drop_value warning locks-held-to-the-end
        20240114000000_status_drop_value error column-type-rewrites
        20240117000000_pk_swap error key-builds-index
        20240117000000_pk_swap error drop-index-not-concurrent
    """,
    "drizzle": """
        0005_enum_rewrite error column-type-rewrites
        0005_enum_rewrite warning locks-held-to-the-end
        0005_enum_rewrite error column-type-rewrites
    """,
    "django": "0002_book_summary warning drop-default",
    "rails": "",
    "flyway": "",
    "hand": """
        002_todos note value-depends-on-time-zone
        005_index warning index-if-not-exists
        016_two_step warning locks-held-to-the-end
        016_two_step warning validate-with-add
    """,
}


def files(tool: str) -> list[tuple[str, str]]:
    """Return the files of a tool's folder: name and text."""
    _, *parts = re.split(r"^-- file: (\S+)\n", (FOLDER / f"{tool}.sql").read_text(), flags=re.MULTILINE)
    return list(zip(parts[::2], parts[1::2], strict=True))


def told(findings: Iterable[Finding]) -> list[str]:
    """Return a line for each hazard: the migration, the severity and the rule."""
    return [f"{re.split('[/.]', f.file)[0]} {h.severity} {h.id}" for f in findings for h in f.hazards]


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().split("\n") if line.strip()]


@pytest.mark.parametrize("tool", OF_THE_FOLDER)
def test_a_folder_of_ordinary_files_is_quiet(tool: str) -> None:
    """What a file makes itself is nobody's yet, what it makes anew stays, one row is one row, a note is told once."""
    assert told(review(files(tool))) == lines(OF_THE_FOLDER[tool])


def test_there_are_a_hundred_of_them() -> None:
    """One finding in ten files."""
    assert sum(len(files(tool)) for tool in OF_THE_FOLDER) >= 100
    assert sum(len(lines(text)) for text in OF_THE_FOLDER.values()) <= 10


@pytest.mark.slow
@pytest.mark.parametrize(
    "tool", ["drizzle", *(pytest.param(t, marks=pytest.mark.slow) for t in ON_A_DATABASE if t != "drizzle")]
)
def test_each_file_is_judged_by_the_database_that_the_others_made(newest: Server, tool: str) -> None:
    """Executed one after the other; each is judged before, with 50 million rows in every table."""
    newest.make("noise")
    found = []
    with newest.connect("noise") as conn:
        conn.execute(SCHEMA_AUTH.encode())
        for name, text in files(tool):
            read_ = script([(name, text)])
            catalog = in_use(read(conn, read_.statements))  # type: ignore[arg-type]
            found += review(read_, catalog, transactions=Transactions.FILE, timeouts=Timeouts(2_000, 60_000))
            for statement in read_.statements:
                conn.execute(statement.sql.encode())
    assert [line for line in told(found) if "transaction-in-file" not in line] == lines(ON_A_DATABASE[tool])


def test_a_check_that_another_migration_has_added_may_be_the_proof() -> None:
    """Validated, then NOT NULL, then dropped: alone, and without a database, such a file is no error."""
    ((name, text),) = (file for file in files("rails") if "not_null_validate" in file[0])
    assert not [line for line in told(review([(name, text)])) if " error " in line]
    without = text.split(";")[1]
    assert [line for line in told(review([("m.sql", without)])) if line == "m error set-not-null-scans"]


def test_a_view_that_hinders_is_told_once() -> None:
    """Of a table that the files make the catalog knows its views; else their texts are looked through."""
    view = "CREATE VIEW v AS SELECT b FROM a; ALTER TABLE a ALTER COLUMN b TYPE bigint;"
    for sql in (view, f"CREATE TABLE a (b integer); {view}"):
        (hazard,) = (h for f in review([("m.sql", sql)]) for h in f.hazards if h.id == "change-under-dependents")
        assert hazard.effect.count("It fails") == 1


def test_what_may_be_new_is_told_once_a_table(newest: Server) -> None:
    """CREATE TABLE IF NOT EXISTS does not tell whether it is new: the first index of the file stands for all."""
    made = "CREATE TABLE IF NOT EXISTS {0} (id integer, a text); CREATE INDEX ON {0} (id); CREATE INDEX ON {0} (a);"
    found = review([("a.sql", made.format("one") + made.format("two")), ("b.sql", "CREATE INDEX ON one (a, id);")])
    slow = [(f.place.line, h) for f in found for h in f.hazards if h.id == "index-not-concurrent"]
    assert [(h.file, name in h.effect) for name, (_, h) in zip(("one", "two", "one"), slow, strict=True)] == [
        ("a.sql", True), ("a.sql", True), ("b.sql", True)]  # fmt: skip
    newest.make("noise")
    with newest.connect("noise") as conn:
        conn.execute(made.format("one").encode())
        read_ = script([("a.sql", made.format("one"))])
        catalog = in_use(read(conn, read_.statements))  # type: ignore[arg-type]
    known = [h for f in review(read_, catalog) for h in f.hazards if h.id == "index-not-concurrent"]
    assert len(known) == 2


def test_a_copy_that_may_be_new_takes_the_old_name() -> None:
    """A table that the file makes under another name breaks nobody when it gets the name of the one it replaces."""
    swap = "CREATE TABLE IF NOT EXISTS p2 (id int); DROP TABLE p; ALTER TABLE p2 RENAME TO p"
    assert not [line for line in told(review([("a.sql", swap)])) if "rename-table" in line]
    assert [line for line in told(review([("a.sql", "ALTER TABLE p2 RENAME TO p")])) if "rename-table" in line]


def test_a_plain_build_that_fails_leaves_no_index(newest: Server) -> None:
    """IF NOT EXISTS skips what is INVALID: that is what a concurrent build leaves, and only that."""
    newest.make("noise")
    newest.run("noise", "CREATE TABLE t (a integer)", "INSERT INTO t VALUES (1), (1)")
    for word, invalid in (("", 0), ("CONCURRENTLY", 1)):
        build = f"CREATE UNIQUE INDEX {word} IF NOT EXISTS i ON t (a)"
        with newest.connect("noise") as conn:
            with pytest.raises(psycopg.errors.UniqueViolation):
                conn.execute(build.encode())
            left = conn.execute("SELECT count(*) FROM pg_index WHERE indrelid = 't'::regclass AND NOT indisvalid")
            assert left.fetchone() == (invalid,)
        assert bool([line for line in told(review([("a.sql", build)])) if "if-not-exists" in line]) is bool(invalid)


def test_a_lock_is_held_for_what_cannot_run_by_itself() -> None:
    """Two indexes are two builds outside a transaction; an ALTER TABLE before an UPDATE is told, and what to move."""

    def held(*texts: str) -> list[str]:
        found = review([(f"{number}.sql", text) for number, text in enumerate(texts)], with_squawk=False)
        return [f"{h.effect}\n{h.way_out}" for f in found for h in f.hazards if h.id == "locks-held-to-the-end"]

    assert held("CREATE INDEX i ON a (b); CREATE INDEX j ON a (c); DROP INDEX k; CREATE INDEX l ON b (c)") == []
    (within,) = held("ALTER TABLE a ADD COLUMN b text;\nUPDATE c SET d = 1;")
    assert "if the file runs in one transaction" in within
    assert "move 0.sql:2 into a migration of its own" in within
    (across,) = held("ALTER TABLE a ADD COLUMN b text;", "ALTER TABLE z ADD COLUMN b text;", "UPDATE c SET d = 1;")
    assert "as Drizzle runs all pending files" in across
    assert "run 0.sql and 2.sql in separate transactions" in across


def test_the_one_row_of_an_aggregate_is_no_copy_of_a_table() -> None:
    """Nor is a name of WITH the table whose rows are copied."""
    for quiet in ("SELECT coalesce(max(n), 0) FROM events", "WITH e AS (SELECT 1 AS n) SELECT n FROM e"):
        assert not [line for line in told(review([("a.sql", f"INSERT INTO at {quiet}")])) if "insert-select" in line]
    assert [line for line in told(review([("a.sql", "INSERT INTO at SELECT n FROM e")])) if "insert-select" in line]
