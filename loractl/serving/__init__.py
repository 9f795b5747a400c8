"""The composition root: registry, engine and gateway become one running server."""
