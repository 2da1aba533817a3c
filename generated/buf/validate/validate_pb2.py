"""The client's ``tickets_hub.buf.validate.validate_pb2``, under the contract's own name. Made by ``make proto``."""

from tickets_hub.buf.validate.validate_pb2 import *
