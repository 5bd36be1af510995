"""The rules by which Drizzle's rows belong to migrations, for each version of Drizzle."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum

from pgrunbook.history.drizzle_folder import name_order
from pgrunbook.history.pairing import BRING_BACK, Pass, RowRules
from pgrunbook.history.state import AppliedMigration, Entry, Migration, State


class Regime(StrEnum):
    """How Drizzle identifies applied migrations; the folder's layout and the table's columns decide."""

    JOURNAL = "Drizzle 0.x: a journal, rows known by their time"
    TIMES = "Drizzle 1.0 before beta.16: folders, rows known by their time"
    NAMES = "Drizzle 1.0: folders, rows known by their name"


EXACT, SAME_KEY, SAME_TEXT, UNNAMED = "exact", "same key", "same text", "unnamed"


class DrizzleRules(RowRules):
    """The rules of a regime; ``watermark_ms`` is the newest time among the rows."""

    tool_does_with_older = "Drizzle 1.0 applies it anyway, in another order than on a new database."
    renewal = "Generate it again"

    def __init__(self, regime: Regime, rows: Sequence[AppliedMigration]) -> None:
        self.regime = regime
        self.watermark_ms = max((ms for row in rows if (ms := created_ms(row)) is not None), default=None)

    def key(self, migration: Migration) -> int | None:
        """Return the time, which every regime can fall back on."""
        return self._when(migration.when_ms)

    def row_key(self, row: AppliedMigration) -> int | None:
        """Return the row's time."""
        return self._when(created_ms(row))

    def passes(self) -> list[Pass]:
        """Return the passes of the regime."""
        # Identical texts are common (empty custom migrations), so a hash alone is the last resort.
        if self.regime is not Regime.NAMES:
            return [
                Pass(EXACT, self._key_and_hash, self._row_key_and_hash),
                Pass(SAME_KEY, self.key, self.row_key),
                Pass(SAME_TEXT, lambda m: m.hash, lambda r: r.hash),
            ]
        return [
            Pass(EXACT, lambda m: (m.name, m.hash), lambda r: (r.name, r.hash)),
            Pass(SAME_KEY, lambda m: m.name, lambda r: r.name),
            Pass(UNNAMED, self._key_and_hash, lambda r: None if r.name else self._row_key_and_hash(r)),
            Pass(SAME_KEY, self.key, lambda r: None if r.name else self.row_key(r)),
            Pass(UNNAMED, lambda m: m.hash, lambda r: None if r.name else r.hash),
            Pass(SAME_TEXT, lambda m: m.hash, lambda r: r.hash),
        ]

    def is_of(self, row: AppliedMigration, migration: Migration) -> bool:
        """Tell by name where the row has one, else by hash or time."""
        if row.name is not None:
            return row.name == migration.name
        return row.hash == migration.hash or self.row_key(row) == self.key(migration)

    def is_older(self, row: AppliedMigration, migration: Migration) -> bool:
        """Compare names where names count and the row has one, else times."""
        if self.regime is Regime.NAMES and row.name is not None:
            return name_order(row.name) < name_order(migration.name)
        ms = created_ms(row)
        return ms is not None and ms < (migration.when_ms or 0)

    def pending(self, migration: Migration) -> tuple[State, str]:
        """Return pending, or out of order when Drizzle compares with the newest time."""
        newest_ms = self.watermark_ms
        if self.regime is Regime.NAMES or newest_ms is None or (migration.when_ms or 0) > newest_ms:
            return State.PENDING, ""
        who = "Drizzle" if self.regime is Regime.JOURNAL else "Drizzle before 1.0.0-beta.13"
        return State.OUT_OF_ORDER, (
            f"Generated {_time(migration.when_ms)}, not after the newest applied one ({_time(newest_ms)}): "
            f"{who} silently skips it. Generate it again, so that it is the newest, or apply it on purpose: "
            "-p out_of_order=true."
        )

    def applied(self, migration: Migration, row: AppliedMigration, match: str) -> tuple[State, str]:
        """Return applied or edited, with what Drizzle itself would do."""
        return _applied_state(migration, row, match, self.watermark_ms, self.regime)

    def out_of_order_note(self, newest: Entry) -> str | None:
        """Return the note when names count; by time, ``pending`` returns it."""
        return super().out_of_order_note(newest) if self.regime is Regime.NAMES else None

    def duplicate_note(self, row: AppliedMigration, first: AppliedMigration) -> str:
        """Return the note with both ids."""
        return (
            f"Recorded twice, in rows {first.row['id']} and {row.row['id']}: it may have run twice. "
            f"Check what it did to the database, then delete row {row.row['id']}."
        )

    def missing_name(self, row: AppliedMigration) -> str:
        """Return the name, or the row's id and time."""
        return row.name or f"row {row.row['id']} of {_time(created_ms(row))}"

    def missing_note(self, row: AppliedMigration) -> str:
        """Return the note with the id."""
        return f"Row {row.row['id']} says that it is applied, but it is not in the folder. {BRING_BACK}"

    def _when(self, ms: int | None) -> int | None:
        """The time as this version compares it; folders' names have whole seconds."""
        return ms if ms is None or self.regime is Regime.JOURNAL else ms // 1000

    def _key_and_hash(self, migration: Migration) -> tuple[int | None, str]:
        return self.key(migration), migration.hash

    def _row_key_and_hash(self, row: AppliedMigration) -> tuple[int, str | None] | None:
        when = self.row_key(row)
        return None if when is None else (when, row.hash)


