"""Redis as the processes use it: connections, scripts, streams and channels; the only package that imports redis."""
