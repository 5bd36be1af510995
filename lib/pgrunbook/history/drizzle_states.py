"""The state of each of Drizzle's migrations, in each of the ways in which Drizzle knows its rows."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum

from pgrunbook.history.drizzle_folder import name_order
from pgrunbook.history.pairing import Pairing, Pass, insert_rows, mark_out_of_order, pair
from pgrunbook.history.state import AppliedMigration, Entry, Migration, State


class Regime(StrEnum):
    """How Drizzle remembers; told apart by the folder's layout and the table's columns."""

    JOURNAL = "Drizzle 0.x: a journal, rows known by their time"
    TIMES = "Drizzle 1.0 before beta.16: folders, rows known by their time"
    NAMES = "Drizzle 1.0: folders, rows known by their name"


EXACT, SAME_KEY, SAME_TEXT, UNNAMED = "exact", "same key", "same text", "unnamed"


def compare(migrations: list[Migration], rows: list[AppliedMigration], regime: Regime) -> tuple[Entry, ...]:
    """Return the state of every migration and of every row that has none, in the folder's order."""
    pairing = pair(migrations, rows, _passes(regime))
    watermark_ms = max((ms for row in rows if (ms := created_ms(row)) is not None), default=None)
    entries = [_entry(migration, pairing, watermark_ms, regime) for migration in migrations]
    extra = [_extra(row, migrations, pairing, regime) for row in pairing.left]
    if regime is not Regime.NAMES:
        return tuple(insert_rows(entries, extra, _is_older_by_time))
    return tuple(mark_out_of_order(insert_rows(entries, extra, _is_older_by_name), _skipped_name))


def created_ms(row: AppliedMigration) -> int | None:
    """Return the row's created_at, None where it is NULL."""
    value = row.row["created_at"]
    return value if isinstance(value, int) else None


def _second(ms: int | None) -> int | None:
    return None if ms is None else ms // 1000


def _passes(regime: Regime) -> list[Pass]:
    # Identical texts are common (empty custom migrations), so a hash alone is the last thing to go by.
    def when(ms: int | None) -> int | None:
        return ms if regime is Regime.JOURNAL else _second(ms)

    def when_and_hash(row: AppliedMigration) -> tuple[int, str | None] | None:
        time = when(created_ms(row))
        return None if time is None else (time, row.hash)

    by_time = [
        Pass(EXACT, lambda m: (when(m.when_ms), m.hash), when_and_hash),
        Pass(SAME_KEY, lambda m: when(m.when_ms), lambda r: when(created_ms(r))),
        Pass(SAME_TEXT, lambda m: m.hash, lambda r: r.hash),
    ]
    if regime is not Regime.NAMES:
        return by_time
    return [
        Pass(EXACT, lambda m: (m.name, m.hash), lambda r: (r.name, r.hash)),
        Pass(SAME_KEY, lambda m: m.name, lambda r: r.name),
        Pass(UNNAMED, lambda m: (when(m.when_ms), m.hash), lambda r: None if r.name else when_and_hash(r)),
        Pass(SAME_KEY, lambda m: when(m.when_ms), lambda r: None if r.name else when(created_ms(r))),
        Pass(UNNAMED, lambda m: m.hash, lambda r: None if r.name else r.hash),
        Pass(SAME_TEXT, lambda m: m.hash, lambda r: r.hash),
    ]


def _entry(migration: Migration, pairing: Pairing, watermark_ms: int | None, regime: Regime) -> Entry:
    if migration.ordinal in pairing.rows:
        row, match = pairing.rows[migration.ordinal]
        state, note = _applied_state(migration, row, match, watermark_ms, regime)
        return Entry(migration.name, state, migration, row, note)
    if regime is Regime.NAMES or watermark_ms is None or (migration.when_ms or 0) > watermark_ms:
        return Entry(migration.name, State.PENDING, migration, None)
    who = "Drizzle" if regime is Regime.JOURNAL else "Drizzle before 1.0.0-beta.13"
    note = (
        f"Generated {_time(migration.when_ms)}, not after the newest applied one ({_time(watermark_ms)}): "
        f"{who} skips it without a word. Generate it again, so that it is the newest, or apply it on purpose."
    )
    return Entry(migration.name, State.OUT_OF_ORDER, migration, None, note)


