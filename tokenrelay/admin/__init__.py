"""Commands for operators. They work on the store directly and belong to no service."""
