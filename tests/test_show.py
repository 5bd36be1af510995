"""What notebooks show: the same in words and in HTML, escaped and bounded."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from pgrunbook.record.show import BAD, GOOD, Banner, Bar, Card, Cell, Picture, Table, Timeline, figure

EVIL = "<script>alert('x')</script> & \"y\""
SAFE = "&lt;script&gt;"


def test_a_table_in_words() -> None:
    """For logs and diffs: aligned, nothing behind the last word of a line."""
    table = Table(["name", "rows"], [("orders", 12), ("a", None), (Cell("b", BAD), True)], title="Tables")
    assert repr(table).splitlines() == ["Tables", "name    rows", "orders  12", "a       -", "b       yes"]
    assert repr(Table(["name"], [], empty="No tables.")) == "No tables."


def test_a_table_shows_only_so_much_and_says_what_is_left_out() -> None:
    """A thousand rows are for the CSV file beside it."""
    table = Table(["n"], [(n,) for n in range(1000)], most=3)
    assert repr(table).splitlines() == ["n", "0", "1", "2", "... and 997 more"]
    html = table._repr_html_()
    assert html.count("<tr>") == 4
    assert "... and 997 more" in html
    assert "more" not in repr(Table(["n"], [(1,), (2,), (3,)], most=3))


def test_a_table_gives_its_rows_as_a_frame() -> None:
    """All of them, as values, for a closer look by hand."""
    frame = Table(["name", "rows"], [(Cell("orders", GOOD), 12), ("b", 3)], most=1).frame()
    assert list(frame.columns) == ["name", "rows"]
    assert frame.to_dict("list") == {"name": ["orders", "b"], "rows": [12, 3]}


@pytest.mark.parametrize(
    "view",
    [
        Table([EVIL], [(EVIL,), (Cell(EVIL, BAD, under=EVIL),)], title=EVIL),
        Table(["a"], [], empty=EVIL),
        Card(EVIL, [(EVIL, EVIL)], tone=BAD),
        Banner(EVIL, EVIL, [(EVIL, EVIL)]),
        Timeline(EVIL, [(EVIL, [Bar(0, 5, "#fff", EVIL)])], [(EVIL, "#fff")]),
    ],
    ids=["table", "empty table", "card", "banner", "timeline"],
)
def test_names_from_the_database_are_text_and_never_markup(view: Table | Card | Banner | Timeline) -> None:
    """A table may be called anything; the words have it as it is."""
    html = view._repr_html_()
    assert "<script" not in html.lower()
    assert SAFE in html or SAFE.upper() in html
    assert "alert('x')" in repr(view).lower()


@pytest.mark.parametrize(
    ("whole_ms", "labels"),
    [
        (0.4, ["0 ms", "0.1 ms", "0.2 ms", "0.3 ms", "0.4 ms"]),
        (3, ["0 ms", "0.5 ms", "1 ms", "1.5 ms", "2 ms", "2.5 ms", "3 ms"]),
        (300, ["0 ms", "50 ms", "100 ms", "150 ms", "200 ms", "250 ms", "300 ms"]),
        (1_700, ["0 ms", "500 ms", "1 s", "1.5 s"]),
        (400_000, ["0 min", "1 min", "2 min", "3 min", "4 min", "5 min", "6 min"]),
        (3 * 3_600_000, ["0 min", "30 min", "60 min", "90 min", "120 min", "150 min", "180 min"]),
    ],
)
def test_the_axis_of_a_timeline_has_few_round_ticks(whole_ms: float, labels: list[str]) -> None:
    """From a fraction of a millisecond to three hours."""
    line = Timeline("t", [("lane", [Bar(0, whole_ms, "#fff")])])
    svg = ElementTree.fromstring(line._repr_html_().replace("<svg ", "<svg xmlns='http://www.w3.org/2000/svg' ", 1))  # noqa: S314
    texts = [text.text for text in svg.iter("{http://www.w3.org/2000/svg}text") if text.get("text-anchor") == "middle"]
    assert texts == labels


def test_a_timeline_without_bars_is_drawn() -> None:
    """Nothing ran: no division by nothing."""
    for lanes in ([], [("lane", [])], [("lane", [Bar(0, 0, "#fff")])]):
        ElementTree.fromstring(Timeline("Nothing ran", lanes)._repr_html_())  # noqa: S314


def test_a_picture_is_told_in_words_as_well() -> None:
    """A log has no eyes; the picture itself is the same each time."""
    pictures = []
    for _ in range(2):
        made, axes = figure(3, 2)
        axes.plot([1, 2], [3, 4])
        pictures.append(Picture.of(made, "from 3 to 4"))
    assert repr(pictures[0]) == "from 3 to 4"
    assert pictures[0]._repr_png_().startswith(b"\x89PNG")
    assert pictures[0].png == pictures[1].png
