"""The commands of pgrunbook, and the demo."""
