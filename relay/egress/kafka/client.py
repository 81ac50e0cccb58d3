"""How relay connects to Kafka: the options of every client, TLS, and why a connection fails."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient

from relay.egress.kafka.faults import describe
from relay.egress.kafka.sessions import create, renewed
from relay.egress.kafka.tokens import provider
from relay.errors import KafkaRefusedError
from relay.settings import Kafka
from relay.settings.certificates import Certificates
from relay.settings.login import TOKENS

#: Milliseconds for a first answer of a broker.
CONNECT_TIMEOUT = 5000
#: The oldest Kafka that tells a stable offset, and the version of the request that shows it.
LEAST_VERSION = "2.5"
OFFSET_FETCH, _OFFSET_FETCH_VERSION = 9, 7
_CREATE_TOPICS = 19
#: What a client has to know, and a connection has not.
_OF_CLIENTS = ("bootstrap_servers", "connections_max_idle_ms", "metadata_max_age_ms")


def client_options(settings: Kafka) -> dict[str, Any]:
    """Give the keyword arguments with which every aiokafka client is made.

    Raises KafkaRefusedError if a TLS file cannot be used.
    """
    renewed()
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers,
        "security_protocol": settings.security_protocol,
        "client_id": "relay",
        "connections_max_idle_ms": int(settings.idle_timeout * 1000),
        "metadata_max_age_ms": int(settings.idle_timeout * 1000),
    }
    if settings.security_protocol.startswith("SASL"):
        options |= _login(settings)
    if settings.security_protocol.endswith("SSL"):
        options["ssl_context"] = _certificates(settings)
    return options


def _login(settings: Kafka) -> dict[str, Any]:
    if settings.sasl_mechanism in TOKENS:
        # AWS' mechanism is this one, with a token of its own.
        return {"sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_provider": provider(settings)}
    return {
        "sasl_mechanism": settings.sasl_mechanism,
        "sasl_plain_username": settings.sasl_username,
        "sasl_plain_password": settings.sasl_password.get_secret_value(),
    }


def _certificates(settings: Kafka) -> Certificates:
    """Give what `create` makes each connection's context of."""
    files = Certificates(
        authority=settings.ca_file, certificate=settings.cert_file, key=settings.key_file
    )
    try:
        files.context()
    except OSError as error:
        message = f"the TLS files {files} cannot be used: {describe(error)}"
        raise KafkaRefusedError(message) from error
    return files


def too_old(versions: Mapping[int, tuple[int, int]]) -> bool:
    """Whether a broker with these versions of requests is older than LEAST_VERSION.

    librdkafka's mock cluster is not: it is known by the missing CreateTopics.
    """
    _, newest = versions.get(OFFSET_FETCH, (0, 0))
    return newest < _OFFSET_FETCH_VERSION and _CREATE_TOPICS in versions


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
        await _connect(settings)
        raise


async def _connect(settings: Kafka) -> None:
    """Connect to one bootstrap server and leave; raises the last one's error if none answers."""
    options = client_options(settings)
    failure: Exception = OSError("no bootstrap server is named")
    for name in _OF_CLIENTS:
        del options[name]
    for broker in settings.brokers:
        try:
            connection = await create(
                broker.host, broker.port, request_timeout_ms=CONNECT_TIMEOUT, **options
            )
        except Exception as error:  # noqa: BLE001 - the next server may answer
            failure = error
        else:
            connection.close()
            return
    raise failure
