// One request on the page: its numbers, its buttons and its answer. Writes text nodes only, once per animation frame.

import { append } from "./blocks.js"
import { Feed } from "./feed.js"
import { View } from "./view.js"

const HEADINGS = { reasoning: "Reasoning", call: "Tool call", text: "Text", refusal: "Refusal" }
const NEAR_PX = 40

const dirty = new Set()

export class Card {
  #view = new View()
  #shown = { partsByKey: null, parts: new Map() }
  #connection = ["", ""]
  #cancelNote = ""

  /**
   * @param {{ id: string, token?: string, title: string, model: string }} watched
   * @param page `announce(text)` for screen readers, `call(method, path, token)` to the gateway, `removed(card)`
   */
  constructor(watched, page) {
    this.watched = watched
    this.page = page
    this.path = `v1/streams/${watched.id}`
    this.element = document.getElementById("card").content.firstElementChild.cloneNode(true)
    this.#field("title").textContent = watched.title
    this.#field("model").textContent = watched.model
    this.#field("id").textContent = watched.id
    const heading = this.#field("heading")
    heading.id = `heading-${watched.id}`
    this.element.setAttribute("aria-labelledby", heading.id)
    this.#field("answer").setAttribute("aria-label", `Answer: ${watched.title}`)
    this.#button("connect", () => this.#dropOrResume())
    this.#button("cancel", () => this.#cancel())
    this.#button("remove", () => this.#remove())
    this.feed = new Feed(
      this.path,
      watched.token,
      (cursor, entry) => this.#take(cursor, entry),
      (state, why) => this.#setConnection(state, why),
    )
    this.feed.open(null)
  }

  get hasEnded() {
    return this.#view.terminal !== null
  }

  #field(name) {
    return this.element.querySelector(`[data-is=${name}]`)
  }

  #button(name, press) {
    const button = this.#field(name)
    button.setAttribute("aria-describedby", `heading-${this.watched.id}`)
    button.addEventListener("click", () => button.getAttribute("aria-disabled") !== "true" && press())
  }

  #take(cursor, entry) {
    const news = this.#view.take(cursor, entry)
    if (news) this.page.announce(`${this.watched.title}: ${news}`)
    if (this.hasEnded) this.feed.close("done")
    this.#touch()
  }

  #setConnection(state, why) {
    this.#connection = [state, why]
    this.#touch()
  }

  #dropOrResume() {
    if (["dropped", "refused"].includes(this.#connection[0])) this.feed.open(this.#view.cursor)
    else this.feed.close("dropped")
  }

  async #cancel() {
    try {
      const { verdict } = await this.page.call("POST", `${this.path}/cancel`, this.watched.token)
      this.#cancelNote = verdict === "signalled" ? "its worker was asked to stop" : ""
    } catch (error) {
      this.#cancelNote = `not cancelled: ${error.message}`
    }
    this.page.announce(`${this.watched.title}: ${this.#cancelNote || "cancelled"}`)
    this.#touch()
  }

  #remove() {
    this.feed.close("done")
    dirty.delete(this)
    this.page.removed(this)
  }

  #touch() {
    if (dirty.size === 0) requestAnimationFrame(showAll)
    dirty.add(this)
  }

  /** Updates the element from the view, with all that has arrived since the last animation frame. */
  show() {
    const view = this.#view
    const [connection, why] = this.#connection
    const answer = this.#field("answer")
    const follows = answer.scrollHeight - answer.scrollTop - answer.clientHeight < NEAR_PX
    this.element.dataset.state = view.state
    this.element.dataset.connection = connection
    this.#set("state", view.state)
    this.#set("connection", why ? `${connection}: ${why}` : connection)
    this.#set("attempt", String(view.attempt))
    this.#set("cursor", view.cursor ?? "none")
    this.#set("first", view.firstDeltaMs === null ? "–" : `${view.firstDeltaMs.toLocaleString("en")} ms`)
    this.#set("rate", view.deltasPerS === null ? "–" : view.deltasPerS.toFixed(1))
    this.#set("remark", [view.remark, view.terminal ? "" : this.#cancelNote].filter(Boolean).join("; "))
    this.#set("note", view.note)
    this.#set("gap", view.isWhole ? "" : "some entries of this attempt are lost; only the outcome is complete")
    this.#set("connect", ["dropped", "refused"].includes(connection) ? "Resume" : "Disconnect")
    for (const name of ["connect", "cancel"]) this.#field(name).setAttribute("aria-disabled", String(this.hasEnded))
    this.#showParts(answer)
    if (follows) answer.scrollTop = answer.scrollHeight
  }

  #set(name, text) {
    const field = this.#field(name)
    if (field.textContent !== text) field.textContent = text
  }

  #showParts(answer) {
    if (this.#shown.partsByKey !== this.#view.partsByKey) {
      answer.replaceChildren() // a new attempt discards the earlier text
      this.#shown = { partsByKey: this.#view.partsByKey, parts: new Map() }
    }
    for (const part of this.#view.parts) {
      const shown = this.#shown.parts.get(part.key) ?? this.#newPart(answer, part)
      if (part.name && shown.name.textContent !== part.name) shown.name.textContent = part.name
      if (shown.pieces < part.pieces.length) append(shown.text, part.pieces.slice(shown.pieces).join(""))
      shown.pieces = part.pieces.length
    }
  }

  #newPart(answer, part) {
    const section = document.getElementById("part").content.firstElementChild.cloneNode(true)
    section.dataset.kind = part.kind
    section.dataset.call = part.call
    section.querySelector("h3").firstChild.data = `${HEADINGS[part.kind]} `
    const shown = { section, name: section.querySelector("bdi"), text: section.querySelector(".text"), pieces: 0 }
    this.#shown.parts.set(part.key, shown)
    const order = this.#view.parts.map((one) => this.#shown.parts.get(one.key)?.section).filter(Boolean)
    answer.insertBefore(section, order[order.indexOf(section) + 1] ?? null)
    return shown
  }
}

function showAll() {
  const cards = [...dirty]
  dirty.clear()
  for (const card of cards) card.show()
}
