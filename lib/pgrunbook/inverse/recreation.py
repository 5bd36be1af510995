"""Recreation of dropped objects: each with its owner, privileges, comments and security labels."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from pgrunbook.database.relations import Column, Relation
from pgrunbook.inverse import columns, detach, grants
from pgrunbook.inverse.dependents import DependentSet, dropped_with
from pgrunbook.inverse.reader import CLASSES, Address, CatalogObject, Question, Reader, columns_asked, things
from pgrunbook.inverse.way import NoInverseError, Way, own_beside_inherited
from pgrunbook.plan.declared import Declared
from pgrunbook.plan.step import Keep
from pgrunbook.sql.deparse import literal
from pgrunbook.sql.tree import quoted

PLAIN_ACCESS_METHOD, CHANGES_ACCESS_METHOD = "heap", 15
_CLASS = CLASSES["pg_class"]
# Kinds that share a catalog with others, but need queries of their own.
INDEX, WITHOUT_INDEX = "index", "constraint without index"
_ON_RELATIONS = ("pg_trigger", "pg_rewrite", "pg_policy", "pg_statistic_ext", "pg_attrdef")
_PUBLISHED = ("pg_publication_rel", "pg_publication_namespace")
_OWNERLESS = {
    "pg_constraint", "pg_trigger", "pg_rewrite", "pg_policy", "pg_attrdef", "pg_cast", "pg_extension", "pg_am",
    *_PUBLISHED, "pg_user_mapping", "pg_default_acl", "pg_transform",
}  # fmt: skip


def recreate(reader: Reader, way: Way, addresses: Collection[Address]) -> None:
    """Write the steps that recreate all that DROP ... CASCADE of these objects drops; tables are parked instead."""
    gone = dropped_with(reader, addresses)
    tables = {a[1] for a in gone.tables() if gone.leader(a) == a}
    in_order = [a[1] for a in addresses if a[1] in tables]
    kept = list(dict.fromkeys([*in_order, *sorted(tables)]))
    partitioned = [oid for oid in kept if gone.places[_CLASS, oid, 0].kind == "p"]
    found = reader.rows("foreign_partition_keys", oids=partitioned) if partitioned else []
    replaced = {row["relation"] for row in found}
    gone.keep(kept, replaced, detach.alone(reader, kept, replaced) if replaced else ())
    _Recreation(reader, way, gone).write()


def drop_and_recreate(reader: Reader, way: Way, addresses: Sequence[Address], drop: str) -> None:
    """Write the statement that drops objects, then the steps that recreate them and all that depends on them."""
    gone = dropped_with(reader, addresses)
    if gone.tables():
        raise NoInverseError(
            "cannot be undone, because its objects must be recreated, and tables would be dropped with them."
        )
    others = [a for a in gone.leaders() if a not in addresses]
    way.add(f"{drop} CASCADE" if others else drop, "It is dropped, to be recreated as it was.")
    piece = Way()
    _Recreation(reader, piece, gone).write()
    kept = [keep for keep in piece.keeps if keep.kind == "column"]
    if kept:
        raise NoInverseError(f"cannot be undone, because {kept[0].table}.{kept[0].column} would be dropped with it.")
    way.follow(piece)


class _Recreation:
    def __init__(self, reader: Reader, way: Way, gone: DependentSet) -> None:
        self.reader, self.way, self.gone = reader, way, gone
        self.leaders = gone.leaders()
        self.by_catalog = self._by_catalog()
        self.said = [a for a in gone.needs if self._has_comments(a)]
        self.granted = [a for a in self.said if gone.leader(a) == a]
        reader.ahead(self._questions())
        self.things = {thing.address: thing for thing in reader.things(self._named())}
        self.attaches: list[tuple[str, Relation, str]] = []
        self.ahead_of_attach: list[Address] = []
        self.made = self._made()
        self.columns = self._columns()

    def write(self) -> None:
        """Write tables first, which are moved back; then each object; then owners, privileges and comments."""
        self._park_tables()
        parts = {*self.gone.replaced, *(relation.oid for _, relation, _ in self.attaches)}
        family = detach.below(self.reader, self.gone.kept, parts) if parts else parts
        self.ahead_of_attach = [a for a in self.leaders if self._comes_with_its_partition(a, family)]
        for address in self.ahead_of_attach:
            # Of a partition that is attached, the index follows its table; one below makes that of its parent valid.
            for _ in self.made[address][: 1 if self.gone.of_table(address) in parts else None]:
                self.way.add(self.made[address].pop(0), "It is created again, before ATTACH would make another one.")
            self._tell_of_not_null(address, parts)
        self._attach()
        for address in self.leaders:
            catalog = self.gone.catalogs[address]
            if catalog == "pg_class" and address[2]:
                self._column(address)
            elif self._is_made(address):
                self._make(address, catalog)
        self._finish()
        if self.gone.kept:
            made = [a for a in self.leaders if self._is_made(a) or a in self.columns]
            first = [a for a in made if self._refers_to_kept(a)]
            others = [a for a in made if a not in first]
            self.way.detaches[:0] = detach.drops(self.reader, self.gone, first, self.things, self.columns)
            self.way.detaches += detach.drops(self.reader, self.gone, others, self.things, self.columns)
            self.way.detaches += detach.keys_of_partitions(self.reader, self.gone)

    def _refers_to_kept(self, address: Address) -> bool:
        """Tell whether an object is a foreign key of a table that stays: it goes before a partition is detached."""
        place = self.gone.places.get(address)
        is_key = self.gone.catalogs[address] == "pg_constraint" and place is not None and place.kind == "f"
        return is_key and self.gone.of_table(address) not in self.gone.kept

    def _is_made(self, address: Address) -> bool:
        """Tell whether an object is created by its own statement: no column, and not moved with a parked table."""
        catalog = self.gone.catalogs[address]
        if catalog == "pg_class" and (address[2] or address[1] in self.gone.kept):
            return False
        return not self._travels(address, catalog)

    def _questions(self) -> Iterator[Question]:
        """Yield all queries about the dropped objects, which the server then answers in one round trip."""
        yield from things(self._named())
        for catalog, found in self.by_catalog.items():
            yield from _made_by(catalog, found, again=bool(self.gone.kept))
        kept = sorted(self.gone.kept)
        yield from self.reader.wholes(kept)
        if kept:
            yield "keys", {"oids": kept}
        if oids := self._with_columns():
            yield columns_asked(oids)
        for oid in self._sequences():
            yield "sequence", {"oid": oid}
        yield from grants.questions(self.granted)
        if self.reader.has_default_acls:
            yield "default_grantees", {}
        yield from _comments_of(self.said)

    def _by_catalog(self) -> dict[str, list[Address]]:
        found: dict[str, list[Address]] = {}
        for address in filter(self._is_made, self.leaders):
            found.setdefault(self._made_as(address), []).append(address)
        return found

    def _made_as(self, address: Address) -> str:
        catalog, place = self.gone.catalogs[address], self.gone.places.get(address)
        if catalog == "pg_class" and place is not None and place.kind in "iI":
            return INDEX
        return WITHOUT_INDEX if catalog == "pg_constraint" and place is not None and place.kind in "fcn" else catalog

    def _named(self) -> list[Address]:
        """Return objects that are needed by name: those to create, and statistics, which a new column may reorder."""
        return [a for a in self.leaders if self._is_made(a) or self.gone.catalogs[a] == "pg_statistic_ext"]

    def _with_columns(self) -> list[int]:
        return sorted({a[1] for a in self.leaders if a[0] == _CLASS and a[2]})

    def _sequences(self) -> list[int]:
        return sorted(a[1] for a in self.gone.needs if a[0] == _CLASS and not a[2] and self.gone.places[a].kind == "S")

    def _park_tables(self) -> None:
        oids = sorted(self.gone.kept)
        self.way.keeps += [
            Keep("table", self.reader.relation_at(oid).label, key=key) for oid, key in self.reader.keys(oids).items()
        ]
        if oids and any(self.gone.catalogs[a] in ("pg_namespace", "pg_type") for a in self.leaders):
            reason = "it drops tables too; drop these by name before, so that they can be captured"
            raise NoInverseError(f"cannot be undone, because {reason}.")
        for oid in oids:
            relation = self.reader.relation_at(oid)
            whole = self.reader.whole(relation)
            if whole.of_type:
                self.way.detaches.append(f"ALTER TABLE {relation.label} NOT OF")
                self.way.add(f"ALTER TABLE {relation.label} OF {whole.of_type}", "The table is one of its type again.")
            if whole.access_method not in (None, PLAIN_ACCESS_METHOD) and self.reader.version >= CHANGES_ACCESS_METHOD:
                clause = f"SET ACCESS METHOD {whole.access_method}"
                self.way.add(f"ALTER TABLE {relation.label} {clause}", "Its rows are stored as before.")
            for parent in whole.parents:
                if oid not in self.gone.detached and parent in {self.reader.relation_at(o).label for o in oids}:
                    continue
                self.way.detaches.append(detach.link(relation.label, parent, is_partition=bool(whole.bound)))
                if whole.bound:
                    self.attaches.append((parent, relation, whole.bound))
                else:
                    self.way.add(f"ALTER TABLE {relation.label} INHERIT {parent}", "The table inherits again.")
                    self.way.differs.append(own_beside_inherited("columns", relation.label))

    def _attach(self) -> None:
        for parent, relation, bound in self.attaches:
            clause = f"ATTACH PARTITION {relation.label} {bound}"
            self.way.add(f"ALTER TABLE {parent} {clause}", "The table is a partition again.")
            if relation.oid not in self.gone.detached:
                set_triggers(self.reader, self.way, relation)

    def _tell_of_not_null(self, key: Address, parts: set[int]) -> None:
        """ATTACH lets a partition only inherit NOT NULL again; a key that adopts an index below it does not."""
        oid = self.gone.of_table(key)
        is_key = self.gone.catalogs[key] == "pg_constraint" and self.gone.places[key].kind == "p"
        if is_key and oid not in parts and self.reader.version >= columns.NOT_NULL_IS_A_CONSTRAINT:
            self.way.differs.append(own_beside_inherited("NOT NULL constraints", self.reader.relation_at(oid).label))

    def _comes_with_its_partition(self, address: Address, family: set[int]) -> bool:
        """Tell whether ATTACH would make an object of its own on a parked partition in the place of this one."""
        if not self._is_made(address) or not self.made.get(address):
            return False
        kind = self._made_as(address)
        return self.gone.of_table(address) in family and (kind == INDEX or self._is_constraint(address, kind))

    def _is_constraint(self, address: Address, kind: str) -> bool:
        return kind in ("pg_constraint", WITHOUT_INDEX) and self.gone.places[address].kind != "f"

    def _travels(self, address: Address, catalog: str) -> bool:
        """Tell whether an object moves with its parked table."""
        if address in self.gone.apart:
            return False
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
        """Read the statements that create the objects, catalog by catalog."""
        made: dict[Address, list[str]] = {}
        for catalog, found in self.by_catalog.items():
            for address, statement in statements_of(self.reader, catalog, found, again=bool(self.gone.kept)):
                made.setdefault(address, []).append(statement)
        return made

    def _columns(self) -> dict[Address, Column]:
        oids, wanted = self._with_columns(), set(self.leaders)
        found = {(_CLASS, c.relation, c.number): c for c in (self.reader.columns(oids) if oids else [])}
        return {address: column for address, column in found.items() if address in wanted}

    def _column(self, address: Address) -> None:
        column = self.columns[address]
        if column.kind == "c":
            reason = f"attribute {column.sql} of type {column.table} is dropped with it"
            raise NoInverseError(f"cannot be undone, because {reason}.")
        parent = next((c for c in self.columns.values() if not c.is_inherited and column in self._below(c)), None)
        if column.is_inherited and parent is not None:
            columns.of_parent(self.reader, self.way, column, parent)
            return
        columns.add(self.reader, self.way, column, columns.inheriting(column, self._below(column)))
        if not column.is_last:
            found = [thing for thing in self.things.values() if thing.type == "statistics object"]
            self.way.differs += [
                Declared("column order", thing.identity, f"column order of statistics {thing.identity}")
                for thing in found
            ]

    def _below(self, column: Column) -> list[Column]:
        """Return those of the columns that inherit from one: of its name, and of a table below its own."""
        family = self.reader.family(self.reader.relation_at(column.relation))[1:]
        return [each for each in self.columns.values() if each.name == column.name and each.relation in family]

    def _make(self, address: Address, catalog: str) -> None:
        thing = self.things[address]
        statements = self.made.get(address)
        if address in self.ahead_of_attach and not statements:
            return
        if not statements and thing.type == "user mapping":
            raise NoInverseError(
                f"has no way back: secret, because the options of {thing.type} {thing.identity} are lost."
            )
        if not statements:
            missing = f"pgrunbook cannot recreate {thing.type} {thing.identity}"
            raise NoInverseError(f"cannot be computed: {missing}.")
        place = self.gone.places.get(address)
        if catalog == "pg_constraint" and place and place.kind == "f" and self.gone.kept:
            drop = statements[0].replace(" ADD CONSTRAINT ", " DROP CONSTRAINT IF EXISTS ", 1)
            self.way.add(drop.split(" FOREIGN KEY ")[0], "It is dropped if it exists.")
        self.way.of_position = self.way.of_position or thing.type == "sequence"
        if thing.type == "materialized view":
            why = f"the rows of {thing.identity} are computed again"
            self.way.differs.append(Declared("recomputed", thing.identity, why))
        if catalog == "pg_extension":
            self._tell_of_extension(thing)
        for statement in statements:
            self.way.add(statement, f"{thing.type.capitalize()} {thing.identity} is created again.")
        if catalog not in _OWNERLESS and not (place and place.kind in "iI" and catalog == "pg_class"):
            self._own(thing)

    def _tell_of_extension(self, extension: CatalogObject) -> None:
        """Warn that an extension's tables and sequences are recreated by its script, without what was written since."""
        lost = [a for a in self.gone.needs if a[0] == _CLASS and not a[2] and self.gone.places[a].kind in "rpS"]
        for thing in self.reader.things(sorted(a for a in lost if self.gone.leader(a) == extension.address)):
            part = "the position" if thing.type == "sequence" else "the rows"
            why = f"{part} of {thing.identity} will be as extension {extension.sql} creates them"
            self.way.differs.append(Declared("elsewhere", thing.identity, why))

    def _own(self, thing: CatalogObject) -> None:
        if thing.owner != self.reader.me:
            self.way.add(f"ALTER {thing.word} {thing.sql} OWNER TO {thing.owner}", "Its owner is set again.")

    def _finish(self) -> None:
        for oid in self._sequences():
            row = self.reader.sequence(oid)
            is_new = (_CLASS, oid, 0) in self.leaders
            if row and is_new and row["last_value"] is None and row["first"] != row["start"]:
                goes_on = f"SELECT pg_catalog.setval({literal(row['sql'])}, {row['first']}, false)"
                self.way.add(goes_on, "It goes on where it was restarted.")
            if row and row["owned_by"]:
                self.way.add(f"ALTER SEQUENCE {row['sql']} OWNED BY {row['owned_by']}", "Its column owns it again.")
        for oid in sorted(self.gone.detached):
            set_triggers(self.reader, self.way, self.reader.relation_at(oid))
        for oid in sorted(self.gone.kept):
            relation = self.reader.relation_at(oid)
            self.way.add(f"ALTER TABLE {relation.label} OWNER TO {quoted(relation.owner)}", "Its owner is set again.")
        grants.restore(self.reader, self.way, self.granted)
        for statement in comments_of(self.reader, self.said):
            self.way.add(statement, "Its comment or label is set again.")

    def _has_comments(self, address: Address) -> bool:
        """Tell whether comments must be set again: not of what moves with its table, or belongs to an extension."""
        leader = self.gone.leader(address)
        if self.gone.catalogs[leader] == "pg_extension" and leader != address:
            return False
        if address[0] == _CLASS and address[1] in self.gone.kept:
            return True
        return not self.gone.of_table(address) or not self._travels(address, self.gone.catalogs[address])


