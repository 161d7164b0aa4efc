"""Recipes: what a user may say, from a packaged name, a YAML file or a dict."""
