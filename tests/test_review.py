"""Reviews of files, first of the guide's own SQL: every unsafe statement there gets its finding."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from budget import sample
from conftest import connect
from pgrunbook.config.targets import Target
from pgrunbook.errors import WrongInput
from pgrunbook.history import ways_back
from pgrunbook.review.hazards import RULES
from pgrunbook.review.hazards.design import SQUAWK
from pgrunbook.review.review import Finding, Form, as_text, fails, review, run
from pgrunbook.review.statement_scenes import script
from pgrunbook.sql import statements
from returning import rehearsed
from servers import Server

GUIDE = Path(__file__).parent / "guide"

# Defect of the guide -> the section, the beginning of its statement, and the hazard that tells it.
DEFECTS = [
    (15, "backward-compatible", "ALTER TABLE projects ADD", "lock-without-timeout"),
    (16, "backward-compatible", "CREATE TABLE audit_logs", "timestamp-without-zone"),
    (16, "backward-compatible", "CREATE TABLE audit_logs", "default-but-nullable"),
    (16, "schema-design", "CREATE TABLE designed", "updated-at-stays"),
    (17, "backward-compatible", "CREATE INDEX", "index-not-concurrent"),
    (18, "breaking", "ALTER TABLE projects DROP", "drop-column"),
    (19, "breaking", "ALTER TABLE instances ALTER", "column-type-rewrites"),
    (20, "breaking", "ALTER TABLE nodes RENAME", "rename-column"),
    (21, "data", "UPDATE projects", "update-unbatched"),
    (21, "data", "UPDATE projects", "backfill-leaves-nulls"),
    (22, "data", "UPDATE deployments", "jsonb-set-on-any-value"),
    (23, "data", "DELETE FROM sessions", "delete-unbatched"),
    (28, "online", "DO", "loop-in-one-transaction"),
    (29, "online", "DO", "loop-without-end"),
    (30, "online", "DO", "batch-without-order"),
    (31, "online", "DO", "backfill-loses-writes"),
    (32, "online", "DO", "integer-overflow"),
    (33, "online", "ALTER TABLE instances RENAME COLUMN cpu_new", "renames-not-atomic"),
    (33, "online", "ALTER TABLE instances RENAME COLUMN cpu_new", "column-swap"),
    (34, "online", "ALTER TABLE instances DROP", "drop-after-swap"),
    (35, "blue-green", "INSERT INTO projects_new", "copy-loses-writes"),
    (35, "blue-green", "INSERT INTO projects_new", "insert-select-unbatched"),
    (36, "blue-green", "CREATE TABLE projects_new", "like-leaves-behind"),
    (37, "blue-green", "DROP TABLE projects_old", "drop-after-swap"),
    (38, "blue-green", "ALTER TABLE projects_new RENAME", "table-swap"),
    (39, "blue-green", "INSERT INTO projects_new", "copy-by-position"),
    (40, "blue-green", "ALTER TABLE projects RENAME", "lock-without-timeout"),
    (40, "blue-green", "ALTER TABLE projects_new RENAME", "table-swap"),
    (40, "blue-green", "BEGIN", "transaction-in-file"),
    (41, "blue-green", "DROP TABLE projects_old", "drop-table"),
    (42, "staged", "ALTER TABLE organisations ADD", "default-but-nullable"),
    (42, "staged", "UPDATE organisations SET new_feature_enabled = TRUE", "update-writes-done-rows"),
    (42, "staged", "ALTER TABLE organisations DROP", "drop-column"),
    (44, "manual-rollback", "ALTER TABLE projects DROP", "drop-column"),
    (44, "manual-rollback", "ALTER TABLE projects DROP", "if-exists-hides"),
    (44, "manual-rollback", "DROP INDEX", "drop-index-not-concurrent"),
    (44, "manual-rollback", "DROP INDEX", "if-exists-hides"),
    (44, "manual-rollback", "ALTER TABLE nodes RENAME", "rename-column"),
    (44, "manual-rollback", "DELETE FROM schema_migrations", "history-edited-by-hand"),
    (45, "schema-design", "CREATE TABLE designed", "foreign-key-without-index"),
    (45, "schema-design", "ALTER TABLE deployments ADD FOREIGN KEY", "foreign-key-validates"),
    (45, "schema-design", "ALTER TABLE deployments ADD FOREIGN KEY", "foreign-key-without-index"),
    (46, "schema-design", "CREATE TABLE designed", "soft-delete-with-unique"),
    (46, "schema-design", "CREATE INDEX CONCURRENTLY", "index-validity-unchecked"),
    (51, "troubleshooting", "SELECT pg_terminate_backend", "session-terminated"),
    (52, "troubleshooting", "DELETE FROM schema_migrations", "duplicates-kept-by-tie"),
    (52, "troubleshooting", "DELETE FROM schema_migrations", "history-edited-by-hand"),
    (53, "troubleshooting", "REINDEX", "reindex-not-concurrent"),
    (53, "troubleshooting", "EXPLAIN ANALYZE", "explain-analyze-runs"),
]


def _section(name: str) -> list[Finding]:
    rules = [rule.id for rule in RULES.values() if rule.taste]
    return review([(f"{name}.sql", (GUIDE / f"{name}.sql").read_text())], with_squawk=False, design_rules=rules)


@pytest.mark.parametrize(("defect", "section", "begins", "hazard"), DEFECTS)
def test_each_defect_of_the_guide_has_its_finding(defect: int, section: str, begins: str, hazard: str) -> None:
    """Fed with the guide's SQL, the review says what is wrong with it and what to do instead."""
    found = [f for f in _section(section) if f.statement.startswith(begins)]
    assert found, defect
    told = {h.id: h for finding in found for h in finding.hazards}
    assert hazard in told
    assert told[hazard].way_out


