"""Triggers of the application on the way back: silent or not, whichever ends equal in every table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import connect, do, rows, write_folder
from pgrunbook import history as histories
from pgrunbook.config import targets
from pgrunbook.config.targets import Target
from pgrunbook.plan.plan import Plan
from pgrunbook.rehearse import way_back_trial, with_data
from returning import RELEASE, everything, execute, plan_of, rehearsed, take_back
from servers import Server

# ruff: noqa: E501 - one statement on a line, whatever its length

Project = Callable[..., Target]
AGAIN = RELEASE.replace("7f3a", "8888")

BASE = """
CREATE TABLE k (id int PRIMARY KEY, v text, n int, updated_at timestamptz NOT NULL DEFAULT '2026-01-01');
INSERT INTO k (id, v, n) SELECT i, 'v' || i, i FROM generate_series(1, 20) AS i;
CREATE TABLE log (id serial, says text);
CREATE TABLE counter (n bigint);
INSERT INTO counter SELECT sum(n) FROM k;
CREATE TABLE child (id int PRIMARY KEY, k int REFERENCES k ON DELETE CASCADE ON UPDATE CASCADE);
INSERT INTO child SELECT i, i FROM generate_series(1, 20) AS i;
CREATE FUNCTION audits() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log (says) VALUES (TG_OP); RETURN NULL; END $$;
CREATE FUNCTION touches() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.updated_at := clock_timestamp(); RETURN NEW; END $$;
CREATE FUNCTION counts() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  UPDATE counter SET n = counter.n + coalesce(new.n, 0) - coalesce(old.n, 0); RETURN NULL; END $$;
"""
AUDIT = "CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON k FOR EACH ROW EXECUTE FUNCTION audits();"
EACH = "CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON k FOR EACH STATEMENT EXECUTE FUNCTION audits();"
TOUCH = "CREATE TRIGGER touch BEFORE UPDATE ON k FOR EACH ROW EXECUTE FUNCTION touches();"
COUNT = """
CREATE FUNCTION count_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE counter SET n = counter.n + NEW.n; RETURN NULL; END $$;
CREATE FUNCTION count_down() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE counter SET n = counter.n - OLD.n; RETURN NULL; END $$;
CREATE FUNCTION count_both() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE counter SET n = counter.n + NEW.n - OLD.n; RETURN NULL; END $$;
CREATE TRIGGER a AFTER INSERT ON k FOR EACH ROW EXECUTE FUNCTION count_up();
CREATE TRIGGER b AFTER DELETE ON k FOR EACH ROW EXECUTE FUNCTION count_down();
CREATE TRIGGER c AFTER UPDATE ON k FOR EACH ROW EXECUTE FUNCTION count_both();
"""
RULE = "CREATE RULE audit AS ON UPDATE TO k DO ALSO INSERT INTO log (says) VALUES ('rule');"
NUMBERS = """
CREATE SEQUENCE numbers;
ALTER TABLE k ADD COLUMN number bigint;
CREATE FUNCTION numbered() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.number := nextval('numbers'); RETURN NEW; END $$;
CREATE TRIGGER number BEFORE UPDATE ON k FOR EACH ROW EXECUTE FUNCTION numbered();
"""
NEVER = "; ALTER TABLE k DISABLE TRIGGER audit"
# The triggers, the migration, whether they fire on its way back, and which tables differ after it.
CASES = {
    "a dropped column, audited": (AUDIT, "ALTER TABLE k DROP COLUMN n;", False, []),
    "a dropped column, audited by statement": (EACH, "ALTER TABLE k DROP COLUMN n;", False, []),
    "a dropped column, touched": (TOUCH, "ALTER TABLE k DROP COLUMN n;", False, []),
    "a type, touched and audited": (TOUCH + AUDIT, "ALTER TABLE k ALTER COLUMN n TYPE text USING n / 3;", False, []),
    "an update, touched": (TOUCH, "UPDATE k SET v = 'new' WHERE id > 5;", False, []),
    "an update, counted": (COUNT, "UPDATE k SET n = n * 2;", True, []),
    "a delete, counted": (COUNT, "DELETE FROM k WHERE id > 15;", True, []),
    "an insert, counted": (COUNT, "INSERT INTO k (id, v, n) VALUES (30, 'x', 5), (31, 'x', 6);", True, []),
    "an update, audited": (AUDIT, "UPDATE k SET v = 'new' WHERE id > 5;", False, ["public.log: 0 rows before, 15 after"]),
    "an update of the key that cascades": (TOUCH, "UPDATE k SET id = id + 100;", True, ["public.k: as many rows, with other values"]),
    "an update, counted and touched": (COUNT + TOUCH, "UPDATE k SET n = n * 2;", None, None),
    "an update, numbered and touched": (TOUCH + NUMBERS, "UPDATE k SET v = 'new' WHERE id > 5;", False, []),
    "a rule": (RULE, "ALTER TABLE k DROP COLUMN n;", False, []),
    "one that the migration creates": ("", f"{AUDIT} ALTER TABLE k ALTER COLUMN n TYPE text USING n / 3;", False, []),
    "one that a block creates": ("", f"DO $$ BEGIN {AUDIT} END $$; ALTER TABLE k DROP COLUMN n;", False, []),
    "one that the migration enables": (AUDIT + NEVER, "ALTER TABLE k ENABLE TRIGGER audit; ALTER TABLE k DROP COLUMN n;", False, []),
    "a rule that the migration creates": ("", f"{RULE} ALTER TABLE k DROP COLUMN n;", False, []),
    "none that fires": (AUDIT + NEVER, "ALTER TABLE k DROP COLUMN n;", True, []),
}  # fmt: skip
QUICK = ("a dropped column, audited",)


def prepared(target: Target) -> Plan:
    """Rehearse what is pending with the target's rows, and return the plan."""
    done = rehearsed(target)
    with connect(target, purpose="plans") as conn:
        pending = histories.read(conn, target).pending()
        ways = with_data.rehearse(target, pending, done, conn, most_bytes=10**9)
    plan = plan_of(target, done)
    return plan.model_copy(update={"changes": way_back_trial.with_proofs(plan.changes, ways.trial.ways_back)})


