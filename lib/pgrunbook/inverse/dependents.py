"""The objects that a DROP ... CASCADE drops, read from pg_depend, in the order in which to create them again."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from pgrunbook.inverse.reader import CLASSES, Address, Reader
from pgrunbook.inverse.way import NoInverseError

_CLASS, _ATTRDEF, _SCHEMA = CLASSES["pg_class"], CLASSES["pg_attrdef"], CLASSES["pg_namespace"]
EXPRESSIONS_NEED_SINCE = 15
FIRST_OF_USERS = 16_384  # FirstNormalObjectId: below are the objects that initdb makes
_TRIGGER, _FUNCTION = CLASSES["pg_trigger"], CLASSES["pg_proc"]

# The order of objects that do not depend on each other.
_RANKS = {
    "pg_namespace": 0, "pg_extension": 1, "pg_language": 2, "pg_collation": 3, "pg_type": 4, "pg_proc": 6,
    "pg_class": 7, "pg_attrdef": 9, "pg_constraint": 10, "pg_statistic_ext": 13, "pg_rewrite": 14, "pg_policy": 15,
    "pg_trigger": 16, "pg_publication": 17, "pg_publication_rel": 18, "pg_publication_namespace": 18,
}  # fmt: skip
_LATE = 5
# What an operator family holds, and CREATE EXTENSION makes with it.
_OF_FAMILY = ("pg_amop", "pg_amproc")

Rank = tuple[int, int, int]


@dataclass(frozen=True)
class ObjectParent:
    """What an object belongs to: its relation, its kind there, and whether another object creates it."""

    relation: int
    kind: str
    number: int
    comes_along: bool


@dataclass
class DependentSet:
    """Objects that are dropped together; ``needs`` is what each depends on, ``leader`` the object it is part of.

    ``foreign`` are columns with a type or collation of the application. ``kept`` are the tables that are parked
    instead, parents first; ``apart`` are their parts that cannot move with them, for they need objects that stay.
    Those ``replaced`` are made anew, without indexes and keys; ``detached`` are the partitions that are parked alone.
    """

    catalogs: dict[Address, str]
    needs: dict[Address, list[tuple[Address, str]]]
    places: dict[Address, ObjectParent]
    foreign: frozenset[Address] = frozenset()
    kept: tuple[int, ...] = ()
    replaced: frozenset[int] = frozenset()
    detached: frozenset[int] = frozenset()
    apart: set[Address] = field(default_factory=set)

    def keep(self, tables: Sequence[int], replaced: Collection[int] = (), detached: Collection[int] = ()) -> None:
        """Park tables; what of them cannot move is ``apart``."""
        self.kept, self.replaced, self.detached = tuple(tables), frozenset(replaced), frozenset(detached)
        found = {a for a in self.needs if self._leans(a)}
        while found:
            self.apart |= {self._unit(address) for address in found}
            found = {a for a in self.needs if self._is_part(a) and self._unit(a) not in self.apart and self._follows(a)}

    def is_below(self, address: Address, others: Collection[Address]) -> bool:
        """Tell whether an object of a partition belongs to one of its parent's among others, which drops it."""
        if self.of_table(address) in self.detached:
            return False
        return any(kind == "P" and self.leader(other) in others for other, kind in self.needs[address])

    def leader(self, address: Address) -> Address:
        """Return the object of the set that this one is part of, or itself."""
        seen = {address}
        while (owner := self._owner(address)) is not None and owner not in seen:
            seen.add(owner)
            address = owner
        return address

    def leaders(self) -> list[Address]:
        """Return the objects to create, in a possible order."""
        wanted = [a for a in self.needs if self.leader(a) == a and not self._comes_along(a)]
        before: dict[Address, set[Address]] = {address: set() for address in wanted}
        for address, needs in self.needs.items():
            mine = self.leader(address)
            if mine not in before:
                continue
            for other in self._needed(address, needs):
                if other in before and other != mine:
                    before[mine].add(other)
        return list(_ordered(before, self._rank))

    def of_table(self, address: Address) -> int:
        """Return the parked table with which an object moves, 0 for one that is dropped."""
        place = self.places.get(address)
        if address[0] == _CLASS and address[1] in self.kept:
            return address[1]
        return place.relation if place is not None and place.relation in self.kept else 0

    def tables(self) -> list[Address]:
        """Return the tables that are dropped."""
        return [a for a in self.needs if a[0] == _CLASS and a[2] == 0 and self.places[a].kind in "rp"]

    def _is_part(self, address: Address) -> bool:
        """Tell whether an object is a part of a parked table that may need other objects: no column, no sequence."""
        catalog, place = self.catalogs[address], self.places.get(address)
        if place is None or place.relation not in self.kept:
            return False
        return catalog in ("pg_attrdef", "pg_class", "pg_statistic_ext") or (
            catalog == "pg_constraint" and place.kind not in "fn"
        )

    def _leans(self, address: Address) -> bool:
        """Tell whether a part of a parked table needs an object that stays, or a column whose type will change."""
        if not self._is_part(address):
            return False
        if self.of_table(address) in self.replaced and self._is_left(address):
            return True
        return any(
            other in self.foreign
            or (other[1] >= FIRST_OF_USERS and other[0] != _SCHEMA and kind in "anix" and not self._is_gone(other))
            for other, kind in self.needs[address]
        )

    def _is_left(self, address: Address) -> bool:
        """Tell whether a part of a table that is made anew is no property of a column: an index, a key, statistics."""
        catalog = self.catalogs[address]
        return catalog in ("pg_class", "pg_statistic_ext") or (
            catalog == "pg_constraint" and self.places[address].kind != "c"
        )

    def _is_gone(self, address: Address) -> bool:
        return address in self.needs or (*address[:2], 0) in self.needs

    def _follows(self, address: Address) -> bool:
        is_alone = self.of_table(address) in self.detached
        return any(
            self.leader(other) in self.apart
            for other, kind in self.needs[address]
            if other in self.needs and not (is_alone and kind in "PS")
        )

    def _unit(self, address: Address) -> Address:
        """Return what has to be dropped for an object to go: a default by itself, an index with its constraint."""
        while (owner := self._owner(address)) is not None and not (owner[1] in self.kept and not owner[2]):
            address = owner
        return address

    def _owner(self, address: Address) -> Address | None:
        if address in self.apart:
            return None
        for other, kind in self.needs.get(address, ()):
            if kind == "i" and other in self.needs:
                return other
            if kind == "i" and (whole := (*other[:2], 0)) in self.needs:
                return whole
            if kind == "e" and other in self.needs:
                return other
            if kind == "a" and self.catalogs[address] in _OF_FAMILY and other in self.needs:
                return other
        if address[0] == _CLASS and address[2] and (address[0], address[1], 0) in self.needs:
            return (address[0], address[1], 0)
        if address[0] == _ATTRDEF:
            place = self.places[address]
            relation = self.places.get((_CLASS, place.relation, 0))
            if relation is not None and relation.kind == "v":
                return None
            for column in ((_CLASS, place.relation, place.number), (_CLASS, place.relation, 0)):
                if column in self.needs:
                    return column
        return None

    def _comes_along(self, address: Address) -> bool:
        place = self.places.get(address)
        return place is not None and place.comes_along

    def _needed(self, address: Address, needs: Sequence[tuple[Address, str]]) -> Iterator[Address]:
        is_sequence = address[0] == _CLASS and self.places[address].kind == "S"
        for other, kind in needs:
            if is_sequence and kind == "a":
                continue  # a column owns it; the column's default needs it first
            for there in (other, (*other[:2], 0)):
                if there in self.needs:
                    yield self.leader(there)
                    break

    def _rank(self, address: Address) -> Rank:
        catalog, place = self.catalogs[address], self.places.get(address)
        rank = _RANKS.get(catalog, _LATE)
        if catalog == "pg_class" and place is not None:
            rank = {"S": 5, "i": 12, "I": 12}.get(place.kind, 8 if address[2] else 7)
        if catalog == "pg_constraint" and place is not None:
            rank = {"n": 9, "c": 10, "f": 13}.get(place.kind, 11)
        return (rank, address[1], address[2])