def test_all_defects_in_sql_are_covered() -> None:
    """The acceptance list is complete, and every id in it is a rule."""
    wanted = {*range(15, 24), *range(28, 42), 44, 45, 46, 51, 52, 53}
    assert wanted <= {defect for defect, *_ in DEFECTS}
    assert {hazard for *_, hazard in DEFECTS} <= RULES.keys() | {"transaction-in-file"}


def test_the_guide_as_one_set_has_its_findings_too() -> None:
    """A swap does not make a live table a new one: what follows is found all the same."""
    files = [(p.name, p.read_text()) for p in sorted(GUIDE.glob("*.sql"))]
    found = review(files, with_squawk=False)
    drop = next(f for f in found if f.statement.startswith("ALTER TABLE projects DROP COLUMN deprecated"))
    assert "drop-column" in {h.id for h in drop.hazards}


def test_harmless_statements_have_no_hazard() -> None:
    """What blocks nobody for long is let pass without a word."""
    sql = "SET lock_timeout = '2s'; ALTER TABLE a ADD COLUMN b text; ANALYZE a; SELECT 1; CREATE TABLE x (id int);"
    assert [f.hazards for f in review([("a.sql", sql)], with_squawk=False)] == [()] * 5


def test_json_form_is_the_documented_one(tmp_path: Path) -> None:
    """A list of objects with exactly the documented keys."""
    file = tmp_path / "0001.sql"
    file.write_text("-- why\n\nCREATE INDEX orders_user\n  ON orders (user_id);\nDROP TABLE b;\n")
    text, code = run([file], target=None, fail_on="error", form="json")
    first, second = json.loads(text)
    assert code == 1
    assert list(first) == ["place", "file", "line", "statement", "type", "locks", "hazards"]
    assert (first["file"], first["line"], first["type"]) == (str(file), 3, "backward compatible")
    assert first["locks"] == [{"object": "orders", "mode": "ShareLock"}]
    assert list(first["hazards"][0]) == ["id", "severity", "effect", "way_out"]
    assert first["hazards"][0]["id"] == "index-not-concurrent"
    assert (second["line"], second["type"]) == (5, "breaking")


