"""The frames of Feishu's long connection: read, written, joined. Pure: no socket, no clock.

One binary WebSocket message is one Frame. Rules: what the four official SDKs agree on.
"""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from google.protobuf.message import DecodeError

from relay.ingress.frame_pb2 import Frame

#: Parts, and bytes in all, of one message; parts that wait for others, of one connection.
MAX_PARTS, MAX_MESSAGE_BYTES, MAX_WAITING_BYTES = 256, 8 * 2**20, 32 * 2**20
#: Messages of which parts are waited for, at most.
MAX_MESSAGES = 256
#: Seconds after which a message whose parts did not all come is given up; Feishu sends it again.
MAX_AGE = 10.0


class Method(IntEnum):
    """What `method` of a frame says."""

    CONTROL = 0
    DATA = 1


class FrameError(ValueError):
    """A frame that cannot be what it says."""


class NotAFrameError(FrameError):
    """Bytes that are no frame at all."""


def read(data: bytes) -> Frame:
    """Read a frame. Raises NotAFrameError."""
    try:
        return Frame.FromString(data)
    except DecodeError as error:
        raise NotAFrameError("not a frame") from error


def headers(frame: Frame) -> dict[str, str]:
    """Give the headers by name; of two with one name, the first."""
    return {one.key: one.value for one in reversed(frame.headers)}


def control(kind: str, service: int, payload: bytes = b"") -> bytes:
    """Write a `ping` or a `pong`."""
    frame = Frame(seq_id=0, log_id=0, service=service, method=Method.CONTROL)
    frame.headers.add(key="type", value=kind)
    if payload:
        frame.payload = payload
    return frame.SerializeToString()


def acknowledgement(frame: Frame, code: int, milliseconds: int, answer: bytes = b"") -> bytes:
    """Answer a data frame: the frame itself, `biz_rt` behind its headers, another payload.

    `answer` is a JSON document that Feishu shows its user, sent in base64 as the SDKs do. Nothing
    else may change: Feishu finds the waiting delivery by ids and headers of its own. The frame is
    used up by this.
    """
    frame.headers.add(key="biz_rt", value=str(milliseconds))
    data = b',"data":"%b"' % b64encode(answer) if answer else b""
    frame.payload = b'{"code":%d%b}' % (code, data)
    return frame.SerializeToString()


@dataclass(slots=True)
class _Message:
    """The parts of one message that have come so far."""

    sum: int
    since: float
    parts: dict[int, bytes] = field(default_factory=dict)
    size: int = 0


class Assembly:
    """Joins the parts of messages, in any order and never without bounds."""

    def __init__(self) -> None:
        #: The oldest first.
        self._messages: dict[str, _Message] = {}
        self._bytes = 0
        #: Messages that were given up; Feishu sends them again. Whoever counts them sets it to 0.
        self.lost = 0

    def add(self, named: Mapping[str, str], payload: bytes, now: float) -> bytes | None:
        """Take a part: the whole payload if this part completes it, else None.

        `named` are the frame's headers; `now` is in seconds of any clock that does not step.
        Raises FrameError.
        """
        total, number = _count(named, "sum", 1), _count(named, "seq", 0)
        if total == 1 and number == 0:
            return payload
        if not 0 <= number < total <= MAX_PARTS:
            raise FrameError(f"part {number} of {total}")
        self.expire(now)
        message_id = named.get("message_id", "")
        message = self._messages.setdefault(message_id, _Message(total, now))
        if message.sum != total:
            self._drop(message_id)
            raise FrameError("the parts disagree on how many they are")
        more = len(payload) - len(message.parts.get(number, b""))
        message.parts[number] = payload
        message.size += more
        self._bytes += more
        if message.size > MAX_MESSAGE_BYTES:
            self._drop(message_id)
            raise FrameError("a message beyond all bounds")
        if len(message.parts) == total:
            self._drop(message_id)
            return b"".join(message.parts[place] for place in range(total))
        while len(self._messages) > MAX_MESSAGES or self._bytes > MAX_WAITING_BYTES:
            self._give_up_oldest()
        return None

    def expire(self, now: float) -> None:
        """Give up messages that have waited for too long."""
        while self._messages and now - next(iter(self._messages.values())).since > MAX_AGE:
            self._give_up_oldest()

    def _give_up_oldest(self) -> None:
        self._drop(next(iter(self._messages)))
        self.lost += 1

    def _drop(self, message_id: str) -> None:
        self._bytes -= self._messages.pop(message_id).size


def _count(named: Mapping[str, str], key: str, default: int) -> int:
    """Read a small number from a header; a frame without it is whole."""
    text = named.get(key, "")
    if not text:
        return default
    if len(text) > len(str(MAX_PARTS)) or not (text.isascii() and text.isdigit()):
        raise FrameError(f"{key} is not a number of parts")
    return int(text)
