"""Anchors: what a target's own database says of the ledger, whatever somebody does to either."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from acting import run as run_procedure
from conftest import Site, connect, do, rows
from pgrunbook.branches import backup
from pgrunbook.branches.server import Server as EmbeddedServer
from pgrunbook.config.targets import Target
from pgrunbook.database import anchors
from pgrunbook.database.connection import Connection
from pgrunbook.errors import Refused
from pgrunbook.record import run as runs
from pgrunbook.record.run import Run, Status
from pgrunbook.seal import anchor, attempt, ledger, signing_key, standing
from pgrunbook.seal.anchor_check import RESTORED, Anchors
from pgrunbook.seal.standing import VerificationReport
from servers import Server

Project = Callable[..., Target]
IN = "in the database, by postgres"


@pytest.fixture
def target(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    """An empty database; runs are signed with a key of this test's own."""
    found = project(folder={})
    monkeypatch.setenv("PGRUNBOOK_KEY", str(tmp_path / "key"))
    monkeypatch.setenv("PGRUNBOOK_SIGNERS", str(tmp_path / "signers"))
    signing_key.make("ann")
    return found


def done(target: Target, *, writes: bool = True, name: str = "work") -> Run:
    """A run that is done and sealed; one that writes is anchored."""
    made = runs.create(name, "demo", {}, how="headless")
    attempt.begin(made)
    if writes:
        with connect(target) as conn:
            anchor.opening(conn, made)
            anchor.opening(conn, made)  # once only, however often something asks for it
    made.status = Status.DONE
    made.save()
    anchor.seal(made, lambda: target)
    return made


def seen(conn: Connection) -> Anchors:
    """What a database holds now."""
    return Anchors(anchors.rows(conn), anchors.place(conn), anchors.is_guarded(conn))


def verify(target: Target, conn: Connection | None = None) -> VerificationReport:
    """Verify with what the target says, or another database."""
    outputs = runs.folders()[0].parent
    if conn is not None:
        return standing.report(outputs, files=True, target="demo", anchors=seen(conn))
    with connect(target) as own:
        return standing.report(outputs, files=True, target="demo", anchors=seen(own))


def test_both_ends_of_a_run_that_writes_are_in_the_database(target: Target) -> None:
    """With the role that the server saw; a run that only reads has none, and verify says so."""
    first, second, third = done(target), done(target, writes=False), done(target)
    there = rows(target, "SELECT seq, kind, run_id, line_sha256 FROM pgrunbook.ledger ORDER BY seq")
    lines = list(ledger.lines_backwards(ledger.path(first.folder.parent)))[::-1]
    expected = [(line, ledger.predicate_of(line)) for line in lines]
    assert [(seq, kind, run_id) for seq, kind, run_id, _ in there] == [
        (p["seq"], p["kind"], p["run_id"]) for _, p in expected if p["run_id"] != second.run_id
    ]
    found = verify(target)
    assert (found.exit_code, found.problems, found.notes) == (0, (), ())
    assert {one.run: one.anchor for one in found.runs} == {
        first.run_id: IN, second.run_id: "none: it wrote nothing there", third.run_id: IN
    }  # fmt: skip


@pytest.mark.every_version
@pytest.mark.parametrize("how", ["UPDATE pgrunbook.ledger SET seq = 9", "DELETE FROM pgrunbook.ledger",
                                 "TRUNCATE pgrunbook.ledger"])  # fmt: skip
def test_rows_are_only_added(server: Server, database: Callable[..., str], how: str) -> None:
    """The trigger refuses a superuser; its own rights refuse the owner."""
    with server.connect(database()) as conn:
        conn.pin()
        anchors.write(conn, "l", 1, "opened", "r", "0" * 64)
        anchors.write(conn, "l", 1, "opened", "r", "1" * 64)  # nobody writes a line anew either
        assert [row.line_sha256 for row in anchors.rows(conn)] == ["0" * 64]
        assert anchors.is_guarded(conn)
        with pytest.raises(psycopg.errors.RaiseException, match="never changed or deleted"), conn.transaction():
            conn.execute(how.encode())
        conn.execute("DROP ROLE IF EXISTS keeper")
        conn.execute("CREATE ROLE keeper")
        conn.execute("ALTER TABLE pgrunbook.ledger OWNER TO keeper")
        conn.execute("GRANT USAGE ON SCHEMA pgrunbook TO keeper")
        conn.execute("SET ROLE keeper")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute(how.encode())
        conn.execute("RESET ROLE")
        conn.execute("ALTER TABLE pgrunbook.ledger DISABLE TRIGGER append_only")
        assert not anchors.is_guarded(conn)
        conn.execute("DROP OWNED BY keeper")
        conn.execute("DROP ROLE keeper")


