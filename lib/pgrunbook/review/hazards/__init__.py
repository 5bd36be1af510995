"""The hazards of statements: each rule has an id, is judged on one database and names a way out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

from pgrunbook.review.hazards import (
    breaking,
    columns,
    constraints,
    copy_and_swap,
    design,
    indexes,
    partitions,
    procedural_code,
    rows,
    sessions,
    tables,
    time_zones,
    wide,
)
from pgrunbook.review.hazards.rule import RULES, Hazard, Note, Rule, Scene, Severity, Timeouts, Transactions

__all__ = [
    "RULES", "Hazard", "Note", "Rule", "Scene", "Severity", "Timeouts", "Transactions", "find", "modules",
]  # fmt: skip

modules = (
    procedural_code, breaking, columns, constraints, copy_and_swap, design, indexes, partitions, rows, sessions, tables,
    time_zones, wide,
)  # fmt: skip


def find(scenes: Sequence[Scene], *, design_rules: Collection[str] = ()) -> Iterator[tuple[Scene, list[Hazard]]]:
    """Yield each scene with its hazards, worst first; rules of design and taste only if they are switched on.

    What a note says is said once, and what a rule says of a statement in a routine: whoever runs it next does the same.
    """
    chosen = [rule for rule in RULES.values() if not rule.taste or rule.id in design_rules]
    concerned = lru_cache(lambda kinds: [rule for rule in chosen if rule.concerns(kinds)])
    noted: set[tuple[str, str, str]] = set()
    waiting: dict[int, list[Rule]] = {}  # the rules that have not judged a statement in a routine
    for scene in scenes:
        found = dict.fromkeys(hazard for rule in concerned(scene.kinds) for hazard in rule.hazards(scene))
        told = {hazard.id for hazard in found}
        parts = (part for part in scene.parts if part.node is not None)
        for inner, part in zip(scene.inner, parts, strict=True):
            rules = waiting[id(inner)] if id(inner) in waiting else concerned(inner.kinds)
            for rule in rules:
                for hazard in rule.hazards(inner) if rule.id not in told else ():
                    effect = f"Inside {part.within}: {hazard.effect}"
                    found[replace(hazard, effect=effect, line=scene.statement.line)] = None
            waiting[id(inner)] = [rule for rule in rules if rule.id in told]
        new = [hazard for hazard in found if hazard.severity is not Severity.NOTE or _words(hazard) not in noted]
        noted |= {_words(hazard) for hazard in new if hazard.severity is Severity.NOTE}
        yield scene, sorted(new, key=lambda hazard: -hazard.severity.rank)


def _words(hazard: Hazard) -> tuple[str, str, str]:
    return hazard.id, hazard.effect, hazard.way_out
