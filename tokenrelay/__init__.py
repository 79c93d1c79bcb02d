"""What the processes of Tokenrelay share."""
