"""The same environment in a kind cluster: bridge and controller as pods, Kafka and the sample downstream beside them.

For `make e2e`, and for `make demo` and `make up` on a machine that has Docker but neither Go nor Java. Read in this
order: `engine` (Docker, kind, images), `pods` (the processes by name), `cluster` (the environment), `__main__`.
"""
