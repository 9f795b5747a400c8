"""Append-only, named migrations: the only author of the schema."""
