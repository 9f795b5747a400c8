"""Ports that the rest of loractl talks to an engine through, and an in-memory fake that obeys the same contract."""
