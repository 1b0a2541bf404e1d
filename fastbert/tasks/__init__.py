"""What logits mean: the questions that a classifier can answer."""
