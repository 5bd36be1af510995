"""Drafting: which steps a migration becomes, which locks they ask for, and what is left as it is written."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conftest import connect, do, write_folder
from permits import permitted
from pgrunbook import history as histories
from pgrunbook.config.targets import Target
from pgrunbook.database import activity
from pgrunbook.database.schema import Relation, Snapshot
from pgrunbook.draft import build, release
from pgrunbook.errors import WrongInput
from pgrunbook.execute.execution import Execution
from pgrunbook.plan.plan import Change, Plan, Step
from pgrunbook.rehearse import branch_run
from pgrunbook.rehearse.observer import Observation, Observer
from pgrunbook.sql.classify import Policy
from pgrunbook.sql.lock_modes import covers
from scenes import error_of
from test_schema_only import safely

Project = Callable[..., Target]
Draft = Callable[..., tuple[Change, ...]]

FRESH = "This release creates its table: nobody else uses it yet."
TABLES = """
CREATE TABLE u (id integer PRIMARY KEY);
INSERT INTO u SELECT generate_series(1, 50);
CREATE TABLE t (id integer PRIMARY KEY, a integer, b text);
INSERT INTO t SELECT i, i, 'b' || i FROM generate_series(1, 50) AS i;
CREATE TABLE small (id integer PRIMARY KEY, a integer);
INSERT INTO small VALUES (1, 1);
CREATE SCHEMA "Odd schema";
CREATE TABLE "Odd schema"."T 1" (id integer PRIMARY KEY, "A a" integer);
INSERT INTO "Odd schema"."T 1" SELECT i, i FROM generate_series(1, 50) AS i;
CREATE TABLE p (id integer NOT NULL, a integer) PARTITION BY RANGE (id);
CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (30);
CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM (30) TO (60);
INSERT INTO p SELECT i, i FROM generate_series(1, 50) AS i;
CREATE INDEX t_b ON t (b);
CREATE MATERIALIZED VIEW mv AS SELECT a, count(*) AS n FROM t GROUP BY a;
CREATE UNIQUE INDEX mv_a ON mv (a);
"""


def on_a_branch(target: Target, off: dict[str, str] | None = None) -> tuple[Change, ...]:
    """What a release becomes when each statement is tried on an empty branch."""
    return safely(target, off).changes


def unproven(target: Target, off: dict[str, str] | None = None) -> tuple[Change, ...]:
    """What it becomes when it is judged on the target alone."""
    with connect(target, purpose="test") as conn:
        return release.unproven(target, conn, histories.read(conn, target).pending(), off or {})


both_ways = pytest.mark.parametrize("drafted", [on_a_branch, unproven])


@pytest.fixture
def stage(project: Project) -> Callable[..., Target]:
    """A target with tables of 50 rows, of which five are many, and a release of the given files."""

    def make(*files: str) -> Target:
        named = {f"{number:04}_m.sql": text for number, text in enumerate(files, 1)}
        target = project(folder=named, batch_rows=5)
        do(target, TABLES)
        return target

    return make


def forms(changes: tuple[Change, ...]) -> list[str]:
    """The form of each written statement, over all files."""
    return [statement.form for change in changes for statement in change.statements]


def sql(changes: tuple[Change, ...]) -> list[str]:
    """What is sent, step by step."""
    return [step.sql for change in changes for step in change.steps]


def watched(target: Target, changes: tuple[Change, ...]) -> dict[tuple[str, int], Observation]:
    """What each step did when it was executed on the target itself."""
    with (
        connect(target, purpose="test") as conn,
        branch_run.journal() as journal,
        Observer(target, conn) as observer,
    ):
        for change in changes:
            history = histories.read(conn, target)
            base = build.base(activity.identity(conn), Snapshot(0, ()), history)
            plan = Plan(direction="up", target=target.name, base=base, attempts=3, rehearsed="no", changes=(change,))
            permit = permitted(plan, "watched", conn)
            Execution(plan, target, "watched", conn, history, journal, permit, observer=observer).run()
        return {(seen.migration, seen.step): seen for seen in observer.results}


def locks(step: Step | Observation, there: set[str] | None = None) -> set[tuple[str, str]]:
    """The locks of a step, promised or seen: all, or those on what was there before the release."""
    return {(lock.object, lock.mode) for lock in step.locks if there is None or lock.object in there}


LOCKED = """
alter-table: ALTER TABLE t ADD CONSTRAINT positive CHECK (a > 0)
alter-table: ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES u
alter-table: ALTER TABLE t ALTER a SET NOT NULL
alter-table: ALTER TABLE t ADD UNIQUE (b)
alter-table: ALTER TABLE "Odd schema"."T 1" ADD UNIQUE ("A a")
alter-table: ALTER TABLE p ADD CHECK (a > 0)
alter-table: ALTER TABLE p ADD PRIMARY KEY (id)
alter-table: ALTER TABLE t ADD COLUMN r double precision NOT NULL DEFAULT random()
alter-table: ALTER TABLE t ADD COLUMN n bigserial
create-index: CREATE INDEX ON t (a)
create-index: CREATE INDEX ON p (a)
drop-index: DROP INDEX t_b
reindex: REINDEX TABLE t
batches: UPDATE "Odd schema"."T 1" SET "A a" = "A a" + 1
detach-partition: ALTER TABLE p DETACH PARTITION p_2
refresh: REFRESH MATERIALIZED VIEW mv
""".strip().split("\n")


@pytest.mark.first_case
@pytest.mark.parametrize("line", LOCKED)
def test_a_step_takes_the_locks_that_were_promised(stage: Callable[..., Target], line: str) -> None:
    """What pg_locks shows while each step of a safe form runs was told before, by name and mode, but for readers'."""
    form, _, statement = line.partition(": ")
    target = stage(statement)
    done = safely(target)
    changes, there = done.changes, {relation.name for relation in done.before.of(Relation)}
    assert forms(changes) == [form]
    seen = watched(target, changes)
    for change in changes:
        for step in change.steps:
            promised, taken = locks(step, there), locks(seen[change.migration, step.number], there)
            untold = {
                (name, mode)
                for name, mode in taken - promised
                if mode != "AccessShareLock" and not any(on == name and covers(most, mode) for on, most in promised)
            }
            assert untold == set(), step.sql
            if step.policy is Policy.TOGETHER and step.batches is None:  # else they are gone when it has ended
                assert promised <= taken, step.sql


