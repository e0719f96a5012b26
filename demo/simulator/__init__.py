"""A server that behaves as OpenAI's API does, and misbehaves on command: for the demo, the tests and the benches."""

from demo.simulator.scenario import Scenario, ScenarioError
from demo.simulator.server import Simulator

__all__ = ["Scenario", "ScenarioError", "Simulator"]
