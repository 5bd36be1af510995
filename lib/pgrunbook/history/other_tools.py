"""The migration tools that pgrunbook recognises and does not read: their folders and history tables, and the way."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from pgrunbook.errors import WrongInput
from pgrunbook.history.files import read_bytes
from pgrunbook.history.table import Shape
from pgrunbook.sql.values_lists import shortened

MOST_BYTES = 1_000_000  # of a file that may tell whose folder it is
REVIEW = "pgrunbook review checks its files"


@dataclass(frozen=True)
class OtherTool:
    """A tool by its folder and tables; ``way`` is what its team does until pgrunbook reads it.

    ``files`` is found in the path of a file in the folder, ``text`` in that file ("" for any).
    """

    name: str
    way: str
    shapes: tuple[Shape, ...] = ()
    files: str = ""
    text: str = ""

    def sign(self, folder: Path, paths: list[str]) -> str | None:
        """Return the path in the folder, of those given, by which the folder is the tool's, None when it is not."""
        if not self.files:
            return None
        of_form = (path for path in paths if re.search(self.files, path, re.ASCII))
        return next((path for path in of_form if not self.text or self._says(folder, path)), None)

    def _says(self, folder: Path, path: str) -> bool:
        if (folder / path).stat().st_size > MOST_BYTES:
            return False
        text = read_bytes(folder / path, folder).decode("utf-8", "replace")
        return re.search(self.text, shortened(text).text, re.M) is not None


def paths_below(folder: Path) -> list[str]:
    """Return the files in a folder and in the folders in it, by name, as paths from it; hidden ones, links not."""
    found = []
    for entry in os.scandir(folder):
        if entry.name.startswith(".") or entry.name == "node_modules" or entry.is_symlink():
            continue
        if entry.is_file():
            found.append(entry.name)
        elif entry.is_dir():
            below = (one for one in os.scandir(entry.path) if one.is_file() and not one.is_symlink())
            found += [f"{entry.name}/{one.name}" for one in below]
    return sorted(found)


def refuse(folder: Path) -> None:
    """Raise WrongInput where the folder is that of a tool that pgrunbook recognises and does not read."""
    paths = paths_below(folder)
    for tool in OTHER_TOOLS:
        sign = tool.sign(folder, paths)
        if sign is not None:
            raise WrongInput(
                f"{folder} is a migrations folder of {tool.name}, which pgrunbook does not read",
                detail=f"It has {sign}.",
                hint=tool.way,
            )


def _applied_by(command: str) -> str:
    return f"Apply it with {command}; {REVIEW}."


def _by_program(command: str) -> str:
    return f"Apply it with {command}: its migrations are no SQL files, which pgrunbook could check."


def _as_sql(how: str, after: str) -> str:
    return f"{how} Put that into a folder of NNNN_name.sql and release it from there; then {after}."


