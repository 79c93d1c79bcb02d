"""How Tokenrelay is run."""
