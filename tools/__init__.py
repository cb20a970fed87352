"""What the Makefile and the tests run besides optcc itself."""
