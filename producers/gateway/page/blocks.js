// Splits a growing text into blocks, so that the browser lays out only the last one again. Knows nothing of requests.

const SOFT = 8 * 1024 // after this many characters a block ends at the next line end
const HARD = 32 * 1024 // the longest block

/** How many characters of `text` still fit into a block of `length` characters. */
export function roomFor(length, text) {
  let end = text.indexOf("\n", Math.max(0, SOFT - length - 1)) + 1
  if (end === 0 || length + end > HARD) end = Math.max(0, HARD - length)
  if (end >= text.length) return text.length
  const next = text.charCodeAt(end)
  return next >= 0xdc00 && next < 0xe000 ? end + 1 : end // do not split a surrogate pair
}

/** Appends text to the last block of `element` and to new ones, as text nodes, so that it is never parsed as HTML. */
export function append(element, text) {
  let last = element.lastChild?.firstChild
  while (text) {
    const room = last ? roomFor(last.length, text) : 0
    if (room) last.appendData(text.slice(0, room))
    text = text.slice(room)
    if (!text) return
    const block = document.createElement("div")
    block.className = "block"
    last = document.createTextNode("")
    block.append(last)
    element.append(block)
  }
}
