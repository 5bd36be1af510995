"""Targets, paths and patterns of secrets: what is set before anything runs."""
