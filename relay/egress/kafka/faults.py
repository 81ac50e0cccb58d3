"""What aiokafka raises, told as relay's errors: what ends a process, what holds, what passes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka import errors

from relay.errors import (
    KafkaRefusedError,
    KafkaUnavailableError,
    ProducerOustedError,
    RelayError,
)

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
    errors.InvalidTimestampError,
)
#: A producer's end: another one was opened, or its transaction took too long. Brokers say the same.
_OUSTED = (errors.ProducerFenced, errors.InvalidProducerEpoch)


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Turn what aiokafka raises into relay's errors."""
    try:
        yield
    except RelayError:
        raise
    except (errors.KafkaError, errors.IllegalOperation, OSError, AssertionError) as error:
        raise _translation(error) from error


def _translation(error: BaseException) -> RelayError:
    """Choose relay's error; aiokafka's sender hides the real one behind a general one."""
    cause: BaseException | None = error
    while cause and not isinstance(cause, _OUSTED + _REFUSED):
        cause = cause.__cause__
    if isinstance(cause, _OUSTED):
        return ProducerOustedError("Kafka has ended this producer")
    if isinstance(cause, _REFUSED):
        return KafkaRefusedError(f"Kafka refuses: {describe(cause)}")
    return KafkaUnavailableError(f"Kafka is not available: {describe(error)}")


def describe(error: BaseException) -> str:
    """Say what an error is in one line; many of aiokafka's and asyncio's carry no text."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    return text if name in text else f"{name}: {text}" if text else name
