"""The executed notebooks of a run as a part of its page: text and outputs, with the code folded.

What a cell showed may be anything: names and values of a database, written by anybody. Of its HTML only what lays out a
table or a drawing is kept; pictures are put in as pictures, in which no script runs.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pgrunbook.display.show import visible

TEMPLATES = Path(__file__).with_name("templates")
_ANCHOR = re.compile(r'<a class="anchor-link"[^>]*>[^<]*</a>')  # nbconvert puts one at each heading
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")
TAGS = frozenset(
    [
        "a",
        "abbr",
        "b",
        "blockquote",
        "br",
        "caption",
        "code",
        "dd",
        "details",
        "div",
        "dl",
        "dt",
        "em",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "hr",
        "i",
        "li",
        "ol",
        "p",
        "pre",
        "s",
        "small",
        "span",
        "strong",
        "sub",
        "summary",
        "sup",
        "table",
        "tbody",
        "td",
        "tfoot",
        "th",
        "thead",
        "tr",
        "u",
        "ul",
        "svg",
        "g",
        "rect",
        "line",
        "path",
        "circle",
        "polyline",
        "polygon",
        "text",
        "tspan",
        "title",
        "defs",
    ]
)
_DRAWN = frozenset(
    [
        "class",
        "style",
        "title",
        "width",
        "height",
        "x",
        "y",
        "x1",
        "x2",
        "y1",
        "y2",
        "cx",
        "cy",
        "r",
        "rx",
        "ry",
        "d",
        "points",
        "fill",
        "stroke",
        "stroke-width",
        "stroke-dasharray",
        "opacity",
        "transform",
        "text-anchor",
        "font-size",
        "font-family",
        "font-weight",
        "dominant-baseline",
        "viewBox",
        "viewbox",
        "xmlns",
        "role",
        "colspan",
        "rowspan",
        "open",
        "align",
    ]
)
_STYLES = frozenset(
    [
        "background",
        "background-color",
        "border",
        "border-bottom",
        "border-collapse",
        "border-left",
        "border-radius",
        "border-right",
        "border-top",
        "box-sizing",
        "color",
        "display",
        "font",
        "font-family",
        "font-size",
        "font-style",
        "font-weight",
        "height",
        "line-height",
        "margin",
        "margin-bottom",
        "margin-left",
        "margin-right",
        "margin-top",
        "max-height",
        "max-width",
        "min-height",
        "min-width",
        "overflow",
        "overflow-wrap",
        "overflow-x",
        "overflow-y",
        "padding",
        "padding-bottom",
        "padding-left",
        "padding-right",
        "padding-top",
        "text-align",
        "text-decoration",
        "vertical-align",
        "white-space",
        "width",
        "word-break",
        "fill",
        "stroke",
        "gap",
        "flex",
        "flex-wrap",
    ]
)


def rendered(notebook: Any, prefix: str) -> str:
    """Return the cells of a notebook as HTML; ``prefix`` begins the ids of its cells in the page."""
    body, _ = _exporter().from_notebook_node(notebook, resources={"prefix": prefix})
    return str(body)


def pictures(notebook: Any) -> list[str]:
    """Return the pictures of a notebook's outputs as addresses that hold them."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/svg+xml" in data:
                found.append(_svg_address(data["image/svg+xml"]))
            elif "image/png" in data:
                found.append(f"data:image/png;base64,{_base64_only(data['image/png'])}")
    return found


def plain(text: str) -> str:
    """Return a text without the colours of a terminal; what else would move its cursor is shown as an escape."""
    return "\n".join(visible(line) for line in _COLOUR.sub("", text).split("\n"))


def cleaned(html: str | Sequence[str]) -> str:
    """Return HTML of which only what lays out text, tables and drawings is left; scripts are shown as text."""
    import bleach
    from bleach.css_sanitizer import CSSSanitizer

    text = html if isinstance(html, str) else "".join(html)
    attributes = {"*": [*sorted(_DRAWN)], "a": ["href"]}
    styles = CSSSanitizer(allowed_css_properties=sorted(_STYLES))
    return str(bleach.clean(text, tags=TAGS, attributes=attributes, css_sanitizer=styles, protocols=["https"]))


@cache
def _exporter() -> Any:
    from nbconvert.exporters import HTMLExporter
    from nbconvert.filters import markdown2html

    made = HTMLExporter(template_name="record", extra_template_basedirs=[str(TEMPLATES)])
    made.register_filter("cleaned", cleaned)
    made.register_filter("cleaned_markdown", lambda text: cleaned(_ANCHOR.sub("", markdown2html(text))))
    made.register_filter("plain", plain)
    made.register_filter("svg_address", _svg_address)
    made.register_filter("base64_only", _base64_only)
    return made


def _svg_address(svg: str | Sequence[str]) -> str:
    text = svg if isinstance(svg, str) else "".join(svg)
    return f"data:image/svg+xml;base64,{base64.b64encode(text.encode()).decode()}"


def _base64_only(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9+/=]", "", text)
