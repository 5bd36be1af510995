"""The review of statements: hazards on this very database, and what to do instead."""
