// Nightshift's pages. Every page works without a script; with it, buttons answer in place and jobs are watched live.
//
//   <form data-act>             is posted in the background; the answer, a piece of page, goes into the card's .outcome
//   <div data-refresh="/url/">  becomes what the address answers, until an answer carries no data-refresh;
//                               data-every is the shortest pause in ms
//   <div data-job="uuid">       follows one job: see templates/jobs/_live.html for what is inside; with a .timeline on
//                               the page, that too
//   <input list> <output>       holds a SKU or the like; beside it stands what the list says of that

import { Broken, QUICK, Refused, ask, listen, morph, piece, watch } from "./live.js";

const BADGES = {
  queued: "badge-muted", sent: "badge-muted", running: "badge-warn",
  succeeded: "badge-ok", dead: "badge-bad", cancelled: "badge-muted",
};

// --- One job ---

const GONE = "This job is not there any more, or it is not yours.";

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

// By a stream; by asking, where that is refused.
function follow(box) {
  const address = `/jobs/${box.dataset.job}/`;
  const life = document.querySelector("[data-job-life]");
  const line = box.querySelector("[data-job-trouble]");
  const trouble = (lost, sentence) => {
    if (!line) return;
    line.textContent = lost ? sentence : "";
    line.hidden = !lost;
  };
  const show = (job) => {
    draw(box, job);
    // The page around the job knows more now: a download, a thumbnail, a sentence about the failure.
    if (job.finished && box.dataset.jobEnd === "reload") location.reload();
    return job.finished;
  };
  const poll = () => {
    watch(lookAt(address, show), trouble);
    if (life) refresh(life);
  };
  const told = {
    job: (text) => show(JSON.parse(text)) ? "end" : "",
    life: (text) => { if (life) morph(life, piece(text)); },
    gone: () => { trouble(true, GONE); return "end"; },
  };
  listen(`${address}events/`, told, trouble, poll);
}

function lookAt(address, show) {
  let before = "";
  return async () => {
    const answer = await ask(`${address}?format=json`, { headers: { Accept: "application/json" } });
    if (answer.status === 404) throw new Refused(GONE);
    if (!answer.ok) throw new Broken();
    const text = await answer.text();
    if (show(JSON.parse(text))) return "end";
    const changed = text !== before;
    before = text;
    return changed ? "changed" : "same";
  };
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
  let before = "";
  const look = async () => {
    if (!box.isConnected) return "end";
    const answer = await ask(box.dataset.refresh, { headers: { "X-Piece": "1" } });
    if (answer.status >= 400 && answer.status < 500) throw new Refused("There is nothing more to see here. Reload the page.");
    if (!answer.ok) throw new Broken();
    const text = await answer.text();
    if (!box.isConnected) return "end";
    const changed = text !== before;
    before = text;
    morph(box, piece(text));
    return box.dataset.refresh ? (changed ? "changed" : "same") : "end";
  };
  watch(look, trouble, Number(box.dataset.every) || QUICK);
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

// --- A field with a list ---

function explain(field) {
  const chosen = [...field.list.options].find((option) => option.value === field.value);
  field.parentElement.querySelector("output").textContent = chosen?.text ?? "";
}

document.querySelectorAll("input[list]").forEach((field) => {
  field.addEventListener("input", () => explain(field));
  explain(field);
});

// On a phone the bar is wider than the screen: show where we are.
document.querySelector(".nav [aria-current]")?.scrollIntoView({ inline: "center", block: "nearest" });
document.querySelectorAll("[data-job]").forEach(follow);
document.querySelectorAll("[data-refresh]:not([data-job-life])").forEach(refresh);
