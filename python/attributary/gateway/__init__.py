"""The gRPC gateway: a transport around the core, and the only place that knows protobuf."""
