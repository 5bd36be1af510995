"""How validate shows queries and sizes, before and now: their times, plans and bytes, as tables and pictures."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pgrunbook.database.measurements import Measurements, TableSize
from pgrunbook.database.query_plans import ENOUGH_CALLS, HeavyQuery, MeasuredQuery, QueryPlan
from pgrunbook.display.show import BAD, PLAIN, QUIET, WARN, Cell, Picture, Table, figure
from pgrunbook.procedures.measured_views import beginning, number

# Below this a ratio says nothing: a query that took 2 ms before and takes 5 ms now is not slow.
SLOW_FROM_MS = 50.0
FAR_OFF = 100  # times as many rows as the planner expected, or as few
RESIZED, RESIZED_BYTES = 0.1, 64 * 1024
BEFORE_COLOUR, NOW_COLOUR, LIMIT_COLOUR = "#8c959f", "#2da44e", "#cf222e"
MB = 1024 * 1024


@dataclass(frozen=True)
class ComparedQuery:
    """A query before and now; ``basis`` says what its times are of."""

    name: str
    before_ms: float | None
    now_ms: float | None
    before: QueryPlan | None
    now: QueryPlan | None
    basis: str
    error: str = ""
    is_enough: bool = True

    @property
    def has_other_plan(self) -> bool:
        """Whether the server executes it by other nodes than before."""
        return bool(self.before and self.now and self.before.nodes != self.now.nodes)

    def problems(self, limit: float) -> Iterator[str]:
        """Say what is wrong with it: it ends with an error now, or takes much longer."""
        if self.error and (self.before_ms is not None or self.before is not None):
            yield f'query "{self.name}" fails: {self.error}'
        elif self.is_slow(limit):
            yield f'query "{self.name}" takes {self.now_ms:.0f} ms, before {self.before_ms:.0f} ms'

    def is_slow(self, limit: float) -> bool:
        """Whether it takes ``limit`` times as long as before, as far as enough calls tell."""
        if not self.before_ms or not self.now_ms or not self.is_enough:
            return False
        return self.now_ms > max(SLOW_FROM_MS, self.before_ms * limit)


def of_critical(name: str, before: Measurements, now: MeasuredQuery) -> ComparedQuery:
    """Compare a query of the target with its measurement before."""
    was, basis = before.queries_ms.get(name), "median of 5 runs"
    return ComparedQuery(name, was, now.median_ms, before.plans.get(name), now.plan, basis, now.error)


def of_heavy(was: HeavyQuery, now: HeavyQuery) -> ComparedQuery:
    """Compare what the server has counted of a query until then with what it has counted since."""
    calls, ms = now.calls - was.calls, now.total_ms - was.total_ms
    if calls < 0:  # the counters were reset meanwhile
        calls, ms = now.calls, now.total_ms
    before_ms = was.total_ms / was.calls if was.calls else None
    basis = f"mean of {was.calls:,} and {calls:,} calls"
    now_ms = ms / calls if calls else None
    name = beginning(was.query)
    return ComparedQuery(name, before_ms, now_ms, was.plan, now.plan, basis, is_enough=calls >= ENOUGH_CALLS)


def table(queries: Sequence[ComparedQuery], limit: float) -> Table:
    """Return times and plans of all, before and now."""
    headings = ["query", "ms before", "ms now", "of", "plan", "rows expected, found", "blocks before", "blocks now",
                "cost before", "cost now"]  # fmt: skip
    return Table(headings, [
        (
            query.name, _number(query.before_ms),
            Cell(query.error or _number(query.now_ms), BAD if query.error or query.is_slow(limit) else PLAIN),
            query.basis, plan(query), _rows(query.now),
            *(number(plan.blocks if plan else None) for plan in (query.before, query.now)),
            *(_number(plan.cost if plan else None) for plan in (query.before, query.now)),
        )
        for query in queries
    ])  # fmt: skip


def bars(queries: Mapping[str, tuple[float | None, float | None]], limit: float) -> Picture:
    """Return a picture of the times before and now of each query, with the limit drawn in."""
    names = list(queries)
    picture, axes = figure(8, 1.2 + 0.6 * len(names))
    before = [queries[n][0] or 0 for n in names]
    _pairs(axes, before, [queries[n][1] or 0 for n in names])
    for place, was in enumerate(before):
        most = max(SLOW_FROM_MS, was * limit)
        axes.plot([most, most], [place - 0.4, place + 0.4], color=LIMIT_COLOUR, label="" if place else "limit")
    axes.set_yticks(list(range(len(names))), names)
    axes.set_xlabel("time, ms")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    numbers = "; ".join(f"{n}: {_ms(was)} before, {_ms(is_now)} now" for n, (was, is_now) in queries.items())
    return Picture.of(picture, f"Critical queries: {numbers}")


def sizes(before: Mapping[str, TableSize], now: Mapping[str, TableSize]) -> Table:
    """Return the size of each table and of its indexes, before and now, the largest first."""
    headings = ["table", "MB before", "MB now", "indexes, MB before", "indexes, MB now", "dead rows"]
    largest = sorted(now, key=lambda name: -(now[name].table_bytes + now[name].index_bytes))
    return Table(headings, [
        (name, _mb(before, name, "table_bytes"), _mb(now, name, "table_bytes"), _mb(before, name, "index_bytes"),
         _mb(now, name, "index_bytes"), number(now[name].dead_rows))
        for name in largest
    ], empty="Not measured: there is no table, or one is locked.")  # fmt: skip


def resized(before: Mapping[str, TableSize], now: Mapping[str, TableSize]) -> list[str]:
    """Return the tables whose size changed by a tenth and more than 64 kB, with their indexes; the largest ten."""
    changed = []
    for name in before.keys() & now.keys():
        was, is_now = (side[name].table_bytes + side[name].index_bytes for side in (before, now))
        if abs(is_now - was) > max(RESIZED_BYTES, RESIZED * was):
            changed.append(name)
    return sorted(changed, key=lambda name: -(now[name].table_bytes + now[name].index_bytes))[:10]


def size_bars(before: Mapping[str, TableSize], now: Mapping[str, TableSize], names: Sequence[str]) -> Picture:
    """Return a picture of the sizes of these tables and of their indexes, before and now."""
    lines = [(name, kind) for name in names for kind in ("table_bytes", "index_bytes")]
    labels = [name if kind == "table_bytes" else "its indexes" for name, kind in lines]
    picture, axes = figure(8, 1.2 + 0.5 * len(lines))
    was, is_now = ([getattr(side[name], kind) / MB for name, kind in lines] for side in (before, now))
    _pairs(axes, was, is_now)
    axes.set_yticks(list(range(len(lines))), labels)
    axes.invert_yaxis()
    axes.set_xlabel("size, MB")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    lines_told = zip(labels, was, is_now, strict=True)
    told = "; ".join(f"{label}: {then:,.1f} MB before, {today:,.1f} MB now" for label, then, today in lines_told)
    return Picture.of(picture, f"Sizes that changed: {told}")


def _pairs(axes: Any, before: Sequence[float], now: Sequence[float]) -> None:
    for values, shift, label, colour in ((before, 0.2, "before", BEFORE_COLOUR), (now, -0.2, "now", NOW_COLOUR)):
        axes.barh([place + shift for place in range(len(values))], values, 0.36, label=label, color=colour)


def plan(query: ComparedQuery) -> Cell:
    """Return whether a query's plan is as before, with the plan, or the difference, under it."""
    if query.now is None or query.before is None:
        nodes = "\n".join(query.now.nodes) if query.now else ""
        return Cell("not known before" if query.now else "-", QUIET, under=nodes, fold="plan")
    if not query.has_other_plan:
        return Cell("as before", QUIET, under="\n".join(query.now.nodes), fold="plan")
    diff = difflib.unified_diff(query.before.nodes, query.now.nodes, "before", "now", n=99, lineterm="")
    return Cell("another plan", WARN, under="\n".join(diff), fold="difference")


def _rows(plan: QueryPlan | None) -> Cell:
    if plan is None or plan.rows is None:
        return Cell("-", QUIET)
    expected, found = max(plan.rows_estimate, 1), max(plan.rows, 1)
    far = max(expected / found, found / expected) >= FAR_OFF
    text = f"{plan.rows_estimate:,.0f}, {plan.rows:,.0f}"
    return Cell(f"{text}: ANALYZE its tables" if far else text, WARN if far else PLAIN)


def _mb(side: Mapping[str, TableSize], name: str, kind: str) -> str:
    return f"{getattr(side[name], kind) / MB:,.1f}" if name in side else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _ms(value: float | None) -> str:
    return "not timed" if value is None else f"{value:.1f} ms"
