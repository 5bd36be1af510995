"""A dump of a schema that two sessions load: as the one of the target, and by no slower way."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conftest import connect, do
from pgrunbook.branches import schema_load
from pgrunbook.branches.schema_branch import copy_schema
from pgrunbook.config.targets import Target
from pgrunbook.database.schema import snapshot

TWO_TABLES = """
CREATE TABLE a (id int PRIMARY KEY, b int, n int UNIQUE); CREATE TABLE b (id int PRIMARY KEY, a int);
ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b; ALTER TABLE b ADD FOREIGN KEY (a) REFERENCES a (n)
"""
ODD_NAMES = """
CREATE TABLE "odd; table" ("a b" int PRIMARY KEY, "x""y" int REFERENCES "odd; table", z text COLLATE "C");
CREATE UNIQUE INDEX "on; index" ON "odd; table" ("x""y", lower(z)) WHERE z <> 'a'
"""
# A text that reads as entries of a dump: cut there, its middle would be SQL.
LIKE_A_DUMP = """
CREATE TABLE a (z text); CREATE TABLE b (id int PRIMARY KEY); CREATE INDEX ON a (z) WHERE z <> 'x;

--
-- Name: a; Type: INDEX; Schema: public; Owner: -
--

CREATE TABLE public.planted (ON public.b int);

--
-- Name: b; Type: INDEX; Schema: public; Owner: -
--
'; CREATE INDEX ON b (id)
"""
PARTITIONS = """
CREATE TABLE p (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE c (id int, at date, FOREIGN KEY (id, at) REFERENCES p); CREATE INDEX ON p (at)
"""
OTHER_SCHEMA = """
CREATE SCHEMA s; SET search_path = s; CREATE FUNCTION f(x int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT x';
CREATE TABLE t (id int PRIMARY KEY, r int4range, EXCLUDE USING gist (r WITH &&)); CREATE INDEX ON t (s.f(id));
ALTER TABLE t REPLICA IDENTITY USING INDEX t_pkey; CLUSTER t USING t_pkey;
CREATE MATERIALIZED VIEW m AS SELECT id FROM t; CREATE UNIQUE INDEX ON m (id);
CREATE STATISTICS st ON id, r FROM t; CREATE TABLE u (t int REFERENCES t)
"""


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize("schema", [TWO_TABLES, ODD_NAMES, LIKE_A_DUMP, PARTITIONS, OTHER_SCHEMA])
def test_two_sessions_load_what_one_would(
    project: Callable[..., Target], schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = project()
    do(target, schema)
    loaded: list[bool] = []
    in_parts = schema_load.in_parts
    monkeypatch.setattr(schema_load, "in_parts", lambda *given: (loaded.append(in_parts(*given)), loaded[-1])[1])
    with copy_schema(target) as copied, copied.branch() as branch, connect(target) as there, connect(branch) as here:
        assert snapshot(here).fingerprint == snapshot(there).fingerprint
    assert loaded == [schema is not LIKE_A_DUMP]  # which is left to psql