def silently(target: Target, statement: str) -> None:
    """Do what the trigger refuses, as the owner of the table can, and leave it as it was."""
    do(target, f"ALTER TABLE pgrunbook.ledger DISABLE TRIGGER append_only; {statement}; "
               "ALTER TABLE pgrunbook.ledger ENABLE TRIGGER append_only")  # fmt: skip


def tail_cut(_: Target, made: list[Run]) -> None:
    """The last run never was: its folder and its lines are gone, and the file is right in itself."""
    file = ledger.path(made[0].folder.parent)
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:4]))
    shutil.rmtree(made[2].folder)


def rewritten(target: Target, made: list[Run]) -> None:
    """Whoever has the key writes the whole ledger anew, and says another thing."""
    ledger.path(made[0].folder.parent).unlink()
    name = attempt.standing(made[0])["ledger"]
    for one in made:
        (one.folder / attempt.MARK_FILE).unlink()
        one.runbook = "harmless"
        attempt.begin(one)
        anchor.seal(one, lambda: target)
    assert name != attempt.standing(made[0])["ledger"]


TAMPERINGS: dict[str, tuple[Callable[[Target, list[Run]], object], str, int]] = {
    # what is done, the word that is said, and of which run (by number)
    "a row is changed": (
        lambda t, _: silently(t, f"UPDATE pgrunbook.ledger SET line_sha256 = '{'0' * 64}' WHERE seq = 4"), "altered", 1
    ),
    "a row is given to another run": (
        lambda t, _: silently(t, "UPDATE pgrunbook.ledger SET run_id = 'other' WHERE seq = 4"), "altered", 1
    ),
    "the row of an end is deleted": (
        lambda t, _: silently(t, "DELETE FROM pgrunbook.ledger WHERE seq = 4"), "missing", 1
    ),
    "the row of a beginning is deleted": (
        lambda t, _: silently(t, "DELETE FROM pgrunbook.ledger WHERE seq = 3"), "missing", 1
    ),
    "the newest rows are deleted": (
        lambda t, _: silently(t, "DELETE FROM pgrunbook.ledger WHERE seq > 4"), "missing", 2
    ),
    "all rows are deleted": (lambda t, _: silently(t, "TRUNCATE pgrunbook.ledger"), "missing", 0),
    "the table is dropped": (lambda t, _: do(t, "DROP TABLE pgrunbook.ledger"), "missing", 0),
    "the tail of the ledger is cut, with its folders": (tail_cut, "truncated", 2),
}  # fmt: skip


@pytest.mark.first_case
@pytest.mark.parametrize("what", TAMPERINGS)
def test_a_tampering_with_the_database_or_the_ledger_is_found(target: Target, what: str) -> None:
    """The server is the same, on the same timeline: nobody has restored it."""
    made = [done(target) for _ in range(3)]
    tamper, word, number = TAMPERINGS[what]
    tamper(target, made)
    found = verify(target)
    assert found.exit_code == 3
    assert (word, made[number].run_id) in {(one.word, one.run) for one in found.problems if one.part == "anchor"}
    assert not any("restored" in note for note in found.notes)


def test_a_ledger_that_was_written_anew_is_told_by_the_rows_of_the_old_one(target: Target) -> None:
    """Its runs are there under another ledger's name."""
    made = [done(target) for _ in range(2)]
    old = attempt.standing(made[0])["ledger"]
    rewritten(target, made)
    assert f"the database holds 4 lines of another ledger, {old}" in verify(target).notes


def test_a_trigger_that_is_switched_off_is_told(target: Target) -> None:
    """The rows are as they were, and somebody may be about to change them."""
    done(target)
    do(target, "ALTER TABLE pgrunbook.ledger DISABLE TRIGGER append_only")
    found = verify(target)
    assert (found.exit_code, len(found.notes)) == (0, 1)
    assert "the trigger that refuses changes of pgrunbook.ledger is gone, or switched off" in found.notes


