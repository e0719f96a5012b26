"""A server that behaves as OpenAI's API does, and misbehaves on command: for the demo, the tests and the benches."""

from tailrace.demo.simulator.scenario import Scenario, ScenarioError
from tailrace.demo.simulator.server import Simulator

__all__ = ["Scenario", "ScenarioError", "Simulator"]
