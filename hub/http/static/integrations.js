// All integrations, with their state and scopes.

import { call } from "./api.js";
import { guilds } from "./applications.js";
import { el, link, moment, onlyOf, row, table, theirs, word } from "./dom.js";
import { listed } from "./lists.js";
import { level, loadScopes, scopeOf } from "./scopes.js";
import { suspension } from "./suspension.js";

const COLUMNS = ["Integration", "State", "Scopes", "Events of", "Changed"];
const STATES = ["PENDING", "ACTIVE", "SUSPENDED", "REJECTED", "DELETED"];
const TONES = { ACTIVE: "good", PENDING: "warn", SUSPENDED: "bad", REJECTED: "soft", DELETED: "soft" };

/** The view: one integration, or ("") all. */
export async function integrations(id, fail) {
  await loadScopes();
  const title = el("h1", { text: "Integrations" });
  if (id) {
    const { integration } = await call("AdminService/GetIntegration", { integration_id: id });
    return [title, onlyOf(id, "#/integrations"), el("div", { class: "card" }, table("Integrations", COLUMNS, [line(integration, fail, "", true)]))];
  }
  const list = el("div");
  const show = async (wanted) => list.replaceChildren(await found(wanted, fail));
  await show("");
  return [title, search(show, fail), list];
}

function search(show, fail) {
  const text = el("input", { id: "text", type: "search", maxlength: 100 });
  const state = el("select", { id: "with-state" }, el("option", { value: "", text: "any state" }), STATES.map((name) => el("option", { value: name, text: name.toLowerCase() })));
  const told = el("p", { class: "bad", role: "alert" });
  const form = el(
    "form",
    { class: "search", role: "search" },
    el("p", { class: "field" }, el("label", { for: "text", text: "Words of the name or description" }), text),
    el("p", { class: "field" }, el("label", { for: "with-state", text: "State" }), state),
    el("button", { text: "Search" }),
    told,
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    told.textContent = "";
    try {
      await show(filter(text.value, state.value));
    } catch (error) {
      told.textContent = error.sentence;
      fail(error);
    }
  });
  return form;
}

/** The filter of ListIntegrations: each word in quotes, so that it is looked for as it stands. */
function filter(text, state) {
  const words = text.replaceAll('"', " ").split(/\s+/).filter(Boolean).map((word) => `"${word}"`);
  return [...words, ...(state ? [`state = ${state}`] : [])].join(" AND ");
}

function found(wanted, fail) {
  const lines = (integrations) => integrations.map((one) => line(one, fail));
  const source = { method: "AdminService/ListIntegrations", request: { filter: wanted }, field: "integrations", lines, none: "There is none." };
  return listed("Integrations", COLUMNS, source, fail);
}

/** A row, open or not; `said`: what was just done to it. */
function line(one, fail, said = "", open = Boolean(said)) {
  const changed = (after, done) => {
    const next = line(after, fail, done);
    made.replaceWith(next);
    next.querySelector("summary").focus();
  };
  const more = [el("p", { class: "good", role: "status", text: said }), suspension(one, changed, fail)];
  const made = row(COLUMNS, cells(one, el("details", { open }, el("summary", {}, theirs(one.display_name)), about(one, more))));
  return made;
}

function cells(one, details) {
  const name = word(one.state, "INTEGRATION_STATE_");
  return [
    details,
    el("div", {}, el("span", { class: TONES[name.toUpperCase()], text: name }), one.developer_blocked ? el("span", { class: "bad", text: ", owner blocked" }) : null),
    one.grants.length ? el("ul", { class: "scopes" }, one.grants.map(grant)) : el("span", { class: "soft", text: "none" }),
    guilds(one),
    moment(one.update_time),
  ];
}

function grant({ scope }) {
  const found = scopeOf(scope);
  return el("li", {}, found.title, level(found.rank));
}

function about(one, more) {
  return el(
    "div",
    { class: "changes" },
    theirs(one.description, "p"),
    el("p", { class: "links" }, link(one.documentation_url, "Documentation"), link(one.support_url, "Support"), el("a", { href: `#/audit/${one.integration_id}`, text: "Its audit trail" })),
    el("p", { class: "soft" }, "Id ", el("code", { text: one.integration_id }), `, owner ${one.owner_user_id}`),
    one.state_reason ? el("p", {}, "Reason of its state: ", theirs(one.state_reason)) : null,
    one.grants.map((given) => el("p", {}, `${scopeOf(given.scope).title} since `, moment(given.grant_time), ": ", theirs(given.justification))),
    more,
  );
}
