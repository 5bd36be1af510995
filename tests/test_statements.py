"""The statements of a migration file: where each stands, how it runs, and what is refused."""

from __future__ import annotations

import time

import pytest

from pgrunbook.errors import WrongInput
from pgrunbook.review.statement_scenes import script
from pgrunbook.sql.classify import Policy
from pgrunbook.sql.statements import Statement, has_left_out, parse

STDIN = (
    "m.sql, line 2: COPY FROM STDIN cannot run from a migration file\n"
    "Detail: The data after it would be read by psql, not by the server.\n"
    "State: Nothing changed in the database.\n"
    "Hint: Write the rows as INSERT, or load them outside of the migration."
)


def statements(text: str) -> list[tuple[int, str]]:
    return [(s.line, s.sql) for s in parse(text, "m.sql")]


def error_of(text: str) -> str:
    with pytest.raises(WrongInput) as caught:
        parse(text, "m.sql")
    assert caught.value.exit_code == 2
    return str(caught.value)


def policies(text: str) -> list[bool]:
    """Say of each statement whether it runs alone."""
    return [s.policy is Policy.ALONE for s in parse(text, "m.sql")]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("-- nothing\n/* at all */;;\n", []),
        ("\ufeffSELECT 1", [(1, "SELECT 1")]),
        ("SELECT 1;\r\nSELECT 2;\r\n", [(1, "SELECT 1"), (2, "SELECT 2")]),
        ("SELECT 1;--> statement-breakpoint\n\nSELECT 2;", [(1, "SELECT 1"), (3, "SELECT 2")]),
        ("-- é🚀\nSELECT 'é🚀';\nSELECT \"Ünï\"", [(2, "SELECT 'é🚀'"), (3, 'SELECT "Ünï"')]),
        ("/* a\n/* b */ c */\nSELECT 1 -- end\n; SELECT 2 /* e */", [(3, "SELECT 1"), (4, "SELECT 2")]),
        ("SELECT $é$ ; $é$;\nSELECT ';'", [(1, "SELECT $é$ ; $é$"), (2, "SELECT ';'")]),
        (
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END;\nSELECT 3",
            [(1, "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END"), (2, "SELECT 3")],
        ),
    ],
)
def test_each_statement_is_its_exact_text_and_the_line_it_begins_on(text: str, found: list[tuple[int, str]]) -> None:
    """Comments around it are left out, also nested ones; characters beyond ASCII count as one."""
    assert statements(text) == found


def test_a_statement_is_known_by_the_hash_of_its_text() -> None:
    """The same statement after another comment has the same hash."""
    one, two = parse("SELECT 1", "m.sql")[0], parse("-- c\nSELECT 1;", "m.sql")[0]
    assert one.sha256 == two.sha256 == "e004ebd5b5532a4b85984a62f8ad48a81aa3460c1ca07701f386135d72cdecf5"
    assert isinstance(one, Statement)


@pytest.mark.slow
@pytest.mark.parametrize("statements", [4_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_a_file_of_a_megabyte_is_read_in_seconds(statements: int) -> None:
    """Characters beyond ASCII do not make the time grow with the square of the size."""
    text = ";\n".join(f"INSERT INTO t VALUES ({i}, 'é text {i}')" for i in range(statements))
    start = time.process_time()
    found = parse(text, "m.sql")
    assert (len(found), found[-1].line) == (statements, statements)
    assert time.process_time() - start < 30


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("SELECT 1;\nSELEKT 2;", 'm.sql, line 2: syntax error at or near "SELEKT"\nDetail: The line is: SELEKT 2;'),
        (
            "SELECT 'é';\nALTER TABEL é",
            'm.sql, line 2: syntax error at or near "TABEL"\nDetail: The line is: ALTER TABEL é',
        ),
        ("é foo", 'm.sql, line 1: syntax error at or near "é"\nDetail: The line is: é foo'),
        ("CREATE TABLE a (\n\n", "m.sql, line 1: syntax error at end of input\nDetail: The line is: CREATE TABLE a ("),
        (
            "\n SELECT 'abc",
            "m.sql, line 2: unterminated quoted string at or near \"'abc\"\nDetail: The line is: SELECT 'abc",
        ),
        (
            "SELECT 1;\nSELECT E'\\x00';\nSELECT 2;",
            "m.sql, line 2: invalid byte sequence for encoding \"UTF8\": 0x00\nDetail: The line is: SELECT E'\\x00';",
        ),
        ("SELECT 1\x0b;\nSELECT 2 2", 'm.sql, line 2: syntax error at or near "2"\nDetail: The line is: SELECT 2 2'),
    ],
)
def test_what_does_not_parse_is_told_with_file_and_line_in_the_parsers_words(text: str, told: str) -> None:
    """The line itself stands in the error."""
    state = "State: Nothing changed in the database."
    assert error_of(text) == f"{told}\n{state}\nHint: Correct the file; the parser of PostgreSQL 18 could not read it."