def created_ms(row: AppliedMigration) -> int | None:
    """Return the row's created_at, None where it is NULL."""
    value = row.row["created_at"]
    return value if isinstance(value, int) else None


def _applied_state(
    migration: Migration, row: AppliedMigration, match: str, watermark_ms: int | None, regime: Regime
) -> tuple[State, str]:
    if match == SAME_KEY and migration.differs_in_line_ends_only(row.hash):
        unnamed = f" {_unnamed(migration, row)}" if regime is Regime.NAMES and not row.name else ""
        return State.APPLIED, f"Only its line ends or its byte order mark are others than when it was applied.{unnamed}"
    if match == SAME_KEY:
        return State.EDITED, (
            f"Its file was changed after it was applied (sha256 {(row.hash or '')[:12]} then, "
            f"{migration.hash[:12]} now); Drizzle does not check. "
            "Bring the applied text back from git, and put the change into a new migration."
        )
    if match == UNNAMED:
        return State.APPLIED, _unnamed(migration, row)
    if match == SAME_TEXT:
        return _moved(migration, row, watermark_ms, regime)
    if regime is Regime.TIMES and created_ms(row) != migration.when_ms:
        return State.APPLIED, (
            f"Its row {row.row['id']} has the milliseconds of the old journal: Drizzle 1.0.0-beta.13 to "
            "beta.15 would run it again. Do not use those versions; later ones take it for applied."
        )
    return State.APPLIED, ""


def _unnamed(migration: Migration, row: AppliedMigration) -> str:
    return (
        f"Its row {row.row['id']} has no name, so Drizzle 1.0 would run it again. Set name to '{migration.name}' there."
    )


def _moved(migration: Migration, row: AppliedMigration, watermark_ms: int | None, regime: Regime) -> tuple[State, str]:
    """The same text was applied under another name or time."""
    if regime is Regime.NAMES:
        return State.EDITED, (
            f'It was applied as "{row.name}" and renamed after that, so Drizzle would run it again. '
            f"Rename it back, or set name to '{migration.name}' in row {row.row['id']}."
        )
    then_ms = created_ms(row)
    if then_ms is None:
        return State.APPLIED, (
            f"Its row {row.row['id']} has no created_at, so Drizzle would run every migration again. "
            f"Set created_at to {migration.when_ms} there."
        )
    times = f"It was applied with the time {then_ms} and has the time {migration.when_ms} now"
    if watermark_ms is not None and (migration.when_ms or 0) > watermark_ms:
        return State.EDITED, (
            f"{times}, later than every applied one, so Drizzle would run it again. "
            f"Set its old time again, or set created_at to {migration.when_ms} in row {row.row['id']}."
        )
    return State.APPLIED, f"{times}; its text is the same."


def _time(ms: int | None) -> str:
    if ms is None:
        return "an unknown time"
    try:
        return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms"
