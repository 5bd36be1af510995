"""One database: its catalog, locks, activity, checksums and schema, and pgrunbook's own rows in it."""
