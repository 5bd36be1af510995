"""A rehearsal with the target's rows: both ways end with the same rows, or it is said before anything changed."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from conftest import connect, do, rows
from pgrunbook import history as histories
from pgrunbook.app import json_schema
from pgrunbook.branches import data_dump
from pgrunbook.branches.server_name import server_names
from pgrunbook.config.targets import Target
from pgrunbook.database.checksums import checksums
from pgrunbook.errors import Refused, StatementFailed
from pgrunbook.plan.step import Expansion
from pgrunbook.rehearse import up_down_up, with_data
from pgrunbook.rehearse.schema_only import Rehearsal
from pgrunbook.rehearse.trial import Trial
from pgrunbook.rehearse.with_data import Ways
from pgrunbook.safe_forms.update_delete import in_batches
from returning import release, take_back
from safe_forms_stage import change_form
from scenes import error_of, execute
from test_schema_only import planned, safely

Project = Callable[..., Target]
Scene = Callable[..., Target]

ENOUGH = 2**40
TABLES = """
CREATE TABLE t (id integer PRIMARY KEY, a integer, b text, at timestamptz DEFAULT '2026-01-01');
INSERT INTO t SELECT i, i % 40, 'b' || i FROM generate_series(1, 400) AS i;
CREATE TABLE "Odd t" ("I d" integer PRIMARY KEY, a integer);
INSERT INTO "Odd t" SELECT i, i FROM generate_series(1, 50) AS i;
CREATE TABLE other (id integer PRIMARY KEY, told text);
INSERT INTO other SELECT i, 'o' FROM generate_series(1, 30) AS i;
"""
AUDITED = """
CREATE TABLE audit (at timestamptz DEFAULT clock_timestamp(), what integer);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN INSERT INTO audit (what) VALUES (NEW.id); RETURN NULL; END';
CREATE TRIGGER note AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION note();
"""


@pytest.fixture
def scene(project: Project) -> Iterator[Scene]:
    """A target with tables and a release; afterwards no server of a branch is left."""

    def make(release: str, *, more: str = "", **options: object) -> Target:
        files = {f"{n:04}_m.sql": text for n, text in enumerate(release.split("\n---\n"), 1)}
        target = project(folder=files, **{"batch_rows": 20, **options})
        do(target, TABLES + more)
        return target

    yield make
    assert [name for name in server_names() if name.startswith("branch-")] == []


def tried(target: Target, *, per_second: int = 0, prefer_down_scripts: bool = False) -> tuple[Rehearsal, Ways]:
    """Rehearse a release on empty branches, and then with rows."""
    done = safely(target, prefer_down_scripts=prefer_down_scripts)
    with connect(target, purpose="test") as conn:
        pending = histories.read(conn, target).pending()
        return done, with_data.rehearse(target, pending, done, conn, most_bytes=ENOUGH, per_second=per_second)


def untouched(target: Target) -> object:
    """What must be the same before and after a rehearsal."""
    with connect(target, purpose="test") as conn:
        return checksums(conn), conn.execute("SELECT count(*) FROM pg_class").fetchone()


@pytest.mark.slow
def test_a_data_migration_ends_with_the_same_rows_both_ways(scene: Scene) -> None:
    """In batches and in one go: every touched table is compared, and the target is only read."""
    target = scene(
        "UPDATE t SET b = upper(b), a = a + 1 WHERE a > 3;\nALTER TABLE t ADD CHECK (a > 0) NOT VALID"
        '\n---\nUPDATE "Odd t" SET a = a * 2;\nINSERT INTO other SELECT id + 100, b FROM t'
        "\n---\nDELETE FROM t WHERE id % 7 = 0; CREATE TABLE n AS SELECT id FROM t"
    )
    before = untouched(target)
    done, ways = tried(target)
    assert untouched(target) == before
    seen = ways.trial
    assert [s.form for s in seen.statements] == ["batches", "", "batches", "", "batches", ""]
    assert [(s.plain.rows, s.safe.rows) for s in seen.statements if s.plain and s.safe and s.form] == [
        (360, 360), (50, 50), (57, 57),
    ]  # fmt: skip
    assert {'"public"."t"', '"public"."Odd t"', '"public"."other"', '"public"."n"'} <= set(seen.compared)
    assert [(e.migration, e.equivalent, e.declared) for e in seen.migrations] == [
        ("0001_m", True, ()), ("0002_m", True, ()), ("0003_m", True, ()),
    ]  # fmt: skip
    assert {(t.table, t.target_rows, t.branch_rows) for t in seen.tables} == {
        ("public.t", 400, 400), ('public."Odd t"', 50, 50), ("public.other", 30, 30),
    }  # fmt: skip
    assert (seen.target, seen.branch) == ("demo", "base backup with WAL to now")
    execute(target, planned(target, done))
    assert rows(target, "SELECT count(*) FROM t WHERE b ~ '^B'") == [(308,)]


@pytest.mark.slow
def test_what_is_another_value_each_time_is_named_and_not_refused(scene: Scene) -> None:
    """A time of now, a trigger's audit and a default that wanders do not stop a release."""
    target = scene("UPDATE t SET at = now();\nALTER TABLE other ADD COLUMN u uuid DEFAULT gen_random_uuid()")
    _, ways = tried(target)
    (end,) = ways.trial.migrations
    assert 'values of "public"."t".at: they differ each time' in end.declared
    assert 'values of "public"."other".u: they differ each time' in end.declared


