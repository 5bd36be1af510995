"""The plan: the same text and digest everywhere, refused once it was changed, and true as SQL for psql."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import EXAMPLE, Site, connect
from pgrunbook.config.targets import Target
from pgrunbook.database.schema import snapshot
from pgrunbook.draft import plan_sql
from pgrunbook.errors import WrongInput
from pgrunbook.history.files import read_migration
from pgrunbook.plan import plan as plans
from pgrunbook.plan.plan import Base, Plan
from pgrunbook.sql import statements
from scenes import execute, plan_of, steps_of

BASE = Base(
    system_identifier="7", database="zeitwork", server_version_num=180000, schema_fingerprint="s",
    history_fingerprint="h", version=None,
)  # fmt: skip
TEXT = 'CREATE TABLE "é🚀" (n int);\nCREATE INDEX CONCURRENTLY i ON "é🚀" (n);\nVACUUM FULL "é🚀"; -- end'


def made(text: str = TEXT, **more: object) -> Plan:
    """A plan of one migration, as it is made without a database."""
    target = Target.model_validate({"name": "demo", "server": "main", **more})
    change = plans.Change(
        migration="0001_a", file_sha256="f", way_back="computed", steps=steps_of(text, "0001_a.sql", target)
    )
    return Plan(direction="up", target="demo", base=BASE, attempts=5, rehearsed="no", changes=(change,))


@pytest.mark.slow
def test_the_digest_is_the_same_in_every_process() -> None:
    """Another interpreter with another hash seed comes to the same digest of the same plan."""
    script = "import sys; sys.path.insert(0, sys.argv[1]); import test_plan; print(test_plan.made().digest, end='')"
    command = [sys.executable, "-W", "ignore", "-c", script, str(Path(__file__).parent)]
    env = {**os.environ, "PYTHONHASHSEED": "1"}  # with PYTHONPATH: else it may find another copy of the library
    other = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert other == made().digest


@pytest.mark.parametrize(
    "other",
    [made("SELECT 1"), made(lock_timeout_ms=1), made(statement_timeout_ms=1), made(TEXT.replace("n int", "n bigint"))],
)
def test_any_other_plan_has_another_digest(other: Plan) -> None:
    """The text, and every limit it runs under, are part of it."""
    assert other.digest != made().digest


def test_what_was_measured_is_no_part_of_the_digest() -> None:
    """The same plan, prepared twice, is approved by one digest."""
    plan = made()
    (change,) = plan.changes
    estimate = plans.Estimate(duration_ms=3.2, lock_ms=0, wal_bytes=7, basis="measured on 5 of 5 rows")
    steps = tuple(step.model_copy(update={"estimate": estimate}) for step in change.steps)
    again = plan.model_copy(update={"changes": (change.model_copy(update={"steps": steps}),)})
    assert again.digest == plan.digest
    assert again.text() != plan.text()


def test_a_statement_that_is_not_what_its_hash_says_is_refused(tmp_path: Path) -> None:
    """Also where the digest of the whole was made anew."""
    plan = made("SELECT 1")
    (change,) = plan.changes
    steps = tuple(step.model_copy(update={"sql": "SELECT 2"}) for step in change.steps)
    forged = plan.model_copy(update={"changes": (change.model_copy(update={"steps": steps}),)})
    path = tmp_path / "plan.json"
    path.write_text(forged.text())
    with pytest.raises(WrongInput, match=r"^plan\.json is not the plan that was frozen"):
        plans.read(path)


def test_a_plan_is_read_back_as_it_was_frozen(tmp_path: Path) -> None:
    """Text to file to plan: equal, with the same digest."""
    path = tmp_path / "plan.json"
    path.write_text(made().text(), encoding="utf-8")
    assert plans.read(path) == made()


def test_a_long_text_is_in_memory_once(tmp_path: Path) -> None:
    """The folder read twice, the statement parsed twice, and the plan that was frozen share one object."""
    file, frozen = tmp_path / "0001_a.sql", tmp_path / "plan.json"
    file.write_text("INSERT INTO a VALUES " + ",\n".join(f"({n}, '{n}')" for n in range(5_000)))
    read = [read_migration(file, None, root=tmp_path, name="0001_a", ordinal=1, when_ms=None) for _ in range(2)]
    frozen.write_text(made(read[0].sql).text(), encoding="utf-8")
    (step,) = plans.read(frozen).changes[0].steps
    parsed = statements.parse(read[1].sql, "another.sql")[0]
    assert len({id(text) for text in (read[0].sql, read[1].sql, parsed.sql, step.sql)}) == 1


def test_an_edited_plan_is_refused(tmp_path: Path) -> None:
    """One character of a statement is enough, and the digest cannot be left out."""
    path = tmp_path / "plan.json"
    text = made("SELECT 1").text()
    path.write_text(text.replace("SELECT 1", "SELECT 2"))
    frozen, now = made("SELECT 1").digest, Plan.model_validate(json.loads(path.read_text())["plan"]).digest
    with pytest.raises(WrongInput) as caught:
        plans.read(path)
    assert str(caught.value) == (
        "plan.json is not the plan that was frozen\n"
        f"Detail: Its text has digest {now}, but it names {frozen}: somebody changed it.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Make a new plan: open notebooks/prepare.ipynb, or start a new run."
    )


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("[]", "holds an array, not an object"),
        ("{}", "It has no digest."),
        (made().text().replace('"attempts": 5', '"attempts": 5, "more": 1'), "Extra inputs are not permitted"),
        (made().text().replace('"format": 6', '"format": 5'), "Input should be 6"),
    ],
)
def test_what_is_no_plan_is_refused(tmp_path: Path, text: str, detail: str) -> None:
    """The error names the file and what is wrong with it."""
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(WrongInput, match=r"^could not read the plan plan\.json") as caught:
        plans.read(path)
    assert detail in caught.value.detail
    with pytest.raises(WrongInput, match=r"^could not read the plan gone\.json"):
        plans.read(tmp_path / "gone.json")


def test_limits_fit_what_a_statement_makes_others_wait_for() -> None:
    """What runs alone may take an hour; it may wait an hour for its locks only where nobody queues behind it."""
    (change,) = made(lock_timeout_ms=700, statement_timeout_ms=900).changes
    assert [(s.lock_timeout_ms, s.statement_timeout_ms) for s in change.steps] == [
        (700, 900),
        (3_600_000, 3_600_000),
        (700, 3_600_000),
    ]


ODD = {
    "0001_a.sql": "CREATE SCHEMA s; SET search_path = s; CREATE TABLE a (n int) -- no semicolon",
    "0002_b.sql": 'CREATE TABLE "Ünï" (n int);\nCREATE INDEX CONCURRENTLY "i x" ON "Ünï" (n);\n'
    'INSERT INTO "Ünï" VALUES (1); -- \'\nALTER TABLE "Ünï" ADD m text DEFAULT \';\' /* ; */',
    "0003_c.sql": "-- nothing",
    "0004_d.sql": "VACUUM; CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 1; END $$",
}


@pytest.mark.first_case
@pytest.mark.parametrize("folder", [None, ODD], ids=["the example", "odd texts"])
def test_psql_comes_to_the_same_schema_with_the_plans_sql(
    site: Site, project: Callable[..., Target], folder: dict[str, str] | None, tmp_path: Path
) -> None:
    """plan.sql, run by psql on a clone, ends in the schema in which the execution ends."""
    ours, clone = project(folder=folder), project(folder=folder, name="clone")
    plan = plan_of(ours)
    file = tmp_path / "plan.sql"
    file.write_text("".join(plan_sql.parts(plan)), encoding="utf-8")
    command = [str(site.server.program("psql")), "-X", "-q", "-h", str(site.server.socket_dir), "-U", "postgres"]
    done = subprocess.run(
        [*command, "-d", str(clone.database), "-f", str(file)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    execute(ours, plan)
    left = ["pgrunbook", "drizzle.__drizzle_migrations", "public.schema_migrations"]
    with connect(ours) as one, connect(clone) as other:
        assert snapshot(one, leave_out=left).fingerprint == snapshot(other, leave_out=left).fingerprint


def test_the_sql_says_which_plan_it_is_and_where_the_history_rows_belong() -> None:
    """A person can read it, and knows what psql alone would leave out."""
    lines = "".join(plan_sql.parts(made())).splitlines()
    assert lines[0] == f"-- Plan {made().digest}"
    assert lines[1] == "-- Target demo, database zeitwork, from version (none)."
    assert "\\set ON_ERROR_STOP on" in lines
    assert "-- here the row of 0001_a is inserted into the history table" in lines
    begin, commit = lines.index("BEGIN;"), lines.index("COMMIT;")
    assert lines[begin + 1 : commit] == [
        "SET LOCAL lock_timeout = 2000;",
        "SET LOCAL statement_timeout = 60000;",
        'CREATE TABLE "é🚀" (n int);',
    ]


def test_the_example_has_one_of_each_type_pending() -> None:
    """The demo shows what the guide tells of: compatible, breaking and data."""
    texts = [path.read_text() for path in sorted(EXAMPLE.glob("000[234]_*.sql")) if ".down." not in path.name]
    types = {step.type for text in texts for step in steps_of(text, "m.sql", Target(name="d", server="main"))}
    assert len(types) == 3
