"""Who the provider is, by host, and which model, by path. Names are those of the price book."""

import re
from typing import Final
from urllib.parse import unquote

_EXACT: Final = {
    "api.anthropic.com": "anthropic",
    "api.cerebras.ai": "cerebras",
    "api.cohere.ai": "cohere",
    "api.cohere.com": "cohere",
    "api.deepseek.com": "deepseek",
    "api.fireworks.ai": "fireworks",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral",
    "api.moonshot.ai": "moonshotai",
    "api.moonshot.cn": "moonshotai",
    "api.openai.com": "openai",
    "api.perplexity.ai": "perplexity",
    "api.together.ai": "together",
    "api.together.xyz": "together",
    "api.voyageai.com": "voyageai",
    "api.writer.com": "writer",
    "api.x.ai": "x-ai",
    "api.z.ai": "zai",
    "generativelanguage.googleapis.com": "google",
    "openrouter.ai": "openrouter",
}
_PATTERNS: Final = (
    (re.compile(r"bedrock-runtime(-fips)?\.[a-z0-9-]+\.amazonaws\.com(\.cn)?"), "aws"),
    (re.compile(r"([a-z0-9-]+\.)+(openai\.azure\.com|azure-api\.net)"), "azure"),
    (re.compile(r"([a-z0-9-]+\.)+(cognitiveservices|services\.ai)\.azure\.com"), "azure"),
    (re.compile(r"([a-z0-9-]+-)?aiplatform\.googleapis\.com"), "google"),
    (re.compile(r"(us|eu)\.api\.openai\.com"), "openai"),
)
_OTHER_NAMES: Final = {
    "amazon": "aws",
    "aws.bedrock": "aws",
    "az.ai.openai": "azure",
    "azure.ai.openai": "azure",
    "azure_openai": "azure",
    "bedrock": "aws",
    "gcp.gemini": "google",
    "gcp.vertex_ai": "google",
    "gemini": "google",
    "mistral_ai": "mistral",
    "mistralai": "mistral",
    "together_ai": "together",
    "vertex_ai": "google",
    "voyage": "voyageai",
    "xai": "x-ai",
}
_NAME = re.compile(r"[a-z0-9_.-]{1,48}")
_MODEL = re.compile(r"[A-Za-z0-9_.:/@+~-]{1,200}")
_IN_PATH = re.compile(
    r"/(?:model|models|deployments)/([^/?]+?)(?::\w+Content|:predict|:\w+Predict)?(?:/|\?|$)"
)
_PROFILE = re.compile(r"arn:aws[a-z-]*:bedrock:[^/]*:(?:inference-profile|foundation-model)/(.+)")


def provider_name(provider: str, host: str) -> str:
    """The provider that is named, else the one that the host belongs to; empty when neither says.

    A name that is given may be any: `vllm` for servers of one's own. A gateway or a server on this
    machine is nobody's host, so its provider must be given.
    """
    given = provider.strip().lower()
    if given:
        known = _OTHER_NAMES.get(given, given)
        return known if _NAME.fullmatch(known) else ""
    name = host.strip().lower().partition("://")[2] or host.strip().lower()
    name = name.partition("/")[0].removesuffix(":443")
    if name in _EXACT:
        return _EXACT[name]
    return next((found for pattern, found in _PATTERNS if pattern.fullmatch(name)), "")


def model_in_path(path: str) -> str:
    """The model that the address of a request names (Bedrock, Gemini, Azure), else empty."""
    named = _IN_PATH.search(path)
    return unquote(named[1]) if named else ""


def model_name(provider: str, response_model: object, request_model: str) -> str:
    """The model to price: what the response says, else what was asked for; empty when unknown.

    For Bedrock what was asked for comes first: its id carries the region's profile, which has a
    price of its own, and a response says only the maker's name. A profile's address is taken off.
    """
    said = response_model if isinstance(response_model, str) else ""
    chosen = (request_model or said) if provider == "aws" else (said or request_model)
    chosen = chosen.removeprefix("models/") if provider == "google" else chosen
    profile = _PROFILE.fullmatch(chosen)
    chosen = profile[1] if profile else chosen
    return chosen if _MODEL.fullmatch(chosen) else ""
