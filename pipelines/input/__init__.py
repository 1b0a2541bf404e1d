"""Shards, their columns and their texts."""
