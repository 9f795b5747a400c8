"""The page at ``/ui``: static files that ask the server's live state and nothing else."""
