"""A server that behaves like OpenAI's API, and fails on request: for the demo, the tests and the benchmarks."""

from tailrace.demo.simulator.scenario import Scenario, ScenarioError
from tailrace.demo.simulator.server import Simulator

__all__ = ["Scenario", "ScenarioError", "Simulator"]
