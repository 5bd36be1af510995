"""How prepare and validate show rows: counted and summed before and now, against the schema, against assertions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pgrunbook.database.assertions import AssertionResult
from pgrunbook.database.integrity import Breach
from pgrunbook.database.measurements import Measurements, RowSum
from pgrunbook.display.prose import counted
from pgrunbook.display.show import BAD, GOOD, QUIET, WARN, Cell, Table


@dataclass(frozen=True)
class ComparedTable:
    """The rows of a table before and now, None where it was not there; whether a data statement is meant to change it.

    ``is_same`` says what the checksums tell, None where they were not compared.
    """

    name: str
    before: int | None
    now: int | None
    is_counted: bool
    is_meant: bool
    is_same: bool | None
    is_new: bool = False

    @property
    def unexplained(self) -> bool:
        """Whether rows changed that no data statement of the plan changes; a new table is explained by the schema."""
        if self.is_meant or self.before is None or self.now is None:
            return False
        return self.is_same is False or (self.is_counted and self.before != self.now)


def bare(name: str) -> str:
    """Return the name of a table without its schema and quotes."""
    return name.rpartition(".")[2].strip('"')


def compared(
    before: Measurements, counts: Mapping[str, tuple[int, bool]], again: Mapping[str, RowSum], touched: Collection[str]
) -> list[ComparedTable]:
    """Return every table of now and before, those that are gone last."""
    found = []
    for name, (now, exact) in counts.items():
        was, is_exact = before.rows.get(name, (None, True))
        same = _is_same(before.sums[name], again[name]) if name in again and name in before.sums else None
        is_new = was is None and bool(before.rows)
        found.append(ComparedTable(name, was, now, exact and is_exact, bare(name) in touched, same, is_new))
    gone = {name: was for name, was in before.rows.items() if name not in counts}
    return [*found, *(ComparedTable(name, was, None, exact, False, None) for name, (was, exact) in gone.items())]


def rows(tables: Sequence[ComparedTable]) -> Table:
    """Return the table of all of them."""
    headings = ["table", "rows before", "rows now", "change", "values"]
    return Table(headings, [
        (table.name, number(table.before), number(table.now) + ("" if table.is_counted else " (estimate)"),
         _change(table), _values(table))
        for table in tables
    ])  # fmt: skip


def before(measured: Measurements) -> Table:
    """Return the table of what prepare measured."""
    found: list[tuple[object, ...]] = [
        (name, number(rows) + ("" if exact else " (estimate)"),
         Cell("summed", QUIET) if name in measured.sums else Cell("counted only", QUIET))
        for name, (rows, exact) in measured.rows.items()
    ]  # fmt: skip
    for name, took in measured.queries_ms.items():
        error = measured.errors.get(name)
        ms = "planned, not executed: it writes" if took is None else f"{took:,.1f} ms"
        found.append((f"query: {name}", Cell(error, WARN) if error else ms, ""))
    found += [
        (f"query: {beginning(query.query)}", f"{query.total_ms / query.calls:,.1f} ms", f"mean of {query.calls:,}")
        for query in measured.heaviest.values()
        if query.calls
    ]
    known = {key: count for key, count in measured.breaches.items() if count is not None}
    found += [(key, Cell(number(count), WARN), "against the schema") for key, count in known.items()]
    if len(known) < len(measured.breaches):
        left = f"{counted(len(measured.breaches) - len(known), 'key')} not checked: of large tables, locked, or slow"
        found.append((left, "", Cell("against the schema", QUIET)))
    return Table(["table or query", "now", "values"], found)


def is_new(breach: Breach, known: int | None) -> bool:
    """Whether more rows break a promise than before; what was not known before is not known to be new."""
    return breach.rows is not None and known is not None and breach.rows > known


def breach(found: Breach, known: int | None) -> tuple[object, ...]:
    """Return the row of rows that break what the schema declares."""
    if found.rows is None:
        return Cell(f"{found.kind} not checked", WARN), found.name, found.table, found.why
    then = f"; then {found.repair};" if found.repair else ""
    says = f"{found.rows:,}: {', '.join(found.samples)}{' ...' if found.rows > len(found.samples) else ''}"
    if not is_new(found, known):
        says = f"{'was there before' if known is not None else 'not checked before'}: {says}"
    tone = BAD if is_new(found, known) else WARN
    return Cell(found.kind, tone), found.name, found.table, Cell(f"{says}; correct them{then}", under=found.query)


def assertions(results: Sequence[AssertionResult]) -> Table:
    """Return the table of assertions: which hold, and what the others found."""
    return Table(
        ["assertion", "", "found"],
        [(r.name, Cell("holds", GOOD) if r.holds else Cell("does not hold", BAD), told(r)) for r in results],
        empty="None: there is no folder verify with assertions (*.sql) beside the migrations.",
    )


def told(result: AssertionResult) -> str:
    """Say what an assertion found, and what went wrong."""
    found = "no row" if result.holds else counted(result.rows, "row") if result.is_counted else ""
    if result.rows and not result.is_counted:
        found = f"at least {counted(result.rows, 'row')}"
    return "; ".join(filter(None, [found, result.why]))


def beginning(query: str) -> str:
    """Return the first words of a query, in one line."""
    text = " ".join(query.split())
    return text if len(text) <= 60 else text[:59] + "…"


def number(value: int | None) -> str:
    """Return a number with its thousands apart, a dash for none."""
    return "-" if value is None else f"{value:,}"


def _is_same(was: RowSum, now: RowSum) -> bool:
    return (was.rows, was.checksum) == (now.rows, now.checksum)


def _change(table: ComparedTable) -> Cell:
    if table.now is None:
        return Cell("gone", WARN)
    if table.before is None:
        return Cell("new table" if table.is_new else "not counted before", QUIET)
    change = table.now - table.before
    if not change:
        return Cell("0", QUIET)
    why = " (a data statement)" if table.is_meant else " (not by the plan: traffic?)"
    return Cell(f"{change:+,}{why}", GOOD if table.is_meant else WARN)


def _values(table: ComparedTable) -> Cell:
    if table.is_same is None:
        return Cell("-", QUIET)
    return Cell("the same", GOOD) if table.is_same else Cell("changed (not by the plan: traffic?)", WARN)
