// Who changed what, when and why.

import { el, moment, onlyOf, row, theirs, word } from "./dom.js";
import { listed } from "./lists.js";

const COLUMNS = ["When", "Who", "What", "Why", "Changes"];

/** The view: of one integration, or ("") of all. */
export async function audit(integrationId, fail) {
  const source = {
    method: "AdminService/ListAuditEntries",
    request: { integration_id: integrationId },
    field: "entries",
    lines: (entries) => entries.map((entry) => row(COLUMNS, cells(entry))),
    none: "There is none.",
  };
  return [el("h1", { text: "Audit trail" }), onlyOf(integrationId, "#/audit"), await listed("Changes", COLUMNS, source, fail)].filter(Boolean);
}

function cells(entry) {
  return [
    moment(entry.time),
    who(entry.actor ?? {}),
    el("div", {}, el("span", { text: entry.method.split("/").at(-1) }), entry.integration_id ? el("p", {}, el("a", { class: "small", href: `#/audit/${entry.integration_id}`, text: entry.integration_id })) : null),
    entry.reason ? theirs(entry.reason) : el("span", { class: "soft", text: "no reason given" }),
    entry.changes.length ? el("details", {}, el("summary", { text: names(entry.changes) }), changes(entry.changes)) : el("span", { class: "soft", text: "none" }),
  ];
}

function who(actor) {
  const role = word(actor.role, "ROLE_");
  if (!actor.key_id) return "the hub itself";
  return el("div", {}, theirs(actor.key_name || actor.key_id), el("p", { class: "soft small", text: actor.user_id ? `${role}, for user ${actor.user_id}` : `${role} key` }));
}

const names = (all) => (all.length > 3 ? `${all.length} fields` : all.map((one) => (one.path || one.field).replaceAll("_", " ")).join(", "));

function changes(all) {
  return el("dl", { class: "changes" }, all.map((one) => el(
    "div",
    {},
    el("dt", { class: "soft", text: (one.path || one.field).replaceAll("_", " ") }),
    el("dd", {}, el("code", { class: "theirs", dir: "auto", text: shown(one.old_value) }), " → ", el("code", { class: "theirs", dir: "auto", text: shown(one.new_value) })),
  )));
}

function shown(value) {
  if (value === undefined || value === null || value === "") return "nothing";
  if (Array.isArray(value)) return value.map(shown).join(", ") || "nothing";
  if (typeof value === "object") return Object.entries(value).map(([name, one]) => `${name}: ${shown(one)}`).join("; ");
  return String(value);
}
