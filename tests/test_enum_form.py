"""The replacement of an enum as tools write it: from release to contract and back, while others write."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from acting import error, run
from conftest import connect, do, rows
from pgrunbook.config.targets import Target
from pgrunbook.database import leftovers
from pgrunbook.database.connection import Connection
from pgrunbook.database.schema import Snapshot, snapshot
from pgrunbook.database.schema_diff import diff
from pgrunbook.execute.execution import Execution
from pgrunbook.record.run import Status
from scenes import beside, error_of, execute, gone, plan_of, until
from test_schema_only import planned, safely

Project = Callable[..., Target]
Command = Callable[..., tuple[int, str, str]]
TABLES = """
CREATE TYPE kind AS ENUM ('new', 'done', 'x');
COMMENT ON TYPE kind IS 'of orders';
REVOKE ALL ON TYPE kind FROM PUBLIC;
CREATE TABLE orders (id serial PRIMARY KEY, state kind NOT NULL DEFAULT 'new', kinds kind[] DEFAULT '{new}');
CREATE INDEX orders_state_idx ON orders (state);
CREATE TABLE lines (id serial PRIMARY KEY, "State" kind, UNIQUE (id, "State"));
INSERT INTO orders (state, kinds) SELECT (ARRAY['new', 'done']::kind[])[1 + i % 2], ARRAY['done']::kind[]
FROM generate_series(1, 300) AS i;
INSERT INTO lines ("State") SELECT (ARRAY['new', NULL]::kind[])[1 + i % 2] FROM generate_series(1, 300) AS i;
"""
ALL_OF_KIND = """
ALTER TABLE orders ALTER kinds DROP DEFAULT, ALTER kinds TYPE {0}[] USING kinds::text[]::{0}[];
ALTER TABLE lines ALTER "State" TYPE {0} USING "State"::text::{0};
"""
SPELLINGS = {
    "prisma": """
-- CreateEnum
CREATE TYPE "Size" AS ENUM ('small', 'large');

-- AlterEnum
BEGIN;
CREATE TYPE "kind_new" AS ENUM ('new', 'done', 'late');
ALTER TABLE "orders" ALTER COLUMN "state" DROP DEFAULT;
ALTER TABLE "orders" ALTER COLUMN "kinds" DROP DEFAULT;
ALTER TABLE "orders" ALTER COLUMN "state" TYPE "kind_new" USING ("state"::text::"kind_new");
ALTER TABLE "lines" ALTER COLUMN "State" TYPE "kind_new" USING ("State"::text::"kind_new");
ALTER TABLE "orders" ALTER COLUMN "kinds" TYPE "kind_new"[] USING ("kinds"::text::"kind_new"[]);
ALTER TYPE "kind" RENAME TO "kind_old";
ALTER TYPE "kind_new" RENAME TO "kind";
DROP TYPE "public"."kind_old";
ALTER TABLE "orders" ALTER COLUMN "state" SET DEFAULT 'new';
ALTER TABLE "orders" ALTER COLUMN "kinds" SET DEFAULT ARRAY['done']::"kind"[];
COMMIT;

-- of hand
COMMENT ON TABLE "lines" IS 'of orders';
""",
    "typeorm": """
ALTER TYPE "public"."kind" RENAME TO "kind_old";
CREATE TYPE "public"."kind" AS ENUM('new', 'late', 'done');
ALTER TABLE "orders" ALTER COLUMN "state" DROP DEFAULT;
ALTER TABLE "orders" ALTER COLUMN "state" TYPE "public"."kind" USING "state"::"text"::"public"."kind";
ALTER TABLE "orders" ALTER COLUMN "state" SET DEFAULT 'done';
ALTER TABLE "orders" ALTER COLUMN "kinds" DROP DEFAULT;
ALTER TABLE "orders" ALTER COLUMN "kinds" TYPE "public"."kind"[] USING "kinds"::"text"::"public"."kind"[];
ALTER TABLE "lines" ALTER COLUMN "State" TYPE "public"."kind" USING "State"::"text"::"public"."kind";
DROP TYPE "public"."kind_old";
""",
    "drizzle": """
