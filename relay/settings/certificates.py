"""Whom TLS trusts, and what relay shows of itself: files, read anew for each connection.

Whoever renews certificates replaces the files, as Kubernetes does those of a Secret; nobody starts
relay again for it.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

#: Of a directory's files, those that are authorities.
_AUTHORITIES = (".crt", ".pem")


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """Files in PEM."""

    #: Whom to trust: a file, or a directory with some; None: whom the system trusts.
    authority: Path | None = None
    #: What relay shows, and the key to it.
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Read the files. Raises OSError, of which `ssl.SSLError` is one."""
        authorities = self._authorities()
        context = ssl.create_default_context(cafile=authorities[0] if authorities else None)
        for other in authorities[1:]:
            context.load_verify_locations(other)
        if authorities:
            # Who makes an authority of his own seldom writes all that RFC 5280 wants of it, on
            # which Python 3.13 insists: key identifiers, what the key is for.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if self.certificate and self.key:
            context.load_cert_chain(self.certificate, self.key)
        return context

    def _authorities(self) -> list[Path]:
        if not (self.authority and self.authority.is_dir()):
            return [self.authority] if self.authority else []
        found = [one for one in sorted(self.authority.iterdir()) if one.suffix in _AUTHORITIES]
        if not found:
            raise FileNotFoundError(f"{self.authority} has no .crt or .pem")
        return found

    def __str__(self) -> str:
        """Name the files."""
        files = (self.authority, self.certificate, self.key)
        return ", ".join(str(file) for file in files if file)
