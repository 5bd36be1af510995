"""Parts of time pictures as SVG: words, bars, lines and a time axis; ``display.show`` uses them.

An attribute of a part is written with an underscore for a hyphen: ``text_anchor="end"``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

INK, QUIET, RULE = "#1f2328", "#57606a", "#d0d7de"
STYLE = "max-width:100%;font:12px sans-serif;background:#fff"
MINUTE_MS = 60_000.0
# The width of characters in DejaVu Sans, in parts of the font's size.
_EM = (("ijl|'!", 0.28), (" .,:;/fIt()[]-r", 0.36), ("mwMW%@", 0.95), ("ABCDEFGHKLNOPQRSTUVXYZ", 0.7))
_EM_OTHER = 0.61
STEPS_MS = (
    *(digit * 10.0**power for power in range(-1, 4) for digit in (1, 2, 5)),
    *(MINUTE_MS * minutes for minutes in (1, 2, 5, 10, 30, 60, 120, 360, 720, 1440, 7200)),
)


def picture(title: str, width: float, height: float, parts: Iterable[str]) -> str:
    """Return the parts as one inline picture under a title."""
    return "".join(
        [
            f"<svg role='img' viewBox='0 0 {width:g} {height:g}' width='{width:g}' style='{STYLE}'>",
            words(0, 14, title, font_weight=600),
            *parts,
            "</svg>",
        ]
    )


def words(x: float, y: float, text: str, *, fill: str = INK, **more: object) -> str:
    """Return a line of text, its baseline at ``y``."""
    return f"<text x='{x:.1f}' y='{y:.1f}' fill='{fill}'{_attributes(more)}>{escape(text)}</text>"


def width_px(text: str, size_px: float = 12) -> float:
    """Return about how wide a text is in the widest sans of the usual systems, DejaVu Sans."""
    return size_px * sum(next((em for of, em in _EM if char in of), _EM_OTHER) for char in text)


def fitting(text: str, most_px: float, size_px: float = 12) -> str:
    """Return a text that fits into a width: what is too long loses its middle, for names differ at their ends."""
    if width_px(text, size_px) <= most_px:
        return text
    keep = len(text) - 1
    while keep > 2 and width_px(_shortened(text, keep), size_px) > most_px:
        keep -= 1
    return _shortened(text, keep)


def _shortened(text: str, keep: int) -> str:
    return f"{text[: keep // 2]}…{text[len(text) - (keep - keep // 2) :]}"


def bar(x: float, y: float, width: float, height: float, fill: str, *, tip: str = "", **more: object) -> str:
    """Return a rectangle that shows ``tip`` under the mouse."""
    title = f"<title>{escape(tip)}</title>" if tip else ""
    return (
        f"<rect x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' height='{height:.1f}' "
        f"fill='{fill}'{_attributes(more)}>{title}</rect>"
    )


def line(points: Sequence[tuple[float, float]], colour: str, **more: object) -> str:
    """Return a line through points."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f"<polyline points='{path}' fill='none' stroke='{colour}'{_attributes(more)}/>"


def time_axis(left: float, width: float, whole_ms: float, top: float, bottom: float) -> Iterable[str]:
    """Yield the grid lines of a time axis from ``top`` to ``bottom``, each with its time below."""
    for moment, label in ticks(whole_ms):
        x = left + width * moment / whole_ms
        yield line([(x, top), (x, bottom)], RULE)
        yield words(x, bottom + 14, label, fill=QUIET, text_anchor="middle")


def ticks(whole_ms: float) -> list[tuple[float, str]]:
    """Return at most nine round times within a duration, each with its label."""
    step = next((step for step in STEPS_MS if whole_ms / step <= 8), whole_ms)
    return [(step * i, _moment(step * i, step)) for i in range(int(whole_ms / step + 1e-9) + 1)]


def duration(value_ms: float) -> str:
    """Return a duration in two or three digits: "0.4 ms", "12 ms", "2.1 s", "12 min"."""
    if value_ms < 999.5:
        return f"{value_ms:.{0 if value_ms >= 0.95 else 1}f} ms"
    if value_ms < 2 * MINUTE_MS:
        return f"{value_ms / 1000:.{1 if value_ms < 99_950 else 0}f} s"
    return f"{value_ms / MINUTE_MS:,.{1 if value_ms < 10 * MINUTE_MS else 0}f} min"


def _moment(value_ms: float, step_ms: float) -> str:
    if step_ms >= MINUTE_MS:
        return f"{value_ms / MINUTE_MS:g} min"
    return f"{value_ms / 1000:g} s" if value_ms >= 1000 else f"{value_ms:g} ms"


def _attributes(more: dict[str, object]) -> str:
    return "".join(f" {name.replace('_', '-')}='{value}'" for name, value in more.items())
