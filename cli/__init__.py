"""The command line of keras-si: the paper's experiments."""
