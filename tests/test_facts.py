"""Facts: a cell that is run out of order names the cell that it needs."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from conftest import ROOT
from pgrunbook.errors import Refused
from pgrunbook.procedures import migrate, shared_steps
from pgrunbook.session.facts import CELLS, CellFacts

PROCEDURES = Path(str(migrate.__file__)).parent


def read_in(path: Path) -> set[str]:
    """Return the facts that a module reads by name."""
    found = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Subscript))
    return {
        str(node.slice.value)
        for node in found
        if isinstance(node.value, ast.Attribute) and node.value.attr == "facts"
        and isinstance(node.slice, ast.Constant) and isinstance(node.ctx, ast.Load)
    }  # fmt: skip


@pytest.mark.parametrize("procedure", CELLS)
def test_every_fact_is_found_out_by_a_cell(procedure: str) -> None:
    """The map names a cell of the notebook for each fact that its steps read."""
    shared = read_in(Path(str(shared_steps.__file__))) if procedure in ("migrate", "rollback") else set()
    notebook = json.loads((ROOT / "notebooks" / f"{procedure}.ipynb").read_text())
    assert read_in(PROCEDURES / f"{procedure}.py") | shared <= set(CELLS[procedure])
    assert set(CELLS[procedure].values()) <= {cell["id"] for cell in notebook["cells"]}


@pytest.mark.parametrize(("procedure", "fact"), [(p, fact) for p, facts in CELLS.items() for fact in facts])
def test_a_fact_that_is_missing_names_its_cell(procedure: str, fact: str) -> None:
    """In four lines, and not as a KeyError."""
    with pytest.raises(Refused) as caught:
        CellFacts(procedure)[fact]
    cell = CELLS[procedure][fact]
    assert [line.partition(":")[0] for line in caught.value.lines()[1:]] == ["Detail", "State", "Hint"]
    assert caught.value.message == f'cell "{cell}" has to be run before this one'
    assert CellFacts(procedure).get(fact) is None
