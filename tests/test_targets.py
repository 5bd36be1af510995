"""targets.toml: what it may say, and what is refused of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pgrunbook.config import targets
from pgrunbook.config.targets import Target
from pgrunbook.errors import WrongInput
from scenes import error_of

STATE = "State: Nothing changed in the database."
SECRET_HINT = "Hint: Use service (with a passfile), or url_from with the name of an environment variable."  # noqa: S105
ONE_OF = (
    'target "demo" must name exactly one of server, service, url_from and planetscale\n'
    "Detail: {file} names none of them.\n{state}"
)
TWO_WRONG = (
    'target "demo" in {file} is not valid\n'
    "Detail: history: Input should be 'auto', 'drizzle', 'dbmate', 'plain', 'atlas', 'diesel', 'flyway', "
    "'golang-migrate', 'goose', 'node-pg-migrate', 'prisma', 'sqlx' or 'supabase'; "
    "attempts: Input should be greater than or equal to 1\n{state}"
)
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write targets.toml, and name it."""
    file = tmp_path / "targets.toml"
    monkeypatch.setenv("PGRUNBOOK_TARGETS", str(file))

    def put(text: str) -> Path:
        file.write_text(text)
        return file

    return put


def told(name: str = "demo") -> str:
    error = error_of(lambda: targets.load(name))
    assert isinstance(error, WrongInput)
    return str(error)