def dropped_with(reader: Reader, addresses: Collection[Address]) -> DependentSet:
    """Return what DROP ... CASCADE of these objects drops; an object that does not exist is left out."""
    if not addresses:
        return DependentSet({}, {}, {})
    classes, objects, parts = (list(part) for part in zip(*addresses, strict=True))
    catalogs, needs, places, foreign = {}, {}, {}, set()
    for row in reader.rows("dropped_with", classes=classes, objects=objects, parts=parts):
        address = (row["class"], row["oid"], row["part"])
        catalogs[address] = row["catalog"].removeprefix("pg_catalog.")
        needs[address] = [((c, o, p), kind) for c, o, p, kind in row["needs"]]
        foreign |= {(*address[:2], number) for number in row["foreign_columns"] or ()}
        if row["kind"] is not None:
            places[address] = ObjectParent(row["relation"], row["kind"], row["number"], row["comes_along"])
    if reader.version < EXPRESSIONS_NEED_SINCE:
        _say_as_since(needs)
    if any(catalog == "pg_largeobject" for catalog in catalogs.values()):
        raise NoInverseError("cannot be undone, because large objects are not captured.")
    return DependentSet(catalogs, needs, places, frozenset(foreign))


def _say_as_since(needs: dict[Address, list[tuple[Address, str]]]) -> None:
    """Let the expression of a generated column need what PostgreSQL 14 lets the column need, and be its part."""
    for address in [address for address in needs if address[0] == _ATTRDEF]:
        column = next((other for other, kind in needs[address] if kind == "a"), address)
        if automatic := [other for other, kind in needs.get(column, ()) if kind == "a"]:
            needs[address] = [(column, "i"), *((other, "n") for other in automatic)]
            needs[column] = [(other, kind) for other, kind in needs[column] if kind != "a"]


def _ordered(before: dict[Address, set[Address]], key: Callable[[Address], Rank]) -> Iterator[Address]:
    """Yield addresses after what they need, lowest rank first; a cycle is broken at its lowest rank."""
    left = {address: set(needed) for address, needed in before.items()}
    after: dict[Address, list[Address]] = {address: [] for address in before}
    for address, needed in before.items():
        for other in needed:
            after[other].append(address)
    free = [(key(address), address) for address, needed in left.items() if not needed]
    heapq.heapify(free)
    while left:
        if not free:
            free = [min((key(address), address) for address in left)]
        _, address = heapq.heappop(free)
        if left.pop(address, None) is None:
            continue
        yield address
        for other in after[address]:
            if other in left:
                left[other].discard(address)
                if not left[other]:
                    heapq.heappush(free, (key(other), other))
