"""The commands of netstorectl, one module for each noun; `invocation` is what they share."""
