"""Texts to tokens to answers."""
