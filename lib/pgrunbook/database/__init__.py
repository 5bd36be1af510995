"""One database: its catalog, locks, activity, checksums, schema, and our own rows in it."""
