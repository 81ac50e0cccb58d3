"""An app as an operator names it: who it is, and what vouches for its callbacks."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from relay.settings import values
from relay.settings.values import MISFIT, Secret

#: What vouches for a callback; any one will do.
_KEYS = ("encrypt_key", "previous_encrypt_key")
_TOKENS = ("verification_token", "previous_verification_token")
#: Stands for a value that has a mistake of its own.
_UNKNOWN = SecretStr("?")


def _url(text: str) -> str:
    return values.feishu_url(text) if text else text


class App(BaseModel):
    """One Feishu app: how its callbacks are verified, and where it calls Feishu."""

    model_config = values.SECTION

    app_id: str = ""
    app_secret: Secret = SecretStr("")
    encrypt_key: Secret = SecretStr("")
    previous_encrypt_key: Secret = SecretStr("")
    verification_token: Secret = SecretStr("")
    previous_verification_token: Secret = SecretStr("")
    #: Refuse to start where a token alone would vouch for a body that nobody has signed.
    signed: bool = False
    #: Fetch the events over a connection that relay opens, instead of waiting to be called.
    long_connection: Annotated[bool, Field(validate_default=True)] = False
    #: Where this app's API is, if not where `feishu_url` of all says.
    feishu_url: Annotated[str, AfterValidator(_url)] = ""
    #: The service desk whose events `relay subscribe` asks for, and its token.
    helpdesk_id: str = ""
    helpdesk_token: Secret = SecretStr("")

    @field_validator("long_connection")
    @classmethod
    def _usable(cls, long_connection: bool, before: ValidationInfo) -> bool:  # noqa: FBT001
        given = before.data
        if long_connection:
            if not given.get("app_id", "?") or not _present(given.get("app_secret", _UNKNOWN)):
                message = "long_connection needs an app_id and an app_secret"
                raise PydanticCustomError(MISFIT, message)
        elif not _any(given, _KEYS + _TOKENS):
            message = "needs an encrypt_key or a verification_token: nobody could be told apart"
            raise PydanticCustomError(MISFIT, message)
        if given.get("signed") and _any(given, _TOKENS) and not _any(given, _KEYS):
            message = (
                "signed asks for an encrypt_key, and there is none: with its verification_token "
                "alone, bodies without a signature would be taken"
            )
            raise PydanticCustomError(MISFIT, message)
        return long_connection

    @property
    def encrypt_keys(self) -> tuple[str, ...]:
        """The current key, then the previous one; without those that are not set."""
        return _present(self.encrypt_key, self.previous_encrypt_key)

    @property
    def verification_tokens(self) -> tuple[str, ...]:
        """The current token, then the previous one; without those that are not set."""
        return _present(self.verification_token, self.previous_verification_token)


def _any(given: Mapping[str, Any], names: tuple[str, ...]) -> bool:
    return bool(_present(*(given.get(name, _UNKNOWN) for name in names)))


def _present(*secrets: SecretStr) -> tuple[str, ...]:
    return tuple(secret.get_secret_value() for secret in secrets if secret.get_secret_value())
