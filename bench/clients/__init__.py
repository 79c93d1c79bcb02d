"""The client processes that offer a load together."""
