"""How much memory and time a recipe takes on given hardware, from the model's config and the lengths of its data."""
