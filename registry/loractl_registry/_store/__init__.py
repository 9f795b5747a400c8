"""The database of the registry: private, and the only place that knows SQL."""
