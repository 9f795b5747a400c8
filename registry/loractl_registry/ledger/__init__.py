"""The signed lifecycle of a home: the chain of statements is what counts, and rows are only an index over it.

Imports cryptography and pydantic, which listing and completing do without: import it where it is used.
"""