ALTER TABLE "orders" ALTER COLUMN "state" SET DATA TYPE text;--> statement-breakpoint
ALTER TABLE "orders" ALTER COLUMN "state" SET DEFAULT 'new'::text;--> statement-breakpoint
ALTER TABLE "orders" ALTER COLUMN "kinds" DROP DEFAULT;--> statement-breakpoint
ALTER TABLE "orders" ALTER COLUMN "kinds" SET DATA TYPE text[];--> statement-breakpoint
ALTER TABLE "lines" ALTER COLUMN "State" SET DATA TYPE text;--> statement-breakpoint
DROP TYPE "public"."kind";--> statement-breakpoint
CREATE TYPE "public"."kind" AS ENUM('done', 'new');--> statement-breakpoint
ALTER TABLE "orders" ALTER COLUMN "state" SET DEFAULT 'new'::"public"."kind";--> statement-breakpoint
ALTER TABLE "orders" ALTER COLUMN "state" SET DATA TYPE "public"."kind" USING "state"::"public"."kind";
ALTER TABLE "orders" ALTER COLUMN "kinds" SET DATA TYPE "public"."kind"[] USING "kinds"::"public"."kind"[];
ALTER TABLE "lines" ALTER COLUMN "State" SET DATA TYPE "public"."kind" USING "State"::"public"."kind";
""",
    "alembic": f"""
ALTER TABLE orders ALTER COLUMN state DROP DEFAULT;
ALTER TYPE kind RENAME TO kind_old;
CREATE TYPE kind AS ENUM('new', 'done', 'x', 'late');
ALTER TABLE orders ALTER COLUMN state TYPE kind USING state::text::kind;
{ALL_OF_KIND.format("kind")}
DROP TYPE kind_old;
ALTER TABLE orders ALTER COLUMN state SET DEFAULT 'done'::kind;
""",
    "sequelize": f"""
CREATE TYPE "public"."kind_new" AS ENUM('new', 'done');
ALTER TABLE orders ALTER COLUMN state DROP DEFAULT, ALTER state TYPE kind_new USING (state::text::kind_new);
{ALL_OF_KIND.format("kind_new")}
DROP TYPE IF EXISTS "kind";
ALTER TYPE "kind_new" RENAME TO "kind";
ALTER TABLE "public"."orders" ALTER COLUMN "state" SET DEFAULT 'new'::"kind";
""",
    "another name": """
CREATE TYPE phase AS ENUM ('begun', 'done');
ALTER TABLE orders ALTER state DROP DEFAULT,
    ALTER state TYPE phase USING (CASE state WHEN 'new' THEN 'begun' ELSE state::text END)::phase,
    ALTER state SET DEFAULT 'done';
ALTER TABLE orders ALTER kinds DROP DEFAULT, ALTER kinds TYPE phase[]
    USING array_replace(kinds::text[], 'new', 'begun')::phase[];
ALTER TABLE lines ALTER "State" TYPE phase USING replace("State"::text, 'new', 'begun')::phase;
DROP TYPE kind;
""",
    "text": """
