"""What a drill breaks: each fault is a class of its own, switched on and healed while the processes run."""