@pytest.mark.parametrize(
    ("sql", "fail_on", "code"),
    [
        ("DROP TABLE a;", "error", 1),
        ("ALTER TABLE a ADD COLUMN b text;", "error", 0),
        ("ALTER TABLE a ADD COLUMN b text;", "warning", 1),
        ("SELECT 1;", "warning", 0),
        ("DROP TABLE a;", "never", 0),
    ],
)
def test_exit_code_is_decided_by_the_worst_hazard(tmp_path: Path, sql: str, fail_on: str, code: int) -> None:
    """1 at or above the severity that was asked for."""
    file = tmp_path / "a.sql"
    file.write_text(sql)
    assert run([file], target=None, fail_on=fail_on, form="text")[1] == code  # type: ignore[arg-type]


def test_sarif_form_has_a_result_for_each_hazard(tmp_path: Path) -> None:
    """The log has one run, rules with descriptions, and results with level, place and a stable mark."""
    file = tmp_path / "with space.sql"
    file.write_text("SELECT 1;\nDROP TABLE a;\n")
    log = json.loads(run([file], target=None, fail_on="error", form="sarif")[0])
    assert log["version"] == "2.1.0"
    (one,) = log["runs"]
    names = [rule["id"] for rule in one["tool"]["driver"]["rules"]]
    assert "drop-table" in names
    for result in one["results"]:
        assert names[result["ruleIndex"]] == result["ruleId"]
        assert result["level"] in ("error", "warning", "note")
        place = result["locations"][0]["physicalLocation"]
        assert place["region"]["startLine"] == 2
        assert " " not in place["artifactLocation"]["uri"]
        assert result["partialFingerprints"]["statement/v1"]


def test_text_form_reads_from_the_place_to_the_way_out(tmp_path: Path) -> None:
    """One block for each statement with a hazard, and a line that counts them."""
    file = tmp_path / "a.sql"
    file.write_text("SELECT 1;\nREINDEX TABLE orders;\n")
    text = as_text(review([("a.sql", file.read_text())], with_squawk=False))
    lines = text.splitlines()
    assert lines[0] == "a.sql:2: REINDEX TABLE orders"
    assert lines[1] == "  locks: orders ShareLock"
    assert lines[2].startswith("  error: reindex-not-concurrent: ")
    assert any(line.startswith("      REINDEX TABLE CONCURRENTLY orders;") for line in lines)
    assert lines[-1].startswith("2 statements: 1 error, ")


def test_transactions_in_files_are_read_and_told() -> None:
    """BEGIN and COMMIT do not stop a review; the statements keep their lines."""
    read = script([("a.sql", "BEGIN;\nSELECT 1;\nCOMMIT;\n\nSELECT 2;")])
    assert [(p.statement.sql, p.statement.line, p.transaction is None) for p in read.placed] == [
        ("SELECT 1", 2, False),
        ("SELECT 2", 5, True),
    ]
    (begin, *_) = review(read, with_squawk=False)
    assert (begin.place.line, begin.hazards[0].id) == (1, "transaction-in-file")


def test_what_does_not_parse_is_told_with_its_place(tmp_path: Path) -> None:
    """File and line of what the parser could not read."""
    with pytest.raises(WrongInput, match=r"a\.sql, line 2: syntax error"):
        review([("a.sql", "SELECT 1;\nSELEC 2;")])
    with pytest.raises(WrongInput, match="could not read"):
        run([tmp_path / "none.sql"], target=None, fail_on="error", form="text")


def test_a_target_decides_by_its_own_tables(project: Callable[..., Target], tmp_path: Path) -> None:
    """With a target the size of its tables, its locks and its timeouts count."""
    target = project()
    with connect(target, purpose="test") as conn:
        conn.execute("CREATE TABLE wide (id int PRIMARY KEY, email varchar(50)); INSERT INTO wide VALUES (1, 'x')")
        conn.execute("CREATE VIEW emails AS SELECT email FROM wide")
    file = tmp_path / "a.sql"
    file.write_text("CREATE INDEX wide_email ON wide (email);\nALTER TABLE wide ALTER COLUMN email TYPE text;\n")
    index, change = json.loads(run([file], target="demo", fail_on="error", form="json")[0])
    assert index["locks"] == [{"object": "public.wide", "mode": "ShareLock"}]
    assert {(h["id"], h["severity"]) for h in index["hazards"]} == {("index-not-concurrent", "note")}
    assert "change-under-dependents" in {h["id"] for h in change["hazards"]}
    assert any("public.emails" in h["effect"] for h in change["hazards"])


