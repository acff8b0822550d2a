"""Judges of recorded histories of the v2 API. They know nothing of how a history was made: the simulator's
and those of real processes are judged alike.

- `revisions` follows the store's own index and is linear: the main judge.
- `linear` searches for an order by calls and answers alone: the independent one.
- `watches` holds what watchers were told against the changes that happened.
"""