def _applied_state(
    migration: Migration, row: AppliedMigration, match: str, watermark_ms: int | None, regime: Regime
) -> tuple[State, str]:
    if match == SAME_KEY:
        return State.EDITED, (
            f"Its file was changed after it was applied (sha256 {(row.hash or '')[:12]} then, "
            f"{migration.hash[:12]} now); Drizzle does not look. "
            "Bring the applied text back from git, and put the change into a new migration."
        )
    if match == UNNAMED:
        return State.APPLIED, (
            f"Its row {row.row['id']} has no name, so Drizzle 1.0 would run it again. "
            f"Set name to '{migration.name}' there."
        )
    if match == SAME_TEXT:
        return _moved(migration, row, watermark_ms, regime)
    if regime is Regime.TIMES and created_ms(row) != migration.when_ms:
        return State.APPLIED, (
            f"Its row {row.row['id']} has the milliseconds of the old journal: Drizzle 1.0.0-beta.13 to "
            "beta.15 would run it again. Do not run those; later ones take it as applied."
        )
    return State.APPLIED, ""


def _moved(migration: Migration, row: AppliedMigration, watermark_ms: int | None, regime: Regime) -> tuple[State, str]:
    """The text is applied, under another name or time."""
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
    told = f"It was applied with the time {then_ms} and has the time {migration.when_ms} now"
    if watermark_ms is not None and (migration.when_ms or 0) > watermark_ms:
        return State.EDITED, (
            f"{told}, later than every applied one, so Drizzle would run it again. "
            f"Give it its old time back, or set created_at to {migration.when_ms} in row {row.row['id']}."
        )
    return State.APPLIED, f"{told}; its text is the same."


def _extra(row: AppliedMigration, migrations: list[Migration], pairing: Pairing, regime: Regime) -> Entry:
    row_id = row.row["id"]
    for migration in migrations:
        if migration.ordinal in pairing.rows and _is_of(row, migration, regime):
            first = pairing.rows[migration.ordinal][0].row["id"]
            note = (
                f"Recorded twice, in rows {first} and {row_id}: it may have run twice. "
                f"Look what it did to the database, then delete row {row_id}."
            )
            return Entry(migration.name, State.DUPLICATE, migration, row, note)
    note = (
        f"Row {row_id} says that it is applied, but the folder does not hold it. "
        "Bring its file back from git, or roll it back where the file is, before you go on."
    )
    name = row.name or f"row {row_id} of {_time(created_ms(row))}"
    return Entry(name, State.MISSING, None, row, note, content_known=False)


def _is_of(row: AppliedMigration, migration: Migration, regime: Regime) -> bool:
    if row.name is not None:
        return row.name == migration.name
    if row.hash == migration.hash:
        return True
    if regime is Regime.JOURNAL:
        return created_ms(row) == migration.when_ms
    return _second(created_ms(row)) == _second(migration.when_ms)


def _is_older_by_time(row: AppliedMigration, migration: Migration) -> bool:
    ms = created_ms(row)
    return ms is not None and ms < (migration.when_ms or 0)


def _is_older_by_name(row: AppliedMigration, migration: Migration) -> bool:
    if row.name is None:
        return _is_older_by_time(row, migration)
    return name_order(row.name) < name_order(migration.name)


def _skipped_name(_: Entry, newest: Entry) -> str:
    return (
        f"Older than {newest.name}, which is applied. Drizzle 1.0 applies it all the same, in another order "
        "than on a new database. Generate it again, so that it is the newest, or apply it on purpose."
    )


def _time(ms: int | None) -> str:
    if ms is None:
        return "an unknown time"
    try:
        return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms"