@pytest.mark.slow
def test_every_part_of_a_safe_form_stands_for_the_statement_that_was_written(stage: Callable[..., Target]) -> None:
    """Steps are numbered through, each names its statement, and what is written is kept beside them."""
    target = stage("ALTER TABLE t ADD CHECK (a > 0);\nALTER TABLE u ADD n int;\nCREATE INDEX ON t (a)")
    (change,) = on_a_branch(target)
    assert [s.sql for s in change.statements] == [
        "ALTER TABLE t ADD CHECK (a > 0)", "ALTER TABLE u ADD n int", "CREATE INDEX ON t (a)",
    ]  # fmt: skip
    assert [s.key for s in change.statements] == ["0001_m:1", "0001_m:2", "0001_m:3"]
    assert [step.number for step in change.steps] == [1, 2, 3, 4]
    assert [(step.statement, step.line, step.form) for step in change.steps] == [
        (1, 1, "alter-table"), (1, 1, "alter-table"), (2, 2, ""), (3, 3, "create-index"),
    ]  # fmt: skip
    assert [segment.kind for segment in change.segments()] == ["together", "together", "together", "alone", "together"]


@pytest.mark.slow
@pytest.mark.first_case
@both_ways
def test_a_form_that_is_switched_off_leaves_the_statement_as_it_is_written(
    stage: Callable[..., Target], drafted: Draft
) -> None:
    """Only the named statement, only in the named file, and the plan holds the reason."""
    checks = "ALTER TABLE t ADD CHECK (a > 0);\nALTER TABLE t ADD CHECK (a > 1)"
    target = stage(checks, checks.replace("TABLE t", "TABLE u").replace("(a", "(id"))
    changes = drafted(target, {"0001_m:2": "the table is empty at night"})
    assert forms(changes) == ["alter-table", "", "alter-table", "alter-table"]
    off = changes[0].statements[1]
    assert off.off == "the table is empty at night"
    assert off.explains == "Its safe form is switched off: the table is empty at night"
    assert [step.sql for step in changes[0].of_statement(2)] == ["ALTER TABLE t ADD CHECK (a > 1)"]
    assert [s.off for c in changes for s in c.statements] == ["", off.off, "", ""]


