"""The one door: no secret of a migration gets into a record, a notebook, a log, or our rows in the database."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import Path
from urllib.parse import quote

import pytest

from acting import COMMAND, error, go_on_with, notebook, run
from budget import sample
from conftest import do, rows
from forks import ForkedProcess
from pgrunbook.config import secret_key
from pgrunbook.config.targets import Target
from pgrunbook.database.connection import connect
from pgrunbook.database.schema import snapshot
from pgrunbook.database.schema_diff import diff
from pgrunbook.errors import RecordFailed
from pgrunbook.record import door
from pgrunbook.record.journal import read
from pgrunbook.record.run import Run, Status
from pgrunbook.runner import runbook
from pgrunbook.session import acceptance
from secret_forms import FOREIGN, MARK, MISSED, NONE, REFUSED, RUN, STAGE, TEXTS, seen_in

Project = Callable[..., Target]
OURS = "SELECT tablename FROM pg_tables WHERE schemaname = 'pgrunbook'"


@pytest.fixture
def stage(project: Project) -> Iterator[Callable[..., Target]]:
    """A target with what the forms need, and a folder with each form as a migration."""
    roles: list[tuple[Target, str]] = []

    def make(*forms: str, **options: object) -> Target:
        target = project(folder={"0001_x.sql": "SELECT 1"}, **options)
        role = f"role_of_{target.database}"
        roles.append((target, role))
        do(target, f"CREATE ROLE {role}")
        do(target, STAGE)
        folder = Path(str(target.migrations))
        (folder / "0001_x.sql").unlink()
        for number, form in enumerate(forms, 1):
            text = form.format(role=role, database=target.database)
            (folder / f"{number:04}_m.sql").write_text(f"{text};\n")
        return target

    yield make
    for target, role in roles:
        do(target, f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_many_texts_are_masked_as_each_of_them_is() -> None:
    """Whatever stands beside one; and what may hold no secret is not looked at closely."""
    spoilt = [text.format(role="r", database="d") for text in (*RUN, *REFUSED)] + [*TEXTS, *MISSED, *FOREIGN, *NONE]
    plain = [f"value {n}" for n in range(2_000)]
    mixed = [each for pair in zip(spoilt, plain, strict=False) for each in ("", *pair, "it's")]
    assert door.masked_each(mixed) == [door.masked(each) for each in mixed]
    assert not any(map(seen_in, door.masked_each(spoilt)[: len(RUN)]))
    before = door._masked.cache_info().misses
    assert door.masked_each(plain) == plain
    assert door._masked.cache_info().misses == before


def test_what_was_learned_is_masked_among_many_texts() -> None:
    """Also where nothing in the text tells that it is one."""
    door.learn(f"ALTER ROLE r PASSWORD '{MARK}'")
    assert door.masked_each(["a", f"it is {MARK}", "b"]) == ["a", "it is ***", "b"]


def accept_all(made: Run) -> None:
    """Accept every gate of the run's plan."""
    acceptance.accept(made.run_id, [])


def written(made: Run) -> dict[str, str]:
    """Return the files of all runs, by their path."""
    outputs = made.folder.parent
    return {str(path.relative_to(outputs)): path.read_text(errors="replace")
            for path in outputs.rglob("*") if path.is_file()}  # fmt: skip


def kept(target: Target) -> dict[str, str]:
    """Return our own rows in the database; what is kept of the users' rows is theirs, and stays there."""
    tables = [str(row[0]) for row in rows(target, OURS)]
    known = {"step", "way_back", "batch", "restore_point", "shadow", "published", "kept"}
    return {t: "\n".join(str(r[0]) for r in rows(target, f"SELECT t::text FROM pgrunbook.{t} t"))
            for t in tables if t in known}  # fmt: skip


