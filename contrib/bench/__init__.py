"""Benchmarks of netstore side by side with Debian's etcd, on the machine they run on: `make bench`.

Both stores run in one go, in alternating rounds, on the same file system, so that the ratios hold even where
the figures do not.
"""
