"""Bringing back what is gone: each object with its owner, privileges, comments and what else is said of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from pgrunbook.changes.safe_forms.sql_text import literal
from pgrunbook.changes.undo import columns, grants, triggers
from pgrunbook.changes.undo.gone import Gone, gone_with
from pgrunbook.changes.undo.parts import Keep, NoWayBackError, Way
from pgrunbook.changes.undo.reader import CLASSES, Address, Column, Reader, Thing

_CLASS = CLASSES["pg_class"]
_ON_RELATIONS = ("pg_trigger", "pg_rewrite", "pg_policy", "pg_statistic_ext", "pg_attrdef", "pg_publication_rel",
                 "pg_publication_namespace")  # fmt: skip
_OWNERLESS = {
    "pg_constraint", "pg_trigger", "pg_rewrite", "pg_policy", "pg_attrdef", "pg_cast", "pg_extension", "pg_am",
    "pg_publication_rel", "pg_publication_namespace", "pg_user_mapping", "pg_default_acl", "pg_transform",
}  # fmt: skip


def bring_back(reader: Reader, way: Way, addresses: Collection[Address], *, without: Collection[Address] = ()) -> None:
    """Write the steps that bring back all that goes with these objects; whole tables are kept.

    What is in ``without`` is there already by then, with all that is part of it.
    """
    gone = gone_with(reader, addresses)
    gone.kept = {a[1] for a in gone.tables() if gone.leader(a) == a}
    _Revival(reader, way, gone, set(without)).write()


def remake(reader: Reader, way: Way, addresses: Sequence[Address], drop: str) -> None:
    """Write the statement that drops objects, then the steps that make them, and what hangs on them, as they are."""
    gone = gone_with(reader, addresses)
    if gone.tables():
        raise NoWayBackError("cannot be undone, because tables would go with what has to be made anew.")
    others = [a for a in gone.leaders() if a not in addresses]
    way.add(f"{drop} CASCADE" if others else drop, "It goes, to be made anew as it was.")
    piece = Way()
    _Revival(reader, piece, gone, set()).write()
    kept = [keep for keep in piece.keeps if keep.kind == "column"]
    if kept:
        raise NoWayBackError(f"cannot be undone, because {kept[0].table}.{kept[0].column} would go with it.")
    way.follow(piece)


class _Revival:
    def __init__(self, reader: Reader, way: Way, gone: Gone, without: set[Address]) -> None:
        self.reader, self.way, self.gone = reader, way, gone
        self.leaders = [a for a in gone.leaders() if a not in without]
        self.things = {thing.address: thing for thing in reader.things(self.leaders)}
        self.made = self._made()
        self.columns = self._columns()

    def write(self) -> None:
        """Tables first, which are given back; then each object; then what is said of them."""
        self._keep_tables()
        for address in self.leaders:
            catalog = self.gone.catalogs[address]
            if catalog == "pg_class" and address[2]:
                self._column(address)
            elif catalog == "pg_class" and address[1] in self.gone.kept:
                continue
            elif not self._travels(address, catalog):
                self._make(address, catalog)
        self._finish()

    def _keep_tables(self) -> None:
        oids = sorted(self.gone.kept)
        self.way.keeps += [
            Keep("table", row["sql"], key=tuple(row["key"]))
            for row in (self.reader.rows("keys", oids=oids, without="") if oids else [])
        ]
        if oids and any(self.gone.catalogs[a] in ("pg_namespace", "pg_type") for a in self.leaders):
            told = "tables go with it; drop them by name before, so that they can be kept"
            raise NoWayBackError(f"cannot be undone, because {told}.")
        for oid in oids:
            relation = self.reader.relation_at(oid)
            for parent in relation.parents:
                if parent in {self.reader.relation_at(other).sql for other in oids}:
                    continue
                if relation.bound:
                    told = f"ATTACH PARTITION {relation.sql} {relation.bound}"
                    self.way.add(f"ALTER TABLE {parent} {told}", "The partition is one again.")
                    triggers.fire(self.reader, self.way, relation)
                else:
                    self.way.add(f"ALTER TABLE {relation.sql} INHERIT {parent}", "The table inherits again.")
                    self.way.differs.append(f"columns of {relation.sql} are its own, beside being inherited")

    def _travels(self, address: Address, catalog: str) -> bool:
        """Tell whether an object is renamed away and back with its table."""
        if not self.gone.of_table(address):
            place = self.gone.places.get(address)
            is_sequence = place is not None and place.kind == "S" and catalog == "pg_class"
            owners = [other for other, kind in self.gone.needs[address] if kind == "a"]
            return is_sequence and any(other[1] in self.gone.kept for other in owners)
        place = self.gone.places[address]
        return catalog in ("pg_class", "pg_attrdef", "pg_statistic_ext", "pg_type") or (
            catalog == "pg_constraint" and place.kind != "f"
        )

    def _made(self) -> dict[Address, list[str]]:
        """Read the statements that make the objects, each catalog's at once."""
        by_catalog: dict[str, list[Address]] = {}
        for address in self.leaders:
            by_catalog.setdefault(self.gone.catalogs[address], []).append(address)
        made: dict[Address, list[str]] = {}
        again = bool(self.gone.kept)
        for catalog, found in by_catalog.items():
            for address, told in statements_of(self.reader, catalog, found, again=again):
                made.setdefault(address, []).append(told)
        return made

    def _columns(self) -> dict[Address, Column]:
        wanted = {address for address in self.leaders if address[0] == _CLASS and address[2]}
        oids = sorted({address[1] for address in wanted})
        found = {(_CLASS, c.relation, c.number): c for c in (self.reader.columns(oids) if oids else [])}
        return {address: column for address, column in found.items() if address in wanted}

    def _column(self, address: Address) -> None:
        column = self.columns[address]
        if column.kind == "c":
            told = f"attribute {column.sql} of type {column.table} goes with it"
            raise NoWayBackError(f"cannot be undone, because {told}.")
        if column.inherited and any(c.name == column.name and not c.inherited for c in self.columns.values()):
            self._inherited(column)
            return
        columns.add(self.reader, self.way, column)
        if not column.last:
            found = [thing for thing in self.things.values() if thing.type == "statistics object"]
            self.way.differs += [f"column order of statistics {thing.identity}" for thing in found]

    def _inherited(self, column: Column) -> None:
        """It comes with its parent's; what it says otherwise is said again."""
        parent = next(c for c in self.columns.values() if c.name == column.name and not c.inherited)
        if column.default != parent.default:
            self.way.add(columns.default(column), "The default of its own.")
        for statement in columns.own_properties(column):
            self.way.add(statement, "Its properties as they were.")
        if column.not_null and not parent.not_null and self.reader.version < columns.NOT_NULL_IS_A_CONSTRAINT:
            self.way.add(f"ALTER TABLE ONLY {column.table} ALTER COLUMN {column.sql} SET NOT NULL")
        if not column.last:
            told = f"column order of {column.table}: {column.sql} comes back as its last column"
            self.way.differs.append(told)

    def _make(self, address: Address, catalog: str) -> None:
        thing = self.things[address]
        told = self.made.get(address)
        if not told:
            missing = f"nobody has written down how {thing.type} {thing.identity} is made"
            raise NoWayBackError(f"cannot be computed: {missing}.")
        place = self.gone.places.get(address)
        if catalog == "pg_constraint" and place and place.kind == "f" and self.gone.kept:
            drop = told[0].replace(" ADD CONSTRAINT ", " DROP CONSTRAINT IF EXISTS ", 1)
            self.way.add(drop.split(" FOREIGN KEY ")[0], "It may be there.")
        for statement in told:
            self.way.add(statement, f"{thing.type.capitalize()} {thing.identity} comes back.")
        if catalog not in _OWNERLESS and not (place and place.kind in "iI" and catalog == "pg_class"):
            self._own(thing)

    def _own(self, thing: Thing) -> None:
        if thing.owner != self.reader.me:
            self.way.add(f"ALTER {thing.word} {thing.sql} OWNER TO {thing.owner}", "Its owner as it was.")

    def _finish(self) -> None:
        whole = [a for a in self.gone.needs if a[0] == _CLASS and not a[2]]
        for oid in sorted(a[1] for a in whole if self.gone.places[a].kind == "S"):
            row = self.reader.row("sequence", oid=oid)
            if row and row["owned_by"]:
                self.way.add(f"ALTER SEQUENCE {row['sql']} OWNED BY {row['owned_by']}", "It belongs to its column.")
        for oid in sorted(self.gone.kept):
            relation = self.reader.relation_at(oid)
            self.way.add(f"ALTER TABLE {relation.sql} OWNER TO {relation.owner}", "Its owner as it was.")
        said = [a for a in self.gone.needs if self._is_said_again(a)]
        grants.restore(self.reader, self.way, [a for a in said if self.gone.leader(a) == a])
        for statement in said_of(self.reader, said):
            self.way.add(statement, "What is said of it.")

    def _is_said_again(self, address: Address) -> bool:
        """What travels with its table keeps its comment; what belongs to an extension has the extension's."""
        leader = self.gone.leader(address)
        if self.gone.catalogs[leader] == "pg_extension" and leader != address:
            return False
        if address[0] == _CLASS and address[1] in self.gone.kept:
            return True
        return not self.gone.of_table(address) or not self._travels(address, self.gone.catalogs[address])