@pytest.mark.slow
def test_the_audit_of_a_trigger_is_counted(scene: Scene) -> None:
    """Rows that a trigger writes elsewhere are as many both ways, and hold other times."""
    _, ways = tried(scene("UPDATE t SET a = a + 1", more=AUDITED))
    told = 'rows of "public"."audit": counted only, as what writes them may write other values each time'
    assert told in ways.trial.migrations[0].declared
    assert '"public"."audit"' in ways.trial.compared


@pytest.mark.slow
def test_a_violation_that_only_rows_show_is_found_before_the_fact(scene: Scene) -> None:
    """On an empty branch all is well; with rows it fails as it would, and the target is untouched."""
    target = scene("CREATE TABLE n (id int);\nALTER TABLE t ADD CONSTRAINT once UNIQUE (a)")
    before = untouched(target)
    done = safely(target)
    assert [s.form for s in done.changes[0].statements] == ["", "alter-table"]
    error = error_of(lambda: tried(target))
    assert isinstance(error, StatementFailed)
    assert error.message == (
        "the migration would fail: could not run step 2 of 0001_m (ALTER TABLE ADD CONSTRAINT; 0001_m.sql, line 2): "
        'could not create unique index "once"'
    )
    assert "Key (a)=" in error.detail
    assert error.state == "Nothing changed in the target: it failed in a rehearsal."
    assert error.hint == "Correct the migration, or the rows that it fails on."
    assert untouched(target) == before


@pytest.mark.slow
def test_a_statement_that_only_the_safe_plan_fails_on_with_rows_is_found(scene: Scene) -> None:
    """The file mends its rows after it has declared the rule for them, which the whole transaction allows."""
    target = scene(
        "ALTER TABLE t ADD CONSTRAINT tf FOREIGN KEY (a) REFERENCES other DEFERRABLE INITIALLY DEFERRED NOT VALID;\n"
        'UPDATE t SET a = 99 WHERE id = 5;\nALTER TABLE "Odd t" ADD CHECK (a > 0);\nINSERT INTO other VALUES (99)'
    )
    before = untouched(target)
    error = error_of(lambda: tried(target))
    assert isinstance(error, StatementFailed)
    assert error.message.startswith("the safe plan would fail: ")
    assert "safe_forms_off" in error.hint
    assert untouched(target) == before


