"""What is to be changed: statements, the plan made of them, and its execution."""
