"""Profile a program of another framework: a pydantic-ai agent that asks the embedded model.

pydantic-ai makes OpenTelemetry spans of what it does; claude_pm.profile() records them beside its
own. Needs: pip install 'claude-pm[otel]' 'pydantic-ai-slim[anthropic]'
"""

# ruff: noqa: T201 - it shows what it found

from __future__ import annotations

from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.providers.anthropic import AnthropicProvider

import claude_pm
from claude_pm.models.embedded import shared_server, stop_servers
from claude_pm.models.weights import ensure_weights

COLUMNS = ["name", "agent", "model", "input_tokens", "output_tokens", "duration_s", "status"]


def main() -> None:
    """Ask once, and show where the time went."""
    server = shared_server(ensure_weights(claude_pm.read_settings().model_dir), cache=True)
    provider = AnthropicProvider(api_key=server.api_key, base_url=server.base_url)
    model = AnthropicModel(server.model, provider=provider)

    Agent.instrument_all()
    agent = Agent(
        model, name="poet", instructions="You are brief.", model_settings={"max_tokens": 16}
    )
    with claude_pm.profile("pydantic-ai", cpu=None) as profile:
        print(agent.run_sync("Name one colour of the sea.").output)

    print(profile.spans[COLUMNS].to_string(index=False))
    # profile.to_otlp("http://localhost:4318") sends them on to a collector.
    stop_servers()


if __name__ == "__main__":
    main()
