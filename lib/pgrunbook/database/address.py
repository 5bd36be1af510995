"""What a session brings along from outside of its database: what its service or URL names, and nothing of the shell.

libpq reads more than addresses from the environment: settings that would hold on this machine only. Where the server
is, who connects and how both prove who they are may still stand there (PGUSER, PGPASSFILE, PGSSLROOTCERT ...).
Source: https://www.postgresql.org/docs/current/libpq-envars.html
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Conninfo, PGconn

from pgrunbook.config.targets import Target
from pgrunbook.errors import WrongInput

log = logging.getLogger(__name__)

# The variables with which a shell gives settings to every session that libpq opens: the three of the second line
# have no keyword. A service that no target names would give settings, too.
SHELL_SETTINGS = (
    "PGOPTIONS", "PGAPPNAME", "PGCLIENTENCODING", "PGSERVICE",
    "PGTZ", "PGDATESTYLE", "PGGEQO",
)  # fmt: skip
# The text of migrations is UTF-8, whatever the service, the role or the database names.
ENCODING = "UTF8"
NO_TIMEOUTS = (
    "-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 -c idle_session_timeout=0"
)
# Whatever a copied database or role gives to its sessions, those of ours on our own servers can do all.
AS_SUPERUSER = "-c role=none -c default_transaction_read_only=off"


def leave_shell_out() -> None:
    """Take the settings of the operator's shell out of this process, and so out of the programs that it starts."""
    for name in SHELL_SETTINGS:
        if os.environ.pop(name, None) is not None:
            log.info("left out %s of this shell: a migration runs under the settings of its target", name)


def keywords(target: Target) -> dict[str, Any]:
    """Return libpq's keywords for a target, those of its URL among them. Raises WrongInput where it has no URL."""
    found: dict[str, Any] = {**target.conninfo()}
    try:
        return {**conninfo_to_dict(found.pop("conninfo", "")), **found}
    except ProgrammingError:
        raise WrongInput(
            f'cannot read the address of target "{target.name}"',
            detail=f"The environment variable {target.url_from} does not hold a connection URL of PostgreSQL.",
            hint="Write postgresql://user@host/database; in a password, @ : / and % are written as %40 %3A %2F %25.",
        ) from None


def url(keywords: Mapping[str, Any]) -> str:
    """Return the URL that says the same as libpq's keywords."""
    told = {key: str(value) for key, value in keywords.items() if value not in ("", None)}
    user, database = (quote(told.pop(key, ""), safe="") for key in ("user", "dbname"))
    return f"postgresql://{user}@/{database}?{urlencode(told, quote_via=quote)}"


def given_options(target: Target) -> str:
    """Return the options that a target's URL or service gives to the server, "" for none. Raises WrongInput."""
    leave_shell_out()
    found = keywords(target)
    if "options" not in found and "service" in found:
        return _options_of_service(str(found["service"]))
    return str(found.get("options") or "")


def environment(target: Target) -> dict[str, str]:
    """Return the environment of a program that connects to a target as we do: of our own, without a shell's settings.

    Everybody on the machine can see a program's arguments. psycopg's libpq names the variables, so a program
    verifies the server as strictly as we do; the few keywords without a variable (keepalives, ...) are left out.
    Raises WrongInput where the target has no URL.
    """
    options, found = given_options(target), keywords(target)
    if "service" in found and _options_of_service(str(found["service"])):
        found = {**_service(str(found["service"])), **found}
        del found["service"]  # the options of a service go before those of the environment
    # A role's own timeouts are meant for the application; pg_dump lifts them too late for its first statement.
    found |= {"options": f"{options} {NO_TIMEOUTS}".strip(), "client_encoding": ENCODING}
    variables = {o.keyword.decode(): o.envvar.decode() for o in Conninfo.get_defaults() if o.envvar}
    own = {variables[word]: str(value) for word, value in found.items() if word in variables}
    return {**os.environ, **own}


def _options_of_service(name: str) -> str:
    return _asked(service=name, host="/", hostaddr="").get("options", "")


def _service(name: str) -> dict[str, str]:
    """Return the keywords of a service, without those that are libpq's own."""
    own = {o.keyword.decode(): o.val for o in Conninfo.get_defaults()}
    # With a port that cannot be, libpq reads the service and goes no further; that it has one is asked apart.
    found = {**_asked(service=name, port="0"), "port": _asked(service=name, host="/", hostaddr="").get("port", "")}
    return {word: value for word, value in found.items() if value and own.get(word) != value.encode()}


def _asked(**given: str) -> dict[str, str]:
    """Return the keywords of a connection that cannot be opened, as libpq has put them together."""
    conn = PGconn.connect_start(make_conninfo("", **given).encode())
    try:
        return {option.keyword.decode(): option.val.decode() for option in conn.info if option.val is not None}
    finally:
        conn.finish()