RELEASE = "CREATE TABLE bare (id bigint PRIMARY KEY);\nDROP TABLE wide;\n"


def reviewed(declare: Callable[..., Target], tmp_path: Path, form: str = "json", **options: object) -> tuple[str, int]:
    """Review a release on a target with these options, in which the table that it drops holds a row."""
    with connect(declare(**options), purpose="test") as conn:
        conn.execute("CREATE TABLE wide (id uuid PRIMARY KEY); INSERT INTO wide VALUES (gen_random_uuid())")
    file = tmp_path / "a.sql"
    file.write_text(RELEASE)
    return run([file], target="demo", fail_on="error", form=form)  # type: ignore[arg-type]


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("rules", "found"),
    [
        (None, set()),
        ("design-uuid-key", {"design-uuid-key"}),
        ("all", {"design-uuid-key", "design-audit-columns"}),
        ("timestamp-without-zone", set()),
    ],
)
def test_a_target_switches_rules_of_design_on(
    project: Callable[..., Target], tmp_path: Path, rules: str | None, found: set[str]
) -> None:
    """None by default, those that it names, or all of them."""
    make, _ = json.loads(reviewed(project, tmp_path, design_rules=rules)[0])
    assert {hazard["id"] for hazard in make["hazards"] if hazard["id"].startswith("design-")} == found


def test_a_rule_of_design_that_does_not_exist_is_refused(project: Callable[..., Target], tmp_path: Path) -> None:
    """A rule that is spelt wrong would be a rule that is off: all that there are are listed."""
    with pytest.raises(WrongInput) as wrong:
        reviewed(project, tmp_path, design_rules="design-uuid")
    known = ", ".join([*(rule.id for rule in RULES.values() if rule.taste), *(f"squawk-{rule}" for rule in SQUAWK)])
    assert str(wrong.value) == (
        'target "demo" switches on rules of design that do not exist: design-uuid\n'
        f"Detail: Known rules: {known}; all stands for all of them.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Correct design_rules in targets.toml."
    )


def test_safe_migrations_mode_is_shown_as_an_error_with_the_way_through(
    project: Callable[..., Target], tmp_path: Path
) -> None:
    """What the release would refuse, the pull request says: the object, the reason, and the parameter."""
    text, code = reviewed(project, tmp_path, safe_migrations=True)
    make, drop = json.loads(text)
    assert code == 1
    assert "refused-in-safe-migrations-mode" not in {hazard["id"] for hazard in make["hazards"]}
    assert drop["hazards"][0] == {
        "id": "refused-in-safe-migrations-mode",
        "severity": "error",
        "effect": "public.wide: the table holds rows (about 1).",
        "way_out": "-- keep the object, or accept its loss with parameter allow_loss: "
        "pgrunbook run release --target demo -p allow_loss=public.wide",
    }


def test_without_safe_migrations_mode_nothing_is_refused(project: Callable[..., Target], tmp_path: Path) -> None:
    """The mode is the operator's choice."""
    assert "refused-in-safe-migrations-mode" not in reviewed(project, tmp_path)[0]


def test_fails_is_a_question_of_rank() -> None:
    """A warning fails where warnings do, not where errors do."""
    found = review([("a.sql", "ALTER TABLE a ADD COLUMN b text;")], with_squawk=False)
    assert not fails(found, "error")
    assert fails(found, "warning")


