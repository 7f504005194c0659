"""The demo: real etcd, kube-apiserver and Kafka, a sample downstream, the bridge and the controller, and a verdict.

`python -m demo` plays it. The demo is for the checkout only, like `devenv`, whose environment it uses. Read in this
order: `scenario` (the records, and how the downstream misbehaves), `play` (which process is killed when), `evidence`
(what was observed), `verdict` (which guarantees held), `timeline` and `screen` (what a person sees).
"""
