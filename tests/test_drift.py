"""Drift: where a database is not what its history says, or what was validated last, or what another target is."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from acting import run
from conftest import connect, do, rows
from pgrunbook import history as histories
from pgrunbook.config.targets import Target
from pgrunbook.database.readiness import Level
from pgrunbook.database.schema import snapshot
from pgrunbook.errors import Refused, RunbookError, StatementFailed
from pgrunbook.rehearse import drift
from servers import Server, known_to
from test_schema import BASE, CHANGES

Project = Callable[..., Target]
Command = Callable[..., tuple[int, str, str]]

FOLDER = {
    "0001_a.sql": "CREATE TABLE a (id int PRIMARY KEY, b text);",
    "0002_b.sql": "CREATE INDEX CONCURRENTLY a_b ON a (b);\nINSERT INTO a SELECT n, 'x' FROM generate_series(1, 9) n;",
}

# What the changes of the schema's own tests leave as it is.
MORE = (
    "ALTER MATERIALIZED VIEW app.totals SET (fillfactor = 60)",
    "ALTER OPERATOR CLASS app.backwards USING btree OWNER TO runbook_reader",
    "ALTER OPERATOR FAMILY app.backwards USING btree OWNER TO runbook_reader",
    "ALTER FOREIGN DATA WRAPPER elsewhere OPTIONS (ADD k 'v')",
    "ALTER USER MAPPING FOR PUBLIC SERVER far OPTIONS (SET password 'another')",
)


@pytest.fixture
def applied(project: Project) -> Project:
    """Declare a target whose folder is applied, as its own tool would have done it."""

    def declare(folder: dict[str, str], **options: object) -> Target:
        target = project(folder=folder, **options)
        apply(target)
        return target

    return declare


def apply(target: Target) -> None:
    """Apply what is pending in a target, and record it in its history."""
    with connect(target) as conn:
        history = histories.read(conn, target)
        for statement in histories.prepare_table(history):
            conn.execute(statement)
        for migration in history.pending():
            for statement in migration.statements():
                conn.execute(statement.sql.encode())
            conn.execute(*histories.record(histories.read(conn, target), migration))


def against_history(target: Target) -> list[tuple[str, str, str]]:
    """Return what differs between a target and its history: kind, name and change of each object."""
    with connect(target) as conn:
        found = drift.against_history(target, conn)
    assert found.differs == bool(found.objects)
    return [(one.kind, one.name, one.change) for one in found.objects]


@pytest.mark.slow
def test_what_somebody_did_by_hand_is_named(applied: Project) -> None:
    """A column, an index that is gone, a grant; what the migrations did is none, nor is what we ourselves make."""
    target = applied(FOLDER)
    assert against_history(target) == []
    do(target, "ALTER TABLE a ADD COLUMN c int; DROP INDEX a_b; GRANT SELECT ON a TO PUBLIC")
    assert against_history(target) == [
        ("column", "public.a.c", "added"),
        ("grant", "table public.a to PUBLIC", "added"),
        ("index", "public.a.a_b", "removed"),
    ]
    assert rows(target, "SELECT count(*) FROM a") == [(9,)]


@pytest.mark.slow
def test_texts_that_differ_each_time_are_no_drift(applied: Project) -> None:
    """They are told; another difference in the same object is drift."""
    target = applied({"0001_a.sql": "CREATE VIEW v AS SELECT timestamptz 'now' AS made, 1 AS a;"})
    with connect(target) as conn:
        found = drift.against_history(target, conn)
        assert (found.objects, found.passed_over) == ((), ("view public.v: its text differs each time",))
        conn.execute("CREATE OR REPLACE VIEW v AS SELECT timestamptz 'now' AS made, 2 AS a")
        (one,) = drift.against_history(target, conn).objects
    assert (one.kind, one.name, one.change) == ("view", "public.v", "changed")


@pytest.mark.slow
def test_what_the_migrations_need_and_nobody_wrote_down_is_taken_as_given(applied: Project) -> None:
    """A schema that an administrator has made is told; where they do not need it, it is drift."""
    target = applied({"0001_a.sql": "SELECT 1;"})
    do(target, "CREATE SCHEMA app")
    assert against_history(target) == [("schema", "app", "added")]
    assert target.migrations is not None
    (target.migrations / "0002_b.sql").write_text("CREATE TABLE app.t (a int);")
    apply(target)
    with connect(target) as conn:
        found = drift.against_history(target, conn)
    assert found.objects == ()
    assert "schema app: no migration makes it, and they need it" in found.passed_over


@pytest.mark.slow
@pytest.mark.newest
def test_an_ordinary_role_without_a_right_on_any_table_is_told_as_much(
    server: Server, database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its migrations run on the branch as it; what an administrator made for them is taken as given."""
    role = f"app_{secrets.token_hex(3)}"
    (tmp_path / "0001_a.sql").write_text("CREATE TABLE app.a (id int);\nCREATE TABLE b (id int);")
    name = database(
        f"CREATE ROLE {role} LOGIN", f"CREATE SCHEMA pgrunbook AUTHORIZATION {role}", "CREATE EXTENSION btree_gist",
        f"CREATE SCHEMA app; GRANT USAGE, CREATE ON SCHEMA app, public TO {role}", "CREATE TABLE app.hidden (id int)",
    )  # fmt: skip
    monkeypatch.setenv("ORDINARY", f"host={server.socket_dir} user={role} dbname={name}")
    target = Target(name="ordinary", url_from="ORDINARY", migrations=tmp_path)
    apply(target)
    with connect(target) as conn:
        found = drift.against_history(target, conn)
        conn.execute("ALTER TABLE b ADD COLUMN c int")
        again = drift.against_history(target, conn)
    assert [(one.kind, one.name) for one in found.objects] == [("table", "app.hidden")]
    assert [(one.kind, one.name) for one in again.objects] == [("column", "public.b.c"), ("table", "app.hidden")]
    with server.connect(name) as admin:
        admin.execute(f"DROP OWNED BY {role} CASCADE")
        admin.execute(f"DROP ROLE {role}")


