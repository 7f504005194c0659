"""Objects as each released version has stored them: what a later version must be able to read."""
