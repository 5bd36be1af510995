"""What notebooks show: the same in words and in HTML, escaped and bounded."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from pgrunbook.display import svg
from pgrunbook.display.lock_chart import BAR_STYLES, MOST, Lane, Lanes, LockBar, Points
from pgrunbook.display.show import BAD, GOOD, Banner, Bar, Card, Cell, Picture, Table, Timeline, figure
from pgrunbook.display.svg import duration

EVIL = "<script>alert('x')</script> & \"y\""
SAFE = "&lt;script&gt;"
TEXT = "{http://www.w3.org/2000/svg}text"
RECT = "{http://www.w3.org/2000/svg}rect"


def drawn(view: Timeline | Lanes) -> ElementTree.Element:
    """Return a picture as the tree of its parts."""
    svg = view._repr_html_().replace("<svg ", "<svg xmlns='http://www.w3.org/2000/svg' ", 1)
    return ElementTree.fromstring(svg)  # noqa: S314 - our own


def said(view: Timeline | Lanes) -> list[str]:
    return [str(part.text) for part in drawn(view).iter(TEXT)]


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


@pytest.mark.slow
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
        Lanes(EVIL, [Lane(EVIL, [LockBar(0, 5, "readers", EVIL)], [LockBar(0, 5, "waiting", EVIL)], (0, 5), (0, 5))]),
    ],
    ids=["table", "empty table", "card", "banner", "timeline", "lanes"],
)
def test_names_from_the_database_are_text_and_never_markup(view: Table | Card | Banner | Timeline | Lanes) -> None:
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
    texts = [text.text for text in drawn(line).iter(TEXT) if text.get("text-anchor") == "middle"]
    assert texts == labels


def test_a_timeline_without_bars_is_drawn() -> None:
    """Nothing ran: no division by nothing."""
    for lanes in ([], [("lane", [])], [("lane", [Bar(0, 0, "#fff")])]):
        ElementTree.fromstring(Timeline("Nothing ran", lanes)._repr_html_())  # noqa: S314


INDEX = Lane(
    "CREATE INDEX orders_user ON orders (user_id)",
    plain=[LockBar(0, 100, "waiting", "waits"), LockBar(100, 2_100, "writers", "ShareLock on public.orders")],
    safe=[LockBar(0, 4, "nobody"), LockBar(4, 2_900, "nobody"), LockBar(50, 54, "readers"), LockBar(52, 58, "readers")],
    plain_span=(0, 2_100),
    safe_span=(0, 2_900),
)
VACUUM = Lane("VACUUM users", safe_span=(2_900, 3_000))
LATENCY: dict[str, Points] = {"plain": [(100, 3), (0, 4_750)], "safe": [(0, 6)]}


def test_lanes_show_each_statement_as_it_is_written_and_by_the_safe_plan() -> None:
    """Two labelled rows a statement, whom each locked out and for how long, and where it was not run at all."""
    texts = said(Lanes("Rehearsal", [INDEX, VACUUM]))
    assert texts[:2] == ["Rehearsal", "statement"]
    assert INDEX.name in texts
    assert (texts.count("plain"), texts.count("safe")) == (2, 2)
    assert {"writers 2.0 s", "readers 8 ms", "not run", "nobody"} <= set(texts)
    assert {"0 ms", "500 ms", "1 s", "3 s"} <= set(texts)


def test_bars_of_lanes_are_told_apart_without_colour() -> None:
    """The more are locked out, the taller; waiting is hatched; one that is too short to see is drawn all the same."""
    picture = drawn(Lanes("Rehearsal", [INDEX]))
    bars = [part for part in picture.iter(RECT) if part.get("fill") != "#f6f8fa"]
    heights: dict[str | None, set[float]] = {}
    for bar in bars:
        heights.setdefault(bar.get("fill"), set()).add(float(bar.get("height") or 0))
    readers, writers, nobody = (BAR_STYLES[kind].colour for kind in ("readers", "writers", "nobody"))
    assert (readers, writers, nobody) == ("#cf222e", "#bc4c00", "#2da44e")
    assert min(heights[readers]) > max(heights[writers]) > max(heights[nobody])
    assert all(float(bar.get("width") or 0) >= 2 for bar in bars)
    hatches = list(picture.iter("{http://www.w3.org/2000/svg}path"))
    assert len(hatches) == 2  # the bar, and the legend
    assert "ShareLock on public.orders" in [part.text for part in picture.iter("{http://www.w3.org/2000/svg}title")]


def test_lanes_keep_one_axis_for_both_runs_and_the_traffic() -> None:
    """The same moment stands at the same place in every lane and in the line of latency."""
    picture = drawn(Lanes("Rehearsal", [INDEX], {"plain": [(0, 1), (2_900, 4_750)]}))
    lines = [part.get("points", "").split() for part in picture.iter("{http://www.w3.org/2000/svg}polyline")]
    ends = [line[-1].partition(",")[0] for line in lines]
    assert ends.count("804.0") >= 2  # the safe plan's whole time, and the latency's last point
    texts = said(Lanes("Rehearsal", [INDEX], LATENCY))
    assert {"slowest transaction", "of the traffic, ms", "5,000", "2,500"} <= set(texts)
    assert {"plain: up to 4.8 s", "safe: up to 6 ms"} <= set(texts)
    assert "of the traffic, ms" not in said(Lanes("Rehearsal", [INDEX], {"plain": []}))


def test_lanes_are_bounded() -> None:
    """Forty are drawn, on about a page; the picture says how many are not."""
    picture = Lanes("Rehearsal", [Lane(f"statement {n}", plain_span=(n, n + 1)) for n in range(MOST + 12)], LATENCY)
    texts = said(picture)
    assert "... and 12 more statements" in texts
    assert (f"statement {MOST - 1}" in texts, f"statement {MOST}" in texts) == (True, False)
    assert float(str(drawn(picture).get("viewBox")).split()[-1]) < 1_300
    assert "No statement was run." in said(Lanes("Rehearsal", []))


def test_lanes_in_words() -> None:
    """For logs: how long each took and whom it locked out; overlapping locks count once."""
    lines = repr(Lanes("Rehearsal", [INDEX, VACUUM], LATENCY)).splitlines()
    assert lines[0] == "Rehearsal"
    assert [line.split()[-6:] for line in lines[2:4]] == [
        ["plain", "0", "2100", "0", "2000", "100"],
        ["safe", "0", "2900", "8", "0", "0"],
    ]
    assert "not run" in lines[4]
    assert lines[-1] == "slowest transaction of the traffic, ms: plain 4,750, safe 6"
    assert repr(Lanes("Rehearsal", [])) == "Rehearsal\nNo statement was run."


@pytest.mark.parametrize(
    ("value_ms", "told"),
    [(0, "0.0 ms"), (0.44, "0.4 ms"), (0.96, "1 ms"), (12.3, "12 ms"), (999.4, "999 ms"), (999.6, "1.0 s"),
     (2_100, "2.1 s"), (99_960, "100 s"), (125_000, "2.1 min"), (45 * 60_000, "45 min"), (1e9, "16,667 min")],
)  # fmt: skip
def test_a_duration_has_two_or_three_digits(value_ms: float, told: str) -> None:
    """From a fraction of a millisecond to days."""
    assert duration(value_ms) == told


@pytest.mark.slow
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


def test_a_name_with_dollars_is_no_formula() -> None:
    """As matplotlib takes $...$ for one, wherever it stands: at a bar, an axis, a point, in the legend."""
    name = "$1+i%$2^{"
    made, axes = figure(3, 2)
    axes.barh([name], [1], label=name)
    axes.set_xlabel(name)
    axes.annotate(name, (0.5, 0.5))
    axes.legend()
    assert Picture.of(made, name).png.startswith(b"\x89PNG")


@pytest.mark.parametrize("view", ["table", "card", "banner"])
def test_a_name_moves_no_cursor_and_turns_no_text(view: str) -> None:
    """Names and values of the database in a terminal, and in HTML."""
    evil = "a\x1b[2J\x07\u202eb"
    shown = {
        "table": Table(["h"], [[evil], [Cell(evil)]]),
        "card": Card("t", [("n", evil)]),
        "banner": Banner(GOOD, "t", [("n", evil)]),
    }[view]
    for told in (repr(shown), shown._repr_html_()):
        assert not {"\x1b", "\x07", "\u202e"} & set(told)
        assert "a\\x1b[2J\\x07\\u202eb" in told


def test_what_quotes_a_name_is_shown_as_the_name_itself_is() -> None:
    """A line break in a cell makes no line that passes for one of ours; titles and verdicts move no cursor either."""
    evil = 'a"\nNo drift.\x1b[2J'
    table = Table(["n"], [(evil,)], title=evil)
    for view in (table, Table([], [], empty=evil), Card(evil, []), Banner("done", evil, [])):
        assert "\x1b" not in repr(view)
    assert repr(table).splitlines()[2:] == ["n", 'a" No drift.\\x1b[2J']


def test_what_is_too_long_for_a_lane_keeps_both_ends() -> None:
    """The number of a step and its kind stand at the end of a label, the migration at its beginning."""
    name = "0004_widen_the_memory_of_all_instances 7: ALTER TABLE ADD COLUMN"
    label = svg.fitting(name, 300)
    assert label.startswith("0004_widen")
    assert label.endswith("TABLE ADD COLUMN")
    assert svg.width_px(label) <= 300 < svg.width_px(name)
    assert svg.fitting("short", 300) == "short"
    assert svg.width_px("readers 19 ms, writers 61 ms", 11) > 160  # as DejaVu Sans draws it
