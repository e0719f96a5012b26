// The page: the form, the cards, and what a reload restores. Composes the other modules.

import { Card } from "./card.js"
import { SCENARIOS } from "./scenarios.js"

const KEPT = "tailrace.watched"
const form = document.getElementById("ask")
const list = document.getElementById("cards")
const announcement = document.getElementById("announcement")
const problem = document.getElementById("problem")
const isOpen = document.body.dataset.access === "open"
const cards = new Set()

const page = {
  announce: (text) => (announcement.textContent = text),
  call,
  removed: (card) => {
    const next = card.element.nextElementSibling ?? card.element.previousElementSibling
    cards.delete(card)
    card.element.remove()
    keep()
    ;(next ?? form.elements.prompt).focus()
  },
}

/** Calls the gateway. Returns the body of the response, or throws an error with the gateway's message. */
async function call(method, path, bearer, body) {
  const headers = { ...(bearer && { authorization: `Bearer ${bearer}` }), ...(body && { "content-type": "application/json" }) }
  const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), cache: "no-store" })
  const content = await answer.json()
  if (answer.ok) return content
  throw new Error(content.error?.message ?? `the gateway answered ${answer.status}`)
}

function requestOfForm() {
  const { prompt, model, tenant, scenario } = form.elements
  const picked = SCENARIOS[scenario.value]
  const request = picked ? picked.request() : { model: model.value.trim() }
  request.messages = [{ role: "user", content: prompt.value }]
  if (isOpen && tenant.value.trim()) request.tenant = tenant.value.trim()
  if (!picked) return { request, title: prompt.value.slice(0, 120).toWellFormed() }
  return { request, title: picked.label[0].toUpperCase() + picked.label.slice(1) }
}

async function submit(event) {
  event.preventDefault()
  problem.textContent = ""
  const { request, title } = requestOfForm()
  try {
    const { id, token } = await call("POST", "v1/streams?grant=cancel", form.elements.key.value.trim(), request)
    watch({ id, token, title, model: request.model })
    page.announce(`${title}: submitted`)
    keep()
  } catch (error) {
    problem.textContent = `Not submitted: ${error.message}`
  }
}

function watch(watched) {
  const card = new Card(watched, page)
  cards.add(card)
  list.append(card.element)
}

/** Stores the requests for a reload. Each token is for one request and expires; the API key is never stored. */
function keep() {
  sessionStorage.setItem(KEPT, JSON.stringify([...cards].map((card) => card.watched)))
}

function kept() {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT)) ?? []
  } catch {
    return []
  }
}

function pick() {
  const { model, scenario } = form.elements
  const picked = SCENARIOS[scenario.value]
  if (!model.readOnly) model.dataset.own = model.value
  model.readOnly = Boolean(picked)
  model.value = picked ? picked.model : model.dataset.own
}

for (const [name, { label }] of Object.entries(SCENARIOS)) document.getElementById("simulated").append(new Option(label, name))
for (const element of document.querySelectorAll("[data-access]:not(body)"))
  element.hidden = element.dataset.access !== document.body.dataset.access
form.elements.key.required = !isOpen
form.elements.scenario.addEventListener("change", pick)
form.elements.prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit()
})
form.addEventListener("submit", submit)
document.getElementById("reload").addEventListener("click", () => location.reload())
document.getElementById("tidy").addEventListener("click", () => {
  for (const card of [...cards].filter((card) => card.hasEnded)) {
    cards.delete(card)
    card.element.remove()
  }
  keep()
  page.announce("Removed ended requests")
})
kept().forEach(watch)
