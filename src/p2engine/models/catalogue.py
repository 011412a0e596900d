"""Who answers a model id: which provider, through which driver, with which key, or the offline stand-in instead.

Knows every driver and the offline policy. Reads no environment: keys, addresses and policy are handed in.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final, Literal, Protocol, cast

import msgspec

from p2engine.domain.messages import ModelReply, ModelRequest
from p2engine.errors import ConfigError, ModelError, UsageError
from p2engine.limits import MODEL_ATTEMPTS_MAX, MODEL_TIMEOUT_S
from p2engine.models.calling import Guarded
from p2engine.models.limiter import LocalLimiter
from p2engine.models.litellm import LiteLLMModel, is_installed
from p2engine.models.openai import OPENAI_BASE, OpenAIModel, is_openai
from p2engine.ports import Limiter, Model, OnText
from p2engine.positions import show

Offline = Literal["auto", "always", "never"]

OFFLINE: Final = "offline"
OPENAI: Final = "openai"
# What the vendors call the key in the environment. Others follow the same pattern.
VENDORS: Final = {
    OPENAI: "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "gemini": "GEMINI_API_KEY",
    "mistral": "MISTRAL_API_KEY",
    "openrouter": "OPENROUTER_API_KEY",
}
NEAR: Final = 0.8  # how alike two names are of which one is taken for a slip of the other; 1 is the same
# They run at home, or sign with credentials that are no key: a missing key says nothing about them.
KEYLESS: Final = frozenset({"bedrock", "lm_studio", "ollama", "ollama_chat", "sagemaker", "vertex_ai"})


class ProviderRow(msgspec.Struct, frozen=True, kw_only=True):
    """One provider as `p2engine models` shows it. `enable` is one line to get real answers; empty when it works."""

    provider: str
    driver: str
    key: bool
    base: str | None
    offline: bool
    enable: str


class _Closing(Protocol):
    async def aclose(self) -> None: ...


class Models:
    """Every model by its id, `provider/model`; an id without a provider is OpenAI's. Itself a Model.

    keys and bases: API keys and addresses by provider; a base makes any provider speak chat completions. offline:
    `auto` lets the stand-in answer for a provider that has no key while its address is the vendor's own, `always` for
    every provider, `never` for none; ids of `offline/…` it always answers. drivers: models that answer for a provider
    as they are, whatever the policy. One limiter for all; attempts and timeout_s (seconds) as in Guarded.
    """

    def __init__(
        self,
        *,
        keys: Mapping[str, str] | None = None,
        bases: Mapping[str, str] | None = None,
        offline: Offline = "auto",
        drivers: Mapping[str, Model] | None = None,
        limiter: Limiter | None = None,
        attempts: int = MODEL_ATTEMPTS_MAX,
        timeout_s: float = MODEL_TIMEOUT_S,
    ) -> None:
        self._keys = {provider: key.strip() for provider, key in (keys or {}).items() if key.strip()}
        self._bases = {provider: base.strip() for provider, base in (bases or {}).items() if base.strip()}
        self._offline = offline
        self._drivers = dict(drivers or {})
        self._limiter = limiter or LocalLimiter()
        self._attempts = attempts
        self._timeout_s = timeout_s
        self._resolved: dict[str, Model] = {}
        self._stand_in: Model | None = None
        self._opened: list[_Closing] = []

    async def complete(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelReply:
        """Ask whoever answers `request.model`. Raises ModelError, also when nobody does."""
        try:
            model = self.resolve(request.model)
        except ConfigError as error:
            unanswered = ModelError(str(error))
            unanswered.hint = error.hint
            raise unanswered from error
        return await model.complete(request, on_text=on_text)

    def resolve(self, model_id: str) -> Model:
        """Who answers this id. Raises ConfigError when nobody can: no key, a wrong address, a missing package."""
        provider = provider_of(model_id)
        if provider in self._drivers:
            return self._drivers[provider]
        if self.is_offline(model_id):
            return self._offline_model()
        model = self._resolved.get(provider)
        if model is None:
            model = self._resolved[provider] = self._guarded(provider)
        return model

    def is_offline(self, model_id: str) -> bool:
        """Whether the stand-in answers this id, by its name or by the policy."""
        provider = provider_of(model_id)
        if provider == OFFLINE:
            return True
        if provider in self._drivers or self._offline == "never":
            return False
        return self._offline == "always" or self._lacks_key(provider)

    def check_provider(self, model_id: str) -> None:
        """Raises UsageError where the provider of an id is not known, and its name is nearly that of one that is.

        Any other name passes: which providers there are is open, litellm alone knows a hundred.
        """
        provider = provider_of(model_id)
        known = {OPENAI, OFFLINE, *VENDORS, *KEYLESS, *self._keys, *self._bases, *self._drivers}
        near = [] if provider in known else get_close_matches(provider.lower(), sorted(known), n=1, cutoff=NEAR)
        if near:
            hint = f"where {provider} is meant, give it a key or an address of its own: p2engine models"
            raise UsageError(f"no provider {show(provider)} (did you mean {near[0]}?)", hint=hint)

    def describe(self) -> list[ProviderRow]:
        """Every provider that is known or configured: OpenAI first, the stand-in last."""
        names = dict.fromkeys([*VENDORS, *sorted({*self._keys, *self._bases, *self._drivers})])
        rows = [self._row(provider) for provider in names if provider != OFFLINE]
        stand_in = ProviderRow(provider=OFFLINE, driver=OFFLINE, key=False, base=None, offline=True, enable="")
        return [*rows, stand_in]

    async def aclose(self) -> None:
        """Close every driver that was opened. Twice is once."""
        opened, self._opened = self._opened, []
        self._resolved.clear()
        for driver in opened:
            await driver.aclose()

    def _guarded(self, provider: str) -> Guarded:
        driver = self._open_driver(provider)
        self._opened.append(cast(_Closing, driver))
        return Guarded(driver, provider, self._limiter, self._attempts, self._timeout_s)

    def _open_driver(self, provider: str) -> Model:
        key, base = self._keys.get(provider), self._bases.get(provider)
        if self._lacks_key(provider):
            raise ConfigError(f"no key for {provider}", hint=self._key_line(provider))
        if base is not None or provider == OPENAI:
            return OpenAIModel(base or OPENAI_BASE, key, timeout_s=self._timeout_s, provider=provider)
        return LiteLLMModel(provider, api_key=key, timeout_s=self._timeout_s)

    def _lacks_key(self, provider: str) -> bool:
        return provider not in self._keys and provider not in KEYLESS and self._is_vendors_own(provider)

    def _is_vendors_own(self, provider: str) -> bool:
        base = self._bases.get(provider)
        return base is None or (provider == OPENAI and is_openai(base))

    def _offline_model(self) -> Model:
        if self._stand_in is None:
            from p2engine.models.offline import OfflineModel

            self._stand_in = OfflineModel()
        return self._stand_in

    def _row(self, provider: str) -> ProviderRow:
        return ProviderRow(
            provider=provider,
            driver=self._driver_name(provider),
            key=provider in self._keys,
            base=self._bases.get(provider),
            offline=self.is_offline(f"{provider}/any"),
            enable=self._enable(provider),
        )

    def _driver_name(self, provider: str) -> str:
        if provider in self._drivers:
            return "own"
        return OPENAI if provider == OPENAI or provider in self._bases else "litellm"

    def _enable(self, provider: str) -> str:
        if provider in self._drivers:
            return ""
        steps = []
        if self._driver_name(provider) == "litellm" and not is_installed():
            steps.append("pip install 'p2engine[litellm]'")
        if self._lacks_key(provider):
            steps.append(self._key_line(provider))
        if not steps and self._offline == "always":
            steps.append("set llm.offline to auto")
        return "; ".join(steps)

    def _key_line(self, provider: str) -> str:
        return f"export {VENDORS.get(provider, provider.upper() + '_API_KEY')}=…"


def provider_of(model_id: str) -> str:
    """The provider in a model id: `openai` for `openai/gpt-4o`, and for an id that names none."""
    provider, slash, _ = model_id.partition("/")
    return provider if slash else OPENAI
