// The permission table, as the hub has it.

import { call } from "./api.js";
import { el, word } from "./dom.js";

const LEVELS = { 1: "not sensitive", 2: "more sensitive", 3: "can profile somebody", 4: "dangerous" };

let known = new Map();

/** Read the table, once. */
export async function loadScopes() {
  if (known.size) return;
  const { scopes } = await call("DirectoryService/ListScopes");
  known = new Map(scopes.map((scope) => [scope.scope, scope]));
}

/** A scope: its title, name, description and level; a scope of a newer hub is known by its name alone. */
export function scopeOf(name) {
  const found = known.get(name);
  return found ? { ...found, rank: Number(found.level.at(-1)) } : { name: word(name, "SCOPE_"), title: name, description: "", rank: 0 };
}

/** How sensitive a scope is, in words beside the mark. */
export function level(rank) {
  return rank ? el("span", { class: `level level-${rank}`, text: `Level ${rank}, ${LEVELS[rank]}` }) : null;
}
