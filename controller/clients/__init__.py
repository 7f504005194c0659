"""The way out of the process by HTTP: the API server and the downstreams."""
