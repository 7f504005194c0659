"""The developer's environment: a real etcd, kube-apiserver and Kafka on loopback ports, without a container engine.

It is for the checkout only: neither the wheel nor the image holds it. `python -m devenv up` starts it; tests, the demo
and the benchmarks use `devenv.environment.Environment`. Read in this order: `layout` (paths), `sources` and `build`
(where the binaries come from), `processes` (start, find, stop), `apiserver` and `broker` (command lines), `environment`
(the processes by name), `lifecycle` (all of them together).
"""
