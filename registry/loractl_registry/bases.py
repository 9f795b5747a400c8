"""Admitting, re-checking and withdrawing base models."""
