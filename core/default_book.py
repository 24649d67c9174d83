"""The price book a new installation starts with, except for the catalog of models.

Multipliers, actions and the flat price are the defaults of this project; an operator publishes
a version with other figures.
"""

from __future__ import annotations


def _mtok(**prices: str) -> dict[str, object]:
    return {"usd_per_mtok": prices}


def default_document(catalog: dict[str, object]) -> dict[str, object]:
    """A whole book document around a catalog. One credit of model use is one US dollar.

    A yuan that a provider bills is 100 credits. The flat price of 200 tokens a credit is there and
    holds for no model, until an operator names the models.

    1,000 input tokens of gpt-4o, balanced, free tier: 1000 / 1000 x 0.0025 x 1.0 x 1.5 = 0.00375.
    """
    return {
        "currencies": {"USD": [{"credits": "1"}], "CNY": [{"credits": "100"}]},
        "power_levels": {"eco": "0.5", "balanced": "1.0", "precision": "2.0"},
        "tiers": {"free": "1.5", "starter": "1.2", "pro": "1.0", "enterprise": "0.9"},
        "own_key_share": "0.05",
        "flat": {"tokens_per_credit": "200", "models": []},
        "actions": {action: {"credits": price} for action, price in _ACTIONS.items()},
        "models": _OWN_MODELS,
        "catalog": catalog,
    }


# Work without a model. AI work (chat messages, comment replies, content suggestions) is priced by
# the tokens of its model and has no row.
_ACTIONS = {
    "workflow_execution": "0.01",
    "scheduled_task": "0.0005",
    "bulk_operation": "0.005",
    "bulk_message_send": "0.002",
    "comment_batch": "0.005",
    "video_sync": "0.002",
    "comment_fetch": "0.001",
    "video_analysis": "0.05",
    "analytics_report": "0.02",
    "analytics_dashboard": "0.01",
    "webhook_delivery": "0.0001",
    "data_export": "0.01",
}

# Where the catalog is known to be wrong: genai-prices has the text prices only, so audio would
# cost 16 and 8 times too little.
_OWN_MODELS = {
    "openai/gpt-4o-audio-preview": {
        "prices": [_mtok(input="2.5", output="10", audio_input="40", audio_output="80")]
    },
}
