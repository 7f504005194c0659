"""The HTTP clients of a process: of the API server and of the downstreams."""
