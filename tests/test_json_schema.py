"""The forms of plan.json and rehearsal.json, which other people's automation reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, get_args

import jsonschema
import pytest

from acting import run
from conftest import do
from pgrunbook.app import json_schema
from pgrunbook.config.targets import Target

Project = Callable[..., Target]
Command = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("name", get_args(json_schema.Name))
def test_the_package_keeps_the_schema_that_the_models_have(name: json_schema.Name) -> None:
    """A model that is changed changes the contract: refresh it with ``make notebooks``, on purpose."""
    assert json_schema.kept(name) == json_schema.made(name)
    jsonschema.Draft202012Validator.check_schema(json.loads(json_schema.kept(name)))


@pytest.mark.slow
def test_what_prepare_writes_keeps_to_the_contract(project: Project) -> None:
    """Steps of every kind: in batches, alone, with a gate, joined; and what was observed of them."""
    target = project(
        folder={
            "0001_a.sql": "ALTER TABLE a ADD m int;\nALTER TABLE a ADD o int;\nCREATE INDEX a_n ON a (n);\n"
            "ALTER TABLE b ADD CONSTRAINT n_is CHECK (n > 0)",
            "0002_b.sql": "UPDATE a SET n = n + 1;\nALTER TABLE b DROP COLUMN gone",
        }
    )
    do(target, "CREATE TABLE a (id int PRIMARY KEY, n int); CREATE TABLE b (n int, gone text)")
    do(target, "INSERT INTO a SELECT i, i FROM generate_series(1, 3000) AS i; INSERT INTO b VALUES (1)")
    made, code = run("prepare", with_data="true", load="50")
    assert code == 0
    for name, file in (("plan", "plan.json"), ("rehearsal", "rehearsal.json")):
        found = json.loads((made.folder / file).read_text(encoding="utf-8"))
        validator = jsonschema.Draft202012Validator(json.loads(json_schema.kept(name)))
        assert [error.message for error in validator.iter_errors(found)] == []
        found["more"] = 1
        assert [error.message for error in validator.iter_errors(found)] != []


def printed(command: Command, name: str, *arguments: str, code: int = 0) -> Any:
    """Return what a command prints with --json, which keeps to its schema and tells nothing else on stdout."""
    got, out, err = command(*arguments, "--json")
    assert got == code, err
    found = json.loads(out)
    validator = jsonschema.Draft202012Validator(json.loads(command("schema", name)[1]))
    assert [error.message for error in validator.iter_errors(found)] == []
    return found


@pytest.mark.slow
def test_what_the_commands_print_keeps_to_the_contract(project: Project, command: Command) -> None:
    """A run that is refused for a gate: its end, the list, itself, the acceptance, the target; then what is not there.

    A command that tells nothing of a run but errors writes nothing where there is none.
    """
    target = project(folder={"0001_a.sql": "ALTER TABLE a DROP COLUMN gone"})
    do(target, "CREATE TABLE a (id int PRIMARY KEY, gone text); INSERT INTO a VALUES (1, 'x')")
    assert printed(command, "runs", "runs") == {"runs": [], "unreadable": []}
    (standing,) = printed(command, "status", "status")["targets"]
    assert (standing["target"], standing["pending"], standing["version"], standing["error"]) == ("demo", 1, None, None)
    code, out, err = command("run", "prepare", "--target", "demo", "-p", "with_data=false", "--quiet")
    assert (code, out, err) == (0, "", "")
    (made,) = printed(command, "runs", "runs")["runs"]
    assert (made["status"], made["runbook"], [part["status"] for part in made["procedures"]]) == (
        "done", "prepare", ["done"],
    )  # fmt: skip
    shown = printed(command, "show", "show", made["run_id"])
    assert shown["run"] == made
    assert [event["seq"] for event in shown["events"]] == [*range(1, len(shown["events"]) + 1)]
    accepted = printed(command, "accept", "accept", made["run_id"])
    assert accepted["accepted"] == ["0001_a:1"]
    assert accepted["still_open"] == []


@pytest.mark.slow
def test_how_a_run_ended_is_told_to_automation(project: Project, command: Command) -> None:
    """Refused, with the gates that are open and the error's lines; done, after they are accepted."""
    target = project(folder={"0001_a.sql": "ALTER TABLE a DROP COLUMN gone"})
    do(target, "CREATE TABLE a (id int PRIMARY KEY, gone text); INSERT INTO a VALUES (1, 'x')")
    ended = printed(command, "run", "run", "release", "--target", "demo", "-p", "with_data=false", code=3)
    assert (ended["exit_code"], ended["run"]["status"], ended["open_gates"]) == (3, "refused", ["0001_a:1"])
    assert any(line.startswith("State: ") for line in ended["error"])
    assert "pgrunbook accept" in ended["next"] or any("pgrunbook accept" in line for line in ended["error"])
    assert command("accept", ended["run"]["run_id"])[0] == 0
    ended = printed(command, "run", "run", "--resume", ended["run"]["run_id"])
    assert (ended["exit_code"], ended["run"]["status"], ended["error"]) == (0, "done", [])


def test_a_target_that_does_not_answer_is_told_as_json(project: Project, command: Command) -> None:
    """What could not be found out is null, and the exit code says so."""
    project(folder={}, server="nothere")
    (standing,) = printed(command, "status", "status", code=1)["targets"]
    assert standing["error"]
    assert (standing["server"], standing["pending"]) == (None, None)


@pytest.mark.first_case
@pytest.mark.parametrize("name", get_args(json_schema.Name))
def test_every_schema_is_printed(name: str, command: Command) -> None:
    """By the command, under the name of what it describes."""
    assert json.loads(command("schema", name)[1])["$schema"] == json_schema.DIALECT
