"""A server that speaks PlanetScale's API, as far as its documentation has it, in front of real databases.

Each branch is a PostgreSQL server of its own, which lets in over TLS with a password only; a backup is a base backup,
a restore a recovery, a role a role. Requests are checked strictly against the documentation: a parameter that it does
not name is refused. Answers have all of its fields, and some that nobody knows. It runs as a process of its own.
"""
