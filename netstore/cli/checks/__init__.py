"""What `netstorectl doctor` looks at on this machine and at the store. Each check gives findings, and raises
nothing: what cannot be read is a finding too.
"""
