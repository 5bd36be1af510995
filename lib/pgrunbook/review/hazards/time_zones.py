"""Hazards of what depends on the session's TimeZone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pglast import ast

from pgrunbook.database.catalog import Table
from pgrunbook.effects import time_zone
from pgrunbook.effects.zone_use import CatalogTypes, ZoneUse, uses
from pgrunbook.review.hazards.rule import CHANGES, Note, Scene, Severity, rule
from pgrunbook.sql.tree import subcommand, type_word

_SETUP = "CREATE TABLE visits (id integer PRIMARY KEY, at timestamp, zoned timestamptz);"


@rule(
    "depends-on-time-zone",
    Severity.WARNING,
    on=(ast.AlterTableStmt,),
    setup=_SETUP,
    bad="ALTER TABLE visits ALTER COLUMN at TYPE timestamptz;",
    good="ALTER TABLE visits ALTER COLUMN at TYPE timestamptz USING at AT TIME ZONE 'Europe/Rome';",
)
def type_by_zone(scene: Scene) -> Iterator[Note]:
    """A column's values are converted to its new type by the session's TimeZone."""
    types = CatalogTypes(scene.catalog)
    for table, cmd in scene.altered():
        if subcommand(cmd) != "AlterColumnType":
            continue
        for use in _of(scene, types, cmd):
            severity = Severity.NOTE if scene.zone_is_set else None
            yield Note(_told(scene, use), _way_out(scene, table, cmd, use), table, severity)


def _way_out(scene: Scene, table: Table, cmd: Any, use: ZoneUse) -> str:
    """Return the statement that changes a column's type by a zone that it names."""
    zone, column = scene.catalog.time_zone, table.columns.get(cmd.name)
    if cmd.def_.raw_default is not None:
        return _set_before(use, zone)
    old, new = column.base if column else use.old, CatalogTypes(scene.catalog).base(cmd.def_.typeName)
    return time_zone.alteration(table.label, cmd.name, old, new, type_word(cmd.def_.typeName).text, zone)


@rule(
    "value-depends-on-time-zone",
    Severity.NOTE,
    on=(ast.AlterTableStmt, ast.CreateStmt, ast.CreateTableAsStmt, *CHANGES),
    setup=_SETUP,
    bad="UPDATE visits SET zoned = at WHERE id = 1;",
    good="UPDATE visits SET zoned = at AT TIME ZONE 'Europe/Rome' WHERE id = 1;",
)
def value_by_zone(scene: Scene) -> Iterator[Note]:
    """A value is converted by the session's TimeZone."""
    types = CatalogTypes(scene.catalog)
    found = uses(scene.node, types)
    changed = [
        use for _, cmd in scene.altered() if subcommand(cmd) == "AlterColumnType" for use in _of(scene, types, cmd)
    ]
    for use in found:
        # What a new table's default gives to a column without a zone is a matter of design: timestamp-without-zone.
        is_design = isinstance(scene.node, ast.CreateStmt) and use.new != time_zone.INSTANT
        if use not in changed and not is_design:
            yield Note(_told(scene, use), _set_before(use, scene.catalog.time_zone))


def _set_before(use: ZoneUse, zone: str | None) -> str:
    value = f"timestamp {use.value}" if use.old == time_zone.LITERAL and use.new == time_zone.INSTANT else ""
    form = (
        f"{value} AT TIME ZONE {time_zone.zone_sql(zone)}"
        if value
        else time_zone.without_session(*use, time_zone.zone_sql(zone))
    )
    return f"{time_zone.setting(zone)}  -- before the statement" + (f"\n-- or in it: {form}" if form else "")


def _of(scene: Scene, types: CatalogTypes, cmd: object) -> list[ZoneUse]:
    """Return what one subcommand of ALTER TABLE converts."""
    return uses(ast.AlterTableStmt(relation=scene.node.relation, cmds=(cmd,)), types)


def _told(scene: Scene, use: ZoneUse) -> str:
    zone = scene.catalog.time_zone
    by = "which this file sets" if scene.zone_is_set else "which is not known here" if zone is None else ""
    named = f" ({', '.join(filter(None, [zone or '', by]))})" if zone or by else ""
    return f"{use.value} becomes {use.new} by the session's TimeZone{named}: in another zone it would be another value."
