"""Reading and locking one database."""
