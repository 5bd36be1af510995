"""The permit: nothing is executed without one, and one is for this plan, this run and this connection only."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from acting import error, events, run
from conftest import Site, connect, do, rows, write_folder
from forks import ForkedProcess
from permits import permitted
from pgrunbook import history as histories
from pgrunbook.branches import branch_server, data_branch, isolation, provenance
from pgrunbook.branches.recovery_target import Point
from pgrunbook.branches.schema_branch import copy_schema
from pgrunbook.branches.server import Server
from pgrunbook.config import targets
from pgrunbook.config.targets import Target
from pgrunbook.database import connection
from pgrunbook.errors import Refused, WrongInput
from pgrunbook.execute import permit, restoration
from pgrunbook.execute import purge as purging
from pgrunbook.execute.execution import Execution
from pgrunbook.execute.permit import Permit
from pgrunbook.plan import plan as plans
from pgrunbook.procedures import migrate, purge, restore, rollback
from pgrunbook.record import run as runs
from pgrunbook.record.run import Run
from pgrunbook.runner import runbook
from pgrunbook.session import acceptance
from pgrunbook.session import session as heres
from pgrunbook.session.parameters import Migrate
from pgrunbook.session.session import Session
from scenes import error_of, plan_of

Project = Callable[..., Target]
FOLDER = {"0001_a.sql": "ALTER TABLE a RENAME n TO number", "0002_b.sql": "CREATE TABLE b (id int PRIMARY KEY)"}
SOMEBODY_ELSE = """CREATE TABLE schema_migrations (version text PRIMARY KEY, applied_at timestamptz DEFAULT now());
INSERT INTO schema_migrations VALUES ('0001_a')"""


@dataclass(frozen=True)
class Kept:
    """A target whose plan has a gate, and its run that was prepared: made once, given to each test as it was then."""

    site: Site
    folder: Path
    run: Run

    def put_back(self) -> None:
        """Put the database back."""
        with self.site.server.connect() as conn:
            conn.execute("DROP DATABASE IF EXISTS permit WITH (FORCE)")
            conn.execute("CREATE DATABASE permit TEMPLATE permit_kept")


@pytest.fixture(scope="module")
def kept(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    folder = tmp_path_factory.mktemp("permit")
    write_folder(folder / "migrations", FOLDER)
    (folder / "targets.toml").write_text(
        f'[demo]\nserver = "main"\ndatabase = "permit"\nmigrations = "{folder}/migrations"\n'
    )
    with pytest.MonkeyPatch.context() as patch, site.server.connect() as conn:
        patch.setenv("PGRUNBOOK_TARGETS", str(folder / "targets.toml"))
        patch.setenv("PGRUNBOOK_OUTPUTS", str(folder / "outputs"))
        conn.execute("CREATE DATABASE permit")
        do(targets.load("demo"), "CREATE TABLE a (id int PRIMARY KEY, n int); ALTER TABLE a REPLICA IDENTITY FULL")
        do(targets.load("demo"), "CREATE PUBLICATION sends FOR TABLE a")
        made, code = run("prepare")
        assert code == 0
        conn.execute("CREATE DATABASE permit_kept TEMPLATE permit")
        yield Kept(site, folder, made)
        for name in ("permit", "permit_kept"):
            conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())


@pytest.fixture
def target(kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    """A target whose plan has a gate."""
    kept.put_back()
    monkeypatch.setenv("PGRUNBOOK_TARGETS", str(kept.folder / "targets.toml"))
    monkeypatch.setenv("PGRUNBOOK_OUTPUTS", str(tmp_path / "outputs"))
    return targets.load("demo")


@pytest.fixture
def prepared(kept: Kept, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A run that has prepared its plan, opened by hand in its folder."""
    assert target.name == "demo"
    shutil.copytree(kept.folder / "outputs", tmp_path / "outputs", symlinks=True)
    made = runs.load(tmp_path / "outputs" / kept.run.folder.relative_to(kept.folder / "outputs"))
    monkeypatch.chdir(made.folder)
    yield made
    heres._end_earlier()