def test_a_history_that_is_not_what_was_applied_is_not_compared(project: Project) -> None:
    """A file that was edited since, or is gone, leaves it open what was executed: said, with what to do instead."""
    target = project()
    assert target.migrations is not None
    file = min(target.migrations.glob("*.sql"))
    with connect(target) as conn:
        file.write_text(f"{file.read_text()}\n-- edited")
        with pytest.raises(Refused) as edited:
            drift.against_history(target, conn)
        file.unlink()
        with pytest.raises(RunbookError) as missing:
            drift.against_history(target, conn)
    assert edited.value.message == "could not replay the history: the folder does not hold what was applied"
    assert f"{file.stem} is edited: " in edited.value.detail
    assert edited.value.hint.endswith("pgrunbook drift --against validated, which needs no file.")
    assert file.name in missing.value.message or file.stem in missing.value.detail


@pytest.mark.slow
def test_a_migration_that_needs_what_is_gone_is_named(project: Project) -> None:
    """The place, what the server says, and that the target is as it was."""
    target = project(folder={"0001_a.sql": "ALTER TABLE made_by_hand ADD COLUMN b int;"})
    do(target, "CREATE TABLE made_by_hand (a int)")
    apply(target)
    with connect(target) as conn, pytest.raises(StatementFailed) as failed:
        drift.against_history(target, conn)
    first, *rest = failed.value.lines()
    assert first.startswith("could not replay the history: step 1 of 0001_a (ALTER TABLE")
    assert 'relation "made_by_hand" does not exist' in first
    assert rest[1] == "State: Nothing changed in the database."


