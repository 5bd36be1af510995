"""The execution of a plan: transactions, lock requests, bookkeeping, failures and purge."""
