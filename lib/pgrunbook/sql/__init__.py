"""SQL text: parsed, classified, deparsed; lock modes and default names."""
