"""What a statement converts by the session's TimeZone is what ends otherwise under another one, as a server says."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from budget import sample
from pgrunbook.config.targets import Target
from pgrunbook.database import catalog_reader
from pgrunbook.database.connection import Connection, connect
from pgrunbook.effects.zone_use import CatalogTypes, uses
from pgrunbook.review.hazards import Transactions, find
from pgrunbook.review.statement_scenes import script, stage
from pgrunbook.safe_forms.expander import Expander
from pgrunbook.sql import statements
from pgrunbook.sql.tree import tree
from servers import Server

STAGE = """
CREATE DOMAIN instant AS timestamptz;
CREATE DOMAIN moment AS timestamp;
CREATE TABLE v (id integer PRIMARY KEY, t timestamp, z timestamptz, d date, h time, hz timetz, s text, n float8,
    di instant, dm moment, ta timestamp[], za timestamptz[], r tstzrange, rt tsrange, "T x" timestamp);
INSERT INTO v SELECT i, timestamp '2026-03-05' + i * interval '7 hours',
    timestamptz '2026-03-05 00:00+00' + i * interval '7 hours',
    date '2026-03-05' + i, '23:30', '23:30+02', '2026-03-05 10:00', 1772668800 + i, '2026-03-05 10:00+00',
    '2026-03-05 10:00', '{2026-03-05 10:00}', '{2026-03-05 10:00+00}', '[2026-03-05 10:00+00,)', '[2026-03-05 10:00,)',
    '2026-03-05 10:00' FROM generate_series(1, 9) AS i;
