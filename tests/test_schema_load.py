"""A dump of a schema, loaded in large parts or by its statements: the end is the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conftest import connect, do
from pgrunbook.branches import schema_load
from pgrunbook.branches.schema_branch import copy_schema
from pgrunbook.config.targets import Target
from pgrunbook.database.schema import Snapshot, snapshot
from pgrunbook.database.schema_diff import diff
from pgrunbook.errors import Unreachable

# ruff: noqa: E501 - one statement on a line, whatever its length

Project = Callable[..., Target]
# A text that looks like the beginning of an entry, in quotes of each kind.
ENTRY = "a;\n\n\n--\n-- Name: t; Type: TABLE; Schema: public; Owner: -\n--\n\\restrict x\nb"
RICH = f"""
CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN short AS text CHECK (length(VALUE) < 9);
CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, m mood DEFAULT 'sad', s short DEFAULT '{ENTRY}', up bigint REFERENCES t);
CREATE TABLE p (id int, at date) PARTITION BY RANGE (at); CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE INDEX ON p (at); CREATE TABLE child (more int) INHERITS (t);
CREATE FUNCTION atomic() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END;
CREATE FUNCTION quoted() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN /* {ENTRY}; */ RETURN NEW; END $f$;
CREATE TRIGGER fires BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION quoted();
CREATE VIEW v AS SELECT id, '{ENTRY}'::text AS x FROM t; CREATE MATERIALIZED VIEW mv AS SELECT * FROM v; CREATE UNIQUE INDEX ON mv (id);
CREATE RULE r AS ON DELETE TO p_1 DO ALSO (INSERT INTO p VALUES (1, '2026-01-01'); INSERT INTO p VALUES (2, '2026-01-01'));
COMMENT ON TABLE t IS E'{ENTRY}'; COMMENT ON FUNCTION quoted() IS 'a\\b';
ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON t USING (id > 0); CREATE PUBLICATION pub FOR TABLE t;
"""
MANY = "".join(f"CREATE TABLE many_{n} (id int PRIMARY KEY, other int REFERENCES t (id));" for n in range(80))


@pytest.mark.parametrize("entries_at_once", [1, 100])
def test_each_branch_has_the_same_schema(
    project: Project, entries_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is loaded, the second is the kept copy, the third is loaded again: as the target, each of them.

    With a cut at each entry, one goes through a quote: the server refuses that part, and psql loads all of it.
    """
    target = project()
    do(target, RICH + (MANY if entries_at_once == 100 else ""))
    with connect(target, purpose="test") as conn:
        wanted = snapshot(conn)
    monkeypatch.setattr(schema_load, "ENTRIES_AT_ONCE", entries_at_once)
    taken = []
    in_parts = schema_load.in_parts
    monkeypatch.setattr(schema_load, "in_parts", lambda *told: taken.append(in_parts(*told)) or taken[-1])
    found: list[Snapshot] = []
    with copy_schema(target, keep=True) as schema:
        for _ in range(3):
            with schema.branch() as branch, connect(branch.as_superuser(), purpose="test") as conn:
                found.append(snapshot(conn))
                conn.execute("DROP TABLE t CASCADE")
    assert [diff(wanted, one) for one in found] == [[]] * 3
    assert taken == [entries_at_once != 1] * 2


def test_the_statement_that_a_server_refuses_is_named(project: Project) -> None:
    """A part of many statements fails as a whole; psql names the one."""
    target = project()
    with copy_schema(target) as schema:
        schema.dump += "\nCREATE TABLE public.fine ();\nCREATE TABLE public.wrong (a nothing);\n"
        with pytest.raises(Unreachable) as caught, schema.branch():
            pass
    assert 'type "nothing" does not exist' in caught.value.detail
    assert "CREATE TABLE public.wrong" in caught.value.detail
