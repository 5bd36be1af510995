"""The cuts that keep the page of a run small: outputs of notebooks that are too large for it, and what is said then."""

from __future__ import annotations

from typing import Any

from pgrunbook.display.prose import counted

MOST_BYTES = 2_000_000  # of one output
MOST_TEXT = 100_000  # characters of a text that is cut
WHOLE_BYTES = 20_000_000  # of all outputs of a notebook


def cut(notebook: Any, name: str) -> int:
    """Cut the outputs of a notebook that are too large, and those behind what a page can hold; return how many.

    Of a text its beginning stays. ``name`` is the file in which all of it is.
    """
    left, cuts = WHOLE_BYTES, 0
    for cell in notebook.cells:
        for number, output in enumerate(cell.get("outputs", ())):
            size = _bytes(output)
            if size <= min(MOST_BYTES, left):
                left -= size
                continue
            cuts += 1
            cell.outputs[number] = _instead(output, size, name)
            left -= _bytes(cell.outputs[number])
    return cuts


def told(cuts: int) -> str:
    """Return what the page says of cuts, "" where there are none."""
    return f"{counted(cuts, 'output')} too large for this page: cut" if cuts else ""


def _instead(output: Any, size: int, name: str) -> Any:
    import nbformat

    says = f"This output has {size / 1e6:,.1f} MB, and is cut here: it is whole in {name}.\n"
    begins = _joined(output.get("text", ""))[:MOST_TEXT] or "\n".join(output.get("traceback", ()))[:MOST_TEXT]
    text = f"{begins}\n{says}" if begins else says
    return nbformat.v4.new_output("stream", name="stdout", text=text)


def _bytes(output: Any) -> int:
    data = output.get("data", {})
    texts = [*data.values(), output.get("text", ""), output.get("traceback", "")]
    return sum(len(_joined(one)) for one in texts)


def _joined(value: Any) -> str:
    return "".join(map(str, value)) if isinstance(value, list) else str(value)
