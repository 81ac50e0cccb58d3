"""How relay logs in at Kafka: a password, or a token of a file, of a token server, of AWS."""

import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, SecretStr

from relay.settings.values import SECTION, File, Secret, token_url

#: The mechanisms that take a token.
TOKENS = {"OAUTHBEARER", "AWS_MSK_IAM"}
#: Where AWS' own tools look for the region.
_REGION = ("AWS_REGION", "AWS_DEFAULT_REGION")


def _extensions(said: dict[str, str]) -> dict[str, str]:
    """RFC 7628 parts them by a control character, and names are letters."""
    for name, value in said.items():
        if not re.fullmatch(r"[A-Za-z]+", name) or name == "auth":
            raise ValueError("each name must be of letters, and not auth")
        if not value.isprintable() or not value.isascii():
            raise ValueError(f"{name}: must be printable ASCII")
    return said


class Login(BaseModel):
    """What goes with SASL."""

    model_config = SECTION

    sasl_mechanism: Literal[
        "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "AWS_MSK_IAM"
    ] = "PLAIN"
    sasl_username: str = ""
    #: A file with a token that somebody else renews; read at each connection.
    oauth_token_file: File | None = None
    #: Where a token is to be had for an id and a secret (RFC 6749, client credentials).
    oauth_token_url: Annotated[str, AfterValidator(token_url)] = ""
    oauth_client_id: str = ""
    oauth_client_secret: Secret = SecretStr("")
    oauth_scope: str = ""
    #: What the broker wants to be told beside the token, as `logicalCluster`.
    oauth_extensions: Annotated[dict[str, str], AfterValidator(_extensions)] = Field(default={})


def lacking(given: Mapping[str, Any]) -> str:
    """Say what a login with SASL lacks; nothing if it is complete.

    `given` has the settings without a mistake of their own.
    """
    mechanism = given.get("sasl_mechanism")
    if mechanism == "OAUTHBEARER":
        return _lacking_token(given)
    if mechanism == "AWS_MSK_IAM":
        return _lacking_aws()
    password = given.get("sasl_password", SecretStr("?"))
    if mechanism is None or (given.get("sasl_username", "?") and password.get_secret_value()):
        return ""
    return "security_protocol uses SASL, so sasl_username and sasl_password are needed"


def _lacking_token(given: Mapping[str, Any]) -> str:
    file, url = given.get("oauth_token_file", "?"), given.get("oauth_token_url", "?")
    if bool(file) == bool(url) and "?" not in {file, url}:
        return "OAUTHBEARER needs oauth_token_file or oauth_token_url, one of them"
    secret = given.get("oauth_client_secret", SecretStr("?")).get_secret_value()
    if url and url != "?" and not (given.get("oauth_client_id", "?") and secret):
        return "oauth_token_url needs oauth_client_id and oauth_client_secret"
    return ""


def _lacking_aws() -> str:
    if find_spec("aws_msk_iam_sasl_signer") is None:
        return "AWS_MSK_IAM needs AWS' signer: requirements/msk.txt"
    if not region():
        return f"AWS_MSK_IAM needs the region: {' or '.join(_REGION)} in the environment"
    return ""


def region() -> str:
    """Give AWS' region of the brokers."""
    return next((found for name in _REGION if (found := os.environ.get(name))), "")