NEW_TABLES = {
    "a name": "CREATE TABLE n (id int, a int)",
    "a quoted name": 'CREATE TABLE "n" (id int, a int)',
    "a qualified name": 'CREATE TABLE "public"."n" (id int, a int)',
    "a query": "CREATE TABLE n AS SELECT id, a FROM t",
    "SELECT INTO": "SELECT id, a INTO n FROM t",
    "a model": "CREATE TABLE n (LIKE t)",
    "a partition": "CREATE TABLE n PARTITION OF p FOR VALUES FROM (60) TO (90)",
    "another name": "CREATE TABLE m (id int, a int); ALTER TABLE m RENAME TO n",
}


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize(
    ("made", "spelt"),
    [*((made, "n") for made in NEW_TABLES.values()), (NEW_TABLES["a name"], '"public"."n"')],
    ids=[*NEW_TABLES, "spelt otherwise"],
)
def test_a_table_that_the_release_made_needs_no_safe_form(stage: Callable[..., Target], made: str, spelt: str) -> None:
    """However it was made and however it is spelt, in the same file and in a later one: nobody waits for it."""
    target = stage(made, f"CREATE INDEX ON {spelt} (a); ALTER TABLE {spelt} ADD CHECK (a > 0)")
    changes = on_a_branch(target)
    assert set(forms(changes)) == {""}
    assert [s.explains for s in changes[1].statements] == [FRESH, FRESH]
    assert forms(unproven(target)) == forms(changes)
    write_folder(target.migrations, {"0001_m.sql": f"{made}; UPDATE {spelt} SET a = 1", "0002_m.sql": "SELECT 1"})
    for changes in (on_a_branch(target), unproven(target)):
        assert set(forms(changes)) == {""}
        assert all(step.batches is None for change in changes for step in change.steps)


@pytest.mark.slow
def test_a_table_of_the_same_name_elsewhere_is_not_the_one_that_was_made(stage: Callable[..., Target]) -> None:
    """A new table in another schema does not make the old one new."""
    target = stage("CREATE SCHEMA s; CREATE TABLE s.t (a int)", "CREATE INDEX ON t (a); CREATE INDEX ON s.t (a)")
    for changes in (on_a_branch(target), unproven(target)):
        assert forms(changes) == ["", "", "create-index", ""]


@pytest.mark.slow
def test_a_table_that_was_there_already_was_not_made_by_the_release(stage: Callable[..., Target]) -> None:
    """CREATE TABLE IF NOT EXISTS made nothing: the table has rows, and others use it."""
    target = stage("CREATE TABLE IF NOT EXISTS t (id int, a int)", "CREATE INDEX ON t (a)")
    assert forms(on_a_branch(target)) == ["", "create-index"]


@pytest.mark.slow
def test_a_table_that_takes_the_place_of_an_old_one_is_new(stage: Callable[..., Target]) -> None:
    """A copy that is renamed into place: nobody had it before, whatever its name meant."""
    target = stage(
        "CREATE TABLE t_new (LIKE t); ALTER TABLE t RENAME TO t_old; ALTER TABLE t_new RENAME TO t",
        "CREATE INDEX ON t (a); CREATE INDEX ON t_old (a)",
    )
    changes = on_a_branch(target)
    assert [s.form for s in changes[1].statements] == ["", "create-index"]
    assert changes[1].statements[0].explains == FRESH


@pytest.mark.slow
def test_a_table_that_was_renamed_by_the_release_counts_as_big(stage: Callable[..., Target]) -> None:
    """The target does not know it by its new name, so that its rows cannot be counted: it is done in batches."""
    target = stage("ALTER TABLE small RENAME TO tiny", "UPDATE tiny SET a = 2 WHERE a = 1")
    changes = on_a_branch(target)
    assert forms(changes) == ["", "batches"]
    assert changes[0].statements[0].gate is not None
    write_folder(target.migrations, {"0001_m.sql": "SELECT 1", "0002_m.sql": "UPDATE small SET a = 2 WHERE a = 1"})
    assert forms(on_a_branch(target)) == ["", ""]


