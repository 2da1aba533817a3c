"""What the contract's own stubs need of ``buf/validate/validate.proto``. Made by ``make proto``."""

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message

DESCRIPTOR: FileDescriptor

class StringRules(Message): ...