ALTER TABLE orders ALTER state DROP DEFAULT, ALTER state TYPE text, ALTER state SET DEFAULT 'new';
ALTER TABLE orders ALTER kinds DROP DEFAULT, ALTER kinds TYPE text[];
ALTER TABLE lines ALTER "State" TYPE varchar USING "State"::varchar;
DROP TYPE kind;
""",
}
LEFT_OUT = ["pgrunbook", "public.schema_migrations"]
OURS = """
SELECT attname::text FROM pg_attribute WHERE attname LIKE 'pgrunbook%' AND attrelid > 16384 AND NOT attisdropped
UNION ALL SELECT typname::text FROM pg_type WHERE typname LIKE 'pgrunbook%'
UNION ALL SELECT tgname::text FROM pg_trigger WHERE NOT tgisinternal AND tgrelid IN ('orders'::regclass, 'lines'::regclass)
"""  # noqa: E501
BOTH = """
SELECT id, state::text, kinds::text[] FROM orders UNION ALL SELECT -id, "State"::text, NULL FROM lines ORDER BY id
"""

CASTS = (
    "UPDATE orders SET state = 'done'::kind, kinds = ARRAY['new']::kind[] WHERE id = 8 AND state >= 'new'::kind",
    "SELECT count(*) FROM lines WHERE \"State\" = 'done'::public.kind",
)


def looks(target: Target) -> Snapshot:
    """The schema, without what is ours."""
    with connect(target) as conn:
        return snapshot(conn, leave_out=LEFT_OUT)


def released(project: Project, spelling: str) -> Target:
    """A target with the tables, on which the spelling is pending; a thousandth of what is large."""
    target = project(folder={"0001_a.sql": SPELLINGS[spelling]}, batch_rows=100)
    do(target, TABLES)
    return target


@contextmanager
def writing(target: Target, *, casts: bool) -> Iterator[list[str]]:
    """Write to both tables meanwhile, with ``casts`` also by the type's name; the errors are given."""
    errors: list[str] = []
    ended = threading.Event()

    def write() -> None:
        with connect(target, purpose="other") as conn:
            while not ended.wait(0.005):
                for statement in (
                    *(CASTS if casts else ()),
                    "INSERT INTO orders DEFAULT VALUES",
                    "DELETE FROM orders WHERE id > 300",
                    "UPDATE orders SET state = 'done', kinds = '{done,done}' WHERE id = 7",
                    "INSERT INTO lines VALUES (-900000002, 'done')",
                    "DELETE FROM lines WHERE id = -900000002",
                ):
                    try:
                        conn.execute(statement.encode())
                    except psycopg.Error as exc:
                        errors.append(str(exc))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield errors
    finally:
        ended.set()
        thread.join()


@pytest.mark.slow
def test_a_plan_without_a_gate(project: Project) -> None:
    """All statements come to one change, and the way back is proven; up, down and up again on an empty branch."""
    (change,) = safely(released(project, "typeorm")).changes
    assert [one.gate for one in change.statements] == [None] * 9
    assert [one.form for one in change.statements] == ["replaced-enum", *["part-of-a-change"] * 8]
    assert change.proof.proven, change.proof.told


@pytest.mark.slow
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_from_release_to_contract(project: Project, command: Command, spelling: str) -> None:
    """Nobody's write fails; drift and validate know what waits; contract ends in the schema of the plain SQL."""
    target = released(project, spelling)
    with writing(target, casts="AS ENUM" in SPELLINGS[spelling] and spelling != "another name") as errors:
        made, code = run("release")
    assert (code, made.status) == (0, Status.DONE), error(made)
    assert errors == []
    assert "3 columns wait for contract" in command("status", "--target", "demo")[1]
    assert command("drift", "--target", "demo", "--against", "validated")[0] == 0
    assert ("pgrunbook_old_kind",) in rows(target, OURS)
    with connect(target) as conn:
        assert [one.key for one in leftovers.helpers(conn)] == []
    before = rows(target, BOTH)
    made, code = run("contract", accept="all")
    assert (code, made.status) == (0, Status.DONE), error(made)
    assert rows(target, OURS) == []
    assert rows(target, BOTH) == before
    assert command("drift", "--target", "demo", "--against", "validated")[0] == 0
    plain = project(folder={"0001_a.sql": "SELECT 1"}, name="plain")
    do(plain, TABLES + SPELLINGS[spelling].replace("BEGIN;", "").replace("COMMIT;", ""))
    found = diff(looks(plain), looks(target))
    assert {(one.change, one.kind) for one in found} <= {("moved", "column order")}, [one.line() for one in found]


