"""Load generator, comparison with other servers, profiles. Nothing in the services imports it."""
