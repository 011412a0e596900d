"""What a provider's refusal means: whether to try again, when, and what to tell the reader.

Knows HTTP statuses and the error bodies of compatible servers. Keys never leave it: they are redacted from every text.
"""

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

import msgspec

from p2engine.errors import ModelError

_RETRYABLE: Final = frozenset({408, 409, 425, 429})  # and every 5xx
_SECRET_MIN: Final = 6  # shorter ones are stand-ins such as `none`, and would be cut out of ordinary words
_TEXT_MAX: Final = 300  # characters of a provider's own words that an error repeats
_SECRET = re.compile(r"(?i)\b(?:sk|gsk|xai)-[\w*.\-]{6,}|\bbearer\s+\S{12,}")
_TOO_LONG = re.compile(r"(?i)context[ _](?:length|window|size)|maximum context|prompt is too long")


def is_retryable(status: int) -> bool:
    """Whether the same request may succeed later."""
    return status in _RETRYABLE or status >= 500


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """How long the provider asked to wait, in seconds from `now` (unix); None when it did not say.

    Reads `retry-after-ms`, then `Retry-After` as seconds or as an HTTP date. `headers` is asked in lower case.
    """
    text = headers.get("retry-after-ms", "")
    try:
        return max(0.0, float(text) / 1000)
    except ValueError:
        text = headers.get("retry-after", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None


class Peer:
    """The provider as errors name it. `secret` is its key, so that no error repeats it."""

    def __init__(self, provider: str, secret: str | None = None) -> None:
        self.provider = provider
        self._secret = secret if secret and len(secret) >= _SECRET_MIN else ""

    def failed(self, what: str, *, retryable: bool, status: int | None = None) -> ModelError:
        """The call came to nothing without a refusal: no connection, no sense, no end."""
        return ModelError(f"{self.provider}: {self.shown(what)}", retryable=retryable, status=status)

    def refused(self, status: int, body: bytes | str, headers: Mapping[str, str], now: float) -> ModelError:
        """An HTTP answer that is no success. `headers` is asked in lower case; `now` is unix seconds."""
        code, text = _explained(body)
        return self._error(status, code, text, retry_after_s(headers, now) if is_retryable(status) else None)

    def refused_in_reply(self, error: Any) -> ModelError:
        """An error object inside an answer that began as a success, streamed or whole."""
        code, text = _said(error)
        status = int(code) if code.isdigit() and 400 <= int(code) <= 599 else None
        kind = f"{code} {error.get('type', '')}" if isinstance(error, dict) else ""
        if status is None:
            status = 429 if "rate_limit" in kind else 400 if "invalid" in kind or _TOO_LONG.search(kind) else 500
        return self._error(status, code, text, None)

    def shown(self, text: str) -> str:
        """The text on one line, cut, with nothing secret in it."""
        if self._secret:
            text = text.replace(self._secret, "***")
        text = " ".join(_SECRET.sub("***", text).split())
        text = "".join(character for character in text if character.isprintable())
        return text if len(text) <= _TEXT_MAX else text[:_TEXT_MAX] + "…"

    def _error(self, status: int, code: str, text: str, wait_s: float | None) -> ModelError:
        meaning, hint, final = _meaning(status, code, text)
        words = self.shown(text)
        error = ModelError(
            f"{self.provider}: {meaning} ({status})" + (f": {words}" if words else ""),
            retryable=is_retryable(status) and not final,
            retry_after_s=wait_s,
            status=status,
        )
        error.hint = hint
        return error


def _meaning(status: int, code: str, text: str) -> tuple[str, str, bool]:
    """In a few words, with the mend where there is one; and whether it stays so, whatever the status says."""
    if code == "insufficient_quota":
        return "the account has no quota left", "add credit at the provider", True
    if status == 401:
        return "the key was refused", "set another key for this provider", True
    if status in {400, 413} and (code == "context_length_exceeded" or _TOO_LONG.search(text)):
        return "the conversation is longer than the model can take", "use render_policy last_n or token_budget", True
    if 300 <= status < 400:
        return "sends elsewhere", "set api_base to where it sends", True
    if status == 403:
        return "this key may not do this", "", True
    if status == 404:
        return "knows no such model or address", "check the model id and api_base", True
    if status == 429:
        return "too many calls", "", False
    if status >= 500:
        return "failed", "", False
    return "refused the request", "", False


def _explained(body: bytes | str) -> tuple[str, str]:
    """The code and the words in an error body; every compatible server has a shape of its own."""
    try:
        found = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        text = body if isinstance(body, str) else body.decode(errors="replace")
        return "", "" if text.lstrip().startswith("<") else text
    if isinstance(found, list) and found:
        found = found[0]
    if isinstance(found, dict):
        found = found.get("error", found)
    return _said(found)


def _said(error: Any) -> tuple[str, str]:
    """The code and the words of one error object."""
    if not isinstance(error, dict):
        return "", error if isinstance(error, str) else ""
    words = next((error[key] for key in ("message", "detail", "msg") if error.get(key)), "")
    code = error.get("code") or error.get("type") or ""
    return str(code), words if isinstance(words, str) else msgspec.json.encode(words).decode()
