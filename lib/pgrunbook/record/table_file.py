"""Tables of a record as CSV: what a cell may hold, and a table that is written row by row."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pgrunbook.display.show import visible
from pgrunbook.record import door
from pgrunbook.record.files import replacement

_BUFFERED_CHARS, _BUFFERED_ROWS = 1 << 18, 1_000

RowWriter = Callable[[Sequence[str]], None]


@contextmanager
def table_file(path: Path, headings: Sequence[str]) -> Iterator[RowWriter]:
    """Yield what writes a row into a CSV file, which is there when all rows are, and only where there is one.

    Raises RecordFailed as write_atomically does.
    """
    buffered: list[Sequence[str]] = []
    count = chars = 0
    for half in path.parent.glob(f".{path.name}.*"):
        half.unlink()  # its process was killed; whoever writes here has the folder for itself
    with replacement(path) as file:
        writer = csv.writer(file)
        writer.writerow(headings)

        def flush() -> None:
            nonlocal chars
            values = list(dict.fromkeys(value for row in buffered for value in row))
            cells = dict(zip(values, map(_harmless, door.masked_each(values)), strict=True))
            writer.writerows([cells[value] for value in row] for row in buffered)
            buffered.clear()
            chars = 0

        def write(row: Sequence[str]) -> None:
            nonlocal count, chars
            count += 1
            chars += sum(map(len, row))
            buffered.append(row)
            if chars > _BUFFERED_CHARS or len(buffered) > _BUFFERED_ROWS:
                flush()

        yield write
        flush()
    if not count:
        path.unlink()


def cell(value: str) -> str:
    """Return a cell of a CSV file: masked, and nothing that a terminal or a spreadsheet would execute."""
    return _harmless(door.masked(value))


def _harmless(masked: str) -> str:
    text = visible(masked)
    is_formula = text[:1] in ("=", "@") or (text[:1] in ("+", "-") and text[1:2].isalpha())
    return f"'{text}" if is_formula else text
