"""How notebook swap shows what hangs on a table, how a shape is filled, and where a swap stands."""

from __future__ import annotations

from collections.abc import Sequence

from pgrunbook.database.checksums import TableName
from pgrunbook.database.row_tracker import FIRST
from pgrunbook.display.prose import counted, listed
from pgrunbook.display.show import GOOD, PLAIN, QUIET, WARN, Card, Cell, Table
from pgrunbook.errors import Interrupted
from pgrunbook.online.brakes import BrakeLimits
from pgrunbook.online.carried import CARRIED, Hanging
from pgrunbook.online.cutover import TableCutover
from pgrunbook.online.swap_begin import SwapTrial
from pgrunbook.online.swap_store import SwapPlan, SwapProgress, SwapState, TableSwap
from pgrunbook.online.throttle import ThrottleGoals
from pgrunbook.session.parameters import Swap

GOAL_MS = 100.0


def goals(given: Swap) -> ThrottleGoals:
    """Return what the parameters let the throttle aim at."""
    brakes = BrakeLimits(lag_s=given.max_lag_s, transaction_s=given.max_transaction_age_s)
    return ThrottleGoals(given.latency_ms, patience_s=given.patience_s, brakes=brakes)


def hanging(found: Sequence[Hanging]) -> Table:
    """Return the table of all that hangs on a table."""
    rows = [(one.kind, one.says, listed(one.columns) if one.columns else "", _becomes(one)) for one in found]
    return Table(["kind", "what", "columns", "what becomes of it"], rows, empty="Nothing hangs on the table.")


def columns(found: SwapTrial) -> Table:
    """Return the table of columns: how each is filled, forth and back, and what the new table does not get."""
    forth, back = dict(found.plan.new.filled), dict(found.plan.old.filled)
    before, after = ({one.name: one for one in side} for side in (found.before, found.after))
    rows: list[tuple[object, ...]] = []
    for name in dict.fromkeys([*after, *before]):
        was, now = before.get(name), after.get(name)
        tone = PLAIN if was and now and was.type == now.type else WARN
        rows.append((
            name, was.type if was else "", Cell(now.type if now else "none", tone),
            _filled(forth.get(name), now is not None and now.is_generated, now is not None),
            _filled(back.get(name), was is not None and was.is_generated, was is not None),
        ))  # fmt: skip
    rows += [(name, "index", Cell("none", WARN), why, "stays on the old table") for name, why in found.not_carried]
    return Table(["column", "today", "then", "filled by", "on the way back by"], rows)


def filled(plan: SwapPlan) -> str:
    """Return how the columns of the new table are filled, as one phrase."""
    return f"{counted(len(plan.new.filled), 'column')} filled, rows are matched by {listed(plan.key)}"


def stopped(target: str, table: TableName, again: str) -> Interrupted:
    """Return the error for a copy that somebody stopped."""
    return Interrupted(
        "stopped while the new table was filled",
        state=f"{table.label} is whole and in use; what is made of the new table, its log and its trigger stays.",
        hint=f"To go on: {again}. To take it away: pgrunbook run swap --target {target} -p table={table.label} "
        "-p do=abandon",
    )


def made(swap: TableSwap, done: SwapProgress, took_s: float) -> Card:
    """Return the card of the new table."""
    rate = f"{done.rows / took_s:,.0f} rows/s with indexes and comparison" if took_s > 0 else ""
    facts: list[tuple[str, object]] = [
        ("rows copied", f"{done.rows:,} in {counted(done.ranges, 'range')}"),
        ("rate", rate),
        ("compared", Cell("every row is the same in both tables, in one snapshot", GOOD)),
        ("changes", "noted, and brought over again before the cut-over"),
        ("key", listed(swap.plan.key)),
    ]
    return Card(f"New table for {swap.table.label}", facts, tone=GOOD)


def cut_over(done: TableCutover) -> Card:
    """Return the card of a cut-over."""
    facts: list[tuple[str, object]] = [
        ("locks held", Cell(f"{done.held_ms:,.0f} ms", GOOD if done.held_ms <= GOAL_MS else WARN)),
        ("waited for the first", f"{done.waited_ms:,.0f} ms"),
        ("attempt", done.attempts),
        ("changes brought over behind the locks", f"{done.notes:,}"),
        ("the live table", "the new one" if done.swap.is_new_live else "the old one"),
    ]
    return Card(f"Cut-over of {done.swap.table.label}", facts, tone=GOOD)


def postponed(target: str, swap: TableSwap) -> Card:
    """Return the card of a cut-over that waits for a person."""
    facts: list[tuple[str, object]] = [
        ("done", Cell("no: cutover is postponed", WARN)),
        ("meanwhile", "changes are noted; whoever cuts over brings them over first"),
        ("cut over", command(target, swap.table, "swap")),
        ("or take it away", command(target, swap.table, "abandon")),
    ]
    return Card(f"Cut-over of {swap.table.label}", facts, tone=WARN)


def settled(parts: Sequence[str]) -> Table:
    """Return the table of what was settled behind a cut-over."""
    return Table(["done"], [(Cell(part, GOOD),) for part in parts], empty="Nothing was to be settled.")


def facts(swap: TableSwap) -> list[tuple[str, object]]:
    """Return the facts of the verdict."""
    found: list[tuple[str, object]] = [("table", swap.table.label), ("state", swap.state.value)]
    if swap.cut_over_at is not None and swap.keep_until is not None:
        found.append(("cut over", f"{swap.cut_over_at:%F %T} UTC"))
        found.append(("the old table is kept until", f"{swap.keep_until:%F %R} UTC"))
    return found


def then(target: str, swap: TableSwap) -> str:
    """Return what comes next, as a command."""
    match swap.state:
        case SwapState.CUT_OVER:
            back, finish = (command(target, swap.table, do) for do in ("back", "finish"))
            return f"back, without losing a write: {back}; or drop the old table: {finish}"
        case SwapState.READY | SwapState.BUILDING | SwapState.COPYING:
            away = command(target, swap.table, "abandon")
            return f"go on: {command(target, swap.table, 'swap')}; or take it away: {away}"
    return "nothing"


def command(target: str, table: TableName, do: str) -> str:
    """Return the command for a step of a swap."""
    asked = "" if do == "swap" else f" -p do={do}"
    return f"pgrunbook run swap --target {target} -p table={table.label}{asked}"


def _becomes(one: Hanging) -> str:
    if one.kind == "trigger" and one.says.startswith(f"trigger {FIRST}_"):
        return "made at the cut-over; its undo data ends: behind it nobody can tell which rows it was captured of"
    return CARRIED.get(one.kind, "it cannot be carried")


def _filled(expression: str | None, is_generated: bool, is_there: bool) -> Cell:
    if expression is not None:
        return Cell(expression)
    return Cell("generated" if is_generated else "its default, or kept" if is_there else "", QUIET)