def leaks(*places: dict[str, str]) -> list[tuple[str, str]]:
    """Return where the mark stands, each with what is around it."""
    found = []
    for name, text in ((name, text) for place in places for name, text in place.items()):
        for spelling in seen_in(text):
            at = text.index(spelling)
            found.append((name, text[max(0, at - 80) : at + 40]))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "forms",
    [
        pytest.param(RUN[43:53], id="third"),
        *(
            pytest.param(forms, id=id_, marks=pytest.mark.slow)
            for id_, forms in (("first", RUN[:22]), ("second", RUN[22:43]), ("fourth", RUN[53:]))
        ),
    ],
)
def test_no_form_of_a_secret_gets_out_when_it_is_migrated(
    stage: Callable[..., Target],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    forms: tuple[str, ...],
) -> None:
    """Prepared, accepted, migrated, validated and taken back as far as it goes: the mark is in the folder alone."""
    caplog.set_level(logging.DEBUG)
    target = stage(*forms, batch_rows=5)
    made, code = run("prepare")
    assert (code, made.status) == (0, Status.DONE), error(made)
    accept_all(made)
    made, code = go_on_with(made, "migrate")
    assert (code, made.status) == (0, Status.DONE), error(made)
    assert rows(target, "SELECT count(*) FROM schema_migrations") == [(len(forms),)]
    if forms == RUN[43:53]:
        assert rows(target, "SELECT count(*) FROM users WHERE url = 'https://u:Mk7Zq9xT@h/d'") != [(0,)]
    made, code = go_on_with(made, "validate")
    assert code == 0, error(made)
    run("rollback", migrations="1")
    out, err = capfd.readouterr()
    told = {"log": caplog.text, "stdout": out, "stderr": err}
    assert "***" in (made.folder / "plan.sql").read_text()
    assert leaks(written(made), kept(target), told) == []


@pytest.mark.first_case
@pytest.mark.parametrize("form", sample(REFUSED, 4))
def test_no_error_repeats_a_secret(
    stage: Callable[..., Target], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], form: str
) -> None:
    """What the server or the parser quotes is masked: in the journal, the notebook, run.json, and on the terminal."""
    caplog.set_level(logging.DEBUG)
    target = stage(form)
    made, code = run("prepare", rehearse="false")
    if code == 0:
        accept_all(made)
        made, code = go_on_with(made, "migrate")
    assert code in (1, 2), error(made)
    assert error(made)
    assert notebook(made)
    out, err = capfd.readouterr()
    told = {"log": caplog.text, "stdout": out, "stderr": err}
    assert leaks(written(made), kept(target), told) == []


@pytest.mark.slow
def test_a_plan_is_executed_with_the_secret_that_the_folder_holds_and_with_no_other(
    stage: Callable[..., Target],
) -> None:
    """Another secret in the file, or another key on the machine, is refused before anything is executed."""
    target = stage("ALTER ROLE {role} PASSWORD 'Mk7Zq9xT'; CREATE TABLE made (id int)")
    made, code = run("prepare", rehearse="false")
    assert code == 0
    plan = json.loads((made.folder / "plan.json").read_text())["plan"]["changes"][0]
    assert [step["sha256"][:5] for step in plan["steps"]] == ["hmac-", plan["steps"][1]["sha256"][:5]]
    assert plan["file_sha256"].startswith("hmac-")
    assert [(one["field"], one["mask"]) for one in plan["secrets"]] == [
        ("statements.0.sql", "***"), ("steps.0.sql", "***")]  # fmt: skip
    accept_all(made)
    file = Path(str(target.migrations)) / "0001_m.sql"
    text = file.read_text()
    file.write_text(text.replace(MARK, "another"))
    made, code = go_on_with(made, "migrate")
    assert (code, error(made).splitlines()[0]) == (3, "0001_m was edited since the plan was made")
    file.write_text(text)

    key = secret_key.path()
    here = key.read_text()
    key.unlink()
    try:
        made, code = runbook.resume(made.run_id)
        lines = error(made).splitlines()
        assert (code, lines[0]) == (3, "could not check the secrets of 0001_m")
        assert re.fullmatch(r"Detail: They were hashed with key [0-9a-f]{8}; .*secret\.key (is not there|holds key "
                            r"[0-9a-f]{8})\.", lines[1])  # fmt: skip
        assert lines[2] == "State: Nothing changed in the database."
        assert lines[3].startswith("Hint: Put the key file back, or copy it from the machine that made the plan")
    finally:
        key.write_text(here)
    assert rows(target, "SELECT to_regclass('made')") == [(None,)]
    made, code = runbook.resume(made.run_id)
    assert (code, made.status) == (0, Status.DONE), error(made)
    secret = rows(target, f"SELECT rolpassword FROM pg_authid WHERE rolname = 'role_of_{target.database}'")
    assert str(secret[0][0]).startswith("SCRAM-SHA-256$")
    assert leaks(written(made), kept(target)) == []