@pytest.mark.slow
def test_rows_that_differ_at_the_end_are_refused_with_their_keys(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in our own form, which this test makes: the plan does not get out of the rehearsal."""
    target = scene("UPDATE t SET a = a + 1 WHERE id < 300")
    before = untouched(target)

    def forgets(found: Expansion) -> Expansion:
        begins, step, ends = found.steps
        assert step.batches is not None
        changed = replace(step.batches, statement=f"{step.batches.statement} AND id <> 7")
        return replace(found, steps=(begins, replace(step, batches=changed), ends))

    change_form(monkeypatch, in_batches, forgets)
    error = error_of(lambda: tried(target))
    assert isinstance(error, Refused)
    assert str(error) == (
        "the safe plan ends with other rows than the plain SQL\n"
        'Detail: "public"."t": 400 rows after the plain SQL, 400 after the plan; 0 missing, 1 other, 0 new (7)\n'
        "State: Nothing changed in the target: this was found on a branch.\n"
        "Hint: Switch the safe form off for the statement (safe_forms_off), and report this."
    )
    assert untouched(target) == before


@pytest.mark.slow
def test_each_step_is_told_what_it_will_take_and_on_what_that_was_measured(scene: Scene) -> None:
    """Duration, lock time and WAL, with the rows behind them; a quick step is not scaled, and none is left out."""
    target = scene("CREATE INDEX ON t (a);\nALTER TABLE t ADD CHECK (a >= 0);\nCREATE TABLE n (id int)")
    done, ways = tried(target)
    (change,) = with_data.with_estimates(done.changes, ways)
    estimates = [step.estimate for step in change.steps]
    assert all(estimate is not None for estimate in estimates)
    assert [e.basis for e in estimates if e] == [*["measured on 400 of 400 rows"] * 3, "measured once"]
    for step in change.steps:
        seen, told = ways.steps[change.migration, step.number], step.estimate
        assert told is not None
        assert told.duration_ms == round(seen.duration_ms, 1)
        assert told.wal_bytes == seen.wal_bytes > 0
    assert estimates[1] is not None
    assert estimates[1].lock_ms > 0
    assert change.model_copy(update={"steps": ()}) == done.changes[0].model_copy(update={"steps": ()})


@pytest.mark.slow
def test_an_estimate_grows_with_the_rows_that_the_branch_has_not(scene: Scene) -> None:
    """A branch with half of the rows: what reads rows takes twice as long, what does not takes as long."""
    target = scene("CREATE INDEX ON t (a);\nALTER TABLE t ADD CHECK (a >= 0)")
    done, ways = tried(target)
    twice = tuple(
        t.model_copy(update={"target_rows": t.target_rows * 2}) if t.table == "public.t" else t
        for t in ways.trial.tables
    )
    half = Ways(ways.trial.model_copy(update={"tables": twice}), ways.steps)
    (once,), (more,) = with_data.with_estimates(done.changes, ways), with_data.with_estimates(done.changes, half)
    for a, b in zip(once.steps, more.steps, strict=True):
        assert a.estimate is not None
        assert b.estimate is not None
        assert b.estimate.basis == "measured on 400 of 800 rows"
        assert b.estimate.wal_bytes == a.estimate.wal_bytes * (1 if a.quick else 2)
    assert [step.quick for step in once.steps] == [False, True, False]


@pytest.mark.slow
def test_what_was_seen_is_kept_as_text_and_read_again(scene: Scene) -> None:
    """rehearsal.json holds all of it, in the form that the schema beside the code tells."""
    _, ways = tried(scene("UPDATE t SET a = a + 1;\nCREATE INDEX ON t (a)"), per_second=100)
    text = ways.trial.text()
    assert Trial.model_validate(json.loads(text)) == ways.trial
    assert Trial.model_validate_json(text).text() == text
    schema = json.loads(json_schema.kept("rehearsal"))
    assert set(json.loads(text)) == set(schema["properties"])
    assert json.loads(text)["statements"][0]["safe"]["rows"] == 400


@pytest.mark.slow
def test_traffic_is_told_in_slots_for_both_ways(scene: Scene) -> None:
    """Slots of 50 ms in their order, each with its slowest transaction; none of them failed."""
    _, ways = tried(scene("UPDATE t SET a = a + 1;\nCREATE INDEX ON t (b)"), per_second=200)
    for told in (ways.trial.plain_traffic, ways.trial.safe_traffic):
        assert told is not None
        assert (told.per_second, told.failed) == (200, "")
        assert told.transactions > 0
        starts = [at for at, _ in told.slots]
        assert starts == sorted(set(starts))
        assert all(at % with_data.SLOT_MS == 0 for at in starts)
        assert max(ms for _, ms in told.slots) == pytest.approx(told.worst_ms, abs=0.06)
        assert told.p99_ms <= told.worst_ms


@pytest.mark.slow
def test_traffic_on_a_table_with_triggers_makes_no_difference_of_rows(scene: Scene) -> None:
    """What the triggers write because of the traffic is not what the plan does."""
    touch = """
    ALTER TABLE t ADD updated_at timestamptz;
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql
        AS 'BEGIN NEW.updated_at := clock_timestamp(); RETURN NEW; END';
    CREATE TRIGGER touch BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch();
    """
    _, ways = tried(scene("ALTER TABLE t ADD CHECK (a >= 0)", more=touch), per_second=400)
    assert ways.trial.safe_traffic is not None
    assert ways.trial.safe_traffic.transactions > 0
    told = 'rows of "public"."t": counted only, as what writes them may write other values each time'
    assert ways.trial.migrations[0].declared == (told,)


@pytest.mark.slow
def test_without_traffic_nothing_is_told_of_it(scene: Scene) -> None:
    """None, and not zeros: nobody looked."""
    _, ways = tried(scene("CREATE INDEX ON t (a)"))
    assert (ways.trial.plain_traffic, ways.trial.safe_traffic) == (None, None)


@pytest.mark.slow
def test_what_only_rows_show_to_be_written_is_compared_on_the_way_back_as_well(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is seen when the release runs; the ways back, which began before, are tried again with these tables."""
    began, prove = [], up_down_up.prove
    monkeypatch.setattr(up_down_up, "prove", lambda *a, **given: (began.append(a), prove(*a, **given))[1])
    monkeypatch.setattr(with_data, "_expected", lambda proven: {change.migration: [] for change in proven.changes})
    _, ways = tried(scene("UPDATE other SET told = 'x' WHERE id < 9"))
    (trial,) = ways.trial.ways_back
    assert (trial.proven, trial.tables) == (True, ('"public"."other"',))
    assert len(began) == 2


@pytest.mark.slow
def test_an_interruption_stops_the_ways_back_at_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are tried on a server of their own, in a statement that would take hours; no server is left."""
    target = scene("UPDATE t SET a = 1 WHERE pg_sleep(60) IS NOT NULL")
    at_work = threading.Event()
    monkeypatch.setattr(up_down_up._Sessions, "execute", _telling(up_down_up._Sessions.execute, at_work))

    def interrupted(*_: object) -> None:
        at_work.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(with_data, "_both", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tried(target)


def _telling(method: Callable[..., float], event: threading.Event) -> Callable[..., float]:
    def tell(*given: object, **named: object) -> float:
        event.set()
        return method(*given, **named)

    return tell


@pytest.mark.slow
def test_a_branch_that_holds_fewer_rows_is_refused(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times and rows there would say nothing."""
    target = scene(
        "CREATE INDEX ON fast (id)",
        more="CREATE UNLOGGED TABLE fast (id int); INSERT INTO fast SELECT generate_series(1, 50)",
    )
    before = untouched(target)
    monkeypatch.setattr(data_dump, "load", lambda *_, **__: None)
    error = error_of(lambda: tried(target))
    assert isinstance(error, Refused)
    assert str(error) == (
        'the branch holds fewer rows than target "demo"\n'
        "Detail: public.fast: 0 of 50\n"
        "State: Nothing changed in the target: this was found on a branch.\n"
        "Hint: Find out who deletes rows meanwhile, or prepare with with_data = False."
    )
    assert untouched(target) == before


@pytest.mark.slow
def test_a_target_that_only_an_address_leads_to_is_dumped(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers come of it; unlogged tables have their rows there."""
    near = scene(
        "UPDATE t SET a = a + 1;\nCREATE INDEX ON fast (id)",
        more="CREATE UNLOGGED TABLE fast (id int); INSERT INTO fast SELECT generate_series(1, 50)",
    )
    address = near.conninfo()
    monkeypatch.setenv("ADDRESS", f"postgresql://{address['user']}@/{address['dbname']}?host={address['host']}")
    far = Target(name="far", url_from="ADDRESS", migrations=near.migrations, batch_rows=20)
    before = untouched(near)
    done, ways = tried(far)
    assert ways.trial.branch == "dump and restore"
    assert {(t.table, t.branch_rows) for t in ways.trial.tables} == {("public.t", 400), ("public.fast", 50)}
    assert next(s.safe.rows for s in ways.trial.statements if s.safe) == 400
    assert untouched(near) == before
    assert all(step.estimate for change in with_data.with_estimates(done.changes, ways) for step in change.steps)


@pytest.mark.slow
def test_a_role_and_a_database_are_made_on_both_ways(scene: Scene) -> None:
    """Both databases lie on one server, and what belongs to the server is made by each of the two in turn."""
    target = scene(
        "ALTER ROLE renamed RENAME TO renamed_too;\nCREATE ROLE of_the_trial;\n"
        "GRANT SELECT ON t TO of_the_trial;\nALTER TABLE t ADD CHECK (a >= 0)"
        "\n---\nCREATE DATABASE of_the_trial"
    )
    do(target, "CREATE ROLE renamed")
    try:
        _, ways = tried(target)
        assert [(s.plain is not None, s.safe is not None) for s in ways.trial.statements] == [(True, True)] * 5
        assert rows(target, "SELECT FROM pg_roles WHERE rolname = 'of_the_trial'") == []
    finally:
        do(target, "DROP ROLE renamed")


@pytest.mark.slow
def test_a_role_can_be_dropped_on_both_ways(scene: Scene) -> None:
    """The second one finds it as the first one did."""
    target = scene("DROP ROLE going;\nALTER TABLE t ADD CHECK (a >= 0)")
    do(target, "CREATE ROLE going")
    try:
        _, ways = tried(target)
        assert all(s.plain and s.safe for s in ways.trial.statements)
    finally:
        do(target, "DROP ROLE going")


@pytest.mark.slow
def test_a_table_that_is_renamed_is_compared_by_its_new_name(scene: Scene) -> None:
    """Rows, times and all."""
    _, ways = tried(scene("UPDATE t SET at = now(), a = 1;\nALTER TABLE t RENAME TO named"))
    assert '"public"."named"' in ways.trial.compared
    assert ways.trial.migrations[0].declared == ('values of "public"."named".at: they differ each time',)


@pytest.mark.slow
def test_a_release_without_touched_tables_is_tried_all_the_same(scene: Scene) -> None:
    """What is made is compared, and nothing was there to be counted."""
    _, ways = tried(scene("CREATE TABLE n AS SELECT generate_series(1, 9) AS id"), per_second=50)
    assert ways.trial.tables == ()
    assert ways.trial.compared == ('"public"."n"',)
    assert ways.trial.safe_traffic is None


@pytest.mark.slow
def test_a_data_set_larger_than_allowed_is_not_copied(scene: Scene) -> None:
    """The bound is heeded before anything is made."""
    target = scene("CREATE INDEX ON t (a)")
    done = safely(target)
    with connect(target, purpose="test") as conn:
        pending = histories.read(conn, target).pending()
        error = error_of(lambda: with_data.rehearse(target, pending, done, conn, most_bytes=1))
    assert isinstance(error, Refused)
    assert "it is larger than allowed" in error.message


@pytest.mark.slow
def test_the_example_is_tried_with_its_rows(project: Project) -> None:
    """The pending migrations of the example: equal rows, and an estimate for each step."""
    target = project()
    done, ways = tried(target)
    assert len(ways.trial.migrations) == 3
    assert all(step.estimate for change in with_data.with_estimates(done.changes, ways) for step in change.steps)


@pytest.mark.slow
def test_a_second_release_is_not_compared_by_captured_rows_of_ours(scene: Scene) -> None:
    """What was written since the first one comes back, from tables of ours that have other rows afterwards."""
    target = scene("CREATE TABLE n (id integer PRIMARY KEY, v text); ALTER TABLE t ADD COLUMN c text")
    release(target)
    do(target, "INSERT INTO n SELECT i, 'v' FROM generate_series(1, 9) AS i; UPDATE t SET c = 'c' WHERE id < 9")
    take_back(target)
    _, ways = tried(target)
    (trial,) = ways.trial.ways_back
    assert trial.proven, trial.says
    assert not [name for name in trial.tables if "pgrunbook" in name]


@pytest.mark.slow
def test_the_first_release_of_a_tool_makes_its_history_table_once(project: Callable[..., Target]) -> None:
    """The second migration finds the table that the first one has made."""
    target = project(folder={"001_a.sql": "CREATE TABLE t (id integer)", "002_b.sql": "INSERT INTO t VALUES (1)"})
    done = safely(target)
    with connect(target) as conn:
        history = histories.read(conn, target)
        assert not history.exists
        ways = with_data.rehearse(target, history.pending(), done, conn, most_bytes=2**30)
    assert ways
