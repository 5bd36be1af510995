"""Difference between two schema snapshots, object by object; prepare, validate and rollback show it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pgrunbook.database.schema import CLASSES, Column, Relation, SchemaObject, Snapshot

Change = Literal["added", "removed", "changed", "moved"]

_SIGNS: dict[Change, str] = {"added": "+", "removed": "-", "changed": "~", "moved": ">"}
_LINE_CHARS = 100
_ORDER = {cls: place for place, cls in enumerate(dict.fromkeys(CLASSES.values()))}


@dataclass(frozen=True, order=True)
class Difference:
    """One object that differs: ``before`` and ``after`` describe both sides as SQL, "" for absent.

    "moved" means that the relative order of a table's columns differs (kind "column order").
    """

    kind: str
    name: str
    change: Change
    before: str
    after: str

    def line(self) -> str:
        """Return the difference as one line, long definitions shortened to where they differ."""
        before, after = " ".join(self.before.split()), " ".join(self.after.split())
        if self.change in ("changed", "moved"):
            before, after = _cut_to_difference(before, after)
            text = f"{before or '(nothing)'} -> {after or '(nothing)'}"
        else:
            text = _shortened(before or after)
        return f"{_SIGNS[self.change]} {self.kind} {self.name}" + (f": {text}" if text else "")


def diff(a: Snapshot, b: Snapshot) -> list[Difference]:
    """Return the differences from ``a`` to ``b``, sorted by kind and name; [] when they are equal.

    The columns of a table that is only on one side are part of the table's difference.
    """
    only_a, only_b = _apart(a.objects, b.objects)
    before, after = _by_name(only_a), _by_name(only_b)
    gone, come = _columns_of_missing(only_a, b), _columns_of_missing(only_b, a)
    found = list(_moved(a, b, {obj.relation for obj in (*only_a, *only_b) if isinstance(obj, Column)}))
    for key in before.keys() | after.keys():
        old, new = before.get(key), after.get(key)
        if old is None and new is not None and not (isinstance(new, Column) and new.relation in come):
            found.append(Difference(*key, "added", "", _described(new, come)))
        elif new is None and old is not None and not (isinstance(old, Column) and old.relation in gone):
            found.append(Difference(*key, "removed", _described(old, gone), ""))
        elif old is not None and new is not None and _without_position(old) != _without_position(new):
            found.append(Difference(*key, "changed", old.describe(), new.describe()))
    return sorted(found)


def _apart(a: Sequence[SchemaObject], b: Sequence[SchemaObject]) -> tuple[list[SchemaObject], list[SchemaObject]]:
    """Return the objects that only one side has: few, of schemas that are large.

    Both are walked through once, as two lists in the same order. Where they are not, equal objects may be found on
    both sides, and are taken out.
    """
    only_a: list[SchemaObject] = []
    only_b: list[SchemaObject] = []
    at_a = at_b = 0
    while at_a < len(a) and at_b < len(b):
        one, other = a[at_a], b[at_b]
        if one == other:
            at_a, at_b = at_a + 1, at_b + 1
            continue
        place, other_place = _place(one), _place(other)
        if place <= other_place:
            only_a.append(one)
            at_a += 1
        if other_place <= place:
            only_b.append(other)
            at_b += 1
    only_a += a[at_a:]
    only_b += b[at_b:]
    return list(set(only_a).difference(only_b)), list(set(only_b).difference(only_a))


def _place(obj: SchemaObject) -> tuple[int, str, str]:
    return _ORDER[type(obj)], str(obj[0]), str(obj[1])


def _by_name(objects: Sequence[SchemaObject]) -> dict[tuple[str, str], SchemaObject]:
    return {(obj.kind, obj.name): obj for obj in objects}


def _columns(columns: Iterable[Column]) -> dict[str, list[Column]]:
    tables: dict[str, list[Column]] = {}
    for column in sorted(columns, key=lambda column: column.position):
        tables.setdefault(column.relation, []).append(column)
    return tables


def _columns_of_missing(here: Sequence[SchemaObject], there: Snapshot) -> dict[str, list[Column]]:
    """Return the columns of relations that only ``here`` has."""
    known = {relation.name for relation in there.of(Relation)}
    return _columns(obj for obj in here if isinstance(obj, Column) and obj.relation not in known)


def _described(obj: SchemaObject, columns: dict[str, list[Column]]) -> str:
    if not isinstance(obj, Relation) or obj.name not in columns:
        return obj.describe()
    listed = (f"{column.name.removeprefix(obj.name + '.')} {column.describe()}" for column in columns[obj.name])
    return f"({', '.join(listed)}) {obj.describe()}"


def _without_position(obj: SchemaObject) -> SchemaObject:
    return obj._replace(position=0) if isinstance(obj, Column) else obj


def _moved(a: Snapshot, b: Snapshot, tables: Collection[str]) -> Iterator[Difference]:
    before, after = (_columns(c for c in each.of(Column) if c.relation in tables) for each in (a, b))
    for name, columns in before.items():
        old, new = [c.column_name for c in columns], [c.column_name for c in after.get(name, [])]
        old, new = [c for c in old if c in new], [c for c in new if c in old]  # the others are told as such
        if old != new:
            yield Difference("column order", name, "moved", f"({', '.join(old)})", f"({', '.join(new)})")


def _cut_to_difference(before: str, after: str) -> tuple[str, str]:
    if len(before) <= _LINE_CHARS and len(after) <= _LINE_CHARS:
        return before, after
    same = next((i for i, pair in enumerate(zip(before, after, strict=False)) if len(set(pair)) == 2), 0)
    start = max(0, before.rfind(" ", 0, max(0, same - 20)) + 1)
    lead = "... " if start else ""
    return lead + _shortened(before[start:]), lead + _shortened(after[start:])


def _shortened(text: str) -> str:
    return text if len(text) <= _LINE_CHARS else text[: _LINE_CHARS - 4].rstrip() + " ..."
