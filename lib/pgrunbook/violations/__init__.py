"""Rows of today that violate what a rollback would restore."""