def test_a_database_that_cannot_be_reached_at_the_end_keeps_nothing_from_being_sealed(target: Target) -> None:
    """The seal says that it was not asked, and verify that the end is not anchored."""
    made = runs.create("work", "demo", {}, how="headless")
    attempt.begin(made)
    with connect(target) as conn:
        anchor.opening(conn, made)
    made.status = Status.FAILED
    made.save()
    line = anchor.seal(made, lambda: target.model_copy(update={"server": "nowhere"}))
    assert line.predicate["faithful"]["database_asked"] is False
    found = verify(target)
    assert (found.exit_code, found.runs[0].anchor) == (0, "the end is not anchored")
    silently(target, "DELETE FROM pgrunbook.ledger")
    assert verify(target).exit_code == 3


@pytest.mark.first_case
@pytest.mark.parametrize("how", ["sealed again", "resumed"])
def test_an_end_whose_runner_was_killed_before_it_was_anchored_is_anchored_late(
    target: Target, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """By the command that seals, or by the run's next attempt; until then verify says what to do."""
    with monkeypatch.context() as patch:
        patch.setattr(anchor, "_close", lambda *_: None)
        made = done(target)
    (problem,) = verify(target).problems
    assert (problem.part, problem.word, problem.line) == ("anchor", "missing", 2)
    assert problem.says.endswith(f"where its runner or the server was killed then: pgrunbook seal {made.run_id}")
    if how == "resumed":
        attempt.begin(made)
        with connect(target) as conn:
            anchor.opening(conn, made)
        anchor.seal(made, lambda: target)
    else:
        assert anchor.close_late(made, lambda: target) == [2]
    assert anchor.close_late(made, lambda: target) == []
    assert verify(target).problems == ()


@pytest.mark.first_case
def test_another_server_that_has_only_the_oldest_rows_is_a_restored_one(
    target: Target, server: Server, database: Callable[..., str]
) -> None:
    """Its identity is another, as that of a dump that was restored: what is not in it came later."""
    first, second = done(target), done(target)
    with connect(target) as own, server.connect(database()) as conn:
        conn.pin()
        assert anchors.place(own).system_identifier != anchors.place(conn).system_identifier
        for row in anchors.rows(own)[:2]:
            anchors.write(conn, row.ledger, row.seq, row.kind, row.run_id, row.line_sha256)
        found = verify(target, conn)
    assert (found.exit_code, found.problems) == (0, ())
    assert {one.run: one.anchor for one in found.runs} == {first.run_id: IN, second.run_id: RESTORED}
    assert f"the database was restored to before run {second.run_id}" in found.notes


@pytest.fixture
def restored() -> Iterator[str]:
    """The name of a server that a test restores to."""
    yield "anchored-back"
    EmbeddedServer("anchored-back").destroy()


@pytest.mark.slow
def test_a_database_that_was_restored_to_before_a_run_is_told_so(
    project: Project, site: Site, restored: str, tmp_path: Path
) -> None:
    """A real restore: its timeline is a later one; a row that is deleted there as well is not excused by that."""
    backup.take_base_backup(site.server)
    target = project(folder={"0001_a.sql": "CREATE TABLE a (id int);"})
    first, code = run_procedure("migrate")
    assert code == 0
    (tmp_path / "migrations-demo" / "0002_b.sql").write_text("CREATE TABLE b (id int);")
    second, code = run_procedure("migrate")
    assert code == 0
    by, code = run_procedure("restore", to=f"before_{second.run_id}", name=restored)
    assert code == 0
    back = target.model_copy(update={"server": restored})
    with connect(back) as conn:
        found = verify(target, conn)
        told = {one.run: one.anchor for one in found.runs}
        assert (found.exit_code, found.problems) == (0, ())
        assert (told[first.run_id], told[second.run_id], told[by.run_id]) == (IN, RESTORED, IN)
        assert [row.kind for row in anchors.rows(conn) if row.run_id == by.run_id] == ["opened", "closed"]
        assert {row.timeline for row in anchors.rows(conn) if row.run_id == by.run_id} == {2}
        assert f"the database was restored to before run {second.run_id}" in found.notes
    silently(back, "DELETE FROM pgrunbook.ledger WHERE seq = 1")
    with connect(back) as conn:
        told_now = {(one.word, one.run) for one in verify(target, conn).problems}
    assert told_now == {("missing", first.run_id)}


def test_a_schema_of_somebody_else_is_not_asked(target: Target) -> None:
    """What stands in it proves nothing."""
    done(target)
    do(target, "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    do(target, "CREATE TRIGGER t BEFORE INSERT ON pgrunbook.ledger EXECUTE FUNCTION public.f()")
    with pytest.raises(Refused, match="not all of it is ours"):
        verify(target)
