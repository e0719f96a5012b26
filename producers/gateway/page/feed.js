// The event stream of one request: an EventSource that can be closed, and opened again after a cursor.
// Knows nothing of the contents of entries. The browser reconnects by itself when the connection breaks.

import { NAMES } from "./view.js"

const AT_ONCE = 5 // browsers open six connections per host; one is left for submits and cancels
const AGAIN_MS = 3000

const connected = new Set()
const waiting = []

export class Feed {
  #source = null

  /**
   * @param {string} path of the request, such as `v1/streams/one`
   * @param {string | undefined} token that may read it
   * @param take called with each entry and its cursor, null if it has none
   * @param report called with the state of the connection, and the reason
   */
  constructor(path, token, take, report) {
    Object.assign(this, { path, token, take, report, after: null })
  }

  /** Follows from after a cursor (null: from the beginning), once a connection is free. */
  open(after) {
    this.after = after
    if (connected.size < AT_ONCE) return this.#connect()
    waiting.push(this)
    this.report("waiting", `${AT_ONCE} other connections are open`)
  }

  /** Closes the connection, and opens the next one that waits. */
  close(state, why = "") {
    this.#source?.close()
    this.#source = null
    if (waiting.includes(this)) waiting.splice(waiting.indexOf(this), 1)
    this.report(state, why)
    if (connected.delete(this)) waiting.shift()?.#connect()
  }

  #connect() {
    connected.add(this)
    const query = new URLSearchParams()
    if (this.token) query.set("token", this.token)
    if (this.after) query.set("after", this.after)
    const source = new EventSource(`${this.path}/events?${query}`)
    this.#source = source
    this.report("connecting", "")
    source.onopen = () => this.report("open", "")
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) this.#refused(source)
      else this.report("lost", "the browser reconnects by itself")
    }
    for (const name of NAMES)
      source.addEventListener(name, (event) => {
        const entry = JSON.parse(event.data)
        const hasCursor = name !== "gap" && name !== "stalled"
        if (hasCursor) this.after = event.lastEventId
        this.take(hasCursor ? event.lastEventId : null, entry)
      })
  }

  /** An EventSource does not report why it gave up, so this asks the gateway. */
  async #refused(source) {
    this.report("lost", "")
    try {
      const headers = this.token ? { authorization: `Bearer ${this.token}` } : {}
      const answer = await fetch(this.path, { headers, cache: "no-store" })
      if (answer.status < 500 && !answer.ok) {
        const { error } = await answer.json()
        if (this.#source === source) this.close("refused", error.message)
        return
      }
    } catch {
      // the gateway is unreachable: try again
    }
    setTimeout(() => this.#source === source && this.#connect(), AGAIN_MS)
  }
}
