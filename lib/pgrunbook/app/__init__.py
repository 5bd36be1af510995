"""The commands of pgrunbook: what is typed in a terminal, and the demo."""
