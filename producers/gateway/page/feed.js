// One request's event stream: an EventSource that is opened, dropped and opened again behind a cursor.
// Knows nothing of what entries say. The browser comes back by itself wherever the connection breaks.

import { NAMES } from "./view.js"

const AT_ONCE = 5 // a browser opens six connections to a host: one is left for submits and cancels
const AGAIN_MS = 3000

const connected = new Set()
const waiting = []

export class Feed {
  #source = null

  /**
   * @param {string} path of the request, such as `v1/streams/one`
   * @param {string | undefined} token that reads it
   * @param take is told of each entry: its cursor (null where it has none), and what it says
   * @param tell is told how the connection stands, and why
   */
  constructor(path, token, take, tell) {
    Object.assign(this, { path, token, take, tell, after: null })
  }

  /** Follows behind a cursor (null: from the beginning), as soon as there is a place for one more connection. */
  open(after) {
    this.after = after
    if (connected.size < AT_ONCE) return this.#connect()
    waiting.push(this)
    this.tell("waits", `${AT_ONCE} others are open`)
  }

  /** Lets the connection go, and the next one have its place. */
  close(state, why = "") {
    this.#source?.close()
    this.#source = null
    if (waiting.includes(this)) waiting.splice(waiting.indexOf(this), 1)
    this.tell(state, why)
    if (connected.delete(this)) waiting.shift()?.#connect()
  }

  #connect() {
    connected.add(this)
    const query = new URLSearchParams()
    if (this.token) query.set("token", this.token)
    if (this.after) query.set("after", this.after)
    const source = new EventSource(`${this.path}/events?${query}`)
    this.#source = source
    this.tell("connecting", "")
    source.onopen = () => this.tell("open", "")
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) this.#refused(source)
      else this.tell("away", "the browser comes back by itself")
    }
    for (const name of NAMES)
      source.addEventListener(name, (event) => {
        const entry = JSON.parse(event.data)
        const hasCursor = name !== "gap" && name !== "stalled"
        if (hasCursor) this.after = event.lastEventId
        this.take(hasCursor ? event.lastEventId : null, entry)
      })
  }

  /** An EventSource does not say why it gave up: the gateway does. */
  async #refused(source) {
    this.tell("away", "")
    try {
      const headers = this.token ? { authorization: `Bearer ${this.token}` } : {}
      const answer = await fetch(this.path, { headers, cache: "no-store" })
      if (answer.status < 500 && !answer.ok) {
        const { error } = await answer.json()
        if (this.#source === source) this.close("refused", error.message)
        return
      }
    } catch {
      // nobody there: try again
    }
    setTimeout(() => this.#source === source && this.#connect(), AGAIN_MS)
  }
}
