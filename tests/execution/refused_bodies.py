"""Refusals as providers word them, from public reports; and replies of the same kind about something else."""

from __future__ import annotations

from typing import Any

Refusal = tuple[int, Any, set[str]]
"""Status, body, and the settings that are refused."""


def _openai(message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


_FIXED = (
    "Unsupported value: 'temperature' does not support 1.0 with this model. Only the default (1) value is supported."
)
_BOTH = "`temperature` and `top_p` cannot both be specified for this model. Please use only one."
_UNKNOWN = 'Invalid JSON payload received. Unknown name "seed": Cannot find field.'

REFUSALS: dict[str, Refusal] = {
    # github.com/johny-b/llmcomp/issues/69
    "OpenAI, a fixed temperature": (400, _openai(_FIXED, "temperature", "unsupported_value"), {"temperature"}),
    # github.com/ai-christianson/RA.Aid/issues/70
    "OpenAI, no temperature": (
        400,
        _openai(
            "Unsupported parameter: 'temperature' is not supported with this model.",
            "temperature",
            "unsupported_parameter",
        ),
        {"temperature"},
    ),
    # github.com/openai/openai-python/issues/433
    "OpenAI, log probabilities": (400, _openai("Unrecognized request argument supplied: logprobs"), {"logprobs"}),
    # github.com/MartialBE/one-hub/issues/529
    "Anthropic, thinking": (
        400,
        {
            "type": "error",
            "error": {
                "type": "invalid_request_error",
                "message": "`temperature` may only be set to 1 when thinking is enabled. Please consult our "
                "documentation at https://docs.anthropic.com/en/docs/build-with-claude/extended-thinking",
            },
        },
        {"temperature"},
    ),
    # github.com/UKGovernmentBEIS/inspect_ai/issues/3721
    "Anthropic, deprecated": (
        400,
        {
            "type": "error",
            "error": {"type": "invalid_request_error", "message": "`temperature` is deprecated for this model."},
        },
        {"temperature"},
    ),
    # github.com/cline/cline/issues/10572
    "Bedrock, deprecated": (
        400,
        {"message": "The model returned the following errors: `temperature` is deprecated for this model."},
        {"temperature"},
    ),
    # github.com/skydiscover-ai/skydiscover/issues/15
    "Bedrock through a LiteLLM proxy, beside top_p": (
        400,
        _openai(f"litellm.BadRequestError: BedrockException - The model returned the following errors: {_BOTH}"),
        {"temperature"},
    ),
    # github.com/router-for-me/CLIProxyAPI/issues/193
    "Anthropic, beside top_p": (
        400,
        {"type": "error", "error": {"type": "invalid_request_error", "message": _BOTH.replace("`", "")}},
        {"temperature"},
    ),
    # github.com/HKUDS/nanobot/pull/202
    "Moonshot": (
        400,
        {
            "error": {
                "message": "invalid temperature: only 1 is allowed for this model",
                "type": "invalid_request_error",
            }
        },
        {"temperature"},
    ),
    # github.com/BerriAI/litellm/issues/10957
    "OpenRouter": (
        400,
        {
            "error": {
                "message": "Provider returned error",
                "code": 400,
                "metadata": {
                    "raw": '{"error": {"message": "Unsupported parameter: \'temperature\' is not supported with this '
                    'model.", "param": "temperature", "code": null}}',
                    "provider_name": "OpenAI",
                },
            }
        },
        {"temperature"},
    ),
    # github.com/Vali-98/ChatterUI/issues/227
    "Gemini, seed": (
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": _UNKNOWN,
                    "status": "INVALID_ARGUMENT",
                    "details": [
                        {
                            "@type": "type.googleapis.com/google.rpc.BadRequest",
                            "fieldViolations": [{"description": _UNKNOWN}],
                        }
                    ],
                }
            }
        ],
        {"seed"},
    ),
    # github.com/mscraftsman/generative-ai/issues/135
    "Gemini, log probabilities": (
        400,
        {
            "error": {
                "code": 400,
                "message": "Logprobs is not enabled for models/gemini-2.5-pro",
                "status": "INVALID_ARGUMENT",
            }
        },
        {"logprobs"},
    ),
    # github.com/Gitlawb/openclaude/issues/739, of other settings
    "Mistral": (
        422,
        {
            "detail": [
                {
                    "type": "extra_forbidden",
                    "loc": ["body", "seed"],
                    "msg": "Extra inputs are not permitted",
                    "input": 7,
                }
            ]
        },
        {"seed"},
    ),
    # github.com/BerriAI/litellm/issues/3923
    "LiteLLM's proxy, as a failure": (
        500,
        {
            "error": {
                "message": "ollama does not support parameters: {'seed': 1}, for model=llama3:latest. To drop these, "
                "set `litellm.drop_params=True` or for proxy:\n\n`litellm_settings:\n drop_params: true`\n",
                "type": None,
                "param": None,
                "code": 500,
            }
        },
        {"seed"},
    ),
    "a server of its own words": (400, _openai("this model has no temperature"), {"temperature"}),
    "by the parameter's name alone": (400, _openai("That will not do.", "temperature"), {"temperature"}),
    "by a path": (400, _openai("Not here.", "generationConfig.temperature"), {"temperature"}),
}

UNEXPLAINED: dict[str, tuple[int, Any]] = {
    "nothing": (400, {}),
    "generic words": (400, _openai("Bad Request")),
    "a code alone": (400, _openai("See our pages.", None, "unsupported_parameter")),
    # The shape of vLLM's errors before 0.10, of which DSPy's native engine hands nothing on.
    "no words at all": (422, ""),
}

OTHERS: dict[str, tuple[int, Any]] = {
    "OpenAI, too long": (
        400,
        _openai(
            "This model's maximum context length is 10 tokens, whatever the temperature.",
            "messages",
            "context_length_exceeded",
        ),
    ),
    "OpenAI, a schema": (
        400,
        _openai(
            "Invalid schema for response_format 'Weather': In context=('properties', 'temperature'), 'minimum' is not "
            "permitted.",
            "response_format",
        ),
    ),
    "a schema, in words alone": (400, _openai("JSON schema of the field temperature is not supported")),
    "a tool": (400, _openai("Invalid tools[0]", "tools[0].function.parameters.properties.temperature")),
    # learn.microsoft.com/azure/ai-services/openai/concepts/content-filter
    "Azure, content": (
        400,
        _openai(
            "The response was filtered due to the prompt triggering Azure OpenAI's content management policy: high "
            "temperature",
            "prompt",
            "content_filter",
        ),
    ),
    "another parameter": (
        400,
        _openai("Unsupported parameter: 'max_tokens' is not supported with this model.", "max_tokens"),
    ),
    "roles": (400, _openai("The last message must not be the system's.")),
    "unknown": (400, _openai("The moon is full.")),
    # github.com/Gage-Technologies/mistral-go/pull/2
    "Mistral, a message": (
        422,
        {
            "detail": [
                {"type": "extra_forbidden", "loc": ["body", "messages", 0, "user", "name"], "msg": "Extra inputs"}
            ]
        },
    ),
    "vLLM, quoting the request": (
        400,
        _openai(
            "[{'type': 'missing', 'loc': ('body', 'messages'), 'msg': 'Field required', 'input': {'temperature': 1.0}}]"
        ),
    ),
    "a key": (401, _openai("Incorrect API key provided; temperature 1.0")),
    "too many": (429, _openai("temperature 1.0 of the cluster")),
    "down": (503, _openai("temperature alarm")),
}
