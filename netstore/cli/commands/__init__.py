"""The commands of netstorectl, one module for each noun, and what they share."""
