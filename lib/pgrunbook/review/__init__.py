"""The review of statements: their hazards on this very database, and what to write instead."""
