"""The declaration of a rollout: what its file may say, and what is told where it is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pgrunbook.errors import WrongInput
from pgrunbook.plan import rollout

FEW = {"name": "few", "keys": [1, 2]}
METRIC = {"query": "SELECT 1", "at_most": 2}


def declared(folder: Path, *stages: dict[str, Any], **given: Any) -> rollout.DeclaredRollout:
    """Write a file, and read it."""
    path = folder / "beta.yaml"
    path.write_text(yaml.safe_dump({"table": "t", "column": "c", "stages": list(stages), **given}))
    return rollout.read(path)


def test_a_file_says_all_of_a_rollout(tmp_path: Path) -> None:
    """Names, values, stages in their order, and the metric of each; a share may be a whole number."""
    found = declared(
        tmp_path, {**FEW, "rows": 2, "hold_s": 60}, {"name": "ten", "share": 10, "rows": [5, 20], "go": "metric"},
        {"name": "all", "all": True}, metric=METRIC,
    )  # fmt: skip
    assert (found.name, found.on, found.off, found.seed) == ("beta", "true", "false", "beta")
    assert [stage.who for stage in found.stages] == ["a list of 2", "10 % by hash", "all"]
    assert [stage.expected for stage in found.stages] == [(2, 2), (5, 20), None]
    assert found.stages[1].bound == int(0.1 * 2**32)
    assert found.metric_of(found.stages[1]) == found.metric


@pytest.mark.parametrize(
    ("stages", "given", "says"),
    [
        ([], {}, "at least 1 item"),
        ([{"name": "none", "keys": []}], {}, "stage none names nobody"),
        ([{"name": "nothing"}], {}, "has to have one of keys, share and all"),
        ([{**FEW, "share": 3}], {}, "has to have one of keys, share and all"),
        ([{"name": "twice", "keys": [1, 2, "1"]}], {}, "names a key twice: 1"),
        ([{"name": "null", "keys": [None]}], {}, "keys.0"),
        ([{"name": "a", "share": 0}], {}, "greater than 0"),
        ([{"name": "a", "share": 100}], {}, "less than 100"),
        ([{"name": "a", "share": 20}, {"name": "b", "share": 10}], {}, "the share of stage b is not more than 20 %"),
        ([{"name": "a", "share": 20}, FEW, {"name": "b", "share": 20}], {}, "the share of stage b is not more"),
        ([{"name": "a", "all": True}, FEW], {}, "stage few comes behind a stage of all"),
        ([FEW, FEW], {}, "two stages have the same name"),
        ([{**FEW, "name": "remove"}], {}, 'no stage can be named "remove"'),
        ([{**FEW, "name": "A b"}], {}, "stages.0.name"),
        ([{**FEW, "go": "metric"}], {"metric": METRIC}, "a person lets the first stage begin"),
        ([FEW, {"name": "b", "share": 5, "go": "metric", "rows": 3}], {}, "stage few before it has none"),
        ([FEW, {"name": "b", "share": 5, "go": "metric"}], {"metric": METRIC}, "how many rows are expected"),
        ([{**FEW, "rows": [3, 2]}], {}, "expects 3 to 2 rows"),
        ([{**FEW, "rows": -1}], {}, "expects -1 to -1 rows"),
        ([{**FEW, "hold_s": -1}], {}, "greater than or equal to 0"),
        ([{**FEW, "metric": {"query": "SELECT 1"}}], {}, "a metric has at_most, at_least or both"),
        ([{**FEW, "metric": {"query": " ", "at_most": 1}}], {}, "metric.query"),
        ([{**FEW, "hold": 5}], {}, "stages.0.hold: Extra inputs"),
        ([FEW], {"enabled": True, "disabled": "true"}, "enabled and disabled are the same value"),
        ([FEW], {"enabled": None}, "enabled"),
        ([FEW], {"colour": "blue"}, "colour: Extra inputs"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_told(tmp_path: Path, stages: list[dict[str, Any]], given: dict[str, Any], says: str) -> None:
    """Each fault by its stage."""
    with pytest.raises(WrongInput) as caught:
        declared(tmp_path, *stages, **given)
    assert caught.value.message == "the rollout beta.yaml is wrong"
    assert says in caught.value.detail


@pytest.mark.parametrize(
    ("text", "says"),
    [("stages: [", "while parsing"), ("just text", "no mapping"), ("name: x", "own name is the rollout's name"),
     ("", "no mapping")],
)  # fmt: skip
def test_what_is_no_declaration_is_told(tmp_path: Path, text: str, says: str) -> None:
    """No YAML, another shape, a name beside that of the file."""
    (tmp_path / "beta.yaml").write_text(text)
    with pytest.raises(WrongInput) as caught:
        rollout.read(tmp_path / "beta.yaml")
    assert caught.value.message == "could not read the rollout beta.yaml"
    assert says in caught.value.detail


def test_a_digest_is_of_who_gets_the_flag(tmp_path: Path) -> None:
    """What is expected, the hold and the metric may change while a stage is held; who is in it may not."""
    one = declared(tmp_path, FEW)
    other = declared(tmp_path, {**FEW, "rows": 2, "hold_s": 5, "metric": METRIC})
    assert one.stages[0].digest == other.stages[0].digest
    assert one.head == other.head
    assert one.digest != other.digest
    assert declared(tmp_path, {**FEW, "keys": [1, 3]}).stages[0].digest != one.stages[0].digest
    for given in ({"salt": "x"}, {"column": "d"}, {"table": "u"}, {"enabled": "x"}, {"type": "text"}):
        assert declared(tmp_path, FEW, **given).head != one.head