@pytest.mark.slow
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_from_release_back(project: Project, spelling: str) -> None:
    """The schema of before, and each row with what was written meanwhile."""
    target = released(project, spelling)
    before = looks(target)
    made, code = run("release", with_data="true")
    assert (code, made.status) == (0, Status.DONE), error(made)
    do(target, "UPDATE orders SET state = 'done' WHERE id IN (3, 4); INSERT INTO lines VALUES (-900000001, 'done')")
    was = {"another name": "begun"}.get(spelling, "new")
    now = [(id_, "new" if state == was else state, kinds) for id_, state, kinds in rows(target, BOTH)]
    with writing(target, casts="AS ENUM" in SPELLINGS[spelling] and spelling != "another name") as errors:
        made, code = run("rollback", with_data="true")
    assert (code, made.status) == (0, Status.DONE), error(made)
    assert errors == []
    assert [one.line() for one in diff(before, looks(target))] == []
    assert rows(target, OURS) == []
    found = rows(target, BOTH)
    kept = {one[0] for one in now} - {row[0] for row in found if row[2] in (["done", "done"], ["new"])}
    assert [row for row in found if row[0] in kept] == [row for row in now if row[0] in kept]


LATE = "ALTER TYPE kind RENAME TO kind_old; CREATE TYPE kind AS ENUM ('new', 'late');" + SPELLINGS["typeorm"].partition(
    "'done');"
)[2].replace("DEFAULT 'done'", "DEFAULT 'new'")


@pytest.mark.slow
def test_values_that_are_no_longer_there_are_counted_before_the_first_write(project: Project) -> None:
    """The error names the column, each value and its rows; nothing has been made."""
    target = project(folder={"0001_a.sql": LATE}, batch_rows=100)
    do(target, TABLES)
    found = planned(target, safely(target))
    before = looks(target)
    raised = error_of(lambda: execute(target, found))
    assert "rows of public.orders.state have values that the new type public.kind lacks" in str(raised)
    assert "'done' in 150 rows" in raised.detail
    assert [one.line() for one in diff(before, looks(target))] == []


@pytest.mark.slow
def test_what_has_no_form_is_a_gate_that_says_why(project: Project) -> None:
    """The statement that rewrites the table names what hangs on the column, and what to write instead."""
    target = released(project, "typeorm")
    do(target, "ALTER TABLE orders DROP COLUMN kinds; CREATE TABLE child () INHERITS (orders)")
    folder = SPELLINGS["typeorm"].split("\n")
    text = "\n".join(line for line in folder if '"kinds"' not in line)
    assert target.migrations is not None
    (Path(target.migrations) / "0001_a.sql").write_text(text)
    (change,) = safely(target).changes
    found, *_ = [one.gate for one in change.statements if one.gate is not None and one.gate.id == "runs-as-written"]
    assert "the values of the enum are replaced under a lock that rewrites the table (" in found.says
    assert "the table has child tables" in found.says
    assert "ALTER TYPE ... ADD VALUE" in found.how


