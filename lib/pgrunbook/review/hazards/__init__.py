"""The hazards of statements: each rule has an id, is judged on one database and names a way out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from pgrunbook.review.hazards import (
    columns,
    constraints,
    copy_and_swap,
    design,
    indexes,
    procedural_code,
    rows,
    sessions,
    tables,
)
from pgrunbook.review.hazards.rule import RULES, Hazard, Note, Rule, Scene, Severity, Timeouts, Transactions

DESIGN = "design-"

__all__ = [
    "DESIGN", "RULES", "Hazard", "Note", "Rule", "Scene", "Severity", "Timeouts", "Transactions", "find", "modules",
]  # fmt: skip

modules = (procedural_code, columns, constraints, copy_and_swap, design, indexes, rows, sessions, tables)


def find(scenes: Sequence[Scene], *, design_rules: Collection[str] = ()) -> Iterator[tuple[Scene, list[Hazard]]]:
    """Yield each scene with its hazards, worst first; rules of design only if they are switched on."""
    chosen = [rule for rule in RULES.values() if not rule.id.startswith(DESIGN) or rule.id in design_rules]
    for scene in scenes:
        found = dict.fromkeys(hazard for rule in chosen for hazard in rule.hazards(scene))
        yield scene, sorted(found, key=lambda hazard: -hazard.severity.rank)
