// A client for a Tailrace gateway. `tail` is an async iterator that reconnects and resumes by itself. No dependencies:
// it uses `fetch` and web streams, so it runs in browsers, Node 18 and newer, Deno and Bun. Types: tailrace.d.ts.

const TERMINALS = new Set(["completed", "incomplete", "failed", "cancelled"])
const RETRY_MS = 1000
const RETRY_MAX_MS = 30_000

/** The gateway rejected a call; trying again does not help. */
export class TailraceError extends Error {
  constructor(status, code, message) {
    super(message)
    this.name = "TailraceError"
    this.status = status
    this.code = code
  }
}

export class Tailrace {
  #base
  #headers
  #fetch

  /** Throws on invalid arguments: `fetch` would report them like an unreachable gateway, and `tail` would retry. */
  constructor(base, { token, fetch: given } = {}) {
    this.#base = new URL(base, globalThis.location?.href).href.replace(/\/$/, "")
    if (token && !/^[\x21-\x7e]+$/.test(token)) throw new TypeError("the token has characters that no token has")
    this.#headers = token ? { authorization: `Bearer ${token}` } : {}
    this.#fetch = given ?? globalThis.fetch.bind(globalThis)
  }

  async submit(request, { idempotencyKey, grant } = {}) {
    const headers = { "content-type": "application/json" }
    if (idempotencyKey !== undefined) headers["idempotency-key"] = idempotencyKey
    const query = grant ? `?grant=${encodeURIComponent(grant)}` : ""
    return this.#json("POST", `/v1/streams${query}`, headers, JSON.stringify(request))
  }

  async get(id) {
    return this.#json("GET", `/v1/streams/${encodeURIComponent(id)}`)
  }

  async cancel(id) {
    return this.#json("POST", `/v1/streams/${encodeURIComponent(id)}/cancel`)
  }

  /** Yields every entry after the cursor once, up to the terminal, over as many connections as it takes. */
  async *tail(id, { after, snapshot = false, format = "raw", signal, idleMs = 60_000 } = {}) {
    let cursor = after
    let retryMs = RETRY_MS
    let failures = 0
    while (true) {
      const idle = watchdog(signal, idleMs)
      try {
        const answer = await this.#open(id, cursor, snapshot, format, idle.signal)
        if (answer.status === 204) return
        for await (const frame of frames(answer.body, idle.touch)) {
          if (frame.retryMs !== undefined) retryMs = frame.retryMs
          if (frame.data === undefined) continue
          failures = 0
          if (frame.id !== undefined) cursor = frame.id
          yield { cursor: frame.id ?? null, name: frame.name, entry: JSON.parse(frame.data) }
          if (TERMINALS.has(frame.name)) return
        }
      } catch (error) {
        if (signal?.aborted) throw signal.reason
        if (error instanceof TailraceError || error instanceof SyntaxError) throw error
      } finally {
        idle.end()
      }
      await pause(Math.min(retryMs * 2 ** Math.min(failures++, 5), RETRY_MAX_MS), signal)
    }
  }

  async #open(id, cursor, snapshot, format, signal) {
    const query = new URLSearchParams({ format })
    if (snapshot) query.set("snapshot", "1")
    const headers = { ...this.#headers, accept: "text/event-stream" }
    if (cursor !== undefined) headers["last-event-id"] = cursor
    const path = `/v1/streams/${encodeURIComponent(id)}/events?${query}`
    const answer = await this.#fetch(this.#base + path, { headers, signal, cache: "no-store" })
    if (answer.status === 204 || isEventStream(answer)) return answer
    if (answer.status === 429 || answer.status >= 500) {
      await answer.body?.cancel()
      throw new Error(`the gateway answered ${answer.status}`)
    }
    throw await refusal(answer)
  }

  async #json(method, path, headers = {}, body = undefined) {
    const answer = await this.#fetch(this.#base + path, { method, headers: { ...this.#headers, ...headers }, body })
    if (!answer.ok) throw await refusal(answer)
    return answer.json()
  }
}

function isEventStream(answer) {
  return answer.ok && /^text\/event-stream\b/i.test(answer.headers.get("content-type") ?? "")
}

async function refusal(answer) {
  const content = await answer.json().catch(() => undefined)
  const { code, message } = content?.error ?? {}
  const fallback = answer.ok ? "the response is not an event stream" : `the gateway answered ${answer.status}`
  return new TailraceError(answer.status, code ?? "unknown", message ?? fallback)
}

/** Parses the frames of an event stream (WHATWG HTML, "Interpreting an event stream"). */
async function* frames(body, touch) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader()
  let begun = [] // pieces of an unfinished line, joined only once, because a long line may arrive in many pieces
  let held = "" // a carriage return at the end of a piece: the line feed may follow in the next piece
  let frame = { name: "message" }
  let data = []
  try {
    while (true) {
      const { done, value } = await reader.read()
      if (done) return
      touch()
      const piece = held + value
      held = piece.endsWith("\r") ? "\r" : ""
      const lines = piece.slice(0, piece.length - held.length).split(/\r\n|\r|\n/)
      const rest = lines.pop()
      if (lines.length) {
        lines[0] = begun.join("") + lines[0]
        begun = []
      }
      begun.push(rest)
      for (const line of lines) {
        if (line === "") {
          if (data.length) frame.data = data.join("\n")
          yield frame
          frame = { name: "message" }
          data = []
          continue
        }
        const colon = line.indexOf(":")
        const field = colon < 0 ? line : line.slice(0, colon)
        const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "")
        if (field === "data") data.push(value)
        else if (field === "event") frame.name = value
        else if (field === "id") frame.id = value
        else if (field === "retry" && /^\d+$/.test(value)) frame.retryMs = Number(value)
      }
    }
  } finally {
    await reader.cancel().catch(() => undefined)
  }
}

/** Aborts a connection on which nothing arrives for too long, not even a heartbeat: it is dead without being closed. */
function watchdog(outer, idleMs) {
  const controller = new AbortController()
  const leave = () => controller.abort(outer.reason)
  let timer
  const touch = () => {
    clearTimeout(timer)
    timer = setTimeout(() => controller.abort(new Error("nothing arrived on the connection")), idleMs)
  }
  touch()
  if (outer?.aborted) leave()
  outer?.addEventListener("abort", leave)
  const end = () => {
    clearTimeout(timer)
    outer?.removeEventListener("abort", leave)
    controller.abort()
  }
  return { signal: controller.signal, touch, end }
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const leave = () => {
      clearTimeout(timer)
      reject(signal.reason)
    }
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", leave)
      resolve()
    }, ms)
    if (signal?.aborted) leave()
    signal?.addEventListener("abort", leave, { once: true })
  })
}
