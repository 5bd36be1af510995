"""The forms of plan.json and rehearsal.json, which other people's automation reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import get_args

import jsonschema
import pytest

from acting import run
from conftest import do
from pgrunbook.app import json_schema
from pgrunbook.config.targets import Target

Project = Callable[..., Target]


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
