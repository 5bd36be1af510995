"""What runs while others work: loops of short transactions."""