def statements_of(
    reader: Reader, catalog: str, addresses: Sequence[Address], *, again: bool = False
) -> list[tuple[Address, str]]:
    """Return the statements that create objects of one catalog as they are today; with ``again`` they may exist.

    For indexes pass ``INDEX`` as the catalog; for constraints without an index you may pass ``WITHOUT_INDEX``.
    """
    if catalog == "pg_default_acl":
        return _default_acls(reader, addresses)
    found: list[tuple[Address, str]] = []
    for query, parameters in _made_by(catalog, addresses, again=again):
        for row in reader.rows(query, **parameters):
            class_ = row.get("class", addresses[0][0])
            oid = row["constraint"] if parameters.get("constraints") else row["oid"]
            if row["sql"] and class_ == addresses[0][0]:
                found.append(((class_, oid, 0), row["sql"]))
    return found


def _made_by(catalog: str, addresses: Sequence[Address], *, again: bool) -> list[Question]:
    """Return the queries for the definitions of objects of one catalog."""
    oids = [address[1] for address in addresses if not address[2]]
    if not oids or catalog == "pg_default_acl":
        return []
    if catalog in _ON_RELATIONS:
        return [("make_on_relations", {"oids": oids, "again": again})]
    if catalog in _PUBLISHED:
        return [("make_published", {"oids": oids})]
    if catalog == INDEX:
        return [("make_indexes", {"oids": oids}), ("finish_indexes", {"oids": oids, "constraints": []})]
    if catalog == "pg_constraint":
        return [("make_constraints", {"oids": oids}), ("finish_indexes", {"oids": [], "constraints": oids})]
    simple = {"pg_class": "make_relations", "pg_proc": "make_functions", "pg_type": "make_types",
              WITHOUT_INDEX: "make_constraints"}  # fmt: skip
    if catalog in simple:
        return [(simple[catalog], {"oids": oids})]
    return [("make_rarities", {"oids": oids, "classes": [addresses[0][0]]})]