OTHER_TOOLS = (
    OtherTool(
        "Alembic",
        _as_sql('"alembic upgrade FROM:TO --sql" prints its SQL.', '"alembic stamp TO", unless that SQL did it'),
        (Shape("alembic_version", "version_num"),),
        r"(^|^versions/)(env\.py|script\.py\.mako|[^/]+\.py)$",
        r"\bdown_revision\b|\bfrom alembic\b|\balembic\b.*\bcontext\b",
    ),
    OtherTool(
        "Django",
        _as_sql('"manage.py sqlmigrate APP NAME" prints its SQL.', '"manage.py migrate --fake APP NAME"'),
        (Shape("django_migrations", "id app name applied"),),
        r"^\d{4}_\w+\.py$",
        r"\bmigrations\.Migration\b|\bdjango\b",
    ),
    OtherTool(
        "Rails",
        _as_sql("Rails prints the SQL of a migration in its log.", "insert its version into schema_migrations"),
        (Shape("schema_migrations", "version", beside="ar_internal_metadata"),),
        r"^\d+_\w+\.rb$",
        r"\bActiveRecord::Migration\b",
    ),
    OtherTool(
        "Sequel",
        _by_program("sequel -m"),
        (Shape("schema_info", "version"), Shape("schema_migrations", "filename")),
        r"^\d+_\w+\.rb$",
        r"\bSequel\.migration\b",
    ),
    OtherTool(
        "Ecto",
        _as_sql('"mix ecto.migrate --log-migrations-sql" prints its SQL.', "insert its version into schema_migrations"),
        (Shape("schema_migrations", "version inserted_at"),),
        r"^\d+_\w+\.exs$",
    ),
    OtherTool(
        "Laravel",
        _as_sql('"artisan migrate --pretend" prints its SQL.', "insert its name into the table migrations"),
        (Shape("migrations", "id migration batch"),),
        r"^\d{4}_\d\d_\d\d_\d+_\w+\.php$",
    ),
    OtherTool(
        "Doctrine",
        _as_sql('"doctrine:migrations:migrate --write-sql" writes its SQL.', '"doctrine:migrations:version --add"'),
        (Shape("doctrine_migration_versions", "version executed_at"),),
        r"(^|/)Version\d+\.php$",
    ),
    OtherTool(
        "Phinx", _by_program("phinx migrate"), (Shape("phinxlog", "version migration_name"),), r"^\d{14}_\w+\.php$"
    ),
    OtherTool(
        "Entity Framework",
        _as_sql('"dotnet ef migrations script FROM TO" prints its SQL.', "nothing: it writes __EFMigrationsHistory"),
        (Shape("__EFMigrationsHistory", "MigrationId ProductVersion"), Shape("__efmigrationshistory", "migration_id")),
        r"^\d{14}_\w+\.cs$",
    ),
    OtherTool(
        "TypeORM",
        _as_sql('"typeorm migration:show" names them, and its log prints the SQL.', '"typeorm migration:run --fake"'),
        (Shape("migrations", "id timestamp name"), Shape("typeorm_migrations", "id timestamp name")),
        r"^\d+-\w+\.(ts|js)$",
        r"\bMigrationInterface\b|\bqueryRunner\b",
    ),
    OtherTool(
        "Sequelize",
        _by_program("sequelize-cli db:migrate"),
        (Shape("SequelizeMeta", "name"),),
        r"^\d+-[\w-]+\.(c?js|ts)$",
        r"\bqueryInterface\b",
    ),
    OtherTool(
        "Knex",
        _by_program("knex migrate:latest"),
        (Shape("knex_migrations", "id name batch migration_time"),),
        r"^\d[\w-]*\.(c?js|mjs|ts)$",
        r"(?i:\bknex\b)",
    ),
    OtherTool(
        "Kysely",
        _by_program("Kysely's own Migrator"),
        (Shape("kysely_migration", "name timestamp"),),
        r"^\d[\w-]*\.(ts|js)$",
        r"\bKysely\b|\bkysely\b",
    ),
    OtherTool(
        "MikroORM",
        _by_program("mikro-orm migration:up"),
        (Shape("mikro_orm_migrations", "id name executed_at"),),
        r"^Migration\d+\w*\.(ts|js)$",
    ),
    OtherTool(
        "db-migrate",
        _by_program("db-migrate up"),
        (Shape("migrations", "id name run_on"),),
        r"^\d+-[\w-]+\.js$",
        r"\bdb-migrate\b|\bdbmigrate\b|exports\._meta",
    ),
    OtherTool(
        "Flyway before 5", _applied_by("flyway migrate of version 5, which renames its table"),
        (Shape("schema_version", "installed_rank version script checksum"),),
    ),
    OtherTool(
        "refinery",
        _applied_by("refinery migrate"),
        (Shape("refinery_schema_history", "version name applied_on checksum"),),
    ),
    OtherTool(
        "Hasura", _applied_by("hasura migrate apply"), (Shape("hdb_version", "hasura_uuid", schema="hdb_catalog"),),
        r"^\d{13}_[^/]+/up\.sql$",
    ),
    OtherTool(
        "Liquibase",
        _as_sql('"liquibase update-sql" prints its SQL.', '"liquibase changelog-sync"'),
        (Shape("databasechangelog", "id author filename md5sum"), Shape("DATABASECHANGELOG", "ID AUTHOR FILENAME")),
        r"\.(xml|ya?ml|json|sql)$",
        r"databaseChangeLog|(?i:^--\s*liquibase\s+formatted\s+sql)",
    ),
    OtherTool(
        "sqitch",
        _as_sql("Its scripts are SQL for psql, in deploy/.", '"sqitch deploy --log-only"'),
        (Shape("changes", "change_id script_hash project", schema="sqitch"),),
        r"^sqitch\.plan$|\.sql$",
        r"^%project=|^\S+ .*T\d\d:\d\d:\d\dZ \S|^--\s*(Deploy|Revert|Verify)\s\S+\s(to|from|on)\s(pg|cockroach)\b",
    ),
    OtherTool(
        "sql-migrate", _applied_by("sql-migrate up"), (Shape("gorp_migrations", "id applied_at"),),
        r"\.sql$", r"^--\s*\+migrate\s",
    ),
    OtherTool(
        "rambler", _applied_by("rambler apply"), (Shape("migrations", "migration"),), r"\.sql$", r"^--\s*rambler\s"
    ),
    OtherTool(
        "MyBatis Migrations", _applied_by("migrate up"), (Shape("changelog", "id applied_at description"),),
        r"\.sql$", r"(?i:^--\s*//\s*@undo)",
    ),
    OtherTool(
        "tern", _applied_by("tern migrate"), (Shape("schema_version", "version"),),
        r"\.sql$|^tern\.conf$", r"----\s*create above\s*/\s*drop below\s*----|\[database\]",
    ),
    OtherTool(
        "yoyo", _applied_by("yoyo apply"), (Shape("_yoyo_migration", "migration_hash migration_id"),),
        r"\.rollback\.sql$",
    ),
    OtherTool("yoyo", _applied_by("yoyo apply"), (), r"\.(py|sql)$", r"^\s*from yoyo\b|^--\s*depends:"),
    OtherTool(
        "pgroll",
        _by_program("pgroll migrate"),
        (Shape("migrations", "schema name migration", schema="pgroll"),),
        r"\.(json|ya?ml)$",
        r"\"?operations\"?\s*:",
    ),
    OtherTool(
        "reshape", _by_program("reshape migrate"), (Shape("migrations", "index id", schema="reshape"),),
        r"\.(toml|json)$", r"\[\[?actions\]?\]|\"actions\"",
    ),
    OtherTool(
        "graphile-migrate",
        _applied_by("graphile-migrate migrate"),
        (Shape("migrations", "hash previous_hash filename", schema="graphile_migrate"),),
        r"(^|/)(committed/\d+|current)[\w-]*\.sql$",
    ),
    OtherTool(
        "Postgrator", _applied_by("postgrator"), (Shape("schemaversion", "version name md5"),),
        r"^\d+\.(un)?do(\.[^/]*)?\.sql$",
    ),
    OtherTool("postgres-migrations", _applied_by("pg-migrate"), (Shape("migrations", "id name hash executed_at"),)),
    OtherTool("DbUp", _applied_by("its own program"), (Shape("schemaversions", "scriptname applied"),)),
    OtherTool(
        "Play Evolutions", _applied_by("the Play application"), (Shape("play_evolutions", "id hash apply_script"),),
        r"^\d+\.sql$", r"^(#|--)[\s-]*!Ups",
    ),
    OtherTool("Morph (Mattermost)", _applied_by("its own program"), (Shape("db_migrations", "version name"),)),
    OtherTool(
        "shmig", _applied_by("shmig migrate"), (Shape("shmig_version", "version migrated_at"),),
        r"\.sql$", r"(?i:^--\s*=+\s*up\s*=+)",
    ),
)  # fmt: skip
