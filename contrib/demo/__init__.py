"""Three nodes, their pods, one store and three agents on one machine: `make demo`."""
