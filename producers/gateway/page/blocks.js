// Cuts a text that grows into blocks, so that a browser lays out again only the last of them. Pure, but for the nodes.

const SOFT = 8 * 1024 // from here on a block ends with its line
const HARD = 32 * 1024 // and here in any case

/** How much of `text` still belongs to a block that has `length` characters. */
export function roomFor(length, text) {
  let end = text.indexOf("\n", Math.max(0, SOFT - length - 1)) + 1
  if (end === 0 || length + end > HARD) end = Math.max(0, HARD - length)
  if (end >= text.length) return text.length
  const next = text.charCodeAt(end)
  return next >= 0xdc00 && next < 0xe000 ? end + 1 : end // no character is cut in two
}

/** Appends to the last block in `element`, and to new ones. The text goes into text nodes, so it is never markup. */
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
