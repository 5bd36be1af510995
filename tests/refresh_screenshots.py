"""Make the pictures of docs/pictures anew: a release, a backfill and a swap by hand in JupyterLab, and their pages.

Run it with chromium installed, and look at each picture: it is what operators see.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from browser import Browser, Tab, lab_at
from pgrunbook.branches.server import Server
from pgrunbook.record import run as runs
from pgrunbook.record.run import WORK, Run
from pgrunbook.runner import runbook
from pgrunbook.seal import report, run_index

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
MOST_BYTES, COLOURS = 60_000, 256
TARGETS = '[shop]\nserver = "main"\ndatabase = "shop"\nmigrations = "migrations"\n'
SHOP = """
CREATE TABLE orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer int NOT NULL, total numeric, cents int,
    note text);
CREATE TABLE items (id int PRIMARY KEY, order_id int NOT NULL REFERENCES orders);
INSERT INTO orders (customer, total, note) SELECT n % 50, n / 7.0, 'o' || n FROM generate_series(1, 150000) AS n;
INSERT INTO items SELECT n, n FROM generate_series(1, 500) AS n;
CREATE INDEX orders_customer ON orders (customer);
ANALYZE;
"""
MIGRATIONS = {
    "0001_index.sql": "CREATE INDEX orders_note ON orders (note);\n",
    "0002_lines.sql": "ALTER TABLE items RENAME TO lines;\n",
}
SWAP = "ALTER TABLE {table} ALTER COLUMN id TYPE bigint"


def main() -> None:
    """Make all pictures."""
    PICTURES.mkdir(exist_ok=True)
    with shop() as folder, lab_at(folder / "outputs", folder) as browser:
        prepared = runbook.start("release", "shop", {"with_data": "false"})
        tab = opened(browser, prepared, "01-prepare.ipynb")
        tab.run_all()
        keep("verdict", tab.picture_of("verdict", ".jp-OutputArea"))
        tab.close()

        filled = runbook.start("backfill", "shop", {"table": "orders", "fill": '{"cents": "round(total * 100)"}'})
        tab = opened(browser, filled, "01-backfill.ipynb")
        tab.run(*begun("plan-the-batches", "look-at-the-rows", "keep-in-sync"))
        tab.ask("fill-the-rows")
        tab.wait_for("fill-the-rows", "rows a second")
        keep("backfill", tab.picture_of("fill-the-rows"))
        tab.run("prove-it", "let-go", "over-time", "verdict")
        tab.close()

        swapped = runbook.start("swap", "shop", {"table": "public.orders", "shape": SWAP})
        tab = opened(browser, swapped, "01-swap.ipynb")
        tab.run(*begun("what-hangs", "try-the-shape", "make-and-fill", "cut-over"))
        keep("cut-over", tab.picture_of("cut-over"))
        tab.run("settle", "end-it", "verdict")
        tab.close()

        misspelt = runbook.start("backfill", "shop", {"table": "orders", "fill": '{"cent": "round(total * 100)"}'})
        tab = opened(browser, misspelt, "01-backfill.ipynb")
        tab.run(*begun("plan-the-batches"))
        tab.close()
        keep("steps", browser.picture_of(f"pgrunbook/runs/{misspelt.run_id}", 620))

        keep("report", browser.picture_of(report.write(runs.load(filled.folder)).as_uri(), 800))
        keep("index", browser.picture_of(run_index.write(folder / "outputs").as_uri(), 520))


def begun(*steps: str) -> list[str]:
    """Return the cells above the first step of a notebook, and these behind them."""
    return ["parameters", "injected-parameters", "set-up", "meet-the-target", *steps]


def opened(browser: Browser, made: Run, notebook: str) -> Tab:
    """Open a working copy of a run."""
    return browser.open(f"{made.run_id}/{WORK}/{notebook}")


def keep(name: str, png: bytes) -> None:
    """Keep a picture with few colours."""
    path = PICTURES / f"{name}.png"
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    image.save(path, optimize=True)
    size = path.stat().st_size
    sys.stdout.write(f"{path.name}: {image.width} x {image.height}, {size:,} bytes\n")
    if size > MOST_BYTES:
        raise SystemExit(f"{path.name} is larger than {MOST_BYTES:,} bytes")


@contextmanager
def shop() -> Iterator[Path]:
    """A database of orders on a server of its own, as target ``shop``; give the folder of all that is made."""
    with tempfile.TemporaryDirectory(prefix="pgrb-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # as root the server runs as another account
        (folder / "outputs").mkdir()
        (folder / "migrations").mkdir()
        (folder / "targets.toml").write_text(TARGETS)
        for file, text in MIGRATIONS.items():
            (folder / "migrations" / file).write_text(text)
        chosen = {"STATE": "state", "OUTPUTS": "outputs", "TARGETS": "targets.toml"}
        os.environ |= {f"PGRUNBOOK_{key}": str(folder / value) for key, value in chosen.items()}
        os.environ["PGRUNBOOK_HOME"] = str(Path(__file__).parents[1])
        server = Server("main")
        server.start()
        try:
            with server.connect(purpose="pictures") as conn:
                conn.execute("CREATE DATABASE shop")
            with server.connect(database="shop", purpose="pictures") as conn, conn.as_target():
                conn.execute(SHOP.encode())
            yield folder
        finally:
            server.destroy()


if __name__ == "__main__":
    main()
