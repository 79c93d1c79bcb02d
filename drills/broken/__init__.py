"""Programs that are broken on purpose, each in one way: what the checker must catch.

Each module is a variant; its `install` changes the program in the process that is about to run it. See __main__.py.
"""
