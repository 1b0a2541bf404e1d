"""The labelling job and its stages; it does not know what runs them."""
