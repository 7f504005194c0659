"""The same environment in a kind cluster: bridge and controller are pods, and so are Kafka and the sample downstream.

`make e2e` uses it, and so do `make demo` and `make up` on a machine with Docker but without Go or Java. Read in this
order: `engine` (Docker, kind, images), `pods` (the processes by name), `cluster` (the environment), `__main__`.
"""
