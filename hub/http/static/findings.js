// What is granted and not needed, and who has to agree or to confirm: the privilege report.

import { call } from "./api.js";
import { el, moment, row, theirs, word } from "./dom.js";
import { listed } from "./lists.js";
import { loadScopes, scopeOf } from "./scopes.js";

const COLUMNS = ["Finding", "Of", "Since", "What to do"];
const WHAT = "Scopes and keys that nobody uses, servers that agreed to less than is granted now, and erasures that an integration has not confirmed.";
const AT_ONCE = 20; // each integration among them is asked for its name
const KINDS = {
  GRANT_NEVER_USED: "A scope was never used",
  GRANT_UNUSED: "A scope is not used",
  KEY_UNUSED: "A key is not used",
  KEY_OLD: "A key is old",
  NO_STREAM: "It has no stream",
  CONSENT_OUTDATED: "A server has to agree again",
  ERASURE_UNCONFIRMED: "It has not confirmed an erasure",
};

/** The view. */
export async function findings(fail) {
  await loadScopes();
  const source = { method: "AdminService/GetPrivilegeReport", request: { page_size: AT_ONCE }, field: "findings", lines, none: "There is none." };
  return [
    el("header", { class: "view-head" }, el("h1", { text: "Findings" }), el("p", { class: "soft", text: WHAT })),
    await listed("Findings", COLUMNS, source, fail),
  ];
}

async function lines(found) {
  const ids = [...new Set(found.map((one) => one.integration_id))].filter(Boolean);
  const names = new Map(await Promise.all(ids.map(async (id) => [id, await nameOf(id)])));
  return found.map((one) => row(COLUMNS, cells(one, names)));
}

async function nameOf(id) {
  return (await call("AdminService/GetIntegration", { integration_id: id })).integration.display_name;
}

function cells(one, names) {
  const kind = one.kind.replace("KIND_", "");
  return [
    el("div", {}, el("span", { text: KINDS[kind] ?? word(kind, "") }), details(one).map((text) => el("p", { class: "soft small", text }))),
    one.integration_id ? el("a", { href: `#/integrations/${one.integration_id}` }, theirs(names.get(one.integration_id))) : "a service key",
    moment(one.since),
    el("span", { text: `${one.advice[0].toUpperCase()}${one.advice.slice(1)}.` }),
  ];
}

function details(one) {
  return [
    ...one.scopes.map((scope) => scopeOf(scope).title),
    ...(one.guild_id ? [`server ${one.guild_id}`] : []),
    ...(one.key_id ? [`key ${one.key_id}`] : []),
  ];
}