@pytest.mark.parametrize(
    ("up", "down"),
    [
        ("000001_a.up.sql", "000001_a.down.sql"),
        ("0001_a.sql", "0001_a.down.sql"),
        ("0001.a.sql", "0001.a.rollback.sql"),
        ("0001_a_up.sql", "0001_a_down.sql"),
        ("0001_a.sql", "0001_a_down.sql"),
        ("001.do.a.sql", "001.undo.a.sql"),
        ("V1__a.sql", "U1__a.sql"),
        ("a/up.sql", "a/down.sql"),
    ],
)
def test_a_way_back_among_the_files_is_no_migration(tmp_path: Path, up: str, down: str) -> None:
    """As migrations/*.sql names both: the table is not taken for one that is dropped. Alone it is reviewed."""
    (tmp_path / "a").mkdir()
    (tmp_path / up).write_text("CREATE TABLE a (id integer PRIMARY KEY);")
    (tmp_path / down).write_text("DROP TABLE a;")
    files = sorted([tmp_path / up, tmp_path / down])
    text, code = run(files, target=None, fail_on="error", form="text", with_squawk=False)
    assert text.split("\n\n") == [
        "1 statement: no hazards",
        f"Note: what undoes others is left out, and is reviewed where it is named alone: {Path(down).name}",
    ]
    assert code == 0
    assert "drop-table" in run([tmp_path / down], target=None, fail_on="error", form="text")[0]


def test_a_name_that_only_ends_as_a_way_back_does_is_a_migration(tmp_path: Path) -> None:
    """What shuts something down undoes nothing that is named."""
    files = [tmp_path / name for name in ("0001_a.sql", "0002_shut_down.sql", "down.sql")]
    for file in files:
        file.write_text("DROP TABLE a;")
    assert ways_back(files) == []


def test_a_file_of_dbmate_is_judged_on_its_way_up(tmp_path: Path) -> None:
    """The way back beside it is not run by a release; lines stay those of the file."""
    file = tmp_path / "20260101000000_a.sql"
    file.write_text("-- migrate:up\n\nCREATE INDEX i ON orders (total);\n\n-- migrate:down\nDROP TABLE orders;\n")
    text, code = run([file], target=None, fail_on="error", form="json")
    found = json.loads(text)
    assert [(one["line"], one["statement"]) for one in found] == [(3, "CREATE INDEX i ON orders (total)")]
    assert code == 1


@pytest.mark.parametrize(
    "sql",
    ["BEGIN", "START TRANSACTION", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT a", "RELEASE a", "ROLLBACK TO a",
     "PREPARE TRANSACTION 'a'", "COMMIT PREPARED 'a'", "ROLLBACK PREPARED 'a'", "COMMIT AND CHAIN"],
)  # fmt: skip
def test_what_prepare_refuses_is_an_error_in_the_review(tmp_path: Path, sql: str) -> None:
    """The same verdict in both, for every statement about transactions."""
    with pytest.raises(WrongInput, match="line 2: a migration cannot hold BEGIN, COMMIT or ROLLBACK"):
        statements.parse(f"SELECT 1;\n{sql};", "a.sql")
    file = tmp_path / "a.sql"
    file.write_text(f"SELECT 1;\n{sql};\n")
    text, code = run([file], target=None, fail_on="error", form="json")
    (found,) = [each for each in json.loads(text) if each["hazards"]]
    assert (code, found["line"], found["statement"]) == (1, 2, sql)
    assert [(h["id"], h["severity"]) for h in found["hazards"]] == [("transaction-in-file", "error")]


