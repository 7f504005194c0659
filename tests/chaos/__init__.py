"""Random load and random faults on real parts, and a checker that reads only what they leave behind.

seed → workload, schedule → runner (processes, proxies, faults) → history → verdict
"""
