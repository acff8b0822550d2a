"""The messages of etcd's v3 API and of the gRPC health check, and how they are put together as bytes.

`python -m contrib.proto.generate` makes `*_pb2.py` and `*_pb2.pyi` of the .proto files here; they are never
edited by hand.
"""
