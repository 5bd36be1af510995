"""The house holds together: one name per procedure everywhere, and the rules of notebooks and of the code."""

from __future__ import annotations

import ast
import functools
import gc
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_origin

import nbformat
import pytest
import typer

import pgrunbook
import refresh_architecture
from conftest import ROOT
from pgrunbook.app import cli
from pgrunbook.config.targets import Target
from pgrunbook.database.queries import load
from pgrunbook.session import parameters

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LIBRARY = sorted((ROOT / "lib" / "pgrunbook").rglob("*.py"))
SKELETON = ["**Purpose.**", "**When to use.**", "**What it changes.**", "**Parameters.**", "**Steps.**"]
FORBIDDEN = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.While, ast.Try, ast.With)
CHANGES_STATE = {
    "take_restore_point", "execute_plan", "take_back", "restore_to_branch", "salvage_rows", "fence", "cut_over",
    "remove_the_server", "purge_it", "statistics_at_hand", "end_session", "repair_history", "remove_leftovers",
    "drop_it", "analyze_tables", "reindex_indexes", "explain_queries", "keep_in_sync", "fill_the_rows", "let_go",
    "add_the_flag", "roll_out", "remove_the_flag",
    "make_and_fill", "settle", "end_it",
}  # fmt: skip
LONGEST_CELL = 8

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_every_notebook_has_a_module_a_test_and_a_place_in_the_command_line() -> None:
    """prepare.ipynb, procedures/prepare.py, tests/test_prepare.py, and `pgrunbook run prepare`."""
    names = {path.stem for path in NOTEBOOKS}
    assert names == set(parameters.OF)
    for name in names:
        assert (ROOT / "lib" / "pgrunbook" / "procedures" / f"{name}.py").is_file()
        assert (ROOT / "tests" / f"test_{name}.py").is_file()


@every_notebook
def test_a_notebook_has_one_parameters_cell_that_agrees_with_its_model(path: Path) -> None:
    """Names, order, defaults and types of the cell are those of the procedure's model; set-up passes them all on."""
    cells = code_cells(path)
    tagged = [cell for cell in cells if "parameters" in tags(cell)]
    assert [cell.id for cell in tagged] == ["parameters"] == [cells[0].id]
    assert cells[1].id == "set-up"
    given: dict[str, Any] = {}
    exec(tagged[0].source, {}, given)  # noqa: S102 - it is assignments of literals, as the next test makes sure
    fields = parameters.OF[path.stem].model_fields
    assert list(given) == list(fields)
    for name, value in given.items():
        if name == "target":
            assert value == "demo"
            continue
        plain = tuple(value) if isinstance(value, list) else value  # a cell holds JSON's types
        kind = fields[name].annotation
        origin = get_origin(kind) or kind
        assert (plain, type(plain)) == (fields[name].default, str if origin is Literal else origin)
    passed = {word.arg for call in calls(cells[1].source) for word in call.keywords}
    assert passed == set(fields)


LITERALS = ast.Constant | ast.List | ast.Dict


@every_notebook
def test_a_notebook_tells_and_shows_while_lib_does(path: Path) -> None:
    """Short cells of plain calls: no def, class, loop, try, SQL, magic or input(); text before each."""
    cells = nbformat.read(path, as_version=4).cells
    for before, cell in pairwise(cells):
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", cell.id)
        if cell.cell_type != "code":
            continue
        assert before.cell_type == "markdown", f"{cell.id} has no text before it"
        assert len(cell.source.splitlines()) <= LONGEST_CELL or cell.id == "parameters"
        assert not re.search(r"^\s*[%!]|\binput\(|\b(SELECT|INSERT|UPDATE|DELETE|ALTER|CREATE|DROP)\b", cell.source)
        assert not [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, FORBIDDEN)]
        if cell.id == "parameters":
            assert all(isinstance(line, ast.Assign) and isinstance(line.value, LITERALS)
                       for line in ast.parse(cell.source).body)  # fmt: skip
        elif cell.id != "set-up":
            assert before.id == f"about-{cell.id}"
            assert cell.source == f"{path.stem}.{cell.id.replace('-', '_')}(here)"
    assert len({cell.id for cell in cells}) == len(cells)


