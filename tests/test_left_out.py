"""Cells left out by hand: what changes something names the cell that is missing, and the database is untouched."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from conftest import do, rows
from pgrunbook.config.targets import Target
from pgrunbook.errors import RunbookError
from pgrunbook.session import checks, parameters
from pgrunbook.session import session as heres
from test_names import NOTEBOOKS, code_cells, tags

Project = Callable[..., Target]
GIVEN: dict[str, dict[str, Any]] = {
    "backfill": {"table": "public.a", "fill": {"n": "1"}},
    "monitor": {"watch_s": 0.4, "interval_s": 0.2},
    "restore": {"salvage": ("public.a",), "cut_over": True},
    "rollout": {"name": "a"},
    "swap": {"table": "public.a", "shape": "ALTER TABLE a ADD m int"},
    "validate": {"analyze": True},
}
STATE = """
SELECT c.oid, c.relname, c.relfilenode, c.xmin::text FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname NOT LIKE 'pg_%' AND n.nspname <>
'information_schema' UNION ALL SELECT 0, n.nspname, 0, n.xmin::text FROM pg_catalog.pg_namespace AS n
UNION ALL SELECT 0, d.datname, 0, d.datallowconn::text FROM pg_catalog.pg_database AS d
WHERE d.datname = pg_catalog.current_database()
UNION ALL SELECT 0, 'rows', 0, (SELECT pg_catalog.md5(string_agg(a::text || a.xmin::text, '')) FROM public.a) ORDER BY 2
"""


def changing(procedure: str) -> list[str]:
    """The cells of a notebook that are marked as changing something."""
    path = next(one for one in NOTEBOOKS if one.stem == procedure)
    return [cell.id for cell in code_cells(path) if "changes-state" in tags(cell)]


def cells_before(procedure: str, cell: str) -> list[str]:
    """The cells of a notebook that stand before one, without its set-up."""
    path = next(one for one in NOTEBOOKS if one.stem == procedure)
    cells = [one.id for one in code_cells(path)[2:]]
    return cells[: cells.index(cell)]


CHANGING = {path.stem: changing(path.stem) for path in NOTEBOOKS}
GUARDED = [name for name in checks.NEEDED if CHANGING[name]]
FREE = {"validate": ["statistics-at-hand"], "drill": CHANGING["drill"], "troubleshoot": CHANGING["troubleshoot"]}


@pytest.fixture(autouse=True)
def target(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    """A target with a table and a pending migration, and a folder in which each session makes a run of its own."""
    found = project(folder={"0001_b.sql": "CREATE TABLE b (id int)"})
    do(found, "CREATE TABLE a (id int PRIMARY KEY, n int); INSERT INTO a SELECT g, g FROM generate_series(1, 9) AS g")
    monkeypatch.chdir(tmp_path)
    yield found
    heres._end_earlier()


def begun(procedure: str) -> Any:
    """Begin a session as the set-up cell does; nothing else was run."""
    heres._end_earlier()
    return heres.begin(procedure, parameters.OF[procedure], {"target": "demo", **GIVEN.get(procedure, {})})


def run_cell(here: Any, cell: str) -> object:
    """Run one cell."""
    return getattr(import_module(f"pgrunbook.procedures.{here.procedure}"), cell.replace("-", "_"))(here)


def test_every_cell_that_changes_something_has_a_check_before_it_or_is_named_here() -> None:
    """Whoever adds one decides which."""
    guarded = {(name, cell) for name, cells in checks.NEEDED.items() for cell in cells}
    marked = {(name, cell) for name, cells in CHANGING.items() for cell in cells}
    assert marked - guarded == {(name, cell) for name, cells in FREE.items() for cell in cells}
    assert guarded <= marked


@pytest.mark.first_case
@pytest.mark.parametrize("procedure", GUARDED)
def test_a_cell_whose_check_was_left_out_names_it_and_changes_nothing(procedure: str, target: Target) -> None:
    """Each check of each cell in turn, where all the others have passed."""
    before = rows(target, STATE)
    for cell in CHANGING[procedure]:
        for missing in checks.NEEDED[procedure][cell]:
            here = begun(procedure)
            for other in checks.NEEDED[procedure][cell]:
                if other != missing:
                    here.journal("check-begun", run=here.run.run_id, cell=other)
                    here.journal("check-passed", run=here.run.run_id, cell=other, of=["it"])
            with pytest.raises(RunbookError) as caught:
                run_cell(here, cell)
            message = caught.value.message
            if "changes nothing before" in message:
                assert message == f'cell "{cell}" changes nothing before cell "{missing}" has passed'
                assert caught.value.hint == f'Run cell "{missing}" first, then this cell again.'
            else:  # what a cell before it would have found is not there either
                named = re.fullmatch('cell "([a-z-]+)" has to be run before this one', message)
                assert named is not None, message
                assert named[1] in cells_before(procedure, cell)
            assert rows(target, STATE) == before, (cell, missing)


@pytest.mark.slow
@pytest.mark.parametrize("procedure", [path.stem for path in NOTEBOOKS])
def test_whichever_cell_comes_first_names_one_before_it_and_changes_nothing(procedure: str, target: Target) -> None:
    """Of all notebooks: it works, or says which cell it needs; a cell behind it is never what it asks for."""
    path = next(one for one in NOTEBOOKS if one.stem == procedure)
    cells = [cell.id for cell in code_cells(path)[2:]]
    for number, cell in enumerate(cells):
        here, before = begun(procedure), rows(target, STATE)
        error = tried(here, cell)
        if error is not None:
            named = re.findall(r'cell "([a-z-]+)"', f"{error.message} {error.hint}")
            assert not set(named) & set(cells[number + 1 :]), f"{cell}: {error}"
            assert rows(target, STATE) == before, cell


def tried(here: Any, cell: str) -> RunbookError | None:
    """Run a cell; return the error of ours that it ends in, None where it does not. Another error is the test's."""
    try:
        run_cell(here, cell)
    except RunbookError as error:
        return error
    return None
