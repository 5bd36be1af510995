"""Changes that run while others work: loops of short transactions."""