@pytest.mark.parametrize(
    ("text", "hint"),
    [("<<<<<<< HEAD\nSELECT 1;", "A merge left both sides"), ("SELECT 1;\nGO\nSELECT 2;", "GO is a command of other")],
)
def test_what_other_tools_leave_in_a_file_is_told_as_such(text: str, hint: str) -> None:
    """Marks of a merge, and commands that other databases' shells read."""
    assert f"Hint: {hint}" in error_of(text)


@pytest.mark.parametrize(
    ("text", "line"), [("SELECT 1;\n\\c other", "\\c other"), ("\nSELECT 1 \\gexec", "SELECT 1 \\gexec")]
)
def test_commands_of_psql_are_told_as_such(text: str, line: str) -> None:
    """The server never sees them."""
    assert error_of(text) == (
        'm.sql, line 2: syntax error at or near "\\"\n'
        f"Detail: The line is: {line}\n"
        "State: Nothing changed in the database.\n"
        "Hint: Commands that begin with \\ are psql's own: remove them from the migration."
    )


MYSQL = "Words such as AUTO_INCREMENT, ENGINE and PRAGMA are MySQL's or SQLite's: say it as PostgreSQL does."


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("SELECT 1;\nSELECT :'name';", "A name behind a colon is a variable of psql: write its value."),
        ("SELECT 1;\nDROP TABLE ${schema}.a;", "A placeholder is filled in by another tool: write its value."),
        ("SELECT 1;\nDROP TABLE {{ schema }}.a;", "A placeholder is filled in by another tool: write its value."),
        ("SELECT 1;\nDROP TABLE `a`;", "PostgreSQL has names in double quotes; backticks are MySQL's."),
        ("SELECT 1;\n# a", "A comment begins with --."),
        ("SELECT 1;\nCREATE TABLE a {\n};", "Correct the file; the parser of PostgreSQL 18 could not read it."),
        ("SELECT 1;\nDROP TABLE {schema}.a;", "A placeholder is filled in by another tool: write its value."),
        ("SELECT 1;\nCREATE TABLE a (id int NOT NULL AUTO_INCREMENT);", MYSQL),
        ("SELECT 1;\nCREATE TABLE a (id int) ENGINE=InnoDB;", MYSQL),
        ("SELECT 1;\nINSERT IGNORE INTO a VALUES (1);", MYSQL),
        ("SELECT 1;\nCREATE TABLE a (id integer PRIMARY KEY AUTOINCREMENT);", MYSQL),
        ("SELECT 1;\nPRAGMA foreign_keys = ON;", MYSQL),
        (
            "SELECT 1;\nSET @a := 1;",
            "A name behind @ is a variable of MySQL or SQL Server, which PostgreSQL does not have.",
        ),
        ("SELECT 1;\nDROP TABLE [a];", "PostgreSQL has names in double quotes; brackets are SQL Server's."),
        ("SELECT 1;\nREPACK TABLE a;", "Correct the file; the parser of PostgreSQL 18 could not read it."),
    ],
)
def test_what_is_not_sql_of_the_server_is_told_by_what_it_is(text: str, hint: str) -> None:
    """Of migrations that have a file of the same name, the error names the one."""
    with pytest.raises(WrongInput) as caught:
        parse(text, "migration.sql", "20260101_a")
    assert caught.value.message.startswith("20260101_a/migration.sql, line 2: syntax error at or near ")
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    "text",
    [
        "\nCOPY a FROM STDIN",
        "\nCOPY a (b) FROM stdin WITH (FORMAT csv);\n1,2\n\\.\n",
        "\nCOPY a FROM STDIN DELIMITER ';' NULL '';\n1;2\n\\.\nSELECT 1;",
        "\nCOPY a FROM STDIN;\nit's $$\tb\n\\.\nSELECT 1;",
        "\nCOPY a FROM STDIN;\n\\.\n",
        "\nCOPY a FROM STDIN;\n1\t2\n",
    ],
)
def test_rows_for_copy_are_refused(text: str) -> None:
    """Also where the rows behind it are what does not parse."""
    assert error_of(text) == STDIN


