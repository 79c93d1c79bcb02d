"""The client side: takes calls, admits them, and relays the token logs."""