def statements_of(
    reader: Reader, catalog: str, addresses: Sequence[Address], *, again: bool = False
) -> list[tuple[Address, str]]:
    """Return the statements that make objects of one catalog as they are; with ``again`` they may be there."""
    oids = [address[1] for address in addresses if not address[2]]
    if not oids:
        return []
    class_ = addresses[0][0]
    if catalog in _ON_RELATIONS:
        rows = reader.rows("make_on_relations", oids=oids, again=again)
        return [((row["class"], row["oid"], 0), row["sql"]) for row in rows if row["class"] == class_]
    if catalog == "pg_default_acl":
        return _default_acls(reader, addresses)
    simple = {"pg_constraint": "make_constraints", "pg_proc": "make_functions", "pg_type": "make_types"}
    if catalog == "pg_class":
        rows = _of_relations(reader, oids)
    elif catalog in simple:
        rows = reader.rows(simple[catalog], oids=oids)
    else:
        rows = reader.rows("make_rarities", oids=oids, classes=[class_])
    found = [((class_, row["oid"], 0), row["sql"]) for row in rows if row["sql"]]
    if catalog in ("pg_class", "pg_constraint"):
        found += _of_indexes(reader, catalog, oids)
    return found


def _of_relations(reader: Reader, oids: Sequence[int]) -> list[dict[str, Any]]:
    rows = reader.rows("make_indexes", oids=list(oids))
    others = sorted(set(oids) - {row["oid"] for row in rows})
    return rows + (reader.rows("make_relations", oids=others) if others else [])


