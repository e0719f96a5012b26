/** Times are ISO 8601, UTC. Entries are described in docs/wire.md; empty fields are left out. */
export type Usage = { input_tokens?: number; output_tokens?: number; cached_tokens?: number; reasoning_tokens?: number }
export type ErrorInfo = { code: string; message: string; whose: "caller" | "operator" | "provider" }

export type Delta =
  | { message_type: "reasoning_message"; i: number; ms: number; reasoning: string; source?: string }
  | { message_type: "tool_call_message"; i: number; ms: number; call: number; tool_call: ToolCallPart }
  | { message_type: "assistant_message"; i: number; ms: number; content?: string; refusal?: string }
export type ToolCallPart = { name?: string; arguments?: string; tool_call_id?: string }

export type Ended = { ms: number; finish_reason?: string; usage?: Usage }
export type Terminal =
  | ({ message_type: "completed" | "incomplete" | "cancelled" } & Ended)
  | ({ message_type: "failed"; error: ErrorInfo } & Ended)

export type Snapshot = {
  message_type: "snapshot"
  v: number
  cursor: string
  attempt: number
  deltas?: Delta[]
  outcome?: Outcome
  messages?: Record<string, unknown>[]
}

export type Entry =
  | Delta
  | Terminal
  | Snapshot
  | { message_type: "accepted"; v: number; at: string; api: "chat" | "responses"; model: string }
  | { message_type: "attempt_started"; v: number; attempt: number; at: string; why: string }
  | { message_type: "retry_scheduled"; ms: number; attempt: number; reason: string; until: string }
  | { message_type: "gap"; after: string; before: string }
  | { message_type: "stalled"; for_ms: number; why: string }

export type ToolCall = { id: string | null; name: string; arguments: string; complete: boolean; kind?: string }
export type Outcome = {
  status: Terminal["message_type"]
  content: string | null
  refusal: string | null
  reasoning: string | null
  tool_calls: ToolCall[]
  usage: Usage | null
  error: ErrorInfo | null
  [more: string]: unknown
}

export type Links = { self: string; events: string; cancel: string }
export type SubmitAnswer = {
  id: string
  status: string
  already_exists: boolean
  links: Links
  token?: string
  token_expires_at?: string
}
export type RequestState = { id: string; state: { status: string; attempt: number; [more: string]: unknown }; outcome: Outcome | null; links: Links }

/** `cursor` is null for events of the reader (`gap`, `stalled`). With `format: "letta"` a delta is a Letta message. */
export type Tailed<E = Entry> = { cursor: string | null; name: string; entry: E }

export type TailOptions = {
  /** Yield only entries after this cursor. */
  after?: string
  /** Begin with one entry that contains all deltas so far, merged. */
  snapshot?: boolean
  format?: "raw" | "letta"
  /** Ends the tail; the request keeps running. */
  signal?: AbortSignal
  /** Reconnect when nothing arrives for this many milliseconds, not even a heartbeat (60,000). */
  idleMs?: number
}

export class TailraceError extends Error {
  readonly status: number
  readonly code: string
}

export class Tailrace {
  /**
   * @param base the gateway's URL, such as `https://llm.example`
   * @param options `token`: a token for one request, or on a server an API key
   */
  constructor(base: string, options?: { token?: string; fetch?: typeof fetch })
  submit(
    request: Record<string, unknown>,
    options?: { idempotencyKey?: string; grant?: "read" | "cancel" | "none" },
  ): Promise<SubmitAnswer>
  get(id: string): Promise<RequestState>
  cancel(id: string): Promise<{ id: string; verdict: "ended" | "signalled" | "finished"; status: string }>
  tail(id: string, options?: TailOptions & { format?: "raw" }): AsyncGenerator<Tailed, void, void>
  tail(id: string, options: TailOptions & { format: "letta" }): AsyncGenerator<Tailed<Record<string, unknown>>, void, void>
}
