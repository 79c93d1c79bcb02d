"""What a measurement came to: figures, tables, plots, and the machine."""
