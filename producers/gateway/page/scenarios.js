// Scenarios to choose on the page: answers of the simulated model (docs/simulator.md).

const TOOLS = [
  {
    type: "function",
    function: {
      name: "send_message",
      description: "Sends a message to the user.",
      parameters: {
        type: "object",
        properties: { inner_thoughts: { type: "string" }, message: { type: "string" } },
        required: ["inner_thoughts", "message"],
      },
    },
  },
]
const PACE = { chunks_per_s: 30, jitter: 0.3 }
const REASONED = [
  { kind: "reasoning", text: "They ask where the water goes. It has turned the wheel, so it leaves by the tailrace; I say so, and why it must not back up." },
  { kind: "text", text: "Behind the wheel the water runs off in the tailrace, back to the river.\nIf it could not leave, it would stand against the wheel and slow it down: so the tailrace is as much a part of the mill as the millrace that brings the water.\n" },
]
const HOSTILE =
  "<script>alert(1)<\/script> <img src=x onerror=alert(2)> <a href='javascript:alert(3)'>a link</a> &lt;b&gt; <\/textarea>\n" +
  "Right to left: \u202Eeman.exe\u202C, \u2067\u05E9\u05DC\u05D5\u05DD \u0639\u0631\u0628\u064A\u2069, and \u202Enever closed.\nThe next line stands by itself.\n"

/** A scenario's model and simulator parameters. `key` lets the simulator count calls, so faults hit the first. */
const scenario = (label, model, simulator = {}, more = {}) => ({
  label,
  model,
  request: () => ({ ...more, model, extra_body: { simulator: { pace: PACE, key: crypto.randomUUID(), ...simulator } } }),
})

export const SCENARIOS = {
  reasoning: scenario("reasoning, then text", "sim", { steps: REASONED }),
  long: scenario("a long text", "sim-long-600", { pace: { chunks_per_s: 40 } }),
  letta: scenario("a tool call with inner thoughts", "sim-letta", {}, { tools: TOOLS, interface: { use_assistant_message: false } }),
  assistant: scenario("a tool call shown as text", "sim-letta", {}, { tools: TOOLS }),
  parallel: scenario("three tool calls at once", "sim-parallel"),
  again: scenario("connection lost, then a retry", "sim", { steps: REASONED, faults: [{ kind: "cut", after: 25, calls: 1 }] }),
  limited: scenario("rate limited at first", "sim", {
    steps: REASONED,
    faults: [{ kind: "status", status: 429, retry_after_s: 4, calls: 1 }],
  }),
  pause: scenario("a long pause", "sim", { steps: REASONED, faults: [{ kind: "stall", after: 20, for_s: 6 }] }),
  refusal: scenario("a refusal", "sim-refusal"),
  overloaded: scenario("a permanent error", "sim", { faults: [{ kind: "status", status: 400, message: "no such thing" }] }),
  hostile: scenario("markup and bidirectional text", "sim", { steps: [{ kind: "text", text: HOSTILE }] }),
}
