"""Rebuilds packages/database/migrations with the real drizzle-kit; needs node, npm and the npm registry.

`schema/` holds the final schema, so the way there is told backwards: each migration below lists the lines
that it adds to `schema/`, as (file, line after, line before). In a temporary directory:

1. For each migration in order, take the final schema, undo the lines of all later migrations,
   and let `drizzle-kit generate` write the files of this one.
2. Carry over what is written by hand: the statements of the custom migration, and the down scripts.
3. Replace the times in the journal and the ids of the snapshots, which drizzle-kit draws anew in every run,
   by constants: the same schema gives the same bytes, and `git diff` shows what really changed.
4. Replace the migrations folder.
"""

import json
import re
import shutil
import subprocess
import tempfile
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pexpect

PACKAGE = Path(__file__).parent / "packages" / "database"
GENERATE_TIMEOUT_S = 60
DOWN_AND_ENTER = "\x1b[B\r"


@dataclass(frozen=True)
class Migration:
    """One entry of the migrations folder, and what it changes in `schema/`."""

    tag: str
    generated_at: datetime
    changes: tuple[tuple[str, str, str], ...] = ()
    custom: bool = False

    @property
    def name(self) -> str:
        """The tag without its number, as `drizzle-kit generate --name` takes it."""
        return self.tag.split("_", 1)[1]


MIGRATIONS = (
    Migration("0000_init", datetime(2026, 9, 1, 9, tzinfo=UTC)),
    Migration(
        "0001_add_live_projects_view",
        datetime(2026, 9, 8, 9, tzinfo=UTC),
        changes=(("index.ts", 'export * from "./liveProjects";\n', ""),),
    ),
    Migration(
        "0002_add_audit_logs",
        datetime(2026, 10, 6, 9, tzinfo=UTC),
        changes=(
            ("index.ts", 'export * from "./auditLogs";\n', ""),
            ("projects.ts", '    description: text("description"),\n', ""),
            ("projects.ts", '    index("idx_projects_org_id").on(table.orgId),\n', ""),
        ),
    ),
    Migration("0003_fill_status_and_config", datetime(2026, 10, 7, 9, tzinfo=UTC), custom=True),
    Migration(
        "0004_widen_memory_rename_ip",
        datetime(2026, 10, 8, 9, tzinfo=UTC),
        changes=(
            ("instances.ts", 'bigint("memory", { mode: "number" })', 'integer("memory")'),
            ("nodes.ts", 'internalIp: text("internal_ip")', 'ipAddress: text("ip_address")'),
        ),
    ),
)


def regenerate() -> None:
    """Replace the migrations folder by what drizzle-kit makes of the schema now."""
    with tempfile.TemporaryDirectory(prefix="zeitwork-") as directory:
        workspace = Path(directory)
        for file in ("package.json", "package-lock.json", "drizzle.config.ts"):
            shutil.copy(PACKAGE / file, workspace)
        subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit"], cwd=workspace, check=True)
        for number, migration in enumerate(MIGRATIONS):
            _write_schema_before(MIGRATIONS[number + 1 :], workspace / "schema")
            _generate(migration, workspace)
        _carry_over_handwritten(workspace / "migrations")
        _make_reproducible(workspace / "migrations")
        shutil.rmtree(PACKAGE / "migrations", ignore_errors=True)
        shutil.copytree(workspace / "migrations", PACKAGE / "migrations")


def _write_schema_before(later: tuple[Migration, ...], schema: Path) -> None:
    """Write the schema as it was before the `later` migrations."""
    shutil.copytree(PACKAGE / "schema", schema, dirs_exist_ok=True)
    for file, after, before in (change for migration in later for change in migration.changes):
        text = (schema / file).read_text(encoding="utf-8")
        if (times := text.count(after)) != 1:
            raise SystemExit(f"cannot undo {after!r}: schema/{file} holds it {times} times, not once")
        (schema / file).write_text(text.replace(after, before), encoding="utf-8")


def _generate(migration: Migration, workspace: Path) -> None:
    """Run drizzle-kit in a terminal: all it asks is whether a column is new (first choice) or renamed."""
    arguments = ["generate", f"--name={migration.name}", *(["--custom"] if migration.custom else [])]
    kit = pexpect.spawn(
        str(workspace / "node_modules" / ".bin" / "drizzle-kit"),
        arguments,
        cwd=workspace,
        encoding="utf-8",
        timeout=GENERATE_TIMEOUT_S,
        dimensions=(40, 160),
    )
    while kit.expect(["rename column", pexpect.EOF]) == 0:
        kit.send(DOWN_AND_ENTER)
        kit.expect("rename column")  # the choices are drawn again, now with the second one marked
    kit.close()
    if not (workspace / "migrations" / f"{migration.tag}.sql").exists():
        raise SystemExit(f"could not generate {migration.tag}: drizzle-kit said\n{kit.before}")


def _carry_over_handwritten(migrations: Path) -> None:
    custom = [PACKAGE / "migrations" / f"{migration.tag}.sql" for migration in MIGRATIONS if migration.custom]
    for file in [*custom, *(PACKAGE / "migrations").glob("*.down.sql")]:
        if file.exists():
            shutil.copy(file, migrations)


def _make_reproducible(migrations: Path) -> None:
    ids = {}
    for number, migration in enumerate(MIGRATIONS):
        snapshot = migrations / "meta" / f"{number:04}_snapshot.json"
        text = snapshot.read_text(encoding="utf-8")
        ids[json.loads(text)["id"]] = str(uuid.uuid5(uuid.NAMESPACE_OID, migration.tag))
        for drawn, fixed in ids.items():
            text = text.replace(drawn, fixed)
        snapshot.write_text(text, encoding="utf-8")
    journal = migrations / "meta" / "_journal.json"
    times = iter(migration.generated_at for migration in MIGRATIONS)
    journal.write_text(
        re.sub(
            r'(?<="when": )\d+',
            lambda _: str(int(next(times).timestamp() * 1000)),
            journal.read_text(encoding="utf-8"),
        ),
        encoding="utf-8",
    )


if __name__ == "__main__":
    regenerate()
