"""What is used while developing: set-up, locks, stubs, reference documents."""