def test_folders_are_told_from_where_the_file_lies(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same from every working directory."""
    write('[demo]\nserver = "main"\nmigrations = "db/migrations"\n[b]\nserver = "b"\nmigrations = "/srv"\n')
    monkeypatch.chdir("/")
    assert [target.migrations for target in targets.load_all().values()] == [tmp_path / "db/migrations", Path("/srv")]


def test_each_way_to_reach_it(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedded server, a service, and an address in the environment."""
    write(
        '[a]\nserver = "main"\ndatabase = "z"\n[b]\nservice = "prod"\n[c]\nurl_from = "ADDRESS"\ndatabase = "other"\n'
    )
    monkeypatch.setenv("ADDRESS", "postgresql://h/db")
    a, b, c = (targets.load(name).conninfo() for name in "abc")
    assert (a["dbname"], a["user"]) == ("z", "postgres")
    assert a["host"].endswith("main")
    assert b == {"service": "prod"}
    assert c == {"conninfo": "postgresql://h/db", "dbname": "other"}
    assert set(targets.load_all()) == {"a", "b", "c"}


def test_an_environment_variable_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named, with the other way."""
    monkeypatch.delenv("ADDRESS", raising=False)
    assert str(error_of(Target(name="prod", url_from="ADDRESS").conninfo)) == (
        'could not find the address of target "prod"\n'
        "Detail: The environment variable ADDRESS is not set.\n"
        f"{STATE}\n"
        "Hint: Set it for this process, or name a libpq service in targets.toml instead."
    )


def test_a_target_that_is_not_declared(write: Write) -> None:
    """The declared ones are listed."""
    file = write('[b]\nserver = "main"\n[a]\nserver = "main"\n')
    assert told("prod") == (
        f'target "prod" is not declared\nDetail: {file} declares a, b.\n{STATE}\n'
        "Hint: Add a section [prod] to it, or correct the name."
    )
    write("")
    assert f"{file} declares no target." in told("prod")


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("[demo", "Expected ']' at the end of a table declaration (at end of document)"),
        ('[demo]\nserver = "a"\nserver = "b"\n', "Cannot overwrite a value (at line 3, column 13)"),
    ],
)
def test_a_file_that_is_not_toml(write: Write, text: str, detail: str) -> None:
    """The parser says where."""
    file = write(text)
    assert told() == f"could not read {file}\nDetail: {detail}\n{STATE}"


def test_a_file_that_cannot_be_read(write: Write) -> None:
    """Missing, or not UTF-8."""
    file = write("")
    file.unlink()
    assert told() == f"could not read {file}\nDetail: [Errno 2] No such file or directory: '{file}'\n{STATE}"
    file.write_bytes(b"[demo]\n# \xe4\n")
    assert told().startswith(f"could not read {file}\nDetail: 'utf-8' codec can't decode byte 0xe4")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("demo = 1", '"demo" in {file} is not a section\n{state}\nHint: Write [demo] and its options below.'),
        (
            "[demo]",
            ONE_OF,
        ),
        (
            '[demo]\nserver = "a"\nurl_from = "B"',
            ONE_OF.replace("none of them", "server, url_from"),
        ),
        (
            '[demo]\nserver = "a"\nlock_timeout = 5',
            'target "demo" in {file} is not valid\nDetail: lock_timeout: Extra inputs are not permitted\n{state}',
        ),
        (
            '[demo]\nserver = "a"\nname = "b"',
            (
                'target "demo" in {file} is not valid\nDetail: name: the section\'s heading is the name.\n{state}\n'
                "Hint: Remove the option, or rename the section."
            ),
        ),
        (
            '[demo]\nserver = "a"\nlock_timeout_ms = true',
            'target "demo" in {file} is not valid\nDetail: lock_timeout_ms: Input should be a valid integer\n{state}',
        ),
        (
            '[demo]\nserver = "a"\nattempts = 0\nhistory = "rails"',
            TWO_WRONG,
        ),
    ],
)
def test_options_that_are_not_right(write: Write, text: str, message: str) -> None:
    """Each is named, with what it should be."""
    file = write(text)
    assert told() == message.format(file=file, state=STATE)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("password", "x"),
        ("api_key", "x"),
        ("auth_token", "x"),
        ("DSN", "x"),
        ("service", "postgresql://u:hunter2@h/db"),
        ("database", "host=h password=hunter2"),
        ("database", "pscale_pw_abc"),
    ],
)
def test_secrets_are_refused_and_not_repeated(write: Write, key: str, value: str) -> None:
    """The file is read by everybody and copied into records."""
    file = write(f'[demo]\n{key} = "{value}"\n')
    assert told() == (
        f'option "{key}" of target "demo" looks like a secret\n'
        f"Detail: {file} is read by everybody who runs a runbook, and copied into records.\n"
        f"{STATE}\n{SECRET_HINT}"
    )


def test_what_is_not_said_is_careful(write: Write) -> None:
    """Defaults: no rule of design, no safe-migrations mode, small batches, a minute of patience, a month of keeping."""
    write('[demo]\nserver = "a"\n')
    found = targets.load("demo")
    assert (found.design_rules, found.safe_migrations) == ((), False)
    assert (found.batch_rows, found.lock_patience_ms, found.keep_days) == (1_000, 60_000, 30)


@pytest.mark.parametrize(
    ("text", "rules"), [('"all"', ("all",)), ('["design-uuid-key", "x"]', ("design-uuid-key", "x")), ("[]", ())]
)
def test_rules_of_design_are_a_list_or_one_word(write: Write, text: str, rules: tuple[str, ...]) -> None:
    """Their ids are checked where they are known."""
    write(f'[demo]\nserver = "a"\nsafe_migrations = true\ndesign_rules = {text}\n')
    assert (targets.load("demo").design_rules, targets.load("demo").safe_migrations) == (rules, True)


@pytest.mark.parametrize(
    ("option", "told_"),
    [
        ("batch_rows = 0", "batch_rows: Input should be greater than or equal to 1"),
        ("batch_rows = 1_000_001", "batch_rows: Input should be less than or equal to 1000000"),
        ("keep_days = 0", "keep_days: Input should be greater than or equal to 1"),
        ("keep_days = 3_651", "keep_days: Input should be less than or equal to 3650"),
        ("keep_days = 1.5", "keep_days: Input should be a valid integer"),
        ("lock_patience_ms = 0", "lock_patience_ms: Input should be greater than or equal to 1"),
        ('safe_migrations = "yes"', "safe_migrations: Input should be a valid boolean"),
        ("design_rules = [1]", "design_rules.0: Input should be a valid string"),
    ],
)
def test_options_out_of_bounds_are_refused(write: Write, option: str, told_: str) -> None:
    """A mode of safety is on or off, and never on by mistake of spelling."""
    file = write(f'[demo]\nserver = "a"\n{option}\n')
    assert told() == f'target "demo" in {file} is not valid\nDetail: {told_}\n{STATE}'


def test_secrets_in_a_query_are_refused(write: Write) -> None:
    """Critical queries are copied into records as well."""
    write('[demo]\nserver = "a"\n[demo.critical_queries]\nx = "SELECT dblink(\'host=h password=hunter2\')"')
    assert told().startswith('option "x" of target "demo" looks like a secret\n')
    assert "hunter2" not in told()


def test_the_operators_own_environment_does_not_reach_the_embedded_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """PGPORT and PGHOSTADDR are about other servers."""
    monkeypatch.setenv("PGRUNBOOK_STATE", "/srv/pgr")
    found = Target(name="demo", server="main").conninfo()
    assert (found["host"], found["hostaddr"], found["port"]) == ("/srv/pgr/sockets/main", "", "5432")
