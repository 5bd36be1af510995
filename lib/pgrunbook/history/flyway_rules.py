"""The rules by which Flyway's rows belong to files: versions, checksums, the baseline, repeatable migrations."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

from pgrunbook.history.pairing import Pairing, RowRules
from pgrunbook.history.state import AppliedMigration, Entry, Migration, State
from pgrunbook.sql.statements import BYTE_ORDER_MARK

Key = tuple[int, ...] | str
MOST_CHARS = 200


class FlywayRules(RowRules):
    """A version is known by its number, a repeatable migration by its description; a baseline stands for all before."""

    tool_does_with_older = "flyway migrate refuses it (without outOfOrder)."
    primary_key = "installed_rank"

    def __init__(self, rows: Sequence[AppliedMigration]) -> None:
        self.baseline = next((row for row in rows if row.row["type"] == "BASELINE"), None)

    def key(self, migration: Migration) -> Key:
        """Return the version's parts, or the description."""
        return key_of(migration.path.name)

    def row_key(self, row: AppliedMigration) -> Key:
        """Return the same of a row."""
        version = row.row["version"]
        return str(row.row["description"]) if version is None else _parts(str(version))

    def pair(self, migrations: Sequence[Migration], rows: Sequence[AppliedMigration]) -> Pairing:
        """Pair by key, and the versions up to the baseline with its row."""
        base = self.baseline
        if base is None:
            return super().pair(migrations, rows)
        pairing = super().pair(migrations, [row for row in rows if row is not base])
        newest = self.row_key(base)
        for migration in migrations:
            key = self.key(migration)
            if isinstance(key, tuple) and isinstance(newest, tuple) and key <= newest:
                pairing.rows.setdefault(migration.ordinal, (base, "baseline"))
        return pairing

    def is_older(self, row: AppliedMigration, migration: Migration) -> bool:
        """Compare versions; repeatable migrations come after them."""
        one, other = self.row_key(row), self.key(migration)
        return (isinstance(one, str), one) < (isinstance(other, str), other)

    def has_order(self, entry: Entry) -> bool:
        """Tell whether it is a version: repeatable migrations run whenever they change."""
        return entry.migration is None or isinstance(self.key(entry.migration), tuple)

    def applied(self, migration: Migration, row: AppliedMigration, match: str) -> tuple[State, str]:
        """Return applied, edited, or pending for a repeatable migration that was changed."""
        if match == "baseline":
            return State.APPLIED, f"Not after the baseline {row.row['version']}: Flyway takes it for applied."
        told = description(migration.path.name)
        if isinstance(self.key(migration), tuple) and row.row["description"] != told:
            return State.EDITED, (
                f'Its file was renamed after it was applied as "{row.row["description"]}": flyway migrate refuses the '
                "folder (description mismatch). Give it its name back."
            )
        if row.hash in (None, str(checksum(migration.sql))):
            return State.APPLIED, ""
        if isinstance(self.key(migration), str):
            return State.PENDING, "It was changed since it ran, and runs again, as all repeatable migrations."
        return State.EDITED, (
            "Its file was changed after it was applied: flyway migrate refuses the folder until it is as it was. "
            "Bring the applied text back from git, and put the change into a new migration."
        )


def key_of(name: str) -> Key:
    """Return the parts of the version in a file's name, the description of a repeatable migration."""
    found = re.match(r"[VU]([0-9]+(?:[._][0-9]+)*)__", name)
    return _parts(found.group(1)) if found else description(name)


def description(name: str) -> str:
    """Return the description in a file's name, as long as its column allows."""
    told = name.split("__", 1)[1].removesuffix(".sql").replace("_", " ")
    return told if len(told) <= MOST_CHARS else f"{told[: MOST_CHARS - 3]}..."


def checksum(text: str) -> int:
    """Return Flyway's checksum: the CRC32 of the lines without their ends, as a signed number."""
    lines = re.split(r"\r\n|\n|\r", text.removeprefix(BYTE_ORDER_MARK))
    value = zlib.crc32("".join(lines).encode())
    return value - 2**32 if value >= 2**31 else value


def _parts(version: str) -> tuple[int, ...]:
    parts = [int(part) for part in re.split("[._]", version)]
    while len(parts) > 1 and parts[-1] == 0:
        parts.pop()
    return tuple(parts)
