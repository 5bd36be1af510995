"""What procedures are told: lists and tables, from a notebook and from the command line."""

from __future__ import annotations

from typing import Any

import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from pgrunbook.errors import WrongInput
from pgrunbook.runner import headless, runbook
from pgrunbook.session.parameters import OF, Migrate, Parameters, Prepare, Validate, checked

KNOWS = (
    "Hint: prepare knows: target, generate, rehearse, with_data, most_mb, load, keep, "
    "prefer_down_scripts, accept, allow_loss, "
    "safe_forms_off, out_of_order, max_transaction_age_s, checksum_mb, check_timeout_s."
)


def told(given: dict[str, Any], *, model: type[Parameters] = Prepare, from_text: bool = False) -> str:
    """Return the error for parameters that are not right."""
    with pytest.raises(WrongInput) as wrong:
        checked("prepare", model, {"target": "demo", **given}, from_text=from_text)
    return str(wrong.value)


@pytest.mark.parametrize(
    ("given", "from_text"),
    [
        (["a.sql:1", "b.sql:22"], False),
        (("a.sql:1", "b.sql:22"), False),
        ("a.sql:1,b.sql:22", False),
        ("a.sql:1,b.sql:22", True),
        (" a.sql:1 , b.sql:22,", True),
        ('["a.sql:1", "b.sql:22"]', True),
    ],
)
def test_a_list_is_a_list_or_text(given: object, from_text: bool) -> None:
    """A notebook has a list; the command line has words between commas, or JSON where a name holds a comma."""
    found = checked("prepare", Prepare, {"target": "demo", "accept": given}, from_text=from_text)
    assert found.model_dump(mode="json")["accept"] == ["a.sql:1", "b.sql:22"]


def test_an_empty_text_is_an_empty_list() -> None:
    """As a name that holds a comma is one name in JSON."""
    found = checked("prepare", Prepare, {"target": "demo", "accept": "", "allow_loss": '["a,b", "c"]'}, from_text=True)
    assert found.model_dump() | {"accept": (), "allow_loss": ("a,b", "c")} == found.model_dump()


@pytest.mark.parametrize("from_text", [True, False])
def test_a_statement_whose_safe_form_is_off_has_its_reason(from_text: bool) -> None:
    """A table in a notebook, JSON on the command line."""
    given: object = '{"a.sql:3": "ten rows"}' if from_text else {"a.sql:3": "ten rows"}
    found = checked("migrate", Migrate, {"target": "demo", "safe_forms_off": given}, from_text=from_text)
    assert found.model_dump(mode="json")["safe_forms_off"] == {"a.sql:3": "ten rows"}


@pytest.mark.parametrize(
    ("given", "detail"),
    [
        ({"accept": "a.sql"}, "accept.0 is 'a.sql': a statement is named as migration:line, as 0004_x:2"),
        ({"accept": ["a.sql:0"]}, "accept.0 is 'a.sql:0': a statement is named as migration:line, as 0004_x:2"),
        ({"accept": 7}, "accept is 7: it should be a list"),
        ({"accept": "[1"}, "accept is '[1': it is not a JSON list"),
        ({"allow_loss": [1]}, "allow_loss.0 is 1: input should be a valid string"),
        ({"allow_loss": [" "]}, "allow_loss.0 is ' ': string should have at least 1 character"),
        ({"safe_forms_off": "a.sql:1"}, "safe_forms_off is 'a.sql:1': it is not a JSON object"),
        (
            {"safe_forms_off": {"a.sql:1": " "}},
            "safe_forms_off.a.sql:1 is ' ': string should have at least 1 character",
        ),
        ({"most_mb": 0}, "most_mb is 0: input should be greater than or equal to 1"),
        ({"load": 10_001}, "load is 10001: input should be less than or equal to 10000"),
        ({"load": True}, "load is True: input should be a valid integer"),
    ],
)
def test_what_is_not_right_is_named(given: dict[str, object], detail: str) -> None:
    """The parameter, its place in a list, its value, and what it should be."""
    assert told(given) == (
        f"the parameters of prepare are wrong\nDetail: {detail}\nState: Nothing changed in the database.\n{KNOWS}"
    )


def test_a_box_of_the_checklist_is_taken_on_by_its_own_words() -> None:
    """As JSON from the command line; any other box is refused, and so is nobody."""
    given = {"target": "demo", "took_on": '{"documentation updated": "Ada"}'}
    assert checked("validate", Validate, given, from_text=True).model_dump()["took_on"] == {
        "documentation updated": "Ada"
    }
    for box, who in (("documentation", "Ada"), ("documentation updated", " ")):
        with pytest.raises(WrongInput, match=r"took_on\.documentation"):
            checked("validate", Validate, {"target": "demo", "took_on": {box: who}})


@pytest.mark.parametrize("digest", ["", "0123456789ab", "0123456789abc", "f" * 64])
def test_an_approval_is_a_digest_or_how_it_begins(digest: str) -> None:
    """Twelve digits are enough to tell a plan, and fewer are not."""
    assert checked("migrate", Migrate, {"target": "demo", "approved": digest}, from_text=True).model_dump()[
        "approved"
    ] == (digest)


@pytest.mark.parametrize("digest", ["0123456789a", "yes", "F" * 64, "f" * 65, "0123456789ab\n"])
def test_an_approval_that_is_no_digest_is_refused(digest: str) -> None:
    """ "yes" approves nothing."""
    assert "it should be the digest of a plan, or its first 12 digits or more" in told(
        {"approved": digest}, model=Migrate
    )


@pytest.mark.parametrize(
    "given",
    [
        {"allow_loss": ["postgresql://me:hunter2@db/x"]},
        {"safe_forms_off": {"a.sql:1": "host=db password=hunter2"}},
        {"safe_forms_off": {"password=hunter2": "x"}},
    ],
)
def test_secrets_inside_of_lists_and_tables_are_refused(given: dict[str, Any]) -> None:
    """They would be written into the record as well; the error does not repeat them."""
    message = told(given)
    assert message.startswith(f'parameter "{next(iter(given))}" looks like a secret\n')
    assert "hunter2" not in message


def test_lists_reach_the_notebook_from_the_command_line() -> None:
    """What -p says stands in the parameters cell as a list, and the procedure accepts it there."""
    given = {
        "accept": "a.sql:1,b.sql:2",
        "allow_loss": "public.orders",
        "approved": "0123456789ab",
        "safe_forms_off": '{"a.sql:3": "it\'s \\"small\\""}',
    }
    typed = runbook.typed(runbook.load("release"), "demo", given)
    assert typed["validate"] == {"target": "demo"}
    for procedure in ("prepare", "migrate"):
        notebook = load_notebook_node(str(headless.source(procedure)))
        filled = parameterize_notebook(notebook, typed[procedure], engine_name="pgrunbook")
        (cell,) = [cell for cell in filled.cells if "injected-parameters" in cell.metadata.get("tags", [])]
        found: dict[str, Any] = {}
        exec(cell.source, {}, found)  # noqa: S102 - what the kernel would run
        parameters = checked(procedure, OF[procedure], found).model_dump(mode="json", exclude_unset=True)
        assert parameters == typed[procedure]
        assert parameters["accept"] == ["a.sql:1", "b.sql:2"]
        assert parameters["safe_forms_off"] == {"a.sql:3": 'it\'s "small"'}
