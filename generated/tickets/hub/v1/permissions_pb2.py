"""The client's ``tickets_hub.v1.permissions_pb2``, under the contract's own name. Made by ``make proto``."""

from tickets_hub.v1.permissions_pb2 import *
