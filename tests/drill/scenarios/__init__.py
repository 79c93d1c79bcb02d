"""The drills, one a file: each builds its stack, breaks it in its own way under load, and judges what only it can see."""
