"""Chart of the locks of a rehearsal: whom each statement blocked, as written and in the safe plan; for prepare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pgrunbook.display import svg
from pgrunbook.display.prose import counted
from pgrunbook.display.show import Table

Blocks = Literal["readers", "writers", "nobody", "waiting"]
Points = Sequence[tuple[float, float]]

MOST = 40
NAME_PX, PLOT_PX, RIGHT_PX = 334, 470, 206
WAY_PX = 42  # the word "plain" or "safe" at the right of a name
HEAD_PX, CHART_PX = 44, 92
ZEBRA = "#f6f8fa"
RUNS = "#8c959f"
NOTICED_MS = (
    100.0  # what is shorter feels immediate: https://www.nngroup.com/articles/response-times-3-important-limits/
)
EMPTY = "No statement was run."
TRAFFIC = "slowest transaction of the traffic, ms"


@dataclass(frozen=True)
class BarStyle:
    """How a bar is drawn: taller where more sessions are blocked, so that it can be read in black and white."""

    colour: str
    share: float
    legend: str


BAR_STYLES: dict[Blocks, BarStyle] = {
    "waiting": BarStyle("#eaeef2", 0.65, "it waits for its lock"),
    "nobody": BarStyle("#2da44e", 0.35, "only schema changes wait"),
    "writers": BarStyle("#bc4c00", 0.65, "writers wait"),
    "readers": BarStyle("#cf222e", 1.0, "readers and writers wait"),
}
LINES: dict[str, tuple[str, str]] = {"plain": (svg.INK, "4 3"), "safe": ("#0969da", "none")}


@dataclass(frozen=True)
class LockBar:
    """The time, in ms since its run began, for which a lock was held or waited for."""

    start_ms: float
    end_ms: float
    blocks: Blocks
    tip: str = ""


@dataclass(frozen=True)
class Lane:
    """A written statement: its locks and its whole time, as written and in the safe plan; None: not run."""

    name: str
    plain: Sequence[LockBar] = ()
    safe: Sequence[LockBar] = ()
    plain_span: tuple[float, float] | None = None
    safe_span: tuple[float, float] | None = None

    def ways(self) -> Iterator[tuple[str, Sequence[LockBar], tuple[float, float] | None]]:
        """Yield both ways to run it: the name, the bars, the whole time."""
        yield "plain", self.plain, self.plain_span
        yield "safe", self.safe, self.safe_span


@dataclass(frozen=True)
class Lanes:
    """A lane per statement, plain above safe, over one time axis; below them the latency of the traffic.

    Both runs begin at 0. ``latency`` has for "plain" and "safe" pairs of the time and the slowest transaction's
    latency then, both in ms.
    """

    title: str
    lanes: Sequence[Lane]
    latency: Mapping[str, Points] = field(default_factory=dict)

    def __repr__(self) -> str:
        headings = ["statement", "way", "from ms", "for ms", "readers wait ms", "writers wait ms", "waited ms"]
        rows = [
            [lane.name, way, *_span(span), *(f"{_held(bars, kind):.0f}" for kind in ("readers", "writers", "waiting"))]
            for lane in self.lanes
            for way, bars, span in lane.ways()
        ]
        worst = ", ".join(f"{way} {_worst(points):,.0f}" for way, points in self.latency.items() if points)
        table = repr(Table(headings, rows, title=self.title, empty=EMPTY))
        return f"{table}\n{TRAFFIC}: {worst}" if worst else table

    def _repr_html_(self) -> str:
        shown = self.lanes[:MOST]
        row_px = 14 if len(shown) <= 12 else 10 if len(shown) <= 24 else 8
        lane_px = 2 * row_px + 8
        more = len(self.lanes) - len(shown)
        below = HEAD_PX + lane_px * len(shown) + (6 if shown and not more else 20)
        axis = below + (CHART_PX if any(self.latency.values()) else 0)
        parts = [*self._head(), *self._zebra(len(shown), lane_px)]
        parts += svg.time_axis(NAME_PX, PLOT_PX, self._whole_ms, HEAD_PX, axis)
        for number, lane in enumerate(shown):
            parts += self._lane(lane, HEAD_PX + lane_px * number + 4, row_px)
        if not shown:
            parts.append(svg.words(0, HEAD_PX + 12, EMPTY, fill=svg.QUIET))
        if more:
            parts.append(svg.words(0, below - 6, f"... and {counted(more, 'more statement')}", fill=svg.QUIET))
        if axis > below:
            parts += self._chart(below + 14, axis - 8)
        parts += _legend(axis + 38)
        return svg.picture(self.title, NAME_PX + PLOT_PX + RIGHT_PX, axis + 48, parts)

    @property
    def _whole_ms(self) -> float:
        ends = [bar.end_ms for lane in self.lanes for _, bars, _ in lane.ways() for bar in bars]
        ends += [span[1] for lane in self.lanes for _, _, span in lane.ways() if span]
        ends += [moment for points in self.latency.values() for moment, _ in points]
        return max(ends, default=1.0) or 1.0

    def _x(self, moment_ms: float) -> float:
        return NAME_PX + PLOT_PX * moment_ms / self._whole_ms

    def _head(self) -> Iterator[str]:
        yield svg.words(0, HEAD_PX - 8, "statement", fill=svg.QUIET)
        yield svg.words(NAME_PX, HEAD_PX - 8, "time since the start of each run", fill=svg.QUIET)
        yield svg.words(NAME_PX + PLOT_PX + 12, HEAD_PX - 8, "who is locked out", fill=svg.QUIET)

    def _zebra(self, lanes: int, lane_px: float) -> Iterator[str]:
        for number in range(0, lanes, 2):
            yield svg.bar(0, HEAD_PX + lane_px * number, NAME_PX + PLOT_PX + RIGHT_PX, lane_px, ZEBRA)

    def _lane(self, lane: Lane, top: float, row_px: float) -> Iterator[str]:
        yield svg.words(0, top + row_px + 4, svg.fitting(lane.name, NAME_PX - WAY_PX))
        for number, (way, bars, span) in enumerate(lane.ways()):
            middle = top + row_px * (number + 0.5)
            small = {"font_size": min(11, row_px + 1)}
            base = middle + small["font_size"] * 0.36
            yield svg.words(NAME_PX - 8, base, way, fill=svg.QUIET, text_anchor="end", **small)
            if span is None:
                yield svg.words(NAME_PX + 4, base, "not run", fill=svg.QUIET, font_style="italic", **small)
                continue
            yield svg.line([(self._x(span[0]), middle), (max(self._x(span[1]), self._x(span[0]) + 2), middle)], RUNS)
            for kind in BAR_STYLES:  # the worst is drawn last, over the others
                for bar in bars:
                    if bar.blocks == kind:
                        yield from self._bar(bar, middle, row_px)
            blocked, colour = _blocked(bars)
            yield svg.words(NAME_PX + PLOT_PX + 12, base, blocked, fill=colour, **small)

    def _bar(self, bar: LockBar, middle: float, row_px: float) -> Iterator[str]:
        look, x = BAR_STYLES[bar.blocks], self._x(bar.start_ms)
        width, height = max(2.0, self._x(bar.end_ms) - x), (row_px - 1) * look.share
        if bar.blocks == "waiting":
            yield _hatched(x, middle - height / 2, width, height, bar.tip)
        else:
            yield svg.bar(x, middle - height / 2, width, height, look.colour, tip=bar.tip)

    def _chart(self, top: float, bottom: float) -> Iterator[str]:
        highest = _round_up(max(_worst(points) for points in self.latency.values()))
        what, _, unit = TRAFFIC.partition(" of ")
        yield svg.words(0, top + 14, what)
        yield svg.words(0, top + 29, f"of {unit}")
        for value in (0.0, highest / 2, highest):
            y = bottom - (bottom - top) * value / highest
            yield svg.line([(NAME_PX, y), (NAME_PX + PLOT_PX, y)], svg.RULE)
            yield svg.words(NAME_PX - 8, y + 4, f"{value:,g}", fill=svg.QUIET, text_anchor="end", font_size=11)
        right = NAME_PX + PLOT_PX + 12
        for number, (way, points) in enumerate(self.latency.items()):
            colour, dashes = LINES.get(way, (svg.QUIET, "1 2"))
            drawn = [(self._x(moment), bottom - (bottom - top) * value / highest) for moment, value in sorted(points)]
            # A single point makes no line: a short one stands for it.
            drawn = [(drawn[0][0] - 2, drawn[0][1]), (drawn[0][0] + 2, drawn[0][1])] if len(drawn) == 1 else drawn
            yield svg.line(drawn, colour, stroke_width=1.5, stroke_dasharray=dashes)
            y = top + 10 + 16 * number
            yield svg.line([(right, y), (right + 20, y)], colour, stroke_width=1.5, stroke_dasharray=dashes)
            yield svg.words(right + 26, y + 4, f"{way}: up to {svg.duration(_worst(points))}", font_size=11)


def _legend(base: float) -> Iterator[str]:
    x = 0.0
    for kind in reversed(BAR_STYLES):
        look = BAR_STYLES[kind]
        height = 12 * look.share
        top = base - 4 - height / 2
        if kind == "waiting":
            yield _hatched(x, top, 18, height, "")
        else:
            yield svg.bar(x, top, 18, height, look.colour)
        yield svg.words(x + 23, base, look.legend, fill=svg.QUIET)
        x += 42 + svg.width_px(look.legend)
    yield svg.line([(x, base - 4), (x + 18, base - 4)], RUNS)
    yield svg.words(x + 23, base, "the statement runs", fill=svg.QUIET)


def _hatched(x: float, y: float, width: float, height: float, tip: str) -> str:
    """Return a bar with slanting lines, which looks different from the others in print as well."""
    look = BAR_STYLES["waiting"]
    lines = []
    at = x
    while at < x + width:
        run = min(height, x + width - at)
        lines.append(f"M{at:.1f} {y + height:.1f}l{run:.1f} {-run:.1f}")
        at += 4
    box = svg.bar(x, y, width, height, look.colour, tip=tip, stroke=RUNS, stroke_width=0.7)
    return f"{box}<path d='{''.join(lines)}' stroke='{RUNS}' stroke-width='0.8' pointer-events='none'/>"


def _blocked(bars: Sequence[LockBar]) -> tuple[str, str]:
    """Return whom a statement blocked and for how long, and the colour of the worst."""
    noticed = max((_held(bars, "readers"), _held(bars, "writers"))) >= NOTICED_MS
    kinds: Sequence[Blocks] = [kind for kind in reversed(BAR_STYLES) if kind in ("readers", "writers")]
    held = [kind for kind in kinds if any(bar.blocks == kind for bar in bars)]
    if not held:
        return "nobody", svg.QUIET
    return ", ".join(f"{kind} {svg.duration(_held(bars, kind))}" for kind in held), (
        BAR_STYLES[held[0]].colour if noticed else svg.INK
    )


def _held(bars: Iterable[LockBar], kind: str) -> float:
    """Return how many ms the bars of this kind cover; overlaps count once."""
    whole, until = 0.0, float("-inf")
    for start, end in sorted((bar.start_ms, bar.end_ms) for bar in bars if bar.blocks == kind):
        whole += max(0.0, end - max(start, until))
        until = max(until, end)
    return whole


def _span(span: tuple[float, float] | None) -> tuple[str, str]:
    return ("not run", "-") if span is None else (f"{span[0]:.0f}", f"{span[1] - span[0]:.0f}")


def _worst(points: Points) -> float:
    return max((value for _, value in points), default=0.0)


def _round_up(value: float) -> float:
    """Return the first of 1, 2, 5, 10, 20, 50 ... that is not lower."""
    power = 1.0
    while power * 10 < value:
        power *= 10
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= value)
