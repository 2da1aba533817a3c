"""The client's ``tickets_hub.v1.developer_service_pb2_grpc``, under the contract's own name. Made by ``make proto``."""

from tickets_hub.v1.developer_service_pb2_grpc import *
