"""The seal of a record: who signs it, the ledger over all runs, and what proves or disproves it."""