@pytest.fixture
def accepted(prepared: Run) -> Run:
    """The same run with its gate accepted."""
    acceptance.accept(prepared.run_id, [])
    return prepared


def stepped(**given: object) -> Session:
    """Step through migrate in this process, up to its execution."""
    here = migrate.begin(target="demo", **given)
    migrate.is_it_still_so(here)
    migrate.take_restore_point(here)
    return here


def is_untouched(target: Target) -> bool:
    return rows(target, "SELECT to_regclass('public.b'), to_regclass('public.schema_migrations')") == [(None, None)]


@pytest.mark.slow
def test_in_a_bare_process_nothing_is_executed_and_the_cell_to_run_is_named(prepared: Run, target: Target) -> None:
    """`begin` and the cell that executes are not enough, in none of the four procedures."""
    assert prepared.run_id
    cells: list[tuple[Any, Callable[[Session], object], str, str]] = [
        (migrate, migrate.execute_plan, "execute-plan", "is-it-still-so"),
        (migrate, migrate.take_restore_point, "take-restore-point", "is-it-still-so"),
        (rollback, rollback.take_back, "take-back", "what-goes-back"),
        (rollback, rollback.take_restore_point, "take-restore-point", "what-goes-back"),
        (purge, purge.purge_it, "purge-it", "what-is-captured"),
        (restore, restore.restore_to_branch, "restore-to-branch", "choose-the-point"),
    ]
    for procedure, cell, name, needed in cells:
        here = procedure.begin(target="demo")
        told = error_of(lambda cell=cell, here=here: cell(here))  # type: ignore[misc]
        assert str(told) == (
            f'cell "{name}" changes nothing before cell "{needed}" has passed\n'
            f'Detail: Cell "{needed}": since this notebook was begun it was not run, or it has refused.\n'
            "State: Nothing changed in the database.\n"
            f'Hint: Run cell "{needed}" first, then this cell again.'
        )
        assert (type(told), told.exit_code) == (Refused, 3)
    assert is_untouched(target)


@pytest.mark.slow
def test_after_a_refusal_by_hand_the_next_cells_refuse_too(prepared: Run, target: Target) -> None:
    """The gates are open: neither restore point nor plan; accepted, the same cells go on in the same kernel."""
    here = migrate.begin(target="demo")
    refused = error_of(lambda: migrate.is_it_still_so(here)).lines()
    assert refused[0] == "the plan has 1 gate that nobody has accepted"
    # The run was made headless: it is gone on with by its command.
    assert refused[-1].endswith(f"0001_a:1; then pgrunbook run --resume {prepared.run_id}")
    for cell in (migrate.take_restore_point, migrate.execute_plan):
        assert error_of(lambda cell=cell: cell(here)).hint.startswith('Run cell "is-it-still-so" first')  # type: ignore[misc]
    assert not events(prepared, "restore-point-meant")
    assert is_untouched(target)
    acceptance.accept(prepared.run_id, [])
    for step in (migrate.is_it_still_so, migrate.take_restore_point, migrate.execute_plan):
        step(here)
    assert not is_untouched(target)


