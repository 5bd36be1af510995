"""Undo data: what a step destroys is captured in schema pgrunbook before, and reverted on rollback.

Rows: ``capture_batches`` and ``capture_statement`` rewrite a statement so that it captures the rows that it changes.
``conflicts`` finds rows that somebody has changed since; ``revert`` reverts the others. Columns: ``with_capture``
plans the capture; ``revert_column`` writes the values back. Tables: they are parked, and ``unpark`` moves them back.
``reapply`` plans what comes back when a migration goes forward again. ``list_entries`` shows what is captured;
``purge`` drops it.
"""

from __future__ import annotations

from pgrunbook.undo_data.capture_columns import is_changed_type
from pgrunbook.undo_data.capture_fill import FillCapture, begin_fill, entries_of_fill, fill_capture, is_of_fill
from pgrunbook.undo_data.capture_rows import capture_batches, capture_statement
from pgrunbook.undo_data.capture_steps import with_capture
from pgrunbook.undo_data.captured_places import CapturedPlace, captured_places, way_on
from pgrunbook.undo_data.cascades import CannotCaptureError
from pgrunbook.undo_data.conflict_file import FILE, LEFT_FILES, Conflicting, conflict_file, left_file
from pgrunbook.undo_data.conflicts import MOST_LINES, Conflict, Conflicts, EachConflict, conflicts, family
from pgrunbook.undo_data.entries import Site, add_entry, as_keep, free_name, mark_reverted
from pgrunbook.undo_data.former_keys import FormerKeys, helper_index
from pgrunbook.undo_data.parked_names import PARKED
from pgrunbook.undo_data.parked_tables import unpark, watch_again
from pgrunbook.undo_data.reapplication import Reapplication, captured_from, reapply, still_captured, to_reapply
from pgrunbook.undo_data.registry import ROWS, StepKey, UndoEntry, entries_of_migration, followed, list_entries, purge
from pgrunbook.undo_data.revert_columns import (
    converting,
    discard_reverted,
    has_key,
    note_written,
    revert_column,
    tracker_cleanup,
    uncaptured,
    writes,
)
from pgrunbook.undo_data.revert_rows import LEAVE_REFUSED, OnConflict, revert
from pgrunbook.undo_data.silence import check_keys, fires, may_silence, silenced
from pgrunbook.undo_data.unclaimed import UnclaimedValues, gone_to_nobody, unclaimed

__all__ = [
    "FILE",
    "LEAVE_REFUSED",
    "LEFT_FILES",
    "MOST_LINES",
    "PARKED",
    "ROWS",
    "CannotCaptureError",
    "CapturedPlace",
    "Conflict",
    "Conflicting",
    "Conflicts",
    "EachConflict",
    "FillCapture",
    "FormerKeys",
    "OnConflict",
    "Reapplication",
    "Site",
    "StepKey",
    "UnclaimedValues",
    "UndoEntry",
    "add_entry",
    "as_keep",
    "begin_fill",
    "capture_batches",
    "capture_statement",
    "captured_from",
    "captured_places",
    "check_keys",
    "conflict_file",
    "conflicts",
    "converting",
    "discard_reverted",
    "entries_of_fill",
    "entries_of_migration",
    "family",
    "fill_capture",
    "fires",
    "followed",
    "free_name",
    "gone_to_nobody",
    "has_key",
    "helper_index",
    "is_changed_type",
    "is_of_fill",
    "left_file",
    "list_entries",
    "mark_reverted",
    "may_silence",
    "note_written",
    "purge",
    "reapply",
    "revert",
    "revert_column",
    "silenced",
    "still_captured",
    "to_reapply",
    "tracker_cleanup",
    "uncaptured",
    "unclaimed",
    "unpark",
    "watch_again",
    "way_on",
    "with_capture",
    "writes",
]
