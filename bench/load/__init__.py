"""What is asked for, and how it is offered and measured."""
