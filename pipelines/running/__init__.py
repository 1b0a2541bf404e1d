"""Executors, which run the stages."""