@pytest.mark.parametrize("text", ["BEGIN", "COMMIT", "START TRANSACTION", "ROLLBACK", "SAVEPOINT a", "END"])
def test_a_migration_opens_and_ends_no_transaction(text: str) -> None:
    """It would commit without its history row."""
    assert error_of(f"SELECT 1;\n{text};") == (
        "m.sql, line 2: a migration cannot hold BEGIN, COMMIT or ROLLBACK\n"
        "Detail: pgrunbook commits the migration and its history row in one transaction of its own; a plain BEGIN"
        " and COMMIT are left out, around the whole file, or around parts in which nothing holds until COMMIT, as"
        " SET LOCAL, LOCK and DO may.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Remove the statement; a statement that cannot run in a transaction is run alone anyway."
    )


HELD = (
    "SET LOCAL search_path = a", "SELECT set_config('search_path', 'a', true)", "SET TRANSACTION READ ONLY",
    "UPDATE t SET a = set_config('b.c', 'd', true)", "LOCK t", "SELECT * FROM t FOR UPDATE",
    "SELECT pg_advisory_xact_lock(1)", "SET CONSTRAINTS ALL DEFERRED", "DECLARE c CURSOR FOR SELECT 1",
    "CREATE TEMP TABLE x (a int) ON COMMIT DROP", "CREATE TEMP TABLE x ON COMMIT DELETE ROWS AS SELECT 1",
    "DO 'BEGIN PERFORM a(); END'", "CALL p()",
    "UPDATE t SET a = f()", "INSERT INTO t SELECT f()", "DELETE FROM t WHERE f(a)", "CREATE TABLE x AS SELECT f()",
    "INSERT INTO t SELECT * FROM u FOR UPDATE", "WITH c AS (SELECT f()) DELETE FROM t USING c",
)  # fmt: skip


@pytest.mark.parametrize("text", [
    "BEGIN;\nCREATE TYPE n AS ENUM ('a');\nCOMMIT;\nCREATE TABLE a (b n);\n",
    "CREATE TYPE n AS ENUM ('a');\nBEGIN;\nCREATE TABLE a (b n);\nEND;\n",
    "BEGIN;\nCREATE TYPE n AS ENUM ('a');\nCOMMIT;\nSTART TRANSACTION;\nCREATE TABLE a (b n);\nCOMMIT;\n",
    "BEGIN;\nCOMMIT;\nBEGIN;\nCREATE TYPE n AS ENUM ('a'); SET a.b = 1; SELECT 1; COMMIT;\nCREATE TABLE a (b n);\n",
])  # fmt: skip
def test_transactions_of_parts_are_left_out_where_nothing_holds_in_them_alone(text: str) -> None:
    """As Prisma writes it; the statements keep their lines, for prepare and for the review."""
    assert has_left_out(text)
    found = {s.kind: s.line for s in parse(text, "m.sql")}
    lines = [line for line, one in enumerate(text.splitlines(), 1) if one.startswith("CREATE")]
    assert [found["CREATE TYPE"], found["CREATE TABLE"]] == lines
    read = script([("m.sql", text)])
    assert {s.kind: s.line for s in read.statements} == found
    assert not any(mark.refusal for mark in read.marks)