@pytest.mark.slow
@pytest.mark.parametrize("spelling", ["prisma", "typeorm", "drizzle"])
def test_over_small_tables_it_is_done_as_it_is_written(project: Project, spelling: str) -> None:
    """In one transaction, without a gate, and nothing waits for contract."""
    target = project(folder={"0001_a.sql": SPELLINGS[spelling]}, batch_rows=1_000)
    do(target, TABLES)
    (change,) = safely(target).changes
    assert [one.gate for one in change.statements] == [None] * len(change.statements)
    assert not [one.form for one in change.statements if one.form.startswith("replaced")]
    assert [segment.kind for segment in change.segments() if segment.steps] == ["together"]
    assert change.proof.proven, change.proof.told


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["begins", "ran"])
def test_killed_at_any_step_it_goes_on(project: Project, moment: str) -> None:
    """SIGKILL at each step: the type that the name means is always that of the columns, and the next run ends it."""
    template = project(folder={"0001_a.sql": SPELLINGS["typeorm"]}, batch_rows=100, name="first")
    do(template, TABLES)
    changes = safely(template).changes
    of_columns = "SELECT DISTINCT atttypid = 'kind'::regtype FROM pg_attribute WHERE attname IN ('state', 'State')"
    of_columns += " AND attrelid IN ('orders'::regclass, 'lines'::regclass)"
    for number in range(1, len(changes[0].steps) + 1, 3):
        target = project(folder={"0001_a.sql": SPELLINGS["typeorm"]}, batch_rows=100, name=f"kill{number}")
        do(target, TABLES)
        found = plan_of(target).model_copy(update={"changes": changes})
        with beside(target, found, killed_when=f"{moment} {number}") as process:
            assert process.wait() == -9
        until(gone(target))
        assert rows(target, of_columns) == [(True,)]
        do(target, "UPDATE orders SET state = 'done' WHERE id = 1; INSERT INTO orders DEFAULT VALUES")
        execute(target, found)
        assert rows(target, of_columns) == [(True,)]
        assert rows(target, "SELECT enum_range(NULL::kind)::text") == [("{new,late,done}",)]
        assert rows(target, "SELECT state::text FROM orders WHERE id IN (1, 301) ORDER BY id") == [("done",), ("new",)]


@pytest.mark.slow
def test_what_stopped_half_way_is_taken_back(project: Project) -> None:
    """A value that the new list lacks is written behind the count: nothing of ours stays behind a rollback."""
    target = project(folder={"0001_a.sql": LATE.replace("; ", ";\n")}, batch_rows=100)
    do(target, TABLES + "UPDATE orders SET state = 'new', kinds = '{new}'; UPDATE lines SET \"State\" = 'new'")
    before = looks(target)
    found = planned(target, safely(target))
    with connect(target, purpose="other") as conn:

        def interfere(work: Execution) -> None:
            del work
            conn.execute(b"CREATE FUNCTION done() RETURNS trigger LANGUAGE plpgsql AS"
                         b" 'BEGIN NEW.state := ''done''; RETURN NEW; END'")  # fmt: skip
            conn.execute(b"CREATE TRIGGER done BEFORE UPDATE ON orders FOR EACH ROW WHEN (OLD.id = 5)"
                         b" EXECUTE FUNCTION done()")  # fmt: skip

        raised = error_of(lambda: execute(target, found, seen=interfere))
        assert 'invalid input value for enum pgrunbook_new_kind: "done"' in raised.message
        conn.execute(b"DROP FUNCTION done CASCADE")
    made, code = run("rollback")
    assert (code, made.status) == (0, Status.DONE), error(made)
    assert [one.line() for one in diff(before, looks(target))] == []
    assert rows(target, OURS) == []


# What a driver has prepared: by text, with a cast in the text, and with a parameter of the column's type.
PREPARED = {
    "text": "UPDATE orders SET state = 'done' WHERE id = $1::text::int",
    "cast": "UPDATE orders SET state = CAST($1::text AS public.kind) WHERE id = 3",
    "compared": "SELECT count(*) FROM orders WHERE state = CAST($1::text AS public.kind)",
    "literal": "SELECT count(*) FROM orders WHERE state = 'done'::kind AND $1::text <> ''",
    "parameter": "UPDATE orders SET state = $1 WHERE id = 3",
}


def sent(conn: Connection, name: str) -> str:
    """Execute a prepared statement; return the code of its error."""
    try:
        conn.execute(f"EXECUTE p_{name} ('{'3' if name == 'text' else 'done'}')".encode())
    except psycopg.Error as exc:
        return str(exc.sqlstate)
    return ""


