"""A run: from a recipe to a run directory. Plan, preflight, stages, preview."""
