"""Evaluation of thresholds, and thresholds that keep a promise."""
