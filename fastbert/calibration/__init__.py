"""What every threshold would do, and thresholds that keep a promise."""