def _default_acls(reader: Reader, addresses: Sequence[Address]) -> list[tuple[Address, str]]:
    found = []
    for address in addresses:
        for row in reader.rows("default_acl_names", oids=[address[1]]):
            way = Way()
            grants.restore_defaults(reader, way, [row["role"]], [row["schema"]], row["letter"], row["grantees"])
            found += [(address, step.sql) for step in way.steps]
    return found


def comments_of(reader: Reader, addresses: Sequence[Address]) -> list[str]:
    """Return the statements for the comments and security labels of these objects and of their parts."""
    parts = {address[:2] for address in addresses if not address[2]}
    rows = [row for query, parameters in _comments_of(addresses) for row in reader.rows(query, **parameters)]
    places = [(row["class"], row["oid"], row["part"]) for row in rows]
    said = [(row, place) for row, place in zip(rows, places, strict=True) if place in addresses or place[:2] in parts]
    found = []
    for (row, _), thing in zip(said, reader.things([place for _, place in said]), strict=True):
        label = f"SECURITY LABEL FOR {row['provider']}" if row["provider"] else "COMMENT"
        found.append(f"{label} ON {thing.word} {thing.sql} IS {literal(row['told'])}")
    return found


def _comments_of(addresses: Sequence[Address]) -> list[Question]:
    whole = sorted({address[:2] for address in addresses})
    if not whole:
        return []
    return [("comments_and_labels", {"classes": [part[0] for part in whole], "objects": [part[1] for part in whole]})]


def set_triggers(reader: Reader, way: Way, partition: Relation) -> None:
    """Bring back the state of triggers that a partition gets from its parent."""
    words = {"D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}
    for row in reader.rows("triggers", oids=[partition.oid]):
        if not row["internal"] and row["enabled"] in words:
            way.add(f"ALTER TABLE {partition.label} {words[row['enabled']]} TRIGGER {row['sql']}")
