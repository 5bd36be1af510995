"""A default that is dropped before a change of type and set again behind it is never missing for others."""

from __future__ import annotations

import pytest

from budget import sample
from safe_forms_stage import Stage, perform, plan

MADE = "ALTER TABLE t ALTER b SET DEFAULT '1'; UPDATE t SET b = '2'; ALTER TABLE t ALTER b SET NOT NULL"
DROPPED = "ALTER TABLE t ALTER b DROP DEFAULT;\n"
# Statements after each other, and whether they are done as one.
SPELLINGS = {
    f"{DROPPED}ALTER TABLE t ALTER b TYPE integer USING b::integer;\nALTER TABLE t ALTER b SET DEFAULT 3": True,
    f"{DROPPED[:-2]}, ALTER b TYPE integer USING b::integer;\nALTER TABLE t ALTER b SET DEFAULT 3": True,
    f"{DROPPED}ALTER TABLE t ALTER b TYPE integer USING b::integer, ALTER b SET DEFAULT 3": True,
    f"{DROPPED}ALTER TABLE t ALTER b TYPE integer USING b::integer": True,
    f"{DROPPED}ALTER TABLE t ALTER b SET DEFAULT '3';\nALTER TABLE t ALTER b TYPE varchar(9)": False,
    "ALTER TABLE t ALTER c DROP DEFAULT;\nALTER TABLE t ALTER a TYPE bigint": False,
    f"{DROPPED}ALTER TABLE u ALTER code TYPE varchar(9);\nALTER TABLE t ALTER b TYPE integer USING b::integer": False,
}  # fmt: skip


@pytest.mark.first_case
@pytest.mark.parametrize("spelling", sample([*SPELLINGS], 4))
def test_statements_that_belong_together_are_one(stage: Stage, spelling: str) -> None:
    """The others say with which they are done, and are not executed."""
    stage.conn.execute(MADE)
    found = plan(stage.conn, spelling, batch_rows=15)
    forms = [one.form for one in found]
    expected = ["shadow-column", *["part-of-a-change"] * (len(found) - 1)]
    assert (forms == expected) is SPELLINGS[spelling]
    assert ("part-of-a-change" in forms) is SPELLINGS[spelling]
    assert [one.gate for one in found] == [None] * len(found)


@pytest.mark.first_case
@pytest.mark.parametrize(("type_", "becomes"), [("integer", 3), ("level", "3")])
def test_rows_that_are_inserted_meanwhile_have_a_default(stage: Stage, type_: str, becomes: object) -> None:
    """Before each step and behind the last one; names in it mean what the session's search_path makes of them."""
    stage.conn.execute(f"{MADE}; CREATE TYPE level AS ENUM ('1', '2', '3')")
    written = f"{DROPPED}ALTER TABLE t ALTER b TYPE {type_} USING b::{type_};\nALTER TABLE t ALTER b SET DEFAULT "
    found = plan(stage.conn, f"{written}'3'::{type_}", batch_rows=15)
    for number, step in enumerate(found[0].steps):
        perform(stage.conn, found, until=lambda one, step=step: one is step)  # type: ignore[misc]
        with stage.session() as other:
            other.execute(f"INSERT INTO t (id) VALUES ({1000 + number})")
    perform(stage.conn, found)
    stage.conn.execute("INSERT INTO t (id) VALUES (2000)")
    made = stage.conn.execute("SELECT DISTINCT b FROM t WHERE id BETWEEN 1000 AND 1999").fetchall()
    assert made == [(1 if type_ == "integer" else "1",)]
    assert stage.conn.execute("SELECT b FROM t WHERE id = 2000").fetchone() == (becomes,)


@pytest.mark.slow
def test_only_is_not_joined_with_what_is_about_partitions_too(stage: Stage) -> None:
    """A default that only the partitioned table gets is not given to its partitions."""
    stage.conn.execute("ALTER TABLE p ALTER v SET DEFAULT 1")
    written = "ALTER TABLE p ALTER v DROP DEFAULT;\nALTER TABLE p ALTER v TYPE bigint;\n"
    found = plan(stage.conn, f"{written}ALTER TABLE ONLY p ALTER v SET DEFAULT 5", batch_rows=15)
    assert [one.form for one in found] == ["shadow-column", "part-of-a-change", ""]
    perform(stage.conn, found)
    defaults = (
        "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = ANY ('{p,p_2025,p_2026}'::regclass[])"
    )
    assert stage.conn.execute(defaults).fetchall() == [("5",)]
