"""The cluster in one process and one thread, in virtual time: real members, everything around them simulated.

`world` is one run, `campaign` many. See contrib/doc/simulation.md.
"""