def test_by_hand_the_hint_names_no_command_of_the_runner(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run --resume` refuses a run that is stepped through; its cell is run again instead."""
    made = runbook.start("migrate", target.name, {})
    monkeypatch.chdir(made.folder)
    told = error_of(stepped).hint
    heres._end_earlier()
    assert told.endswith(f"pgrunbook accept {made.run_id} 0001_a:1; then run the cell that refused again")


BESIDE = """
import os, sys
from pgrunbook.procedures import migrate
os.chdir(sys.argv[1])
here = migrate.begin(target="demo")
migrate.is_it_still_so(here)
migrate.take_restore_point(here)
"""


@pytest.mark.slow
def test_what_passed_in_a_kernel_counts_in_that_kernel_only(accepted: Run, target: Target) -> None:
    """Restarted in the middle, the checks are run again; also where somebody makes the session up without `begin`."""
    with tempfile.TemporaryFile() as told:
        assert ForkedProcess(BESIDE, str(accepted.folder), told=told.fileno()).wait() == 0
    made_up = Session("migrate", runs.load(accepted.folder), target, Migrate(target="demo"))
    plan = plans.read(accepted.folder / "plan.json")
    with connect(target) as conn:
        made_up.facts.update(plan=plan, history=histories.read(conn, target))
    made_up.subject = frozenset({plan.digest})
    for session in (lambda: made_up, lambda: migrate.begin(target="demo"), lambda: restarted(stepped())):
        told_ = error_of(lambda session=session: migrate.execute_plan(session()))  # type: ignore[misc]
        assert told_.hint == 'Run cell "is-it-still-so" first, then this cell again.'
    assert is_untouched(target)
    here = migrate.begin(target="demo")
    migrate.is_it_still_so(here)
    assert error_of(lambda: migrate.execute_plan(here)).hint.startswith('Run cell "take-restore-point" first')
    migrate.take_restore_point(here)
    migrate.execute_plan(here)
    assert len(events(accepted, "restore-point-created")) == 1
    assert not is_untouched(target)


def restarted(before: Session) -> Session:
    """Run the set-up cell again, and keep what the cells had found."""
    here = migrate.begin(target="demo")
    here.facts, here.subject = before.facts, before.subject
    return here


@pytest.mark.slow
def test_the_last_try_of_a_check_counts(accepted: Run, target: Target) -> None:
    """What has passed and refuses now has not passed, also when the reason is gone again."""
    assert accepted.run_id
    here = stepped()
    do(target, "CREATE TABLE intruder (id int)")
    assert error_of(lambda: migrate.is_it_still_so(here)).message == "the schema changed since the plan was made"
    do(target, "DROP TABLE intruder")
    assert error_of(lambda: migrate.execute_plan(here)).hint.startswith('Run cell "is-it-still-so" first')
    assert is_untouched(target)
    migrate.is_it_still_so(here)
    migrate.execute_plan(here)
    assert not is_untouched(target)


@pytest.mark.slow
def test_a_second_time_nothing_is_executed(accepted: Run, target: Target) -> None:
    """In the same kernel and in another one it shows what is done; taken back since, it refuses."""
    here = stepped()
    migrate.execute_plan(here)
    history = rows(target, "SELECT * FROM schema_migrations")
    assert "This step is done: " in repr(migrate.execute_plan(here))
    again = stepped()
    assert "It was not done again" in repr(migrate.execute_plan(again))
    assert rows(target, "SELECT * FROM schema_migrations") == history
    do(target, "ALTER TABLE a RENAME number TO n; DROP TABLE b; DELETE FROM schema_migrations")
    for call in (lambda: migrate.execute_plan(again), stepped):
        assert error_of(call).lines() == [
            f"run {accepted.run_id} has applied 0001_a before",
            "Detail: Somebody has taken it back since.",
            "State: Nothing changed in the database.",
            "Hint: Start a new run, whose plan is made for the database of today.",
        ]
    assert rows(target, "SELECT to_regclass('public.b')") == [(None,)]


def test_an_acceptance_of_another_plan_is_none(prepared: Run, target: Target) -> None:
    """Gates are accepted for a digest, and the file has to be the plan that was frozen."""
    plan = plans.read(prepared.folder / "plan.json")
    other = plan.model_copy(update={"attempts": plan.attempts + 1})
    acceptance.note(prepared, other, ["0001_a.sql:1"])
    here = migrate.begin(target="demo")
    assert error_of(lambda: migrate.is_it_still_so(here)).message.endswith("gate that nobody has accepted")
    (prepared.folder / "plan.json").write_text(other.text())
    told = error_of(lambda: migrate.is_it_still_so(here))
    assert told.message == "plan.json is not the plan that was frozen in this run"
    assert is_untouched(target)


@pytest.mark.slow
def test_the_permit_does_not_rely_on_what_the_check_saw(prepared: Run, target: Target) -> None:
    """A gate that was accepted for the check only, and another plan that was frozen since."""
    here = stepped(accept=["0001_a.sql:1"])
    given, here.parameters = here.parameters, Migrate(target="demo")
    assert error_of(lambda: migrate.execute_plan(here)).message == "the plan has 1 gate that nobody has accepted"
    here.parameters = given
    prepared.journal.write("plan-frozen", digest="0" * 64)
    told = error_of(lambda: migrate.execute_plan(here))
    assert told.message == "plan.json is not the plan that was frozen in this run"
    assert is_untouched(target)


@pytest.mark.slow
def test_a_plan_that_was_exchanged_after_the_check_is_not_executed(accepted: Run, target: Target) -> None:
    """What passed was about one digest; approved by its first twelve digits it is executed, by others not."""
    plan = plans.read(accepted.folder / "plan.json")
    here = stepped(approved=plan.digest[:12])
    here.facts["plan"] = plan.model_copy(update={"attempts": plan.attempts + 1})
    told = error_of(lambda: migrate.execute_plan(here))
    assert told.detail == 'Cell "is-it-still-so": it has passed for something else than what would be done now.'
    here.facts["plan"] = plan
    here.parameters = Migrate(target="demo", approved="0123456789ab")
    assert error_of(lambda: migrate.execute_plan(here)).message == "the plan is not the one that was approved"
    assert is_untouched(target)
    assert isinstance(error_of(lambda: migrate.begin(target="demo", approved=plan.digest[:11])), WrongInput)
    here = stepped(approved=plan.digest[:12])
    migrate.execute_plan(here)
    assert not is_untouched(target)


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("CREATE TABLE intruder (id int)", "the schema changed since the plan was made"),
        (SOMEBODY_ELSE, "the history table changed while this run was waiting"),
        ("DELETE FROM pgrunbook.restore_point", "run {run} has no restore point in this database"),
        ("UPDATE pgrunbook.restore_point SET name = 'rollback_' || name",
         "run {run} has no restore point in this database"),
        ("UPDATE pgrunbook.restore_point SET run_id = 'another'", "run {run} has no restore point in this database"),
    ],
)  # fmt: skip
def test_what_changed_between_check_and_execution_is_seen(
    accepted: Run, target: Target, change: str, told: str
) -> None:
    """The permit asks the database as it is now, under the run lock: its schema, its history, its restore point."""
    here = stepped()
    do(target, change)
    refused = error_of(lambda: migrate.execute_plan(here))
    assert isinstance(refused, Refused)
    assert refused.message == told.format(run=accepted.run_id)
    assert rows(target, "SELECT to_regclass('public.b')") == [(None,)]
    assert "number" not in str(rows(target, "SELECT attname FROM pg_attribute WHERE attrelid = 'a'::regclass"))


@pytest.mark.slow
def test_without_restore_points_none_is_asked_for(project: Project) -> None:
    """Where the target has them off, its plan is executed without one."""
    target = project(folder={"0001_b.sql": FOLDER["0002_b.sql"]}, restore_points=False)
    assert run("migrate")[1] == 0
    assert rows(target, "SELECT to_regclass('public.b')") == [("b",)]
    assert rows(target, "SELECT count(*) FROM pgrunbook.restore_point") == [(0,)]


def test_a_permit_is_for_its_plan_its_run_and_its_connection(accepted: Run, target: Target) -> None:
    """With any other the execution does not begin."""
    here = stepped()
    plan = plans.read(accepted.folder / "plan.json")
    with connect(target) as conn, connect(target) as other:
        history = histories.read(conn, target)
        made = permit.of_run(here, plan, conn)

        def executed(with_: Any = conn, of: Any = plan, by: str = accepted.run_id, permit: Permit = made) -> list[str]:
            work = Execution(of, target, by, with_, history, accepted.journal, permit)
            return error_of(work.run).lines()

        assert executed(with_=other) == [
            "the permit is for another connection",
            f"Detail: It was made in run {accepted.run_id} for {plan.digest}.",
            "State: Nothing changed in the database.",
            "Hint: Run the cells of the notebook in their order: the last of them asks for the right permit.",
        ]
        assert executed(by="another")[0] == "the permit is for another run"
        assert executed(of=plan_of(target))[0] == "the permit is for another plan, item or point"
        assert executed(permit=permitted(plan_of(target), accepted.run_id, conn))[0].endswith("plan, item or point")
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'permit'"):
            Execution(plan, target, accepted.run_id, conn, history, accepted.journal)  # type: ignore[call-arg]
        made.check(plan.digest, conn)
        assert executed()[0] == "the permit was used before"
    with pytest.raises(TypeError, match="made by a check only"):
        Permit("run", frozenset({plan.digest}), None, object())
    assert is_untouched(target)


@pytest.mark.slow
def test_a_session_of_another_procedure_permits_nothing(accepted: Run, target: Target) -> None:
    """The checks of a rollback are not those of a release, whatever the session holds."""
    here = stepped()
    plan = plans.read(accepted.folder / "plan.json")
    here.procedure = "rollback"
    with connect(target) as conn:
        for given in (plan, plan.model_copy(update={"direction": "down"})):
            assert isinstance(error_of(lambda given=given: permit.of_run(here, given, conn)), Refused)  # type: ignore[misc]
        assert isinstance(error_of(lambda: permit.of_purge(here, [], conn)), Refused)
    assert is_untouched(target)


@pytest.mark.slow
def test_a_rollback_asks_the_database_again(project: Project) -> None:
    """Its plan was made for the schema of then; whoever changes it meanwhile is not overrun."""
    target = project(folder={"0001_b.sql": FOLDER["0002_b.sql"]})
    assert run("release")[1] == 0
    here = rollback.begin(target="demo", with_data=False)
    for step in (rollback.what_goes_back, rollback.what_about_new_rows, rollback.try_it, rollback.take_restore_point):
        step(here)
    do(target, "ALTER TABLE b ADD COLUMN more int")
    assert error_of(lambda: rollback.take_back(here)).message == "the schema changed since the plan was made"
    do(target, "ALTER TABLE b DROP COLUMN more")
    here.parameters = here.parameters.model_copy(update={"on_conflict": "restore"})
    decided = error_of(lambda: rollback.take_back(here))
    assert decided.detail.endswith("it has passed for something else than what would be done now.")
    heres._end_earlier()
    assert rows(target, "SELECT to_regclass('public.b')") == [("b",)]


@pytest.mark.slow
def test_a_down_script_that_reaches_outside_is_a_gate_of_the_rollback(project: Project) -> None:
    """No branch executes it: it is accepted by its place, or nothing is taken back."""
    base = Path(tempfile.mkdtemp(prefix="pgo-"))
    base.chmod(0o777)
    down = f"DROP TABLE b;\nCOPY (SELECT 'ran') TO PROGRAM 'cat >> {base}/ran';"
    target = project(folder={"0001_b.sql": FOLDER["0002_b.sql"], "0001_b.down.sql": down})
    try:
        assert run("migrate")[1] == 0
        made, code = run("rollback")
        assert (code, made.parts[0].says) == (3, "the plan has 1 gate that nobody has accepted")
        assert f"pgrunbook accept {made.run_id} 0001_b:2; then pgrunbook run --resume" in error(made)
        assert not events(made, "restore-point-meant")
        assert rows(target, "SELECT to_regclass('public.b')") == [("b",)]
        assert acceptance.accept(made.run_id, ["0001_b:2"]) == (["0001_b:2"], [])
        made, code = runbook.resume(made.run_id)
        assert code == 0, error(made)
        assert (base / "ran").read_text() == "ran\n"
        assert rows(target, "SELECT to_regclass('public.b')") == [(None,)]
        assert isinstance(error_of(lambda: acceptance.accept(made.run_id, [])), Refused)
    finally:
        shutil.rmtree(base)


@pytest.mark.slow
def test_only_what_was_shown_is_purged(project: Project) -> None:
    """An item that means something else by now needs another look, and one that was not chosen needs a permit."""
    target = project(folder={"0001_a.sql": "ALTER TABLE a DROP COLUMN n", "0002_b.sql": "ALTER TABLE a DROP COLUMN m"})
    do(target, "CREATE TABLE a (id int PRIMARY KEY, n int, m int); INSERT INTO a VALUES (1, 2, 3)")
    assert run("release", accept="0001_a.sql:1,0002_b.sql:1")[1] == 0
    (number, _), *_ = rows(target, "SELECT id, migration FROM pgrunbook.kept ORDER BY id")
    here = purge.begin(target="demo", ids=[number], force=True)
    purge.what_is_captured(here)
    purge.what_goes(here)
    with connect(target) as conn:
        made = permit.of_purge(here, [int(str(number))], conn)
        other = next(i for i in purging.items(conn, histories.read(conn, target)) if i.id != number)
        told = error_of(lambda: purging.drop(conn, target, other, made))
        assert told.message == "the permit is for another plan, item or point"
        conn.execute("DELETE FROM pgrunbook.restore_point")  # its loss is another one now
    told = error_of(lambda: purge.purge_it(here))
    assert told.hint == 'Run cell "what-is-captured" first, then this cell again.'
    heres._end_earlier()
    assert rows(target, "SELECT count(*) FROM pgrunbook.kept WHERE state = 'purged'") == [(0,)]


@pytest.mark.slow
@pytest.mark.usefixtures("target")
def test_only_the_point_that_was_chosen_is_restored_to() -> None:
    """Another point needs a permit of its own, and its server is not made."""
    assert run("migrate", accept="0001_a.sql:1")[1] == 0
    here = restore.begin(target="demo")
    for step in (restore.meet_the_target, restore.what_can_be_restored, restore.choose_the_point):
        step(here)
    other = Point(name="another")
    told = error_of(lambda: permit.of_restore(here, other))
    assert told.hint == 'Run cell "choose-the-point" first, then this cell again.'
    made = permit.of_restore(here, here.facts["point"])
    never = Server("never")
    told = error_of(lambda: restoration.restore(Server("main"), other, made, name="never", told=pytest.fail))
    heres._end_earlier()
    assert told.message == "the permit is for another plan, item or point"
    assert not never.dir.exists()


@pytest.mark.usefixtures("target")
def test_nothing_is_salvaged_and_no_fence_raised_before_their_checks(target: Target) -> None:
    """Each names the first cell to run; without cell "fence" the database lets everybody in."""
    here = restore.begin(target="demo", salvage=["a"])
    with connect(target) as conn:
        told = error_of(lambda: permit.of_salvage(here, "salvage 1", conn))
        assert told.hint == 'Run cell "what-to-salvage" first, then this cell again.'
        assert error_of(lambda: restore.salvage_rows(here)).hint == told.hint
        here.journal("check-begun", run=here.run.run_id, cell="what-to-salvage")
        for cell in ("what-to-salvage", "try-salvage", "what-to-carry"):
            here.journal("check-passed", run=here.run.run_id, cell=cell, of=["salvage 1"])
        assert permit.of_salvage(here, "salvage 1", conn).of == {"salvage 1"}
        assert error_of(lambda: permit.of_salvage(here, "salvage 2", conn)).detail.startswith('Cell "what-to-salvage"')
        told = error_of(lambda: permit.of_cutover(here, "cut-over 1", "fence", lambda: None))
        assert told.detail.startswith('Cell "what-to-carry"')
    here = restore.begin(target="demo", cut_over=True)
    here.facts["restored"] = None
    told = error_of(lambda: permit.of_cutover(here, "cut-over 1", "cut-over", lambda: None))
    assert told.hint == 'Run cell "what-to-carry" first, then this cell again.'
    heres._end_earlier()
    assert is_untouched(target)


@pytest.mark.slow
def test_a_rehearsal_is_permitted_on_a_branch_only(site: Site, target: Target) -> None:
    """A system identifier and a database's name prove nothing, nor do the address, the name or the mark of a server."""
    plan = plan_of(target)

    def refused(conn: connection.Connection) -> None:
        told = error_of(lambda: permit.of_branch(plan, "rehearsal", conn))
        assert isinstance(told, Refused)
        assert told.message == f'database "{conn.info.dbname}" is not on a branch'

    with connection.connect(target) as conn:
        refused(conn)
    with data_branch.with_data(target, most_bytes=2**40) as copy:
        with connection.connect(copy.safe) as conn:
            assert permit.of_branch(plan, "rehearsal", conn).conn is conn
            identity = "SELECT system_identifier, current_database() FROM pg_control_system()"
            assert conn.execute(identity.encode()).fetchall() == rows(target, identity)
        # At the branch's address listens the target's own server.
        real, aside = copy.server.socket_dir / ".s.PGSQL.5432", copy.server.socket_dir / "aside"
        real.rename(aside)
        real.symlink_to(site.server.socket_dir / ".s.PGSQL.5432")
        try:
            with connection.connect(copy.safe) as conn:
                assert (
                    rows(target, "SELECT system_identifier FROM pg_control_system()")
                    == conn.execute("SELECT system_identifier FROM pg_control_system()").fetchall()
                )
                refused(conn)
        finally:
            real.unlink()
            aside.rename(real)
        still_open = connection.connect(copy.safe)
        with provenance.branch(site.server), connection.connect(target) as conn:
            refused(conn)  # it is not isolated
    refused(still_open)
    still_open.close()
    with copy_schema(target) as schema, schema.branch() as branch, connection.connect(branch) as conn:
        assert permit.of_branch(plan, "rehearsal", conn).conn is conn


@pytest.mark.slow
def test_a_server_that_only_looks_like_a_branch_is_none(site: Site, target: Target) -> None:
    """Made by hand with a branch's name and mark, and with a database named as an empty branch."""
    fake = Server("branch-1-abcdef")
    with fake.lock():
        fake.make_folders(fake.dir)
        branch_server.start_empty(fake)
    try:
        isolation.isolate(fake)
        with fake.connect() as conn:
            assert isinstance(error_of(lambda: permit.of_branch(plan_of(target), "rehearsal", conn)), Refused)
        with site.server.connect() as admin:
            admin.execute(sql.SQL("CREATE DATABASE empty_1_abcdef"))
            try:
                with site.server.connect(database="empty_1_abcdef") as conn:
                    assert isinstance(error_of(lambda: permit.of_branch(plan_of(target), "rehearsal", conn)), Refused)
            finally:
                admin.execute(sql.SQL("DROP DATABASE empty_1_abcdef WITH (FORCE)"))
    finally:
        fake.destroy()


@pytest.mark.slow
def test_the_demo_is_set_up_in_an_empty_database_only(prepared: Run, target: Target) -> None:
    """Neither another run nor a database with a table in it gets that permit."""
    plan = plan_of(target)
    set_up = runs.create(permit.SET_UP, "demo", {}, how="headless")
    with connection.connect(target) as conn:
        for made in (prepared, set_up):
            told = error_of(lambda made=made: permit.of_set_up(made, plan, conn))  # type: ignore[misc]
            assert told.message == f'database "{target.database}" is not one that the demo may set up'
        conn.execute("DROP TABLE public.a")
        assert permit.of_set_up(set_up, plan, conn).of == {plan.digest}
