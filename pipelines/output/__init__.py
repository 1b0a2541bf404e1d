"""What is written, and by whom."""