@pytest.mark.parametrize(
    ("begin", "commit"),
    [
        ("BEGIN", "COMMIT"),
        ("begin work", "commit and no chain"),
        ("START TRANSACTION", "END"),
        ("BEGIN TRANSACTION", "COMMIT WORK"),
    ],
)
def test_a_transaction_around_the_whole_file_is_left_out(begin: str, commit: str) -> None:
    """Comments may stand around it; the statements keep their lines and places."""
    text = f"-- head\n{begin}; CREATE TABLE a ();\nCREATE INDEX CONCURRENTLY i ON a (b);\n{commit}; -- end\n"
    assert has_left_out(text)
    found = parse(text, "m.sql")
    assert [(s.line, str(s.place), s.kind) for s in found] == [
        (2, "m.sql:2", "CREATE TABLE"), (3, "m.sql:3", "CREATE INDEX CONCURRENTLY"),
    ]  # fmt: skip
    read = script([("m.sql", text)])
    assert [(s.line, str(s.place), s.kind) for s in read.statements] == [(s.line, str(s.place), s.kind) for s in found]
    assert [(mark.place.line, mark.refusal) for mark in read.marks] == [(2, None), (4, None)]
    assert statements(f"{begin};\n{commit}") == []


@pytest.mark.parametrize(
    "text",
    ["BEGIN; BEGIN; SELECT 1; COMMIT; COMMIT; SELECT 2", "SELECT 1; BEGIN; SELECT 2; COMMIT AND CHAIN; COMMIT",
     "BEGIN; SELECT 1; ROLLBACK", "BEGIN; SELECT 1; COMMIT; BEGIN; SELECT 1; ROLLBACK",
     *(f"BEGIN; {held}; COMMIT; SELECT 2" for held in HELD), "BEGIN; SELECT 1", "SELECT 1; COMMIT",
     "BEGIN; SAVEPOINT a; COMMIT", "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1; COMMIT",
     "BEGIN READ ONLY; SELECT 1; COMMIT",
     "BEGIN; SELECT 1; COMMIT AND CHAIN", "BEGIN; SELECT 1; PREPARE TRANSACTION 'a'"],
)  # fmt: skip
def test_any_other_transaction_is_refused(text: str) -> None:
    """What it would mean cannot be kept: the file's commits, its isolation, an abort."""
    assert "a migration cannot hold BEGIN, COMMIT or ROLLBACK" in error_of(text)
    assert not has_left_out(text)
    assert any(mark.refusal is not None for mark in script([("m.sql", text)]).marks)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("SELECT 1\n--> statement-breakpoint\nSELECT 2", [(1, "SELECT 1"), (3, "SELECT 2")]),
        ("SELECT 1--> statement-breakpoint\nSELECT 2;--> statement-breakpoint\n", [(1, "SELECT 1"), (2, "SELECT 2")]),
        ("-- only this\n--> statement-breakpoint\nSELECT 'é'\n--> statement-breakpoint\n-- end", [(3, "SELECT 'é'")]),
        (
            "\ufeffSELECT 1; SELECT 2 -- é\n--> statement-breakpoint\r\nSELECT 3",
            [(1, "SELECT 1"), (1, "SELECT 2"), (3, "SELECT 3")],
        ),
        ("SELECT '\n--> statement-breakpoint\n'", [(1, "SELECT '\n--> statement-breakpoint\n'")]),
        ("SELECT $$ a\n--> statement-breakpoint\n$$", [(1, "SELECT $$ a\n--> statement-breakpoint\n$$")]),
    ],
)
def test_a_breakpoint_of_drizzle_ends_a_statement(text: str, found: list[tuple[int, str]]) -> None:
    """With a semicolon before it or without, as drizzle-orm cuts the file; within a constant it is text."""
    assert statements(text) == found
    assert [(s.line, s.sql) for s in script([("m.sql", text)]).statements] == found


def test_a_zero_byte_is_refused() -> None:
    """The parser would take it for the end of the file, and the statements behind it would never run."""
    assert error_of("SELECT 1;\n\0DROP TABLE a;") == (
        "m.sql, line 2: holds a zero byte\n"
        "Detail: PostgreSQL would read the file up to there and ignore the rest.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Remove it; save a file in UTF-16 as UTF-8."
    )