def test_code_that_nobody_could_read_is_a_finding() -> None:
    """Without a database the body of a function of somebody's is not known; one of the system's is harmless."""
    sql = "CALL later(); SELECT app.twice(1); SELECT lower('x'); SELECT pg_catalog.lower('x')"
    found = review([("a.sql", sql)], with_squawk=False)
    assert [[h.id for h in each.hazards] for each in found] == [["code-not-readable"], ["code-not-readable"], [], []]


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("head", "call"),
    [
        ("FUNCTION f(integer) RETURNS void", "SELECT f(1)"),
        ("FUNCTION f(IN a integer, b text DEFAULT 'x') RETURNS void", "SELECT f(1)"),
        ("FUNCTION f(a integer, OUT b integer, OUT c integer)", "SELECT f(1)"),
        ("FUNCTION f(INOUT a integer)", "SELECT f(1)"),
        ("FUNCTION f(a integer) RETURNS TABLE (b integer, c text)", "SELECT * FROM f(1)"),
        ("FUNCTION f(a integer, VARIADIC b integer[]) RETURNS void", "SELECT f(1, 2, 3, 4)"),
        ("PROCEDURE f(a integer, INOUT b integer DEFAULT 2)", "CALL f(1)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("times", [1, 2], ids=["made", "replaced"])
def test_a_routine_that_the_file_makes_is_known_by_its_parameters(
    newest: Server, head: str, call: str, times: int
) -> None:
    """Parameters of every mode: the server takes the call, and the body is judged."""
    body = "LANGUAGE plpgsql AS 'BEGIN DROP TABLE IF EXISTS wide; END'"
    sql = "; ".join([f"CREATE OR REPLACE {head} {body}"] * times + [call])
    newest.make("parameters")
    newest.run("parameters", sql)
    told = [[h.id for h in each.hazards] for each in review([("a.sql", sql)], with_squawk=False)]
    assert told[:-1] == [[]] * times
    assert "drop-table" in told[-1]
    assert "code-not-readable" not in told[-1]


CODE = """
CREATE FUNCTION app_drops() RETURNS void LANGUAGE plpgsql AS $$ BEGIN DROP TABLE wide; END $$;
CREATE FUNCTION app_computed(t text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'DROP TABLE ' || t; END $$;
CREATE FUNCTION app_fires() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM app_drops(); RETURN NEW; END $$;
CREATE TABLE wide (id integer); INSERT INTO wide SELECT generate_series(1, 20000);
CREATE TABLE small (id integer); INSERT INTO small VALUES (1); ANALYZE;
CREATE TRIGGER fires BEFORE INSERT ON small FOR EACH ROW EXECUTE FUNCTION app_fires();
CREATE SCHEMA calm; CREATE TABLE calm.wide (id integer);
"""


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("sql", "ids"),
    sample([
        ("SELECT app_drops()", {"drop-table"}),
        ("INSERT INTO small VALUES (2)", {"drop-table"}),
        ("SELECT app_computed('wide')", {"code-not-readable"}),
        ("SELECT pg_switch_wal()", {"acts-beyond-the-statement"}),
        ("DO $$ BEGIN CREATE INDEX i ON wide (id); ALTER TABLE wide ALTER COLUMN id TYPE bigint; END $$",
         {"index-not-concurrent", "column-type-rewrites"}),
        ("DO $$ BEGIN TRUNCATE wide; END $$", {"truncate"}),
        ("SET search_path TO calm; SELECT 1", set()),
        ("SET search_path TO calm; DROP TABLE wide", set()),
        ("SET search_path TO public; DROP TABLE wide", {"drop-table"}),
        ("SET search_path TO calm; RESET ALL; DROP TABLE wide", {"drop-table"}),
        ("CREATE OR REPLACE FUNCTION app_drops() RETURNS void LANGUAGE sql AS 'SELECT 1'; SELECT app_drops()", set()),
        ("CREATE FUNCTION later() RETURNS void LANGUAGE sql AS 'DROP TABLE wide'", set()),
    ], 3),
)  # fmt: skip
def test_code_that_a_statement_runs_is_reviewed(
    project: Callable[..., Target], tmp_path: Path, sql: str, ids: set[str]
) -> None:
    """Bodies of DO, functions and triggers are judged as statements, by the search_path that the file sets."""
    target = project(folder={"0001_a.sql": "SELECT 1"}, lock_timeout_ms=100)
    with connect(target, purpose="test") as conn:
        conn.execute(CODE)
    file = tmp_path / "a.sql"
    file.write_text(sql)
    found = json.loads(run([file], target="demo", fail_on="warning", form="json")[0])
    told = {h["id"] for each in found for h in each["hazards"] if h["severity"] != "note"}
    assert ids <= told if ids else told <= {"drop-table-empty"}


ABOUT_SECRETS = """
CREATE FUNCTION login(p_email text, p_password text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE v_token text := encode(gen_random_bytes(16), 'hex'); v_secret text; BEGIN
  v_token := md5(random()::text); v_secret := current_setting('app.jwt_secret');
  UPDATE sessions SET token = v_token, secret = v_secret; RETURN v_token; END $$;
CREATE INDEX ON sessions (token);
ALTER TABLE sessions ALTER COLUMN token TYPE varchar(100);
UPDATE sessions SET token = encode(digest(token, 'sha256'), 'hex');
DO $$ DECLARE v_token text; BEGIN v_token := gen_random_uuid(); UPDATE sessions SET token = v_token; END $$;
SELECT login('a@b', '{}');
UPDATE users SET api_key = api_key_old;
"""


@pytest.mark.parametrize("form", ["text", "json", "sarif"])
def test_code_about_secrets_is_shown_as_it_is(tmp_path: Path, form: Form) -> None:
    """Columns, variables and calls are code; what is masked is a value, also where a statement goes on to repeat it."""
    file = tmp_path / "0001_a.sql"
    file.write_text(ABOUT_SECRETS.format(""))
    text, _ = run([file], target=None, fail_on="error", form=form, with_squawk=False)
    assert "***" not in text
    file.write_text(ABOUT_SECRETS.format("swordfish") + "UPDATE users SET password = 'hunter2x';")
    text, _ = run([file], target=None, fail_on="error", form=form, with_squawk=False)
    assert "***" in text
    assert not any(word in text for word in ("swordfish", "hunter2x"))


BAD_INPUT = {
    "a byte that is not UTF-8": (b"-- caf\xe9", "line 2): invalid continuation byte"),
    "a zero byte": (b"SELECT '\0'", "line 2: holds a zero byte"),
    "a command of psql": (b"\\connect other", "Commands that begin with \\ are psql's own"),
    "a command of psql behind a statement": (b"SELECT 1 \\gexec", "Commands that begin with \\ are psql's own"),
    "rows for COPY": (b"COPY a FROM STDIN;\n1\n\\.", "line 2: COPY FROM STDIN cannot run from a migration file"),
    "what a newer server knows": (b"ALTER TABLE a FROBNICATE", 'line 2: syntax error at or near "FROBNICATE"'),
}


@pytest.mark.parametrize("kind", BAD_INPUT)
def test_what_cannot_be_read_is_one_error_with_file_and_line(tmp_path: Path, kind: str) -> None:
    """It says what is wrong, where, and what to do."""
    text, told = BAD_INPUT[kind]
    file = tmp_path / "0001_a.sql"
    file.write_bytes(b"CREATE TABLE a (id integer);\n" + text + b"\n;")
    with pytest.raises(WrongInput) as caught:
        run([file], target=None, fail_on="error", form="text")
    assert told in str(caught.value)
    assert "0001_a.sql" in str(caught.value)
    assert "Hint: " in str(caught.value)


def test_a_file_that_cannot_be_read_is_told_by_its_own_path(tmp_path: Path) -> None:
    """As it was given, so that an editor opens it; a folder is not a file, and what to write instead is told."""
    (tmp_path / "0001_b.sql").write_text("SELECT 1;\nSELEKT 2;")
    with pytest.raises(WrongInput) as raised:
        run([tmp_path / "0001_b.sql"], target=None, fail_on="error", form="text")
    assert raised.value.message.startswith(f"{tmp_path}/0001_b.sql, line 2: syntax error")
    with pytest.raises(WrongInput) as raised:
        run([tmp_path], target=None, fail_on="error", form="text")
    assert raised.value.hint == f"Name the files in it, in their order: {tmp_path}/*.sql"


@pytest.mark.slow
def test_a_statement_of_many_megabytes_is_read(tmp_path: Path) -> None:
    """It is neither refused nor shown."""
    (file := tmp_path / "0001_a.sql").write_text(f"INSERT INTO a VALUES ('{'x' * 2_000_000}')")
    assert run([file], target=None, fail_on="error", form="text", with_squawk=False) == ("1 statement: no hazards", 0)


LONG_NAME = "n" * 200


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sql", "filled"),
    [
        ("INSERT INTO a VALUES {}", lambda: ", ".join(f"({n}, '{'x' * 60}')" for n in range(270_000))),
        ("INSERT INTO a VALUES ('{}')", lambda: "x" * 20_000_000),
        ("/* {} */ SELECT 1", lambda: "x" * 20_000_000),
        ("CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN {} END $$", lambda: "PERFORM 1;\n" * 1_800_000),
    ],
    ids=["rows", "text", "comment", "code"],
)
def test_a_statement_of_20_mb_is_judged(tmp_path: Path, sql: str, filled: Callable[[], str]) -> None:
    """Like a short one, and in seconds."""
    (file := tmp_path / "0001_a.sql").write_text(sql.format(filled()))
    started_s = time.process_time()
    assert run([file], target=None, fail_on="error", form="text", with_squawk=False) == ("1 statement: no hazards", 0)
    assert time.process_time() - started_s < 30


