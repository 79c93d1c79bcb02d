"""The whole stack on one machine, without Docker and without root: what `make up` and `make demo` run."""
