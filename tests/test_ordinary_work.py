"""Ordinary work is neither refused nor taken back: whole procedures, cell by cell, on migrations as teams write them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import connect, do, rows
from pgrunbook import history as histories
from pgrunbook.config.targets import Target
from pgrunbook.database.schema import snapshot
from pgrunbook.database.schema_diff import diff
from pgrunbook.errors import Refused
from pgrunbook.history.state import leave_out
from pgrunbook.session import session as heres
from pgrunbook.session.session import Session
from returning import rehearsed, take_back
from test_rights import BEGIN, CELLS

Project = Callable[..., Target]

# ruff: noqa: E501 - one statement on a line, whatever its length

TABLES = """
CREATE TABLE t (id integer PRIMARY KEY, a integer);
INSERT INTO t SELECT i, i FROM generate_series(1, 20) AS i;
CREATE TABLE p (id integer PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (100);
INSERT INTO p SELECT i FROM generate_series(1, 20) AS i;
CREATE VIEW seen AS SELECT a FROM t;
CREATE VIEW gone AS SELECT 1 AS a;
CREATE TABLE was_table (a integer);
INSERT INTO was_table VALUES (1), (2);
CREATE MATERIALIZED VIEW was_view AS SELECT 1 AS a;
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE FUNCTION one() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE SEQUENCE numbers;
CREATE TABLE old (id integer DEFAULT nextval('numbers'), m mood DEFAULT 'ok' CHECK (m <> 'sad'), n integer DEFAULT one());
INSERT INTO old (id) VALUES (1), (2);
CREATE TYPE state AS ENUM ('open', 'shut');
CREATE TABLE door (id integer PRIMARY KEY, s state DEFAULT 'open');
INSERT INTO door VALUES (1), (2);
"""
FOLDER = {
    "0001_not_valid.sql": "ALTER TABLE t ADD CONSTRAINT positive CHECK (a > 0) NOT VALID;\nCREATE DOMAIN d AS integer;\nALTER DOMAIN d ADD CONSTRAINT dc CHECK (VALUE > 0) NOT VALID;",
    "0002_to_partitions.sql": "ALTER TABLE t ADD CONSTRAINT t_p FOREIGN KEY (a) REFERENCES p;",
    "0003_moments.sql": "CREATE VIEW v AS SELECT timestamp 'now' AS at;\nALTER TABLE t ADD COLUMN at timestamptz DEFAULT timestamptz 'now';",
    "0004_views.sql": "CREATE MATERIALIZED VIEW later AS SELECT a FROM t WITH NO DATA;\nCREATE UNIQUE INDEX ON later (a);\nDROP VIEW gone;\nCREATE MATERIALIZED VIEW gone AS SELECT a FROM t;\nDROP TABLE was_table;\nCREATE VIEW was_table AS SELECT 1 AS a;\nDROP MATERIALIZED VIEW was_view;\nCREATE TABLE was_view (a integer);",
    "0005_old.sql": "BEGIN;\nDROP TABLE old;\nDROP TYPE mood;\nDROP FUNCTION one();\nDROP SEQUENCE numbers;\nCOMMIT;\n",
    "0006_enum.sql": "ALTER TYPE state RENAME TO state_old;\nCREATE TYPE state AS ENUM ('open', 'shut', 'ajar');\nALTER TABLE door ALTER s DROP DEFAULT, ALTER s TYPE state USING s::text::state, ALTER s SET DEFAULT 'open';\nDROP TYPE state_old;",
    "0007_seed.sql": "CREATE TABLE seeded (id serial PRIMARY KEY);\nINSERT INTO seeded VALUES (1), (7);",
}


@pytest.fixture
def procedure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, object]]]:
    """Give a function that executes a procedure's cells, in the last one's run, and returns what they show, by name."""
    last: list[Session] = []

    def execute(name: str, **parameters: object) -> dict[str, object]:
        heres._end_earlier()
        monkeypatch.chdir(last[-1].run.folder if last else tmp_path)
        last.append(BEGIN[name].begin(target="demo", **parameters))
        return {"here": last[-1]} | {cell.__name__: cell(last[-1]) for cell in CELLS[name]}

    yield execute
    heres._end_earlier()


@pytest.mark.slow
def test_a_release_of_ordinary_migrations_is_as_promised_and_comes_back(
    project: Project, procedure: Callable[..., dict[str, Any]]
) -> None:
    """prepare with rows, migrate, validate and rollback; what a migration leaves on purpose is shown, and no problem."""
    target = project(folder=FOLDER)
    do(target, TABLES)
    with connect(target) as conn:
        left = leave_out(histories.read(conn, target))
        before = snapshot(conn, leave_out=left)
    prepared = procedure("prepare")
    facts = prepared["here"].facts
    assert [c.proof.says for c in facts["changes"] if not c.proof.proven] == []
    assert "Its BEGIN and COMMIT are left out" in repr(prepared["what_is_pending"])
    compared = repr(prepared["make_it_safe"]).split("Not compared: ")[1].split(".\n")[0]
    assert set(compared.split(", ")) == {"public.v", "public.t.at"}
    procedure("migrate", accept=",".join(facts["gates"]))
    found = procedure("validate")["nothing_left_behind"]
    assert {row[1]: "the migration leaves it so" in str(row[3]) for row in found.rows} == {
        "positive": True, "dc": True, "public.seeded_id_seq": True,
    }  # fmt: skip
    take_back(target)
    with connect(target) as conn:
        other = diff(before, snapshot(conn, leave_out=left))
    assert [d.line() for d in other] == []
    assert rows(target, "SELECT id, m::text, n FROM old ORDER BY id") == [(1, "ok", 1), (2, "ok", 1)]


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("DO $$ BEGIN EXECUTE format('CREATE TABLE t%s ()', (random() * 1e9)::int); END $$",
         "0001_m ends in another schema each time it runs"),
        ("DO $$ BEGIN EXECUTE format('COMMENT ON SCHEMA public IS %L', random() || ' at ' || clock_timestamp()); END $$", ""),
        ("CREATE FUNCTION f() RETURNS timestamptz RETURN timestamptz 'now'", ""),
        ("CREATE TABLE n (a integer CHECK (a > 0 OR date 'today' + time 'now' > timestamp '-infinity'))", ""),
        ("CREATE DOMAIN n AS timestamptz DEFAULT 'now' CHECK (VALUE <> 'now')", ""),
    ],
)  # fmt: skip
def test_what_differs_each_time_is_told_from_another_schema(project: Project, sql: str, told: str) -> None:
    """Values in texts are passed over; names that differ each time cannot be promised."""
    target = project(folder={"0001_m.sql": sql})
    if not told:
        done = rehearsed(target)
        assert done.unlike
        assert not done.is_exact
        return
    with pytest.raises(Refused) as refused:
        rehearsed(target)
    assert refused.value.message == told
