"""How relay talks to Kafka at all: connection options, topics, and errors in relay's own terms."""

import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.conn import collect_hosts, create_conn

from relay.errors import (
    KafkaRefusedError,
    KafkaUnavailableError,
    ProducerOustedError,
    RelayError,
)
from relay.settings import Kafka

#: Milliseconds for a first answer of a broker.
CONNECT_TIMEOUT = 5000
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


def journal_topic(settings: Kafka) -> str:
    """Name the topic under which Kafka keeps how far each journal is settled; it has no records."""
    return f"{settings.topic_prefix}relay_journal"


def client_options(settings: Kafka) -> dict[str, Any]:
    """Give the keyword arguments with which every aiokafka client is made.

    Raises KafkaRefusedError if a TLS file cannot be used.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers,
        "security_protocol": settings.security_protocol,
        "client_id": "relay",
    }
    if settings.security_protocol.startswith("SASL"):
        options |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": settings.sasl_password.get_secret_value(),
        }
    if settings.security_protocol.endswith("SSL"):
        options["ssl_context"] = _ssl_context(settings)
    return options


def _ssl_context(settings: Kafka) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        if settings.cert_file and settings.key_file:
            context.load_cert_chain(settings.cert_file, settings.key_file)
    except (OSError, ssl.SSLError) as error:
        names = [
            str(file) for file in (settings.ca_file, settings.cert_file, settings.key_file) if file
        ]
        message = f"the TLS files {', '.join(names)} cannot be used: {describe(error)}"
        raise KafkaRefusedError(message) from error
    return context


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


@asynccontextmanager
async def admin_client(settings: Kafka) -> AsyncIterator[AIOKafkaAdminClient]:
    """Connect an admin client for a while."""
    client = AIOKafkaAdminClient(
        **client_options(settings), request_timeout_ms=int(settings.timeout * 1000)
    )
    try:
        await _start(client, settings)
        yield client
    finally:
        with suppress(Exception):
            await client.close()


async def _start(client: AIOKafkaAdminClient, settings: Kafka) -> None:
    try:
        await client.start()
    except errors.KafkaConnectionError:
        # aiokafka says "unable to bootstrap" and keeps to its log why: a password, a certificate.
        await connect(settings)
        raise


async def connect(settings: Kafka) -> None:
    """Connect to one bootstrap server and leave; raises the last one's error if none answers."""
    options = client_options(settings)
    failure: Exception = OSError("no bootstrap server is named")
    for host, port, _ in collect_hosts(options.pop("bootstrap_servers")):
        try:
            connection = await create_conn(
                host, port, request_timeout_ms=CONNECT_TIMEOUT, **options
            )
        except Exception as error:  # noqa: BLE001 - the next server may answer
            failure = error
        else:
            connection.close()
            return
    raise failure


async def ensure_topics(admin: AIOKafkaAdminClient, settings: Kafka, topics: Iterable[str]) -> None:
    """Create what is missing if that is allowed; raises KafkaRefusedError that names the rest."""
    wanted = dict.fromkeys(topics, settings.partitions) | {journal_topic(settings): 1}
    present = set(await admin.list_topics())
    absent = sorted(set(wanted) - present)
    if not absent:
        return
    if not settings.create_topics:
        raise KafkaRefusedError(missing(absent, "kafka.create_topics is off"))
    try:
        factor = await _replication_factor(admin, settings)
        answer = await admin.create_topics(
            [NewTopic(name, wanted[name], factor) for name in absent]
        )
    except (errors.IncompatibleBrokerVersion, AttributeError):
        # librdkafka's mock cluster has no controller, which aiokafka meets with AttributeError; it
        # makes each topic that is asked for.
        await admin.describe_topics(absent)
        return
    for name, code, *_ in answer.topic_errors:
        error = errors.for_code(code)
        if error not in {errors.NoError, errors.TopicAlreadyExistsError}:
            raise KafkaRefusedError(missing([name], f"creating it failed: {error.__name__}"))


async def _replication_factor(admin: AIOKafkaAdminClient, settings: Kafka) -> int:
    """Give the factor that is set, or the broker's default (aiokafka's requests need a number)."""
    if settings.replication_factor > 0:
        return settings.replication_factor
    cluster = await admin.describe_cluster()
    broker = ConfigResource(ConfigResourceType.BROKER, str(cluster["brokers"][0]["node_id"]))
    for response in await admin.describe_configs([broker]):
        for _, _, _, _, entries in response.resources:
            for name, value, *_ in entries:
                if name == "default.replication.factor":
                    return int(value)
    raise KafkaRefusedError("the broker's default replication factor cannot be read; set it")


def missing(topics: list[str], why: str) -> str:
    """Name topics that Kafka does not have."""
    return f"missing in Kafka: {', '.join(topics)} ({why})"