@pytest.mark.slow
def test_a_way_back_that_would_hold_a_secret_is_a_gate(stage: Callable[..., Target]) -> None:
    """What stood there before is a secret that no record may hold: only the restore point leads back."""
    forms = (
        "ALTER ROLE {role} PASSWORD 'new'",
        "ALTER SERVER far OPTIONS (SET password 'new')",
        "ALTER USER MAPPING FOR PUBLIC SERVER far OPTIONS (SET password 'new')",
        "DROP USER MAPPING FOR PUBLIC SERVER far",
        "DROP SERVER far CASCADE",
        "CREATE OR REPLACE FUNCTION holder() RETURNS text LANGUAGE sql AS 'SELECT NULL::text'",
        "DROP VIEW shown",
    )
    stage(*forms)
    made, code = run("prepare")
    assert (code, made.status) == (0, Status.DONE), error(made)
    plan = json.loads((made.folder / "plan.json").read_text())["plan"]
    backs = [change["statements"][0]["back"]["because"] for change in plan["changes"]]
    assert [because for because in backs if not because.startswith("It has no way back: secret")] == []
    (frozen,) = [e for e in read(made.journal.path) if e["event"] == "plan-frozen"]
    assert {f"way-back:{change['migration']}" for change in plan["changes"]} <= set(frozen["gates"])
    assert leaks(written(made)) == []


def test_a_snapshot_sees_that_a_secret_changed_and_does_not_tell_it(stage: Callable[..., Target]) -> None:
    """Options of a server, a text in a function, the default of a column: masked, and another mask for another one."""
    target = stage("SELECT 1")
    changes = (
        "ALTER SERVER far OPTIONS (SET password 'Mk7Zq9xT2')",
        "ALTER USER MAPPING FOR PUBLIC SERVER far OPTIONS (SET password 'Mk7Zq9xT2')",
        "CREATE OR REPLACE FUNCTION public.holder() RETURNS text LANGUAGE sql AS $$ SELECT 'a://u:Mk7Zq9xT2@h' $$",
        "CREATE OR REPLACE VIEW public.shown AS SELECT 'postgres://u:Mk7Zq9xT2@h/d'::text AS url",
        "ALTER TABLE public.users ALTER COLUMN password SET DEFAULT 'Mk7Zq9xT2'",
        "ALTER TABLE public.users ALTER COLUMN password SET DEFAULT 'Mk7Zq9xT3'",
        "COMMENT ON TABLE public.users IS 'password: Mk7Zq9xT2'",
        "COMMENT ON TABLE public.users IS 'password: Mk7Zq9xT3'",
    )
    with connect(target, purpose="test") as conn:
        before = snapshot(conn)
        for change in changes:
            conn.execute(change.encode())
            after = snapshot(conn)
            assert len(diff(before, after)) == 1, change
            assert before.fingerprint != after.fingerprint
            assert leaks({change: after.to_json(), "diff": "".join(d.line() for d in diff(before, after))}) == []
            before = after