def test_a_name_of_200_characters_is_the_one_that_the_server_makes_of_it(tmp_path: Path) -> None:
    """The server cuts it to 63 bytes: what is made by the one name is found by the other."""
    made = f"CREATE TABLE {LONG_NAME} (id integer);\n"
    (file := tmp_path / f"0001_{LONG_NAME}.sql").write_text(f"{made}CREATE INDEX ON {LONG_NAME[:63]} (id);\n")
    text, code = run([file], target=None, fail_on="error", form="text", with_squawk=False)
    assert (text, code) == ("2 statements: no hazards", 0)
    file.write_text(f"{made}DROP INDEX {LONG_NAME};")
    found = json.loads(run([file], target=None, fail_on="error", form="json", with_squawk=False)[0])
    assert found[1]["locks"][0]["object"] == LONG_NAME[:63]


@pytest.mark.slow
def test_a_migration_with_names_of_200_characters_is_rehearsed(project: Callable[..., Target]) -> None:
    """File, table, column, constraint and index: safe forms and ways back are made of the names that are left."""
    sql = (
        f"CREATE TABLE {LONG_NAME} (id integer PRIMARY KEY, {LONG_NAME} text);\n"
        f"CREATE INDEX i_{LONG_NAME} ON {LONG_NAME} ({LONG_NAME});"
    )
    more = f"ALTER TABLE a ADD CONSTRAINT {LONG_NAME} CHECK (id > 0);\nCREATE INDEX k_{LONG_NAME} ON a (id);"
    target = project(folder={f"0001_{LONG_NAME}.sql": more, f"0002_{LONG_NAME}.sql": sql})
    with connect(target, purpose="test") as conn:
        conn.execute("CREATE TABLE a (id integer PRIMARY KEY); INSERT INTO a VALUES (1)")
    done = rehearsed(target)
    assert [change.proof.says for change in done.changes if not change.proof.proven] == []


@pytest.mark.slow
def test_two_files_of_one_number_are_reviewed_and_told(project: Callable[..., Target]) -> None:
    """Both are judged; which of them is applied on the target is not known, and a note says why."""
    target = project(folder={"0001_a.sql": "DROP TABLE a;", "0001_b.sql": "DROP TABLE b;"})
    with connect(target, purpose="test") as conn:
        conn.execute("CREATE TABLE a (id integer); CREATE TABLE b (id integer)")
    assert target.migrations is not None
    files = sorted(target.migrations.glob("*.sql"))
    text, _ = run(files, target="demo", fail_on="error", form="text", with_squawk=False)
    assert "drop-table: 2 x" in text
    assert "Note: which files are applied on demo cannot be told: two migrations have the number 1" in text
