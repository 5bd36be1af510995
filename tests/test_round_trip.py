"""Release, write, rollback, release: at each stop the rows are those of twins that went there by plain SQL alone.

1. After the release the rows are those of a twin on which the files were executed.
2. Somebody writes. After the rollback the rows are those of a twin that was never released, and got the same writes in
   the words of the old schema: what was written since stays, what the release destroyed is there again.
3. After the second release they are those of the first twin with its writes: nothing that was written is lost. Where
   the release itself changes rows, they are those of the second twin, now released for the first time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import pytest

from conftest import connect, do
from pgrunbook.config.targets import Target
from pgrunbook.database import checksums
from returning import ROLLBACK, execute, plan_of, rehearsed, take_back

# ruff: noqa: E501 - one statement on a line, whatever its length

Project = Callable[..., Target]
TABLE = "CREATE TABLE T (id integer PRIMARY KEY, a integer, b text, c integer); INSERT INTO T SELECT i, i * 10, 'b' || i, i % 3 FROM generate_series(1, 6) AS i"
WRITE = "INSERT INTO T (id, a) VALUES (100, 1); UPDATE T SET a = 5 WHERE id = 2; DELETE FROM T WHERE id = 3; UPDATE T SET id = 50 WHERE id = 4; DELETE FROM T WHERE id = 5; INSERT INTO T (id, a) VALUES (5, 55)"
TWO_KEYS = "CREATE TABLE T (id numeric(9, 2), p numeric(9, 2), x text, PRIMARY KEY (id, p)); INSERT INTO T SELECT i + 0.25, i * 10 + 0.25, repeat('x', i % 2 * i) FROM generate_series(1, 6) AS i"
KEYS_WRITE = "UPDATE T SET p = 77 WHERE id = 3; DELETE FROM T WHERE id = 5; INSERT INTO T (id, p) VALUES (5, 50); UPDATE T SET id = 90 WHERE id = 2"
KEYS_OLD = "UPDATE T SET p = 77 WHERE id = 3.25; DELETE FROM T WHERE id = 5.25; INSERT INTO T (id, p) VALUES (5, 50); UPDATE T SET id = 90 WHERE id = 2.25"
KEYED = f"{TABLE}; ALTER TABLE T ADD COLUMN k integer NOT NULL DEFAULT 1"
UNKEYED, REKEYED = "ALTER TABLE T DROP CONSTRAINT T_pkey", "ALTER TABLE T ADD PRIMARY KEY (id, k)"
EACH_TYPE = {
    "smallint": "3", "bigint": "'9000000000'", "numeric(9, 3)": "1.500", "real": "0.1", "double precision": "'NaN'",
    "boolean": "false", "text": "''", "varchar(20)": "'x'", "char(5)": "'a'", "bytea": "'\\x00ff'", "date": "'2026-01-02'",
    "time": "'12:00'", "timetz": "'12:00+02'", "timestamp": "'2026-01-02 03:04'", "timestamptz": "'2026-01-02 03:04+00'",
    "interval": "'1 day 24 hours'", "uuid": "'00000000-0000-0000-0000-00000000000a'", "json": "'{\"a\":  1}'",
    "jsonb": "'{\"a\": 1}'", "inet": "'10.0.0.1'", "cidr": "'10.0.0.0/8'", "macaddr": "'08:00:2b:01:02:03'", "bit(3)": "'101'",
    "varbit": "'1'", "int4range": "'[1,5)'", "int4multirange": "'{[1,5)}'", "tsvector": "'a b'", "point": "'(1,2)'",
    "integer[]": "'[2:3]={7,NULL}'", "text[]": "'{}'", "mood": "'ok'", "mood[]": "'{ok,NULL}'", "pair": "'(1,x)'", "word": "'w'",
}  # fmt: skip


class Kind(NamedTuple):
    """A kind of statement: the release, what is written then, and the same in the words of the old schema."""

    up: str
    write: str = WRITE
    old: str = WRITE
    made: str = TABLE
    changes_rows: bool = False


KINDS = {
    "add_column": Kind("ALTER TABLE T ADD COLUMN n integer", f"{WRITE}; UPDATE T SET n = id"),
    "add_not_null": Kind("ALTER TABLE T ADD COLUMN n integer NOT NULL DEFAULT 5", f"{WRITE}; UPDATE T SET n = id WHERE id < 3"),
    "add_generated": Kind("ALTER TABLE T ADD COLUMN g integer GENERATED ALWAYS AS (a * 2) STORED"),
    "add_each_type": Kind(
        "ALTER TABLE T " + ", ".join(f"ADD COLUMN c{n} {type_}" for n, type_ in enumerate(EACH_TYPE)),
        f"{WRITE}; UPDATE T SET " + ", ".join(f"c{n} = {value}" for n, value in enumerate(EACH_TYPE.values())) + " WHERE id <> 1",
    ),
    "drop_column": Kind("ALTER TABLE T DROP COLUMN b"),
    "drop_columns": Kind("ALTER TABLE T DROP COLUMN b, DROP COLUMN c"),
    "rename_column": Kind("ALTER TABLE T RENAME COLUMN a TO aa", WRITE.replace("a =", "aa =").replace("(id, a)", "(id, aa)")),
    "widen": Kind("ALTER TABLE T ALTER COLUMN a TYPE bigint"),
    "retype": Kind("ALTER TABLE T ALTER COLUMN b TYPE integer USING length(b)", f"{WRITE}; UPDATE T SET b = 99 WHERE id = 2", f"{WRITE}; UPDATE T SET b = '99' WHERE id = 2"),
    "retyped_twice": Kind("ALTER TABLE T ALTER COLUMN b TYPE varchar(1) USING left(b, 1);\nALTER TABLE T ALTER COLUMN b TYPE varchar(9)", f"{WRITE}; UPDATE T SET b = 'w' WHERE id = 2", f"{WRITE}; UPDATE T SET b = 'w' WHERE id = 2"),
    "retyped_without_and_with_loss": Kind("ALTER TABLE T ALTER COLUMN b TYPE varchar(9);\nALTER TABLE T ALTER COLUMN b TYPE integer USING length(b);\nALTER TABLE T ALTER COLUMN b TYPE bigint", f"{WRITE}; UPDATE T SET b = 99 WHERE id = 2", f"{WRITE}; UPDATE T SET b = '99' WHERE id = 2"),
    "set_not_null": Kind("ALTER TABLE T ALTER COLUMN a SET NOT NULL"),
    "set_default": Kind("ALTER TABLE T ALTER COLUMN c SET DEFAULT 7", WRITE, WRITE.replace("(id, a) VALUES (100, 1", "(id, a, c) VALUES (100, 1, 7").replace("(id, a) VALUES (5, 55", "(id, a, c) VALUES (5, 55, 7")),
    "check": Kind("ALTER TABLE T ADD CONSTRAINT T_a CHECK (a > 0)"),
    "check_not_valid": Kind("ALTER TABLE T ADD CONSTRAINT T_a CHECK (a > 0) NOT VALID;\nALTER TABLE T VALIDATE CONSTRAINT T_a"),
    "unique": Kind("ALTER TABLE T ADD CONSTRAINT T_u UNIQUE (a)"),
    "foreign_key": Kind("ALTER TABLE T_of ADD CONSTRAINT T_fk FOREIGN KEY (t) REFERENCES T ON DELETE CASCADE", "DELETE FROM T WHERE id = 3; INSERT INTO T_of VALUES (9, 1)", "DELETE FROM T WHERE id = 3; DELETE FROM T_of WHERE t = 3; INSERT INTO T_of VALUES (9, 1)", f"{TABLE}; CREATE TABLE T_of (id integer PRIMARY KEY, t integer); INSERT INTO T_of VALUES (1, 3), (2, 4)"),
    "index": Kind("CREATE INDEX T_i ON T (a);\nCREATE UNIQUE INDEX CONCURRENTLY T_j ON T (b)"),
    "drop_index": Kind("DROP INDEX T_i", made=f"{TABLE}; CREATE INDEX T_i ON T (a)"),
    "primary_key": Kind("ALTER TABLE T ADD COLUMN u bigint;\nUPDATE T SET u = id * 100;\nALTER TABLE T DROP CONSTRAINT T_pkey;\nALTER TABLE T ADD PRIMARY KEY (u)", "UPDATE T SET a = 5 WHERE id = 2; DELETE FROM T WHERE id = 3", "UPDATE T SET a = 5 WHERE id = 2; DELETE FROM T WHERE id = 3"),
    "identity": Kind("ALTER TABLE T ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (START 500)", "INSERT INTO T (a) VALUES (1), (2)", "INSERT INTO T (id, a) VALUES (500, 1), (501, 2)"),
    "identity_gone": Kind("ALTER TABLE T ADD COLUMN u bigint;\nUPDATE T SET u = id * 100;\nALTER TABLE T DROP CONSTRAINT T_pkey, ADD PRIMARY KEY (u);\nALTER TABLE T DROP COLUMN id", "UPDATE T SET x = 'w' WHERE u < 300", "UPDATE T SET x = 'w' WHERE id < 3", "CREATE TABLE T (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, x text); INSERT INTO T (x) SELECT i FROM generate_series(1, 6) AS i"),
    "keys_at_once": Kind("ALTER TABLE T ADD COLUMN u bigint;\nUPDATE T SET u = id * 100;\nALTER TABLE T DROP COLUMN id, ADD PRIMARY KEY (u)", "UPDATE T SET x = 'w' WHERE u < 300; UPDATE T SET u = 700 WHERE u = 400; DELETE FROM T WHERE u = 500", "UPDATE T SET x = 'w' WHERE id < 3; DELETE FROM T WHERE id = 5", "CREATE TABLE T (id integer PRIMARY KEY, x text); INSERT INTO T SELECT i, 'x' FROM generate_series(1, 6) AS i"),
    "key_retyped": Kind("ALTER TABLE T ALTER COLUMN id TYPE integer", "UPDATE T SET x = 'w' WHERE id = 20; UPDATE T SET id = 77 WHERE id = 30; DELETE FROM T WHERE id = 50; INSERT INTO T VALUES (88, 'n'), (50, 'other')", "UPDATE T SET x = 'w' WHERE id = 20.25; UPDATE T SET id = 77 WHERE id = 30.25; DELETE FROM T WHERE id = 50.25; INSERT INTO T VALUES (88, 'n'), (50, 'other')", "CREATE TABLE T (id numeric(9, 2) PRIMARY KEY, x text); INSERT INTO T SELECT i * 10 + 0.25, 'x' FROM generate_series(1, 6) AS i"),
    "key_retyped_in_part": Kind("ALTER TABLE T ALTER COLUMN id TYPE varchar(3) USING left(id, 3)", "UPDATE T SET p = 12 WHERE id = 'k2_'; UPDATE T SET id = 'new' WHERE id = 'k3_'", "UPDATE T SET p = 12 WHERE id = 'k2_long'; UPDATE T SET id = 'new' WHERE id = 'k3_long'", "CREATE TABLE T (id text, p integer, PRIMARY KEY (id, p)) PARTITION BY RANGE (p); CREATE TABLE T_1 PARTITION OF T FOR VALUES FROM (0) TO (10); CREATE TABLE T_2 PARTITION OF T FOR VALUES FROM (10) TO (20); INSERT INTO T SELECT 'k' || i || '_long', i FROM generate_series(1, 6) AS i"),
    "two_keys_retyped": Kind("ALTER TABLE T ALTER COLUMN id TYPE integer, ALTER COLUMN p TYPE integer", "UPDATE T SET x = 'w' WHERE id = 2; UPDATE T SET p = 77 WHERE id = 3; DELETE FROM T WHERE id = 5; INSERT INTO T VALUES (5, 50, 'other')", "UPDATE T SET x = 'w' WHERE id = 2.25; UPDATE T SET p = 77 WHERE id = 3.25; DELETE FROM T WHERE id = 5.25; INSERT INTO T VALUES (5, 50, 'other')", TWO_KEYS),
    "keys_and_column_retyped": Kind("ALTER TABLE T ALTER COLUMN x TYPE integer USING length(x), ALTER COLUMN id TYPE integer, ALTER COLUMN p TYPE integer", KEYS_WRITE, KEYS_OLD, TWO_KEYS),
    "column_and_keys_retyped": Kind("ALTER TABLE T ALTER COLUMN id TYPE integer, ALTER COLUMN p TYPE integer, ALTER COLUMN x TYPE integer USING length(x)", KEYS_WRITE, KEYS_OLD, TWO_KEYS),
    "key_retyped_column_gone": Kind("ALTER TABLE T ALTER COLUMN id TYPE integer, DROP COLUMN x", KEYS_WRITE, KEYS_OLD, TWO_KEYS),
    "key_and_columns_updated": Kind("UPDATE T SET id = id + 100, p = 1, x = 'n' WHERE id < 4", "UPDATE T SET x = 'w' WHERE id = 5.25; DELETE FROM T WHERE id = 6.25", "UPDATE T SET x = 'w' WHERE id = 5.25; DELETE FROM T WHERE id = 6.25", TWO_KEYS),
    "rows_between_keys": Kind(f"{UNKEYED};\nUPDATE T SET b = upper(b), a = 7 WHERE c < 2;\nDELETE FROM T WHERE id = 6;\n{REKEYED}", f"{WRITE}; UPDATE T SET k = 2 WHERE id = 1", f"{WRITE}; DELETE FROM T WHERE id = 6; UPDATE T SET k = 2 WHERE id = 1; INSERT INTO T VALUES (6, 60, 'b6', 0)", KEYED),
    "column_between_keys": Kind(f"{UNKEYED};\nALTER TABLE T DROP COLUMN b;\n{REKEYED}", made=KEYED),
    "type_between_keys": Kind(f"{UNKEYED};\nALTER TABLE T ALTER COLUMN b TYPE integer USING length(b);\n{REKEYED}", f"{WRITE}; UPDATE T SET b = 99 WHERE id = 2", f"{WRITE}; UPDATE T SET b = '99' WHERE id = 2", KEYED),
    "create_table": Kind("CREATE TABLE T_new (id serial PRIMARY KEY, x text);\nINSERT INTO T_new (x) VALUES ('s')", f"{WRITE}; INSERT INTO T_new (x) VALUES ('w'); UPDATE T_new SET x = 'v' WHERE id = 1"),
    "create_as": Kind("CREATE TABLE T_new AS SELECT id, b FROM T WHERE c = 1;\nALTER TABLE T_new ADD PRIMARY KEY (id)", f"{WRITE}; INSERT INTO T_new VALUES (900, 'w')"),
    "drop_table": Kind("DROP TABLE T", "", ""),
    "by_type_dropped": Kind("DROP TABLE T;\nDROP TYPE T_e", "", "", "CREATE TYPE T_e AS ENUM ('x', 'y'); CREATE TABLE T (e T_e, id serial, PRIMARY KEY (e, id)) PARTITION BY LIST (e); CREATE TABLE T_1 PARTITION OF T FOR VALUES IN ('x'); CREATE TABLE T_2 PARTITION OF T DEFAULT PARTITION BY RANGE (id); CREATE TABLE T_2_1 PARTITION OF T_2 DEFAULT; INSERT INTO T (e) VALUES ('x'), ('y'), ('x')"),
    "by_type_made": Kind("CREATE TYPE T_e AS ENUM ('x', 'y');\nCREATE TABLE T_new (e T_e, id integer GENERATED BY DEFAULT AS IDENTITY) PARTITION BY LIST (e);\nCREATE TABLE T_new_1 PARTITION OF T_new DEFAULT", "INSERT INTO T_new VALUES ('x', 1), ('y', 2)", "SELECT 1"),
    "rename_table": Kind("ALTER TABLE T RENAME TO T_r", re.sub(r"\bT\b", "T_r", WRITE)),
    "move_table": Kind("ALTER TABLE T SET SCHEMA moved", re.sub(r"\bT\b", "moved.T", WRITE)),
    "enum_value": Kind("ALTER TYPE T_e ADD VALUE 'z' BEFORE 'y'", f"{WRITE}; UPDATE T SET e = 'y' WHERE id = 2", f"{WRITE}; UPDATE T SET e = 'y' WHERE id = 2", f"CREATE TYPE T_e AS ENUM ('x', 'y'); {TABLE}; ALTER TABLE T ADD COLUMN e T_e DEFAULT 'x'"),
    "enum_replaced": Kind("ALTER TYPE T_e RENAME TO T_e_old;\nCREATE TYPE T_e AS ENUM ('x', 'z');\nUPDATE T SET e = 'x' WHERE e = 'y';\nALTER TABLE T ALTER e DROP DEFAULT, ALTER e TYPE T_e USING e::text::T_e, ALTER e SET DEFAULT 'x';\nDROP TYPE T_e_old", "UPDATE T SET b = 'w' WHERE id = 1", "UPDATE T SET b = 'w' WHERE id = 1", f"CREATE TYPE T_e AS ENUM ('x', 'y'); {TABLE}; ALTER TABLE T ADD COLUMN e T_e DEFAULT 'x'; UPDATE T SET e = 'y' WHERE id > 3"),
    "view": Kind("CREATE VIEW T_v AS SELECT id, a FROM T WHERE a > 10;\nCREATE OR REPLACE VIEW T_v AS SELECT id, a, b FROM T"),
    "matview": Kind("CREATE MATERIALIZED VIEW T_m AS SELECT c, sum(a) AS a FROM T GROUP BY c;\nCREATE UNIQUE INDEX ON T_m (c);\nREFRESH MATERIALIZED VIEW T_m", changes_rows=True),
    "rights": Kind("GRANT SELECT ON T TO PUBLIC;\nCOMMENT ON COLUMN T.a IS 'x';\nALTER TABLE T ENABLE ROW LEVEL SECURITY;\nCREATE POLICY p ON T USING (a > 0)"),
    "sequence": Kind("CREATE SEQUENCE T_s START 70;\nALTER TABLE T ALTER COLUMN c SET DEFAULT nextval('T_s')", "INSERT INTO T (id) VALUES (100), (101)", "INSERT INTO T (id, c) VALUES (100, 70), (101, 71)"),
    "domain": Kind("CREATE DOMAIN T_d AS integer CHECK (VALUE > 0);\nALTER TABLE T ALTER COLUMN a TYPE T_d"),
    "before_trigger": Kind("CREATE FUNCTION T_f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.c := 99; RETURN NEW; END';\nCREATE TRIGGER t BEFORE UPDATE ON T FOR EACH ROW EXECUTE FUNCTION T_f()", "UPDATE T SET b = 'w' WHERE id = 2", "UPDATE T SET b = 'w', c = 99 WHERE id = 2"),
    "after_trigger": Kind("CREATE TABLE T_log (id serial PRIMARY KEY, x text);\nCREATE FUNCTION T_f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO T_log (x) VALUES (TG_OP); RETURN NULL; END';\nCREATE TRIGGER t AFTER INSERT OR UPDATE OR DELETE ON T FOR EACH ROW EXECUTE FUNCTION T_f()"),
    "statement_trigger": Kind("CREATE TABLE T_log (id serial PRIMARY KEY, x text);\nCREATE FUNCTION T_f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO T_log (x) SELECT count(*) FROM n; RETURN NULL; END';\nCREATE TRIGGER t AFTER UPDATE ON T REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION T_f()"),
    "instead_trigger": Kind("CREATE VIEW T_v AS SELECT id, a FROM T;\nCREATE FUNCTION T_f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO T (id, a) VALUES (NEW.id, -NEW.a); RETURN NEW; END';\nCREATE TRIGGER t INSTEAD OF INSERT ON T_v FOR EACH ROW EXECUTE FUNCTION T_f()", "INSERT INTO T_v VALUES (100, 1)", "INSERT INTO T (id, a) VALUES (100, -1)"),
    "drop_trigger": Kind("DROP TRIGGER t ON T;\nDROP FUNCTION T_f()", "UPDATE T SET b = 'w' WHERE id = 2", "ALTER TABLE T DISABLE TRIGGER t; UPDATE T SET b = 'w' WHERE id = 2; ALTER TABLE T ENABLE TRIGGER t", f"{TABLE}; CREATE FUNCTION T_f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.c := 99; RETURN NEW; END'; CREATE TRIGGER t BEFORE UPDATE ON T FOR EACH ROW EXECUTE FUNCTION T_f()"),
    "partition": Kind("CREATE TABLE T_2 PARTITION OF T FOR VALUES FROM (10) TO (20)", "INSERT INTO T VALUES (12, 'w'), (3, 'v')", "INSERT INTO T VALUES (3, 'v')", "CREATE TABLE T (id integer PRIMARY KEY, b text) PARTITION BY RANGE (id); CREATE TABLE T_1 PARTITION OF T FOR VALUES FROM (0) TO (10); INSERT INTO T VALUES (1, 'x'), (2, 'y')"),
    "detach": Kind("ALTER TABLE T DETACH PARTITION T_1", "INSERT INTO T_1 VALUES (3, 'v')", "INSERT INTO T VALUES (3, 'v')", "CREATE TABLE T (id integer PRIMARY KEY, b text) PARTITION BY RANGE (id); CREATE TABLE T_1 PARTITION OF T FOR VALUES FROM (0) TO (10); INSERT INTO T VALUES (1, 'x'), (2, 'y')"),
    "split": Kind("ALTER TABLE T ADD COLUMN b1 text, ADD COLUMN b2 text;\nUPDATE T SET b1 = left(b, 1), b2 = substr(b, 2);\nALTER TABLE T DROP COLUMN b", f"{WRITE}; UPDATE T SET b1 = 'w' WHERE id = 1"),
    "json": Kind("ALTER TABLE T ADD COLUMN j jsonb NOT NULL DEFAULT '{}';\nUPDATE T SET j = jsonb_build_object('b', b, 'c', c);\nALTER TABLE T DROP COLUMN b, DROP COLUMN c", f"{WRITE}; UPDATE T SET j = j || '{{\"d\": 1}}' WHERE id = 1"),
    "update": Kind("UPDATE T SET a = a + 1 WHERE id < 4", "UPDATE T SET b = 'w'; DELETE FROM T WHERE id = 6", "UPDATE T SET b = 'w'; DELETE FROM T WHERE id = 6"),
    "update_from": Kind("UPDATE T SET a = s.n FROM (VALUES (1, 7), (2, 8)) AS s (id, n) WHERE s.id = T.id", "UPDATE T SET c = 9", "UPDATE T SET c = 9"),
    "delete": Kind("DELETE FROM T WHERE c = 0", "INSERT INTO T VALUES (90, 1, 'w', 0)", "INSERT INTO T VALUES (90, 1, 'w', 0)", changes_rows=True),
    "delete_using": Kind("DELETE FROM T USING (VALUES (2), (3)) AS s (id) WHERE s.id = T.id", "UPDATE T SET b = 'w'", "UPDATE T SET b = 'w' WHERE id NOT IN (2, 3)"),
    "insert": Kind("INSERT INTO T VALUES (200, 1, 'n', 1), (201, 1, 'n', 1)", "UPDATE T SET b = 'w' WHERE id < 3", "UPDATE T SET b = 'w' WHERE id < 3"),
    "insert_select": Kind("INSERT INTO T SELECT id + 300, a, b, c FROM T", "UPDATE T SET b = 'w' WHERE id < 3", "UPDATE T SET b = 'w' WHERE id < 3", changes_rows=True),
    "do_nothing": Kind("INSERT INTO T VALUES (1, 0, '', 0), (200, 1, 'n', 1) ON CONFLICT DO NOTHING", "UPDATE T SET b = 'w' WHERE id < 3", "UPDATE T SET b = 'w' WHERE id < 3"),
    "do_update": Kind("INSERT INTO T VALUES (1, 0, '', 0), (200, 1, 'n', 1) ON CONFLICT (id) DO UPDATE SET a = excluded.a", "UPDATE T SET b = 'w' WHERE id = 2", "UPDATE T SET b = 'w' WHERE id = 2"),
    "merge": Kind("MERGE INTO T USING (VALUES (1, 0), (2, 5), (200, 1)) AS s (id, a) ON s.id = T.id WHEN MATCHED AND s.a = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET a = s.a WHEN NOT MATCHED THEN INSERT (id, a) VALUES (s.id, s.a)", "UPDATE T SET b = 'w' WHERE id = 3", "UPDATE T SET b = 'w' WHERE id = 3"),
    "truncate": Kind("TRUNCATE T;\nINSERT INTO T VALUES (1, 1, 'one', 1), (9, 9, 'nine', 9)", "INSERT INTO T VALUES (70, 1, 'w', 1)", "INSERT INTO T VALUES (70, 1, 'w', 1)", changes_rows=True),
    "block": Kind("DO $$ DECLARE r record; BEGIN FOR r IN SELECT id FROM T LOOP UPDATE T SET a = a + r.id WHERE id = r.id AND c > 0; END LOOP; DELETE FROM T WHERE id = 6; END $$", "UPDATE T SET b = 'w' WHERE id = 3", "UPDATE T SET b = 'w' WHERE id = 3"),
    "procedure": Kind("CREATE PROCEDURE T_p(n integer) LANGUAGE sql AS 'UPDATE T SET a = a + n WHERE id < 3';\nCALL T_p(7)", "UPDATE T SET b = 'w' WHERE id = 5", "UPDATE T SET b = 'w' WHERE id = 5"),
}  # fmt: skip
SHARED = "CREATE SCHEMA moved; CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (a integer, b text); CREATE DOMAIN word AS text CHECK (VALUE <> '')"
FEW = ("drop_column", "retype", "do_update", "block", "after_trigger")


def round_trip(project: Project, names: tuple[str, ...]) -> None:
    """Send a release of these kinds there, back and there again, and compare the rows at each stop."""
    kinds = {
        name: Kind(*(_named(part, name) if isinstance(part, str) else part for part in KINDS[name])) for name in names
    }
    target = project(folder={f"{n:04}_{name}.sql": kind.up for n, (name, kind) in enumerate(kinds.items(), 1)})
    released, never = project(folder={}, name="released"), project(folder={}, name="never")
    for each in (target, released, never):
        do(each, SHARED + "; " + ";\n".join(kind.made for kind in kinds.values()))
    for kind in kinds.values():
        _apply(released, kind.up)

    def stop(number: int, twins: dict[str, Target]) -> None:
        here, there = _rows(target), {twin.name: _rows(twin) for twin in twins.values()}
        apart = {name: (_of(here, name), _of(there[twin.name], name)) for name, twin in twins.items()}
        assert {f"stop {number}: {name}": pair for name, pair in apart.items() if pair[0] != pair[1]} == {}

    done = rehearsed(target)
    assert {c.migration: c.proof.says for c in done.changes if not c.proof.proven} == {}
    execute(target, plan_of(target, done), "20261122T165431Z-release-demo-7f3a")
    stop(1, dict.fromkeys(names, released))
    for kind in kinds.values():
        do(target, f"SET application_name = 'shop'; {kind.write}")  # what is deleted by us comes back
        do(released, kind.write)
        do(never, kind.old)
    take_back(target)
    stop(2, dict.fromkeys(names, never))
    for kind in kinds.values():
        _apply(never, kind.up)
    execute(target, plan_of(target, rehearsed(target)), f"{ROLLBACK}-again")
    stop(3, {name: never if kind.changes_rows else released for name, kind in kinds.items()})


@pytest.mark.slow
def test_rows_are_equal_at_each_stop(project: Project) -> None:
    """One of each kind of change: columns, tables, rows that are shown and such that are not, types, triggers."""
    round_trip(project, FEW)


@pytest.mark.slow
def test_keys_that_change_with_other_columns_are_equal_at_each_stop(project: Project) -> None:
    """Several columns of a key, or one and others, that one statement changes."""
    round_trip(project, tuple(name for name, kind in KINDS.items() if kind.made == TWO_KEYS))


@pytest.mark.slow
def test_tables_partitioned_by_a_type_are_equal_at_each_stop(project: Project) -> None:
    """Dropped with that type by the release, and by its way back."""
    round_trip(project, ("by_type_dropped", "by_type_made"))


@pytest.mark.slow
def test_rows_between_two_keys_are_equal_at_each_stop(project: Project) -> None:
    """What a migration changes between DROP and ADD of a key is told by the old one."""
    round_trip(project, tuple(name for name in KINDS if name.endswith("between_keys")))


@pytest.mark.slow
@pytest.mark.timeout(1_500)
def test_rows_of_each_kind_of_statement_are_equal_at_each_stop(project: Project) -> None:
    """All kinds of the guide, of the ordinary migrations and of triggers, in one release."""
    round_trip(project, tuple(KINDS))


def _apply(target: Target, up: str) -> None:
    for statement in up.split(";\n"):
        do(target, statement)


def _named(text: str, name: str) -> str:
    """Return a text with the table of a kind in the place of T."""
    return _T.sub(f"{name}_t", text)


_T = re.compile(r"\bT(?=_|\b)")


def _rows(target: Target) -> dict[str, object]:
    with connect(target, purpose="looks") as conn:
        return {f"{name.schema}.{name.name}": found for name, found in checksums.checksums(conn).items()}


def _of(rows: dict[str, object], name: str) -> dict[str, object]:
    return {table: found for table, found in rows.items() if table.split(".")[1].startswith(f"{name}_t")}
