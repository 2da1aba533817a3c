// The console: who is signed in, which view is shown, and the look at the hub every two seconds.

import { call, Refused, useKey } from "./api.js";
import { applications, howMany, waiting } from "./applications.js";
import { audit } from "./audit.js";
import { el, setText } from "./dom.js";
import { findings } from "./findings.js";
import { integrations } from "./integrations.js";
import { Overview } from "./overview.js";

const PERIOD = 2_000;
const LONGEST = 10_000;
const WAITING_EVERY = 5; // looks
const TITLES = { overview: "Overview", applications: "Applications", integrations: "Integrations", findings: "Findings", audit: "Audit trail" };

const [door, form, keyField, refusal, house, view, state, replica, count] =
  ["door", "sign-in", "key", "refusal", "house", "view", "state", "replica", "waiting"].map((id) => document.getElementById(id));

let session = null;

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const key = keyField.value.trim();
  keyField.value = "";
  if (!/^[\x21-\x7e]+$/.test(key)) return refuse("A key has letters, digits and underscores alone.");
  useKey(key);
  try {
    enter(await call("AdminService/WatchHub"));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    leave(error.sentence);
  }
});

document.getElementById("sign-out").addEventListener("click", () => leave(""));
window.addEventListener("hashchange", () => session && open());
window.addEventListener("pagehide", () => leave(""));

function enter(status) {
  session = { overview: new Overview(), looks: 0, failures: 0, shown: 0, timer: 0 };
  refuse("");
  door.hidden = true;
  house.hidden = false;
  live(status);
  open();
  session.timer = setTimeout(look, PERIOD, session);
}

/** Forget the key and all that was read with it; `why` is shown at the door. */
function leave(why) {
  useKey("");
  clearTimeout(session?.timer);
  session = null;
  view.replaceChildren();
  for (const node of [state, replica, count]) setText(node, "");
  house.hidden = true;
  door.hidden = false;
  document.title = "Console · Tickets hub";
  refuse(why);
  if (document.hasFocus()) keyField.focus();
}

function refuse(why) {
  setText(refusal, why);
}

/** A refusal of a call: one of the key ends the session. */
function fail(error) {
  if (!(error instanceof Refused)) throw error;
  if (error.endsSession) leave(error.sentence);
}

/** Look at the hub, again and again; one that is away is asked less and less often, with the same key. */
async function look(mine) {
  let pause = PERIOD;
  try {
    const status = await call("AdminService/WatchHub");
    if (session !== mine) return;
    live(status);
    mine.failures = 0;
    if (mine.looks++ % WAITING_EVERY === 0) setText(count, howMany(await waiting()));
  } catch (error) {
    if (session !== mine) return;
    if (error instanceof Refused && !error.endsSession) {
      mine.failures += 1;
      pause = Math.min(PERIOD * 2 ** (mine.failures - 1), LONGEST);
      say(`Away: ${error.message}; trying again`, "bad");
    } else {
      return fail(error);
    }
  }
  if (session === mine) mine.timer = setTimeout(look, pause, mine);
}

function live(status) {
  session.overview.update(status);
  setText(replica, `${status.version} on ${status.replica}`);
  say("Live", "good");
}

function say(text, tone) {
  setText(state, text);
  state.className = `state ${tone}`;
}

/** Show the view that the address names. */
async function open() {
  const [name, id] = location.hash.slice(2).split("/");
  const chosen = TITLES[name] ? name : "overview";
  const mine = session;
  const shown = ++mine.shown;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#/${chosen}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${TITLES[chosen]} · Tickets hub`;
  let nodes;
  try {
    nodes = await made(chosen, /^[0-9A-Za-z]+$/.test(id ?? "") ? id : "", mine);
  } catch (error) {
    if (session !== mine) return;
    if (!(error instanceof Refused) || error.endsSession) return fail(error);
    nodes = [el("h1", { text: TITLES[chosen] }), el("p", { class: "bad", role: "alert", text: error.sentence })];
  }
  if (session === mine && shown === mine.shown) view.replaceChildren(...nodes);
}

function made(name, id, mine) {
  const failed = (error) => session === mine && fail(error);
  switch (name) {
    case "applications": return applications((what) => decided(what, mine), failed);
    case "integrations": return integrations(id, failed);
    case "findings": return findings(failed);
    case "audit": return audit(id, failed);
    default: return mine.overview.node;
  }
}

async function decided(what, mine) {
  await open();
  if (session !== mine) return;
  view.prepend(el("p", { class: "good", role: "status", text: what }));
  view.focus();
  setText(count, howMany(await waiting()));
}
