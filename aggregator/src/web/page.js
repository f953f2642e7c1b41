// Live tail over Loki's own WebSocket, local time, keys, and the list of alerts every few seconds. Everything else works
// without it.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const lines = byId("lines"), button = byId("tail"), query = byId("query"), status = byId("status");
  const results = byId("results"), common = byId("common"), zone = byId("zone");
  const keep = 2000; // lines on the page at most
  const patience = [1, 2, 4, 8, 15]; // seconds between attempts to reach the server again

  // ---- times: the server writes UTC; readers may choose the time of their own clock, this browser remembers it

  const two = (n, width = 2) => String(n).padStart(width, "0");
  let local = false;
  try { local = localStorage.getItem("millrace.zone") === "local"; } catch { /* storage is forbidden: UTC */ }

  function timeText(iso, withYear) {
    const at = new Date(iso);
    const get = (part) => (local ? at[`get${part}`]() : at[`getUTC${part}`]());
    const day = `${two(get("Month") + 1)}-${two(get("Date"))}`;
    const time = `${two(get("Hours"))}:${two(get("Minutes"))}:${two(get("Seconds"))}`;
    return withYear ? `${get("FullYear")}-${day} ${time}` : `${day} ${time}.${two(get("Milliseconds"), 3)}`;
  }

  function offsetText() {
    const minutes = -new Date().getTimezoneOffset();
    const size = Math.abs(minutes);
    return `UTC${minutes < 0 ? "−" : "+"}${two(Math.floor(size / 60))}:${two(size % 60)}`;
  }

  function showTimes(root = document) {
    for (const time of root.querySelectorAll("time")) time.textContent = timeText(time.dateTime, time.classList.contains("date"));
    for (const title of root.querySelectorAll("title[data-time]")) {
      title.textContent = `${timeText(title.dataset.time)}${local ? "" : " UTC"}: ${title.dataset.value}`;
    }
    byId("zone-name").textContent = local ? `local time (${offsetText()})` : "UTC";
    zone.textContent = local ? "Show UTC" : "Show local time";
  }

  function switchZone() {
    local = !local;
    try { localStorage.setItem("millrace.zone", local ? "local" : "utc"); } catch { /* for this page only */ }
    showTimes();
  }

  zone.hidden = false;
  zone.addEventListener("click", switchZone);
  showTimes();

  // ---- lines of live tail

  function element(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text; // never HTML: lines come from outside
    return made;
  }

  let marks = [];
  function markedText(text) {
    const code = element("code", "text");
    let rest = text;
    for (;;) {
      let at = -1, mark = "";
      for (const one of marks) {
        const found = rest.indexOf(one);
        if (found >= 0 && (at < 0 || found < at || (found === at && one.length > mark.length))) [at, mark] = [found, one];
      }
      if (at < 0) break;
      code.append(rest.slice(0, at), element("mark", "", mark));
      rest = rest.slice(at + mark.length);
    }
    code.append(rest);
    return code;
  }

  let shared = null; // labels of every line so far
  function chips(row, labels, without) {
    row.replaceChildren();
    for (const [name, value] of Object.entries(labels).sort()) {
      if (without && without[name] === value) continue;
      const label = element("span", "label");
      label.append(element("b", "", name), `=${value}`);
      row.append(label);
    }
    return row;
  }

  function share(found) {
    const before = shared === null ? -1 : Object.keys(shared).length;
    for (const [, , , labels] of found) {
      shared = Object.fromEntries(Object.entries(shared === null ? labels : shared).filter(([n, v]) => labels[n] === v));
    }
    const now = shared === null ? -1 : Object.keys(shared).length;
    if (now === before) return;
    common.hidden = now <= 0;
    byId("common-labels").replaceChildren(chips(element("span", "labels"), shared || {}));
    for (const li of lines.children) chips(li.querySelector(".labels"), li.labels, shared);
  }

  function item(ns, text, labels) {
    const li = element("li", "new");
    li.labels = labels;
    const level = labels.level || labels.severity || labels.detected_level;
    if (level) li.dataset.level = level.toLowerCase();
    const time = element("time");
    time.dateTime = new Date(Number(BigInt(ns) / 1000000n)).toISOString();
    time.textContent = timeText(time.dateTime, false);
    li.append(time, markedText(text), chips(element("span", "labels"), labels, shared));
    return li;
  }

  // ---- live tail

  let tail = null; // { text, socket, timer, attempt, last, seen, count, live }

  function say(text, kind) {
    status.hidden = !text;
    status.className = kind || "";
    status.textContent = text;
  }

  const clockNow = () => timeText(new Date().toISOString(), false).slice(6, 14);
  const countText = () => `${tail.count.toLocaleString("en")} ${tail.count === 1 ? "line" : "lines"}`;
  const sayLive = () => say(`Live: new lines appear on top. ${countText()} so far${tail.note || ""}.`, "live");

  function show(message) {
    const found = [];
    for (const stream of message.streams || []) {
      for (const [ns, text] of stream.values) {
        // Asked again from the newest line on: those of its nanosecond may be here already.
        const key = `${ns} ${JSON.stringify(stream.stream)} ${text}`;
        if (tail.seen.has(key)) continue;
        const at = BigInt(ns);
        if (at > tail.last) { tail.last = at; tail.seen.clear(); }
        if (at === tail.last) tail.seen.add(key);
        found.push([at, ns, text, stream.stream]);
      }
    }
    found.sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0));
    share(found);
    for (const [, ns, text, labels] of found) lines.prepend(item(ns, text, labels));
    while (lines.childElementCount > keep) lines.lastElementChild.remove();
    tail.count += found.length;
    if (message.dropped_entries) tail.note = "; some were dropped because they arrived too fast";
    sayLive();
  }

  function address(live, text = query.value) {
    const parameters = new URLSearchParams({ query: text });
    if (live) parameters.set("tail", "1");
    return `/?${parameters}`;
  }

  // The login has ended, or has to be renewed: the server does the one or asks for another when the page is loaded. A live
  // tail goes on from its last line, which stands in the address.
  let leaving = false;
  function renew() {
    if (leaving) return; // once: another reload would break the first off
    leaving = true;
    if (tail) history.replaceState(null, "", `${address(true, tail.text)}&since=${tail.last}`);
    location.reload();
  }
  addEventListener("pageshow", () => { leaving = false; });

  // Where a live tail of this address goes on; null: it begins now.
  function since() {
    const asked = new URLSearchParams(location.search), at = asked.get("since") || "";
    return /^\d{1,19}$/.test(at) && asked.get("query") === query.value ? BigInt(at) : null;
  }

  // Whether the server has refused a request for want of a login.
  async function isLoggedOut() {
    try {
      return (await fetch(`/logql?${new URLSearchParams({ query: tail.text })}`)).status === 401;
    } catch {
      return false; // it can't be reached
    }
  }

  function pressed(yes) {
    button.setAttribute("aria-pressed", String(yes));
    button.textContent = yes ? "Stop tail" : "Live tail";
  }

  function stop(text, kind) {
    if (!tail) return;
    const over = tail;
    clearTimeout(over.timer);
    if (over.socket) { over.socket.onclose = null; over.socket.close(); }
    say(text || `Live tail stopped at ${clockNow()}. ${countText()} received.`, kind);
    tail = null;
    pressed(false);
    document.title = "Millrace";
  }

  async function start() {
    if (!query.value.trim()) { query.focus(); say("Enter a query in the search box first.", "trouble"); return; }
    const from = since(), now = BigInt(Date.now()) * 1000000n, text = query.value;
    const mine = tail = { text, socket: null, timer: 0, attempt: 0, last: from ?? now, seen: new Set(), count: 0, live: false };
    pressed(true);
    if (from !== null) history.replaceState(null, "", address(true));
    else if (location.search !== address(true).slice(1)) history.pushState(null, "", address(true));
    document.title = `${query.value} · live`;
    lines.replaceChildren();
    byId("found").replaceChildren();
    for (const gone of results.querySelectorAll(".note, .warning")) gone.remove();
    shared = null;
    common.hidden = true;
    say("Live tail: connecting …");
    try {
      const answer = await fetch(`/logql?${new URLSearchParams({ query: query.value })}`);
      if (tail !== mine) return;
      if (answer.status === 401) { renew(); return; }
      if (answer.status === 400) { stop(`Live tail failed: ${(await answer.json()).error}`, "trouble"); return; }
      if (!answer.ok) { stop(`Live tail failed: the server answered ${answer.status} ${answer.statusText}`, "trouble"); return; }
      const asked = await answer.json();
      if (tail !== mine) return;
      marks = asked.marks;
      tail.query = asked.query;
      connect();
    } catch {
      if (tail === mine) stop("Live tail failed: the server can't be reached.", "trouble");
    }
  }

  function connect() {
    const mine = tail;
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const parameters = new URLSearchParams({ limit: "1000", start: String(tail.last), query: tail.query });
    const socket = tail.socket = new WebSocket(`${scheme}://${location.host}/loki/api/v1/tail?${parameters}`);
    let opened = false;
    socket.onopen = () => {
      opened = true;
      if (tail.attempt > 0) tail.note = `; reconnected at ${clockNow()}`;
      Object.assign(tail, { attempt: 0, live: true });
      sayLive();
    };
    socket.onmessage = (event) => show(JSON.parse(event.data));
    socket.onclose = async (event) => {
      if (tail !== mine) return;
      // A connection that was refused looks like one that was lost.
      const isOver = event.code === 1008 || (!opened && (await isLoggedOut()));
      if (tail !== mine) return;
      if (isOver) { renew(); return; }
      const wait = patience[Math.min(tail.attempt, patience.length - 1)];
      tail.attempt += 1;
      const why = event.reason ? ` (${event.reason})` : "";
      const what = tail.live ? `Live tail lost the connection to the server at ${clockNow()}${why}.` : `Live tail failed: the server did not accept it${why}.`;
      say(`${what} Retrying every ${wait === 1 ? "second" : `${wait} seconds`} …`, "trouble");
      tail.timer = setTimeout(connect, wait * 1000);
    };
  }

  function toggle() {
    if (!tail) return start();
    history.replaceState(null, "", address(false));
    stop();
  }

  button.addEventListener("click", toggle);
  addEventListener("popstate", () => location.reload());
  if (new URLSearchParams(location.search).get("tail") === "1") start();

  // ---- keys

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(input|select|textarea)$/i.test(event.target.tagName)) return;
    if (event.key === "/") { event.preventDefault(); query.focus(); query.select(); }
    else if (event.key === "l" || event.key === "L") toggle();
    else if (event.key === "z" || event.key === "Z") switchZone();
  });

  // ---- alerts

  async function refreshAlerts() {
    try {
      const answer = await fetch("/alerts");
      if (answer.status === 401 && !document.hidden) {
        // Text that was not sent yet would be lost; sending it renews the login as well.
        if (tail || query.value === query.defaultValue) renew();
        else say("The login has to be renewed: search, or reload the page. Alerts are not up to date.", "trouble");
      }
      if (!answer.ok) return;
      const list = byId("alerts");
      const text = await answer.text();
      if (text === list.source) return;
      list.source = text;
      list.innerHTML = text; // our own, escaped by the server
      showTimes(list);
      const firing = Number(list.querySelector("ul")?.dataset.firing || 0);
      byId("badge").textContent = firing > 0 ? `${firing} firing` : "";
    } catch { /* the server is unreachable: the next refresh asks again */ }
  }
  setInterval(refreshAlerts, 2000);
})();
