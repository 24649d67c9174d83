"""Good events for the load: written as text, because forty thousand a second have to be made."""

import random
import time
from dataclasses import dataclass
from typing import Final

from producers.load_shapes import (
    ACTIONS,
    MODELS,
    SIZES,
    WORK,
    LoadModel,
    Profile,
    image_tokens,
    pick,
    reasoning_tokens,
    zipf_picks,
)

_FIRST_TALKS: Final = ("", '"attributes":{"channel":"web"},', '"power_level":"eco",')


@dataclass(frozen=True, slots=True)
class Written:
    """One event as text around its time, with what the manifest counts."""

    key: bytes
    head: str
    micros: int
    tail: str
    input_tokens: int
    output_tokens: int

    def value(self, micros: int | None = None) -> bytes:
        """The bytes to publish; with another time when given (microseconds since 1970)."""
        moment = self.micros if micros is None else micros
        return f"{self.head}{time_text(moment)}{self.tail}".encode()


@dataclass(slots=True)
class _Talk:
    """A conversation: the same model and the same cached share until it ends."""

    number: int
    model: LoadModel
    cached_share: float
    extra: str
    turns_left: int


class EventWriter:
    """Writes events of accounts; the same random source gives the same texts."""

    def __init__(
        self, rng: random.Random, *, run: str, accounts: int, models: int, profile: Profile
    ) -> None:
        self._rng = rng
        self._run = run
        self._profile = profile
        self._accounts = [f"acct-{number:05d}" for number in range(1, accounts + 1)]
        self._models = MODELS[:models]
        self._model_shares = zipf_picks(len(self._models))
        self._talks: dict[int, _Talk] = {}
        self._talks_begun = 0

    def call(self, number: int, account: int, micros: int) -> Written:
        """A call to a model, in the account's current conversation."""
        talk = self._talk(account)
        model = talk.model
        profile = model.profile if self._profile is Profile.MIXED else self._profile
        tokens_in, tokens_out = SIZES[profile].draw(self._rng)
        luck = self._rng.random()
        parts = ""
        if model.embeds:
            tokens_out = 0
        elif profile is Profile.REASONING:
            parts = f',"reasoning":{reasoning_tokens(tokens_out, luck)}'
        if profile is Profile.IMAGE:
            image = image_tokens(tokens_in, luck)
            parts = f',"image_input":{image}'
            cached = int((tokens_in - image) * talk.cached_share)
        else:
            cached = int(tokens_in * talk.cached_share)
        if cached:
            parts += f',"cache_read":{cached}'
        tail = (
            f'","data":{{"action":"{ACTIONS[talk.number % len(ACTIONS)]}",{talk.extra}'
            f'"provider":"{model.provider}","model":"{model.name}","tokens":{{'
            f'"input":{tokens_in},"output":{tokens_out}{parts}}},"resource_id":"talk-{talk.number}"}}}}'
        )
        return self._written(number, account, micros, tail, tokens_in, tokens_out)

    def work(self, number: int, account: int, micros: int) -> Written:
        """Work that is no call to a model."""
        action = WORK[number % len(WORK)]
        quantity = 1 + number % 3
        tail = f'","data":{{"action":"{action}","quantity":{quantity}}}}}'
        return self._written(number, account, micros, tail, 0, 0)

    def _written(
        self, number: int, account: int, micros: int, tail: str, tokens_in: int, tokens_out: int
    ) -> Written:
        name = self._accounts[account]
        head = (
            f'{{"specversion":"1.0","id":"{self._run}-{number:08x}","source":"load/generator",'
            f'"type":"tollgate.usage.v1","subject":"{name}","time":"'
        )
        return Written(name.encode(), head, micros, tail, tokens_in, tokens_out)

    def _talk(self, account: int) -> _Talk:
        talk = self._talks.get(account)
        if talk is None or talk.turns_left == 0:
            talk = self._talks[account] = self._begin_talk()
        talk.turns_left -= 1
        return talk

    def _begin_talk(self) -> _Talk:
        uniform = self._rng.random
        self._talks_begun += 1
        model = self._models[pick(self._model_shares, uniform())]
        cached = uniform() * 0.9 if model.caches and uniform() < 0.5 else 0.0
        extra = _FIRST_TALKS[self._talks_begun % len(_FIRST_TALKS)]
        return _Talk(self._talks_begun, model, cached, extra, 1 + int(uniform() * 10))


_second_text: tuple[int, str] = (-1, "")


def time_text(micros: int) -> str:
    """RFC 3339 in UTC; every tenth moment with seven decimals, as some platforms write them."""
    global _second_text  # noqa: PLW0603 - formatting a second once a second is half of the cost
    second, rest = divmod(micros, 1_000_000)
    known, text = _second_text
    if known != second:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _second_text = (second, text)
    return f"{text}.{rest:06d}0Z" if rest % 10 == 3 else f"{text}.{rest:06d}Z"
