"""What becomes of a run that is killed, cut off or not alone."""
