"""The developer's environment: a real etcd, kube-apiserver and Kafka on loopback ports, without a container engine.

Checkout only: neither the wheel nor the image holds it. `python -m devenv up` is the command; tests, the
demo and the benchmarks use `devenv.environment.Environment`. Read in this order: `layout` (where things
are), `sources` and `build` (where the binaries come from), `processes` (start, find, stop), `apiserver` and `broker`
(what is started), `environment` (one of each by name), `lifecycle` (all of it together).
"""
