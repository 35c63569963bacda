// Nightshift's only script. Every page works without it; with it, buttons answer in place and jobs are watched live.
//
//   <form data-act>             is posted in the background; the answer, a piece of page, goes into the card's .outcome
//   <div data-refresh="/url/">  is replaced by what the address answers, until an answer carries no data-refresh;
//                               data-every is the shortest pause in ms
//   <div data-job="uuid">       follows one job: see templates/jobs/_live.html for what is inside

"use strict";

(() => {
  const QUICK = 400;         // ms: the first look; most of the shop's jobs are done by then
  const SLOW = 5_000;        // ms: a job that goes on for minutes need not be asked about more often
  const OFFLINE = 15_000;    // ms: the longest pause between attempts while the server does not answer
  const PATIENCE = 10_000;   // ms: an answer that takes longer counts as a lost connection
  const ENOUGH = 3_600_000;  // ms: a page that was left open for an hour stops asking

  const BADGES = {
    queued: "badge-muted", sent: "badge-muted", running: "badge-warn",
    succeeded: "badge-ok", dead: "badge-bad", cancelled: "badge-muted",
  };

  const LOST = "Connection lost, retrying…";
  const BROKEN = "The server answers with an error, retrying…";

  class Refused extends Error {}   // asking again would be answered the same
  class Broken extends Error {}    // there is a server, and it has a problem

  async function ask(url, options = {}) {
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
  async function watch(look, trouble, quick = QUICK) {
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

  // --- One job ---

  const badgeOf = (state) => `badge ${BADGES[state] ?? "badge-muted"}${state === "running" ? " badge-live" : ""}`;

  function countOf(job) {
    if (job.total) {
      const left = job.eta && !job.finished ? ` · about ${Math.ceil(job.eta)} s left` : "";
      return `${job.done.toLocaleString()} of ${job.total.toLocaleString()}${left}`;
    }
    return job.done ? job.done.toLocaleString() : "";
  }

  function draw(box, job) {
    const part = (name) => box.querySelector(`[data-job-${name}]`);
    const say = (name, text) => {
      const element = part(name);
      if (!element) return;
      if (element.textContent !== text) element.textContent = text;
      element.hidden = !text;
    };
    say("state", job.state);
    if (part("state")) part("state").className = badgeOf(job.state);
    say("count", countOf(job));
    say("note", job.note ?? "");
    say("error", job.error ?? "");
    const bar = part("progress");
    if (bar) {
      if (job.state === "succeeded") bar.value = bar.max = 100;
      else if (job.total) bar.value = job.percent;
      else if (job.finished) bar.value = 0;
      else bar.removeAttribute("value");
    }
    if (job.finished) box.classList.add(`ended-${job.state}`);
  }

  function follow(box) {
    let before = "";
    const line = box.querySelector("[data-job-trouble]");
    const trouble = (lost, sentence) => {
      if (!line) return;
      line.textContent = lost ? sentence : "";
      line.hidden = !lost;
    };
    const look = async () => {
      const answer = await ask(`/jobs/${box.dataset.job}/?format=json`, { headers: { Accept: "application/json" } });
      if (answer.status === 404) throw new Refused("This job is not there any more, or it is not yours.");
      if (!answer.ok) throw new Broken();
      const text = await answer.text();
      const job = JSON.parse(text);
      draw(box, job);
      if (job.finished) {
        // The page around the job knows more now: a download, a thumbnail, a sentence about the failure.
        if (box.dataset.jobEnd === "reload") location.reload();
        return "end";
      }
      const changed = text !== before;
      before = text;
      return changed ? "changed" : "same";
    };
    watch(look, trouble);
  }

  // --- Pieces of page ---

  function refresh(box) {
    const place = box.parentElement;
    const trouble = (lost, sentence) => {
      let line = place.querySelector(":scope > .live-trouble");
      if (!lost) { line?.remove(); return; }
      if (!line) {
        line = document.createElement("p");
        line.className = "live-trouble";
        place.append(line);
      }
      if (line.textContent !== sentence) line.textContent = sentence;
    };
    let current = box;
    const look = async () => {
      if (!current.isConnected) return "end";
      const answer = await ask(current.dataset.refresh, { headers: { "X-Piece": "1" } });
      if (answer.status >= 400 && answer.status < 500) throw new Refused("There is nothing more to see here. Reload the page.");
      if (!answer.ok) throw new Broken();
      const next = piece(await answer.text());
      if (!current.isConnected) return "end";
      const changed = next.innerHTML !== current.innerHTML;
      // An unchanged piece stays in place, so that a screen reader does not read it out again.
      if (changed || !next.dataset.refresh) { current.replaceWith(next); current = next; }
      return next.dataset.refresh ? (changed ? "changed" : "same") : "end";
    };
    watch(look, trouble, Number(box.dataset.every) || QUICK);
  }

  function piece(html) {
    const template = document.createElement("template");
    template.innerHTML = html;
    return template.content.firstElementChild;
  }

  // --- The buttons of the home page ---

  async function act(form) {
    const outcome = form.closest(".card").querySelector(".outcome");
    const buttons = form.closest(".card").querySelectorAll("[data-act] button");
    buttons.forEach((button) => { button.disabled = true; });
    outcome.textContent = "Starting…";
    try {
      const answer = await ask(form.action, { method: "POST", body: new FormData(form), headers: { "X-Piece": "1" } });
      const found = piece(await answer.text());
      if (!found || !found.matches("[data-outcome]")) throw new Refused(`The server answered ${answer.status}. Nothing was started.`);
      outcome.replaceChildren(found);
      found.querySelectorAll("[data-refresh]").forEach(refresh);
    } catch (error) {
      outcome.textContent = error instanceof Refused ? error.message
        : "Connection lost. Whether this was started is unknown: look at the jobs before you try again.";
    } finally {
      buttons.forEach((button) => { button.disabled = false; });
    }
  }

  document.addEventListener("submit", (event) => {
    if (!event.target.matches("form[data-act]")) return;
    event.preventDefault();
    act(event.target);
  });

  // On a phone the bar is wider than the screen: show where we are.
  document.querySelector(".nav [aria-current]")?.scrollIntoView({ inline: "center", block: "nearest" });
  document.querySelectorAll("[data-job]").forEach(follow);
  document.querySelectorAll("[data-refresh]").forEach(refresh);
})();
