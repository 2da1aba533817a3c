// Lists of the hub, page by page: a table, and a button for what follows.

import { call } from "./api.js";
import { el, table } from "./dom.js";

/**
 * A card with a table. `source` says where its rows come from: the method and its request, the field of the reply that
 * holds the items, `lines`, which makes rows of items, and `none`, which is said of an empty list.
 */
export async function listed(label, columns, { method, request, field, lines, none }, fail) {
  const found = table(label, columns, []);
  const told = el("p", { class: "bad", role: "alert" });
  const more = el("button", { type: "button", class: "quiet", text: "Show more" });
  let token = "";
  const next = async () => {
    const reply = await call(method, { ...request, page_token: token });
    found.tBodies[0].append(...(await lines(reply[field])));
    token = reply.next_page_token;
    more.hidden = !token;
  };
  more.addEventListener("click", async () => {
    more.disabled = true;
    told.textContent = "";
    try {
      await next();
    } catch (error) {
      told.textContent = error.sentence;
      fail(error);
    } finally {
      more.disabled = false;
    }
  });
  await next();
  const isEmpty = !token && !found.tBodies[0].rows.length;
  return el("div", { class: "card list" }, isEmpty ? el("p", { class: "soft", text: none }) : found, more, told);
}