@pytest.mark.slow
@pytest.mark.parametrize("batch_rows", [1_000, pytest.param(7, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in QUICK else [pytest.mark.slow]) for case in CASES]
)
def test_the_plan_freezes_the_one_that_ends_equal(project: Project, case: str, batch_rows: int) -> None:
    """And the rollback does so; where neither does, the gate of this migration lists what differs."""
    triggers, text, fires, leaves = CASES[case]
    target = project(folder={"0001_x.sql": text, "0002_y.sql": "CREATE TABLE other (id int);"}, batch_rows=batch_rows)
    do(target, BASE + triggers)
    before = everything(target)
    plan = prepared(target)
    first, other = plan.changes
    assert other.proof.proven, other.proof.says
    if leaves is not None:
        assert (list(first.proof.leaves), first.proof.proven) == (leaves, not leaves), first.proof.says
        backs = [written.back.fires_triggers for written in first.statements if written.back is not None]
        assert backs[-1:] == [fires]
    gates = {gate.key: gate.gate for gate in plan.gates() if gate.key.startswith("way-back:")}
    assert set(gates) == (set() if first.proof.proven else {"way-back:0001_x"})
    for gate in gates.values():
        assert gate.says == f"its way back leaves other rows than there were before: {'; '.join(first.proof.leaves)}"
    execute(target, plan, RELEASE)
    take_back(target)
    after = everything(target)
    if first.proof.proven:
        assert after[1] == before[1]
    else:
        assert {f"{name.schema}.{name.name}" for name in after[1] if after[1][name] != before[1][name]} == {
            text.partition(":")[0] for text in first.proof.leaves
        }


@pytest.mark.slow
def test_a_second_release_fires_nothing(project: Project) -> None:
    """The rollback dropped the column without a trigger; its values come back so."""
    target = project(folder={"0001_x.sql": "ALTER TABLE k ADD COLUMN bar int;"})
    do(target, BASE + TOUCH + AUDIT)
    execute(target, plan_of(target, rehearsed(target)), RELEASE)
    do(target, "UPDATE k SET bar = id")
    held = everything(target)
    take_back(target)
    execute(target, plan_of(target, rehearsed(target)), AGAIN)
    assert everything(target) == held


@pytest.mark.slow
def test_foreign_keys_are_checked_where_triggers_were_silent(project: Project) -> None:
    """A row that refers to nothing is found, and nothing is committed."""
    target = project(folder={"0001_x.sql": "UPDATE child SET k = NULL WHERE id = 3;"})
    do(target, BASE + "CREATE TRIGGER t AFTER UPDATE ON child FOR EACH ROW EXECUTE FUNCTION audits();")
    plan = prepared(target)
    execute(target, plan, RELEASE)
    do(target, "DELETE FROM child WHERE id > 5; DELETE FROM k WHERE id = 3")
    with pytest.raises(Exception, match=r"rows of public\.child violate foreign key child_k_fkey"):
        take_back(target)
    assert rows(target, "SELECT count(*) FROM schema_migrations") == [(1,)]


@pytest.mark.slow
def test_who_may_not_silence_them_lets_them_fire(
    database: Callable[..., str], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ordinary role: what differs is a gate, and said."""
    name = database(BASE + AUDIT)
    role = f"plain_{name}"
    owned = f"ALTER TABLE k OWNER TO {role}; ALTER TABLE log OWNER TO {role}; ALTER TABLE child OWNER TO {role}"
    server.run(name, f"CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {name} TO {role}; {owned}",
               f"GRANT ALL ON SCHEMA public TO {role}; GRANT ALL ON counter TO {role}")  # fmt: skip
    write_folder(tmp_path / "migrations", {"0001_x.sql": "ALTER TABLE k DROP COLUMN n;"})
    (tmp_path / "services").write_text(f"[plain]\nhost={server.socket_dir}\nuser={role}\ndbname={name}\n")
    (tmp_path / "targets.toml").write_text(
        f'[plain]\nservice = "plain"\nmigrations = "{tmp_path}/migrations"\nrestore_points = false\n'
    )
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.setenv("PGRUNBOOK_TARGETS", str(tmp_path / "targets.toml"))
    monkeypatch.setenv("PGRUNBOOK_OUTPUTS", str(tmp_path / "outputs"))
    try:
        (change,) = prepared(targets.load("plain")).changes
        assert change.proof.leaves == ("public.log: 0 rows before, 20 after",)
        assert "with the triggers of the application" in change.proof.says
    finally:
        server.run(name, f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


@pytest.mark.slow
def test_contents_are_compared_after_going_up_again(project: Project) -> None:
    """A trigger may write what differs each time; what differs because of the way back is a doubt, with its column."""
    seen = """
CREATE FUNCTION sees() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  NEW.v := NEW.v || (SELECT count(*) FROM pgrunbook.step WHERE direction = 'down'); RETURN NEW; END $$;
CREATE TRIGGER seen BEFORE UPDATE ON k FOR EACH ROW EXECUTE FUNCTION sees();
"""
    target = project(folder={"0001_x.sql": "UPDATE k SET v = 'new' WHERE id > 5;"})
    do(target, BASE + TOUCH + seen)
    (change,) = prepared(target).changes
    assert not change.proof.proven
    assert change.proof.says == "the rows differ after going up again: public.k: other values in v"
