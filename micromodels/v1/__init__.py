"""Generated stubs of the public API (scripts/generate); importing them needs protobuf and grpc only."""
