"""Arithmetic over rows that lie one behind the other, without padding."""
