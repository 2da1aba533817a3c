"""Puts the descriptor of ``buf/validate/validate.proto`` into the default pool. Made by ``make proto``."""

import protovalidate
from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, field_mask_pb2, timestamp_pb2  # noqa: F401

DESCRIPTOR = descriptor_pool.Default().AddSerializedFile(
    protovalidate.ViolationPb.desc().file.proto.to_binary()
)
