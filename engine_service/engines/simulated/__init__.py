"""The simulated engine: computes no model, for load and fault drills."""
