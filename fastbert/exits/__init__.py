"""Where a row may leave the network, and when."""
