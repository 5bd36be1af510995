"""What a person sees in a notebook and the record keeps: cards, tables, banners and time lines.

Each view has an HTML form for eyes and a plain text form for logs, diffs and tests. They are made
here, without pandas or matplotlib, because those cost more time than a whole migration; a table
gives its rows as a DataFrame on request, and pictures of measurements are made with matplotlib.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from pgrunbook.display import svg

if TYPE_CHECKING:
    import pandas as pd

GOOD, WARN, BAD, PLAIN, QUIET = "good", "warn", "bad", "plain", "quiet"
COLOURS = {GOOD: "#1a7f37", WARN: "#9a6700", BAD: "#cf222e", PLAIN: "inherit", QUIET: "#6e7781"}
FILLS = {GOOD: "#dafbe1", WARN: "#fff8c5", BAD: "#ffebe9", PLAIN: "#f6f8fa", QUIET: "#f6f8fa"}
CELL = "padding:3px 10px;text-align:left;vertical-align:top;border-bottom:1px solid #d0d7de;"
TALLEST_PX = 520
# A name or a value of the database may move a terminal's cursor, or turn its text around.
_UNSEEN = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for code in (*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


@dataclass(frozen=True)
class Cell:
    """A value with a tone (good, warn, bad, quiet), and a longer text that unfolds under the title ``fold``.

    In a banner ``link`` leads to a file beside the notebook.
    """

    text: object
    tone: str = PLAIN
    under: str = ""
    fold: str = "SQL"
    link: str = ""

    def __str__(self) -> str:
        return _text(self.text)


@dataclass(frozen=True)
class Table:
    """Rows under headings; at most ``most`` are shown, and the table says how many are not."""

    headings: Sequence[str]
    rows: Sequence[Sequence[object]]
    title: str = ""
    empty: str = "Nothing to show."
    most: int = 200

    def frame(self) -> pd.DataFrame:
        """Return the rows as a pandas DataFrame, for a closer look by hand."""
        import pandas as pd

        return pd.DataFrame([[_bare(v) for v in row] for row in self.rows], columns=list(self.headings))

    def __repr__(self) -> str:
        lines = [visible(self.title)] if self.title else []
        if not self.rows:
            return "\n".join([*lines, visible(self.empty)])
        shown = [[one_line(_text(value)) for value in row] for row in self.rows[: self.most]]
        grid = [list(self.headings), *shown]
        widths = [min(60, max(len(row[i]) for row in grid)) for i in range(len(self.headings))]
        for row in grid:
            lines.append("  ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)).rstrip())
        if len(self.rows) > self.most:
            lines.append(f"... and {len(self.rows) - self.most} more")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        title = f"<div style='font-weight:600;margin:6px 0'>{escape(self.title)}</div>" if self.title else ""
        if not self.rows:
            return f"{title}<div style='color:{COLOURS[QUIET]}'>{escape(self.empty)}</div>"
        head = "".join(f"<th style='{CELL}font-weight:600'>{escape(h)}</th>" for h in self.headings)
        body = "".join("<tr>" + "".join(_html_cell(value) for value in row) + "</tr>" for row in self.rows[: self.most])
        more = len(self.rows) - self.most
        foot = f"<div style='color:{COLOURS[QUIET]}'>... and {more} more</div>" if more > 0 else ""
        return (
            f"{title}<div style='max-height:{TALLEST_PX}px;overflow:auto'>"
            f"<table style='border-collapse:collapse;font-size:13px'><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table></div>{foot}"
        )


@dataclass(frozen=True)
class Card:
    """A few facts under a title, each a name and a value."""

    title: str
    facts: Sequence[tuple[str, object]]
    tone: str = PLAIN

    def __repr__(self) -> str:
        width = max((len(name) for name, _ in self.facts), default=0)
        return "\n".join([visible(self.title), *(f"  {name.ljust(width)}  {_text(v)}" for name, v in self.facts)])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td style='padding:2px 14px 2px 0;color:{COLOURS[QUIET]};vertical-align:top;text-align:left'>"
            f"{escape(name)}</td>{_html_cell(value, border=False)}</tr>"
            for name, value in self.facts
        )
        return (
            f"<div style='border:1px solid #d0d7de;border-left:4px solid {COLOURS[self.tone]};border-radius:6px;"
            "padding:10px 14px;display:inline-block;min-width:420px;max-width:100%;box-sizing:border-box'>"
            f"<div style='font-weight:600;font-size:15px;margin-bottom:4px'>{escape(self.title)}</div>"
            f"<table style='border-collapse:collapse;font-size:13px;background:none'>{rows}</table></div>"
        )


@dataclass(frozen=True)
class Stack:
    """Cards, tables and timelines one below the other, as one view."""

    tables: Sequence[Card | Table | Timeline]

    def __repr__(self) -> str:
        return "\n\n".join(map(repr, self.tables))

    def _repr_html_(self) -> str:
        return "".join(table._repr_html_() for table in self.tables)


@dataclass(frozen=True)
class Banner:
    """The verdict of a procedure: one word, the state of the database in one sentence, what to do next."""

    outcome: str
    state: str
    facts: Sequence[tuple[str, object]] = ()
    tone: str = GOOD

    def __repr__(self) -> str:
        head = f"{self.outcome.upper()}: {visible(self.state)}"
        return "\n".join([head, *(f"  {n}: {_text(v)}" for n, v in self.facts)])

    def _repr_html_(self) -> str:
        facts = "".join(
            f"<div style='margin-top:4px'><span style='color:{COLOURS[QUIET]}'>{escape(name)}</span> "
            f"<code style='background:none'>{_linked(value)}</code></div>"
            for name, value in self.facts
        )
        return (
            f"<div style='background:{FILLS[self.tone]};color:#1f2328;border-left:6px solid {COLOURS[self.tone]};"
            f"padding:12px 16px;font-size:14px'><b style='color:{COLOURS[self.tone]};font-size:16px'>"
            f"{escape(self.outcome.upper())}</b>&ensp;{escape(self.state)}{facts}</div>"
        )


def _linked(value: object) -> str:
    text = escape(_text(value))
    return f"<a href='{escape(value.link)}'>{text}</a>" if isinstance(value, Cell) and value.link else text


@dataclass(frozen=True)
class Bar:
    """A time span in a lane, in ms since the start of the picture."""

    start_ms: float
    end_ms: float
    colour: str
    tip: str = ""


@dataclass(frozen=True)
class Timeline:
    """Lanes of bars over one time axis: what ran when, and what waited."""

    title: str
    lanes: Sequence[tuple[str, Sequence[Bar]]]
    legend: Sequence[tuple[str, str]] = ()
    marks: Sequence[tuple[float, str]] = field(default=())

    def __repr__(self) -> str:
        rows = [
            [name, f"{bar.start_ms:.0f}", f"{bar.end_ms - bar.start_ms:.0f}", bar.tip]
            for name, bars in self.lanes
            for bar in bars
        ]
        return repr(Table(["lane", "from ms", "for ms", "what"], rows, title=self.title))

    def _repr_html_(self) -> str:
        left, width, lane_px, top = 330, 600, 20, 26
        whole = max((bar.end_ms for _, bars in self.lanes for bar in bars), default=1.0) or 1.0
        bottom = top + lane_px * len(self.lanes) + 4
        parts = [*svg.time_axis(left, width, whole, top, bottom)]
        for number, (name, bars) in enumerate(self.lanes):
            y = top + lane_px * number
            parts.append(svg.words(left - 8, y + 13, svg.fitting(name, left - 12), text_anchor="end"))
            for bar in bars:
                x = left + width * bar.start_ms / whole
                wide = max(1.5, width * (bar.end_ms - bar.start_ms) / whole)
                parts.append(svg.bar(x, y + 3, wide, lane_px - 6, bar.colour, tip=bar.tip))
        x = 0.0
        for name, colour in self.legend:
            parts += [
                svg.bar(x, bottom + 18, 10, 10, colour),
                svg.words(x + 14, bottom + 27, name, fill=svg.QUIET),
            ]
            x += 30 + svg.width_px(name)
        return svg.picture(self.title, left + width + 20, bottom + 30, parts)


def _bare(value: object) -> Any:
    return value.text if isinstance(value, Cell) else value


def visible(text: str) -> str:
    """Return a text with its control characters and those that turn its direction as escapes."""
    return text if text.isascii() and text.isprintable() else text.translate(_UNSEEN)


def one_line(text: str) -> str:
    """Return a text as one line, with escapes: a name with a line break passes for no line of ours."""
    return visible(" ".join(text.splitlines()))


def _text(value: object) -> str:
    value = _bare(value)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return visible(str(value))


def _html_cell(value: object, *, border: bool = True) -> str:
    tone = value.tone if isinstance(value, Cell) else PLAIN
    under, fold = (value.under, value.fold) if isinstance(value, Cell) else ("", "")
    style = CELL if border else "padding:2px 0;text-align:left;overflow-wrap:anywhere;"
    weight = "font-weight:600;" if tone in (GOOD, BAD, WARN) else ""
    folded = (
        f"<details><summary style='color:{COLOURS[QUIET]}'>{escape(fold)}</summary>"
        f"<pre style='margin:4px 0;white-space:pre-wrap;max-width:70em'>{escape(under)}</pre></details>"
        if under
        else ""
    )
    return f"<td style='{style}{weight}color:{COLOURS[tone]}'>{escape(_text(value))}{folded}</td>"


@dataclass(frozen=True)
class Picture:
    """A picture of measurements, made with matplotlib, and the same in words for logs."""

    png: bytes
    says: str

    @classmethod
    def of(cls, figure: Any, says: str) -> Picture:
        """Make a picture of a matplotlib figure; a name with dollars in it is no formula."""
        import io

        from matplotlib import rc_context
        from matplotlib.text import Text

        file = io.BytesIO()
        with rc_context({"text.parse_math": False}):  # for what is made when it is drawn
            for text in figure.findobj(Text):
                text.set_parse_math(False)
            figure.savefig(file, format="png", dpi=110, facecolor="white", metadata={"Software": None})
        return cls(file.getvalue(), says)

    def __repr__(self) -> str:
        return self.says

    def _repr_png_(self) -> bytes:
        return self.png


def figure(width_in: float, height_in: float, rows: int = 1) -> tuple[Any, Any]:
    """Return a matplotlib figure and its axes, of several ``rows`` a list; only here matplotlib is imported (0.8 s)."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(width_in, height_in), layout="constrained")
    axes = list(made.subplots(rows, squeeze=False).flat)
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    return made, axes if rows > 1 else axes[0]