@pytest.mark.slow
def test_sessions_of_the_application_fare_as_behind_the_plain_sql(project: Project) -> None:
    """What casts by name goes on; a parameter of the old type fails until its session prepares the statement again."""
    target, plain = released(project, "prisma"), project(folder={"0001_a.sql": "SELECT 1"}, name="plain")
    do(plain, TABLES)
    found = planned(target, safely(target))
    told = []
    for each in (target, plain):
        with connect(each, purpose="other") as conn:
            for name, text in PREPARED.items():
                conn.execute(f"PREPARE p_{name} AS {text}".encode())
            assert {name: sent(conn, name) for name in PREPARED} == dict.fromkeys(PREPARED, "")
            if each is target:
                execute(target, found)
            else:
                do(plain, SPELLINGS["prisma"])
            told.append({name: sent(conn, name) for name in PREPARED})
            conn.execute(b"DEALLOCATE p_parameter")
            conn.execute(f"PREPARE p_parameter AS {PREPARED['parameter']}".encode())
            assert {name: sent(conn, name) for name in PREPARED} == dict.fromkeys(PREPARED, "")
    assert told[0] == {**dict.fromkeys(PREPARED, ""), "parameter": "42804"}
    assert {name: bool(code) for name, code in told[0].items()} == {name: bool(code) for name, code in told[1].items()}


# What somebody makes while the columns are filled: with each the plain DROP TYPE would fail.
NEEDS = {
    "CREATE TABLE copy AS SELECT * FROM lines": "DROP TABLE copy",
    "CREATE TABLE copy (kinds kind[])": "DROP TABLE copy",
    "CREATE TABLE copy (kind text DEFAULT 'new'::kind::text)": "DROP TABLE copy",
    "CREATE FUNCTION copy(kind) RETURNS int LANGUAGE sql AS 'SELECT 1'": "DROP FUNCTION copy",
    "CREATE DOMAIN copy AS kind": "DROP DOMAIN copy",
    "CREATE TYPE copy AS (kind kind)": "DROP TYPE copy",
}


@pytest.mark.slow
def test_what_came_to_need_the_type_meanwhile_keeps_its_name(project: Project) -> None:
    """The cut-over is refused as the plain DROP TYPE would be; where nothing needs the type any more, it goes on."""
    target = released(project, "typeorm")
    found = planned(target, safely(target))
    for made, dropped in NEEDS.items():
        raised = error_of(lambda made=made: execute(target, found, seen=lambda _: do(target, made)))  # type: ignore[misc]
        assert "needs type public.kind, and did not when this was planned" in raised.message, made
        of_column = "SELECT atttypid::regtype::text FROM pg_attribute WHERE attrelid = 'lines'::regclass AND attnum = 2"
        assert rows(target, of_column) == [("kind",)]
        assert rows(target, "SELECT 'x'::kind::text") == [("x",)]
        do(target, dropped)
    execute(target, found)
    assert rows(target, "SELECT enum_range(NULL::kind)::text") == [("{new,late,done}",)]


@pytest.mark.slow
def test_a_list_that_the_server_refuses_is_told_as_any_other_statement(project: Project) -> None:
    """A value that stands in it twice: the error has its line, and says that nothing changed."""
    target = project(folder={"0001_a.sql": SPELLINGS["typeorm"].replace("'late'", "'new'")}, batch_rows=100)
    do(target, TABLES)
    raised = error_of(lambda: safely(target))
    assert "step 2 of 0001_a (CREATE TYPE; 0001_a.sql, line 3) would fail" in raised.message
    assert "Nothing changed in the target" in raised.state


