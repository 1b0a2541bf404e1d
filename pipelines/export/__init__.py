"""Labelled rows in other tables."""
