"""The workers: each is started by the Python of the engine that it drives, and imports nothing of optcc but its own."""
