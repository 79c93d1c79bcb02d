"""`python -m bench run`: one stack under load."""
