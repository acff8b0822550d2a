"""The client side: transport, v2 API, operation of a cluster."""