@every_notebook
def test_a_notebook_has_the_skeleton(path: Path) -> None:
    """Purpose, When to use, What it changes, Parameters, Steps; at the end Result and If it failed."""
    cells = nbformat.read(path, as_version=4).cells
    places = [cells[0].source.find(heading) for heading in SKELETON]
    assert -1 not in places
    assert places == sorted(places)
    assert cells[0].source.startswith(f"# {path.stem.capitalize()}: ")
    assert [cell.id for cell in cells[-2:]] == ["result", "if-it-failed"]
    assert cells[-2].source.startswith("## Result\n")
    assert cells[-1].source.startswith("## If it failed\n")
    for name in parameters.OF[path.stem].model_fields:
        assert f"- `{name}`: " in cells[0].source


@every_notebook
def test_the_steps_of_a_notebook_are_the_functions_of_its_module_in_order(path: Path) -> None:
    """Each public function is a step, from begin to verdict, and nothing else is."""
    module = import_module(f"pgrunbook.procedures.{path.stem}")
    tree = ast.parse(Path(str(module.__file__)).read_text())
    public = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    steps = [cell.id.replace("-", "_") for cell in code_cells(path)[2:]]
    assert public == ["begin", *steps]
    assert (steps[0], steps[-1]) == ("meet_the_target", "verdict")


@every_notebook
def test_cells_that_change_the_database_are_tagged(path: Path) -> None:
    """An operator, and a reviewer of the diff, sees which cells are to be feared."""
    for cell in code_cells(path):
        assert ("changes-state" in tags(cell)) == (cell.id.replace("-", "_") in CHANGES_STATE), cell.id
        assert tags(cell) <= {"parameters", "changes-state", "nbval-check-output"}


@every_notebook
def test_a_notebook_keeps_only_the_outputs_that_are_compared(path: Path) -> None:
    """Outputs stand in cells tagged nbval-check-output, there always, and nowhere else; no counts, no stray facts."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    for cell in code_cells(path):
        assert bool(cell.outputs) == ("nbval-check-output" in tags(cell)), cell.id
        assert cell.outputs or cell.execution_count is None
        for output in cell.outputs:
            assert not re.search(r"\d{8}T\d{6}Z|/tmp|/var|/root|/home", str(output)), cell.id


def test_the_package_has_one_version() -> None:
    """What a run records is what pip installed, also where the package is run from its source."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == pgrunbook.__version__


def test_every_named_query_is_used() -> None:
    """A query that no code names is gone."""
    named = {name for path in LIBRARY for name in re.findall(r"[\"'](?=(\w+)[\"'])", path.read_text())}
    for path in (ROOT / "lib" / "pgrunbook" / "database" / "sql").glob("*.sql"):
        unused = load(path.stem).keys() - named
        assert not unused, f"{path.name} has {unused}, which nobody asks for"


def test_the_readme_names_every_command_target_option_and_runbook() -> None:
    """Who reads the README has read of everything that can be done."""
    readme = (ROOT / "README.md").read_text()
    for command in commands():
        assert f"pgrunbook {command}" in readme, f"the README does not name the command {command}"
    for option in Target.model_fields.keys() - {"name"}:
        assert f"`{option}`" in readme, f"the README does not name the target's option {option}"
    for path in (ROOT / "runbooks").glob("*.yaml"):
        assert f"pgrunbook run {path.stem}" in readme or f"`{path.stem}`" in readme
    for path in NOTEBOOKS:
        assert f"notebooks/{path.name}" in readme


def test_no_error_is_passed_over_in_silence() -> None:
    """`except: pass` is nowhere, nor an except without a kind of error."""
    for path, facts in library().items():
        assert not facts.silent, f"{path.name}, line {facts.silent}"


def test_modules_are_small_and_imports_of_procedures_do_not_cross() -> None:
    """A module has 400 lines at most, a function 60; a procedure never imports another."""
    for path, facts in library().items():
        assert facts.lines <= 400, path
        assert not facts.long_functions, f"{path.name}: {facts.long_functions}"
    for name in parameters.OF:
        text = (ROOT / "lib" / "pgrunbook" / "procedures" / f"{name}.py").read_text()
        for other in parameters.OF.keys() - {name}:
            assert not re.search(rf"procedures(\.| import .*\b){other}\b", text)


