"""Objects as each released version has stored them, and its kinds: for later versions to read and write."""
