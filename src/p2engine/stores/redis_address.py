"""Where a Redis is. Loads no client of it."""

from dataclasses import dataclass, field
from urllib.parse import quote, urlencode


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisAddress:
    """Where a Redis is, and as whom to speak to it. Text of it never shows the password.

    prefix: what the names of all keys start with. ca: a file of certificates to trust instead of the system's.
    """

    host: str = "localhost"
    port: int = 6379
    db: int = 0
    prefix: str = "p2engine"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca: str | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{host}:{self.port}/{self.db}"

    def url(self) -> str:
        """The same with everything that another library needs to speak to it, secrets too. Never show it."""
        who = ""
        if self.username or self.password:
            who = f"{quote(self.username or '', safe='')}:{quote(self.password or '', safe='')}@"
        trust = {"ssl_cert_reqs": "required"} | ({"ssl_ca_certs": self.ca} if self.ca else {})
        return str(self).replace("://", f"://{who}", 1) + (f"?{urlencode(trust)}" if self.tls else "")
