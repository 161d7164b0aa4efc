"""The same recipe on other people's engines."""
