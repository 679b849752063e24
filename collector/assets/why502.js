// Keeps the page live. The page is whole without it: this only fetches the same address again when something changed,
// so what is shown is always what the server would show.
"use strict";

(() => {
  const RETRY_MS = 3000; // after the browser itself has given up
  const REFRESH_MS = 800; // at most one refresh in this time
  const AGES_MS = 5000;
  const HIDDEN_MS = 30000; // between looks of a tab in the background

  const live = document.getElementById("live");
  const liveText = document.getElementById("live-text");
  const announce = document.getElementById("announce");
  const wanted = (document.body.dataset.events || "").split(" ").filter(Boolean);

  function show(on, text) {
    if (liveText.textContent === text) return;
    live.className = on ? "live on" : "live off";
    liveText.textContent = text;
  }

  // ---- ages and local times

  const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });

  function span(seconds) {
    const pair = (n, unit, m, small) => (m ? `${n} ${unit} ${m} ${small}` : `${n} ${unit}`);
    if (seconds < 60) return `${seconds} s`;
    if (seconds < 3600) return pair(Math.floor(seconds / 60), "min", seconds % 60, "s");
    if (seconds < 86400) return pair(Math.floor(seconds / 3600), "h", Math.floor((seconds % 3600) / 60), "min");
    return pair(Math.floor(seconds / 86400), "d", Math.floor((seconds % 86400) / 3600), "h");
  }

  function ages() {
    for (const time of document.querySelectorAll("time[datetime]")) {
      const at = new Date(time.dateTime);
      if (Number.isNaN(at.getTime())) continue;
      time.title = `${clock.format(at)} (your time)`;
      if (!time.classList.contains("ago")) continue;
      const seconds = Math.floor((Date.now() - at.getTime()) / 1000);
      // A clock of this machine that is minutes off must not turn into a wrong age.
      if (seconds > -60) time.textContent = seconds < 2 ? "just now" : `${span(seconds)} ago`;
    }
  }

  // ---- copy buttons

  function buttons() {
    if (!navigator.clipboard) return; // only on https and localhost
    for (const button of document.querySelectorAll("button.copy")) button.hidden = false;
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button.copy");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select it by hand";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });

  // ---- refresh

  let pending = false;
  let last = 0;

  function refresh() {
    if (pending) return;
    pending = true;
    setTimeout(fetchPage, Math.max(0, last + REFRESH_MS - Date.now()));
  }

  async function fetchPage() {
    pending = false;
    last = Date.now();
    try {
      const answer = await fetch(location.href, { cache: "no-store" });
      if (!answer.ok) return;
      swap(new DOMParser().parseFromString(await answer.text(), "text/html"));
    } catch {
      show(false, "reconnecting");
    }
  }

  function swap(fresh) {
    const selected = getSelection();
    // Somebody is copying text out of the page: leave it alone until the next change.
    if (selected && !selected.isCollapsed) return;
    const opened = [...document.querySelectorAll("details[open]")].map((details) => details.id);
    const focused = path(document.activeElement);
    for (const id of ["warnings", "main"]) {
      const now = document.getElementById(id);
      const then = fresh.getElementById(id);
      if (now && then && now.innerHTML !== then.innerHTML) now.replaceChildren(...then.childNodes);
    }
    for (const id of opened) {
      const details = document.getElementById(id);
      if (details) details.open = true;
    }
    if (focused) document.querySelector(focused)?.focus({ preventScroll: true });
    document.title = fresh.title;
    ages();
    buttons();
  }

  // Where the focus was, if it stood on something that a refresh replaces.
  function path(element) {
    if (!element || !element.closest("main") || element.id === "main") return "";
    if (element.matches("a[href]")) return `main a[href="${CSS.escape(element.getAttribute("href"))}"]`;
    const details = element.closest("details[id]");
    return details ? `#${CSS.escape(details.id)} > summary` : "";
  }

  // ---- events

  const seen = new Map();

  function onIncident(event) {
    const incident = JSON.parse(event.data);
    const words = `${incident.state}: ${incident.headline}`;
    const mine = wanted.includes("incident") || wanted.includes(`incident:${incident.incident}`);
    if (!mine) return;
    const known = seen.has(incident.incident) || document.getElementById("main").textContent.includes(incident.headline);
    if (!known || (seen.get(incident.incident) ?? words) !== words) announce.textContent = `Incident ${words}`;
    seen.set(incident.incident, words);
    refresh();
  }

  function onFact(event) {
    if (wanted.includes(`fact:${JSON.parse(event.data).host}`)) refresh();
  }

  let source = null;
  let retry = 0;
  let missed = false;

  function connect() {
    disconnect();
    const facts = wanted.some((want) => want.startsWith("fact:"));
    source = new EventSource(facts ? "/api/v1/events?facts=true" : "/api/v1/events");
    source.addEventListener("open", () => {
      show(true, "live");
      if (missed) refresh();
      missed = false;
    });
    source.addEventListener("error", () => {
      missed = true;
      show(false, "reconnecting");
      if (source && source.readyState === EventSource.CLOSED) retry = setTimeout(connect, RETRY_MS);
    });
    source.addEventListener("reload", refresh);
    source.addEventListener("incident", onIncident);
    source.addEventListener("host", () => { if (wanted.includes("host")) refresh(); });
    source.addEventListener("fact", onFact);
  }

  function disconnect() {
    clearTimeout(retry);
    if (source) source.close();
    source = null;
  }

  // Browsers open six connections to one server. Tabs that nobody looks at must not hold them all, so those ask now
  // and then instead; their title still says how many incidents are open.
  let hiddenTimer = 0;

  function attend() {
    clearInterval(hiddenTimer);
    if (document.hidden) {
      disconnect();
      missed = true;
      hiddenTimer = setInterval(refresh, HIDDEN_MS);
    } else {
      connect();
    }
  }

  ages();
  buttons();
  setInterval(ages, AGES_MS);
  if (wanted.length > 0) {
    document.addEventListener("visibilitychange", attend);
    addEventListener("pagehide", disconnect);
    addEventListener("pageshow", (event) => { if (event.persisted) attend(); });
    attend();
  } else {
    live.hidden = true;
  }
})();
