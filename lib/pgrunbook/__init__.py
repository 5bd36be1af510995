"""Runbooks as Jupyter notebooks, for changing a PostgreSQL database safely."""
