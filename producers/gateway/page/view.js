// What a card shows, computed only from the entries of one request: pure, without document, clock or connection.
// Reading the log again, from the beginning or after a cursor, therefore gives the same card. Contract: docs/wire.md.

export const TERMINALS = ["completed", "incomplete", "failed", "cancelled"]
export const NAMES = [
  ...["accepted", "attempt_started", "reasoning_message", "tool_call_message", "assistant_message", "retry_scheduled"],
  ...TERMINALS,
  ...["gap", "stalled"],
]
const KINDS = ["reasoning", "call", "text", "refusal"]
const STALLED = {
  no_worker: "no worker is running",
  busy: "all workers are busy, or the tenant is at its limit",
  lost: "the job was lost and has been enqueued again",
}

export class View {
  cursor = null // of the last entry
  terminal = null
  stalled = null
  acceptedAt = null
  #seq = -1

  constructor() {
    this.#begin(0)
  }

  /** Adds an entry with its cursor (null for events of the reader). Returns what to announce to screen readers. */
  take(cursor, entry) {
    if (cursor === null) return this.#takeReaderEvent(entry)
    if (!this.#isNew(cursor, entry)) return ""
    switch (entry.message_type) {
      case "accepted":
        this.acceptedAt = Date.parse(entry.at)
        return ""
      case "attempt_started":
        this.startedAt = Date.parse(entry.at)
        return entry.attempt > 1 ? this.note : ""
      case "reasoning_message":
        return this.#add(entry, "reasoning", entry.reasoning)
      case "assistant_message":
        return this.#add(entry, entry.refusal === undefined ? "text" : "refusal", entry.refusal ?? entry.content ?? "")
      case "tool_call_message":
        return this.#add(entry, "call", entry.tool_call.arguments ?? "")
      case "retry_scheduled":
        this.waiting = entry
        return `waiting after ${entry.reason}`
      default:
        if (!TERMINALS.includes(entry.message_type)) return "" // an entry of a later format
        this.terminal = entry
        return entry.error ? `failed: ${entry.error.message}` : entry.message_type
    }
  }

  /** The parts in display order: by kind, then by call, as in the outcome. */
  get parts() {
    return [...this.partsByKey.values()].sort((a, b) => KINDS.indexOf(a.kind) - KINDS.indexOf(b.kind) || a.call - b.call)
  }

  /** The joined text of all parts of a kind. */
  text(kind) {
    return this.parts.filter((part) => part.kind === kind).map((part) => part.pieces.join("")).join("")
  }

  get state() {
    if (this.terminal) return this.terminal.message_type
    if (this.stalled) return "stalled"
    if (this.waiting) return "waiting"
    return this.attempt > 0 ? "running" : "queued"
  }

  /** Details of the state, for people; "" if there are none. */
  get remark() {
    const end = this.terminal
    if (end?.error) return `${end.error.code}: ${end.error.message}`
    if (end) return end.finish_reason ? `finish reason: ${end.finish_reason}` : ""
    if (this.stalled) return STALLED[this.stalled.why] ?? this.stalled.why
    if (this.waiting) return `${this.waiting.reason}; next attempt at ${this.waiting.until}`
    return ""
  }

  /** Milliseconds from submit to the first delta of this attempt, by the server's clock; null before it. */
  get firstDeltaMs() {
    if (this.deltas === 0 || this.acceptedAt === null || this.startedAt === null) return null
    return this.startedAt - this.acceptedAt + this.firstMs
  }

  /** Deltas per second of this attempt; null until there are two at different times. */
  get deltasPerS() {
    return this.lastMs > this.firstMs ? ((this.deltas - 1) * 1000) / (this.lastMs - this.firstMs) : null
  }

  #takeReaderEvent(entry) {
    if (entry.message_type === "stalled") {
      this.stalled = entry
      return `stalled: ${this.remark}`
    }
    if (entry.message_type !== "gap") return ""
    const [attempt] = placeOf(entry.before)
    if (attempt !== this.attempt) this.#begin(attempt)
    this.isWhole = false
    return `entries between ${entry.after} and ${entry.before} are lost`
  }

  /** Whether this entry is new. After a failover of Redis some entries may arrive twice. */
  #isNew(cursor, entry) {
    const [attempt, seq] = placeOf(cursor)
    if (entry.message_type === "attempt_started" || attempt !== this.attempt) this.#begin(attempt, entry.why)
    else if (seq <= this.#seq) return false
    this.#seq = seq
    this.cursor = cursor
    this.stalled = this.waiting = null
    return true
  }

  #begin(attempt, why) {
    const before = this.partsByKey ? this.parts.reduce((sum, part) => sum + part.length, 0) : 0
    const notes = []
    if (why && attempt > 1) notes.push(`attempt ${attempt} started: ${why}`)
    if (before) notes.push(`${before.toLocaleString("en")} characters of attempt ${this.attempt} were discarded`)
    this.note = notes.join("; ")
    this.attempt = attempt
    this.partsByKey = new Map() // a new object tells the card that the old parts are discarded
    this.isWhole = true
    this.waiting = null
    this.startedAt = null
    this.deltas = this.firstMs = this.lastMs = 0
    this.#seq = -1
  }

  #add(delta, kind, text) {
    const key = `${kind} ${delta.call ?? 0}`
    let part = this.partsByKey.get(key)
    if (!part) this.partsByKey.set(key, (part = { key, kind, call: delta.call ?? 0, name: "", pieces: [], length: 0 }))
    if (kind === "call") part.name += delta.tool_call.name ?? ""
    if (text) part.pieces.push(text)
    part.length += text.length
    if (this.deltas++ === 0) this.firstMs = delta.ms
    this.lastMs = delta.ms
    return ""
  }
}

function placeOf(cursor) {
  return cursor.split("-").map(Number)
}