CREATE TABLE w (id integer, at timestamptz, plain timestamp, note text);
INSERT INTO w SELECT i, '2026-03-05 10:00+00', '2026-03-05 10:00', 'x' FROM generate_series(1, 3) AS i
"""
# ruff: noqa: E501 - one statement on a line, whatever its length

ALTERATIONS = [
    "ALTER TABLE v ALTER t TYPE timestamptz", "ALTER TABLE v ALTER z TYPE timestamp", "ALTER TABLE v ALTER z TYPE date",
    "ALTER TABLE v ALTER d TYPE timestamptz", "ALTER TABLE v ALTER z TYPE text", "ALTER TABLE v ALTER h TYPE timetz",
    "ALTER TABLE v ALTER di TYPE timestamp", "ALTER TABLE v ALTER t TYPE instant", "ALTER TABLE v ALTER dm TYPE instant",
    "ALTER TABLE v ALTER ta TYPE timestamptz[]", "ALTER TABLE v ALTER za TYPE text", "ALTER TABLE v ALTER r TYPE text",
    'ALTER TABLE v ALTER "T x" TYPE timestamptz(0)', "ALTER TABLE v ALTER s TYPE timestamptz USING s::timestamptz",
    "ALTER TABLE v ALTER t TYPE date USING (t::timestamptz)::date", "ALTER TABLE v ALTER z TYPE time USING z::time",
    "ALTER TABLE v ALTER z TYPE timetz USING z::timetz", "ALTER TABLE v ALTER d TYPE timestamptz USING d + time '10:00'",
    "ALTER TABLE v ALTER t TYPE timestamptz USING t AT TIME ZONE 'Europe/Rome'",
    "ALTER TABLE v ALTER t TYPE timestamptz USING timezone('Europe/Rome', t)",
    "ALTER TABLE v ALTER t TYPE timestamptz USING (t + interval '1 hour')",
    "ALTER TABLE v ALTER z TYPE timestamp USING z AT TIME ZONE 'Europe/Rome'",
    "ALTER TABLE v ALTER z TYPE date USING (z AT TIME ZONE 'Europe/Rome')::date",
    "ALTER TABLE v ALTER d TYPE timestamptz USING d AT TIME ZONE 'Europe/Rome'",
    "ALTER TABLE v ALTER d TYPE timestamptz USING d::timestamp AT TIME ZONE 'Europe/Rome'",
    "ALTER TABLE v ALTER n TYPE timestamptz USING to_timestamp(n)",
    "ALTER TABLE v ALTER s TYPE timestamptz USING to_timestamp(s, 'YYYY-MM-DD HH24:MI')",
    "ALTER TABLE v ALTER s TYPE timestamptz USING to_timestamp(s || ' +02', 'YYYY-MM-DD HH24:MI TZH')",
    "ALTER TABLE v ALTER t TYPE timestamptz USING t::timestamptz AT TIME ZONE 'UTC' AT TIME ZONE 'UTC'",
    "ALTER TABLE v ALTER t TYPE text USING t::timestamptz::text", "ALTER TABLE v ALTER t TYPE text USING to_char(t::timestamptz, 'HH24')",
    "ALTER TABLE v ALTER t TYPE float8 USING extract(epoch from t::timestamptz)",
    "ALTER TABLE v ALTER t TYPE boolean USING t::timestamptz < z", "ALTER TABLE v ALTER d TYPE timestamp USING d + interval '1 hour'",
    "ALTER TABLE v ALTER d TYPE timestamptz USING d + interval '1 hour'", "ALTER TABLE v ALTER d TYPE date USING d + 1",
    "ALTER TABLE v ALTER t TYPE text USING age(t::timestamptz, '2020-01-01 00:00Z')::text",
    "ALTER TABLE v ALTER t TYPE date", "ALTER TABLE v ALTER t TYPE timestamp(0)", "ALTER TABLE v ALTER d TYPE timestamp",
    "ALTER TABLE v ALTER t TYPE text", "ALTER TABLE v ALTER z TYPE timestamptz(0)", "ALTER TABLE v ALTER di TYPE timestamptz",
    "ALTER TABLE v ALTER h TYPE text", "ALTER TABLE v ALTER hz TYPE time", "ALTER TABLE v ALTER rt TYPE text",
    "ALTER TABLE v ALTER z TYPE date USING date_trunc('day', z, 'UTC')::timestamptz AT TIME ZONE 'UTC'",
    "ALTER TABLE v ALTER z TYPE float8 USING extract(epoch from z)",
    "ALTER TABLE v ALTER z TYPE float8 USING extract(hour from z)",
    "ALTER TABLE v ALTER d TYPE date USING date_trunc('month', d)::date",
    "ALTER TABLE v ALTER z TYPE date USING date_trunc('day', z)::date",
    "ALTER TABLE v ALTER d TYPE timestamptz USING date_trunc('month', d)",
    "ALTER TABLE v ALTER z TYPE text USING to_char(z, 'HH24:MI')", "ALTER TABLE v ALTER t TYPE text USING to_char(t, 'HH24')",
    "ALTER TABLE v ALTER t TYPE timestamptz USING coalesce(t, d)",
    "ALTER TABLE v ALTER t TYPE timestamptz USING CASE WHEN id > 3 THEN t ELSE NULL END",
    "ALTER TABLE v ADD COLUMN x timestamptz DEFAULT '2026-03-05'",
    "ALTER TABLE v ADD COLUMN x timestamptz DEFAULT '2026-03-05 10:00+02'",
    "ALTER TABLE v ADD COLUMN x timestamptz DEFAULT timestamp '2026-03-05 10:00'",
    "ALTER TABLE v ADD COLUMN x timestamptz DEFAULT (timestamp '2026-03-05 10:00' AT TIME ZONE 'UTC')",
    "ALTER TABLE v ADD COLUMN x timestamp DEFAULT '2026-03-05'",
    "ALTER TABLE v ADD COLUMN x timestamp DEFAULT timestamptz '2026-03-05 10:00+00'",
    "ALTER TABLE v ADD COLUMN x date DEFAULT '2026-03-05'", "ALTER TABLE v ALTER z SET DEFAULT '2026-03-05'",
    "ALTER TABLE v ALTER z SET DEFAULT '2026-03-05 00:00Z'", "ALTER TABLE v ALTER z DROP DEFAULT",
    "CREATE TABLE made (id integer, at timestamptz DEFAULT '2026-03-05')",
]  # fmt: skip
CHANGES = [
    "UPDATE v SET z = t", "UPDATE v SET t = z", "UPDATE v SET z = d WHERE id = 3", "UPDATE v SET s = z",
    "UPDATE v SET z = '2026-03-05 10:00' WHERE id = 1", "UPDATE v SET z = '2026-03-05 10:00+02' WHERE id = 1",
    "UPDATE v SET z = t AT TIME ZONE 'UTC'", "UPDATE v SET t = z AT TIME ZONE 'UTC'", "UPDATE v SET d = z",
    "UPDATE v SET s = 'at ' || z", "UPDATE v SET s = z::text", "UPDATE v SET s = t::text", "UPDATE v SET t = d",
    "UPDATE v SET s = 'x' WHERE z < '2026-03-06'", "UPDATE v SET s = 'x' WHERE z < '2026-03-06 00:00+00'",
    "UPDATE v SET s = 'x' WHERE z <= t", "UPDATE v SET s = 'x' WHERE t < '2026-03-06'", "UPDATE v SET s = 'x' WHERE d < z::date + 3",
    "UPDATE v SET (s, z) = ('x', '2026-03-05')", "UPDATE v SET z = w.plain FROM w WHERE w.id = v.id",
    "UPDATE v SET t = w.plain FROM w WHERE w.id = v.id", "UPDATE v SET di = t", "UPDATE v SET za = ta",
    "UPDATE v SET r = '[2026-03-05,2026-03-06)'", "UPDATE v SET r = '[2026-03-05 00:00Z,2026-03-06 00:00Z)'",
    "UPDATE v SET z = z + interval '1 hour'", "UPDATE v SET z = greatest(z, '2026-03-05 12:00')",
    "DELETE FROM v WHERE z >= '2026-03-06'", "DELETE FROM v USING w WHERE w.id = v.id AND w.at < v.t",
    "DELETE FROM v WHERE z >= timestamptz '2026-03-06 00:00+00'", "DELETE FROM v WHERE id IN (SELECT id FROM w WHERE at < '2026-03-05 11:00')",
    "INSERT INTO w VALUES (9, '2026-03-05', NULL, NULL)", "INSERT INTO w VALUES (9, '2026-03-05 10:00Z', '2026-03-05', '2026-03-05')",
    "INSERT INTO w (at, id) VALUES ('2026-03-05 10:00', 9)", "INSERT INTO w (plain, at) SELECT z, z FROM v",
    "INSERT INTO w (plain, at) SELECT t, z FROM v", "INSERT INTO w (id, at) SELECT id, t FROM v UNION ALL SELECT id, t FROM v",
    "INSERT INTO w (id, at) SELECT x.id, x.t FROM v AS x JOIN w AS y ON y.id = x.id",
    "WITH a AS (SELECT id, t::timestamptz AS z FROM v) INSERT INTO w (id, at) SELECT id, z FROM a",
    "INSERT INTO v (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET z = v.t",
    "INSERT INTO v (id, t) VALUES (1, '2026-01-01') ON CONFLICT (id) DO UPDATE SET t = excluded.t",
    "MERGE INTO v USING w ON w.id = v.id WHEN MATCHED THEN UPDATE SET z = w.plain",
    "MERGE INTO v USING w ON w.id = v.id + 100 WHEN NOT MATCHED THEN INSERT (id, z) VALUES (w.id + 50, w.plain)",
    "MERGE INTO v USING w ON w.id = v.id WHEN MATCHED THEN UPDATE SET t = w.plain",
    "CREATE TABLE made AS SELECT id, t::timestamptz AS z FROM v", "CREATE TABLE made AS SELECT id, t, z FROM v",
]  # fmt: skip
STATE = "SELECT string_agg(x::text, E'\\n' ORDER BY x.id) FROM {} AS x"


@pytest.fixture(scope="module")
def zones(newest: Server) -> Server:
    newest.database("zones", STAGE)
    return newest


@pytest.fixture
def target(zones: Server, monkeypatch: pytest.MonkeyPatch) -> Target:
    monkeypatch.setenv("URL_of_zones", f"postgresql://postgres@/zones?host={zones.socket_dir}")
    return Target(name="zones", url_from="URL_of_zones")


def ends(conn: psycopg.Connection[Any], sql: str) -> int:
    """Return in how many ways a statement ends under several zones."""
    found = set()
    for zone in ("UTC", "Asia/Tokyo"):
        with conn.transaction(force_rollback=True):
            conn.execute(f"SET LOCAL search_path = public; SET LOCAL TimeZone = '{zone}'")
            conn.execute(sql.encode())
            conn.execute("SET LOCAL TimeZone = 'UTC'")
            if "DEFAULT" in sql:
                conn.execute(f"INSERT INTO {'made' if 'made' in sql else 'v'} (id) VALUES (99)")
            tables = ("v", "w", *(("made",) if "TABLE made" in sql else ()))
            found.add(tuple(conn.execute(STATE.format(table)).fetchone() for table in tables))
    return len(found)


@pytest.mark.slow
@pytest.mark.parametrize("sql", ["; ".join(ALTERATIONS), "; ".join(CHANGES)], ids=["alterations", "changes"])
def test_what_is_told_is_what_ends_otherwise(sql: str, target: Target) -> None:
    """Each statement is executed under two zones."""
    told, wanted = {}, {}
    parsed = statements.parse(sql, "0001_m.sql")
    with connect(target) as conn:
        types = CatalogTypes(catalog_reader.read(conn, parsed))
        for statement in parsed:
            told[statement.sql] = bool(uses(tree(statement.sql), types))
            wanted[statement.sql] = ends(conn, statement.sql) > 1
    assert {s for s in told if told[s]} == {s for s in wanted if wanted[s]}
    assert {*told.values()} == {True, False}


def gate_of(conn: Connection, sql: str) -> str:
    planner, found = Expander(conn), ""
    for statement in statements.parse(sql, "0001_m.sql"):
        gate = planner.expand(statement).gate
        found = gate.says if gate and "TimeZone" in gate.says else found
    planner.end_file()
    return found


@pytest.mark.first_case
@pytest.mark.parametrize("sql", sample([*ALTERATIONS, *CHANGES], 12))
def test_a_column_that_is_converted_by_the_session_is_a_gate(sql: str, target: Target) -> None:
    """Where the review finds it; no other statement is."""
    with connect(target) as conn:
        (statement,) = statements.parse(sql, "0001_m.sql")
        types = CatalogTypes(catalog_reader.read(conn, [statement]))
        assert bool(gate_of(conn, sql)) is (bool(uses(tree(sql), types)) and " TYPE " in sql)


SETS = [
    ("SET TimeZone = 'Asia/Tokyo'; ", "Asia/Tokyo"), ("SET LOCAL TIME ZONE 'Asia/Tokyo'; ", "Asia/Tokyo"),
    ("SELECT set_config('timezone', 'Asia/Tokyo', false); ", "Asia/Tokyo"), ("SET TIME ZONE -7; ", "-7"),
    ("DO $$ BEGIN SET TimeZone = 'Asia/Tokyo'; END $$; ", "Asia/Tokyo"),
    ("SET TimeZone = 'Asia/Tokyo'; RESET TimeZone; ", ""), ("SET TimeZone = 'Asia/Tokyo'; RESET ALL; ", ""),
    ("SET TimeZone = 'Asia/Tokyo'; SET TIME ZONE LOCAL; ", ""), ("SET search_path = public; ", ""),
    ("SET TimeZone = 'Asia/Tokyo'; DISCARD ALL; ", ""),
]  # fmt: skip


@pytest.mark.first_case
@pytest.mark.parametrize(("before", "zone"), sample(SETS, 3))
def test_the_zone_that_a_file_sets_counts(before: str, zone: str, target: Target, zones: Server) -> None:
    """Then it is a note which names that zone, and no gate; a way out names the zone in force."""
    zones.run("postgres", "ALTER DATABASE zones SET TimeZone = 'Europe/Rome'")
    sql = ALTERATIONS[0]
    with connect(target) as conn:
        assert ("here Europe/Rome" in gate_of(conn, before + sql)) is (zone == "")
        assert "here Europe/Rome" in gate_of(conn, sql)
        read = script([("0001_m.sql", before + sql), ("0002_m.sql", ALTERATIONS[1])])
        scenes = stage(read, catalog_reader.read(conn, read.statements), transactions=Transactions.FILE)
    found = [
        (hazard.severity, hazard.effect, hazard.way_out)
        for _, hazards in find(scenes) for hazard in hazards if hazard.id == "depends-on-time-zone"
    ]  # fmt: skip
    assert len(found) == 2
    named = f"({zone}, which this file sets)" if zone else "(Europe/Rome)"
    assert named in found[0][1]
    assert "(Europe/Rome)" in found[1][1]
    wanted = {"-7": "INTERVAL '-7' HOUR"}.get(zone, f"'{zone or 'Europe/Rome'}'")
    assert found[0][2] == f"ALTER TABLE public.v ALTER COLUMN t TYPE timestamptz USING t AT TIME ZONE {wanted};"


@pytest.mark.slow
def test_the_form_that_is_shown_ends_as_the_statement_does(target: Target, zones: Server) -> None:
    """For each alteration that is found, under the zone in force; and under every other zone as well."""
    zones.run("postgres", "ALTER DATABASE zones SET TimeZone = 'UTC'")
    with connect(target) as conn:
        for sql in ALTERATIONS[:13]:
            read = script([("0001_m.sql", sql)])
            scenes = stage(read, catalog_reader.read(conn, read.statements))
            (out,) = [h.way_out for _, hazards in find(scenes) for h in hazards if h.id == "depends-on-time-zone"]
            assert ends(conn, out) == 1, out
