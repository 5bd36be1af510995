"""Secrets in SQL: seen in every form, masked, and nothing else is."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pgrunbook.config.secret_patterns import names_a_secret
from pgrunbook.errors import WrongInput
from pgrunbook.sql import secrets
from pgrunbook.sql.literals import spelled
from pgrunbook.sql.secret_prose import may_hold_secrets
from pgrunbook.sql.statements import parse
from secret_forms import FOREIGN, MISSED, NONE, OF_ROWS, REFUSED, RUN, TEXTS, seen_in

FORMS = [form.format(role="r", database="d") for form in (*RUN, *REFUSED)] + [*TEXTS, *MISSED, *FOREIGN]
WITHOUT = ("DROP ", "ALTER SYSTEM RESET")


@pytest.mark.parametrize("text", [form for form in FORMS if not form.startswith(WITHOUT)])
def test_a_secret_is_masked_in_every_form(text: str) -> None:
    """The mark is gone, something stands in its place, and the masked text holds no secret any more."""
    masked = secrets.masked(text)
    assert seen_in(text)
    assert not seen_in(masked)
    assert "***" in masked
    assert secrets.masked(masked) == masked


@pytest.mark.parametrize("text", OF_ROWS)
def test_a_row_that_a_server_quotes_is_masked(text: str) -> None:
    """Its values come from the database, so no statement has told what they are."""
    assert not seen_in(secrets.masked_message(text))
    assert "***" in secrets.masked_message(text)


@pytest.mark.parametrize("text", NONE)
def test_what_only_speaks_of_secrets_stays(text: str) -> None:
    """A mask where no secret is would hide what an operator has to read, and gate what can be taken back."""
    assert secrets.masked(text) == text


def test_a_key_of_a_table_is_not_looked_at_twice() -> None:
    """A schema holds thousands of them; one over a column that names a secret is looked at."""
    assert not any(map(may_hold_secrets, ("PRIMARY KEY (id, of)", "FOREIGN KEY (parent) REFERENCES t17(id)")))
    assert all(map(may_hold_secrets, ("PRIMARY KEY (api_key)", "foreign key token=Mk7Zq9xT", "private key x")))


@pytest.mark.parametrize("text", [form for form in FORMS if not form.startswith((*WITHOUT, "SET SESSION"))])
def test_what_is_masked_is_still_a_statement_where_it_was_one(text: str) -> None:
    """What reads a plan parses its masked statements: kind and objects are those of the text itself."""
    try:
        before = parse(text, "m.sql")
    except WrongInput:
        return
    after = parse(secrets.masked(text), "m.sql")
    assert [(one.kind, one.policy) for one in after] == [(one.kind, one.policy) for one in before]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("ALTER ROLE r PASSWORD 'x1'", "ALTER ROLE r PASSWORD '***'"),
        ("ALTER ROLE r PASSWORD $q$x1$q$", "ALTER ROLE r PASSWORD $q$***$q$"),
        ("SELECT 'é', 'ü' AS ö; ALTER ROLE ñ PASSWORD 'ß1'",
         "SELECT 'é', 'ü' AS ö; ALTER ROLE ñ PASSWORD '***'"),
        ("CREATE SUBSCRIPTION s CONNECTION 'postgres://u:p@h/d' PUBLICATION p",
         "CREATE SUBSCRIPTION s CONNECTION 'postgres://u:***@h/d' PUBLICATION p"),
        ("CREATE SUBSCRIPTION s CONNECTION 'host=h password=p user=u' PUBLICATION p",
         "CREATE SUBSCRIPTION s CONNECTION 'host=h password=*** user=u' PUBLICATION p"),
        ("SET app.token = abc", "SET app.token = '***'"),
        ("DO $$ BEGIN ALTER ROLE r PASSWORD 'x'; END $$", "DO $$ BEGIN ALTER ROLE r PASSWORD '***'; END $$"),
    ],
)  # fmt: skip
def test_only_the_secret_is_masked(text: str, masked: str) -> None:
    """What stands around it stays: host, user, quotes."""
    assert secrets.masked(text) == masked


@pytest.mark.slow
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20))
@example("*0")
@example("***0123456789a")
def test_a_password_of_any_characters_is_masked_in_every_spelling(password: str) -> None:
    """Quotes doubled, E'' with escapes, U&'' with code points, dollar quotes: what is masked is what is meant."""
    tag = "$q_u_o_t_e$"
    points = "".join(f"\\+{ord(character):06X}" for character in password)
    escaped = "".join(f"\\U{ord(character):08X}" for character in password)
    doubled = password.replace("'", "''")
    for literal in (f"'{doubled}'", f"{tag}{password}{tag}", f"E'{escaped}'", f"U&'{points}'"):
        assert spelled(literal).says == password
        if password.strip() and not re.fullmatch(r"\*+", password.strip()):
            masked = secrets.masked(f"ALTER ROLE r PASSWORD {literal}")
            assert re.fullmatch(r"ALTER ROLE r PASSWORD (E|U&)?('\*\*\*'|\$q_u_o_t_e\$\*\*\*\$q_u_o_t_e\$)", masked)


def test_a_password_that_is_a_common_word_is_masked_as_well() -> None:
    """Where a statement sets a password, no word is too plain to be one."""
    for word in ("null", "text", "none", "true", "?", "%s", "password", "required"):
        assert secrets.masked(f"ALTER ROLE r PASSWORD '{word}'") == "ALTER ROLE r PASSWORD '***'"


def test_a_fingerprint_cannot_be_guessed_where_there_is_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the sha256 of a text without secrets; with one it depends on a key that only this machine has."""
    monkeypatch.setenv("PGRUNBOOK_STATE", str(tmp_path / "one"))
    plain, text = "SELECT 1", "ALTER ROLE r PASSWORD 'x1'"
    assert secrets.fingerprint(plain) == hashlib.sha256(plain.encode()).hexdigest()
    first = secrets.fingerprint(text)
    assert first == secrets.fingerprint(text) != secrets.fingerprint(text.replace("x1", "x2"))
    assert hashlib.sha256(text.encode()).hexdigest() not in first
    monkeypatch.setenv("PGRUNBOOK_STATE", str(tmp_path / "two"))
    assert secrets.fingerprint(text) != first
    assert secrets.key_of(secrets.fingerprint(text)) != secrets.key_of(first) != ""


