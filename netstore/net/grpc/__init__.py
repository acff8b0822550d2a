"""gRPC over HTTP/2, server side, as a pure codec: messages in, calls handed over; replies in, frames out.

Everything runs as plain function calls on the loop: nothing blocks or awaits, and no call has its own task.
"""