def test_the_figure_of_the_house_is_the_house() -> None:
    """CONTRIBUTING.md draws the floors that import-linter keeps, with every package of the library and no other."""
    drawn: dict[str, int] = {}
    floor = 0
    figure = (ROOT / "CONTRIBUTING.md").read_text().partition("## The house")[2].split("```")[1]
    for number, room in re.findall(r"^(\d|) +(\w+) {2,}\S", figure, re.M):
        floor = int(number or floor)
        drawn[room] = floor
    packages = {path.parent.name for path in (ROOT / "lib" / "pgrunbook").glob("*/__init__.py")}
    assert drawn.keys() == packages | {"errors"}
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    layers = [set(re.split(r" [|:] ", layer)) for layer in settings["layers"]]
    kept = {room: len(layers) - place for place, rooms in enumerate(layers) for room in rooms}
    assert drawn == kept


def test_a_class_name_stands_once_in_the_library() -> None:
    """Two classes of one name are a sign that one thing is described twice; a snapshot's rows are no second model."""
    found: dict[str, set[str]] = {}
    for path, facts in library().items():
        for name in facts.public_classes:
            found.setdefault(name, set()).add(f"{path.parent.name}/{path.stem}")
    twice = {name: places for name, places in found.items() if len(places) > 1}
    rows = {"database/relations", "database/schema"}  # a snapshot's file names its rows' classes
    shown = {"database/catalog", "display/show", "history/table"}
    assert twice == {"Column": rows, "Index": rows, "Relation": rows, "Table": shown}


def test_no_path_of_a_machine_is_in_a_file() -> None:
    """What works here works everywhere."""
    for folder in ("lib", "notebooks", "runbooks"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".ipynb", ".yaml", ".sql"):
                assert str(ROOT) not in path.read_text(), path


@dataclass(frozen=True)
class Facts:
    """What is to be known of a module: its trees of syntax together are half a gigabyte."""

    lines: int
    silent: list[int]
    long_functions: list[str]
    public_classes: list[str]


@functools.cache
def library() -> dict[Path, Facts]:
    """Read every module of the library once; trees are no garbage, and nobody looks for any meanwhile."""
    gc.disable()
    try:
        return _library()
    finally:
        gc.enable()


def _library() -> dict[Path, Facts]:
    found = {}
    for path in LIBRARY:
        text = path.read_text()
        tree = ast.parse(text)
        nodes = list(_statements(tree))
        found[path] = Facts(
            len(text.splitlines()),
            [node.lineno for node in nodes if isinstance(node, ast.ExceptHandler) and is_silent(node)],
            [node.name for node in nodes
             if isinstance(node, ast.FunctionDef) and int(str(node.end_lineno)) - node.lineno >= 60],
            [node.name for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")],
        )  # fmt: skip
    return found


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements and handlers below a node."""
    for part in ("body", "handlers", "orelse", "finalbody", "cases"):
        for below in getattr(node, part, ()) if not isinstance(node, ast.expr) else ():
            yield below
            yield from _statements(below)


def is_silent(node: ast.ExceptHandler) -> bool:
    """Tell whether an except has no kind of error, or takes every kind and does nothing."""
    everything = isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
    return node.type is None or (everything and all(isinstance(line, ast.Pass) for line in node.body))


def code_cells(path: Path) -> list[Any]:
    """Return the code cells of a notebook."""
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def tags(cell: Any) -> set[str]:
    """Return the tags of a cell."""
    return set(cell.metadata.get("tags", []))


def calls(source: str) -> list[ast.Call]:
    """Return the calls in a cell."""
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]


def commands() -> Iterator[str]:
    """Yield every command of the command line, with the words before it."""
    group = typer.main.get_command(cli.app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        yield from (f"{name} {one}" for one in inner) if inner else [name]


def test_the_drawing_of_the_house_has_its_rooms() -> None:
    """docs/architecture.svg is drawn from the contract of the imports: refresh it with ``make notebooks``."""
    assert (ROOT / "docs" / "architecture.svg").read_text() == refresh_architecture.drawn()
