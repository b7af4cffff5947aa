"""Models to compare with: one model, one file, imported only when a config names it."""