@pytest.mark.slow
def test_the_command_tells_by_its_exit_code(applied: Project, command: Command) -> None:
    """0 none, 3 drift, 1 not compared, 2 wrong use; JSON as its schema says."""
    target = applied(FOLDER)
    code, out, err = command("drift", "--target", "demo")
    assert (code, err) == (0, "")
    assert "demo against the history: 2 migrations of migrations-demo on an empty branch" in out
    assert "No drift." in out
    do(target, "ALTER TABLE a ALTER COLUMN b SET DEFAULT 'y'")
    code, out, _ = command("drift", "--target", "demo", "--json")
    told = json.loads(out)
    assert (code, told["differs"], told["target"], told["against"]) == (3, True, "demo", "history")
    (one,) = told["objects"]
    assert (one["kind"], one["name"], one["expected"], one["found"]) == (
        "column", "public.a.b", "text", "text DEFAULT 'y'::text",
    )  # fmt: skip
    properties = json.loads(command("schema", "drift")[1])["properties"]
    assert set(told) == set(properties)
    code, out, err = command("drift", "--target", "demo", "--against", "validated")
    assert (code, out) == (1, "")
    assert err.splitlines()[0] == 'no run has validated target "demo" here'
    assert command("drift")[0] == 2
    assert command("drift", "--target", "demo", "--against", "nowhere")[0] == 2


@pytest.mark.slow
def test_another_target_is_compared_as_it_is(applied: Project, command: Command) -> None:
    """Each without its own history table."""
    applied(FOLDER)
    other = applied(FOLDER, name="other")
    assert command("drift", "--target", "demo", "--against", "other")[0] == 0
    do(other, "CREATE TABLE extra ()")
    code, out, _ = command("drift", "--target", "demo", "--against", "other")
    assert code == 3
    assert [line.split()[:3] for line in out.splitlines() if "extra" in line] == [["table", "public.extra", "removed"]]


def test_a_target_that_nobody_has_validated_is_not_known_to_drift(applied: Project) -> None:
    """Neither good nor bad; the row says what compares it all the same."""
    target = applied(FOLDER)
    with connect(target, purpose="test") as conn:
        row = drift.check(target, conn)
    assert (row.level, row.found) == (Level.UNKNOWN, 'not compared: no run has validated target "demo" here')
    assert row.advice == "pgrunbook drift --target demo compares it with the history"


@pytest.mark.slow
def test_what_a_release_leaves_is_no_drift_and_is_compared_with_what_was_validated(project: Project) -> None:
    """The example released, taken back and released again; then a change by hand, which prepare shows before all."""
    target = project()
    assert against_history(target) == []
    assert run("release")[1] == 0
    assert against_history(target) == []
    with connect(target) as conn:
        assert not drift.against_validated(target, conn).differs
        assert drift.check(target, conn).level is Level.GOOD
    assert run("rollback")[1] == 0
    with connect(target) as conn, pytest.raises(Refused, match="could not compare"):
        drift.against_validated(target, conn)
    assert run("release")[1] == 0
    assert against_history(target) == []
    do(target, "ALTER TABLE projects ADD COLUMN by_hand int")
    with connect(target) as conn:
        (one,) = drift.against_validated(target, conn).objects
        row = drift.check(target, conn)
    assert (one.kind, one.change) == ("column", "added")
    assert row.level is Level.WARN
    assert "1 object: column public.projects.by_hand added" in row.found
    assert row.advice.endswith("pgrunbook drift --target demo --against validated")


@pytest.mark.slow
@pytest.mark.every_version
def test_drift_is_found_for_every_kind_of_object(
    server: Server, database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder with an object of each kind is replayed without drift; what is changed by hand is named by its kind."""
    (tmp_path / "0001_all.sql").write_text(";\n".join(BASE) + ";")
    name = database("SELECT 1")
    monkeypatch.setenv("EVERY_KIND", f"host={server.socket_dir} user=postgres dbname={name}")
    target = Target(name="every", url_from="EVERY_KIND", migrations=tmp_path)
    apply(target)
    assert against_history(target) == []
    with server.connect(name) as conn:
        for change in (*CHANGES, *MORE):
            statements = known_to(server.version, change.removeprefix("= "))
            for statement in statements.split("; ") if statements else ():
                conn.execute(statement)
        kinds = {one.kind for one in snapshot(conn).objects}
    assert kinds - {kind for kind, _, _ in against_history(target)} == set()
