// Live tail over Loki's own WebSocket, and the list of alerts every few seconds. Everything else works without it.
"use strict";
(() => {
  const lines = document.getElementById("lines");
  const button = document.getElementById("tail");
  const query = document.getElementById("query");
  const count = document.getElementById("count");
  const keep = 2000; // lines on the page at most
  let socket = null;

  const two = (n, width = 2) => String(n).padStart(width, "0");

  function clockText(ns) {
    const at = new Date(Number(BigInt(ns) / 1000000n));
    return `${two(at.getUTCMonth() + 1)}-${two(at.getUTCDate())} ${two(at.getUTCHours())}:${two(at.getUTCMinutes())}:` +
      `${two(at.getUTCSeconds())}.${two(at.getUTCMilliseconds(), 3)}`;
  }

  function element(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text; // never HTML: lines come from outside
    return made;
  }

  function item(ns, text, labels) {
    const li = element("li");
    li.append(element("time", "", clockText(ns)), element("code", "text", text));
    const row = element("span", "labels");
    for (const [name, value] of Object.entries(labels).sort()) {
      const label = element("span", "label");
      label.append(element("b", "", name), `=${value}`);
      row.append(label);
    }
    li.append(row);
    return li;
  }

  function show(message) {
    const found = [];
    for (const stream of message.streams || []) {
      for (const [ns, text] of stream.values) found.push([BigInt(ns), ns, text, stream.stream]);
    }
    found.sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0));
    for (const [, ns, text, labels] of found) lines.prepend(item(ns, text, labels));
    while (lines.childElementCount > keep) lines.lastElementChild.remove();
    if (count) count.textContent = lines.childElementCount;
    const nothing = document.getElementById("nothing");
    if (nothing && found.length) nothing.remove();
  }

  function stop() {
    if (socket) { socket.onclose = null; socket.close(); }
    socket = null;
    button.setAttribute("aria-pressed", "false");
    button.textContent = "Live tail";
  }

  function start() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const from = BigInt(Date.now()) * 1000000n;
    socket = new WebSocket(`${scheme}://${location.host}/loki/api/v1/tail?limit=100&start=${from}` +
      `&query=${encodeURIComponent(query.value)}`);
    socket.onmessage = (event) => show(JSON.parse(event.data));
    socket.onclose = stop;
    button.setAttribute("aria-pressed", "true");
    button.textContent = "Stop tail";
  }

  button.addEventListener("click", () => (socket ? stop() : query.value.trim() ? start() : query.focus()));

  async function refreshAlerts() {
    try {
      const answer = await fetch("/alerts");
      if (answer.ok) document.getElementById("alerts").innerHTML = await answer.text(); // our own, escaped by the server
    } catch { /* the server is away: the next turn asks again */ }
  }
  setInterval(refreshAlerts, 2000);
})();