@pytest.mark.slow
@pytest.mark.first_case
@both_ways
@pytest.mark.parametrize(
    "moves",
    [
        'SET search_path = "Odd schema"',
        'SET LOCAL search_path = "Odd schema", public',
        "SELECT set_config('search_path', '\"Odd schema\"', false)",
    ],
)
def test_names_behind_a_search_path_of_the_files_own_are_found_or_gated(
    stage: Callable[..., Target], drafted: Draft, moves: str
) -> None:
    """What follows in this file means what the file says, or is a gate; the next file begins where the session does."""
    first = f'CREATE INDEX ON t (a); {moves}; CREATE INDEX ON "T 1" ("A a"); UPDATE "T 1" SET "A a" = 1'
    target = stage(first, "CREATE INDEX ON t (a, b)")
    changes = drafted(target)
    gates = [s.gate and s.gate.id for change in changes for s in change.statements]
    if "LOCAL" in moves:  # it holds for one transaction, and a safe form needs several
        assert forms(changes) == ["create-index", "", "", "", "create-index"]
        assert gates == [None, None, "runs-as-written", "runs-as-written", None]
        assert sql(changes)[2:4] == ['CREATE INDEX ON "T 1" ("A a")', 'UPDATE "T 1" SET "A a" = 1']
        return
    assert forms(changes) == ["create-index", "", "create-index", "batches", "create-index"]
    assert gates == [None] * 5
    assert all('"Odd schema"."T 1"' in text for text in sql(changes)[2:4])


@pytest.mark.slow
def test_a_search_path_that_a_file_sets_leads_where_the_plain_sql_leads(stage: Callable[..., Target]) -> None:
    """The plan is executed: the index is on the table that the file's own search_path finds."""
    target = stage('CREATE INDEX ON t (a); SET search_path = "Odd schema"; CREATE INDEX odd ON "T 1" ("A a")')
    changes = on_a_branch(target)
    seen = watched(target, changes)
    assert seen
    with connect(target, purpose="test") as conn:
        found = conn.execute("SELECT schemaname, tablename FROM pg_indexes WHERE indexname = 'odd'").fetchall()
    assert found == [("Odd schema", "T 1")]


@pytest.mark.slow
@both_ways
def test_short_statements_on_several_tables_do_not_hold_each_others_locks(
    stage: Callable[..., Target], drafted: Draft
) -> None:
    """Each table gets a transaction; two statements on the same table share one, and one wait for the lock."""
    target = stage("ALTER TABLE t ADD n int; ALTER TABLE t ADD m int; ALTER TABLE u ADD n int")
    (change,) = drafted(target)
    assert [step.sql for step in change.steps] == [
        "ALTER TABLE t ADD n int;\nALTER TABLE t ADD m int", "ALTER TABLE u ADD n int",
    ]  # fmt: skip
    assert [step.own_transaction for step in change.steps] == [True, True]
    assert change.of_statement(2) == []
    assert [locks(step) for step in change.steps] == [
        {("public.t", "AccessExclusiveLock")}, {("public.u", "AccessExclusiveLock")},
    ]  # fmt: skip


@pytest.mark.slow
def test_without_a_branch_a_release_is_drafted_on_what_is_there(stage: Callable[..., Target]) -> None:
    """Nothing is executed to draft it: the target stays as it is, and a big table gets its form all the same."""
    target = stage("ALTER TABLE t ADD n int; CREATE INDEX ON t (n)", "UPDATE t SET n = 1; UPDATE small SET a = 2")
    changes = unproven(target)
    assert forms(changes) == ["", "create-index", "batches", ""]
    with connect(target, purpose="test") as conn:
        assert conn.execute("SELECT to_regclass('pgrunbook.step'), to_regclass('t_n_idx')").fetchone() == (None, None)


@both_ways
def test_a_file_that_does_not_parse_is_not_drafted(stage: Callable[..., Target], drafted: Draft) -> None:
    """Neither way tries it: the error names the file."""
    error = error_of(lambda: drafted(stage("CREATE TABLE n (;")))
    assert isinstance(error, WrongInput)
    assert "0001_m.sql" in str(error)