def test_what_was_learned_is_masked_wherever_it_turns_up() -> None:
    """In SQL, a URL, JSON, HTML, Python's spelling; not within another word, and not where it is a name."""
    secret = 'it\'s <a> "se/cret" & ß'  # noqa: S105 - it must not be seen
    door.learn(f"ALTER ROLE r PASSWORD '{secret.replace(chr(39), chr(39) * 2)}'")
    door.learn("ALTER ROLE r PASSWORD 'swordfish'")
    said = [secret, secret.replace("'", "''"), json.dumps(secret), repr(secret), quote(secret, safe=""), escape(secret)]
    for text in said:
        assert "cret" not in door.masked(f"it says {text} here")
    assert door.masked("the swordfish, my swordfishes") == "the ***, my swordfishes"
    assert door.masked_facts({"migration": "swordfish", "says": "swordfish", "error": ["swordfish"]}) == {
        "migration": "swordfish", "says": "***", "error": ["***"]}  # fmt: skip
    html = f"<p class='swordfish' title='{escape(secret)}'>a swordfish</p><td>ALTER ROLE r PASSWORD &#x27;x1&#x27;</td>"
    assert door.masked_markup(html) == (
        "<p class='swordfish' title='***'>a ***</p><td>ALTER ROLE r PASSWORD &#x27;***&#x27;</td>")  # fmt: skip


def test_logs_are_masked_with_their_tracebacks(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever handles a record of ours, or of the driver, sees the masked text."""
    door.guard_logs()
    for name in ("pgrunbook.execute", "psycopg"):
        try:
            raise ValueError("could not run ALTER ROLE r PASSWORD 'Mk7Zq9xT'")
        except ValueError:
            logging.getLogger(name).exception("it said %s", "password=Mk7Zq9xT")
    assert caplog.text.count("***") >= 4
    assert leaks({"log": caplog.text}) == []


def test_the_key_is_readable_by_its_owner_alone_and_the_same_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made once, also by many at the same time; one that cannot be read is an error that names it."""
    monkeypatch.setenv("PGRUNBOOK_STATE", str(tmp_path / "state"))
    assert secret_key.read() is None
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: secret_key.read_or_make(), range(32)))
    assert keys == {secret_key.read()}
    assert list((tmp_path / "state").iterdir()) == [secret_key.path()]
    assert secret_key.path().stat().st_mode & 0o777 == 0o600
    secret_key.path().write_text("00\n")
    with pytest.raises(RecordFailed) as caught:
        secret_key.read_or_make()
    assert str(caught.value).splitlines() == [
        "could not read the key under which secrets are hashed",
        f"Detail: {secret_key.path()}: it holds 1 bytes, not 32.",
        "State: Nothing changed in the database.",
        "Hint: Make the state directory (PGRUNBOOK_STATE) readable and writable for this user alone.",
    ]


@pytest.mark.slow
def test_review_shows_no_secret(tmp_path: Path) -> None:
    """Neither for people, nor as JSON or SARIF, nor in the error for what cannot be parsed."""
    good, bad = tmp_path / "good.sql", [tmp_path / f"bad_{number}.sql" for number in range(len(REFUSED))]
    good.write_text("".join(form.format(role="r", database="d") + ";\n" for form in RUN))
    for path, form in zip(bad, REFUSED, strict=True):
        path.write_text(form.format(role="r", database="d"))
    calls = [("--json", good), ("--sarif", good), *(("--fail-on=never", path) for path in (good, *bad))]
    for number, (option, path) in enumerate(calls):
        with (tmp_path / f"told{number}").open("w+") as told:
            ForkedProcess(COMMAND, "review", option, str(path), told=told.fileno()).wait()
            assert told.seek(0) == 0
            text = told.read()
        assert text
        assert leaks({f"{option} {path.name}": text}) == []
