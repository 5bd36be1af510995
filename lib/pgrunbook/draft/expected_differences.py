"""Differences that a safe form or a way back declares, which a comparison of schemas ignores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pgrunbook.database.schema_diff import Difference
from pgrunbook.plan.plan import Change
from pgrunbook.safe_forms.add_column import OWN_VALUES, VALUES_OF
from pgrunbook.safe_forms.constraints import NOT_NULL_OF_PARTITIONS


def is_declared(difference: Difference, differs: Iterable[str]) -> bool:
    """Tell whether a way back has declared this difference."""
    if difference.change == "moved":
        return any(f" order of {difference.name}:" in text for text in differs)
    if difference.kind == "statistics":
        return f"column order of statistics {difference.name}" in differs
    for text in differs:
        if text == f"constraint {difference.name} stays valid":
            return True
        if " are its own" in text and difference.name.startswith(text.split()[2]):
            return True
    return False


def as_declared(difference: Difference, changes: Sequence[Change]) -> bool:
    """Tell whether a safe form of the executed changes has declared this difference."""
    declared = {text for change in changes for statement in change.statements for text in statement.differs}
    as_inherited = difference.after.replace(" (LOCAL)", "").replace(" LOCAL)", ")")
    own = "INHERITED" in difference.before and as_inherited == difference.before
    return NOT_NULL_OF_PARTITIONS in declared and difference.change == "changed" and own


def differing_column(declared: str) -> str | None:
    """Return the column whose values a form declares to differ, None where it declares something else."""
    if not (declared.startswith(VALUES_OF) and declared.endswith(OWN_VALUES)):
        return None
    return declared.removeprefix(VALUES_OF).removesuffix(OWN_VALUES)
