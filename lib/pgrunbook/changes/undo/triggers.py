"""For which sessions triggers fire, on the way back."""

from __future__ import annotations

from pgrunbook.changes.undo.parts import Way
from pgrunbook.changes.undo.reader import Reader, Relation


def fire(reader: Reader, way: Way, partition: Relation) -> None:
    """Let the triggers that a partition gets with its parent's fire for whom they fire now."""
    words = {"D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}
    for row in reader.rows("triggers", oids=[partition.oid]):
        if not row["internal"] and row["enabled"] in words:
            way.add(f"ALTER TABLE {partition.sql} {words[row['enabled']]} TRIGGER {row['sql']}")
