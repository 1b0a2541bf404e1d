"""Arithmetic over packed rows: concatenated, without padding."""
