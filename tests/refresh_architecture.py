"""Draw docs/architecture.svg from the floors of pyproject.toml; run by ``make notebooks``."""

from __future__ import annotations

import re
import textwrap
import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
WIDTH, HEIGHT, GAP, LEFT = 1060, 62, 8, 44
SAYS = {
    "app": "the commands",
    "procedures": "one module per notebook",
    "rehearse": "a plan on a branch, observed",
    "draft": "make a plan",
    "execute": "run a plan, with a permit",
    "review": "hazards on this very database",
    "online": "what runs while others work",
    "runner": "headless runs, the engine",
    "effects": "what statements do",
    "safe_forms": "dangerous into safe",
    "inverse": "takes a statement back",
    "undo_data": "what is captured",
    "violations": "rows that forbid a way back",
    "history": "each tool's folder",
    "branches": "copies, recovery",
    "session": "what a notebook shares",
    "seal": "ledger, signatures",
    "plan": "data only",
    "database": "one connection",
    "record": "run folder, journal",
    "sql": "parse, classify",
    "config": "targets, paths",
    "errors": "message, state, hint",
    "display": "cards, pictures",
}
STYLE = (
    "text{fill:#1f2328}.n{font-size:14px;font-weight:600}.s{font-size:10.5px;fill:#57606a}"
    ".f{font-size:20px;fill:#8c959f}rect{fill:#f6f8fa;stroke:#d0d7de}.bg{fill:#fff;stroke:none}"
)


def drawn() -> str:
    """Return the drawing."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    floors = next(one["layers"] for one in contracts if one["name"] == "imports only run downwards")
    height = len(floors) * (HEIGHT + GAP) + 2 * GAP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif">',
        f"<style>{STYLE}</style>",
        f'<rect class="bg" width="{WIDTH}" height="{height}"/>',
    ]
    for at, floor in enumerate(floors):
        lines += _floor(GAP + at * (HEIGHT + GAP), len(floors) - at, [r.strip() for r in re.split(r"[|:]", floor)])
    return "\n".join([*lines, "</svg>", ""])


def _floor(top: int, number: int, rooms: list[str]) -> list[str]:
    width = (WIDTH - LEFT - 2 * GAP - GAP * (len(rooms) - 1)) / len(rooms)
    lines = [f'<text class="f" x="14" y="{top + 38}">{number}</text>']
    for at, room in enumerate(rooms):
        left = LEFT + at * (width + GAP)
        middle = f'x="{left + width / 2:.0f}" text-anchor="middle"'
        lines.append(f'<rect x="{left:.0f}" y="{top}" width="{width:.0f}" height="{HEIGHT}" rx="6"/>')
        lines.append(f'<text class="n" {middle} y="{top + 26}">{room}</text>')
        for row, text in enumerate(textwrap.wrap(SAYS[room], int(width / 5.8))):
            lines.append(f'<text class="s" {middle} y="{top + 42 + row * 12}">{escape(text)}</text>')
    return lines


if __name__ == "__main__":
    (ROOT / "docs" / "architecture.svg").write_text(drawn())
