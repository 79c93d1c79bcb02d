"""Short scripts that show the library; each takes the gateways as its argument."""
