// How a page learns what has changed: by a stream of events, or by asking again and again.

export const QUICK = 400;         // ms: the first look; most of the shop's jobs are done by then
const SLOW = 5_000;               // ms: a job that goes on for minutes need not be asked about more often
const OFFLINE = 15_000;           // ms: the longest pause between attempts while the server does not answer
const PATIENCE = 10_000;          // ms: an answer that takes longer counts as a lost connection
const FIRST_EVENT = 5_000;        // ms: a stream tells at once how things stand; if not, something holds it back
const ENOUGH = 3_600_000;         // ms: a page that was left open for an hour stops asking

const LOST = "Connection lost, retrying…";
const BROKEN = "The server answers with an error, retrying…";

export class Refused extends Error {}   // asking again would be answered the same
export class Broken extends Error {}    // there is a server, and it has a problem

export async function ask(url, options = {}) {
  const answer = await fetch(url, { credentials: "same-origin", signal: AbortSignal.timeout(PATIENCE), ...options });
  if (answer.redirected && new URL(answer.url).pathname.startsWith("/login")) {
    throw new Refused("You have been signed out. Sign in again to go on.");
  }
  return answer;
}

const visible = () => document.hidden
  ? new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }))
  : Promise.resolve();
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

// Calls `look` until it returns "end": soon again after a change, ever more slowly without one, and not at all while
// nobody sees the page. `trouble(true)` is said when the server does not answer, `trouble(false)` when it does again.
export async function watch(look, trouble, quick = QUICK) {
  const since = performance.now();
  let wait = quick;
  while (performance.now() - since < ENOUGH) {
    await pause(wait);
    await visible();
    try {
      const found = await look();
      trouble(false);
      if (found === "end") return;
      wait = found === "changed" ? quick : Math.min(wait * 1.4, SLOW);
    } catch (error) {
      if (error instanceof Refused) { trouble(true, error.message); return; }
      trouble(true, error instanceof Broken ? BROKEN : LOST);
      wait = Math.min(wait * 2, OFFLINE);
    }
  }
  trouble(true, "Not watched any more. Reload the page to go on.");
}

// Gives each event's data to the function of its name in `told`, until one returns "end". A page that nobody sees does
// not listen: a browser grants a site six connections. Calls `poll`, once, if there is no stream to be had.
export function listen(url, told, trouble, poll) {
  let source = null;
  let timer = 0;
  let heard = false;
  const close = () => { clearTimeout(timer); source?.close(); source = null; };
  const stop = () => { close(); document.removeEventListener("visibilitychange", look); };
  const giveUp = () => { stop(); poll(); };
  const look = () => {
    if (document.hidden) { close(); return; }
    if (source) return;
    source = new EventSource(url);
    timer = setTimeout(giveUp, FIRST_EVENT);
    source.onerror = () => {
      clearTimeout(timer);
      if (!heard || source?.readyState === EventSource.CLOSED) giveUp();
      else trouble(true, LOST);
    };
    source.addEventListener("again", () => { close(); look(); });  // the server ends every stream after a while
    for (const [name, tell] of Object.entries(told)) {
      source.addEventListener(name, (event) => {
        clearTimeout(timer);
        heard = true;
        trouble(false);
        if (tell(event.data) === "end") stop();
      });
    }
  };
  document.addEventListener("visibilitychange", look);
  look();
}

export function piece(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content.firstElementChild;
}

// Makes `old` what `fresh` is, and touches only what differs: the focus stays, and so does what is folded out.
export function morph(old, fresh) {
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const [before, after] = [[...old.childNodes], [...fresh.childNodes]];
  after.forEach((next, at) => {
    const here = before[at];
    if (!here) old.append(next);
    else if (here.nodeName !== next.nodeName) here.replaceWith(next);
    else if (next.nodeType === Node.ELEMENT_NODE) morph(here, next);
    else if (here.data !== next.data) here.data = next.data;
  });
  before.slice(after.length).forEach((node) => node.remove());
}
