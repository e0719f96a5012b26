"""The interface without queue, log or worker: `OpenAIStreamingInterface` reads one stream of the OpenAI SDK."""

from tailrace.worker.streaming import FunctionCall, InterfaceOptions, OpenAIStreamingInterface, ToolCallObject

__all__ = ["FunctionCall", "InterfaceOptions", "OpenAIStreamingInterface", "ToolCallObject"]
