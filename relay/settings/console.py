"""The operator's pages: where they are, and who may look."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, SecretStr

from relay.settings import values
from relay.settings.values import SECTION, Endpoint, Host, Port, Secret

#: Characters of a password that nobody guesses while each wrong one costs time.
SHORTEST_PASSWORD = 8
PORT = 9091


def _long(password: SecretStr) -> SecretStr:
    """Refuse what would be found by trying; an empty one is none."""
    text = password.get_secret_value()
    if text and len(text) < SHORTEST_PASSWORD:
        raise ValueError(f"must have at least {SHORTEST_PASSWORD} characters")
    return password


def _places(text: str) -> str:
    """Check the places of other replicas; empty is none."""
    if text.strip():
        values.endpoints(text, PORT)
    return text.strip()


class Console(BaseModel):
    """The listener for operators; off without a password."""

    model_config = SECTION

    host: Host = "127.0.0.1"
    port: Port = PORT
    #: What a browser asks for; the user may call himself as he likes.
    password: Annotated[Secret, AfterValidator(_long)] = SecretStr("")
    #: Where the other replicas' consoles are: `host:port`, a name may stand for many addresses.
    peers: Annotated[str, AfterValidator(_places)] = ""

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The peers."""
        return values.endpoints(self.peers, PORT) if self.peers else ()
