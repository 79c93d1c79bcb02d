"""`python -m bench compare`: servers of the same model beside one another."""
