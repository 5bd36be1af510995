"""Copies of a database: the embedded server, and clusters made from base backup and WAL."""
