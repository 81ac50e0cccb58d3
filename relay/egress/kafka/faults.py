"""What aiokafka raises, told as relay's errors: what ends a process, what holds, what passes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import errors
from aiokafka.producer import message_accumulator, transaction_manager

from relay.errors import (
    KafkaRefusedError,
    KafkaUnavailableError,
    ProducerOustedError,
    RelayError,
)
from relay.events import Fate

#: Errors that time does not heal: an operator must.
_REFUSED = (
    errors.TopicAuthorizationFailedError,
    errors.GroupAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
    errors.TransactionalIdAuthorizationFailed,
    errors.SaslAuthenticationFailed,
    errors.AuthenticationFailedError,
    errors.UnsupportedSaslMechanismError,
    errors.UnsupportedVersionError,
    errors.IncompatibleBrokerVersion,
    errors.InvalidReplicationFactorError,
    errors.PolicyViolationError,
)
#: What a broker says of a batch, by what becomes of its records.
_FATES: dict[type[BaseException], Fate] = {
    errors.MessageSizeTooLargeError: Fate.TOO_LARGE,
    errors.RecordListTooLargeError: Fate.TOO_LARGE,
    errors.InvalidTimestampError: Fate.TIME_REFUSED,
    errors.CorruptRecordException: Fate.REFUSED,
}
#: A producer's end: another one was opened, or its transaction took too long. Brokers say the same.
_OUSTED = (errors.ProducerFenced, errors.InvalidProducerEpoch)


class InvalidRecordError(errors.BrokerResponseError):  # type: ignore[misc]  # it has no types
    """The broker has looked into a record, and does not take what it found."""

    errno = 87
    message = "INVALID_RECORD"
    description = "This record has failed the validation on the broker."


class UnsupportedCompressionError(errors.BrokerResponseError):  # type: ignore[misc]
    """The broker does not take records that are compressed so."""

    errno = 76
    message = "UNSUPPORTED_COMPRESSION_TYPE"
    description = "The broker does not take records compressed so: kafka.compression"


def complete() -> None:
    """Give aiokafka's producer what it lacks.

    Errors of brokers that it does not know: else they are all alike. And futures that complain to
    nobody: it fails some that it never gives out, with errors that it gives out elsewhere too.
    """
    for kind in (InvalidRecordError, UnsupportedCompressionError):
        errors.kafka_errors.setdefault(kind.errno, kind)
    transaction_manager.create_future = message_accumulator.create_future = _quiet_future


def _quiet_future() -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.add_done_callback(_notice)
    return future


def _notice(future: asyncio.Future[Any]) -> None:
    """Look at a future's error, as somebody must."""
    if not future.cancelled():
        future.exception()


def fate_of(error: BaseException | None) -> Fate:
    """Say what has become of the records of a batch with which a broker ended so."""
    if error is None:
        return Fate.ACCEPTED
    if getattr(error, "errno", None) == InvalidRecordError.errno:
        return Fate.REFUSED
    return _FATES.get(type(error), Fate.UNKNOWN)


@asynccontextmanager
async def translated(asked: str = "") -> AsyncIterator[None]:
    """Turn what aiokafka raises into relay's errors; `asked` says who was asked, as host:port."""
    try:
        yield
    except RelayError:
        raise
    except (errors.KafkaError, errors.IllegalOperation, OSError, AssertionError) as error:
        raise _translation(error, asked) from error


def _translation(error: BaseException, asked: str) -> RelayError:
    """Choose relay's error; aiokafka's sender hides the real one behind a general one."""
    cause: BaseException | None = error
    refused = (*_REFUSED, UnsupportedCompressionError)
    while cause and not isinstance(cause, _OUSTED + refused):
        cause = cause.__cause__
    if isinstance(cause, _OUSTED):
        return ProducerOustedError("Kafka has ended this producer")
    if isinstance(cause, refused):
        return KafkaRefusedError(f"Kafka refuses: {describe(cause)}")
    at = f" at {asked}" if asked else ""
    return KafkaUnavailableError(f"Kafka is not available{at}: {describe(error)}")


def describe(error: BaseException) -> str:
    """Say what an error is in one line; many of aiokafka's and asyncio's carry no text."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    return text if name in text else f"{name}: {text}" if text else name
