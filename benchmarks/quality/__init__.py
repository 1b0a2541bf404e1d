"""How right it is: the paper's tables, promises, training, the authors' code, slow reference."""
