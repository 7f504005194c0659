"""The demo: real etcd, kube-apiserver and Kafka, a sample downstream, the bridge and the controller, and a verdict.

`python -m demo`. Checkout only, like `devenv`, from which it takes its environment. Read in this order:
`scenario` (what is sent, how the downstream misbehaves), `play` (who is killed when), `evidence` (what was seen),
`verdict` (what that proves), `timeline` and `screen` (how it is shown).
"""