@pytest.mark.parametrize(
    ("text", "alone"),
    [
        ("UPDATE a SET m = 'new'", True),
        ("INSERT INTO a VALUES (E'new')", True),
        ("INSERT INTO a VALUES ('{old,new}')", True),
        ("ALTER TABLE a ALTER m SET DEFAULT 'new'::mood", True),
        ("CREATE FUNCTION f() RETURNS mood LANGUAGE sql AS $$ SELECT 'new'::mood $$", True),
        ("UPDATE a SET m = 'newer'", False),
        ('UPDATE a SET "new" = 1', False),
        ("SELECT 1 -- 'new'", False),
    ],
)
def test_a_new_label_runs_alone_only_where_a_later_statement_uses_it(text: str, alone: bool) -> None:
    """In one transaction the server would refuse to use it; otherwise the migration stays whole."""
    assert policies(f"ALTER TYPE mood ADD /* */ VALUE 'new'; {text}") == [alone, False]
    assert policies(f"{text}\n; ALTER TYPE mood ADD VALUE 'new'") == [False, False]


def test_a_label_of_a_type_that_the_same_transaction_made_runs_with_it() -> None:
    """The server allows that, and the migration stays whole."""
    text = "CREATE TYPE m AS ENUM (); {} ALTER TYPE m ADD VALUE 'it''s'; SELECT 'it''s'::m"
    assert policies(text.format("")) == [False, False, False]
    assert policies(text.format("VACUUM;")) == [False, True, True, False]
    assert policies("ALTER TYPE m RENAME VALUE 'a' TO 'new'; SELECT 'new'::m") == [False, False]


@pytest.mark.parametrize(
    "text",
    [
        "CREATE ROLE a LOGIN PASSWORD 'hunter2'",
        "CREATE USER a ENCRYPTED PASSWORD 'hunter2'",
        "ALTER ROLE a PASSWORD 'hunter2'",
        "CREATE USER MAPPING FOR a SERVER s OPTIONS (user 'a', password 'hunter2')",
        "CREATE SUBSCRIPTION s CONNECTION 'host=h password=hunter2' PUBLICATION p",
    ],
)
def test_a_statement_with_a_password_is_one_like_any_other(text: str) -> None:
    """It can be migrated: what is written down of it is masked, and its hash is an HMAC."""
    (_, statement) = parse(f"SELECT 1;\n{text};\n", "m.sql")
    assert (statement.sql, statement.line) == (text, 2)
    assert statement.sha256.startswith("hmac-")


def test_an_error_that_quotes_the_line_does_not_repeat_the_password() -> None:
    """Neither the line nor the word at which the parser stopped, also where the statement begins lines before."""
    for text in ("ALTER ROLE a\nPASSWORD 'hunter2' VALID UNTILL 'x'", "ALTER ROLE a PASSWORD\n'hunter2' 'hunter2'",
                 "CREATE ROLE a PASSWORD\n'hunter2", "CREATE ROLE 'hunter2' PASSWORD 'hunter2'"):  # fmt: skip
        with pytest.raises(WrongInput) as caught:
            parse(f"SELECT 1;\n{text};\n", "m.sql")
        assert "hunter2" not in str(caught.value)
        assert "Detail: The line is: " in str(caught.value)


@pytest.mark.parametrize(
    "text", ["ALTER ROLE a PASSWORD NULL", "CREATE ROLE a NOLOGIN", "ALTER ROLE a SET x = 'password'"]
)
def test_a_role_without_a_password_is_a_statement_like_any_other(text: str) -> None:
    """Only the secret is kept out."""
    assert len(parse(text, "m.sql")) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "held", ["EXECUTE prepared", "EXPLAIN ANALYZE EXECUTE prepared", "CREATE TABLE x AS EXECUTE p"]
)
def test_what_was_prepared_may_hold_until_the_commit_of_its_part(held: str) -> None:
    """It may be a call of any function; around the whole file it is no matter."""
    assert not has_left_out(f"BEGIN; {held}; COMMIT; SELECT 1")
    assert has_left_out(f"BEGIN; {held}; COMMIT")