def _of_indexes(reader: Reader, catalog: str, oids: Sequence[int]) -> list[tuple[Address, str]]:
    owners = {oid: oid for oid in oids}
    if catalog == "pg_constraint":
        owners = {row["index"]: row["oid"] for row in reader.rows("index_of_constraint", oids=list(oids))}
    rows = reader.rows("finish_indexes", oids=list(owners))
    return [((CLASSES[catalog], owners[row["oid"]], 0), row["sql"]) for row in rows]


def _default_acls(reader: Reader, addresses: Sequence[Address]) -> list[tuple[Address, str]]:
    found = []
    for address in addresses:
        for row in reader.rows("default_acl_names", oids=[address[1]]):
            way = Way()
            grants.restore_defaults(reader, way, [row["role"]], [row["schema"]], row["letter"], row["grantees"])
            found += [(address, step.sql) for step in way.steps]
    return found


def said_of(reader: Reader, addresses: Sequence[Address]) -> list[str]:
    """Return the statements for the comments and security labels of these objects and of their parts."""
    whole = sorted({address[:2] for address in addresses})
    if not whole:
        return []
    classes, objects = [part[0] for part in whole], [part[1] for part in whole]
    parts = {address[:2] for address in addresses if not address[2]}
    found = []
    for query in ("comments", "labels"):
        for row in reader.rows(query, classes=classes, objects=objects):
            address = (row["class"], row["oid"], row["part"])
            if address not in addresses and address[:2] not in parts:
                continue
            thing = reader.things([address])[0]
            label = f"SECURITY LABEL FOR {row['provider']}" if query == "labels" else "COMMENT"
            text = row["label"] if query == "labels" else row["comment"]
            found.append(f"{label} ON {thing.word} {thing.sql} IS {literal(text)}")
    return found
