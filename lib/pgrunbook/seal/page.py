"""What the pages of records share: one file, no network, no script but ours, readable in print and on a phone."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html import escape

from pgrunbook.display.show import BAD, COLOURS, FILLS, GOOD, WARN, visible

STYLE = f"""
:root {{ color-scheme: light; }}
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1f2328; max-width: 1100px; margin: 0 auto; padding: 16px; }}
header {{ border-left: 8px solid; padding: 4px 16px; border-radius: 6px; }}
header.good {{ background: {FILLS[GOOD]}; border-color: {COLOURS[GOOD]}; }}
header.warn {{ background: {FILLS[WARN]}; border-color: {COLOURS[WARN]}; }}
header.bad {{ background: {FILLS[BAD]}; border-color: {COLOURS[BAD]}; }}
h1 {{ font-size: 22px; margin: 6px 0; }} h2 {{ font-size: 17px; margin: 24px 0 8px; }}
small, .quiet {{ color: #59636e; font-weight: normal; }}
table {{ border-collapse: collapse; font-size: 13px; max-width: 100%; }}
th, td {{ text-align: left; vertical-align: top; padding: 3px 10px 3px 0; border-bottom: 1px solid #d0d7de; }}
header, h1, h2, p, .facts td, .shown {{ overflow-wrap: anywhere; }} .shown table {{ overflow-wrap: normal; }}
.facts th {{ white-space: nowrap; color: #59636e; font-weight: normal; }}
.wide {{ overflow-x: auto; }} .shown div {{ max-height: none !important; min-width: 0 !important; }}
pre {{ font-size: 12px; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f8fa;
       padding: 6px 10px; }}
pre.error {{ background: {FILLS[BAD]}; }} .failed {{ border-left: 4px solid {COLOURS[BAD]}; padding-left: 10px; }}
details.code {{ color: #59636e; font-size: 12px; }} img {{ max-width: 100%; }} .shown {{ overflow-x: auto; }}
td.good {{ color: {COLOURS[GOOD]}; }} td.warn {{ color: {COLOURS[WARN]}; }} td.bad {{ color: {COLOURS[BAD]}; }}
.filter {{ margin-top: 12px; }}
input, select {{ font: inherit; margin: 0 6px 6px 0; padding: 3px 6px; max-width: 100%; }}
@media print {{ body {{ max-width: none; padding: 0; font-size: 12px; print-color-adjust: exact; }}
  .wide, .shown, .shown div {{ overflow: visible !important; }} td {{ overflow-wrap: anywhere; min-width: 5.5em; }}
  table {{ font-size: 10px !important; }} th, td {{ padding: 2px 6px 2px 0 !important; }}
  h1, h2, h3, summary {{ break-after: avoid; }} tr, img, svg {{ break-inside: avoid; }}
  .shown > details::details-content, .plan::details-content {{ content-visibility: visible; }}
  .filter, .code, td details, button {{ display: none; }} }}
@media screen and (max-width: 600px) {{ body {{ padding: 8px; }} thead.plain {{ display: none; }}
  .facts th, .facts td, .plain + tbody tr {{ display: block; border: 0; overflow-wrap: anywhere; }}
  .facts td, .plain + tbody tr {{ border-bottom: 1px solid #d0d7de; padding: 4px 0; }}
  .plain + tbody td {{ display: inline; border: 0; padding: 0 10px 0 0; }} .plain + tbody td:empty {{ display: none; }}
  table:has(.plain) {{ display: block; }} .plain + tbody {{ display: block; }}
  .plain + tbody td::before {{ content: attr(data-name) ": "; color: #59636e; }} }}
"""


def whole(title: str, body: str, *, script: str = "") -> str:
    """Return a page. Only our own ``script`` can run in it, by its hash; nothing is fetched from anywhere."""
    allowed = f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" if script else "'none'"
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; form-action 'none';"
        " base-uri 'none'"
    )
    run = f"<script>{script}</script>" if script else ""
    body = "\n".join(map(visible, body.split("\n")))  # what turns a text around, or moves a terminal's cursor
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(visible(title))}</title><style>{STYLE}</style></head>\n<body>\n{body}\n{run}</body></html>\n"
    )


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table of plain values; a phone shows each row as a list, with the heading before each value."""
    body = "".join(
        "<tr>" + "".join(_value(name, value) for name, value in zip(headings, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<div class='wide'><table>{head(headings)}<tbody>{body}</tbody></table></div>"


def head(headings: Sequence[str]) -> str:
    """Return the head of a table of plain values."""
    return f"<thead class='plain'><tr>{''.join(f'<th>{escape(one)}</th>' for one in headings)}</tr></thead>"


def _value(name: str, value: object) -> str:
    text = "" if value is None else str(value)
    return f"<td data-name='{escape(name)}'>{escape(visible(text))}</td>"
