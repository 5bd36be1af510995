"""What an error means is told by its SQLSTATE: every code that the driver knows, raised by a real server."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors

from pgrunbook.database.sqlstate import Meaning, explained, is_of_statement, meaning
from pgrunbook.errors import Blocked, Refused, StatementFailed, Unreachable
from servers import Server

CODES = sorted(
    code for code, class_ in errors._sqlcodes.items() if len(code) == 5 and code[:2] not in ("00", "01", "02")
)
ENDS = {"57P01", "57P02", "57P03", "57P04", "57P05", "25P03", "25P04"}
CUT_OFF = {"55P03", "57014", "40001", "40P01"}
OUR_ERROR = {
    Meaning.LOST: (Unreachable, 'lost the connection to target "t"'),
    Meaning.CUT_OFF: (Blocked, 'could not read target "t" in time'),
    Meaning.EXHAUSTED: (StatementFailed, 'the server of target "t" could not go on'),
    Meaning.NO_RIGHT: (Refused, 'the role of target "t" lacks a privilege'),
    Meaning.REFUSED: (StatementFailed, 'target "t" refused a statement of ours'),
}


def expected(code: str) -> Meaning:
    """The appendix of the manual, in one place of the tests."""
    if code in ENDS or code.startswith("08"):
        return Meaning.LOST
    if code in CUT_OFF:
        return Meaning.CUT_OFF
    if code == "42501":
        return Meaning.NO_RIGHT
    return Meaning.EXHAUSTED if code[:2] in ("53", "57", "58") else Meaning.REFUSED


def test_every_sqlstate_has_its_meaning_whatever_the_drivers_class(newest: Server) -> None:
    """55000, 54001 or 53200 are the driver's OperationalError, and yet no lost connection."""
    assert len(CODES) > 200
    with newest.connect("postgres") as conn:
        for code in CODES:
            with pytest.raises(psycopg.Error) as raised:
                conn.execute(f"DO $$ BEGIN RAISE EXCEPTION 'told' USING ERRCODE = '{code}'; END $$")
            assert raised.value.sqlstate == code
            assert meaning(raised.value) is expected(code), code
            error = explained(raised.value, "t", state="", again="run this again")
            class_, begins = OUR_ERROR[expected(code)]
            assert type(error) is class_, code
            assert error.message == f"{begins}: told"


def test_an_unfilled_view_and_a_missing_name_are_refusals(newest: Server) -> None:
    """The one may be a row's fault as far as the code tells, the other is the statement's own."""
    with newest.connect("postgres") as conn:
        conn.execute("CREATE TEMPORARY TABLE t (n integer)")
        for sql, own in (("SELECT nonsense", True), ("SELECT * FROM nothing.at_all", True), ("SELECT 1/0", False),
                         ("SELECT setval('nothing', 0)", True), ("SELECT currval('s')", False)):  # fmt: skip
            conn.execute("CREATE TEMPORARY SEQUENCE IF NOT EXISTS s")
            with pytest.raises(psycopg.Error) as raised:
                conn.execute(sql)
            assert meaning(raised.value) is Meaning.REFUSED
            assert is_of_statement(raised.value) is own, sql


def test_what_the_driver_says_itself_is_a_lost_connection(newest: Server) -> None:
    """Before, while and after the server ends the session; a parameter that does not fit is a refusal."""
    with newest.connect("postgres") as other:
        conn = newest.connect("postgres")
        with pytest.raises(psycopg.Error) as unfit:
            conn.execute("SELECT %s", [object()])
        assert meaning(unfit.value) is Meaning.REFUSED
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [conn.info.backend_pid])
        for _ in range(2):
            with pytest.raises(psycopg.Error) as raised:
                conn.execute("SELECT 1")
            assert meaning(raised.value) is Meaning.LOST
    with pytest.raises(psycopg.Error) as nobody:
        psycopg.connect(host="/nowhere")
    assert meaning(nobody.value) is Meaning.LOST
