"""`python -m bench memory`: what streams that are open and idle, and clients that never read, cost a gateway."""
