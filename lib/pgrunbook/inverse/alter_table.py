"""Inverse of ALTER TABLE: one for each subcommand; those about the table as a whole are here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pgrunbook.inverse import alter_column, alter_constraint, columns, grants, partitions
from pgrunbook.inverse.alteration import Alteration, Phase
from pgrunbook.inverse.reader import CLASSES, Reader
from pgrunbook.inverse.way import NoInverseError, Way
from pgrunbook.sql.tree import object_kind, quoted, subcommand

_FIRES = {"O": "ENABLE", "D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}


def alter_table(reader: Reader, way: Way, node: Any) -> None:
    """Write the inverse of ALTER TABLE, or of an ALTER INDEX, VIEW, SEQUENCE or TYPE that parses as one.

    Raises NoInverseError for a subcommand without inverse.
    """
    relation = reader.relation(node.relation)
    if relation is None:
        return
    altered = Alteration(reader, relation, node)
    for cmd in node.cmds:
        word = subcommand(cmd)
        handler = _HANDLERS.get(word)
        if handler is None:
            raise NoInverseError(f"cannot be computed: pgrunbook knows no inverse of {word} of ALTER TABLE.")
        handler(altered, cmd)
    altered.follow(way)


def _set_options(altered: Alteration, cmd: Any) -> None:
    """SET and RESET of storage parameters; toast.x is stored with the TOAST table."""
    touched = [".".join(filter(None, (option.defnamespace, option.defname))) for option in cmd.def_]
    there = altered.whole.options + [f"toast.{option}" for option in altered.whole.toast_options]
    for clause in columns.options(there, touched):
        altered.add(Phase.PROPERTIES, clause)


def _owner(altered: Alteration, _cmd: Any) -> None:
    way = altered.way(Phase.PROPERTIES)
    way.add(f"{altered.alter} OWNER TO {quoted(altered.relation.owner)}", "The old owner is set again.")
    sequences = [row["oid"] for row in altered.reader.rows("owned_sequences", oids=[altered.relation.oid])]
    for oid in [altered.relation.oid, *sequences]:
        grants.after_owner(altered.reader, way, (CLASSES["pg_class"], oid, 0))


def _tablespace(altered: Alteration, _cmd: Any) -> None:
    altered.add(Phase.PROPERTIES, f"SET TABLESPACE {altered.whole.tablespace}")


def _access_method(altered: Alteration, _cmd: Any) -> None:
    method = altered.whole.access_method
    if method is None:
        altered.add(Phase.PROPERTIES, "SET ACCESS METHOD DEFAULT")
    else:
        altered.add(Phase.PROPERTIES, f"SET ACCESS METHOD {method}")


def _logged(altered: Alteration, _cmd: Any) -> None:
    word = {"p": "LOGGED", "u": "UNLOGGED"}.get(altered.relation.persistence)
    if word and (word == "LOGGED") != (subcommand(_cmd) == "SetLogged"):
        altered.add(Phase.PROPERTIES, f"SET {word}")


def _cluster(altered: Alteration, _cmd: Any) -> None:
    index = altered.whole.clustered
    altered.add(Phase.PROPERTIES, f"CLUSTER ON {index}" if index else "SET WITHOUT CLUSTER")


def _replica_identity(altered: Alteration, _cmd: Any) -> None:
    altered.add(Phase.PROPERTIES, f"REPLICA IDENTITY {altered.whole.replica_identity}")


def _row_security(altered: Alteration, cmd: Any) -> None:
    if subcommand(cmd).endswith("ForceRowSecurity"):
        altered.add(
            Phase.PROPERTIES, f"{'' if altered.relation.forces_row_security else 'NO '}FORCE ROW LEVEL SECURITY"
        )
    else:
        altered.add(Phase.PROPERTIES, f"{'ENABLE' if altered.relation.row_security else 'DISABLE'} ROW LEVEL SECURITY")


def _triggers(altered: Alteration, cmd: Any) -> None:
    """ENABLE and DISABLE TRIGGER: bring back the state of each named trigger, on the partitions too."""
    whole = subcommand(cmd).removesuffix("All").removesuffix("User") != subcommand(cmd)
    rows = altered.reader.rows("triggers", oids=altered.family)
    way = altered.way(Phase.PROPERTIES)
    inner = [row for row in rows if row["internal"] and row["relation"] == altered.relation.oid]
    if subcommand(cmd).endswith("All") and inner:
        state = max({row["enabled"] for row in inner}, key=[row["enabled"] for row in inner].count)
        way.add(f"{altered.alter} {_FIRES[state].replace(' ALWAYS', '').replace(' REPLICA', '')} TRIGGER ALL")
    for row in rows:
        if (whole and not row["internal"]) or row["name"] == cmd.name:
            way.add(f"ALTER TABLE ONLY {row['table']} {_FIRES[row['enabled']]} TRIGGER {row['sql']}")


def _rule(altered: Alteration, cmd: Any) -> None:
    for row in altered.reader.rows("rules", oid=altered.relation.oid):
        if row["name"] == cmd.name:
            altered.add(Phase.PROPERTIES, f"{_FIRES[row['enabled']]} RULE {row['sql']}")


def _foreign_options(altered: Alteration, cmd: Any) -> None:
    touched = [(option.defname, columns.action(option)) for option in cmd.def_]
    altered.add(Phase.PROPERTIES, columns.foreign_options(altered.whole.foreign_options, touched))


def _of_type(altered: Alteration, _cmd: Any) -> None:
    altered.add(Phase.PROPERTIES, f"OF {altered.whole.of_type}" if altered.whole.of_type else "NOT OF")


def _index_partition(altered: Alteration, cmd: Any) -> None:
    if object_kind(altered.node.objtype) == "INDEX":
        index = quoted(cmd.def_.name.relname)
        raise NoInverseError(f"cannot be undone, because PostgreSQL cannot detach index {index} from {altered.sql}.")
    partitions.attach(altered, cmd)


_HANDLERS: dict[str, Callable[[Alteration, Any], None]] = {
    "SetRelOptions": _set_options, "ResetRelOptions": _set_options, "ReplaceRelOptions": _set_options,
    "ChangeOwner": _owner, "SetTableSpace": _tablespace, "SetAccessMethod": _access_method,
    "SetLogged": _logged, "SetUnLogged": _logged, "ClusterOn": _cluster, "DropCluster": _cluster,
    "ReplicaIdentity": _replica_identity,
    **dict.fromkeys(("EnableRowSecurity", "DisableRowSecurity", "ForceRowSecurity", "NoForceRowSecurity"),
                    _row_security),
    **dict.fromkeys(("EnableTrig", "EnableAlwaysTrig", "EnableReplicaTrig", "DisableTrig", "EnableTrigAll",
                     "DisableTrigAll", "EnableTrigUser", "DisableTrigUser"), _triggers),
    **dict.fromkeys(("EnableRule", "EnableAlwaysRule", "EnableReplicaRule", "DisableRule"), _rule),
    "GenericOptions": _foreign_options, "AddOf": _of_type, "DropOf": _of_type,
    "AddInherit": partitions.add_inherit, "DropInherit": partitions.drop_inherit,
    "AttachPartition": _index_partition, "DetachPartition": partitions.detach,
    "DetachPartitionFinalize": partitions.detach,
    "AddColumn": alter_constraint.of_new_column, "DropColumn": alter_column.drop,
    "AlterColumnType": alter_column.change_type,
    "ColumnDefault": alter_column.default, "SetStatistics": alter_column.statistics,
    "SetStorage": alter_column.storage, "SetCompression": alter_column.compression,
    "SetOptions": alter_column.options, "ResetOptions": alter_column.options,
    "AlterColumnGenericOptions": alter_column.foreign_options,
    "SetNotNull": alter_column.set_not_null, "DropNotNull": alter_column.drop_not_null,
    "AddIdentity": alter_column.add_identity, "DropIdentity": alter_column.drop_identity,
    "SetIdentity": alter_column.set_identity,
    "SetExpression": alter_column.set_expression, "DropExpression": alter_column.drop_expression,
    "AddConstraint": alter_constraint.add, "DropConstraint": alter_constraint.drop,
    "ValidateConstraint": alter_constraint.validate, "AlterConstraint": alter_constraint.alter,
}  # fmt: skip