@pytest.mark.slow
def test_values_that_a_cast_shortens_are_tried_before_a_row_is_written(project: Project) -> None:
    """A cast through varchar(2) makes other values of those that both lists have; there is only the new type then."""
    short = SPELLINGS["typeorm"].replace('"state"::"text"', '"state"::varchar(2)').replace("'done'", "'done', 'ne'")
    target = project(folder={"0001_a.sql": short.replace("DEFAULT 'done', 'ne'", "DEFAULT 'done'")}, batch_rows=100)
    do(target, TABLES)
    found = planned(target, safely(target))
    before = looks(target)
    raised = error_of(lambda: execute(target, found))
    assert 'values of "public"."orders" cannot be converted, in 150 of its rows' in raised.message
    assert [(one.kind, one.name) for one in diff(before, looks(target))] == [("type", "public.pgrunbook_new_kind")]


@pytest.mark.slow
@pytest.mark.parametrize("before", ['ALTER TYPE "public"."kind" RENAME', "DROP TYPE"])
def test_another_enum_that_is_renamed_is_no_part_of_it(project: Project, before: str) -> None:
    """Right before the change, or in the middle of it: then that is none; the end is that of the plain SQL."""
    text = SPELLINGS["typeorm"].replace(before, f"ALTER TYPE other RENAME TO another;\n{before}", 1)
    target = project(folder={"0001_a.sql": text}, batch_rows=100)
    do(target, TABLES + "CREATE TYPE other AS ENUM ('a')")
    (change,) = safely(target).changes
    (renamed,) = [one for one in change.statements if one.sql.startswith("ALTER TYPE other")]
    assert renamed.sql in [step.sql for step in change.steps]
    assert any(one.form == "replaced-enum" for one in change.statements) is (before != "DROP TYPE")


@pytest.mark.slow
@pytest.mark.parametrize(("spelling", "type_"), [("typeorm", "kind"), ("another name", "public.phase")])
def test_no_value_is_renamed_before_contract(project: Project, spelling: str, type_: str) -> None:
    """The old column could not hold it, and nothing would bring it back: in the same release it gives the form up."""
    renames = f"ALTER TYPE {type_} RENAME VALUE 'done' TO 'over'"
    target = released(project, spelling)
    found = planned(target, safely(target))
    assert target.migrations is not None
    (Path(target.migrations) / "0002_b.sql").write_text(renames)
    changes = safely(target).changes
    assert "replaced-enum" not in [one.form for one in changes[0].statements]
    says = [one.gate.says for one in changes[0].statements if one.gate is not None and one.gate.id == "runs-as-written"]
    assert any("0002_b:1 renames a value" in one for one in says), says
    execute(target, found)
    raised = error_of(lambda: safely(target))
    assert "could not plan 0002_b:1 (ALTER TYPE RENAME VALUE): public." in raised.message
    assert "A value that one of their types calls otherwise, the other column cannot hold." in raised.detail
    assert raised.hint == "pgrunbook run contract --target TARGET, then begin again."


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new"), [("'new','done','x'", "'a','b','new','c','done','x','d'"), ("", "'new','done'")]
)
def test_the_advice_to_add_values_can_be_followed(project: Project, old: str, new: str) -> None:
    """Also where several come first, or the old list is empty: the statements end in the new list."""
    text = SPELLINGS["typeorm"].replace("'new', 'late', 'done'", new)
    assert f"ENUM({new})" in text
    target = project(folder={"0001_a.sql": text}, batch_rows=100)
    do(
        target,
        TABLES
        if old
        else TABLES.partition("INSERT")[0]
        .replace("'new', 'done', 'x'", "")
        .replace(" DEFAULT 'new'", "")
        .replace(" DEFAULT '{new}'", ""),
    )
    if not old:
        do(
            target,
            "ALTER TABLE orders ALTER state DROP NOT NULL; INSERT INTO orders SELECT FROM generate_series(1, 300)",
        )
    (change,) = safely(target).changes
    advice = (
        change.statements[0]
        .explains.partition("only adds values: ")[2]
        .removesuffix(" would do that without a second column.")
    )
    for statement in advice.split("; "):
        do(target, statement)
    assert rows(target, "SELECT enum_range(NULL::kind)::text[] = " + f"ARRAY[{new}]") == [(True,)]
