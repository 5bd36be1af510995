"""What hangs on a table that is swapped, and how each kind of it comes over to the other one.

Texts are read while the table of today has its name, and executed once the other one has it: so a view, a trigger or a
foreign key names what it named. What is the same in both directions is written once: the way back is a cut-over too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pgrunbook.database import publications
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import rows
from pgrunbook.inverse import grants
from pgrunbook.inverse.reader import CLASSES, Address, Reader, reading
from pgrunbook.inverse.recreation import WITHOUT_INDEX, comments_of, statements_of
from pgrunbook.inverse.way import Way
from pgrunbook.online.change_log import is_partitioned
from pgrunbook.online.swap_build import identities
from pgrunbook.online.swap_store import TableSwap
from pgrunbook.sql.tree import quoted

NOT_VALID_ON_PARTITIONED_SINCE = 180_000
# What becomes of each kind of object, in the words of the notebook.
CARRIED: Mapping[str, str] = {
    "index": "made on the new table behind the copy, under its name",
    "statistics": "made on the new table behind the copy, under its name",
    "identity": "a sequence of the new table takes its name and its position",
    "sequence": "the same sequence; the new table owns it",
    "foreign key": "made NOT VALID at the cut-over, validated behind it",
    "foreign key to it": "made NOT VALID at the cut-over, validated behind it",
    "check not valid": "made NOT VALID at the cut-over",
    "view": "replaced at the cut-over: rights, owner, comments and what reads it stay",
    "materialized view": "made anew behind the cut-over; who reads it waits meanwhile, and until then it is as it was",
    "trigger": "made at the cut-over, enabled as it is",
    "trigger elsewhere": "made again at the cut-over",
    "rule": "made at the cut-over, enabled as it is",
    "rule elsewhere": "replaced at the cut-over",
    "policy": "made at the cut-over",
    "policy elsewhere": "made again at the cut-over",
    "function": "replaced at the cut-over: rights and owner stay",
    "publication": "publishes the new table from the cut-over on",
    "child": "inherits from the new table from the cut-over on",
    "parent": "the new table inherits from it from the cut-over on",
    "partition": "belongs to the old table, and stays with it; the shape makes those of the new one",
}
NOT_CARRIED: Mapping[str, str] = {
    "user of identity": "it uses the sequence of an identity column, which is another one afterwards",
    "user of row type": "it uses the row type of the table, which is another one afterwards",
    "other": "pgrunbook does not know how to carry it over",
}


@dataclass(frozen=True)
class Hanging:
    """An object that hangs on a table: its kind, what it is as the server words it, and the columns that it needs."""

    kind: str
    address: Address
    says: str
    columns: tuple[str, ...]


@dataclass
class Carried:
    """The statements of a cut-over: ``ends`` before the tables change their names, ``begins`` behind it.

    ``validated`` are those that validate what is not checked at the cut-over; ``views`` are materialized views that
    are made anew.
    """

    ends: list[str] = field(default_factory=list)
    begins: list[str] = field(default_factory=list)
    validated: list[str] = field(default_factory=list)
    views: list[str] = field(default_factory=list)


def hanging(conn: Connection, oid: int) -> list[Hanging]:
    """Return all that hangs on a table, by its kind."""
    return [
        Hanging(row["kind"], (row["class"], row["oid"], 0), row["says"], tuple(row["columns"]))
        for row in rows(conn, "swap", "hanging", oid=oid)
    ]


def read(conn: Connection, swap: TableSwap, oid: int, columns: Collection[str]) -> Carried:
    """Return what carries all over from the live table; ``columns`` are those of the other one."""
    found: dict[str, list[Address]] = {}
    for one in hanging(conn, oid):
        found.setdefault(one.kind, []).append(one.address)
    carried = Carried()
    _foreign_keys(conn, swap, oid, found, carried)
    with reading(conn) as reader:
        dropped = {column for column in _columns(reader, oid) if column not in columns}
        _sequences(reader, found, carried)
        _elsewhere(reader, found, carried)
        _own(reader, oid, found, carried)
        _family(reader, oid, found, carried)
        carried.views = [text for _, text in _texts(reader, "pg_class", found.get("materialized view", ()))]
        carried.begins += _granted(conn, reader, oid, dropped)
        carried.begins += _comments(conn, reader, swap, found, dropped, oid=oid)
    for out, back in publications.having(conn, oid):
        carried.ends.append(out)
        carried.begins.append(back)
    return carried


def cleared(conn: Connection, oid: int, table: str) -> Iterator[str]:
    """Yield the statements that take the rights of others from the other table; those of the live one come then."""
    for row in rows(conn, "swap", "grantees", oid=oid):
        yield f"REVOKE ALL ON TABLE {table} FROM {row['grantee']} CASCADE"


def _columns(reader: Reader, oid: int) -> list[str]:
    return [column.name for column in reader.columns([oid])]


def _foreign_keys(
    conn: Connection, swap: TableSwap, oid: int, found: Mapping[str, Sequence[Address]], carried: Carried
) -> None:
    is_then_partitioned = is_partitioned(conn, swap.other)
    with reading(conn) as reader:
        keys = [*found.get("foreign key", ()), *found.get("foreign key to it", ()), *found.get("check not valid", ())]
        texts = {address[1]: text for address, text in statements_of(reader, WITHOUT_INDEX, keys)} if keys else {}
        checks = reader.things(found.get("check not valid", []))
    for row in rows(conn, "swap", "foreign_keys", oid=oid):
        carried.ends.append(f"ALTER TABLE {row['child']} DROP CONSTRAINT {quoted(row['name'])}")
        text = texts[row["oid"]]
        whole = is_then_partitioned if row["child_oid"] == oid else row["is_partitioned"]
        later = not whole or conn.info.server_version >= NOT_VALID_ON_PARTITIONED_SINCE
        if row["is_valid"] and row["is_enforced"] and later:
            text += " NOT VALID"
            carried.validated.append(f"ALTER TABLE {row['child']} VALIDATE CONSTRAINT {quoted(row['name'])}")
        carried.begins.append(text)
    for one in checks:
        carried.ends.append(f"ALTER TABLE {'.'.join(one.quoted[:-1])} DROP CONSTRAINT {one.quoted[-1]}")
        carried.begins.append(texts[one.address[1]])


def _sequences(reader: Reader, found: Mapping[str, Sequence[Address]], carried: Carried) -> None:
    for address in found.get("sequence", ()):
        row = reader.sequence(address[1]) or {}
        carried.ends.append(f"ALTER SEQUENCE {row['sql']} OWNED BY NONE")
        carried.begins.append(f"ALTER SEQUENCE {row['sql']} OWNED BY {row['owned_by']}")


def _elsewhere(reader: Reader, found: Mapping[str, Sequence[Address]], carried: Carried) -> None:
    """Carry what belongs to other tables and names this one."""
    for _, text in _texts(reader, "pg_class", found.get("view", ())):
        carried.begins.append(text.replace("CREATE VIEW ", "CREATE OR REPLACE VIEW ", 1))
    for kind, catalog in (("function", "pg_proc"), ("rule elsewhere", "pg_rewrite"), ("policy elsewhere", "pg_policy"),
                          ("trigger elsewhere", "pg_trigger")):  # fmt: skip
        carried.begins += [text for _, text in _texts(reader, catalog, found.get(kind, ()), again=kind != "function")]


def _own(reader: Reader, oid: int, found: Mapping[str, Sequence[Address]], carried: Carried) -> None:
    """Carry rules, policies, triggers and properties of the table itself."""
    relation = reader.relation_at(oid)
    for kind, catalog in (("rule", "pg_rewrite"), ("policy", "pg_policy"), ("trigger", "pg_trigger")):
        addresses = found.get(kind, [])
        carried.ends += [f"DROP {one.word} {one.sql}" for one in reader.things(addresses)]
        carried.begins += [text for _, text in _texts(reader, catalog, addresses)]
    if relation.row_security:
        carried.ends.append(f"ALTER TABLE {relation.label} DISABLE ROW LEVEL SECURITY")
        carried.begins.append(f"ALTER TABLE {relation.label} ENABLE ROW LEVEL SECURITY")
    if relation.forces_row_security:
        carried.ends.append(f"ALTER TABLE {relation.label} NO FORCE ROW LEVEL SECURITY")
        carried.begins.append(f"ALTER TABLE {relation.label} FORCE ROW LEVEL SECURITY")
    whole = reader.whole(relation)
    carried.begins.append(f"ALTER TABLE {relation.label} REPLICA IDENTITY {whole.replica_identity}")
    if whole.clustered and relation.kind == "r":
        carried.begins.append(f"ALTER TABLE {relation.label} CLUSTER ON {whole.clustered}")


def _family(reader: Reader, oid: int, found: Mapping[str, Sequence[Address]], carried: Carried) -> None:
    """Carry inheritance: of other tables from this one, and of this one from others."""
    table = reader.relation_at(oid).label
    pairs = [(reader.relation_at(address[1]).label, table) for address in found.get("child", ())]
    pairs += [(table, reader.relation_at(address[1]).label) for address in found.get("parent", ())]
    for child, parent in pairs:
        carried.ends.append(f"ALTER TABLE {child} NO INHERIT {parent}")
        carried.begins.append(f"ALTER TABLE {child} INHERIT {parent}")


def _granted(conn: Connection, reader: Reader, oid: int, dropped: Collection[str]) -> Iterator[str]:
    way = Way()
    own = [(CLASSES["pg_class"], row["oid"], 0) for row in identities(conn, oid)]
    grants.restore(reader, way, [(CLASSES["pg_class"], oid, 0), *own])
    of_dropped = [f"({quoted(column)})" for column in dropped]
    for step in way.steps:
        if not any(one in step.sql for one in of_dropped):
            yield step.sql


def _comments(
    conn: Connection, reader: Reader, swap: TableSwap, found: Mapping[str, Sequence[Address]],
    dropped: Collection[str], *, oid: int,
) -> Iterator[str]:  # fmt: skip
    """Yield the comments and security labels of the table and its parts, and of what is made again elsewhere."""
    other = conn.oid_of("regclass", str(swap.other)) or 0
    named = {name for _, _, name in swap.other_side.parts}
    constraints = {row["name"] for row in rows(conn, "swap", "constraint_names", oid=other)} | named
    addresses: list[Address] = [(CLASSES["pg_class"], oid, 0)]
    for kind in ("rule", "policy", "trigger", "foreign key", "foreign key to it", "check not valid",
                 "policy elsewhere", "trigger elsewhere"):  # fmt: skip
        addresses += found.get(kind, ())
    for row in rows(conn, "swap", "own_parts", oid=oid):
        if row["name"] in (constraints if row["is_constraint"] else named):
            addresses.append((row["class"], row["oid"], 0))
    gone = tuple(f" {reader.relation_at(oid).label}.{quoted(column)} IS " for column in dropped)
    for statement in comments_of(reader, addresses):
        if not any(one in statement for one in gone):
            yield statement


def _texts(
    reader: Reader, catalog: str, addresses: Sequence[Address], *, again: bool = False
) -> list[tuple[Address, str]]:
    """Return the statements that make objects as they are; policies, triggers and rules ``again`` where they exist."""
    return statements_of(reader, catalog, list(addresses), again=again) if addresses else []
