"""PlanetScale for Postgres over its HTTP API: logins of a target there, and its branches."""