@pytest.mark.parametrize(
    "text",
    [
        "0004_reset_token: its way back was not computed",
        "gate 0001_add_password:3: it rewrites public.user_tokens",
        "user_tokens:12 and 0002_token:4.2",
        "public.user_tokens: reads and writes wait",
        "password authentication failed for user bob",
        "public.secrets: 12 rows",
        "step 1 of 0003_secrets (UPDATE; 0003_secrets.sql, line 2)",
        "up:0001_token:8f14e45fceea167a5a36dedd4bea2543:2",
    ],
)
def test_words_about_secrets_stay(text: str) -> None:
    """A migration, a table, a place that is called so is no secret."""
    assert secrets.masked_message(text) == text


@pytest.mark.parametrize("before", [1, 100, 1_000])
@pytest.mark.parametrize(
    "name", ["password", "PA\u017f\u017fWORD", "api-\u212aey", "totp", "recovery_codes", "connection_string"]
)
def test_a_name_of_any_length_and_spelling_holds_a_secret(name: str, before: int) -> None:
    """Letters that are the same but for their case are, too: the long s, and the sign for kelvin."""
    assert names_a_secret("x" * before + "." + name)
    assert not names_a_secret("x" * before + "." + name[::-1])


SECRET_ROWS = st.sampled_from([
    "(1, 'plain')", "(2, 'a@b.example')", "(3, 'Mk7Zq9xT')", "(4, 'password=Mk7Zq9xT')", "(5, now())", "(6, U&'x')",
    "(7, 'ghp_0123456789abcdef0123')", "(8, E'pa\\x73sword=Mk7Zq9xT')", "('api_key', 'Mk7Zq9xT')", "(9, 'it''s')",
    "(10, crypt('Mk7Zq9xT', 'x'))", "(11, 'postgres://u:Mk7Zq9xT@h/d')", "(12, 'ALTER ROLE r PASSWORD ' || 'x1')",
])  # fmt: skip
LISTS = st.sampled_from([
    "INSERT INTO t (id, note) VALUES {}", "INSERT INTO t (id, password) VALUES {}", "INSERT INTO tokens VALUES {}",
    "INSERT INTO api_keys (id, value) VALUES {}; INSERT INTO t VALUES {}", "ALTER ROLE r PASSWORD 'plain'; VALUES {}",
    "UPDATE t SET a = v.b FROM (VALUES {}) AS v (a, password)", "WITH v (id, secret) AS (VALUES {}) SELECT 1",
    "UPDATE t SET a = v.b FROM (VALUES {}) AS v (a, b); SELECT 'unfinished", "no SQL: VALUES {} it's so",
])  # fmt: skip


QUOTED = ["(9, 'it''s')", "(9, 'it''s')", "(7, 'ghp_0123456789abcdef0123')", "(5, now())"]


@pytest.mark.slow
@example("INSERT INTO api_keys (id, value) VALUES {}; INSERT INTO t VALUES {}", [*QUOTED, *QUOTED[2:], QUOTED[2]])
@given(LISTS, st.lists(SECRET_ROWS, min_size=1, max_size=8))
def test_rows_that_are_left_out_hold_no_secret(text: str, rows: list[str]) -> None:
    """In a long text the search finds what it finds in a short one."""
    whole = text.replace("{}", ",\n".join(rows))
    wanted = secrets._spans_of_text(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secrets, "_LONG_CHARS", 0)
        assert secrets._spans_of_text(whole) == wanted


def test_a_secret_in_a_late_row_is_masked() -> None:
    """It is not lost among many rows without one."""
    rows = [f"({number}, 'text {number}')" for number in range(40_000)]
    rows[30_000] = "(30000, 'postgres://u:Mk7Zq9xT@h/d')"
    masked = secrets.masked("INSERT INTO t (id, note) VALUES\n" + ",\n".join(rows))
    assert masked.splitlines()[30_001] == "(30000, 'postgres://u:***@h/d'),"
    assert masked.count("***") == 1


def test_of_a_very_long_statement_its_beginning_is_shown_without_its_secrets() -> None:
    """What the whole text shows to be a secret is masked in its beginning; a short text is shown as it is."""
    short = "SELECT dblink_connect('password=hunter22')"
    assert secrets.beginning(short) == short  # the door masks it
    long = f"SELECT 'hunter22', {'1, ' * 10_000} pgp_sym_encrypt('x', 'hunter22')"
    shown = secrets.beginning(long)
    assert shown.startswith("SELECT '***', 1, 1, ")
    assert len(shown) < 20_100
    assert shown.endswith(f"... and {len(long) - 20_000:,} characters more")
