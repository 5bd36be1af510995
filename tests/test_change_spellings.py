"""Changes of type and renames as people and tools write them: in their safe form, proven equal, and taken back."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from acting import error, run
from conftest import connect, do, rows
from pgrunbook import history as histories
from pgrunbook.config.targets import Target
from pgrunbook.database.schema import snapshot
from pgrunbook.database.schema_diff import diff
from pgrunbook.plan.plan import Change
from pgrunbook.rehearse import way_back_trial, with_data
from safe_forms_stage import none_is_small
from test_schema_only import safely

__all__ = ["none_is_small"]
pytestmark = pytest.mark.usefixtures("none_is_small")

Project = Callable[..., Target]
FILE = Path(__file__).parent / "ordinary" / "spellings.sql"
FORMS = {"shadow-column", "rename-column", "replaced-enum"}
AS_WRITTEN = {"type-change", "runs-as-written"}
REPLACED = re.compile('DROP COLUMN ("code"|"?note)')  # the column is dropped, and added perhaps
PARTS = 4  # of the enumeration: each is a release of its own
TABLES = """
CREATE TYPE kind AS ENUM ('new', 'done');
CREATE TABLE orders (id serial PRIMARY KEY, amount integer NOT NULL DEFAULT 1 CONSTRAINT positive CHECK (amount > 0),
                     code varchar(9), state text DEFAULT 'new', rate integer, note text);
CREATE TABLE lines (id integer PRIMARY KEY, order_id integer CONSTRAINT lines_order_id_fkey REFERENCES orders);
CREATE INDEX orders_code_idx ON orders (code);
CREATE INDEX orders_amount_idx ON orders (amount);
INSERT INTO orders (amount, code, state, rate) SELECT i, i, 'new', i % 7 FROM generate_series(1, 300) AS i;
INSERT INTO lines SELECT i, i FROM generate_series(1, 300) AS i;
"""
# Each spelling gets objects of its own.
OWN = re.compile(r"\b(orders|lines|seen|over|kind|total_of|touch|sent)(?=\W|_|$)")


class Spelling(NamedTuple):
    """A migration, what stands before it beside the tables, and which gates its statements meet."""

    name: str
    setup: str
    migration: str
    gates: list[str]

    def numbered(self, number: int) -> Spelling:
        """Return it over objects of its own."""
        setup, migration = (OWN.sub(rf"\g<1>{number}", text) for text in (TABLES + self.setup, self.migration))
        return self._replace(setup=setup, migration=migration)


def spellings() -> list[Spelling]:
    """Read the data file."""
    _, *parts = re.split(r"^-- spelling: (.*)\n", FILE.read_text(), flags=re.MULTILINE)
    found = []
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        before, _, migration = text.partition("-- migration:\n")
        gates = re.search("^-- gates: (.*)\n", before, flags=re.MULTILINE)
        _, _, setup = before.partition("-- setup:\n")
        found.append(Spelling(name, setup, migration, gates[1].split(", ") if gates else []))
    return found


def released(project: Project, chosen: list[Spelling]) -> Target:
    """Return a target on which these are pending, each with tables of its own."""
    own = [spelling.numbered(number) for number, spelling in enumerate(chosen)]
    files = {f"{number:03}_{one.name.replace(' ', '-')}.sql": one.migration for number, one in enumerate(own)}
    target = project(folder=files, batch_rows=100)
    do(target, "".join(one.setup for one in own))
    return target


def rehearsed(target: Target) -> tuple[Change, ...]:
    """Rehearse them without and with rows: either is refused where the plan ends otherwise than the plain SQL."""
    done = safely(target)
    with connect(target, purpose="test") as conn:
        pending = histories.read(conn, target).pending()
        ways = with_data.rehearse(target, pending, done, conn, most_bytes=2**40)
    return way_back_trial.with_proofs(done.changes, ways.trial.ways_back)


@pytest.mark.slow  # test_what_stands_beside_a_change_of_type_is_done_with_it of test_shadow_column asks for one
@pytest.mark.timeout(2_400)
@pytest.mark.parametrize("part", range(PARTS))
def test_each_spelling_has_its_form_and_leads_back(project: Project, part: int) -> None:
    """As many gates as are named, and no more; schema and rows as of the plain SQL; up, down and up again."""
    chosen = spellings()[part::PARTS]
    found = rehearsed(released(project, chosen))
    for spelling, change in zip(chosen, found, strict=True):
        told = [one.gate.says for one in change.statements if one.gate is not None]
        assert [one.gate.id for one in change.statements if one.gate is not None] == spelling.gates, (spelling, told)
        assert change.proof.proven, (spelling.name, change.proof.told)
        if not AS_WRITTEN & {*spelling.gates} and not REPLACED.search(spelling.migration):
            assert FORMS & {one.form for one in change.statements}, spelling.name


@pytest.mark.slow
def test_contract_follows_what_was_dropped_and_made_again(project: Project) -> None:
    """Views, policies, triggers and functions are made again over the new column: nothing keeps the old one."""
    named = {"view", "matview", "policy", "trigger", "function body", "rename view", "rename policy", "using two"}
    chosen = [spelling for spelling in spellings() if spelling.name in named]
    assert len(chosen) == len(named)
    target = released(project, chosen)
    gated = ",".join(f"{number:03}_{one.name}:1" for number, one in enumerate(chosen) if one.gates)
    for name, accept in (("release", gated), ("contract", "all")):
        made, code = run(name, accept=accept)
        assert code == 0, error(made)
    left = "SELECT attrelid::regclass::text, attname FROM pg_attribute JOIN pg_class AS c ON c.oid = attrelid"
    left += " WHERE relnamespace = 'public'::regnamespace AND attname LIKE 'pgrunbook%' AND NOT attisdropped"
    assert rows(target, left) == []
    plain = project(folder={"0001_a.sql": "SELECT 1"}, name="plain")
    do(plain, "".join(one.numbered(number).setup for number, one in enumerate(chosen)))
    do(plain, "".join(one.numbered(number).migration + "\n" for number, one in enumerate(chosen)))
    with connect(plain, purpose="test") as one, connect(target, purpose="test") as two:
        out = ["pgrunbook", "public.schema_migrations"]
        found = diff(snapshot(one, leave_out=out), snapshot(two, leave_out=out))
    assert {(each.change, each.kind) for each in found} <= {("moved", "column order")}, [each.line() for each in found]
