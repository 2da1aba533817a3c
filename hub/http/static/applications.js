// What waits for an admin's decision.

import { call } from "./api.js";
import { Decision } from "./decision.js";
import { el, link, moment, theirs, word } from "./dom.js";
import { level, loadScopes, scopeOf } from "./scopes.js";

const MOST = 50; // shown at a time
const GRANT = "AdminService/ApproveIntegration";
const REFUSE = "AdminService/RejectIntegration";

/** The applications that wait, the oldest first. */
export async function waiting() {
  await loadScopes();
  const request = { filter: "requested_scopes:* AND state != SUSPENDED", page_size: MOST };
  return call("AdminService/ListIntegrations", request);
}

/** How many wait, in words. */
export const howMany = ({ integrations, next_page_token: more }) => (integrations.length ? `${integrations.length}${more ? "+" : ""}` : "");

/** The view; `decided` is called after each decision. */
export async function applications(decided, fail) {
  const found = await waiting();
  const title = el("h1", { text: "Applications" });
  if (!found.integrations.length) return [title, el("p", { class: "soft", text: "Nothing waits for a decision." })];
  const more = found.next_page_token ? [el("p", { class: "soft", text: `The oldest ${MOST} are shown; others follow.` })] : [];
  return [title, ...found.integrations.map((one) => application(one, decided, fail)), ...more];
}

function application(one, decided, fail) {
  const isNew = one.state === "INTEGRATION_STATE_PENDING";
  const asked = one.requested_scopes.map((request) => ({ ...request, box: el("input", { type: "checkbox", id: `${one.integration_id}-${request.scope}` }) }));
  const decision = new Decision(one, "Reason: for the audit trail, and its developer sees why something was refused", true, fail);
  const grant = el("button", { text: "Grant the chosen scopes", disabled: true });
  const refuse = el("button", { type: "button", class: "quiet", text: isNew ? "Reject the application" : "Refuse all of them" });
  const form = el(
    "form",
    {},
    el("fieldset", { class: "asks" }, el("legend", { text: isNew ? "It asks for" : "It asks for more" }), asked.map(ask)),
    decision.field,
    decision.told,
    el("p", { class: "buttons" }, grant, refuse),
  );

  const decide = async (method, scopes) => {
    grant.disabled = refuse.disabled = true;
    if (await decision.send(method, { scopes })) return decided(`${one.display_name}: ${method === GRANT ? "granted" : "refused"}`);
    refuse.disabled = false;
    grant.disabled = chosen().length === 0;
  };
  const chosen = () => asked.filter(({ box }) => box.checked).map(({ scope }) => scope);
  // No scope in a request means all of them: nothing chosen must not be sent.
  form.addEventListener("change", () => { grant.disabled = chosen().length === 0; });
  form.addEventListener("submit", (event) => { event.preventDefault(); if (chosen().length) decide(GRANT, chosen()); });
  refuse.addEventListener("click", () => decide(REFUSE, []));
  return el("article", { class: "card application", "data-id": one.integration_id }, facts(one, isNew), form);
}

function facts(one, isNew) {
  const rules = one.rules_version ? `, accepted version ${one.rules_version} of the rules` : "";
  return el(
    "header",
    {},
    theirs(one.display_name, "h2"),
    el("p", { class: "soft small" }, isNew ? "New" : `It is ${word(one.state, "INTEGRATION_STATE_")}`, ", since ", moment(one.create_time), `; owner ${one.owner_user_id}${rules}`),
    one.developer_blocked ? el("p", { class: "bad" }, "Its owner is blocked: ", theirs(one.block_reason)) : null,
    theirs(one.description, "p"),
    el("p", { class: "links" }, link(one.documentation_url, "Documentation"), link(one.support_url, "Support"), el("span", { class: "soft", text: guilds(one) })),
  );
}

/** Whose events an integration gets, in words. */
export const guilds = (one) => (one.guild_access === "GUILD_ACCESS_INSTALLED" ? "Servers that installed it" : "Every server");

function ask({ scope, justification, box }) {
  const found = scopeOf(scope);
  return el(
    "div",
    { class: "ask" },
    box,
    el("label", { for: box.id }, el("span", { text: found.title }), level(found.rank)),
    el("p", { class: "soft small", text: found.description }),
    el("p", { class: "small" }, "“", theirs(justification), "”"),
  );
}
