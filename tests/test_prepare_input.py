"""Bad input to prepare: one error that names file and line, or the work done; the database is as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import do, rows
from pgrunbook.config.targets import Target
from pgrunbook.errors import WrongInput
from pgrunbook.procedures import prepare
from pgrunbook.session import session as heres
from pgrunbook.session.session import Session

Project = Callable[..., Target]

FILE = "0002_a.sql"
LONG = "n" * 200
LINE_2 = f"{FILE}, line 2: "
PSQL = "Commands that begin with \\ are psql's own"
# What a second file holds, and what the error tells; by kind.
REFUSED: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "a byte that is not UTF-8": (b"-- caf\xe9", (f"/{FILE} is not UTF-8", "Byte 16 (0xe9, line 2)")),
    "UTF-16": ("SELECT 1;".encode("utf-16-le"), (LINE_2 + "holds a zero byte", "save a file in UTF-16 as UTF-8")),
    "a zero byte": (b"SELECT '\0'", (LINE_2 + "holds a zero byte",)),
    "a command of psql": (b"\\connect other", (LINE_2, "The line is: \\connect other", PSQL)),
    "a command of psql behind a statement": (b"SELECT 1 \\gexec", (LINE_2, PSQL)),
    "a command of pg_dump": (b"\\restrict abc", (LINE_2, PSQL)),
    "a variable of psql": (b"SELECT :'x'", (LINE_2, "A name behind a colon is a variable of psql")),
    "rows for COPY": (b"COPY t FROM STDIN;\n1\n\\.", (LINE_2 + "COPY FROM STDIN cannot run from a migration file",)),
    "what no server knows": (b"ALTER TABLE t FROBNICATE", (LINE_2 + 'syntax error at or near "FROBNICATE"',)),
    "lines that end as on Windows": (b"SELECT 2;\r\nSELEKT 3", (f"{FILE}, line 3: ", "The line is: SELEKT 3")),
    "a constant without an end": (b"SELECT 'a;\nSELECT 3", (LINE_2 + "unterminated quoted string",)),
    "a body without an end": (b"DO $$ BEGIN END;\nSELECT 3", (LINE_2 + "unterminated dollar-quoted string",)),
    "a comment without an end": (b"/* a\nSELECT 3", (LINE_2 + "unterminated /* comment",)),
    "a transaction of a part": (b"BEGIN; LOCK t; COMMIT", (LINE_2 + "a migration cannot hold BEGIN, COMMIT",)),
}  # fmt: skip
LAID: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "a second file of the number": (
        lambda folder: (folder / "0001_b.sql").write_text("SELECT 1"),
        ("two migrations have the number 1", "0001_b.sql"),
    ),
    "a folder of such a name": (lambda folder: (folder / FILE).mkdir(), (f"/{FILE}", "It is no file")),
    "a link to itself": (lambda folder: (folder / FILE).symlink_to(FILE), (f"/{FILE}", "Too many levels of symbolic")),
    "a link to nothing": (lambda folder: (folder / FILE).symlink_to("gone"), (f"/{FILE}", "No such file")),
    "a name in capitals": (
        lambda folder: (folder / "0002_a.SQL").write_text("SELECT 1;\nSELEKT 2"), ("0002_a.SQL, line 2: ",),
    ),
    "a name of 200 characters": (
        lambda folder: (folder / f"0002_{LONG}.sql").write_text(f"SELECT 1;\nSELECT {LONG} {LONG} x"),
        (f"0002_{LONG}.sql, line 2: ",),
    ),
}  # fmt: skip


@pytest.fixture
def prepared(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Session]]:
    """Give a function that executes prepare's cells on a target with one migration, up to its judgement."""
    target = project(folder={"0001_t.sql": "CREATE TABLE IF NOT EXISTS t (id integer);"}, name="demo")
    do(target, "CREATE TABLE t (id integer)")
    monkeypatch.chdir(tmp_path)

    def execute() -> Session:
        heres._end_earlier()
        here = prepare.begin(target="demo")
        for cell in (prepare.meet_the_target, prepare.what_is_pending, prepare.what_will_it_do):
            cell(here)
        return here

    yield execute
    heres._end_earlier()


@pytest.mark.slow
def test_what_cannot_be_read_is_one_error_with_file_and_line(
    prepared: Callable[[], Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind in turn; the error says what state the database is in, and what to do."""
    folder = tmp_path / "migrations-demo"

    def plant(text: bytes) -> Callable[[Path], object]:
        return lambda folder: (folder / FILE).write_bytes(b"SELECT 1;\n" + text + b"\n;")

    kinds = {**{kind: (plant(text), told) for kind, (text, told) in REFUSED.items()}, **LAID}
    for kind, (lay, told) in kinds.items():
        before = set(folder.iterdir())
        lay(folder)
        with pytest.raises(WrongInput) as caught:
            prepared()
        for word in (*told, "State: Nothing changed in the database.", "Hint: "):
            assert word in str(caught.value), f"{kind}: {caught.value}"
        for path in set(folder.iterdir()) - before:
            path.rmdir() if path.is_dir() else path.unlink()
        monkeypatch.chdir(tmp_path)


def test_what_looks_odd_and_is_whole_is_judged(prepared: Callable[[], Session], tmp_path: Path) -> None:
    """An empty file, comments alone, semicolons, a byte order mark, line ends of Windows; a name that is cut to 63."""
    folder = tmp_path / "migrations-demo"
    texts = (b"", b"-- none\n/* here */\n", b";;\n;", b"\xef\xbb\xbfSELECT 1;\n", b"SELECT 1;\r\nSELECT 2;\r\n",
             f"CREATE TABLE {LONG} (id integer);".encode())  # fmt: skip
    for number, text in enumerate(texts, 2):
        (folder / f"{number:04}_{LONG}.sql").write_bytes(text)
    here = prepared()
    assert len(here.facts["history"].pending()) == len(texts) + 1
    assert rows(here.target, "SELECT count(*) FROM pg_class WHERE relname LIKE 'nnn%'") == [(0,)]
