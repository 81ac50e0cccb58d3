"""Where several replicas agree, and how to get there."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from relay.settings import values
from relay.settings.values import MISFIT, SECTION, TIME, File, Secret, StoreUrl, Word


class OnOutage(StrEnum):
    """What to do with events while the claims store is away."""

    HOLD = "hold"
    PUBLISH = "publish"


class Claims(BaseModel):
    """Where several replicas agree on who publishes an event; no URL: there is one replica."""

    model_config = SECTION

    #: `redis://` or `rediss://`; `+sentinel` and `+cluster` behind either. It may hold a password.
    url: Secret = SecretStr("")
    on_outage: OnOutage = OnOutage.HOLD
    key_prefix: Word = "relay:"
    #: This replica's name, and that of one whose past must be in the store before this publishes.
    replica: Word = ""
    after: Word = ""
    ca_file: File | None = None
    cert_file: File | None = None
    key_file: Annotated[File | None, Field(validate_default=True)] = None
    #: What sentinels want of whoever asks them; the server's stands in the URL.
    sentinel_username: str = ""
    sentinel_password: Secret = SecretStr("")
    timeout: Annotated[float, Field(ge=0.01, le=60, allow_inf_nan=False), TIME] = 2

    @property
    def store(self) -> StoreUrl:
        """What the URL says; there must be one."""
        return values.store_url(self.url.get_secret_value())

    @field_validator("url")
    @classmethod
    def _readable(cls, url: SecretStr) -> SecretStr:
        if url.get_secret_value():
            values.store_url(url.get_secret_value())
        return url

    @field_validator("key_file")
    @classmethod
    def _with_certificate(cls, key_file: Path | None, before: ValidationInfo) -> Path | None:
        if "cert_file" in before.data and (before.data["cert_file"] is None) != (key_file is None):
            raise PydanticCustomError(MISFIT, "cert_file and key_file go together")
        return key_file
